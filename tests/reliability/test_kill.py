"""kill -9 before every call by which snapshot, prune and restore change something, and at random times.

Afterwards every snapshot that is reported must restore as it was saved, what was acknowledged must be there, nothing
may need to be unlocked, and the same command, run again, must do what it should. In a restored tree a name stands for
what was there or for what should be, complete; and at no moment may a file run as a user whom it was not saved for.
"""

from __future__ import annotations

import ctypes
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import FrozenSet, Iterator, List, Optional

import pytest
from trees import program

from backuptool.storage.database import Database
from backuptool.tree import destination
from backuptool.tree.attributes import Metadata, MetadataSetter

from .calls import CALLS, Call
from .making import NAMES, make_scenario
from .programme import Effort, Figures
from .scenarios import Scenario, Trial
from .tracing import Kill, Verdict, run_traced

pytestmark = [pytest.mark.reliability, pytest.mark.usefixtures("tracing")]

_SET_CHILD_SUBREAPER = 36

#: By what a process can change a file, or make sure of it.
_CHANGING: FrozenSet[str] = frozenset(CALLS) - {
    *("read", "pread64", "preadv", "lseek", "getdents64", "fcntl", "statx", "newfstatat", "fstat")
}

#: Bytes and files of trees: small ones, of which every call is met until there were so many, and a large one for which
#: packs are written in several transactions, and pages before a transaction ends.
_SMALL = ((100_000, 20), (300_000, 60), (1_000_000, 40), (20_000, 150))
_LARGE = (12 << 20, 60)
_POINTS = 1000
_SHORT = (300_000, 60)


def changes(call: Call) -> bool:
    """Tell whether a call changes a file, or makes sure of it."""
    if call.name in ("open", "openat"):
        return bool(call.arguments[1 if call.name == "open" else 2] & os.O_CREAT)
    return True


def count_points(scenario: Scenario, helpers: int = 0, victim: str = "the command") -> int:
    """Return how many such calls a scenario's command makes, or a helper of it."""
    met = 0

    def at_call(call: Call) -> Verdict:
        nonlocal met
        met += call.main == (victim == "the command") and changes(call)
        return None

    trial = scenario.trial(helpers)
    ended = run_traced(trial.command(), _CHANGING, at_call)
    assert ended.code == 0, trial.printed("stderr")
    assert trial.run(again=True) == 0, trial.printed("stderr")
    return met


def kill_at(scenario: Scenario, point: int, helpers: int = 0, victim: str = "the command") -> Figures:
    """Run a command, kill it, or a helper of it, before the call of that number, and examine what is left."""
    figures = Figures()
    met = 0
    killed: Optional[str] = None

    def at_call(call: Call) -> Verdict:
        nonlocal met, killed
        if killed is None and call.main == (victim == "the command") and changes(call):
            met += 1
            if met > point:
                killed = f"{call.name} {os.path.basename(call.path())}"
                return Kill()
        return None

    trial = scenario.trial(helpers)
    ended = run_traced(trial.command(), _CHANGING, at_call)
    what = f"{victim} killed before call {point}, {killed}"
    if victim == "the command" and ended.code != (0 if killed is None else -signal.SIGKILL):
        figures.faults.append(f"{what}: it ended with {ended.code}: {trial.printed('stderr')}")
    if killed is not None:
        figures.tried[f"{scenario.arguments[0]}: {victim} killed before a call"] += 1
    _look(figures, trial, what)
    return figures


def kill_after(scenario: Scenario, seconds: float, helpers: int) -> Figures:
    """Run a command, kill it after that time, and examine what is left at once."""
    figures = Figures()
    trial = scenario.trial(helpers)
    child = trial.start()
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)  # and not for its helpers: the next run does not know of them either
    figures.tried[f"{scenario.arguments[0]}: the command killed at a random time"] += 1
    _look(figures, trial, f"killed after {seconds:.4f} s with {helpers} helpers")
    wait_for_all()
    return figures


def duration(scenario: Scenario) -> float:
    """Return how many seconds a command takes, the longest of three times."""
    longest = 0.0
    for _ in range(3):
        trial = scenario.trial()
        begin = time.monotonic()
        trial.run()
        longest = max(longest, time.monotonic() - begin)
    return longest


def wait_for_all() -> None:
    """Wait until every process that this one has started has ended, and what those had started too."""
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def adopt_orphans() -> None:
    """Become the parent of those whose parent ends, so that they can be waited for."""
    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _look(figures: Figures, trial: Trial, what: str) -> None:
    trial.finish(what, trial.examine(what))
    figures.faults += trial.faults


def watch_setuid(scenario: Scenario) -> Figures:
    """Look before every call of a restore whether some file runs as somebody whom it was not saved for."""
    figures = Figures()
    trial = scenario.trial()

    def at_call(call: Call) -> Verdict:
        figures.tried["restore: a moment at which no file has a wrong setuid"] += 1
        figures.faults.extend(f"before {call.name}: {found}" for found in trial.wrong_setuid())
        return None

    run_traced(trial.command(), _CHANGING, at_call)
    return figures


def run(effort: Effort) -> Figures:
    """Kill at every call, or at some, then at random times; the scenario "random" is these alone, of all scenarios."""
    adopt_orphans()
    figures = Figures()
    chosen = random.Random(effort.seed)
    for name in [name for name in NAMES if effort.scenario in ("", "random", name)]:
        if effort.scenario != "random":
            _at_calls(name, effort, chosen, figures)
        scenario = make_scenario(name, effort.work / name, *_SHORT, seed=effort.seed)
        longest = duration(scenario)
        for _ in range(350 if effort.full else 6):
            if not effort.is_over():
                figures.add(kill_after(scenario, chosen.uniform(0, longest), chosen.choice((0, 2))))
        effort.tell(f"{name}: {sum(figures.tried.values())} times in all, {len(figures.faults)} faults")
        if name == "restore":
            figures.add(watch_setuid(scenario))
        shutil.rmtree(str(scenario.place))
    return figures


def _at_calls(name: str, effort: Effort, chosen: random.Random, figures: Figures) -> None:
    """Kill at every call of small trees, and at some of a large one, with and without helpers, and these."""
    if effort.full:
        figures.add(_every_call_of_many(name, effort))
    scenario = make_scenario(name, effort.work / name, *(_LARGE if effort.full else _SHORT), seed=effort.seed)
    for victim, helpers in (("the command", 0), ("the command", 2), ("a helper", 2)):
        if helpers and name in ("prune", "copy"):
            continue  # they have none
        points = count_points(scenario, helpers, victim)
        every = max(1, points // (100 if effort.full else 15))
        for point in range(chosen.randrange(every), points, every):
            if not effort.is_over():
                figures.add(kill_at(scenario, point, helpers, victim))
    shutil.rmtree(str(scenario.place))


def _every_call_of_many(name: str, effort: Effort) -> Figures:
    """Kill at every call of one tree after the other, until there were enough."""
    figures = Figures()
    for number in range(100):
        if sum(figures.tried.values()) >= _POINTS or effort.is_over():
            break
        size, files = _SMALL[number % len(_SMALL)]
        scenario = make_scenario(name, effort.work / "every", size, files, seed=100 * effort.seed + number)
        for point in range(count_points(scenario)):
            if not effort.is_over():
                figures.add(kill_at(scenario, point))
        figures.tried[f"{name}: trees of which every call was met"] += not effort.is_over()
        shutil.rmtree(str(scenario.place))
        effort.tell(f"{name}: {sum(figures.tried.values())} points, {len(figures.faults)} faults")
    return figures


def test_whatever_is_killed_every_reported_snapshot_is_whole_and_the_next_run_works(memory_path: Path) -> None:
    figures = run(Effort(work=memory_path))
    assert figures.faults == []
    assert sum(figures.tried.values()) > 500


def _count(met: Counter[str], call: Call) -> Verdict:
    met[call.name] += 1
    return None


def test_every_call_that_strace_sees_is_met(memory_path: Path) -> None:
    """strace counts for each thread, and adds up at the end; what is not met would not be tried."""
    names = frozenset({"pwrite64", "fdatasync", "ftruncate", "unlink", "unlinkat", "rename", "renameat", "fchmod"})
    for name in ("prune", "restore"):
        scenario = make_scenario(name, memory_path / name, *_SHORT)
        met: Counter[str] = Counter()
        run_traced(scenario.trial().command(), names, partial(_count, met))
        log = memory_path / "log"
        command = [program("strace"), "-f", "-e", f"trace={','.join(sorted(names))}", "-o", str(log)]
        subprocess.run([*command, sys.executable, "-m", "backuptool", *scenario.trial().arguments()], check=True)
        seen = Counter(re.findall(rf"^\d+ +({'|'.join(names)})\(", log.read_text(), re.MULTILINE))
        assert seen == met
        assert sum(met.values()) > 50


# Controls: with a fault put in, it must be found.


def _faults(scenario: Scenario, every: int) -> List[str]:
    return [fault for point in range(0, 400, every) for fault in kill_at(scenario, point).faults]


def test_a_commit_in_several_transactions_is_found(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def no_transaction(self: Database, *, rollback: bool = False) -> Iterator[None]:
        yield

    monkeypatch.setattr(Database, "transaction", no_transaction)
    scenario = make_scenario("snapshot", memory_path / "it", *_SHORT)
    assert _faults(scenario, 20) != []


def test_writing_a_file_under_its_own_name_is_found(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = make_scenario("restore", memory_path / "it", *_SHORT)
    monkeypatch.setattr(destination, "_temporary", lambda name: name)
    assert any("neither what it was" in fault for fault in _faults(scenario, 10))


def test_setuid_before_the_owner_is_found(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may give files away")

    def careless(self: MetadataSetter, descriptor: int, path: bytes, metadata: Metadata) -> None:
        os.fchmod(descriptor, metadata.mode)
        careful(self, descriptor, path, metadata)

    careful = MetadataSetter.set
    scenario = make_scenario("restore", memory_path / "it", *_SHORT)
    assert watch_setuid(scenario).faults == []
    monkeypatch.setattr(MetadataSetter, "set", careless)
    assert watch_setuid(scenario).faults != []
