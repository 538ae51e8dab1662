"""Contents opened like files: read from anywhere, each piece compared with its hash before it is given out.

Owns where in a content which part lies, and the cache that all open contents share. How packs are read is left to
packs, how contents are verified to contents.
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
from array import array
from bisect import bisect_right
from typing import Any, Optional

from ..errors import ContentCorruptError, ContentMissingError, CorruptionError
from .contents import ContentLocation
from .database import Database
from .digest import layout_entry
from .files import CatalogFile
from .pieces import Bytes
from .reader import ContentReader

__all__ = ["ContentFile", "SharedReader", "opened"]

#: Rows of parts read at a time.
_PAGE = 4096

#: Bytes that are asked for at a time where a program reads byte by byte; a chunk has 32 KiB on average.
_BUFFER = 64 << 10


class SharedReader:
    """Reads contents for any number of open files and threads, from one bounded cache of packs.

    Args:
        database: Where they are; it is asked from several threads.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._guard = threading.Lock()
        self._reader = ContentReader(database)

    def read(self, location: ContentLocation) -> Bytes:
        """Return the bytes of a content that lies in a pack.

        Raises:
            ContentCorruptError, ContentMissingError: It cannot be given back.
        """
        with self._guard:
            try:
                return self._reader.read(location)
            except CorruptionError:
                # After a prune another pack may have the number of one in the cache: it is read once more.
                self._reader = ContentReader(self.database)
                return self._reader.read(location)

    def forget(self) -> None:
        """Keep no packs."""
        with self._guard:
            self._reader = ContentReader(self.database)


class ContentFile(io.RawIOBase):
    """A content as a file for reading. Not for several threads at once, as no file is.

    Args:
        reader: What reads the bytes.
        location: The content.
        name: What the file is called.

    Attributes:
        name: What the file is called.

    Raises:
        ContentCorruptError, ContentMissingError: The list of its parts is damaged.
    """

    def __init__(self, reader: SharedReader, location: ContentLocation, name: str) -> None:
        super().__init__()
        self.name = name
        self._reader = reader
        self._location = location
        self._position = 0
        self._piece: Bytes = b""
        self._begin = 0
        whole = location.pack is not None or not location.size
        self._index = None if whole else _Index(reader.database, location)

    @property
    def mode(self) -> str:
        """``"rb"``, as of every file opened so."""
        return "rb"

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        self._require_open()
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to another position, also behind the end; nothing is read."""
        self._require_open()
        if whence not in (io.SEEK_SET, io.SEEK_CUR, io.SEEK_END):
            raise ValueError(f"whence must be 0, 1 or 2, not {whence!r}")
        position = offset + (0, self._position, self._location.size)[whence]
        if position < 0:
            raise ValueError(f"there is nothing before the beginning: {position}")
        self._position = position
        return position

    def readinto(self, buffer: Any) -> int:
        """Read up to the end of the present part, and return how many bytes that were; 0 at the end."""
        self._require_open()
        room = memoryview(buffer).cast("B")
        if self._position >= self._location.size or not room:
            return 0
        if not self._begin <= self._position < self._begin + len(self._piece):
            length = self._turn_to(self._position)
            if length:  # a hole
                length = min(length, len(room))
                room[:length] = bytes(length)
                self._position += length
                return length
        offset = self._position - self._begin
        data = self._piece[offset : offset + len(room)]
        room[: len(data)] = data
        self._position += len(data)
        return len(data)

    def readall(self) -> bytes:
        """Return everything up to the end."""
        self._require_open()
        data = bytearray(max(0, self._location.size - self._position))
        view = memoryview(data)
        while view:
            view = view[self.readinto(view) :]
        return bytes(data)

    def close(self) -> None:
        """Let go of what was read."""
        self._piece = b""
        super().close()

    def _turn_to(self, position: int) -> int:
        """Read the part at a position; if it is a hole, return how far it goes from there, else 0."""
        if self._index is None:
            self._piece, self._begin = self._reader.read(self._location), 0
            return 0
        begin, end, part = self._index.at(position)
        if part is None:
            return end - position
        self._piece, self._begin = self._reader.read(self._index.location(part, end - begin)), begin
        return 0

    def _require_open(self) -> None:
        if self.closed:
            raise ValueError("the file is closed")


def opened(reader: SharedReader, file: CatalogFile) -> io.BufferedReader:
    """Return a regular file of a snapshot as a binary file.

    Raises:
        ContentMissingError: Its content is not in the repository.
        ContentCorruptError: The list of its parts is damaged.
    """
    version, content = file
    name = os.fsdecode(version.path)
    if content is None or content.size != version.size:
        digest = "" if version.hash is None else version.hash.hex()
        path = reader.database.path
        raise ContentMissingError(f"the content of {name} is not in the repository; run check", path, digest)
    return io.BufferedReader(ContentFile(reader, content, name), _BUFFER)


class _Index:
    """Where the parts of a large content lie: 16 bytes for each, compared with the digest of their list.

    About 2 µs a part, of which a GiB has 32,000.
    """

    def __init__(self, database: Database, location: ContentLocation) -> None:
        self._database = database
        self._whole = location
        self._offsets = array("q")
        self._parts = array("q")  # -1 is a hole
        hasher = hashlib.sha256()
        last = -1
        expected: Optional[int] = 0  # where the next part must begin; behind a hole that may be anywhere
        for offset, part, digest, size in self._rows(location.id):
            if not isinstance(offset, int) or (offset <= last if expected is None else offset != expected):
                raise self._corrupt()
            if part is not None and not (isinstance(digest, bytes) and len(digest) == 32 and isinstance(size, int)):
                raise ContentMissingError(
                    f"part {part} of content {location.hash.hex()[:16]} is missing", database.path, location.hash.hex()
                )
            hasher.update(layout_entry(offset, digest))
            self._offsets.append(offset)
            self._parts.append(-1 if part is None else part)
            expected = None if part is None else offset + size
            last = offset
        layout = database.value("SELECT layout FROM contents WHERE id = ? AND hash = ?", (location.id, location.hash))
        if expected not in (None, location.size) or last >= location.size or layout != hasher.digest():
            raise self._corrupt()

    def _rows(self, content: int) -> Any:
        after = -1
        while True:
            rows = self._database.query(
                "SELECT p.offset, p.part, c.hash, c.size FROM parts AS p LEFT JOIN contents AS c ON c.id = p.part "
                "WHERE p.content = ? AND p.offset > ? ORDER BY p.offset LIMIT ?",
                (content, after, _PAGE),
            )
            yield from rows
            if len(rows) < _PAGE:
                return
            after = rows[-1][0]

    def at(self, position: int) -> tuple[int, int, Optional[int]]:
        """Return (begin, end, number) of the part at a position; the number of a hole is None."""
        index = bisect_right(self._offsets, position) - 1
        end = self._offsets[index + 1] if index + 1 < len(self._offsets) else self._whole.size
        part = self._parts[index]
        return self._offsets[index], end, None if part < 0 else part

    def location(self, part: int, size: int) -> ContentLocation:
        """Return where a part of that size is now."""
        rows = self._database.query("SELECT hash, size, pack, offset FROM contents WHERE id = ?", (part,))
        # Parts are not made of parts: a forged file could nest them for ever.
        if not rows or rows[0][1] != size or not isinstance(rows[0][2], int):
            raise self._corrupt()
        return ContentLocation(part, *rows[0])

    def _corrupt(self) -> ContentCorruptError:
        name = self._whole.hash.hex()
        return ContentCorruptError(
            f"content {name[:16]} is damaged: the list of its parts is not as it was written",
            self._database.path,
            name,
        )
