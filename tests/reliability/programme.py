"""The rows of the programme, what each is given, and the figures it comes back with.

Owns the list of rows and how their figures read. What is tried is written in the rows' own modules.
"""

from __future__ import annotations

import importlib
import time
from collections import Counter
from pathlib import Path
from typing import Callable, List, Optional, Tuple

import attrs

__all__ = ["ROWS", "Effort", "Figures", "run_row"]

#: Name and module of each row, in the order of the table.
ROWS: Tuple[Tuple[str, str], ...] = (
    ("kill", "test_kill"),
    ("power", "test_power"),
    ("faults", "test_faults"),
    ("processes", "test_processes"),
    ("clock", "test_clock"),
    ("damage", "test_damage"),
    ("tampering", "test_tampering"),
    ("secrets", "test_secrets"),
    ("sources", "test_sources"),
    ("sizes", "test_sizes"),
    ("names", "test_names"),
    ("hostile", "test_hostile"),
    ("racing", "test_racing"),
    ("inside", "test_inside"),
    ("umask", "test_umask"),
    ("media", "test_media"),
)


def _nothing(line: str) -> None:
    pass


@attrs.frozen(kw_only=True)
class Effort:
    """What a row is given to work with.

    Attributes:
        work: An empty directory, in memory where that is possible.
        full: Try everything, not just enough to see that it still holds.
        seconds: Stop after so long, wherever it is; the figures say how far it came. None for no limit.
        scenario: Of a row that has several, the only one to try; "" for all.
        seed: Of everything that is chosen at random.
        tell: Is given a line from time to time.
    """

    work: Path
    full: bool = False
    seconds: Optional[float] = None
    scenario: str = ""
    seed: int = 1
    tell: Callable[[str], None] = _nothing
    _begin: float = attrs.field(factory=time.monotonic)

    def is_over(self, seconds: Optional[float] = None) -> bool:
        """Tell whether the time is up: that of the effort, or so many seconds after its begin."""
        limits = [limit for limit in (self.seconds, seconds) if limit is not None]
        return bool(limits) and time.monotonic() - self._begin >= min(limits)


@attrs.define
class Figures:
    """What a row tried, how often, and what it found.

    Attributes:
        tried: How often each thing was tried.
        faults: What broke a promise, one line each. None of them may be there.
    """

    tried: Counter[str] = attrs.Factory(Counter)
    faults: List[str] = attrs.Factory(list)

    def add(self, other: Figures) -> None:
        """Add what another run came to."""
        self.tried.update(other.tried)
        self.faults += other.faults

    def lines(self) -> List[str]:
        """Return the figures as text, one line each."""
        counts = [f"{count:>12,}  {what}" for what, count in self.tried.items()]
        return [*counts, f"{len(self.faults):>12,}  faults", *(f"              {fault}" for fault in self.faults)]


def run_row(name: str, effort: Effort) -> Figures:
    """Run one row."""
    module = importlib.import_module(f".{dict(ROWS)[name]}", __package__)
    figures = module.run(effort)
    assert isinstance(figures, Figures)
    return figures
