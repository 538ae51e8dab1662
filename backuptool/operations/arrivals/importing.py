"""Importing: make a snapshot of a tar stream, with the same deduplication as one of a directory.

Owns what becomes of each member. How streams are read is untar's business, how entries become a snapshot assembling's.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from typing import Any, Callable, Iterator, List, Optional, Sequence, Tuple, Union

import attrs

from ...errors import PatternError, RepositoryLockedError, SourceError
from ...progress import Reporter
from ...results.problem import Problem
from ...results.snapshot import SnapshotResult
from ...storage.arriving import Content
from ...storage.chunking import LARGE_FILE
from ...storage.compression import DEFAULT, require_setting
from ...storage.database import Database
from ...storage.digest import FileVersion
from ...storage.pool import ConnectionPool
from ...storage.refcounts import ContentsVanishedError
from ...storage.settings import chunking_of
from ...storage.streams import DamagedStreamError, decompressed
from ...storage.writer import ContentWriter
from ...tree.metadata import clamp_ns, encode_xattrs
from ...tree.pax import Run
from ...tree.untar import TarMember, TarReader
from ..committing import Description
from ..large_files import LargeFiles
from ..selecting import Selection
from ..validating import flaw
from .assembling import Arrival, Arrivals, assemble

__all__ = ["ImportOptions", "import_tar"]

#: Times that a file is read again because a prune beside this took contents that were found.
_ATTEMPTS = 5

#: Bytes of holes in one file beyond which a stream is taken for forged: they have to be hashed, at 1.5 GB/s.
_MOST_HOLES = 16 << 40

_KINDS = {b"0": b"f", b"2": b"l", b"3": b"c", b"4": b"b", b"5": b"d", b"6": b"p"}


@attrs.frozen(kw_only=True)
class ImportOptions:
    """What is to be imported, and what is said of it; see :meth:`backuptool.Repository.import_tar`."""

    source: bytes
    host: str
    include: Tuple[str, ...] = ()
    exclude: Tuple[str, ...] = ()
    note: str = ""
    tags: Tuple[str, ...] = ()
    pinned: bool = False
    compression: str = DEFAULT


def import_tar(
    pool: ConnectionPool,
    stream: Union[bytes, Any],
    options: ImportOptions,
    reporter: Reporter,
    clock: Callable[[], int],
) -> SnapshotResult:
    """Make a snapshot of a tar stream: of a file, or of whatever has a ``read``.

    Raises:
        ValueError: There is no such compression.
        PatternError: Nothing in it is to be included.
        SourceError: It cannot be read, or is no tar stream; there is no snapshot of it then.
    """
    begin = time.monotonic()
    require_setting(options.compression)
    selection = Selection(options.include, options.exclude)
    if not isinstance(stream, bytes):
        with pool.writing(create=True) as database:
            try:
                return _Import(database, options, selection, reporter, clock).run(stream, "the stream", begin)
            except ContentsVanishedError:
                raise _changed(pool.path) from None
    shown = os.fsdecode(stream)
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open(stream, "rb"))
        except OSError as exc:
            raise SourceError(f"cannot read {shown}: {exc.strerror}", shown) from exc
        database = stack.enter_context(pool.writing(create=True))
        for _ in range(_ATTEMPTS):
            try:
                return _Import(database, options, selection, reporter, clock).run(file, shown, begin)
            except ContentsVanishedError:
                file.seek(0)
    raise _changed(pool.path)


def _changed(path: str) -> RepositoryLockedError:
    return RepositoryLockedError(
        f"another process pruned the repository {path} while the stream was read; import it again", path
    )


class _Import:
    """One pass over a stream."""

    def __init__(
        self,
        database: Database,
        options: ImportOptions,
        selection: Selection,
        reporter: Reporter,
        clock: Callable[[], int],
    ) -> None:
        self._database = database
        self._options = options
        self._selection = selection
        self._reporter = reporter
        self._clock = clock
        self._started_ns = clock()
        self._problems: List[Problem] = []
        self._arrivals = Arrivals(self._problem)
        self._groups: set[bytes] = set()
        self._taken = 0
        self._absolute: List[bytes] = []  # names of which there may be many: the first one, and the number, are told
        self._twice: List[bytes] = []
        self._selected = 0
        self._in_words: List[bytes] = []

    def run(self, file: Any, shown: str, begin: float) -> SnapshotResult:
        """Read the stream and commit the snapshot."""
        chunking = chunking_of(self._database)
        with ContentWriter(self._database, self._clock, self._options.compression) as self._writer:
            self._large = LargeFiles(self._writer, chunking, self._report)
            try:
                self._reader = reader = TarReader(decompressed(file), shown)
                for member in reader:
                    self._take(member)
            except DamagedStreamError as exc:
                raise SourceError(f"cannot read {shown}: {exc}", shown) from exc
            if self._options.include and not self._selected:
                names = ", ".join(self._options.include)
                raise PatternError(
                    f"nothing in {shown} matches {names}; paths are as tar -t lists them; no snapshot was taken", names
                )
            if not reader.ended:
                if not self._taken:
                    raise SourceError(f"{shown} is no tar stream: it is empty", shown)
                message = "the stream ends without the mark of its end: it may have been cut off between two members"
                self._problems.append(Problem(kind="truncated", path="", message=message))
            self._arrivals.settle()
            self._summarize()
            self._writer.flush()
        self._reporter.report("commit")
        options = self._options
        return assemble(
            self._database,
            self._writer,
            self._arrivals,
            Description(
                host=options.host,
                root=options.source,
                started_ns=self._started_ns,
                note=options.note,
                tags=options.tags,
                pinned=options.pinned,
            ),
            self._problems,
            read_bytes=reader.position,
            begin=begin,
            clock=self._clock,
            selection=self._selection,
        )

    def _report(self) -> None:
        self._reporter.report("read", done_files=self._taken, done_bytes=self._reader.position)

    def _problem(self, kind: str, path: bytes, message: str) -> None:
        shown = os.fsdecode(path) or "."
        self._problems.append(Problem(kind=kind, path=shown, message=message))

    def _summarize(self) -> None:
        """Tell what may concern many members once."""
        if self._absolute:
            self._problems.append(
                Problem(
                    kind="absolute-name",
                    path=_first(self._absolute),
                    message="absolute names were imported without the slash at their beginning; this one is the first",
                    count=len(self._absolute),
                )
            )
        if self._twice:
            self._problems.append(
                Problem(
                    kind="duplicate-name",
                    path=_first(self._twice),
                    message="more than one member has this name: the last one was imported; this one is the first",
                    count=len(self._twice),
                )
            )
        if self._in_words:
            self._problems.append(
                Problem(
                    kind="attribute-not-imported",
                    path=_first(self._in_words),
                    message="ACLs or labels in the words of tar's --acls and --selinux were not imported; make the "
                    "stream with --xattrs --xattrs-include='*' instead",
                    count=len(self._in_words),
                )
            )

    # Members.

    def _take(self, member: TarMember) -> None:
        self._taken += 1
        self._report()
        path = self._path(member.name)
        if path is None:
            return
        if not path and member.flag != b"5":
            self._problem("unsafe-path", path, "not imported: a file has the name of the root")
            return
        if not self._selection.everything and not self._selection.selects(path, member.flag == b"5"):
            return
        self._selected += 1
        if member.flag == b"1":
            self._take_link(path, member)
        elif member.flag in _KINDS:
            self._take_entry(path, member)
        else:
            flag = member.flag.decode("ascii", "backslashreplace")
            self._problem("unsupported", path, f"not imported: it is a member of the type {flag!r}")

    def _path(self, name: bytes) -> Optional[bytes]:
        """Return the path that a name means; None, with a problem, if it leads elsewhere."""
        parts = [part for part in name.split(b"/") if part not in (b"", b".")]
        path = b"/".join(parts)
        if b".." in parts or b"\0" in name:
            self._problem("unsafe-path", name, "not imported: the name leads elsewhere")
            return None
        if path and name.startswith(b"/"):
            self._absolute.append(path)
        return path

    def _take_link(self, path: bytes, member: TarMember) -> None:
        """Take another name of a member that came before."""
        target = self._path(member.link)
        known = None if target is None else self._arrivals.get(target)
        if target is None or known is None or known.version.kind == b"d":
            self._problem("broken-link", path, "not imported: what it is a hard link of is no file that came before it")
            return
        if target == path:
            return
        link = known.version.link
        if link is None:
            link = b"tar:" + target
            while link in self._groups:  # an earlier member of that name had links, and was replaced
                link += b"'"
            self._groups.add(link)
            known = known._replace(version=known.version._replace(link=link))
            self._arrivals.add(known)
        self._add(path, Arrival(known.version._replace(path=path), known.ordinal))

    def _take_entry(self, path: bytes, member: TarMember) -> None:
        m = member
        kind = _KINDS[m.flag]
        mtime_ns = clamp_ns(m.mtime_ns)
        if mtime_ns != m.mtime_ns:
            self._problem("time-out-of-range", path, "its modification time does not fit; saved with the nearest one")
        version = FileVersion(
            *(path, kind, m.mode, m.uid, m.gid, m.user, m.group, mtime_ns, 0, None, 0, m.rdev),
            *(m.link if kind == b"l" else None, encode_xattrs(m.xattrs), None),
        )
        fault = flaw(version)
        if fault is not None:
            self._problem("unsupported", path, f"not imported: {fault}")
            return
        if m.in_words:
            self._in_words.append(path)
        ordinal = -1
        if kind == b"f":
            data_bytes = m.size if m.runs is None else sum(end - begin for begin, end in m.runs)
            if m.size - data_bytes > _MOST_HOLES:
                self._problem("unsupported", path, "not imported: its holes are larger than any file")
                return
            content = self._store(m)
            ordinal = content.ordinal
            version = version._replace(size=content.size, hash=content.digest, sparse=int(data_bytes < m.size))
        self._add(path, Arrival(version, ordinal))

    def _add(self, path: bytes, arrival: Arrival) -> None:
        if path in self._arrivals and arrival.version.kind != b"d":
            self._twice.append(path)
        self._arrivals.add(arrival)

    def _store(self, member: TarMember) -> Content:
        """Store the bytes of a file."""
        if member.size > LARGE_FILE:
            return self._large.store(_Streamed(self._reader, member))
        if member.runs is None:
            return self._writer.add(self._reader.read(member.size))
        data = bytearray(member.size)
        for begin, end in member.runs:
            data[begin:end] = self._reader.read(end - begin)
        return self._writer.add(memoryview(data))


class _Streamed:
    """A large file in a stream, as it is read from the beginning to the end."""

    def __init__(self, reader: TarReader, member: TarMember) -> None:
        self.size = member.size
        self.read_into = reader.read_into
        self._runs: Sequence[Run] = ((0, member.size),) if member.runs is None else member.runs

    def segments(self) -> Iterator[Run]:
        """Yield where its data is."""
        return iter(self._runs)


def _first(paths: Sequence[bytes]) -> str:
    return os.fsdecode(paths[0]) or "."
