"""The other end of capturing databases, in this process."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Iterator, List, Sequence, Tuple

import pytest
from conftest import write

from backuptool.operations.snapshot import taking
from backuptool.operations.snapshot.taking import _Database
from backuptool.tree.source import Source


@pytest.fixture
def held() -> Iterator[ExitStack]:
    """What is held until the test ends."""
    with ExitStack() as stack:
        yield stack


def database(path: Path, *, wal: bool = False) -> sqlite3.Connection:
    """Make a database of 100 rows; it stays open."""
    path.parent.mkdir(exist_ok=True)
    connection = sqlite3.connect(str(path), isolation_level=None)
    if wal:
        connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE t (x)")
    connection.executemany("INSERT INTO t VALUES (?)", [(number,) for number in range(100)])
    return connection


def rows_of(data: bytes, path: Path) -> int:
    """Return how many rows an image has, after SQLite found nothing wrong with it."""
    path.write_bytes(data)
    with closing(sqlite3.connect(str(path))) as image:
        assert image.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return int(image.execute("SELECT count(*) FROM t").fetchone()[0])


def taker(tmp_path: Path, name: str, held: ExitStack) -> _Database:
    source = Source(os.fsencode(str(tmp_path / "tree")))
    held.callback(source.close)
    return _Database(source, name.encode(), str(tmp_path), held)


def bytes_of(descriptor: int) -> bytes:
    os.lseek(descriptor, 0, os.SEEK_SET)
    with os.fdopen(os.dup(descriptor), "rb") as file:
        return file.read()


def test_file_that_is_no_database_is_something_else(tmp_path: Path, held: ExitStack) -> None:
    write(tmp_path / "tree/text", b"SQLite format 2\0 and more")
    file = taker(tmp_path, "text", held)
    assert file.take(apart=False) == ("other", None, "")
    assert file.size() == 25


def test_database_with_a_rollback_journal_is_locked_until_it_is_released(tmp_path: Path) -> None:
    path = tmp_path / "tree/a.db"
    database(path).close()
    insert = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN EXCLUSIVE')"

    def is_free() -> bool:
        return (
            subprocess.run([sys.executable, "-c", insert, str(path)], stderr=subprocess.PIPE, check=False).returncode
            == 0
        )

    with ExitStack() as held:
        assert taker(tmp_path, "a.db", held).take(apart=False) == ("locked", None, "")
        assert not is_free()
    assert is_free()


def test_log_that_holds_something_is_a_part_of_the_image(tmp_path: Path, held: ExitStack) -> None:
    path = tmp_path / "tree/a.db"
    with closing(database(path, wal=True)):
        assert os.path.getsize(str(path) + "-wal") > 0
        before = path.read_bytes()
        how, descriptor, reason = taker(tmp_path, "a.db", held).take(apart=False)
        assert (how, reason) == ("image", "")
        assert descriptor is not None
        assert rows_of(bytes_of(descriptor), tmp_path / "image.db") == 100
        assert path.read_bytes() == before


def test_database_at_rest_with_a_log_format_is_watched(tmp_path: Path, held: ExitStack) -> None:
    path = tmp_path / "tree/a.db"
    database(path, wal=True).close()
    file = taker(tmp_path, "a.db", held)
    assert file.take(apart=False) == ("quiet", None, "")
    assert file.is_as_taken()
    with closing(sqlite3.connect(str(path))) as writer, writer:
        writer.execute("INSERT INTO t VALUES (1)")
    assert not file.is_as_taken()


@pytest.mark.parametrize("wal", [False, True])
def test_copy_apart_holds_the_same_bytes(tmp_path: Path, held: ExitStack, wal: bool) -> None:
    path = tmp_path / "tree/a.db"
    database(path, wal=wal).close()
    how, descriptor, reason = taker(tmp_path, "a.db", held).take(apart=True)
    assert (how, reason) == ("image", "")
    assert descriptor is not None
    assert bytes_of(descriptor) == path.read_bytes()
    assert sorted(os.listdir(str(tmp_path))) == ["tree"]  # the copy has no name


@pytest.mark.parametrize("apart", [False, True])
def test_log_without_its_index_is_refused_and_copied_if_wanted(tmp_path: Path, held: ExitStack, apart: bool) -> None:
    path = tmp_path / "tree/a.db"
    with closing(database(path, wal=True)):
        data, log = path.read_bytes(), Path(str(path) + "-wal").read_bytes()
    write(path, data)
    write(Path(str(path) + "-wal"), log)
    how, descriptor, reason = taker(tmp_path, "a.db", held).take(apart=apart)
    assert (how, reason) == ("refused", "no program has it open, and its -wal was left without a -shm")
    assert (descriptor is not None) == apart
    assert descriptor is None or bytes_of(descriptor) == data


def test_what_is_gone_or_no_file_is_refused(tmp_path: Path, held: ExitStack) -> None:
    (tmp_path / "tree").mkdir()
    gone = taker(tmp_path, "gone.db", held)
    assert gone.take(apart=True) == ("refused", None, "No such file or directory")
    assert gone.size() == 0
    path = tmp_path / "tree/a.db"
    database(path).close()
    os.mkfifo(str(path) + "-wal")
    assert taker(tmp_path, "a.db", held).take(apart=False) == ("refused", None, "a file beside it is none")


class _Line:
    """A channel whose other end is this list."""

    def __init__(self, told: Sequence[Tuple[object, ...]]) -> None:
        self._told = iter(told)
        self.sent: List[object] = []

    def receive(self) -> object:
        try:
            return next(self._told)
        except StopIteration:
            raise EOFError from None

    def send(self, message: object) -> None:
        self.sent.append(message)


def test_other_end_takes_one_file_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database(tmp_path / "tree/a.db").close()
    database(tmp_path / "tree/w.db", wal=True).close()
    write(tmp_path / "tree/text", b"text")
    released = ("release",)
    told = [message for name in (b"a.db", b"w.db", b"text") for message in (("take", name, False), released)]
    line = _Line(told)
    alarms: List[int] = []
    monkeypatch.setattr("signal.alarm", alarms.append)
    with pytest.raises(EOFError):
        taking.serve(line, os.fsencode(str(tmp_path / "tree")), str(tmp_path))  # type: ignore[arg-type]
    assert line.sent == [("locked", None, ""), True, ("quiet", None, ""), True, ("other", None, ""), True]
    assert alarms == [20, 0] * 3
