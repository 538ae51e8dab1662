"""The directory that is saved: walked, and its files opened although they may change or be swapped meanwhile.

Owns how what is read is known to be what was listed. What is done with the bytes, and what they are compared with, is
left to the snapshot operation.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Iterator, NamedTuple, Optional

from ..errors import SourceError
from .companions import Companions
from .confined import ConfinedRoot, split
from .exclusions import Exclusions
from .held import OpenFiles
from .metadata import AnyStatus, kind_of, read_xattrs
from .open_file import OpenFile
from .portability import HAS_DIR_FD, O_NOATIME, OPEN_FILE, next_hole, read_into
from .walking import Report, Walk

__all__ = ["FileChangedError", "Source", "require_resources"]

_READ_FLAGS = OPEN_FILE | O_NOATIME

#: What the process or the machine has run out of: it says nothing about the file.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


#: How often an entry is looked at that is always another one.
_LOOKS = 5


class Look(NamedTuple):
    """An entry that has no bytes.

    Attributes:
        status: Of what the rest is of.
        target: Of a symlink, else None.
        xattrs: Its extended attributes, encoded, None if it has none.
    """

    status: AnyStatus
    target: Optional[bytes]
    xattrs: Optional[bytes]


class FileChangedError(Exception):
    """A file is not what it was when it was listed: replaced by another kind, or by a symlink on the way to it."""


def require_resources(path: bytes, exc: OSError) -> None:
    """Tell a file that cannot be read from a process that can read none: all further ones would be taken for lost.

    Raises:
        SourceError: The process or the machine has run out of descriptors or memory.
    """
    if exc.errno in _EXHAUSTED:
        shown = os.fsdecode(path) or "."
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

    def require_same(self) -> None:
        """Make sure that the source is still where it was: what was moved or unmounted looks as if it were empty.

        Raises:
            SourceError: Its path leads to something else, or nowhere, or its disk has failed.
        """
        shown = os.fsdecode(self.root)
        try:
            same = os.path.samestat(os.stat(self.root), self.status)
        except OSError as exc:
            same = False
            if exc.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise SourceError(
                    f"cannot read {shown} any more: {exc.strerror}; no snapshot was taken: see that the disk can be "
                    "read, and run it again",
                    shown,
                ) from exc
        if not same:
            raise SourceError(
                f"{shown} was moved, removed or unmounted while it was saved; no snapshot was taken: see that it is "
                "there, and run it again",
                shown,
            )

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
        walk = Walk(self.root, self.status, self._confined, exclusions, on_error, companions)
        return walk.entries(left_out, left_out_names)

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

    def look(self, path: bytes, expected: AnyStatus) -> Look:
        """Return all that there is to an entry that is not opened: a directory, a symlink, a FIFO, a device.

        Its target and extended attributes are read by path alone. What took its place since it was listed, or takes it
        meanwhile, is looked at again with its own status, if it is of the same kind.

        Raises:
            OSError: It is gone, or something of it cannot be read.
            FileChangedError: It is of another kind by now, or never the same for two calls.
        """
        kind = kind_of(expected.st_mode)
        for _ in range(_LOOKS):
            target = self.read_link(path) if kind == b"l" else None
            xattrs = read_xattrs(self.unfollowed(path))
            now = self.status_of(path)
            if (now.st_ino, now.st_dev) == (expected.st_ino, expected.st_dev):
                if kind_of(now.st_mode) == kind:
                    return Look(expected, target, xattrs)
                break
            if kind_of(now.st_mode) != kind:
                break
            expected = now
        raise FileChangedError("it became another kind of file while the tree was walked")

    def unfollowed(self, path: bytes) -> bytes:
        """Return a path to an entry for calls that take no directory descriptor, good until the next call."""
        parent, name = split(path)
        if not path or not os.path.isdir("/proc/self/fd"):
            return os.path.join(self.root, path)
        return b"/proc/self/fd/%d/%s" % (self._confined.directory(parent), name)
