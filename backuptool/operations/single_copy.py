"""Copying one snapshot: which versions make it up, whether it is whole, and how it becomes one at the destination.

Owns one attempt and its commit. Which snapshots are copied, and what is made of the outcome, is copy's business; how
bytes get there the carrier's.
"""

from __future__ import annotations

import marshal
from array import array
from itertools import chain, islice
from typing import Any, Callable, Iterable, Iterator, List, Optional, Tuple, Union

import attrs

from ..errors import CorruptionError, SnapshotNotFoundError
from ..progress import Reporter
from ..results.changes import Changes
from ..storage import catalog, records
from ..storage.catalog import SnapshotRow, find_snapshot
from ..storage.compression import DEFAULT
from ..storage.contents import reference
from ..storage.database import Database
from ..storage.digest import MODULUS, FileVersion, row_hash, to_bytes
from ..storage.spool import Spool
from ..storage.transfer import StoredVersion, added_between, ended_between, find_equal, later_than, versions_of
from ..storage.writer import ContentWriter
from .carrying import Carrier
from .validating import flaw

__all__ = ["INCOMPLETE", "BaseMovedError", "CopyAttempt", "CopyOptions"]

#: The tag of a copy that lacks something.
INCOMPLETE = "incomplete"

#: Versions whose contents are looked up at the destination at a time.
_BATCH = 1000


@attrs.frozen(kw_only=True)
class CopyOptions:
    """What is to be copied, and how; see :meth:`backuptool.Repository.copy`."""

    snapshots: Optional[Tuple[Union[int, str], ...]] = None
    incomplete: bool = False
    compression: Optional[str] = None


class BaseMovedError(Exception):
    """Another process has committed a snapshot of the same source at the destination."""


class _UnfitError(CorruptionError):
    """The row of a file holds what no file can have."""


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


class CopyAttempt:
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
            raise BaseMovedError from None

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
                raise BaseMovedError
            number = catalog.next_snapshot_id(database)
            if base is not None:
                catalog.close_versions(database, source, base, self._closed)
            counts = array("I", bytes(4 * len(ids)))
            kept = self._kept(self._rows.drain(counts), carrier, counts)
            catalog.insert_versions(database, source, number, base is not None, kept, ids)
            brought = reference(database, number, ids, counts)
            figures = self._figures
            tags = sorted({*row.tags, INCOMPLETE}) if self.damages else row.tags
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
