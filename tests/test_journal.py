"""Journals beside a repository: those of SQLite are rolled back, one that would remove another file is refused."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from conftest import Clock, as_nobody, write_tree
from reliability.forging import journal_naming
from trees import needs_root

from backuptool import CorruptionError, Repository, RepositoryNotWritableError
from backuptool.storage.journal import named_file


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A file that has nothing to do with a repository."""
    path = tmp_path / "elsewhere"
    path.write_bytes(b"somebody's only copy\n")
    return path


def test_journal_that_names_another_file_is_refused_and_the_file_stays(
    repo: Repository, tree: Path, elsewhere: Path
) -> None:
    repo.snapshot(tree)
    repo.close()
    Path(repo.path + "-journal").write_bytes(journal_naming(elsewhere))
    for use in (repo.list, repo.check, lambda: repo.snapshot(tree), lambda: repo.prune(1)):
        with pytest.raises(CorruptionError, match=r"backups\.db-journal would have SQLite remove .*elsewhere"):
            use()
    assert elsewhere.read_bytes() == b"somebody's only copy\n"
    Path(repo.path + "-journal").unlink()
    assert repo.check().problems == ()


def test_sqlite_by_itself_would_remove_the_file(repo: Repository, tree: Path, elsewhere: Path) -> None:
    repo.snapshot(tree)
    repo.close()
    Path(repo.path + "-journal").write_bytes(journal_naming(elsewhere))
    with closing(sqlite3.connect(repo.path)) as connection:
        try:
            connection.execute("SELECT 1 FROM snapshots").fetchall()
        except sqlite3.Error:
            pass
    assert not elsewhere.exists()


@pytest.mark.plain
def test_journal_of_a_killed_writer_names_nothing(repo: Repository, tree: Path, tmp_path: Path) -> None:
    repo.snapshot(tree)
    repo.close()
    with closing(sqlite3.connect(repo.path)) as connection:
        connection.execute("PRAGMA cache_size=1")
        connection.execute("UPDATE files SET mtime_ns = mtime_ns + 1")
        connection.execute("INSERT INTO packs VALUES (99, 0, 0, 0, 'raw', zeroblob(3000000))")
        journal = Path(repo.path + "-journal").read_bytes()
        connection.rollback()
    (tmp_path / "copy-journal").write_bytes(journal)
    assert len(journal) > 16384
    assert named_file(str(tmp_path / "copy")) is None


@pytest.mark.parametrize("change", ["shorter", "checksum", "longer name", "no name", "empty", "missing"])
def test_what_only_looks_like_such_a_journal_names_nothing(tmp_path: Path, elsewhere: Path, change: str) -> None:
    journal = bytearray(journal_naming(elsewhere))
    path = tmp_path / "backups.db-journal"
    path.write_bytes(journal)
    assert named_file(str(tmp_path / "backups.db")) == bytes(elsewhere)
    if change == "shorter":
        del journal[-1]
    elif change == "checksum":
        journal[-9] ^= 1
    elif change == "longer name":
        journal[-16:-12] = b"\x7f\xff\xff\xff"
    elif change == "no name":
        journal[-16:-12] = bytes(4)
    elif change == "empty":
        del journal[:]
    path.write_bytes(journal)
    if change == "missing":
        path.unlink()
    assert named_file(str(tmp_path / "backups.db")) is None


@needs_root
@pytest.mark.plain
def test_journal_that_cannot_be_rolled_back_is_named_with_what_to_do(public_path: Path, clock: Clock) -> None:
    path = public_path / "read-only" / "backups.db"
    path.parent.mkdir()
    with Repository(path) as repo:
        repo.snapshot(write_tree(public_path / "tree", {"a": b"a"}))
    with closing(sqlite3.connect(str(path))) as connection:
        connection.execute("PRAGMA cache_size=1")
        connection.execute("UPDATE files SET mtime_ns = mtime_ns + 1")
        connection.execute("INSERT INTO packs VALUES (99, 0, 0, 0, 'raw', zeroblob(3000000))")
        copies = [(name, Path(name).read_bytes()) for name in (str(path), f"{path}-journal")]
        connection.rollback()
    for name, data in copies:
        Path(name).write_bytes(data)
        os.chmod(name, 0o444)
    path.parent.chmod(0o555)

    def look() -> object:
        with Repository(path) as repo:
            return repo.list()

    with pytest.raises(
        RepositoryNotWritableError, match=r"must be rolled back before anything is read.*writable, or copy"
    ):
        as_nobody(look)
    with Repository(path) as repo:  # root may
        assert len(repo.list()) == 1
