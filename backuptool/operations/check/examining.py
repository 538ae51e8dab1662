"""Examining packs: read, decompress and hash them, in this process and in others beside it.

Owns how the work is divided. What is made of the findings is check's business. Hashing gives Python's lock back and
takes it again for every content, so two threads that hash hardly run faster than one; processes do.
"""

from __future__ import annotations

import threading
from collections import deque
from hashlib import sha256
from typing import Any, Deque, Iterator, Optional, Sequence

import attrs

from ...errors import ContentMissingError, CorruptionError
from ...storage.connecting import open_address
from ...storage.database import Database
from ...storage.lost import Members
from ...storage.unpacking import PackSource
from ..processes import Channel, Helper, HelperFailedError, helpers_for, keep_memory, processors, start_helpers

__all__ = ["Examination", "PackReport", "examine", "serve"]

#: Packs that a process is given at a time.
_BATCH = 8

#: Packs for which it does not pay to start a process, which takes 0.1 s: a pack takes 5 ms.
_FEW = 64


@attrs.frozen
class PackReport:
    """What was found in one pack.

    Attributes:
        pack: Its id.
        read_bytes: Bytes of contents that were read, decompressed.
        damage: What is wrong with the pack, None if nothing is.
        damaged: (content id, hash, what is wrong) of contents that cannot be given back.
    """

    pack: int
    read_bytes: int = 0
    damage: Optional[str] = None
    damaged: tuple[tuple[int, bytes, str], ...] = ()

    def to_tuple(self) -> tuple[object, ...]:
        """Return it as plain values."""
        return (self.pack, self.read_bytes, self.damage, self.damaged)


def examine(database: Database, pack: int, source: PackSource, known: Members) -> PackReport:
    """Read, decompress and hash a pack. Its members, its bytes and its base are read in one state of the database."""
    members: Sequence[Sequence[Any]] = ()
    try:
        with database.read_transaction():
            members = known.of(pack)
            unpacking = source.read(pack)
    except CorruptionError:
        try:  # a transaction in which the cipher of an encrypted file has failed reads nothing more
            members = known.of(pack)
            unpacking = source.read(pack)
        except CorruptionError as exc:
            return _unreadable(pack, exc, members)
    unpacked = unpacking.result()
    view = memoryview(unpacked.data)
    damaged = []
    read_bytes = 0
    for content, digest, size, offset in members:
        if not (
            isinstance(content, int) and isinstance(digest, bytes) and isinstance(size, int) and isinstance(offset, int)
        ):
            continue  # the row is damaged, and is named by whoever looks at the catalog
        if sha256(view[offset : offset + size]).digest() != digest:
            damaged.append((content, digest, unpacked.damage or "its bytes do not have its hash"))
        read_bytes += size
    return PackReport(pack, read_bytes, unpacked.damage, tuple(damaged))


def _unreadable(pack: int, exc: CorruptionError, members: Sequence[Sequence[Any]]) -> PackReport:
    if not members and isinstance(exc, ContentMissingError):
        return PackReport(pack)  # a prune has emptied it meanwhile
    why = f"pack {pack} cannot be read"
    damaged = ((content, digest if isinstance(digest, bytes) else b"", why) for content, digest, *_ in members)
    return PackReport(pack, 0, f"it cannot be read: {exc.reason}", tuple(damaged))


def serve(channel: Channel, address: Any) -> None:
    """Examine packs for another process: some ids at a time, until there are no more."""
    keep_memory()
    database = open_address(address, 10.0)
    source, known = PackSource(database), Members(database)
    while True:
        channel.send([examine(database, pack, source, known).to_tuple() for pack in channel.receive()])


class _Work:
    """Packs that are still to be examined, and what was found; for several threads."""

    def __init__(self, packs: Sequence[int]) -> None:
        self._batches: Deque[Sequence[int]] = deque(
            packs[begin : begin + _BATCH] for begin in range(0, len(packs), _BATCH)
        )
        self._reports: Deque[PackReport] = deque()

    def take(self) -> Sequence[int]:
        """Return some packs, none if all are taken."""
        try:
            return self._batches.popleft()
        except IndexError:
            return ()

    def give_back(self, packs: Sequence[int]) -> None:
        """Let someone else examine these."""
        self._batches.append(packs)

    def found(self, reports: Sequence[PackReport]) -> None:
        """Add what was found."""
        self._reports.extend(reports)

    def reports(self) -> Iterator[PackReport]:
        """Yield what was found since the last time."""
        while self._reports:
            yield self._reports.popleft()


class _Examiner:
    """A thread that has packs examined by a helper."""

    def __init__(self, helper: Helper, work: _Work) -> None:
        self.helper = helper
        self._work = work
        self._thread = threading.Thread(target=self._feed, name="backuptool-examine", daemon=True)
        self._thread.start()

    def _feed(self) -> None:
        """Hand out work until there is none; what the process does not answer for is done by others."""
        work = self._work
        packs: Sequence[int] = ()
        try:
            while True:
                packs = work.take()
                if not packs:
                    return
                self.helper.send(list(packs))
                reports = [PackReport(*values) for values in self.helper.receive()]
                if [report.pack for report in reports] != list(packs):
                    raise ValueError("no answer to what was asked")
                work.found(reports)
        except (HelperFailedError, TypeError, ValueError):
            work.give_back(packs)

    def wait(self) -> None:
        """Wait until it has nothing more to do."""
        self._thread.join()

    def end(self) -> None:
        """End the process, whatever it does."""
        self.helper.end()
        self._thread.join()
        self.helper.close()


class Examination:
    """Examine packs, beside what is done in the meantime; a context manager.

    Helpers begin at once, so that the caller can do something else before it asks for :meth:`reports`.

    Args:
        database: Where the packs are; used by :meth:`reports` only.
        packs: Their ids; those with the same base best one after the other, behind it: it is unpacked once then.
        helpers: Number of processes beside this one; by default as many as there are processors and it pays to start.
    """

    def __init__(
        self, database: Database, packs: Sequence[int], helpers: Optional[int] = None, most: Optional[int] = None
    ) -> None:
        self._database = database
        self._work = _Work(packs)
        if helpers is None:
            helpers = min(processors() - 1, helpers_for(most), len(packs) // _FEW)
        self._examiners = [
            _Examiner(helper, self._work)
            for helper in start_helpers(helpers, "check.examining", database.address(), private=database.encrypted)
        ]

    def __enter__(self) -> Examination:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for examiner in self._examiners:
            examiner.end()

    def reports(self) -> Iterator[PackReport]:
        """Yield a report for each pack, in no order; this process takes its share."""
        work = self._work
        source, known = PackSource(self._database), Members(self._database)
        while True:
            packs = work.take()
            for pack in packs:
                yield examine(self._database, pack, source, known)
            yield from work.reports()
            if not packs:
                for examiner in self._examiners:
                    examiner.wait()
                yield from work.reports()
                packs = work.take()  # given back by one that failed
                if not packs:
                    return
                work.give_back(packs)
