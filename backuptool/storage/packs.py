"""Packs: many contents compressed together, written as one BLOB and read back as one.

Owns the rows of ``packs`` and the cache of decompressed ones. Which content lies where is contents' business.
"""

from __future__ import annotations

import os
from collections import OrderedDict, deque
from hashlib import sha256
from typing import TYPE_CHECKING, Deque, Iterable, Iterator, List, Optional, Sequence, Tuple

import attrs

from ..errors import ContentCorruptError, ContentMissingError, CorruptionError
from .compression import DEFAULT, RAW, SETTINGS, ZSTD, compress, compress_if_smaller, decompress, salvage
from .database import Database

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

__all__ = [
    "MAX_PACK_SIZE",
    "CompressedPack",
    "PackCompressor",
    "PackReader",
    "UnpackedPack",
    "compress_pack",
    "pack_buffer",
    "read_pack",
    "unpack",
]

#: Bytes that no pack exceeds: a forged file cannot make a reader take more memory than this.
MAX_PACK_SIZE = 16 << 20

#: Room beside a pack that is not quite full for one content more, and the byte by which a file that grows gives itself
#: away.
_SPARE_BYTES = 1 << 20

#: Packs that wait to be compressed, so that the compressing threads have work while none is read.
_QUEUED = 2

#: Bytes of decompressed packs kept by a reader. Contents are asked for in the order of packs, so little is enough.
_CACHE_BYTES = 16 << 20

#: Packs that are being decompressed while others are used.
_AHEAD = 3


@attrs.frozen
class CompressedPack:
    """A pack that is ready to be stored.

    Attributes:
        members: (ordinal, hash, size) of each content, in the order of their bytes.
        size: Bytes before compression.
        codec: How ``data`` is encoded.
        data: What is stored.
        buffer: Where ``data`` lies if it was not copied; to be taken back when it is stored.
    """

    members: list[tuple[int, bytes, int]]
    size: int
    codec: str
    data: bytes | memoryview
    buffer: Optional[memoryview] = None


def pack_buffer(compression: str) -> memoryview:
    """Return room for a pack that is not quite full and one content more."""
    return memoryview(bytearray(SETTINGS[compression].pack_size + _SPARE_BYTES))


def compress_pack(members: list[tuple[int, bytes, int]], data: memoryview, compression: str) -> CompressedPack:
    """Return a pack with those members, whose bytes these are."""
    codec, packed = compress(data, compression)
    return CompressedPack(members, len(data), codec, packed)


#: A pack that is being compressed: its members, its size, its buffer and what it will be.
_Waiting = Tuple[List[Tuple[int, bytes, int]], int, memoryview, "Future[Optional[bytes]]"]


class PackCompressor:
    """Compresses packs in threads, while the caller goes on reading; gives them back in the order they came.

    The caller fills a buffer and hands it over. There are only so many, and they are used again, so memory is bounded.
    A context manager.

    Args:
        compression: How hard; one of ``compression.SETTINGS``.
    """

    def __init__(self, compression: str = DEFAULT) -> None:
        self._workers = max(1, min(os.cpu_count() or 1, 16))
        self._pool: Optional[ThreadPoolExecutor] = None
        self._limit = self._workers + _QUEUED
        self._compression = compression
        self._waiting: Deque[_Waiting] = deque()
        self._free: list[memoryview] = []

    def __enter__(self) -> PackCompressor:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for *_, future in self._waiting:
            future.cancel()
        self.give_memory_back()

    def buffer(self) -> memoryview:
        """Return an empty buffer for a pack."""
        return self._free.pop() if self._free else pack_buffer(self._compression)

    def submit(self, members: list[tuple[int, bytes, int]], buffer: memoryview, size: int) -> None:
        """Take over a full pack: its members, and the buffer with that many bytes in it."""
        if self._pool is None:
            from concurrent.futures import ThreadPoolExecutor  # imported here: listing snapshots needs no threads

            self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="backuptool-compress")
        self._waiting.append(
            (members, size, buffer, self._pool.submit(compress_if_smaller, buffer[:size], self._compression))
        )

    def finished(self, *, wait_for_all: bool = False) -> Iterator[CompressedPack]:
        """Yield finished packs; waits only where too many are under way, or for all of them."""
        while self._waiting:
            members, size, buffer, future = self._waiting[0]
            if not (wait_for_all or len(self._waiting) > self._limit or future.done()):
                return
            frame = future.result()
            self._waiting.popleft()
            if frame is None:  # it is stored as it is, from where it lies
                yield CompressedPack(members, size, RAW, buffer[:size], buffer)
            else:
                self._free.append(buffer)
                yield CompressedPack(members, size, ZSTD, frame)

    def take_back(self, pack: CompressedPack) -> None:
        """Use the buffer of a pack that was stored again."""
        if pack.buffer is not None:
            self._free.append(pack.buffer)

    def give_memory_back(self) -> None:
        """Keep no empty buffers, and no threads, each of which has some MB for what it compresses."""
        self._free.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=True)
            self._pool = None


@attrs.frozen
class UnpackedPack:
    """A decompressed pack.

    Attributes:
        data: Its bytes; if it is damaged, those before the damage.
        damage: What is wrong with it, None if nothing is.
        verified: (offset, size, hash) of contents in it that were compared with their hashes.
    """

    data: bytes
    damage: Optional[str]
    verified: set[tuple[int, int, bytes]] = attrs.field(factory=set, eq=False)


def read_pack(database: Database, pack: int) -> tuple[int, str, bytes]:
    """Return (size, codec, data) of a stored pack.

    Raises:
        ContentMissingError: There is no such pack.
        CorruptionError: SQLite cannot read it.
    """
    # A length is known without reading: what is longer than any pack never gets into memory.
    rows = database.query(
        f"SELECT size, codec, CASE WHEN length(data) <= {MAX_PACK_SIZE} THEN data END FROM packs WHERE id = ?", (pack,)
    )
    if not rows:
        raise ContentMissingError(f"pack {pack} is missing", database.path)
    size, codec, data = rows[0]
    typed = isinstance(size, int) and isinstance(codec, bytes) and isinstance(data, bytes)
    if not (typed and 0 <= size <= MAX_PACK_SIZE):
        raise ContentCorruptError(f"the row of pack {pack} is damaged", database.path)
    return size, codec.decode("utf-8", "replace"), data


def unpack(size: int, codec: str, data: bytes) -> UnpackedPack:
    """Return a pack's bytes, or what is left of them."""
    try:
        return UnpackedPack(decompress(codec, data, size), None)
    except ContentCorruptError as exc:
        return UnpackedPack(salvage(codec, data, size), str(exc))


#: What is wanted of a pack: (offset, size, hash) of contents.
Wanted = Sequence[Tuple[int, int, bytes]]


@attrs.define(eq=False)
class _Plan:
    """Packs that will be asked for, and those of them that are being decompressed."""

    packs: Deque[tuple[int, Wanted]]
    coming: OrderedDict[int, Future[UnpackedPack]] = attrs.Factory(OrderedDict)


class PackReader:
    """Reads packs, keeps those read last, and reads ahead those that will be wanted; a context manager.

    Args:
        database: Where they are.
        cache_bytes: Decompressed packs that are kept.
    """

    def __init__(self, database: Database, cache_bytes: int = _CACHE_BYTES) -> None:
        self._database = database
        self._cache_bytes = cache_bytes
        self._cache: OrderedDict[int, UnpackedPack] = OrderedDict()
        self._cached_bytes = 0
        self._plans: list[_Plan] = []
        self._pool: Optional[ThreadPoolExecutor] = None

    def __enter__(self) -> PackReader:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True)

    def expect(self, plan: Iterable[tuple[int, Wanted]]) -> None:
        """Read ahead: these packs will be asked for next, in this order, for these contents.

        What was expected before is expected again behind them. They are decompressed in a thread, and the contents
        compared with their hashes there.
        """
        if self._pool is None:
            from concurrent.futures import ThreadPoolExecutor

            self._pool = ThreadPoolExecutor(1, thread_name_prefix="backuptool-unpack")
        packs = deque(plan)
        if packs:
            self._plans.append(_Plan(packs))
            self._read_ahead()

    def forget(self) -> None:
        """Expect nothing any more: packs that nobody asked for are not kept for later."""
        for plan in self._plans:
            for future in plan.coming.values():
                future.cancel()
        self._plans.clear()

    def pack(self, pack: int) -> UnpackedPack:
        """Return a decompressed pack; a damaged one gives what can be salvaged."""
        unpacked = self._cache.get(pack)
        if unpacked is not None:
            self._cache.move_to_end(pack)
            return unpacked
        coming = self._take_coming(pack)
        unpacked = self._read(pack) if coming is None else coming.result()
        self._read_ahead()
        self._cache[pack] = unpacked
        self._cached_bytes += len(unpacked.data)
        while self._cached_bytes > self._cache_bytes and len(self._cache) > 1:
            self._cached_bytes -= len(self._cache.popitem(last=False)[1].data)
        return unpacked

    def _read(self, pack: int) -> UnpackedPack:
        try:
            return unpack(*read_pack(self._database, pack))
        except CorruptionError as exc:
            return UnpackedPack(b"", str(exc))

    def _take_coming(self, pack: int) -> Optional[Future[UnpackedPack]]:
        """Return a pack that is being decompressed; what was expected before it was not wanted after all."""
        for level in reversed(range(len(self._plans))):
            coming = self._plans[level].coming
            if pack in coming:
                del self._plans[level + 1 :]
                while True:
                    ahead, future = coming.popitem(last=False)
                    if ahead == pack:
                        return future
        return None

    def _read_ahead(self) -> None:
        while self._plans and not self._plans[-1].packs and not self._plans[-1].coming:
            self._plans.pop()
        if not self._plans or self._pool is None:
            return
        plan = self._plans[-1]
        while plan.packs and len(plan.coming) < _AHEAD:
            pack, wanted = plan.packs.popleft()
            if pack in self._cache or any(pack in other.coming for other in self._plans):
                continue
            try:
                stored = read_pack(self._database, pack)
            except CorruptionError:
                continue  # whoever asks for it will be told
            plan.coming[pack] = self._pool.submit(_unpack_and_verify, stored, wanted)


def _unpack_and_verify(stored: tuple[int, str, bytes], wanted: Wanted) -> UnpackedPack:
    unpacked = unpack(*stored)
    view = memoryview(unpacked.data)
    for content in wanted:
        offset, size, digest = content
        if content not in unpacked.verified and sha256(view[offset : offset + size]).digest() == digest:
            unpacked.verified.add(content)
    return unpacked
