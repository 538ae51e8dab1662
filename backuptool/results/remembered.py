"""What was seen of an encrypted repository before, from outside of it."""

from __future__ import annotations

from typing import Optional

import attrs

from .presentation import Result
from .problem import Problem

__all__ = ["Remembered"]


@attrs.frozen(kw_only=True, repr=False)
class Remembered(Result):
    """The newest state of an encrypted repository that was ever seen from here, and how what is there now compares.

    Attributes:
        file: Where it is kept, in the state directory.
        changes: How many times the repository had been changed in that state.
        snapshot: The highest number that a snapshot had had in it; 0 if there was none.
        problem: ``rolled-back`` if an older copy was put in the place of the repository, None if not.
        unsaved: Why it could not be read or kept, "" if it was. Nothing else depends on it.
    """

    file: str
    changes: int
    snapshot: int
    problem: Optional[Problem] = None
    unsaved: str = ""

    def _headline(self) -> str:
        verdict = "rolled back" if self.problem is not None else "nothing older"
        text = f"{verdict}: snapshot {self.snapshot or 'none'} after {self.changes:,} changes"
        return text + (f", not kept: {self.unsaved}" if self.unsaved else "")
