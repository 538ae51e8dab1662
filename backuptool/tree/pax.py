"""Tar streams in the pax format: what a member's header looks like, to the byte.

Owns the encoding: POSIX.1-2001 (ustar with extended headers), ``SCHILY.xattr`` for extended attributes and
``GNU.sparse`` 1.0 for holes, as GNU tar and libarchive read them. Nothing of the moment or the machine goes into it:
equal members give equal bytes.
"""

from __future__ import annotations

import os
from typing import Iterable, Iterator, NamedTuple, Optional, Sequence, Tuple

__all__ = ["BLOCK", "END", "Member", "Run", "header", "padding", "runs_in_blocks", "sparse_map"]

BLOCK = 512

#: Two blocks of zeros end a stream; the whole is filled up to a multiple of 20 blocks.
END = bytes(2 * BLOCK)

_NANOSECONDS = 1_000_000_000

#: What fits into fields of 7 and of 11 octal digits.
_OCTAL_7, _OCTAL_11 = 8**7, 8**11

#: Bytes of the fields for names of files, and of users and groups (with a zero at the end).
_NAME, _OWNER = 100, 31

_MAGIC = b"ustar\x0000"

#: Begin and end of a range of data.
Run = Tuple[int, int]


class Member(NamedTuple):
    """A member of a stream.

    Attributes:
        name: With a slash at the end if it is a directory.
        flag: ``0`` file, ``1`` hard link, ``2`` symlink, ``3`` and ``4`` devices, ``5`` directory, ``6`` FIFO.
        size: Bytes of the file.
        link: Where a symlink leads; of a hard link the name of the other member.
        rdev: Number of a device, as ``st_rdev`` has it on Linux.
        xattrs: Extended attributes: names and values.
        runs: Where the data of a sparse file is; None if it is not written as one.
    """

    name: bytes
    flag: bytes
    mode: int
    uid: int
    gid: int
    user: bytes
    group: bytes
    mtime_ns: int
    size: int = 0
    link: bytes = b""
    rdev: Optional[int] = None
    xattrs: Sequence[Tuple[bytes, bytes]] = ()
    runs: Optional[Sequence[Run]] = None


def padding(size: int) -> bytes:
    """Return what fills the last block behind so many bytes."""
    return bytes(-size % BLOCK)


def header(member: Member) -> bytes:
    """Return all that stands before the bytes of a member; of a sparse one its map as well."""
    if member.runs is None:
        return _headers(member, member.name, member.size, [])
    head = sparse_map(member.runs, member.size)
    directory, _, name = member.name.rpartition(b"/")
    placeholder = (directory + b"/" if directory else b"") + b"GNUSparseFile.0/" + name
    records = [
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", member.name),
        (b"GNU.sparse.realsize", b"%d" % member.size),
    ]
    size = len(head) + sum(end - begin for begin, end in member.runs)
    return _headers(member, placeholder, size, records) + head


def sparse_map(runs: Sequence[Run], size: int) -> bytes:
    """Return the map of a sparse file of a size, filled up to whole blocks."""
    entries = [(begin, end - begin) for begin, end in runs]
    if not runs or runs[-1][1] < size:
        entries.append((size, 0))  # GNU tar takes the size of what ends with a hole from here
    text = b"%d\n" % len(entries) + b"".join(b"%d\n%d\n" % entry for entry in entries)
    return text + padding(len(text))


def runs_in_blocks(runs: Iterable[Run], size: int) -> Iterator[Run]:
    """Yield ranges that hold all the given ones, in order, of whole blocks; the last one may end with the file.

    Readers take the data of each range from whole blocks.
    """
    current: Optional[Run] = None
    for begin, end in runs:
        begin, end = begin // BLOCK * BLOCK, min(-(-end // BLOCK) * BLOCK, size)
        if current is not None and begin <= current[1]:
            current = (current[0], end)
            continue
        if current is not None:
            yield current
        current = (begin, end)
    if current is not None:
        yield current


def _headers(member: Member, name: bytes, size: int, records: list[Tuple[bytes, bytes]]) -> bytes:
    m = member
    texts = (m.name, m.link, m.user, m.group)
    extended = [] if all(map(_is_utf8, texts)) else [(b"hdrcharset", b"BINARY")]
    for key, text, room in (
        *((b"path", name, _NAME), (b"linkpath", m.link, _NAME)),
        *((b"uname", m.user, _OWNER), (b"gname", m.group, _OWNER)),
    ):
        if len(text) > room or not text.isascii():
            extended.append((key, text))
    for key, number, limit in ((b"uid", m.uid, _OCTAL_7), (b"gid", m.gid, _OCTAL_7), (b"size", size, _OCTAL_11)):
        if number >= limit:
            extended.append((key, b"%d" % number))
    seconds = m.mtime_ns // _NANOSECONDS
    if m.mtime_ns % _NANOSECONDS or not 0 <= seconds < _OCTAL_11:
        extended.append((b"mtime", _decimal(m.mtime_ns)))
    extended += [(b"SCHILY.xattr." + _attribute(key), value) for key, value in sorted(m.xattrs)]
    extended += records
    seconds = min(max(seconds, 0), _OCTAL_11 - 1)
    own = _ustar(m, name, m.flag, size if size < _OCTAL_11 else 0, seconds)
    if not extended:
        return own
    body = b"".join(_record(key, value) for key, value in extended)
    about = Member(b"", b"x", 0o644, 0, 0, b"", b"", 0)
    title = b"PaxHeaders/" + m.name.rstrip(b"/").rpartition(b"/")[2]
    return _ustar(about, title, b"x", len(body), seconds) + body + padding(len(body)) + own


def _ustar(member: Member, name: bytes, flag: bytes, size: int, seconds: int) -> bytes:
    m = member
    device = (0, 0) if m.rdev is None else (os.major(m.rdev), os.minor(m.rdev))
    fields = (
        name[:_NAME].ljust(_NAME, b"\0"),
        b"%07o\0" % m.mode,
        b"%07o\0" % (m.uid if m.uid < _OCTAL_7 else 0),
        b"%07o\0" % (m.gid if m.gid < _OCTAL_7 else 0),
        b"%011o\0" % size,
        b"%011o\0" % seconds,
        b" " * 8,
        flag,
        m.link[:_NAME].ljust(_NAME, b"\0"),
        _MAGIC,
        m.user[:_OWNER].ljust(_OWNER + 1, b"\0"),
        m.group[:_OWNER].ljust(_OWNER + 1, b"\0"),
        _device(device[0]),
        _device(device[1]),
    )
    block = b"".join(fields).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _device(number: int) -> bytes:
    """Return a field of a device number; one that is too large for octal digits is in binary, as GNU tar has it."""
    return b"%07o\0" % number if number < _OCTAL_7 else b"\x80" + number.to_bytes(7, "big")


def _record(key: bytes, value: bytes) -> bytes:
    """Return a record of an extended header; it begins with its own length."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest)
    while len(b"%d" % length) + len(rest) != length:
        length = len(b"%d" % length) + len(rest)
    return b"%d" % length + rest


def _decimal(time_ns: int) -> bytes:
    seconds, nanoseconds = divmod(abs(time_ns), _NANOSECONDS)
    text = b"%s%d" % (b"-" if time_ns < 0 else b"", seconds)
    return text + (b".%09d" % nanoseconds).rstrip(b"0") if nanoseconds else text


def _attribute(name: bytes) -> bytes:
    """Return the name of an attribute as it may stand in a record's key: its own '=' would end that."""
    return name.replace(b"%", b"%25").replace(b"=", b"%3D")


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
