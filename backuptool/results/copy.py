"""What copying snapshots to another repository did."""

from __future__ import annotations

import attrs

from .presentation import Result, count, format_size
from .problem import Problem, problem_tail
from .snapshot import Snapshot

__all__ = ["CopiedSnapshot", "CopyResult"]


@attrs.frozen(kw_only=True, repr=False)
class CopiedSnapshot(Result):
    """A snapshot, and its copy in another repository.

    Attributes:
        original: The snapshot.
        snapshot: Its copy, which has another number.
        was_there: True if it had been copied before, and nothing was done.
    """

    original: Snapshot
    snapshot: Snapshot
    was_there: bool

    def _headline(self) -> str:
        return f"{self.original.id} is {self.snapshot.id}{', as it was' if self.was_there else ''}"


@attrs.frozen(kw_only=True, repr=False)
class CopyResult(Result):
    """What copying did.

    Attributes:
        destination: Absolute path of the repository that was copied into.
        copies: The snapshots that are there now, in the order in which they were copied.
        copied_snapshots: Number of those that were copied now.
        present_snapshots: Number of those that had been copied before.
        copied_versions: File versions added to the destination's catalog.
        new_bytes: Bytes of contents that the destination did not have, before compression.
        stored_bytes: Bytes that these take in packs.
        whole_packs: Packs that were taken as they are, without compressing them again.
        elapsed_seconds: Wall time.
        problems: What could not be copied.
    """

    destination: str
    copies: tuple[CopiedSnapshot, ...]
    copied_snapshots: int
    present_snapshots: int
    copied_versions: int
    new_bytes: int
    stored_bytes: int
    whole_packs: int
    elapsed_seconds: float
    problems: tuple[Problem, ...] = ()

    def _headline(self) -> str:
        text = (
            f"{count(self.copied_snapshots, 'snapshot')} copied to {self.destination}, {self.present_snapshots:,} "
            f"there before, {format_size(self.new_bytes)} new, {format_size(self.stored_bytes)} stored"
        )
        return text + problem_tail(0, self.problems)
