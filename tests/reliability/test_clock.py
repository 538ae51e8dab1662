"""Clocks that are wrong: set back, set forward, in 1970, 2038, 2262 and 9999, and where summer time begins and ends.

Snapshots are taken, interrupted and pruned in random order, each by another clock; then everything that was kept must
be there, in the order of the numbers. The command is run with clocks that lie, and in a time zone whose hours repeat.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest
from conftest import EveryEvent
from trees import Facts, facts, program

from backuptool import ProgressEvent, Repository
from backuptool.operations.prune.pruning import prune
from backuptool.operations.snapshot.directory import SnapshotOptions, snapshot
from backuptool.storage.connecting import open_database
from backuptool.storage.pool import ConnectionPool
from backuptool.storage.refcounts import Brought, ContentsVanishedError, reference

from .programme import Effort, Figures

pytestmark = pytest.mark.reliability

#: A clock that CPython itself does not run by.
_BEYOND = "9999-12-31 23:59:59"

_SECOND = 1_000_000_000
_DAY = 86_400 * _SECOND

#: Moments, ns since 1970 UTC: the ends of what clocks and formats hold, and both sides of each.
_MOMENTS = (
    *(0, 1, -1, 59 * _SECOND, ((1 << 31) - 1) * _SECOND, (1 << 31) * _SECOND, (1 << 32) * _SECOND),
    *((1 << 63) - 1, -(1 << 63), 951_782_400 * _SECOND, 1_772_000_000 * _SECOND),
)

#: What the command is told the time is, UTC. In Berlin the hour from 02:00 on the 25th of October comes twice.
_TIMES = (
    *("1970-01-01 00:00:01", "2038-01-19 03:14:07", "2038-01-19 03:14:08", "2106-02-07 06:28:16"),
    *("2262-04-11 23:40:00", "2026-10-25 00:30:00", "2026-10-25 01:30:00", "2026-03-29 00:59:59"),
    *("2026-03-29 01:00:00", "2000-02-29 12:00:00"),
)


class _InterruptedError(Exception):
    """Raised in place of the commit."""


class History:
    """Snapshots and prunes in one repository, each by another clock, and what must be there.

    Args:
        place: An empty directory.
        seed: Decides what is done when.
    """

    def __init__(self, place: Path, seed: int) -> None:
        self.figures = Figures()
        self._random = random.Random(seed)
        self._place = place
        self._sources = [place / "first", place / "second"]
        for source in self._sources:
            source.mkdir(parents=True)
        self._path = place / "backups.db"
        self._pool = ConnectionPool(str(self._path), 10.0)
        self._kept: Dict[int, Facts] = {}
        self._newest = 0
        self._writes = 0

    def run(self, steps: int) -> None:
        """Do so many things, then look at what is there."""
        with closing(self._pool):
            for _ in range(steps):
                self._random.choice((self._snapshot, self._snapshot, self._interrupted, self._prune, self._overtaken))()
            self._compare()
        shutil.rmtree(str(self._place))

    def _clock(self) -> Callable[[], int]:
        """Return a clock that jumps from moment to moment."""
        self.figures.tried["operations by a clock that jumps"] += 1
        return self._jump

    def _jump(self) -> int:
        now = time.time_ns()
        return self._random.choice(
            (*_MOMENTS, now, now - _DAY, now + _DAY, self._random.randrange(-(1 << 63), 1 << 63))
        )

    def _change(self) -> Path:
        """Change a source: each file is longer than the one before it, so that no clock is needed to see it."""
        source = self._random.choice(self._sources)
        for _ in range(3):
            self._writes += 1
            path = source / f"{self._random.randrange(6)}"
            path.write_bytes(self._random.getrandbits(64).to_bytes(8, "big") * self._writes)
        return source

    def _take(self, source: Path, at_commit: Callable[[], None]) -> None:
        def watch(event: ProgressEvent) -> None:
            if event.phase == "commit":
                at_commit()

        options = SnapshotOptions(source=os.fsencode(str(source)), host="here", helpers=0)
        number = snapshot(self._pool, options, EveryEvent(watch), self._clock()).snapshot.id
        if number <= self._newest:
            self.figures.faults.append(f"snapshot {number} came behind {self._newest}")
        self._newest = number
        self._kept[number] = facts(source)

    def _snapshot(self) -> None:
        self._take(self._change(), lambda: None)

    def _interrupted(self) -> None:
        """Leave contents behind that no snapshot has."""

        def interrupt() -> None:
            raise _InterruptedError

        try:
            self._take(self._change(), interrupt)
        except _InterruptedError:
            pass

    def _prune(self) -> None:
        if self._path.exists():
            self._remove(self._random.sample(sorted(self._kept), min(len(self._kept), self._random.randrange(2))))

    def _overtaken(self) -> None:
        """Prune while a snapshot is about to be committed, by a clock for which what it stored is old or young."""
        self._take(self._change(), lambda: self._remove([]))

    def _remove(self, numbers: List[int]) -> None:
        with closing(open_database(str(self._path), 10.0)) as database:
            prune(database, numbers, dry_run=False, reporter=EveryEvent(lambda event: None), clock=self._clock())
        for number in numbers:
            del self._kept[number]

    def _compare(self) -> None:
        if not self._path.exists():
            return
        with Repository(self._path, max_helpers=0) as repo:
            problems = repo.check().problems
            self.figures.faults += [f"check: {problem.message}" for problem in problems]
            if [found.id for found in repo.list()] != sorted(self._kept):
                self.figures.faults.append("the list is not that of the numbers")
            for number, expected in self._kept.items():
                self.figures.tried["snapshots restored and compared"] += 1
                self._compare_one(repo, number, expected)
            if self._kept:
                last = max(self._kept)
                found = repo.restore("latest", self._place / "out", dry_run=True).snapshot.id
                if found != last:
                    self.figures.faults.append(f"the latest snapshot is {found} and not {last}")

    def _compare_one(self, repo: Repository, number: int, expected: Facts) -> None:
        out = self._place / "out"
        problems = repo.restore(number, out).problems
        if problems or facts(out) != expected:
            self.figures.faults.append(f"snapshot {number} is not what was saved: {problems}")
        shutil.rmtree(str(out))


def commands(place: Path, times: Tuple[str, ...] = _TIMES) -> Iterator[Tuple[str, str]]:
    """Run every command at each time; yield (time, what went wrong, if anything)."""
    source, out = place / "source", place / "out"
    source.mkdir(parents=True)
    environment = {**os.environ, "TZ": "UTC", "BACKUPTOOL_DB": str(place / "backups.db")}
    for number, moment in enumerate(times, 1):
        (source / "file").write_text("x" * number, encoding="ascii")
        for arguments in (
            ["snapshot", "--target-directory", str(source)],
            ["list", "--json"],
            ["list"],
            ["check"],
            ["restore", "--snapshot-number", "latest", "--output-directory", str(out)],
            ["prune", "--dry-run", "--snapshot", str(number)],
        ):
            said = _at(moment, arguments, environment)
            yield moment, said
        restored = (out / "file").read_text(encoding="ascii")
        yield moment, "" if restored == "x" * number else f"restored {len(restored)} bytes, not {number}"
    before = (place / "backups.db").read_bytes()
    refused = _at(_BEYOND, ["snapshot", "--target-directory", str(source)], environment)
    untouched = (place / "backups.db").read_bytes() == before
    yield _BEYOND, "" if refused.startswith("snapshot: 1, backuptool: error: ") and untouched else f"said {refused!r}"
    listed = _output(["list"], {**environment, "TZ": "Europe/Berlin"})
    numbers = [int(line.split()[0]) for line in listed.splitlines() if line[:1].isdigit()]
    yield "afterwards", "" if numbers == list(range(1, len(times) + 1)) else f"the list has {numbers}"


def _at(moment: str, arguments: List[str], environment: Dict[str, str]) -> str:
    command = [program("faketime"), "--exclude-monotonic", moment, sys.executable, "-m", "backuptool", *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return "" if done.returncode == 0 else f"{arguments[0]}: {done.returncode}, {done.stdout.decode(errors='replace')}"


def _output(arguments: List[str], environment: Dict[str, str]) -> str:
    command = [sys.executable, "-m", "backuptool", *arguments]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout.decode()


def run(effort: Effort) -> Figures:
    """Try many histories, and the command at times of all kinds."""
    total = Figures()
    for number in range(2000 if effort.full else 25):
        if effort.is_over():
            break
        history = History(effort.work / str(number), effort.seed + number)
        history.run(20)
        total.add(history.figures)
    if shutil.which("faketime"):
        for moment, said in commands(effort.work / "commands"):
            total.tried["commands by a clock that lies"] += 1
            total.faults += [f"at {moment}: {said}"] if said else []
    return total


def test_nothing_is_lost_and_numbers_give_the_order_whatever_the_clock_says(memory_path: Path) -> None:
    figures = Figures()
    for seed in range(25):
        history = History(memory_path / str(seed), seed)
        history.run(20)
        figures.add(history.figures)
    assert figures.faults == []
    assert figures.tried["snapshots restored and compared"] > 100


def test_every_command_works_at_every_time(memory_path: Path) -> None:
    program("faketime")
    assert [(moment, said) for moment, said in commands(memory_path / "commands") if said] == []


def test_a_commit_that_does_not_look_for_what_was_pruned_is_found(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a prune by a clock far ahead takes what a snapshot has just stored."""

    def careless(*arguments: Any) -> Brought:
        try:
            return reference(*arguments)
        except ContentsVanishedError:
            return Brought(0, 0)

    monkeypatch.setattr("backuptool.operations.committing.reference", careless)
    faults: List[str] = []
    for seed in range(25):
        history = History(memory_path / str(seed), seed)
        history.run(20)
        faults += history.figures.faults
    assert faults != []
