"""Nothing is written outside of the destination."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path
from typing import Iterator

import pytest
from conftest import sql, write, write_tree
from trees import differences, facts

from backuptool import Repository

from .making import POLICIES, kinds, leftovers


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
        if policy in ("always", "if-changed"):
            assert differences(tree, out) == []
        else:  # it is newer
            assert (out / "docs").is_symlink()
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
            assert [problem.kind for problem in result.problems] == ["snapshot-corrupt", "unsafe-path"]
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
@pytest.mark.plain
def test_a_forged_value_hurts_its_own_file_alone(forgeable: Path, tmp_path: Path, out: Path, column: str) -> None:
    for value in FORGED:
        statement = f"UPDATE files SET {column} = {value} WHERE path LIKE '%victim%'"
        for repo in forged(forgeable, tmp_path, statement):
            for _ in range(2):
                result = repo.restore(1, out, verify=True)
                assert (out / "good").read_bytes() == b"good"
                assert {kind for kind, path in kinds(result) if "victim" not in path} <= {"snapshot-corrupt"}
                assert leftovers(out) == []
            shutil.rmtree(str(out))


@pytest.mark.parametrize("column", ["size", "pack", "offset", "hash", "layout"])
@pytest.mark.plain
def test_a_forged_content_hurts_its_own_file_alone(forgeable: Path, tmp_path: Path, out: Path, column: str) -> None:
    for value in FORGED:
        for repo in forged(forgeable, tmp_path, f"UPDATE contents SET {column} = {value} WHERE size = 6"):
            result = repo.restore(1, out, verify=True)
            assert (out / "good").read_bytes() == b"good"
            if (out / "sub" / "victim").exists():
                assert ((out / "sub" / "victim").read_bytes(), result.problems) == (b"victim", ())
            else:
                assert {path for _, path in kinds(result)} - {"."} == {"sub/victim"}
            shutil.rmtree(str(out))


def test_a_missing_row_of_a_directory_hurts_nothing_in_it(repo: Repository, tree: Path, out: Path) -> None:
    repo.snapshot(tree)
    sql(repo.path, "DELETE FROM files WHERE path = 'docs'")
    sql(repo.path, "UPDATE files SET kind = 'e' WHERE path = 'docs/deep'")
    result = repo.restore(1, out)
    assert (out / "docs" / "deep" / "c.bin").read_bytes() == (tree / "docs" / "deep" / "c.bin").read_bytes()
    assert (out / "docs" / "copy of b.txt").read_bytes() == b"b" * 2000
    assert result.restored_files == 5
