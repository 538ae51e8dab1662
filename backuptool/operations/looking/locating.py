"""Locating: what a user's path means, relative to which source.

Owns the rule for all operations that take a path: one that begins with a slash is a path of the machine, every other
one is relative to the source.
"""

from __future__ import annotations

import os
import posixpath
from typing import Optional, Union

from ...errors import CorruptionError, PathNotFoundError, WrongKindError
from ...storage.database import Database
from ...storage.files import CatalogFile
from ...storage.snapshots import SnapshotRow, SourceRow, find_snapshot, newest_snapshot, sources
from ...storage.versions import entry_of, file_at

__all__ = [
    "damaged",
    "file_in",
    "path_in_either",
    "places",
    "relative",
    "require_kind",
    "shown",
    "two_snapshots",
]


def shown(path: bytes) -> str:
    """Return a path as text that gives its exact bytes back."""
    return os.fsdecode(path)


def _normal(path: bytes) -> bytes:
    normal = posixpath.normpath(path)
    return b"" if normal == b"." else normal


def _below(path: bytes, root: bytes) -> Optional[bytes]:
    """Return a path of the machine relative to a source, None if it lies elsewhere."""
    if path == root:
        return b""
    prefix = root.rstrip(b"/") + b"/"
    return path[len(prefix) :] if path.startswith(prefix) else None


def relative(path: bytes, snapshot: SnapshotRow) -> bytes:
    """Return a path relative to the source of a snapshot, ``b""`` for the source itself.

    Raises:
        PathNotFoundError: It is a path of the machine that lies elsewhere.
    """
    normal = _normal(path)
    if not normal.startswith(b"/"):
        return normal
    found = _below(normal, snapshot.root)
    if found is None:
        raise PathNotFoundError(
            f"{shown(path)} is not in {shown(snapshot.root)}, which snapshot {snapshot.id} is of; "
            "without the slash in front a path is relative to that",
            shown(path),
            snapshot.id,
        )
    return found


def places(
    database: Database, path: bytes, root: Optional[bytes] = None, host: Optional[str] = None
) -> list[tuple[SourceRow, bytes]]:
    """Return in which sources a path may be, each with the path relative to it.

    Raises:
        PathNotFoundError: It is a path of the machine that lies in none of them.
    """
    known = sources(database, root, host)
    normal = _normal(path)
    if not normal.startswith(b"/"):
        return [(source, normal) for source in known]
    found = []
    for source in known:
        below = _below(normal, source.root)
        if below is not None:
            found.append((source, below))
    if not found:
        names = ", ".join(f"{source.host}:{shown(source.root)}" for source in known) or "nothing"
        raise PathNotFoundError(f"{shown(path)} is in no directory that was saved; saved were: {names}", shown(path))
    return found


def file_in(database: Database, snapshot: SnapshotRow, path: bytes) -> CatalogFile:
    """Return what a snapshot has at a relative path.

    Raises:
        PathNotFoundError: Nothing.
        CorruptionError: Its row is damaged.
    """
    file = file_at(database, snapshot, path)
    if file is None:
        raise PathNotFoundError(
            f"there is no {shown(path) or '.'} in snapshot {snapshot.id}; history tells in which it is",
            shown(path),
            snapshot.id,
        )
    if file.version.kind not in b"fdlpscb":
        raise CorruptionError(damaged(path), database.path)
    return file


def two_snapshots(
    database: Database, old: Union[int, str], new: Union[int, str, None]
) -> tuple[SnapshotRow, SnapshotRow]:
    """Return two snapshots to be compared; without a second one, it is the newest of the first one's source.

    Raises:
        SnapshotNotFoundError: One of them does not exist.
    """
    first = find_snapshot(database, old)
    if new is None:
        return first, find_snapshot(database, newest_snapshot(database, first.source) or first.id)
    return first, find_snapshot(database, new)


def path_in_either(database: Database, old: SnapshotRow, new: SnapshotRow, path: bytes) -> bytes:
    """Return a path relative to the source; one that is in one of two snapshots at least.

    Raises:
        PathNotFoundError: It is in neither.
    """
    below = relative(path, old)
    if below and file_at(database, new, below) is None:
        file_in(database, old, below)
    return below


def require_kind(file: CatalogFile, kind: bytes, what: str) -> None:
    """Raise an error if a file is of another kind.

    Raises:
        WrongKindError: It is.
    """
    if file.version.kind != kind:
        entry = entry_of(file.version)
        leads = f", which leads to {entry.target}" if entry.target is not None else ""
        name = entry.path or "."
        raise WrongKindError(f"{name} is a {entry.kind.replace('-', ' ')}{leads}; {what}", entry.path, entry.kind)


def damaged(path: bytes) -> str:
    """Return what is to be said of a path whose row is damaged."""
    return f"the row of {shown(path) or '.'} in the catalog is damaged; run check"
