"""Where large files are cut."""

from __future__ import annotations

import random
from typing import Dict, List, Sequence

import attrs
import pytest
from conftest import noise

from backuptool.storage.chunking import CHUNKING, LARGE_FILE, Chunking, cut

from .making import MIB, sha256


def chunks(data: bytes, chunking: Chunking = CHUNKING, steps: Sequence[int] = ()) -> List[bytes]:
    """Cut data of which as much as these sizes, and then all, is there at a time."""
    chunker = chunking.for_size(len(data))
    found = []
    begin = end = 0
    for step in (*steps, len(data)):
        end = min(end + step, len(data))
        view = memoryview(data)[begin:end]
        for length in cut(chunker, view, final=end == len(data)):
            found.append(data[begin : begin + length])
            begin += length
    return found


def test_cut_points_are_those_of_the_format() -> None:
    # A repository that cuts elsewhere than the one before it would store every large file again.
    lengths = [len(chunk) for chunk in chunks(noise(3 * MIB))]
    assert sum(lengths) == 3 * MIB
    assert lengths[:8] == [41572, 29815, 42783, 37506, 55058, 123280, 18994, 34022]
    assert sha256(repr(lengths).encode()).hex() == "312385cd863c8181adf79ed7d4b54081a7f9e23d0feacb680d15207a7082ed09"


def test_chunks_are_within_their_bounds() -> None:
    for data in (noise(5 * MIB, 1), bytes(3 * MIB), b"ab" * MIB):
        lengths = [len(chunk) for chunk in chunks(data)]
        assert max(lengths) <= 4 * CHUNKING.average
        assert min(lengths[:-1]) >= CHUNKING.average // 4
        assert b"".join(chunks(data)) == data


@pytest.mark.parametrize("size", [0, 1, 8191, 8192, 2 * MIB - 1, 2 * MIB, 2 * MIB + 1, 4 * MIB, 7 * MIB + 12345])
def test_cutting_a_stream_equals_one_pass(size: int) -> None:
    data = noise(size, size)
    once = [bytes(chunk.data) for chunk in CHUNKING.for_size(size).cut_buf(data)] if data else []
    assert chunks(data) == once
    choices = random.Random(size)
    for _ in range(3):
        assert chunks(data, steps=[choices.choice((1, 100, 5000, 70_000, MIB)) for _ in range(100)]) == once


def test_larger_files_get_larger_chunks() -> None:
    chunking = Chunking(average=1024, large_average=4096, large_size=100_000, huge_average=16384, huge_size=200_000)
    means = [size / len(chunks(noise(size), chunking)) for size in (100_000, 200_000, 400_000)]
    assert means[0] * 2 < means[1]
    assert means[1] * 2 < means[2]


def test_settings_give_the_same_chunking_back() -> None:
    chunking = Chunking(average=1024, large_size=12345)
    assert Chunking.from_settings(dict(chunking.settings())) == chunking
    assert attrs.asdict(CHUNKING) == {
        "average": 32 << 10,
        "large_average": 128 << 10,
        "large_size": 16 << 30,
        "huge_average": 256 << 10,
        "huge_size": 256 << 30,
    }


@pytest.mark.parametrize(
    "change", [{"chunking": "rabin"}, {"chunking": None}, {"chunk_average": "many"}, {"chunk_huge_size": None}]
)
def test_unknown_chunking_is_refused(change: Dict[str, object]) -> None:
    settings = {**dict(CHUNKING.settings()), **change}
    with pytest.raises(ValueError, match="unknown chunking"):
        Chunking.from_settings(settings)


def test_no_chunk_is_as_large_as_a_file_that_is_cut() -> None:
    # A content is bytes, or a list of contents that are bytes: were a chunk found as a list, nobody could read it.
    for size in (LARGE_FILE + 1, CHUNKING.large_size + 1, CHUNKING.huge_size + 1):
        lengths = [len(chunk.data) for chunk in CHUNKING.for_size(size).cut_buf(bytes(8 * MIB))]
        assert max(lengths) <= LARGE_FILE
