"""Writing the bytes of a file, with holes where there are to be holes.

Owns the calls that write; which file it is, and what it is called, is the destination's business.
"""

from __future__ import annotations

import os
from typing import Iterable, Iterator, Optional, Union

__all__ = ["data_runs", "write_pieces"]

_BLOCK = 4096  # bytes; holes smaller than a page are not worth a seek

_ZEROS = bytes(1 << 20)


def write_pieces(
    descriptor: int, pieces: Iterable[tuple[int, Union[bytes, memoryview, None]]], size: int, sparse: bool
) -> None:
    """Write what :meth:`.Destination.write_file` takes."""
    end = 0
    hole = False
    for offset, data in pieces:
        if hole and not sparse:
            _write_zeros(descriptor, end, offset)
        hole = data is None
        end = offset
        if data is not None:
            if sparse:
                for begin, block in data_runs(data):
                    _pwrite(descriptor, block, offset + begin)
            elif offset == 0 and len(data) == size:  # nearly all files: one call
                _write_all(descriptor, data)
            else:
                _pwrite(descriptor, data, offset)
            end = offset + len(data)
    if hole and not sparse:
        _write_zeros(descriptor, end, size)
    elif end < size or sparse:
        os.ftruncate(descriptor, size)


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    written = os.write(descriptor, data) if data else 0
    if written < len(data):
        _pwrite(descriptor, data[written:], written)


def _pwrite(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view = view[written:]
        offset += written


def _write_zeros(descriptor: int, begin: int, end: int) -> None:
    while begin < end:
        length = min(end - begin, len(_ZEROS))
        _pwrite(descriptor, _ZEROS[:length], begin)
        begin += length


def data_runs(data: bytes | memoryview) -> Iterator[tuple[int, bytes | memoryview]]:
    """Yield (offset, bytes) of what lies between whole blocks of zeros."""
    view = memoryview(data)
    begin: Optional[int] = None
    for offset in range(0, len(data), _BLOCK):
        block = view[offset : offset + _BLOCK]
        if block == _ZEROS[: len(block)]:
            if begin is not None:
                yield begin, view[begin:offset]
                begin = None
        elif begin is None:
            begin = offset
    if begin is not None:
        yield begin, view[begin:]
