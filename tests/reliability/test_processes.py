"""Sixteen processes on one repository that take snapshots, prune, check, restore and list, and are killed at random.

Whatever is listed must restore as it was saved, also while the others go on; no check may find anything; each kind must
get through; and nobody unlocks anything. Only what is pruned while it is restored may be missing.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Callable, Dict, Iterator, List

import pytest
from conftest import noise, write, write_tree
from trees import facts

from backuptool import Repository, RepositoryLockedError, RepositoryNotFoundError, SnapshotNotFoundError
from backuptool.storage.database import Database

from .programme import Effort, Figures

pytestmark = pytest.mark.reliability

#: What each of the processes does. Two of them save the same directory.
_ROLES = ("snapshot",) * 6 + ("prune",) * 2 + ("check",) * 2 + ("restore",) * 4 + ("list",) * 2

#: Snapshots that are kept, about.
_KEPT = 12


class Worker:
    """What one of the processes does, again and again, until it is killed.

    Args:
        place: Where everything lies.
        number: Of the process; its own directories are named by it.
        seed: Of what it does.
    """

    def __init__(self, place: Path, number: int, seed: int) -> None:
        self._place = place
        self._number = number
        self._random = random.Random(seed)
        self._log = os.open(str(place / f"log {number}"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._repo = Repository(place / "backups.db", max_helpers=0, lock_timeout=120)

    def run(self) -> None:
        """Go on for ever."""
        act: Dict[str, Callable[[], None]] = {
            "snapshot": self._snapshot,
            "prune": self._prune,
            "check": self._check,
            "restore": self._restore,
            "list": self._list,
        }
        role = _ROLES[self._number]
        while True:
            try:
                act[role]()
                self._note(f"done {role}")
            except (RepositoryNotFoundError, SnapshotNotFoundError):
                pass  # nothing is there yet, or another one was faster
            except RepositoryLockedError:
                self._note(f"locked {role}")
            except Exception as exc:
                self._note(f"fault {role}: {exc!r}".replace("\n", " "))

    def _note(self, line: str) -> None:
        os.write(self._log, line.encode("utf-8", "replace") + b"\n")

    def _snapshot(self) -> None:
        shared = self._number < 2  # nobody changes that one
        source = self._place / ("shared" if shared else f"source {self._number}")
        if not shared:
            path = source / f"directory {self._random.randrange(4)}" / f"file {self._random.randrange(20)}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._random.choice(_BLOCKS) * self._random.randrange(40) + b"%d" % time.time_ns())
        before = fingerprint(source)
        result = self._repo.snapshot(source)
        assert result.problems == (), result.problems
        note = self._place / "saved" / f"{result.snapshot.id}.{self._number}"
        note.write_text(before, encoding="ascii")
        note.rename(note.with_suffix(""))

    def _prune(self) -> None:
        numbers = [snapshot.id for snapshot in self._repo.list()]
        too_many = self._random.sample(numbers, 2) if len(numbers) > _KEPT else []
        result = self._repo.prune(too_many)  # of none, leftovers go
        assert result.problems == (), result.problems

    def _check(self) -> None:
        problems = self._repo.check(quick=self._random.random() < 0.5).problems
        assert problems == (), problems

    def _restore(self) -> None:
        numbers = [snapshot.id for snapshot in self._repo.list()]
        if not numbers:
            raise RepositoryNotFoundError("nothing is saved yet", "")
        compare(self._repo, self._random.choice(numbers), self._place, self._place / f"out {self._number}")

    def _list(self) -> None:
        numbers = [snapshot.id for snapshot in self._repo.list()]
        assert numbers == sorted(set(numbers)), numbers


def compare(repo: Repository, number: int, place: Path, out: Path) -> None:
    """Restore a snapshot and compare it with what was saved, if that was noted, unless it is pruned meanwhile."""
    shutil.rmtree(str(out), ignore_errors=True)
    problems: object = ()
    try:
        problems = repo.restore(number, out).problems
        found = fingerprint(out)
    finally:
        still_there = number in [snapshot.id for snapshot in repo.list()]
    note = place / "saved" / str(number)
    expected = note.read_text(encoding="ascii") if note.exists() else found
    assert not still_there or (problems == () and found == expected), (number, problems)


def fingerprint(root: Path) -> str:
    """Return a hash of all that is known of a tree."""
    return hashlib.sha256(repr(sorted(facts(root).items())).encode()).hexdigest()


_BLOCKS = [random.Random(number).getrandbits(8 * 9000).to_bytes(9000, "big") for number in range(30)]


class Crowd:
    """The processes, and who kills them.

    Args:
        place: An empty directory.
        seed: Of everything.
    """

    def __init__(self, place: Path, seed: int) -> None:
        self.figures = Figures()
        self._place = place
        self._random = random.Random(seed)
        self._workers: List[int] = []
        (place / "saved").mkdir()
        for number in range(30):
            path = place / "shared" / f"{number % 3}" / f"{number}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_BLOCKS[number])

    def run(self, effort: Effort, seconds: float) -> None:
        """Let them work for so long, and kill one about three times a second; then look at what is there."""
        self._workers = [self._start(number) for number in range(len(_ROLES))]
        try:
            while not effort.is_over(seconds):
                time.sleep(self._random.expovariate(3))
                self._kill(self._random.randrange(len(_ROLES)))
        finally:
            for worker in self._workers:
                os.kill(worker, signal.SIGKILL)
                os.waitpid(worker, 0)
        self._read_logs()
        self._examine()

    def _start(self, number: int) -> int:
        seed = self._random.getrandbits(32)
        child = os.fork()
        if child == 0:
            try:
                Worker(self._place, number, seed).run()
            finally:
                os._exit(1)
        return child

    def _kill(self, number: int) -> None:
        os.kill(self._workers[number], signal.SIGKILL)
        _, status = os.waitpid(self._workers[number], 0)
        if not os.WIFSIGNALED(status):
            self.figures.faults.append(f"a process ended with {status}")
        self.figures.tried["processes killed"] += 1
        self._workers[number] = self._start(number)

    def _read_logs(self) -> None:
        for log in sorted(self._place.glob("log *")):
            for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
                what, _, rest = line.partition(" ")
                if what == "fault":
                    self.figures.faults.append(rest)
                else:
                    self.figures.tried[f"{rest}: {what}"] += 1

    def _examine(self) -> None:
        with Repository(self._place / "backups.db", max_helpers=0) as repo:
            self.figures.faults += [f"check at the end: {problem.message}" for problem in repo.check().problems]
            for snapshot in repo.list():
                compare(repo, snapshot.id, self._place, self._place / "out")
                self.figures.tried["snapshots left at the end, restored and compared"] += 1


def run(effort: Effort) -> Figures:
    """Let them work for half an hour, or for half a minute."""
    crowd = Crowd(effort.work, effort.seed)
    crowd.run(effort, 1800 if effort.full else 30)
    return crowd.figures


def test_a_crowd_that_is_killed_at_random_breaks_nothing(memory_path: Path) -> None:
    figures = run(Effort(work=memory_path))
    assert figures.faults == []
    assert all(figures.tried[f"{role}: done"] > 0 for role in _ROLES), figures.tried
    assert figures.tried["processes killed"] > 10


def let_run(process: subprocess.Popen[str]) -> None:
    """Wait until a process has had the processor for a hundredth of a second more, or has ended."""

    def ticks() -> int:
        try:
            with open(f"/proc/{process.pid}/stat", "rb") as file:
                return sum(map(int, file.read().rpartition(b")")[2].split()[11:13]))
        except (FileNotFoundError, ProcessLookupError):  # ended, and its status was taken
            return -1

    before = ticks()
    while process.poll() is None and ticks() == before:
        os.sched_yield()


def test_a_snapshot_that_is_stopped_again_and_again_hinders_others_for_a_while_and_ends_as_any(
    memory_path: Path,
) -> None:
    """As by Ctrl-Z, or with its machine: it holds its locks meanwhile."""
    source, other = memory_path / "source", write_tree(memory_path / "other", {"x": b"x"})
    for number in range(300):
        write(source / str(number), noise(20_000, number))
    path = memory_path / "backups.db"
    with Repository(path) as repo:
        repo.snapshot(other)
    command = [
        sys.executable,
        "-m",
        "backuptool",
        "--db-path",
        str(path),
        "snapshot",
        "--target-directory",
        str(source),
    ]
    done = 1
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8") as process:
        while process.poll() is None:
            process.send_signal(signal.SIGSTOP)
            with Repository(path, lock_timeout=0) as repo:
                with suppress(RepositoryLockedError):
                    done += repo.snapshot(other).problems == ()
                with suppress(RepositoryLockedError):  # it was stopped in the middle of a commit
                    assert len(repo.list()) >= done
            process.send_signal(signal.SIGCONT)
            let_run(process)
        assert process.stderr is not None
        assert (process.returncode, process.stderr.read()) == (0, "")
    with Repository(path) as repo:
        assert len(repo.list()) == done + 1
        assert repo.check().problems == ()
        assert repo.restore(repo.list(source=source)[-1].id, memory_path / "out").problems == ()
    assert facts(memory_path / "out") == facts(source)


def test_a_crowd_without_transactions_is_found(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""

    @contextmanager
    def no_transaction(self: Database, *, rollback: bool = False) -> Iterator[None]:
        yield

    monkeypatch.setattr(Database, "transaction", no_transaction)
    crowd = Crowd(memory_path, 1)
    try:
        crowd.run(Effort(work=memory_path), 5)
    except Exception as exc:
        crowd.figures.faults.append(repr(exc))
    assert crowd.figures.faults != []
