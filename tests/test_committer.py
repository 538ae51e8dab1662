"""Committing packs: how long a transaction is held, and what is left of one that nobody finished."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Iterator, List

import pytest
from conftest import Clock, noise, sql

from backuptool import RepositoryError, RepositoryLockedError
from backuptool.storage import committer
from backuptool.storage.database import Database
from backuptool.storage.pool import ConnectionPool
from backuptool.storage.writer import ContentWriter

MIB = 1 << 20


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[ConnectionPool]:
    with closing(ConnectionPool(str(tmp_path / "backups.db"), 30.0)) as opened:
        with opened.writing(create=True):
            pass
        yield opened


def commits(database: Database) -> List[str]:
    """Return a list to which each commit of packs is added."""
    seen: List[str] = []
    database.trace(lambda statement: seen.append(statement) if statement == "COMMIT" else None)
    return seen


def fill(writer: ContentWriter, mebibytes: int) -> None:
    """Add contents that do not compress."""
    for number in range(mebibytes):
        writer.add(noise(MIB, number))


def fill_and_flush(writer: ContentWriter, mebibytes: int) -> None:
    fill(writer, mebibytes)
    writer.flush()


def test_where_commits_take_nothing_there_is_one_for_each_batch(
    pool: ConnectionPool, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer, "_HOLD", 0)
    with pool.writing() as database, ContentWriter(database, clock) as writer:
        seen = commits(database)
        fill(writer, 24)
        writer.flush()
        assert 5 <= len(seen) <= 7


def test_where_they_take_long_batches_share_one(
    pool: ConnectionPool, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer, "_HOLD", 1e9)
    monkeypatch.setattr(committer, "_HOLD_SECONDS", 60.0)
    monkeypatch.setattr(committer, "_HOLD_BYTES", 20 * MIB)
    with pool.writing() as database, ContentWriter(database, clock) as writer:
        seen = commits(database)
        fill(writer, 60)
        writer.flush()
        assert 3 <= len(seen) <= 5  # the first batch, which shows how long it takes, then 20 MiB each
        assert writer.stored_bytes >= 60 * MIB
    assert sql(pool.path, "SELECT count(*) FROM contents") == [(60,)]


def test_what_nothing_follows_is_committed_without_being_asked(
    pool: ConnectionPool, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer, "_HOLD_SECONDS", 0.3)
    monkeypatch.setattr(committer, "_HOLD", 1e9)
    with pool.writing() as database, ContentWriter(database, clock) as writer:
        fill(writer, 24)
        with closing(ConnectionPool(pool.path, 30.0)) as other, other.writing() as second, second.transaction():
            assert second.value("SELECT count(*) FROM contents") >= 16  # it has waited for the lock, and got it
        writer.flush()


def test_what_was_not_committed_is_taken_back(
    pool: ConnectionPool, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer, "_HOLD", 1e9)
    monkeypatch.setattr(committer, "_HOLD_SECONDS", 60.0)
    with pool.writing() as database:
        with ContentWriter(database, clock) as writer:
            fill(writer, 24)
            assert writer.stored_bytes < 12 * MIB
        assert sum(size for (size,) in sql(pool.path, "SELECT length(data) FROM packs")) < 12 * MIB
        assert database.value("PRAGMA foreign_keys") == 1
        with database.transaction():  # nothing is held any more
            pass
        with ContentWriter(database, clock) as writer:
            fill(writer, 24)
            writer.flush()
    assert sql(pool.path, "SELECT count(*) FROM contents") == [(24,)]


@pytest.mark.plain
def test_a_commit_that_fails_is_told_to_who_comes_next(
    pool: ConnectionPool, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pool.writing() as database:
        limit = database.value("PRAGMA page_count") + 400
        database.query(f"PRAGMA max_page_count={limit}")
        with ContentWriter(database, clock) as writer, pytest.raises(RepositoryError) as caught:
            fill_and_flush(writer, 60)
        assert not isinstance(caught.value, RepositoryLockedError)
        database.query("PRAGMA max_page_count=1000000")
        with ContentWriter(database, clock) as writer:
            fill(writer, 12)
            writer.flush()
    assert sql(pool.path, "PRAGMA integrity_check") == [("ok",)]
