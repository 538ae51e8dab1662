"""The directory that everything happens in: made for one run, filled, emptied at the right moments, and removed.

Nothing is deleted outside of it. On a memory file system what is no longer needed goes at once, for want of room; on
any other one it stays until the end, because a large delete makes the file system slow for minutes afterwards.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType

__all__ = ["Workspace", "default_parent", "file_system_of"]

_IN_MEMORY = ("tmpfs", "ramfs")


class Workspace:
    """A new directory inside a parent, removed at the end. A context manager.

    Args:
        parent: The directory to make it in; is made if it does not exist, and then removed at the end if empty.
    """

    def __init__(self, parent: Path) -> None:
        self._new_parent = not parent.exists()
        parent.mkdir(parents=True, exist_ok=True)
        self._parent = parent.resolve()
        self.path = Path(tempfile.mkdtemp(prefix="backup-benchmark-", dir=str(self._parent)))
        self.file_system = file_system_of(self.path)
        self._names = itertools.count()

    def __enter__(self) -> Workspace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        remove_tree(self.path)
        if self._new_parent and not any(self._parent.iterdir()):
            self._parent.rmdir()

    @property
    def in_memory(self) -> bool:
        """Whether it is on a memory file system."""
        return self.file_system in _IN_MEMORY

    def new_directory(self, name: str) -> Path:
        """Make a new, empty directory."""
        path = self.path / f"{next(self._names):04}-{name}"
        path.mkdir()
        return path

    def discard(self, path: Path) -> None:
        """Take what is no longer needed out of the way, if there is anything: now or at the end."""
        if not os.path.lexists(path):
            return
        if self.in_memory:
            remove_tree(path)
        else:
            path.rename(self.path / f"{next(self._names):04}-discarded")

    def free_bytes(self) -> int:
        """Return how much fits into it; for a memory file system also not more than the memory that is available."""
        usage = shutil.disk_usage(self.path)
        return min(usage.free, _available_memory() or usage.free) if self.in_memory else usage.free


def default_parent() -> Path:
    """Return a memory file system where there is one, otherwise the directory for temporary files."""
    memory = Path("/dev/shm")
    return memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())


def file_system_of(path: Path) -> str:
    """Return the kind of file system a path is on, as ``mount`` names it; "unknown" where that cannot be found out."""
    best, kind = "", "unknown"
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return kind
    resolved = str(path.resolve())
    for line in mounts:
        _, mount_point, mount_kind = line.split(" ")[:3]
        mount_point = mount_point.encode("utf-8", "surrogateescape").decode("unicode_escape")
        inside = mount_point == "/" or resolved == mount_point or resolved.startswith(f"{mount_point}/")
        if inside and len(mount_point) >= len(best):
            best, kind = mount_point, mount_kind
    return kind


def remove_tree(path: Path) -> None:
    """Remove a file or a tree, also where a directory of it may not be written to."""
    if not path.is_dir() or path.is_symlink():
        path.unlink()
        return
    for folder, _, _ in os.walk(path):
        os.chmod(folder, 0o700)
    shutil.rmtree(path)


def _available_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = next((line for line in lines if line.startswith("MemAvailable:")), None)
    return int(found.split()[1]) * 1024 if found else None
