"""Storing contents: what is new is stored once, in packs, in few transactions."""

from __future__ import annotations

from array import array
from contextlib import closing, contextmanager
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import pytest
from conftest import noise

from backuptool import RepositoryLockedError
from backuptool.storage.arriving import Content, LargeContent
from backuptool.storage.connecting import open_database
from backuptool.storage.contents import HashFilter, find, insert_contents
from backuptool.storage.database import Database
from backuptool.storage.reader import ContentReader
from backuptool.storage.refcounts import ContentsVanishedError, add_refs, reference
from backuptool.storage.writer import ContentWriter

from .making import BUFFERS, MIB, PACK_BYTES, location, sha256, store


@contextmanager
def traced(database: Database) -> Iterator[List[str]]:
    """Collect the statements that are run meanwhile."""
    statements: List[str] = []
    database.trace(statements.append)
    try:
        yield statements
    finally:
        database.trace(None)


def test_contents_are_stored_once_and_come_back(database: Database) -> None:
    ids, new, stored = store(database, b"one", b"two", b"one", b"")
    assert ids == [1, 2, 1, 3]
    assert (new, stored) == (6, 6)
    assert store(database, b"two", b"three") == ([2, 4], 5, 5)
    with ContentReader(database) as reader:
        for data in (b"one", b"two", b"three", b""):
            assert reader.read(location(database, data)) == data
            assert list(reader.stream(location(database, data))) == [(0, data)]
    assert database.query("SELECT size, live, written_ns, codec FROM packs") == [(6, 6, 5, b"raw"), (5, 5, 5, b"raw")]


def test_content_knows_its_digest_at_once_and_its_id_when_it_is_written(database: Database) -> None:
    with ContentWriter(database, lambda: 0) as writer:
        content = writer.add(b"data")
        assert content == Content(size=4, digest=sha256(b"data"), ordinal=0)
        assert writer.add(b"data") == content
        assert writer.add(b"more") == Content(size=4, digest=sha256(b"more"), ordinal=1)
        assert list(writer.ids) == [0, 0]
        writer.flush()
        assert list(writer.ids) == [1, 2]


def test_content_that_comes_again_after_it_was_written_is_found(database: Database) -> None:
    with ContentWriter(database, lambda: 0) as writer:
        first = writer.add(b"data")
        writer.flush()
        again = writer.add(b"data")
        assert again.ordinal != first.ordinal
        assert list(writer.ids) == [1, 1]
        writer.add(b"more")
        writer.flush()
        assert list(writer.ids) == [1, 1, 2]
        assert writer.new_bytes == 8
    assert database.query("SELECT count(*) FROM packs") == [(2,)]


def test_content_put_in_the_room_is_stored_without_what_is_behind_it(database: Database) -> None:
    with ContentWriter(database, lambda: 0) as writer:
        for piece in (b"one", b"", b"three"):
            room = writer.room(len(piece) + 1)
            assert len(room) == len(piece) + 1
            room[:] = piece + b"!"
            assert writer.add_from_room(len(piece)) == Content(len(piece), sha256(piece), len(writer.ids) - 1)
        writer.flush()
        assert (writer.new_bytes, list(writer.ids)) == (8, [1, 2, 3])
    assert database.query("SELECT data FROM packs") == [(b"onethree",)]
    with ContentReader(database) as reader:
        assert [reader.read(location(database, piece)) for piece in (b"one", b"", b"three")] == [b"one", b"", b"three"]


def test_content_in_the_room_that_is_known_takes_no_place(database: Database) -> None:
    store(database, b"stored")
    with ContentWriter(database, lambda: 0) as writer:
        writer.add(b"pending")
        for piece in (b"stored", b"pending"):
            writer.room(len(piece))[:] = piece
            writer.add_from_room(len(piece))
            assert bytes(writer.room(len(piece))) == piece  # the next content comes to the same place
        writer.add(b"stored")
        writer.add(b"pending")
        writer.room(8)[:] = b"new one!"
        new = writer.add_from_room(7)
        writer.flush()
        assert writer.new_bytes == 14
        assert writer.ids[new.ordinal] == 3
    assert database.query("SELECT size, live, data FROM packs WHERE id = 2") == [(14, 14, b"pendingnew one")]
    assert database.query("SELECT offset, size FROM contents WHERE pack = 2 ORDER BY id") == [(0, 7), (7, 7)]


def test_pack_that_is_all_but_full_has_room_for_a_content_of_any_size(database: Database) -> None:
    pieces = [noise(MIB, 1), noise(MIB - 1, 2), noise(MIB, 3)]
    with ContentWriter(database, lambda: 0) as writer:
        for piece in pieces[:2]:
            writer.add(piece)
        room = writer.room(MIB + 1)
        assert len(room) == MIB + 1
        room[:MIB] = pieces[2]
        writer.add_from_room(MIB)
        writer.flush()
    assert database.query("SELECT size FROM packs") == [(PACK_BYTES - 1 + MIB,)]
    with ContentReader(database) as reader:
        for piece in pieces:
            assert reader.read(location(database, piece)) == piece


def test_writer_uses_its_buffers_again(database: Database) -> None:
    pieces = [number.to_bytes(2, "big") * (MIB // 2) for number in range(80)]
    buffers: Dict[int, object] = {}
    with ContentWriter(database, lambda: 0) as writer:
        for piece in pieces:
            buffer = writer.room(MIB).obj
            buffers[id(buffer)] = buffer
            writer.add(piece)
        writer.flush()
    assert 1 <= len(buffers) <= BUFFERS
    with ContentReader(database) as reader:
        assert all(reader.read(location(database, piece)) == piece for piece in pieces)


def test_commit_that_fails_is_an_error_where_the_contents_are_added(database: Database) -> None:
    with closing(open_database(database.path, 0.0)) as impatient:
        with ContentWriter(impatient, lambda: 0) as writer:
            writer.add(b"data")
            with database.transaction(), pytest.raises(RepositoryLockedError):
                writer.flush()
        assert impatient.value("PRAGMA foreign_keys") == 1
        assert store(impatient, b"data") == ([1], 4, 4)


def test_more_contents_than_one_statement_takes_are_looked_up(database: Database) -> None:
    pieces = [b"%d" % number for number in range(1234)]
    ids, _, _ = store(database, *pieces)
    assert ids == list(range(1, 1235))
    assert store(database, *pieces) == (ids, 0, 0)
    assert find(database, [sha256(piece) for piece in pieces]) == {
        sha256(piece): number for piece, number in zip(pieces, ids)
    }
    assert find(database, []) == {}


def test_hashes_that_begin_alike_are_told_apart(database: Database) -> None:
    store(database, b"one")
    alike = sha256(b"one")[:8] + bytes(24)
    assert find(database, [alike]).get(alike) is None
    database.execute("INSERT INTO contents (hash, size, refs, since) VALUES (?, 0, 0, 0)", (alike,))
    assert find(database, [alike]) == {alike: 2}
    assert find(database, [alike, sha256(b"one"), bytes(32)]) == {alike: 2, sha256(b"one"): 1}


def test_contents_fill_packs_of_two_mebibytes(database: Database) -> None:
    _, new, stored = store(database, *(noise(100_000, number) for number in range(100)))
    sizes = [size for (size,) in database.query("SELECT size FROM packs ORDER BY id")]
    assert sum(sizes) == new == stored == 10_000_000
    assert all(2 * MIB <= size < 2 * MIB + 100_000 for size in sizes[:-1])


def test_two_writers_store_equal_contents_once(database: Database) -> None:
    pieces = [noise(1000, number) for number in range(10)]
    with closing(open_database(database.path, 10.0)) as second, ContentWriter(database, lambda: 0) as writer:
        contents = [writer.add(piece) for piece in pieces]  # looked up and not found, and not written yet
        ids, _, _ = store(second, *pieces[5:], b"another")
        writer.flush()
        assert [writer.ids[content.ordinal] for content in contents[5:]] == ids[:5]
    assert database.query("SELECT count(*), count(DISTINCT hash) FROM contents") == [(11, 11)]
    assert database.query("SELECT sum(live) FROM packs") == [(10 * 1000 + 7,)]
    with ContentReader(database) as reader:
        for piece in pieces:
            assert reader.read(location(database, piece)) == piece


def test_two_writers_store_equal_large_contents_once(database: Database) -> None:
    pieces = [noise(1000, number) for number in range(3)]

    def add_large(writer: ContentWriter) -> Content:
        parts = LargeContent()
        for number, piece in enumerate(pieces):
            parts.append(1000 * number, writer.add(piece))
        return writer.add_large(sha256(b"".join(pieces)), 3000, parts)

    with closing(open_database(database.path, 10.0)) as second, ContentWriter(database, lambda: 0) as writer:
        one = add_large(writer)
        with ContentWriter(second, lambda: 0) as other:
            two = add_large(other)
            other.flush()
        writer.flush()
        assert writer.ids[one.ordinal] == other.ids[two.ordinal]
    assert database.query("SELECT count(*) FROM contents") == [(4,)]
    assert database.query("SELECT refs FROM contents ORDER BY id") == [(1,), (1,), (1,), (0,)]
    with ContentReader(database) as reader:
        assert b"".join(data or b"" for _, data in reader.stream(location(database, b"".join(pieces)))) == b"".join(
            pieces
        )


def test_chunks_that_vanish_before_their_list_is_written_are_noticed(database: Database) -> None:
    store(database, b"chunk")
    with ContentWriter(database, lambda: 0) as writer:
        parts = LargeContent()
        parts.append(0, writer.add(b"chunk"))
        parts.append(5, None)
        writer.add_large(sha256(b"chunk\0"), 6, parts)
        with closing(open_database(database.path, 10.0)) as other:
            other.execute("DELETE FROM contents")
        with pytest.raises(ContentsVanishedError):
            writer.flush()
    assert database.query("SELECT count(*) FROM contents") == [(0,)]


ContentRow = Tuple[int, bytes, int, Optional[int], Optional[int]]


def content_rows(first: int, number: int) -> List[ContentRow]:
    """Rows of contents with these ids, of 10 bytes each in pack 1, and every hundredth one empty."""
    return [
        (id_, sha256(b"%d" % id_), *((0, None, None) if id_ % 100 == 0 else (10, 1, 10 * id_)))
        for id_ in range(first, first + number)
    ]


def insert_rows(database: Database, rows: Sequence[ContentRow]) -> None:
    with database.transaction():
        database.execute(
            "INSERT OR IGNORE INTO packs (id, size, live, written_ns, codec, data) VALUES (1, 9, 9, 0, 'raw', x'00')"
        )
        insert_contents(database, rows)


@pytest.mark.parametrize("number", [0, 1, 149, 150, 151, 300, 150 * 2 + 7])
def test_any_number_of_contents_is_inserted(database: Database, number: int) -> None:
    rows = content_rows(5, number)
    with traced(database) as statements:
        insert_rows(database, rows)
    assert database.query("SELECT id, hash, size, pack, offset FROM contents ORDER BY id") == rows
    assert database.query("SELECT DISTINCT refs, since, layout FROM contents") == [(0, 0, None)] * (number > 0)
    assert sum("INTO contents" in statement for statement in statements) <= 2 + 149


#: How the filter is filled, and how a hash is looked up.
FILL, LOOK_UP = "SELECT substr(hash, 1, 4) FROM contents", "WHERE substr(hash, 1, 8) IN"


def test_filter_of_an_empty_repository_is_filled_at_once(database: Database) -> None:
    with traced(database) as statements:
        known = HashFilter(database)
        assert not known.perhaps_stored(sha256(b"one"))
        known.add([sha256(b"one"), sha256(b"two")])
        assert known.perhaps_stored(sha256(b"one"))
        assert known.perhaps_stored(sha256(b"two"))
        assert not known.perhaps_stored(sha256(b"three"))
        assert known.perhaps_stored(sha256(b"one")[:4] + bytes(28))  # only a look-up tells
    assert [statement for statement in statements if "contents" in statement and "seq" not in statement] == [FILL]


def test_filter_tells_hashes_apart_that_share_a_byte_of_it(database: Database) -> None:
    known = HashFilter(database)
    alike = [sha256(b"")[:3] + bytes([number]) + bytes(28) for number in range(256)]
    for number, digest in enumerate(alike):
        assert not known.perhaps_stored(digest)
        known.add([digest])
        assert all(known.perhaps_stored(other) for other in alike[: number + 1])


@pytest.mark.parametrize("stored", [1, 7, 8, 9, 1000, 1003])
def test_filter_that_is_filled_late_denies_only_what_is_not_stored(database: Database, stored: int) -> None:
    rows = content_rows(1, stored)
    later = content_rows(stored + 1, 100)
    last = content_rows(stored + 101, 100)
    strangers = [sha256(b"x%d" % number) for number in range(2000)]
    insert_rows(database, rows)
    known = HashFilter(database)
    wait = max(stored // 8 - 1, 0)  # the look-up behind these is the one too many
    with traced(database) as statements:
        assert all(known.perhaps_stored(digest) for digest in strangers[: wait // 2])
        insert_rows(database, later)  # written while there is no filter yet
        known.add(digest for _, digest, *_ in later)
        assert all(known.perhaps_stored(digest) for digest in strangers[wait // 2 : wait])
        assert FILL not in statements
        assert all(known.perhaps_stored(digest) for _, digest, *_ in rows + later)
        assert statements.count(FILL) == 1
        assert not any(known.perhaps_stored(digest) for _, digest, *_ in last)
        insert_rows(database, last)  # and these while there is
        known.add(digest for _, digest, *_ in last)
        assert all(known.perhaps_stored(digest) for _, digest, *_ in rows + later + last)
        assert statements.count(FILL) == 1
    denied = [digest for digest in strangers if not known.perhaps_stored(digest)]
    assert find(database, denied) == {}
    assert len(denied) > 1990


def test_filter_is_never_filled_for_few_look_ups_in_a_large_repository(database: Database) -> None:
    insert_rows(database, content_rows(1, 8000))
    with traced(database) as statements, ContentWriter(database, lambda: 0) as writer:
        for number in range(999):
            writer.add(b"new %d" % number)
        writer.add(b"new 0")  # not even looked up: it is on its way
        writer.flush()
        assert sum(LOOK_UP in statement for statement in statements) == 999
        assert FILL not in statements


def test_filter_saves_the_look_ups_of_many_new_contents(database: Database) -> None:
    insert_rows(database, content_rows(1, 8000))
    with traced(database) as statements, ContentWriter(database, lambda: 0) as writer:
        for number in range(3000):
            writer.add(b"new %d" % number)
        assert statements.count(FILL) == 1
        assert 999 <= sum(LOOK_UP in statement for statement in statements) < 1010
        for number in (1, 4000, 7999):
            assert writer.ids[writer.add(b"%d" % number).ordinal] == number
        writer.flush()
    assert writer.new_bytes == sum(len(b"new %d" % number) for number in range(3000))
    assert database.query("SELECT count(*), count(DISTINCT hash) FROM contents") == [(11_000, 11_000)]


def test_references_are_counted_in_any_order_and_missing_contents_noticed(database: Database) -> None:
    ids, _, _ = store(database, *(b"%d" % number for number in range(6)))
    order = array("q", [ids[4], ids[0], ids[1], ids[0], ids[2]])
    assert reference(database, 7, order, array("I", [1, 2, 1, 1, 0])) == (3, 3)
    rows = database.query("SELECT refs, since FROM contents ORDER BY id")
    assert rows == [(3, 7), (1, 7), (0, 0), (0, 0), (1, 7), (0, 0)]
    assert reference(database, 8, order, array("I", [1, 0, 0, 0, 1])) == (1, 1)
    assert database.query("SELECT refs, since FROM contents WHERE id IN (3, 5) ORDER BY id") == [(1, 8), (2, 7)]
    assert add_refs(database, {1: 1, 2: 1, 6: 5}) == 3
    assert add_refs(database, {6: 1, 7: 1}) == 1
    with pytest.raises(ContentsVanishedError):
        reference(database, 9, array("q", [1, 99]), array("I", [1, 1]))


def test_writer_that_is_left_by_an_error_stores_no_more(database: Database) -> None:
    def fail() -> None:
        with ContentWriter(database, lambda: 0) as writer:
            for number in range(20):
                writer.add(noise(600_000, number))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert database.value("SELECT coalesce(sum(size), 0) FROM contents") < 20 * 600_000
