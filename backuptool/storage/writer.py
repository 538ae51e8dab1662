"""Storing contents: hash them, keep those that are new, compress them into packs, have these committed.

Owns the pipeline: packs are compressed, and transactions written, in threads without Python's lock, while the caller
goes on reading. How contents are found is contents' business, how packs are committed the committer's.
"""

from __future__ import annotations

import hashlib
import threading
from array import array
from hashlib import sha256
from typing import TYPE_CHECKING, Callable, Optional, Sequence

from ..errors import CorruptionError
from .arriving import Content, LargeContent, WaitingContent
from .bases import Base
from .committer import Committer
from .compression import DEFAULT, SETTINGS, ZSTD_BASE
from .contents import HashFilter, find
from .database import Database
from .filling import Filling, Members
from .packs import CompressedPack, PackCompressor
from .unpacking import StoredPack, read_pack

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["ContentWriter"]

#: Bytes of the smallest block of a large file: a pack that is nearly full leaves little room, and reading little at a
#: time costs more calls.
_LEAST_BLOCK = 512 << 10


class ContentWriter:
    """Stores contents that the repository does not have; a context manager.

    The id of a content is known when its pack was committed: ``ids[ordinal]`` is 0 until then. What is interrupted
    leaves contents that nothing refers to, for the next run to find. One thread adds; others may claim and deliver what
    was read elsewhere.

    Args:
        database: An open repository; a thread writes short transactions into it, until :meth:`flush`.
        clock: Returns ns since 1970 UTC.
        compression: How hard packs are compressed; one of ``compression.SETTINGS``.

    Attributes:
        ids: Id of each content by ordinal.
        new_bytes: Bytes of contents that were new, before compression.
    """

    def __init__(self, database: Database, clock: Callable[[], int], compression: str = DEFAULT) -> None:
        from concurrent.futures import ThreadPoolExecutor  # imported here: listing snapshots needs no threads

        self.ids = array("q")
        self.new_bytes = 0
        self._database = database
        self._lock = threading.RLock()
        self._hasher = ThreadPoolExecutor(1, thread_name_prefix="backuptool-hash")
        self._committer = Committer(database, clock, self.ids, self._note_written)  # before anything is looked up
        self._filter = HashFilter(database)
        self._pending: dict[bytes, int] = {}  # ordinal by hash of what is not committed yet
        self._compressor = PackCompressor(compression)
        self._pack_size = SETTINGS[compression].pack_size
        self._filling = Filling(self._pack_size, self._compressor.buffer(), self.read_base, self._compress)
        self._last_base: Optional[StoredPack] = None
        self._hashing: Optional[Future[object]] = None

    @property
    def stored_bytes(self) -> int:
        """Bytes that new contents take in packs."""
        return self._committer.stored_bytes

    def __enter__(self) -> ContentWriter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._hasher.shutdown(wait=True)
        self._compressor.__exit__(*exc_info)
        self._committer.close()

    def room(self, size: int) -> memoryview:
        """Return where the bytes of the next content may be put, for :meth:`add_from_room`: no copy is made of them.

        Args:
            size: Bytes, at most 1 MiB and one.
        """
        return self._filling.room(size)

    def add_from_room(self, size: int) -> Content:
        """Take a small content or a chunk that was put where :meth:`room` said."""
        # Hashed at once, here: it takes a few µs, and a thread would take longer to be told of it.
        digest = sha256(self._filling.room(size)).digest()
        with self._lock:
            ordinal = self._pending.get(digest)
            if ordinal is not None:
                return Content(size, digest, ordinal)
            stored = self._find(digest)
            ordinal = self._new_ordinal(digest, size, stored)
            if stored is None:
                self._filling.keep(ordinal, digest, size)
        return Content(size, digest, ordinal)

    def add(self, data: bytes | memoryview) -> Content:
        """Take a small content or a chunk.

        Args:
            data: Its bytes, at most 1 MiB.
        """
        size = len(data)
        self._filling.room(size)[:] = data
        return self.add_from_room(size)

    def block(self, largest_chunk: int) -> memoryview:
        """Return where the next bytes of a large file may be put: what fills the pack, and a chunk more.

        Args:
            largest_chunk: The most bytes that one of its chunks has.
        """
        return self._filling.room(self._pack_size - self._filling.filled + max(largest_chunk, _LEAST_BLOCK))

    def hash_along(self, hasher: hashlib._Hash, data: memoryview) -> None:
        """Feed a hasher with a part of a block, in a thread; one part at a time is fed."""
        self.wait_for_hash()
        self._hashing = self._hasher.submit(hasher.update, data)

    def wait_for_hash(self) -> None:
        """Wait until what was last given to :meth:`hash_along` was fed."""
        if self._hashing is not None:
            hashing, self._hashing = self._hashing, None
            hashing.result()

    def add_chunks(self, lengths: Sequence[int]) -> list[Content]:
        """Take chunks that were put where :meth:`block` said, one behind the other.

        Args:
            lengths: Bytes of each.
        """
        buffer = self._filling.buffer
        digests = []
        begin = self._filling.filled
        for length in lengths:
            end = begin + length
            digests.append(sha256(buffer[begin:end]).digest())
            begin = end
        contents, wanted = self.claim(lengths, digests)
        begin = filled = self._filling.filled
        members = []
        for ordinal, digest, length in zip(wanted, digests, lengths):
            if ordinal >= 0:
                if filled < begin:  # behind some that are not wanted
                    self.wait_for_hash()
                    buffer[filled : filled + length] = buffer[begin : begin + length]
                members.append((ordinal, digest, length))
                filled += length
            begin += length
        if filled < begin:
            self.wait_for_hash()  # the next block comes to lie where this one was
        with self._lock:
            self._filling.keep_all(members, filled)
        return contents

    def give_memory_back(self) -> None:
        """Keep nothing that only large files need, while others read the small ones."""
        with self._lock:
            self._filling.finish()
            self._collect(wait_for_all=True)
            self._compressor.give_memory_back()
            self._filling.buffer = self._compressor.buffer()

    def begin_group(self, base: Optional[Base]) -> None:
        """Let the small contents that are added next refer to a base where that pays; None for those without one."""
        with self._lock:
            self._filling.begin_group(base)

    def read_base(self, base: Base) -> Optional[StoredPack]:
        """Return a base as it is stored; None if it cannot be read, or has a base itself by now."""
        with self._lock:
            if self._last_base is None or self._last_base.id != base.id:
                try:
                    self._last_base = read_pack(self._database, base.id)
                except CorruptionError:
                    return None
            return None if self._last_base.codec == ZSTD_BASE else self._last_base

    def claim(self, sizes: Sequence[int], digests: Sequence[bytes]) -> tuple[list[Content], list[int]]:
        """Take contents that someone else has read, and say which of them are wanted.

        Returns:
            The contents, and the ordinals of those whose bytes are to come by :meth:`deliver`; -1 in place of the
            ordinal of one that is not wanted, as it is stored or on its way.
        """
        contents: list[Content] = []
        wanted: list[int] = []
        with self._lock:
            pending = self._pending
            perhaps_stored = self._filter.perhaps_stored
            perhaps = [digest for digest in digests if digest not in pending and perhaps_stored(digest)]
            stored = find(self._database, perhaps) if perhaps else {}
            for size, digest in zip(sizes, digests):
                ordinal = pending.get(digest)
                if ordinal is not None:
                    wanted.append(-1)
                else:
                    content = stored.get(digest)
                    ordinal = self._new_ordinal(digest, size, content)
                    wanted.append(ordinal if content is None else -1)
                contents.append(Content(size, digest, ordinal))
        return contents, wanted

    def deliver(self, pack: CompressedPack) -> None:
        """Take a pack of contents that :meth:`claim` wanted."""
        with self._lock:
            self._committer.add(pack)

    def add_large(self, digest: bytes, size: int, parts: LargeContent) -> Content:
        """Take a content whose parts have all been added.

        Args:
            digest: SHA-256 of all its bytes.
            size: Bytes.
            parts: The parts.
        """
        with self._lock:
            ordinal = self._pending.get(digest)
            if ordinal is not None:
                return Content(size, digest, ordinal)
            stored = self._find(digest)
            ordinal = len(self.ids)
            self.ids.append(stored or 0)
            if stored is None:
                self._pending[digest] = ordinal
                self._committer.add_large(WaitingContent(ordinal, digest, size, parts.layout(), parts))
        return Content(size, digest, ordinal)

    def flush(self) -> None:
        """Compress and commit everything that was added; all ids are known afterwards."""
        with self._lock:
            self._filling.finish()
            self._collect(wait_for_all=True)
            self._committer.finish()

    def _new_ordinal(self, digest: bytes, size: int, stored: Optional[int]) -> int:
        """Return the ordinal of a content that is not on its way; if it is not stored either it is from now on."""
        ordinal = len(self.ids)
        self.ids.append(stored or 0)
        if stored is None:
            self._pending[digest] = ordinal
            self.new_bytes += size
        return ordinal

    def _find(self, digest: bytes) -> Optional[int]:
        """Return the id of a content that is stored."""
        return find(self._database, [digest]).get(digest) if self._filter.perhaps_stored(digest) else None

    def _compress(
        self, members: Members, buffer: memoryview, begin: int, end: int, base: Optional[StoredPack]
    ) -> memoryview:
        """Have a pack compressed, and return the buffer that is to be filled next."""
        if begin:
            copy = self._compressor.buffer()
            copy[: end - begin] = buffer[begin:end]
            self._compressor.submit(members, copy, end - begin, base)
            self._collect()
            return buffer
        self._compressor.submit(members, buffer, end, base)
        self._collect()
        following = self._compressor.buffer()
        if following is buffer:  # it is free again already
            self.wait_for_hash()
        return following

    def _collect(self, *, wait_for_all: bool = False) -> None:
        for pack in self._compressor.finished(wait_for_all=wait_for_all):
            self._committer.add(pack)

    def _note_written(self, packs: Sequence[CompressedPack], digests: Sequence[bytes]) -> None:
        for pack in packs:
            self._compressor.take_back(pack)
        for digest in digests:
            del self._pending[digest]
        self._filter.add(digests)
