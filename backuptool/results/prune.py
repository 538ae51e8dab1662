"""What pruning would do, and what it did."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from .presentation import Result, count, format_size
from .problem import Problem, problem_tail
from .retention import Decision
from .snapshot import Snapshot

if TYPE_CHECKING:
    from ..retention import RetentionPolicy

__all__ = ["PrunePlan", "PruneResult"]


@attrs.frozen(kw_only=True, repr=False)
class PrunePlan(Result):
    """What a retention policy would remove, and exactly what that frees. ``Repository.prune`` applies it.

    Attributes:
        policy: The policy.
        decisions: For each snapshot that the policy looked at whether it is kept, and why, by ascending number.
        state: Fingerprint of the state of the repository that the plan is for, 64 hex digits. Applied to another one it
            is refused.
        removed_versions: File versions that no kept snapshot has.
        removed_contents: Contents that nothing would refer to any more, leftovers of interrupted snapshots included.
        removed_bytes: Bytes of these contents, before compression.
        repacked_packs: Packs that would be mostly empty and written again.
        freed_bytes: Bytes by which the repository file would shrink, exactly.
        repository_bytes: Size of the repository file afterwards, exactly.
        problems: Damage met on the way; a size that the policy does not allow and that cannot be reached.
    """

    policy: RetentionPolicy
    decisions: tuple[Decision, ...] = ()
    state: str
    removed_versions: int
    removed_contents: int
    removed_bytes: int
    repacked_packs: int
    freed_bytes: int
    repository_bytes: int
    problems: tuple[Problem, ...] = ()

    @property
    def kept(self) -> tuple[Snapshot, ...]:
        """The snapshots that stay, of those that the policy looked at."""
        return tuple(decision.snapshot for decision in self.decisions if decision.kept)

    @property
    def removed(self) -> tuple[Snapshot, ...]:
        """The snapshots that would be removed."""
        return tuple(decision.snapshot for decision in self.decisions if not decision.kept)

    def _rows(self) -> list[tuple[str, str]]:
        rows = [("policy", repr(self.policy)), ("freed", _size(self.freed_bytes))]
        return [*rows, ("repository afterwards", _size(self.repository_bytes)), *_decision_rows(self.decisions)]

    def _headline(self) -> str:
        text = f"keep {len(self.kept):,}, remove {count(len(self.removed), 'snapshot')}"
        return f"{text}, {format_size(self.freed_bytes)} freed" + problem_tail(0, self.problems)


@attrs.frozen(kw_only=True, repr=False)
class PruneResult(Result):
    """What pruning removed, or with ``dry_run`` would remove.

    Attributes:
        snapshots: The snapshots removed.
        decisions: Where a policy or a plan was applied, for each snapshot that it looked at whether it is kept, and
            why, by ascending number.
        removed_versions: File versions that no kept snapshot has.
        removed_contents: Contents that nothing refers to any more, leftovers of interrupted snapshots included.
        removed_bytes: Bytes of these contents, before compression.
        repacked_packs: Packs that were mostly empty and were written again.
        freed_bytes: Bytes by which the repository file shrank (or would shrink, exactly).
        repository_bytes: Size of the repository file afterwards.
        dry_run: True if nothing was changed.
        elapsed_seconds: Wall time.
        problems: Damage met on the way: packs that could not be packed again; a size that the policy does not allow and
            that cannot be reached.
    """

    snapshots: tuple[Snapshot, ...]
    decisions: tuple[Decision, ...] = ()
    removed_versions: int
    removed_contents: int
    removed_bytes: int
    repacked_packs: int
    freed_bytes: int
    repository_bytes: int
    dry_run: bool
    elapsed_seconds: float
    problems: tuple[Problem, ...] = ()

    def _rows(self) -> list[tuple[str, str]]:
        others = [row for row in super()._rows() if row[0] not in ("decisions", "snapshots")]
        return [*others, *_decision_rows(self.decisions)]

    def _headline(self) -> str:
        verb = "would remove" if self.dry_run else "removed"
        text = (
            f"{verb} {count(len(self.snapshots), 'snapshot')}, {count(self.removed_contents, 'content')}, "
            f"{format_size(self.freed_bytes)} freed"
        )
        return text + problem_tail(0, self.problems)


def _decision_rows(decisions: tuple[Decision, ...]) -> list[tuple[str, str]]:
    """Return the rows of a notebook table that tell what is kept, and why."""
    return [
        (f"snapshot {each.snapshot.id}", f"{'kept' if each.kept else 'removed'}: {', '.join(map(str, each.reasons))}")
        for each in decisions
    ]


def _size(size_bytes: int) -> str:
    return f"{size_bytes:,} ({format_size(size_bytes)})"
