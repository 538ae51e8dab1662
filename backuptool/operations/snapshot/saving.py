"""Saving the bytes of one file: read it and hand it to the writer.

Owns what is done with a file that changes while it is read. Which files are saved is the snapshot's decision, how a
large one is read is large_files'.
"""

from __future__ import annotations

import os
from typing import Callable, NamedTuple, Optional, Protocol

from ...storage.arriving import Content
from ...storage.chunking import LARGE_FILE
from ...storage.sqlite_files import MAGIC
from ...tree.metadata import Status, read_xattrs
from ...tree.open_file import OpenFile
from ...tree.source import Source

__all__ = ["DatabaseFoundError", "FileSaver", "SavedFile", "Taker"]


class DatabaseFoundError(Exception):
    """A file is an SQLite database: reading it byte by byte may mix states of it."""


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
        capturing: True if databases are left to who captures them.

    Attributes:
        read_bytes: Bytes of small files read so far.
    """

    def __init__(
        self,
        source: Source,
        writer: Taker,
        store_large: Callable[[OpenFile], Content],
        on_problem: Callable[[str, bytes, str], None],
        capturing: bool = False,
    ) -> None:
        self.read_bytes = 0
        self._capturing = capturing
        self._source = source
        self._writer = writer
        self._store_large = store_large
        self._problem = on_problem

    def save(self, path: bytes, status: Status) -> SavedFile:
        """Store a file's bytes; one that changes meanwhile is read again, and then taken as it is, with a problem.

        Raises:
            DatabaseFoundError: It is to be captured.
            OSError, FileChangedError: It cannot be read.
        """
        size = status.st_size
        if size <= LARGE_FILE:
            room = self._writer.room(size + 1)
            found = self._source.read_small(path, status, room)
            if found is not None:
                if self._capturing and room[: len(MAGIC)] == MAGIC and size >= len(MAGIC):
                    raise DatabaseFoundError
                self.read_bytes += size
                return SavedFile(status, self._writer.add_from_room(size), 0, found or None)
        with self._source.open_file(path, status) as file:
            if self._capturing and file.begins_with(MAGIC):
                raise DatabaseFoundError
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

    def save_image(self, descriptor: int) -> Content:
        """Store the bytes of a file that was made to be stored, and close it."""
        with OpenFile(descriptor, os.fstat(descriptor)) as file:
            file.rewind()
            return self._store(file)

    def _store(self, file: OpenFile) -> Content:
        return self._store_large(file) if file.status.st_size > LARGE_FILE else self._store_small(file)

    def _store_small(self, file: OpenFile) -> Content:
        data = file.read_all(LARGE_FILE)
        self.read_bytes += len(data)
        return self._writer.add(data)
