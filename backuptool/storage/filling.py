"""Filling packs: contents one behind the other in a buffer, until they are enough for a pack.

Owns where packs end, and which contents are to share one. Compressing them is packs' business.

Contents may come in groups, those of files whose last versions lie in one pack: its base. A group that is large enough
becomes a pack of its own, which refers to that. One that turns out too small, as most of its files had not changed or
were stored before, stays with the contents before it, as if there were no groups.
"""

from __future__ import annotations

from typing import Callable, List, Optional, Tuple

from .bases import Base, least_bytes
from .unpacking import StoredPack

__all__ = ["Filling", "Members"]

#: (ordinal, hash, size) of contents, in the order of their bytes.
Members = List[Tuple[int, bytes, int]]


class Filling:
    """Contents that are not yet in a pack.

    Args:
        pack_size: Bytes that fill a pack.
        buffer: Where their bytes go: as much, and room for one content more.
        read_base: Returns a base as it is stored, None if it cannot be had.
        seal: Is given the contents of a pack, a buffer, where in it their bytes begin and end, and what they may refer
            to. Returns the buffer to go on with: the same if they do not begin it.

    Attributes:
        buffer: Where the bytes are now.
        filled: Bytes that wait there.
    """

    def __init__(
        self,
        pack_size: int,
        buffer: memoryview,
        read_base: Callable[[Base], Optional[StoredPack]],
        seal: Callable[[Members, memoryview, int, int, Optional[StoredPack]], memoryview],
    ) -> None:
        self.filled = 0
        self._pack_size = pack_size
        self.buffer = buffer
        self._read_base = read_base
        self._seal = seal
        self._members: Members = []
        self._base: Optional[Base] = None
        self._begin = 0  # of the group, in the buffer
        self._before = 0  # members before it

    def room(self, size: int) -> memoryview:
        """Return where the next bytes may be put."""
        return self.buffer[self.filled : self.filled + size]

    def keep(self, ordinal: int, digest: bytes, size: int) -> None:
        """Keep the bytes that were put there."""
        self._members.append((ordinal, digest, size))
        self.filled += size
        if self.filled >= self._pack_size:
            self._make_room()

    def keep_all(self, members: Members, filled: int) -> None:
        """Keep the bytes of several contents that were put one behind the other, up to there."""
        self._members += members
        self.filled = filled
        if filled >= self._pack_size:
            self._make_room()

    def begin_group(self, base: Optional[Base]) -> None:
        """Let what comes next refer to a base; None for what has none."""
        if base != self._base:
            self._end_group()
            self._base = base

    def finish(self) -> None:
        """Make packs of everything."""
        self.begin_group(None)
        if self._members:
            self._seal_first(len(self._members), self.filled, None)

    def _end_group(self) -> bool:
        """Make a pack of the group if it is worth it; True if it was. What is left belongs to no group."""
        base = self._base
        stored = None
        if base is not None and self.filled - self._begin >= least_bytes(base):
            stored = self._read_base(base)
        if stored is not None:
            if self._before:
                self._seal_last(stored)
            else:
                self._seal_first(len(self._members), self.filled, stored)
        self._begin, self._before = self.filled, len(self._members)
        return stored is not None

    def _make_room(self) -> None:
        """Make a pack of the larger part of what fills the buffer: the group, or what is before it."""
        if self._base is not None and self._begin >= self.filled - self._begin:
            self._seal_first(self._before, self._begin, None)
        elif not self._end_group():
            self._seal_first(len(self._members), self.filled, None)

    def _seal_first(self, count: int, size: int, base: Optional[StoredPack]) -> None:
        """Make a pack of the first contents; what is behind them becomes the first."""
        members, rest = self._members[:count], self._members[count:]
        tail = bytes(self.buffer[size : self.filled])
        self.buffer = self._seal(members, self.buffer, 0, size, base)
        self.buffer[: len(tail)] = tail
        self._members, self.filled = rest, len(tail)
        self._begin, self._before = max(0, self._begin - size), max(0, self._before - count)

    def _seal_last(self, base: StoredPack) -> None:
        """Make a pack of the group, which is behind other contents."""
        members = self._members[self._before :]
        self.buffer = self._seal(members, self.buffer, self._begin, self.filled, base)
        del self._members[self._before :]
        self.filled = self._begin
