"""Deleting what the snapshot does not have."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest
from conftest import write, write_tree
from trees import differences, facts

from backuptool import Repository

from .making import POLICIES, kinds, names


@pytest.fixture
def littered(repo: Repository, tree: Path, out: Path) -> Path:
    """A restored tree with more in it than was saved."""
    repo.snapshot(tree)
    repo.restore(1, out)
    write(out / "extra.txt", b"extra")
    write(out / "docs" / "extra.log", b"extra")
    write(out / "more" / "deep" / "extra.txt", b"extra")
    (out / "more" / "symlink").symlink_to(tree)
    os.mkfifo(out / "more" / "fifo")
    return out


def test_what_is_extra_stays_unless_it_is_to_be_deleted(repo: Repository, littered: Path) -> None:
    before = names(littered)
    result = repo.restore(1, littered)
    assert (result.deleted_files, names(littered)) == (0, before)


def test_what_is_extra_is_deleted_and_nothing_behind_a_symlink(repo: Repository, tree: Path, littered: Path) -> None:
    before = facts(tree)
    result = repo.restore(1, littered, delete_extra=True)
    assert (result.deleted_files, result.problems) == (7, ())
    assert differences(tree, littered) == []
    assert facts(tree) == before


def test_extra_files_are_not_looked_for_where_the_destination_cannot_be_listed(
    repo: Repository, littered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: object = ".") -> NoReturn:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "scandir", fail)
    result = repo.restore(1, littered, delete_extra=True)
    assert result.deleted_files == 0
    assert [(problem.kind, problem.path) for problem in result.problems] == [("unreadable", ".")]
    assert "Input/output error" in result.problems[0].message


def test_only_what_is_selected_is_deleted(repo: Repository, littered: Path) -> None:
    result = repo.restore(1, littered, include=["*.txt"], delete_extra=True)
    assert (result.deleted_files, result.problems) == (2, ())
    assert (littered / "docs" / "extra.log").exists()
    assert (littered / "more" / "deep").exists()
    assert not (littered / "more" / "deep" / "extra.txt").exists()


def test_what_is_excluded_is_not_deleted(repo: Repository, littered: Path) -> None:
    result = repo.restore(1, littered, exclude=["more"], delete_extra=True)
    assert (result.deleted_files, result.problems) == (2, ())
    assert (littered / "more" / "deep" / "extra.txt").exists()


def test_a_directory_that_holds_what_is_excluded_stays_without_a_word(repo: Repository, littered: Path) -> None:
    write(littered / "more" / "deep" / "down" / "keep", b"excluded")
    result = repo.restore(1, littered, exclude=["keep"], delete_extra=True)
    assert (result.deleted_files, result.problems) == (5, ())
    assert names(littered / "more") == ["deep", "deep/down", "deep/down/keep"]
    assert repo.restore(1, littered, exclude=["keep"], delete_extra=True).deleted_files == 0


def test_attributes_that_were_added_to_an_unchanged_file_go(repo: Repository, tree: Path, out: Path) -> None:
    os.setxattr(tree / "b.txt", "user.kept", b"1")
    repo.snapshot(tree)
    repo.restore(1, out)
    os.setxattr(out / "a.txt", "user.added", b"1")
    os.setxattr(out / "b.txt", "user.kept", b"2")
    result = repo.restore(1, out)
    assert (result.restored_files, result.written_bytes) == (0, 0)
    assert os.listxattr(out / "a.txt") == []
    assert os.getxattr(out / "b.txt", "user.kept") == b"1"
    assert differences(tree, out) == []


def test_a_special_file_with_attributes_is_made_once(repo: Repository, tmp_path: Path, out: Path) -> None:
    root = write_tree(tmp_path / "source", {"a": b"a"})
    os.mkfifo(root / "fifo")
    try:
        os.setxattr(root / "fifo", "trusted.note", b"1")
    except OSError:
        pytest.skip("only root may give a FIFO attributes, and not here")
    repo.snapshot(root)
    assert repo.restore(1, out).restored_files == 2
    inode = os.lstat(out / "fifo").st_ino
    assert repo.restore(1, out).unchanged_files == 2
    assert os.lstat(out / "fifo").st_ino == inode
    os.removexattr(out / "fifo", "trusted.note")
    assert repo.restore(1, out).restored_files == 1
    assert os.getxattr(out / "fifo", "trusted.note") == b"1"


def test_the_repository_is_never_deleted_as_extra(tree: Path) -> None:
    write(tree / "a.txt", b"saved")
    with Repository(tree / "backups.db") as repo:
        repo.snapshot(tree)
        os.link(tree / "backups.db", tree / "second name")
        write(tree / "extra", b"extra")
        result = repo.restore(1, tree, delete_extra=True)
        assert (result.deleted_files, result.problems) == (1, ())
        assert sorted(os.listdir(tree)) == ["a.txt", "b.txt", "backups.db", "docs", "empty", "second name"]
        assert repo.check().ok


def test_the_repository_is_never_overwritten(tmp_path: Path, tree: Path) -> None:
    """A file of that name was saved; later the repository was moved to its place."""
    write(tree / "backups.db", b"an older repository")
    with Repository(tmp_path / "elsewhere.db") as repo:
        repo.snapshot(tree)
    os.replace(tmp_path / "elsewhere.db", tree / "backups.db")
    with Repository(tree / "backups.db") as repo:
        for policy in POLICIES:
            result = repo.restore(1, tree, overwrite=policy)
            assert kinds(result) in ([("in-the-way", "backups.db")], [])
            assert repo.check().ok
