"""Files that this process has open elsewhere keep their locks, whatever is done with the directory they lie in."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Callable, Dict, Iterator, List

import pytest
from conftest import age, noise, snapshot_watched, sql, write, write_tree
from trees import mounted, needs_root

from backuptool import ProgressEvent, Repository
from backuptool.storage.connecting import open_database
from backuptool.storage.database import Database
from backuptool.storage.encryption.keyring import Keyring
from backuptool.tree.held import OpenFiles
from backuptool.tree.source import Source

PASSWORD = "correct horse"

#: Asks for the byte that SQLite locks for writing.
_ASK = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0x40000001)
        print("free")
    except OSError:
        print("locked")
"""


def is_locked(path: Path) -> bool:
    """Ask another process whether somebody may write to a database."""
    done = subprocess.run([sys.executable, "-S", "-c", _ASK, str(path)], stdout=subprocess.PIPE, check=True)
    return done.stdout == b"locked\n"


def descriptors(path: Path) -> int:
    """Return how many descriptors this process has of a file."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.path.samestat(os.stat(f"/proc/self/fd/{name}"), path.stat())
        except OSError:
            pass
    return found


def make_users(path: Path) -> None:
    sql(path, "CREATE TABLE t (x)")


def make_large(path: Path) -> None:
    sql(path, "CREATE TABLE t (x)")
    sql(path, "INSERT INTO t VALUES (?)", noise(3 << 20))


def make_repository(path: Path) -> None:
    with Repository(path) as repo:
        repo.snapshot(write_tree(path.parent.parent / "other", {"x": b"x"}))


def make_encrypted(path: Path) -> None:
    if sys.version_info < (3, 9):
        pytest.skip("encryption needs Python 3.9")
    for library in ("apsw", "cryptography"):
        pytest.importorskip(library)
    with Repository(path, password=PASSWORD) as repo:
        repo.snapshot(write_tree(path.parent.parent / "other", {"x": b"x"}))


@contextmanager
def writing(path: Path, kind: str) -> Iterator[None]:
    """Hold the write lock of a database in this process."""
    if kind in ("users", "large"):
        with closing(sqlite3.connect(str(path), isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
    else:
        keyring = Keyring(PASSWORD) if kind == "encrypted" else None
        with closing(open_database(str(path), 10.0, keyring)) as database, database.transaction():
            yield


MAKE: Dict[str, Callable[[Path], None]] = {
    "users": make_users,
    "large": make_large,
    "repository": make_repository,
    "encrypted": make_encrypted,
}

USES: Dict[str, Callable[[Repository, Path], object]] = {
    "snapshot": lambda repo, tree: repo.snapshot(tree),
    "snapshot, byte by byte": lambda repo, tree: repo.snapshot(tree, live_sqlite=False),
    "compare": lambda repo, tree: repo.compare(1, tree),
    "verify": lambda repo, tree: repo.restore(1, tree, overwrite="never", verify=True),
    "give metadata": lambda repo, tree: repo.restore(1, tree),
    "snapshot_files": lambda repo, tree: repo.snapshot_files({"x": tree / "its.db"}, "name"),
}


@pytest.fixture
def tmp_path(memory_path: Path) -> Path:
    """Databases are written again and again."""
    return memory_path


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("use", USES)
def test_file_that_is_open_elsewhere_in_this_process_keeps_its_locks(tmp_path: Path, kind: str, use: str) -> None:
    tree = write_tree(tmp_path / "tree", {"file": b"bytes"})
    path = tree / "its.db"
    MAKE[kind](path)
    age(tree)
    with Repository(tmp_path / "backups.db", max_helpers=0) as repo:
        assert repo.snapshot(tree).problems == ()
        if use == "give metadata":
            path.chmod(0o600 if path.stat().st_mode & 0o777 != 0o600 else 0o640)
        else:
            os.utime(path)  # so that it is read
        with writing(path, kind):
            assert is_locked(path)
            before = descriptors(path)
            for _ in range(3):
                USES[use](repo, tree)
                assert is_locked(path)
            assert descriptors(path) <= before + 1
        USES[use](repo, tree)
        assert descriptors(path) == 0
        assert not is_locked(path)
        assert repo.check().problems == ()


@needs_root
def test_own_database_that_cannot_be_captured_or_copied_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, place = write_tree(tmp_path / "tree", {"file": b"bytes"}), tmp_path / "temporary"
    make_users(tree / "its.db")
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    with Repository(tmp_path / "backups.db", max_helpers=0) as repo, mounted(place), closing(
        sqlite3.connect(str(tree / "its.db"), isolation_level=None)
    ) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        (problem,) = repo.snapshot(tree).problems
        assert (problem.kind, problem.path) == ("database-not-captured", "its.db")
        assert is_locked(tree / "its.db")
        assert repo.restore(1, tmp_path / "out").problems == ()
    assert (tmp_path / "out" / "its.db").read_bytes() == (tree / "its.db").read_bytes()


def test_repository_opened_while_its_directory_is_saved_keeps_its_locks(tmp_path: Path) -> None:
    """Nobody had it open when the walk began."""
    tree = tmp_path / "tree"
    make_repository(write(tree / "file", b"bytes").with_name("its.db"))
    (tree / "large").write_bytes(noise(3 << 20))
    opened: List[Database] = []

    def open_it(event: ProgressEvent) -> None:
        if event.phase == "read" and not opened:
            opened.append(open_database(str(tree / "its.db"), 10.0))
            opened[0].execute("BEGIN IMMEDIATE")

    snapshot_watched(tmp_path / "backups.db", tree, open_it, live_sqlite=False, helpers=0)
    assert is_locked(tree / "its.db")
    opened[0].close()


def test_what_was_kept_is_read_from_its_beginning_and_let_go_of_in_the_end(tmp_path: Path) -> None:
    path = write(tmp_path / "file", b"bytes")
    with path.open("rb"):
        source = Source(bytes(tmp_path))
        for _ in range(3):
            with source.open_file(b"file", path.stat()) as file:
                assert file.read_all(100) == b"bytes"
        assert descriptors(path) == 2
        with source.open_file(b"file", path.stat()), source.open_file(b"file", path.stat()) as file:
            assert file.read_all(100) == b"bytes"
        assert descriptors(path) == 3
    OpenFiles()
    assert descriptors(path) == 0
    source.close()


def test_only_what_is_open_elsewhere_is_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "file", b"bytes")
    source = Source(bytes(tmp_path))
    with source.open_file(b"file", path.stat()):
        pass
    assert descriptors(path) == 0
    source.close()
