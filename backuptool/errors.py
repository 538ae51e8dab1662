"""The one tree of exceptions: an exception means that an operation could not finish.

A single unreadable file or damaged content is no exception: it is a
:class:`backuptool.Problem` in the result of an operation that went on with the rest.

::

    BackuptoolError
    ├─ RepositoryError                 .path
    │  ├─ RepositoryNotFoundError
    │  ├─ NotARepositoryError
    │  ├─ UnsupportedFormatError       .found .supported
    │  ├─ PlanOutdatedError
    │  ├─ RepositoryLockedError
    │  ├─ WrongPasswordError
    │  └─ RepositoryNotWritableError
    ├─ CorruptionError                 .path
    │  ├─ ContentMissingError          .content
    │  └─ ContentCorruptError          .content
    ├─ SnapshotNotFoundError           .reference .available
    ├─ SnapshotPinnedError             .snapshots
    ├─ PathNotFoundError               .path .snapshot
    ├─ WrongKindError                  .path .kind
    ├─ SourceError                     .path
    ├─ RestoreError                    .path
    │  ├─ UnsafePathError
    │  └─ GuardError                 .snapshot .problems
    └─ PatternError                    .pattern

Every message names the thing and the next step.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Optional, Sequence, Union

if TYPE_CHECKING:
    from .results.problem import Problem

__all__ = [
    "BackuptoolError",
    "ContentCorruptError",
    "ContentMissingError",
    "CorruptionError",
    "GuardError",
    "NotARepositoryError",
    "PathNotFoundError",
    "PatternError",
    "PlanOutdatedError",
    "RepositoryError",
    "RepositoryLockedError",
    "RepositoryNotFoundError",
    "RepositoryNotWritableError",
    "RestoreError",
    "SnapshotNotFoundError",
    "SnapshotPinnedError",
    "SourceError",
    "UnsafePathError",
    "UnsupportedFormatError",
    "WrongKindError",
    "WrongPasswordError",
]


class BackuptoolError(Exception):
    """Base of everything this package raises on purpose."""

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.args, self.__dict__))


class RepositoryError(BackuptoolError):
    """The repository as a whole cannot be used as asked.

    Attributes:
        path: The repository file.
    """

    def __init__(self, message: str, path: str) -> None:
        super().__init__(message)
        self.path = path


class RepositoryNotFoundError(RepositoryError):
    """There is no file at the repository's path."""


class NotARepositoryError(RepositoryError):
    """The file at the path is something else."""


class UnsupportedFormatError(RepositoryError):
    """The repository was written in a format that this version does not know.

    Attributes:
        found: Format number in the file.
        supported: Highest format number that this version reads.
    """

    def __init__(self, message: str, path: str, found: int, supported: int) -> None:
        super().__init__(message, path)
        self.found = found
        self.supported = supported


class PlanOutdatedError(RepositoryError):
    """A plan for a prune was made for another state of the repository, or for another repository."""


class RepositoryLockedError(RepositoryError):
    """Another process held the repository for longer than the lock timeout."""


class WrongPasswordError(RepositoryError):
    """The repository is encrypted, and the password is another one's or was not given."""


class RepositoryNotWritableError(RepositoryError):
    """The file, its directory or its medium does not take writes, or is full."""


class CorruptionError(BackuptoolError):
    """Something in the repository is not what was written.

    Attributes:
        path: The repository file.
    """

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path

    @property
    def reason(self) -> str:
        """What is wrong, in SQLite's own words where it found the damage, and without the next step."""
        return str(self if self.__cause__ is None else self.__cause__)


class ContentMissingError(CorruptionError):
    """A content that a file refers to is not in the repository.

    Attributes:
        content: SHA-256 of the content, 64 hex digits ("" where it is not known).
    """

    def __init__(self, message: str, path: str = "", content: str = "") -> None:
        super().__init__(message, path)
        self.content = content


class ContentCorruptError(CorruptionError):
    """The stored bytes of a content do not have its hash any more.

    Attributes:
        content: SHA-256 that the content should have, 64 hex digits ("" where it is not known).
    """

    def __init__(self, message: str, path: str = "", content: str = "") -> None:
        super().__init__(message, path)
        self.content = content


class SnapshotNotFoundError(BackuptoolError):
    """There is no snapshot with that number.

    Attributes:
        reference: What was asked for.
        available: The numbers that exist, ascending.
    """

    def __init__(self, message: str, reference: Union[int, str], available: Sequence[int]) -> None:
        super().__init__(message)
        self.reference = reference
        self.available = tuple(available)


class SnapshotPinnedError(BackuptoolError):
    """A snapshot that is to be removed is pinned.

    Attributes:
        snapshots: The numbers of those that are, ascending.
    """

    def __init__(self, message: str, snapshots: Sequence[int]) -> None:
        super().__init__(message)
        self.snapshots = tuple(snapshots)


class PathNotFoundError(BackuptoolError, FileNotFoundError):
    """There is nothing at a path: in the snapshot that was asked, or in any. Also Python's FileNotFoundError.

    Attributes:
        path: What was asked for.
        snapshot: The snapshot that was asked, None if all were.
    """

    def __init__(self, message: str, path: str, snapshot: Optional[int] = None) -> None:
        super().__init__(message)
        self.path = path
        self.snapshot = snapshot

    @property
    def errno(self) -> int:  # type: ignore[override]
        """ENOENT."""
        return errno.ENOENT


class WrongKindError(BackuptoolError, OSError):
    """What a snapshot has at a path is of another kind than was asked for: a directory to be opened, say.

    Attributes:
        path: What was asked for.
        kind: What it is, as in :attr:`backuptool.Entry.kind`.
    """

    def __init__(self, message: str, path: str, kind: str) -> None:
        super().__init__(message)
        self.path = path
        self.kind = kind

    @property
    def errno(self) -> int:  # type: ignore[override]
        """EISDIR of a directory, EINVAL of everything else."""
        return errno.EISDIR if self.kind == "directory" else errno.EINVAL


class SourceError(BackuptoolError):
    """The directory to be saved cannot be read at all.

    Attributes:
        path: That directory.
    """

    def __init__(self, message: str, path: str) -> None:
        super().__init__(message)
        self.path = path


class RestoreError(BackuptoolError):
    """The destination cannot be written to at all.

    Attributes:
        path: The destination, or the path in it.
    """

    def __init__(self, message: str, path: str) -> None:
        super().__init__(message)
        self.path = path


class UnsafePathError(RestoreError):
    """A name in the catalog would lead outside the destination; only a forged or damaged file has one."""


class GuardError(RestoreError):
    """A directory cannot be guarded, or could not be put back as it was; what the block raised is its cause.

    Attributes:
        snapshot: Number of the snapshot that was taken before the block.
        problems: What could not be saved, or not be put back.
    """

    def __init__(self, message: str, path: str, snapshot: int, problems: Sequence[Problem]) -> None:
        super().__init__(message, path)
        self.snapshot = snapshot
        self.problems = tuple(problems)


class PatternError(BackuptoolError, ValueError):
    """An include or exclude pattern cannot be understood.

    Attributes:
        pattern: The pattern as given.
    """

    def __init__(self, message: str, pattern: str) -> None:
        super().__init__(message)
        self.pattern = pattern


def _rebuild(kind: type[BackuptoolError], args: tuple[object, ...], state: dict[str, object]) -> BackuptoolError:
    """Unpickle an error whose constructor wants more than its message (errors cross processes)."""
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error
