"""Reading contents back: every byte is compared with a hash."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Tuple, Type

import pytest
from conftest import noise, write_tree

from backuptool import BackuptoolError, ContentCorruptError, ContentMissingError, Repository
from backuptool.storage.arriving import LargeContent
from backuptool.storage.connecting import open_database
from backuptool.storage.contents import ContentLocation
from backuptool.storage.database import Database
from backuptool.storage.reader import ContentReader
from backuptool.storage.writer import ContentWriter

from .making import MIB, location, sha256, store


def large(database: Database, *pieces: Tuple[int, bytes], size: int) -> ContentLocation:
    """Store a large content of pieces at offsets, with holes between them."""
    data = bytearray(size)
    with ContentWriter(database, lambda: 0) as writer:
        parts = LargeContent()
        position = 0
        for offset, piece in pieces:
            if offset > position:
                parts.append(position, None)
            parts.append(offset, writer.add(piece))
            data[offset : offset + len(piece)] = piece
            position = offset + len(piece)
        if position < size:
            parts.append(position, None)
        writer.add_large(sha256(bytes(data)), size, parts)
        writer.flush()
    return location(database, bytes(data))


def test_large_content_comes_back_piece_by_piece_with_its_holes(database: Database) -> None:
    content = large(database, (10, b"middle"), (16, b"more"), (30, b"end"), size=40)
    assert content.pack is None
    with ContentReader(database) as reader:
        assert list(reader.stream_parts(content)) == [
            (0, None),
            (10, b"middle"),
            (16, b"more"),
            (20, None),
            (30, b"end"),
            (33, None),
        ]
        # What lies in a row in its pack comes at once.
        expected = [(0, None), (10, b"middlemore"), (20, None), (30, b"end"), (33, None)]
        assert list(reader.stream(content)) == expected


def test_content_with_more_parts_than_are_read_at_once_comes_back(database: Database) -> None:
    pieces = [(number * 10, b"%010d" % (number % 1500)) for number in range(2500)]
    content = large(database, *pieces, size=25_000)
    with ContentReader(database) as reader:
        assert list(reader.stream_parts(content)) == pieces
        joined = list(reader.stream(content))
    assert [offset for offset, _ in joined] == [0, 15_000]  # from there on they are parts that it has already
    assert b"".join(data or b"" for _, data in joined) == b"".join(data for _, data in pieces)


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("UPDATE parts SET offset = 11 WHERE offset = 10", ContentCorruptError),
        ("UPDATE parts SET part = NULL WHERE offset = 10", ContentCorruptError),
        ("UPDATE parts SET part = 99 WHERE offset = 10", ContentMissingError),
        ("UPDATE parts SET part = content WHERE offset = 10", ContentMissingError),
        ("DELETE FROM parts WHERE offset = 10", ContentCorruptError),
        ("DELETE FROM parts", ContentCorruptError),
        ("INSERT INTO parts SELECT content, 40, part FROM parts WHERE offset = 10", ContentCorruptError),
        ("UPDATE contents SET size = 39 WHERE layout IS NOT NULL", ContentCorruptError),
        ("UPDATE contents SET size = 5 WHERE size = 6", ContentCorruptError),
        ("UPDATE contents SET size = 600 WHERE size = 6", ContentCorruptError),
        ("UPDATE contents SET hash = zeroblob(32) WHERE layout IS NOT NULL", ContentCorruptError),
        ("UPDATE contents SET offset = 1 WHERE size = 6", ContentCorruptError),
        ("UPDATE packs SET data = x'00'", ContentCorruptError),
        ("DELETE FROM packs", ContentCorruptError),
    ],
)
def test_damaged_large_content_is_an_error(database: Database, statement: str, error: Type[BackuptoolError]) -> None:
    before = large(database, (10, b"middle"), (16, b"more"), size=40)
    database.query("PRAGMA foreign_keys=OFF")
    assert database.execute(statement) > 0
    [row] = database.query("SELECT id, hash, size, pack, offset FROM contents WHERE id = ?", (before.id,))
    with pytest.raises(error) as caught, ContentReader(database) as reader:
        list(reader.stream(ContentLocation(*row)))
    assert getattr(caught.value, "path") == database.path  # noqa: B009


def test_content_with_neither_bytes_nor_parts_is_missing(database: Database) -> None:
    store(database, b"one")
    database.execute("UPDATE contents SET pack = NULL, offset = NULL")
    damaged = location(database, b"one")
    with ContentReader(database) as reader:
        with pytest.raises(ContentMissingError, match="neither bytes nor parts") as caught:
            reader.read(damaged)
        assert caught.value.content == sha256(b"one").hex()
        with pytest.raises(ContentCorruptError):
            list(reader.stream(damaged))


def test_content_that_was_packed_again_is_found_where_it_is_now(repo: Repository, tmp_path: Path) -> None:
    names = [f"{number:02}" for number in range(30)]
    root = write_tree(tmp_path / "tree", {name: noise(10_000, number) for number, name in enumerate(names)})
    repo.snapshot(root)
    for name in names[:-3]:
        (root / name).unlink()
    repo.snapshot(root)
    with closing(open_database(repo.path, 10.0)) as database, ContentReader(database) as reader:
        before = [location(database, noise(10_000, number)) for number in (28, 29)]
        assert reader.read(location(database, noise(10_000, 27))) == noise(10_000, 27)  # its pack is kept in memory
        assert repo.prune(1).repacked_packs == 1
        after = [location(database, noise(10_000, number)) for number in (28, 29)]
        assert [reader.read(content) for content in before] == [noise(10_000, 28), noise(10_000, 29)]
        # The new pack must not have the number of the old one, which this reader keeps in memory.
        assert [reader.read(content) for content in after] == [noise(10_000, 28), noise(10_000, 29)]
        with ContentReader(database) as another:
            assert another.read(before[1]) == noise(10_000, 29)


def test_contents_are_read_ahead(database: Database) -> None:
    pieces = [noise(500_000, number) for number in range(30)]
    store(database, *pieces)
    places = [location(database, piece) for piece in pieces]
    with ContentReader(database) as reader:
        reader.expect(places)
        assert [reader.read(place) for place in places] == pieces
        reader.expect(places[:10])
        assert [reader.read(place) for place in reversed(places)] == pieces[::-1]


def test_what_is_expected_no_more_is_not_kept(database: Database) -> None:
    pieces = [noise(MIB, number) for number in range(12)]
    store(database, *pieces)
    places = [location(database, piece) for piece in pieces]
    with ContentReader(database) as reader:
        for begin in (0, 4, 8):
            reader.forget()
            reader.expect(places[begin : begin + 4])
        assert len(reader._packs._plans) == 1
        assert [reader.read(place) for place in places] == pieces


def test_damage_is_noticed_when_read_ahead(database: Database) -> None:
    pieces = [noise(MIB, number) for number in range(8)]
    store(database, *pieces)
    places = [location(database, piece) for piece in pieces]
    database.execute("UPDATE packs SET data = zeroblob(length(data)) WHERE id = ?", (places[3].pack,))
    database.execute("UPDATE packs SET size = 1 << 50 WHERE id = ?", (places[5].pack,))
    broken = [number for number, place in enumerate(places) if place.pack in (places[3].pack, places[5].pack)]
    with ContentReader(database) as reader:
        reader.expect(places)
        for number, place in enumerate(places):
            if number in broken:
                with pytest.raises(ContentCorruptError):
                    reader.read(place)
            else:
                assert reader.read(place) == pieces[number]
