"""Each content is stored once, and compressed in whatever way."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest
from conftest import entries, noise, restored, sql, write, write_tree

from backuptool import Repository

from .making import Counts, counts

MIB = 1 << 20


def test_equal_files_are_stored_once(repo: Repository, tmp_path: Path) -> None:
    data = noise(10_000)
    tree = write_tree(tmp_path / "tree", dict.fromkeys(("a", "b", "c/d", "c/e"), data))
    result = repo.snapshot(tree)
    assert (result.read_bytes, result.new_bytes) == (40_000, 10_000)
    assert 10_000 <= result.stored_bytes < 10_100
    assert sql(repo.path, "SELECT count(*), sum(refs) FROM contents") == [(1, 4)]


def test_file_that_comes_back_is_not_stored_again(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    data = (tree / "a.txt").read_bytes()
    (tree / "a.txt").unlink()
    repo.snapshot(tree)
    write(tree / "again", data)
    result = repo.snapshot(tree)
    assert counts(result) == Counts(new=1, unchanged=4)
    assert (result.read_bytes, result.new_bytes, result.snapshot.distinct_bytes) == (1000, 0, 0)


@pytest.mark.both
def test_renamed_file_stores_nothing(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    (tree / "a.txt").rename(tree / "z.txt")
    result = repo.snapshot(tree)
    assert counts(result) == Counts(new=1, unchanged=4, removed=1)
    assert (result.new_bytes, result.stored_bytes, result.snapshot.distinct_bytes) == (0, 0, 0)


def test_sources_share_their_contents(repo: Repository, tree: Path, tmp_path: Path) -> None:
    repo.snapshot(tree)
    shutil.copytree(str(tree), str(tmp_path / "copy"))
    result = repo.snapshot(tmp_path / "copy")
    assert counts(result) == Counts(new=5)
    assert (result.read_bytes, result.new_bytes, result.snapshot.distinct_bytes) == (6001, 0, 0)


def test_hosts_have_histories_of_their_own(repo: Repository, tree: Path) -> None:
    assert counts(repo.snapshot(tree, host="one")) == Counts(new=5)
    assert counts(repo.snapshot(tree, host="two")) == Counts(new=5)
    assert counts(repo.snapshot(tree, host="one")) == Counts(unchanged=5)
    assert [snapshot.id for snapshot in repo.list(host="one")] == [1, 3]
    assert repo.list().distinct_bytes == 4001


@pytest.mark.parametrize("edit", ["overwrite", "insert", "delete", "append", "prepend"])
@pytest.mark.both
def test_edit_of_a_large_file_stores_a_small_part(repo: Repository, tmp_path: Path, edit: str) -> None:
    data = noise(8 * MIB)
    middle = 4 * MIB
    tree = write_tree(tmp_path / "tree", {"image": data})
    first = repo.snapshot(tree)
    assert (first.read_bytes, first.new_bytes) == (8 * MIB, 8 * MIB)
    edited = {
        "overwrite": data[:middle] + b"edited" + data[middle + 6 :],
        "insert": data[:middle] + b"inserted" + data[middle:],
        "delete": data[:middle] + data[middle + 777 :],
        "append": data + b"appended",
        "prepend": b"prepended" + data,
    }[edit]
    write(tree / "image", edited)
    second = repo.snapshot(tree)
    assert counts(second) == Counts(changed=1)
    assert second.read_bytes == len(edited)
    # The chunk that was hit, and at most the one behind it; a chunk has at most 128 KiB.
    assert 0 < second.new_bytes <= 256 << 10
    assert second.snapshot.distinct_bytes == second.new_bytes
    assert restored(repo, 1, tmp_path / "1")[b"image"].data == data
    assert restored(repo, 2, tmp_path / "2")[b"image"].data == edited
    assert repo.check().problems == ()


def test_equal_large_files_are_stored_once(repo: Repository, tmp_path: Path) -> None:
    data = noise(2 * MIB)
    tree = write_tree(tmp_path / "tree", {"a": data, "b": data})
    result = repo.snapshot(tree)
    assert (result.read_bytes, result.new_bytes) == (4 * MIB, 2 * MIB)
    write(tree / "c", data)
    assert repo.snapshot(tree).new_bytes == 0
    assert sql(repo.path, "SELECT count(*), refs FROM contents WHERE layout IS NOT NULL") == [(1, 3)]
    assert repo.check().problems == ()


def test_small_file_that_equals_a_chunk_is_not_stored_again(repo: Repository, tmp_path: Path) -> None:
    data = noise(2 * MIB)
    tree = write_tree(tmp_path / "tree", {"large": data})
    repo.snapshot(tree)
    [(offset, size)] = sql(
        repo.path, "SELECT p.offset, c.size FROM parts AS p JOIN contents AS c ON c.id = p.part LIMIT 1 OFFSET 5"
    )
    write(tree / "small", data[offset : offset + size])
    assert repo.snapshot(tree).new_bytes == 0
    (tree / "large").unlink()
    repo.snapshot(tree)
    repo.prune([1, 2])
    assert restored(repo, 3, tmp_path / "out")[b"small"].data == data[offset : offset + size]
    assert repo.check().problems == ()


def test_content_hash_is_that_of_sha256sum(repo: Repository, tmp_path: Path) -> None:
    data = {"small": b"small", "large": noise(3 * MIB)}
    repo.snapshot(write_tree(tmp_path / "tree", data))
    for name, contents in data.items():
        rows = sql(repo.path, "SELECT hash FROM snapshot_files WHERE path = ?", name)
        assert rows == [(hashlib.sha256(contents).hexdigest(),)]


def test_versions_of_a_file_compress_each_other(repo: Repository, tmp_path: Path) -> None:
    files = {f"{number}/page.html": noise(20_000) + bytes([number]) for number in range(20)}
    result = repo.snapshot(write_tree(tmp_path / "tree", files))
    assert result.new_bytes == 20 * 20_001
    assert result.stored_bytes < 30_000


def test_one_repository_holds_what_was_compressed_in_any_way(repo: Repository, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    for number, compression in enumerate(("max", "balanced", "fast"), 1):
        write(root / compression, b"".join(b"%d: line %d\n" % (number, line) for line in range(900_000)))
        repo.snapshot(root, compression=compression)  # type: ignore[arg-type]
        assert restored(repo, number, tmp_path / compression) == entries(root)
    assert sql(repo.path, "SELECT max(size) > 8000000, min(size) < 4000000 FROM packs") == [(1, 1)]
    assert repo.check().problems == ()


def test_unknown_compression_is_refused_before_anything_is_done(repo: Repository, tree: Path) -> None:
    with pytest.raises(ValueError, match="compression must be fast, balanced, max, not 'best'"):
        repo.snapshot(tree, compression="best")  # type: ignore[arg-type]
    assert not os.path.exists(repo.path)
