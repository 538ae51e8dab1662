"""Incremental, deduplicated backups of directories in one SQLite file.

>>> from backuptool import Repository
>>> with Repository("backups.db") as repo:                      # doctest: +SKIP
...     result = repo.snapshot("~/photos", exclude=["*.tmp"], note="before the move")
...     for snapshot in repo.list():
...         print(snapshot.id, snapshot.time, snapshot.size_bytes)
...     repo.restore("latest", "/tmp/out")
...     repo.prune(1)
...     assert repo.check().ok
"""

from .errors import (
    BackuptoolError,
    ContentCorruptError,
    ContentMissingError,
    CorruptionError,
    NotARepositoryError,
    PatternError,
    RepositoryError,
    RepositoryLockedError,
    RepositoryNotFoundError,
    RepositoryNotWritableError,
    RestoreError,
    SnapshotNotFoundError,
    SourceError,
    UnsafePathError,
    UnsupportedFormatError,
)
from .progress import ProgressCallback, ProgressEvent
from .repository import DEFAULT_MAX_FILE_SIZE, Repository
from .results import (
    CheckResult,
    Compression,
    OverwritePolicy,
    Problem,
    PruneResult,
    RestoreResult,
    SkippedFile,
    Snapshot,
    SnapshotList,
    SnapshotResult,
    format_size,
    printable,
)

__version__ = "0.1.0"

__all__ = [
    "DEFAULT_MAX_FILE_SIZE",
    "BackuptoolError",
    "CheckResult",
    "Compression",
    "ContentCorruptError",
    "ContentMissingError",
    "CorruptionError",
    "NotARepositoryError",
    "OverwritePolicy",
    "PatternError",
    "Problem",
    "ProgressCallback",
    "ProgressEvent",
    "PruneResult",
    "Repository",
    "RepositoryError",
    "RepositoryLockedError",
    "RepositoryNotFoundError",
    "RepositoryNotWritableError",
    "RestoreError",
    "RestoreResult",
    "SkippedFile",
    "Snapshot",
    "SnapshotList",
    "SnapshotNotFoundError",
    "SnapshotResult",
    "SourceError",
    "UnsafePathError",
    "UnsupportedFormatError",
    "__version__",
    "format_size",
    "printable",
]
