"""Contents: bytes known by their SHA-256 and stored once. Looking them up, and inserting them.

Owns the rows of ``contents``, but for the counts of what refers to them, which are refcounts' business. What a content
is made of is written by writer and read back by reader.
"""

from __future__ import annotations

from typing import Iterable, NamedTuple, Optional, Sequence

from .database import Database

__all__ = ["ContentLocation", "HashFilter", "find", "insert_contents", "next_content_id"]

#: Hashes looked up in one statement. One by one a miss costs 10 µs; older SQLite allows 999 parameters.
_LOOKUP = 500

#: Rows inserted in one statement, of five parameters each.
_INSERT_ROWS = 150

#: The filter is filled when there were this many times fewer look-ups than contents: a look-up that misses costs 10 µs,
#: a row of the filter 1 µs.
_FILTER_SHARE = 8

#: Of 16.8 million bits a million contents set 6 %: so many look-ups for nothing are left.
_FILTER_BYTES = 2 << 20

_FILTER_MASK = 8 * _FILTER_BYTES - 1


class ContentLocation(NamedTuple):
    """Where the bytes of a content are.

    Attributes:
        id: Its row.
        hash: Its SHA-256.
        size: Bytes.
        pack: Where it is, None if it consists of parts or is empty.
        offset: Where in the pack.
    """

    id: int
    hash: bytes
    size: int
    pack: Optional[int]
    offset: Optional[int]


def next_content_id(database: Database) -> int:
    """Return the lowest id that no content has or ever had; the write lock must be held."""
    return database.next_id("contents")


def find(database: Database, digests: Sequence[bytes]) -> dict[bytes, int]:
    """Return the ids of the contents that exist, by hash. One statement for each 500."""
    found: dict[bytes, int] = {}
    for begin in range(0, len(digests), _LOOKUP):
        wanted = digests[begin : begin + _LOOKUP]
        marks = ",".join("?" * len(wanted))
        # The index holds the first 8 bytes of the hash; the others are compared here.
        found.update(
            database.query(
                f"SELECT hash, id FROM contents WHERE substr(hash, 1, 8) IN ({marks})",
                [digest[:8] for digest in wanted],
            )
        )
    if len(found) > len(digests):
        return {digest: found[digest] for digest in digests if digest in found}
    return found


class HashFilter:
    """Tells of most hashes that are not stored that they are not, without a look-up: a Bloom filter with one hash.

    It is filled when enough look-ups were made that reading all hashes costs less than they did: at once in an empty
    repository, never for a few new files in a large one. What another process stores later is not in it.

    Args:
        database: Where the contents are.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._stored = next_content_id(database) - 1  # at most
        self._lookups = 0
        self._bits: Optional[bytearray] = None

    def perhaps_stored(self, digest: bytes) -> bool:
        """Tell whether a hash must be looked up."""
        bits = self._bits
        if bits is None:
            self._lookups += 1
            if self._lookups < self._stored // _FILTER_SHARE:
                return True
            bits = self._bits = bytearray(_FILTER_BYTES)
            begins = self._database.query("SELECT substr(hash, 1, 4) FROM contents")
            self.add([begin for (begin,) in begins if begin])  # in a damaged file a hash may be missing
        number = int.from_bytes(digest[:4], "big") & _FILTER_MASK
        return bool(bits[number >> 3] & (1 << (number & 7)))

    def add(self, digests: Iterable[bytes]) -> None:
        """Note hashes, or the first 4 bytes of them, that are stored now."""
        bits = self._bits
        if bits is None:
            return
        for digest in digests:
            number = int.from_bytes(digest[:4], "big") & _FILTER_MASK
            bits[number >> 3] |= 1 << (number & 7)


def insert_contents(database: Database, rows: Sequence[tuple[int, bytes, int, Optional[int], Optional[int]]]) -> None:
    """Insert contents that nothing refers to yet: (id, hash, size, pack, offset).

    Many rows a statement: the driver takes and gives back Python's lock for each statement, which a thread that writes
    beside others would wait for.
    """
    sql = "INSERT INTO contents (id, hash, size, pack, offset, refs, since) VALUES "
    row = "(?, ?, ?, ?, ?, 0, 0)"
    whole = len(rows) - len(rows) % _INSERT_ROWS
    for begin in range(0, whole, _INSERT_ROWS):
        parameters = [value for values in rows[begin : begin + _INSERT_ROWS] for value in values]
        database.execute(sql + ", ".join([row] * _INSERT_ROWS), parameters)
    database.executemany(sql + row, rows[whole:])
