"""Reading tar streams: member by member, whoever wrote them, in memory that does not depend on what they claim.

Owns the formats: V7, ustar, pax, and GNU tar's own, with long names, numbers in binary, and sparse files of every kind.
Names are given as they stand in the stream; what is made of them is the caller's business.
"""

from __future__ import annotations

import os
import re
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from ..errors import SourceError
from .pax import BLOCK, Run

__all__ = ["TarMember", "TarReader"]

#: Bytes of an extended header, of a long name, and entries of a sparse map, beyond which a stream is taken for damaged:
#: a file may have several attributes of 64 KiB each.
_MOST_EXTENDED = 16 << 20
_MOST_RUNS = 1 << 20

_READ = 1 << 20

_DIGITS = re.compile(rb" *([0-7]*)[ \0]*")
_DECIMAL = re.compile(rb"(-?)([0-9]{1,20})(?:\.([0-9]*))?")

_NANOSECONDS = 1_000_000_000

#: What has bytes behind its header: others claim a size at times, and have none.
_WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")

_ATTRIBUTE = b"SCHILY.xattr."

#: Records of attributes in the words of one system's tools, which are not what the system keeps.
_IN_WORDS = (b"SCHILY.acl.", b"RHT.security.")


class TarMember(NamedTuple):
    """A member of a stream.

    Attributes:
        name, link: As they stand there.
        flag: As in ``pax.Member``; ``0`` for a sparse file as well.
        mtime_ns: ns since 1970 UTC, of any size.
        size: Bytes of the file, its holes included.
        runs: Where the data of a sparse file is; None if it is none.
        in_words: Whether attributes came in a form that cannot be kept.
    """

    name: bytes
    flag: bytes
    mode: int
    uid: int
    gid: int
    user: bytes
    group: bytes
    mtime_ns: int
    size: int
    link: bytes
    rdev: Optional[int]
    xattrs: Dict[bytes, bytes]
    runs: Optional[Sequence[Run]]
    in_words: bool


class TarReader:
    """Reads a stream; iterate over its members, and read the bytes of each before the next.

    Args:
        file: What has a ``read``; bytes may come in pieces of any size.
        shown: What it is called in messages.

    Attributes:
        position: Bytes read so far.
        ended: Whether the mark of the end was read.

    Raises:
        SourceError: It is no tar stream, is damaged, or ends within a member.
    """

    def __init__(self, file: Any, shown: str) -> None:
        self.position = 0
        self.ended = False
        self._file = file
        self._shown = shown
        self._left = 0  # of the member's bytes
        self._padding = 0
        self._global: Dict[bytes, bytes] = {}

    def __iter__(self) -> Iterator[TarMember]:
        extended: List[Tuple[bytes, bytes]] = []
        long: Dict[bytes, bytes] = {}
        while True:
            self._skip()
            block = self._block(may_end=True)
            if not block or not any(block):
                self.ended = bool(block)
                self._drain()
                return
            flag = self._verify(block)
            size = self._number(block[124:136])
            if flag in (b"x", b"X"):
                extended += self._records(self._whole(size))
            elif flag == b"g":
                self._global.update(self._records(self._whole(size)))
            elif flag in (b"L", b"K"):
                long[flag] = self._whole(size).rstrip(b"\0")
            else:
                yield self._member(block, flag, size, extended, long)
                extended, long = [], {}

    def read(self, size: int) -> bytes:
        """Return as many of the member's bytes, or all that are left."""
        wanted = min(size, self._left)
        data = self._exactly(wanted)
        self._left -= wanted
        return data

    def read_into(self, room: memoryview) -> int:
        """Read as many of the member's bytes as there is room for, and return how many came."""
        done = 0
        while done < len(room):
            data = self.read(min(_READ, len(room) - done))
            if not data:
                break
            room[done : done + len(data)] = data
            done += len(data)
        return done

    # Bytes of the stream.

    def _exactly(self, size: int) -> bytes:
        pieces = []
        while size > 0:
            data = self._file.read(min(size, _READ))
            if not data:
                raise self._damaged("it ends within a member")
            pieces.append(data)
            size -= len(data)
            self.position += len(data)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _block(self, *, may_end: bool = False) -> bytes:
        first = self._file.read(BLOCK)
        self.position += len(first)
        if not first and may_end:
            return b""
        return bytes(first) + self._exactly(BLOCK - len(first))

    def _skip(self) -> None:
        """Pass over what is left of a member."""
        self._left += self._padding
        self._padding = 0
        while self._left:
            self.read(_READ)

    def _drain(self) -> None:
        """Read to the end: who writes into a pipe is not to be stopped by the blocks that fill up the last record."""
        while self._file.read(_READ):
            pass

    def _whole(self, size: int) -> bytes:
        """Return the bytes of a header that belongs to the next member."""
        if size > _MOST_EXTENDED:
            raise self._damaged("it has a header that is longer than any")
        data = self._exactly(size)
        self._exactly(-size % BLOCK)
        return data

    def _damaged(self, why: str) -> SourceError:
        return SourceError(f"{self._shown} is no tar stream, or damaged, at byte {self.position:,}: {why}", self._shown)

    # What stands in headers.

    def _verify(self, block: bytes) -> bytes:
        """Compare the checksum of a header and return its flag."""
        stored = self._number(block[148:156])
        plain = block[:148] + b" " * 8 + block[156:]
        signed = sum(byte - 256 if byte > 127 else byte for byte in plain)  # as some old programs add
        if stored not in (sum(plain), signed):
            raise self._damaged("the sum of a header is wrong")
        return block[156:157]

    def _number(self, field: bytes) -> int:
        if field[:1] in (b"\x80", b"\xff"):
            return int.from_bytes(field, "big", signed=True) if field[0] == 0xFF else int.from_bytes(field[1:], "big")
        match = _DIGITS.match(field)
        return int(match.group(1) or b"0", 8) if match else 0

    def _records(self, data: bytes) -> List[Tuple[bytes, bytes]]:
        """Return the records of an extended header."""
        found = []
        position = 0
        while position < len(data) and data[position]:
            space = data.find(b" ", position, position + 20)
            digits = data[position:space] if space >= 0 else b""
            end = position + (int(digits) if digits.isdigit() else 0)
            key, equals, value = data[space + 1 : end - 1].partition(b"=")
            if not digits.isdigit() or end <= space or end > len(data) or data[end - 1 : end] != b"\n" or not equals:
                raise self._damaged("an extended header is none")
            found.append((key, value))
            position = end
        return found

    def _member(
        self, block: bytes, flag: bytes, size: int, extended: List[Tuple[bytes, bytes]], long: Dict[bytes, bytes]
    ) -> TarMember:
        records = {**self._global, **dict(extended)}
        ustar = block[257:262] == b"ustar"
        prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else b""
        name = records.get(b"path") or long.get(b"L") or (prefix + b"/" if prefix else b"") + _text(block[:100])
        name = records.get(b"GNU.sparse.name") or name
        if flag in (b"\0", b"7", b"0", b""):
            flag = b"5" if name.endswith(b"/") else b"0"
        size = self._decimal(records, b"size", size)
        self._left = 0 if flag in _WITHOUT_DATA else size
        self._padding = -self._left % BLOCK
        runs, size = self._sparse(block, flag, size, records, extended)
        return TarMember(
            name=name,
            flag=b"0" if flag == b"S" else b"5" if flag == b"D" else flag,
            mode=self._number(block[100:108]) & 0o7777,
            uid=self._decimal(records, b"uid", self._number(block[108:116])),
            gid=self._decimal(records, b"gid", self._number(block[116:124])),
            user=records.get(b"uname", _text(block[265:297]) if ustar else b""),
            group=records.get(b"gname", _text(block[297:329]) if ustar else b""),
            mtime_ns=self._time(records, self._number(block[136:148])),
            size=size,
            link=records.get(b"linkpath") or long.get(b"K") or _text(block[157:257]),
            rdev=self._device(block) if flag in (b"3", b"4") else None,
            xattrs={_attribute(key): value for key, value in records.items() if key.startswith(_ATTRIBUTE)},
            runs=runs,
            in_words=any(key.startswith(_IN_WORDS) for key in records),
        )

    def _decimal(self, records: Dict[bytes, bytes], key: bytes, otherwise: int) -> int:
        value = records.get(key)
        if not value:
            return otherwise
        if not value.isdigit() or len(value) > 20:
            raise self._damaged(f"{key.decode('ascii', 'replace')} is no number")
        return int(value)

    def _time(self, records: Dict[bytes, bytes], seconds: int) -> int:
        value = records.get(b"mtime")
        if not value:
            return seconds * _NANOSECONDS
        match = _DECIMAL.fullmatch(value)
        if match is None:
            raise self._damaged("a time is no number")
        sign, whole, fraction = match.groups()
        time_ns = int(whole) * _NANOSECONDS + int((fraction or b"").ljust(9, b"0")[:9])
        return -time_ns if sign else time_ns

    def _device(self, block: bytes) -> int:
        try:
            return os.makedev(self._number(block[329:337]), self._number(block[337:345]))
        except (OverflowError, ValueError):
            raise self._damaged("a device number is none") from None

    # Sparse files.

    def _sparse(
        self, block: bytes, flag: bytes, size: int, records: Dict[bytes, bytes], extended: List[Tuple[bytes, bytes]]
    ) -> Tuple[Optional[Sequence[Run]], int]:
        """Return where the data of a sparse file is, and its size; None and the size as it is for others."""
        if flag == b"S":
            return self._checked(self._old_map(block), self._number(block[483:495]))
        if flag != b"0":
            return None, size
        if records.get(b"GNU.sparse.major") == b"1":
            return self._checked(self._leading_map(), self._decimal(records, b"GNU.sparse.realsize", size))
        if b"GNU.sparse.size" in records:
            numbers = (
                records[b"GNU.sparse.map"].split(b",")
                if b"GNU.sparse.map" in records
                else [value for key, value in extended if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes")]
            )
            return self._checked(self._pairs(numbers), self._decimal(records, b"GNU.sparse.size", size))
        return None, size

    def _pairs(self, numbers: Sequence[bytes]) -> List[Tuple[int, int]]:
        if len(numbers) % 2 or len(numbers) > 2 * _MOST_RUNS or not all(n.isdigit() and len(n) < 20 for n in numbers):
            raise self._damaged("the map of a sparse file is none")
        return [(int(begin), int(length)) for begin, length in zip(numbers[::2], numbers[1::2])]

    def _leading_map(self) -> List[Tuple[int, int]]:
        """Read the map that stands before the data."""
        data = b""
        while True:
            lines = data.split(b"\n")
            if len(lines) > 1 and (not lines[0].isdigit() or int(lines[0]) > _MOST_RUNS):
                raise self._damaged("the map of a sparse file is none")
            if len(lines) > 1 and len(lines) >= 2 * int(lines[0]) + 2:
                return self._pairs(lines[1 : 2 * int(lines[0]) + 1])
            more = self.read(BLOCK if len(lines) < 2 else max(BLOCK, (2 * int(lines[0]) - len(lines)) // BLOCK * BLOCK))
            if not more:
                raise self._damaged("the map of a sparse file ends early")
            data += more

    def _old_map(self, block: bytes) -> List[Tuple[int, int]]:
        """Read the map that stands in the header, and in further blocks behind it."""
        found: List[Tuple[int, int]] = []
        fields, more = block[386:482], block[482]
        while True:
            for begin in range(0, len(fields) - 23, 24):
                if fields[begin] and fields[begin : begin + 12].strip(b" \0"):
                    found.append(
                        (self._number(fields[begin : begin + 12]), self._number(fields[begin + 12 : begin + 24]))
                    )
            if not more:
                return found
            if len(found) > _MOST_RUNS:
                raise self._damaged("the map of a sparse file is none")
            extension = self._exactly(BLOCK)
            fields, more = extension[:504], extension[504]

    def _checked(self, pairs: Sequence[Tuple[int, int]], size: int) -> Tuple[Sequence[Run], int]:
        runs = []
        end = stored = 0
        for begin, length in pairs:
            if begin < end or length < 0 or begin + length > size:
                raise self._damaged("the map of a sparse file is none")
            end = begin + length
            stored += length
            if length:
                runs.append((begin, end))
        if stored != self._left:
            raise self._damaged("a sparse file has not as many bytes as its map says")
        return runs, size


def _text(field: bytes) -> bytes:
    """Return a field up to its first zero."""
    return field.partition(b"\0")[0]


def _attribute(key: bytes) -> bytes:
    """Return the name of an attribute; GNU tar writes two characters of it in another way."""
    return key[len(_ATTRIBUTE) :].replace(b"%3D", b"=").replace(b"%25", b"%")
