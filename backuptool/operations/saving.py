"""Saving the bytes of one file: read it, cut it if it is large, hand the pieces to the writer.

Owns what is done with a file that changes while it is read. Which files are saved is the snapshot's decision.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Callable, NamedTuple, Optional, Protocol

from ..storage.chunking import LARGE_FILE, Chunking, cut
from ..storage.digest import hash_zeros
from ..storage.writer import Content, LargeContent
from ..tree.metadata import Status, read_xattrs
from ..tree.source import OpenFile, Source

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["FileSaver", "SavedFile", "Taker"]


class SavedFile(NamedTuple):
    """What became of a file's bytes."""

    status: Status
    content: Content
    sparse: int
    xattrs: Optional[bytes]


class Taker(Protocol):
    """Takes contents: the writer, or what passes them on to it; see ``ContentWriter``."""

    def room(self, size: int) -> memoryview:
        """Return where the bytes of the next content may be put."""

    def add_from_room(self, size: int) -> Content:
        """Take what was put there."""

    def add(self, data: bytes | memoryview) -> Content:
        """Take a small content or a chunk."""

    def add_large(self, digest: bytes, size: int, parts: LargeContent) -> Content:
        """Take a content whose parts have all been taken."""

    def hash_along(self, hasher: hashlib._Hash, data: bytes, before: Optional[Future[None]]) -> Optional[Future[None]]:
        """Feed a hasher; returns what to wait for."""


class FileSaver:
    """Reads files of a source for a writer.

    Args:
        source: Where they are.
        writer: Where their bytes go.
        chunking: How large ones are cut.
        on_problem: Called with kind, path and message of a file that changed while it was read.
        on_read: Called from time to time while a large file is read.

    Attributes:
        read_bytes: Bytes read so far.
    """

    def __init__(
        self,
        source: Source,
        writer: Taker,
        chunking: Chunking,
        on_problem: Callable[[str, bytes, str], None],
        on_read: Callable[[], None],
    ) -> None:
        self.read_bytes = 0
        self._source = source
        self._writer = writer
        self._chunking = chunking
        self._problem = on_problem
        self._on_read = on_read

    def save(self, path: bytes, status: Status) -> SavedFile:
        """Store a file's bytes; one that changes meanwhile is read again, and then taken as it is, with a problem."""
        size = status.st_size
        if size <= LARGE_FILE:
            found = self._source.read_small(path, status, self._writer.room(size + 1))
            if found is not None:
                self.read_bytes += size
                return SavedFile(status, self._writer.add_from_room(size), 0, found or None)
        with self._source.open_file(path, status) as file:
            store = self._store_large if file.status.st_size > LARGE_FILE else self._store_small
            sparse = file.is_sparse()
            content = store(file)
            if not file.unchanged(content.size):
                file.rewind()
                store = self._store_large if file.status.st_size > LARGE_FILE else self._store_small
                content = store(file)
                if not file.unchanged(content.size):
                    self._problem(
                        "changed-while-read", path, "changed while it was read; what was read is saved, perhaps mixed"
                    )
            xattrs = read_xattrs(file.descriptor)
            return SavedFile(Status.of(file.status), content, int(sparse), xattrs)

    def _store_small(self, file: OpenFile) -> Content:
        data = file.read_all(LARGE_FILE)
        self.read_bytes += len(data)
        return self._writer.add(data)

    def _store_large(self, file: OpenFile) -> Content:
        """Cut a file into chunks and store them; holes are neither read nor stored."""
        size = file.status.st_size
        chunker = self._chunking.for_size(size)
        parts = LargeContent()
        whole = _WholeHash(self._writer)
        position = 0
        for begin, end in file.segments():
            if begin > position:
                parts.append(position, None)
                whole.feed_zeros(begin - position)
                position = begin
            for chunk in cut(chunker, self._limited_reader(file, end - begin, whole)):
                parts.append(position, self._writer.add(chunk))
                position += len(chunk)
            if position < end:  # it was cut short meanwhile
                size = position
                break
        if position < size:
            parts.append(position, None)
            whole.feed_zeros(size - position)
        return self._writer.add_large(whole.digest(), size, parts)

    def _limited_reader(self, file: OpenFile, limit: int, whole: _WholeHash) -> Callable[[int], bytes]:
        """Return a function that reads on up to a limit, and feeds what it reads to a hasher."""
        left = limit

        def read(wanted: int) -> bytes:
            nonlocal left
            data = os.read(file.descriptor, min(wanted, left))
            left -= len(data)
            whole.feed(data)
            self.read_bytes += len(data)
            self._on_read()
            return data

        return read


class _WholeHash:
    """The hash of a large file, computed in a thread beside reading and cutting it."""

    def __init__(self, writer: Taker) -> None:
        self._writer = writer
        self._hasher = hashlib.sha256()
        self._last: Optional[Future[None]] = None

    def feed(self, data: bytes) -> None:
        self._last = self._writer.hash_along(self._hasher, data, self._last)

    def feed_zeros(self, length: int) -> None:
        self.digest()
        hash_zeros(self._hasher, length)

    def digest(self) -> bytes:
        if self._last is not None:
            self._last.result()
        return self._hasher.digest()
