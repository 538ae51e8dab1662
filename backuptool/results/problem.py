"""What went wrong with one thing while an operation went on with the rest."""

from __future__ import annotations

from typing import Optional

import attrs

from .presentation import Result, count

__all__ = ["Problem", "problem_tail"]


@attrs.frozen(kw_only=True, repr=False)
class Problem(Result):
    """Something that went wrong with one thing while the operation went on with the rest.

    Attributes:
        kind: What went wrong, in one hyphenated word: ``unreadable``, ``changed-while-read``, ``content-corrupt`` …
            (docs/api.md lists them all).
        path: The file, as seen from the source or the destination; ``""`` where it concerns the repository as a whole.
        message: What happened and, where there is one, the next step.
        count: Number of files this stands for (restoring as a normal user reports owners once, not once a file).
        content: SHA-256 of the content concerned, 64 hex digits, or None.
        snapshots: Numbers of the snapshots that are hurt, ascending.
    """

    kind: str
    path: str
    message: str
    count: int = 1
    content: Optional[str] = None
    snapshots: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message

    def _headline(self) -> str:
        return f"{self.kind}: {self}"


def problem_tail(skipped: int, problems: tuple[Problem, ...]) -> str:
    """Return what a headline ends with: how much was skipped, and how many problems there were."""
    tail = f", {skipped:,} skipped" if skipped else ""
    return tail + (f", {count(len(problems), 'problem')}" if problems else "")
