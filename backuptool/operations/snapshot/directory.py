"""Taking a snapshot: compare the tree with the catalog, store what changed, commit.

Owns the order of the steps, and the comparison. How trees are walked and read is left to ``tree``, how contents and
rows are kept to ``storage``, what makes it a snapshot to committing.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import Any, Callable, Iterator, Optional, Sequence

import attrs

from ...progress import Reporter
from ...results.presentation import format_size
from ...results.problem import Problem
from ...results.snapshot import SkippedFile, SnapshotResult
from ...storage.bases import Base, bases_of_files
from ...storage.compression import DEFAULT, require_setting
from ...storage.database import Database
from ...storage.files import current_files, load_versions
from ...storage.pool import ConnectionPool
from ...storage.recognition import open_now
from ...storage.refcounts import ContentsVanishedError
from ...storage.settings import chunking_of
from ...storage.writer import ContentWriter
from ...tree.confined import split
from ...tree.exclusions import Exclusions, read_pattern_file, require_below
from ...tree.held import OpenFiles
from ...tree.metadata import KINDS, signed_inode
from ...tree.source import Source, require_resources
from ..committing import BaseMovedError, Description, Draft, commit, until_committed
from ..processes import HelperFailedError
from .capturing import Capturing
from .database_saving import DatabaseSaver
from .databases import Databases
from .reading import Readers
from .recording import Known, Recorder
from .storing import Storing

__all__ = ["SnapshotOptions", "snapshot"]

#: Changed entries gathered before they are read, in order of likeness: versions and copies of a file then meet in one
#: pack. Of 130,000 entries, 2.06 GB of contents, windows of 31,000 / 78,000 / 130,000 keep 517 / 508 / 491 MB, and the
#: fewer bytes, the less time they take to compress. An entry takes about 450 bytes while its window is read.
_WINDOW = 200_000

#: The first window of a first snapshot is smaller, so that helpers have something to read while the second is filled.
#: Of later ones nearly always all that changed fits into one window, which finds the most files for each base.
_FIRST_WINDOW = 4_000


@attrs.frozen(kw_only=True)
class SnapshotOptions:
    """What is to be saved, and how; see :meth:`backuptool.Repository.snapshot`."""

    source: bytes
    exclude: tuple[str, ...] = ()
    exclude_from: tuple[str, ...] = ()
    exclude_if_present: tuple[str, ...] = ()
    exclude_caches: bool = False
    exclude_larger_than: Optional[int] = None
    max_file_size: Optional[int] = None
    one_file_system: bool = False
    live_sqlite: bool = True
    note: str = ""
    tags: tuple[str, ...] = ()
    pinned: bool = False
    host: str = ""
    compression: str = DEFAULT
    helpers: Optional[int] = None  #: processes that read beside this one; None for what pays
    most_helpers: Optional[int] = None  #: of those; None for no limit

    def exclusions(self) -> Exclusions:
        """Return what the walk leaves out."""
        patterns = [line for path in self.exclude_from for line in read_pattern_file(path)]
        return Exclusions.of(
            [*patterns, *self.exclude],
            self.exclude_if_present,
            self.exclude_caches,
            self.exclude_larger_than,
            self.one_file_system,
        )


def snapshot(
    pool: ConnectionPool, options: SnapshotOptions, reporter: Reporter, clock: Callable[[], int]
) -> SnapshotResult:
    """Save a directory.

    Another process may commit a snapshot of the same source, or prune contents that this one found, while this one
    runs. The commit notices, and the snapshot is taken again: what was stored stays stored, so that is quick.

    Raises:
        ValueError: There is no such compression.
    """
    begin = time.monotonic()
    require_setting(options.compression)
    exclusions = options.exclusions()
    source = Source(options.source, OpenFiles(open_now()))
    helpers = options.helpers
    stored = (0, 0)

    def attempt() -> SnapshotResult:
        nonlocal helpers, stored
        tried = _Attempt(database, source, options, exclusions, reporter, clock, stored)
        try:
            return tried.run(begin, helpers)
        except HelperFailedError:
            helpers = 0
            raise
        finally:
            stored = tried.stored()

    try:
        require_below(exclusions, options.source, source.root)
        with pool.writing(create=True) as database:
            return until_committed(pool.path, attempt, (BaseMovedError, ContentsVanishedError, HelperFailedError))
    finally:
        source.close()


class _Attempt:
    """One walk over the source and one commit."""

    def __init__(
        self,
        database: Database,
        source: Source,
        options: SnapshotOptions,
        exclusions: Exclusions,
        reporter: Reporter,
        clock: Callable[[], int],
        stored: tuple[int, int] = (0, 0),
    ) -> None:
        self._database = database
        self._source = source
        self._options = options
        self._exclusions = exclusions
        self._reporter = reporter
        self._clock = clock
        self._stored = stored
        self._writer: Optional[ContentWriter] = None
        self._started_ns = clock()
        self._draft = Draft(database, options.host, source.root)
        if self._draft.base is not None:  # what is as it was counts by itself
            self._draft.digest = int.from_bytes(self._draft.base.tree_digest, "big")
        self._recorder = Recorder(source.status, self._started_ns, self._draft, self._problem)
        self._databases = Databases(source, self._started_ns) if options.live_sqlite else None
        self._problems: list[Problem] = []
        self._skipped: list[SkippedFile] = []
        self._missing: set[bytes] = set()  # directories that are gone

    def run(self, begin: float, helpers: Optional[int]) -> SnapshotResult:
        """Walk, store and commit.

        Args:
            begin: When the operation began, by the monotonic clock.
            helpers: Number of processes that read beside this one, None for as many as pay.
        """
        chunking = chunking_of(self._database)
        compression = self._options.compression
        most = self._options.most_helpers
        with ContentWriter(self._database, self._clock, compression) as writer, Readers(
            *(self._source.root, compression, writer, helpers, most, self._databases is not None)
        ) as readers:
            self._writer = writer
            storing = Storing(
                *(self._source, chunking, writer, readers, self._recorder),
                *(self._last_versions, self._last_packs, self._reporter, self._problem, self._databases),
            )
            limit = _FIRST_WINDOW if self._draft.base is None else _WINDOW
            window = storing.new_window()
            for path, status, first in self._compare():
                window.add(path, status, first)
                if len(window) >= limit or window.is_full:
                    storing.store(window)
                    window, limit = storing.new_window(), _WINDOW
            storing.store(window)
            del window  # it takes most of the memory, and is let go when its rows were set aside
            captured = self._save_databases(storing)
            storing.finish()
            self._require_source()
            writer.flush()
        self._reporter.report("commit", total_files=self._draft.rows.count)
        new_bytes, stored_bytes = self.stored()
        return commit(
            *(self._database, self._draft, self._description(), writer.ids, self._clock),
            begin=begin,
            read_bytes=storing.read_bytes,
            new_bytes=new_bytes,
            stored_bytes=stored_bytes,
            problems=self._problems,
            skipped=self._skipped,
            databases=list(map(_text, captured)),
        )

    def _require_source(self) -> None:
        """Tell what was taken away as a whole from files that were removed: those that vanish are passed over."""
        self._source.require_same()
        for path, device in self._recorder.mounts.items():
            try:
                there = self._source.status_of(path).st_dev == device
            except OSError:
                there = False
            if not there:
                self._problem("unreadable", path, "the file system was unmounted while it was saved; files are missing")

    def _description(self) -> Description:
        options = self._options
        return Description(
            host=options.host,
            root=self._source.root,
            started_ns=self._started_ns,
            note=options.note,
            tags=options.tags,
            pinned=options.pinned,
        )

    def stored(self) -> tuple[int, int]:
        """Return the new bytes, and what they take, of this attempt and of those before: what was stored stays."""
        if self._writer is None:
            return self._stored
        return self._stored[0] + self._writer.new_bytes, self._stored[1] + self._writer.stored_bytes

    def _save_databases(self, storing: Storing) -> Sequence[bytes]:
        """Save what was put off, and return the databases that were captured."""
        if self._databases is None:
            return ()
        with Capturing(self._source.root) as capturing:
            saver = DatabaseSaver(
                *(self._source, self._databases, capturing, storing, self._recorder, self._last_versions),
                self._problem,
            )
            saver.run()
        return saver.captured

    # Comparing: a merge of two sorted streams, in constant memory.

    def _compare(self) -> Iterator[tuple[bytes, os.stat_result, Optional[int]]]:
        """Yield the entries that are not as the catalog has them, each with the first snapshot of its last version.

        Those that are gone are noted.
        """
        rows = current_files(self._database, self._draft.source)
        row = next(rows, None)
        limit = self._options.max_file_size
        active = self._reporter.active
        gone: list[Any] = []
        seen = directories = files = kept_size = 0
        device = -1
        kinds = KINDS.get
        recorder = self._recorder
        databases = self._databases
        companions = None if databases is None else databases.companions
        owners: set[bytes] = set() if companions is None else companions.owners
        database = self._database  # neither it nor its journal is saved
        walk = self._source.walk(
            *(self._exclusions, self._unlisted, database.identities(), database.journal_names(), companions)
        )
        for path, status in walk:
            seen += 1
            if active:
                self._reporter.report("scan", done_files=seen, path=path)
            if status.st_dev != device:
                device = status.st_dev
                recorder.enter(path, status)
            mode = status.st_mode
            format_bits = mode & 0o170000
            regular = format_bits == 0o100000
            if limit is not None and regular and status.st_size > limit:
                self._skip(path, status.st_size, limit)
                continue
            while row is not None and row[0] < path:
                gone.append(row)
                row = next(rows, None)
            first = None
            if row is not None and row[0] == path:
                _, kind, size, mtime_ns, ctime_ns, inode, permissions, first = row
                row = next(rows, None)
                same = (
                    ctime_ns == status.st_ctime_ns
                    and mtime_ns == status.st_mtime_ns
                    and (inode == status.st_ino or inode == signed_inode(status.st_ino))
                    and size == (status.st_size if regular else 0)
                    and permissions == mode & 0o7777
                    and kind == kinds(format_bits)
                )
                if owners and path in owners and regular and databases is not None:
                    same = databases.meet(path, status, same, ctime_ns, inode)
                if same:
                    # As nearly all entries of nearly all snapshots: no calls here.
                    if format_bits == 0o040000:
                        directories += 1
                    else:
                        files += 1
                        kept_size += size
                    continue
            elif owners and path in owners and regular and databases is not None:
                databases.meet(path, status, False, None, None)
            if gone:
                self._remove(gone)
                gone = []
            if owners and regular and databases is not None and databases.put_off(path, status, first):
                continue
            yield path, status, first
        while row is not None:
            gone.append(row)
            row = next(rows, None)
        self._remove(gone)
        recorder.keep(directories, files, kept_size)

    def _remove(self, rows: list[Any]) -> None:
        """End the versions of entries that the walk did not come to."""
        if not rows:
            return
        assert self._draft.source is not None
        for version, first, _ in load_versions(self._database, self._draft.source, [row[0] for row in rows]):
            self._recorder.remove(version, first, gone=self._is_gone(version.path, version.kind == b"d"))

    def _is_gone(self, path: bytes, directory: bool) -> bool:
        """Tell whether nothing is there any more, of what the walk did not come to: it may have been left out.

        What is below a directory that is gone costs no look.
        """
        gone = split(path)[0] in self._missing
        if not gone:
            try:
                gone = stat.S_ISDIR(self._source.status_of(path).st_mode) and not directory
            except OSError as exc:  # what cannot be looked at may well be there
                gone = exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
        if gone and directory:
            self._missing.add(path)
        return gone

    def _last_versions(self, paths: Sequence[bytes]) -> Known:
        if self._draft.source is None:
            return {}
        versions = load_versions(self._database, self._draft.source, paths)
        return {version.path: (version, first) for version, first, _ in versions}

    def _last_packs(self, paths: Sequence[bytes]) -> Iterator[tuple[bytes, Base]]:
        source = self._draft.source
        return iter(()) if source is None else bases_of_files(self._database, source, paths)

    def _unlisted(self, path: bytes, exc: OSError) -> None:
        require_resources(path, exc)
        self._problem("unreadable", path, f"cannot be listed: {exc.strerror}")

    def _skip(self, path: bytes, size: int, limit: int) -> None:
        reason = f"above the limit of {format_size(limit)}"
        self._skipped.append(SkippedFile(path=_text(path), size_bytes=size, reason=reason))

    def _problem(self, kind: str, path: bytes, message: str) -> None:
        self._problems.append(Problem(kind=kind, path=_text(path) or ".", message=message))


def _text(path: bytes) -> str:
    return os.fsdecode(path)
