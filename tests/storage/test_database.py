"""Statements, transactions, and what is to be known of the file."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Iterator, List, Tuple

import pytest
from conftest import new_database

from backuptool import BackuptoolError, CorruptionError, Repository, RepositoryError, RepositoryLockedError
from backuptool.storage.connecting import open_database
from backuptool.storage.database import Database

from .making import MIB, count

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


@pytest.mark.plain
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
