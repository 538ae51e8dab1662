"""What differs between Linux, macOS and Windows, in one place: flags, owners, extended attributes.

Where a platform lacks something the function is a harmless stand-in; callers need not ask which platform it is.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from functools import lru_cache
from typing import Container

__all__ = [
    "FOLLOW_NOTHING",
    "HAS_DIR_FD",
    "OPEN_DIRECTORY",
    "OPEN_FILE",
    "O_NOATIME",
    "group_name",
    "list_xattrs",
    "next_data",
    "next_hole",
    "open_files",
    "own_numbers",
    "read_xattr",
    "remove_xattr",
    "user_name",
    "write_xattr",
]

_CLOEXEC = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)

FOLLOW_NOTHING = getattr(os, "O_NOFOLLOW", 0)

#: Reading an access time should not change it; the kernel allows this to a file's owner and to root.
O_NOATIME = getattr(os, "O_NOATIME", 0)

#: O_NONBLOCK: a file that has become a FIFO since it was listed must not stop the program.
OPEN_FILE = os.O_RDONLY | _CLOEXEC | FOLLOW_NOTHING | getattr(os, "O_NONBLOCK", 0)

OPEN_DIRECTORY = os.O_RDONLY | _CLOEXEC | FOLLOW_NOTHING | getattr(os, "O_DIRECTORY", 0)

#: False on Windows: paths are then joined, and a directory swapped for a link meanwhile goes unnoticed.
HAS_DIR_FD = os.open in os.supports_dir_fd and os.scandir in os.supports_fd

if sys.platform == "win32" or not hasattr(os, "listxattr"):  # pragma: no cover (not Linux)

    def list_xattrs(target: int | bytes) -> list[str]:
        """Return no names: this platform's extended attributes are not kept."""
        return []

    def read_xattr(target: int | bytes, name: str) -> bytes:
        """Never called: there are no names."""
        raise OSError

    def write_xattr(target: int | bytes, name: str, value: bytes) -> None:
        """Do nothing: this platform's extended attributes are not restored."""

    def remove_xattr(target: int | bytes, name: str) -> None:
        """Never called: there are no names."""

else:

    def list_xattrs(target: int | bytes) -> list[str]:
        """Return the names of the extended attributes of a descriptor, or of a path without following it."""
        if isinstance(target, int):
            return os.listxattr(target)
        return os.listxattr(target, follow_symlinks=False)

    def read_xattr(target: int | bytes, name: str) -> bytes:
        """Return the value of one extended attribute."""
        if isinstance(target, int):
            return os.getxattr(target, name)
        return os.getxattr(target, name, follow_symlinks=False)

    def write_xattr(target: int | bytes, name: str, value: bytes) -> None:
        """Set one extended attribute."""
        if isinstance(target, int):
            os.setxattr(target, name, value)
        else:
            os.setxattr(target, name, value, follow_symlinks=False)

    def remove_xattr(target: int | bytes, name: str) -> None:
        """Remove one extended attribute."""
        if isinstance(target, int):
            os.removexattr(target, name)
        else:
            os.removexattr(target, name, follow_symlinks=False)


if hasattr(os, "preadv"):

    def read_into(descriptor: int, room: memoryview) -> int:
        """Read the beginning of a file, as much as there is room for, and return how many bytes came.

        Of a FIFO, socket or terminal that took the file's place nothing is read: they have no beginning.
        """
        return os.preadv(descriptor, (room,), 0)

else:  # pragma: no cover (not Linux)

    def read_into(descriptor: int, room: memoryview) -> int:
        """Read the beginning of a file, as much as there is room for, and return how many bytes came."""
        data = os.read(descriptor, len(room))
        room[: len(data)] = data
        return len(data)


if hasattr(os, "SEEK_DATA"):

    def next_data(descriptor: int, offset: int, size: int) -> int:
        """Return where data begins at or behind an offset; the size if only a hole follows."""
        try:
            return os.lseek(descriptor, offset, os.SEEK_DATA)
        except OSError as exc:
            return size if exc.errno == errno.ENXIO else offset  # else holes are not seen here: all is data

    def next_hole(descriptor: int, offset: int, size: int) -> int:
        """Return where a hole begins at or behind an offset; the size if there is none."""
        try:
            return min(os.lseek(descriptor, offset, os.SEEK_HOLE), size)
        except OSError:
            return size

else:  # pragma: no cover (not Linux)

    def next_data(descriptor: int, offset: int, size: int) -> int:
        """Return the offset: holes are not seen here."""
        return offset

    def next_hole(descriptor: int, offset: int, size: int) -> int:
        """Return the size: holes are not seen here."""
        return size


def descriptor_limit() -> int:
    """Return how many descriptors this process may have open."""
    try:
        import resource
    except ImportError:  # pragma: no cover (not Linux)
        return 512
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return limit if limit != resource.RLIM_INFINITY else 1 << 20


def own_numbers() -> tuple[int, int]:
    """Return the user and the group that new files of this process belong to."""
    if hasattr(os, "geteuid"):
        return os.geteuid(), os.getegid()
    return 0, 0  # pragma: no cover (not Linux)


def open_files(besides: Container[int] = ()) -> frozenset[tuple[int, int]]:
    """Return (device, inode) of the regular files that this process has open; none where that cannot be known.

    Args:
        besides: Descriptors that do not count.
    """
    found = set()
    try:
        for name in os.listdir("/proc/self/fd"):
            try:
                status = os.fstat(int(name))
            except OSError:
                continue  # that of the listing, or one that another thread has closed
            if stat.S_ISREG(status.st_mode) and int(name) not in besides:
                found.add((status.st_dev, status.st_ino))
    except OSError:  # pragma: no cover (not Linux)
        pass
    return frozenset(found)


@lru_cache(maxsize=4096)
def user_name(uid: int) -> bytes:
    """Return the name of a user, b"" if it has none."""
    try:
        import pwd

        return os.fsencode(pwd.getpwuid(uid).pw_name)
    except (ImportError, KeyError, OverflowError):
        return b""


@lru_cache(maxsize=4096)
def group_name(gid: int) -> bytes:
    """Return the name of a group, b"" if it has none."""
    try:
        import grp

        return os.fsencode(grp.getgrgid(gid).gr_name)
    except (ImportError, KeyError, OverflowError):
        return b""
