"""Committing packs: those that are finished are written while others are filled, in transactions that are worth it.

Owns the thread that writes, how long it holds a transaction, and the rows that it inserts: of packs, of their contents,
and of large contents once their parts are there. What goes into which pack is the writer's business.
"""

from __future__ import annotations

import queue
import threading
import time
from array import array
from collections import Counter
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Callable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from .arriving import WaitingContent
from .bases import insert_base
from .contents import find, insert_contents, next_content_id
from .database import Database
from .packs import CompressedPack
from .refcounts import ContentsVanishedError, add_refs

__all__ = ["Committer"]

#: Bytes of compressed packs written at a time: few enough to hold in memory, many enough that it costs little. Twice as
#: many take 8 MB more of memory and no less time.
_BATCH_BYTES = 4 << 20

#: A transaction goes on for so many times as long as the last commit took, if there is more to write. Where a sync
#: takes 15 ms, 1 GiB that does not compress took 22 s with a commit every 4 MiB, and 7 s with one every 64 MiB; in
#: memory, where it takes nothing, there is one every 4 MiB still, and readers and other writers get their turn.
_HOLD = 8

#: Bytes and seconds after which it is committed in any case.
_HOLD_BYTES = 64 << 20
_HOLD_SECONDS = 2.0

#: The hashes that have ids now, and the large contents of which a part has none yet.
Written = Tuple[List[bytes], List[WaitingContent]]


class _Batch(NamedTuple):
    """What is to be written at a time.

    Attributes:
        last: Whether it is to be committed with it.
        written: Gets what came of it.
    """

    packs: Sequence[CompressedPack]
    large: Sequence[WaitingContent]
    last: bool
    written: Future[Written]


class Committer:
    """Writes packs into a repository. Its methods are called by one thread at a time.

    Args:
        database: A thread writes into it, until :meth:`finish`; nobody else may begin a transaction meanwhile.
        clock: Returns ns since 1970 UTC.
        ids: Gets the id of each content by ordinal, as soon as it has one.
        on_written: Called with the packs that were written, and with the hashes that have ids by that.
    """

    def __init__(
        self,
        database: Database,
        clock: Callable[[], int],
        ids: array[int],
        on_written: Callable[[Sequence[CompressedPack], Sequence[bytes]], None],
    ) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._on_written = on_written
        self._alone_at = database.data_version()
        self._ready: list[CompressedPack] = []
        self._ready_bytes = 0
        self._large: list[WaitingContent] = []
        self._writing: Optional[_Batch] = None
        self._hold = _Hold(database)
        self._batches: queue.SimpleQueue[Optional[_Batch]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="backuptool-commit", daemon=True)
        self._thread.start()

    @property
    def stored_bytes(self) -> int:
        """Bytes that packs take which were committed."""
        return self._hold.committed_bytes

    def close(self) -> None:
        """End the thread; what was not committed is taken back."""
        self._batches.put(None)
        self._thread.join()

    def add(self, pack: CompressedPack) -> None:
        """Take a pack, and have it written when there is enough."""
        self._ready.append(pack)
        self._ready_bytes += len(pack.data)
        if self._ready_bytes >= _BATCH_BYTES:
            self._hand_over()

    def add_large(self, large: WaitingContent) -> None:
        """Take a large content, to be written with or behind the last of its parts."""
        self._large.append(large)

    def finish(self) -> None:
        """Commit everything that was taken."""
        self._hand_over(last=True)
        self._await()

    def _hand_over(self, *, last: bool = False) -> None:
        """Hand the finished packs to the thread that writes them, when it is done with those before."""
        self._await()
        if self._ready or self._large or last:
            self._writing = _Batch(self._ready, self._large, last, Future())
            self._batches.put(self._writing)
            self._ready, self._ready_bytes, self._large = [], 0, []

    def _await(self) -> None:
        """Wait until what was handed over is written."""
        if self._writing is None:
            return
        batch, self._writing = self._writing, None
        resolved, waiting = batch.written.result()
        self._on_written(batch.packs, resolved)
        self._large = waiting + self._large

    # The thread.

    def _run(self) -> None:
        """Write what comes, and commit when that is due."""
        hold = self._hold
        failure: Optional[BaseException] = None
        while True:
            try:
                batch = self._batches.get(timeout=hold.patience())
            except queue.Empty:
                try:
                    hold.commit()
                except BaseException as exc:  # told to whoever comes next
                    failure = exc
                continue
            if batch is None:
                hold.abandon()
                return
            try:
                if failure is not None:
                    raise failure
                written = self._write(batch)
            except BaseException as exc:
                failure = exc
                try:
                    hold.abandon()
                finally:  # whoever waits must not wait for ever
                    batch.written.set_exception(exc)
            else:
                batch.written.set_result(written)

    def _write(self, batch: _Batch) -> Written:
        """Write packs, their contents, and the large contents that are complete by that."""
        if not (batch.packs or batch.large):
            self._hold.commit()
            return [], []
        database = self._database
        self._hold.begin()
        known: Mapping[bytes, int] = {}
        # Another process may have written the same contents since they were looked up; it is seen here, under the write
        # lock, that none has.
        alone = database.data_version() == self._alone_at
        if not alone:
            known = find(database, [digest for pack in batch.packs for _, digest, _ in pack.members])
        resolved = self._insert_packs(batch.packs, known, alone)
        waiting = self._insert_large(batch.large, resolved, alone)
        self._hold.wrote(sum(len(pack.data) for pack in batch.packs), last=batch.last)
        return resolved, waiting

    def _insert_packs(self, packs: Sequence[CompressedPack], known: Mapping[bytes, int], alone: bool) -> list[bytes]:
        database = self._database
        pack_id = database.total("SELECT max(id) FROM packs") + 1
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


class _Hold:
    """A transaction that is held while there is more to write, as long as that is worth it.

    Attributes:
        committed_bytes: Bytes that were written and committed, in all.
    """

    def __init__(self, database: Database) -> None:
        self.committed_bytes = 0
        self._database = database
        self._transaction: Optional[ExitStack] = None
        self._begun = 0.0
        self._bytes = 0
        self._seconds = 0.0  # that the last commit took

    def begin(self) -> None:
        """Begin a transaction, unless one is held."""
        if self._transaction is None:
            with ExitStack() as stack:
                stack.enter_context(self._database.without_foreign_keys())
                stack.enter_context(self._database.transaction())
                self._transaction = stack.pop_all()
            self._begun, self._bytes = time.monotonic(), 0

    def patience(self) -> Optional[float]:
        """Return for how many seconds it may be held still; None if there is nothing to hold."""
        if self._transaction is None:
            return None
        return max(0.0, self._begun + min(_HOLD * self._seconds, _HOLD_SECONDS) - time.monotonic())

    def wrote(self, size: int, *, last: bool) -> None:
        """Note that so many bytes were written; commit if that is due."""
        self._bytes += size
        if last or self._bytes >= _HOLD_BYTES or not self.patience():
            self.commit()

    def commit(self) -> None:
        """Commit what was written."""
        if self._transaction is not None:
            begin = time.monotonic()
            transaction, self._transaction = self._transaction, None
            transaction.close()
            self.committed_bytes += self._bytes
            self._seconds = time.monotonic() - begin

    def abandon(self) -> None:
        """Take back what was not committed."""
        if self._transaction is None:
            return
        transaction, self._transaction = self._transaction, None
        try:
            with transaction:
                raise _AbandonedError
        except _AbandonedError:
            pass


class _AbandonedError(Exception):
    """Nobody wants what was written."""
