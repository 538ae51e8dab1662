"""What every driver must do alike, whichever library is behind it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, Iterator, List, Type

import pytest
from conftest import entries, make_driver, restored, write

from backuptool import Repository
from backuptool.errors import (
    BackuptoolError,
    CorruptionError,
    NotARepositoryError,
    RepositoryError,
    RepositoryLockedError,
    RepositoryNotWritableError,
)
from backuptool.storage.drivers import Connection, default_driver

FOREIGN_NAME = b"\xff\xfe name"


def connect(path: Path, lock_timeout: float = 0.0) -> Connection:
    path.touch()
    return default_driver().connect(str(path), lock_timeout)


@pytest.fixture
def connection(tmp_path: Path, driver: str) -> Iterator[Connection]:
    """A database with one table of every kind of value, on each driver."""
    with closing(connect(tmp_path / "one.db")) as opened:
        opened.execute("CREATE TABLE things (id INTEGER PRIMARY KEY, name TEXT, data BLOB, any)")
        insert = "INSERT INTO things (name, data, any) VALUES (CAST(? AS TEXT), ?, ?)"
        assert opened.executemany(insert, [(b"b", b"1", "text"), (FOREIGN_NAME, None, 7), (None, b"", None)]) == 3
        yield opened


def test_text_comes_back_as_bytes_whether_or_not_it_is_utf_8(connection: Connection) -> None:
    rows = [(1, b"b", b"1", b"text"), (2, FOREIGN_NAME, None, 7), (3, None, b"", None)]
    assert connection.query("SELECT * FROM things ORDER BY id") == rows
    assert list(connection.stream("SELECT * FROM things ORDER BY id", (), 2)) == [rows[:2], rows[2:]]
    assert connection.query("WITH t AS (SELECT max(name) AS m FROM things) SELECT m, m || 'x', typeof(m) FROM t") == [
        (FOREIGN_NAME, FOREIGN_NAME + b"x", b"text")
    ]
    assert connection.query("VALUES ('a', 1), (?, ?)", ("b", None)) == [(b"a", 1), (b"b", None)]
    assert connection.query("PRAGMA journal_mode") == [(b"delete",)]
    assert connection.execute("UPDATE things SET data = 'text where none should be' WHERE id = 1") == 1
    assert connection.query("SELECT data FROM things WHERE id = 1") == [(b"text where none should be",)]


def test_order_and_limit_of_a_statement_are_kept(connection: Connection) -> None:
    assert connection.query("SELECT name, id FROM things ORDER BY name DESC, id LIMIT 2") == [
        (FOREIGN_NAME, 2),
        (b"b", 1),
    ]
    assert connection.query("SELECT name, name FROM things WHERE id < ? ORDER BY id DESC", (3,)) == [
        (FOREIGN_NAME, FOREIGN_NAME),
        (b"b", b"b"),
    ]
    union = "SELECT name FROM things UNION ALL SELECT 'z' ORDER BY 1 DESC LIMIT 3"
    assert connection.query(union) == [(FOREIGN_NAME,), (b"z",), (b"b",)]


def test_rows_that_change_are_counted(connection: Connection) -> None:
    assert connection.execute("UPDATE things SET any = 1 WHERE id > ?", (1,)) == 2
    assert connection.executemany("DELETE FROM things WHERE id = ?", iter([(1,), (9,), (3,)])) == 2
    assert connection.execute("BEGIN") <= 0
    assert connection.in_transaction
    assert connection.execute("COMMIT") <= 0
    assert not connection.in_transaction


def test_statements_are_traced_as_they_were_asked_for(connection: Connection) -> None:
    heard: List[str] = []
    connection.trace(heard.append)
    connection.query("SELECT name FROM things")
    connection.query("SELECT name FROM things")
    connection.execute("DELETE FROM things")
    connection.trace(None)
    connection.query("SELECT id FROM things")
    assert heard == ["SELECT name FROM things"] * 2 + ["DELETE FROM things"]


def test_more_statements_than_are_kept_prepared_are_all_answered(connection: Connection) -> None:
    for number in range(600):
        assert connection.query(f"SELECT name, {number} FROM things WHERE id = 1") == [(b"b", number)]


def test_file_whose_name_is_not_utf_8_is_opened(tmp_path: Path, driver: str) -> None:
    path = tmp_path / "100% ?a=b#" / os.fsdecode(b"\xff.db")
    path.parent.mkdir()
    with closing(connect(path)) as opened:
        opened.execute("CREATE TABLE t (x)")
        assert path.stat().st_size > 0


def test_database_in_memory_is_empty_and_its_own(driver: str) -> None:
    with closing(default_driver().memory()) as one, closing(default_driver().memory()) as other:
        one.execute("CREATE TABLE t (x)")
        assert other.query("SELECT name FROM sqlite_master") == []


def failure_of(connection: Connection, sql: str, parameters: Any = ()) -> List[BackuptoolError]:
    """What each way of asking raises."""
    raised = []
    for ask in (
        lambda: connection.query(sql, parameters),
        lambda: list(connection.stream(sql, parameters, 1)),
        lambda: connection.execute(sql, parameters),
        lambda: connection.executemany(sql, [parameters]),
    ):
        with pytest.raises(BackuptoolError) as caught:
            ask()
        assert caught.value.__cause__ is not None
        raised.append(caught.value)
    return raised


def assert_failures(connection: Connection, kind: Type[BackuptoolError], text: str, sql: str, *parameters: Any) -> None:
    for raised in failure_of(connection, sql, parameters):
        assert type(raised) is kind
        assert text in str(raised)


INSERT = "INSERT INTO things (data) VALUES (zeroblob(?))"


def test_what_is_locked_is_locked(connection: Connection, tmp_path: Path) -> None:
    with closing(connect(tmp_path / "one.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        assert_failures(connection, RepositoryLockedError, "--lock-timeout", INSERT, 1)


def test_what_is_full_is_full(connection: Connection) -> None:
    connection.query("PRAGMA max_page_count=4")
    assert_failures(connection, RepositoryNotWritableError, "no space left", INSERT, 1 << 20)


def test_what_is_read_only_is_read_only(connection: Connection) -> None:
    connection.query("PRAGMA query_only=ON")
    assert_failures(connection, RepositoryNotWritableError, "is read-only", INSERT, 1)


def test_what_is_closed_was_closed(connection: Connection) -> None:
    connection.close()
    assert_failures(connection, RepositoryError, "was closed", "SELECT 1")
    assert not connection.in_transaction


def test_number_that_is_too_large_is_an_error(connection: Connection) -> None:
    assert_failures(connection, RepositoryError, "number is too large", INSERT, 1 << 70)


def test_file_of_another_kind_is_not_a_repository(tmp_path: Path, driver: str) -> None:
    write(tmp_path / "text.db", b"not a database at all" * 1000)
    with closing(connect(tmp_path / "text.db")) as opened:
        assert_failures(opened, NotARepositoryError, "is not a backuptool repository", "DELETE FROM sqlite_master")


def test_file_that_is_not_there_cannot_be_opened(tmp_path: Path, driver: str) -> None:
    with pytest.raises(RepositoryNotWritableError, match="cannot open the repository"):
        default_driver().connect(str(tmp_path / "missing"), 0.0).query("PRAGMA user_version")
    assert not (tmp_path / "missing").exists()


def test_damaged_page_is_damage(connection: Connection, tmp_path: Path) -> None:
    connection.close()
    path = tmp_path / "one.db"
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 4096)
    with closing(connect(path)) as opened:
        assert_failures(opened, CorruptionError, "is damaged", "DELETE FROM things WHERE name = 'b'")


def test_everything_works_on_every_driver(tmp_path: Path, tree: Path, driver: str) -> None:
    names = [FOREIGN_NAME, b"plain", "ä".encode()]
    for name in names:
        write(tree / os.fsdecode(name), name * 3)
    with Repository(tmp_path / "r.db", max_helpers=0) as repo:
        first = repo.snapshot(tree, note="ü", tags=["one"], host=os.fsdecode(b"h\xfe"))
        assert first.problems == ()
        before = entries(tree)
        assert repo.snapshot(tree, host=os.fsdecode(b"h\xfe")).new_files == 0
        (tree / os.fsdecode(FOREIGN_NAME)).unlink()
        repo.snapshot(tree, host=os.fsdecode(b"h\xfe"))
        assert restored(repo, 1, tmp_path / "out") == before
        repo.prune([2, 3])
        assert [found.note for found in repo.list().snapshots] == ["ü"]
        assert repo.check().problems == ()


@pytest.mark.plain
def test_driver_reads_what_another_wrote(tmp_path: Path, tree: Path, driver: str) -> None:
    with Repository(tmp_path / "r.db") as repo:
        repo.snapshot(tree)
    program = "import sys, backuptool; print(len(backuptool.Repository(sys.argv[1]).check().problems))"
    printed = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "r.db")], stdout=subprocess.PIPE, check=True
    ).stdout
    assert printed == b"0\n"


def test_plain_repository_is_used_without_any_other_library(tmp_path: Path, tree: Path) -> None:
    program = (
        "import sys, backuptool\n"
        "repo = backuptool.Repository(sys.argv[1])\n"
        "repo.snapshot(sys.argv[2]); repo.list(); repo.check(); repo.close()\n"
        "print([name for name in ('apsw', 'argon2', 'cryptography') if name in sys.modules])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "r.db"), str(tree)], stdout=subprocess.PIPE, check=True
    ).stdout
    assert printed == b"[]\n"


def test_vfs_sees_every_write(tmp_path: Path) -> None:
    apsw = pytest.importorskip("apsw")
    written: List[int] = []

    class WatchedFile(apsw.VFSFile):  # type: ignore[misc,name-defined,unused-ignore]
        def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
            written.append(len(data))
            super().xWrite(data, offset)

    class Watched(apsw.VFS):  # type: ignore[misc,name-defined,unused-ignore]
        def xOpen(self, name: Any, flags: Any) -> Any:  # noqa: N802
            return WatchedFile("", name, flags)

    vfs = Watched("watched", "")
    try:
        path = tmp_path / "one.db"
        path.touch()
        with closing(make_driver("apsw", vfs="watched").connect(str(path), 0.0)) as opened:
            opened.execute("CREATE TABLE t (x)")
        assert sum(written) > path.stat().st_size > 0
    finally:
        vfs.unregister()


@pytest.mark.parametrize("missing", ["apsw", "cryptography", "cryptography.hazmat.primitives.kdf.argon2"])
def test_encryption_that_is_not_installed_is_one_clear_line(tmp_path: Path, tree: Path, missing: str) -> None:
    """Also where Python is too old for it."""
    path = tmp_path / "made" / "r.db"
    path.parent.mkdir()
    program = (
        f"import sys; sys.modules[{missing!r}] = None; import backuptool; "
        f"backuptool.Repository({str(path)!r}, password='p').snapshot({str(tree)!r})"
    )
    ended = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, check=False)
    last = ended.stderr.decode().strip().split("\n")[-1]
    assert last.startswith("backuptool.errors.RepositoryError: ")
    assert last.endswith("pip install 'apsw-sqlite3mc>=3.51' 'cryptography>=44'")
    asked = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    for package in re.findall("'([^']+)'", last):
        assert f'"{package}; python_version' in asked
    assert list(path.parent.iterdir()) == []
