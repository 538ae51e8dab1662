"""History: every version of one path, and what became of each.

One index look-up a source. Where a content moved is searched among what changed at the same boundary between two
snapshots, and only if anything else refers to that content.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Iterator, Optional

import attrs

from ...results.history import Aspect, History, HistoryVersion
from ...results.problem import Problem
from ...storage.database import Database
from ...storage.snapshots import SourceRow, snapshot_times
from ...storage.versions import StoredVersion, entry_of, is_shared, moved_paths, versions_of
from .aspects import aspects_of
from .locating import damaged, places, shown

__all__ = ["history"]


def history(database: Database, path: bytes, *, root: Optional[bytes], host: Optional[str]) -> History:
    """Return every version of a path.

    Args:
        path: Relative to the sources, or a path of the machine.
        root: Only in this source.
        host: Only on this machine.

    Raises:
        PathNotFoundError: It is a path of the machine that lies in no source.
    """
    problems: list[Problem] = []
    versions: list[HistoryVersion] = []
    with database.read_transaction():
        for source, relative in places(database, path, root, host):
            versions += _Past(database, source, relative, problems).versions()
    if not versions and not problems:
        name = shown(path) or "."
        message = f"no snapshot has {name}; paths are relative to the source, and find searches for names"
        problems.append(Problem(kind="nothing-found", path=name, message=message))
    return History(path=shown(path), versions=tuple(versions), problems=tuple(problems))


@attrs.define
class _Step:
    """A version, and the places of its first and last snapshot among those of the source."""

    stored: StoredVersion
    begin: int
    end: int
    event: str = "came"
    changes: tuple[Aspect, ...] = ()


class _Past:
    """The versions of a path in one source."""

    def __init__(self, database: Database, source: SourceRow, path: bytes, problems: list[Problem]) -> None:
        self._database = database
        self._source = source
        self._path = path
        self._problems = problems
        self._times = snapshot_times(database, source.id)
        self._ids = list(self._times)

    def versions(self) -> Iterator[HistoryVersion]:
        """Yield them, the oldest first."""
        steps = self._steps()
        for position, step in enumerate(steps):
            behind = steps[position + 1].begin if position + 1 < len(steps) else None
            yield self._version(step, behind)

    def _steps(self) -> list[_Step]:
        steps: list[_Step] = []
        for stored in versions_of(self._database, self._source.id, self._path):
            if stored.version.kind == b"?":
                name = shown(self._path) or "."
                self._problems.append(Problem(kind="catalog-corrupt", path=name, message=damaged(self._path)))
                continue
            begin = bisect_left(self._ids, stored.first)
            end = len(self._ids) if stored.last is None else bisect_right(self._ids, stored.last)
            if begin >= end:
                continue  # it belongs to no snapshot; check says so
            step = _Step(stored, begin, end - 1)
            if steps:
                before = steps[-1]
                step.changes = aspects_of(before.stored.version, stored.version)
                step.event = "changed" if before.end + 1 >= step.begin else "came-back"
                if step.event == "changed" and not step.changes:
                    before.end = step.end  # what was between them was pruned
                    continue
            steps.append(step)
        return steps

    def _version(self, step: _Step, behind: Optional[int]) -> HistoryVersion:
        ids = self._ids
        first, last = ids[step.begin], ids[step.end]
        current = step.end + 1 == len(ids)
        return HistoryVersion(
            entry=entry_of(step.stored.version),
            host=self._source.host,
            source=shown(self._source.root),
            first=first,
            last=last,
            first_ns=self._times[first],
            last_ns=self._times[last],
            current=current,
            event=step.event,  # type: ignore[arg-type]
            changes=step.changes,
            moved_from=self._moved(step, step.begin - 1, step.begin, 0),
            removed_in=None if current or behind == step.end + 1 else ids[step.end + 1],
            moved_to=self._moved(step, step.end, step.end + 1, 1),
        )

    def _moved(self, step: _Step, old: int, new: int, side: int) -> tuple[str, ...]:
        """Return where the content of a version was before a boundary (0), or is behind it (1)."""
        content = step.stored.content
        if old < 0 or new >= len(self._ids) or not step.stored.version.size or content is None:
            return ()
        if not is_shared(self._database, content):
            return ()
        old_id, new_id = self._ids[old], self._ids[new]
        paths = moved_paths(self._database, self._source.id, old_id, new_id, content)
        if self._path not in paths[1 - side]:  # its content did not change here
            return ()
        return tuple(shown(path) for path in paths[side])
