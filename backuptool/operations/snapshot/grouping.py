"""Grouping changed files by the pack that holds their last versions, which can be the base of their next one.

Owns which files are read together for that. Whether a group is worth it in the end is decided when it is known how
much of it is new.
"""

from __future__ import annotations

from array import array
from typing import Callable, Iterable, List, NamedTuple, Sequence, Tuple

from ...storage.bases import Base, least_bytes
from ...storage.chunking import LARGE_FILE
from .window import Window

__all__ = ["Group", "LookUpBases", "group_by_base"]

#: Returns (path, base) of those paths that have a last version in a pack.
LookUpBases = Callable[[Sequence[bytes]], Iterable[Tuple[bytes, Base]]]

#: Files whose bases are looked up at a time.
_BATCH = 2000


class Group(NamedTuple):
    """Files to be read one after the other.

    Attributes:
        base: Where their last versions lie.
        positions: In the window, in the order in which they are best read.
    """

    base: Base
    positions: Sequence[int]


def group_by_base(window: Window, look_up: LookUpBases) -> List[Group]:
    """Return the files of a window that may be worth a base, in groups by the packs; nobody reads them yet.

    Costs one index look-up for each small file that has a last version, none if all of them together are too little.
    """
    found: dict[Base, array[int]] = {}
    positions = [position for position in window.changed if 0 < window.sizes[position] <= LARGE_FILE]
    if sum(window.sizes[position] for position in positions) < least_bytes(Base(0, 0)):
        return []
    for begin in range(0, len(positions), _BATCH):
        by_path = {window.path(position): position for position in positions[begin : begin + _BATCH]}
        for path, base in look_up(list(by_path)):
            found.setdefault(base, array("I")).append(by_path[path])
    return [
        Group(base, window.by_likeness(members))
        for base, members in sorted(found.items())
        if sum(window.sizes[position] for position in members) >= least_bytes(base)
    ]
