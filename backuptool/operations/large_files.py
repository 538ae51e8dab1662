"""Storing a large file: read it into packs, cut it where its content says, hash pieces and whole at once.

Owns the path of its bytes, on which nothing of what is new is copied: they are read to where their pack is filled, cut
and hashed there. What a chunk is, is chunking's; which chunks are new is the writer's to tell.
"""

from __future__ import annotations

import hashlib
from typing import Callable, Iterator, Protocol

from ..storage.arriving import Content, LargeContent
from ..storage.chunking import Chunking, cut
from ..storage.digest import hash_zeros
from ..storage.writer import ContentWriter

__all__ = ["LargeFiles", "Readable"]


class Readable(Protocol):
    """A file as it is read from its beginning to its end: one of a tree, or one in a stream."""

    @property
    def size(self) -> int:
        """Bytes, holes included."""

    def segments(self) -> Iterator[tuple[int, int]]:
        """Yield (begin, end) of the data between the holes; what is read next begins there."""

    def read_into(self, room: memoryview) -> int:
        """Read on, as much as there is room for; fewer bytes mean that there are no more."""


class LargeFiles:
    """Stores large files; memory does not depend on their size.

    Args:
        writer: Where their bytes go.
        chunking: How they are cut.
        on_read: Called after each block, of some MiB, that was read.

    Attributes:
        read_bytes: Bytes read so far.
    """

    def __init__(self, writer: ContentWriter, chunking: Chunking, on_read: Callable[[], None]) -> None:
        self.read_bytes = 0
        self._writer = writer
        self._chunking = chunking
        self._on_read = on_read

    def store(self, file: Readable) -> Content:
        """Store a file from its beginning; holes are neither read nor stored.

        The content is what was read: shorter than the file was if it is cut short meanwhile.
        """
        size = file.size
        parts = LargeContent()
        whole = hashlib.sha256()
        position = 0
        for begin, end in file.segments():
            self._skip_hole(parts, whole, position, begin)
            position = self._store_segment(file, begin, end, parts, whole)
            if position < end:  # it was cut short meanwhile
                size = position
                break
        self._skip_hole(parts, whole, position, size)
        self._writer.wait_for_hash()
        return self._writer.add_large(whole.digest(), size, parts)

    def _skip_hole(self, parts: LargeContent, whole: hashlib._Hash, begin: int, end: int) -> None:
        if begin < end:
            parts.append(begin, None)
            self._writer.wait_for_hash()
            hash_zeros(whole, end - begin)

    def _store_segment(self, file: Readable, begin: int, end: int, parts: LargeContent, whole: hashlib._Hash) -> int:
        """Store the data between two holes; returns where it ended."""
        writer = self._writer
        chunker = self._chunking.for_size(file.size)
        largest_chunk = self._chunking.largest_chunk(file.size)
        position = stored = begin
        rest = b""  # what follows the last cut
        while True:
            block = writer.block(largest_chunk)
            kept = len(rest)
            wanted = min(len(block) - kept, end - position)
            block[:kept] = rest
            read = file.read_into(block[kept : kept + wanted])
            position += read
            self.read_bytes += read
            writer.hash_along(whole, block[kept : kept + read])
            final = read < wanted or position == end
            lengths = cut(chunker, block[: kept + read], final=final)
            rest = bytes(block[sum(lengths) : kept + read])
            stored = parts.extend(stored, writer.add_chunks(lengths))
            self._on_read()
            if final:
                return stored
