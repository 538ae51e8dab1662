"""A guarded directory is put back exactly as it was if the block raises, and nothing else is touched."""

from __future__ import annotations

import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Callable, Optional

import pytest
from conftest import NOBODY, age, as_nobody, entries, sql, write, write_tree
from trees import facts, make_every_kind, program, rsync_differences

from backuptool import Guard, GuardError, Repository


class BlockError(Exception):
    """What blocks raise."""


def fail_in(guard: Guard, act: Callable[[], object], error: Optional[BaseException] = None) -> None:
    """Do something in a guarded block, and let that raise."""
    with guard:
        act()
        raise error or BlockError


def remove(root: Path, *names: str) -> None:
    for name in names:
        shutil.rmtree(str(root / name))


def damage(root: Path) -> None:
    """Change, remove and add; and change one file so that it looks as before."""
    looks_alike = root / "a.txt"
    times = looks_alike.stat()
    looks_alike.write_bytes(b"x" * times.st_size)
    os.utime(str(looks_alike), ns=(times.st_atime_ns, times.st_mtime_ns))
    (root / "b.txt").unlink()
    (root / "docs" / "deep" / "c.bin").write_bytes(b"other")
    write(root / "new" / "file", b"new")
    (root / "empty").chmod(0o777)


@pytest.mark.both
def test_a_block_that_raises_leaves_the_directory_as_it_was(repo: Repository, tree: Path) -> None:
    before = entries(tree)
    guard = repo.guard(tree, note="before the trial", tags=["guard"])
    with pytest.raises(BlockError):
        fail_in(guard, lambda: damage(tree))
    assert entries(tree) == before
    assert guard.snapshot is not None
    assert (guard.snapshot.snapshot.note, guard.snapshot.snapshot.tags) == ("before the trial", ("guard",))
    assert guard.restored is not None
    assert (guard.restored.deleted_files, guard.restored.problems) == (2, ())


def test_a_block_that_does_not_raise_keeps_what_it_did(repo: Repository, tree: Path) -> None:
    with repo.guard(tree) as guard:
        damage(tree)
        after = entries(tree)
    assert guard.restored is None
    assert entries(tree) == after
    assert len(repo.list()) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt("stop"), SystemExit(3), BlockError("of the block")])
def test_whatever_is_raised_is_raised_again(repo: Repository, tree: Path, error: BaseException) -> None:
    before = entries(tree)
    with pytest.raises(type(error)) as caught:
        fail_in(repo.guard(tree), lambda: damage(tree), error)
    assert caught.value is error
    assert entries(tree) == before


def test_every_kind_of_file_is_put_back(repo: Repository, tmp_path: Path) -> None:
    tree, copy = tmp_path / "tree", tmp_path / "copy"
    make_every_kind(tree)
    copy.mkdir()
    subprocess.run([program("rsync"), "-aHAXS", f"{tree}/", f"{copy}/"], check=True)
    before = facts(tree)
    with pytest.raises(BlockError):
        fail_in(repo.guard(tree), lambda: remove(tree, "files", "links", "sparse"))
    assert facts(tree) == before
    assert rsync_differences(copy, tree) == ""


def test_many_files_that_look_as_before_are_written_again(repo: Repository, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree", {f"d/{number}": b"%3d" % number for number in range(250)})
    before = entries(tree)

    def change() -> None:
        for path in (tree / "d").iterdir():
            times = path.stat()
            path.write_bytes(b"bad")
            os.utime(str(path), ns=(times.st_atime_ns, times.st_mtime_ns))

    with pytest.raises(BlockError):
        fail_in(repo.guard(tree), change)
    assert entries(tree) == before


def test_guards_may_be_nested(repo: Repository, tree: Path) -> None:
    outer_before = entries(tree)

    def within() -> None:
        write(tree / "outer", b"of the outer block")
        age(tree)
        inner_before = entries(tree)
        with pytest.raises(BlockError):
            fail_in(repo.guard(tree), lambda: damage(tree))
        assert entries(tree) == inner_before
        with pytest.raises(BlockError):
            fail_in(repo.guard(tree / "docs"), (tree / "docs" / "copy of b.txt").unlink)
        assert entries(tree) == inner_before

    with pytest.raises(BlockError):
        fail_in(repo.guard(tree), within)
    assert entries(tree) == outer_before


def test_the_repository_may_lie_within(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree", {"a.txt": b"a", "backups": None})
    with Repository(tree / "backups" / "backups.db") as repo:

        def act() -> None:
            (tree / "a.txt").unlink()
            write(tree / "b.txt", b"b")
            repo.snapshot(tree)

        with pytest.raises(BlockError):
            fail_in(repo.guard(tree), act)
        assert sorted(os.listdir(str(tree))) == ["a.txt", "backups"]
        assert len(repo.list()) == 2
        assert repo.check().problems == ()


def test_a_large_file_is_saved_and_not_deleted(repo: Repository, tree: Path) -> None:
    huge = tree / "huge"
    with huge.open("wb") as file:
        file.truncate((1 << 30) + 1)  # above what a snapshot skips by itself

    def change() -> None:
        with huge.open("r+b") as file:
            file.write(b"changed")

    with pytest.raises(BlockError):
        fail_in(repo.guard(tree), change)
    with huge.open("rb") as changed_back:
        assert changed_back.read(7) == bytes(7)
    assert huge.stat().st_size == (1 << 30) + 1


def test_what_cannot_be_saved_completely_is_not_guarded(public_path: Path) -> None:
    tree = write_tree(public_path / "tree", {"a.txt": b"a", "secret": b"secret"})
    for path in (tree, tree / "a.txt"):
        os.chown(str(path), NOBODY, NOBODY)
    (tree / "secret").chmod(0)

    def use() -> str:
        with Repository(public_path / "backups.db") as repo:
            try:
                fail_in(repo.guard(tree), lambda: (tree / "a.txt").write_bytes(b"the block was run"))
            except GuardError as error:
                return str(error)
        return "guarded"

    assert "cannot be guarded" in as_nobody(use)
    assert (tree / "a.txt").read_bytes() == b"a"
    assert (tree / "secret").stat().st_size == 6


def test_a_directory_that_was_removed_is_made_again(repo: Repository, tree: Path) -> None:
    before = entries(tree)
    with pytest.raises(BlockError):
        fail_in(repo.guard(tree), lambda: tree.rename(tree.parent / "elsewhere"))
    assert entries(tree) == before


def to_a_symlink(tree: Path) -> None:
    tree.rename(tree.parent / "moved")
    tree.symlink_to(tree.parent / "other")


def to_a_file(tree: Path) -> None:
    tree.rename(tree.parent / "moved")
    tree.write_bytes(b"a file")


@pytest.mark.parametrize("replace", [to_a_symlink, to_a_file])
def test_what_took_the_place_of_the_directory_is_not_touched(
    repo: Repository, tree: Path, replace: Callable[[Path], None]
) -> None:
    precious = write(tree.parent / "other" / "precious", b"precious")
    with pytest.raises(GuardError, match="could not be put back") as caught:
        fail_in(repo.guard(tree), lambda: replace(tree))
    assert isinstance(caught.value.__cause__, BlockError)
    assert (caught.value.snapshot, caught.value.path) == (1, str(tree))
    assert precious.read_bytes() == b"precious"
    assert (tree.parent / "moved" / "a.txt").exists()
    repo.restore(caught.value.snapshot, tree.parent / "out")
    assert entries(tree.parent / "out") == entries(tree.parent / "moved")


def test_problems_of_putting_back_are_named_and_the_rest_is_put_back(repo: Repository, tree: Path) -> None:
    """A content is damaged meanwhile; everything else comes back."""

    def act() -> None:
        (tree / "a.txt").unlink()
        (tree / "b.txt").unlink()
        repo.close()
        sql(repo.path, "UPDATE contents SET hash = zeroblob(32) WHERE size = 1000")

    with pytest.raises(GuardError, match=r"a\.txt: not restored") as caught:
        fail_in(repo.guard(tree), act)
    assert {problem.path for problem in caught.value.problems} == {"a.txt", "."}  # the list of files has its hash
    assert (tree / "b.txt").read_bytes() == b"b" * 2000


def test_a_snapshot_that_is_gone_is_said_with_the_error_of_the_block(repo: Repository, tree: Path) -> None:
    with pytest.raises(GuardError, match="there is no snapshot 1") as caught:
        fail_in(repo.guard(tree), lambda: repo.prune(1))
    assert isinstance(caught.value.__cause__, BlockError)
    assert (tree / "a.txt").exists()
    same = pickle.loads(pickle.dumps(caught.value))
    assert (str(same), same.snapshot, same.problems) == (str(caught.value), 1, ())


def test_a_database_that_the_block_has_changed_is_put_back(repo: Repository, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    with closing(sqlite3.connect(str(tree / "a.db"))) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE t (x)")
        database.commit()
    before = (tree / "a.db").read_bytes()
    program = (
        "import os, sqlite3, sys; d = sqlite3.connect(sys.argv[1]); d.execute('INSERT INTO t VALUES (1)'); d.commit(); "
        "os._exit(0)"
    )
    with pytest.raises(BlockError):
        fail_in(repo.guard(tree), lambda: subprocess.run([sys.executable, "-c", program, str(tree / "a.db")]))
    assert os.listdir(str(tree)) == ["a.db"]
    assert (tree / "a.db").read_bytes() == before


def test_a_guard_can_be_used_again(repo: Repository, tree: Path) -> None:
    guard: Guard = repo.guard(tree)
    for number in (1, 2):
        with pytest.raises(BlockError):
            fail_in(guard, lambda: damage(tree))
        assert guard.snapshot is not None
        assert guard.snapshot.snapshot.id == number
