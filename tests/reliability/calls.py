"""System calls: their numbers on this machine, and what one that is about to be made is about.

Owns names, numbers and arguments. How a process is stopped before it makes a call is in ``tracing``.
"""

from __future__ import annotations

import os
import platform
from typing import Dict, NamedTuple, Tuple

__all__ = ["CALLS", "Call", "memory"]

_TABLES: Dict[str, Dict[str, int]] = {
    "x86_64": {
        "read": 0,
        "write": 1,
        "open": 2,
        "pread64": 17,
        "pwrite64": 18,
        "writev": 20,
        "fsync": 74,
        "fdatasync": 75,
        "ftruncate": 77,
        "rename": 82,
        "mkdir": 83,
        "rmdir": 84,
        "link": 86,
        "unlink": 87,
        "chmod": 90,
        "fchmod": 91,
        "fchown": 93,
        "setxattr": 188,
        "lsetxattr": 189,
        "fsetxattr": 190,
        "openat": 257,
        "mkdirat": 258,
        "mknodat": 259,
        "fchownat": 260,
        "unlinkat": 263,
        "renameat": 264,
        "linkat": 265,
        "symlinkat": 266,
        "fchmodat": 268,
        "utimensat": 280,
        "fallocate": 285,
        "preadv": 295,
        "pwritev": 296,
        "renameat2": 316,
        "lseek": 8,
        "getdents64": 217,
        "fcntl": 72,
        "statx": 332,
        "newfstatat": 262,
        "fstat": 5,
    },
}

#: Number of each system call on this machine, by name.
CALLS: Dict[str, int] = _TABLES.get(platform.machine(), {})


class Call(NamedTuple):
    """A system call that is about to be made.

    Attributes:
        number: How many came before it in the process and its threads.
        name: Such as "pwrite64".
        arguments: Six numbers.
        process: Who makes it.
        main: Whether that is the process that was started, and not one that it started.
    """

    number: int
    name: str
    arguments: Tuple[int, ...]
    process: int
    main: bool

    def path(self) -> str:
        """Return the path that the call is about: of its descriptor, or the one it names; "" if it has none."""
        address = self.arguments[_BY_PATH[self.name]] if self.name in _BY_PATH else 0
        if address:
            return _text(self.process, address)
        return self._opened(self.arguments[0])

    def full_path(self) -> str:
        """Return that path as an absolute one."""
        path = self.path()
        if path and not path.startswith("/") and self.name in _BY_DIRECTORY:
            return f"{self._opened(self.arguments[_BY_DIRECTORY[self.name]])}/{path}"
        return path

    def old_name(self) -> str:
        """Return the last part of the path that a "link" or "linkat" gives another name to."""
        return os.path.basename(_text(self.process, self.arguments[0 if self.name == "link" else 1]))

    def _opened(self, descriptor: int) -> str:
        try:
            return os.readlink(f"/proc/{self.process}/fd/{descriptor & 0xFFFFFFFF}")
        except OSError:
            return ""


#: Which argument is a path.
_BY_PATH = {
    "open": 0,
    "openat": 1,
    "rename": 1,
    "renameat": 3,
    "renameat2": 3,
    "mkdir": 0,
    "mkdirat": 1,
    "rmdir": 0,
    "link": 1,
    "linkat": 3,
    "symlinkat": 2,
    "unlink": 0,
    "unlinkat": 1,
    "chmod": 0,
    "fchmodat": 1,
    "fchownat": 1,
    "mknodat": 1,
    "utimensat": 1,
    "setxattr": 0,
    "lsetxattr": 0,
    "newfstatat": 1,
    "statx": 1,
}


#: Which argument is the directory that a path is relative to.
_BY_DIRECTORY = {
    "openat": 0,
    "renameat": 2,
    "renameat2": 2,
    "mkdirat": 0,
    "linkat": 2,
    "symlinkat": 1,
    "unlinkat": 0,
    "fchmodat": 0,
    "fchownat": 0,
    "mknodat": 0,
    "utimensat": 0,
    "newfstatat": 0,
    "statx": 0,
}


def memory(process: int, address: int, size: int) -> bytes:
    """Return bytes in the memory of a process that is stopped; fewer where it ends."""
    with open(f"/proc/{process}/mem", "rb", 0) as file:
        file.seek(address)
        return file.read(size)


def _text(process: int, address: int) -> str:
    """Return a string in the memory of a process."""
    try:
        data = memory(process, address, 4096)
    except OSError:  # the next page is not there
        data = memory(process, address, 4096 - address % 4096)
    return os.fsdecode(data.partition(b"\0")[0])
