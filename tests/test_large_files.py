from __future__ import annotations

import hashlib
import os
import random
import threading
from contextlib import closing
from pathlib import Path
from typing import List, Tuple

import pytest
from conftest import new_database, noise, restored, snapshot_watched, sql, write

from backuptool import ProgressEvent, Repository
from backuptool.storage.compression import SETTINGS
from backuptool.storage.writer import ContentWriter

MIB = 1 << 20
PACK = SETTINGS["balanced"].pack_size


@pytest.fixture
def tmp_path(memory_path: Path) -> Path:
    """Many MiB are to be written here."""
    return memory_path


def stored_hashes(repository: Path) -> List[str]:
    return [bytes(row[0]).hex() for row in sql(repository, "SELECT hash FROM contents WHERE layout IS NOT NULL")]


@pytest.mark.parametrize("seed", range(6))
def test_files_of_new_and_known_pieces_come_back_whole(tmp_path: Path, seed: int) -> None:
    # Pieces that are stored already, or were a moment ago, leave gaps where a pack is being filled.
    choices = random.Random(seed)
    pieces = [noise(choices.choice((70_000, 300_000, MIB, 3 * MIB)), 10 * seed + number) for number in range(5)]
    pieces.append(bytes(400_000))
    tree = tmp_path / "tree"
    hashes = set()
    for number in range(5):
        data = b"".join(choices.choice(pieces) for _ in range(choices.randint(2, 12)))
        data += noise(MIB + choices.randint(-2, 2), 1000 + number)
        hashes.add(hashlib.sha256(write(tree / str(number), data).read_bytes()).hexdigest())
    write(tree / "small", pieces[0][:500_000])
    with Repository(tmp_path / "r.db") as repo:
        repo.snapshot(tree)
        assert repo.check().problems == ()
        assert {name: entry.data for name, entry in restored(repo, 1, tmp_path / "out").items() if entry.data} == {
            os.fsencode(path.name): path.read_bytes() for path in tree.iterdir()
        }
    assert set(stored_hashes(tmp_path / "r.db")) == hashes


@pytest.mark.parametrize("size", [MIB + 1, PACK - 1, PACK, PACK + 1, PACK + MIB // 2, 2 * PACK + MIB, 3 * PACK - 1])
def test_sizes_around_the_edges_of_packs_come_back(tmp_path: Path, size: int) -> None:
    data = noise(size, size)
    write(tmp_path / "tree/large", data)
    with Repository(tmp_path / "r.db") as repo:
        result = repo.snapshot(tmp_path / "tree")
        assert (result.read_bytes, result.new_bytes) == (size, size)
        assert restored(repo, 1, tmp_path / "out")[b"large"].data == data
    [(longest,)] = sql(tmp_path / "r.db", "SELECT max(size) FROM packs")
    assert longest <= PACK + MIB


def test_large_file_that_is_cut_short_while_it_is_read_is_saved_as_it_is_then(tmp_path: Path) -> None:
    large = write(tmp_path / "tree/large", noise(20 * MIB, 1))
    cut: List[int] = []

    def callback(event: ProgressEvent) -> None:
        if event.phase == "read" and event.done_bytes and not cut:
            cut.append(event.done_bytes)
            os.truncate(large, 5 * MIB)

    result = snapshot_watched(tmp_path / "r.db", tmp_path / "tree", callback)
    assert cut
    assert result.snapshot.size_bytes == 5 * MIB
    with Repository(tmp_path / "r.db") as repo:
        assert restored(repo, 1, tmp_path / "out")[b"large"].data == large.read_bytes()
        assert repo.check().problems == ()


class SlowHasher:
    """Looks at what it is fed when somebody has had time to put something else there."""

    def __init__(self) -> None:
        self.overwritten = threading.Event()
        self.seen = b""

    def update(self, data: memoryview) -> None:
        self.overwritten.wait(0.3)
        self.seen += bytes(data)


def moved(writer: ContentWriter, known: bytes, fresh: bytes) -> Tuple[bytes, bytes]:
    """Add a piece that is known and one that is not, while both are being hashed; return what was hashed."""
    hasher = SlowHasher()
    block = writer.block(1 << 17)
    data = known + fresh
    block[: len(data)] = data
    writer.hash_along(hasher, block[: len(data)])  # type: ignore[arg-type]
    writer.add_chunks([len(known), len(fresh)])
    writer.block(1 << 17)[: len(data)] = bytes(len(data))
    hasher.overwritten.set()
    writer.wait_for_hash()
    return hasher.seen, data


@pytest.mark.parametrize("fresh", [b"fresh" * 1000, b"known" * 1000], ids=["one of two", "both"])
def test_block_is_not_overwritten_while_it_is_being_hashed(tmp_path: Path, fresh: bytes) -> None:
    with closing(new_database(tmp_path / "r.db")) as database, ContentWriter(database, lambda: 0) as writer:
        known = b"known" * 1000
        writer.add(known)
        seen, data = moved(writer, known, fresh)
        assert seen == data


def test_what_is_given_back_is_made_again_when_it_is_needed(tmp_path: Path) -> None:
    with closing(new_database(tmp_path / "r.db")) as database, ContentWriter(database, lambda: 0) as writer:
        contents = []
        for number in range(4):
            contents.append(writer.add(noise(MIB, number)))
            writer.give_memory_back()
        writer.flush()
        assert [writer.ids[content.ordinal] for content in contents] == [1, 2, 3, 4]
        assert database.query("SELECT size FROM packs") == [(MIB,)] * 4
