"""Saving the bytes of one file: read it and hand it to the writer.

Owns what is done with a file that changes while it is read. Which files are saved is the snapshot's decision, how a
large one is read is large_files'.
"""

from __future__ import annotations

from typing import Callable, NamedTuple, Optional, Protocol

from ..storage.chunking import LARGE_FILE
from ..storage.writer import Content
from ..tree.metadata import Status, read_xattrs
from ..tree.source import OpenFile, Source

__all__ = ["FileSaver", "SavedFile", "Taker"]


class SavedFile(NamedTuple):
    """What became of a file's bytes."""

    status: Status
    content: Content
    sparse: int
    xattrs: Optional[bytes]


class Taker(Protocol):
    """Takes small contents: the writer, or what passes them on to it; see ``ContentWriter``."""

    def room(self, size: int) -> memoryview:
        """Return where the bytes of the next content may be put."""

    def add_from_room(self, size: int) -> Content:
        """Take what was put there."""

    def add(self, data: bytes | memoryview) -> Content:
        """Take a small content or a chunk."""


class FileSaver:
    """Reads files of a source for a writer.

    Args:
        source: Where they are.
        writer: Where the bytes of small ones go.
        store_large: Stores a file above ``LARGE_FILE`` bytes that was opened.
        on_problem: Called with kind, path and message of a file that changed while it was read.

    Attributes:
        read_bytes: Bytes of small files read so far.
    """

    def __init__(
        self,
        source: Source,
        writer: Taker,
        store_large: Callable[[OpenFile], Content],
        on_problem: Callable[[str, bytes, str], None],
    ) -> None:
        self.read_bytes = 0
        self._source = source
        self._writer = writer
        self._store_large = store_large
        self._problem = on_problem

    def save(self, path: bytes, status: Status) -> SavedFile:
        """Store a file's bytes; one that changes meanwhile is read again, and then taken as it is, with a problem."""
        size = status.st_size
        if size <= LARGE_FILE:
            found = self._source.read_small(path, status, self._writer.room(size + 1))
            if found is not None:
                self.read_bytes += size
                return SavedFile(status, self._writer.add_from_room(size), 0, found or None)
        with self._source.open_file(path, status) as file:
            sparse = file.is_sparse()
            content = self._store(file)
            if not file.unchanged(content.size):
                file.rewind()
                content = self._store(file)
                if not file.unchanged(content.size):
                    self._problem(
                        "changed-while-read", path, "changed while it was read; what was read is saved, perhaps mixed"
                    )
            xattrs = read_xattrs(file.descriptor)
            return SavedFile(Status.of(file.status), content, int(sparse), xattrs)

    def _store(self, file: OpenFile) -> Content:
        return self._store_large(file) if file.status.st_size > LARGE_FILE else self._store_small(file)

    def _store_small(self, file: OpenFile) -> Content:
        data = file.read_all(LARGE_FILE)
        self.read_bytes += len(data)
        return self._writer.add(data)
