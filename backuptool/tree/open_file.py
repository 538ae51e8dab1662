"""A regular file while it is read: whole, piece by piece, or where it has data between its holes.

Owns whether it stayed as it was meanwhile. How it is found and opened is source's business.
"""

from __future__ import annotations

import os
from typing import Iterator, Optional

from .held import OpenFiles
from .portability import next_data, next_hole

__all__ = ["OpenFile"]

_READ = 1 << 20


class OpenFile:
    """A regular file opened for reading; a context manager.

    Args:
        descriptor: Of the file.
        status: Of the file.
        own: Closes it, if this process may have it open elsewhere.

    Attributes:
        descriptor: Its file descriptor.
        status: fstat before the first byte was read.
    """

    __slots__ = ("_own", "descriptor", "status")

    def __init__(self, descriptor: int, status: os.stat_result, own: Optional[OpenFiles] = None) -> None:
        self.descriptor = descriptor
        self.status = status
        self._own = own

    @property
    def size(self) -> int:
        """Bytes, before the first one was read."""
        return self.status.st_size

    def __enter__(self) -> OpenFile:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._own is None:
            os.close(self.descriptor)
        else:
            self._own.close(self.descriptor, self.status)

    def read_all(self, limit: int) -> bytes:
        """Return all bytes from the beginning, of a small file; of one that grows meanwhile, at most so many."""
        descriptor = self.descriptor
        data = os.read(descriptor, self.status.st_size + 1)
        if len(data) == self.status.st_size:
            return data
        pieces = [data]
        size = len(data)
        while data and size < limit:
            data = os.read(descriptor, _READ)
            pieces.append(data)
            size += len(data)
        return b"".join(pieces)[:limit]

    def read_into(self, room: memoryview) -> int:
        """Read on, as much as there is room for, and return how many bytes came: fewer only at the end of the file."""
        filled = 0
        while filled < len(room):
            read = os.readv(self.descriptor, (room[filled:],))
            if not read:
                break
            filled += read
        return filled

    def begins_with(self, magic: bytes) -> bool:
        """Tell whether these are the first bytes; the position stays where it is."""
        return os.pread(self.descriptor, len(magic), 0) == magic

    def rewind(self) -> None:
        """Begin again, with a fresh status."""
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        self.status = os.fstat(self.descriptor)

    def unchanged(self, read_bytes: int) -> bool:
        """Tell whether the file is still as it was before it was read."""
        now = os.fstat(self.descriptor)
        then = self.status
        return (
            now.st_size == then.st_size == read_bytes
            and now.st_mtime_ns == then.st_mtime_ns
            and now.st_ctime_ns == then.st_ctime_ns
        )

    def is_sparse(self) -> bool:
        """Tell whether the file has holes."""
        status = self.status
        if getattr(status, "st_blocks", 0) * 512 >= status.st_size:
            return False
        sparse = next_hole(self.descriptor, 0, status.st_size) < status.st_size
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        return sparse

    def segments(self) -> Iterator[tuple[int, int]]:
        """Yield (begin, end) of the data between the holes. The position is at ``begin`` whenever it yields."""
        size = self.status.st_size
        end = 0
        while end < size:
            begin = next_data(self.descriptor, end, size)
            if begin >= size:
                return
            end = next_hole(self.descriptor, begin, size)
            os.lseek(self.descriptor, begin, os.SEEK_SET)
            yield begin, end
