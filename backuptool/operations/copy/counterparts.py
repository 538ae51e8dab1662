"""Counterparts: the pack at a copy's destination that has what a base has here.

Owns how it is found, and whether what refers to the base may refer to it instead.
"""

from __future__ import annotations

from typing import Optional, Tuple

from ...errors import CorruptionError
from ...storage.bases import base_that_holds, bases_by_pack
from ...storage.compression import ZSTD_BASE
from ...storage.database import Database
from ...storage.packs import BaseReference
from ...storage.unpacking import StoredPack, read_pack

__all__ = ["Counterparts"]

#: Contents of a base that are looked for at the destination.
_ASKED = 100


class Counterparts:
    """Knows the bases of one repository, and what they are in another.

    Args:
        origin: Whose packs refer to bases.
        destination: Where the packs are to be.
    """

    def __init__(self, origin: Database, destination: Database) -> None:
        self._origin = origin
        self._destination = destination
        self._bases: Optional[dict[int, int]] = None
        self._last: Tuple[Optional[int], Optional[StoredPack]] = (None, None)
        self._last_reference: Tuple[Optional[int], Optional[BaseReference]] = (None, None)

    def base_of(self, pack: Optional[int]) -> int:
        """Return the base of a pack, 0 if it has none."""
        if self._bases is None:
            self._bases = bases_by_pack(self._origin)
        return self._bases.get(pack or 0, 0)

    def of(self, base: int) -> Optional[StoredPack]:
        """Return the pack at the destination with most of what a base has; None if it has nothing of that."""
        if self._last[0] != base:
            self._last = (base, self._find(base))
        return self._last[1]

    def reference(self, base: int) -> Optional[BaseReference]:
        """Return what a frame that refers to a base may refer to at the destination: the same bytes, or nothing."""
        if self._last_reference[0] != base:
            self._last_reference = (base, self._compare(base))
        return self._last_reference[1]

    def _compare(self, base: int) -> Optional[BaseReference]:
        there = self.of(base)
        try:
            here = None if there is None else read_pack(self._origin, base)
        except CorruptionError:
            return None
        if there is None or here is None or (there.codec, there.data) != (here.codec, here.data):
            return None
        return BaseReference.to(there)

    def _find(self, base: int) -> Optional[StoredPack]:
        try:
            rows = self._origin.query("SELECT hash FROM contents WHERE pack = ? LIMIT ?", (base, _ASKED))
        except CorruptionError:  # it is a hint, and what refers to the base may stand alone
            return None
        digests = [digest for (digest,) in rows if isinstance(digest, bytes)]
        number = base_that_holds(self._destination, digests)
        if number is None:
            return None
        try:
            found = read_pack(self._destination, number)
        except CorruptionError:
            return None
        return None if found.codec == ZSTD_BASE else found
