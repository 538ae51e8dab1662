"""What callers may pass to a repository: the types, and the plain values that the operations get instead.

Owns how paths of this machine, references to snapshots and moments are understood. What is done with them is left to
the operations.
"""

from __future__ import annotations

import operator
import os
import time
from typing import TYPE_CHECKING, Any, Callable, Iterable, Optional, Sequence, TypeVar, Union

from .progress import ProgressCallback

if TYPE_CHECKING:
    import datetime

    from .results.snapshot import Snapshot
    from .storage.encryption.keyring import Keyring

__all__ = [
    "BytesPath",
    "Password",
    "Progress",
    "SnapshotReference",
    "StrPath",
    "digest_of",
    "keyring_of",
    "machine_path",
    "numbered",
    "reference_of",
    "root_of",
    "several_of",
    "strings_of",
    "tags_of",
    "text_of",
    "time_ns_of",
    "without_ending",
]

T = TypeVar("T")
StrPath = Union[str, "os.PathLike[str]"]
BytesPath = Union[StrPath, bytes, "os.PathLike[bytes]"]
Progress = Union[ProgressCallback, bool, None]
Password = Union[str, bytes, Callable[[], Union[str, bytes]]]

#: How a snapshot is named: by its number; ``"latest"``, or ``"latest~1"`` for the one before it of the same source;
#: ``"latest:/home/you"`` or ``"latest:laptop:/home/you"`` for the newest one of a source; or as the Snapshot itself.
SnapshotReference = Union[int, str, "Snapshot"]


def root_of(source: Optional[BytesPath]) -> Optional[bytes]:
    """Return what a source is known by: its directory, or the name of what is none."""
    if source is None:
        return None
    path = os.path.expanduser(os.fsencode(source))
    if path.startswith(b"files:") or (b"/" not in path and not os.path.lexists(path)):  # a word that means nothing here
        return path
    return os.path.realpath(path)


def keyring_of(password: Optional[Password]) -> Optional[Keyring]:
    if password is None:
        return None
    from .storage.encryption.keyring import Keyring

    return Keyring(password, clock=time.time_ns)


def strings_of(values: Iterable[Any]) -> Sequence[Any]:
    """Return the values as a tuple; one lone string or path stands for itself, not for its letters."""
    if values is None:
        raise TypeError("several values are wanted, () for none; not None")
    return (values,) if isinstance(values, (str, bytes, os.PathLike)) else tuple(values)


def without_ending(path: bytes) -> bytes:
    """Return the name of a file of a tar stream, without what says so."""
    name = os.path.basename(path)
    for ending in (b".gz", b".zst", b".xz", b".bz2"):
        name = name[: -len(ending)] if name.endswith(ending) else name
    for ending in (b".tar", b".tgz", b".tzst", b".txz", b".tbz2"):
        name = name[: -len(ending)] if name.endswith(ending) else name
    return name or os.path.basename(path)


def reference_of(snapshot: SnapshotReference) -> Union[int, str]:
    """Return a reference to a snapshot without names that only this machine understands.

    Raises:
        TypeError: It is no reference.
    """
    if not isinstance(snapshot, str):
        found = numbered(snapshot, "its number, a word such as 'latest',")
        return found if isinstance(found, int) else found.id
    if snapshot:
        latest, colon, source = snapshot.partition(":")
        if colon and source and ":" not in source.partition("/")[0]:  # else it names the machine
            return f"{latest}:{os.fsdecode(root_of(source) or b'')}"
    return snapshot


def numbered(snapshot: Any, names: str = "its number") -> Union[int, Snapshot]:
    """Return a snapshot that is named by its number, or by itself.

    Raises:
        TypeError: It is named in another way. What is removed is not: ``"latest"`` is another one the next time.
    """
    from .results.snapshot import Snapshot

    if isinstance(snapshot, Snapshot):
        return snapshot
    try:
        if not isinstance(snapshot, bool):
            return operator.index(snapshot)  # also one of numpy's
    except TypeError:
        pass
    raise TypeError(f"a snapshot is named by {names} or the Snapshot itself, not by {snapshot!r}")


def several_of(snapshots: Any, read: Callable[[Any], T]) -> tuple[T, ...]:
    """Return what one or several snapshots are named by, each as a function reads it."""
    try:
        names = (snapshots,) if isinstance(snapshots, str) else tuple(snapshots)
    except TypeError:  # a lone one
        names = (snapshots,)
    return tuple(map(read, names))


def text_of(name: str, value: Optional[str]) -> str:
    """Return the text that a parameter is.

    Raises:
        TypeError: It is none.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {value!r}")
    return value


def tags_of(tags: Iterable[str]) -> tuple[str, ...]:
    """Return tags, each once, sorted.

    Raises:
        ValueError: One is empty: no policy could name it.
    """
    found = {text_of("a tag", tag) for tag in strings_of(tags)}
    if "" in found:
        raise ValueError("a tag must be a word that is not empty")
    return tuple(sorted(found))


def machine_path(path: BytesPath) -> bytes:
    """Return a path with ``~`` and symlinks in the directories above it resolved, if it is one of this machine."""
    given = os.fsencode(path)
    if given.startswith(b"~/"):
        given = os.path.expanduser(given)
    if not os.path.isabs(given):
        return given
    parent, name = os.path.split(os.path.normpath(given))
    return os.path.join(os.path.realpath(parent), name)


def time_ns_of(moment: Union[int, datetime.date, None]) -> Optional[int]:
    """Return a time in ns since 1970 UTC; a day is its first moment, local.

    Raises:
        TypeError: It is no time.
    """
    import datetime

    if moment is None or (isinstance(moment, int) and not isinstance(moment, bool)):
        return moment
    if not isinstance(moment, datetime.date):
        raise TypeError(f"a time is ns since 1970 UTC as an int, a datetime or a date, not {moment!r}")
    if not isinstance(moment, datetime.datetime):
        moment = datetime.datetime(moment.year, moment.month, moment.day)
    whole = moment.replace(microsecond=0).timestamp()
    return int(whole) * 1_000_000_000 + moment.microsecond * 1000


def digest_of(sha256: Union[str, bytes, None]) -> Optional[bytes]:
    if sha256 is None:
        return None
    try:
        digest = bytes.fromhex(sha256) if isinstance(sha256, str) else memoryview(sha256).tobytes()
    except (TypeError, ValueError):
        digest = b""
    if len(digest) != 32:
        raise ValueError(f"not a SHA-256 of 64 hex digits, or of 32 bytes: {sha256!r}")
    return digest
