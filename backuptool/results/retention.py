"""What a retention policy says of snapshots: kept or removed, and why."""

from __future__ import annotations

import attrs

from .presentation import Result
from .snapshot import Snapshot

__all__ = ["Decision", "Reason"]


@attrs.frozen(kw_only=True, repr=False)
class Reason(Result):
    """Why a rule keeps a snapshot, or does not.

    Attributes:
        rule: ``"last"``, ``"hourly"``, ``"daily"``, ``"weekly"``, ``"monthly"``, ``"quarterly"``, ``"yearly"``,
            ``"within"``, ``"tag"``; ``"newest"`` of its source, ``"pinned"``, ``"alert"`` for what stays until an alert
            is acknowledged, ``"none"`` for a policy without rules, ``"size"`` for what must go so that the repository
            fits.
        period: The hour, day, week, month, quarter, year or tag in question, as text; ``""`` for other rules.
        text: All of it in words: ``"weekly 2026-W48"``, ``"weekly 2026-W48 has 17"`` for a place that snapshot 17 has,
            ``"weekly: 4 newer ones"`` for a rule without a place left.
    """

    rule: str
    period: str = ""
    text: str

    def __str__(self) -> str:
        return self.text

    def _headline(self) -> str:
        return self.text


@attrs.frozen(kw_only=True, repr=False)
class Decision(Result):
    """What a retention policy says of one snapshot.

    Attributes:
        snapshot: The snapshot.
        kept: True if it is kept, False if it is removed.
        reasons: Of a kept one, each rule that keeps it; of a removed one, why each rule does not.
        doubtful: True if its time does not fit its number, or lies in the future: it was taken by a wrong clock, and
            takes none of a rule's places.
    """

    snapshot: Snapshot
    kept: bool
    reasons: tuple[Reason, ...]
    doubtful: bool = False

    def _headline(self) -> str:
        verdict = "kept" if self.kept else "removed"
        return f"{self.snapshot.id} {verdict}: {', '.join(map(str, self.reasons))}"
