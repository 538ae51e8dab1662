"""Taking a snapshot: compare the tree with the catalog, store what changed, commit.

Owns the order of the steps and what is done when something changes meanwhile. How trees are walked and read is left to
``tree``, how contents and rows are kept to ``storage``.
"""

from __future__ import annotations

import errno
import os
import time
from array import array
from collections import deque
from typing import Any, Callable, Deque, Iterator, Optional, Tuple, Union

import attrs

from ..errors import CorruptionError, RepositoryLockedError
from ..progress import Reporter
from ..results import Problem, SkippedFile, SnapshotResult, format_size
from ..storage import catalog
from ..storage.chunking import Chunking
from ..storage.contents import ContentsVanishedError, reference
from ..storage.database import Database
from ..storage.digest import MODULUS, to_bytes
from ..storage.pool import ConnectionPool
from ..storage.spool import Spool
from ..storage.writer import ContentWriter
from ..tree.exclusions import Exclusions, read_pattern_file
from ..tree.metadata import Status, kind_of, read_xattrs, signed_inode
from ..tree.source import FileChangedError, Source
from .processes import HelperFailedError
from .reading import MOST_BYTES, Readers, Task
from .recording import Known, Recorder
from .saving import FileSaver, SavedFile

__all__ = ["SnapshotOptions", "snapshot"]

#: Changed entries gathered before they are read, in order of likeness: versions and copies of a file then meet in one
#: pack. Measured on 81,858 files: 540 MB with a window of 30,000, 536 MB with one of 82,000, 596 MB in walk order.
#: An entry takes about a KB while its window is read.
_WINDOW = 25_000

#: The first window is smaller, so that there is soon something to compress.
_FIRST_WINDOW = 4_000

#: Times that a snapshot begins anew because another process changed what it was based on. Of that many at once, each
#: of which saves the same source, all get their turn; an attempt reads nothing that was read before.
_ATTEMPTS = 50


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
    note: str = ""
    tags: tuple[str, ...] = ()
    host: str = ""
    helpers: Optional[int] = None

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
    """
    begin = time.monotonic()
    exclusions = options.exclusions()
    source = Source(options.source)
    helpers = options.helpers
    try:
        with pool.writing(create=True) as database:
            for _ in range(_ATTEMPTS):
                attempt = _Attempt(database, source, options, exclusions, reporter, clock)
                try:
                    return attempt.run(begin, helpers)
                except (_BaseMovedError, ContentsVanishedError):
                    continue
                except HelperFailedError:
                    helpers = 0
    finally:
        source.close()
    raise RepositoryLockedError(
        f"other processes changed the repository {pool.path} each of {_ATTEMPTS} times that the snapshot was to be "
        "committed; what was read is stored: run it again",
        pool.path,
    )


class _BaseMovedError(Exception):
    """Another process has committed a snapshot of the same source."""


#: Path, status, and the first snapshot of its version in the catalog, None if there is none.
_Found = Tuple[bytes, Status, Optional[int]]

_DONE: _Found = (b"", Status(*[0] * len(Status._fields)), None)


@attrs.define(eq=False)
class _Window:
    """Changed entries that are read together.

    Attributes:
        entries: In order of paths.
        known: Their last versions.
        rows: What the commit writes of each, as far as it is known.
        unread: Number of files that are still being read.
    """

    entries: list[_Found]
    known: Known
    rows: list[Optional[catalog.VersionRow]]
    unread: int = 0


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
    ) -> None:
        self._database = database
        self._source = source
        self._options = options
        self._exclusions = exclusions
        self._reporter = reporter
        self._clock = clock
        self._started_ns = clock()
        self._source_id = catalog.source_id(database, options.host, source.root)
        self._base = catalog.newest_snapshot(database, self._source_id)
        self._links: dict[tuple[int, int], SavedFile] = {}
        self._leading: dict[tuple[int, int], list[tuple[_Window, int]]] = {}  # waiting for another path of their inode
        self._windows: Deque[_Window] = deque()
        digest = 0 if self._base is None else _tree_digest(database, self._base)
        self._recorder = Recorder(source.status, self._started_ns, digest, self._problem)
        self._rows = Spool()
        self._problems: list[Problem] = []
        self._skipped: list[SkippedFile] = []
        self._done_files = 0

    def run(self, begin: float, helpers: Optional[int]) -> SnapshotResult:
        """Walk, store and commit.

        Args:
            begin: When the operation began, by the monotonic clock.
            helpers: Number of processes that read beside this one, None for as many as pay.
        """
        chunking = _chunking(self._database)
        with ContentWriter(self._database, self._clock) as self._writer, Readers(
            self._source.root, chunking, self._writer, helpers
        ) as self._readers:
            self._saver = FileSaver(self._source, self._writer, chunking, self._problem, self._report_reading)
            window: list[_Found] = []
            limit = _FIRST_WINDOW
            for changed in self._compare():
                window.append(changed)
                if len(window) >= limit:
                    self._store(window)
                    window = []
                    limit = _WINDOW
            self._store(window)
            self._await()
            self._readers.finish()
            for finding in self._readers.findings:
                self._problem(*finding)
            self._writer.flush()
        self._reporter.report("commit", total_files=self._rows.count)
        row = self._commit()
        return SnapshotResult(
            snapshot=row.to_result(),
            new_files=self._recorder.new,
            changed_files=self._recorder.changed,
            unchanged_files=self._recorder.unchanged,
            removed_files=self._recorder.removed,
            skipped_files=len(self._skipped),
            read_bytes=self._read_bytes,
            new_bytes=self._writer.new_bytes,
            stored_bytes=self._writer.stored_bytes,
            elapsed_seconds=time.monotonic() - begin,
            skipped=tuple(self._skipped),
            problems=tuple(self._problems),
        )

    # Comparing: a merge of two sorted streams, in constant memory.

    def _compare(self) -> Iterator[_Found]:
        """Yield the entries that are not as the catalog has them; note those that are gone."""
        rows = catalog.current_files(self._database, self._source_id)
        row = next(rows, None)
        limit = self._options.max_file_size
        active = self._reporter.active
        gone: list[Any] = []
        seen = 0
        recorder = self._recorder
        database = self._database  # neither it nor its journal is saved
        walk = self._source.walk(self._exclusions, self._unlisted, database.identities(), database.journal_names())
        for path, status in walk:
            seen += 1
            if active:
                self._reporter.report("scan", done_files=seen, path=path)
            recorder.enter(path, status)
            mode = status.st_mode
            regular = (mode & 0o170000) == 0o100000
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
                if (
                    ctime_ns == status.st_ctime_ns
                    and mtime_ns == status.st_mtime_ns
                    and inode == signed_inode(status.st_ino)
                    and size == (status.st_size if regular else 0)
                    and permissions == mode & 0o7777
                    and kind == kind_of(mode)
                ):
                    recorder.keep(kind, size)
                    continue
            if gone:
                self._remove(gone)
                gone = []
            yield path, Status.of(status), first
        while row is not None:
            gone.append(row)
            row = next(rows, None)
        self._remove(gone)

    def _remove(self, rows: list[Any]) -> None:
        """End the versions of entries that are gone."""
        if not rows:
            return
        assert self._source_id is not None
        skipped = {os.fsencode(file.path) for file in self._skipped}
        unreadable = {os.fsencode(problem.path) for problem in self._problems}
        for version, first, _ in catalog.load_versions(self._database, self._source_id, [row[0] for row in rows]):
            self._recorder.end(version, first)
            if version.kind != b"d" and version.path not in skipped and not _is_within(version.path, unreadable):
                self._recorder.removed += 1

    # Storing: read what changed in order of likeness, record it in order of paths.

    def _store(self, entries: list[_Found]) -> None:
        """Read the files of a window, and set the rows of all its entries aside for the commit.

        Where helpers read they are still at it afterwards.
        """
        known: Known = {}
        if self._source_id is not None:
            paths = [path for path, _, first in entries if first is not None]
            for version, first, _ in catalog.load_versions(self._database, self._source_id, paths):
                known[version.path] = (version, first)
        window = _Window(entries, known, [None] * len(entries))
        self._windows.append(window)
        away: list[int] = []
        here: list[int] = []
        size = 0
        for index, (path, status, _) in enumerate(entries):
            if (status.st_mode & 0o170000) != 0o100000:
                window.rows[index] = self._record_special(path, status, known)
            elif status.st_size <= MOST_BYTES:
                away.append(index)
                size += status.st_size
            else:
                here.append(index)
        if not self._readers.start(len(away), size):
            here, away = here + away, []
        for indexes in (here, away):
            indexes.sort(key=lambda index: _likeness(entries[index][0]))
        self._submit(window, away)
        for index in here:
            self._read_here(window, index)
            self._take_found(wait=False)
        # Walk on when the helpers will soon have nothing more to do, and not before: a window takes memory.
        while self._readers.unfinished and not self._readers.idle:
            self._take_found(wait=True)
        self._collect_windows()

    def _submit(self, window: _Window, indexes: list[int]) -> None:
        """Have files of a window read by helpers."""
        tasks: list[Task] = []
        for index in indexes:
            path, status, _ = window.entries[index]
            if status.st_nlink > 1:  # one path of an inode is read
                inode = (status.st_dev, status.st_ino)
                if inode in self._leading:
                    self._leading[inode].append((window, index))
                    window.unread += 1
                    continue
                if inode in self._links:
                    self._read_here(window, index)
                    continue
                self._leading[inode] = []
            tasks.append(((window, index), path, status))
        window.unread += len(tasks)
        self._readers.submit(tasks)

    def _read_here(self, window: _Window, index: int) -> None:
        """Read a file in this process, and record it."""
        path, status, _ = window.entries[index]
        self._done_files += 1
        self._report_reading(path)
        outcome: Union[SavedFile, OSError, FileChangedError, None] = None
        if status.st_nlink > 1:
            outcome = self._links.get((status.st_dev, status.st_ino))
        if outcome is None:
            try:
                outcome = self._saver.save(path, status)
            except (OSError, FileChangedError) as exc:
                outcome = exc
        self._record(window, index, outcome)

    def _take_found(self, *, wait: bool) -> None:
        """Record files that helpers have read."""
        readers = self._readers
        for (window, index), outcome in readers.found(wait=wait):
            path, status, _ = window.entries[index]
            window.unread -= 1
            self._done_files += 1
            self._report_reading(path)
            self._record(window, index, outcome)
            if status.st_nlink > 1:
                for other, waiting in self._leading.pop((status.st_dev, status.st_ino)):
                    other.unread -= 1
                    self._read_here(other, waiting)

    def _record(self, window: _Window, index: int, outcome: Union[SavedFile, OSError, FileChangedError]) -> None:
        """Record a regular file, by what became of its bytes."""
        path, known = window.entries[index][0], window.known
        window.entries[index] = _DONE  # nothing more is needed of it
        if isinstance(outcome, SavedFile):
            status, (size, digest, ordinal), sparse, xattrs = outcome
            if status.st_nlink > 1:  # of what was opened: another file may have taken the name meanwhile
                self._links[status.st_dev, status.st_ino] = outcome
            window.rows[index] = self._recorder.record(
                path, b"f", status, known, size, digest, ordinal, sparse, None, None, xattrs
            )
            return
        gone = isinstance(outcome, OSError) and outcome.errno == errno.ENOENT
        if isinstance(outcome, FileChangedError):
            self._problem("changed-kind", path, str(outcome))
        elif not gone:
            self._problem("unreadable", path, f"cannot be read: {outcome.strerror or outcome}")
        self._recorder.lose(path, known, gone=gone)

    def _await(self) -> None:
        """Wait until everything was read."""
        while self._readers.unfinished:
            self._take_found(wait=True)
        self._collect_windows()

    def _collect_windows(self) -> None:
        """Set the rows of windows that were read aside for the commit."""
        while self._windows and not self._windows[0].unread:
            self._rows.extend(row for row in self._windows.popleft().rows if row is not None)

    def _record_special(self, path: bytes, status: Status, known: Known) -> Optional[catalog.VersionRow]:
        """Record a directory, symlink, FIFO, socket or device: everything that has no bytes."""
        kind = kind_of(status.st_mode)
        if kind is None:
            self._problem("unsupported", path, "is of a kind that cannot be saved")
            self._recorder.lose(path, known, gone=False)
            return None
        try:
            target = self._source.read_link(path) if kind == b"l" else None
            xattrs = read_xattrs(self._source.unfollowed(path))
        except OSError as exc:
            if exc.errno in (errno.EINVAL, errno.ENOTDIR):
                self._problem("changed-kind", path, "became another kind of file while the tree was walked")
            elif exc.errno != errno.ENOENT:
                self._problem("unreadable", path, f"cannot be read: {exc.strerror}")
            self._recorder.lose(path, known, gone=exc.errno == errno.ENOENT)
            return None
        rdev = status.st_rdev if kind in b"cb" else None
        return self._recorder.record(path, kind, status, known, rdev=rdev, target=target, xattrs=xattrs)

    @property
    def _read_bytes(self) -> int:
        return self._saver.read_bytes + self._readers.read_bytes

    def _report_reading(self, path: bytes = b"") -> None:
        if self._reporter.active:
            self._reporter.report("read", done_files=self._done_files, done_bytes=self._read_bytes, path=path)

    def _unlisted(self, path: bytes, exc: OSError) -> None:
        self._problem("unreadable", path, f"cannot be listed: {exc.strerror}")

    def _skip(self, path: bytes, size: int, limit: int) -> None:
        reason = f"above the limit of {format_size(limit)}"
        self._skipped.append(SkippedFile(path=_text(path), size_bytes=size, reason=reason))

    def _problem(self, kind: str, path: bytes, message: str) -> None:
        self._problems.append(Problem(kind=kind, path=_text(path) or ".", message=message))

    # Committing: everything that makes it a snapshot, in one transaction.

    def _commit(self) -> catalog.SnapshotRow:
        database = self._database
        options = self._options
        recorder = self._recorder
        ids = self._writer.ids
        # What a prune took meanwhile is counted by reference.
        with database.without_foreign_keys(), database.transaction():
            source = catalog.source_id(database, options.host, self._source.root, create=True)
            assert source is not None
            if catalog.newest_snapshot(database, source) != self._base:
                raise _BaseMovedError
            number = catalog.next_snapshot_id(database)
            if self._base is not None:
                catalog.close_versions(database, source, self._base, recorder.closed)
                catalog.update_stamps(database, source, recorder.stamps)
            counts = array("I", bytes(4 * len(ids)))
            catalog.insert_versions(database, source, number, self._base is not None, self._rows.drain(counts), ids)
            distinct = reference(database, number, ids, counts)
            return catalog.insert_snapshot(
                database,
                catalog.SnapshotRow(
                    id=number,
                    source=source,
                    host=options.host,
                    root=self._source.root,
                    started_ns=self._started_ns,
                    finished_ns=self._clock(),
                    files=recorder.files,
                    directories=recorder.directories,
                    size=recorder.size,
                    distinct_size=distinct,
                    skipped_files=len(self._skipped),
                    problem_files=len({problem.path for problem in self._problems}),
                    note=options.note,
                    tags=options.tags,
                    tree_digest=to_bytes(recorder.tree_digest % MODULUS),
                ),
            )


def _is_within(path: bytes, others: set[bytes]) -> bool:
    """Tell whether a path or a directory above it is among others."""
    while path and others:
        if path in others:
            return True
        path = path.rpartition(b"/")[0]
    return b"." in others


def _likeness(path: bytes) -> tuple[bytes, bytes]:
    """Return a key by which versions and copies of a file sort together: extension, then name."""
    name = path.rpartition(b"/")[2]
    return name.rpartition(b".")[2], name


def _chunking(database: Database) -> Chunking:
    settings = database.query("SELECT name, value FROM settings")
    try:
        return Chunking.from_settings(
            {name.decode(): value.decode() if isinstance(value, bytes) else value for name, value in settings}
        )
    except (AttributeError, ValueError) as exc:
        raise CorruptionError(
            f"the settings of {database.path} are damaged; run check to see what else is hit", database.path
        ) from exc


def _tree_digest(database: Database, snapshot: int) -> int:
    return int.from_bytes(catalog.find_snapshot(database, snapshot).tree_digest, "big")


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")
