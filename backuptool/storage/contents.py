"""Contents: bytes known by their SHA-256 and stored once. Looking them up, counting references, reading them back.

Owns the rows of ``contents`` and ``parts``, together with writer, which adds them.
"""

from __future__ import annotations

import hashlib
from itertools import groupby
from operator import attrgetter
from typing import Iterable, Iterator, Mapping, NamedTuple, Optional, Sequence

from ..errors import ContentCorruptError, ContentMissingError, CorruptionError
from .database import Database
from .packs import PackReader
from .pieces import Bytes, Part, WholeHash, joined

__all__ = [
    "Brought",
    "Bytes",
    "ContentLocation",
    "ContentReader",
    "ContentsVanishedError",
    "HashFilter",
    "add_refs",
    "find",
    "insert_contents",
    "next_content_id",
    "reference",
]

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


class Brought(NamedTuple):
    """What a snapshot is the first to have.

    Attributes:
        contents: Contents of files; the parts of large ones are not counted.
        size: Bytes, the snapshot's distinct size. A large content brings its parts, and the bytes are counted there.
    """

    contents: int
    size: int


def reference(database: Database, snapshot: int, ids: Sequence[int], counts: Sequence[int]) -> Brought:
    """Count the references of a snapshot's new file versions, and let it have brought what no other has.

    Args:
        snapshot: Its number.
        ids: Id of each content by ordinal.
        counts: Number of new references to each, by ordinal.

    Raises:
        ContentsVanishedError: One of the contents is not there.
    """
    brought = new = 0
    several: list[tuple[int, int]] = []

    def once() -> Iterator[tuple[int, int]]:
        for content, number in _by_id(ids, counts):
            if number > 1:
                several.append((number - 1, content))
            yield content, 1

    for first, last, _ in _runs(once()):
        span = (first, last)
        fresh = "id BETWEEN ? AND ? AND since = 0"
        number, size, large = database.query(
            "SELECT count(*), coalesce(sum(CASE WHEN layout IS NULL THEN size END), 0), count(layout) FROM contents "
            f"WHERE {fresh}",
            span,
        )[0]
        new += number
        brought += size
        parted = database.query(f"SELECT id FROM contents WHERE {fresh} AND layout IS NOT NULL", span) if large else []
        found = database.execute(
            "UPDATE contents SET refs = refs + 1, since = CASE since WHEN 0 THEN ? ELSE since END "
            "WHERE id BETWEEN ? AND ?",
            (snapshot, *span),
        )
        if found <= last - first:
            raise ContentsVanishedError
        for content in parted:
            parts = "since = 0 AND id IN (SELECT part FROM parts WHERE content = ?)"
            brought += database.value(f"SELECT coalesce(sum(size), 0) FROM contents WHERE {parts}", content)
            database.execute(f"UPDATE contents SET since = ? WHERE {parts}", (snapshot, *content))
    database.executemany("UPDATE contents SET refs = refs + ? WHERE id = ?", several)
    return Brought(new, brought)


def _by_id(ids: Sequence[int], counts: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield (id, references) by ascending id, those of several ordinals of one id added up."""
    current = total = 0
    for ordinal in sorted(range(len(ids)), key=ids.__getitem__):
        if ids[ordinal] != current:
            if total:
                yield current, total
            current, total = ids[ordinal], 0
        total += counts[ordinal]
    if total:
        yield current, total


def add_refs(database: Database, refs: Mapping[int, int]) -> int:
    """Add to the reference counts of contents and return how many contents there were to add to.

    Args:
        refs: How much to add, by id. Neighbours with the same number share a statement.
    """
    changed = 0
    for first, last, number in _runs(sorted(refs.items())):
        changed += database.execute(
            "UPDATE contents SET refs = refs + ? WHERE id BETWEEN ? AND ?", (number, first, last)
        )
    return changed


def _runs(refs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """Yield (first id, last id, number) for each run of consecutive ids with the same number."""
    first = last = number = 0
    for content, count in refs:
        if count == number and content == last + 1:
            last = content
            continue
        if number:
            yield first, last, number
        first = last = content
        number = count
    if number:
        yield first, last, number


class ContentsVanishedError(Exception):
    """A prune beside a snapshot has removed contents that the snapshot found; it must look again."""


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


class ContentReader:
    """Reads contents back; every byte it gives out was compared with a hash. A context manager.

    Args:
        database: Where they are.
        packs: What reads them from their packs, if it is to be another than usual.
    """

    def __init__(self, database: Database, packs: Optional[PackReader] = None) -> None:
        self._database = database
        self._packs = packs or PackReader(database)

    def __enter__(self) -> ContentReader:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._packs.__exit__(*exc_info)

    def expect(self, locations: Iterable[ContentLocation]) -> None:
        """Read ahead: these contents will be asked for, in this order."""
        self._packs.expect(
            (pack, [(location.offset or 0, location.size, location.hash) for location in group])
            for pack, group in groupby(locations, key=attrgetter("pack"))
            if pack is not None
        )

    def forget(self) -> None:
        """Expect nothing any more: what was not asked for is not kept."""
        self._packs.forget()

    def read(self, location: ContentLocation) -> Bytes:
        """Return the bytes of a content that lies in a pack, or is empty; a view of the pack's, nothing is copied.

        Raises:
            ContentCorruptError, ContentMissingError: It cannot be given back.
        """
        try:
            return self._read(location)
        except CorruptionError:
            # A prune beside this reader may have packed it again, somewhere else.
            moved = self._database.query(
                "SELECT pack, offset FROM contents WHERE id = ? AND hash = ?", (location.id, location.hash)
            )
            if not moved or moved[0] == (location.pack, location.offset):
                raise
            return self._read(location._replace(pack=moved[0][0], offset=moved[0][1]))

    def _read(self, location: ContentLocation) -> Bytes:
        if location.pack is None:
            if location.size:
                raise self._missing(location, "it has neither bytes nor parts")
            return b""
        unpacked = self._packs.pack(location.pack)
        offset = location.offset or 0
        data = memoryview(unpacked.data)[offset : offset + location.size]
        if (offset, location.size, location.hash) in unpacked.verified:
            return data
        if len(data) != location.size:
            raise self._corrupt(location, unpacked.damage or "its pack is too short")
        if hashlib.sha256(data).digest() != location.hash:
            raise self._corrupt(location, unpacked.damage or "its stored bytes do not have its hash")
        unpacked.verified.add((offset, location.size, location.hash))
        return data

    def stream(self, location: ContentLocation) -> Iterator[tuple[int, Optional[Bytes]]]:
        """Yield (offset, bytes) of a content of any size, in order; None in place of bytes is a hole.

        The hash of the whole is compared behind the last piece: do not trust what came before until then.

        Raises:
            ContentCorruptError, ContentMissingError: It cannot be given back.
        """
        if location.pack is not None or location.size == 0:
            yield 0, self.read(location)
            return
        yield from self._hashed(location, joined(self._parts_of(location)))

    def stream_parts(self, location: ContentLocation) -> Iterator[tuple[int, Optional[Bytes]]]:
        """Yield (offset, bytes) of each part of a large content, in order, where they were cut; None is a hole.

        The hash of the whole is compared behind the last one: do not trust what came before until then.

        Raises:
            ContentCorruptError, ContentMissingError: It cannot be given back.
        """
        return self._hashed(location, (part[:3] for part in self._parts_of(location)))

    def _hashed(
        self, location: ContentLocation, pieces: Iterable[tuple[int, Optional[Bytes], int]]
    ) -> Iterator[tuple[int, Optional[Bytes]]]:
        """Pass pieces of a large content on, and compare the hash of all of them with its own."""
        with WholeHash(location.size) as whole:
            for offset, data, length in pieces:
                if data is None:
                    whole.feed_zeros(length)
                else:
                    whole.feed(data)
                yield offset, data
            if whole.digest() != location.hash:
                raise self._corrupt(location, "its parts do not have its hash")

    def _parts_of(self, location: ContentLocation) -> Iterator[Part]:
        """Yield the parts of a large content; each was compared with its own hash, and they are as long as it is."""
        position = 0
        for offset, part in self._parts(location.id):
            if offset != position:
                raise self._corrupt(location, "the list of its parts is damaged")
            if isinstance(part, int):  # a hole, up to here
                position += part
                found = Part(offset, None, part, None)
            else:
                data = self.read(part)
                position += len(data)
                found = Part(offset, data, len(data), part)
            if position > location.size:
                raise self._corrupt(location, "its parts do not have its hash")
            yield found
        if position != location.size:
            raise self._corrupt(location, "its parts do not have its hash")

    def _parts(self, content: int) -> Iterator[tuple[int, ContentLocation | int]]:
        """Yield (offset, location) of each part, or (offset, length) of a hole."""
        size = self._database.value("SELECT size FROM contents WHERE id = ?", (content,))
        after = -1
        hole: Optional[int] = None
        while True:
            rows = self._database.query(
                "SELECT p.offset, p.part, c.hash, c.size, c.pack, c.offset FROM parts AS p "
                "LEFT JOIN contents AS c ON c.id = p.part WHERE p.content = ? AND p.offset > ? "
                "ORDER BY p.offset LIMIT 1000",
                (content, after),
            )
            self.expect(
                ContentLocation(part, digest, part_size, pack, pack_offset)
                for _, part, digest, part_size, pack, pack_offset in rows
                if pack is not None
            )
            for offset, part, digest, part_size, pack, pack_offset in rows:
                if hole is not None:
                    yield hole, offset - hole
                    hole = None
                if part is None:
                    hole = offset
                elif digest is None:
                    raise ContentMissingError(f"part {part} of content {content} is missing", self._database.path)
                elif not (isinstance(digest, bytes) and isinstance(part_size, int) and isinstance(offset, int)):
                    raise ContentCorruptError(
                        f"the row of part {part} of content {content} is damaged", self._database.path
                    )
                elif pack is None:
                    # Parts are not made of parts: a forged file could nest them for ever.
                    raise ContentMissingError(f"part {part} of content {content} has no bytes", self._database.path)
                elif not (isinstance(pack, int) and isinstance(pack_offset, int)):
                    raise ContentCorruptError(
                        f"the row of part {part} of content {content} is damaged", self._database.path
                    )
                else:
                    yield offset, ContentLocation(part, digest, part_size, pack, pack_offset)
            if not rows:
                break
            after = rows[-1][0]
        if hole is not None:
            yield hole, size - hole

    def _corrupt(self, location: ContentLocation, why: str) -> ContentCorruptError:
        name = location.hash.hex()
        return ContentCorruptError(f"content {name[:16]} is damaged: {why}", self._database.path, name)

    def _missing(self, location: ContentLocation, why: str) -> ContentMissingError:
        name = location.hash.hex()
        return ContentMissingError(f"content {name[:16]} is missing: {why}", self._database.path, name)
