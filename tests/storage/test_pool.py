"""Connections that are lent to threads and processes."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from conftest import entries, new_database, noise, restored, sql, write, write_tree

from backuptool import Repository, RepositoryError, RepositoryLockedError, RepositoryNotFoundError
from backuptool.storage.connecting import open_database
from backuptool.storage.database import Database
from backuptool.storage.pool import ConnectionPool

from .making import MIB, as_nobody_is_root, count


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
