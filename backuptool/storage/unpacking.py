"""Unpacking: a pack's row, and the bytes in it, also where they refer to those of another pack, its base.

Owns how packs and bases are read from their rows. Who keeps what was unpacked is packs' business.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any, Dict, List, NamedTuple, Optional, Tuple, Union

import attrs

from ..errors import ContentCorruptError, ContentMissingError, CorruptionError
from .compression import ZSTD_BASE, decompress, salvage
from .database import Database

__all__ = [
    "MAX_PACK_SIZE",
    "PackSource",
    "StoredPack",
    "UnpackedPack",
    "Unpacking",
    "bases_by_index",
    "read_pack",
    "unpack",
]

#: Bytes that no pack exceeds: a forged file cannot make a reader take more memory than this, and again for a base.
MAX_PACK_SIZE = 16 << 20

#: By what a pack is known in memory: its number, its size, the bytes stored, when it was written. The number alone may
#: be another pack's by now, if a prune beside this process has removed the last one.
Key = Tuple[object, object, object, object]


class StoredPack(NamedTuple):
    """A pack as it is stored.

    Attributes:
        id: Its number.
        size: Bytes decompressed.
        codec: How ``data`` is encoded.
        data: What is stored.
        key: By what it is known.
        base: By what its base is known; None if it needs none.
    """

    id: int
    size: int
    codec: str
    data: bytes
    key: Key = (None, None, None, None)
    base: Optional[Key] = None


@attrs.frozen
class UnpackedPack:
    """A decompressed pack.

    Attributes:
        data: Its bytes; if it is damaged, those before the damage.
        damage: What is wrong with it, None if nothing is.
        verified: (offset, size, hash) of contents in it that were compared with their hashes.
    """

    data: bytes
    damage: Optional[str]
    verified: set[tuple[int, int, bytes]] = attrs.field(factory=set, eq=False)


def read_pack(database: Database, pack: int) -> StoredPack:
    """Return a stored pack.

    Raises:
        ContentMissingError: There is no such pack.
        CorruptionError: SQLite cannot read it.
    """
    try:
        rows = database.query(
            f"SELECT {_PACK}, b.base, q.size, length(q.data), q.written_ns FROM packs AS p "
            "LEFT JOIN bases AS b ON b.pack = p.id LEFT JOIN packs AS q ON q.id = b.base WHERE p.id = ?",
            (pack,),
        )
    except CorruptionError:
        rows = _read_apart(database, pack)
    if not rows:
        raise ContentMissingError(f"pack {pack} is missing", database.path)
    size, codec, data, written_ns, *base = rows[0]
    typed = isinstance(size, int) and isinstance(codec, bytes) and isinstance(data, bytes)
    if not (typed and 0 <= size <= MAX_PACK_SIZE):
        raise ContentCorruptError(f"the row of pack {pack} is damaged", database.path)
    codec = codec.decode("utf-8", "replace")
    key = (pack, size, len(data), written_ns)
    return StoredPack(pack, size, codec, data, key, (*base,) if codec == ZSTD_BASE else None)


#: What is read of a pack. A length is known without reading: what is longer than any pack never gets into memory.
_PACK = f"p.size, p.codec, CASE WHEN length(p.data) <= {MAX_PACK_SIZE} THEN p.data END, p.written_ns"


def _read_apart(database: Database, pack: int) -> List[Any]:
    """Return the row of a pack with what can be read of its base, where SQLite cannot read both together."""
    rows = database.query(f"SELECT {_PACK} FROM packs AS p WHERE p.id = ?", (pack,))
    base: Tuple[object, ...] = (None, None, None, None)
    if rows and rows[0][1] == ZSTD_BASE.encode():
        number = _base_number(database, pack)
        base = (number, None, None, None)
        if number is not None:
            with suppress(CorruptionError):  # whoever needs the base will be told
                key = "SELECT size, length(data), written_ns FROM packs WHERE id = ?"
                base = (number, *(database.query(key, (number,)) or [(None, None, None)])[0])
    return [(*row, *base) for row in rows]


def _base_number(database: Database, pack: int) -> Optional[int]:
    """Return the base of a pack by the table of bases, or else by its index; None if neither can be read."""
    try:
        found = database.value("SELECT base FROM bases WHERE pack = ?", (pack,))
    except CorruptionError:
        found = bases_by_index(database).get(pack)
    return found if isinstance(found, int) else None


def bases_by_index(database: Database) -> Dict[int, int]:
    """Return the base of each pack that has one by the index of their table alone; none if that cannot be read either.

    What it says need not be true: contents are compared with their hashes, whatever their pack was read with.
    """
    with suppress(CorruptionError):
        return dict(database.query("SELECT pack, base FROM bases INDEXED BY bases_base WHERE typeof(base) = 'integer'"))
    return {}


def unpack(stored: StoredPack, base: Union[UnpackedPack, str, None] = None) -> UnpackedPack:
    """Return a pack's bytes, or what is left of them.

    Args:
        stored: The pack.
        base: Its base, or why it cannot be read; None if it needs none.
    """
    _, size, codec, data, *_ = stored
    known = damage = None
    if isinstance(base, str):
        damage = base
    elif base is not None:
        known, damage = base.data, base.damage
        if stored.base is not None and isinstance(stored.base[1], int):
            # zstd counts from the end: what is left of a damaged base must stay where it was.
            known = known.ljust(min(stored.base[1], MAX_PACK_SIZE), b"\0")
        if damage is not None:
            damage = f"its base, pack {stored.base and stored.base[0]}, is damaged: {damage}"
    try:
        return UnpackedPack(decompress(codec, data, size, known), None)
    except ContentCorruptError as exc:
        return UnpackedPack(salvage(codec, data, size, known), damage or str(exc))


class Unpacking:
    """A pack that is unpacked once, by whoever needs it first; for several threads."""

    def __init__(self, stored: StoredPack, base: Union[Unpacking, str, None] = None) -> None:
        self.key = stored.key
        self._stored: Optional[StoredPack] = stored
        self._base = base
        self._guard = threading.Lock()
        self._unpacked: Optional[UnpackedPack] = None

    def result(self) -> UnpackedPack:
        """Return its bytes, or what is left of them."""
        with self._guard:
            if self._unpacked is None:
                assert self._stored is not None
                base = self._base.result() if isinstance(self._base, Unpacking) else self._base
                self._unpacked = unpack(self._stored, base)
                self._stored = self._base = None  # kept no longer than needed
            return self._unpacked


class PackSource:
    """Reads packs with their bases; remembers the base, and the pack without one, that were read last.

    Packs with the same base are best read one after the other, right behind it: it is unpacked once for all of them.

    Args:
        database: Where they are.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._base: Optional[Unpacking] = None
        self._plain: Optional[Unpacking] = None

    def read(self, pack: int) -> Unpacking:
        """Return a pack, read but not unpacked.

        Raises:
            ContentMissingError: There is no such pack.
            CorruptionError: SQLite cannot read it. With its base that is told by what is unpacked.
        """
        return self.unpacking(read_pack(self._database, pack))

    def unpacking(self, stored: StoredPack) -> Unpacking:
        """Return a pack that was read, with its base."""
        if stored.codec == ZSTD_BASE:
            return Unpacking(stored, self._base_of(stored))
        self._plain = Unpacking(stored)
        return self._plain

    def _base_of(self, stored: StoredPack) -> Union[Unpacking, str]:
        """Return the base of a pack, or what is wrong with it."""
        assert stored.base is not None
        number = stored.base[0]
        if not isinstance(number, int):
            return "it does not say which pack is its base"
        for known in (self._base, self._plain):
            if known is not None and known.key == stored.base:
                self._base = known
                return known
        try:
            base = read_pack(self._database, number)
        except CorruptionError as exc:
            return f"its base, pack {number}, cannot be read: {exc.reason}"
        if base.codec == ZSTD_BASE:  # so there is never a third one
            return f"its base, pack {number}, has a base itself"
        self._base = Unpacking(base)
        return self._base
