"""Reading contents back: every byte that is given out was compared with a hash.

Owns how the parts of a large content are found and put together. How packs are read is left to packs.
"""

from __future__ import annotations

import hashlib
from itertools import groupby
from operator import attrgetter
from typing import Any, Iterable, Iterator, Optional, Sequence

from ..errors import ContentCorruptError, ContentMissingError, CorruptionError
from .contents import ContentLocation
from .database import Database
from .packs import PackReader
from .pieces import Bytes, Part, WholeHash, joined

__all__ = ["ContentReader"]


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
            rows = self._some_parts(content, after, size)
            self.expect(
                ContentLocation(part, digest, part_size, pack, pack_offset)
                for _, part, digest, part_size, pack, pack_offset in rows
                if pack is not None
            )
            for offset, part, digest, part_size, pack, pack_offset in rows:
                if not isinstance(offset, int):
                    raise ContentCorruptError(f"the list of parts of content {content} is damaged", self._database.path)
                if hole is not None:
                    yield hole, offset - hole
                    hole = None
                if part is None:
                    hole = offset
                elif digest is None:
                    raise ContentMissingError(f"part {part} of content {content} is missing", self._database.path)
                elif not (isinstance(digest, bytes) and isinstance(part_size, int)):
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
            if not isinstance(size, int):
                raise ContentCorruptError(f"the row of content {content} is damaged", self._database.path)
            yield hole, size - hole

    def _some_parts(self, content: int, after: int, size: object) -> Sequence[Any]:
        """Return the rows of the next parts behind an offset, none if a content of that size ends there."""
        sql = (
            "SELECT p.offset, p.part, c.hash, c.size, c.pack, c.offset FROM parts AS p "
            "LEFT JOIN contents AS c ON c.id = p.part WHERE p.content = ? AND p.offset > ? ORDER BY p.offset LIMIT ?"
        )
        try:
            return self._database.query(sql, (content, after, 1000))
        except CorruptionError:
            # What is behind the last part, or behind some more of them, is none of this content's business.
            last = self._database.query(
                "SELECT p.offset, c.size FROM parts AS p LEFT JOIN contents AS c ON c.id = p.part "
                "WHERE p.content = ? AND p.offset = ?",
                (content, after),
            )
            if last and isinstance(last[0][1], int) and last[0][0] + last[0][1] == size:
                return ()
            return self._database.query(sql, (content, after, 1))

    def _corrupt(self, location: ContentLocation, why: str) -> ContentCorruptError:
        name = location.hash.hex()
        return ContentCorruptError(f"content {name[:16]} is damaged: {why}", self._database.path, name)

    def _missing(self, location: ContentLocation, why: str) -> ContentMissingError:
        name = location.hash.hex()
        return ContentMissingError(f"content {name[:16]} is missing: {why}", self._database.path, name)
