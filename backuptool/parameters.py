"""What callers may pass to a repository: the types, and the plain values that the operations get instead.

Owns how paths of this machine, references to snapshots and moments are understood. What is done with them is left to
the operations.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Callable, Iterable, Optional, Sequence, Union

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
    "reference_of",
    "root_of",
    "strings_of",
    "time_ns_of",
    "without_ending",
]

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
    """Return a reference to a snapshot without names that only this machine understands."""
    if not isinstance(snapshot, (int, str)):
        return snapshot.id
    if isinstance(snapshot, str):
        latest, colon, source = snapshot.partition(":")
        if colon and source and ":" not in source.partition("/")[0]:  # else it names the machine
            return f"{latest}:{os.fsdecode(root_of(source) or b'')}"
    return snapshot


def machine_path(path: BytesPath) -> bytes:
    """Return a path with ``~`` and symlinks in the directories above it resolved, if it is one of this machine."""
    given = os.fsencode(path)
    if given.startswith(b"~/"):
        given = os.path.expanduser(given)
    if not os.path.isabs(given):
        return given
    parent, name = os.path.split(os.path.normpath(given))
    return os.path.join(os.path.realpath(parent), name)


def time_ns_of(moment: Union[int, datetime.datetime, None]) -> Optional[int]:
    if moment is None or isinstance(moment, int):
        return moment
    whole = moment.replace(microsecond=0).timestamp()
    return int(whole) * 1_000_000_000 + moment.microsecond * 1000


def digest_of(sha256: Union[str, bytes, None]) -> Optional[bytes]:
    if sha256 is None:
        return None
    try:
        digest = bytes.fromhex(sha256) if isinstance(sha256, str) else sha256
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise ValueError(f"not a SHA-256 of 64 hex digits, or of 32 bytes: {sha256!r}")
    return digest
