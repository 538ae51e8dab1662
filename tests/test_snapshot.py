from __future__ import annotations

import errno
import hashlib
import os
import pickle
import resource
import shutil
import socket
import stat
import subprocess
from pathlib import Path
from typing import Callable, Dict, List, Optional, Set

import attrs
import pytest
from conftest import (
    NOBODY,
    OLD_NS,
    SECOND_NS,
    Clock,
    age,
    as_nobody,
    entries,
    noise,
    restored,
    snapshot_watched,
    sql,
    write,
    write_tree,
)
from trees import mounted, needs_root, program

from backuptool import (
    CorruptionError,
    PatternError,
    ProgressEvent,
    Repository,
    RepositoryLockedError,
    RepositoryNotWritableError,
    SnapshotResult,
    SourceError,
)
from backuptool.tree.portability import next_data, next_hole

MIB = 1 << 20


@attrs.frozen
class Counts:
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    skipped: int = 0


def counts(result: SnapshotResult) -> Counts:
    return Counts(
        result.new_files, result.changed_files, result.unchanged_files, result.removed_files, result.skipped_files
    )


def once(act: Callable[[], object], phase: str, path: Optional[str] = None) -> Callable[[ProgressEvent], None]:
    """Return a callback that does something at the first event of a phase, or of a path in it."""
    done: List[bool] = []

    def callback(event: ProgressEvent) -> None:
        if not done and event.phase == phase and path in (None, event.path):
            done.append(True)
            act()

    return callback


# What is counted


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


# Deduplication


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


# Kinds of files


def test_hard_links_are_read_once_and_linked_again(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", {"a": b"linked", "sub/other": b"alone"})
    os.link(str(root / "a"), str(root / "sub" / "b"))
    os.link(str(root / "a"), str(root / "z"))
    result = repo.snapshot(root)
    assert counts(result) == Counts(new=4)
    assert (result.read_bytes, result.new_bytes) == (11, 11)
    assert result.snapshot.size_bytes == 6 * 3 + 5
    assert restored(repo, 1, tmp_path / "out") == entries(root)
    assert os.stat(str(tmp_path / "out" / "a")).st_ino == os.stat(str(tmp_path / "out" / "sub" / "b")).st_ino
    assert counts(repo.snapshot(root)) == Counts(unchanged=4)


def test_link_that_is_removed_leaves_the_others_linked(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", {"a": b"linked"})
    os.link(str(root / "a"), str(root / "b"))
    os.link(str(root / "a"), str(root / "c"))
    repo.snapshot(root)
    (root / "b").unlink()
    repo.snapshot(root)
    assert restored(repo, 2, tmp_path / "out") == entries(root)
    (root / "c").unlink()
    repo.snapshot(root)
    assert restored(repo, 3, tmp_path / "out3") == entries(root)
    assert sql(repo.path, "SELECT count(*) FROM files WHERE last IS NULL AND link IS NOT NULL") == [(0,)]


@pytest.mark.both
def test_every_kind_of_file_is_kept(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", {"file": b"data", "setuid": b"program", "directory": None})
    (root / "setuid").chmod(0o4755)
    (root / "directory").chmod(0o1777)
    (root / "link").symlink_to("file")
    (root / "dangling").symlink_to("/nowhere/at all")
    (root / "to directory").symlink_to("directory")
    os.mkfifo(str(root / "fifo"), 0o640)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(str(root / "socket")))
    expected = 7
    if os.geteuid() == 0:
        os.mknod(str(root / "null"), stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(str(root / "disk"), stat.S_IFBLK | 0o660, os.makedev(7, 300))
        os.chown(str(root / "file"), 12345, 54321)
        expected += 2
    for name in ("file", "setuid"):
        os.setxattr(str(root / name), "user.note", name.encode())
    for name in os.listdir(str(root)):
        age(root / name)
    result = repo.snapshot(root)
    assert result.problems == ()
    assert counts(result) == Counts(new=expected)
    assert restored(repo, 1, tmp_path / "out") == entries(root)
    assert counts(repo.snapshot(root)) == Counts(unchanged=expected)
    assert repo.check().problems == ()


def test_changed_extended_attribute_is_a_change(repo: Repository, tree: Path, tmp_path: Path) -> None:
    repo.snapshot(tree)
    os.setxattr(str(tree / "a.txt"), "user.note", b"new")
    os.setxattr(str(tree / "docs"), "user.note", b"on a directory")
    result = repo.snapshot(tree)
    assert counts(result) == Counts(changed=1, unchanged=4)
    assert restored(repo, 2, tmp_path / "out") == entries(tree)


@pytest.mark.both
def test_names_are_kept_bit_for_bit(repo: Repository, tmp_path: Path) -> None:
    root = os.fsencode(str(write_tree(tmp_path / "tree", {})))
    names = [b"latin-\xe9\xff", b"new\nline", b" ", b"-rf", b"a\\b", "\u00e9".encode(), "e\u0301".encode(), b"'\"%_"]
    names += [b"x" * 255, b"\xc0\x80", b"\x01\x1b[31m"]
    for name in names:
        os.mkdir(os.path.join(root, name))
        with open(os.path.join(root, name, name), "wb") as file:
            file.write(name)
        os.symlink(name, os.path.join(root, name, b"link"))
    result = repo.snapshot(root)
    assert counts(result) == Counts(new=2 * len(names))
    assert restored(repo, 1, tmp_path / "out") == entries(os.fsdecode(root))
    assert counts(repo.snapshot(root)) == Counts(unchanged=2 * len(names))
    assert repo.check().problems == ()


def test_names_around_the_slash_are_compared_in_byte_order(repo: Repository, tmp_path: Path) -> None:
    # '-' and '.' sort before '/', '0' behind it: where a naive order of a walk and of an index differ.
    names = ["a", "a-", "a-/x", "a.b/y", "a/x", "a/x-", "a/x.d/z", "a0", "a0/q", "b"]
    files = {name + "/file": name.encode() for name in names}
    root = write_tree(tmp_path / "tree", files)
    assert counts(repo.snapshot(root)) == Counts(new=10)
    assert counts(repo.snapshot(root)) == Counts(unchanged=10)
    shutil.rmtree(str(root / "a"))
    assert counts(repo.snapshot(root)) == Counts(unchanged=6, removed=4)
    assert restored(repo, 3, tmp_path / "out") == entries(root)


def test_directory_tree_deeper_than_a_path_may_be_long_is_saved(repo: Repository, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    before = os.getcwd()
    os.chdir(str(root))
    try:
        for _ in range(150):
            os.mkdir("n" * 40)
            os.chdir("n" * 40)
        Path("leaf").write_bytes(b"at the bottom")
    finally:
        os.chdir(before)
    result = repo.snapshot(root)
    assert (result.problems, counts(result)) == ((), Counts(new=1))
    assert result.snapshot.directories == 151
    assert counts(repo.snapshot(root)) == Counts(unchanged=1)
    assert repo.check().problems == ()
    subprocess.run(["rm", "-rf", str(root)], check=True)


def test_time_that_does_not_fit_is_saved_as_the_nearest_one(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", {"far": b"future", "old": b"past"})
    try:
        os.utime(str(root / "far"), ns=(OLD_NS, (1 << 63) + SECOND_NS))
    except OSError:
        pytest.skip("this file system has no such times")
    if os.stat(str(root / "far")).st_mtime_ns < 1 << 63:
        pytest.skip("this file system has no such times")
    os.utime(str(root / "old"), ns=(OLD_NS, -5 * SECOND_NS + 1))
    result = repo.snapshot(root)
    assert [(problem.kind, problem.path) for problem in result.problems] == [("time-out-of-range", "far")]
    found = restored(repo, 1, tmp_path / "out")
    assert found[b"far"].mtime_ns == (1 << 63) - 1
    assert found[b"old"].mtime_ns == -5 * SECOND_NS + 1
    assert repo.check().problems == ()


# Sparse and large files


def make_sparse(path: Path, size: int, pieces: dict[int, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for offset, data in pieces.items():
            file.seek(offset)
            file.write(data)
        file.truncate(size)
    age(path)
    return path


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
    # What is above the limit now was saved before: it is skipped, not removed.
    assert counts(repo.snapshot(tree, max_file_size=999)) == Counts(unchanged=1, skipped=4)
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


# Excludes


EXCLUDABLE = {
    "keep.txt": b"1",
    "drop.tmp": b"2",
    "build/out.o": b"3",
    "src/build/x": b"4",
    "src/keep.tmp": b"5",
    "src/deep/drop.tmp": b"6",
    "cache/CACHEDIR.TAG": b"Signature: 8a477f597d28d172789f06886806bc55\n# more",
    "cache/thing": b"7",
    "fake/CACHEDIR.TAG": b"no signature",
    "fake/thing": b"8",
    "private/.nobackup": b"",
    "private/secret": b"9",
}


def saved(repo: Repository) -> Set[str]:
    rows = sql(
        repo.path,
        "SELECT path FROM snapshot_files WHERE kind <> 'd' AND snapshot_id = (SELECT max(id) FROM snapshots)",
    )
    return {path for (path,) in rows}


def test_patterns_leave_out_what_they_match(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", EXCLUDABLE)
    result = repo.snapshot(root, exclude=["*.tmp", "!src/keep.tmp", "/build/"])
    assert set(EXCLUDABLE) - saved(repo) == {"drop.tmp", "build/out.o", "src/deep/drop.tmp"}
    assert counts(result) == Counts(new=9)
    assert result.problems == ()


def test_one_pattern_may_be_a_string(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", EXCLUDABLE)
    repo.snapshot(root, exclude="build")
    assert set(EXCLUDABLE) - saved(repo) == {"build/out.o", "src/build/x"}


def test_files_of_patterns_leave_out_what_they_match(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", EXCLUDABLE)
    patterns = write(tmp_path / "patterns", b"# a comment\n\n*.tmp\n")
    repo.snapshot(root, exclude_from=[patterns], exclude=["!drop.tmp"])
    assert set(EXCLUDABLE) - saved(repo) == {"src/keep.tmp"}


def test_missing_file_of_patterns_creates_no_repository(repo: Repository, tree: Path, tmp_path: Path) -> None:
    with pytest.raises(PatternError, match="nowhere"):
        repo.snapshot(tree, exclude_from=[tmp_path / "nowhere"])
    assert not os.path.exists(repo.path)


def test_marked_caches_keep_only_their_mark(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", EXCLUDABLE)
    repo.snapshot(root, exclude_caches=True)
    assert set(EXCLUDABLE) - saved(repo) == {"cache/thing"}


def test_unreadable_or_strange_cache_tag_marks_nothing(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", {"link/thing": b"1", "fifo/thing": b"2"})
    (root / "link" / "CACHEDIR.TAG").symlink_to("thing")
    os.mkfifo(str(root / "fifo" / "CACHEDIR.TAG"))
    repo.snapshot(root, exclude_caches=True)
    assert {"link/thing", "fifo/thing"} <= saved(repo)


def test_marker_file_keeps_the_others_out(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", EXCLUDABLE)
    repo.snapshot(root, exclude_if_present=".nobackup")
    assert set(EXCLUDABLE) - saved(repo) == {"private/secret"}


def test_files_above_a_size_are_left_out_without_a_word(repo: Repository, tree: Path) -> None:
    result = repo.snapshot(tree, exclude_larger_than=1000)
    assert counts(result) == Counts(new=2)
    assert saved(repo) == {"a.txt", "empty"}


def test_excluded_file_is_gone_from_the_next_snapshot(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    result = repo.snapshot(tree, exclude=["docs"])
    assert counts(result) == Counts(unchanged=3, removed=2)
    assert repo.check().problems == ()


def test_no_snapshot_is_taken_where_descriptors_run_out(repo: Repository, tree: Path) -> None:
    """A snapshot without what cannot be opened for that reason would look like one from which it is gone."""
    repo.snapshot(tree)
    write(tree / "/".join(["deep"] * 40) / "file", b"deep")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 25, limits[1]))
    try:
        with pytest.raises(SourceError, match="Too many open files; no snapshot was taken"):
            repo.snapshot(tree)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert [snapshot.id for snapshot in repo.list()] == [1]
    assert counts(repo.snapshot(tree)) == Counts(new=1, unchanged=5)


def test_other_file_system_is_saved_as_an_empty_directory(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", {"a": b"a", "mount": None})
    with mounted(root / "mount"):
        write(root / "mount" / "inside", b"inside")
        first = repo.snapshot(root, one_file_system=True)
        assert (counts(first), first.snapshot.directories) == (Counts(new=1), 2)
        second = repo.snapshot(root)
        assert (counts(second), second.snapshot.directories) == (Counts(new=1, unchanged=1), 2)
    assert second.problems == ()


def test_links_on_two_file_systems_are_not_mistaken_for_each_other(repo: Repository, tmp_path: Path) -> None:
    # Inode numbers are the same on both; only the device tells them apart, also where one of them did not change.
    root = write_tree(tmp_path / "tree", {"one": None, "two": None})
    with mounted(root / "one"), mounted(root / "two"):
        for name in ("one", "two"):
            write(root / name / "a", name.encode())
            os.link(str(root / name / "a"), str(root / name / "b"))
        assert os.stat(str(root / "one" / "a")).st_ino == os.stat(str(root / "two" / "a")).st_ino
        repo.snapshot(root)
        for number, name in enumerate(("one", "two"), 2):
            write(root / name / "a", name.upper().encode())
            assert counts(repo.snapshot(root)) == Counts(changed=2, unchanged=2)
            assert restored(repo, number, tmp_path / f"out{number}") == entries(root)


def test_file_system_mounted_before_another_does_not_change_its_links(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", {"one": None, "two": None})
    with mounted(root / "two"):
        write(root / "two" / "a", b"two")
        os.link(str(root / "two" / "a"), str(root / "two" / "b"))
        repo.snapshot(root)
        with mounted(root / "one"):
            write(root / "one" / "a", b"one")
            os.link(str(root / "one" / "a"), str(root / "one" / "b"))
            assert counts(repo.snapshot(root)) == Counts(new=2, unchanged=2)
            assert restored(repo, 2, tmp_path / "out") == entries(root)


# Compression


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


# The source


def test_symlinked_target_saves_its_directory(repo: Repository, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("tree")
    first = repo.snapshot(tmp_path / "link")
    assert first.snapshot.source == str(tree)
    assert counts(first) == Counts(new=5)
    assert counts(repo.snapshot(tree)) == Counts(unchanged=5)


def test_symlinks_inside_are_not_followed(repo: Repository, tree: Path, tmp_path: Path) -> None:
    write(tmp_path / "outside" / "secret", b"not to be saved")
    (tree / "link").symlink_to(tmp_path / "outside")
    result = repo.snapshot(tree)
    assert counts(result) == Counts(new=6)
    assert saved(repo) == {"a.txt", "b.txt", "empty", "docs/copy of b.txt", "docs/deep/c.bin", "link"}
    assert restored(repo, 1, tmp_path / "out") == entries(tree)


@pytest.mark.parametrize("target", ["missing", "tree/a.txt", "dangling"])
def test_target_that_is_no_directory_leaves_no_repository(
    repo: Repository, tree: Path, tmp_path: Path, target: str
) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(SourceError, match=target) as caught:
        repo.snapshot(tmp_path / target)
    assert caught.value.path == str(tmp_path / target)
    assert not os.path.exists(repo.path)


def test_target_may_be_bytes_or_relative(
    repo: Repository, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert repo.snapshot("tree").snapshot.source == str(tree)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert counts(repo.snapshot("~/tree")) == Counts(unchanged=5)
    assert counts(repo.snapshot(os.fsencode(str(tree)))) == Counts(unchanged=5)


def test_notes_tags_and_host_are_kept(repo: Repository, tree: Path, clock: Clock) -> None:
    before = clock()
    result = repo.snapshot(tree, note="before\nthe move \u2603", tags=["b", "a", "b"], host="other")
    snapshot = repo.list()[0]
    assert snapshot == result.snapshot
    assert (snapshot.note, snapshot.tags, snapshot.host) == ("before\nthe move \u2603", ("a", "b"), "other")
    assert before <= snapshot.started_ns <= snapshot.finished_ns <= clock()
    assert repo.snapshot(tree, tags="one").snapshot.tags == ("one",)
    assert repo.snapshot(tree).snapshot.host == socket.gethostname()
    assert repo.check().problems == ()


def test_list_selects_by_source_host_and_tag(repo: Repository, tree: Path, tmp_path: Path) -> None:
    other = write_tree(tmp_path / "other", {"x": b"other"})
    repo.snapshot(tree, tags=["nightly"])
    repo.snapshot(other, host="elsewhere")
    repo.snapshot(tree, tags=["nightly", "kept"])
    (tmp_path / "link").symlink_to("tree")
    assert [snapshot.id for snapshot in repo.list()] == [1, 2, 3]
    assert [snapshot.id for snapshot in repo.list(source=tmp_path / "link")] == [1, 3]
    assert [snapshot.id for snapshot in repo.list(host="elsewhere")] == [2]
    assert [snapshot.id for snapshot in repo.list(tag="kept")] == [3]
    assert [snapshot.id for snapshot in repo.list(tag="kept", host="elsewhere")] == []
    listing = repo.list(source=tree)
    assert (listing.size_bytes, listing.distinct_bytes) == (2 * 6001, 4001)
    assert listing.repository_bytes == os.path.getsize(repo.path)


def test_numbers_are_never_used_again(repo: Repository, tree: Path) -> None:
    for _ in range(3):
        repo.snapshot(tree)
    repo.prune([3])
    assert repo.snapshot(tree).snapshot.id == 4
    repo.prune([1, 2, 4])
    assert repo.snapshot(tree).snapshot.id == 5


def test_pickled_repository_opens_the_same_file(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    with pickle.loads(pickle.dumps(repo)) as copy:
        assert copy.list() == repo.list()


def test_repository_can_be_used_after_it_was_closed(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    repo.close()
    assert counts(repo.snapshot(tree)) == Counts(unchanged=5)


# The repository itself


def test_repository_inside_its_source_is_not_saved(tree: Path, tmp_path: Path, clock: Clock) -> None:
    with Repository(tree / "docs" / "backups.db") as repo:
        first = repo.snapshot(tree)
        assert counts(first) == Counts(new=5)
        os.link(repo.path, str(tree / "by another name"))
        (tree / "by symlink").symlink_to("docs/backups.db")
        second = repo.snapshot(tree)
        assert counts(second) == Counts(new=1, unchanged=5)
        assert counts(repo.snapshot(tree)) == Counts(unchanged=6)
        assert "by symlink" in saved(repo)
        assert not [name for name in saved(repo) if "backups.db" in name or "another" in name]
        assert repo.check().problems == ()


@pytest.mark.plain
def test_repository_named_by_a_symlink_is_not_saved(tree: Path, tmp_path: Path, clock: Clock) -> None:
    real = tree / "docs" / "real.db"
    (tmp_path / "link.db").symlink_to(real)
    real.touch()
    with Repository(tmp_path / "link.db") as repo:
        assert counts(repo.snapshot(tree)) == Counts(new=5)
        assert counts(repo.snapshot(tree)) == Counts(unchanged=5)
        assert sorted(os.listdir(str(tree / "docs"))) == ["copy of b.txt", "deep", "real.db"]
        assert repo.check().problems == ()


def test_another_repository_is_saved_like_any_file(repo: Repository, tree: Path, tmp_path: Path) -> None:
    with Repository(tree / "other.db") as other:
        other.snapshot(tree / "docs")
    assert counts(repo.snapshot(tree)) == Counts(new=6)
    repo.restore(1, tmp_path / "out")
    with Repository(tmp_path / "out" / "other.db") as copy:
        assert copy.check().problems == ()
        assert len(copy.list()) == 1


# What changes while it is saved


def test_file_that_changes_while_it_is_read_is_read_again(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", {"log": noise(5 * MIB)})
    final = noise(5 * MIB, seed=1)
    reads: List[int] = []

    def change(event: ProgressEvent) -> None:
        if event.phase == "read" and event.done_bytes:
            reads.append(event.done_bytes)
            if len(reads) == 1:
                write(root / "log", final)

    result = snapshot_watched(repo.path, root, change)
    assert result.problems == ()
    assert result.read_bytes == 10 * MIB
    assert restored(repo, 1, tmp_path / "out") == entries(root)
    assert counts(repo.snapshot(root)) == Counts(unchanged=1)
    assert repo.check().problems == ()


def test_file_that_keeps_changing_is_saved_with_a_problem(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", {"log": noise(5 * MIB), "other": b"quiet"})

    def change(event: ProgressEvent) -> None:
        if event.phase == "read" and event.done_bytes > 5:
            with (root / "log").open("ab") as file:
                file.write(b"one more line")

    result = snapshot_watched(repo.path, root, change)
    assert [(problem.kind, problem.path) for problem in result.problems] == [("changed-while-read", "log")]
    assert counts(result) == Counts(new=2)
    assert result.snapshot.problem_files == 1
    found = restored(repo, 1, tmp_path / "out")
    assert (root / "log").read_bytes().startswith(found[b"log"].data)
    assert len(found[b"log"].data) >= 5 * MIB
    # It was as young as the walk: it is read again, and is whole then.
    assert repo.snapshot(root).problems == ()
    assert restored(repo, 2, tmp_path / "out2") == entries(root)
    assert repo.check().problems == ()


@pytest.mark.parametrize("left", [0, 1000, 2 * MIB, 3 * MIB + 1])
def test_file_cut_short_while_it_is_read_is_saved_as_it_became(repo: Repository, tmp_path: Path, left: int) -> None:
    root = write_tree(tmp_path / "tree", {"log": noise(5 * MIB)})
    reads: List[int] = []

    def cut(event: ProgressEvent) -> None:
        if event.phase == "read" and event.done_bytes:
            reads.append(event.done_bytes)
            if len(reads) == 1:
                os.truncate(str(root / "log"), left)

    result = snapshot_watched(repo.path, root, cut)
    assert result.problems == ()
    assert result.snapshot.size_bytes == left
    assert restored(repo, 1, tmp_path / "out") == entries(root)
    assert repo.check().problems == ()


def test_sparse_file_that_is_cut_short_in_its_hole_is_saved_as_it_became(repo: Repository, tmp_path: Path) -> None:
    path = make_sparse(tmp_path / "tree" / "disk", 64 * MIB, {0: noise(MIB), 32 * MIB: noise(3 * MIB)})
    reads: List[int] = []

    def cut(event: ProgressEvent) -> None:
        if event.phase == "read" and event.done_bytes:
            reads.append(event.done_bytes)
            if len(reads) == 1:
                os.truncate(str(path), 2 * MIB)

    result = snapshot_watched(repo.path, path.parent, cut)
    assert result.problems == ()
    assert restored(repo, 1, tmp_path / "out") == entries(path.parent)
    assert repo.check().problems == ()


def test_file_removed_before_it_is_read_counts_as_removed(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    write(tree / "a.txt", b"changed")
    write(tree / "new", b"never seen again")

    def remove() -> None:
        (tree / "a.txt").unlink()
        (tree / "new").unlink()

    result = snapshot_watched(repo.path, tree, once(remove, "read"))
    assert result.problems == ()
    assert counts(result) == Counts(unchanged=4, removed=1)
    assert repo.check().problems == ()


@pytest.mark.parametrize("became", ["symlink", "directory", "fifo", "socket"])
def test_file_that_became_another_kind_is_a_problem(repo: Repository, tree: Path, tmp_path: Path, became: str) -> None:
    repo.snapshot(tree)
    path = write(tree / "a.txt", b"changed")
    secret = write(tmp_path / "secret", b"not in the source")

    def replace() -> None:
        path.unlink()
        if became == "symlink":
            path.symlink_to(secret)
        elif became == "directory":
            path.mkdir()
        elif became == "fifo":
            os.mkfifo(str(path))
        else:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(os.path.relpath(str(path)))

    result = snapshot_watched(repo.path, tree, once(replace, "read"))
    assert [(problem.kind, problem.path) for problem in result.problems] == [("changed-kind", "a.txt")]
    assert counts(result) == Counts(unchanged=4)
    assert "a.txt" not in saved(repo)
    assert repo.check().problems == ()


def test_file_under_a_directory_swapped_for_a_symlink_is_not_read(repo: Repository, tree: Path, tmp_path: Path) -> None:
    outside = write_tree(tmp_path / "outside", {"c.bin": b"a secret of somebody else"})

    def swap() -> None:
        (tree / "docs" / "deep").rename(tmp_path / "moved")
        (tree / "docs" / "deep").symlink_to(outside)

    result = snapshot_watched(repo.path, tree, once(swap, "read"))
    assert "docs/deep/c.bin" not in saved(repo)
    assert counts(result) == Counts(new=4)
    assert sql(repo.path, "SELECT count(*) FROM contents WHERE size = 25") == [(0,)]
    assert repo.check().problems == ()


def test_file_replaced_before_it_is_read_is_saved_as_the_new_one(repo: Repository, tree: Path, tmp_path: Path) -> None:
    write(tree / "other name", b"the new one")

    def replace() -> None:
        os.replace(str(tree / "other name"), str(tree / "a.txt"))

    result = snapshot_watched(repo.path, tree, once(replace, "read"))
    assert result.problems == ()
    assert restored(repo, 1, tmp_path / "out")[b"a.txt"].data == b"the new one"


def test_link_replaced_before_it_is_read_does_not_pass_its_bytes_on(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", {"1": b"linked"})
    os.link(str(root / "1"), str(root / "2"))
    os.link(str(root / "1"), str(tmp_path / "outside"))
    replacement = write(tmp_path / "replacement", b"another file")
    os.link(str(replacement), str(tmp_path / "its second name"))

    def replace() -> None:
        os.replace(str(replacement), str(root / "1"))

    result = snapshot_watched(repo.path, root, once(replace, "read", "1"))
    assert result.problems == ()
    found = restored(repo, 1, tmp_path / "out")
    assert (found[b"1"].data, found[b"2"].data) == (b"another file", b"linked")
    assert repo.check().problems == ()


@pytest.mark.parametrize("kind", ["symlink", "fifo"])
def test_special_file_that_vanishes_is_passed_over(repo: Repository, tmp_path: Path, kind: str) -> None:
    root = write_tree(tmp_path / "tree", {"a": b"a"})
    path = root / "z"
    path.symlink_to("x") if kind == "symlink" else os.mkfifo(str(path))
    # The scan reports each entry behind its lstat, and before it is recorded.
    result = snapshot_watched(repo.path, root, once(path.unlink, "scan", "z"))
    assert result.problems == ()
    assert counts(result) == Counts(new=1)
    assert result.snapshot.directories == 1
    assert set(restored(repo, 1, tmp_path / "out")) == {b".", b"a"}


def test_symlink_that_becomes_a_file_is_a_problem(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", {"a": b"a"})
    (root / "z").symlink_to("a")

    def replace() -> None:
        (root / "z").unlink()
        (root / "z").write_bytes(b"a file")

    result = snapshot_watched(repo.path, root, once(replace, "scan", "z"))
    assert [(problem.kind, problem.path) for problem in result.problems] == [("changed-kind", "z")]
    assert saved(repo) == {"a"}


def test_directory_that_vanishes_while_it_is_walked_is_saved_as_it_was_listed(repo: Repository, tree: Path) -> None:
    (tree / "docs" / "deep").chmod(0o711)
    result = snapshot_watched(
        repo.path, tree, once(lambda: shutil.rmtree(str(tree / "docs" / "deep")), "scan", "docs/deep")
    )
    assert result.problems == ()
    assert saved(repo) == {"a.txt", "b.txt", "empty", "docs/copy of b.txt"}
    assert sql(repo.path, "SELECT mode, ctime_ns FROM files WHERE path = 'docs/deep'") == [(0o711, None)]
    repo.snapshot(tree)
    assert sql(repo.path, "SELECT last FROM files WHERE path = 'docs/deep'") == [(1,)]
    assert repo.check().problems == ()


def test_what_is_saved_of_a_directory_that_vanishes_meanwhile_is_still_in_one(
    repo: Repository, tree: Path, tmp_path: Path
) -> None:
    """Its files are as the catalog has them, and kept without being read; what changed is the directory."""
    deep = tree / "docs" / "deep"
    os.setxattr(str(deep), "user.note", b"kept")
    age(tree)
    repo.snapshot(tree)
    before = restored(repo, 1, tmp_path / "out")
    os.utime(deep, ns=(OLD_NS, OLD_NS + SECOND_NS))
    moving = once(lambda: deep.rename(tmp_path / "moved"), "scan", "docs/deep/c.bin")
    assert snapshot_watched(repo.path, tree, moving).problems == ()
    after = restored(repo, 2, tmp_path / "out2")
    assert after.pop(b"docs/deep") == before.pop(b"docs/deep")._replace(mtime_ns=OLD_NS + SECOND_NS)
    assert after == before
    assert repo.check().problems == ()


@pytest.mark.parametrize("phase", ["scan", "read"])
@pytest.mark.parametrize("helpers", [0, 2])
@pytest.mark.parametrize("replaced", [False, True])
def test_source_that_is_moved_while_it_is_saved_is_no_empty_snapshot(
    repo: Repository, tree: Path, tmp_path: Path, phase: str, helpers: int, replaced: bool
) -> None:
    repo.snapshot(tree)
    age(tree)
    write(tree / "new", b"new")

    def move() -> None:
        tree.rename(tmp_path / "moved")
        if replaced:
            tree.mkdir()

    with pytest.raises(SourceError, match="was moved, removed or unmounted while it was saved; no snapshot was taken"):
        snapshot_watched(repo.path, tree, once(move, phase), helpers=helpers)
    assert [snapshot.id for snapshot in repo.list()] == [1]
    assert repo.check().problems == ()


@needs_root
def test_source_that_is_unmounted_while_it_is_saved_is_no_empty_snapshot(repo: Repository, tmp_path: Path) -> None:
    place = tmp_path / "mounted"
    place.mkdir()
    subprocess.run([program("mount"), "-t", "tmpfs", "none", str(place)], check=True)
    write(place / "file", b"bytes")

    def unmount() -> None:
        subprocess.run([program("umount"), "--lazy", str(place)], check=True)

    with pytest.raises(SourceError, match="unmounted"):
        snapshot_watched(repo.path, place, once(unmount, "read"), helpers=0)


@needs_root
def test_file_system_in_a_source_that_is_unmounted_while_it_is_saved_is_a_problem(repo: Repository, tree: Path) -> None:
    place = tree / "docs" / "mounted"
    place.mkdir()
    subprocess.run([program("mount"), "-t", "tmpfs", "none", str(place)], check=True)
    write(place / "file", b"bytes")

    def unmount() -> None:
        subprocess.run([program("umount"), "--lazy", str(place)], check=True)

    result = snapshot_watched(repo.path, tree, once(unmount, "read"), helpers=0)
    assert [(problem.kind, problem.path) for problem in result.problems] == [("unreadable", "docs/mounted")]
    assert saved(repo) == {"a.txt", "b.txt", "empty", "docs/copy of b.txt", "docs/deep/c.bin"}
    assert repo.snapshot(tree).problems == ()


@pytest.mark.parametrize("became", ["moved", "removed", "replaced"])
@pytest.mark.parametrize("phase", ["scan", "commit"])
def test_repository_that_is_moved_while_it_is_written_to_is_named(
    repo: Repository, tree: Path, tmp_path: Path, phase: str, became: str
) -> None:
    repo.snapshot(tree)
    repo.close()
    write(tree / "new", b"new")
    path, other = Path(repo.path), tmp_path / "other.db"
    other.write_bytes(path.read_bytes())
    act: Dict[str, Callable[[], object]] = {
        "moved": lambda: path.rename(tmp_path / "moved.db"),
        "removed": path.unlink,
        "replaced": lambda: other.replace(path),
    }
    with pytest.raises(RepositoryNotWritableError, match="was moved, removed or replaced while it was in use"):
        snapshot_watched(path, tree, once(act[became], phase))
    left = {"moved": tmp_path / "moved.db", "replaced": path}.get(became)
    if left is not None:
        with Repository(left) as moved:
            assert [snapshot.id for snapshot in moved.list()] == [1]
            assert moved.check().problems == ()


# What may not be read


def test_unreadable_file_and_directory_are_problems_and_the_rest_is_saved(public_path: Path) -> None:
    root = public_path / "tree"

    def run() -> SnapshotResult:
        write_tree(root, {"fine": b"fine", "secret": b"secret", "closed/inside": b"1", "half/inside": b"2"})
        (root / "secret").chmod(0)
        (root / "closed").chmod(0)
        (root / "half").chmod(0o400)  # it can be listed, but not searched
        with Repository(public_path / "backups.db") as repo:
            result = repo.snapshot(root)
            assert repo.check().problems == ()
        return result

    result = as_nobody(run)
    assert [(problem.kind, problem.path) for problem in result.problems] == [
        ("unreadable", "closed"),
        ("unreadable", "half/inside"),
        ("unreadable", "secret"),
    ]
    assert all("Permission denied" in problem.message for problem in result.problems)
    assert counts(result) == Counts(new=1)
    assert result.snapshot.problem_files == 3
    assert result.snapshot.directories == 3


def test_file_that_became_unreadable_is_not_counted_as_removed(public_path: Path) -> None:
    root = public_path / "tree"

    def run() -> SnapshotResult:
        write_tree(root, {"fine": b"fine", "secret": b"secret"})
        with Repository(public_path / "backups.db") as repo:
            repo.snapshot(root)
            (root / "secret").chmod(0)
            result = repo.snapshot(root)
            assert repo.check().problems == ()
            (root / "secret").chmod(0o644)
            assert counts(repo.snapshot(root)) == Counts(new=1, unchanged=1)
        return result

    result = as_nobody(run)
    assert counts(result) == Counts(unchanged=1)
    assert [problem.path for problem in result.problems] == ["secret"]


def test_files_of_a_directory_that_became_unreadable_are_not_counted_as_removed(public_path: Path) -> None:
    root = public_path / "tree"

    def run() -> SnapshotResult:
        write_tree(root, {"fine": b"fine", "closed/inside": b"secret", "closed/deep/er": b"secret"})
        with Repository(public_path / "backups.db") as repo:
            repo.snapshot(root)
            (root / "closed").chmod(0)
            result = repo.snapshot(root)
            assert repo.check().problems == ()
        return result

    result = as_nobody(run)
    assert [problem.path for problem in result.problems] == ["closed"]
    assert counts(result) == Counts(unchanged=1)


def test_files_of_others_are_read_without_the_right_to_keep_their_access_time(public_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make files of others")
    write_tree(public_path / "tree", {"of root": b"everyone may read it"})
    os.chmod(str(public_path / "tree"), 0o755)

    def run() -> SnapshotResult:
        with Repository(public_path / "backups.db") as repo:
            return repo.snapshot(public_path / "tree")

    result = as_nobody(run)
    assert (counts(result), result.problems) == (Counts(new=1), ())
    assert os.stat(str(public_path / "backups.db")).st_uid == NOBODY


def test_unreadable_root_is_an_error_and_leaves_no_repository(public_path: Path) -> None:
    def run() -> None:
        (public_path / "tree").mkdir(mode=0)
        with Repository(public_path / "backups.db") as repo:
            repo.snapshot(public_path / "tree")

    with pytest.raises(SourceError, match="Permission denied"):
        as_nobody(run)
    assert not (public_path / "backups.db").exists()


def test_repository_that_cannot_be_created_is_an_error(public_path: Path) -> None:
    def run() -> None:
        write_tree(public_path / "tree", {"a": b"a"})
        (public_path / "closed").mkdir(mode=0o500)
        with Repository(public_path / "closed" / "backups.db") as repo:
            repo.snapshot(public_path / "tree")

    with pytest.raises(RepositoryNotWritableError, match="Permission denied"):
        as_nobody(run)


# Cancelling


class StopHereError(Exception):
    pass


@pytest.mark.parametrize("phase", ["scan", "read", "commit"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, StopHereError])
def test_cancelled_snapshot_leaves_none(
    repo: Repository, tree: Path, tmp_path: Path, phase: str, error: type[BaseException]
) -> None:
    def cancel(event: ProgressEvent) -> None:
        if event.phase == phase:
            raise error

    with pytest.raises(error):
        repo.snapshot(tree, progress=cancel)
    assert len(repo.list()) == 0
    assert repo.check().problems == ()
    result = repo.snapshot(tree)
    assert counts(result) == Counts(new=5)
    assert result.new_bytes == (0 if phase == "commit" else 4001)
    assert result.snapshot.distinct_bytes == 4001
    assert restored(repo, result.snapshot.id, tmp_path / "out") == entries(tree)
    assert repo.check().problems == ()


def test_cancelled_second_snapshot_changes_nothing(repo: Repository, tree: Path, tmp_path: Path) -> None:
    repo.snapshot(tree)
    first = entries(tree)
    write(tree / "a.txt", b"changed")
    (tree / "b.txt").unlink()

    def cancel() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repo.snapshot(tree, progress=once(cancel, "commit"))
    assert [snapshot.id for snapshot in repo.list()] == [1]
    assert restored(repo, 1, tmp_path / "out") == first
    assert counts(repo.snapshot(tree)) == Counts(changed=1, unchanged=3, removed=1)
    assert repo.check().problems == ()


def test_next_run_stores_only_what_the_cancelled_one_did_not(repo: Repository, tmp_path: Path) -> None:
    # Much more than one transaction's worth of packs is read before it is cancelled.
    names = [f"{number:02}" for number in range(40)]
    root = write_tree(tmp_path / "tree", {name: noise(MIB, seed) for seed, name in enumerate(names)})
    write(root / "large", noise(3 * MIB, 99))

    def cancel(event: ProgressEvent) -> None:
        if event.phase == "read" and event.path == "39":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        snapshot_watched(repo.path, root, cancel)
    [(stored,)] = sql(repo.path, "SELECT coalesce(sum(size), 0) FROM contents WHERE pack IS NOT NULL")
    assert 0 < stored < 43 * MIB
    assert repo.check().problems == ()
    result = repo.snapshot(root)
    assert result.new_bytes == 43 * MIB - stored
    assert result.snapshot.distinct_bytes == 43 * MIB
    assert repo.check().problems == ()


def test_killed_snapshot_leaves_none(repo: Repository, tree: Path, tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:  # pragma: no cover (another process)
        try:
            snapshot_watched(repo.path, tree, once(lambda: os.kill(os.getpid(), 9), "commit"))
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 9
    assert len(repo.list()) == 0
    assert repo.check().problems == ()
    result = repo.snapshot(tree)
    assert (result.new_bytes, result.snapshot.distinct_bytes) == (0, 4001)
    assert restored(repo, 1, tmp_path / "out") == entries(tree)


def kill_at(number: int) -> Callable[[ProgressEvent], None]:
    """Return a callback that kills its process at an event; at a later one than there are, at none."""
    seen: List[ProgressEvent] = []

    def callback(event: ProgressEvent) -> None:
        seen.append(event)
        if len(seen) == number:
            os.kill(os.getpid(), 9)

    return callback


def test_snapshot_killed_at_any_moment_leaves_what_was_there(repo: Repository, tree: Path, tmp_path: Path) -> None:
    write(tree / "large", noise(3 * MIB))
    repo.snapshot(tree)
    first = entries(tree)
    write(tree / "a.txt", b"changed")
    write(tree / "large", noise(3 * MIB)[MIB:] + b"changed")
    write(tree / "new", b"new")
    (tree / "b.txt").unlink()
    killed = 0
    for number in range(1, 1000):
        child = os.fork()
        if child == 0:  # pragma: no cover (another process)
            try:
                snapshot_watched(repo.path, tree, kill_at(number))
            finally:
                os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            break
        killed += 1
        assert [snapshot.id for snapshot in repo.list()] == [1]
        assert repo.check().problems == ()
    assert killed > 10
    assert restored(repo, 1, tmp_path / "1") == first
    assert restored(repo, 2, tmp_path / "2") == entries(tree)
    assert repo.check().problems == ()


def test_snapshot_cancelled_at_any_moment_leaves_what_was_there(repo: Repository, tree: Path, tmp_path: Path) -> None:
    repo.snapshot(tree)
    write(tree / "a.txt", b"changed")
    write(tree / "large", noise(3 * MIB))
    cancelled = 0
    for number in range(1, 1000):
        seen: List[ProgressEvent] = []

        def cancel(event: ProgressEvent, number: int = number, seen: List[ProgressEvent] = seen) -> None:
            seen.append(event)
            if len(seen) == number:
                raise KeyboardInterrupt

        try:
            result = snapshot_watched(repo.path, tree, cancel)
            break
        except KeyboardInterrupt:
            cancelled += 1
            assert [snapshot.id for snapshot in repo.list()] == [1]
            assert repo.check().problems == ()
    assert cancelled > 10
    assert (counts(result), result.new_bytes) == (Counts(new=1, changed=1, unchanged=4), 0)
    assert restored(repo, 2, tmp_path / "2") == entries(tree)


def test_phases_are_reported_in_order(repo: Repository, tree: Path) -> None:
    seen: List[str] = []

    def note(event: ProgressEvent) -> None:
        if event.phase not in seen:
            seen.append(event.phase)

    repo.snapshot(tree, progress=note)
    assert seen == ["scan", "read", "commit"]


# Beside other processes


def test_snapshot_committed_meanwhile_becomes_the_base(repo: Repository, tree: Path, tmp_path: Path) -> None:
    repo.snapshot(tree)
    write(tree / "a.txt", b"changed")

    def other() -> None:
        with Repository(repo.path) as second:
            assert counts(second.snapshot(tree)) == Counts(changed=1, unchanged=4)

    result = snapshot_watched(repo.path, tree, once(other, "read"))
    assert result.snapshot.id == 3
    assert counts(result) == Counts(unchanged=5)
    assert result.snapshot.distinct_bytes == 0
    assert restored(repo, 3, tmp_path / "out") == entries(tree)
    assert repo.check().problems == ()


def test_first_snapshot_committed_meanwhile_becomes_the_base(repo: Repository, tree: Path) -> None:
    def other() -> None:
        with Repository(repo.path) as second:
            second.snapshot(tree)

    result = snapshot_watched(repo.path, tree, once(other, "commit"))
    assert result.snapshot.id == 2
    assert counts(result) == Counts(unchanged=5)
    assert sql(repo.path, "SELECT count(*) FROM sources") == [(1,)]
    assert repo.check().problems == ()


def test_snapshot_of_another_source_meanwhile_shares_contents(repo: Repository, tree: Path, tmp_path: Path) -> None:
    shutil.copytree(str(tree), str(tmp_path / "copy"))
    write(tree / "image", noise(2 * MIB))
    write(tmp_path / "copy" / "image", noise(2 * MIB))

    def other() -> None:
        with Repository(repo.path) as second:
            second.snapshot(tmp_path / "copy")

    # Everything was looked up and compressed by then, but nothing written.
    result = snapshot_watched(repo.path, tree, once(other, "read", "empty"))
    assert result.snapshot.id == 2
    assert counts(result) == Counts(new=6)
    assert result.snapshot.distinct_bytes == 0
    assert sql(repo.path, "SELECT count(*) - count(DISTINCT hash) FROM contents") == [(0,)]
    assert restored(repo, 2, tmp_path / "out") == entries(tree)
    assert repo.check().problems == ()


def test_snapshot_that_is_always_overtaken_gives_up(repo: Repository, tree: Path) -> None:
    def other(event: ProgressEvent) -> None:
        if event.phase == "commit":
            with Repository(repo.path) as second:
                second.snapshot(tree)

    with pytest.raises(RepositoryLockedError, match="50 times"):
        snapshot_watched(repo.path, tree, other)
    assert [snapshot.id for snapshot in repo.list()] == list(range(1, 51))
    assert repo.check().problems == ()


@pytest.mark.parametrize("phase", ["read", "commit"])
@pytest.mark.parametrize("size", [1000, 3 * MIB])
def test_contents_pruned_meanwhile_are_stored_again(repo: Repository, tmp_path: Path, phase: str, size: int) -> None:
    data = noise(size)
    old = write_tree(tmp_path / "old", {"data": data})
    repo.snapshot(old)
    tree = write_tree(tmp_path / "tree", {"a": data, "b": b"found"})

    def other() -> None:
        with Repository(repo.path) as second:
            second.prune(1)

    result = snapshot_watched(repo.path, tree, once(other, phase))
    assert [snapshot.id for snapshot in repo.list()] == [2]
    assert counts(result) == Counts(new=2)
    assert result.snapshot.distinct_bytes == size + 5
    assert restored(repo, 2, tmp_path / "out") == entries(tree)
    assert repo.check().problems == ()


def test_base_pruned_meanwhile_is_no_base(repo: Repository, tree: Path, tmp_path: Path) -> None:
    repo.snapshot(tree)
    write(tree / "a.txt", b"changed")

    def other() -> None:
        with Repository(repo.path) as second:
            second.prune(1)

    result = snapshot_watched(repo.path, tree, once(other, "read"))
    assert counts(result) == Counts(new=5)
    assert result.snapshot.distinct_bytes == 3001 + 7
    assert restored(repo, 2, tmp_path / "out") == entries(tree)
    assert repo.check().problems == ()


def test_chunks_pruned_meanwhile_are_stored_again(repo: Repository, tmp_path: Path) -> None:
    # The large file is new, most of its chunks are not: they go while the last is still being read.
    data = noise(4 * MIB)
    old = write_tree(tmp_path / "old", {"image": data})
    repo.snapshot(old)
    changed = data[: 3 * MIB] + noise(MIB, 1)
    tree = write_tree(tmp_path / "tree", {"image": changed})

    def other() -> None:
        with Repository(repo.path) as second:
            second.prune(1)

    result = snapshot_watched(repo.path, tree, once(other, "commit"))
    assert result.snapshot.distinct_bytes == 4 * MIB
    assert restored(repo, 2, tmp_path / "out")[b"image"].data == changed
    assert repo.check().problems == ()


def test_locked_repository_is_an_error_after_the_timeout(tree: Path, tmp_path: Path, clock: Clock) -> None:
    with Repository(tmp_path / "r.db", lock_timeout=0) as repo:
        repo.snapshot(tree)
        write(tree / "new", b"new")

        def attempt() -> None:
            with pytest.raises(RepositoryLockedError, match=r"r\.db is in use"):
                repo.snapshot(tree)

        with Repository(tmp_path / "r.db") as other:
            # A prune holds the write lock while it reports.
            other.prune(dry_run=True, progress=once(attempt, "repack"))
            other.prune(1, dry_run=True, progress=once(attempt, "remove"))
        assert counts(repo.snapshot(tree)) == Counts(new=1, unchanged=5)


def test_full_disk_is_an_error_and_nothing_is_lost(tmp_path: Path, clock: Clock) -> None:
    root = write_tree(tmp_path / "tree", {"a": b"first"})
    (tmp_path / "small").mkdir()
    with mounted(tmp_path / "small", "2m"), Repository(tmp_path / "small" / "r.db") as repo:
        repo.snapshot(root)
        write(root / "b", noise(3 * MIB))
        with pytest.raises(RepositoryNotWritableError, match="no space left"):
            repo.snapshot(root)
        assert [snapshot.id for snapshot in repo.list()] == [1]
        assert repo.check().problems == ()
        assert restored(repo, 1, tmp_path / "out")[b"a"].data == b"first"
        (root / "b").unlink()
        assert counts(repo.snapshot(root)) == Counts(unchanged=1)


def test_file_that_may_not_grow_is_an_error_and_nothing_is_lost(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", {"a": b"first"})
    with Repository(tmp_path / "r.db") as repo:
        repo.snapshot(root)
    write(root / "b", noise(3 * MIB))

    def run() -> None:
        import resource
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB))
        with Repository(tmp_path / "r.db") as small:
            small.snapshot(root)

    child = os.fork()
    if child == 0:  # pragma: no cover (another process)
        code = 1
        try:
            run()
        except Exception as exc:
            code = 3 if type(exc).__name__ in ("RepositoryNotWritableError", "RepositoryError") else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] >> 8 == 3
    with Repository(tmp_path / "r.db") as repo:
        assert [snapshot.id for snapshot in repo.list()] == [1]
        assert repo.check().problems == ()
        assert counts(repo.snapshot(root)) == Counts(new=1, unchanged=1)


def test_repository_with_damaged_settings_takes_no_snapshot(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    for change in ("value = 'rabin' WHERE name = 'chunking'", "value = x'ff' WHERE name = 'chunk_average'"):
        sql(repo.path, f"UPDATE settings SET {change}")
        with pytest.raises(CorruptionError, match="settings"):
            repo.snapshot(tree)


def test_errno_of_a_file_is_named_in_words(repo: Repository, tmp_path: Path) -> None:
    # A name that leads nowhere any more by the time it is opened, for a reason that is not "it is gone".
    root = write_tree(tmp_path / "tree", {"d/file": b"x"})

    def swap() -> None:
        (root / "d" / "file").unlink()
        (root / "d").rmdir()
        (root / "d").write_bytes(b"a file in its place")

    result = snapshot_watched(repo.path, root, once(swap, "read"))
    assert [problem.path for problem in result.problems] == ["d/file"]
    assert os.strerror(errno.ENOTDIR) in result.problems[0].message
