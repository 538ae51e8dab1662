"""Diff: in what two snapshots differ.

Of one source, the ranges of the versions tell: two index look-ups, and the cost follows what changed between the two,
not how large they are. Snapshots of different sources are compared as trees, in one merge of both.
"""

from __future__ import annotations

from typing import Dict, Iterable, Iterator, Optional, Sequence, Tuple, Union

from ...results.diff import Diff, Difference
from ...storage.database import Database
from ...storage.digest import FileVersion
from ...storage.files import files_of
from ...storage.snapshots import SnapshotRow
from ...storage.versions import ChangedKey, begun, details, ended, file_at, files_below
from .differing import Change, LinkGroups, Moves, Tally, moves_between
from .locating import path_in_either, shown, two_snapshots

__all__ = ["diff", "differences"]

#: Paths whose versions are fetched at a time.
_BATCH = 400


def diff(database: Database, old: Union[int, str], new: Union[int, str, None], path: bytes) -> Diff:
    """Return in what two snapshots differ.

    Raises:
        SnapshotNotFoundError: One of them does not exist.
        PathNotFoundError: Neither has that path.
    """
    first, second = two_snapshots(database, old, new)
    below = path_in_either(database, first, second, path)
    tally = Tally()
    found = tuple(tally.add(change) for change in _changes(database, first, second, below) if tally.is_sound(change))
    return tally.diff(found, old=first.to_result(), new=second.to_result(), path=shown(below))


def differences(
    database: Database, old: Union[int, str], new: Union[int, str, None], path: bytes
) -> Iterator[Difference]:
    """Yield in what two snapshots differ, in byte order of the paths; see :func:`diff`.

    Raises:
        CorruptionError: A row is damaged.
    """
    first, second = two_snapshots(database, old, new)
    below = path_in_either(database, first, second, path)
    tally = Tally(database.path)
    return (tally.add(change) for change in _changes(database, first, second, below) if tally.is_sound(change))


def _changes(database: Database, old: SnapshotRow, new: SnapshotRow, path: bytes) -> Iterator[Change]:
    if old.source == new.source:
        return _changes_by_range(database, old, new, path)
    return _changes_by_tree(database, old, new, path)


# Of one source.


def _changes_by_range(database: Database, old: SnapshotRow, new: SnapshotRow, path: bytes) -> Iterator[Change]:
    low, high = min(old.id, new.id), max(old.id, new.id)
    earlier = ended(database, old.source, low, high, path)
    later = begun(database, old.source, low, high, path)
    gone, come = (earlier, later) if old.id <= new.id else (later, earlier)
    moves = _moves(gone, come)
    sides = [{key.path: key.first for key in keys} for keys in (gone, come)]
    paths = sorted({*sides[0], *sides[1]} - moves.olds)
    for begin in range(0, len(paths), _BATCH):
        batch = paths[begin : begin + _BATCH]
        was = [moves.sources.get(path, path) for path in batch]
        olds = _fetch(database, old.source, sides[0], was)
        news = _fetch(database, old.source, sides[1], batch)
        for here, there in zip(batch, was):
            change = Change.of(olds.get(there), news.get(here))
            if change is not None:
                yield change


def _fetch(
    database: Database, source: int, firsts: Dict[bytes, int], paths: Iterable[bytes]
) -> Dict[bytes, FileVersion]:
    keys = sorted((path, firsts[path]) for path in paths if path in firsts)
    return {stored.version.path: stored.version for stored in details(database, source, keys)}


def _moves(gone: Sequence[ChangedKey], come: Sequence[ChangedKey]) -> Moves:
    before, after = {key.path for key in gone}, {key.path for key in come}
    return moves_between(
        ((key.path, key.identity) for key in gone if key.path not in after),
        ((key.path, key.identity) for key in come if key.path not in before),
    )


# Of two sources.


def _changes_by_tree(database: Database, old: SnapshotRow, new: SnapshotRow, path: bytes) -> Iterator[Change]:
    # Two passes: the first one finds what moved, in memory of what only one side has.
    gone, come = [], []
    for before, after in _merged(database, old, new, path):
        if after is None and before is not None and before.hash is not None and before.size:
            gone.append((before.path, before.hash))
        elif before is None and after is not None and after.hash is not None and after.size:
            come.append((after.path, after.hash))
    moves = moves_between(gone, come)
    waiting = {path: file.version for path in moves.olds for file in [file_at(database, old, path)] if file is not None}
    links = LinkGroups()
    for before, after in _merged(database, old, new, path):
        if before is not None and before.path in waiting and after is None:
            continue
        if before is None and after is not None:
            before = waiting.get(moves.sources.get(after.path, b""))
        change = Change.of(before, after, links)
        if change is not None:
            yield change


def _merged(
    database: Database, old: SnapshotRow, new: SnapshotRow, path: bytes
) -> Iterator[Tuple[Optional[FileVersion], Optional[FileVersion]]]:
    """Yield what both trees have at each path, in byte order."""
    olds, news = (_versions(database, snapshot, path) for snapshot in (old, new))
    before, after = next(olds, None), next(news, None)
    while before is not None or after is not None:
        if after is None or (before is not None and before.path < after.path):
            yield before, None
            before = next(olds, None)
        elif before is None or after.path < before.path:
            yield None, after
            after = next(news, None)
        else:
            yield before, after
            before, after = next(olds, None), next(news, None)


def _versions(database: Database, snapshot: SnapshotRow, path: bytes) -> Iterator[FileVersion]:
    if not path:
        return (file.version for file in files_of(database, snapshot))
    own = file_at(database, snapshot, path)
    below = (file.version for file in files_below(database, snapshot, path))
    return below if own is None else _chain(own.version, below)


def _chain(version: FileVersion, versions: Iterator[FileVersion]) -> Iterator[FileVersion]:
    yield version
    yield from versions
