"""What becomes of files that are there."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Callable, Dict

import pytest
from conftest import write
from trees import differences

from backuptool import Repository, RestoreError
from backuptool.results.restore import OverwritePolicy

from .making import NOW_NS, POLICIES, kinds, leftovers


@pytest.mark.parametrize(
    ("policy", "data", "age_ns", "kept"),
    [
        ("always", b"saved", 0, False),
        ("always", b"other", 0, False),
        ("always", b"other", 1, False),
        ("if-changed", b"saved", 0, True),
        ("if-changed", b"other", 0, True),  # as large and as old: taken for the same, as rsync does
        ("if-changed", b"longer", 0, False),
        ("if-changed", b"other", 1, False),
        ("if-changed", b"other", -1, False),
        ("if-newer", b"other", 0, True),
        ("if-newer", b"longer", 0, True),
        ("if-newer", b"other", 1, True),
        ("if-newer", b"other", -1, False),
        ("never", b"other", 0, True),
        ("never", b"longer", 1, True),
        ("never", b"longer", -1, True),
    ],
)
def test_what_is_there_stays_or_goes_by_the_policy(
    repo: Repository, tmp_path: Path, out: Path, policy: OverwritePolicy, data: bytes, age_ns: int, kept: bool
) -> None:
    source = tmp_path / "source"
    for root, value, mtime_ns in ((source, b"saved", NOW_NS), (out, data, NOW_NS + age_ns)):
        write(root / "file", value)
        os.utime(root / "file", ns=(mtime_ns, mtime_ns))
    repo.snapshot(source)
    result = repo.restore(1, out, overwrite=policy)
    assert (out / "file").read_bytes() == (data if kept else b"saved")
    assert (out / "file").stat().st_mtime_ns == (NOW_NS + age_ns if kept else NOW_NS)
    assert (result.restored_files, result.unchanged_files) == ((0, 1) if kept else (1, 0))
    assert result.written_bytes == (0 if kept else 5)


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_missing_is_written_by_every_policy(
    repo: Repository, tree: Path, out: Path, policy: OverwritePolicy
) -> None:
    repo.snapshot(tree)
    result = repo.restore(1, out, overwrite=policy)
    assert (result.restored_files, result.unchanged_files) == (5, 0)
    assert differences(tree, out) == []


def test_a_policy_that_is_none_is_refused(repo: Repository, tree: Path, out: Path) -> None:
    repo.snapshot(tree)
    with pytest.raises(ValueError, match="always, if-changed, if-newer or never"):
        repo.restore(1, out, overwrite="sometimes")  # type: ignore[arg-type]
    assert not out.exists()


def test_if_changed_renews_metadata_without_writing_the_file(repo: Repository, tree: Path, out: Path) -> None:
    (tree / "a.txt").chmod(0o640)
    repo.snapshot(tree)
    repo.restore(1, out)
    (out / "a.txt").chmod(0o666)
    inode = (out / "a.txt").stat().st_ino
    result = repo.restore(1, out)
    assert (result.restored_files, result.unchanged_files, result.written_bytes) == (0, 5, 0)
    assert (out / "a.txt").stat().st_ino == inode
    assert differences(tree, out) == []


def test_if_changed_puts_attributes_back(repo: Repository, tree: Path, out: Path) -> None:
    os.setxattr(tree / "a.txt", "user.saved", b"1")
    repo.snapshot(tree)
    repo.restore(1, out)
    os.setxattr(out / "a.txt", "user.saved", b"2")
    os.setxattr(out / "a.txt", "user.added", b"1")
    repo.restore(1, out)
    assert differences(tree, out) == []


def test_symlinks_are_replaced_where_their_target_or_time_differs(repo: Repository, tmp_path: Path, out: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    out.mkdir()
    for name, target, mtime_ns in (("same", "x", 1), ("target", "other", 1), ("time", "x", 2)):
        (source / name).symlink_to("x")
        (out / name).symlink_to(target)
        os.utime(source / name, ns=(1, 1), follow_symlinks=False)
        os.utime(out / name, ns=(mtime_ns, mtime_ns), follow_symlinks=False)
    repo.snapshot(source)
    result = repo.restore(1, out)
    assert (result.restored_files, result.unchanged_files) == (2, 1)
    assert differences(source, out) == []


@pytest.mark.parametrize("policy", ["always", "if-changed"])
def test_each_kind_takes_the_place_of_each_other(
    repo: Repository, tmp_path: Path, out: Path, policy: OverwritePolicy
) -> None:
    makers: Dict[str, Callable[[Path], object]] = {
        "file": lambda path: write(path, b"data"),
        "directory": lambda path: path.mkdir(),
        "symlink": lambda path: path.symlink_to("."),
        "fifo": lambda path: os.mkfifo(path),
        "socket": lambda path: os.mknod(path, stat.S_IFSOCK | 0o600),
    }
    source = tmp_path / "source"
    source.mkdir()
    out.mkdir()
    for wanted, make in makers.items():
        for there, make_other in makers.items():
            make(source / f"{wanted} for {there}")
            make_other(out / f"{wanted} for {there}")
    repo.snapshot(source)
    result = repo.restore(1, out, overwrite=policy)
    assert result.problems == ()
    assert differences(source, out) == []


def test_never_lets_a_file_stay_where_the_snapshot_has_a_directory(repo: Repository, tree: Path, out: Path) -> None:
    repo.snapshot(tree)
    write(out / "docs", b"mine")
    result = repo.restore(1, out, overwrite="never")
    assert (out / "docs").read_bytes() == b"mine"
    assert ("in-the-way", "docs") in kinds(result)
    assert (out / "a.txt").read_bytes() == b"a" * 1000


def test_a_directory_in_the_way_of_a_file_stays_if_something_is_in_it(repo: Repository, tree: Path, out: Path) -> None:
    repo.snapshot(tree)
    write(out / "a.txt" / "precious", b"mine")
    (out / "b.txt").mkdir(parents=True)
    result = repo.restore(1, out)
    assert kinds(result) == [("in-the-way", "a.txt")]
    assert (out / "a.txt" / "precious").read_bytes() == b"mine"
    assert (out / "b.txt").read_bytes() == b"b" * 2000
    assert leftovers(out) == []


def test_what_could_not_be_restored_is_not_counted(repo: Repository, tree: Path, out: Path) -> None:
    repo.snapshot(tree)
    write(out / "a.txt" / "precious", b"mine")
    result = repo.restore(1, out)
    assert (result.restored_files, result.written_bytes) == (4, 5001)


def test_a_directory_in_the_way_goes_if_what_is_extra_is_deleted(repo: Repository, tree: Path, out: Path) -> None:
    repo.snapshot(tree)
    write(out / "a.txt" / "extra", b"extra")
    result = repo.restore(1, out, delete_extra=True)
    assert (result.problems, result.deleted_files) == ((), 1)
    assert differences(tree, out) == []


def test_a_directory_in_the_way_of_a_link_is_a_problem(repo: Repository, linked: Path, out: Path) -> None:
    repo.snapshot(linked)
    write(out / "b" / "precious", b"mine")
    result = repo.restore(1, out)
    assert kinds(result) == [("in-the-way", "b")]
    assert (out / "a").samefile(out / "sub" / "c")
    assert leftovers(out) == []


def test_a_destination_without_a_name_is_an_error(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    with pytest.raises(RestoreError, match="name a directory"):
        repo.restore(1, "")


def test_a_destination_that_is_a_file_is_an_error(repo: Repository, tree: Path, out: Path) -> None:
    repo.snapshot(tree)
    write(out, b"mine")
    for dry_run in (False, True):
        with pytest.raises(RestoreError, match="a file is in the way; name another directory") as caught:
            repo.restore(1, out, dry_run=dry_run)
        assert caught.value.path == str(out)
    with pytest.raises(RestoreError, match="a file is in the way"):
        repo.restore(1, out / "below")
    assert out.read_bytes() == b"mine"
