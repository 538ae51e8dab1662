"""Packs: many contents compressed together, written as one BLOB and read back as one.

Owns compressing packs in threads, and the cache of decompressed ones. Which content lies where is contents' business.
"""

from __future__ import annotations

import os
from collections import OrderedDict, deque
from hashlib import sha256
from typing import TYPE_CHECKING, Deque, Iterable, Iterator, NamedTuple, Optional, Sequence, Tuple

import attrs

from ..errors import CorruptionError
from .compression import DEFAULT, RAW, SETTINGS, ZSTD, ZSTD_BASE, compress_if_smaller, compress_with_base
from .database import Database
from .unpacking import PackSource, StoredPack, UnpackedPack, Unpacking, unpack

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

__all__ = [
    "BaseReference",
    "CompressedPack",
    "PackCompressor",
    "PackReader",
    "compress_pack",
    "pack_buffer",
]

#: Room beside a pack that is not quite full for one content more, and the byte by which a file that grows gives itself
#: away.
_SPARE_BYTES = 1 << 20

#: Packs that wait to be compressed, so that the compressing threads have work while none is read. Each takes 3 MB.
_QUEUED = 1

#: Bytes of decompressed packs kept by a reader. Contents are asked for in the order of packs, so little is enough.
_CACHE_BYTES = 16 << 20

#: Packs that are being decompressed while others are used.
_AHEAD = 3


class BaseReference(NamedTuple):
    """Which pack another one refers to.

    Attributes:
        id: Its number.
        digest: SHA-256 of what is stored of it: another pack may have its number by now.
    """

    id: int
    digest: bytes

    @classmethod
    def to(cls, stored: StoredPack) -> BaseReference:
        """Return a reference to a pack."""
        return cls(stored.id, sha256(stored.data).digest())


@attrs.frozen
class CompressedPack:
    """A pack that is ready to be stored.

    Attributes:
        members: (ordinal, hash, size) of each content, in the order of their bytes.
        size: Bytes before compression.
        codec: How ``data`` is encoded.
        data: What is stored.
        base: The pack that it refers to, None if it stands alone.
        buffer: Where ``data`` lies if it was not copied; to be taken back when it is stored.
    """

    members: list[tuple[int, bytes, int]]
    size: int
    codec: str
    data: bytes | memoryview
    base: Optional[BaseReference] = None
    buffer: Optional[memoryview] = None


def pack_buffer(compression: str) -> memoryview:
    """Return room for a pack that is not quite full and one content more."""
    return memoryview(bytearray(SETTINGS[compression].pack_size + _SPARE_BYTES))


def compress_pack(
    members: list[tuple[int, bytes, int]],
    data: memoryview,
    compression: str,
    base: Optional[StoredPack] = None,
    buffer: Optional[memoryview] = None,
) -> CompressedPack:
    """Return a pack with those members, whose bytes these are.

    Args:
        members: (ordinal, hash, size) of each content.
        data: Their bytes.
        compression: How hard.
        base: A pack that has no base itself, to refer to if that is worth it.
        buffer: Where the bytes may stay if they are stored as they are; otherwise they are copied.
    """
    unpacked = None if base is None else unpack(base)
    reference: Optional[BaseReference] = None
    if base is None or unpacked is None or unpacked.damage is not None:
        frame = compress_if_smaller(data, compression)
        codec = RAW if frame is None else ZSTD
    else:
        codec, frame = compress_with_base(data, unpacked.data, compression)
        reference = BaseReference.to(base) if codec == ZSTD_BASE else None
    if frame is None and buffer is not None:
        return CompressedPack(members, len(data), codec, data, None, buffer)
    return CompressedPack(members, len(data), codec, bytes(data) if frame is None else frame, reference)


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
        self._waiting: Deque[tuple[memoryview, Future[CompressedPack]]] = deque()
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

    def submit(
        self,
        members: list[tuple[int, bytes, int]],
        buffer: memoryview,
        size: int,
        base: Optional[StoredPack] = None,
    ) -> None:
        """Take over a full pack: its members, the buffer with that many bytes in it, and what it may refer to."""
        if self._pool is None:
            from concurrent.futures import ThreadPoolExecutor  # imported here: listing snapshots needs no threads

            self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="backuptool-compress")
        future = self._pool.submit(compress_pack, members, buffer[:size], self._compression, base, buffer)
        self._waiting.append((buffer, future))

    def finished(self, *, wait_for_all: bool = False) -> Iterator[CompressedPack]:
        """Yield finished packs; waits only where too many are under way, or for all of them."""
        while self._waiting:
            buffer, future = self._waiting[0]
            if not (wait_for_all or len(self._waiting) > self._limit or future.done()):
                return
            pack = future.result()
            self._waiting.popleft()
            if pack.buffer is None:  # else it is stored from where it lies
                self._free.append(buffer)
            yield pack

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
        self._source = PackSource(database)
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
            return self._source.read(pack).result()
        except CorruptionError as exc:
            return UnpackedPack(b"", exc.reason)

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
                unpacking = self._source.read(pack)
            except CorruptionError:
                continue  # whoever asks for it will be told
            plan.coming[pack] = self._pool.submit(_unpack_and_verify, unpacking, wanted)


def _unpack_and_verify(unpacking: Unpacking, wanted: Wanted) -> UnpackedPack:
    unpacked = unpacking.result()
    view = memoryview(unpacked.data)
    for content in wanted:
        offset, size, digest = content
        if content not in unpacked.verified and sha256(view[offset : offset + size]).digest() == digest:
            unpacked.verified.add(content)
    return unpacked
