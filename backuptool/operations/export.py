"""Exporting: write a snapshot, or a part of it, as a tar stream.

Owns what is in the stream, in which order, and that nothing goes into it that was not verified. How a member looks is
pax's business.
"""

from __future__ import annotations

import heapq
import os
import time
from typing import Any, BinaryIO, Iterable, Iterator, Optional, Tuple, Union

import attrs

from ..errors import CorruptionError
from ..progress import Reporter
from ..results.export import ExportResult, TarCompression
from ..storage.compression import stream_compressor
from ..storage.database import Database
from ..storage.digest import FileVersion
from ..storage.files import CatalogFile
from ..storage.pieces import Bytes
from ..storage.reader import ContentReader
from ..storage.snapshots import SnapshotRow, find_snapshot
from ..tree import pax
from ..tree.metadata import decode_xattrs
from ..tree.output import OutputFile
from ..tree.pax import Member, Run
from ..tree.sparse import data_runs
from .findings import Findings
from .selecting import Selection
from .validating import flaw
from .vouched import VouchedFiles

__all__ = ["ExportOptions", "export"]

#: Members come in the order of their paths, so that equal snapshots give equal streams, but contents lie in packs in
#: order of likeness. So many bytes of contents, and so many members, are gathered, read pack by pack, and held until it
#: is their turn: 2.06 GB in 116,000 files are then 17 windows, and a pack is read 17 times at most, not once for each
#: file in it.
_WINDOW_BYTES = 128 << 20
_WINDOW_MEMBERS = 30_000

#: Bytes of the whole stream are a multiple of this, as those of other programs are.
_RECORD = 20 * pax.BLOCK

_ZEROS = bytes(1 << 20)

_FLAGS = {b"f": b"0", b"l": b"2", b"c": b"3", b"b": b"4", b"d": b"5", b"p": b"6"}

_SUFFIXES: Tuple[Tuple[bytes, TarCompression], ...] = (
    *((b".gz", "gzip"), (b".tgz", "gzip")),
    *((b".zst", "zstd"), (b".tzst", "zstd")),
)

#: What files end in that other programs compress in other ways.
_OTHERS = (
    b".xz",
    b".txz",
    b".bz2",
    b".tbz",
    b".tbz2",
    b".lz",
    b".lz4",
    b".lzma",
    b".lzo",
    b".br",
    b".7z",
    b".zip",
    b".z",
)


@attrs.frozen(kw_only=True)
class ExportOptions:
    """What is to be exported, and how; see :meth:`backuptool.Repository.export_tar`."""

    include: Tuple[str, ...] = ()
    exclude: Tuple[str, ...] = ()
    compression: Optional[TarCompression] = None
    overwrite: bool = False


def export(
    database: Database,
    reference: Union[int, str],
    destination: Union[bytes, BinaryIO],
    options: ExportOptions,
    reporter: Reporter,
) -> ExportResult:
    """Write a snapshot as a tar stream into a file, or to whatever has a ``write``.

    Raises:
        ValueError: There is no such compression, or the file's name says that it has another one.
    """
    begin = time.monotonic()
    compression = options.compression
    if compression is None:
        compression = _by_name(destination) if isinstance(destination, bytes) else "none"
    elif compression not in ("none", "gzip", "zstd"):
        raise ValueError(f"compression must be none, gzip or zstd, not {compression!r}")
    snapshot = find_snapshot(database, reference)
    run = _Export(database, snapshot, options, reporter)
    shown = ""
    if isinstance(destination, bytes):
        output = OutputFile(destination, overwrite=options.overwrite)
        shown = os.fsdecode(output.path)
        with output as file:
            stream = _Stream(file, compression)
            run.write_all(stream)
    else:
        stream = _Stream(destination, compression)
        run.write_all(stream)
    return ExportResult(
        snapshot=snapshot.to_result(),
        destination=shown,
        compression=compression,
        exported_files=run.files,
        exported_directories=run.directories,
        content_bytes=run.content_bytes,
        tar_bytes=stream.tar_bytes,
        written_bytes=stream.written_bytes,
        elapsed_seconds=time.monotonic() - begin,
        unmatched=run.selection.unmatched,
        problems=(*run.findings.problems(), *run.selection.nothing_found(snapshot.id)),
    )


def _by_name(path: bytes) -> TarCompression:
    name = path.lower()
    for suffix, compression in _SUFFIXES:
        if name.endswith(suffix):
            return compression
    ending = next((os.fsdecode(ending) for ending in _OTHERS if name.endswith(ending)), None)
    if ending is not None:
        raise ValueError(
            f"{os.fsdecode(path)}: nothing is compressed here as {ending} says; let the name end in .tar, .tar.gz or "
            ".tar.zst, or say how to compress (--compress, compression= in Python)"
        )
    return "none"


class _Stream:
    """Where the stream goes, compressed or not.

    Attributes:
        tar_bytes: Bytes given to it.
        written_bytes: Bytes that it has written.
    """

    def __init__(self, file: Any, compression: TarCompression) -> None:
        self._file = file
        self._compressor = stream_compressor(compression)
        self.tar_bytes = self.written_bytes = 0

    def write(self, data: Bytes) -> None:
        """Write all of it."""
        self.tar_bytes += len(data)
        self._pass_on(data if self._compressor is None else self._compressor.compress(data))

    def finish(self) -> None:
        """Write the end, fill the last record up, and write what the compressor still has."""
        self.write(pax.END)
        self.write(bytes(-self.tar_bytes % _RECORD))
        if self._compressor is not None:
            self._pass_on(self._compressor.flush())

    def _pass_on(self, data: Bytes) -> None:
        view = memoryview(data)
        self.written_bytes += len(view)
        while view:  # an unbuffered stream may take less than it is given
            taken = self._file.write(view)
            view = view[len(view) if taken is None else taken :]


class _Export:
    """One pass over a snapshot."""

    def __init__(self, database: Database, snapshot: SnapshotRow, options: ExportOptions, reporter: Reporter) -> None:
        self._database = database
        self._snapshot = snapshot
        self._reporter = reporter
        self.selection = Selection(options.include, options.exclude)
        self._reader = ContentReader(database)
        self._links: dict[object, bytes] = {}
        self._inside = False  # of a file in the stream
        self.findings = Findings(snapshot.id)
        self.files = self.directories = self.content_bytes = 0

    def write_all(self, stream: _Stream) -> None:
        """Write the members, and the end."""
        self._stream = stream
        with self._reader:
            window: list[CatalogFile] = []
            size = 0
            vouched = VouchedFiles(self._database, self._snapshot)
            for file in _together(self.selection.among(vouched, self.findings.problem)):
                window.append(file)
                size += file.version.size if _is_small(file) else 0
                if size >= _WINDOW_BYTES or len(window) >= _WINDOW_MEMBERS:
                    self._write_window(window)
                    window, size = [], 0
            self._write_window(window)
            vouched.report(self.findings.problem)
            stream.finish()

    def _write_window(self, window: list[CatalogFile]) -> None:
        """Write members in order; what they hold is read pack by pack before."""
        contents = {file.content.id: file.content for file in window if file.content is not None and _is_small(file)}
        order = sorted(contents.values(), key=lambda content: (content.pack or 0, content.offset or 0))
        self._reader.forget()
        self._reader.expect(order)
        held: dict[int, Union[bytes, CorruptionError]] = {}
        for content in order:
            try:
                held[content.id] = bytes(self._reader.read(content))
            except CorruptionError as exc:
                held[content.id] = exc
        self._reader.forget()
        for file in window:
            version = file.version
            self._reporter.report(
                "export",
                done_files=self.files,
                total_files=self._snapshot.files,
                done_bytes=self.content_bytes,
                total_bytes=self._snapshot.size if self.selection.everything else None,
                path=version.path,
            )
            try:
                self._write(file, held)
            except CorruptionError as exc:
                if self._inside:  # it was sound a moment ago; what is in the stream cannot be taken back
                    raise
                self.findings.problem("content-corrupt", version.path, f"not exported: {exc}", content=version.hash)

    def _write(self, file: CatalogFile, held: dict[int, Union[bytes, CorruptionError]]) -> None:
        version, content = file
        fault = flaw(version)
        if fault is not None:
            self.findings.problem("catalog-corrupt", version.path, f"not exported: {fault}")
            return
        if version.kind == b"s":
            self.findings.problem("not-exported", version.path, "not exported: a tar stream cannot hold a socket")
            return
        first = None if version.link is None else self._links.get(version.inode)
        if first is not None:
            self._put(_member(version)._replace(flag=b"1", link=first, size=0, xattrs=()))
        elif version.kind != b"f":
            self._put(_member(version))
        elif content is None:
            raise CorruptionError("its content is not in the repository")
        elif content.size != version.size:
            raise CorruptionError("its size is not that of its content")
        elif content.id in held:
            data = held[content.id]
            if isinstance(data, CorruptionError):
                raise data
            runs = ((begin, begin + len(run)) for begin, run in data_runs(data)) if version.sparse else None
            self._write_file(version, runs, iter([(0, data)]))
        else:
            # A large content is verified at its end only, and what is in the stream cannot be taken back: so it is read
            # twice. The first time also tells where its data is.
            found = list(_data(self._reader.stream(content)))
            self._write_file(version, iter(found) if version.sparse else None, self._reader.stream(content))
        if version.link is not None and first is None:
            self._links[version.inode] = version.path
        if version.kind == b"d":
            self.directories += 1
        else:
            self.files += 1

    def _put(self, member: Member) -> None:
        self._stream.write(pax.header(member))

    def _write_file(
        self, version: FileVersion, data: Optional[Iterator[Run]], pieces: Iterator[Tuple[int, Optional[Bytes]]]
    ) -> None:
        """Write a regular file; a sparse one that has holes as such."""
        runs = None if data is None else tuple(pax.runs_in_blocks(data, version.size))
        if runs == ((0, version.size),):
            runs = None
        self._inside = True
        self._put(_member(version)._replace(runs=runs))
        written = self._write_runs(((0, version.size),) if runs is None else runs, pieces)
        self._stream.write(pax.padding(written))
        self._inside = False

    def _write_runs(self, runs: Tuple[Run, ...], pieces: Iterator[Tuple[int, Optional[Bytes]]]) -> int:
        """Write what pieces have within ranges, with zeros where they have nothing; return how much it is."""
        position = written = 0
        piece: Optional[Tuple[int, Optional[Bytes]]] = next(pieces, None)
        for begin, end in runs:
            position = begin
            while piece is not None and piece[0] < end:
                offset, data = piece
                if data is not None:
                    skipped = max(0, position - offset)  # of a piece that began before the range
                    self._write_zeros(offset + skipped - position)
                    part = memoryview(data)[skipped : end - offset]
                    self._stream.write(part)
                    position = offset + skipped + len(part)
                    self.content_bytes += len(part)
                    if offset + len(data) > end:
                        break  # the rest belongs to the next range
                piece = next(pieces, None)
            self._write_zeros(end - position)
            written += end - begin
        for _ in pieces:
            pass  # the whole is verified behind the last piece
        return written

    def _write_zeros(self, length: int) -> None:
        while length > 0:
            part = min(length, len(_ZEROS))
            self._stream.write(_ZEROS[:part])
            length -= part


def _together(files: Iterable[CatalogFile]) -> Iterator[CatalogFile]:
    """Yield files as if each directory were named with the slash at its end: right before what is in it.

    Between ``a`` and ``a/b`` comes ``a-``, and GNU tar gives a directory its time and mode as soon as another member
    follows that is not in it. So a directory waits until what comes next lies behind its name with the slash, and those
    that wait go in the order of these names.
    """
    waiting: list[tuple[bytes, int, CatalogFile]] = []
    for number, file in enumerate(files):
        path = file.version.path
        while waiting and waiting[0][0] <= path:
            yield heapq.heappop(waiting)[2]
        if file.version.kind == b"d" and path:
            heapq.heappush(waiting, (path + b"/", number, file))
        else:
            yield file
    while waiting:
        yield heapq.heappop(waiting)[2]


def _is_small(file: CatalogFile) -> bool:
    """Tell whether a file's content is one piece."""
    content = file.content
    return file.version.kind == b"f" and content is not None and (content.pack is not None or not content.size)


def _data(pieces: Iterator[Tuple[int, Optional[Bytes]]]) -> Iterator[Run]:
    """Yield where the data of a content is, neighbouring pieces as one; at the end it is verified."""
    begin = end = 0
    for offset, data in pieces:
        if data is None:
            continue
        if offset != end and end > begin:
            yield begin, end
        if offset != end:
            begin = offset
        end = offset + len(data)
    if end > begin:
        yield begin, end


def _member(version: FileVersion) -> Member:
    v = version
    name = v.path + b"/" if v.kind == b"d" and v.path else v.path or b"./"
    return Member(
        *(name, _FLAGS[v.kind], v.mode, v.uid, v.gid, v.user, v.group, v.mtime_ns, v.size),
        link=v.target or b"",
        rdev=v.rdev,
        xattrs=tuple(decode_xattrs(v.xattrs)),
    )
