"""Statistics: what snapshots, sources and packs take, and which files stand out.

Owns how sums by range and by snapshot become figures of the kept snapshots. The statements are the storage's.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left, bisect_right
from collections import defaultdict
from operator import index
from typing import Any, Mapping, Optional, Sequence, Union

import attrs

from ..errors import CorruptionError
from ..results.drill import Drill
from ..results.stats import ChangedFile, LargestFile, PackStats, SnapshotStats, SourceStats, Stats
from ..storage import records, statistics
from ..storage.database import Database
from ..storage.drills import last_drills
from ..storage.snapshots import SnapshotRow, heirs, snapshot_rows
from .sources import Selection

__all__ = ["stats"]


def stats(database: Database, selection: Selection, top: int) -> Stats:
    """Return the figures of one state of the repository.

    Raises:
        CorruptionError: A row holds something else than a number where one belongs.
    """
    try:
        return _stats(database, selection, top)
    except TypeError as exc:
        raise CorruptionError(f"a number in {database.path} is none ({exc}); run check to see what is hit") from exc


def _stats(database: Database, selection: Selection, top: int) -> Stats:
    begin = time.monotonic()
    with database.read_transaction():
        rows = snapshot_rows(database)
        wanted = [row for row in rows if selection.has(row)]
        figures = _snapshots(database, rows, wanted)
        contents, contents_bytes, unreferenced_bytes = statistics.content_totals(database)
        packs = statistics.pack_totals(database)
        files = _Files(database, wanted, top)
        return Stats(
            snapshots=tuple(figures),
            sources=tuple(_sources(figures, last_drills(database)[1])),
            size_bytes=sum(row.size for row in rows),
            contents=contents,
            contents_bytes=contents_bytes,
            unreferenced_bytes=unreferenced_bytes,
            packs=PackStats(
                packs=packs.packs,
                half_empty_packs=packs.half_empty,
                size_bytes=packs.size,
                live_bytes=packs.live,
                stored_bytes=packs.stored,
            ),
            free_bytes=database.free_bytes(),
            repository_bytes=database.file_bytes(),
            largest_files=files.largest(),
            most_changed_files=files.most_changed(),
            elapsed_seconds=time.monotonic() - begin,
        )


@attrs.define
class _Moved:
    """What differs between a snapshot and the one before it."""

    added_files: int = 0
    added_size: int = 0
    ended_files: int = 0
    ended_size: int = 0


def _snapshots(database: Database, rows: Sequence[SnapshotRow], wanted: Sequence[SnapshotRow]) -> list[SnapshotStats]:
    ids: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        ids[row.source].append(row.id)
    moved = _moved(database, ids)
    stored = _stored(database)
    changes = records.changes_by_snapshot(database)
    cumulative = 0
    sums = {}
    for row in rows:
        cumulative += row.distinct_size
        sums[row.id] = cumulative
    found = []
    for row in wanted:
        group = ids[row.source]
        position = group.index(row.id)
        before = group[position - 1] if position else None
        behind = group[position + 1] if position + 1 < len(group) else None
        number, size = statistics.exclusive_contents(database, row, before, behind)
        difference = moved[row.id]
        found.append(
            SnapshotStats(
                snapshot=row.to_result(),
                stored_bytes=stored[row.id],
                exclusive_contents=number,
                exclusive_bytes=size,
                added_files=row.files if before is None else difference.added_files,
                added_bytes=row.size if before is None else difference.added_size,
                ended_files=difference.ended_files,
                ended_bytes=difference.ended_size,
                cumulative_bytes=sums[row.id],
                changes=changes.get(row.id),
            )
        )
    return found


def _moved(database: Database, ids: dict[int, list[int]]) -> dict[int, _Moved]:
    """Return what each snapshot added and ended, from the ranges of the versions.

    The ends of a range may be numbers of snapshots that were pruned since; it then begins with the next kept one, and
    ends with the last kept one before.
    """
    moved: dict[int, _Moved] = defaultdict(_Moved)
    for group in statistics.version_groups(database):
        kept = ids.get(group.source, [])
        begin = bisect_left(kept, group.first)
        end = len(kept) if group.last is None else bisect_right(kept, group.last)
        if 0 < begin < end:
            moved[kept[begin]].added_files += group.files
            moved[kept[begin]].added_size += group.size
        if begin < end < len(kept):
            moved[kept[end]].ended_files += group.files
            moved[kept[end]].ended_size += group.size
    return moved


def _stored(database: Database) -> dict[int, int]:
    """Return what the contents that each kept snapshot is booked to have brought take in packs."""
    inherited = heirs(database)
    stored: dict[int, int] = defaultdict(int)
    for group in statistics.stored_groups(database):
        if group.pack_size:
            stored[inherited.get(group.since, group.since)] += group.size * group.stored // group.pack_size
    return stored


def _sources(figures: Sequence[SnapshotStats], drills: Mapping[tuple[str, bytes], Drill]) -> list[SourceStats]:
    groups: dict[tuple[str, str], list[SnapshotStats]] = defaultdict(list)
    for each in figures:
        groups[each.snapshot.host, each.snapshot.source].append(each)
    return [
        SourceStats(
            host=host,
            source=source,
            snapshots=len(group),
            newest=group[-1].snapshot.id,
            size_bytes=sum(each.snapshot.size_bytes for each in group),
            distinct_bytes=sum(each.snapshot.distinct_bytes for each in group),
            stored_bytes=sum(each.stored_bytes for each in group),
            drill=drills.get((host, os.fsencode(source))),
        )
        for (host, source), group in sorted(groups.items())
    ]


class _Files:
    """The files that stand out in the sources of some snapshots."""

    def __init__(self, database: Database, rows: Sequence[SnapshotRow], top: int) -> None:
        self._database = database
        self._top = top
        self._ids: dict[int, list[int]] = defaultdict(list)
        for row in rows:
            self._ids[row.source].append(row.id)
        self._rows = {row.source: row for row in rows}

    def largest(self) -> tuple[LargestFile, ...]:
        return tuple(
            LargestFile(**self._named(each), size_bytes=index(each.size), snapshot=self._newest(each.source, each.last))
            for each in statistics.largest_files(self._database, list(self._rows), self._top)
        )

    def most_changed(self) -> tuple[ChangedFile, ...]:
        return tuple(
            ChangedFile(**self._named(each), past_versions=each.versions, past_bytes=each.size)
            for each in statistics.most_past_files(self._database, list(self._rows), self._top)
        )

    def _named(self, file: Union[statistics.LargeFile, statistics.PastFile]) -> dict[str, Any]:
        snapshot = self._rows[file.source].to_result()
        path = os.fsdecode(file.path)
        return {"host": snapshot.host, "source": snapshot.source, "path": path}

    def _newest(self, source: int, last: Optional[int]) -> int:
        """Return the newest kept snapshot up to one that may have been pruned."""
        ids = self._ids[source]
        return ids[-1] if last is None else ids[bisect_right(ids, last) - 1]
