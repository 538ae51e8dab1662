"""Walking and reading the directory that is saved.

Owns the order of the walk, what is left out of it, and reading files that may change meanwhile. What is done with the
bytes, and what they are compared with, is left to the snapshot operation.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from operator import itemgetter
from typing import Any, Callable, Iterator, Optional

import attrs

from ..errors import SourceError
from .companions import Companions
from .confined import ConfinedRoot, split
from .exclusions import CACHE_TAG, CACHE_TAG_SIGNATURE, Exclusions
from .held import OpenFiles
from .metadata import AnyStatus, read_xattrs
from .portability import HAS_DIR_FD, O_NOATIME, OPEN_DIRECTORY, OPEN_FILE, next_data, next_hole, read_into

__all__ = ["FileChangedError", "OpenFile", "Source", "require_resources"]

_READ = 1 << 20

_ENCODING = sys.getfilesystemencoding()

_READ_FLAGS = OPEN_FILE | O_NOATIME

# Directories kept open along the way down; deeper ones are opened anew from the root.
_DEEP = 100

#: What the process or the machine has run out of: it says nothing about the file.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

Report = Callable[[bytes, OSError], None]


class FileChangedError(Exception):
    """A file is not what it was when it was listed: replaced by another kind, or by a symlink on the way to it."""


def require_resources(path: bytes, exc: OSError) -> None:
    """Tell a file that cannot be read from a process that can read none: all further ones would be taken for lost.

    Raises:
        SourceError: The process or the machine has run out of descriptors or memory.
    """
    if exc.errno in _EXHAUSTED:
        shown = path.decode("utf-8", "surrogateescape") or "."
        raise SourceError(
            f"cannot go on at {shown}: {exc.strerror}; no snapshot was taken: raise the limit (ulimit -n), or close "
            "other programs, and run it again",
            shown,
        ) from exc


class Source:
    """A directory to be saved.

    Args:
        path: The directory; a symlink to one is followed, and what it leads to is the source.
        own: What this process has open; by default as far as that can be seen now.

    Attributes:
        own: The same.

    Raises:
        SourceError: It is missing, no directory, or cannot be listed.
    """

    def __init__(self, path: bytes, own: Optional[OpenFiles] = None) -> None:
        shown = os.fsdecode(path)
        if not path:
            raise SourceError("the source is empty; name a directory", shown)
        try:
            self.root = os.path.realpath(path)
            self.status = os.stat(self.root)
            if not stat.S_ISDIR(self.status.st_mode):
                raise SourceError(f"{shown} is not a directory; name the directory that holds it", shown)
            with os.scandir(self.root):
                pass
            self.own = own or OpenFiles()
            self._confined = ConfinedRoot(self.root)
            self._prefix = self.root.rstrip(b"/") + b"/"
        except OSError as exc:
            hint = "check the spelling" if exc.errno == errno.ENOENT else "nothing was saved"
            raise SourceError(f"cannot read {shown}: {exc.strerror}; {hint}", shown) from exc

    def close(self) -> None:
        """Close the descriptors."""
        self._confined.close()

    def walk(
        self,
        exclusions: Exclusions,
        on_error: Report,
        left_out: frozenset[tuple[int, int]] = frozenset(),
        left_out_names: frozenset[tuple[int, int, bytes]] = frozenset(),
        companions: Optional[Companions] = None,
    ) -> Iterator[tuple[bytes, os.stat_result]]:
        """Yield (path, lstat) of the root and everything below, in byte order of the paths.

        A directory comes at its name and its children at name + b"/", so that the order is that of the paths in the
        catalog's index. Symlinks are never followed.

        Args:
            exclusions: What is not to be walked.
            on_error: Called with the path of a directory or file that cannot be listed, and why.
            left_out: (device, inode) of files that are passed over without a word.
            left_out_names: (device and inode of a directory, name in it) that are passed over without a word.
            companions: Takes note of files that belong to others; a directory's before anything in it comes.
        """
        patterns = exclusions.patterns
        limit = exclusions.larger_than
        inodes = {inode for _, inode in left_out}
        parents = {(device, inode) for device, inode, _ in left_out_names}
        listed = os.DirEntry
        yield b"", self.status
        stack = [self._list(b"", None, self.status, exclusions, on_error, companions)]
        try:
            while stack:
                frame = stack[-1]
                prefix = frame.prefix
                watched = frame.identity in parents
                descended = False
                for name, entry in frame.entries:
                    if name[-1] == 47:  # a directory's second turn: now its children
                        status = frame.directories.pop(name, None)
                        if status is not None:
                            child = prefix + name[:-1]
                            stack.append(self._list(child, frame, status, exclusions, on_error, companions))
                            descended = True
                            break
                        continue
                    try:
                        status = entry.stat(follow_symlinks=False) if isinstance(entry, listed) else _known(entry)
                    except OSError as exc:
                        if exc.errno != errno.ENOENT:
                            on_error(prefix + name, exc)
                        continue
                    path = prefix + name
                    mode = status.st_mode
                    if (mode & 0o170000) == 0o040000:
                        if patterns is not None and patterns.match(path, True):
                            continue
                        if not exclusions.one_file_system or status.st_dev == self.status.st_dev:
                            frame.directories[name + b"/"] = status
                    else:
                        if patterns is not None and patterns.match(path):
                            continue
                        if status.st_ino in inodes and (status.st_dev, status.st_ino) in left_out:
                            continue
                        if watched and (*frame.identity, name) in left_out_names:
                            continue
                        if limit is not None and status.st_size > limit and stat.S_ISREG(mode):
                            continue
                    yield path, status
                if not descended:
                    frame.close()
                    stack.pop()
        finally:
            for frame in stack:
                frame.close()

    def _list(
        self,
        path: bytes,
        parent: Optional[_Frame],
        status: os.stat_result,
        exclusions: Exclusions,
        on_error: Report,
        companions: Optional[Companions],
    ) -> _Frame:
        """Return what is in a directory, sorted; empty, after a report, if it cannot be listed."""
        frame = _Frame(prefix=path + b"/" if path else b"", identity=(status.st_dev, status.st_ino))
        depth = 0 if parent is None else parent.depth + 1
        frame.depth = depth
        try:
            if not HAS_DIR_FD:  # pragma: no cover (not Linux)
                listing = os.scandir(os.fsdecode(os.path.join(self.root, path)))
            else:
                if parent is not None and parent.descriptor >= 0:
                    descriptor = os.open(split(path)[1], OPEN_DIRECTORY, dir_fd=parent.descriptor)
                else:
                    descriptor = self._confined.open(path, OPEN_DIRECTORY)
                frame.descriptor = descriptor
                listing = os.scandir(descriptor)
            entries = []
            with listing:
                for entry in listing:
                    name = entry.name.encode(_ENCODING, "surrogateescape")
                    entries.append((name, entry))
                    if companions is not None and name[-4:] in companions.endings:
                        companions.note(frame.prefix, name)
                    if entry.is_dir(follow_symlinks=False):
                        entries.append((name + b"/", entry))
            if exclusions.markers or exclusions.caches:
                entries = self._within_markers(path, entries, exclusions)
            entries.sort(key=itemgetter(0))
            frame.entries = iter(entries)
            if depth >= _DEEP:
                frame.entries = iter([(name, _lstat(entry)) for name, entry in entries])
                frame.close()
        except OSError as exc:
            frame.close()
            frame.entries = iter(())
            if exc.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):  # gone, or replaced since it was listed
                on_error(path, exc)
        return frame

    def _within_markers(
        self, path: bytes, entries: list[tuple[bytes, Any]], exclusions: Exclusions
    ) -> list[tuple[bytes, Any]]:
        """Return the marker alone if the directory holds one, else all entries."""
        for name, _ in entries:
            if name in exclusions.markers:
                return [(name, entry) for found, entry in entries if found == name]
            if exclusions.caches and name == CACHE_TAG and self._is_cache_tag(path):
                return [(name, entry) for found, entry in entries if found == name]
        return entries

    def _is_cache_tag(self, path: bytes) -> bool:
        try:
            descriptor = self._confined.open(path + b"/" + CACHE_TAG if path else CACHE_TAG, OPEN_FILE)
        except OSError:
            return False
        try:
            return os.read(descriptor, len(CACHE_TAG_SIGNATURE)) == CACHE_TAG_SIGNATURE
        except OSError:
            return False
        finally:
            os.close(descriptor)

    def read_small(self, path: bytes, expected: AnyStatus, room: memoryview) -> Optional[bytes]:
        """Read a small regular file in as few calls as possible, and return its extended attributes, b"" if none.

        Returns None where anything is out of the ordinary: it is not as it was listed, it changes, it has holes, or it
        cannot be opened. :meth:`open_file` then finds out. Nearly all files take this way.

        Args:
            path: Of the file.
            expected: Its status when it was listed.
            room: Where its bytes go: one more than it has, so that one that grows is noticed.
        """
        size = expected.st_size
        if self.own.has(expected):
            return None
        try:
            descriptor = os.open(self._prefix + path, _READ_FLAGS)
        except OSError:
            return None
        try:
            # Fewer blocks than bytes: it has holes, or the file system compresses it.
            if getattr(expected, "st_blocks", 0) * 512 < size and next_hole(descriptor, 0, size) < size:
                return None
            read = read_into(descriptor, room)
            now = os.fstat(descriptor)
            if (
                read != size
                or now.st_ino != expected.st_ino
                or now.st_ctime_ns != expected.st_ctime_ns
                or now.st_mtime_ns != expected.st_mtime_ns
                or now.st_size != size
                or now.st_dev != expected.st_dev
                or now.st_mode != expected.st_mode
            ):
                return None
            return read_xattrs(descriptor) or b""
        except OSError:
            return None
        finally:
            os.close(descriptor)

    def open_file(self, path: bytes, expected: AnyStatus) -> OpenFile:
        """Open a regular file for reading.

        The file is opened by its whole path, which is fastest, and is then the one that was listed, by device, inode
        and change time (inode numbers are used again). If it is another one, it is opened again directory by directory,
        so that a symlink put in the way meanwhile is not followed. One that this process has open elsewhere stays open
        in the end.

        Raises:
            OSError: It cannot be opened.
            FileChangedError: It is no regular file any more.
        """
        full = self._prefix + path
        kept = self.own.take(expected) if self.own.has(expected) else None
        if kept is not None:
            return OpenFile(kept, os.fstat(kept), self.own)
        try:
            descriptor = os.open(full, _READ_FLAGS)
        except OSError as exc:
            descriptor = self._open_otherwise(path, full, exc)
        try:
            status = os.fstat(descriptor)
            if (
                status.st_ino != expected.st_ino
                or status.st_dev != expected.st_dev
                or status.st_ctime_ns != expected.st_ctime_ns
            ):
                self.own.close(descriptor, status)
                descriptor = -1
                descriptor = self._confined.open(path, OPEN_FILE)
                status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise FileChangedError("it became another kind of file while the tree was walked")
        except BaseException:
            if descriptor >= 0:
                os.close(descriptor)
            raise
        return OpenFile(descriptor, status, self.own)

    def _open_otherwise(self, path: bytes, full: bytes, exc: OSError) -> int:
        if exc.errno == errno.EPERM and O_NOATIME:  # not ours: the access time will change
            return os.open(full, OPEN_FILE)
        if exc.errno == errno.ENAMETOOLONG:
            return self._confined.open(path, OPEN_FILE)
        if exc.errno in (errno.ELOOP, errno.ENXIO):  # a symlink or a socket took its place
            raise FileChangedError("it became another kind of file while the tree was walked") from exc
        raise exc

    def status_of(self, path: bytes) -> os.stat_result:
        """Return the status of an entry as it is now; symlinks are not followed."""
        if not HAS_DIR_FD:  # pragma: no cover (not Linux)
            return os.lstat(os.path.join(self.root, path))
        parent, name = split(path)
        return os.stat(name or b".", dir_fd=self._confined.directory(parent), follow_symlinks=False)

    def read_link(self, path: bytes) -> bytes:
        """Return the target of a symlink."""
        if not HAS_DIR_FD:  # pragma: no cover (not Linux)
            return os.fsencode(os.readlink(os.path.join(self.root, path)))
        parent, name = split(path)
        return os.readlink(name, dir_fd=self._confined.directory(parent))

    def unfollowed(self, path: bytes) -> bytes:
        """Return a path to an entry for calls that take no directory descriptor, good until the next call."""
        parent, name = split(path)
        if not path or not os.path.isdir("/proc/self/fd"):
            return os.path.join(self.root, path)
        return b"/proc/self/fd/%d/%s" % (self._confined.directory(parent), name)


@attrs.define
class _Frame:
    """One directory on the way down."""

    prefix: bytes
    identity: tuple[int, int]
    entries: Iterator[tuple[bytes, Any]] = attrs.Factory(lambda: iter(()))
    directories: dict[bytes, os.stat_result] = attrs.Factory(dict)
    descriptor: int = -1
    depth: int = 0

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class OpenFile:
    """A regular file opened for reading; a context manager.

    Args:
        descriptor: Of the file.
        status: Of the file.
        own: Closes it, if this process may have it open elsewhere.

    Attributes:
        descriptor: Its file descriptor.
        status: fstat before the first byte was read.
    """

    __slots__ = ("_own", "descriptor", "status")

    def __init__(self, descriptor: int, status: os.stat_result, own: Optional[OpenFiles] = None) -> None:
        self.descriptor = descriptor
        self.status = status
        self._own = own

    @property
    def size(self) -> int:
        """Bytes, before the first one was read."""
        return self.status.st_size

    def __enter__(self) -> OpenFile:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._own is None:
            os.close(self.descriptor)
        else:
            self._own.close(self.descriptor, self.status)

    def read_all(self, limit: int) -> bytes:
        """Return all bytes from the beginning, of a small file; of one that grows meanwhile, at most so many."""
        descriptor = self.descriptor
        data = os.read(descriptor, self.status.st_size + 1)
        if len(data) == self.status.st_size:
            return data
        pieces = [data]
        size = len(data)
        while data and size < limit:
            data = os.read(descriptor, _READ)
            pieces.append(data)
            size += len(data)
        return b"".join(pieces)[:limit]

    def read_into(self, room: memoryview) -> int:
        """Read on, as much as there is room for, and return how many bytes came: fewer only at the end of the file."""
        filled = 0
        while filled < len(room):
            read = os.readv(self.descriptor, (room[filled:],))
            if not read:
                break
            filled += read
        return filled

    def begins_with(self, magic: bytes) -> bool:
        """Tell whether these are the first bytes; the position stays where it is."""
        return os.pread(self.descriptor, len(magic), 0) == magic

    def rewind(self) -> None:
        """Begin again, with a fresh status."""
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        self.status = os.fstat(self.descriptor)

    def unchanged(self, read_bytes: int) -> bool:
        """Tell whether the file is still as it was before it was read."""
        now = os.fstat(self.descriptor)
        then = self.status
        return (
            now.st_size == then.st_size == read_bytes
            and now.st_mtime_ns == then.st_mtime_ns
            and now.st_ctime_ns == then.st_ctime_ns
        )

    def is_sparse(self) -> bool:
        """Tell whether the file has holes."""
        status = self.status
        if getattr(status, "st_blocks", 0) * 512 >= status.st_size:
            return False
        sparse = next_hole(self.descriptor, 0, status.st_size) < status.st_size
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        return sparse

    def segments(self) -> Iterator[tuple[int, int]]:
        """Yield (begin, end) of the data between the holes. The position is at ``begin`` whenever it yields."""
        size = self.status.st_size
        end = 0
        while end < size:
            begin = next_data(self.descriptor, end, size)
            if begin >= size:
                return
            end = next_hole(self.descriptor, begin, size)
            os.lseek(self.descriptor, begin, os.SEEK_SET)
            yield begin, end


def _lstat(entry: os.DirEntry[str]) -> object:
    """Return the status of an entry while its directory is open, or why there is none."""
    try:
        return entry.stat(follow_symlinks=False)
    except OSError as exc:
        return exc


def _known(status: Any) -> Any:
    if isinstance(status, OSError):
        raise status
    return status
