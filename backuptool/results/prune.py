"""What pruning did."""

from __future__ import annotations

import attrs

from .presentation import Result, count, format_size
from .problem import Problem, problem_tail
from .snapshot import Snapshot

__all__ = ["PruneResult"]


@attrs.frozen(kw_only=True, repr=False)
class PruneResult(Result):
    """What pruning removed, or with ``dry_run`` would remove.

    Attributes:
        snapshots: The snapshots removed.
        removed_versions: File versions that no kept snapshot has.
        removed_contents: Contents that nothing refers to any more, leftovers of interrupted snapshots included.
        removed_bytes: Bytes of these contents, before compression.
        repacked_packs: Packs that were mostly empty and were written again.
        freed_bytes: Bytes by which the repository file shrank (or would shrink, exactly).
        repository_bytes: Size of the repository file afterwards.
        dry_run: True if nothing was changed.
        elapsed_seconds: Wall time.
        problems: Damage met on the way: packs that could not be packed again.
    """

    snapshots: tuple[Snapshot, ...]
    removed_versions: int
    removed_contents: int
    removed_bytes: int
    repacked_packs: int
    freed_bytes: int
    repository_bytes: int
    dry_run: bool
    elapsed_seconds: float
    problems: tuple[Problem, ...] = ()

    def _headline(self) -> str:
        verb = "would remove" if self.dry_run else "removed"
        text = (
            f"{verb} {count(len(self.snapshots), 'snapshot')}, {count(self.removed_contents, 'content')}, "
            f"{format_size(self.freed_bytes)} freed"
        )
        return text + problem_tail(0, self.problems)
