"""Recording what a snapshot holds: compare each entry with its last version, make its row, count.

Owns what the draft of a snapshot of a tree says of each entry. What is read, and when it is committed, is the
snapshot's business.
"""

from __future__ import annotations

import stat
from typing import Any, Callable, Dict, Optional, Tuple

from ...storage.digest import FileVersion, row_hash
from ...storage.files import VersionRow, version_row
from ...tree.metadata import AnyStatus, clamp_ns, signed_inode, trusted_ctime_ns
from ...tree.portability import group_name, user_name
from ..committing import Draft

__all__ = ["Known", "Recorder"]

#: The last versions of paths, each with the snapshot that brought it.
Known = Dict[bytes, Tuple[FileVersion, int]]


class Recorder:
    """Makes the rows of one snapshot, and keeps count.

    Args:
        root: Status of the source's root.
        started_ns: When the walk began, ns since 1970 UTC.
        draft: Of the snapshot; what it says of the tree and of the base is told here.
        on_problem: Called with kind, path and message.

    Attributes:
        mounts: Directories in which other file systems begin, and the devices of these.
    """

    def __init__(
        self, root: AnyStatus, started_ns: int, draft: Draft, on_problem: Callable[[str, bytes, str], None]
    ) -> None:
        self.draft = draft
        self.mounts: dict[bytes, int] = {}
        self._problem = on_problem
        self._started_ns = started_ns
        # Where each file system begins. Its number may be another one after the next start, and inode numbers alone
        # are the same on several of them.
        self._devices = {root.st_dev: b""}
        self._owners: dict[tuple[int, int], tuple[bytes, bytes]] = {}

    def enter(self, path: bytes, status: AnyStatus) -> None:
        """Take note of an entry of the walk: the first one of a file system is where that begins."""
        if status.st_dev not in self._devices:
            self._devices[status.st_dev] = path
            if stat.S_ISDIR(status.st_mode):
                self.mounts[path] = status.st_dev

    def keep(self, directories: int, files: int, size: int) -> None:
        """Count entries that are as the catalog has them."""
        draft = self.draft
        draft.directories += directories
        draft.files += files
        draft.unchanged += files
        draft.size += size

    def end(self, version: FileVersion, first: int) -> None:
        """End a version: its path is gone, or has another one."""
        self.draft.closed.append((version.path, first))
        self.draft.digest -= row_hash(version)

    def remove(self, version: FileVersion, first: int, *, gone: bool) -> None:
        """End a version of an entry that the snapshot will not have; one that is not gone was left out."""
        self.end(version, first)
        is_file = version.kind != b"d"
        self.draft.removed += is_file
        self.draft.left_out += is_file and not gone

    def lose(self, path: bytes, known: Known, *, gone: bool) -> None:
        """End the last version, if there is one, of an entry that could not or need not be saved, or is gone."""
        if path in known:
            old, first = known[path]
            self.remove(old, first, gone=gone)

    def withdraw(self, version: FileVersion, first: int) -> None:
        """End a version that was counted as unchanged, and whose file was left out after all."""
        self.remove(version, first, gone=False)
        draft = self.draft
        draft.files -= 1
        draft.unchanged -= 1
        draft.size -= version.size

    def record(
        self,
        path: bytes,
        kind: bytes,
        status: AnyStatus,
        known: Known,
        size: int = 0,
        digest: Optional[bytes] = None,
        ordinal: int = -1,
        sparse: int = 0,
        rdev: Optional[int] = None,
        target: Optional[bytes] = None,
        xattrs: Optional[bytes] = None,
        stamp: Optional[Tuple[Optional[int]]] = None,
    ) -> Optional[VersionRow]:
        """Decide what an entry is by comparison with its last version, and return its row, if it needs a new one.

        A stamp takes the place of the change time that the next snapshot compares with.
        """
        mtime_ns = clamp_ns(status.st_mtime_ns)
        if mtime_ns != status.st_mtime_ns:
            self._problem("time-out-of-range", path, "its modification time does not fit; saved with the nearest one")
        draft = self.draft
        is_file = kind != b"d"
        link = None
        if is_file:
            draft.files += 1
            draft.size += size
            if status.st_nlink > 1:
                link = b"%s:%d" % (self._devices.get(status.st_dev, path), status.st_ino)
        else:
            draft.directories += 1
        numbers = uid, gid = status.st_uid, status.st_gid
        names = self._owners.get(numbers)
        if names is None:
            names = self._owners[numbers] = (user_name(uid), group_name(gid))
        fields = (path, kind, status.st_mode & 0o7777, uid, gid, *names, mtime_ns, size, digest, sparse, rdev, target)
        version: Any = (*fields, xattrs, link)
        ctime_ns = trusted_ctime_ns(status, self._started_ns) if stamp is None else stamp[0]
        inode = signed_inode(status.st_ino)
        if path in known:
            old, first = known[path]
            if old == version:
                draft.unchanged += is_file
                draft.stamps.append((path, first, ctime_ns, inode))
                return None
            was_file = old.kind != b"d"
            draft.changed += is_file and was_file
            draft.new += is_file and not was_file
            draft.removed += was_file and not is_file
            self.end(old, first)
        else:
            draft.new += is_file
        draft.digest += row_hash(version)
        return version_row(version, ctime_ns, inode, ordinal)
