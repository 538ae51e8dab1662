"""Sources that change while they are saved: nothing hangs, no symlink is followed, what is stored has its hash.

Eight processes change files and directories all the time: they grow, shrink, vanish, and become FIFOs, symlinks to what
lies outside, devices that give zeros without end, and directories. Snapshots are taken meanwhile, and each one must be
sound, must come back, and must not hold a byte of what lies outside.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Iterator, List, Optional, Set

import pytest
from conftest import sql

from backuptool import Repository
from backuptool.operations.snapshot.directory import SnapshotOptions, snapshot
from backuptool.progress import Reporter
from backuptool.storage.pool import ConnectionPool

from .mutator import KINDS, Mutator
from .programme import Effort, Figures

pytestmark = pytest.mark.reliability

_MUTATORS = 8

#: Changes in the short form, and in the full one unless a time is given.
_SHORT, _FULL = 3_000, 100_000

#: Seconds after which an operation counts as hanging, however busy the machine.
_PATIENCE = 300

_SECRET = b"a secret that lies outside\n" * 40


class HangingError(Exception):
    """An operation took too long."""


@contextmanager
def patience(seconds: int) -> Iterator[None]:
    """Raise HangingError where something takes too long."""

    def ring(number: int, frame: Optional[FrameType]) -> None:
        raise HangingError

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def make_tree(source: Path, outside: Path) -> None:
    """Make a source, and what lies outside it: a secret under the names that files of the source have."""
    for number in range(8):
        (source / f"dir{number}").mkdir(parents=True)
        for index in range(12):
            (source / f"dir{number}" / f"file{index}").write_bytes(b"first\n" * 100)
    outside.mkdir()
    for name in ("secret", *(f"file{index}" for index in range(12))):
        (outside / name).write_bytes(_SECRET)


def take(repository: Path, source: Path, helpers: int) -> int:
    """Take a snapshot with so many processes beside this one, and return its number."""
    pool = ConnectionPool(str(repository), 60.0)
    try:
        options = SnapshotOptions(source=os.fsencode(str(source)), host="host", helpers=helpers)
        return snapshot(pool, options, Reporter(None), clock=lambda: 1_700_000_000_000_000_000).snapshot.id
    finally:
        pool.close()


def stored_hashes(repository: Path) -> Set[bytes]:
    """Return the hashes of all contents."""
    return {digest for (digest,) in sql(repository, "SELECT hash FROM contents")}


def look(repository: Path, number: int, out: Path, figures: Figures) -> None:
    """See that the repository is sound, that the snapshot comes back, and that no secret is in it."""
    with Repository(repository) as repo:
        for problem in repo.check().problems:
            figures.faults.append(f"snapshot {number}: check: {problem.message}")
        shutil.rmtree(str(out), ignore_errors=True)
        result = repo.restore(number, out, verify=True)
        for problem in result.problems:
            figures.faults.append(f"snapshot {number}: restore: {problem.path}: {problem.message}")
        figures.tried["files restored and compared with their hashes"] += result.verified_files
        for snapshot in list(repo.list())[:-1]:
            repo.prune(snapshot.id)
    if hashlib.sha256(_SECRET).digest() in stored_hashes(repository):
        figures.faults.append(f"snapshot {number} followed a symlink")


def run(effort: Effort) -> Figures:
    """Save a source that eight processes change, again and again."""
    figures = Figures()
    source, outside, repository = (effort.work / name for name in ("source", "outside", "backups.db"))
    make_tree(source, outside)
    most = _FULL if effort.full else _SHORT
    changes = number = 0
    while changes < most and not effort.is_over():
        with ExitStack() as stack:
            mutators = [
                stack.enter_context(Mutator(source, outside, effort.seed * 1000 + number * 10 + index))
                for index in range(_MUTATORS)
            ]
            for helpers in (0, 1, 0):
                try:
                    with patience(_PATIENCE):
                        last = take(repository, source, helpers)
                except HangingError:
                    figures.faults.append("a snapshot hangs")
                    break
                figures.tried["snapshots"] += 1
        look(repository, last, effort.work / "out", figures)
        for mutator in mutators:
            for name, count in mutator.swaps.items():
                figures.tried[f"changes to {name}"] += count
                changes += count
        number += 1
        if number % 50 == 0:
            effort.tell(f"{changes:,} changes in {figures.tried['snapshots']:,} snapshots")
    figures.tried["changes in all"] = changes
    return figures


def test_source_that_changes_all_the_time_is_saved_as_it_is_found(tmp_path: Path) -> None:
    figures = run(Effort(work=tmp_path))
    assert figures.faults == []
    assert figures.tried["changes in all"] >= _SHORT
    assert {name for name in KINDS if figures.tried[f"changes to {name}"]} == set(KINDS)


# Controls.


def naively(source: Path) -> List[bytes]:
    """Read all files as a program does that looks first and then opens by path."""
    found = []
    for directory, _, names in os.walk(str(source)):
        for name in names:
            path = os.path.join(directory, name)
            try:
                if os.path.isfile(path):
                    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                        found.append(file.read(len(_SECRET) + 1))
            except OSError:
                pass
    return found


def test_a_program_that_opens_by_path_follows_a_symlink(tmp_path: Path) -> None:
    source, outside = tmp_path / "source", tmp_path / "outside"
    make_tree(source, outside)
    with ExitStack() as stack:
        for index in range(_MUTATORS):
            stack.enter_context(Mutator(source, outside, index))
        assert any(_SECRET in naively(source) for _ in range(500))


def test_what_hangs_is_noticed(tmp_path: Path) -> None:
    os.mkfifo(str(tmp_path / "fifo"))
    with pytest.raises(HangingError), patience(1):
        (tmp_path / "fifo").read_bytes()
