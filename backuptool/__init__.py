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

import importlib
import typing

from .errors import (
    BackuptoolError,
    ContentCorruptError,
    ContentMissingError,
    CorruptionError,
    GuardError,
    NotARepositoryError,
    PathNotFoundError,
    PatternError,
    PlanOutdatedError,
    RepositoryError,
    RepositoryLockedError,
    RepositoryNotFoundError,
    RepositoryNotWritableError,
    RestoreError,
    SnapshotNotFoundError,
    SnapshotPinnedError,
    SourceError,
    UnsafePathError,
    UnsupportedFormatError,
    WrongKindError,
    WrongPasswordError,
)
from .progress import ProgressCallback, ProgressEvent
from .repository import DEFAULT_MAX_FILE_SIZE, Repository, SnapshotReference

if typing.TYPE_CHECKING:
    from .guard import Guard
    from .results.changes import Alert, AlertKind, Changes
    from .results.check import CheckResult
    from .results.copy import CopiedSnapshot, CopyResult
    from .results.diff import Diff, Difference
    from .results.drill import Drill, DrillResult
    from .results.entry import Entry, Kind
    from .results.export import ExportResult, TarCompression
    from .results.history import Aspect, FindResult, History, HistoryVersion, Version
    from .results.keys import KeyList, RepositoryKey
    from .results.listing import Listing
    from .results.presentation import Result, format_size, printable
    from .results.problem import Problem
    from .results.prune import PrunePlan, PruneResult
    from .results.remembered import Remembered
    from .results.restore import OverwritePolicy, RestoreResult
    from .results.retention import Decision, Reason
    from .results.snapshot import Compression, SkippedFile, Snapshot, SnapshotList, SnapshotResult
    from .results.stats import ChangedFile, LargestFile, PackStats, SnapshotStats, SourceStats, Stats
    from .retention import RetentionPolicy
    from .snapshot_path import SnapshotPath

__version__ = "0.1.0"

__all__ = [
    "DEFAULT_MAX_FILE_SIZE",
    "Alert",
    "AlertKind",
    "Aspect",
    "BackuptoolError",
    "ChangedFile",
    "Changes",
    "CheckResult",
    "Compression",
    "ContentCorruptError",
    "ContentMissingError",
    "CopiedSnapshot",
    "CopyResult",
    "CorruptionError",
    "Decision",
    "Diff",
    "Difference",
    "Drill",
    "DrillResult",
    "Entry",
    "ExportResult",
    "FindResult",
    "Guard",
    "GuardError",
    "History",
    "HistoryVersion",
    "KeyList",
    "Kind",
    "LargestFile",
    "Listing",
    "NotARepositoryError",
    "OverwritePolicy",
    "PackStats",
    "PathNotFoundError",
    "PatternError",
    "PlanOutdatedError",
    "Problem",
    "ProgressCallback",
    "ProgressEvent",
    "PrunePlan",
    "PruneResult",
    "Reason",
    "Remembered",
    "Repository",
    "RepositoryError",
    "RepositoryKey",
    "RepositoryLockedError",
    "RepositoryNotFoundError",
    "RepositoryNotWritableError",
    "RestoreError",
    "RestoreResult",
    "Result",
    "RetentionPolicy",
    "SkippedFile",
    "Snapshot",
    "SnapshotList",
    "SnapshotNotFoundError",
    "SnapshotPath",
    "SnapshotPinnedError",
    "SnapshotReference",
    "SnapshotResult",
    "SnapshotStats",
    "SourceError",
    "SourceStats",
    "Stats",
    "TarCompression",
    "UnsafePathError",
    "UnsupportedFormatError",
    "Version",
    "WrongKindError",
    "WrongPasswordError",
    "__version__",
    "format_size",
    "printable",
]

#: Where the names are that are imported when they are first used: listing snapshots needs two of them.
_HOMES = {
    "guard": ("Guard",),
    "results.changes": ("Alert", "AlertKind", "Changes"),
    "results.check": ("CheckResult",),
    "results.copy": ("CopiedSnapshot", "CopyResult"),
    "results.drill": ("Drill", "DrillResult"),
    "results.export": ("ExportResult", "TarCompression"),
    "results.diff": ("Diff", "Difference"),
    "results.entry": ("Entry", "Kind"),
    "results.history": ("Aspect", "FindResult", "History", "HistoryVersion", "Version"),
    "results.listing": ("Listing",),
    "results.keys": ("KeyList", "RepositoryKey"),
    "results.presentation": ("Result", "format_size", "printable"),
    "results.problem": ("Problem",),
    "results.prune": ("PrunePlan", "PruneResult"),
    "results.remembered": ("Remembered",),
    "results.restore": ("OverwritePolicy", "RestoreResult"),
    "results.retention": ("Decision", "Reason"),
    "results.snapshot": ("Compression", "SkippedFile", "Snapshot", "SnapshotList", "SnapshotResult"),
    "results.stats": ("ChangedFile", "LargestFile", "PackStats", "SnapshotStats", "SourceStats", "Stats"),
    "retention": ("RetentionPolicy",),
    "snapshot_path": ("SnapshotPath",),
}


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(importlib.import_module(f".{module}", __name__), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> "list[str]":
    return sorted({*globals(), *__all__})
