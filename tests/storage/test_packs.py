"""Packs, and the threads that make and open them."""

from __future__ import annotations

import threading
from typing import Dict, List

import pytest
from conftest import noise

from backuptool import ContentCorruptError, ContentMissingError
from backuptool.storage.compression import RAW, ZSTD, decompress
from backuptool.storage.database import Database
from backuptool.storage.packs import PackCompressor, PackReader
from backuptool.storage.unpacking import read_pack, unpack

from .making import BUFFERS, MIB, PACK_BYTES, store


def submit(compressor: PackCompressor, number: int, data: bytes) -> memoryview:
    """Have a pack of one member compressed; return the buffer it is in."""
    buffer = compressor.buffer()
    assert len(buffer) >= PACK_BYTES + MIB
    buffer[: len(data)] = data
    compressor.submit([(number, b"", len(data))], buffer, len(data))
    return buffer


def test_packs_come_back_compressed_in_the_order_they_came() -> None:
    data = [bytes(1_000_000) if number % 2 else noise(1000, number) for number in range(30)]
    with PackCompressor() as compressor:
        for number, piece in enumerate(data):
            submit(compressor, number, piece)
        packs = list(compressor.finished(wait_for_all=True))
    assert [pack.members for pack in packs] == [[(number, b"", len(piece))] for number, piece in enumerate(data)]
    assert [pack.codec for pack in packs] == [RAW, ZSTD] * 15
    assert [decompress(pack.codec, bytes(pack.data), pack.size) for pack in packs] == data


def test_buffers_are_used_again_when_their_packs_are_compressed() -> None:
    data = [noise(5000, number) * 300 if number % 2 else noise(100_000, number) for number in range(60)]
    buffers: Dict[int, object] = {}
    plain: List[bytes] = []
    with PackCompressor() as compressor:
        for number, piece in enumerate(data):
            buffer = submit(compressor, number, piece).obj
            buffers[id(buffer)] = buffer
            for pack in compressor.finished():
                plain.append(decompress(pack.codec, bytes(pack.data), pack.size))
                compressor.take_back(pack)
        plain += [
            decompress(pack.codec, bytes(pack.data), pack.size) for pack in compressor.finished(wait_for_all=True)
        ]
    assert 1 <= len(buffers) <= BUFFERS
    assert plain == data


def test_compressor_that_is_left_early_ends_its_threads() -> None:
    before = threading.active_count()
    with PackCompressor() as compressor:
        for number in range(50):
            submit(compressor, number, bytes(1_000_000))
        assert threading.active_count() > before
    assert threading.active_count() == before


@pytest.mark.parametrize(
    "change", ["size = -1", "size = (16 << 20) + 1", "size = 'x'", "codec = 5.5", "codec = x'ff'", "data = 5"]
)
def test_pack_with_a_damaged_row_is_corrupt(database: Database, change: str) -> None:
    store(database, b"text " * 1000)
    database.execute(f"UPDATE packs SET {change}")
    if change == "codec = 5.5":  # text, by the affinity of its column
        assert unpack(read_pack(database, 1)).damage == "a pack has the unknown codec '5.5'"
    elif change == "codec = x'ff'":
        assert unpack(read_pack(database, 1)).data == b""
    else:
        with pytest.raises(ContentCorruptError, match="row of pack 1"):
            read_pack(database, 1)
    assert PackReader(database).pack(1).data == b""


def test_missing_pack_is_missing(database: Database) -> None:
    with pytest.raises(ContentMissingError, match="pack 7 is missing"):
        read_pack(database, 7)
    assert PackReader(database).pack(7).damage == "pack 7 is missing"


def test_reader_forgets_packs_it_read_long_ago(database: Database) -> None:
    store(database, *(noise(1_000_000, number) for number in range(24)))
    assert database.query("SELECT size FROM packs") == [(3_000_000,)] * 8
    reader = PackReader(database)
    first = reader.pack(1)
    assert reader.pack(1) is first
    for number in range(2, 9):
        reader.pack(number)
    assert reader.pack(1) is not first
    assert reader.pack(1).data == first.data
