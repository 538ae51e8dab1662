"""Rehearsing a restore: a destination that does everything but the last step.

Owns what would stand in the way of an entry by the time it comes, and changes nothing. What only the attempt can tell,
such as a full disk or attributes that a file system does not take, it does not know.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from typing import Iterable, Optional, Union

from .attributes import Failure, Metadata
from .confined import split
from .destination import IN_THE_WAY, NOT_WRITABLE, Destination, cannot_restore, temporary_path
from .held import OpenFiles

__all__ = ["Place", "Rehearsal"]


class Rehearsal:
    """A directory that would be restored into; a context manager.

    It answers as a :class:`Destination` does, and raises what that would raise.

    Args:
        root: The directory; it may be missing.
        on_failure: Called with what could not be restored of an entry, as far as that can be told.
        own: What this process has open; by default as far as that can be seen now.

    Attributes:
        root: The directory, absolute and without symlinks.
        existed: Whether it is there.
        gives_owners: Whether files could be given to other users.

    Raises:
        RestoreError: It could not be made or opened.
    """

    def __init__(self, root: bytes, on_failure: Failure, own: Optional[OpenFiles] = None) -> None:
        self._on_failure = on_failure
        self._there: Optional[Destination] = None
        if os.path.lexists(root):
            self._there = Destination(root, on_failure, own=own)
        else:
            _require_makeable(root)
        self.root = os.path.realpath(root)
        self.existed = self._there is not None
        self.gives_owners = not hasattr(os, "geteuid") or os.geteuid() == 0
        self._made: set[bytes] = set()  # directories in which there is nothing
        self._gone: set[bytes] = set()
        self._errors: dict[bytes, int] = {}  # by directory: why nothing can be made in it, 0 if it can
        self._replaced: Counter[tuple[int, int]] = Counter()  # names that an inode has lost

    def __enter__(self) -> Rehearsal:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._there is not None:
            self._there.__exit__(*exc_info)

    # What is there.

    def lstat(self, path: bytes) -> Optional[os.stat_result]:
        """Return the status of what is there now, None if nothing is."""
        return None if self._there is None else self._there.lstat(path)

    def names_of(self, existing: os.stat_result) -> int:
        """Return how many names an inode has left."""
        return existing.st_nlink - self._replaced[existing.st_dev, existing.st_ino]

    def read_link(self, path: bytes) -> bytes:
        """Return the target of a symlink that is there."""
        return self._existing().read_link(path)

    def read_xattrs(self, path: bytes) -> Optional[bytes]:
        """Return the encoded extended attributes of an entry that is there, None if there are none."""
        return self._existing().read_xattrs(path)

    def hash_file(self, path: bytes) -> bytes:
        """Return the SHA-256 of a regular file that is there."""
        return self._existing().hash_file(path)

    def _existing(self) -> Destination:
        assert self._there is not None, "nothing is there that could be read"
        return self._there

    # What would be made.

    def make_directory(self, path: bytes) -> bool:
        """Tell whether a directory would be made; False if it is there."""
        if not path:
            if self._there is not None:
                if self._error_in(path):
                    raise cannot_restore(self.root, NOT_WRITABLE)
                return False
        else:
            self._require(split(path)[0])
            status = self.lstat(path)
            if status is not None and stat.S_ISDIR(status.st_mode):
                return False
            self._note_replaced(status)
        self._made.add(path)
        return True

    def write_file(
        self,
        path: bytes,
        pieces: Iterable[tuple[int, Union[bytes, memoryview, None]]],
        size: int,
        sparse: bool,
        metadata: Metadata,
    ) -> None:
        """Let a regular file take its name."""
        self._take_name(path, metadata)

    def make_symlink(self, path: bytes, target: bytes, metadata: Metadata) -> None:
        """Let a symlink take its name."""
        if not target:
            raise _error(errno.ENOENT)
        self._take_name(path, metadata)

    def make_special(self, path: bytes, kind: bytes, device: int, metadata: Metadata) -> None:
        """Let a FIFO, a socket or a device take its name.

        Raises:
            OSError: EPERM if only root may.
        """
        if kind in (b"c", b"b") and not self.gives_owners:
            raise _error(errno.EPERM)
        self._take_name(path, metadata)

    def make_link(self, path: bytes, existing: bytes) -> None:
        """Let a hard link take its name."""
        self._take_name(path)

    def set_metadata(self, path: bytes, kind: bytes, metadata: Metadata) -> None:
        """Give an entry that is there, or a directory that would be made, its metadata."""
        self._give(path, metadata)
        if self.gives_owners or path in self._made:
            return
        status = self.lstat(path)
        if status is not None and status.st_uid != os.geteuid():
            for what in ("mode", "times"):
                self._on_failure(what, path, _error(errno.EPERM))

    def remove(self, path: bytes) -> bool:
        """Let a file or an empty directory be gone; False if it would not be there any more."""
        if path in self._gone:
            return False
        self._require(split(path)[0])
        status = self.lstat(path)
        if status is not None and stat.S_ISDIR(status.st_mode):
            self._require_empty(path)
        else:
            self._note_replaced(status)
        self._gone.add(path)
        return True

    def _take_name(self, path: bytes, metadata: Optional[Metadata] = None) -> None:
        """Give an entry its metadata, if it is none that has it already, then its name; note what was there.

        Raises:
            OSError: It could not be made, or not take its name.
        """
        parent, _ = split(path)
        self._require(parent)
        if metadata is not None:
            self._give(path, metadata)
        if parent in self._made:
            return
        status = self.lstat(path)
        if status is not None and stat.S_ISDIR(status.st_mode):
            self._require_empty(path)
        else:
            self._note_replaced(status)
        temporary = temporary_path(path)
        if self.lstat(temporary) is not None:  # left by an interrupted run
            self._gone.add(temporary)

    def _note_replaced(self, existing: Optional[os.stat_result]) -> None:
        if existing is not None and existing.st_nlink > 1:
            self._replaced[existing.st_dev, existing.st_ino] += 1

    def _require(self, directory: bytes) -> None:
        """Raise what making something in a directory would."""
        if directory in self._made:
            return
        found = self._errors.get(directory)
        if found is None:
            found = self._errors[directory] = self._error_in(directory)
        if found:
            raise _error(found)

    def _error_in(self, directory: bytes) -> int:
        status = self.lstat(directory)
        if status is None or not stat.S_ISDIR(status.st_mode):
            return self._error_on_the_way(directory)
        assert self._there is not None
        # One's own directory is opened up for the time of a restore.
        own = not self.gives_owners and status.st_uid == os.geteuid()
        return 0 if own or self._there.is_writable(directory) else errno.EACCES

    def _error_on_the_way(self, directory: bytes) -> int:
        """Make the directories that the catalog lacks, as a destination does, unless something has their name."""
        for end in [index for index, byte in enumerate(directory) if byte == 47] + [len(directory)]:
            path = directory[:end]
            if path in self._made or not path:
                continue
            status = self.lstat(path)
            if status is None:
                self.make_directory(path)
                self._on_failure("metadata", path, OSError(errno.ENOENT, "the catalog does not have it"))
            elif not stat.S_ISDIR(status.st_mode):
                return errno.ENOTDIR
        return 0

    def _require_empty(self, path: bytes) -> None:
        """Require that nothing would be left in a directory whose place is taken."""
        try:
            names = self._existing().names(path)
        except OSError as exc:
            raise _error(errno.ENOTEMPTY) from exc  # as far as anybody knows
        if any(path + b"/" + name not in self._gone for name in names):
            raise _error(errno.ENOTEMPTY)

    def _give(self, path: bytes, metadata: Metadata) -> None:
        """Name the owner if only root could give it."""
        if self.gives_owners:
            return
        groups = {os.getegid(), *os.getgroups()}
        if metadata.uid != os.geteuid() or metadata.gid not in groups:
            self._on_failure("owner", path, _error(errno.EPERM))


#: Where a restore puts things, or would.
Place = Union[Destination, Rehearsal]


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def _require_makeable(root: bytes) -> None:
    """Require that a directory could be made, with its parents.

    Raises:
        RestoreError: It could not.
    """
    parent = os.path.dirname(root)
    while not os.path.lexists(parent):
        parent = os.path.dirname(parent)
    if not os.path.isdir(parent):
        raise cannot_restore(root, IN_THE_WAY)
    if not os.access(parent, os.W_OK | os.X_OK):
        raise cannot_restore(root, os.strerror(errno.EACCES))
