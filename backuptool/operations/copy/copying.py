"""Copying snapshots to another repository: what is there already is not read, and what is copied is verified.

Owns which snapshots are copied, what is recognised as copied before, and what there is to tell. How one is copied is
single_copy's business.
"""

from __future__ import annotations

import os
import time
from typing import Callable, List, Optional, Tuple

import attrs

from ...errors import CorruptionError, RepositoryError, SnapshotNotFoundError
from ...progress import Reporter
from ...results.copy import CopiedSnapshot, CopyResult
from ...results.problem import Problem
from ...storage import records
from ...storage.compression import require_setting
from ...storage.database import Database
from ...storage.pool import ConnectionPool
from ...storage.snapshots import SnapshotRow, find_snapshot, snapshot_rows
from ...storage.transfer import find_copies
from ..committing import until_committed
from .single import INCOMPLETE, CopyAttempt, CopyOptions

__all__ = ["copy"]


def copy(
    origin: ConnectionPool,
    destination: ConnectionPool,
    options: CopyOptions,
    reporter: Reporter,
    clock: Callable[[], int],
) -> CopyResult:
    """Copy snapshots, the oldest first.

    Raises:
        ValueError: There is no such compression.
    """
    begin = time.monotonic()
    if options.compression is not None:
        require_setting(options.compression)
    with origin.reading() as read:
        if os.path.exists(destination.path) and os.path.samefile(origin.path, destination.path):
            raise RepositoryError(f"{origin.path} cannot be copied into itself; name another file", origin.path)
        unreadable: List[CorruptionError] = []
        if options.snapshots is None:
            rows = snapshot_rows(read, on_damage=unreadable.append)
        else:
            named = {row.id: row for row in (find_snapshot(read, number) for number in options.snapshots)}
            rows = [named[number] for number in sorted(named)]
        with destination.writing(create=True) as written:
            run = _Copying(read, written, options, reporter, clock)
            try:
                for row in rows:
                    run.copy(row)
            except TypeError as exc:
                raise CorruptionError(
                    f"a number in {origin.path} is none ({exc}); run check to see what is hit", origin.path
                ) from exc
    return CopyResult(
        destination=destination.path,
        copies=tuple(run.copies),
        copied_snapshots=sum(not copied.was_there for copied in run.copies),
        present_snapshots=sum(copied.was_there for copied in run.copies),
        copied_versions=run.copied_versions,
        new_bytes=run.new_bytes,
        stored_bytes=run.stored_bytes,
        whole_packs=run.whole_packs,
        elapsed_seconds=time.monotonic() - begin,
        problems=(*_rolled_back(destination), *map(_unreadable, unreadable), *run.problems()),
    )


def _rolled_back(destination: ConnectionPool) -> List[Problem]:
    """Return what is remembered of the destination and speaks against it; who asks for a copy looks at the origin."""
    remembered = None if destination.witness is None else destination.witness.remembered
    if remembered is None or remembered.problem is None:
        return []
    return [attrs.evolve(remembered.problem, path=destination.path)]


def _unreadable(exc: CorruptionError) -> Problem:
    return Problem(kind="snapshot-corrupt", path="", message=f"not copied: {exc}")


class _Copying:
    """The snapshots one after the other, and what there is to tell of them."""

    def __init__(
        self,
        origin: Database,
        destination: Database,
        options: CopyOptions,
        reporter: Reporter,
        clock: Callable[[], int],
    ) -> None:
        self._origin = origin
        self._destination = destination
        self._options = options
        self._reporter = reporter
        self._clock = clock
        self._changes = records.changes_by_snapshot(origin)
        self._problems: list[Problem] = []
        self._damages: dict[Tuple[str, str, str, Optional[str]], list[int]] = {}
        self.copies: list[CopiedSnapshot] = []
        self.copied_versions = self.new_bytes = self.stored_bytes = self.whole_packs = 0

    def copy(self, row: SnapshotRow) -> None:
        """Copy a snapshot, unless it was copied before or is not whole."""
        there = self._find_copy(row)
        if there is not None:
            self.copies.append(CopiedSnapshot(original=row.to_result(), snapshot=there.to_result(), was_there=True))
            return
        try:
            until_committed(self._destination.path, lambda: self._attempt(row))
        except SnapshotNotFoundError:
            self._not_copied(row, "it was pruned meanwhile")

    def _attempt(self, row: SnapshotRow) -> None:
        try:
            attempt = self._new_attempt(row)
            made = attempt.run()
        except CorruptionError as exc:
            if exc.path != self._origin.path:
                raise
            # SQLite cannot read how it differs from another one: all of its files are gone through, as far as they go.
            attempt = self._new_attempt(row, differing=False)
            made = attempt.run()
        self._account(row, attempt, made)

    def _new_attempt(self, row: SnapshotRow, *, differing: bool = True) -> CopyAttempt:
        return CopyAttempt(
            *(self._origin, self._destination, row, self._options, self._reporter, self._clock),
            self._changes.get(row.id),
            differing,
        )

    def _find_copy(self, row: SnapshotRow) -> Optional[SnapshotRow]:
        """Return the copy of a snapshot that the destination has, None if it has none."""
        for there in find_copies(self._destination, row):
            whole = there.tree_digest == row.tree_digest
            if whole or (self._options.incomplete and INCOMPLETE in there.tags):
                return there
        return None

    def _account(self, row: SnapshotRow, attempt: CopyAttempt, made: Optional[SnapshotRow]) -> None:
        self.new_bytes += attempt.new_bytes
        self.stored_bytes += attempt.stored_bytes
        self.whole_packs += attempt.whole_packs
        for damage in attempt.damages:
            self._damages.setdefault(damage, []).append(row.id)
        if made is None:
            self._not_copied(row, "it is not whole; with --incomplete it is copied without what is damaged")
            return
        self.copied_versions += attempt.copied_versions
        self.copies.append(CopiedSnapshot(original=row.to_result(), snapshot=made.to_result(), was_there=False))
        newer = attempt.newer
        if newer is not None:
            message = (
                f"snapshot {row.id} is now number {made.id} at the destination, above number {newer}, which was taken "
                "later of the same source: numbers follow the order of copying, and so does the word latest"
            )
            self._problems.append(Problem(kind="out-of-order", path="", message=message, snapshots=(row.id,)))

    def _not_copied(self, row: SnapshotRow, why: str) -> None:
        message = f"snapshot {row.id} was not copied: {why}"
        self._problems.append(Problem(kind="not-copied", path="", message=message, snapshots=(row.id,)))

    def problems(self) -> tuple[Problem, ...]:
        """Return what is damaged, each file once for all snapshots, and behind it what was not copied because of it."""
        damages = [
            Problem(kind=kind, path=path, message=message, content=content, snapshots=tuple(numbers))
            for (kind, path, message, content), numbers in self._damages.items()
        ]
        return (*damages, *self._problems)
