"""Storing what changed: read files in order of likeness, record them in order of their paths.

Owns which files are read where, and what becomes of those that cannot be read. How a file is read is saving's and
reading's, how it is compared with its last version recording's.
"""

from __future__ import annotations

import errno
from array import array
from collections import deque
from itertools import chain
from typing import Callable, Deque, Iterator, Optional, Sequence, Tuple, Union

from ...progress import Reporter
from ...storage.arriving import Content
from ...storage.bases import Base
from ...storage.chunking import LARGE_FILE, Chunking
from ...storage.files import VersionRow
from ...storage.writer import ContentWriter
from ...tree.metadata import AnyStatus, Status, kind_of
from ...tree.source import FileChangedError, Source, require_resources
from ..large_files import LargeFiles
from .databases import Databases
from .grouping import LookUpBases, group_by_base
from .reading import Readers
from .recording import Known, Recorder
from .saving import DatabaseFoundError, FileSaver, SavedFile
from .window import Entry, Window

__all__ = ["Storing"]

#: Files that helpers may still have to read while the next window is filled: reading so many takes longer than that.
_WAITING = 50_000

#: Files whose last versions are looked up at a time where this process reads them: one takes about a KB.
_BATCH = 1000


class Storing:
    """Stores windows of changed entries, and sets their rows aside.

    Args:
        source: Where they are.
        chunking: How large files are cut.
        writer: Where their bytes go.
        readers: What reads beside this process.
        recorder: Makes their rows, and has the draft to which they go.
        look_up: Returns the last versions of paths that have one.
        look_up_bases: Returns the packs in which these lie, as far as they can be bases.
        reporter: Is told how far it is.
        on_problem: Called with kind, path and message.
        databases: Is told of databases, which are not stored here; None if they are files like others.
    """

    def __init__(
        self,
        source: Source,
        chunking: Chunking,
        writer: ContentWriter,
        readers: Readers,
        recorder: Recorder,
        look_up: Callable[[Sequence[bytes]], Known],
        look_up_bases: LookUpBases,
        reporter: Reporter,
        on_problem: Callable[[str, bytes, str], None],
        databases: Optional[Databases] = None,
    ) -> None:
        self._source = source
        self._writer = writer
        self._readers = readers
        self._recorder = recorder
        self._look_up = look_up
        self._look_up_bases = look_up_bases
        self._reporter = reporter
        self._problem = on_problem
        self._databases = databases
        self._large = LargeFiles(writer, chunking, self._take_all_found)
        self._saver = FileSaver(source, writer, self._large.store, on_problem, capturing=databases is not None)
        self._savers = [self._saver]
        self._windows: Deque[Window] = deque()
        self._links: dict[tuple[int, int], SavedFile] = {}
        self._following: dict[tuple[int, int], list[tuple[Window, int]]] = {}  # waiting for another path of their inode
        self._postponed: Deque[tuple[Window, int]] = deque()  # to be read by this process after all
        self._done_files = 0

    def new_window(self) -> Window:
        """Return an empty window, behind those there are."""
        self._windows.append(Window())
        return self._windows[-1]

    def store(self, window: Window) -> None:
        """Read the files of a window, and set the rows of all its entries aside for the commit.

        Where helpers read they are still at it afterwards.
        """
        for batch in _batches(window.others):
            entries = [window.entry(position) for position in batch]
            known = self._known(entries)
            for position, entry in zip(batch, entries):
                window.finish(position, self._record_special(entry.path, entry.status, known))
        sizes = window.sizes
        here = array("I", (position for position in window.files if sizes[position] > LARGE_FILE))
        away = array("I", (position for position in window.files if sizes[position] <= LARGE_FILE))
        groups = group_by_base(window, self._look_up_bases)
        grouped = bytearray(len(window))
        for position in chain.from_iterable(group.positions for group in groups):
            grouped[position] = 1
        alone = array("I", (position for position in away if not grouped[position])) if groups else away
        if self._readers.start(len(away), sum(sizes[position] for position in away)):
            self._submit(window, window.by_likeness(alone))
            for base, positions in groups:
                self._submit(window, positions, base)
            self._read_all_here(window, window.by_likeness(here))
        else:
            self._read_all_here(window, window.by_likeness([*here, *alone]))
            for base, positions in groups:
                self._writer.begin_group(base)
                self._read_all_here(window, positions)
        self._writer.give_memory_back()
        # Walk on while the helpers have enough to do, but not before most is done: what waits takes memory.
        while self._readers.unfinished > _WAITING:
            self._take_found(wait=True)
            self._read_postponed()
        self._collect_windows()

    def _read_all_here(self, window: Window, positions: Sequence[int]) -> None:
        """Read files of a window in this process."""
        for batch in _batches(positions):
            known = self._known([window.entry(position) for position in batch])
            for position in batch:
                self._read_here(window, position, known)
                self._take_all_found()

    def _submit(self, window: Window, positions: Sequence[int], base: Optional[Base] = None) -> None:
        """Have files of a window read by helpers."""
        leading = array("I")
        for position in positions:
            if position in window.linked:  # one path of an inode is read
                status = window.entry(position).status
                inode = (status.st_dev, status.st_ino)
                if inode in self._following:
                    self._following[inode].append((window, position))
                    window.unread += 1
                    continue
                if inode in self._links:
                    self._read_here(window, position)
                    continue
                self._following[inode] = []
            leading.append(position)
        window.unread += len(leading)
        self._readers.submit(window, leading, base)

    def _known(self, entries: Sequence[Entry]) -> Known:
        """Return the last versions of entries."""
        paths = [entry.path for entry in entries if entry.first is not None]
        return self._look_up(paths) if paths else {}

    def _read_here(self, window: Window, position: int, known: Optional[Known] = None) -> None:
        """Read a file in this process, and record it."""
        entry = window.entry(position)
        path, status, _ = entry
        self._done_files += 1
        self.report_reading(path)
        outcome: Union[SavedFile, OSError, FileChangedError, DatabaseFoundError, None] = None
        if status.st_nlink > 1:
            outcome = self._links.get((status.st_dev, status.st_ino))
        if outcome is None and self._databases is not None and self._databases.is_own(status):
            outcome = DatabaseFoundError()  # or no database: who may open it will see
        if outcome is None:
            try:
                outcome = self._saver.save(path, status)
            except (OSError, FileChangedError, DatabaseFoundError) as exc:
                outcome = exc
        window.finish(position, self.record(path, outcome, self._known([entry]) if known is None else known))

    def _take_found(self, *, wait: bool = False) -> bool:
        """Record files that helpers have read, and put off what this process is to read; False if there were none."""
        found = self._readers.found(wait=wait)
        if not found:
            return False
        entries = [file.window.entry(file.position) for file in found]
        known = self._known(entries)
        for (window, position, outcome), (path, status, _) in zip(found, entries):
            if outcome is None:  # it has grown
                self._postponed.append((window, position))
            else:
                window.unread -= 1
                self._done_files += 1
                if isinstance(outcome, Content):
                    outcome = SavedFile(status, outcome, 0, None)
                window.finish(position, self.record(path, outcome, known))
            if status.st_nlink > 1:
                self._postponed += self._following.pop((status.st_dev, status.st_ino))
        self.report_reading(found[-1].window.path(found[-1].position))
        return True

    def _read_postponed(self) -> None:
        """Read what was put off."""
        while self._postponed:
            window, position = self._postponed.popleft()
            window.unread -= 1
            self._read_here(window, position)

    def record(
        self,
        path: bytes,
        outcome: Union[SavedFile, OSError, FileChangedError, DatabaseFoundError],
        known: Known,
        stamp: Optional[Tuple[Optional[int]]] = None,
    ) -> Optional[VersionRow]:
        """Record a regular file, by what became of its bytes, and return its row, if it needs a new one."""
        if isinstance(outcome, DatabaseFoundError):
            assert self._databases is not None
            self._databases.found(path)
            return None
        if isinstance(outcome, SavedFile):
            status, (size, digest, ordinal), sparse, xattrs = outcome
            if status.st_nlink > 1:  # of what was opened: another file may have taken the name meanwhile
                self._links[status.st_dev, status.st_ino] = outcome
            return self._recorder.record(
                path, b"f", status, known, size, digest, ordinal, sparse, None, None, xattrs, stamp
            )
        gone = isinstance(outcome, OSError) and outcome.errno == errno.ENOENT
        if isinstance(outcome, FileChangedError):
            self._problem("changed-kind", path, str(outcome))
        elif not gone:
            require_resources(path, outcome)
            self._problem("unreadable", path, f"cannot be read: {outcome.strerror or outcome}")
        self._recorder.lose(path, known, gone=gone)
        return None

    def saved_link(self, status: AnyStatus) -> Optional[SavedFile]:
        """Return what was saved of another path of a file, None if it has none or none was saved."""
        return self._links.get((status.st_dev, status.st_ino)) if status.st_nlink > 1 else None

    def plain_saver(self, on_problem: Callable[[str, bytes, str], None]) -> FileSaver:
        """Return what saves a file whatever it is, and has its own problems."""
        self._savers.append(FileSaver(self._source, self._writer, self._large.store, on_problem))
        return self._savers[-1]

    def settle(self) -> None:
        """Wait until everything was read."""
        while self._readers.unfinished or self._postponed:
            self._take_found(wait=True)
            self._read_postponed()
        self._collect_windows()

    def finish(self) -> None:
        """Wait until everything was read and is with the writer."""
        self.settle()
        self._readers.finish()
        for finding in self._readers.findings:
            self._problem(*finding)

    def _collect_windows(self) -> None:
        """Set the rows of windows that were read aside for the commit."""
        while self._windows and not self._windows[0].unread:
            self._recorder.draft.rows.extend(self._windows.popleft().rows())

    def _record_special(self, path: bytes, status: Status, known: Known) -> Optional[VersionRow]:
        """Record a directory, symlink, FIFO, socket or device: everything that has no bytes."""
        kind = kind_of(status.st_mode)
        if kind is None:
            self._problem("unsupported", path, "is of a kind that cannot be saved")
            self._recorder.lose(path, known, gone=False)
            return None
        try:
            now, target, xattrs = self._source.look(path, status)
        except (OSError, FileChangedError) as exc:
            gone = isinstance(exc, OSError) and exc.errno == errno.ENOENT
            if isinstance(exc, FileChangedError) or exc.errno in (errno.EINVAL, errno.ENOTDIR):
                self._problem("changed-kind", path, "became another kind of file while the tree was walked")
            elif not gone:
                require_resources(path, exc)
                self._problem("unreadable", path, f"cannot be read: {exc.strerror}")
            if kind == b"d":
                return self._record_as_listed(path, status, known)
            self._recorder.lose(path, known, gone=gone)
            return None
        rdev = now.st_rdev if kind in b"cb" else None
        return self._recorder.record(path, kind, now, known, rdev=rdev, target=target, xattrs=xattrs)

    def _record_as_listed(self, path: bytes, status: Status, known: Known) -> Optional[VersionRow]:
        """Record a directory that cannot be looked into any more: what was in it may be in the snapshot already.

        Its extended attributes are those that it last had; the next snapshot looks again.
        """
        last = known[path][0] if path in known else None
        xattrs = last.xattrs if last is not None and last.kind == b"d" else None
        return self._recorder.record(path, b"d", status, known, xattrs=xattrs, stamp=(None,))

    @property
    def read_bytes(self) -> int:
        """Bytes read so far."""
        return sum(saver.read_bytes for saver in self._savers) + self._large.read_bytes + self._readers.read_bytes

    def _take_all_found(self) -> None:
        """Record what there is, as between two blocks of a large file: results that wait take memory."""
        while self._take_found():
            pass
        self.report_reading()

    def report_reading(self, path: bytes = b"") -> None:
        """Tell how far it is."""
        if self._reporter.active:
            self._reporter.report("read", done_files=self._done_files, done_bytes=self.read_bytes, path=path)


def _batches(positions: Sequence[int]) -> Iterator[Sequence[int]]:
    return (positions[begin : begin + _BATCH] for begin in range(0, len(positions), _BATCH))
