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
    "ZSTD_BASE",
    "Setting",
    "compress",
    "compress_if_smaller",
    "compress_with_base",
    "decompress",
    "require_setting",
    "salvage",
    "stream_compressor",
    "zstd_module",
]

ZSTD = "zstd"
RAW = "raw"

#: One zstd frame that refers to the bytes of another pack, its base. A name of its own, so that a reader which does not
#: know bases fails at once.
ZSTD_BASE = "zstd-base"


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


def require_setting(compression: str) -> None:
    """Raise a ValueError that names the settings unless this is one of them."""
    if compression not in SETTINGS:
        raise ValueError(f"compression must be {', '.join(SETTINGS)}, not {compression!r}")


#: Of streams that leave the repository: what the program zstd does unless told otherwise.
_STREAM = Setting(level=3, pack_size=0)

#: Data of at least so many bytes is probed before it is compressed, in so many pieces of so many bytes.
_PROBED_BYTES = 1 << 20
_PROBE_PIECES = 32
_PROBE_BYTES = 4 << 10

#: Bytes fed at a time when salvaging: all blocks before the damaged one come out.
_SALVAGE_STEP = 512

#: Bytes of the checksum at the end of a frame.
_CHECKSUM_BYTES = 4

#: Binary logarithm of the places that zstd remembers where it has a base, at least. The 2^16 of level 2 are those read
#: last, which is the end of a base of 2 MiB: 3.2 MB in place of another version leave with 2^16 / 2^17 / 2^18 / 2^19 /
#: 2^20 places 0.71 / 0.52 / 0.071 / 0.068 / 0.066 MB, up to 2^19 in the same time. Without a base they leave 0.79 MB.
#: Of a base larger than 8 times as many bytes zstd takes the end.
_BASE_HASH_LOG = 19

#: Binary logarithm of the largest window that a frame with a base may ask for: that of the largest pack, which is what
#: zstd needs to keep all of a base in reach, and one more for other writers. What claims more is refused.
_BASE_WINDOW_LOG = 25

#: What a pack would take without its base is found out from a part: a sixteenth, or 64 KiB of a small one. That begins
#: with nothing to refer to, so it takes more than its share.
_SAMPLE_SHARE = 16
_SAMPLE_BYTES = 64 << 10
_SAMPLE_TRUST = 0.75

#: Binary logarithm of the smallest window that zstd has.
_LEAST_WINDOW_LOG = 10

#: Bytes of a dictionary below which zstd takes none.
_LEAST_BASE = 8

#: A base must save this share of what the pack takes without it, and so many bytes: each use of the pack costs a use of
#: the base as well, and SQLite counts in pages of 16 KiB.
_BASE_SAVES_SHARE = 0.5
_BASE_SAVES_BYTES = 8 << 10

_local = threading.local()  # compressors of each thread: sharing one between threads corrupts memory


@lru_cache(maxsize=1)
def zstd_module() -> Any:
    """Return the module that has zstd in this Python: 3.14 and newer, 3.9 to 3.13, 3.8."""
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return importlib.import_module("pyzstd")


def _new_compressor(setting: Setting, base: Optional[bytes] = None, size: int = 0) -> Any:
    """Return a compressor; with a base for one frame of that many bytes."""
    module = zstd_module()
    further = {"window_log": setting.window_log, "hash_log": setting.hash_log}
    options = {"compression_level": setting.level, "checksum_flag": 1}
    options.update({name: value for name, value in further.items() if value is not None})
    if base is None:
        return _compressor(module, options)
    # zstd keeps all of a dictionary, however large, until it has gone on for a window: one of the size of the pack. A
    # larger one would be larger in memory as well.
    places = max(_BASE_HASH_LOG, len(base).bit_length() - 3)
    options.update(window_log=max(_LEAST_WINDOW_LOG, size.bit_length()), hash_log=places)
    return _compressor(module, options, zstd_dict=module.ZstdDict(base, is_raw=True).as_prefix)


def _compressor(module: Any, options: dict[str, int], **dictionary: Any) -> Any:
    """Return a compressor; pyzstd calls the same parameters by other names."""
    if hasattr(module, "CompressionParameter"):
        names = module.CompressionParameter
        named = {getattr(names, name): value for name, value in options.items()}
        return module.ZstdCompressor(options=named, **dictionary)
    names = module.CParameter
    named = {}
    for name, value in options.items():
        first, *others = name.split("_")
        named[getattr(names, first + "".join(map(str.capitalize, others)))] = value
    return module.ZstdCompressor(named, **dictionary)


def compress(data: bytes | memoryview, compression: str = DEFAULT) -> tuple[str, bytes]:
    """Return (codec, bytes): one zstd frame with checksum and content size, or the data itself if that is smaller.

    Args:
        data: At most a pack.
        compression: One of ``SETTINGS``.
    """
    frame = compress_if_smaller(data, compression)
    return (RAW, bytes(data)) if frame is None else (ZSTD, frame)


def compress_if_smaller(data: bytes | memoryview, compression: str) -> Optional[bytes]:
    """Return one zstd frame with checksum and content size, or None if it is not smaller than the data.

    Of a full pack of which no part of the probe compresses, as of pictures and videos, the rest is not tried: zstd
    would find out as well, but by then it has asked for twice as much memory as the pack takes.
    """
    if len(data) >= _PROBED_BYTES:
        step = len(data) // _PROBE_PIECES
        probe = b"".join(data[begin : begin + _PROBE_BYTES] for begin in range(0, len(data) - _PROBE_BYTES, step))
        if len(_compressed(probe, "fast")) >= len(probe):
            return None
    frame = _compressed(data, compression)
    return frame if len(frame) < len(data) else None


def compress_with_base(
    data: bytes | memoryview, base: bytes, compression: str = DEFAULT
) -> tuple[str, Optional[bytes]]:
    """Return (codec, frame): one that refers to the base where that is worth it, else as :func:`compress_if_smaller`.

    Args:
        data: At most a pack.
        base: Bytes that are alike, best of an earlier version.
        compression: One of ``SETTINGS``.
    """
    frame: Optional[bytes] = None
    if len(base) >= _LEAST_BASE:
        compressor = _new_compressor(SETTINGS[compression], base, len(data))
        frame = compressor.compress(data, compressor.FLUSH_FRAME)
        # What it would be without is found out from a part, unless it is close.
        sample = data[: max(_SAMPLE_BYTES, len(data) // _SAMPLE_SHARE)]
        expected = len(_compressed(sample, compression)) * len(data) / max(1, len(sample))
        if _saves_much(frame, expected * _SAMPLE_TRUST):
            return ZSTD_BASE, frame
    plain = compress_if_smaller(data, compression)
    if frame is not None and _saves_much(frame, len(data if plain is None else plain)):
        return ZSTD_BASE, frame
    return (RAW if plain is None else ZSTD), plain


def _saves_much(frame: bytes, without: float) -> bool:
    return without - len(frame) >= max(_BASE_SAVES_BYTES, without * _BASE_SAVES_SHARE)


def _compressed(data: bytes | memoryview, compression: str) -> bytes:
    compressors = _local.__dict__
    compressor = compressors.get(compression)
    if compressor is None:
        compressor = compressors[compression] = _new_compressor(SETTINGS[compression])
    frame: bytes = compressor.compress(data, compressor.FLUSH_FRAME)
    return frame


def decompress(codec: str, data: bytes, size: int, base: Optional[bytes] = None) -> bytes:
    """Return the ``size`` bytes of a pack.

    No more memory is used than the declared size: a frame that would give more is refused, however small it is.

    Args:
        codec: How it is encoded.
        data: What is stored.
        size: Bytes that it must give.
        base: The bytes that it refers to, if that is its codec.

    Raises:
        ContentCorruptError: The frame is damaged, or does not give exactly that many bytes.
    """
    if codec == RAW:
        if len(data) != size:
            raise ContentCorruptError(f"a raw pack has {len(data)} bytes instead of {size}")
        return data
    module = zstd_module()
    try:
        decompressor = _decompressor(codec, base)
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


def salvage(codec: str, data: bytes, size: int, base: Optional[bytes] = None) -> bytes:
    """Return what can still be decompressed of a damaged pack, from its beginning; never more than ``size`` bytes.

    Nothing vouches for these bytes: whoever uses a part of them compares it with its hash. The base may be damaged as
    well, but must have its size.
    """
    if codec == RAW:
        return data[:size]
    module = zstd_module()
    pieces: list[bytes] = []
    found = 0
    try:
        decompressor = _decompressor(codec, base)
        # The checksum comes last, and by itself: of a short frame nothing would come out if it came with the rest.
        body = max(0, len(data) - _CHECKSUM_BYTES)
        ends = [*range(_SALVAGE_STEP, body, _SALVAGE_STEP), body, len(data)]
        for begin, end in zip([0, *ends], ends):
            piece = decompressor.decompress(data[begin:end], size - found)
            while piece:
                pieces.append(piece)
                found += len(piece)
                if found >= size or decompressor.eof:
                    return b"".join(pieces)
                piece = decompressor.decompress(b"", size - found)
    except (module.ZstdError, ContentCorruptError, ValueError, EOFError, MemoryError):
        pass  # what came before the damage is what there is
    return b"".join(pieces)


def _decompressor(codec: str, base: Optional[bytes]) -> Any:
    """Return what decompresses a pack of one frame.

    Raises:
        ContentCorruptError: There is no such codec, or no base for it.
    """
    module = zstd_module()
    if codec == ZSTD:
        return module.ZstdDecompressor()
    if codec != ZSTD_BASE:
        raise ContentCorruptError(f"a pack has the unknown codec {codec!r}")
    if base is None or len(base) < _LEAST_BASE:
        raise ContentCorruptError("a pack has no base to refer to")
    if hasattr(module, "DecompressionParameter"):
        options = {"options": {module.DecompressionParameter.window_log_max: _BASE_WINDOW_LOG}}
    else:
        options = {"option": {module.DParameter.windowLogMax: _BASE_WINDOW_LOG}}
    return module.ZstdDecompressor(zstd_dict=module.ZstdDict(base, is_raw=True).as_prefix, **options)


def stream_compressor(compression: str) -> Any:
    """Return what compresses a stream: ``compress(data)`` returns bytes, and ``flush()`` the last ones.

    Args:
        compression: ``gzip`` or ``zstd``; None is returned for ``none``. No time and no name goes into the stream.
    """
    if compression == "gzip":
        import zlib

        return zlib.compressobj(6, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return _new_compressor(_STREAM) if compression == "zstd" else None
