"""Streams from outside that may be compressed, by whichever program: told by how they begin.

Owns the formats that are read. What compresses what is stored, and streams that leave, is compression's.
"""

from __future__ import annotations

from typing import Any, Tuple, Type

from .compression import zstd_module

__all__ = ["DamagedStreamError", "decompressed"]

#: Bytes by which the formats are told.
_MAGIC_BYTES = 6


class DamagedStreamError(Exception):
    """A stream cannot be read, or what it was compressed to is damaged or cut short."""


def decompressed(file: Any) -> Any:
    """Return what reads the plain bytes of a stream: of gzip, zstd, xz or bzip2, or as they are.

    Args:
        file: What has a ``read``.
    """
    begin = b""
    try:
        while len(begin) < _MAGIC_BYTES:
            more = file.read(_MAGIC_BYTES - len(begin))
            if not more:
                break
            begin += more
    except OSError as exc:
        raise DamagedStreamError(str(exc)) from exc
    whole: Any = _Begun(begin, file)
    if begin.startswith(b"\x1f\x8b"):
        import gzip
        import zlib

        return _Translated(gzip.GzipFile(fileobj=whole, mode="rb"), (EOFError, OSError, zlib.error))
    if begin.startswith(b"\x28\xb5\x2f\xfd"):
        module = zstd_module()
        return _Translated(module.ZstdFile(whole, "rb"), (EOFError, OSError, module.ZstdError))
    if begin.startswith(b"\xfd7zXZ\x00"):
        import lzma

        return _Translated(lzma.LZMAFile(whole, "rb"), (EOFError, OSError, lzma.LZMAError))
    if begin.startswith(b"BZh"):
        import bz2

        return _Translated(bz2.BZ2File(whole, "rb"), (EOFError, OSError, ValueError))
    return _Translated(whole, (OSError,))


class _Begun:
    """A stream of which the first bytes were read already."""

    def __init__(self, begin: bytes, file: Any) -> None:
        self._begin = begin
        self._file = file

    def read(self, size: int = -1) -> bytes:
        """Return some bytes."""
        if not self._begin:
            data: bytes = self._file.read(size)
            return data
        begin = self._begin if size < 0 else self._begin[:size]
        self._begin = self._begin[len(begin) :]
        return begin + self._file.read() if size < 0 else begin

    def seekable(self) -> bool:
        """Return False: it is read once."""
        return False


class _Translated:
    """A stream whose errors are of one kind."""

    def __init__(self, file: Any, errors: Tuple[Type[Exception], ...]) -> None:
        self._file = file
        self._errors = errors

    def read(self, size: int) -> bytes:
        """Return some bytes, none at the end."""
        try:
            data: bytes = self._file.read(size)
        except self._errors as exc:
            raise DamagedStreamError(str(exc)) from exc
        return data
