"""Listing a directory of a snapshot, or everything below it.

Owns what is an error and what a problem; how directories are found among paths, the storage knows.
"""

from __future__ import annotations

from typing import Iterator, Optional, Union

from ...errors import CorruptionError
from ...results.entry import Entry
from ...results.listing import Listing
from ...results.problem import Problem
from ...storage.database import Database
from ...storage.files import CatalogFile
from ...storage.gaps import Gap, GapError, OnGap
from ...storage.snapshots import SnapshotRow, find_snapshot
from ...storage.versions import children, entry_of, files_below
from .locating import damaged, file_in, relative, require_kind, shown

__all__ = ["entry_at", "list_directory", "walk"]

_INCOMPLETE = (
    "the list of files cannot be read as a whole, and something may be missing here; run check to see what is hit"
)


def list_directory(database: Database, reference: Union[int, str], path: bytes, *, recursive: bool) -> Listing:
    """Return what is in a directory, or the file at the path.

    Raises:
        SnapshotNotFoundError: There is no such snapshot.
        PathNotFoundError: There is no such path in it.
    """
    snapshot = find_snapshot(database, reference)
    below = relative(path, snapshot)
    gaps: list[Gap] = []
    problems = []
    entries = []
    for file in _files_at(database, snapshot, below, recursive, gaps.append):
        if file.version.kind in b"fdlpscb":
            entries.append(entry_of(file.version))
        else:
            name, message = shown(file.version.path), damaged(file.version.path)
            problems.append(Problem(kind="catalog-corrupt", path=name, message=message))
    if gaps:
        numbers = (snapshot.id,)
        problems.append(Problem(kind="snapshot-corrupt", path=shown(below), message=_INCOMPLETE, snapshots=numbers))
    return Listing(snapshot=snapshot.to_result(), path=shown(below), entries=tuple(entries), problems=tuple(problems))


def walk(database: Database, reference: Union[int, str], path: bytes, *, recursive: bool) -> Iterator[Entry]:
    """Yield what is in a directory, in byte order of the paths; read in pages.

    Raises:
        SnapshotNotFoundError: There is no such snapshot.
        PathNotFoundError: There is no such path in it.
        WrongKindError: It is no directory.
        CorruptionError: A row is damaged.
    """
    snapshot = find_snapshot(database, reference)
    below = relative(path, snapshot)
    require_kind(file_in(database, snapshot, below), b"d", "only a directory has entries")
    return _entries(database, _files(database, snapshot, below, recursive))


def entry_at(database: Database, reference: Union[int, str], path: bytes) -> Entry:
    """Return what a snapshot has at a path. One index look-up.

    Raises:
        SnapshotNotFoundError: There is no such snapshot.
        PathNotFoundError: There is no such path in it.
        CorruptionError: Its row is damaged.
    """
    snapshot = find_snapshot(database, reference)
    return entry_of(file_in(database, snapshot, relative(path, snapshot)).version)


def _files_at(
    database: Database, snapshot: SnapshotRow, path: bytes, recursive: bool, on_gap: OnGap
) -> Iterator[CatalogFile]:
    """Yield what is in a directory, or the file at the path; a directory whose own row is lost has what is below it."""
    try:
        own = file_in(database, snapshot, path)
        if own.version.kind != b"d":
            return iter([own])
    except GapError:
        on_gap(Gap((path, 0), None))
    return _files(database, snapshot, path, recursive, on_gap)


def _files(
    database: Database, snapshot: SnapshotRow, path: bytes, recursive: bool, on_gap: Optional[OnGap] = None
) -> Iterator[CatalogFile]:
    return (files_below if recursive else children)(database, snapshot, path, on_gap)


def _entries(database: Database, files: Iterator[CatalogFile]) -> Iterator[Entry]:
    for file in files:
        if file.version.kind not in b"fdlpscb":
            raise CorruptionError(damaged(file.version.path), database.path)
        yield entry_of(file.version)
