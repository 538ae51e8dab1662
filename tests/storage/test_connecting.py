"""Opening and creating repositories, and those of earlier formats."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Callable, Dict, Iterator, Tuple, Type

import pytest
from conftest import Clock, as_nobody, new_database, write, write_tree

from backuptool import (
    BackuptoolError,
    CorruptionError,
    NotARepositoryError,
    Repository,
    RepositoryError,
    RepositoryNotFoundError,
    RepositoryNotWritableError,
    UnsupportedFormatError,
)
from backuptool.storage import schema
from backuptool.storage.chunking import CHUNKING
from backuptool.storage.connecting import create_database, open_database
from backuptool.storage.database import Database
from backuptool.storage.schema import APPLICATION_ID, FORMAT


@pytest.mark.plain
def test_new_repository_is_what_the_format_says(database: Database) -> None:
    status = os.stat(database.path)
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert database.page_size() == 16384
    assert database.value("PRAGMA auto_vacuum") == 2
    assert database.value("PRAGMA application_id") == APPLICATION_ID == int.from_bytes(b"bkup", "big")
    assert database.value("PRAGMA user_version") == FORMAT == 2
    assert database.value("PRAGMA journal_mode") == b"truncate"
    assert database.value("PRAGMA synchronous") == 2
    assert database.value("PRAGMA foreign_keys") == 1
    assert database.value("PRAGMA trusted_schema") in (0, None)  # None where SQLite is older than the setting
    assert database.value("PRAGMA mmap_size") == 0
    assert database.file_bytes() == status.st_size
    with open(database.path, "rb") as file:
        assert file.read(16) == b"SQLite format 3\0"


def test_created_repository_is_opened_the_second_time(tmp_path: Path) -> None:
    with closing(new_database(tmp_path / "r.db")) as first:
        first.execute("UPDATE settings SET value = 'first' WHERE name = 'id'")
    with closing(new_database(tmp_path / "r.db")) as second:
        assert second.value("SELECT value FROM settings WHERE name = 'id'") == b"first"


@pytest.mark.plain
def test_locks_of_other_connections_of_this_process_hold(tmp_path: Path) -> None:
    # A notebook may ask the file with SQLite of its own. Closing any descriptor of it would drop what it has locked.
    write(tmp_path / "tree/file", b"bytes")
    path = tmp_path / "r.db"
    with Repository(path) as repo:
        repo.snapshot(tmp_path / "tree")
    ask = (
        "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None).execute('BEGIN IMMEDIATE')"
    )
    with closing(sqlite3.connect(path, isolation_level=None)) as mine:
        mine.execute("BEGIN IMMEDIATE")
        with Repository(path) as repo:
            assert not repo.encrypted
            assert len(repo.list()) == 1
        asked = subprocess.run([sys.executable, "-c", ask, str(path)], stderr=subprocess.PIPE, check=False)
        assert b"database is locked" in asked.stderr


def old_repository(path: Path, number: int = 1) -> Path:
    """A repository of an earlier format that holds one snapshot of one file."""
    write(path.parent / "tree/file", b"old")
    with Repository(path) as repo:
        repo.snapshot(path.parent / "tree")
    with closing(sqlite3.connect(path)) as connection:
        for text in reversed(schema.statements(number + 1)):
            kind, name = text.split()[1:3]
            if kind == "TABLE":
                connection.execute(f"DROP TABLE {name}")
        connection.execute(f"PRAGMA user_version={number}")
    return path


@pytest.mark.plain
def test_earlier_format_is_read_without_being_changed(tmp_path: Path) -> None:
    path = old_repository(tmp_path / "old.db")
    before = path.read_bytes()
    with Repository(path) as repo:
        assert [snapshot.files for snapshot in repo.list()] == [1]
        assert repo.check().problems == ()
        repo.restore(1, tmp_path / "out")
    assert (tmp_path / "out/file").read_bytes() == b"old"
    assert path.read_bytes() == before


@pytest.mark.plain
def test_earlier_format_is_upgraded_by_the_first_write_and_holds_what_it_held(tmp_path: Path) -> None:
    path = old_repository(tmp_path / "old.db")
    with Repository(path) as other, Repository(path) as repo:
        assert len(other.list()) == 1  # has the file of the old format open
        write(tmp_path / "tree/new", b"new")
        repo.snapshot(tmp_path / "tree")
        assert repo.check().problems == ()
        assert [snapshot.files for snapshot in other.list()] == [1, 2]
        other.prune(1)
        assert other.check().problems == ()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (FORMAT,)
        texts = [text for (text,) in connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")]
        assert set(schema.statements()) <= set(texts)


@pytest.mark.plain
def test_earlier_format_that_several_write_to_at_once_is_upgraded_once(tmp_path: Path) -> None:
    path = old_repository(tmp_path / "old.db")
    together = threading.Barrier(4)

    def run(number: int) -> int:
        with Repository(path) as repo:
            repo.list()
            write(tmp_path / f"tree-{number}/file", b"%d" % number)
            together.wait()
            return repo.snapshot(tmp_path / f"tree-{number}").snapshot.id

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(run, range(4))) == [2, 3, 4, 5]
    with Repository(path) as repo:
        assert repo.check().problems == ()


@pytest.mark.plain
def test_upgrade_that_is_interrupted_leaves_the_earlier_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = old_repository(tmp_path / "old.db")
    before = path.read_bytes()
    script = (
        "import os, sys\n"
        "from backuptool.storage.connecting import open_database\n"
        "from backuptool.storage.format import upgrade\n"
        "database = open_database(sys.argv[1], 1.0)\n"
        "query = database.query\n"
        "def until_the_last_statement(sql, *parameters):\n"
        "    return os._exit(9) if sql.startswith('PRAGMA user_version=') else query(sql, *parameters)\n"
        "database.query = until_the_last_statement\n"
        "upgrade(database)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(path)], check=False).returncode == 9
    with Repository(path) as repo:
        assert repo.check().problems == ()
    assert path.read_bytes() == before


@pytest.mark.plain
def test_empty_file_becomes_a_repository_when_one_is_to_be_created(tmp_path: Path) -> None:
    (tmp_path / "r.db").touch()
    with closing(new_database(tmp_path / "r.db")) as database:
        assert database.query("SELECT * FROM snapshots") == []


def test_repository_created_by_several_at_once_is_created_once(tmp_path: Path) -> None:
    together = threading.Barrier(8)

    def run(number: int) -> bytes:
        together.wait()
        with closing(create_database(str(tmp_path / "r.db"), 30.0, [("id", str(number)), *CHUNKING.settings()])) as one:
            value: bytes = one.value("SELECT value FROM settings WHERE name = 'id'")
            return value

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(run, range(8)))) == 1
    with Repository(tmp_path / "r.db") as repo:
        assert repo.check().problems != ()  # "0" … "7" are no ids of 16 bytes; everything else is sound
        assert [problem.message for problem in repo.check().problems] == ["the settings of the repository are damaged"]


@pytest.mark.parametrize(
    "name", ["with space.db", "a?b.db", "a#b.db", "100%.db", "%41.db", "\u00e9.db", "\udcff.db", "'.db"]
)
@pytest.mark.plain
def test_any_name_may_be_that_of_a_repository(tmp_path: Path, tree: Path, name: str, clock: Clock) -> None:
    with Repository(str(tmp_path / name)) as repo:
        repo.snapshot(tree)
        assert repo.check().problems == ()
    assert os.fsencode(name) in os.listdir(os.fsencode(str(tmp_path)))
    assert len([entry for entry in os.listdir(str(tmp_path)) if ".db" in entry and "-journal" not in entry]) == 1


def foreign(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(str(path))) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def restic_like(path: Path) -> None:
    path.mkdir()
    (path / "config").write_text("x")
    (path / "data").mkdir()


#: How something else comes to be at the path, and what is said about it.
OTHERS: Dict[str, Tuple[Callable[[Path], object], Type[BackuptoolError], str]] = {
    "directory": (lambda path: path.mkdir(), NotARepositoryError, "is a directory; a repository is one file"),
    "restic": (restic_like, NotARepositoryError, "looks like a repository of restic or borg"),
    "fifo": (lambda path: os.mkfifo(str(path)), NotARepositoryError, "not a regular file"),
    "device": (lambda path: path.symlink_to("/dev/null"), NotARepositoryError, "not a regular file"),
    "short text": (lambda path: path.write_bytes(b"hello\n"), NotARepositoryError, "not a backuptool repository"),
    "long text": (lambda path: path.write_bytes(b"hello\n" * 9999), NotARepositoryError, "not a backuptool repository"),
    "zeros": (lambda path: path.write_bytes(bytes(32768)), NotARepositoryError, "not a backuptool repository"),
    "foreign SQLite": (lambda path: foreign(path, "CREATE TABLE t (x)"), NotARepositoryError, "not a backuptool"),
    "newer format": (
        lambda path: foreign(path, f"PRAGMA application_id={APPLICATION_ID}", f"PRAGMA user_version={FORMAT + 1}"),
        UnsupportedFormatError,
        f"has format {FORMAT + 1}, and this version knows formats up to {FORMAT}",
    ),
    "no format": (
        lambda path: foreign(path, f"PRAGMA application_id={APPLICATION_ID}", "CREATE TABLE t (x)"),
        CorruptionError,
        "has 0 as the number of the format",
    ),
    "other tables": (
        lambda path: foreign(path, f"PRAGMA application_id={APPLICATION_ID}", "PRAGMA user_version=1"),
        CorruptionError,
        "not those of format 1",
    ),
}


@pytest.mark.parametrize("kind", sorted(OTHERS))
def test_something_else_is_refused_and_left_as_it_is(tmp_path: Path, tree: Path, kind: str) -> None:
    make, error, message = OTHERS[kind]
    path = tmp_path / "backups.db"
    make(path)
    regular = path.is_file() and not path.is_symlink()
    before = path.read_bytes() if regular else None
    with Repository(path) as repo:
        for verb in (repo.list, repo.check, lambda: repo.prune(1), lambda: repo.snapshot(tree)):
            with pytest.raises(error, match=message) as caught:
                verb()
            assert getattr(caught.value, "path") == str(path)  # noqa: B009  (not every error has one)
    assert (path.read_bytes() if regular else None) == before


def test_newer_format_tells_both_numbers(tmp_path: Path) -> None:
    OTHERS["newer format"][0](tmp_path / "r.db")
    with pytest.raises(UnsupportedFormatError) as caught:
        open_database(str(tmp_path / "r.db"), 1.0)
    assert (caught.value.found, caught.value.supported) == (FORMAT + 1, FORMAT)


def test_missing_file_is_not_created_by_reading(tmp_path: Path) -> None:
    with pytest.raises(RepositoryNotFoundError, match="no repository at"):
        open_database(str(tmp_path / "r.db"), 1.0)
    with pytest.raises(RepositoryNotFoundError):
        open_database(str(tmp_path / "missing" / "r.db"), 1.0)
    assert os.listdir(str(tmp_path)) == []


def test_missing_directory_is_an_error_when_one_is_to_be_created(tmp_path: Path, tree: Path) -> None:
    with Repository(tmp_path / "missing" / "r.db") as repo, pytest.raises(
        RepositoryNotWritableError, match="No such file or directory"
    ):
        repo.snapshot(tree)


def test_file_in_the_place_of_a_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RepositoryError, match=r"cannot open the repository .*Not a directory"):
        open_database(str(tmp_path / "file" / "r.db"), 1.0)


@pytest.fixture
def public_repo(public_path: Path, clock: Clock) -> Iterator[Repository]:
    """A repository of root's with one snapshot, which others may read."""
    if os.geteuid() != 0:
        pytest.skip("only root can make files of others")
    write_tree(public_path / "tree", {"a": b"a"})
    with Repository(public_path / "repo" / "backups.db") as repo:
        (public_path / "repo").mkdir()
        repo.snapshot(public_path / "tree")
        os.chmod(repo.path, 0o644)
        yield repo


def test_read_only_repository_is_listed_checked_and_restored(public_repo: Repository, public_path: Path) -> None:
    before = Path(public_repo.path).read_bytes()

    def run() -> None:
        with Repository(public_repo.path) as repo:
            assert len(repo.list()) == 1
            assert repo.check().problems == ()
            assert repo.check(quick=True).problems == ()
            assert repo.restore(1, public_path / "out").restored_files == 1
            for verb in (lambda: repo.snapshot(public_path / "tree"), lambda: repo.prune(1)):
                with pytest.raises(
                    RepositoryNotWritableError,
                    match="is read-only: what only reads it works",
                ):
                    verb()

    as_nobody(run)
    assert (public_path / "out" / "a").read_bytes() == b"a"
    assert Path(public_repo.path).read_bytes() == before
    assert os.listdir(str(public_path / "repo")) == ["backups.db"]


def test_writable_repository_in_a_read_only_directory_is_an_error(public_repo: Repository, public_path: Path) -> None:
    os.chmod(public_repo.path, 0o666)
    os.chmod(str(public_path / "repo"), 0o755)

    def run() -> None:
        with Repository(public_repo.path) as repo:
            assert len(repo.list()) == 1
            repo.prune(1)

    with pytest.raises(RepositoryNotWritableError, match="is read-only: what only reads it works"):
        as_nobody(run)
    assert len(public_repo.list()) == 1


def test_unreadable_repository_is_an_error(public_repo: Repository) -> None:
    os.chmod(public_repo.path, 0)

    def run() -> None:
        with Repository(public_repo.path) as repo:
            repo.list()

    with pytest.raises(RepositoryError, match="check the permissions"):
        as_nobody(run)


def test_repository_in_an_unreachable_directory_is_an_error(public_repo: Repository, public_path: Path) -> None:
    os.chmod(str(public_path / "repo"), 0)

    def run() -> None:
        with Repository(public_repo.path) as repo:
            repo.list()

    with pytest.raises(RepositoryError, match="Permission denied"):
        as_nobody(run)


@pytest.mark.parametrize(
    ("text", "broken"), [(b"CREATE TABLE packs", b"CREATE TABXE packs"), (b"files_last", b"files_\xff\xffst")]
)
@pytest.mark.plain
def test_broken_text_of_the_schema_is_refused(database: Database, text: bytes, broken: bytes) -> None:
    database.close()
    data = Path(database.path).read_bytes()
    Path(database.path).write_bytes(data.replace(text, broken))
    with pytest.raises(CorruptionError) as caught:
        open_database(database.path, 1.0)
    assert caught.value.path == database.path
    assert database.path in str(caught.value)
