"""ENOSPC, EDQUOT, EIO, EROFS and EMFILE from each call that touches the repository or the destination, and full disks.

Each call fails once, or it and all later ones that can fail in the same way. A command that says it is done must have
done everything; one that is not says why in one line, and never that the source could not be read. What was saved
before must be whole, and the same command must work as soon as the fault is gone.
"""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, FrozenSet, Optional, Sequence, Tuple

import pytest
from conftest import noise, write
from trees import facts, mounted, program

from backuptool import Repository, RepositoryError
from backuptool.operations.findings import Findings
from backuptool.storage.database import Database

from .calls import CALLS, Call
from .making import NAMES, make_scenario
from .programme import Effort, Figures
from .scenarios import Scenario, Trial
from .tracing import Fail, Verdict, run_traced

pytestmark = [pytest.mark.reliability, pytest.mark.usefixtures("tracing")]

_MAKING = frozenset({"mkdir", "mkdirat", "rename", "renameat", "renameat2", "link", "linkat", "symlinkat", "mknodat"})
_WRITING = frozenset({"write", "pwrite64", "writev", "pwritev", "fallocate", "ftruncate", "fsync", "fdatasync"})
_REMOVING = frozenset({"unlink", "unlinkat", "rmdir"})
_ATTRIBUTES = frozenset({"setxattr", "lsetxattr", "fsetxattr"})
_OWNING = frozenset({"chmod", "fchmod", "fchmodat", "fchown", "fchownat", "utimensat"})
_OPENING = frozenset({"open", "openat"})

#: The calls that can fail in each way; opening does so only in order to write, but for EIO and EMFILE.
_CAN_FAIL: Dict[int, FrozenSet[str]] = {
    errno.ENOSPC: _MAKING | _WRITING | _ATTRIBUTES | _OPENING,
    errno.EDQUOT: _MAKING | _WRITING | _ATTRIBUTES | _OPENING,
    errno.EROFS: _MAKING | _REMOVING | _ATTRIBUTES | _OWNING | _OPENING,
    errno.EIO: frozenset(CALLS) - {"lseek", "fcntl", "fstat"},
    errno.EMFILE: _OPENING,
}

#: What is said of a source that cannot be read; a full disk is something else.
_BLAMED = re.compile(r"unreadable|cannot be read|cannot read |nothing was saved|Traceback")

#: Bytes and files: each of a few hundred calls fails in up to ten ways.
_TREE = (100_000, 16)

#: By how many helpers there are.
_WHOSE = ("a call", "a helper's call")

#: Bytes of a file system that has room for everything.
_LARGE = 64 << 20


def can_fail(call: Call, error: int, places: Tuple[str, ...]) -> bool:
    """Tell whether a call can fail in that way, and touches what lies in one of these places."""
    if call.name not in _CAN_FAIL[error]:
        return False
    if call.name in _OPENING and error not in (errno.EIO, errno.EMFILE):
        flags = call.arguments[1 if call.name == "open" else 2]
        if not flags & (os.O_CREAT if error in (errno.ENOSPC, errno.EDQUOT) else os.O_WRONLY | os.O_RDWR):
            return False
    return call.full_path().startswith(places)


class Fault:
    """What goes wrong: a call, or that call and all behind it.

    Args:
        error: How it fails.
        point: How many calls that can fail so are made before.
        sticky: Whether all later ones fail too.
        places: Whose calls fail.
        helper: Whether those of helpers fail, and not those of the command.
    """

    def __init__(self, error: int, point: int, sticky: bool, places: Tuple[str, ...], *, helper: bool = False) -> None:
        self._error = error
        self._point = point
        self._sticky = sticky
        self._places = places
        self._helper = helper
        self._met = 0
        self.struck: Optional[str] = None

    def __call__(self, call: Call) -> Verdict:
        """Say what is to become of a call."""
        if call.main == self._helper or not can_fail(call, self._error, self._places):
            return None
        self._met += 1
        if self._met <= self._point or (self.struck is not None and not self._sticky):
            return None
        if self.struck is None:
            self.struck = f"{call.name} {os.path.basename(call.full_path())}"
        return Fail(self._error)

    def __str__(self) -> str:
        often = "from then on" if self._sticky else "once"
        whose = " of a helper" if self._helper else ""
        return f"{errno.errorcode[self._error]} at call {self._point}{whose}, {self.struck}, {often}"


def strike(scenario: Scenario, error: int, point: int, sticky: bool, *, helpers: int = 0) -> Tuple[bool, Figures]:
    """Run a command with a fault, and examine what is left; False if there is no such call any more.

    With helpers it is their calls that fail.
    """
    figures = Figures()
    trial = scenario.trial(helpers)
    fault = Fault(error, point, sticky, (str(trial.place),), helper=helpers > 0)
    ended = run_traced(trial.command(), _CAN_FAIL[error], fault)
    if fault.struck is None:
        return False, figures
    figures.tried[f"{scenario.arguments[0]}: {_WHOSE[helpers]} of the repository or destination fails"] += 1
    judge(trial, ended.code, str(fault))
    trial.finish(str(fault), trial.examine(str(fault), metadata=ended.code == 0))
    figures.faults += trial.faults
    return True, figures


def judge(trial: Trial, code: int, what: str) -> None:
    """Hold what a command says against what it did."""
    scenario, said = trial.scenario, trial.printed("stderr")
    if code == 0:
        if scenario.old and facts(trial.place / "out") != scenario.saved[scenario.after[-1]]:
            trial.fault(what, "it ended with 0, and not everything is restored")
        if not trial.printed("stdout"):
            trial.fault(what, "it ended with 0, and said nothing")
    elif code not in (1, 3, 10, 11) or (code == 3 and not scenario.old):
        trial.fault(what, f"it ended with {code}: {said}")
    if scenario.old:  # what is there already can be unreadable as well
        said = said.replace("problem: unreadable: ", "")
    if code and (not said.startswith("backuptool: ") or _BLAMED.search(said)):
        trial.fault(what, f"it ended with {code} and said {said!r}")


def strike_source(
    scenario: Scenario, error: int, point: int, sticky: bool, *, helpers: int = 0
) -> Tuple[bool, Figures]:
    """Take a snapshot while the source fails: what is not named as a problem must be saved as it is."""
    figures = Figures()
    trial = scenario.trial(helpers)
    fault = Fault(error, point, sticky, (str(scenario.place / "source"),), helper=helpers > 0)
    ended = run_traced(trial.command(), _CAN_FAIL[error], fault)
    if fault.struck is None:
        return False, figures
    figures.tried[f"snapshot: {_WHOSE[helpers]} of the source fails"] += 1
    what, said = str(fault), trial.printed("stderr")
    named = [os.fsencode(path) for path in re.findall(r"problem: [a-z-]+: (.*?): ", said)]
    if ended.code == 1:  # nothing can be said of a source whose root cannot be read, or for lack of descriptors
        lost = error == errno.EMFILE or sticky or what.endswith(" source, once")
        if not lost or not said.startswith("backuptool: error: ") or os.strerror(error) not in said:
            trial.fault(what, f"it ended with 1 and said {said!r}")
    elif ended.code not in ((0, 3) if error == errno.EIO else (0,)) or (ended.code == 3) != bool(named):
        trial.fault(what, f"it ended with {ended.code} and said {said!r}")
    trial.compare(what, scenario.before)
    if ended.code in (0, 3):
        new, expected = trial.restored(scenario.after[-1]), scenario.saved[scenario.after[-1]]
        for path in expected:
            if new.get(path) != expected[path] and not any(_is_below(path, other) for other in named):
                trial.fault(what, f"{path!r} is missing or wrong, and no problem names it")
    figures.faults += trial.faults
    return True, figures


def _is_below(path: bytes, other: bytes) -> bool:
    return other == b"." or path == other or path.startswith(other + b"/")


def fill(scenario: Scenario, target: Path, step: int, effort: Effort) -> Figures:
    """Run a command on a file system with no room left, then with more and more, until it has enough."""
    figures = Figures()
    room, code = 0, 1
    while code and not effort.is_over():
        _resize(target, _LARGE)
        for entry in target.iterdir():
            subprocess.run(["rm", "-rf", str(entry)], check=True)
        trial = scenario.trial_in(target)
        status = os.statvfs(str(target))
        _resize(target, (status.f_blocks - status.f_bfree) * status.f_frsize + room)
        what = f"{room} bytes of room"
        code = trial.run()
        judge(trial, code, what)
        figures.tried[f"{scenario.arguments[0]}: a file system is full"] += bool(code)
        _resize(target, _LARGE)
        trial.finish(what, trial.examine(what, metadata=code == 0))
        figures.faults += trial.faults
        room += step
    return figures


def _resize(target: Path, size: int) -> None:
    options = f"remount,size={max(size, 4096)}"  # 0 would be no limit
    subprocess.run([program("mount"), "-o", options, str(target)], check=True)


def run(effort: Effort) -> Figures:
    """Let each call of each scenario fail, or some, and fill file systems."""
    figures = Figures()
    for name in [name for name in NAMES if effort.scenario in ("", name)]:
        scenario = make_scenario(name, effort.work / name, *_TREE)
        every = 1 if effort.full else 120
        figures.add(_each(partial(strike, scenario), tuple(_CAN_FAIL), every, effort))
        if name in ("first", "snapshot"):
            for helpers in (0, 1):
                one = partial(strike_source, scenario, helpers=helpers)
                figures.add(_each(one, (errno.EIO, errno.EMFILE), min(every, 20), effort))  # there are few
        if name == "restore":
            figures.add(_each(partial(strike, scenario, helpers=1), tuple(_CAN_FAIL), every, effort))
        effort.tell(f"{name}: {sum(figures.tried.values())} calls failed, {len(figures.faults)} faults")
        if os.geteuid() == 0:
            target = effort.work / f"full {name}"
            target.mkdir()
            with mounted(target, str(_LARGE)):
                figures.add(fill(scenario, target, 4096 if effort.full else 500_000, effort))
        shutil.rmtree(str(scenario.place))
    return figures


def _each(
    one: Callable[[int, int, bool], Tuple[bool, Figures]], errors: Tuple[int, ...], every: int, effort: Effort
) -> Figures:
    """Let each call fail, or one of so many, in each way that it can, until there are no more."""
    figures = Figures()
    for error in errors:
        for sticky in (False, True):
            point = random.Random(effort.seed + error).randrange(every)
            there_is = True
            while there_is and not effort.is_over():
                there_is, found = one(error, point, sticky)
                figures.add(found)
                point += every
    return figures


def test_whatever_fails_is_told_and_nothing_that_was_saved_is_lost(memory_path: Path) -> None:
    figures = run(Effort(work=memory_path))
    assert figures.faults == []
    assert sum(figures.tried.values()) > 60


def test_two_repositories_on_a_file_system_that_fills_up_keep_what_they_have(memory_path: Path) -> None:
    """Each takes the room that the other one had seen; both go on as soon as there is more."""
    target = memory_path / "both"
    target.mkdir()
    names = ("one", "two")
    taken = dict.fromkeys(names, 0)
    with mounted(target, "8m"):
        for number in range(20):
            running = {}
            for name in names:
                write(memory_path / name / str(number), noise(600_000, number))
                arguments = ("--db-path", str(target / f"{name}.db"), "-q", "snapshot")
                command = [
                    sys.executable,
                    "-m",
                    "backuptool",
                    *arguments,
                    "--target-directory",
                    str(memory_path / name),
                ]
                running[name] = subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8")
            ended = {name: (process.communicate()[1], process.returncode) for name, process in running.items()}
            for name, (said, code) in ended.items():
                assert code == 0 or (code == 1 and "no space left" in said), said
                taken[name] += code == 0
                with Repository(target / f"{name}.db", max_helpers=0) as repo:
                    assert len(repo.list()) == taken[name]
                    assert repo.check().problems == ()
            if all(code for _, code in ended.values()):
                break
        assert min(taken.values()) > 2
        _resize(target, _LARGE)
        for name in names:
            with Repository(target / f"{name}.db", max_helpers=0) as repo:
                assert repo.snapshot(memory_path / name).problems == ()
                assert repo.restore("latest", memory_path / "out" / name, verify=True).problems == ()
            assert facts(memory_path / "out" / name) == facts(memory_path / name)


def test_a_commit_that_fails_in_silence_is_found(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the last statement of a transaction fails, and nobody cares."""

    def careless(self: Database, sql: str, parameters: Sequence[Any] = ()) -> int:
        try:
            return execute(self, sql, parameters)
        except RepositoryError:
            return 0

    execute = Database.execute
    monkeypatch.setattr(Database, "execute", careless)
    scenario = make_scenario("snapshot", memory_path / "it", *_TREE)
    figures = _each(partial(strike, scenario), (errno.EIO,), 31, Effort(work=memory_path))
    assert figures.faults != []


def test_a_restore_that_keeps_problems_to_itself_is_found(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: what could not be written is not told."""
    monkeypatch.setattr(Findings, "problem", lambda *arguments, **more: None)
    scenario = make_scenario("restore", memory_path / "it", *_TREE)
    figures = _each(partial(strike, scenario), (errno.EIO,), 31, Effort(work=memory_path))
    assert any("not everything is restored" in fault for fault in figures.faults)
