"""Committing packs: those that are finished are written while others are filled, some MiB in one transaction.

Owns the thread that writes, and the rows that it inserts: of packs, of their contents, and of large contents once their
parts are there. What goes into which pack is the writer's business.
"""

from __future__ import annotations

from array import array
from collections import Counter
from typing import TYPE_CHECKING, Callable, Mapping, Optional, Sequence

from .arriving import WaitingContent
from .bases import insert_base
from .contents import find, insert_contents, next_content_id
from .database import Database
from .packs import CompressedPack
from .refcounts import ContentsVanishedError, add_refs

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["Committer"]

#: Bytes of compressed packs written in one transaction: few enough to hold in memory and to let readers in between,
#: many enough that syncing is a small part. Twice as many take 8 MB more of memory and no less time.
_COMMIT_BYTES = 4 << 20


class Committer:
    """Writes packs into a repository. Its methods are called by one thread at a time.

    Args:
        database: A thread writes short transactions into it, until :meth:`finish`.
        clock: Returns ns since 1970 UTC.
        ids: Gets the id of each content by ordinal, as soon as it has one.
        on_commit: Called with the packs that were committed, and with the hashes that have ids by that.

    Attributes:
        stored_bytes: Bytes that packs take.
    """

    def __init__(
        self,
        database: Database,
        clock: Callable[[], int],
        ids: array[int],
        on_commit: Callable[[Sequence[CompressedPack], Sequence[bytes]], None],
    ) -> None:
        from concurrent.futures import ThreadPoolExecutor  # imported here: listing snapshots needs no threads

        self.stored_bytes = 0
        self._database = database
        self._clock = clock
        self._ids = ids
        self._on_commit = on_commit
        self._alone_at = database.data_version()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="backuptool-commit")
        self._ready: list[CompressedPack] = []
        self._ready_bytes = 0
        self._large: list[WaitingContent] = []
        self._committing: Optional[Future[tuple[list[bytes], list[WaitingContent]]]] = None
        self._committed: list[CompressedPack] = []  # when that is done

    def close(self) -> None:
        """Wait for the thread; what was not committed is let go."""
        self._executor.shutdown(wait=True)

    def add(self, pack: CompressedPack) -> None:
        """Take a pack, and commit when there is enough."""
        self._ready.append(pack)
        self._ready_bytes += len(pack.data)
        if self._ready_bytes >= _COMMIT_BYTES:
            self._commit()

    def add_large(self, large: WaitingContent) -> None:
        """Take a large content, to be committed with or behind the last of its parts."""
        self._large.append(large)

    def finish(self) -> None:
        """Commit everything that was taken."""
        self._commit()
        self._await()

    def _commit(self) -> None:
        """Hand the finished packs to the thread that writes them, when it is done with those before."""
        self._await()
        if self._ready or self._large:
            self._committing = self._executor.submit(self._write, self._ready, self._large)
            self._committed = self._ready
            self._ready, self._ready_bytes, self._large = [], 0, []

    def _await(self) -> None:
        """Wait until what was handed over is committed."""
        if self._committing is None:
            return
        committing, self._committing = self._committing, None
        resolved, waiting = committing.result()
        committed, self._committed = self._committed, []
        self._on_commit(committed, resolved)
        self._large = waiting + self._large

    def _write(
        self, packs: Sequence[CompressedPack], large: Sequence[WaitingContent]
    ) -> tuple[list[bytes], list[WaitingContent]]:
        """Write packs, their contents, and the large contents that are complete by that, in one transaction.

        Returns the hashes that have ids now, and the large contents whose parts do not all have ids.
        """
        database = self._database
        with database.without_foreign_keys(), database.transaction():
            known: Mapping[bytes, int] = {}
            # Another process may have written the same contents since they were looked up; it is seen here, under
            # the write lock, that none has.
            alone = database.data_version() == self._alone_at
            if not alone:
                known = find(database, [digest for pack in packs for _, digest, _ in pack.members])
            resolved = self._insert_packs(packs, known, alone)
            waiting = self._insert_large(large, resolved, alone)
        self.stored_bytes += sum(len(pack.data) for pack in packs)
        return resolved, waiting

    def _insert_packs(self, packs: Sequence[CompressedPack], known: Mapping[bytes, int], alone: bool) -> list[bytes]:
        database = self._database
        pack_id = (database.value("SELECT max(id) FROM packs") or 0) + 1
        content_id = next_content_id(database)
        now = self._clock()
        resolved: list[bytes] = []
        rows: list[tuple[int, bytes, int, Optional[int], Optional[int]]] = []
        for pack in packs:
            offset = live = 0
            for ordinal, digest, size in pack.members:
                content = known.get(digest)
                if content is None:
                    content = content_id
                    content_id += 1
                    live += size
                    rows.append((content, digest, size, pack_id, offset) if size else (content, digest, 0, None, None))
                self._ids[ordinal] = content
                resolved.append(digest)
                offset += size
            if live:
                database.execute(
                    "INSERT INTO packs (id, size, live, written_ns, codec, data) VALUES (?, ?, ?, ?, ?, ?)",
                    (pack_id, pack.size, live, now, pack.codec, pack.data),
                )
                if pack.base is not None:
                    insert_base(database, pack_id, pack.base, unchanged=alone)
                pack_id += 1
        insert_contents(database, rows)
        return resolved

    def _insert_large(
        self, larges: Sequence[WaitingContent], resolved: list[bytes], alone: bool
    ) -> list[WaitingContent]:
        """Insert the large contents whose parts have ids; return the others, which wait for the next commit."""
        database = self._database
        waiting = []
        for large in larges:
            if any(part >= 0 and self._ids[part] == 0 for part in large.parts.parts):
                waiting.append(large)
                continue
            row_id = None if alone else find(database, [large.digest]).get(large.digest)
            if row_id is None:
                row_id = self._insert_parts(large)
            self._ids[large.ordinal] = row_id
            resolved.append(large.digest)
        return waiting

    def _insert_parts(self, large: WaitingContent) -> int:
        database = self._database
        row_id = next_content_id(database)
        database.execute(
            "INSERT INTO contents (id, hash, size, refs, since, layout) VALUES (?, ?, ?, 0, 0, ?)",
            (row_id, large.digest, large.size, large.layout),
        )
        parts = large.parts.parts
        refs = Counter(self._ids[part] for part in parts if part >= 0)
        if add_refs(database, refs) != len(refs):
            raise ContentsVanishedError
        database.executemany(
            "INSERT INTO parts (content, offset, part) VALUES (?, ?, ?)",
            (
                (row_id, offset, self._ids[part] if part >= 0 else None)
                for offset, part in zip(large.parts.offsets, parts)
            ),
        )
        return row_id
