"""Storing contents: hash them, keep those that are new, compress them into packs, commit.

Owns the pipeline: hashing and compressing run in threads, both without Python's lock, while the caller goes on reading.
What a content is, and how it is found and read back, is contents' business.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, deque
from typing import TYPE_CHECKING, Callable, Deque, Mapping, Optional, Sequence, Union

import attrs

from .contents import ContentsVanishedError, add_refs, find, next_content_id
from .database import Database
from .digest import layout_entry
from .packs import PACK_SIZE, CompressedPack, PackCompressor

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["Content", "ContentWriter", "LargeContent"]

#: Contents are handed to the hashing threads in batches of this many bytes or this many pieces, whichever is first:
#: enough that handing over costs nothing, few enough that several batches are under way.
_BATCH_BYTES = 1 << 19
_BATCH_PIECES = 500

#: Batches being hashed at any time, and threads that do it: one may be busy with the hash of a whole large file.
_BATCHES = 3
_HASHERS = 2

#: Bytes of compressed packs written in one transaction: few enough to hold in memory and to let readers in between,
#: many enough that syncing is a small part.
_COMMIT_BYTES = 8 << 20


class Content:
    """A content on its way into the repository.

    Attributes:
        size: Bytes.
        digest: SHA-256, 32 bytes; b"" until it is known.
        ordinal: Position in :attr:`ContentWriter.ids`; -1 until it is known.
    """

    __slots__ = ("digest", "ordinal", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.digest = b""
        self.ordinal = -1


Piece = Union[bytes, memoryview]


class LargeContent:
    """The parts of a large file, while it is being read."""

    def __init__(self) -> None:
        self.offsets = array("q")
        self.parts = array("q")  # ordinals, -1 for a hole
        self._waiting: Deque[tuple[int, Optional[Content]]] = deque()
        self._layout = hashlib.sha256()

    def append(self, offset: int, part: Optional[Content]) -> None:
        """Add a part behind the others; None is a hole."""
        self._waiting.append((offset, part))
        self._settle()

    def layout(self) -> bytes:
        """Return the digest of the list of parts; all of them must be settled."""
        self._settle()
        assert not self._waiting
        return self._layout.digest()

    def _settle(self) -> None:
        """Keep two numbers of each part that is settled, so that a long list stays small."""
        waiting = self._waiting
        while waiting:
            offset, part = waiting[0]
            if part is not None and part.ordinal < 0:
                return
            waiting.popleft()
            self.offsets.append(offset)
            self.parts.append(-1 if part is None else part.ordinal)
            self._layout.update(layout_entry(offset, None if part is None else part.digest))


@attrs.frozen
class _Large:
    """A large content that waits for its parts to be committed."""

    ordinal: int
    digest: bytes
    size: int
    layout: bytes
    parts: LargeContent


class ContentWriter:
    """Stores contents that the repository does not have; a context manager.

    A content given to it is settled, its digest and its ordinal known, when its batch was hashed. Its id is known when
    its pack was committed: ``ids[ordinal]`` is 0 until then. What is interrupted leaves contents that nothing refers
    to, for the next run to find.

    Args:
        database: An open repository; used for short transactions only.
        clock: Returns ns since 1970 UTC.

    Attributes:
        ids: Id of each content by ordinal.
        new_bytes: Bytes of contents that were new, before compression.
        stored_bytes: Bytes they take in packs.
    """

    def __init__(self, database: Database, clock: Callable[[], int]) -> None:
        from concurrent.futures import ThreadPoolExecutor  # imported here: listing snapshots needs no threads

        self.ids = array("q")
        self.new_bytes = 0
        self.stored_bytes = 0
        self._database = database
        self._clock = clock
        self._alone_at = database.data_version()
        self._hasher = ThreadPoolExecutor(_HASHERS, thread_name_prefix="backuptool-hash")
        self._batch: list[tuple[Content, Piece]] = []
        self._batch_bytes = 0
        self._hashing: Deque[tuple[list[tuple[Content, Piece]], Future[list[bytes]]]] = deque()
        self._pending: dict[bytes, int] = {}  # ordinal by hash of what is not committed yet
        self._members: list[tuple[int, bytes, int]] = []
        self._pieces: list[Piece] = []
        self._piece_bytes = 0
        self._compressor = PackCompressor()
        self._ready: list[CompressedPack] = []
        self._ready_bytes = 0
        self._large: list[_Large] = []

    def __enter__(self) -> ContentWriter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for _, future in self._hashing:
            future.cancel()
        self._hasher.shutdown(wait=True)
        self._compressor.__exit__(*exc_info)

    def add(self, data: Piece) -> Content:
        """Take a small content or a chunk.

        Args:
            data: Its bytes, at most a few MiB; they must not change any more.
        """
        content = Content(len(data))
        self._batch.append((content, data))
        self._batch_bytes += content.size
        if self._batch_bytes >= _BATCH_BYTES or len(self._batch) >= _BATCH_PIECES:
            self._hash_batch()
        return content

    def add_large(self, digest: bytes, size: int, parts: LargeContent) -> Content:
        """Take a content whose parts have all been added.

        Args:
            digest: SHA-256 of all its bytes.
            size: Bytes.
            parts: The parts.
        """
        self.settle()
        content = Content(size)
        content.digest = digest
        content.ordinal, new = self._ordinal(digest, find(self._database, [digest]))
        if new:
            self._large.append(_Large(content.ordinal, digest, size, parts.layout(), parts))
        return content

    def hash_along(self, hasher: hashlib._Hash, data: Piece, before: Optional[Future[None]]) -> Future[None]:
        """Feed a hasher in a thread, after what was fed to it before; returns what to wait for."""
        if before is not None:
            before.result()
        return self._hasher.submit(hasher.update, data)

    def settle(self) -> None:
        """Wait until everything that was added is hashed: all digests and ordinals are known."""
        self._hash_batch()
        while self._hashing:
            self._take_hashed()

    def flush(self) -> None:
        """Compress and commit everything that was added; all ids are known afterwards."""
        self.settle()
        self._seal()
        self._collect(wait_for_all=True)
        self._commit()

    def _hash_batch(self) -> None:
        if self._batch:
            batch, self._batch, self._batch_bytes = self._batch, [], 0
            self._hashing.append((batch, self._hasher.submit(_digests, batch)))
        while len(self._hashing) > _BATCHES:
            self._take_hashed()

    def _take_hashed(self) -> None:
        """Look up a hashed batch, and pack what is new."""
        batch, future = self._hashing.popleft()
        digests = future.result()
        pending = self._pending
        known = find(self._database, [digest for digest in digests if digest not in pending])
        for (content, data), digest in zip(batch, digests):
            content.digest = digest
            content.ordinal, new = self._ordinal(digest, known)
            if new:
                self._members.append((content.ordinal, digest, content.size))
                self._pieces.append(data)
                self._piece_bytes += content.size
                self.new_bytes += content.size
                if self._piece_bytes >= PACK_SIZE:
                    self._seal()
        self._collect()

    def _ordinal(self, digest: bytes, known: Mapping[bytes, int]) -> tuple[int, bool]:
        """Return the ordinal of a hash, and whether the content must be stored."""
        ordinal = self._pending.get(digest)
        if ordinal is not None:
            return ordinal, False
        ordinal = len(self.ids)
        stored = known.get(digest)
        if stored is not None:
            self.ids.append(stored)
            return ordinal, False
        self.ids.append(0)
        self._pending[digest] = ordinal
        return ordinal, True

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
            if any(part >= 0 and self.ids[part] == 0 for part in large.parts.parts):
                waiting.append(large)
                continue
            row_id = None if alone else find(database, [large.digest]).get(large.digest)
            if row_id is None:
                row_id = self._insert_parts(large)
            self.ids[large.ordinal] = row_id
            resolved.append(large.digest)
        self._large = waiting

    def _insert_parts(self, large: _Large) -> int:
        database = self._database
        row_id = next_content_id(database)
        database.execute(
            "INSERT INTO contents (id, hash, size, refs, since, layout) VALUES (?, ?, ?, 0, 0, ?)",
            (row_id, large.digest, large.size, large.layout),
        )
        parts = large.parts.parts
        refs = Counter(self.ids[part] for part in parts if part >= 0)
        if add_refs(database, refs) != len(refs):
            raise ContentsVanishedError
        database.executemany(
            "INSERT INTO parts (content, offset, part) VALUES (?, ?, ?)",
            (
                (row_id, offset, self.ids[part] if part >= 0 else None)
                for offset, part in zip(large.parts.offsets, parts)
            ),
        )
        return row_id


def _digests(batch: Sequence[tuple[Content, Piece]]) -> list[bytes]:
    sha256 = hashlib.sha256
    return [sha256(data).digest() for _, data in batch]
