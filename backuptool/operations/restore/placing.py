"""What becomes of one entry that is restored: it stays as it is, becomes a hard link, or is written.

Owns the comparison with what is there, and what is known of directories and inodes by now. In which order entries come,
and which of them other processes write, is restoring's business.
"""

from __future__ import annotations

import enum
import errno
import os
import stat
from typing import Callable, Iterator, NamedTuple, Optional

from ...errors import CorruptionError
from ...results.restore import OverwritePolicy
from ...storage.contents import ContentLocation
from ...storage.digest import FileVersion
from ...storage.files import CatalogFile
from ...storage.pieces import Bytes
from ...storage.reader import ContentReader
from ...tree.attributes import Metadata
from ...tree.confined import split
from ...tree.rehearsal import Place
from ..findings import Findings
from ..selecting import Selection
from .overwriting import has_attributes, looks_as_saved, metadata_differs, stays

__all__ = ["Fate", "Placing"]

#: What a file system says that cannot have a hard link there, or not one more.
_NO_LINK = (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.ENOTSUP)


class Fate(enum.Enum):
    """What is to be done with an entry."""

    DONE = enum.auto()  #: nothing more
    WAITS = enum.auto()  #: it comes again when the first path of its inode was written
    WRITTEN = enum.auto()  #: it is to be written
    WRITTEN_HERE = enum.auto()  #: the same, and by no helper, as a directory is in its place


class _First(NamedTuple):
    """The first path of an inode, to which the others are linked.

    Attributes:
        path: None while a helper is writing it.
        written: Whether it was written now, and not left as it was.
        proven: Whether its bytes are known to be right, because it was written, or read.
    """

    path: Optional[bytes]
    written: bool
    proven: bool


#: For an inode of which no path was restored.
_UNKNOWN = _First(b"", False, False)


class Placing:
    """Puts entries where they belong.

    Args:
        destination: Where that is.
        reader: Gives their bytes.
        overwrite: What becomes of files that are there.
        dry_run: Whether this is a rehearsal, for which no contents are read.
        repository: (device, inode) of what must not be written over.
        selection: What was asked for.
        findings: Where problems go.
        tell: Is told the path of a large file and how much of it is written; None if nobody wants to know.

    Attributes:
        restored, unchanged, restored_directories, written_bytes: What was done so far.
        made: Directories that were made now: nothing is in them.
        directories: Those that get their metadata at the end.
    """

    def __init__(
        self,
        destination: Place,
        reader: ContentReader,
        overwrite: OverwritePolicy,
        dry_run: bool,
        repository: frozenset[tuple[int, int]],
        selection: Selection,
        findings: Findings,
        tell: Optional[Callable[[bytes, int], None]],
    ) -> None:
        self._destination = destination
        self._reader = reader
        self._overwrite = overwrite
        self._dry_run = dry_run
        self._repository = repository
        self._selection = selection
        self._problem = findings.problem
        self._tell = tell
        self.restored = self.unchanged = self.restored_directories = self.written_bytes = 0
        self.made: set[bytes] = set()
        self.directories: list[FileVersion] = []
        self._links: dict[object, _First] = {}  # by inode

    def restore_directory(self, file: CatalogFile) -> None:
        """Make a directory, unless it is there; it gets its metadata at the end."""
        version = file.version
        path = version.path
        existing = self._existing(path)
        if existing is not None and not stat.S_ISDIR(existing.st_mode):
            if self._is_repository(existing):
                self._problem("in-the-way", path, "not restored: the repository itself has its name")
                return
            if stays(self._overwrite, version, existing, self._destination):
                newer = "newer " if self._overwrite == "if-newer" else ""
                self._problem("in-the-way", path, f"not restored: a {newer}file has its name")
                return
        made = self._destination.make_directory(path)
        if made:
            self.made.add(path)
        # A directory that was there keeps its metadata if nobody asked for it: restoring one file into a shared
        # directory must not change that directory.
        if made or (self._overwrite != "never" and version in self._selection):
            self.directories.append(version)
            self.restored_directories += 1

    def place(self, file: CatalogFile, *, decided: bool = False) -> Fate:
        """Do what can be done with an entry that is no directory without writing it, and tell what is left.

        Args:
            decided: It was found before that what is there does not stay.
        """
        version = file.version
        existing = self._existing(version.path)
        if existing is not None and self._is_repository(existing):
            self._problem("in-the-way", version.path, "not restored: the repository itself has its name")
            return Fate.DONE
        if version.link is not None:
            if self._links.get(version.inode, _UNKNOWN).path is None:
                return Fate.WAITS
            if self._restore_link(version, existing, decided):
                return Fate.DONE
        policy, destination = self._overwrite, self._destination
        if existing is not None and not decided and stays(policy, version, existing, destination):
            renew = policy == "if-changed" and version.kind == b"f" and metadata_differs(version, existing, destination)
            # An inode with another name may lie outside as well: it is not changed, a file of its own is written.
            if not renew or destination.names_of(existing) == 1:
                self._leave(version, existing, renew=renew)
                return Fate.DONE
        blocked = existing is not None and stat.S_ISDIR(existing.st_mode)
        return Fate.WRITTEN_HERE if blocked else Fate.WRITTEN

    def expect_first(self, version: FileVersion) -> None:
        """Note that somebody else writes the first path of an inode."""
        if version.link is not None:
            self._links[version.inode] = _First(None, True, True)

    def forget_first(self, version: FileVersion) -> None:
        """Note that it was not written: another path of the inode becomes the first."""
        if version.link is not None:
            self._links.pop(version.inode, None)

    def count(self, file: CatalogFile) -> None:
        """Count a file that was written."""
        version = file.version
        self.restored += 1
        if version.kind == b"f":
            self.written_bytes += version.size
        if version.link is not None:
            self._links[version.inode] = _First(version.path, True, True)

    def write(self, file: CatalogFile) -> None:
        """Write an entry, and count it."""
        self._make(file)
        self.count(file)

    def _make(self, file: CatalogFile) -> None:
        version = file.version
        destination = self._destination
        metadata = _metadata(version)
        if version.kind == b"f":
            if file.content is None or version.hash is None:
                raise CorruptionError("its content is not in the repository")
            if file.content.size != version.size:
                raise CorruptionError("its size is not that of its content")
            pieces = iter(()) if self._dry_run else self._pieces(version, file.content)
            destination.write_file(version.path, pieces, version.size, bool(version.sparse), metadata)
        elif version.kind == b"l":
            if version.target and b"\0" in version.target:
                raise ValueError("its target has a NUL")
            destination.make_symlink(version.path, version.target or b"", metadata)
        elif version.kind in (b"p", b"s", b"c", b"b"):
            destination.make_special(version.path, version.kind, version.rdev or 0, metadata)
        else:
            raise CorruptionError(f"its kind {version.kind!r} is unknown")

    def _pieces(self, version: FileVersion, content: ContentLocation) -> Iterator[tuple[int, Optional[Bytes]]]:
        pieces = self._reader.stream(content)
        if content.pack is not None:
            return iter(list(pieces))  # verified before the file is made
        if self._tell is not None and version.size:
            return _told(pieces, version.path, self._tell)
        return pieces

    def _leave(self, version: FileVersion, existing: os.stat_result, *, renew: bool) -> None:
        """Leave what is there, but for its metadata if that differs."""
        destination = self._destination
        if renew:
            destination.set_metadata(version.path, version.kind, _metadata(version))
        self.unchanged += 1
        # What the policy left alone may be another file altogether: nothing is linked to that.
        if version.link is None or not looks_as_saved(version, existing, destination):
            return
        if self._overwrite == "if-changed" or has_attributes(version, existing, destination):
            self._links[version.inode] = _First(version.path, False, False)

    def _existing(self, path: bytes) -> Optional[os.stat_result]:
        if path and split(path)[0] in self.made:
            return None
        return self._destination.lstat(path)

    def _is_repository(self, existing: os.stat_result) -> bool:
        return (existing.st_dev, existing.st_ino) in self._repository

    def _restore_link(self, version: FileVersion, existing: Optional[os.stat_result], decided: bool) -> bool:
        """Make a hard link if another path of the inode was restored; False if this is the first."""
        first, written, proven = self._links.get(version.inode, _UNKNOWN)
        if not first:
            return False
        if existing is not None and not decided:
            status = None if written else self._destination.lstat(first)
            same = status is not None and (status.st_dev, status.st_ino) == (existing.st_dev, existing.st_ino)
            newer = self._overwrite == "if-newer" and version.mtime_ns <= existing.st_mtime_ns
            if same or newer or self._overwrite == "never":
                self.unchanged += 1
                return True
        if not proven and not self._prove(version, first):
            return False
        try:
            self._destination.make_link(version.path, first)
        except OSError as exc:
            if exc.errno not in _NO_LINK:
                raise
            return False  # it becomes a file of its own
        self.restored += 1
        return True

    def _prove(self, version: FileVersion, first: bytes) -> bool:
        """Tell whether a file that was left alone is fit to be linked to; it was looked at, and is read only now.

        Size and time are reason enough to leave a file, and none to give its bytes a new name.
        """
        destination = self._destination
        try:
            right = version.kind != b"f" or destination.hash_file(first) == version.hash
        except OSError:
            right = False
        if right:
            self._links[version.inode] = _First(first, False, True)
        else:
            del self._links[version.inode]  # the next path becomes the first
        return right

    def finish_directory(self, version: FileVersion) -> None:
        """Give a directory its metadata."""
        self._destination.set_metadata(version.path, b"d", _metadata(version))


def _told(
    pieces: Iterator[tuple[int, Optional[Bytes]]], path: bytes, tell: Callable[[bytes, int], None]
) -> Iterator[tuple[int, Optional[Bytes]]]:
    """Pass the pieces of a large file on, and tell how far it is."""
    for offset, data in pieces:
        tell(path, offset)
        yield offset, data


def _metadata(version: FileVersion) -> Metadata:
    return Metadata(version.mode, version.uid, version.gid, version.mtime_ns, version.xattrs)
