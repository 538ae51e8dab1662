"""Giving an entry what it has besides its bytes: owner, extended attributes, mode, times.

Owns their order, as changing the owner clears capabilities and setuid, and a user may give no attributes to what is
read-only. How the entry is made is the destination's business.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from functools import partial
from typing import Callable, NamedTuple, Optional

from .metadata import decode_xattrs
from .portability import list_xattrs, read_xattr, remove_xattr, write_xattr

__all__ = ["Failure", "Metadata", "MetadataSetter"]

# Given as an owner, these mean that it is to stay: whoever restores would own what is setuid for somebody else.
_NO_OWNER = (-1, (1 << 32) - 1)

#: Called with what could not be set ("owner", "mode", "xattr", "times"), the path, and why.
Failure = Callable[[str, bytes, OSError], None]


class Metadata(NamedTuple):
    """What an entry gets besides its bytes."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: Optional[bytes]


class MetadataSetter:
    """Sets the metadata of entries as far as that can be done.

    Args:
        on_failure: Called with what could not be.
    """

    def __init__(self, on_failure: Failure) -> None:
        self._on_failure = on_failure

    def set(self, descriptor: int, path: bytes, metadata: Metadata) -> None:
        """Set the metadata of a file or directory that is open."""
        try:
            if metadata.uid in _NO_OWNER or metadata.gid in _NO_OWNER:
                raise OSError(errno.EINVAL, "it has no owner")
            os.fchown(descriptor, metadata.uid, metadata.gid)
            owned = True
        except (OSError, AttributeError):
            owned = self._own(path, lambda uid, gid: os.fchown(descriptor, uid, gid), metadata)
        self._set_xattrs(descriptor, path, metadata)
        self._set_mode(partial(os.fchmod, descriptor), path, metadata, owned)
        self._set_times(descriptor, path, metadata)

    def set_by_path(self, exact: bytes, named: bytes, path: bytes, metadata: Metadata, *, has_mode: bool) -> None:
        """Set the metadata of an entry that cannot be opened for reading: a symlink, a FIFO, a device.

        Args:
            exact: A path that leads to the entry itself, whatever its name is by now.
            named: Its path; extended attributes can be set by this alone.
            path: What it is called in a failure.
            metadata: What it gets.
            has_mode: False for a symlink.
        """
        owned = self._own(path, lambda uid, gid: os.chown(exact, uid, gid), metadata)
        if has_mode:
            self._set_mode(lambda mode: os.chmod(exact, mode), path, metadata, owned)
        self._set_xattrs(named, path, metadata)
        self._set_times(exact, path, metadata)

    def _set_times(self, target: int | bytes, path: bytes, metadata: Metadata) -> None:
        try:
            os.utime(target, ns=(time.time_ns(), metadata.mtime_ns))
        except OSError as exc:
            self._on_failure("times", path, exc)

    def _own(self, path: bytes, chown: Callable[[int, int], None], metadata: Metadata) -> bool:
        try:
            if metadata.uid in _NO_OWNER or metadata.gid in _NO_OWNER:
                raise OSError(errno.EINVAL, "the catalog has a number that no owner has")
            chown(metadata.uid, metadata.gid)
            return True
        except (OSError, AttributeError) as exc:
            if isinstance(exc, OSError):
                self._on_failure("owner", path, exc)
        try:
            chown(-1, metadata.gid)  # one's own files may go to any group one is in
        except (OSError, AttributeError):
            pass  # reported above, together with the owner
        return False

    def _set_mode(self, chmod: Callable[[int], None], path: bytes, metadata: Metadata, owned: bool) -> None:
        # setuid for an owner that it was not meant for would be a gift.
        mode = metadata.mode if owned else metadata.mode & ~(stat.S_ISUID | stat.S_ISGID)
        try:
            chmod(mode)
        except OSError as exc:
            self._on_failure("mode", path, exc)

    def _set_xattrs(self, target: int | bytes, path: bytes, metadata: Metadata) -> None:
        """Make the extended attributes those saved; ones inherited from the directory (default ACLs) go."""
        try:
            present = list_xattrs(target)
            if not present and not metadata.xattrs:  # as of nearly all files
                return
            wanted = dict(decode_xattrs(metadata.xattrs))
        except ValueError as exc:
            self._on_failure("xattr", path, OSError(errno.EINVAL, str(exc)))
            return
        except OSError as exc:
            if metadata.xattrs:
                self._on_failure("xattr", path, exc)
            return
        for name in present:
            key = os.fsencode(name)
            if key not in wanted and not name.startswith("security."):
                try:
                    remove_xattr(target, name)
                except OSError as exc:
                    self._on_failure("xattr", path, exc)
        for key, value in wanted.items():
            name = os.fsdecode(key)
            try:
                if name not in present or read_xattr(target, name) != value:
                    write_xattr(target, name, value)
            except (OSError, ValueError) as exc:
                self._on_failure("xattr", path, exc if isinstance(exc, OSError) else OSError(errno.EINVAL, str(exc)))
