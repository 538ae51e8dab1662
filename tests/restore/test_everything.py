"""Everything comes back as it was saved, and can be verified."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Callable, List, Tuple

import pytest
from conftest import as_nobody, write
from trees import differences, make_deep, make_every_kind, make_sparse_file, needs_root, rsync_differences

from backuptool import Repository

from .making import POLICIES, Everything, kinds, leftovers, names


@needs_root
@pytest.mark.both
def test_every_kind_of_file_comes_back_identical_for_root(everything: Everything, out: Path) -> None:
    source, repo, saved = everything
    result = repo.restore(saved.snapshot.id, out, verify=True)
    assert (saved.problems, result.problems) == ((), ())
    assert differences(source, out) == []
    assert rsync_differences(source, out) == ""
    assert (result.restored_files, result.unchanged_files) == (saved.snapshot.files, 0)
    assert result.restored_directories == saved.snapshot.directories
    assert result.written_bytes <= saved.snapshot.size_bytes


def test_every_kind_of_file_comes_back_identical_for_an_ordinary_user(public_path: Path) -> None:
    source, out = public_path / "source", public_path / "out"

    def save_and_restore() -> Tuple[Any, ...]:
        make_every_kind(source)
        with Repository(public_path / "backups.db") as repo:
            saved = repo.snapshot(source)
            result = repo.restore(1, out, verify=True)
            return saved.problems, result.problems, result.restored_files == saved.snapshot.files

    assert as_nobody(save_and_restore) == ((), (), True)
    assert differences(source, out) == []
    assert rsync_differences(source, out) == ""


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(b"DATA"),
        lambda path: path.chmod(0o600),
        lambda path: os.utime(path, ns=(0, 5)),
        lambda path: path.unlink(),
        lambda path: os.setxattr(path, "user.x", b"1"),
        lambda path: os.link(path, path.with_name("extra")),
    ],
)
def test_the_comparison_of_these_tests_sees_differences(tmp_path: Path, change: Callable[[Path], object]) -> None:
    left, right = tmp_path / "left", tmp_path / "right"
    write(left / "file", b"data")
    shutil.copytree(str(left), str(right))
    assert differences(left, right) == []
    change(right / "file")
    assert differences(left, right) != []


def test_a_second_restore_over_the_first_has_nothing_to_do(everything: Everything, out: Path) -> None:
    source, repo, saved = everything
    repo.restore(1, out)
    result = repo.restore(1, out)
    assert result.problems == ()
    assert differences(source, out) == []
    assert result.written_bytes == 0
    assert result.restored_files <= 1  # a FIFO with attributes is made again: they cannot be read without opening it
    assert result.restored_files + result.unchanged_files == saved.snapshot.files


def test_always_writes_everything_again(everything: Everything, out: Path) -> None:
    source, repo, saved = everything
    first = repo.restore(1, out)
    again = repo.restore(1, out, overwrite="always")
    assert differences(source, out) == []
    assert (again.restored_files, again.written_bytes) == (saved.snapshot.files, first.written_bytes)


def test_paths_longer_than_a_system_call_takes_come_back(repo: Repository, tmp_path: Path, out: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    path = make_deep(source)
    assert len(path) > 4096
    assert repo.snapshot(source).problems == ()
    result = repo.restore(1, out, verify=True)
    assert (result.problems, result.verified_files) == ((), 21)
    assert differences(source, out) == []
    again = repo.restore(1, out, overwrite="always", delete_extra=True)
    assert (again.problems, again.deleted_files) == ((), 0)
    assert differences(source, out) == []


def test_what_is_extra_below_a_very_long_path_is_deleted(repo: Repository, tmp_path: Path, out: Path) -> None:
    source = tmp_path / "source"
    write(source / "file", b"data")
    repo.snapshot(source)
    repo.restore(1, out)
    make_deep(out)
    result = repo.restore(1, out, delete_extra=True)
    assert result.problems == ()
    assert names(out) == ["file"]


@pytest.mark.both
def test_holes_come_back_as_holes(repo: Repository, tmp_path: Path, out: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    make_sparse_file(source / "large", 64 << 20, [(10 << 20, b"data" * 2000)])
    make_sparse_file(source / "small", 500_000, [(200_000, b"data")])
    repo.snapshot(source)
    repo.restore(1, out)
    assert differences(source, out) == []
    for name in ("large", "small"):
        assert (out / name).stat().st_blocks * 512 < 100_000


def test_zeros_that_were_written_come_back_as_zeros_that_are_written(
    repo: Repository, tmp_path: Path, out: Path
) -> None:
    """The same bytes with and without holes are one content, but two kinds of file."""
    source = tmp_path / "source"
    source.mkdir()
    make_sparse_file(source / "a sparse", 3 << 20, [(1 << 20, b"data")])
    write(source / "b full", (source / "a sparse").read_bytes())
    make_sparse_file(source / "c hole at the end", 3 << 20, [(0, b"data")])
    write(source / "d full", (source / "c hole at the end").read_bytes())
    repo.snapshot(source)
    repo.restore(1, out)
    assert differences(source, out) == []
    assert [(out / name).stat().st_blocks * 512 < 3 << 20 for name in sorted(os.listdir(out))] == [True, False] * 2


@pytest.mark.both
def test_an_older_snapshot_comes_back_over_a_newer_state(repo: Repository, tree: Path, out: Path) -> None:
    repo.snapshot(tree)
    shutil.copytree(str(tree), str(out), symlinks=True)
    write(tree / "a.txt", b"newer")
    write(tree / "docs" / "new.txt", b"new")
    shutil.rmtree(str(tree / "docs" / "deep"))
    (tree / "b.txt").unlink()
    (tree / "b.txt").symlink_to("a.txt")
    repo.snapshot(tree)
    result = repo.restore(1, tree, delete_extra=True)
    assert result.problems == ()
    assert (result.restored_files, result.deleted_files) == (3, 1)
    assert differences(out, tree) == [] == differences(tree, out)


def test_latest_is_the_newest_snapshot(repo: Repository, tree: Path, out: Path) -> None:
    repo.snapshot(tree)
    write(tree / "a.txt", b"newer")
    repo.snapshot(tree)
    assert repo.restore("latest", out).snapshot.id == 2
    assert (out / "a.txt").read_bytes() == b"newer"


def test_a_destination_and_those_above_it_are_made(repo: Repository, tree: Path, tmp_path: Path) -> None:
    repo.snapshot(tree)
    result = repo.restore(1, tmp_path / "new" / "directory")
    assert result.destination == str(tmp_path / "new" / "directory")
    assert differences(tree, tmp_path / "new" / "directory") == []


def test_a_symlink_to_the_destination_is_followed(repo: Repository, tree: Path, tmp_path: Path, out: Path) -> None:
    repo.snapshot(tree)
    out.mkdir()
    (tmp_path / "symlink").symlink_to(out)
    result = repo.restore(1, tmp_path / "symlink")
    assert result.destination == str(out)
    assert differences(tree, out) == []


def test_a_destination_may_have_a_name_that_is_not_utf8(repo: Repository, tree: Path, tmp_path: Path) -> None:
    repo.snapshot(tree)
    destination = os.fsencode(tmp_path) + b"/\xff\n"
    result = repo.restore(1, destination)
    assert os.fsencode(result.destination) == destination
    assert differences(tree, Path(os.fsdecode(destination))) == []


def test_files_named_like_the_temporary_ones_come_back(repo: Repository, tmp_path: Path, out: Path) -> None:
    """A tree that was saved while a restore into it ran, or after one was killed."""
    source = tmp_path / "source"
    write(source / "z.zip", b"the file")
    repo.snapshot(source)
    seen: List[str] = []

    def killed(*arguments: object, **options: object) -> None:
        seen.extend(leftovers(out))
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            repo.restore(1, out)
    (temporary,) = seen
    write(source / temporary, b"the other file")
    repo.snapshot(source)
    for policy in POLICIES:
        repo.restore(2, out, overwrite=policy)
        assert differences(source, out) == []


def test_verifying_reads_each_regular_file_back(everything: Everything, out: Path) -> None:
    source, repo, _ = everything
    result = repo.restore(1, out, verify=True)
    regular = [path for path in source.rglob("*") if path.is_file() and not path.is_symlink()]
    assert (result.verified_files, result.problems) == (len(regular), ())


def test_verifying_finds_what_the_policy_left_alone(repo: Repository, tree: Path, out: Path) -> None:
    repo.snapshot(tree)
    repo.restore(1, out)
    before = (out / "a.txt").stat()
    write(out / "a.txt", b"A" * 1000)
    os.utime(out / "a.txt", ns=(0, before.st_mtime_ns))
    (out / "b.txt").unlink()
    os.mkfifo(out / "b.txt")
    result = repo.restore(1, out, verify=True, overwrite="never")
    assert kinds(result) == [("verify-mismatch", "a.txt"), ("verify-mismatch", "b.txt")]
    assert result.verified_files == 3


def test_verifying_looks_at_what_is_selected_alone(repo: Repository, tree: Path, out: Path) -> None:
    repo.snapshot(tree)
    result = repo.restore(1, out, verify=True, include=["docs"])
    assert (result.verified_files, result.problems) == (2, ())
