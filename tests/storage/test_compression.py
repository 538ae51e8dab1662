"""Compressing packs, and what comes back of them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import noise

from backuptool import ContentCorruptError
from backuptool.storage.compression import RAW, SETTINGS, ZSTD, compress, decompress, salvage

from .making import MIB, as_nobody_is_root

SAMPLES = [b"", b"x", b"text " * 1000, noise(5000), bytes(3 * MIB), noise(1000) * 500]


@pytest.mark.parametrize("compression", SETTINGS)
@pytest.mark.parametrize("data", SAMPLES, ids=["empty", "byte", "text", "noise", "zeros", "repeats"])
def test_what_is_compressed_comes_back(data: bytes, compression: str) -> None:
    codec, packed = compress(data, compression)
    assert len(packed) <= len(data)
    assert decompress(codec, packed, len(data)) == data
    assert salvage(codec, packed, len(data)) == data


def test_max_is_smaller_than_balanced_and_balanced_than_fast() -> None:
    sources = sorted(Path(os.__file__).parent.glob("*.py"))
    text = b"".join(path.read_bytes() for path in sources)[: 4 * MIB]
    sizes = [len(compress(text, compression)[1]) for compression in ("max", "balanced", "fast")]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 3


def test_noise_is_kept_as_it_is() -> None:
    assert compress(noise(5000)) == (RAW, noise(5000))
    assert compress(b"text " * 1000)[0] == ZSTD


def test_frame_tells_its_size_and_has_a_checksum() -> None:
    frame = compress(b"text " * 1000)[1]
    assert frame[:4] == b"\x28\xb5\x2f\xfd"
    descriptor = frame[4]
    assert descriptor & 0b100  # a checksum behind the last block
    assert descriptor >> 6 or descriptor & 0b100000  # the content's size in the header


TEXT = b"".join(b"line %d of a text that is compressed\n" % number for number in range(20_000))


def test_truncated_frame_is_corrupt_and_its_beginning_is_salvaged() -> None:
    codec, packed = compress(TEXT)
    longest = 0
    for length in [*range(40), *range(40, len(packed), 997), len(packed) - 1]:
        with pytest.raises(ContentCorruptError):
            decompress(codec, packed[:length], len(TEXT))
        found = salvage(codec, packed[:length], len(TEXT))
        assert TEXT.startswith(found)
        assert len(found) >= longest
        longest = len(found)
    assert longest > len(TEXT) // 2


def test_flipped_bit_in_a_frame_is_corrupt_and_what_comes_before_is_salvaged() -> None:
    codec, packed = compress(TEXT)
    for offset in [*range(8), *range(8, len(packed), 499), len(packed) - 1]:
        damaged = packed[:offset] + bytes([packed[offset] ^ 1]) + packed[offset + 1 :]
        with pytest.raises(ContentCorruptError):
            decompress(codec, damaged, len(TEXT))
        assert len(salvage(codec, damaged, len(TEXT))) <= len(TEXT)


@pytest.mark.parametrize("size", [0, 1, 999_999, 1_000_001, 2_000_000])
def test_frame_of_another_size_than_declared_is_corrupt(size: int) -> None:
    codec, packed = compress(bytes(1_000_000))
    with pytest.raises(ContentCorruptError, match=f"to its {size} bytes"):
        decompress(codec, packed, size)
    assert len(salvage(codec, packed, size)) == min(size, 1_000_000)


def test_bomb_takes_no_more_memory_than_is_declared() -> None:
    import resource

    codec, packed = compress(bytes(1 << 28))
    assert len(packed) < 100_000

    def child() -> int:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(3):
            try:
                decompress(codec, packed, 1000)
            except ContentCorruptError:
                pass
            else:
                return 1
            assert len(salvage(codec, packed, 1000)) == 1000
        return 2 if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before > 65536 else 0

    assert as_nobody_is_root(child) == 0


@pytest.mark.parametrize("behind", [b"x", b"\x28\xb5\x2f\xfd", compress(b"text " * 1000)[1]])
def test_bytes_behind_a_frame_are_corrupt(behind: bytes) -> None:
    codec, packed = compress(b"text " * 1000)
    with pytest.raises(ContentCorruptError):
        decompress(codec, packed + behind, 5000)
    with pytest.raises(ContentCorruptError):
        decompress(codec, packed + behind, 10_000)


def test_raw_pack_must_have_its_size() -> None:
    assert decompress(RAW, b"abc", 3) == b"abc"
    for size in (2, 4):
        with pytest.raises(ContentCorruptError, match=f"3 bytes instead of {size}"):
            decompress(RAW, b"abc", size)
    assert salvage(RAW, b"abc", 2) == b"ab"


def test_unknown_codec_is_corrupt() -> None:
    with pytest.raises(ContentCorruptError, match="unknown codec 'lzma'"):
        decompress("lzma", b"abc", 3)
    assert salvage("lzma", b"abc", 3) == b""


def test_threads_compress_at_the_same_time() -> None:
    data = [(b"thread %d " % number) * 20_000 + noise(100, number) for number in range(32)]
    with ThreadPoolExecutor(8) as threads:
        packed = list(threads.map(compress, data))
        plain = list(threads.map(lambda item: decompress(item[0][0], item[0][1], len(item[1])), zip(packed, data)))
    assert plain == data
    assert packed == [compress(item) for item in data]


@pytest.mark.parametrize("place", [0, 700_000, 1_900_000])
def test_full_pack_of_which_a_small_part_compresses_is_compressed(place: int) -> None:
    data = bytearray(noise(2 * MIB))
    assert compress(bytes(data)) == (RAW, bytes(data))
    data[place : place + 100_000] = b"text " * 20_000
    codec, frame = compress(bytes(data))
    assert (codec, len(frame) < 2 * MIB - 90_000) == (ZSTD, True)
