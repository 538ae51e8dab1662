"""Restoring from a damaged repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import sql, write
from trees import differences, random_bytes

from backuptool import Repository

from .making import kinds, leftovers, names


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
    assert ("content-corrupt", "large") in kinds(result)
    assert {path for _, path in kinds(result)} <= {"large", "."}  # its hash may be what is lost
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


#: What one flipped bit can do to the rows of files: no content is hurt, and nothing in them is impossible.
ROWS = (
    "DELETE FROM files WHERE path = 'second'",
    "UPDATE files SET path = 'secont' WHERE path = 'second'",
    "UPDATE files SET mode = mode + 1 WHERE path = 'second'",
    "UPDATE files SET mtime_ns = mtime_ns + 1 WHERE path = 'second'",
    "UPDATE files SET uid = 'text' WHERE path = 'second'",
    "UPDATE files SET first = 3 WHERE path = 'second'",
    "UPDATE files SET last = 1 WHERE path = 'first'",
    "DELETE FROM files",
    "UPDATE snapshots SET tree_digest = zeroblob(32)",
)


@pytest.mark.parametrize("statement", ROWS)
def test_a_list_of_files_that_is_not_as_saved_is_told_and_nothing_extra_is_deleted(
    repo: Repository, two_packs: Path, out: Path, statement: str
) -> None:
    repo.restore(2, out)
    write(out / "extra", b"precious")
    before = names(out)
    sql(repo.path, statement)
    result = repo.restore(2, out, delete_extra=True)
    problem = next(problem for problem in result.problems if problem.kind == "snapshot-corrupt")
    assert "is not as it was saved" in problem.message
    assert "nothing extra was deleted" in problem.message
    assert result.deleted_files == 0
    assert set(before) <= set(names(out))
    assert not repo.check().ok


@pytest.mark.parametrize("statement", ROWS)
def test_neither_an_export_nor_a_drill_calls_such_a_snapshot_sound(
    repo: Repository, two_packs: Path, tmp_path: Path, statement: str
) -> None:
    sql(repo.path, statement)
    exported = repo.export_tar(2, tmp_path / "out.tar")
    assert "snapshot-corrupt" in [problem.kind for problem in exported.problems]
    drilled = repo.drill(2)
    assert "snapshot-corrupt" in [problem.kind for problem in drilled.problems]
    assert not drilled.drill.ok


def test_a_part_of_a_snapshot_whose_list_is_not_as_saved_is_told_as_well(
    repo: Repository, two_packs: Path, out: Path
) -> None:
    sql(repo.path, "DELETE FROM files WHERE path = 'second'")
    result = repo.restore(2, out, include=["first"])
    assert [problem.kind for problem in result.problems] == ["snapshot-corrupt"]
    assert names(out) == ["first"]
    assert repo.restore(1, out.with_name("another"), include=["first"]).problems == ()
