"""What a snapshot counts: new, changed, unchanged, removed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Callable, Dict

import pytest
from conftest import Clock, age, entries, restored, sql, write

from backuptool import Repository

from .making import Counts, counts


def test_first_snapshot_has_only_new_files(repo: Repository, tree: Path) -> None:
    result = repo.snapshot(tree)
    assert counts(result) == Counts(new=5)
    assert result.read_bytes == 6001
    assert result.new_bytes == 4001
    assert 0 < result.stored_bytes < 4001
    assert (result.snapshot.files, result.snapshot.directories) == (5, 3)
    assert (result.snapshot.size_bytes, result.snapshot.distinct_bytes) == (6001, 4001)
    assert result.problems == ()


@pytest.mark.both
def test_second_snapshot_stores_nothing_new(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    rows = sql(repo.path, "SELECT count(*) FROM files")
    result = repo.snapshot(tree)
    assert counts(result) == Counts(unchanged=5)
    assert (result.read_bytes, result.new_bytes, result.stored_bytes) == (0, 0, 0)
    assert (result.snapshot.size_bytes, result.snapshot.distinct_bytes) == (6001, 0)
    assert sql(repo.path, "SELECT count(*) FROM files") == rows


@pytest.mark.both
def test_only_what_changed_is_read(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    write(tree / "a.txt", b"A" * 1001)
    write(tree / "new.txt", b"new")
    (tree / "b.txt").unlink()
    result = repo.snapshot(tree)
    assert counts(result) == Counts(new=1, changed=1, unchanged=3, removed=1)
    assert result.read_bytes == 1001 + 3
    assert result.new_bytes == 1001 + 3
    assert result.snapshot.distinct_bytes == 1001 + 3
    assert result.snapshot.size_bytes == 6001 - 1000 + 1001 + 3 - 2000


def test_changed_metadata_is_a_change_that_stores_no_bytes(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    (tree / "a.txt").chmod(0o600)
    age(tree / "b.txt")
    result = repo.snapshot(tree)
    assert counts(result) == Counts(changed=2, unchanged=3)
    assert (result.new_bytes, result.stored_bytes) == (0, 0)
    assert repo.check().problems == ()


def test_rewritten_file_with_equal_bytes_and_times_is_unchanged(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    path = tree / "a.txt"
    stamp = path.stat().st_mtime_ns
    data = path.read_bytes()
    path.rename(tree / "old")
    path.write_bytes(data)
    os.utime(str(path), ns=(stamp, stamp))
    (tree / "old").unlink()
    result = repo.snapshot(tree)
    assert counts(result) == Counts(unchanged=5)
    assert (result.read_bytes, result.new_bytes) == (1000, 0)
    # Its new inode was noted: it is not read a third time.
    assert repo.snapshot(tree).read_bytes == 0


def test_file_as_young_as_the_walk_is_read_again(repo: Repository, tree: Path, clock: Clock) -> None:
    clock.advance(-7200)
    repo.snapshot(tree)
    again = repo.snapshot(tree)
    assert counts(again) == Counts(unchanged=5)
    assert (again.read_bytes, again.new_bytes) == (6001, 0)
    clock.advance(7200)
    assert repo.snapshot(tree).read_bytes == 6001
    assert repo.snapshot(tree).read_bytes == 0
    assert sql(repo.path, "SELECT count(*) FROM files WHERE first > 1") == [(0,)]


def test_empty_directory_is_a_snapshot(repo: Repository, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = repo.snapshot(tmp_path / "empty")
    assert counts(result) == Counts()
    assert (result.snapshot.files, result.snapshot.directories, result.snapshot.size_bytes) == (0, 1, 0)
    assert restored(repo, 1, tmp_path / "out") == entries(tmp_path / "empty")
    assert repo.check().problems == ()


def test_every_file_removed_is_counted(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    shutil.rmtree(str(tree))
    tree.mkdir()
    result = repo.snapshot(tree)
    assert counts(result) == Counts(removed=5)
    assert (result.snapshot.files, result.snapshot.directories, result.snapshot.size_bytes) == (0, 1, 0)


@pytest.mark.parametrize("before", ["file", "directory", "symlink", "fifo"])
@pytest.mark.parametrize("after", ["file", "directory", "symlink", "fifo"])
def test_entry_that_becomes_another_kind_is_saved_as_that(
    repo: Repository, tmp_path: Path, before: str, after: str
) -> None:
    make: Dict[str, Callable[[Path], object]] = {
        "file": lambda path: write(path, b"data"),
        "directory": lambda path: write(path / "in it", b"deep"),
        "symlink": lambda path: path.symlink_to("somewhere"),
        "fifo": lambda path: os.mkfifo(str(path)),
    }
    root = tmp_path / "tree"
    root.mkdir()
    make[before](root / "x")
    repo.snapshot(root)
    first = entries(root)
    if (root / "x").is_dir():
        shutil.rmtree(str(root / "x"))
    else:
        (root / "x").unlink()
    make[after](root / "x")
    age(root / "x")
    repo.snapshot(root)
    assert restored(repo, 1, tmp_path / "first") == first
    assert restored(repo, 2, tmp_path / "second") == entries(root)
    assert repo.check().problems == ()


def test_thousands_of_files_are_compared_in_pages(repo: Repository, tmp_path: Path) -> None:
    # More than a page of the catalog (4,096) and more than one batch set aside for the commit (2,048).
    root = tmp_path / "tree"
    root.mkdir()
    for number in range(5000):
        (root / str(number)).symlink_to(str(number))
    assert counts(repo.snapshot(root)) == Counts(new=5000)
    assert counts(repo.snapshot(root)) == Counts(unchanged=5000)
    for number in range(0, 5000, 2):
        (root / str(number)).unlink()
    (root / "4999").unlink()
    (root / "4999").symlink_to("elsewhere")
    assert counts(repo.snapshot(root)) == Counts(changed=1, unchanged=2499, removed=2500)
    assert repo.check().problems == ()
    assert repo.restore(2, tmp_path / "out").restored_files == 5000
    assert len(os.listdir(str(tmp_path / "out"))) == 5000


def test_more_files_than_one_window_are_all_saved(repo: Repository, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    write(root / "0", b"one inode")
    for number in range(1, 30_100):
        os.link(str(root / "0"), str(root / str(number)))
    result = repo.snapshot(root)
    assert counts(result) == Counts(new=30_100)
    assert (result.read_bytes, result.new_bytes) == (9, 9)
    assert (result.snapshot.size_bytes, result.snapshot.distinct_bytes) == (9 * 30_100, 9)
    assert counts(repo.snapshot(root)) == Counts(unchanged=30_100)
