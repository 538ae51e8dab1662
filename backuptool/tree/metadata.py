"""What is kept of a file besides its bytes: kinds, owners, times, extended attributes; and when it counts as changed.

Owns the encodings. Reading them off a source and putting them on a destination are left to those modules.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from typing import Iterator, NamedTuple, Optional, Union

from .portability import list_xattrs, read_xattr

__all__ = [
    "KINDS",
    "clamp_ns",
    "decode_xattrs",
    "encode_xattrs",
    "kind_of",
    "read_xattrs",
    "signed_inode",
    "trusted_ctime_ns",
]

#: One letter for each kind of file, as find -printf %y prints them.
KINDS = {
    stat.S_IFREG: b"f",
    stat.S_IFDIR: b"d",
    stat.S_IFLNK: b"l",
    stat.S_IFIFO: b"p",
    stat.S_IFSOCK: b"s",
    stat.S_IFCHR: b"c",
    stat.S_IFBLK: b"b",
}

_LENGTH = struct.Struct(">I")

_INT64_MAX = (1 << 63) - 1

#: File systems stamp with the clock of the last tick, at most 10 ms old (HZ=100).
_TICK_NS = 10_000_000

#: Some keep whole seconds, and FAT even ones.
_COARSE_NS = 2_000_000_000

_SECOND_NS = 1_000_000_000


def kind_of(mode: int) -> Optional[bytes]:
    """Return the letter for a file's kind, or None for one that no backup could hold (a door, a whiteout)."""
    return KINDS.get(stat.S_IFMT(mode))


class Status(NamedTuple):
    """What is kept in mind of an entry until it is recorded: a third of the memory that os.stat_result takes.

    Plain values throughout, so that another process can be told of them.
    """

    st_mode: int
    st_ino: int
    st_dev: int
    st_nlink: int
    st_uid: int
    st_gid: int
    st_size: int
    st_blocks: int
    st_rdev: int
    st_mtime_ns: int
    st_ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Status:
        """Return as much as is needed of a status. About 1 µs."""
        return cls(
            status.st_mode,
            status.st_ino,
            status.st_dev,
            status.st_nlink,
            status.st_uid,
            status.st_gid,
            status.st_size,
            getattr(status, "st_blocks", status.st_size),
            getattr(status, "st_rdev", 0),
            status.st_mtime_ns,
            status.st_ctime_ns,
        )


#: What can be asked for times, size, inode, and so on.
AnyStatus = Union[os.stat_result, Status]


def clamp_ns(time_ns: int) -> int:
    """Return a time that fits 64 bits: file systems know years beyond 2262, which ns since 1970 in 64 bits do not."""
    return max(-_INT64_MAX, min(_INT64_MAX, time_ns))


def signed_inode(inode: int) -> int:
    """Return an inode number as SQLite keeps it: some file systems use all 64 bits."""
    return inode if inode <= _INT64_MAX else inode - (1 << 64)


def trusted_ctime_ns(status: AnyStatus, started_ns: int) -> Optional[int]:
    """Return the change time if a later change is sure to give another one, else None: the file is read again.

    A file may be changed after it was read and still carry the same time, if both fall into one tick of the file
    system's clock. So a time that is as young as the walk is not trusted.

    Args:
        status: Of the file when it was read.
        started_ns: When the walk began, ns since 1970 UTC.
    """
    ctime_ns, mtime_ns = status.st_ctime_ns, status.st_mtime_ns
    settled = started_ns - _COARSE_NS
    if 0 <= ctime_ns < settled and mtime_ns < settled and started_ns <= _INT64_MAX:
        return ctime_ns  # as nearly all files
    newest = max(ctime_ns, mtime_ns)
    coarse = status.st_ctime_ns % _SECOND_NS == 0
    if newest > started_ns - (_COARSE_NS if coarse else _TICK_NS):
        return None
    return clamp_ns(status.st_ctime_ns)


def read_xattrs(target: int | bytes) -> Optional[bytes]:
    """Return the encoded extended attributes of a descriptor or an unfollowed path, None if there are none.

    ACLs, capabilities and SELinux labels are among them.

    Raises:
        OSError: They exist and cannot be read.
    """
    try:
        names = list_xattrs(target)
    except OSError as exc:
        if exc.errno in (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            return None
        raise
    if not names:
        return None
    found = {}
    for name in names:
        try:
            found[os.fsencode(name)] = read_xattr(target, name)
        except OSError as exc:
            if exc.errno != errno.ENODATA:  # removed since it was listed
                raise
    return encode_xattrs(found)


def encode_xattrs(xattrs: dict[bytes, bytes]) -> Optional[bytes]:
    """Return name and value of each attribute, by name, each behind its length in 4 bytes, big-endian."""
    if not xattrs:
        return None
    fields = [field for name in sorted(xattrs) for field in (name, xattrs[name])]
    return b"".join(part for field in fields for part in (_LENGTH.pack(len(field)), field))


def decode_xattrs(data: Optional[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield (name, value) of each attribute.

    Raises:
        ValueError: The encoding is damaged.
    """
    if not data:
        return
    fields = []
    offset = 0
    while offset < len(data):
        if offset + 4 > len(data):
            raise ValueError("extended attributes end within a length")
        length = _LENGTH.unpack_from(data, offset)[0]
        offset += 4
        if offset + length > len(data):
            raise ValueError("extended attributes end within a field")
        fields.append(data[offset : offset + length])
        offset += length
    if len(fields) % 2:
        raise ValueError("extended attributes end behind a name")
    yield from zip(fields[::2], fields[1::2])
