"""Reading bytes that are given rather than found: a stream that is read once, bytes, a file by its path.

Owns how they are read, in memory that does not depend on their size. What becomes of them is files' business.
"""

from __future__ import annotations

import io
import os
import stat
from typing import Any, Callable, Iterator, NamedTuple, Optional, Protocol, Union

from ...errors import SourceError
from ...storage.arriving import Content
from ...storage.chunking import LARGE_FILE
from ...storage.writer import ContentWriter
from ...tree.held import OpenFiles
from ...tree.metadata import Status, read_xattrs
from ...tree.open_file import OpenFile
from ..large_files import LargeFiles

__all__ = ["BinaryStream", "Given", "GivenFile", "ReadFile"]


class BinaryStream(Protocol):
    """What bytes can be read from."""

    def read(self, __size: int) -> Optional[bytes]:
        """Return up to so many bytes, b"" at the end."""


#: What a file can be given as: its bytes, where to read them from, or a path.
Given = Union[bytes, bytearray, memoryview, BinaryStream, str, "os.PathLike[str]", "os.PathLike[bytes]"]

#: More bytes than a stream has: where it ends is seen when it ends.
_ENDLESS = 1 << 62

#: Times that a file with a path is read because it changes meanwhile.
_READINGS = 2

_NOTHING_SAVED = "no snapshot was saved"


class ReadFile(NamedTuple):
    """What became of a file.

    Attributes:
        content: Its bytes.
        status: Of one that has a path, else None.
        xattrs: Of one that has a path.
        mixed: True if it changed each time that it was read.
    """

    content: Content
    status: Optional[Status] = None
    xattrs: Optional[bytes] = None
    mixed: bool = False


class GivenFile:
    """A file that is given.

    Args:
        path: What it is to be called.
        given: What it is.

    Raises:
        TypeError: It is nothing that bytes can be read from.

    Attributes:
        path: What it is to be called.
        again: True if it can be read more than once.
    """

    def __init__(self, path: bytes, given: Given) -> None:
        self.path = path
        self.again = True
        self._shown = os.fsdecode(path)
        self._file: Optional[bytes] = None
        self._stream: Any = None
        self._begin = 0
        if isinstance(given, (bytes, bytearray, memoryview)):
            self._stream = io.BytesIO(given)
        elif isinstance(given, (str, os.PathLike)):
            self._file = os.path.expanduser(os.fsencode(given))
        else:
            self._stream = given
            if not callable(getattr(given, "read", None)) or isinstance(self._stream, io.TextIOBase):
                raise TypeError(f"{self._shown} must be bytes, a binary file or a path, not {type(given).__name__}")
            self._remember_begin()

    def _remember_begin(self) -> None:
        try:
            self.again = bool(self._stream.seekable())
            self._begin = self._stream.tell() if self.again else 0
        except (AttributeError, OSError, ValueError):
            self.again = False

    def store(self, writer: ContentWriter, large: LargeFiles, own: OpenFiles) -> ReadFile:
        """Read it to its end, and store what comes.

        Args:
            writer, large: Where it goes.
            own: What this process has open.

        Raises:
            SourceError: It cannot be read.
        """
        try:
            if self._file is not None:
                return self._store_file(self._file, writer, large, own)
            if self.again:
                self._stream.seek(self._begin)
            return ReadFile(_store_stream(self._stream.read, writer, large))
        except (OSError, TypeError) as exc:
            why = getattr(exc, "strerror", None) or exc
            raise SourceError(f"cannot read {self._shown}: {why}; {_NOTHING_SAVED}", self._shown) from exc

    def _store_file(self, path: bytes, writer: ContentWriter, large: LargeFiles, own: OpenFiles) -> ReadFile:
        status = os.stat(path)
        kept = own.take(status) if own.has(status) else None
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)) if kept is None else kept
        with OpenFile(descriptor, os.fstat(descriptor), own) as file:
            if stat.S_ISDIR(file.status.st_mode):
                shown = os.fsdecode(path)
                raise SourceError(f"{shown} is a directory; snapshot() saves directories; {_NOTHING_SAVED}", shown)
            if not stat.S_ISREG(file.status.st_mode):  # a FIFO or a device is read as a stream
                self.again = False
                return ReadFile(_store_stream(lambda size: os.read(descriptor, size), writer, large))
            mixed = True
            for _ in range(_READINGS):
                file.rewind()
                if file.status.st_size > LARGE_FILE:
                    content = large.store(file)
                else:
                    content = writer.add(file.read_all(LARGE_FILE))
                mixed = not file.unchanged(content.size)
                if not mixed:
                    break
            return ReadFile(content, Status.of(file.status), read_xattrs(descriptor), mixed)


class _Stream:
    """Bytes that come one after the other, read as an open file is.

    Args:
        begin: The first ones.
        read: Returns up to so many further ones, b"" at the end.

    Attributes:
        size: Less than it has: where it ends is seen when it ends.
    """

    size = 0

    def __init__(self, begin: bytes, read: Callable[[int], bytes]) -> None:
        self._begin = begin
        self._read = read

    def segments(self) -> Iterator[tuple[int, int]]:
        """Yield one segment; it ends where the stream does."""
        yield 0, _ENDLESS

    def read_into(self, room: memoryview) -> int:
        """Read on, as much as there is room for, and return how many bytes came: fewer only at the end."""
        filled = min(len(self._begin), len(room))
        room[:filled] = self._begin[:filled]
        self._begin = self._begin[filled:]
        while filled < len(room):
            data = self._read(len(room) - filled)
            if not data:
                break
            room[filled : filled + len(data)] = data
            filled += len(data)
        return filled


def _store_stream(read: Callable[[int], Any], writer: ContentWriter, large: LargeFiles) -> Content:
    """Store what a function returns until it returns nothing."""

    def read_bytes(size: int) -> bytes:
        data = read(size)
        if data is None:
            raise TypeError("nothing is there yet, and it does not wait")
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"it gives {type(data).__name__}, not bytes")
        return bytes(data)

    begin = bytearray()
    while len(begin) <= LARGE_FILE:
        data = read_bytes(LARGE_FILE + 1 - len(begin))
        if not data:
            return writer.add(bytes(begin))
        begin += data
    return large.store(_Stream(bytes(begin), read_bytes))
