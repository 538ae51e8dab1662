"""Directories opened below a root and never outside it, whatever is swapped meanwhile; and which paths lead below it.

Owns the descriptors. Each component is opened relative to the one before, without following a symlink; what is done in
a directory is left to source and destination.
"""

from __future__ import annotations

import os
import re
from collections import OrderedDict

from ..errors import UnsafePathError
from .portability import FOLLOW_NOTHING, OPEN_DIRECTORY, descriptor_limit

__all__ = ["ConfinedRoot", "require_safe", "split"]

#: Open descriptors kept: a part of those that a process may have, of which 1,024 are usual.
_KEPT_SHARE = 3
_KEPT_MOST = 4096

# A directory on the way need not be readable, only searchable.
_TRAVERSE = getattr(os, "O_PATH", 0) | OPEN_DIRECTORY

# An empty component, '.', '..', or a NUL anywhere.
_ELSEWHERE = re.compile(rb"(?:^|/)\.{0,2}(?:/|\Z)|\0", re.DOTALL)

_MARKS = (b"/", b".")


def split(path: bytes) -> tuple[bytes, bytes]:
    """Return (parent, name) of a relative path; the parent of a top-level name is b""."""
    parent, _, name = path.rpartition(b"/")
    return parent, name


def require_safe(path: bytes) -> None:
    """Refuse a path that is not plainly below the destination.

    Raises:
        UnsafePathError: It is absolute, has '..', '.' or empty components, or a NUL.
    """
    plain = b"/." not in path and b"//" not in path and b"\0" not in path and path[:1] not in _MARKS
    if plain and path[-1:] != b"/" and os.name != "nt":  # as nearly all are, and this takes a tenth of the time
        return
    if path and _ELSEWHERE.search(path):
        shown = os.fsdecode(path)
        raise UnsafePathError("the catalog has a name that leads elsewhere; it was not restored", shown)
    if os.name == "nt" and any(mark in path for mark in (b"\\", b":")):  # pragma: no cover (not Linux)
        raise UnsafePathError("the name is not possible on this system", os.fsdecode(path))


class ConfinedRoot:
    """A root directory, and the directories below it by relative path.

    Args:
        root: Absolute path; symlinks in it are followed, those below are not.
    """

    def __init__(self, root: bytes) -> None:
        self.root = root
        self._root = os.open(root, _TRAVERSE & ~FOLLOW_NOTHING)
        self._open: OrderedDict[bytes, int] = OrderedDict()
        self._kept = min(descriptor_limit() // _KEPT_SHARE, _KEPT_MOST)

    def identity(self) -> tuple[int, int]:
        """Return (device, inode) of the root directory."""
        status = os.fstat(self._root)
        return status.st_dev, status.st_ino

    def directory(self, path: bytes) -> int:
        """Return a descriptor of a directory, for use at once: later calls may close it.

        Raises:
            OSError: ENOENT, or ENOTDIR if a component is a symlink or no directory.
        """
        if not path:
            return self._root
        descriptor = self._open.get(path)
        if descriptor is not None:
            self._open.move_to_end(path)
            return descriptor
        # Find the nearest open ancestor without recursion, and note where names end instead of the paths: these may be
        # tens of thousands of levels deep.
        ends = [len(path)]
        end = path.rfind(b"/")
        while end > 0 and path[:end] not in self._open:
            ends.append(end)
            end = path.rfind(b"/", 0, end)
        descriptor = self._open[path[:end]] if end > 0 else self._root
        begin = end + 1
        for end in reversed(ends):
            descriptor = os.open(path[begin:end], _TRAVERSE, dir_fd=descriptor)
            begin = end + 1
            self._open[path[:end]] = descriptor
            if len(self._open) > self._kept:
                os.close(self._open.popitem(last=False)[1])
        return descriptor

    def open(self, path: bytes, flags: int) -> int:
        """Open a file below the root; no component of its path may be a symlink."""
        parent, name = split(path)
        if not name:
            return os.open(b".", flags, dir_fd=self._root)
        return os.open(name, flags | FOLLOW_NOTHING, dir_fd=self.directory(parent))

    def forget(self, path: bytes) -> None:
        """Close what is open at and below a path, because it was removed or replaced."""
        inside = path + b"/"
        for directory in [key for key in self._open if key == path or key.startswith(inside)]:
            os.close(self._open.pop(directory))

    def close(self) -> None:
        """Close all descriptors."""
        while self._open:
            os.close(self._open.popitem()[1])
        if self._root >= 0:
            os.close(self._root)
            self._root = -1
