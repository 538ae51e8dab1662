"""A dry run is the restore without its last step: figures and problems are those of the restore that follows."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest
from conftest import NOBODY, as_nobody, sql, write, write_tree
from trees import facts, needs_root

from backuptool import Repository, RestoreError, RestoreResult

from .making import NOW_NS, POLICIES

NAMES = ("a", "b", "c", "d")


def figures(result: RestoreResult) -> Tuple[object, ...]:
    """Return all that a restore tells of what it did."""
    return (
        *(result.restored_files, result.unchanged_files, result.restored_directories, result.written_bytes),
        *(result.deleted_files, result.problems),
    )


class Planting:
    """Makes random trees out of few names, sizes, times and modes, so that two of them meet in all ways."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def plant(self, root: Path) -> Path:
        """Make a tree."""
        root.mkdir()
        self._fill(root, root, 0)
        return root

    def _fill(self, root: Path, directory: Path, depth: int) -> None:
        for name in NAMES:
            path = directory / name
            kind = self._random.choice(["", "file", "file", "link", "directory", "symlink", "fifo", "left over"])
            files = [other for other in sorted(root.rglob("*")) if stat.S_ISREG(other.lstat().st_mode)]
            if kind == "directory" and depth < 3:
                path.mkdir()
                self._fill(root, path, depth + 1)
            elif kind == "symlink":
                path.symlink_to(self._random.choice(("x", "y", "..")))
            elif kind == "fifo":
                os.mkfifo(path)
            elif kind == "link" and files:
                os.link(self._random.choice(files), path)
                continue
            elif kind == "left over":
                path = write(directory / f".backuptool-{name}.part", b"half")
            elif kind:
                write(path, self._random.choice((b"one", b"two", b"three")))
            else:
                continue
            if not path.is_symlink():
                path.chmod(self._random.choice((0o700, 0o750)))
            os.utime(path, ns=(0, NOW_NS + self._random.randrange(3)), follow_symlinks=False)

    def options(self) -> Dict[str, Any]:
        """Return options for a restore."""
        chosen = self._random
        return {
            "overwrite": chosen.choice(POLICIES),
            "delete_extra": chosen.random() < 0.5,
            "include": chosen.choice(((), (), ("a", "/b", "c/d"), ("/d/",))),
            "exclude": chosen.choice(((), (), ("b",), ("/a/a", "c"))),
        }


@pytest.mark.parametrize("batch", range(5))
def test_whatever_is_there_a_dry_run_tells_what_the_restore_does(repo: Repository, tmp_path: Path, batch: int) -> None:
    problems = 0
    for seed in range(batch * 30, batch * 30 + 30):
        planting = Planting(seed)
        snapshot = repo.snapshot(planting.plant(tmp_path / f"source {seed}")).snapshot.id
        out = planting.plant(tmp_path / f"out {seed}")
        options = planting.options()
        before = facts(out)
        dry = repo.restore(snapshot, out, dry_run=True, **options)
        assert facts(out) == before, (seed, options)
        real = repo.restore(snapshot, out, **options)
        assert figures(dry) == figures(real), (seed, options)
        problems += len(real.problems)
    assert problems > 0


def test_a_directory_in_the_way_is_foreseen(repo: Repository, tree: Path, out: Path) -> None:
    repo.snapshot(tree)
    write(out / "a.txt" / "precious", b"mine")
    dry = repo.restore(1, out, dry_run=True)
    assert [(problem.kind, problem.path) for problem in dry.problems] == [("in-the-way", "a.txt")]
    assert (dry.restored_files, dry.written_bytes) == (4, 5001)


def test_a_directory_that_is_not_emptied_stays_in_the_way(repo: Repository, tree: Path, out: Path) -> None:
    """The repository is not deleted, so neither is the directory that it lies in."""
    repo.snapshot(tree)
    write(out / "a.txt" / "extra", b"extra")
    write(out / "more" / "extra", b"extra")
    repo.close()
    shutil.move(str(repo.path), str(out / "more" / "backups.db"))
    with Repository(out / "more" / "backups.db") as moved:
        dry = moved.restore(1, out, delete_extra=True, dry_run=True)
        real = moved.restore(1, out, delete_extra=True)
    assert figures(dry) == figures(real)
    assert [(problem.kind, problem.path) for problem in real.problems] == [("not-removed", "more")]
    assert real.deleted_files == 2


@pytest.mark.parametrize("change", ["size = size + 1", "content = NULL", "kind = 'x'"])
def test_what_the_catalog_has_wrong_is_foreseen(repo: Repository, tree: Path, out: Path, change: str) -> None:
    repo.snapshot(tree)
    repo.close()
    with closing(sqlite3.connect(str(repo.path))) as database, database:
        database.execute("PRAGMA ignore_check_constraints = ON")
        database.execute(f"UPDATE files SET {change} WHERE path = 'a.txt'")
    dry = repo.restore(1, out, dry_run=True)
    assert figures(dry) == figures(repo.restore(1, out))
    assert {problem.path for problem in dry.problems} - {"."} == {"a.txt"}


@pytest.mark.parametrize("target", ["a\0b", ""])
def test_targets_that_no_symlink_can_have_are_foreseen(
    repo: Repository, tmp_path: Path, out: Path, target: str
) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "link").symlink_to("x")
    repo.snapshot(tmp_path / "source")
    repo.close()
    sql(repo.path, "UPDATE files SET target = ? WHERE path = 'link'", target)
    dry = repo.restore(1, out, dry_run=True)
    assert figures(dry) == figures(repo.restore(1, out))
    assert [problem.path for problem in dry.problems] == [".", "link"]


def test_directories_that_the_catalog_lost_are_foreseen(repo: Repository, tree: Path, out: Path) -> None:
    repo.snapshot(tree)
    repo.close()
    sql(repo.path, "DELETE FROM files WHERE path IN ('docs', 'docs/deep')")
    for there in ("nothing", "directories", "a file"):
        if there == "a file":
            shutil.rmtree(str(out / "docs"))
            write(out / "docs", b"in the way")
        dry = repo.restore(1, out, dry_run=True)
        assert figures(dry) == figures(repo.restore(1, out)), there
        assert len(dry.problems) == {"nothing": 2, "directories": 1, "a file": 3}[there]


def test_a_destination_that_cannot_be_made_is_foreseen(repo: Repository, tree: Path, tmp_path: Path) -> None:
    repo.snapshot(tree)
    write(tmp_path / "file", b"file")
    for out in (tmp_path / "file" / "below", tmp_path / "file" / "far" / "below"):
        for dry_run in (True, False):
            with pytest.raises(RestoreError, match="a file is in the way; name another directory"):
                repo.restore(1, out, dry_run=dry_run)


def as_nobody_both(place: Path, out: Path) -> Tuple[RestoreResult, RestoreResult]:
    """Return what a dry run of an ordinary user tells, and the restore behind it."""

    def run() -> List[RestoreResult]:
        with Repository(place / "backups.db") as repo:
            return [repo.restore(1, out, dry_run=dry_run) for dry_run in (True, False)]

    dry, real = as_nobody(run)
    return dry, real


@needs_root
def test_what_only_root_may_do_is_foreseen(public_path: Path) -> None:
    source = write_tree(public_path / "source", {"mine": b"m", "root's": b"r", "sub/file": b"f", "own/file": b"f"})
    os.link(source / "root's", source / "sub" / "link")
    (source / "symlink").symlink_to("x")
    os.mkfifo(source / "fifo")
    os.chown(source / "mine", NOBODY, NOBODY)
    os.mknod(source / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with Repository(public_path / "backups.db") as repo:
        repo.snapshot(source)
    os.chmod(public_path / "backups.db", 0o644)
    out = public_path / "out"
    write(out / "own" / "file", b"older")
    for mine in (out, out / "own", out / "own" / "file"):
        os.chown(mine, NOBODY, NOBODY)
    (out / "own").chmod(0o500)
    (out / "sub").mkdir(mode=0o755)
    dry, real = as_nobody_both(public_path, out)
    assert figures(dry) == figures(real)
    assert sorted({problem.kind for problem in dry.problems}) == [
        *("device-not-restored", "mode-not-restored", "not-written", "owner-not-restored", "times-not-restored"),
    ]


@needs_root
def test_a_destination_that_a_user_may_not_write_to_is_foreseen(public_path: Path) -> None:
    write_tree(public_path / "source", {"a": b"a"})
    with Repository(public_path / "backups.db") as repo:
        repo.snapshot(public_path / "source")
    os.chmod(public_path / "backups.db", 0o644)
    (public_path / "out").mkdir(mode=0o755)
    for out, reason in ((public_path / "out", "it cannot be written to"), (Path("/nowhere/out"), "Permission denied")):
        for dry_run in (True, False):

            def run(out: Path = out, dry_run: bool = dry_run) -> None:
                with Repository(public_path / "backups.db") as repo:
                    repo.restore(1, out, dry_run=dry_run)

            with pytest.raises(RestoreError, match=f"{reason}; name another directory"):
                as_nobody(run)
