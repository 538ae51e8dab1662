"""Journals beside a repository: those of SQLite are rolled back, one that would remove another file is refused."""

from __future__ import annotations

import os
import shutil
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


# Write-ahead logs, and what is no file.


def write_ahead_log(place: Path) -> bytes:
    """Return the log of another database whose writer was killed."""
    with closing(sqlite3.connect(str(place / "another.db"))) as connection:
        connection.execute("PRAGMA journal_mode=wal")
        connection.execute("CREATE TABLE another (value)")
        connection.execute("INSERT INTO another VALUES (1)")
        connection.commit()
        return (place / "another.db-wal").read_bytes()


def test_write_ahead_log_of_another_database_is_refused_and_nothing_is_changed(
    repo: Repository, tree: Path, tmp_path: Path
) -> None:
    repo.snapshot(tree)
    repo.close()
    before = Path(repo.path).read_bytes()
    log = Path(repo.path + "-wal")
    log.write_bytes(write_ahead_log(tmp_path))
    for use in (repo.list, repo.check, lambda: repo.snapshot(tree), lambda: repo.restore(1, tmp_path / "out")):
        with pytest.raises(CorruptionError, match=r"backups\.db-wal, as no version of this program writes one"):
            use()
    assert Path(repo.path).read_bytes() == before
    log.unlink()
    assert repo.check().problems == ()


@pytest.mark.plain
def test_sqlite_by_itself_would_write_the_log_over_the_repository(repo: Repository, tree: Path, tmp_path: Path) -> None:
    """The control."""
    repo.snapshot(tree)
    repo.close()
    before = Path(repo.path).read_bytes()
    Path(repo.path + "-wal").write_bytes(write_ahead_log(tmp_path))
    with closing(sqlite3.connect(repo.path)) as connection:
        connection.execute("SELECT * FROM sqlite_master").fetchall()
    assert Path(repo.path).read_bytes() != before


@pytest.mark.plain
def test_what_a_database_browser_wrote_into_a_log_is_brought_back_as_the_message_says(
    repo: Repository, tree: Path, tmp_path: Path
) -> None:
    repo.snapshot(tree, note="by us")
    repo.close()
    with closing(sqlite3.connect(repo.path)) as connection:
        connection.execute("PRAGMA journal_mode=wal")
        connection.execute("CREATE TABLE theirs (value)")
        connection.execute("DROP TABLE theirs")
        connection.commit()
        assert os.path.getsize(repo.path + "-wal") > 0
        for suffix in ("", "-wal"):
            shutil.copyfile(repo.path + suffix, str(tmp_path / ("copy.db" + suffix)))
    with Repository(tmp_path / "copy.db") as copy:
        with pytest.raises(CorruptionError, match="PRAGMA journal_mode=DELETE"):
            copy.list()
        with closing(sqlite3.connect(copy.path)) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")
        assert copy.list()[0].note == "by us"
        assert copy.check().problems == ()


@pytest.mark.parametrize("kind", ["fifo", "directory", "symlink", "dangling"])
@pytest.mark.parametrize("suffix", ["-journal", "-wal"])
def test_what_is_no_file_in_the_place_of_a_journal_is_refused_at_once(
    repo: Repository, tree: Path, elsewhere: Path, kind: str, suffix: str
) -> None:
    repo.snapshot(tree)
    repo.close()
    beside = Path(repo.path + suffix)
    beside.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(beside)
    elif kind == "directory":
        beside.mkdir()
    else:
        beside.symlink_to(elsewhere if kind == "symlink" else "nowhere")
    for use in (repo.list, lambda: repo.snapshot(tree)):
        with pytest.raises(CorruptionError, match=f"{suffix} is no regular file"):
            use()
    assert elsewhere.read_bytes() == b"somebody's only copy\n"


@pytest.mark.parametrize("suffix", ["-journal", "-wal"])
def test_empty_files_beside_a_repository_do_no_harm(repo: Repository, tree: Path, suffix: str) -> None:
    repo.snapshot(tree)
    repo.close()
    Path(repo.path + suffix).write_bytes(b"")
    assert repo.check().problems == ()
    assert len(repo.list()) == 1
    repo.snapshot(tree)
