"""What an ordinary user can restore."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, Dict

import pytest
from conftest import NOBODY, as_nobody, write, write_tree
from trees import differences, needs_root

from backuptool import Repository, RestoreError, RestoreResult

from .making import kinds


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
