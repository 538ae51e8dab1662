"""Choosing what a prune removes: by number, by a retention policy, or by a plan that was made before.

Owns what is refused (a pinned snapshot that is named, a plan for another state of the repository) and how a plan knows
its repository again. The rules are those of ``retention``; removing is prune's. Everything here reads under the write
lock, so that nothing changes between choosing and removing.
"""

from __future__ import annotations

import hashlib
import os
from typing import Callable, Optional, Sequence, Union

import attrs

from ...errors import CorruptionError, PlanOutdatedError, SnapshotNotFoundError, SnapshotPinnedError
from ...results.presentation import format_size
from ...results.problem import Problem
from ...results.prune import PrunePlan
from ...results.retention import Decision, Reason
from ...results.snapshot import Snapshot
from ...retention import RetentionPolicy, decide, over_budget
from ...storage import records
from ...storage.database import Database
from ...storage.snapshots import SnapshotRow, find_snapshot, snapshot_rows
from ..sources import Selection

__all__ = ["Choice", "Wanted", "choose", "misfits", "state_of"]

#: What a prune is asked for.
Wanted = Union[Sequence[Union[int, Snapshot]], RetentionPolicy, PrunePlan]


@attrs.frozen(kw_only=True)
class Choice:
    """What is to be removed.

    Attributes:
        rows: The snapshots, by ascending number.
        decisions: What the policy says of each snapshot; none where the numbers were given.
        expendable: More that may go, the first one first, until the file has at most ``max_bytes``.
        max_bytes: Bytes that the file should not exceed, None for no limit.
        smallest: Bytes that it has without all that may go, where that is more: the expendable then stay.
        nothing_of: The source that was asked for, where no snapshot has it.
        told: What a plan said of the last two.
    """

    rows: tuple[SnapshotRow, ...]
    decisions: tuple[Decision, ...] = ()
    expendable: tuple[SnapshotRow, ...] = ()
    max_bytes: Optional[int] = None
    smallest: Optional[int] = None
    nothing_of: str = ""
    told: tuple[Problem, ...] = ()

    def with_removed(self, rows: Sequence[SnapshotRow]) -> Choice:
        """Return the choice with more that had to go because of the size."""
        if not rows:
            return self
        limit = format_size(self.max_bytes or 0)
        reason = Reason(rule="size", text=f"size: the oldest go until {limit} are enough")
        gone = {row.id for row in rows}
        return attrs.evolve(
            self,
            rows=tuple(sorted((*self.rows, *rows), key=lambda row: row.id)),
            decisions=tuple(
                attrs.evolve(each, kept=False, reasons=(reason,)) if each.snapshot.id in gone else each
                for each in self.decisions
            ),
        )


def choose(database: Database, wanted: Wanted, selection: Selection, clock: Callable[[], int]) -> Choice:
    """Return what is to be removed. The write lock must be held.

    Raises:
        SnapshotNotFoundError: A number does not exist, or a Snapshot is another repository's.
        SnapshotPinnedError: A number is that of a pinned snapshot.
        PlanOutdatedError: The plan was made for another state of the repository.
        CorruptionError: A pin is damaged, so that it is not sure which snapshots are pinned.
    """
    if isinstance(wanted, PrunePlan):
        if wanted.state != state_of(database):
            raise PlanOutdatedError(
                f"the plan was made for another state of the repository {database.path}: snapshots were taken, removed "
                "or described since, or something was stored in it; make a new plan",
                database.path,
            )
        numbers = [each.snapshot.id for each in wanted.decisions if not each.kept]
        rows = tuple(find_snapshot(database, number) for number in numbers)
        told = tuple(problem for problem in wanted.problems if problem.kind in ("nothing-found", "above-max-size"))
        return Choice(rows=rows, decisions=wanted.decisions, told=told)
    if isinstance(wanted, RetentionPolicy):
        return _by_policy(database, wanted, selection, clock())
    found = {row.id: row for row in (_named(database, each) for each in wanted)}
    rows = tuple(found[number] for number in sorted(found))
    pinned = records.pinned_among(database, [row.id for row in rows])
    if pinned:
        several = "snapshots {} are pinned; unpin them" if len(pinned) > 1 else "snapshot {} is pinned; unpin it"
        text = several.format(", ".join(map(str, pinned)))
        raise SnapshotPinnedError(f"{text} first (annotate --unpin), then remove; nothing was removed", pinned)
    return Choice(rows=rows)


def _named(database: Database, wanted: Union[int, Snapshot]) -> SnapshotRow:
    if not isinstance(wanted, Snapshot):
        return find_snapshot(database, wanted)
    row = find_snapshot(database, wanted.id)
    there = row.to_result()
    if (there.host, there.source, there.started_ns) != (wanted.host, wanted.source, wanted.started_ns):
        raise SnapshotNotFoundError(
            f"snapshot {wanted.id} of the repository {database.path} is another one than {wanted!r}, which another "
            "repository has or had; nothing was removed",
            wanted.id,
            [each.id for each in snapshot_rows(database, on_damage=lambda damage: None)],
        )
    return row


def _by_policy(database: Database, policy: RetentionPolicy, selection: Selection, now_ns: int) -> Choice:
    unsure = set()
    for what, number in records.damaged_records(database):
        if what == "changes" and isinstance(number, int):
            unsure.add(number)
        if what == "pin":
            raise CorruptionError(
                f"the pin of snapshot {number} in {database.path} is damaged, so it is not sure what is pinned: pin or "
                "unpin it anew (annotate), or remove snapshots by number",
                database.path,
            )
    rows = {row.id: row for row in snapshot_rows(database) if selection.has(row)}
    nothing_of = "" if rows else _name(selection)
    decisions = decide(policy, (row.to_result() for row in rows.values()), now_ns, unsure)
    expendable = () if policy.max_bytes is None else over_budget(decisions)
    return Choice(
        rows=tuple(rows[each.snapshot.id] for each in decisions if not each.kept),
        decisions=decisions,
        expendable=tuple(rows[number] for number in expendable),
        max_bytes=policy.max_bytes,
        nothing_of=nothing_of,
    )


def _name(selection: Selection) -> str:
    """Return in words which snapshots were asked for, nothing if all were."""
    parts = [] if selection.root is None else [f"of {os.fsdecode(selection.root)}"]
    parts += [] if selection.host is None else [f"from the machine {selection.host}"]
    return " ".join(parts)


def misfits(choice: Choice, size_bytes: int) -> list[Problem]:
    """Return what a policy asks for that is not there, or that cannot be done.

    Args:
        size_bytes: What the repository has afterwards.
    """
    if choice.told:
        return list(choice.told)
    if choice.nothing_of:
        message = f"there is no snapshot {choice.nothing_of}, so no rule was applied; list shows what there is"
        return [Problem(kind="nothing-found", path="", message=message)]
    if choice.max_bytes is None or size_bytes <= choice.max_bytes:
        return []
    size = size_bytes if choice.smallest is None else choice.smallest
    message = (
        f"the limit of {format_size(choice.max_bytes)} cannot be reached, so nothing goes for it: without all that "
        f"may go the repository would still have {size:,} bytes ({format_size(size)}); pinned snapshots, the newest of "
        "each source and what an alert is about stay: raise the limit, unpin or remove some, or acknowledge the alert"
    )
    return [Problem(kind="above-max-size", path="", message=message)]


def state_of(database: Database) -> str:
    """Return a fingerprint of what a plan depends on: which snapshots there are, as described, and the file's pages."""
    hasher = hashlib.sha256()
    for sql in (
        "SELECT value FROM settings WHERE name = 'id'",
        "SELECT n.id, n.digest, p.pinned_ns, g.alerts FROM snapshots AS n LEFT JOIN pins AS p ON p.snapshot = n.id "
        "LEFT JOIN changes AS g ON g.snapshot = n.id ORDER BY n.id",
        "PRAGMA page_count",
        "PRAGMA freelist_count",
    ):
        hasher.update(repr(database.query(sql)).encode())
    return hasher.hexdigest()
