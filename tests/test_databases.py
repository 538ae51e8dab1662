"""SQLite databases in use: each is captured in one state that was committed, and nothing beside it is touched."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest
from conftest import children, noise, snapshot_watched, sql, write
from trees import mounted

from backuptool import ProgressEvent, Repository, SnapshotResult
from backuptool.operations import processes
from backuptool.storage.drivers import live

ROWS = 5

#: Commits without end: transaction t adds five rows of that number and changes one of an earlier one. What it has
#: committed it writes to a file.
WRITER = """
import os, random, sqlite3, sys
os.nice(10)
path, mode, told = sys.argv[1:]
database = sqlite3.connect(path, isolation_level=None, timeout=60)
database.execute("PRAGMA journal_mode=" + mode)
database.execute("PRAGMA synchronous=OFF")
database.execute("PRAGMA cache_size=5")
database.execute("CREATE TABLE IF NOT EXISTS rows (t, data)")
told = os.open(told, os.O_RDWR | os.O_CREAT)
for t in range(1, 1 << 30):
    database.execute("BEGIN IMMEDIATE")
    database.executemany("INSERT INTO rows VALUES (?, randomblob(150))", [(t,)] * 5)
    database.execute("UPDATE rows SET data = randomblob(150) WHERE rowid = ?", (random.randrange(5 * t) + 1,))
    database.execute("COMMIT")
    os.pwrite(told, b"%20d" % t, 0)
    if t == 20:
        print("ready", flush=True)
"""

#: Makes a database and dies without closing it, within a transaction whose pages are partly in the file if it is asked.
CRASHED = """
import os, sqlite3, sys
path, mode, rows = sys.argv[1:]
database = sqlite3.connect(path, isolation_level=None)
database.execute("PRAGMA journal_mode=" + mode)
database.execute("CREATE TABLE t (x)")
database.execute("INSERT INTO t VALUES (1)")
if int(rows):
    database.execute("PRAGMA cache_size=1")
    database.execute("BEGIN")
    for row in range(int(rows)):
        database.execute("INSERT INTO t VALUES (zeroblob(500))")
os.kill(os.getpid(), 9)
"""

LOCKED = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN EXCLUSIVE")
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def tmp_path(memory_path: Path) -> Path:
    """Thousands of commits happen here."""
    return memory_path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


@contextmanager
def running(program: str, *arguments: object) -> Iterator[None]:
    """Run a program beside this one, from its first line of output on; it is killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n"
        yield
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def crash(path: Path, mode: str, rows: int = 0) -> None:
    subprocess.run([sys.executable, "-c", CRASHED, str(path), mode, str(rows)], check=False)


def make(path: Path, mode: str = "delete", data: bytes = b"data") -> None:
    """Make a database, and close it."""
    with closing(sqlite3.connect(str(path), isolation_level=None)) as database:
        database.execute(f"PRAGMA journal_mode={mode}")
        database.execute("CREATE TABLE t (x)")
        database.execute("INSERT INTO t VALUES (?)", (data,))


def transactions(path: Path) -> int:
    """Return how many transactions of the writer a database holds, or fail if these are not the first ones."""
    with closing(sqlite3.connect(str(path))) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        counts = database.execute("SELECT t, count(*) FROM rows GROUP BY t ORDER BY t").fetchall()
    assert counts == [(number, ROWS) for number in range(1, len(counts) + 1)]
    return len(counts)


def can_begin(how: str, path: Path) -> bool:
    """Tell whether another process can begin such a transaction."""
    program = (
        "import sqlite3, sys; d = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None); "
        f"d.execute('BEGIN {how}')"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], stderr=subprocess.DEVNULL, check=False)
    return done.returncode == 0


def wait_for_more(told: Path, committed: int) -> int:
    """Wait until the writer has committed more than that, and return how much it has."""
    while True:
        now = int(told.read_bytes() or b"0")
        if now > committed:
            return now
        os.sched_yield()


def state(root: Path) -> Dict[str, Tuple[int, int, bytes]]:
    return {
        path.name: (path.stat().st_size, path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(root.iterdir())
    }


def names(repo: Repository, result: SnapshotResult, out: Path) -> List[str]:
    assert repo.restore(result.snapshot.id, out).problems == ()
    return sorted(path.name for path in out.iterdir())


def kinds(result: SnapshotResult) -> List[Tuple[str, str]]:
    return [(problem.kind, problem.path) for problem in result.problems]


@pytest.mark.parametrize("mode", ["wal", "delete", "truncate", "persist"])
def test_an_image_holds_the_first_transactions_however_much_is_committed_meanwhile(
    repo: Repository, source: Path, tmp_path: Path, mode: str
) -> None:
    with running(WRITER, source / "live.db", mode, tmp_path / "told"):
        committed = 0
        for number in range(2):
            committed = wait_for_more(tmp_path / "told", committed)
            result = repo.snapshot(source)
            assert (result.databases, result.problems) == (("live.db",), ())
            out = tmp_path / f"out{number}"
            assert names(repo, result, out) == ["live.db"]
            held = transactions(out / "live.db")
            assert committed <= held <= int((tmp_path / "told").read_bytes()) + 1
            committed = held + 1
    assert repo.check().problems == ()


def test_nobody_can_commit_to_a_database_with_a_rollback_journal_while_it_is_read(
    repo: Repository, source: Path
) -> None:
    make(source / "a.db", "delete", noise(3 << 20))
    could: List[bool] = []

    def attempt(event: ProgressEvent) -> None:
        if event.phase == "read":
            could.append(can_begin("EXCLUSIVE", source / "a.db"))

    assert snapshot_watched(repo.path, source, attempt).databases == ("a.db",)
    assert False in could
    assert can_begin("EXCLUSIVE", source / "a.db")


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_copy_of_the_bytes_breaks_under_the_same_writer(
    repo: Repository, source: Path, tmp_path: Path, mode: str
) -> None:
    with running(WRITER, source / "live.db", mode, tmp_path / "told"):
        for number in range(100):
            result = repo.snapshot(source, live_sqlite=False)
            assert result.databases == ()
            try:
                repo.restore(result.snapshot.id, tmp_path / f"out{number}")
                transactions(tmp_path / f"out{number}" / "live.db")
            except (AssertionError, sqlite3.DatabaseError):
                return
    pytest.fail("a hundred copies of a database that is written to are all sound")


def test_databases_that_helpers_come_upon_are_captured(source: Path, tmp_path: Path) -> None:
    make(source / "small.db")
    make(source / "large.db", "wal", noise(3 << 20))
    write(source / "no database", b"SQLite format 2\0" + bytes(100))
    with running(WRITER, source / "live.db", "wal", tmp_path / "told"):
        result = snapshot_watched(tmp_path / "backups.db", source, lambda event: None, helpers=2)
    assert (result.databases, result.problems) == (("large.db", "live.db", "small.db"), ())
    assert children() == []
    with Repository(tmp_path / "backups.db") as repo:
        assert names(repo, result, tmp_path / "out") == ["large.db", "live.db", "no database", "small.db"]
        assert repo.check().problems == ()
    assert transactions(tmp_path / "out" / "live.db") >= 20


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_database_at_rest_comes_back_bit_for_bit_and_nothing_is_made_beside_it(
    repo: Repository, source: Path, tmp_path: Path, mode: str
) -> None:
    make(source / "small.db", mode)
    make(source / "large.db", mode, noise(2 << 20))
    before = state(source)
    result = repo.snapshot(source)
    assert (result.databases, result.problems) == (("large.db", "small.db"), ())
    assert names(repo, result, tmp_path / "out") == ["large.db", "small.db"]
    assert state(source) == before == state(tmp_path / "out")


def test_a_log_that_was_left_behind_is_captured_and_left_as_it_is(
    repo: Repository, source: Path, tmp_path: Path
) -> None:
    crash(source / "left.db", "wal")
    before = state(source)
    result = repo.snapshot(source)
    assert (result.databases, result.problems) == (("left.db",), ())
    assert state(source) == before
    assert sorted(before) == ["left.db", "left.db-shm", "left.db-wal"]
    assert names(repo, result, tmp_path / "out") == ["left.db"]
    assert sql(tmp_path / "out" / "left.db", "SELECT x FROM t") == [(1,)]


def test_a_change_of_nothing_but_the_log_is_noticed(repo: Repository, source: Path, tmp_path: Path) -> None:
    crash(source / "a.db", "wal")
    first = repo.snapshot(source)
    unchanged = repo.snapshot(source)
    assert (unchanged.unchanged_files, unchanged.read_bytes, unchanged.databases) == (1, 0, ())
    main = (source / "a.db").stat()
    (tmp_path / "copy").mkdir()
    for name in ("a.db", "a.db-wal", "a.db-shm"):
        shutil.copy2(str(source / name), str(tmp_path / "copy" / name))
    program = CRASHED.replace("CREATE TABLE t (x)", "SELECT 1").replace("VALUES (1)", "VALUES (2)")
    subprocess.run([sys.executable, "-c", program, str(source / "a.db"), "wal", "0"], check=False)
    assert (source / "a.db").stat().st_mtime_ns == main.st_mtime_ns
    changed = repo.snapshot(source)
    assert (changed.changed_files, changed.databases, changed.problems) == (1, ("a.db",), ())
    names(repo, changed, tmp_path / "out")
    assert sql(tmp_path / "out" / "a.db", "SELECT x FROM t") == [(1,), (2,)]
    assert first.snapshot.files == changed.snapshot.files == 1
    assert repo.check().problems == ()


def test_a_database_that_gets_a_log_after_it_was_saved_is_read_again(
    repo: Repository, source: Path, tmp_path: Path
) -> None:
    make(source / "a.db", "wal")
    repo.snapshot(source)
    with closing(sqlite3.connect(str(source / "a.db"))) as database:
        database.execute("INSERT INTO t VALUES (2)")
        database.commit()
        result = repo.snapshot(source)
        assert result.problems == ()
        names(repo, result, tmp_path / "out")
        assert sql(tmp_path / "out" / "a.db", "SELECT x FROM t") == [(b"data",), (2,)]
    assert [snapshot.files for snapshot in repo.list()] == [1, 1]


def test_an_idle_program_leaves_no_files_beside_the_image(repo: Repository, source: Path) -> None:
    """The log is empty and the database unchanged, but the log's index comes and goes."""
    make(source / "a.db", "wal")
    repo.snapshot(source)
    with running(
        "import sqlite3, sys; d = sqlite3.connect(sys.argv[1]); d.execute('SELECT * FROM t').fetchall(); "
        "print('ready', flush=True); sys.stdin.read()",
        source / "a.db",
    ):
        assert len(list(source.iterdir())) == 3
        result = repo.snapshot(source)
    assert (result.new_files, result.unchanged_files, result.read_bytes, result.problems) == (0, 1, 0, ())


def test_files_that_only_look_like_companions_are_saved(repo: Repository, source: Path, tmp_path: Path) -> None:
    make(source / "app")
    write(source / "app-journal", bytes(8) + b"my own notes")
    write(source / "app-shm", b"my own notes")
    make(source / "other")
    make(source / "other-journal")
    write(source / "other-wal", b"")
    write(source / "text", b"text")
    write(source / "text-wal", b"of no database")
    write(source / "alone-wal", b"alone")
    result = repo.snapshot(source)
    expected = ["alone-wal", "app", "app-shm", "other", "other-journal", "other-wal", "text", "text-wal"]
    assert result.databases == ("app", "other-journal")
    assert kinds(result) == [("database-not-captured", "other")]  # SQLite itself takes the other one for its journal
    assert names(repo, result, tmp_path / "out") == expected
    again = repo.snapshot(source)
    assert (again.new_files, again.changed_files, again.removed_files) == (0, 0, 0)
    assert names(repo, again, tmp_path / "again") == expected
    assert repo.check().problems == ()


def test_companions_that_were_saved_once_go_when_the_database_is_captured(
    repo: Repository, source: Path, tmp_path: Path
) -> None:
    crash(source / "a.db", "wal")
    copied = repo.snapshot(source, live_sqlite=False)
    assert copied.snapshot.files == 3
    os.utime(str(source / "a.db"))
    captured = repo.snapshot(source)
    assert (captured.removed_files, captured.changed_files, captured.unchanged_files) == (2, 1, 0)
    assert names(repo, captured, tmp_path / "out") == ["a.db"]
    again = repo.snapshot(source, live_sqlite=False)
    assert (again.new_files, again.changed_files) == (2, 1)
    assert repo.check().problems == ()


def test_hard_linked_databases_stay_one_file(repo: Repository, source: Path, tmp_path: Path) -> None:
    make(source / "a.db")
    os.link(str(source / "a.db"), str(source / "b.db"))
    result = repo.snapshot(source)
    assert result.problems == ()
    names(repo, result, tmp_path / "out")
    assert (tmp_path / "out" / "a.db").stat().st_ino == (tmp_path / "out" / "b.db").stat().st_ino


# What cannot be captured.


def test_an_interrupted_transaction_is_not_rolled_back_but_saved_with_its_journal(
    repo: Repository, source: Path, tmp_path: Path
) -> None:
    crash(source / "hot.db", "delete", rows=200)
    before = state(source)
    result = repo.snapshot(source)
    assert kinds(result) == [("database-not-captured", "hot.db")]
    assert result.databases == ()
    assert state(source) == before
    assert names(repo, result, tmp_path / "out") == ["hot.db", "hot.db-journal"] == sorted(before)
    assert sql(tmp_path / "out" / "hot.db", "SELECT count(*) FROM t") == [(1,)]
    assert kinds(repo.snapshot(source)) == [("database-not-captured", "hot.db")]


def test_a_database_that_is_kept_locked_is_copied_and_named(
    repo: Repository, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(source / "a.db")
    with running(LOCKED, source / "a.db"):
        result = repo.snapshot(source)
    assert "a program keeps it locked" in str(result.problems[0])
    assert kinds(result) == [("database-not-captured", "a.db")]
    assert names(repo, result, tmp_path / "out") == ["a.db"]
    assert repo.snapshot(source).databases == ("a.db",)


@pytest.mark.parametrize("version", [1, 2])
def test_a_header_that_lies_does_no_harm(repo: Repository, source: Path, tmp_path: Path, version: int) -> None:
    for name, size in (("short", 20), ("long", 200_000)):
        write(source / name, b"SQLite format 3\0" + bytes([0, 0, version, version]) + noise(size))
    before = state(source)
    result = repo.snapshot(source)
    assert {*kinds(result)} <= {("database-not-captured", "long"), ("database-not-captured", "short")}
    assert names(repo, result, tmp_path / "out") == sorted(before)
    assert state(tmp_path / "out") == state(source) == before


@pytest.mark.long
def test_a_damaged_log_over_which_sqlite_goes_on_for_ever_stops_no_snapshot(
    repo: Repository, source: Path, tmp_path: Path
) -> None:
    write(source / "a.db", b"SQLite format 3\0" + bytes([0, 0, 2, 2]) + noise(5000))
    write(source / "a.db-wal", noise(5000))
    write(source / "a.db-shm", noise(32768))
    make(source / "b.db")
    before = state(source)
    result = repo.snapshot(source)
    assert (kinds(result), result.databases) == ([("database-not-captured", "a.db")], ("b.db",))
    assert names(repo, result, tmp_path / "out") == sorted(before)
    assert state(tmp_path / "out") == state(source) == before


def test_a_log_without_its_index_is_saved_with_the_database(repo: Repository, source: Path, tmp_path: Path) -> None:
    crash(source / "a.db", "wal")
    (source / "a.db-shm").unlink()
    result = repo.snapshot(source)
    assert kinds(result) == [("database-not-captured", "a.db")]
    assert names(repo, result, tmp_path / "out") == ["a.db", "a.db-wal"]
    assert sql(tmp_path / "out" / "a.db", "SELECT x FROM t") == [(1,)]


def test_without_room_for_an_image_the_bytes_are_copied(
    repo: Repository, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash(source / "a.db", "wal")
    (tmp_path / "small").mkdir()
    with mounted(tmp_path / "small") as small:
        monkeypatch.setattr(tempfile, "tempdir", str(small))
        result = repo.snapshot(source)
        assert list(small.iterdir()) == []
    assert "there is no room" in str(result.problems[0])
    assert names(repo, result, tmp_path / "out") == ["a.db", "a.db-shm", "a.db-wal"]


def test_without_a_process_to_capture_them_databases_are_copied(
    repo: Repository, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(source / "a.db")
    make(source / "b.db")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    result = repo.snapshot(source)
    assert kinds(result) == [("database-not-captured", "a.db"), ("database-not-captured", "b.db")]
    assert result.snapshot.files == 2


def test_a_process_that_dies_while_it_captures_costs_the_databases_not_the_snapshot(
    repo: Repository, source: Path, tmp_path: Path
) -> None:
    make(source / "a.db")
    make(source / "b.db")

    def kill(event: ProgressEvent) -> None:
        for child in children():
            os.kill(child, 9)

    result = snapshot_watched(repo.path, source, kill)
    assert result.snapshot.files == 2
    assert ("database-not-captured", "b.db") in kinds(result)
    assert names(repo, result, tmp_path / "out") == ["a.db", "b.db"]


def test_images_have_no_names_and_are_gone_afterwards(
    repo: Repository, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    crash(source / "a.db", "wal")
    seen: List[str] = []
    result = snapshot_watched(repo.path, source, lambda event: seen.extend(os.listdir(str(tmp_path / "temporary"))))
    assert (result.databases, seen) == (("a.db",), [])


def test_what_sqlite_opens_must_be_what_was_listed(tmp_path: Path) -> None:
    make(tmp_path / "secret.db")
    make(tmp_path / "mine.db")
    mine = (tmp_path / "mine.db").stat()
    allowed = frozenset({(mine.st_dev, mine.st_ino)})
    (tmp_path / "mine.db").rename(tmp_path / "old.db")
    (tmp_path / "mine.db").symlink_to("secret.db")
    with pytest.raises(live.NotCapturedError, match="replaced"), live.locked(
        os.fsencode(str(tmp_path / "mine.db")), allowed
    ):
        pass


# The process that takes the snapshot may have the database open itself.


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_transaction_of_the_same_process_keeps_its_locks(
    repo: Repository, source: Path, tmp_path: Path, mode: str
) -> None:
    make(source / "a.db", mode)
    write(source / "b.txt", b"b")
    with closing(sqlite3.connect(str(source / "a.db"), isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        database.execute("INSERT INTO t VALUES (2)")
        assert not can_begin("IMMEDIATE", source / "a.db")
        result = repo.snapshot(source)
        assert not can_begin("IMMEDIATE", source / "a.db")
        database.execute("COMMIT")
    assert (result.databases, result.problems) == (("a.db",), ())
    assert names(repo, result, tmp_path / "out") == ["a.db", "b.txt"]
    assert sql(tmp_path / "out" / "a.db", "SELECT x FROM t") == [(b"data",)]


def test_reading_the_bytes_of_an_open_database_drops_its_locks(source: Path) -> None:
    """Why another process does it: if this fails, it need not any more."""
    make(source / "a.db")
    with closing(sqlite3.connect(str(source / "a.db"), isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        (source / "a.db").read_bytes()
        assert can_begin("IMMEDIATE", source / "a.db")


def test_a_file_that_this_process_locks_for_itself_alone_is_copied_by_another(
    repo: Repository, source: Path, tmp_path: Path
) -> None:
    make(source / "a.db")
    with closing(sqlite3.connect(str(source / "a.db"), isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        result = repo.snapshot(source)
        assert not can_begin("IMMEDIATE", source / "a.db")
    assert kinds(result) == [("database-not-captured", "a.db")]
    assert names(repo, result, tmp_path / "out") == ["a.db"]


def test_other_files_that_this_process_has_open_are_saved_as_always(
    repo: Repository, source: Path, tmp_path: Path
) -> None:
    with open(str(write(source / "log.txt", b"a line\n")), "rb"):
        result = repo.snapshot(source)
    assert (result.databases, result.problems, result.new_files) == ((), (), 1)
    assert names(repo, result, tmp_path / "out") == ["log.txt"]


def test_nothing_is_started_where_there_is_no_database(
    repo: Repository, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: List[Any] = []
    monkeypatch.setattr(processes, "Helper", lambda *arguments: started.append(arguments))
    assert repo.snapshot(tree).databases == ()
    assert started == []
