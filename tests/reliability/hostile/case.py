"""What a case is: something forged, and what must come of it.

Owns the outcomes that are asked for. What must never happen whatever is forged is test_hostile's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Tuple, Union

import attrs

from ..forging import run_sql, settle

__all__ = ["ANY", "CHECK", "HARMLESS", "MAX", "NAMED", "REFUSED", "RESTORE", "Case", "Forge"]

#: The highest number that SQLite has.
MAX = (1 << 63) - 1

#: What must come of a case.
#:
#: refused: nothing opens it. named: check and restore both name it. check: check names it, and all that the snapshot
#: holds is restored all the same or named. restore: it agrees with itself, so only restoring it shows what it is.
#: harmless: it is a valid repository, if an unusual one. any: nothing but what holds for all cases.
REFUSED, NAMED, CHECK, RESTORE, HARMLESS, ANY = "refused", "named", "check", "restore", "harmless", "any"

#: What forges a repository, given its path.
Forge = Callable[[Path], None]


@attrs.frozen
class Case:
    """Something forged.

    Attributes:
        name: What is forged.
        forge: How: statements of SQL, or a function that is given the file.
        outcome: What must come of it.
        settled: Whether digests, counts and sizes are computed anew.
    """

    name: str
    forge: Union[Forge, Tuple[str, ...]]
    outcome: str
    settled: bool = True

    def apply(self, repository: Path) -> None:
        """Forge a repository."""
        if callable(self.forge):
            self.forge(repository)
        else:
            run_sql(repository, *self.forge)
        if self.settled:
            settle(repository)
