"""Comparing what was restored for trial with all that the catalog says of it.

Owns what counts as a failure of the snapshot, and what only the place that it was restored into could not hold.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Mapping, Optional, Tuple

from ..errors import RestoreError, UnsafePathError
from ..progress import Reporter
from ..results.problem import Problem
from ..storage.database import Database
from ..storage.digest import FileVersion
from ..storage.files import files_of
from ..storage.snapshots import SnapshotRow
from ..tree.confined import require_safe
from ..tree.destination import Destination
from ..tree.metadata import decode_xattrs, encode_xattrs, kind_of
from .selecting import Selection

__all__ = ["TrialComparison"]

#: What the place that is restored into may be unable to hold: the restore names it, and nothing is held against the
#: snapshot.
_NOT_HELD = ("owner", "mode", "xattr", "times", "device")

#: What the system says of the place, and not of what is to be restored there: a file as large or with such a name that
#: it cannot have, a kind of file that it does not know, a disk that fails.
_OF_THE_PLACE = frozenset(
    (
        *(errno.EFBIG, errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.ENOTSUP, errno.EPERM, errno.EACCES),
        *(errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
    )
)

_ACL = b"system.posix_acl_access"  # changes with the mode


class TrialComparison:
    """Compares what was restored with all that the catalog says of it.

    Attributes:
        files, size: Files compared, and their bytes.
        without: Files that the place could not hold: nothing is known of them.
        failed: Files and directories that are not as they were saved.
        problems: What the restore did not name by itself.
    """

    def __init__(
        self,
        database: Database,
        snapshot: SnapshotRow,
        paths: Optional[frozenset[bytes]],
        problems: Tuple[Problem, ...],
        unwritten: Mapping[bytes, OSError],
        reporter: Reporter,
    ) -> None:
        self._database = database
        self._snapshot = snapshot
        self._selection = Selection((), (), paths)
        self._reporter = reporter
        self._excused = {what for what in _NOT_HELD if any(p.kind == f"{what}-not-restored" for p in problems)}
        self._named = {problem.path for problem in problems if not problem.kind.endswith("-not-restored")}
        self._list_is_wrong = any(problem.kind == "snapshot-corrupt" for problem in problems)
        self._links: dict[Tuple[object, ...], Tuple[int, int]] = {}
        self._unwritten = {path: exc for path, exc in unwritten.items() if exc.errno in _OF_THE_PLACE}
        self.files = self.size = self.failed = self.without = 0
        self.problems: list[Problem] = []

    def run(self, root: bytes) -> None:
        """Compare everything that was to be restored.

        Raises:
            RestoreError: The place is gone, or could hold none of the files.
        """
        identity = _identity(root)
        expected = None if not self._selection.everything else self._snapshot.files
        with Destination(root, lambda *failure: None, identity) as destination:
            for file in self._selection.among(files_of(self._database, self._snapshot), lambda *problem: None):
                version = file.version
                counts = version.kind != b"d"
                if version.path in self._unwritten:
                    self.without += counts
                    continue
                self._reporter.report(
                    "verify",
                    done_files=self.files + self.without + counts,
                    total_files=expected,
                    done_bytes=self.size + version.size,
                    path=version.path,
                )
                try:
                    differing = self._differing(version, destination)
                except OSError as exc:
                    if exc.errno in _OF_THE_PLACE:
                        self._unreadable(version, exc)
                        self.without += counts
                        continue
                    differing = [f"it cannot be read back: {exc.strerror}"]
                except (UnsafePathError, ValueError) as exc:
                    differing = [str(exc)]
                self.files += counts
                self.size += version.size
                if differing:
                    self._fail(version.path, f"did not come back as it was saved: {', '.join(differing)}")
        if _identity(root) != identity:
            raise _gone(root)
        if self.without and not self.files:
            raise _nothing_held(root, next(iter(self._unwritten.values())))
        found = self.files + self.without
        if expected is not None and found != expected:
            self.failed += abs(expected - found)
            self._note("", f"the snapshot should have {expected:,} files, and {found:,} are there; run check")
        if self._list_is_wrong and not self.failed:  # what came back is what the catalog has, and not what was saved
            self.failed = 1

    def _fail(self, path: bytes, message: str) -> None:
        self.failed += 1
        shown = os.fsdecode(path) or "."
        if shown not in self._named:
            self._note(shown, message)

    def _note(self, path: str, message: str) -> None:
        number = self._snapshot.id
        self.problems.append(Problem(kind="not-as-saved", path=path, message=message, snapshots=(number,)))

    def _unreadable(self, version: FileVersion, exc: OSError) -> None:
        self._unwritten[version.path] = exc
        message = f"cannot be read back: {exc.strerror}"
        self.problems.append(Problem(kind="unreadable", path=os.fsdecode(version.path) or ".", message=message))

    def _differing(self, version: FileVersion, destination: Destination) -> list[str]:
        """Return in words what of an entry is not as it was saved."""
        require_safe(version.path)
        status = destination.lstat(version.path)
        if status is None:
            return [] if version.kind in (b"c", b"b") and "device" in self._excused else ["it is missing"]
        if kind_of(status.st_mode) != version.kind:
            return ["it is another kind of file"]
        found = []
        xattrs = destination.read_xattrs(version.path)
        # What was saved as closed to its owner is closed to whoever restores it, but for root.
        opened = destination.open_up(version.path, status.st_mode) if version.kind in (b"f", b"d") else False
        try:
            if version.kind == b"f" and (
                status.st_size != version.size or destination.hash_file(version.path) != version.hash
            ):
                found.append("content")
            if opened and xattrs is None:
                xattrs = _without_acl(destination.read_xattrs(version.path))
                version = version._replace(xattrs=_without_acl(version.xattrs))
        finally:
            if opened and version.kind == b"f":  # it may have another name
                destination.change_mode(version.path, stat.S_IMODE(status.st_mode))
        if version.kind == b"l" and destination.read_link(version.path) != version.target:
            found.append("target")
        if version.kind in (b"c", b"b") and status.st_rdev != version.rdev:
            found.append("device number")
        return found + self._differing_metadata(version, status, xattrs)

    def _differing_metadata(self, version: FileVersion, status: os.stat_result, xattrs: Optional[bytes]) -> list[str]:
        found = []
        owned = "owner" not in self._excused
        if owned and (status.st_uid, status.st_gid) != (version.uid, version.gid):
            found.append("owner")
        mode = stat.S_IMODE(status.st_mode)
        if version.kind != b"l" and (mode ^ version.mode) & (0o7777 if owned else 0o1777) and self._held("mode"):
            found.append("mode")
        if status.st_mtime_ns != version.mtime_ns and self._held("times"):
            found.append("time")
        if self._held("xattr") and _kept(xattrs, version.xattrs) != version.xattrs:
            found.append("extended attributes")
        if version.link is not None and version.kind != b"d":
            inode = (status.st_dev, status.st_ino)
            if self._links.setdefault(version.inode, inode) != inode:
                found.append("hard link")
        return found

    def _held(self, what: str) -> bool:
        """Tell whether the place that was restored into can hold something."""
        return what not in self._excused


def _kept(there: Optional[bytes], saved: Optional[bytes]) -> Optional[bytes]:
    """Return the attributes that are there but for those that the system gives by itself and were not saved."""
    names = {name for name, _ in decode_xattrs(saved)}
    return encode_xattrs(
        {name: value for name, value in decode_xattrs(there) if name in names or not name.startswith(b"security.")}
    )


def _without_acl(xattrs: Optional[bytes]) -> Optional[bytes]:
    """Return the attributes but for the one that says again what the mode does."""
    return encode_xattrs({name: value for name, value in decode_xattrs(xattrs) if name != _ACL})


def _identity(root: bytes) -> Tuple[int, int]:
    """Return (device, inode) of what was restored into.

    Raises:
        RestoreError: Somebody removed it.
    """
    try:
        status = os.stat(root, follow_symlinks=False)
    except OSError as exc:
        raise _gone(root) from exc
    return status.st_dev, status.st_ino


def _gone(root: bytes) -> RestoreError:
    shown = os.fsdecode(root)
    return RestoreError(f"{shown} was removed while the drill ran; run it again with another scratch directory", shown)


def _nothing_held(root: bytes, exc: OSError) -> RestoreError:
    shown = os.fsdecode(root)
    return RestoreError(
        f"nothing can be restored for trial into {shown}: {exc.strerror}; name another scratch directory", shown
    )
