"""Compressing and decompressing packs with zstd, by whichever module this Python has it in.

Owns the codecs a pack may have. What is in a pack is left to packs.
"""

from __future__ import annotations

import importlib
import threading
from functools import lru_cache
from typing import Any

from ..errors import ContentCorruptError

__all__ = ["LEVEL", "RAW", "ZSTD", "compress", "decompress", "salvage"]

ZSTD = "zstd"
RAW = "raw"

#: zstd level. 2.06 GB of contents in order of likeness took, in packs of 1 / 2 / 4 MiB: at level 1 579 / - / 569 MB and
#: 6.3 / - / 6.6 s of one core, at level 2 545 / 534 / 528 MB and 7.1 / 7.0 / 6.9 s, at level 3 522 / 507 / 499 MB and
#: 7.7 / 9.7 / 8.6 s.
LEVEL = 2

#: Bytes fed at a time when salvaging: all blocks before the damaged one come out.
_SALVAGE_STEP = 512

_local = threading.local()  # one compressor a thread: sharing one between threads corrupts memory


@lru_cache(maxsize=1)
def _zstd() -> Any:
    """Return the module that has zstd in this Python: 3.14 and newer, 3.9 to 3.13, 3.8."""
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return importlib.import_module("pyzstd")


def _new_compressor() -> Any:
    module = _zstd()
    if hasattr(module, "CompressionParameter"):
        names = module.CompressionParameter
        return module.ZstdCompressor(options={names.compression_level: LEVEL, names.checksum_flag: 1})
    return module.ZstdCompressor({module.CParameter.compressionLevel: LEVEL, module.CParameter.checksumFlag: 1})


def compress(data: bytes | memoryview) -> tuple[str, bytes]:
    """Return (codec, bytes): one zstd frame with checksum and content size, or the data itself if that is smaller."""
    compressor = getattr(_local, "compressor", None)
    if compressor is None:
        compressor = _local.compressor = _new_compressor()
    frame: bytes = compressor.compress(data, compressor.FLUSH_FRAME)
    return (ZSTD, frame) if len(frame) < len(data) else (RAW, bytes(data))


def decompress(codec: str, data: bytes, size: int) -> bytes:
    """Return the ``size`` bytes of a pack.

    No more memory is used than the declared size: a frame that would give more is refused, however small it is.

    Raises:
        ContentCorruptError: The frame is damaged, or does not give exactly that many bytes.
    """
    if codec == RAW:
        if len(data) != size:
            raise ContentCorruptError(f"a raw pack has {len(data)} bytes instead of {size}")
        return data
    if codec != ZSTD:
        raise ContentCorruptError(f"a pack has the unknown codec {codec!r}")
    module = _zstd()
    decompressor = module.ZstdDecompressor()
    try:
        plain: bytes = decompressor.decompress(data, size + 1)
        # The end of the frame, with its checksum, may come only after the last byte was given out.
        while not decompressor.eof and not decompressor.needs_input and len(plain) <= size:
            more = decompressor.decompress(b"", size + 1 - len(plain))
            if not more:
                break
            plain += more
    except (module.ZstdError, ValueError, MemoryError) as exc:
        raise ContentCorruptError(f"a pack cannot be decompressed: {exc}") from exc
    if len(plain) != size or not decompressor.eof or decompressor.unused_data:
        raise ContentCorruptError(f"a pack does not decompress to its {size} bytes")
    return plain


def salvage(codec: str, data: bytes, size: int) -> bytes:
    """Return what can still be decompressed of a damaged pack, from its beginning; never more than ``size`` bytes.

    Nothing vouches for these bytes: whoever uses a part of them compares it with its hash.
    """
    if codec != ZSTD:
        return data[:size] if codec == RAW else b""
    module = _zstd()
    decompressor = module.ZstdDecompressor()
    pieces: list[bytes] = []
    found = 0
    try:
        for begin in range(0, len(data), _SALVAGE_STEP):
            piece = decompressor.decompress(data[begin : begin + _SALVAGE_STEP], size - found)
            while piece:
                pieces.append(piece)
                found += len(piece)
                if found >= size or decompressor.eof:
                    return b"".join(pieces)
                piece = decompressor.decompress(b"", size - found)
    except (module.ZstdError, ValueError, EOFError, MemoryError):
        pass  # what came before the damage is what there is
    return b"".join(pieces)
