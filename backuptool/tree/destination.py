"""Writing a restored tree: confined to its directory, each file complete before it takes its name.

Owns how an entry is made, and in whose place it comes. Its metadata is set by attributes, its bytes written by sparse;
what is restored, and what is left alone, is decided by the restore operation.
"""

from __future__ import annotations

import errno
import os
import stat
from hashlib import sha256
from typing import Callable, Iterable, Optional, Union

from ..errors import RestoreError
from .attributes import Failure, Metadata, MetadataSetter
from .confined import ConfinedRoot, split
from .held import OpenFiles
from .metadata import read_xattrs
from .portability import FOLLOW_NOTHING, OPEN_DIRECTORY, OPEN_FILE
from .sparse import write_pieces

__all__ = ["IN_THE_WAY", "NOT_WRITABLE", "Destination", "cannot_restore", "is_temporary", "temporary_path"]

#: Why nothing can be restored into a directory.
IN_THE_WAY = "a file is in the way"
NOT_WRITABLE = "it cannot be written to"

_PREFIX = b".backuptool-"  # of temporary names
_SUFFIX = b".part"
_LONG = 255 - len(_PREFIX) - len(_SUFFIX)  # bytes of a name that the others leave room for

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | FOLLOW_NOTHING

_INSPECT = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_CLOEXEC", 0) | FOLLOW_NOTHING

_MAKE = {b"p": stat.S_IFIFO, b"s": stat.S_IFSOCK, b"c": stat.S_IFCHR, b"b": stat.S_IFBLK}


class Destination:
    """A directory that is restored into; a context manager.

    Args:
        root: The directory; it is made, with its parents, if it is missing.
        on_failure: Called with what could not be restored of an entry ("owner", "mode", "xattr", "times"), its path,
            and why; the entry is restored all the same.
        identity: (device, inode) that the directory must have, if it is one that another process has made and opened.
        own: What this process has open; by default as far as that can be seen now.

    Attributes:
        existed: False if the directory was made now.
        gives_owners: Whether files can be given to other users, as root may.

    Raises:
        RestoreError: It cannot be made or opened.
    """

    def __init__(
        self,
        root: bytes,
        on_failure: Failure,
        identity: Optional[tuple[int, int]] = None,
        own: Optional[OpenFiles] = None,
    ) -> None:
        shown = os.fsdecode(root)
        self._files_open = own or OpenFiles()
        self._claim = -1
        self._on_failure = on_failure
        self._setter = MetadataSetter(on_failure)
        self.gives_owners = not hasattr(os, "geteuid") or os.geteuid() == 0
        self._opened_up: dict[bytes, int] = {}  # modes to give back to directories that nobody asked for
        try:
            self.existed = os.path.isdir(root)
            if identity is None:
                os.makedirs(root, mode=0o700, exist_ok=True)
            self.root = os.path.realpath(root)
            self._confined = ConfinedRoot(self.root)
        except OSError as exc:
            reason = IN_THE_WAY if isinstance(exc, (FileExistsError, NotADirectoryError)) else exc.strerror
            raise cannot_restore(root, reason) from exc
        if identity is not None and self.identity() != identity:
            self._confined.close()
            raise RestoreError(f"cannot restore into {shown}: another directory has taken its name", shown)

    def __enter__(self) -> Destination:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for path, mode in reversed(list(self._opened_up.items())):
            self.change_mode(path, mode)
        self._confined.close()
        if self._claim >= 0:
            os.close(self._claim)

    def claim(self) -> None:
        """Keep other restores out as long as this one runs: they would use the same temporary names.

        Raises:
            RestoreError: One is writing there already.
        """
        try:
            import fcntl

            descriptor = os.open(self.root, OPEN_DIRECTORY)
        except (ImportError, OSError):
            return  # not Linux, or it may not be read
        self._claim = descriptor
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            shown = os.fsdecode(self.root)
            raise RestoreError(
                f"another restore is writing into {shown}; wait until it has ended, or name another directory", shown
            ) from exc
        except OSError:
            pass  # a file system without locks

    def _directory(self, path: bytes) -> int:
        """Return a descriptor of a directory, for use at once.

        One that the catalog lacks, because its row is damaged, is made: what is in it can still be restored.
        """
        try:
            return self._confined.directory(path)
        except FileNotFoundError:
            lost = OSError(errno.ENOENT, "the catalog does not have it")
        for end in [index for index, byte in enumerate(path) if byte == 47] + [len(path)]:
            if self.lstat(path[:end]) is None and self.make_directory(path[:end]):
                self._on_failure("metadata", path[:end], lost)
        return self._confined.directory(path)

    def identity(self) -> tuple[int, int]:
        """Return (device, inode) of the directory that is restored into."""
        return self._confined.identity()

    def lstat(self, path: bytes) -> Optional[os.stat_result]:
        """Return the status of what is there, None if nothing is. Symlinks are not followed, also on the way."""
        parent, name = split(path)
        try:
            parent_fd = self._confined.directory(parent)
            return os.stat(name, dir_fd=parent_fd, follow_symlinks=False) if name else os.fstat(parent_fd)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def names_of(self, existing: os.stat_result) -> int:
        """Return how many names the inode of an entry that is there has."""
        return existing.st_nlink

    def names(self, path: bytes) -> list[bytes]:
        """Return the names in a directory that is there."""
        descriptor = self._confined.open(path, OPEN_DIRECTORY)
        try:
            return [os.fsencode(name) for name in os.listdir(descriptor)]
        finally:
            os.close(descriptor)

    def is_writable(self, path: bytes) -> bool:
        """Tell whether this process may make something in a directory that is there."""
        return os.access(b".", os.W_OK | os.X_OK, dir_fd=self._confined.directory(path))

    def read_link(self, path: bytes) -> bytes:
        """Return the target of a symlink that is there."""
        parent, name = split(path)
        return os.readlink(name, dir_fd=self._confined.directory(parent))

    def read_xattrs(self, path: bytes) -> Optional[bytes]:
        """Return the encoded extended attributes of an entry that is there, None if there are none."""
        parent, name = split(path)
        try:
            return read_xattrs(b"/proc/self/fd/%d/%s" % (self._confined.directory(parent), name))
        except OSError:
            return None

    def make_directory(self, path: bytes) -> bool:
        """Make a directory that only its owner may use for now; False if it was there.

        Something else in its place is removed.

        Raises:
            RestoreError: It is the destination itself, and cannot be written to.
        """
        if not path:
            return self._make_root()
        parent, name = split(path)
        parent_fd = self._directory(parent)
        try:
            os.mkdir(name, 0o700, dir_fd=parent_fd)
            return True
        except FileExistsError:
            pass
        status = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            self._open_up(path, status.st_mode)
            return False
        os.unlink(name, dir_fd=parent_fd)
        os.mkdir(name, 0o700, dir_fd=parent_fd)
        return True

    def _make_root(self) -> bool:
        self._open_up(b"", os.stat(self.root).st_mode)
        if not os.access(self.root, os.W_OK | os.X_OK):
            raise cannot_restore(self.root, NOT_WRITABLE)
        return not self.existed

    def _open_up(self, path: bytes, mode: int) -> None:
        """Let the owner write into a directory until it gets its metadata at the end, or else its own mode back."""
        if self.open_up(path, mode):
            self._opened_up[path] = stat.S_IMODE(mode)

    def open_up(self, path: bytes, mode: int) -> bool:
        """Let the owner read a file, or use a directory, whatever its mode says; False if there is no need or no way.

        Args:
            mode: That of what is there, with its type.
        """
        needed = 0o700 if stat.S_ISDIR(mode) else 0o400
        return not self.gives_owners and mode & needed != needed and self.change_mode(path, stat.S_IMODE(mode) | needed)

    def change_mode(self, path: bytes, mode: int) -> bool:
        """Change the mode of an entry that is there; False if it is somebody else's."""
        parent, name = split(path)
        try:
            parent_fd = self._confined.directory(parent)
            descriptor = os.open(name, _INSPECT, dir_fd=parent_fd) if name else os.dup(parent_fd)
        except OSError:
            return False
        try:
            os.chmod(b"/proc/self/fd/%d" % descriptor, mode)
            return True
        except OSError:
            return False  # not ours: what is written into it will say so
        finally:
            os.close(descriptor)

    def write_file(
        self,
        path: bytes,
        pieces: Iterable[tuple[int, Union[bytes, memoryview, None]]],
        size: int,
        sparse: bool,
        metadata: Metadata,
    ) -> None:
        """Write a regular file under a temporary name, give it its metadata, then its own name.

        Args:
            pieces: (offset, bytes) in order; None in place of bytes is a hole up to the next piece or the end.
            size: Bytes of the whole.
            sparse: Leave holes where zeros are.
        """
        parent, name = split(path)
        parent_fd = self._directory(parent)
        temporary = _temporary(name)
        try:
            descriptor = os.open(temporary, _CREATE, 0o600, dir_fd=parent_fd)
        except FileExistsError:  # left by an interrupted run
            os.unlink(temporary, dir_fd=parent_fd)
            descriptor = os.open(temporary, _CREATE, 0o600, dir_fd=parent_fd)
        try:
            try:
                write_pieces(descriptor, pieces, size, sparse)
                self._setter.set(descriptor, path, metadata)
            finally:
                os.close(descriptor)
            self._take_name(temporary, name, parent_fd, path)
        except BaseException:
            self._discard(temporary, parent)
            raise

    def make_symlink(self, path: bytes, target: bytes, metadata: Metadata) -> None:
        """Make a symlink."""
        self._make(
            path,
            metadata,
            stat.S_IFLNK,
            lambda temporary, parent_fd: os.symlink(target, temporary, dir_fd=parent_fd),
        )

    def make_special(self, path: bytes, kind: bytes, device: int, metadata: Metadata) -> None:
        """Make a FIFO, a socket or a device.

        Raises:
            OSError: EPERM if only root may.
        """
        self._make(
            path,
            metadata,
            _MAKE[kind],
            lambda temporary, parent_fd: os.mknod(temporary, 0o600 | _MAKE[kind], device, dir_fd=parent_fd),
        )

    def _make(self, path: bytes, metadata: Metadata, file_type: int, make: Callable[[bytes, int], None]) -> None:
        """Make an entry without bytes under a temporary name, give it its metadata, then its own name."""
        parent, name = split(path)
        temporary = _temporary(name)
        parent_fd = self._directory(parent)
        self._discard(temporary, parent)
        make(temporary, parent_fd)
        try:
            # By descriptor: whoever may write here could put something else in the place of the temporary name.
            descriptor = os.open(temporary, _INSPECT, dir_fd=parent_fd)
            try:
                made = os.fstat(descriptor)
                if stat.S_IFMT(made.st_mode) != file_type or made.st_nlink != 1:
                    raise OSError(errno.EBUSY, "something else was put in its place while it was made")
                exact = b"/proc/self/fd/%d" % descriptor
                named = b"/proc/self/fd/%d/%s" % (parent_fd, temporary)
                self._setter.set_by_path(exact, named, path, metadata, has_mode=file_type != stat.S_IFLNK)
            finally:
                os.close(descriptor)
            self._take_name(temporary, name, parent_fd, path)
        except BaseException:
            self._discard(temporary, parent)
            raise

    def make_link(self, path: bytes, existing: bytes) -> None:
        """Make a hard link to an entry that was restored before."""
        parent, name = split(path)
        temporary = _temporary(name)
        from_parent, from_name = split(existing)
        from_fd = os.dup(self._confined.directory(from_parent))
        try:
            parent_fd = self._directory(parent)
            self._discard(temporary, parent)
            os.link(from_name, temporary, src_dir_fd=from_fd, dst_dir_fd=parent_fd, follow_symlinks=False)
            self._take_name(temporary, name, parent_fd, path)
        except BaseException:
            self._discard(temporary, parent)
            raise
        finally:
            os.close(from_fd)

    def set_metadata(self, path: bytes, kind: bytes, metadata: Metadata) -> None:
        """Give an entry that is there, a file or directory, its metadata."""
        self._opened_up.pop(path, None)
        try:
            descriptor = self._confined.open(path, OPEN_DIRECTORY) if kind == b"d" else self._open_file(path)
        except OSError as exc:
            self._on_failure("metadata", path, exc)
            return
        try:
            self._setter.set(descriptor, path, metadata)
        finally:
            self._files_open.close(descriptor, os.fstat(descriptor))

    def _open_file(self, path: bytes) -> int:
        """Return a descriptor of a file that is there: that which was kept, if this process has the file open."""
        status = self.lstat(path)
        kept = self._files_open.take(status) if status is not None and self._files_open.has(status) else None
        return self._confined.open(path, OPEN_FILE) if kept is None else kept

    def remove(self, path: bytes) -> bool:
        """Remove a file, or an empty directory; True, as it was there."""
        parent, name = split(path)
        parent_fd = self._confined.directory(parent)
        if stat.S_ISDIR(os.stat(name, dir_fd=parent_fd, follow_symlinks=False).st_mode):
            self._confined.forget(path)
            os.rmdir(name, dir_fd=parent_fd)
        else:
            os.unlink(name, dir_fd=parent_fd)
        return True

    def hash_file(self, path: bytes) -> bytes:
        """Return the SHA-256 of a regular file that is there.

        Raises:
            OSError: It cannot be read, or is no regular file.
        """
        descriptor = self._open_file(path)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "it is no regular file")
            hasher = sha256()
            while True:
                data = os.read(descriptor, 1 << 20)
                if not data:
                    return hasher.digest()
                hasher.update(data)
        finally:
            self._files_open.close(descriptor, os.fstat(descriptor))

    def _take_name(self, temporary: bytes, name: bytes, parent_fd: int, path: bytes) -> None:
        try:
            os.replace(temporary, name, src_dir_fd=parent_fd, dst_dir_fd=parent_fd)
        except IsADirectoryError:
            self._confined.forget(path)
            os.rmdir(name, dir_fd=parent_fd)  # fails if something is in it, and then it stays
            os.replace(temporary, name, src_dir_fd=parent_fd, dst_dir_fd=parent_fd)

    def _discard(self, temporary: bytes, parent: bytes) -> None:
        try:
            os.unlink(temporary, dir_fd=self._confined.directory(parent))
        except OSError:
            pass  # it is not there


def _temporary(name: bytes) -> bytes:
    """Return the name under which an entry is made; the same one each time, so that a later run finds what is left."""
    if len(name) > _LONG:
        name = name[: _LONG - 21] + b"-" + sha256(name).hexdigest()[:20].encode()
    return _PREFIX + name + _SUFFIX


def temporary_path(path: bytes) -> bytes:
    """Return the path under which an entry is made."""
    parent, name = split(path)
    return parent + b"/" + _temporary(name) if parent else _temporary(name)


def cannot_restore(root: bytes, reason: Optional[str]) -> RestoreError:
    """Return the error for a directory into which nothing can be restored."""
    shown = os.fsdecode(root)
    return RestoreError(f"cannot restore into {shown}: {reason}; name another directory", shown)


def is_temporary(path: bytes) -> bool:
    """Tell whether an entry is named like one that is being made."""
    return _PREFIX in path and split(path)[1].startswith(_PREFIX)
