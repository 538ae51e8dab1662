"""Copying one snapshot: which versions make it up, whether it is whole, and how it becomes one at the destination.

Owns one attempt. Which snapshots are copied, and what is made of the outcome, is copy's business; how
bytes get there the carrier's.
"""

from __future__ import annotations

import os
from array import array
from itertools import chain, islice
from typing import Callable, Iterable, Iterator, Optional, Tuple, Union

import attrs

from ...errors import CorruptionError, SnapshotNotFoundError
from ...progress import Reporter
from ...results.changes import Changes
from ...storage.compression import DEFAULT
from ...storage.database import Database
from ...storage.digest import FileVersion
from ...storage.files import load_versions, row_version, version_row
from ...storage.gaps import Gap
from ...storage.snapshots import SnapshotRow, find_snapshot
from ...storage.spool import Spool
from ...storage.transfer import StoredVersion, added_between, ended_between, find_equal, later_than, versions_of
from ...storage.writer import ContentWriter
from ..committing import BaseMovedError, Draft, commit_copy
from ..validating import flaw
from .carrying import Carrier

__all__ = ["INCOMPLETE", "CopyAttempt", "CopyOptions"]

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


class _UnfitError(CorruptionError):
    """The row of a file holds what no file can have."""


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
        differing: bool = True,
    ) -> None:
        self._origin = origin
        self._destination = destination
        self._row = row
        self._changes = changes
        self._options = options
        self._reporter = reporter
        self._clock = clock
        self._differing = differing
        self._gaps: list[Gap] = []
        self._draft = Draft(destination, row.host, row.root)
        self._lost_files: set[bytes] = set()
        self.damages: list[Tuple[str, str, str, Optional[str]]] = []
        self.copied_versions = self.new_bytes = self.stored_bytes = self.whole_packs = 0
        self.newer = later_than(destination, self._draft.source, row.started_ns)

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
        self.new_bytes, self.stored_bytes = writer.new_bytes - carrier.lost_bytes, writer.stored_bytes
        self.whole_packs = carrier.whole_packs
        self._find_lost(carrier, len(writer.ids))
        if self._row.compute_digest() != self._row.digest:
            self._damage("snapshot-corrupt", "", "the description of a snapshot is not as it was saved; run check")
        elif self._gaps:
            message = "the list of files of a snapshot cannot be read as a whole; run check to see what is hit"
            self._damage("snapshot-corrupt", "", message)
        elif not self._lost_files and not self._is_as_described():
            self._damage("snapshot-corrupt", "", "the list of files of a snapshot is not as it was saved; run check")
        if self.damages and not self._options.incomplete:
            return None
        self.copied_versions = self._draft.rows.count
        self._reporter.report("commit", total_files=self.copied_versions)
        row = self._row
        if self.damages:
            tags = tuple(sorted({*row.tags, INCOMPLETE}))
            row = attrs.evolve(row, tags=tags, problem_files=row.problem_files + len(self.damages))
        return commit_copy(destination, self._draft, row, self._changes, writer.ids, self._clock())

    def _is_as_described(self) -> bool:
        """Tell whether what was found adds up to what the snapshot says of itself."""
        draft, row = self._draft, self._row
        figures = (draft.tree_digest, draft.files, draft.directories, draft.size)
        return figures == (row.tree_digest, row.files, row.directories, row.size)

    # What differs from the destination's newest snapshot of the source.

    def _changed(self) -> Iterator[StoredVersion]:
        """Yield the versions that the destination's newest snapshot lacks; note which of its versions end."""
        draft = self._draft
        base = draft.base
        before = None if base is None or not self._differing else find_equal(self._origin, self._row, base.tree_digest)
        if base is None or before is None:
            yield from self._merged()
            return
        # The destination has exactly what an earlier snapshot has here: the difference is a query, not a walk.
        draft.digest = int.from_bytes(base.tree_digest, "big")
        draft.files, draft.directories, draft.size = base.files, base.directories, base.size
        ended = ended_between(self._origin, before, self._row)
        while True:
            batch = list(islice(ended, _BATCH))
            if not batch:
                break
            self._end(version.path for version in batch)
        self._require(before)
        for stored in added_between(self._origin, before, self._row):
            draft.hold(stored.version)
            yield stored

    def _require(self, before: int) -> None:
        """Begin anew if an earlier snapshot was pruned: what it alone had is gone, and was not seen to end."""
        try:
            find_snapshot(self._origin, before)
        except SnapshotNotFoundError:
            raise BaseMovedError from None

    def _end(self, paths: Iterable[bytes]) -> None:
        draft = self._draft
        assert draft.source is not None
        for version, first, _ in load_versions(self._destination, draft.source, paths):
            draft.hold(version, -1)
            draft.closed.append((version.path, first))

    def _merged(self) -> Iterator[StoredVersion]:
        """Compare two sorted lists of files."""
        draft = self._draft
        there = iter(()) if draft.base is None else versions_of(self._destination, draft.base)
        old = next(there, None)
        for stored in versions_of(self._origin, self._row, self._gaps.append):
            draft.hold(stored.version)
            path = stored.version.path
            while old is not None and old.version.path < path:
                draft.closed.append((old.version.path, old.first))
                old = next(there, None)
            if old is not None and old.version.path == path:
                same = old.version == stored.version
                if not same:
                    draft.closed.append((path, old.first))
                old = next(there, None)
                if same:
                    continue
            yield stored
        while old is not None:
            draft.closed.append((old.version.path, old.first))
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
            self._draft.rows.add(version_row(version, ctime_ns, inode, ordinal))

    def _lose(self, version: FileVersion, exc: CorruptionError) -> None:
        """Do without a version."""
        self._draft.hold(version, -1)
        self._lost_files.add(version.path)
        shown = os.fsdecode(version.path)
        kind = "catalog-corrupt" if isinstance(exc, _UnfitError) else "content-corrupt"
        self._damage(kind, shown, f"not copied: {exc}", version.hash)

    def _damage(self, kind: str, path: str, message: str, content: Optional[bytes] = None) -> None:
        self.damages.append((kind, path, message, None if content is None else content.hex()))

    def _find_lost(self, carrier: Carrier, ordinals: int) -> None:
        """Do without the files whose contents turned out to be damaged when they were read."""
        if not carrier.lost:
            return
        rows, self._draft.rows = self._draft.rows, Spool()
        for row in chain.from_iterable(rows.drain(array("I", bytes(4 * ordinals)))):
            if row[-1] in carrier.lost:
                digest, exc = carrier.lost[row[-1]]
                self._lose(row_version(row, digest), exc)
            else:
                self._draft.rows.add(row)
