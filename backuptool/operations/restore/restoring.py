"""Restoring: write a snapshot, or a part of it, into a directory.

Owns the order of the steps, and what goes wrong with one entry and not with the others. What becomes of an entry is
placing's business, having much of it done by other processes writing's.
"""

from __future__ import annotations

import errno
import marshal
import os
import time
from functools import partial
from typing import Callable, Optional, Sequence, Union

import attrs

from ...errors import CorruptionError, RestoreError
from ...progress import Reporter
from ...results.restore import OverwritePolicy, RestoreResult
from ...storage.bases import bases_by_pack
from ...storage.database import Database
from ...storage.digest import FileVersion
from ...storage.files import CatalogFile
from ...storage.reader import ContentReader
from ...storage.recognition import open_now
from ...storage.snapshots import SnapshotRow, find_snapshot
from ...tree.confined import split
from ...tree.destination import Destination, is_temporary
from ...tree.held import OpenFiles
from ...tree.rehearsal import Place, Rehearsal
from ..findings import Findings
from ..selecting import Selection
from ..vouched import VouchedFiles
from .comparing import Comparison
from .gathering import Gathering
from .placing import Fate, Placing
from .writing import FATAL, Order, Writing, as_file, as_order

__all__ = ["RestoreOptions", "restore"]

_Step = Callable[[CatalogFile], None]

#: Large files, and further paths of files that are being written, that may wait.
_PUT_OFF = 2000

#: Packs whose files are taken out of the window at a time where this process writes them: a file takes about a KB then.
_AT_ONCE = 16


@attrs.frozen(kw_only=True)
class RestoreOptions:
    """What is to be restored, and how; see :meth:`backuptool.Repository.restore`."""

    destination: bytes
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    only: Optional[frozenset[bytes]] = None  #: paths of files in place of patterns
    overwrite: OverwritePolicy = "if-changed"
    delete_extra: bool = False
    dry_run: bool = False
    verify: bool = False
    helpers: Optional[int] = None  #: processes beside this one, where it is enough for them; None for what pays
    most_helpers: Optional[int] = None  #: of those; None for no limit
    #: Called with path and error of what the system would not write.
    on_unwritten: Optional[Callable[[bytes, OSError], object]] = None
    if_full: str = "make room and run it again, it will finish the rest"  #: what to do then


def restore(
    database: Database, reference: Union[int, str], options: RestoreOptions, reporter: Reporter
) -> RestoreResult:
    """Restore a snapshot.

    Raises:
        ValueError: The overwrite policy is none.
    """
    begin = time.monotonic()
    if options.overwrite not in ("always", "if-changed", "if-newer", "never"):
        raise ValueError(f"overwrite must be always, if-changed, if-newer or never, not {options.overwrite!r}")
    snapshot = find_snapshot(database, reference)
    run = _Restore(database, snapshot, options, reporter)
    return run.run(begin)


class _Restore:
    """One run over a snapshot."""

    def __init__(self, database: Database, snapshot: SnapshotRow, options: RestoreOptions, reporter: Reporter) -> None:
        self._database = database
        self._snapshot = snapshot
        self._options = options
        self._reporter = reporter
        self._selection = Selection(options.include, options.exclude, options.only)
        self._files = VouchedFiles(database, snapshot)
        self._reader = ContentReader(database)
        self._destination: Optional[Destination] = None  # None if this is a rehearsal
        self._in_the_way: list[CatalogFile] = []
        self._findings = Findings(snapshot.id)
        self._problem = self._findings.problem
        self._writing = Writing(options.helpers, options.most_helpers)
        self._gathering: Gathering[Union[bytes, CatalogFile]] = Gathering(partial(bases_by_pack, database))
        self._large: list[CatalogFile] = []  # files of many packs
        self._firsts: dict[bytes, CatalogFile] = {}  # by path, those with more paths that a helper is writing
        self._further: list[CatalogFile] = []  # those further paths
        self._deleted = self._verified = 0
        self._begun = self._pending = 0  # entries that were looked at, and those of them that wait for helpers

    def run(self, begin: float) -> RestoreResult:
        options = self._options
        if not options.destination:
            raise RestoreError("the destination is empty; name a directory", "")
        root = os.path.abspath(options.destination)
        make = Rehearsal if options.dry_run else Destination
        try:
            with self._reader, make(root, self._findings.failed, own=OpenFiles(open_now())) as destination:
                if isinstance(destination, Destination):
                    destination.claim()
                    self._destination = destination
                self._placing = self._new_placing(destination)
                self._restore_all()
                self._files.report(self._problem, "; nothing extra was deleted" if options.delete_extra else "")
                comparison = Comparison(
                    *(self._database, self._snapshot, self._selection),
                    *(destination, self._findings, self._reporter),
                )
                if options.delete_extra and destination.existed and not self._files.wrong:
                    self._deleted = comparison.delete_extra()
                self._retry()
                self._finish_directories()
                if options.verify and not options.dry_run:
                    self._verified = comparison.verify()
        except OSError as exc:
            if exc.errno not in FATAL:
                raise
            shown = os.fsdecode(root)
            raise RestoreError(
                f"cannot go on restoring into {shown}: {exc.strerror}; {options.if_full}", shown
            ) from exc
        return RestoreResult(
            snapshot=self._snapshot.to_result(),
            destination=os.fsdecode(os.path.realpath(root)),
            restored_files=self._placing.restored,
            unchanged_files=self._placing.unchanged,
            restored_directories=self._placing.restored_directories,
            deleted_files=self._deleted,
            written_bytes=self._placing.written_bytes,
            verified_files=self._verified,
            dry_run=options.dry_run,
            elapsed_seconds=time.monotonic() - begin,
            unmatched=self._selection.unmatched,
            problems=(*self._findings.problems(), *self._selection.nothing_found(self._snapshot.id)),
        )

    def _new_placing(self, destination: Place) -> Placing:
        options = self._options
        return Placing(
            *(destination, self._reader, options.overwrite, options.dry_run, self._database.identities()),
            *(self._selection, self._findings, self._report if self._reporter.active else None),
        )

    def _restore_all(self) -> None:
        late: list[CatalogFile] = []  # a file of that name must not be taken for a temporary one of another's
        with self._writing:
            for file in self._selection.among(self._files, self._problem):
                version = file.version
                if version.kind == b"d":
                    self._guarded(self._placing.restore_directory, file)
                elif is_temporary(version.path):
                    late.append(file)
                elif version.kind != b"f":
                    self._restore_files([file])
                elif file.content is not None and file.content.pack is None and file.content.size:
                    self._large.append(file)
                    if len(self._large) > _PUT_OFF:
                        self._restore_large()
                elif self._gather(file):
                    self._restore_gathered(self._gathering.take())
            self._restore_gathered(self._gathering.take(everything=True))
            self._writing.flush()
            while self._large:
                self._restore_large()
                self._settle()
            self._settle_all()
        self._restore_files(late)

    def _gather(self, file: CatalogFile) -> bool:
        """Put a regular file to others of its pack; True if it is time to restore some of them."""
        version, content = file
        pack = None if content is None else content.pack
        order = None
        # As nearly all files: what is in a directory that was made now does not exist, and needs no look.
        if version.link is None and split(version.path)[0] in self._placing.made:
            order = as_order(file)
            self._expect(version)
        return self._gathering.add(pack, marshal.dumps(order) if order else file)  # as bytes it takes half the room

    def _restore_gathered(self, packs: Sequence[Sequence[Union[bytes, CatalogFile]]]) -> None:
        """Restore files whose contents are each in one pack, pack by pack, or have helpers do it."""
        if not self._writing.active:
            for begin in range(0, len(packs), _AT_ONCE):
                groups = [[_unpacked(item) for item in items] for items in packs[begin : begin + _AT_ONCE]]
                if not self._options.dry_run:
                    self._reader.forget()
                    self._reader.expect(content for files in groups for _, content in files if content is not None)
                for files in groups:
                    self._restore_files(files)
            return
        for items in packs:
            for item in items:
                if isinstance(item, CatalogFile):
                    self._restore_files([item])
                else:
                    self._begun += 1
                    self._have_written(marshal.loads(item))
            self._writing.end_pack()
            self._settle()
            while not self._writing.has_room():
                if self._large:
                    self._restore_large()
                self._settle(wait=not self._large)

    def _restore_files(self, files: Sequence[CatalogFile]) -> None:
        for file in files:
            self._begun += 1
            if self._reporter.active:
                self._report(file.version.path)
            self._guarded(self._restore_file, file)

    def _restore_large(self) -> None:
        """Restore the large file whose content was stored first."""
        self._large.sort(key=_stored_order, reverse=True)
        self._restore_files([self._large.pop()])

    # Files that helpers write.

    def _have_written(self, order: Order) -> None:
        self._pending += 1
        self._writing.give(order)

    def _settle(self, *, wait: bool = False) -> None:
        """Take note of what became of groups."""
        placing = self._placing
        for group, answer in self._writing.answers(wait=wait):
            if answer is None:  # its helper is no more
                for order in group:
                    self._pending -= 1
                    self._report(order[0])
                    self._guarded(self._write_here, self._given(order))
                continue
            self._pending -= len(group)
            for what, path, code, text in answer.failures:
                self._findings.failed(what, path, OSError(code, text))
            for number, order in enumerate(group):
                if number in answer.errors:
                    self._guarded(partial(self._not_written, exc=answer.errors[number]), self._given(order))
                elif order[0] in self._firsts:
                    placing.count(self._given(order))
                else:
                    placing.restored += 1
                    placing.written_bytes += order[1]
            self._report(group[-1][0])

    def _settle_all(self) -> None:
        """Wait until helpers have nothing more to do, then restore what waited for that."""
        while self._further or self._writing.unanswered:
            self._writing.flush()
            while self._writing.unanswered:
                self._settle(wait=True)
            further, self._further = self._further, []
            self._pending -= len(further)
            self._begun -= len(further)
            self._restore_files(further)

    def _given(self, order: Order) -> CatalogFile:
        """Return the file that a helper was given."""
        return self._firsts.pop(order[0], None) or as_file(order)

    def _write_here(self, file: CatalogFile) -> None:
        self._placing.forget_first(file.version)
        self._placing.write(file)

    def _not_written(self, file: CatalogFile, exc: Exception) -> None:
        self._placing.forget_first(file.version)
        raise exc

    def _report(self, path: bytes, offset: int = 0) -> None:
        self._reporter.report(
            "restore",
            done_files=self._begun - self._pending,
            total_files=self._snapshot.files,
            done_bytes=self._placing.written_bytes + offset,
            total_bytes=self._snapshot.size if self._selection.everything else None,
            path=path,
        )

    def _guarded(self, step: _Step, file: CatalogFile) -> None:
        """Do one entry; what goes wrong with it is a problem, and the next one follows."""
        path = file.version.path
        try:
            step(file)
        except CorruptionError as exc:
            self._problem("content-corrupt", path, f"not restored: {exc}", content=file.version.hash)
        except OSError as exc:
            if exc.errno in FATAL:
                raise
            if exc.errno == errno.EPERM and file.version.kind in b"cb":
                self._findings.failed("device", path, exc)
            elif exc.errno in (errno.ENOTEMPTY, errno.EEXIST):
                self._in_the_way.append(file)
            elif exc.errno == errno.ENOTDIR:
                self._problem("not-written", path, "not restored: the directory that it belongs into was not")
            else:
                if self._options.on_unwritten is not None:
                    self._options.on_unwritten(path, exc)
                self._problem("not-written", path, f"not restored: {exc.strerror or exc}")
        except (ValueError, TypeError, OverflowError) as exc:  # a NUL in a link's target, text in place of a number
            self._problem("catalog-corrupt", path, f"not restored: {exc}")

    def _retry(self) -> None:
        """Restore what a directory was in the way of, if it is empty now that what is extra was deleted."""
        for last in (False, True):
            blocked, self._in_the_way = self._in_the_way, []
            for file in blocked:
                if last or not self._options.delete_extra:
                    self._problem(
                        "in-the-way", file.version.path, "not restored: a directory that is not empty has its name"
                    )
                else:
                    self._guarded(partial(self._restore_file, decided=True), file)

    def _restore_file(self, file: CatalogFile, *, decided: bool = False) -> None:
        version = file.version
        fate = self._placing.place(file, decided=decided)
        if fate is Fate.WAITS:
            self._pending += 1
            self._further.append(file)
            if len(self._further) > _PUT_OFF:
                self._settle_all()
        if fate not in (Fate.WRITTEN, Fate.WRITTEN_HERE):
            return
        order = as_order(file)
        if order is not None:
            self._expect(version)
        if order is None or not self._writing.active or fate is Fate.WRITTEN_HERE:
            self._placing.write(file)
            return
        if version.link is not None:
            self._placing.expect_first(version)
            self._firsts[version.path] = file
        self._have_written(order)

    def _expect(self, version: FileVersion) -> None:
        """Have helpers started when there is enough for them."""
        if self._destination is not None:
            self._writing.expect(version.size, self._database, self._destination)

    def _finish_directories(self) -> None:
        """Give directories their metadata when nothing is written into them any more, the deepest first."""
        directories = self._placing.directories
        for number, version in enumerate(reversed(directories)):
            self._reporter.report("metadata", done_files=number, total_files=len(directories), path=version.path)
            self._guarded(lambda file: self._placing.finish_directory(file.version), CatalogFile(version, None))


def _unpacked(item: Union[bytes, CatalogFile]) -> CatalogFile:
    return item if isinstance(item, CatalogFile) else as_file(marshal.loads(item))


def _stored_order(file: CatalogFile) -> tuple[int, bytes]:
    """Return a key by which files sort as their contents were stored."""
    return 0 if file.content is None else file.content.id, file.version.path
