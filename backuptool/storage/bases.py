"""Bases: packs whose bytes serve later ones as dictionary, as they hold earlier versions of the same files.

Owns the rows of ``bases``: which packs may be bases, for how much, and that they are still there when it is committed.
"""

from __future__ import annotations

from collections import Counter
from hashlib import sha256
from typing import Iterable, Iterator, Mapping, NamedTuple, Optional, Sequence

from ..errors import CorruptionError
from .compression import ZSTD_BASE
from .contents import find
from .database import Database
from .packs import BaseReference
from .refcounts import ContentsVanishedError
from .unpacking import bases_by_index, read_pack

__all__ = [
    "Base",
    "base_that_holds",
    "bases_by_pack",
    "bases_of_files",
    "behind_bases",
    "insert_base",
    "least_bytes",
]

#: Paths looked up in one statement; older SQLite allows 999 parameters.
_LOOKUP = 500

#: Bytes that must be new for a base to be worth its cost, at least, and as a share of the base: to unpack 2 MiB and
#: remember them takes 1.5 ms, to read and compress 128 KiB of small files about as much.
_LEAST_BYTES = 32 << 10
_LEAST_SHARE = 16


class Base(NamedTuple):
    """A pack that may be a base.

    Attributes:
        id: Its number.
        size: Bytes, decompressed.
    """

    id: int
    size: int


def least_bytes(base: Base) -> int:
    """Return how many new bytes there must be for a base to be worth its cost."""
    return max(_LEAST_BYTES, base.size // _LEAST_SHARE)


def bases_of_files(database: Database, source: int, paths: Sequence[bytes]) -> Iterator[tuple[bytes, Base]]:
    """Yield (path, base) of files whose current version lies in a pack: that pack, or its base if it has one.

    Large files, and empty ones, have none. One statement for each 500 paths.
    """
    sql = (
        "SELECT f.path, p.id, p.size FROM files AS f JOIN contents AS c ON c.id = f.content "
        "LEFT JOIN bases AS b ON b.pack = c.pack JOIN packs AS p ON p.id = coalesce(b.base, c.pack) "
        "WHERE f.source = ? AND f.last IS NULL AND f.path IN ({})"
    )
    for begin in range(0, len(paths), _LOOKUP):
        wanted = paths[begin : begin + _LOOKUP]
        marks = ", ".join(["CAST(? AS TEXT)"] * len(wanted))
        for path, pack, size in database.query(sql.format(marks), (source, *wanted)):
            if isinstance(size, int):  # in a damaged catalog it may be anything
                yield path, Base(pack, size)


def base_that_holds(database: Database, digests: Sequence[bytes]) -> Optional[int]:
    """Return the pack, or the base of the pack, in which the most of these contents lie; None if none of them does.

    One statement for each 500.
    """
    ids = list(find(database, digests).values())
    packs: Counter[int] = Counter()
    for begin in range(0, len(ids), _LOOKUP):
        wanted = ids[begin : begin + _LOOKUP]
        rows = database.query(
            "SELECT coalesce(b.base, c.pack) FROM contents AS c LEFT JOIN bases AS b ON b.pack = c.pack "
            f"WHERE c.pack IS NOT NULL AND c.id IN ({', '.join('?' * len(wanted))})",
            wanted,
        )
        packs.update(pack for (pack,) in rows if isinstance(pack, int))
    return max(packs, key=lambda pack: packs[pack]) if packs else None


def bases_by_pack(database: Database) -> dict[int, int]:
    """Return the base of each pack that has one. To read all of them takes 1 µs each.

    Where SQLite cannot read their table, those that its index knows; a pack whose base is not known is read by itself.
    """
    try:
        return dict(database.query("SELECT pack, base FROM bases WHERE typeof(base) = 'integer'"))
    except CorruptionError:
        return bases_by_index(database)


def behind_bases(packs: Iterable[int], bases: Mapping[int, int]) -> list[int]:
    """Return packs in the order in which they are best read: each base, then all that refer to it."""
    return sorted(packs, key=lambda pack: (bases.get(pack, pack), pack))


def insert_base(database: Database, pack: int, base: BaseReference, *, unchanged: bool) -> None:
    """Note that a pack refers to another; the write lock must be held.

    Args:
        pack: The one that refers.
        base: The one that it refers to.
        unchanged: Nobody else has written to the repository since the base was read.

    Raises:
        ContentsVanishedError: The base is not there any more, or another pack has its number.
    """
    if not unchanged:
        try:
            stored = read_pack(database, base.id)
        except CorruptionError as exc:
            raise ContentsVanishedError from exc
        if stored.codec == ZSTD_BASE or sha256(stored.data).digest() != base.digest:
            raise ContentsVanishedError
    database.execute("INSERT INTO bases (pack, base) VALUES (?, ?)", (pack, base.id))
