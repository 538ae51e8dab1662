"""What is done with a data set, as values: operations that are measured and, between them, changes to the data.

A plan says nothing of programs; each program that has an operation is measured with it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Tuple, Union

__all__ = ["Change", "Measure", "Operation", "Plan"]


class Operation(enum.Enum):
    """What a program is asked to do; the value is its name on the command line."""

    FIRST = "first"
    UNCHANGED = "unchanged"
    CHANGED = "changed"
    LIST = "list"
    RESTORE = "restore"
    RESTORE_FILE = "restore-file"
    CHECK = "check"
    PRUNE_ONE = "prune-one"
    PRUNE_HALF = "prune-half"

    @property
    def is_snapshot(self) -> bool:
        """Whether the operation adds a snapshot."""
        return self in (Operation.FIRST, Operation.UNCHANGED, Operation.CHANGED)

    @property
    def is_restore(self) -> bool:
        """Whether the operation writes into a directory that is compared with the data afterwards."""
        return self in (Operation.RESTORE, Operation.RESTORE_FILE)

    @property
    def is_prune(self) -> bool:
        """Whether the operation removes snapshots."""
        return self in (Operation.PRUNE_ONE, Operation.PRUNE_HALF)

    @property
    def writes(self) -> bool:
        """Whether the repository has another size afterwards."""
        return self.is_snapshot or self.is_prune


@dataclass(frozen=True)
class Measure:
    """One operation, done once by each program. Several with one title in a plan are one row: their times add up."""

    operation: Operation
    title: str


@dataclass(frozen=True)
class Change:
    """Something done to the data before the next operation. Not measured.

    Attributes:
        apply: Changes the tree in place, the same way each time. What it replaces as a whole it moves to the directory
            ``discarded`` beside the tree.
    """

    apply: Callable[[Path], None]


Plan = Tuple[Union[Measure, Change], ...]
