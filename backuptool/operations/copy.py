"""Copying snapshots to another repository: what is there already is not read, and what is copied is verified.

Owns what a copy is: which versions make it up, when it is whole, and how it becomes a snapshot at the destination. How
bytes get there is the carrier's business.
"""

from __future__ import annotations

import marshal
import os
import time
from array import array
from itertools import chain, islice
from typing import Any, Callable, Iterable, Iterator, List, Optional, Tuple, Union

import attrs

from ..errors import CorruptionError, RepositoryError, RepositoryLockedError, SnapshotNotFoundError
from ..progress import Reporter
from ..results.changes import Changes
from ..results.copy import CopiedSnapshot, CopyResult
from ..results.problem import Problem
from ..storage import catalog, records
from ..storage.catalog import SnapshotRow, find_snapshot, snapshot_rows
from ..storage.compression import DEFAULT, SETTINGS
from ..storage.contents import ContentsVanishedError, reference
from ..storage.database import Database
from ..storage.digest import MODULUS, FileVersion, row_hash, to_bytes
from ..storage.pool import ConnectionPool
from ..storage.spool import Spool
from ..storage.transfer import (
    StoredVersion,
    added_between,
    ended_between,
    find_copies,
    find_equal,
    later_than,
    versions_of,
)
from ..storage.writer import ContentWriter
from .carrying import Carrier
from .validating import flaw

__all__ = ["CopyOptions", "copy"]

#: The tag of a copy that lacks something.
_INCOMPLETE = "incomplete"

#: Versions whose contents are looked up at the destination at a time.
_BATCH = 1000

#: Times that a copy begins anew because another process changed what it was based on.
_ATTEMPTS = 50


@attrs.frozen(kw_only=True)
class CopyOptions:
    """What is to be copied, and how; see :meth:`backuptool.Repository.copy`."""

    snapshots: Optional[Tuple[Union[int, str], ...]] = None
    incomplete: bool = False
    compression: Optional[str] = None


def copy(
    origin: ConnectionPool,
    destination: ConnectionPool,
    options: CopyOptions,
    reporter: Reporter,
    clock: Callable[[], int],
) -> CopyResult:
    """Copy snapshots, the oldest first.

    Raises:
        ValueError: There is no such compression.
    """
    begin = time.monotonic()
    if options.compression is not None and options.compression not in SETTINGS:
        raise ValueError(f"compression must be {', '.join(SETTINGS)} or None, not {options.compression!r}")
    with origin.reading() as read:
        if os.path.exists(destination.path) and os.path.samefile(origin.path, destination.path):
            raise RepositoryError(f"{origin.path} cannot be copied into itself; name another file", origin.path)
        if options.snapshots is None:
            rows = snapshot_rows(read)
        else:
            named = {row.id: row for row in (find_snapshot(read, number) for number in options.snapshots)}
            rows = [named[number] for number in sorted(named)]
        with destination.writing(create=True) as written:
            run = _Copying(read, written, options, reporter, clock)
            for row in rows:
                run.copy(row)
    return CopyResult(
        destination=destination.path,
        copies=tuple(run.copies),
        copied_snapshots=sum(not copied.was_there for copied in run.copies),
        present_snapshots=sum(copied.was_there for copied in run.copies),
        copied_versions=run.copied_versions,
        new_bytes=run.new_bytes,
        stored_bytes=run.stored_bytes,
        whole_packs=run.whole_packs,
        elapsed_seconds=time.monotonic() - begin,
        problems=run.problems(),
    )


class _BaseMovedError(Exception):
    """Another process has committed a snapshot of the same source at the destination."""


class _UnfitError(CorruptionError):
    """The row of a file holds what no file can have."""


class _Copying:
    """The snapshots one after the other, and what there is to tell of them."""

    def __init__(
        self,
        origin: Database,
        destination: Database,
        options: CopyOptions,
        reporter: Reporter,
        clock: Callable[[], int],
    ) -> None:
        self._origin = origin
        self._destination = destination
        self._options = options
        self._reporter = reporter
        self._clock = clock
        self._changes = records.changes_by_snapshot(origin)
        self._problems: list[Problem] = []
        self._damages: dict[Tuple[str, str, str, Optional[str]], list[int]] = {}
        self.copies: list[CopiedSnapshot] = []
        self.copied_versions = self.new_bytes = self.stored_bytes = self.whole_packs = 0

    def copy(self, row: SnapshotRow) -> None:
        """Copy a snapshot, unless it was copied before or is not whole."""
        there = self._find_copy(row)
        if there is not None:
            self.copies.append(CopiedSnapshot(original=row.to_result(), snapshot=there.to_result(), was_there=True))
            return
        for _ in range(_ATTEMPTS):
            try:
                attempt = _Attempt(
                    self._origin,
                    self._destination,
                    row,
                    self._options,
                    self._reporter,
                    self._clock,
                    self._changes.get(row.id),
                )
                made = attempt.run()
            except (_BaseMovedError, ContentsVanishedError):
                continue
            except SnapshotNotFoundError:
                self._not_copied(row, "it was pruned meanwhile")
                return
            self._account(row, attempt, made)
            return
        raise RepositoryLockedError(
            f"other processes changed the repository {self._destination.path} each of {_ATTEMPTS} times that a "
            "snapshot was to be committed; what was copied stays: run it again",
            self._destination.path,
        )

    def _find_copy(self, row: SnapshotRow) -> Optional[SnapshotRow]:
        """Return the copy of a snapshot that the destination has, None if it has none."""
        for there in find_copies(self._destination, row):
            whole = there.tree_digest == row.tree_digest
            if whole or (self._options.incomplete and _INCOMPLETE in there.tags):
                return there
        return None

    def _account(self, row: SnapshotRow, attempt: _Attempt, made: Optional[SnapshotRow]) -> None:
        self.new_bytes += attempt.new_bytes
        self.stored_bytes += attempt.stored_bytes
        self.whole_packs += attempt.whole_packs
        for damage in attempt.damages:
            self._damages.setdefault(damage, []).append(row.id)
        if made is None:
            self._not_copied(row, "it is not whole; with incomplete it is copied without what is damaged")
            return
        self.copied_versions += attempt.copied_versions
        self.copies.append(CopiedSnapshot(original=row.to_result(), snapshot=made.to_result(), was_there=False))
        newer = attempt.newer
        if newer is not None:
            message = (
                f"snapshot {row.id} is now number {made.id} at the destination, above number {newer}, which was taken "
                "later of the same source: numbers follow the order of copying, and so does the word latest"
            )
            self._problems.append(Problem(kind="out-of-order", path="", message=message, snapshots=(row.id,)))

    def _not_copied(self, row: SnapshotRow, why: str) -> None:
        message = f"snapshot {row.id} was not copied: {why}"
        self._problems.append(Problem(kind="not-copied", path="", message=message, snapshots=(row.id,)))

    def problems(self) -> tuple[Problem, ...]:
        """Return what is damaged, each file once for all snapshots, and behind it what was not copied because of it."""
        damages = [
            Problem(kind=kind, path=path, message=message, content=content, snapshots=tuple(numbers))
            for (kind, path, message, content), numbers in self._damages.items()
        ]
        return (*damages, *self._problems)


@attrs.define
class _Figures:
    """What a tree adds up to."""

    digest: int = 0
    files: int = 0
    directories: int = 0
    size: int = 0

    def add(self, version: FileVersion, sign: int = 1) -> None:
        """Add a version, or take it away."""
        self.digest += sign * row_hash(version)
        self.size += sign * version.size
        if version.kind == b"d":
            self.directories += sign
        else:
            self.files += sign

    def describe(self, row: SnapshotRow) -> bool:
        """Tell whether they are those of a snapshot."""
        figures = (self.files, self.directories, self.size)
        return to_bytes(self.digest % MODULUS) == row.tree_digest and figures == (row.files, row.directories, row.size)


class _Attempt:
    """One snapshot, and one commit.

    Attributes:
        damages: (kind, path, message, hash) of what the copy must do without.
        newer: Number of a snapshot of the source that the destination has and that was taken later, or None.
    """

    def __init__(
        self,
        origin: Database,
        destination: Database,
        row: SnapshotRow,
        options: CopyOptions,
        reporter: Reporter,
        clock: Callable[[], int],
        changes: Optional[Changes],
    ) -> None:
        self._origin = origin
        self._destination = destination
        self._row = row
        self._changes = changes
        self._options = options
        self._reporter = reporter
        self._clock = clock
        self._source = catalog.source_id(destination, row.host, row.root)
        newest = catalog.newest_snapshot(destination, self._source)
        self._base = None if newest is None else find_snapshot(destination, newest)
        self._figures = _Figures()
        self._closed: list[Tuple[bytes, int]] = []
        self._rows = Spool()
        self._lost_files: set[bytes] = set()
        self.damages: list[Tuple[str, str, str, Optional[str]]] = []
        self.copied_versions = self.new_bytes = self.stored_bytes = self.whole_packs = 0
        self.newer = later_than(destination, self._source, row.started_ns)

    def run(self) -> Optional[SnapshotRow]:
        """Copy, verify and commit; return the snapshot at the destination, None if it is not whole."""
        destination = self._destination
        compression = self._options.compression
        with ContentWriter(destination, self._clock, compression or DEFAULT) as writer:
            with Carrier(self._origin, destination, writer, compression, self._reporter) as carrier:
                changed = self._changed()
                while True:
                    batch = list(islice(changed, _BATCH))
                    if not batch:
                        break
                    self._take(batch, carrier)
                carrier.deliver()
            writer.flush()
        self.new_bytes, self.stored_bytes = writer.new_bytes, writer.stored_bytes
        self.whole_packs = carrier.whole_packs
        self._find_lost(carrier, len(writer.ids))
        if self._row.compute_digest() != self._row.digest:
            self._damage("snapshot-corrupt", "", "the description of a snapshot is not as it was saved; run check")
        elif not self._lost_files and not self._figures.describe(self._row):
            self._damage("snapshot-corrupt", "", "the list of files of a snapshot is not as it was saved; run check")
        if self.damages and not self._options.incomplete:
            return None
        self._reporter.report("commit", total_files=self._rows.count)
        return self._commit(writer, carrier)

    # What differs from the destination's newest snapshot of the source.

    def _changed(self) -> Iterator[StoredVersion]:
        """Yield the versions that the destination's newest snapshot lacks; note which of its versions end."""
        base = self._base
        before = None if base is None else find_equal(self._origin, self._row, base.tree_digest)
        if base is None or before is None:
            yield from self._merged()
            return
        # The destination has exactly what an earlier snapshot has here: the difference is a query, not a walk.
        self._figures = _Figures(int.from_bytes(base.tree_digest, "big"), base.files, base.directories, base.size)
        ended = ended_between(self._origin, before, self._row)
        while True:
            batch = list(islice(ended, _BATCH))
            if not batch:
                break
            self._end(version.path for version in batch)
        self._require(before)
        for stored in added_between(self._origin, before, self._row):
            self._figures.add(stored.version)
            yield stored

    def _require(self, before: int) -> None:
        """Begin anew if an earlier snapshot was pruned: what it alone had is gone, and was not seen to end."""
        try:
            find_snapshot(self._origin, before)
        except SnapshotNotFoundError:
            raise _BaseMovedError from None

    def _end(self, paths: Iterable[bytes]) -> None:
        assert self._source is not None
        for version, first, _ in catalog.load_versions(self._destination, self._source, paths):
            self._figures.add(version, -1)
            self._closed.append((version.path, first))

    def _merged(self) -> Iterator[StoredVersion]:
        """Compare two sorted lists of files."""
        there = iter(()) if self._base is None else versions_of(self._destination, self._base)
        old = next(there, None)
        for stored in versions_of(self._origin, self._row):
            self._figures.add(stored.version)
            path = stored.version.path
            while old is not None and old.version.path < path:
                self._closed.append((old.version.path, old.first))
                old = next(there, None)
            if old is not None and old.version.path == path:
                same = old.version == stored.version
                if not same:
                    self._closed.append((path, old.first))
                old = next(there, None)
                if same:
                    continue
            yield stored
        while old is not None:
            self._closed.append((old.version.path, old.first))
            old = next(there, None)

    # Taking versions over.

    def _take(self, batch: list[StoredVersion], carrier: Carrier) -> None:
        """Have the contents of versions carried, and set their rows aside."""
        small = {
            index: stored.content
            for index, stored in enumerate(batch)
            if stored.content is not None and (stored.content.pack is not None or not stored.content.size)
        }
        ordinals = dict(zip(small, carrier.take(list(small.values()))))
        rows = []
        for index, (version, content, ctime_ns, inode, _) in enumerate(batch):
            try:
                fault = flaw(version)
                if fault is not None:
                    raise _UnfitError(fault)
                ordinal = -1
                if version.kind == b"f":
                    if content is None:
                        raise CorruptionError("its content is not in the repository")
                    if content.size != version.size:
                        raise CorruptionError("its size is not that of its content")
                    ordinal = ordinals[index] if index in ordinals else carrier.take_large(content)
            except CorruptionError as exc:
                if exc.path == self._destination.path:
                    raise  # it is not the file that is damaged
                self._lose(version, exc)
                continue
            path, *others = catalog.version_row(version, ctime_ns, inode, ordinal)
            rows.append((path, marshal.dumps(tuple(others))))
        self._rows.extend(rows)

    def _lose(self, version: FileVersion, exc: CorruptionError) -> None:
        """Do without a version."""
        self._figures.add(version, -1)
        self._lost_files.add(version.path)
        shown = version.path.decode("utf-8", "surrogateescape")
        kind = "catalog-corrupt" if isinstance(exc, _UnfitError) else "content-corrupt"
        self._damage(kind, shown, f"not copied: {exc}", version.hash)

    def _damage(self, kind: str, path: str, message: str, content: Optional[bytes] = None) -> None:
        self.damages.append((kind, path, message, None if content is None else content.hex()))

    def _find_lost(self, carrier: Carrier, ordinals: int) -> None:
        """Name the files whose contents turned out to be damaged when they were read."""
        if not carrier.lost:
            return
        counts = array("I", bytes(4 * ordinals))
        for row in chain.from_iterable(self._rows.drain(counts)):
            if row[-1] in carrier.lost:
                digest, exc = carrier.lost[row[-1]]
                self._lose(catalog.row_version(row, digest), exc)

    # Committing.

    def _commit(self, writer: ContentWriter, carrier: Carrier) -> SnapshotRow:
        database, row, ids = self._destination, self._row, writer.ids
        base = None if self._base is None else self._base.id
        with database.without_foreign_keys(), database.transaction():
            source = catalog.source_id(database, row.host, row.root, create=True)
            assert source is not None
            if catalog.newest_snapshot(database, source) != base:
                raise _BaseMovedError
            number = catalog.next_snapshot_id(database)
            if base is not None:
                catalog.close_versions(database, source, base, self._closed)
            counts = array("I", bytes(4 * len(ids)))
            kept = self._kept(self._rows.drain(counts), carrier, counts)
            catalog.insert_versions(database, source, number, base is not None, kept, ids)
            brought = reference(database, number, ids, counts)
            figures = self._figures
            tags = sorted({*row.tags, _INCOMPLETE}) if self.damages else row.tags
            made = catalog.insert_snapshot(
                database,
                attrs.evolve(
                    row,
                    id=number,
                    source=source,
                    files=figures.files,
                    directories=figures.directories,
                    size=figures.size,
                    distinct_size=brought.size,
                    problem_files=row.problem_files + len(self.damages),
                    tags=tuple(tags),
                    tree_digest=to_bytes(figures.digest % MODULUS),
                ),
            )
            if self._changes is not None:
                records.insert_changes(database, number, self._changes, row.alerts)
            if row.pinned:
                records.pin(database, number, self._clock())
            return made

    def _kept(self, batches: Iterable[List[Any]], carrier: Carrier, counts: array[int]) -> Iterator[List[Any]]:
        """Pass rows on but for those whose contents were lost."""
        for rows in batches:
            kept = [row for row in rows if row[-1] not in carrier.lost]
            for ordinal in carrier.lost:
                counts[ordinal] = 0
            self.copied_versions += len(kept)
            yield kept
