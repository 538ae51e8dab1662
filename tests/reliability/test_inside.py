"""The repository inside its own source: it is never saved, by whatever name it is reached, and its locks still hold.

The repository lies in the directory that it saves, with hard links, symlinks and bind mounts to it, while a second
process writes to it. Closing any descriptor of the file would drop SQLite's locks, so that it must not even be opened:
at every step of a snapshot another process tries to get the lock that this one holds.
"""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Iterator, List

import pytest
from conftest import noise, snapshot_watched, sql, write_tree
from trees import IS_ROOT, program

from backuptool import ProgressEvent, Repository

from .programme import Effort, Figures

pytestmark = pytest.mark.reliability

_SHORT, _FULL = 15, 1_000

#: The names under which the repository can be reached in a source, but for symlinks.
NAMES = ("backups.db", "hard link.db", "sub/another.db", "mounted.db", "backups.db-journal")

#: A second process, which saves another source into the same repository and prunes it until its input ends.
_WRITER = """
import select, sys
from backuptool import Repository
repository, other = sys.argv[1:]
rounds = 0
with Repository(repository, lock_timeout=120) as repo:
    while not select.select([sys.stdin], [], [], 0)[0]:
        with open(other + "/changing", "w") as file:
            file.write(str(rounds) * 10_000)
        number = repo.snapshot(other, host="second").snapshot.id
        if rounds % 3:
            repo.prune(number)
        rounds += 1
print(rounds)
"""

#: Tells whether another process holds the write lock.
_ASK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=0)
try:
    connection.execute("BEGIN IMMEDIATE")
    print("free")
except sqlite3.OperationalError:
    print("locked")
"""


@contextmanager
def bound(path: Path, over: Path) -> Iterator[bool]:
    """Mount a file over another one, where that is allowed."""
    over.write_bytes(b"")
    done = (
        IS_ROOT
        and not subprocess.run(
            [program("mount"), "--bind", str(path), str(over)], stderr=subprocess.DEVNULL, check=False
        ).returncode
    )
    try:
        yield bool(done)
    finally:
        if done:
            subprocess.run([program("umount"), str(over)], check=True)
        over.unlink()


def is_locked(repository: Path) -> bool:
    """Ask another process whether the write lock is held."""
    done = subprocess.run(
        [sys.executable, "-c", _ASK, str(repository)], stdout=subprocess.PIPE, check=True, encoding="ascii"
    )
    return done.stdout.strip() == "locked"


def look(repository: Path, source: Path, number: int, out: Path, figures: Figures) -> None:
    """See that nothing of the repository was saved, and that the rest comes back."""
    with Repository(repository, lock_timeout=120) as repo:
        saved = {os.fsdecode(path) for (path,) in sql_bytes(repository, number)}
        for name in NAMES:
            if name in saved:
                figures.faults.append(f"snapshot {number} holds {name}")
        result = repo.restore(number, out)
        figures.faults += [f"snapshot {number}: {problem.message}" for problem in result.problems]
        for path in out.rglob("*"):
            if path.is_file() and not path.is_symlink() and path.read_bytes()[:15] == b"SQLite format 3":
                figures.faults.append(f"snapshot {number} holds bytes of the repository as {path.name}")
        for name in ("a.txt", "sub/b.txt", "changing"):
            if (out / name).read_bytes() != (source / name).read_bytes():
                figures.faults.append(f"snapshot {number}: {name} did not come back")
        there = {
            os.path.relpath(os.path.join(top, name), str(out)) for top, d, f in os.walk(str(out)) for name in d + f
        }
        if there != {"a.txt", "sub", "sub/b.txt", "changing", "symlink.db", "absolute symlink.db"}:
            figures.faults.append(f"snapshot {number} holds {sorted(there)}")
    figures.tried["snapshots restored and compared"] += 1


def sql_bytes(repository: Path, number: int) -> List[Any]:
    """Return the paths of a snapshot, by SQL alone."""
    with closing(sqlite3.connect(str(repository), timeout=120)) as connection:
        connection.text_factory = bytes
        return connection.execute("SELECT path FROM snapshot_files WHERE snapshot_id = ?", (number,)).fetchall()


def make_source(root: Path) -> Path:
    """Make a source in which its repository lies, by every name that a file may have."""
    source = write_tree(root / "source", {"a.txt": b"a" * 1000, "sub/b.txt": b"b" * 3000, "changing": b"0"})
    repository = source / "backups.db"
    with Repository(repository) as repo:
        repo.snapshot(root / "other", host="second")
    os.link(str(repository), str(source / "hard link.db"))
    os.link(str(repository), str(source / "sub" / "another.db"))
    (source / "symlink.db").symlink_to("backups.db")
    (source / "absolute symlink.db").symlink_to(repository)
    return source


def run(effort: Effort) -> Figures:
    """Save a source with its repository in it, by all its names, while another process writes to it."""
    figures = Figures()
    chance = random.Random(effort.seed)
    other = write_tree(effort.work / "other", {"x": noise(20_000)})
    source = make_source(effort.work)
    names = [source / "backups.db", source / "hard link.db", source / "symlink.db", source / "sub" / "another.db"]
    with ExitStack() as stack:
        if stack.enter_context(bound(source / "backups.db", source / "mounted.db")):
            figures.tried["bind mounts"] += 1
        writer = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", _WRITER, str(source / "backups.db"), str(other)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                encoding="ascii",
            )
        )
        for number in range(_FULL if effort.full else _SHORT):
            if effort.is_over():
                break
            (source / "changing").write_bytes(noise(chance.randrange(200_000), number))
            name = chance.choice(names[:1] + names[2:3] if number % 2 else names[:1])
            with Repository(name, lock_timeout=120) as repo:
                taken = repo.snapshot(source, host="host").snapshot.id
            figures.tried["snapshots beside a second writer"] += 1
            look(source / "backups.db", source, taken, effort.work / f"out {number}", figures)
            if number % 100 == 99:
                effort.tell(f"{number + 1} snapshots, {len(figures.faults)} faults")
        rounds, _ = writer.communicate()
        figures.tried["snapshots and prunes of the second writer"] += int(rounds)
    with Repository(source / "backups.db") as repo:
        figures.faults += [problem.message for problem in repo.check().problems]
    _hold_locks(effort.work, figures)
    return figures


class StoppedError(Exception):
    """Raised before a snapshot would wait for the lock."""


def _hold_locks(work: Path, figures: Figures) -> None:
    """Hold the write lock while the source is walked and read in this process, and let another one ask all the time."""
    source = work / "source"
    repository = source / "backups.db"
    for path in source.rglob("*.txt"):
        os.utime(str(path))  # so that it is read again, with nothing in it to be stored

    def ask(event: ProgressEvent) -> None:
        figures.tried["times the lock was asked for"] += 1
        if not is_locked(repository):
            figures.faults.append(f"the lock was lost at {event.phase} {event.path}")
        if event.phase == "commit":
            raise StoppedError

    with closing(sqlite3.connect(str(repository), isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        try:
            snapshot_watched(repository, source, ask, host="host")
        except StoppedError:
            pass


def test_repository_inside_its_source_is_never_saved_and_its_locks_hold(tmp_path: Path) -> None:
    figures = run(Effort(work=tmp_path))
    assert figures.faults == []
    assert figures.tried["snapshots and prunes of the second writer"] > 0
    assert figures.tried["times the lock was asked for"] > 10


# Controls.


def test_a_program_that_opens_the_repository_loses_its_lock(tmp_path: Path) -> None:
    repository = tmp_path / "backups.db"
    sql(repository, "CREATE TABLE t (x)")
    with closing(sqlite3.connect(str(repository), isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        assert is_locked(repository)
        repository.read_bytes()
        assert not is_locked(repository)


def test_a_repository_that_is_saved_is_noticed(tmp_path: Path) -> None:
    write_tree(tmp_path / "other", {"x": b"x"})
    source = make_source(tmp_path)
    figures = Figures()
    with Repository(tmp_path / "elsewhere.db") as repo:
        repo.snapshot(source, host="host")
    look(tmp_path / "elsewhere.db", source, 1, tmp_path / "out", figures)
    assert any("holds backups.db" in fault for fault in figures.faults)
    assert any("holds bytes of the repository" in fault for fault in figures.faults)
