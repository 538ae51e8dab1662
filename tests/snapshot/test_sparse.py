"""Sparse files and files above the limit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import entries, noise, restored, sql, write

from backuptool import Repository
from backuptool.tree.portability import next_data, next_hole

from .making import Counts, counts, make_sparse

MIB = 1 << 20


@pytest.mark.parametrize(
    ("size", "pieces"),
    [
        pytest.param(200_000, {65536: b"middle"}, id="small"),
        pytest.param(3 * MIB, {}, id="nothing but a hole"),
        pytest.param(3 * MIB, {0: b"begin"}, id="hole behind"),
        pytest.param(3 * MIB, {3 * MIB - 3: b"end"}, id="hole before"),
        pytest.param(9 * MIB, {MIB: b"x" * 300_000, 5 * MIB + 1: noise(2 * MIB)}, id="holes between"),
    ],
)
@pytest.mark.both
def test_sparse_file_comes_back_with_its_holes(
    repo: Repository, tmp_path: Path, size: int, pieces: dict[int, bytes]
) -> None:
    path = make_sparse(tmp_path / "tree" / "sparse", size, pieces)
    if path.stat().st_blocks * 512 >= size:
        pytest.skip("this file system has no sparse files")
    result = repo.snapshot(tmp_path / "tree")
    assert result.problems == ()
    assert result.snapshot.size_bytes == size
    if size > MIB:
        # Whole blocks around the data are read and stored, but no hole is.
        assert result.read_bytes <= sum(len(data) + 8192 for data in pieces.values())
        assert result.new_bytes <= result.read_bytes
    assert restored(repo, 1, tmp_path / "out") == entries(tmp_path / "tree")
    assert os.stat(str(tmp_path / "out" / "sparse")).st_blocks <= path.stat().st_blocks
    assert repo.check().problems == ()


def test_file_whose_holes_are_not_told_is_data_from_end_to_end() -> None:
    reading, writing = os.pipe()
    try:
        assert (next_data(reading, 5, 100), next_hole(reading, 5, 100)) == (5, 100)
    finally:
        os.close(reading)
        os.close(writing)


def test_sparse_file_and_its_filled_copy_share_one_content(repo: Repository, tmp_path: Path) -> None:
    sparse = make_sparse(tmp_path / "tree" / "sparse", 4 * MIB, {MIB: b"data" * 1000})
    data = sparse.read_bytes()
    write(tmp_path / "tree" / "filled", data)
    repo.snapshot(tmp_path / "tree")
    assert sql(repo.path, "SELECT count(*) FROM contents WHERE size = ?", 4 * MIB) == [(1,)]
    found = restored(repo, 1, tmp_path / "out")
    assert found == entries(tmp_path / "tree")
    assert repo.check().problems == ()


def test_file_above_one_gibibyte_is_skipped_and_named(repo: Repository, tree: Path) -> None:
    make_sparse(tree / "huge", (1 << 30) + 1, {})
    make_sparse(tree / "just small enough", 1 << 30, {})
    result = repo.snapshot(tree)
    assert counts(result) == Counts(new=6, skipped=1)
    assert [(file.path, file.size_bytes) for file in result.skipped] == [("huge", (1 << 30) + 1)]
    assert "1.0 GiB" in result.skipped[0].reason
    assert result.problems == ()
    assert (result.snapshot.skipped_files, result.snapshot.problem_files) == (1, 0)
    assert repo.check().problems == ()


def test_limit_can_be_moved_and_removed(repo: Repository, tree: Path) -> None:
    assert counts(repo.snapshot(tree, max_file_size=1000)) == Counts(new=2, skipped=3)
    assert counts(repo.snapshot(tree, max_file_size=1001)) == Counts(new=1, unchanged=2, skipped=2)
    assert counts(repo.snapshot(tree, max_file_size=None)) == Counts(new=2, unchanged=3)
    # What is above the limit now was saved before: the snapshot before has it, and this one has not.
    assert counts(repo.snapshot(tree, max_file_size=999)) == Counts(unchanged=1, removed=4, skipped=4)
    assert repo.check().problems == ()


@pytest.mark.long
def test_more_than_four_gibibytes_of_hole_are_kept(repo: Repository, tmp_path: Path) -> None:
    make_sparse(tmp_path / "tree" / "sparse", (4 << 30) + 5, {(4 << 30) + 1: b"end!"})
    result = repo.snapshot(tmp_path / "tree", max_file_size=None)
    assert result.snapshot.size_bytes == (4 << 30) + 5
    assert result.read_bytes <= 8192
    repo.restore(1, tmp_path / "out")
    with (tmp_path / "out" / "sparse").open("rb") as file:
        file.seek((4 << 30) - 1)
        assert file.read() == b"\0\0end!"
    assert repo.check().problems == ()
