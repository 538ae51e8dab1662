"""Files that this process has open elsewhere: closing any descriptor of one drops all locks that the process has on it.

Owns how such a file is let go of: its descriptor is kept, and used again for the next reading, until nobody else in the
process has the file open. SQLite keeps its own descriptors back in the same way. That there are such files is not rare:
a notebook takes a snapshot of the directory in which its databases lie, or other repositories.
"""

from __future__ import annotations

import os
import threading
from typing import Container, Dict, List, Optional, Tuple

from .metadata import AnyStatus
from .portability import open_files

__all__ = ["OpenFiles"]

_Identity = Tuple[int, int]  # device and inode

_lock = threading.Lock()

_kept: Dict[_Identity, List[int]] = {}


class OpenFiles:
    """The files that this process has open.

    Args:
        noted: (device, inode) of some that are known, asked each time: those that are opened from now on as well.
    """

    def __init__(self, noted: Container[_Identity] = ()) -> None:
        _close_kept()
        self._found = open_files()
        self._noted = noted

    def has(self, status: AnyStatus) -> bool:
        """Tell whether this process had a file open at the beginning, or has it now and that was noted."""
        identity = (status.st_dev, status.st_ino)
        return identity in self._found or identity in self._noted

    def take(self, status: AnyStatus) -> Optional[int]:
        """Return a descriptor of a file that was kept, at its beginning, open for reading; None if there is none."""
        with _lock:
            kept = _kept.get((status.st_dev, status.st_ino))
            descriptor = kept.pop() if kept else None
        if descriptor is not None:
            os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor

    def close(self, descriptor: int, status: AnyStatus) -> None:
        """Close a descriptor of a file, or keep it if that would drop locks."""
        if self.has(status):
            with _lock:
                _kept.setdefault((status.st_dev, status.st_ino), []).append(descriptor)
        else:
            os.close(descriptor)


def _close_kept() -> None:
    """Close what was kept of files that nobody else in this process has open any more."""
    if not _kept:
        return
    others = open_files({descriptor for kept in list(_kept.values()) for descriptor in kept})
    with _lock:
        for identity in [identity for identity in _kept if identity not in others]:
            for descriptor in _kept.pop(identity):
                os.close(descriptor)


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
