"""Contents: bytes known by their SHA-256 and stored once. Looking up, adding, and reading them back verified.

Owns the rows of ``contents`` and ``parts``. How many rows refer to a content is settled when a snapshot is committed
(catalog) or removed (prune).
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from typing import Callable, Iterable, Iterator, Mapping, Optional, Sequence

import attrs

from ..errors import ContentCorruptError, ContentMissingError, CorruptionError
from .database import Database
from .digest import hash_zeros
from .packs import PACK_SIZE, CompressedPack, PackCompressor, PackReader

__all__ = ["ContentLocation", "ContentReader", "ContentWriter", "ContentsVanishedError", "LargeContent", "reference"]

#: Hashes looked up in one statement. One by one a miss costs 10 µs; older SQLite allows 999 parameters.
_LOOKUP = 500

#: Bytes of candidates gathered before they are looked up.
_CANDIDATE_BYTES = 1 << 20

#: Bytes of compressed packs written in one transaction: few enough to hold in memory and to let readers in between,
#: many enough that syncing is a small part.
_COMMIT_BYTES = 24 << 20


class ContentsVanishedError(Exception):
    """A prune beside a snapshot has removed contents that the snapshot found; it must look again."""


@attrs.define(eq=False)
class LargeContent:
    """A content that consists of parts, while it is being read.

    Attributes:
        offsets: Where each part begins, ascending.
        parts: Ordinal of each part, -1 for a hole.
    """

    offsets: array[int] = attrs.Factory(lambda: array("q"))
    parts: array[int] = attrs.Factory(lambda: array("q"))

    def append(self, offset: int, part: int) -> None:
        """Add a part behind the others."""
        self.offsets.append(offset)
        self.parts.append(part)


class ContentWriter:
    """Stores contents that the repository does not have; a context manager.

    Each content given gets an ordinal at once. Its id is known when its pack was committed; ``ids[ordinal]`` is 0
    until then. What is interrupted leaves contents that nothing refers to, for the next run to find.

    Args:
        database: An open repository; used for short transactions only.
        clock: Returns ns since 1970 UTC.

    Attributes:
        ids: Id of each content by ordinal.
        new_bytes: Bytes of contents that were new, before compression.
        stored_bytes: Bytes they take in packs.
    """

    def __init__(self, database: Database, clock: Callable[[], int]) -> None:
        self.ids = array("q")
        self.new_bytes = 0
        self.stored_bytes = 0
        self._database = database
        self._clock = clock
        self._alone_at = database.data_version()
        self._pending: dict[bytes, int] = {}  # ordinal by hash of what is not committed yet
        self._candidates: list[tuple[bytes, int, bytes]] = []
        self._candidate_bytes = 0
        self._members: list[tuple[int, bytes, int]] = []
        self._pieces: list[bytes] = []
        self._piece_bytes = 0
        self._compressor = PackCompressor()
        self._ready: list[CompressedPack] = []
        self._ready_bytes = 0
        self._large: list[tuple[int, bytes, int, bytes, LargeContent]] = []

    def __enter__(self) -> ContentWriter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._compressor.__exit__(*exc_info)

    def add(self, data: bytes, digest: bytes) -> int:
        """Take a small content or a chunk and return its ordinal.

        Args:
            data: Its bytes, at most a few MiB.
            digest: Their SHA-256, 32 bytes.
        """
        ordinal = self._pending.get(digest)
        if ordinal is not None:
            return ordinal
        ordinal = self._ordinal(digest)
        self._candidates.append((digest, ordinal, data))
        self._candidate_bytes += len(data)
        if self._candidate_bytes >= _CANDIDATE_BYTES or len(self._candidates) >= _LOOKUP:
            self._settle()
        return ordinal

    def add_large(self, digest: bytes, size: int, layout: bytes, content: LargeContent) -> int:
        """Take a content whose parts have all been added, and return its ordinal.

        Args:
            digest: SHA-256 of all its bytes.
            size: Bytes.
            layout: Digest of the list of its parts.
            content: The parts.
        """
        ordinal = self._pending.get(digest)
        if ordinal is not None:
            return ordinal
        ordinal = self._ordinal(digest)
        known = find(self._database, [digest])
        if known:
            self._resolve(digest, ordinal, known[digest])
        else:
            self._large.append((ordinal, digest, size, layout, content))
        return ordinal

    def flush(self) -> None:
        """Compress and commit everything that was added; all ids are known afterwards."""
        self._settle()
        self._seal()
        self._collect(wait_for_all=True)
        self._commit()

    def _ordinal(self, digest: bytes) -> int:
        ordinal = len(self.ids)
        self.ids.append(0)
        self._pending[digest] = ordinal
        return ordinal

    def _resolve(self, digest: bytes, ordinal: int, content: int) -> None:
        self.ids[ordinal] = content
        del self._pending[digest]

    def _settle(self) -> None:
        """Look up the candidates, and pack those that are new."""
        candidates, self._candidates, self._candidate_bytes = self._candidates, [], 0
        known = find(self._database, [digest for digest, _, _ in candidates])
        for digest, ordinal, data in candidates:
            content = known.get(digest)
            if content is not None:
                self._resolve(digest, ordinal, content)
                continue
            size = len(data)
            self._members.append((ordinal, digest, size))
            self._pieces.append(data)
            self._piece_bytes += size
            self.new_bytes += size
            if self._piece_bytes >= PACK_SIZE:
                self._seal()
        self._collect()

    def _seal(self) -> None:
        if self._members:
            self._compressor.submit(self._members, self._pieces, self._piece_bytes)
            self._members, self._pieces, self._piece_bytes = [], [], 0

    def _collect(self, *, wait_for_all: bool = False) -> None:
        for pack in self._compressor.finished(wait_for_all=wait_for_all):
            self._ready.append(pack)
            self._ready_bytes += len(pack.data)
            if self._ready_bytes >= _COMMIT_BYTES:
                self._commit()

    def _commit(self) -> None:
        """Write the finished packs, their contents, and the large contents that are complete by that."""
        if not self._ready and not self._large:
            return
        packs, self._ready, self._ready_bytes = self._ready, [], 0
        database = self._database
        with database.transaction():
            known: Mapping[bytes, int] = {}
            # Another process may have written the same contents since they were looked up; it is seen here, under
            # the write lock, that none has.
            alone = database.data_version() == self._alone_at
            if not alone:
                known = find(database, [digest for pack in packs for _, digest, _ in pack.members])
            resolved = self._insert_packs(packs, known)
            self._insert_large(resolved, alone)
        for digest in resolved:
            del self._pending[digest]
        self.stored_bytes += sum(len(pack.data) for pack in packs)

    def _insert_packs(self, packs: Sequence[CompressedPack], known: Mapping[bytes, int]) -> list[bytes]:
        database = self._database
        pack_id = (database.value("SELECT max(id) FROM packs") or 0) + 1
        content_id = next_content_id(database)
        now = self._clock()
        resolved: list[bytes] = []
        for pack in packs:
            rows: list[tuple[int, bytes, int, Optional[int], Optional[int]]] = []
            offset = live = 0
            for ordinal, digest, size in pack.members:
                content = known.get(digest)
                if content is None:
                    content = content_id
                    content_id += 1
                    live += size
                    rows.append((content, digest, size, *((pack_id, offset) if size else (None, None))))
                self.ids[ordinal] = content
                resolved.append(digest)
                offset += size
            if live:
                database.execute(
                    "INSERT INTO packs (id, size, live, written_ns, codec, data) VALUES (?, ?, ?, ?, ?, ?)",
                    (pack_id, pack.size, live, now, pack.codec, pack.data),
                )
                pack_id += 1
            database.executemany(
                "INSERT INTO contents (id, hash, size, pack, offset, refs, since) VALUES (?, ?, ?, ?, ?, 0, 0)", rows
            )
        return resolved

    def _insert_large(self, resolved: list[bytes], alone: bool) -> None:
        """Insert the large contents whose parts have ids; the others wait for the next commit."""
        database = self._database
        waiting = []
        for large in self._large:
            ordinal, digest, size, layout, content = large
            if any(part >= 0 and self.ids[part] == 0 for part in content.parts):
                waiting.append(large)
                continue
            row_id = None if alone else find(database, [digest]).get(digest)
            if row_id is None:
                row_id = self._insert_parts(digest, size, layout, content)
            self.ids[ordinal] = row_id
            resolved.append(digest)
        self._large = waiting

    def _insert_parts(self, digest: bytes, size: int, layout: bytes, content: LargeContent) -> int:
        database = self._database
        row_id = next_content_id(database)
        database.execute(
            "INSERT INTO contents (id, hash, size, refs, since, layout) VALUES (?, ?, ?, 0, 0, ?)",
            (row_id, digest, size, layout),
        )
        refs = Counter(self.ids[part] for part in content.parts if part >= 0)
        if add_refs(database, refs) != len(refs):
            raise ContentsVanishedError
        database.executemany(
            "INSERT INTO parts (content, offset, part) VALUES (?, ?, ?)",
            (
                (row_id, offset, self.ids[part] if part >= 0 else None)
                for offset, part in zip(content.offsets, content.parts)
            ),
        )
        return row_id


def next_content_id(database: Database) -> int:
    """Return the lowest id that no content has or ever had; the write lock must be held."""
    return int(database.value("SELECT seq FROM sqlite_sequence WHERE name = 'contents'") or 0) + 1


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


def reference(database: Database, snapshot: int, ids: Sequence[int], counts: Sequence[int]) -> tuple[int, int]:
    """Count the references of a snapshot's new file versions, and let it have brought what no other has.

    Args:
        snapshot: Its number.
        ids: Id of each content by ordinal.
        counts: Number of new references to each, by ordinal.

    Returns:
        How many of the contents with references there were, and the bytes that the snapshot brought: its distinct
        size. A large content brings its parts, and the bytes are counted there.
    """
    found = brought = 0
    for first, last, number in _runs((ids[ordinal], count) for ordinal, count in enumerate(counts) if count):
        span = (first, last)
        fresh = "id BETWEEN ? AND ? AND since = 0"
        brought += database.value(f"SELECT coalesce(sum(size), 0) FROM contents WHERE {fresh} AND layout IS NULL", span)
        large = database.query(f"SELECT id FROM contents WHERE {fresh} AND layout IS NOT NULL", span)
        found += database.execute(
            "UPDATE contents SET refs = refs + ?, since = CASE since WHEN 0 THEN ? ELSE since END "
            "WHERE id BETWEEN ? AND ?",
            (number, snapshot, *span),
        )
        for content in large:
            parts = "since = 0 AND id IN (SELECT part FROM parts WHERE content = ?)"
            brought += database.value(f"SELECT coalesce(sum(size), 0) FROM contents WHERE {parts}", content)
            database.execute(f"UPDATE contents SET since = ? WHERE {parts}", (snapshot, *content))
    return found, brought


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


@attrs.frozen
class ContentLocation:
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
    """Reads contents back; every byte it gives out was compared with a hash.

    Args:
        database: Where they are.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._packs = PackReader(database)

    def read(self, location: ContentLocation) -> bytes:
        """Return the bytes of a content that lies in a pack, or is empty.

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
            return self._read(attrs.evolve(location, pack=moved[0][0], offset=moved[0][1]))

    def _read(self, location: ContentLocation) -> bytes:
        data = self._slice(location)
        if hashlib.sha256(data).digest() != location.hash:
            raise self._corrupt(location, "its stored bytes do not have its hash")
        return data

    def stream(self, location: ContentLocation) -> Iterator[tuple[int, Optional[bytes]]]:
        """Yield (offset, bytes) of a content of any size, in order; None in place of bytes is a hole.

        The hash of the whole is compared behind the last piece: do not trust what came before until then.

        Raises:
            ContentCorruptError, ContentMissingError: It cannot be given back.
        """
        if location.pack is not None or location.size == 0:
            yield 0, self.read(location)
            return
        hasher = hashlib.sha256()
        position = 0
        for offset, part in self._parts(location.id):
            if offset != position:
                raise self._corrupt(location, "the list of its parts is damaged")
            if isinstance(part, int):  # a hole, up to here
                yield offset, None
                hash_zeros(hasher, part)
                position += part
            else:
                data = self.read(part)
                hasher.update(data)
                yield offset, data
                position += len(data)
            if position > location.size:
                break
        if position != location.size or hasher.digest() != location.hash:
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
            for offset, part, digest, part_size, pack, pack_offset in rows:
                if hole is not None:
                    yield hole, offset - hole
                    hole = None
                if part is None:
                    hole = offset
                elif digest is None:
                    raise ContentMissingError(f"part {part} of content {content} is missing", self._database.path)
                elif pack is None:
                    # Parts are not made of parts: a forged file could nest them for ever.
                    raise ContentMissingError(f"part {part} of content {content} has no bytes", self._database.path)
                else:
                    yield offset, ContentLocation(part, digest, part_size, pack, pack_offset)
            if not rows:
                break
            after = rows[-1][0]
        if hole is not None:
            yield hole, size - hole

    def _slice(self, location: ContentLocation) -> bytes:
        if location.pack is None:
            if location.size:
                raise self._missing(location, "it has neither bytes nor parts")
            return b""
        unpacked = self._packs.pack(location.pack)
        offset = location.offset or 0
        data = unpacked.data[offset : offset + location.size]
        if len(data) != location.size:
            raise self._corrupt(location, unpacked.damage or "its pack is too short")
        return data

    def _corrupt(self, location: ContentLocation, why: str) -> ContentCorruptError:
        name = location.hash.hex()
        return ContentCorruptError(f"content {name[:16]} is damaged: {why}", self._database.path, name)

    def _missing(self, location: ContentLocation, why: str) -> ContentMissingError:
        name = location.hash.hex()
        return ContentMissingError(f"content {name[:16]} is missing: {why}", self._database.path, name)
