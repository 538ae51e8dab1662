"""Saving files that are given one by one: from streams, from memory, by path. They are a source with a name of its own.

Owns what such a source is and what its files look like. How bytes are read is given's, what makes entries a snapshot
assembling's.
"""

from __future__ import annotations

import os
import stat
import time
from typing import Callable, Dict, List, Mapping, Sequence

import attrs

from ...errors import RepositoryLockedError, UnsafePathError
from ...progress import Reporter
from ...results.problem import Problem
from ...results.snapshot import SnapshotResult
from ...storage.compression import DEFAULT, require_setting
from ...storage.database import Database
from ...storage.digest import FileVersion
from ...storage.files import load_versions
from ...storage.pool import ConnectionPool
from ...storage.recognition import open_now
from ...storage.refcounts import ContentsVanishedError
from ...storage.settings import chunking_of
from ...storage.snapshots import source_id
from ...storage.writer import ContentWriter
from ...tree.confined import require_safe, split
from ...tree.held import OpenFiles
from ...tree.metadata import clamp_ns
from ...tree.portability import group_name, own_numbers, user_name
from ..committing import Description
from ..large_files import LargeFiles
from .assembling import Arrival, Arrivals, assemble
from .given import Given, GivenFile, ReadFile

__all__ = ["FilesOptions", "files_root", "given_files", "snapshot_files"]

#: What the name of such a source begins with; that of a directory begins with a slash.
_PREFIX = b"files:"

#: What nobody has set: nobody else may read it.
_FILE_MODE = 0o600
_DIRECTORY_MODE = 0o700

#: Times that files are read because a prune has taken what was found to be stored.
_READINGS = 10


@attrs.frozen(kw_only=True)
class FilesOptions:
    """What is to be saved, and how; see :meth:`backuptool.Repository.snapshot_files`."""

    files: Sequence[GivenFile]
    root: bytes
    note: str = ""
    tags: tuple[str, ...] = ()
    pinned: bool = False
    host: str = ""
    compression: str = DEFAULT


def files_root(name: str) -> bytes:
    """Return how a source with a name is kept.

    Raises:
        ValueError: It is no name.
    """
    encoded = os.fsencode(name)
    if not encoded or b"\0" in encoded:
        raise ValueError("the name of a source must not be empty, and must not have a NUL")
    return _PREFIX + encoded


def given_files(files: Mapping[str, Given]) -> List[GivenFile]:
    """Return files in byte order of their paths.

    Raises:
        ValueError: There are none, a path is none, or one leads through another.
        TypeError: One cannot be read.
    """
    found = sorted((GivenFile(os.fsencode(path), given) for path, given in files.items()), key=lambda file: file.path)
    if not found:
        raise ValueError("there are no files to be saved")
    paths = set()
    for file in found:
        _require_path(file.path)
        if file.path in paths:
            raise ValueError(f"{os.fsdecode(file.path)!r} is given twice")
        paths.add(file.path)
    for path in paths:
        for parent in _parents(path):
            if parent in paths:
                raise ValueError(f"{os.fsdecode(parent)!r} is a file, and {os.fsdecode(path)!r} would be in it")
    return found


def _require_path(path: bytes) -> None:
    safe = bool(path)
    try:
        require_safe(path)
    except UnsafePathError:
        safe = False
    if not safe:
        shown = os.fsdecode(path)
        raise ValueError(f"{shown!r} is no path of a file: that is relative, without empty parts, '.' and '..'")


def snapshot_files(
    pool: ConnectionPool, options: FilesOptions, reporter: Reporter, clock: Callable[[], int]
) -> SnapshotResult:
    """Save files, all of them or none.

    Raises:
        ValueError: There is no such compression.
        SourceError: A file cannot be read.
        RepositoryLockedError: A prune has removed what was found to be stored already, and a stream is read once; or
            others have saved the same source again and again.
    """
    begin = time.monotonic()
    require_setting(options.compression)
    with pool.writing(create=True) as database:
        for _ in range(_READINGS):
            try:
                return _Run(database, options, reporter, clock).run(begin)
            except ContentsVanishedError:
                if not all(file.again for file in options.files):
                    break
    raise RepositoryLockedError(
        f"a prune has removed from {pool.path} what was found there while the files were read; run it again", pool.path
    )


class _Run:
    """One reading of all files, and one snapshot of them."""

    def __init__(self, database: Database, options: FilesOptions, reporter: Reporter, clock: Callable[[], int]) -> None:
        self._database = database
        self._options = options
        self._reporter = reporter
        self._clock = clock
        self._started_ns = clock()
        self._done_files = self._done_bytes = 0
        self._problems: List[Problem] = []
        self._known: Dict[bytes, FileVersion] = {}

    def run(self, begin: float) -> SnapshotResult:
        """Read everything, and commit."""
        options, database = self._options, self._database
        directories = sorted({parent for file in options.files for parent in _parents(file.path)})
        self._look_up([*directories, *(file.path for file in options.files)])
        arrivals = Arrivals(self._problem)
        with ContentWriter(database, self._clock, options.compression) as writer:
            own = OpenFiles(open_now())
            large = LargeFiles(writer, chunking_of(database), self._report)
            for directory in directories:
                arrivals.add(Arrival(self._directory(directory), -1))
            for file in options.files:
                self._report(file.path)
                read = file.store(writer, large, own)
                arrivals.add(Arrival(self._file(file.path, read), read.content.ordinal))
                self._done_files += 1
                self._done_bytes += read.content.size
            writer.flush()
        self._reporter.report("commit", total_files=len(options.files))
        description = Description(
            host=options.host,
            root=options.root,
            started_ns=self._started_ns,
            note=options.note,
            tags=options.tags,
            pinned=options.pinned,
        )
        return assemble(
            *(database, writer, arrivals, description, self._problems),
            read_bytes=self._done_bytes,
            begin=begin,
            clock=self._clock,
        )

    def _look_up(self, paths: Sequence[bytes]) -> None:
        """See what the last snapshot of the source has at these paths."""
        source = source_id(self._database, self._options.host, self._options.root)
        if source is not None:
            self._known = {version.path: version for version, _, _ in load_versions(self._database, source, paths)}

    def _report(self, path: bytes = b"") -> None:
        total = len(self._options.files)
        self._reporter.report(
            "read", done_files=self._done_files, total_files=total, done_bytes=self._done_bytes, path=path
        )

    def _problem(self, kind: str, path: bytes, message: str) -> None:
        self._problems.append(Problem(kind=kind, path=os.fsdecode(path), message=message))

    def _directory(self, path: bytes) -> FileVersion:
        known = self._known.get(path)
        mtime_ns = self._started_ns if known is None or known.kind != b"d" else known.mtime_ns
        return _version(path, b"d", _DIRECTORY_MODE, own_numbers(), mtime_ns)

    def _file(self, path: bytes, read: ReadFile) -> FileVersion:
        status, (size, digest, _) = read.status, read.content
        if read.mixed:
            message = "changed while it was read; what was read is saved, perhaps mixed"
            self._problem("changed-while-read", path, message)
        if status is None:
            known = self._known.get(path)
            # The same bytes as before are the file that there was before.
            same = known is not None and known.hash == digest
            mtime_ns = known.mtime_ns if known is not None and same else self._started_ns
            return _version(path, b"f", _FILE_MODE, own_numbers(), mtime_ns)._replace(size=size, hash=digest)
        mtime_ns = clamp_ns(status.st_mtime_ns)
        if mtime_ns != status.st_mtime_ns:
            message = "its modification time does not fit; saved with the nearest one"
            self._problem("time-out-of-range", path, message)
        numbers = (status.st_uid, status.st_gid)
        version = _version(path, b"f", stat.S_IMODE(status.st_mode), numbers, mtime_ns)
        return version._replace(size=size, hash=digest, xattrs=read.xattrs)


def _version(path: bytes, kind: bytes, mode: int, numbers: tuple[int, int], mtime_ns: int) -> FileVersion:
    uid, gid = numbers
    names = (user_name(uid), group_name(gid))
    return FileVersion(path, kind, mode, uid, gid, *names, mtime_ns, 0, None, 0, None, None, None, None)


def _parents(path: bytes) -> List[bytes]:
    """Return the directories above a path, from the lowest up to the source itself."""
    found = []
    while path:
        path = split(path)[0]
        found.append(path)
    return found
