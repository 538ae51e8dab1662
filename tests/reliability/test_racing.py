"""Containment: somebody exchanges directories of the destination for symlinks while a snapshot is restored into it.

The symlinks lead to a directory outside that has files of the same names. Whatever is exchanged at whatever moment,
nothing there may change: no byte, mode, owner, time, name or link count.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import pytest
from conftest import noise, write_tree
from trees import IS_ROOT

from backuptool import BackuptoolError, Repository
from backuptool.operations.restore.restoring import RestoreOptions, restore
from backuptool.progress import Reporter
from backuptool.storage.connecting import open_database

from .programme import Effort, Figures
from .racer import Racer

pytestmark = pytest.mark.reliability

_NAMES = [f"dir{number}" for number in range(6)]

#: Swaps in the short form, and in the full one unless a time is given.
_SHORT, _FULL = 20_000, 1_000_000

Restore = Callable[[Path, Path, int], None]


def make_source(root: Path) -> Path:
    """Make directories with every kind of entry, all alike."""
    files: Dict[str, Optional[bytes]] = {}
    for name in _NAMES:
        for number in range(8):
            files[f"{name}/file{number}"] = noise(500, number)
        files[f"{name}/sub/deep/file"] = b"deep\n" * 50
    write_tree(root, files)
    for name in _NAMES:
        (root / name / "symlink").symlink_to("file0")
        os.mkfifo(str(root / name / "fifo"))
        os.link(str(root / name / "file1"), str(root / name / "linked"))
        os.link(str(root / name / "file2"), str(root / _NAMES[0] / f"linked {name}"))
        (root / name / "file3").chmod(0o444)
        (root / name / "sub").chmod(0o500)
        os.setxattr(str(root / name / "file4"), "user.note", b"attribute")
        if IS_ROOT:
            os.chown(str(root / name / "file5"), 1234, 1234)
            os.chown(str(root / name), 1234, 1234)
    return root


def seen(root: Path) -> Dict[str, Tuple[object, ...]]:
    """Return everything about a tree that whoever gets into it could change."""
    found: Dict[str, Tuple[object, ...]] = {}
    for directory, names, files in os.walk(str(root)):
        for name in [".", *names, *files]:
            path = os.path.join(directory, name)
            s = os.lstat(path)
            found[path] = (s.st_ino, s.st_mode, s.st_uid, s.st_gid, s.st_nlink, s.st_size, s.st_mtime_ns, s.st_ctime_ns)
    return found


def carefully(repository: Path, out: Path, number: int) -> None:
    """Restore as the package does, in one of the ways in which it may be asked to."""
    ways: List[Dict[str, Any]] = [
        {},
        {"overwrite": "always"},
        {"delete_extra": True, "verify": True},
        {"overwrite": "always", "delete_extra": True},
        {"include": ("/dir1/", "/dir2/sub/")},
        {"helpers": 1, "overwrite": "always"},
    ]
    options = ways[number % len(ways)]
    database = open_database(str(repository), 10.0)
    try:
        wanted = RestoreOptions(destination=os.fsencode(str(out)), **options)
        restore(database, 1, wanted, Reporter(None))
    except BackuptoolError:
        pass  # what is exchanged may be in the way; the rest is told in problems
    finally:
        database.close()


def naively(repository: Path, out: Path, number: int) -> None:
    """Restore as a program does that opens paths."""
    for name in _NAMES:
        try:
            os.makedirs(str(out / name), exist_ok=True)
            for index in range(8):
                path = out / name / f"file{index}"
                path.write_bytes(noise(500, index))
                path.chmod(0o644)
        except OSError:
            pass


def race(effort: Effort, how: Restore, most: int) -> Figures:
    """Restore again and again beside a racer, until it has exchanged so often."""
    figures = Figures()
    source = make_source(effort.work / "source")
    outside, traps, out = (effort.work / name for name in ("outside", "traps", "out"))
    repository = effort.work / "backups.db"
    with Repository(repository) as repo:
        repo.snapshot(source)
    shutil.copytree(str(source / _NAMES[0]), str(outside), symlinks=True, ignore=shutil.ignore_patterns("fifo"))
    for directory, _, files in os.walk(str(outside)):
        for name in files:
            if not os.path.islink(os.path.join(directory, name)):
                (Path(directory) / name).write_bytes(b"outside")
    os.chmod(str(outside / "sub"), 0o700)
    traps.mkdir()
    for name in _NAMES:
        (traps / name).symlink_to(outside)
    before = seen(outside)
    number = 0
    while figures.tried["swaps"] < most and not effort.is_over():
        shutil.rmtree(str(out), ignore_errors=True)
        out.mkdir()
        for name in _NAMES[number % 2 :: 2]:  # of the others nothing is there to be exchanged at first
            (out / name).mkdir()
        with Racer(out, traps, _NAMES, effort.seed + number) as racer:
            for _ in range(6):
                how(repository, out, number)
                number += 1
        figures.tried["swaps"] += racer.swaps
        figures.tried["restores"] += 6
        if seen(outside) != before:
            changed = sorted(path for path in {*before, *seen(outside)} if before.get(path) != seen(outside).get(path))
            figures.faults.append(f"escaped after {figures.tried['swaps']:,} swaps: {changed[:3]}")
            return figures
        for name in _NAMES:  # whatever was exchanged last, the traps are laid again
            trap = traps / name
            if not trap.is_symlink():
                shutil.rmtree(str(trap), ignore_errors=True)
                trap.symlink_to(outside)
        if number % 600 == 0:
            effort.tell(f"{figures.tried['swaps']:,} swaps in {number:,} restores")
    return figures


def run(effort: Effort) -> Figures:
    """Race a restore."""
    return race(effort, carefully, _FULL if effort.full else _SHORT)


def test_nothing_outside_is_touched_whatever_is_exchanged(tmp_path: Path) -> None:
    figures = run(Effort(work=tmp_path))
    assert figures.faults == []
    assert figures.tried["swaps"] >= _SHORT


# Controls.


def test_a_restore_that_opens_paths_escapes(tmp_path: Path) -> None:
    assert "escaped" in race(Effort(work=tmp_path), naively, 100_000).faults[0]
