"""Compressing and decompressing packs with zstd, by whichever module this Python has it in.

Owns the codecs a pack may have. What is in a pack is left to packs.
"""

from __future__ import annotations

import importlib
import threading
from functools import lru_cache
from typing import Any, NamedTuple, Optional

from ..errors import ContentCorruptError

__all__ = [
    "DEFAULT",
    "RAW",
    "SETTINGS",
    "ZSTD",
    "Setting",
    "compress",
    "compress_if_smaller",
    "decompress",
    "salvage",
    "stream_compressor",
]

ZSTD = "zstd"
RAW = "raw"


class Setting(NamedTuple):
    """How hard packs are compressed.

    Attributes:
        level: Of zstd.
        pack_size: Bytes that fill a pack, before compression.
        window_log: Binary logarithm of how far zstd looks back, None for what the level has.
        hash_log: Binary logarithm of how many places it remembers, None for what the level has.
    """

    level: int
    pack_size: int
    window_log: Optional[int] = None
    hash_log: Optional[int] = None


#: 2.06 GB of contents in order of likeness take, in packs of 2 MiB: at level 1 536 MB and 0.88 of the time of level 2,
#: with the parameters below 516 MB and 0.89; at level 2 500 MB; at level 3 476 MB and 1.25; at level 6 in packs of
#: 8 MiB 412 MB and 3.6. Reading one file back costs in proportion to the size of a pack, and so does what a damaged
#: pack takes with it.
SETTINGS: dict[str, Setting] = {
    "fast": Setting(level=1, pack_size=2 << 20, window_log=21, hash_log=15),
    "balanced": Setting(level=2, pack_size=2 << 20),
    "max": Setting(level=6, pack_size=8 << 20),
}

DEFAULT = "balanced"

#: Of streams that leave the repository: what the program zstd does unless told otherwise.
_STREAM = Setting(level=3, pack_size=0)

#: Bytes fed at a time when salvaging: all blocks before the damaged one come out.
_SALVAGE_STEP = 512

_local = threading.local()  # compressors of each thread: sharing one between threads corrupts memory


@lru_cache(maxsize=1)
def _zstd() -> Any:
    """Return the module that has zstd in this Python: 3.14 and newer, 3.9 to 3.13, 3.8."""
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return importlib.import_module("pyzstd")


def _new_compressor(setting: Setting) -> Any:
    module = _zstd()
    if hasattr(module, "CompressionParameter"):
        names = module.CompressionParameter
        options = {names.compression_level: setting.level, names.checksum_flag: 1}
        further = {names.window_log: setting.window_log, names.hash_log: setting.hash_log}
    else:
        names = module.CParameter
        options = {names.compressionLevel: setting.level, names.checksumFlag: 1}
        further = {names.windowLog: setting.window_log, names.hashLog: setting.hash_log}
    options.update({name: value for name, value in further.items() if value is not None})
    return (
        module.ZstdCompressor(options=options)
        if hasattr(module, "CompressionParameter")
        else module.ZstdCompressor(options)
    )


def compress(data: bytes | memoryview, compression: str = DEFAULT) -> tuple[str, bytes]:
    """Return (codec, bytes): one zstd frame with checksum and content size, or the data itself if that is smaller.

    Args:
        data: At most a pack.
        compression: One of ``SETTINGS``.
    """
    frame = compress_if_smaller(data, compression)
    return (RAW, bytes(data)) if frame is None else (ZSTD, frame)


def compress_if_smaller(data: bytes | memoryview, compression: str) -> Optional[bytes]:
    """Return one zstd frame with checksum and content size, or None if it is not smaller than the data."""
    compressors = _local.__dict__
    compressor = compressors.get(compression)
    if compressor is None:
        compressor = compressors[compression] = _new_compressor(SETTINGS[compression])
    frame: bytes = compressor.compress(data, compressor.FLUSH_FRAME)
    return frame if len(frame) < len(data) else None


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


def stream_compressor(compression: str) -> Any:
    """Return what compresses a stream: ``compress(data)`` returns bytes, and ``flush()`` the last ones.

    Args:
        compression: ``gzip`` or ``zstd``; None is returned for ``none``. No time and no name goes into the stream.
    """
    if compression == "gzip":
        import zlib

        return zlib.compressobj(6, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return _new_compressor(_STREAM) if compression == "zstd" else None
