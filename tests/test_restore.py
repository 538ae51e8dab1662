from __future__ import annotations

import errno
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, NoReturn, Tuple

import pytest
from conftest import NOBODY, EveryEvent, as_nobody, sql, write, write_tree
from trees import (
    differences,
    facts,
    make_deep,
    make_every_kind,
    make_sparse_file,
    mounted,
    needs_root,
    program,
    random_bytes,
    rsync_differences,
)

from backuptool import (
    ProgressEvent,
    Repository,
    RepositoryNotFoundError,
    RestoreError,
    RestoreResult,
    SnapshotNotFoundError,
    SnapshotResult,
)
from backuptool.operations.restore.restoring import RestoreOptions, restore
from backuptool.progress import ProgressCallback
from backuptool.results.restore import OverwritePolicy
from backuptool.storage.pool import ConnectionPool

POLICIES: Tuple[OverwritePolicy, ...] = ("always", "if-changed", "if-newer", "never")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where to restore to; nothing is there."""
    return tmp_path / "out"


def watched(
    repo: Repository, number: int, destination: Path, callback: ProgressCallback, **options: Any
) -> RestoreResult:
    """Restore and call back at every single event."""
    wanted = RestoreOptions(destination=os.fsencode(str(destination)), **options)
    pool = ConnectionPool(repo.path, 10.0)
    try:
        with pool.reading() as database:
            return restore(database, number, wanted, EveryEvent(callback))
    finally:
        pool.close()


def names(root: Path) -> List[str]:
    """Return the relative paths of all that is below a directory, sorted."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def kinds(result: RestoreResult) -> List[Tuple[str, str]]:
    """Return kind and path of each problem, sorted."""
    return sorted((problem.kind, problem.path) for problem in result.problems)


def leftovers(root: Path) -> List[str]:
    """Return the temporary files below a directory."""
    return [name for name in names(root) if os.path.basename(name).startswith(".backuptool-")]


class Everything(NamedTuple):
    """A tree with every kind of file, and a repository with a snapshot of it. No test changes them."""

    source: Path
    repo: Repository
    saved: SnapshotResult


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Everything]:
    place = tmp_path_factory.mktemp("everything")
    make_every_kind(place / "source")
    with Repository(place / "backups.db") as repo:
        yield Everything(place / "source", repo, repo.snapshot(place / "source"))


# Everything comes back.


@needs_root
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


# Overwriting.

NOW_NS = 1_650_000_000_000_000_000


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


# Hard links.


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """Three names of one file."""
    source = tmp_path / "source"
    write(source / "a", b"linked")
    (source / "sub").mkdir()
    os.link(source / "a", source / "b")
    os.link(source / "a", source / "sub" / "c")
    return source


@pytest.mark.parametrize("policy", ["if-newer", "never"])
def test_a_missing_name_of_a_file_is_not_linked_to_one_that_was_left_alone(
    repo: Repository, linked: Path, out: Path, policy: OverwritePolicy
) -> None:
    repo.snapshot(linked)
    write(out / "a", b"mine")
    os.utime(out / "a", ns=(NOW_NS, NOW_NS))
    result = repo.restore(1, out, overwrite=policy)
    assert (out / "a").read_bytes() == b"mine"
    assert (out / "b").read_bytes() == b"linked"
    assert (out / "b").samefile(out / "sub" / "c")
    assert (result.restored_files, result.unchanged_files) == (2, 1)


def test_names_of_one_file_are_linked_again(repo: Repository, linked: Path, out: Path) -> None:
    repo.snapshot(linked)
    repo.restore(1, out)
    (out / "b").unlink()
    shutil.copy2(str(out / "a"), str(out / "b"))
    result = repo.restore(1, out)
    assert (result.restored_files, result.unchanged_files) == (1, 2)
    assert differences(linked, out) == []


def test_never_leaves_copies_unlinked(repo: Repository, linked: Path, out: Path) -> None:
    repo.snapshot(linked)
    write(out / "a", b"mine")
    write(out / "b", b"mine too")
    result = repo.restore(1, out, overwrite="never")
    assert (out / "b").read_bytes() == b"mine too"
    assert (out / "sub" / "c").read_bytes() == b"linked"
    assert (result.restored_files, result.unchanged_files) == (1, 2)


def test_one_name_alone_of_a_file_is_restored_as_a_file(repo: Repository, linked: Path, out: Path) -> None:
    repo.snapshot(linked)
    result = repo.restore(1, out, include=["c"])
    assert (result.restored_files, result.written_bytes) == (1, 6)
    assert (out / "sub" / "c").read_bytes() == b"linked"
    assert (out / "sub" / "c").stat().st_nlink == 1


@needs_root
def test_a_link_that_the_destination_cannot_have_becomes_a_copy(repo: Repository, linked: Path, out: Path) -> None:
    repo.snapshot(linked)
    (out / "sub").mkdir(parents=True)
    with mounted(out / "sub"):
        result = repo.restore(1, out)
        assert result.problems == ()
        assert (out / "sub" / "c").read_bytes() == b"linked"


@needs_root
def test_files_of_two_devices_with_one_inode_number_are_not_linked(repo: Repository, tmp_path: Path, out: Path) -> None:
    source = tmp_path / "source"
    (source / "one").mkdir(parents=True)
    (source / "two").mkdir()
    with mounted(source / "one"), mounted(source / "two"):
        for device, name in (("one", "a"), ("two", "b")):
            write(source / device / name, device.encode())
            os.link(source / device / name, source / device / "link")
        assert (source / "one" / "a").stat().st_ino == (source / "two" / "b").stat().st_ino
        repo.snapshot(source)
        write(source / "two" / "b", b"changed")
        repo.snapshot(source)
        repo.restore(2, out)
        assert differences(source, out) == []


# Deleting.


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


# Dry runs.


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("delete_extra", [False, True])
def test_a_dry_run_counts_what_the_restore_then_does(
    everything: Everything, out: Path, policy: OverwritePolicy, delete_extra: bool
) -> None:
    repo = everything.repo
    repo.restore(1, out)
    write(out / "files" / "small", b"changed")
    write(out / "links" / "one", b"changed, under both its names")
    write(out / "more" / "extra", b"extra")
    shutil.rmtree(str(out / "names"))
    write(out / "names", b"a file where a directory was")
    os.utime(out / "names", ns=(1, 1))
    (out / "links" / "two").unlink()
    before = facts(out)
    dry = repo.restore(1, out, overwrite=policy, delete_extra=delete_extra, dry_run=True)
    assert facts(out) == before
    assert dry.dry_run
    real = repo.restore(1, out, overwrite=policy, delete_extra=delete_extra)
    if policy != "never":  # then a file stays in the way of a directory, and what is in that is a problem
        assert _counts(dry) == _counts(real)


def _counts(result: RestoreResult) -> Tuple[int, ...]:
    return (
        result.restored_files,
        result.unchanged_files,
        result.restored_directories,
        result.written_bytes,
        result.deleted_files,
    )


def test_a_dry_run_into_a_new_directory_does_not_make_it(everything: Everything, out: Path) -> None:
    repo = everything.repo
    dry = repo.restore(1, out, dry_run=True, verify=True, delete_extra=True)
    assert not out.exists()
    assert _counts(dry) == _counts(repo.restore(1, out))
    assert dry.verified_files == 0


def test_a_dry_run_of_a_part_counts_what_the_restore_then_does(repo: Repository, tree: Path, out: Path) -> None:
    repo.snapshot(tree)
    for _ in range(2):
        dry = repo.restore(1, out, include=["c.bin"], dry_run=True)
        assert _counts(dry) == _counts(repo.restore(1, out, include=["c.bin"]))


# Verifying.


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


# Parts of a snapshot.


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (["docs/deep/c.bin"], [], ["docs", "docs/deep", "docs/deep/c.bin"]),
        (["/docs/deep"], [], ["docs", "docs/deep", "docs/deep/c.bin"]),
        (["docs"], ["deep"], ["docs", "docs/copy of b.txt"]),
        (["docs"], ["deep/"], ["docs", "docs/copy of b.txt"]),
        (["*.txt"], [], ["a.txt", "b.txt", "docs", "docs/copy of b.txt"]),
        (["/*.txt", "!/a.txt"], [], ["b.txt"]),
        ([], ["*.txt", "!/a.txt"], ["a.txt", "docs", "docs/deep", "docs/deep/c.bin", "empty"]),
        ([], ["docs"], ["a.txt", "b.txt", "empty"]),
        (["docs/"], [], ["docs", "docs/copy of b.txt", "docs/deep", "docs/deep/c.bin"]),
        (["**/deep"], [], ["docs", "docs/deep", "docs/deep/c.bin"]),
    ],
)
def test_a_part_is_selected_by_paths_and_patterns(
    repo: Repository, tree: Path, out: Path, include: List[str], exclude: List[str], expected: List[str]
) -> None:
    repo.snapshot(tree)
    result = repo.restore(1, out, include=include, exclude=exclude)
    assert (names(out), result.problems) == (expected, ())


def test_a_selection_that_finds_nothing_is_a_problem(repo: Repository, tree: Path, out: Path) -> None:
    repo.snapshot(tree)
    result = repo.restore(1, out, include=["nothing like it"])
    assert kinds(result) == [("nothing-found", "")]
    assert (result.restored_files, result.restored_directories) == (0, 0)


def test_one_lone_string_is_one_pattern(repo: Repository, tree: Path, out: Path) -> None:
    repo.snapshot(tree)
    repo.restore(1, out, include="a.txt")
    assert names(out) == ["a.txt"]


@pytest.mark.parametrize("name", ["new\nline", "\n", os.fsdecode(b"\xff\n\xfe"), " ", "tab\t"])
def test_a_directory_is_selected_with_whatever_names_are_in_it(
    repo: Repository, tmp_path: Path, out: Path, name: str
) -> None:
    source = tmp_path / "source"
    write(source / "sub" / name, b"1")
    write(source / "sub" / (name + "dir") / "file", b"2")
    repo.snapshot(source)
    repo.restore(1, out, include=["sub"])
    assert differences(source, out) == []
    result = repo.restore(1, tmp_path / "other", exclude=["sub"])
    assert result.restored_files == 0


@pytest.mark.parametrize(
    "name", ["a[1].txt", "#comment", "!important", "trailing  ", "back\\slash", "star*", "new\nline", "ba\\d "]
)
def test_a_path_is_selected_as_it_is_written(repo: Repository, tmp_path: Path, out: Path, name: str) -> None:
    source = tmp_path / "source"
    write(source / "sub" / name, b"1")
    write(source / "sub" / "other", b"2")
    repo.snapshot(source)
    repo.restore(1, out, include=["sub/" + name])
    assert os.listdir(out / "sub") == [name]


def test_a_name_that_is_not_utf8_is_selected_by_its_surrogates(repo: Repository, tmp_path: Path, out: Path) -> None:
    source = tmp_path / "source"
    write(source / os.fsdecode(b"\xff"), b"1")
    write(source / os.fsdecode(b"\xfe"), b"2")
    repo.snapshot(source)
    repo.restore(1, out, include=[os.fsdecode(b"\xff")])
    assert os.listdir(os.fsencode(out)) == [b"\xff"]


def test_directories_above_a_selected_file_get_what_was_saved_of_them(repo: Repository, tree: Path, out: Path) -> None:
    (tree / "docs").chmod(0o751)
    (tree / "docs" / "deep").chmod(0o711)
    repo.snapshot(tree)
    result = repo.restore(1, out, include=["c.bin"])
    assert result.restored_directories == 3
    saved, found = facts(tree), facts(out)
    for path in (b"", b"docs", b"docs/deep", b"docs/deep/c.bin"):
        assert found[path] == saved[path]


def test_restoring_one_file_leaves_the_directories_that_are_there_as_they_are(
    repo: Repository, tree: Path, out: Path
) -> None:
    repo.snapshot(tree)
    (out / "docs" / "deep").mkdir(parents=True)
    (out / "docs" / "other").mkdir()
    for path in (out, out / "docs", out / "docs" / "deep", out / "docs" / "other"):
        path.chmod(0o2770)
        os.setxattr(path, "user.mine", b"1")
    result = repo.restore(1, out, include=["docs/deep/c.bin"])
    assert (result.restored_files, result.restored_directories) == (1, 0)
    for path in (out, out / "docs", out / "docs" / "deep", out / "docs" / "other"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o2770
        assert os.getxattr(path, "user.mine") == b"1"


def test_restoring_one_file_leaves_an_empty_destination_its_mode(repo: Repository, tree: Path, out: Path) -> None:
    tree.chmod(0o700)
    repo.snapshot(tree)
    out.mkdir()
    out.chmod(0o1777)
    repo.restore(1, out, include=["a.txt"])
    assert stat.S_IMODE(out.stat().st_mode) == 0o1777


# Interruptions.


class StopError(Exception):
    """What a callback raises."""


@pytest.mark.parametrize("exception", [KeyboardInterrupt, StopError])
def test_a_restore_that_was_interrupted_is_finished_by_the_next(
    everything: Everything, out: Path, exception: type[BaseException]
) -> None:
    source, repo, _ = everything
    wanted = facts(source)
    events: List[ProgressEvent] = []
    watched(repo, 1, out, events.append)
    restoring = sum(event.phase == "restore" for event in events)
    for stop_at in (1, restoring // 2, restoring + 50):
        out = out.with_name(f"out {stop_at}")
        phases = interrupted(repo, out, stop_at, exception)
        assert phases[-1] == ("restore" if stop_at <= restoring else "metadata")
        assert leftovers(out) == []
        for path, fact in facts(out).items():
            if wanted[path][4] is not None:  # bytes, target or device number: there is nothing by halves
                assert fact[4] == wanted[path][4]
        result = repo.restore(1, out)
        assert result.problems == ()
        assert differences(source, out) == []
        assert (result.unchanged_files > 0) == (stop_at > 1)


def interrupted(repo: Repository, out: Path, stop_at: int, exception: type[BaseException]) -> List[str]:
    """Restore, raise at an event, and return the phases of all events until then."""
    phases: List[str] = []

    def interrupt(event: ProgressEvent) -> None:
        phases.append(event.phase)
        if len(phases) == stop_at:
            raise exception

    with pytest.raises(exception):
        watched(repo, 1, out, interrupt)
    return phases


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_finishes_what_was_interrupted(
    repo: Repository, linked: Path, out: Path, policy: OverwritePolicy
) -> None:
    write(linked / "z", b"the last one")
    for name in ("fifo", "sub/fifo"):
        os.mkfifo(linked / name)
        os.link(linked / name, linked / (name + " link"))
    repo.snapshot(linked)
    for stop_at in range(1, 11):
        out = out.with_name(f"out {stop_at}")
        interrupted(repo, out, stop_at, KeyboardInterrupt)
        result = repo.restore(1, out, overwrite=policy)
        assert result.problems == ()
        if policy != "never":
            assert differences(linked, out) == []
        else:  # the directories that were there are left as they were
            assert {line.split(":")[0] for line in differences(linked, out)} <= {"b''", "b'sub'"}


def test_an_interruption_within_a_file_leaves_the_good_one_that_was_there(
    repo: Repository, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    write(source / "large", random_bytes(4 << 20))
    repo.snapshot(source)
    write(out / "large", b"good")
    calls: List[int] = []
    pwrite = os.pwrite

    def interrupted(descriptor: int, data: bytes, offset: int) -> int:
        calls.append(offset)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", interrupted)
    with pytest.raises(KeyboardInterrupt):
        repo.restore(1, out)
    assert (names(out), (out / "large").read_bytes()) == (["large"], b"good")
    monkeypatch.undo()
    repo.restore(1, out)
    assert differences(source, out) == []


def test_what_a_killed_process_left_behind_is_cleared_by_the_next(everything: Everything, out: Path) -> None:
    source, repo, _ = everything
    repo.close()
    replace = os.replace
    for step in (1, 40, 80):
        child = os.fork()
        if child == 0:  # pragma: no cover (another process)
            left = iter(range(step))

            def killed(*arguments: Any, left: Iterator[int] = left, **options: Any) -> None:
                if next(left, None) is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                replace(*arguments, **options)

            os.replace = killed
            try:
                Repository(repo.path).restore(1, out)
            finally:
                os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        assert leftovers(out) != []
    result = repo.restore(1, out)
    assert result.problems == ()
    assert differences(source, out) == []


def test_more_files_than_are_gathered_at_once_come_back(
    everything: Everything, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restore gathers tens of thousands of files and then writes those of some packs."""
    source, repo, saved = everything
    monkeypatch.setattr("backuptool.operations.restore.gathering._HELD", 10)
    result = repo.restore(1, out)
    assert (result.problems, result.restored_files) == ((), saved.snapshot.files)
    assert differences(source, out) == []


def test_short_writes_are_continued(
    repo: Repository, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    write(source / "small", random_bytes(10_000))
    write(source / "large", random_bytes(2 << 20))
    repo.snapshot(source)
    system_write, pwrite = os.write, os.pwrite
    monkeypatch.setattr(os, "write", lambda descriptor, data: system_write(descriptor, data[:4000]))
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: pwrite(descriptor, data[:100_000], offset))
    repo.restore(1, out)
    monkeypatch.undo()
    assert differences(source, out) == []


# Staying inside.


def test_a_symlink_where_the_snapshot_has_a_directory_is_not_followed(
    repo: Repository, tree: Path, tmp_path: Path, out: Path
) -> None:
    outside = write_tree(tmp_path / "outside", {"copy of b.txt": b"outside", "deep/c.bin": b"outside"})
    before = facts(outside)
    repo.snapshot(tree)
    for policy in POLICIES:
        shutil.rmtree(str(out), ignore_errors=True)
        out.mkdir()
        (out / "docs").symlink_to(outside)
        repo.restore(1, out, overwrite=policy, delete_extra=True, verify=True)
        assert facts(outside) == before
        if policy != "never":
            assert differences(tree, out) == []
    for dry_run in (True, False):
        shutil.rmtree(str(out))
        out.mkdir()
        (out / "docs").symlink_to(outside)
        repo.restore(1, out, include=["c.bin"], dry_run=dry_run)
        assert facts(outside) == before


def test_a_symlink_where_the_snapshot_has_a_file_is_replaced_and_not_written_through(
    repo: Repository, tree: Path, tmp_path: Path, out: Path
) -> None:
    outside = write(tmp_path / "outside", b"outside")
    before = outside.stat()
    repo.snapshot(tree)
    out.mkdir()
    (out / "a.txt").symlink_to(outside)
    repo.restore(1, out)
    assert (outside.read_bytes(), outside.stat().st_mode) == (b"outside", before.st_mode)
    assert differences(tree, out) == []


def test_a_hard_link_to_something_outside_is_replaced_and_not_written_through(
    repo: Repository, tree: Path, tmp_path: Path, out: Path
) -> None:
    outside = write(tmp_path / "outside", b"outside")
    repo.snapshot(tree)
    out.mkdir()
    os.link(outside, out / "a.txt")
    repo.restore(1, out)
    assert outside.read_bytes() == b"outside"
    assert differences(tree, out) == []


@pytest.fixture(scope="module")
def forgeable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository to be copied and tampered with: a good file, and victims of each kind."""
    place = tmp_path_factory.mktemp("forgeable")
    source = place / "source"
    write(source / "good", b"good")
    os.setxattr(write(source / "sub" / "victim", b"victim"), "user.x", b"1")
    (source / "sub" / "victim directory").mkdir()
    (source / "sub" / "victim symlink").symlink_to("/etc")
    os.mkfifo(source / "sub" / "victim fifo")
    with Repository(place / "backups.db") as repo:
        repo.snapshot(source)
    return place / "backups.db"


def forged(template: Path, place: Path, statement: str, *parameters: object) -> Iterator[Repository]:
    """Yield a copy of a repository after a statement was run on it; nothing if the schema does not let it in."""
    shutil.copy(str(template), str(place / "forged.db"))
    try:
        sql(place / "forged.db", statement, *parameters)
    except sqlite3.IntegrityError:
        return
    with Repository(place / "forged.db") as repo:
        yield repo


@pytest.mark.parametrize(
    "path",
    [b"../evil", b"..", b"sub/../../evil", b"/evil", b"sub//evil", b"./evil", b"sub/.", b"sub/..", b"evil\0", b"/"],
)
def test_a_forged_path_writes_nothing_outside(forgeable: Path, tmp_path: Path, out: Path, path: bytes) -> None:
    statement = "UPDATE files SET path = CAST(? AS TEXT) WHERE path = ?"
    for victim in ("sub/victim", "sub/victim directory", "sub/victim symlink", "sub/victim fifo"):
        for repo in forged(forgeable, tmp_path, statement, path, victim):
            before = set(os.listdir(tmp_path))
            result = repo.restore(1, out, verify=True, overwrite="always")
            assert [problem.kind for problem in result.problems] == ["unsafe-path"]
            assert (out / "good").read_bytes() == b"good"
            assert kinds(repo.restore(1, out, dry_run=True)) == kinds(result)
            assert repo.restore(1, out, delete_extra=True).deleted_files == 0
            assert set(os.listdir(tmp_path)) - before <= {"out"}
            assert not os.path.lexists("/evil")
            shutil.rmtree(str(out))


def test_a_file_below_a_symlink_of_the_snapshot_is_not_written(repo: Repository, tmp_path: Path, out: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    source = tmp_path / "source"
    write(source / "sub" / "evil", b"evil")
    (source / "link").symlink_to(outside)
    repo.snapshot(source)
    sql(repo.path, "UPDATE files SET path = 'link/evil' WHERE path = 'sub/evil'")
    for _ in range(2):
        result = repo.restore(1, out, verify=True)
        assert os.listdir(outside) == []
        assert "link/evil" in [problem.path for problem in result.problems]


def test_a_path_that_is_a_symlink_and_a_directory_is_not_followed(repo: Repository, tmp_path: Path, out: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    source = tmp_path / "source"
    write(source / "sub" / "evil", b"evil")
    (source / "link").symlink_to(outside)
    repo.snapshot(source)
    write(source / "sub" / "evil", b"evil again")
    repo.snapshot(source)
    statement = "UPDATE files SET path = ?, first = 2, last = NULL WHERE path = ? AND last IS NULL"
    sql(repo.path, statement, "link", "sub")
    sql(repo.path, statement, "link/evil", "sub/evil")
    for policy in POLICIES:
        repo.restore(2, out, overwrite=policy, verify=True, delete_extra=True)
        assert os.listdir(outside) == []


def test_a_file_below_a_file_is_a_problem_and_the_rest_is_restored(repo: Repository, tmp_path: Path, out: Path) -> None:
    source = write_tree(tmp_path / "source", {"file": b"file", "sub/below": b"below", "good": b"good"})
    repo.snapshot(source)
    sql(repo.path, "UPDATE files SET path = 'file/below' WHERE path = 'sub/below'")
    result = repo.restore(1, out)
    assert {problem.path for problem in result.problems} & {"file", "file/below"}
    assert (out / "good").read_bytes() == b"good"
    assert leftovers(out) == []


FORGED = ("'x'", "x'00'", "NULL", "-1", "1 << 40", "-9223372036854775808")


@pytest.mark.parametrize(
    "column",
    ["kind", "mode", "uid", "gid", "mtime_ns", "size", "content", "sparse", "rdev", "target", "xattrs", "link"],
)
def test_a_forged_value_hurts_its_own_file_alone(forgeable: Path, tmp_path: Path, out: Path, column: str) -> None:
    for value in FORGED:
        statement = f"UPDATE files SET {column} = {value} WHERE path LIKE '%victim%'"
        for repo in forged(forgeable, tmp_path, statement):
            for _ in range(2):
                result = repo.restore(1, out, verify=True)
                assert (out / "good").read_bytes() == b"good"
                assert [problem for problem in result.problems if "victim" not in problem.path] == []
                assert leftovers(out) == []
            shutil.rmtree(str(out))


@pytest.mark.parametrize("column", ["size", "pack", "offset", "hash", "layout"])
def test_a_forged_content_hurts_its_own_file_alone(forgeable: Path, tmp_path: Path, out: Path, column: str) -> None:
    for value in FORGED:
        for repo in forged(forgeable, tmp_path, f"UPDATE contents SET {column} = {value} WHERE size = 6"):
            result = repo.restore(1, out, verify=True)
            assert (out / "good").read_bytes() == b"good"
            if (out / "sub" / "victim").exists():
                assert ((out / "sub" / "victim").read_bytes(), result.problems) == (b"victim", ())
            else:
                assert [problem.path for problem in result.problems] == ["sub/victim"]
            shutil.rmtree(str(out))


def test_a_missing_row_of_a_directory_hurts_nothing_in_it(repo: Repository, tree: Path, out: Path) -> None:
    repo.snapshot(tree)
    sql(repo.path, "DELETE FROM files WHERE path = 'docs'")
    sql(repo.path, "UPDATE files SET kind = 'e' WHERE path = 'docs/deep'")
    result = repo.restore(1, out)
    assert (out / "docs" / "deep" / "c.bin").read_bytes() == (tree / "docs" / "deep" / "c.bin").read_bytes()
    assert (out / "docs" / "copy of b.txt").read_bytes() == b"b" * 2000
    assert result.restored_files == 5


# Damage.


@pytest.fixture
def two_packs(repo: Repository, tmp_path: Path) -> Path:
    """A source with contents in two packs, those of the first snapshot and those of the second."""
    source = tmp_path / "source"
    write(source / "first", b"first")
    write(source / "large", random_bytes(3 << 20))
    os.link(source / "first", source / "link")
    repo.snapshot(source)
    write(source / "second", b"second")
    repo.snapshot(source)
    return source


def test_a_damaged_content_is_a_problem_and_the_others_are_restored(
    repo: Repository, two_packs: Path, out: Path
) -> None:
    write(out / "first", b"an older one")
    pack = sql(repo.path, "SELECT pack FROM contents WHERE size = 5")[0][0]
    sql(repo.path, "UPDATE packs SET data = zeroblob(length(data)) WHERE id = ?", pack)
    result = repo.restore(2, out)
    assert ("content-corrupt", "first") in kinds(result)
    assert ("content-corrupt", "link") in kinds(result)
    problem = next(problem for problem in result.problems if problem.path == "first")
    assert problem.snapshots == (2,)
    assert problem.content is not None
    assert len(problem.content) == 64
    assert (out / "first").read_bytes() == b"an older one"
    assert not (out / "link").exists()
    assert (out / "second").read_bytes() == b"second"
    assert leftovers(out) == []


def test_a_large_file_with_a_damaged_chunk_does_not_take_its_name(repo: Repository, two_packs: Path, out: Path) -> None:
    write(out / "large", b"an older one")
    rows = sql(repo.path, "SELECT part FROM parts ORDER BY offset")
    sql(repo.path, "UPDATE contents SET hash = zeroblob(32) WHERE id = ?", rows[len(rows) // 2][0])
    result = repo.restore(2, out, verify=True)
    assert kinds(result) == [("content-corrupt", "large")]
    assert (out / "large").read_bytes() == b"an older one"
    assert (out / "first").read_bytes() == b"first"
    assert leftovers(out) == []
    assert (result.restored_files, result.verified_files) == (3, 3)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM parts WHERE offset = 0",
        "DELETE FROM parts",
        "UPDATE parts SET part = NULL WHERE offset = 0",
        "UPDATE parts SET offset = offset + 1",
        "DELETE FROM contents WHERE layout IS NOT NULL",
        "UPDATE contents SET size = size + 1 WHERE layout IS NOT NULL",
    ],
)
def test_a_damaged_list_of_chunks_is_noticed(repo: Repository, two_packs: Path, out: Path, statement: str) -> None:
    sql(repo.path, statement)
    result = repo.restore(2, out)
    assert kinds(result) == [("content-corrupt", "large")]
    assert names(out) == ["first", "link", "second"]


def test_a_missing_pack_is_a_problem_for_its_files(repo: Repository, two_packs: Path, out: Path) -> None:
    pack = sql(repo.path, "SELECT pack FROM contents WHERE size = 6")[0][0]
    sql(repo.path, "DELETE FROM packs WHERE id = ?", pack)
    result = repo.restore(2, out)
    assert kinds(result) == [("content-corrupt", "second")]
    assert (out / "first").read_bytes() == b"first"


def test_a_damaged_file_that_is_there_already_needs_no_content(repo: Repository, two_packs: Path, out: Path) -> None:
    repo.restore(2, out)
    sql(repo.path, "UPDATE packs SET data = zeroblob(length(data))")
    assert repo.restore(2, out).problems == ()
    assert differences(two_packs, out) == []


# Other errors.


@pytest.mark.parametrize("reference", [3, 0, -1, 1 << 70, "3", "newest", "", "²", True, "9" * 5000])
def test_a_missing_snapshot_is_an_error_that_lists_those_there_are(
    repo: Repository, tree: Path, out: Path, reference: Any
) -> None:
    repo.snapshot(tree)
    repo.snapshot(tree)
    with pytest.raises(SnapshotNotFoundError, match="there are: 1, 2") as caught:
        repo.restore(reference, out)
    assert (caught.value.reference, caught.value.available) == (reference, (1, 2))
    assert not out.exists()


def test_without_a_repository_nothing_is_made(repo: Repository, out: Path) -> None:
    with pytest.raises(RepositoryNotFoundError):
        repo.restore("latest", out)
    assert not out.exists()
    assert not os.path.exists(repo.path)


def test_an_empty_repository_has_no_latest_snapshot(repo: Repository, tree: Path, out: Path) -> None:
    repo.snapshot(tree)
    repo.prune(1)
    with pytest.raises(SnapshotNotFoundError, match="the repository has none yet"):
        repo.restore("latest", out)


@needs_root
def test_a_full_file_system_ends_the_restore_and_a_second_run_finishes_it(
    repo: Repository, tmp_path: Path, out: Path
) -> None:
    source = tmp_path / "source"
    for number in range(12):
        write(source / f"{number}", random_bytes(300_000, seed=number))
    write(source / "large", random_bytes(2 << 20, seed=99))
    repo.snapshot(source)
    out.mkdir()
    with mounted(out, "2m"):
        with pytest.raises(RestoreError, match=r"No space left.*run it again") as caught:
            repo.restore(1, out)
        assert caught.value.path == str(out)
        assert leftovers(out) == []
        present = names(out)
        assert 0 < len(present) < 13
        for name in present:
            assert (out / name).read_bytes() == (source / name).read_bytes()
        subprocess.run([program("mount"), "-o", "remount,size=20m", str(out)], check=True)
        result = repo.restore(1, out)
        assert (result.problems, result.unchanged_files) == ((), len(present))
        assert differences(source, out) == []


@needs_root
def test_a_read_only_file_system_is_one_error(repo: Repository, tree: Path, out: Path) -> None:
    repo.snapshot(tree)
    out.mkdir()
    with mounted(out):
        subprocess.run([program("mount"), "-o", "remount,ro", str(out)], check=True)
        with pytest.raises(RestoreError, match="it cannot be written to; name another directory"):
            repo.restore(1, out)
        assert repo.restore(1, out, dry_run=True).restored_files == 5


# Ordinary users.


def restore_as_nobody(place: Path, **options: Any) -> RestoreResult:
    """Restore the newest snapshot of the repository of a place into its directory ``out``, as an ordinary user."""

    def run() -> RestoreResult:
        with Repository(place / "backups.db") as repo:
            return repo.restore("latest", place / "out", **options)

    return as_nobody(run)


@pytest.fixture
def roots_backup(public_path: Path) -> Path:
    """A repository that everyone may read, with files of several users in it."""
    source = public_path / "source"
    for name, uid, mode in (
        ("mine", NOBODY, 0o640),
        ("root's", 0, 0o600),
        ("setuid root's", 0, 0o4755),
        ("setgid of 1", 1, 0o2755),
        ("setuid mine", NOBODY, 0o4711),
        ("sub/root's too", 0, 0o644),
    ):
        path = write(source / name, name.encode())
        os.chown(path, uid, uid)
        path.chmod(mode)
    os.chown(source, 0, 0)
    os.mknod(source / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.setxattr(source / "mine", "trusted.x", b"1")
    with Repository(public_path / "backups.db") as repo:
        repo.snapshot(source)
    os.chmod(public_path / "backups.db", 0o644)
    return public_path


@needs_root
def test_what_only_root_may_restore_is_reported_once_with_a_count(roots_backup: Path) -> None:
    result = restore_as_nobody(roots_backup, verify=True)
    found = {problem.kind: problem for problem in result.problems}
    assert sorted(found) == ["device-not-restored", "owner-not-restored", "xattr-not-restored"]
    assert len(result.problems) == 3
    assert found["owner-not-restored"].count == 6
    assert "6 files, this one the first" in found["owner-not-restored"].message
    assert "only root may" in found["owner-not-restored"].message
    assert (found["device-not-restored"].count, found["device-not-restored"].path) == (1, "null")
    assert "1 file:" in found["device-not-restored"].message
    assert result.verified_files == 6
    source, out = roots_backup / "source", roots_backup / "out"
    for name in ("mine", "root's", "sub/root's too", "setuid mine"):
        assert (out / name).read_bytes() == (source / name).read_bytes()
        assert (out / name).stat().st_mode == (source / name).stat().st_mode
        assert (out / name).stat().st_mtime_ns == (source / name).stat().st_mtime_ns


@needs_root
def test_setuid_is_never_restored_without_its_owner(roots_backup: Path) -> None:
    for policy in ("always", "if-changed"):
        restore_as_nobody(roots_backup, overwrite=policy)
        for name, mode in (("setuid root's", 0o755), ("setgid of 1", 0o755), ("setuid mine", 0o4711)):
            status = (roots_backup / "out" / name).stat()
            assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (NOBODY, mode)


def test_a_user_can_restore_into_directories_that_were_made_read_only(public_path: Path) -> None:
    source, out = public_path / "source", public_path / "out"

    def save() -> None:
        write(source / "sub" / "file", b"data")
        write(source / "sub" / "other", b"data")
        (source / "sub").chmod(0o555)
        source.chmod(0o500)
        with Repository(public_path / "backups.db") as repo:
            repo.snapshot(source)
            repo.restore(1, out)
            os.chmod(out / "sub", 0o700)
            write(out / "sub" / "file", b"changed")
            os.unlink(out / "sub" / "other")
            os.chmod(out / "sub", 0o111)

    as_nobody(save)
    result = restore_as_nobody(public_path)
    assert (result.problems, result.restored_files) == ((), 2)
    assert differences(source, out) == []


@pytest.mark.parametrize("options", [{"include": ["file"]}, {"overwrite": "never"}])
def test_a_read_only_directory_that_nobody_asked_for_is_read_only_again(
    public_path: Path, options: Dict[str, Any]
) -> None:
    source, out = public_path / "source", public_path / "out"

    def save() -> None:
        write(source / "sub" / "file", b"data")
        (out / "sub").mkdir(parents=True)
        (out / "sub").chmod(0o511)
        with Repository(public_path / "backups.db") as repo:
            repo.snapshot(source)

    as_nobody(save)
    result = restore_as_nobody(public_path, **options)
    assert (result.problems, result.restored_files) == ((), 1)
    assert stat.S_IMODE((out / "sub").stat().st_mode) == 0o511


def test_a_destination_that_takes_no_files_is_one_error(public_path: Path) -> None:
    source = write_tree(public_path / "source", {"a": b"a", "b": b"b"})
    out = public_path / "out"

    def save() -> None:
        with Repository(public_path / "backups.db") as repo:
            repo.snapshot(source)

    as_nobody(save)
    out.mkdir()
    out.chmod(0o755 if os.geteuid() == 0 else 0o555)
    if os.geteuid() != 0:
        pytest.skip("one's own directory can be opened up")
    with pytest.raises(RestoreError, match="it cannot be written to; name another directory"):
        restore_as_nobody(public_path)
    with pytest.raises(RestoreError, match="Permission denied; name another directory"):
        as_nobody(lambda: Repository(public_path / "backups.db").restore(1, out / "sub"))


@needs_root
def test_a_directory_in_the_destination_that_is_not_ones_own_is_a_problem_for_its_files(public_path: Path) -> None:
    write_tree(public_path / "source", {"good": b"good", "sub/file": b"data"})
    with Repository(public_path / "backups.db") as repo:
        repo.snapshot(public_path / "source")
    os.chmod(public_path / "backups.db", 0o644)
    out = public_path / "out"
    (out / "sub").mkdir(parents=True)
    os.chown(out, NOBODY, NOBODY)
    (out / "sub").chmod(0o555)
    result = restore_as_nobody(public_path)
    assert ("not-written", "sub/file") in kinds(result)
    assert (out / "good").read_bytes() == b"good"


def test_what_a_user_may_not_read_back_is_no_mismatch(public_path: Path) -> None:
    def save() -> None:
        write_tree(public_path / "source", {"good": b"good", "closed": b"closed"})
        with Repository(public_path / "backups.db") as repo:
            repo.snapshot(public_path / "source")
            repo.restore(1, public_path / "out")
        (public_path / "out" / "closed").chmod(0)

    as_nobody(save)
    result = restore_as_nobody(public_path, verify=True, overwrite="never")
    assert kinds(result) == [("unreadable", "closed")]
    assert result.verified_files == 1


def test_what_a_user_cannot_list_is_a_problem_where_extra_files_are_deleted(public_path: Path) -> None:
    out = public_path / "out"

    def save() -> None:
        write_tree(public_path / "source", {"good": b"good"})
        with Repository(public_path / "backups.db") as repo:
            repo.snapshot(public_path / "source")
        write(out / "closed" / "file", b"extra")
        (out / "closed").chmod(0)

    as_nobody(save)
    result = restore_as_nobody(public_path, delete_extra=True)
    assert kinds(result) == [("not-removed", "closed"), ("unreadable", "closed")]
    assert (out / "good").read_bytes() == b"good"


# Progress.


def test_progress_tells_the_phases_in_their_order(repo: Repository, tree: Path, out: Path) -> None:
    repo.snapshot(tree)
    repo.restore(1, out)
    write(out / "extra", b"extra")
    events: List[ProgressEvent] = []
    watched(repo, 1, out, events.append, overwrite="always", delete_extra=True, verify=True)
    phases = list(dict.fromkeys(event.phase for event in events))
    assert phases == ["restore", "delete", "metadata", "verify"]
    for phase in phases:
        done = [event.done_files for event in events if event.phase == phase]
        assert done == sorted(done)
        assert all(event.total_files is not None and event.done_files <= event.total_files for event in events)
    restored = [event for event in events if event.phase == "restore"]
    assert sorted(event.path for event in restored) == sorted(
        ["a.txt", "b.txt", "empty", "docs/copy of b.txt", "docs/deep/c.bin"]
    )
    assert {event.total_bytes for event in restored} == {6001}


def test_a_socket_file_does_not_make_a_restore_wait(repo: Repository, tree: Path, out: Path) -> None:
    """A FIFO in the place of a file must not be opened and waited for."""
    repo.snapshot(tree)
    out.mkdir()
    for name in ("a.txt", "b.txt", "docs"):
        os.mkfifo(out / name)
    for options in ({"overwrite": "never"}, {"dry_run": True}, {"verify": True, "delete_extra": True}):
        repo.restore(1, out, **options)
    assert differences(tree, out) == []
