from __future__ import annotations

import hashlib
import os
import random
import signal
import sqlite3
import stat
import struct
import subprocess
import sys
import threading
from array import array
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple, Type

import attrs
import pytest
from conftest import Clock, as_nobody, entries, new_database, noise, restored, sql, write, write_tree

from backuptool import (
    BackuptoolError,
    ContentCorruptError,
    ContentMissingError,
    CorruptionError,
    NotARepositoryError,
    Repository,
    RepositoryError,
    RepositoryLockedError,
    RepositoryNotFoundError,
    RepositoryNotWritableError,
    SnapshotNotFoundError,
    UnsupportedFormatError,
)
from backuptool.storage import schema
from backuptool.storage.arriving import Content, LargeContent
from backuptool.storage.chunking import CHUNKING, LARGE_FILE, Chunking, cut
from backuptool.storage.compression import RAW, SETTINGS, ZSTD, compress, decompress, salvage
from backuptool.storage.connecting import create_database, open_database
from backuptool.storage.contents import ContentLocation, HashFilter, find, insert_contents
from backuptool.storage.database import Database
from backuptool.storage.digest import FileVersion, hash_zeros, layout_entry, row_hash, snapshot_digest, to_bytes
from backuptool.storage.files import current_files, insert_versions, load_versions, row_version, version_row
from backuptool.storage.packs import PackCompressor, PackReader
from backuptool.storage.pool import ConnectionPool
from backuptool.storage.reader import ContentReader
from backuptool.storage.refcounts import ContentsVanishedError, add_refs, reference
from backuptool.storage.schema import APPLICATION_ID, FORMAT
from backuptool.storage.snapshots import find_snapshot, source_id
from backuptool.storage.unpacking import read_pack, unpack
from backuptool.storage.writer import ContentWriter

PACK_BYTES = SETTINGS["balanced"].pack_size
MIB = 1 << 20


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


@pytest.fixture
def database(tmp_path: Path, driver: str) -> Iterator[Database]:
    """An empty repository, on each driver."""
    with closing(new_database(tmp_path / "backups.db")) as opened:
        yield opened


@contextmanager
def traced(database: Database) -> Iterator[List[str]]:
    """Collect the statements that are run meanwhile."""
    statements: List[str] = []
    database.trace(statements.append)
    try:
        yield statements
    finally:
        database.trace(None)


# The file


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


# Earlier formats


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


def test_earlier_format_is_read_without_being_changed(tmp_path: Path) -> None:
    path = old_repository(tmp_path / "old.db")
    before = path.read_bytes()
    with Repository(path) as repo:
        assert [snapshot.files for snapshot in repo.list()] == [1]
        assert repo.check().problems == ()
        repo.restore(1, tmp_path / "out")
    assert (tmp_path / "out/file").read_bytes() == b"old"
    assert path.read_bytes() == before


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
        UnsupportedFormatError,
        "has format 0",
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
                with pytest.raises(RepositoryNotWritableError, match="is read-only; list, check and restore work"):
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

    with pytest.raises(RepositoryNotWritableError, match="is read-only; list, check and restore work"):
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
def test_broken_text_of_the_schema_is_refused(database: Database, text: bytes, broken: bytes) -> None:
    database.close()
    data = Path(database.path).read_bytes()
    Path(database.path).write_bytes(data.replace(text, broken))
    with pytest.raises(CorruptionError) as caught:
        open_database(database.path, 1.0)
    assert caught.value.path == database.path
    assert database.path in str(caught.value)


# Transactions


def count(database: Database) -> int:
    return int(database.value("SELECT count(*) FROM sources"))


INSERT = "INSERT INTO sources (host, root) VALUES (?, 'r')"


def test_transaction_that_fails_changes_nothing(database: Database) -> None:
    def fail() -> None:
        with database.transaction():
            database.execute(INSERT, ("a",))
            assert count(database) == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert count(database) == 0


def test_transaction_that_is_to_be_rolled_back_changes_nothing(database: Database) -> None:
    with database.transaction(rollback=True):
        assert database.execute(INSERT, ("a",)) == 1
        assert count(database) == 1
    assert count(database) == 0


def test_commit_is_seen_by_others(database: Database) -> None:
    with closing(open_database(database.path, 1.0)) as other:
        before = database.data_version()
        with other.transaction():
            assert other.executemany(INSERT, (("a",), ("b",))) == 2
            assert count(database) == 0
        assert count(database) == 2
        assert database.data_version() != before


def test_second_writer_is_told_that_it_is_locked(database: Database) -> None:
    with closing(open_database(database.path, 0.0)) as other, database.transaction():
        with pytest.raises(RepositoryLockedError, match="in use by another process"), other.transaction():
            pass
        assert count(other) == 0


def test_commit_against_a_reader_fails_cleanly(database: Database) -> None:
    # The reader holds its lock until it is done; the writer gives up, and both go on.
    for number in range(3):
        database.execute(INSERT, (str(number),))
    with closing(open_database(database.path, 0.0)) as other:
        rows = database.stream("SELECT host FROM sources", batch=1)
        next(rows)
        with pytest.raises(RepositoryLockedError), other.transaction():
            other.execute("DELETE FROM sources")
        assert len(list(rows)) == 2
        with other.transaction():
            other.execute("DELETE FROM sources")
        assert count(database) == 0


def test_stream_that_is_closed_lets_writers_go_on(database: Database) -> None:
    for number in range(3):
        database.execute(INSERT, (str(number),))
    with closing(open_database(database.path, 0.0)) as other:
        rows = database.stream("SELECT host FROM sources", batch=1)
        next(rows)
        getattr(rows, "close")()  # noqa: B009  (of the generator)
        with other.transaction():
            other.execute("DELETE FROM sources")


def test_read_transaction_sees_one_state(database: Database) -> None:
    with closing(open_database(database.path, 0.0)) as other:
        with database.read_transaction():
            assert count(database) == 0
            with pytest.raises(RepositoryLockedError), other.transaction():
                other.execute(INSERT, ("a",))
            assert count(database) == 0
        with other.transaction():
            other.execute(INSERT, ("a",))
        assert count(database) == 1


def test_statement_of_one_thread_is_over_before_that_of_another_begins(database: Database) -> None:
    begun = threading.Event()

    def look() -> int:
        begun.set()
        return count(database)

    with ThreadPoolExecutor(1) as other, database.transaction():
        looked: List[Future[int]] = []

        def rows() -> Iterator[Tuple[str]]:
            for number in range(20_000):
                yield (str(number),)
                if number == 100:
                    looked.append(other.submit(look))
                    begun.wait()

        assert database.executemany(INSERT, rows()) == 20_000
        assert looked[0].result() == 20_000


def test_two_threads_use_one_connection_and_get_each_its_own_answers(database: Database) -> None:
    together = threading.Barrier(2)

    def run(number: int) -> List[Tuple[int, int, int]]:
        together.wait()
        first, last = 1000 * number, 1000 * number + 10 ** (number + 1)
        span = (first, last - 1)
        return [
            (
                database.execute("UPDATE sources SET root = root || 'x' WHERE id BETWEEN ? AND ?", span),
                database.executemany("UPDATE sources SET root = 'r' WHERE id = ?", ((id_,) for id_ in span)),
                len(database.query("SELECT id, root FROM sources WHERE id BETWEEN ? AND ?", span)),
            )
            for _ in range(300)
        ]

    with database.transaction():
        ids = [*range(10), *range(1000, 1100)]
        database.executemany("INSERT INTO sources (id, host, root) VALUES (?, ?, 'r')", ((id_, id_) for id_ in ids))
        with ThreadPoolExecutor(2) as threads:
            ten, hundred = threads.map(run, range(2))
    assert ten == [(10, 2, 10)] * 300
    assert hundred == [(100, 2, 100)] * 300


def test_error_of_one_thread_leaves_the_connection_to_the_other(database: Database) -> None:
    with ThreadPoolExecutor(1) as other:
        with pytest.raises(BackuptoolError):
            other.submit(database.query, "SELECT nothing").result()
        assert count(database) == 0


def test_foreign_keys_are_enforced_again_behind_a_block_without_them(database: Database) -> None:
    orphan = "INSERT INTO parts (content, offset, part) VALUES (7, ?, NULL)"

    def fail() -> None:
        with database.without_foreign_keys(), database.transaction():
            database.execute(orphan, (0,))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with pytest.raises(BackuptoolError, match="FOREIGN KEY"):
        database.execute(orphan, (1,))
    with database.without_foreign_keys():
        database.execute(orphan, (2,))
    with pytest.raises(BackuptoolError, match="FOREIGN KEY"):
        database.execute(orphan, (3,))
    assert database.query("SELECT offset FROM parts") == [(2,)]


def test_closed_connection_is_an_error(tmp_path: Path) -> None:
    database = new_database(tmp_path / "r.db")
    database.close()
    for use in (
        lambda: database.query("SELECT 1"),
        lambda: database.execute("SELECT 1"),
        lambda: list(database.stream("SELECT 1")),
        lambda: database.executemany("DELETE FROM pruned WHERE id = ?", [(1,)]),
    ):
        with pytest.raises(RepositoryError, match="was closed"):
            use()
    database.drop_journal()  # does nothing


def test_number_too_large_for_the_file_is_an_error(database: Database) -> None:
    for use in (
        lambda: database.query("SELECT ?", (1 << 70,)),
        lambda: database.execute("SELECT ?", (1 << 70,)),
        lambda: list(database.stream("SELECT ?", (1 << 70,))),
        lambda: database.executemany("DELETE FROM pruned WHERE id = ?", [(1 << 70,)]),
    ):
        with pytest.raises(RepositoryError, match="too large"):
            use()


def test_damage_met_while_streaming_is_an_error(database: Database) -> None:
    with database.transaction():
        database.executemany(INSERT, ((f"{number:05}" * 100,) for number in range(2000)))
    database.close()
    data = Path(database.path).read_bytes()
    pages = len(data) // 16384
    Path(database.path).write_bytes(data[: (pages - 8) * 16384] + b"\xff" * 16384 + data[(pages - 7) * 16384 :])
    with closing(open_database(database.path, 1.0)) as damaged, pytest.raises(CorruptionError, match="is damaged"):
        list(damaged.stream("SELECT host FROM sources ORDER BY id"))


def test_writer_that_is_killed_is_rolled_back(database: Database) -> None:
    database.execute(INSERT, ("kept",))
    database.close()
    child = os.fork()
    if child == 0:  # pragma: no cover (another process)
        try:
            writer = open_database(database.path, 1.0)
            with writer.transaction():
                # More than the cache holds (16 MiB): pages of the unfinished transaction are in the file already.
                writer.executemany(INSERT, ((f"{number:05}" * 2000,) for number in range(3000)))
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert os.path.getsize(database.path) > 16 * MIB
    assert os.path.getsize(database.path + "-journal") > 0
    with closing(open_database(database.path, 1.0)) as reader:
        assert count(reader) == 1
        assert reader.query("PRAGMA integrity_check") == [(b"ok",)]


def test_journal_is_removed_at_rest(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    assert not os.path.exists(repo.path + "-journal")
    repo.prune(1)
    assert not os.path.exists(repo.path + "-journal")


def test_identities_are_those_of_the_file_and_its_journal(database: Database) -> None:
    def identity(path: str) -> Tuple[int, int]:
        status = os.stat(path)
        return status.st_dev, status.st_ino

    database.drop_journal()
    assert database.identities() == {identity(database.path)}
    with database.transaction():
        database.execute(INSERT, ("a",))
        assert database.identities() == {identity(database.path), identity(database.path + "-journal")}


# The pool


def make_pool(path: Path) -> ConnectionPool:
    with closing(new_database(path)):
        pass
    return ConnectionPool(str(path), 10.0)


def test_connection_is_used_again(tmp_path: Path) -> None:
    pool = make_pool(tmp_path / "r.db")
    with pool.reading() as first:
        pass
    with pool.writing() as second, pool.reading() as third:
        assert second is first
        assert third is not first
    pool.close()


def test_each_thread_gets_a_connection_of_its_own(tmp_path: Path) -> None:
    pool = make_pool(tmp_path / "r.db")
    together = threading.Barrier(5)

    def run(_: int) -> Database:
        with pool.reading() as database:
            together.wait()
            assert count(database) == 0
            return database

    with ThreadPoolExecutor(5) as threads:
        assert len(set(map(id, threads.map(run, range(5))))) == 5
    pool.close()


def test_threads_that_save_the_same_source_all_get_their_turn(repo: Repository, tree: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        results = [future.result() for future in [threads.submit(repo.snapshot, tree) for _ in range(16)]]
    assert sorted(result.snapshot.id for result in results) == list(range(1, 17))
    assert sum(result.new_files for result in results) == results[0].snapshot.files
    assert repo.check().problems == ()


def test_threads_take_snapshots_at_the_same_time(repo: Repository, tmp_path: Path) -> None:
    shared = noise(50_000)
    roots = [
        write_tree(
            tmp_path / str(number), {"shared": shared, "own": noise(1000 + number, number), "large": noise(2 * MIB)}
        )
        for number in range(4)
    ]
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(repo.snapshot, roots))
    assert sorted(result.snapshot.id for result in results) == [1, 2, 3, 4]
    distinct = 50_000 + sum(1000 + number for number in range(4)) + 2 * MIB
    assert repo.list().distinct_bytes == distinct
    assert sql(repo.path, "SELECT sum(size), count(*) - count(DISTINCT hash) FROM contents WHERE layout IS NULL") == [
        (distinct, 0)
    ]
    for result, root in zip(results, roots):
        assert restored(repo, result.snapshot.id, tmp_path / f"out{result.snapshot.id}") == entries(root)
    assert repo.check().problems == ()


def test_connection_that_failed_is_not_used_again(tmp_path: Path) -> None:
    pool = make_pool(tmp_path / "r.db")
    with pytest.raises(ZeroDivisionError), pool.reading() as first:
        raise ZeroDivisionError
    with pytest.raises(RepositoryError, match="was closed"):
        first.query("SELECT 1")
    with pool.reading() as second:
        assert count(second) == 0
    pool.close()


def test_connection_lent_while_the_pool_closes_is_closed_when_it_comes_back(tmp_path: Path) -> None:
    pool = make_pool(tmp_path / "r.db")
    with pool.reading() as lent:
        pool.close()
        assert count(lent) == 0
    with pytest.raises(RepositoryError, match="was closed"):
        lent.query("SELECT 1")


def test_replaced_file_is_opened_anew(repo: Repository, tree: Path, tmp_path: Path) -> None:
    repo.snapshot(tree)
    with Repository(tmp_path / "other.db") as other:
        other.snapshot(tree)
        other.snapshot(tree)
    os.replace(str(tmp_path / "other.db"), repo.path)
    assert len(repo.list()) == 2


def test_removed_file_is_not_found(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    os.unlink(repo.path)
    with pytest.raises(RepositoryNotFoundError):
        repo.list()
    assert repo.snapshot(tree).snapshot.id == 1


def test_forked_process_uses_connections_of_its_own(repo: Repository, tree: Path, tmp_path: Path) -> None:
    repo.snapshot(tree)
    write(tree / "new", b"new")

    def child() -> int:
        result = repo.snapshot(tree)
        assert repo.check().problems == ()
        repo.close()
        return result.new_files

    assert as_nobody_is_root(child) == 1
    assert repo.snapshot(tree).unchanged_files == 6
    assert repo.check().problems == ()


def as_nobody_is_root(function: Callable[[], int]) -> int:
    """Run a function in a forked process of the same user; its small result is the exit code."""
    child = os.fork()
    if child == 0:  # pragma: no cover (another process)
        code = 99
        try:
            code = function()
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] >> 8


def test_closing_in_a_forked_process_leaves_the_locks_of_its_parent(tmp_path: Path) -> None:
    pool = make_pool(tmp_path / "r.db")
    with pool.reading():
        pass

    def child() -> int:
        pool.close()  # what is idle belongs to the parent
        try:
            with closing(open_database(str(tmp_path / "r.db"), 0.0)) as other, other.transaction():
                return 1
        except RepositoryLockedError:
            return 2

    with pool.writing() as database, database.transaction():
        assert as_nobody_is_root(child) == 2
        assert as_nobody_is_root(child) == 2  # and the first child's end did not release it either
    pool.close()


# Compression


SAMPLES = [b"", b"x", b"text " * 1000, noise(5000), bytes(3 * MIB), noise(1000) * 500]


@pytest.mark.parametrize("compression", SETTINGS)
@pytest.mark.parametrize("data", SAMPLES, ids=["empty", "byte", "text", "noise", "zeros", "repeats"])
def test_what_is_compressed_comes_back(data: bytes, compression: str) -> None:
    codec, packed = compress(data, compression)
    assert len(packed) <= len(data)
    assert decompress(codec, packed, len(data)) == data
    assert salvage(codec, packed, len(data)) == data


def test_max_is_smaller_than_balanced_and_balanced_than_fast() -> None:
    sources = sorted(Path(os.__file__).parent.glob("*.py"))
    text = b"".join(path.read_bytes() for path in sources)[: 4 * MIB]
    sizes = [len(compress(text, compression)[1]) for compression in ("max", "balanced", "fast")]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 3


def test_noise_is_kept_as_it_is() -> None:
    assert compress(noise(5000)) == (RAW, noise(5000))
    assert compress(b"text " * 1000)[0] == ZSTD


def test_frame_tells_its_size_and_has_a_checksum() -> None:
    frame = compress(b"text " * 1000)[1]
    assert frame[:4] == b"\x28\xb5\x2f\xfd"
    descriptor = frame[4]
    assert descriptor & 0b100  # a checksum behind the last block
    assert descriptor >> 6 or descriptor & 0b100000  # the content's size in the header


TEXT = b"".join(b"line %d of a text that is compressed\n" % number for number in range(20_000))


def test_truncated_frame_is_corrupt_and_its_beginning_is_salvaged() -> None:
    codec, packed = compress(TEXT)
    longest = 0
    for length in [*range(40), *range(40, len(packed), 997), len(packed) - 1]:
        with pytest.raises(ContentCorruptError):
            decompress(codec, packed[:length], len(TEXT))
        found = salvage(codec, packed[:length], len(TEXT))
        assert TEXT.startswith(found)
        assert len(found) >= longest
        longest = len(found)
    assert longest > len(TEXT) // 2


def test_flipped_bit_in_a_frame_is_corrupt_and_what_comes_before_is_salvaged() -> None:
    codec, packed = compress(TEXT)
    for offset in [*range(8), *range(8, len(packed), 499), len(packed) - 1]:
        damaged = packed[:offset] + bytes([packed[offset] ^ 1]) + packed[offset + 1 :]
        with pytest.raises(ContentCorruptError):
            decompress(codec, damaged, len(TEXT))
        assert len(salvage(codec, damaged, len(TEXT))) <= len(TEXT)


@pytest.mark.parametrize("size", [0, 1, 999_999, 1_000_001, 2_000_000])
def test_frame_of_another_size_than_declared_is_corrupt(size: int) -> None:
    codec, packed = compress(bytes(1_000_000))
    with pytest.raises(ContentCorruptError, match=f"to its {size} bytes"):
        decompress(codec, packed, size)
    assert len(salvage(codec, packed, size)) == min(size, 1_000_000)


def test_bomb_takes_no_more_memory_than_is_declared() -> None:
    import resource

    codec, packed = compress(bytes(1 << 28))
    assert len(packed) < 100_000

    def child() -> int:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(3):
            try:
                decompress(codec, packed, 1000)
            except ContentCorruptError:
                pass
            else:
                return 1
            assert len(salvage(codec, packed, 1000)) == 1000
        return 2 if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before > 65536 else 0

    assert as_nobody_is_root(child) == 0


@pytest.mark.parametrize("behind", [b"x", b"\x28\xb5\x2f\xfd", compress(b"text " * 1000)[1]])
def test_bytes_behind_a_frame_are_corrupt(behind: bytes) -> None:
    codec, packed = compress(b"text " * 1000)
    with pytest.raises(ContentCorruptError):
        decompress(codec, packed + behind, 5000)
    with pytest.raises(ContentCorruptError):
        decompress(codec, packed + behind, 10_000)


def test_raw_pack_must_have_its_size() -> None:
    assert decompress(RAW, b"abc", 3) == b"abc"
    for size in (2, 4):
        with pytest.raises(ContentCorruptError, match=f"3 bytes instead of {size}"):
            decompress(RAW, b"abc", size)
    assert salvage(RAW, b"abc", 2) == b"ab"


def test_unknown_codec_is_corrupt() -> None:
    with pytest.raises(ContentCorruptError, match="unknown codec 'lzma'"):
        decompress("lzma", b"abc", 3)
    assert salvage("lzma", b"abc", 3) == b""


def test_threads_compress_at_the_same_time() -> None:
    data = [(b"thread %d " % number) * 20_000 + noise(100, number) for number in range(32)]
    with ThreadPoolExecutor(8) as threads:
        packed = list(threads.map(compress, data))
        plain = list(threads.map(lambda item: decompress(item[0][0], item[0][1], len(item[1])), zip(packed, data)))
    assert plain == data
    assert packed == [compress(item) for item in data]


@pytest.mark.parametrize("place", [0, 700_000, 1_900_000])
def test_full_pack_of_which_a_small_part_compresses_is_compressed(place: int) -> None:
    data = bytearray(noise(2 * MIB))
    assert compress(bytes(data)) == (RAW, bytes(data))
    data[place : place + 100_000] = b"text " * 20_000
    codec, frame = compress(bytes(data))
    assert (codec, len(frame) < 2 * MIB - 90_000) == (ZSTD, True)


# Chunking


def chunks(data: bytes, chunking: Chunking = CHUNKING, steps: Sequence[int] = ()) -> List[bytes]:
    """Cut data of which as much as these sizes, and then all, is there at a time."""
    chunker = chunking.for_size(len(data))
    found = []
    begin = end = 0
    for step in (*steps, len(data)):
        end = min(end + step, len(data))
        view = memoryview(data)[begin:end]
        for length in cut(chunker, view, final=end == len(data)):
            found.append(data[begin : begin + length])
            begin += length
    return found


def test_cut_points_are_those_of_the_format() -> None:
    # A repository that cuts elsewhere than the one before it would store every large file again.
    lengths = [len(chunk) for chunk in chunks(noise(3 * MIB))]
    assert sum(lengths) == 3 * MIB
    assert lengths[:8] == [41572, 29815, 42783, 37506, 55058, 123280, 18994, 34022]
    assert sha256(repr(lengths).encode()).hex() == "312385cd863c8181adf79ed7d4b54081a7f9e23d0feacb680d15207a7082ed09"


def test_chunks_are_within_their_bounds() -> None:
    for data in (noise(5 * MIB, 1), bytes(3 * MIB), b"ab" * MIB):
        lengths = [len(chunk) for chunk in chunks(data)]
        assert max(lengths) <= 4 * CHUNKING.average
        assert min(lengths[:-1]) >= CHUNKING.average // 4
        assert b"".join(chunks(data)) == data


@pytest.mark.parametrize("size", [0, 1, 8191, 8192, 2 * MIB - 1, 2 * MIB, 2 * MIB + 1, 4 * MIB, 7 * MIB + 12345])
def test_cutting_a_stream_equals_one_pass(size: int) -> None:
    data = noise(size, size)
    once = [bytes(chunk.data) for chunk in CHUNKING.for_size(size).cut_buf(data)] if data else []
    assert chunks(data) == once
    choices = random.Random(size)
    for _ in range(3):
        assert chunks(data, steps=[choices.choice((1, 100, 5000, 70_000, MIB)) for _ in range(100)]) == once


def test_larger_files_get_larger_chunks() -> None:
    chunking = Chunking(average=1024, large_average=4096, large_size=100_000, huge_average=16384, huge_size=200_000)
    means = [size / len(chunks(noise(size), chunking)) for size in (100_000, 200_000, 400_000)]
    assert means[0] * 2 < means[1]
    assert means[1] * 2 < means[2]


def test_settings_give_the_same_chunking_back() -> None:
    chunking = Chunking(average=1024, large_size=12345)
    assert Chunking.from_settings(dict(chunking.settings())) == chunking
    assert attrs.asdict(CHUNKING) == {
        "average": 32 << 10,
        "large_average": 128 << 10,
        "large_size": 16 << 30,
        "huge_average": 256 << 10,
        "huge_size": 256 << 30,
    }


@pytest.mark.parametrize(
    "change", [{"chunking": "rabin"}, {"chunking": None}, {"chunk_average": "many"}, {"chunk_huge_size": None}]
)
def test_unknown_chunking_is_refused(change: Dict[str, object]) -> None:
    settings = {**dict(CHUNKING.settings()), **change}
    with pytest.raises(ValueError, match="unknown chunking"):
        Chunking.from_settings(settings)


def test_no_chunk_is_as_large_as_a_file_that_is_cut() -> None:
    # A content is bytes, or a list of contents that are bytes: were a chunk found as a list, nobody could read it.
    for size in (LARGE_FILE + 1, CHUNKING.large_size + 1, CHUNKING.huge_size + 1):
        lengths = [len(chunk.data) for chunk in CHUNKING.for_size(size).cut_buf(bytes(8 * MIB))]
        assert max(lengths) <= LARGE_FILE


# Storing contents


def store(database: Database, *pieces: bytes) -> Tuple[List[int], int, int]:
    """Store contents; return their ids, the bytes that were new, and the bytes they take."""
    with ContentWriter(database, lambda: 5) as writer:
        contents = [writer.add(piece) for piece in pieces]
        writer.flush()
        return [writer.ids[content.ordinal] for content in contents], writer.new_bytes, writer.stored_bytes


def location(database: Database, data: bytes) -> ContentLocation:
    [row] = database.query("SELECT id, hash, size, pack, offset FROM contents WHERE hash = ?", (sha256(data),))
    return ContentLocation(*row)


def test_contents_are_stored_once_and_come_back(database: Database) -> None:
    ids, new, stored = store(database, b"one", b"two", b"one", b"")
    assert ids == [1, 2, 1, 3]
    assert (new, stored) == (6, 6)
    assert store(database, b"two", b"three") == ([2, 4], 5, 5)
    with ContentReader(database) as reader:
        for data in (b"one", b"two", b"three", b""):
            assert reader.read(location(database, data)) == data
            assert list(reader.stream(location(database, data))) == [(0, data)]
    assert database.query("SELECT size, live, written_ns, codec FROM packs") == [(6, 6, 5, b"raw"), (5, 5, 5, b"raw")]


def test_content_knows_its_digest_at_once_and_its_id_when_it_is_written(database: Database) -> None:
    with ContentWriter(database, lambda: 0) as writer:
        content = writer.add(b"data")
        assert content == Content(size=4, digest=sha256(b"data"), ordinal=0)
        assert writer.add(b"data") == content
        assert writer.add(b"more") == Content(size=4, digest=sha256(b"more"), ordinal=1)
        assert list(writer.ids) == [0, 0]
        writer.flush()
        assert list(writer.ids) == [1, 2]


def test_content_that_comes_again_after_it_was_written_is_found(database: Database) -> None:
    with ContentWriter(database, lambda: 0) as writer:
        first = writer.add(b"data")
        writer.flush()
        again = writer.add(b"data")
        assert again.ordinal != first.ordinal
        assert list(writer.ids) == [1, 1]
        writer.add(b"more")
        writer.flush()
        assert list(writer.ids) == [1, 1, 2]
        assert writer.new_bytes == 8
    assert database.query("SELECT count(*) FROM packs") == [(2,)]


def test_content_put_in_the_room_is_stored_without_what_is_behind_it(database: Database) -> None:
    with ContentWriter(database, lambda: 0) as writer:
        for piece in (b"one", b"", b"three"):
            room = writer.room(len(piece) + 1)
            assert len(room) == len(piece) + 1
            room[:] = piece + b"!"
            assert writer.add_from_room(len(piece)) == Content(len(piece), sha256(piece), len(writer.ids) - 1)
        writer.flush()
        assert (writer.new_bytes, list(writer.ids)) == (8, [1, 2, 3])
    assert database.query("SELECT data FROM packs") == [(b"onethree",)]
    with ContentReader(database) as reader:
        assert [reader.read(location(database, piece)) for piece in (b"one", b"", b"three")] == [b"one", b"", b"three"]


def test_content_in_the_room_that_is_known_takes_no_place(database: Database) -> None:
    store(database, b"stored")
    with ContentWriter(database, lambda: 0) as writer:
        writer.add(b"pending")
        for piece in (b"stored", b"pending"):
            writer.room(len(piece))[:] = piece
            writer.add_from_room(len(piece))
            assert bytes(writer.room(len(piece))) == piece  # the next content comes to the same place
        writer.add(b"stored")
        writer.add(b"pending")
        writer.room(8)[:] = b"new one!"
        new = writer.add_from_room(7)
        writer.flush()
        assert writer.new_bytes == 14
        assert writer.ids[new.ordinal] == 3
    assert database.query("SELECT size, live, data FROM packs WHERE id = 2") == [(14, 14, b"pendingnew one")]
    assert database.query("SELECT offset, size FROM contents WHERE pack = 2 ORDER BY id") == [(0, 7), (7, 7)]


def test_pack_that_is_all_but_full_has_room_for_a_content_of_any_size(database: Database) -> None:
    pieces = [noise(MIB, 1), noise(MIB - 1, 2), noise(MIB, 3)]
    with ContentWriter(database, lambda: 0) as writer:
        for piece in pieces[:2]:
            writer.add(piece)
        room = writer.room(MIB + 1)
        assert len(room) == MIB + 1
        room[:MIB] = pieces[2]
        writer.add_from_room(MIB)
        writer.flush()
    assert database.query("SELECT size FROM packs") == [(PACK_BYTES - 1 + MIB,)]
    with ContentReader(database) as reader:
        for piece in pieces:
            assert reader.read(location(database, piece)) == piece


def test_writer_uses_its_buffers_again(database: Database) -> None:
    pieces = [number.to_bytes(2, "big") * (MIB // 2) for number in range(80)]
    buffers: Dict[int, object] = {}
    with ContentWriter(database, lambda: 0) as writer:
        for piece in pieces:
            buffer = writer.room(MIB).obj
            buffers[id(buffer)] = buffer
            writer.add(piece)
        writer.flush()
    assert 1 <= len(buffers) <= BUFFERS
    with ContentReader(database) as reader:
        assert all(reader.read(location(database, piece)) == piece for piece in pieces)


def test_commit_that_fails_is_an_error_where_the_contents_are_added(database: Database) -> None:
    with closing(open_database(database.path, 0.0)) as impatient:
        with ContentWriter(impatient, lambda: 0) as writer:
            writer.add(b"data")
            with database.transaction(), pytest.raises(RepositoryLockedError):
                writer.flush()
        assert impatient.value("PRAGMA foreign_keys") == 1
        assert store(impatient, b"data") == ([1], 4, 4)


def test_more_contents_than_one_statement_takes_are_looked_up(database: Database) -> None:
    pieces = [b"%d" % number for number in range(1234)]
    ids, _, _ = store(database, *pieces)
    assert ids == list(range(1, 1235))
    assert store(database, *pieces) == (ids, 0, 0)
    assert find(database, [sha256(piece) for piece in pieces]) == {
        sha256(piece): number for piece, number in zip(pieces, ids)
    }
    assert find(database, []) == {}


def test_hashes_that_begin_alike_are_told_apart(database: Database) -> None:
    store(database, b"one")
    alike = sha256(b"one")[:8] + bytes(24)
    assert find(database, [alike]).get(alike) is None
    database.execute("INSERT INTO contents (hash, size, refs, since) VALUES (?, 0, 0, 0)", (alike,))
    assert find(database, [alike]) == {alike: 2}
    assert find(database, [alike, sha256(b"one"), bytes(32)]) == {alike: 2, sha256(b"one"): 1}


def test_contents_fill_packs_of_two_mebibytes(database: Database) -> None:
    _, new, stored = store(database, *(noise(100_000, number) for number in range(100)))
    sizes = [size for (size,) in database.query("SELECT size FROM packs ORDER BY id")]
    assert sum(sizes) == new == stored == 10_000_000
    assert all(2 * MIB <= size < 2 * MIB + 100_000 for size in sizes[:-1])


def test_two_writers_store_equal_contents_once(database: Database) -> None:
    pieces = [noise(1000, number) for number in range(10)]
    with closing(open_database(database.path, 10.0)) as second, ContentWriter(database, lambda: 0) as writer:
        contents = [writer.add(piece) for piece in pieces]  # looked up and not found, and not written yet
        ids, _, _ = store(second, *pieces[5:], b"another")
        writer.flush()
        assert [writer.ids[content.ordinal] for content in contents[5:]] == ids[:5]
    assert database.query("SELECT count(*), count(DISTINCT hash) FROM contents") == [(11, 11)]
    assert database.query("SELECT sum(live) FROM packs") == [(10 * 1000 + 7,)]
    with ContentReader(database) as reader:
        for piece in pieces:
            assert reader.read(location(database, piece)) == piece


def test_two_writers_store_equal_large_contents_once(database: Database) -> None:
    pieces = [noise(1000, number) for number in range(3)]

    def add_large(writer: ContentWriter) -> Content:
        parts = LargeContent()
        for number, piece in enumerate(pieces):
            parts.append(1000 * number, writer.add(piece))
        return writer.add_large(sha256(b"".join(pieces)), 3000, parts)

    with closing(open_database(database.path, 10.0)) as second, ContentWriter(database, lambda: 0) as writer:
        one = add_large(writer)
        with ContentWriter(second, lambda: 0) as other:
            two = add_large(other)
            other.flush()
        writer.flush()
        assert writer.ids[one.ordinal] == other.ids[two.ordinal]
    assert database.query("SELECT count(*) FROM contents") == [(4,)]
    assert database.query("SELECT refs FROM contents ORDER BY id") == [(1,), (1,), (1,), (0,)]
    with ContentReader(database) as reader:
        assert b"".join(data or b"" for _, data in reader.stream(location(database, b"".join(pieces)))) == b"".join(
            pieces
        )


def test_chunks_that_vanish_before_their_list_is_written_are_noticed(database: Database) -> None:
    store(database, b"chunk")
    with ContentWriter(database, lambda: 0) as writer:
        parts = LargeContent()
        parts.append(0, writer.add(b"chunk"))
        parts.append(5, None)
        writer.add_large(sha256(b"chunk\0"), 6, parts)
        with closing(open_database(database.path, 10.0)) as other:
            other.execute("DELETE FROM contents")
        with pytest.raises(ContentsVanishedError):
            writer.flush()
    assert database.query("SELECT count(*) FROM contents") == [(0,)]


ContentRow = Tuple[int, bytes, int, Optional[int], Optional[int]]


def content_rows(first: int, number: int) -> List[ContentRow]:
    """Rows of contents with these ids, of 10 bytes each in pack 1, and every hundredth one empty."""
    return [
        (id_, sha256(b"%d" % id_), *((0, None, None) if id_ % 100 == 0 else (10, 1, 10 * id_)))
        for id_ in range(first, first + number)
    ]


def insert_rows(database: Database, rows: Sequence[ContentRow]) -> None:
    with database.transaction():
        database.execute(
            "INSERT OR IGNORE INTO packs (id, size, live, written_ns, codec, data) VALUES (1, 9, 9, 0, 'raw', x'00')"
        )
        insert_contents(database, rows)


@pytest.mark.parametrize("number", [0, 1, 149, 150, 151, 300, 150 * 2 + 7])
def test_any_number_of_contents_is_inserted(database: Database, number: int) -> None:
    rows = content_rows(5, number)
    with traced(database) as statements:
        insert_rows(database, rows)
    assert database.query("SELECT id, hash, size, pack, offset FROM contents ORDER BY id") == rows
    assert database.query("SELECT DISTINCT refs, since, layout FROM contents") == [(0, 0, None)] * (number > 0)
    assert sum("INTO contents" in statement for statement in statements) <= 2 + 149


#: How the filter is filled, and how a hash is looked up.
FILL, LOOK_UP = "SELECT substr(hash, 1, 4) FROM contents", "WHERE substr(hash, 1, 8) IN"


def test_filter_of_an_empty_repository_is_filled_at_once(database: Database) -> None:
    with traced(database) as statements:
        known = HashFilter(database)
        assert not known.perhaps_stored(sha256(b"one"))
        known.add([sha256(b"one"), sha256(b"two")])
        assert known.perhaps_stored(sha256(b"one"))
        assert known.perhaps_stored(sha256(b"two"))
        assert not known.perhaps_stored(sha256(b"three"))
        assert known.perhaps_stored(sha256(b"one")[:4] + bytes(28))  # only a look-up tells
    assert [statement for statement in statements if "contents" in statement and "seq" not in statement] == [FILL]


def test_filter_tells_hashes_apart_that_share_a_byte_of_it(database: Database) -> None:
    known = HashFilter(database)
    alike = [sha256(b"")[:3] + bytes([number]) + bytes(28) for number in range(256)]
    for number, digest in enumerate(alike):
        assert not known.perhaps_stored(digest)
        known.add([digest])
        assert all(known.perhaps_stored(other) for other in alike[: number + 1])


@pytest.mark.parametrize("stored", [1, 7, 8, 9, 1000, 1003])
def test_filter_that_is_filled_late_denies_only_what_is_not_stored(database: Database, stored: int) -> None:
    rows = content_rows(1, stored)
    later = content_rows(stored + 1, 100)
    last = content_rows(stored + 101, 100)
    strangers = [sha256(b"x%d" % number) for number in range(2000)]
    insert_rows(database, rows)
    known = HashFilter(database)
    wait = max(stored // 8 - 1, 0)  # the look-up behind these is the one too many
    with traced(database) as statements:
        assert all(known.perhaps_stored(digest) for digest in strangers[: wait // 2])
        insert_rows(database, later)  # written while there is no filter yet
        known.add(digest for _, digest, *_ in later)
        assert all(known.perhaps_stored(digest) for digest in strangers[wait // 2 : wait])
        assert FILL not in statements
        assert all(known.perhaps_stored(digest) for _, digest, *_ in rows + later)
        assert statements.count(FILL) == 1
        assert not any(known.perhaps_stored(digest) for _, digest, *_ in last)
        insert_rows(database, last)  # and these while there is
        known.add(digest for _, digest, *_ in last)
        assert all(known.perhaps_stored(digest) for _, digest, *_ in rows + later + last)
        assert statements.count(FILL) == 1
    denied = [digest for digest in strangers if not known.perhaps_stored(digest)]
    assert find(database, denied) == {}
    assert len(denied) > 1990


def test_filter_is_never_filled_for_few_look_ups_in_a_large_repository(database: Database) -> None:
    insert_rows(database, content_rows(1, 8000))
    with traced(database) as statements, ContentWriter(database, lambda: 0) as writer:
        for number in range(999):
            writer.add(b"new %d" % number)
        writer.add(b"new 0")  # not even looked up: it is on its way
        writer.flush()
        assert sum(LOOK_UP in statement for statement in statements) == 999
        assert FILL not in statements


def test_filter_saves_the_look_ups_of_many_new_contents(database: Database) -> None:
    insert_rows(database, content_rows(1, 8000))
    with traced(database) as statements, ContentWriter(database, lambda: 0) as writer:
        for number in range(3000):
            writer.add(b"new %d" % number)
        assert statements.count(FILL) == 1
        assert 999 <= sum(LOOK_UP in statement for statement in statements) < 1010
        for number in (1, 4000, 7999):
            assert writer.ids[writer.add(b"%d" % number).ordinal] == number
        writer.flush()
    assert writer.new_bytes == sum(len(b"new %d" % number) for number in range(3000))
    assert database.query("SELECT count(*), count(DISTINCT hash) FROM contents") == [(11_000, 11_000)]


def test_references_are_counted_in_any_order_and_missing_contents_noticed(database: Database) -> None:
    ids, _, _ = store(database, *(b"%d" % number for number in range(6)))
    order = array("q", [ids[4], ids[0], ids[1], ids[0], ids[2]])
    assert reference(database, 7, order, array("I", [1, 2, 1, 1, 0])) == (3, 3)
    rows = database.query("SELECT refs, since FROM contents ORDER BY id")
    assert rows == [(3, 7), (1, 7), (0, 0), (0, 0), (1, 7), (0, 0)]
    assert reference(database, 8, order, array("I", [1, 0, 0, 0, 1])) == (1, 1)
    assert database.query("SELECT refs, since FROM contents WHERE id IN (3, 5) ORDER BY id") == [(1, 8), (2, 7)]
    assert add_refs(database, {1: 1, 2: 1, 6: 5}) == 3
    assert add_refs(database, {6: 1, 7: 1}) == 1
    with pytest.raises(ContentsVanishedError):
        reference(database, 9, array("q", [1, 99]), array("I", [1, 1]))


def test_writer_that_is_left_by_an_error_stores_no_more(database: Database) -> None:
    def fail() -> None:
        with ContentWriter(database, lambda: 0) as writer:
            for number in range(20):
                writer.add(noise(600_000, number))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert database.value("SELECT coalesce(sum(size), 0) FROM contents") < 20 * 600_000


# Reading contents


def large(database: Database, *pieces: Tuple[int, bytes], size: int) -> ContentLocation:
    """Store a large content of pieces at offsets, with holes between them."""
    data = bytearray(size)
    with ContentWriter(database, lambda: 0) as writer:
        parts = LargeContent()
        position = 0
        for offset, piece in pieces:
            if offset > position:
                parts.append(position, None)
            parts.append(offset, writer.add(piece))
            data[offset : offset + len(piece)] = piece
            position = offset + len(piece)
        if position < size:
            parts.append(position, None)
        writer.add_large(sha256(bytes(data)), size, parts)
        writer.flush()
    return location(database, bytes(data))


def test_large_content_comes_back_piece_by_piece_with_its_holes(database: Database) -> None:
    content = large(database, (10, b"middle"), (16, b"more"), (30, b"end"), size=40)
    assert content.pack is None
    with ContentReader(database) as reader:
        assert list(reader.stream_parts(content)) == [
            (0, None),
            (10, b"middle"),
            (16, b"more"),
            (20, None),
            (30, b"end"),
            (33, None),
        ]
        # What lies in a row in its pack comes at once.
        expected = [(0, None), (10, b"middlemore"), (20, None), (30, b"end"), (33, None)]
        assert list(reader.stream(content)) == expected


def test_content_with_more_parts_than_are_read_at_once_comes_back(database: Database) -> None:
    pieces = [(number * 10, b"%010d" % (number % 1500)) for number in range(2500)]
    content = large(database, *pieces, size=25_000)
    with ContentReader(database) as reader:
        assert list(reader.stream_parts(content)) == pieces
        joined = list(reader.stream(content))
    assert [offset for offset, _ in joined] == [0, 15_000]  # from there on they are parts that it has already
    assert b"".join(data or b"" for _, data in joined) == b"".join(data for _, data in pieces)


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("UPDATE parts SET offset = 11 WHERE offset = 10", ContentCorruptError),
        ("UPDATE parts SET part = NULL WHERE offset = 10", ContentCorruptError),
        ("UPDATE parts SET part = 99 WHERE offset = 10", ContentMissingError),
        ("UPDATE parts SET part = content WHERE offset = 10", ContentMissingError),
        ("DELETE FROM parts WHERE offset = 10", ContentCorruptError),
        ("DELETE FROM parts", ContentCorruptError),
        ("INSERT INTO parts SELECT content, 40, part FROM parts WHERE offset = 10", ContentCorruptError),
        ("UPDATE contents SET size = 39 WHERE layout IS NOT NULL", ContentCorruptError),
        ("UPDATE contents SET size = 5 WHERE size = 6", ContentCorruptError),
        ("UPDATE contents SET size = 600 WHERE size = 6", ContentCorruptError),
        ("UPDATE contents SET hash = zeroblob(32) WHERE layout IS NOT NULL", ContentCorruptError),
        ("UPDATE contents SET offset = 1 WHERE size = 6", ContentCorruptError),
        ("UPDATE packs SET data = x'00'", ContentCorruptError),
        ("DELETE FROM packs", ContentCorruptError),
    ],
)
def test_damaged_large_content_is_an_error(database: Database, statement: str, error: Type[BackuptoolError]) -> None:
    before = large(database, (10, b"middle"), (16, b"more"), size=40)
    database.query("PRAGMA foreign_keys=OFF")
    assert database.execute(statement) > 0
    [row] = database.query("SELECT id, hash, size, pack, offset FROM contents WHERE id = ?", (before.id,))
    with pytest.raises(error) as caught, ContentReader(database) as reader:
        list(reader.stream(ContentLocation(*row)))
    assert getattr(caught.value, "path") == database.path  # noqa: B009


def test_content_with_neither_bytes_nor_parts_is_missing(database: Database) -> None:
    store(database, b"one")
    database.execute("UPDATE contents SET pack = NULL, offset = NULL")
    damaged = location(database, b"one")
    with ContentReader(database) as reader:
        with pytest.raises(ContentMissingError, match="neither bytes nor parts") as caught:
            reader.read(damaged)
        assert caught.value.content == sha256(b"one").hex()
        with pytest.raises(ContentCorruptError):
            list(reader.stream(damaged))


def test_content_that_was_packed_again_is_found_where_it_is_now(repo: Repository, tmp_path: Path) -> None:
    names = [f"{number:02}" for number in range(30)]
    root = write_tree(tmp_path / "tree", {name: noise(10_000, number) for number, name in enumerate(names)})
    repo.snapshot(root)
    for name in names[:-3]:
        (root / name).unlink()
    repo.snapshot(root)
    with closing(open_database(repo.path, 10.0)) as database, ContentReader(database) as reader:
        before = [location(database, noise(10_000, number)) for number in (28, 29)]
        assert reader.read(location(database, noise(10_000, 27))) == noise(10_000, 27)  # its pack is kept in memory
        assert repo.prune(1).repacked_packs == 1
        after = [location(database, noise(10_000, number)) for number in (28, 29)]
        assert [reader.read(content) for content in before] == [noise(10_000, 28), noise(10_000, 29)]
        # The new pack must not have the number of the old one, which this reader keeps in memory.
        assert [reader.read(content) for content in after] == [noise(10_000, 28), noise(10_000, 29)]
        with ContentReader(database) as another:
            assert another.read(before[1]) == noise(10_000, 29)


def test_contents_are_read_ahead(database: Database) -> None:
    pieces = [noise(500_000, number) for number in range(30)]
    store(database, *pieces)
    places = [location(database, piece) for piece in pieces]
    with ContentReader(database) as reader:
        reader.expect(places)
        assert [reader.read(place) for place in places] == pieces
        reader.expect(places[:10])
        assert [reader.read(place) for place in reversed(places)] == pieces[::-1]


def test_what_is_expected_no_more_is_not_kept(database: Database) -> None:
    pieces = [noise(MIB, number) for number in range(12)]
    store(database, *pieces)
    places = [location(database, piece) for piece in pieces]
    with ContentReader(database) as reader:
        for begin in (0, 4, 8):
            reader.forget()
            reader.expect(places[begin : begin + 4])
        assert len(reader._packs._plans) == 1
        assert [reader.read(place) for place in places] == pieces


def test_damage_is_noticed_when_read_ahead(database: Database) -> None:
    pieces = [noise(MIB, number) for number in range(8)]
    store(database, *pieces)
    places = [location(database, piece) for piece in pieces]
    database.execute("UPDATE packs SET data = zeroblob(length(data)) WHERE id = ?", (places[3].pack,))
    database.execute("UPDATE packs SET size = 1 << 50 WHERE id = ?", (places[5].pack,))
    broken = [number for number, place in enumerate(places) if place.pack in (places[3].pack, places[5].pack)]
    with ContentReader(database) as reader:
        reader.expect(places)
        for number, place in enumerate(places):
            if number in broken:
                with pytest.raises(ContentCorruptError):
                    reader.read(place)
            else:
                assert reader.read(place) == pieces[number]


# Packs


def submit(compressor: PackCompressor, number: int, data: bytes) -> memoryview:
    """Have a pack of one member compressed; return the buffer it is in."""
    buffer = compressor.buffer()
    assert len(buffer) >= PACK_BYTES + MIB
    buffer[: len(data)] = data
    compressor.submit([(number, b"", len(data))], buffer, len(data))
    return buffer


def test_packs_come_back_compressed_in_the_order_they_came() -> None:
    data = [bytes(1_000_000) if number % 2 else noise(1000, number) for number in range(30)]
    with PackCompressor() as compressor:
        for number, piece in enumerate(data):
            submit(compressor, number, piece)
        packs = list(compressor.finished(wait_for_all=True))
    assert [pack.members for pack in packs] == [[(number, b"", len(piece))] for number, piece in enumerate(data)]
    assert [pack.codec for pack in packs] == [RAW, ZSTD] * 15
    assert [decompress(pack.codec, bytes(pack.data), pack.size) for pack in packs] == data


#: Packs that wait or are compressed, one to a processor and one more, and the one that is being filled.
BUFFERS = max(1, min(os.cpu_count() or 1, 16)) + 1 + 1


def test_buffers_are_used_again_when_their_packs_are_compressed() -> None:
    data = [noise(5000, number) * 300 if number % 2 else noise(100_000, number) for number in range(60)]
    buffers: Dict[int, object] = {}
    plain: List[bytes] = []
    with PackCompressor() as compressor:
        for number, piece in enumerate(data):
            buffer = submit(compressor, number, piece).obj
            buffers[id(buffer)] = buffer
            for pack in compressor.finished():
                plain.append(decompress(pack.codec, bytes(pack.data), pack.size))
                compressor.take_back(pack)
        plain += [
            decompress(pack.codec, bytes(pack.data), pack.size) for pack in compressor.finished(wait_for_all=True)
        ]
    assert 1 <= len(buffers) <= BUFFERS
    assert plain == data


def test_compressor_that_is_left_early_ends_its_threads() -> None:
    before = threading.active_count()
    with PackCompressor() as compressor:
        for number in range(50):
            submit(compressor, number, bytes(1_000_000))
        assert threading.active_count() > before
    assert threading.active_count() == before


@pytest.mark.parametrize(
    "change", ["size = -1", "size = (16 << 20) + 1", "size = 'x'", "codec = 5.5", "codec = x'ff'", "data = 5"]
)
def test_pack_with_a_damaged_row_is_corrupt(database: Database, change: str) -> None:
    store(database, b"text " * 1000)
    database.execute(f"UPDATE packs SET {change}")
    if change == "codec = 5.5":  # text, by the affinity of its column
        assert unpack(read_pack(database, 1)).damage == "a pack has the unknown codec '5.5'"
    elif change == "codec = x'ff'":
        assert unpack(read_pack(database, 1)).data == b""
    else:
        with pytest.raises(ContentCorruptError, match="row of pack 1"):
            read_pack(database, 1)
    assert PackReader(database).pack(1).data == b""


def test_missing_pack_is_missing(database: Database) -> None:
    with pytest.raises(ContentMissingError, match="pack 7 is missing"):
        read_pack(database, 7)
    assert PackReader(database).pack(7).damage == "pack 7 is missing"


def test_reader_forgets_packs_it_read_long_ago(database: Database) -> None:
    store(database, *(noise(1_000_000, number) for number in range(24)))
    assert database.query("SELECT size FROM packs") == [(3_000_000,)] * 8
    reader = PackReader(database)
    first = reader.pack(1)
    assert reader.pack(1) is first
    for number in range(2, 9):
        reader.pack(number)
    assert reader.pack(1) is not first
    assert reader.pack(1).data == first.data


# Digests


VERSION = FileVersion(
    path=b"a/b\xff",
    kind=b"f",
    mode=0o4755,
    uid=1000,
    gid=4_000_000_000,
    user=b"user",
    group=b"",
    mtime_ns=-1,
    size=5,
    hash=sha256(b"12345"),
    sparse=1,
    rdev=None,
    target=None,
    xattrs=b"\0\0\0\1x",
    link=b"1:2",
)


def test_hash_of_a_version_is_that_of_the_format() -> None:
    head = b"f" + struct.pack(">5q", 0o4755, 1000, 4_000_000_000, -1, 5) + b"\1" + struct.pack(">q", -1)
    lengths = struct.pack(">7i", 4, 4, 0, 32, -1, 5, 3)
    encoded = head + lengths + b"a/b\xff" + b"user" + sha256(b"12345") + b"\0\0\0\1x" + b"1:2"
    assert to_bytes(row_hash(VERSION)) == sha256(encoded)


@pytest.mark.parametrize(
    "change",
    [
        {"path": b"a/b"},
        {"kind": b"p"},
        {"mode": 0o755},
        {"uid": 1001},
        {"gid": 0},
        {"user": b""},
        {"group": b"user"},
        {"mtime_ns": 0},
        {"size": 6},
        {"hash": None},
        {"sparse": 0},
        {"rdev": 0},
        {"target": b""},
        {"xattrs": None},
        {"link": b""},
        {"path": b"a/b\xffuser", "user": b""},
    ],
)
def test_every_field_changes_the_hash(change: Dict[str, Any]) -> None:
    assert row_hash(VERSION._replace(**change)) != row_hash(VERSION)


def test_digest_of_a_snapshot_is_that_of_the_format() -> None:
    assert snapshot_digest((1, "h\udcff", b"/r", "")) == sha256(b"i1:1" + b"i2:h\xff" + b"b2:/r" + b"i0:")
    assert snapshot_digest(("ab", "c")) != snapshot_digest(("a", "bc"))
    assert snapshot_digest((b"1",)) != snapshot_digest(("1",))


def test_entry_of_a_layout_is_that_of_the_format() -> None:
    assert layout_entry(258, sha256(b"x")) == bytes(6) + b"\1\2" + sha256(b"x")
    assert layout_entry(0, None) == bytes(40)


@pytest.mark.parametrize("length", [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB + 7])
def test_zeros_are_hashed_without_making_them(length: int) -> None:
    hasher = hashlib.sha256(b"before")
    hash_zeros(hasher, length)
    assert hasher.digest() == sha256(b"before" + bytes(length))


# The catalog


def test_snapshots_are_found_by_number_and_as_the_latest(repo: Repository, tree: Path) -> None:
    for _ in range(3):
        repo.snapshot(tree)
    with closing(open_database(repo.path, 1.0)) as database:
        assert find_snapshot(database, "latest").id == 3
        assert find_snapshot(database, 2).id == 2
        assert find_snapshot(database, "2").id == 2
        for unknown in (0, 4, -1, 1 << 80, True, "", "x", "1.0", " 1", "-1", "\u0661", "first", "9" * 5000):
            with pytest.raises(SnapshotNotFoundError, match="there are: 1, 2, 3") as caught:
                find_snapshot(database, unknown)
            assert caught.value.reference == unknown
            assert caught.value.available == (1, 2, 3)


def test_message_about_a_missing_snapshot_stays_short(repo: Repository, tree: Path) -> None:
    for _ in range(25):
        repo.snapshot(tree)
    with pytest.raises(SnapshotNotFoundError, match="there are: 1, 2, 3, 4, 5, 6, 7, 8, …, 18, 19,") as caught:
        repo.prune(99)
    assert caught.value.available == tuple(range(1, 26))


def test_repository_without_snapshots_says_so(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    repo.prune(1)
    with pytest.raises(SnapshotNotFoundError, match="has none yet"):
        repo.restore("latest", tree)


SYMLINK = VERSION._replace(
    path=b"l", kind=b"l", size=0, hash=None, sparse=0, target="aim \u00e9".encode(), xattrs=None, link=None
)

#: By path: such as are UTF-8 throughout, and between them such as are not in one place, or in all.
VERSIONS = {
    version.path: version
    for version in (
        VERSION._replace(path=b""),
        VERSION._replace(path=b"a/b"),
        VERSION._replace(path=b"a/b\xe9"),
        VERSION._replace(path=b"a/b\xed\xb3\xa9"),  # a surrogate in UTF-8, which is none
        VERSION._replace(path="a/b\u00e9".encode()),
        VERSION._replace(path=b"a/b\xff", user=b"\xff\xfe", group=b"\x80", link=b"\xff:2", xattrs=b"\xff"),
        VERSION._replace(path=b"c", kind=b"c", size=0, hash=None, sparse=0, rdev=259),
        VERSION._replace(path=b"g", group=b"gr\xfcn"),
        VERSION._replace(path=b"h", link=b"h\xff:7"),
        SYMLINK,
        SYMLINK._replace(path=b"l2", target=b"aim \xe9"),
        SYMLINK._replace(path=b"l\xff", target=b"\xff"),
        VERSION._replace(path=b"p", xattrs=None, link=None, sparse=0),
        VERSION._replace(path=b"p\xff", xattrs=None, link=None, sparse=0),
        VERSION._replace(path=b"q", xattrs=None, link=None, sparse=0, user="J\u00fcrgen".encode()),
        VERSION._replace(path=b"u", user=b"J\xfcrgen"),
        VERSION._replace(path=b"v", user="J\u00fcrgen".encode(), group="\U0001f600".encode(), xattrs=None, link=None),
    )
}


def test_names_that_are_no_utf_8_come_back_bit_for_bit_beside_others(database: Database) -> None:
    ids, _, _ = store(database, b"another", b"12345")
    with database.transaction():
        source = source_id(database, "host", b"/\xff", create=True)
        assert source is not None
        rows = [
            version_row(version, 7 * number, None if number == 3 else -number, 1 if version.hash else -1)
            for number, version in enumerate(VERSIONS.values())
        ]
        versions = [row_version(row, version.hash) for row, version in zip(rows, VERSIONS.values())]
        assert versions == list(VERSIONS.values())
        insert_versions(database, source, 5, True, [rows[:5], [], rows[5:]], ids)
    found = list(load_versions(database, source, VERSIONS))
    assert [version for version, _, _ in found] == list(VERSIONS.values())
    assert [(first, content) for _, first, content in found] == [
        (5, ids[1] if version.hash else None) for version in VERSIONS.values()
    ]
    current = list(current_files(database, source))
    assert [row[0] for row in current] == sorted(VERSIONS)
    stamps = {path: (7 * number, None if number == 3 else -number) for number, path in enumerate(VERSIONS)}
    assert {row[0]: (row[4], row[5]) for row in current} == stamps
    texts = ", ".join(f"typeof({name})" for name in ("path", "kind", "user", "grp"))
    assert database.query(f"SELECT DISTINCT {texts}, added FROM files") == [(b"text",) * 4 + (1,)]
    for name, type_ in (("target", b"text"), ("link", b"text"), ("xattrs", b"blob")):
        assert database.query(f"SELECT DISTINCT typeof({name}) FROM files WHERE {name} IS NOT NULL") == [(type_,)]


def test_damaged_row_of_a_file_is_not_taken_for_a_file(repo: Repository, tree: Path, tmp_path: Path) -> None:
    repo.snapshot(tree)
    expected = entries(tree)
    sql(repo.path, "UPDATE files SET mode = 'rw' WHERE path = 'a.txt'")
    result = repo.restore(1, tmp_path / "out")
    assert [problem.path for problem in result.problems] == ["a.txt"]
    found = entries(tmp_path / "out")
    del expected[b"a.txt"]
    assert found == expected
    write(tree / "a.txt", b"changed")
    with pytest.raises(CorruptionError, match=r"row of a\.txt"):
        repo.snapshot(tree)
