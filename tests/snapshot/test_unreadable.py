"""What may not be read is named, and the rest is saved."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest
from conftest import NOBODY, as_nobody, write, write_tree

from backuptool import Repository, RepositoryNotWritableError, SnapshotResult, SourceError

from .making import Counts, counts


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


def test_file_that_became_unreadable_counts_as_removed_until_it_is_readable(public_path: Path) -> None:
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
    assert counts(result) == Counts(unchanged=1, removed=1)
    assert [problem.path for problem in result.problems] == ["secret"]


def test_files_of_a_directory_that_became_unreadable_are_not_taken_for_deleted(public_path: Path) -> None:
    root = public_path / "tree"

    def run() -> SnapshotResult:
        write_tree(root, {"fine": b"fine", "closed/inside": b"secret", "closed/deep/er": b"secret"})
        write_tree(root / "closed", {f"{number}": b"" for number in range(48)})
        with Repository(public_path / "backups.db") as repo:
            repo.snapshot(root)
            (root / "closed").chmod(0)
            result = repo.snapshot(root)
            assert repo.check().problems == ()
        return result

    result = as_nobody(run)
    assert [problem.path for problem in result.problems] == ["closed"]
    assert counts(result) == Counts(unchanged=1, removed=50)
    assert result.snapshot.alerts == ()


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
