"""Hostile repository files: whatever is forged, nothing outside the destination is touched, and it ends in clear words.

Each case, and each mutation, is put before every command, in a process with 512 MB of memory and a minute of time.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import stat
from pathlib import Path
from typing import Dict, List, Tuple

import attrs
import pytest

from .forging import run_sql
from .hostile import CASES, Case, make_base
from .mutation import mutate
from .programme import Effort, Figures
from .victim import STOPPED, Outcome, Victim

pytestmark = pytest.mark.reliability

#: Mutations in the short form.
_SHORT = 150

#: Processor time that all commands on one repository get. Only forged holes take longer: as long as it takes to hash so
#: many zeros.
_SECONDS = 20

#: What no message may have: control bytes, and what turns the direction of writing.
_RAW = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")

#: Exit codes that a command may have: done, failed, done with problems, no repository.
_CODES = frozenset({0, 1, 3, 10})

#: What each outcome asks of check and of restore: the exit codes that they may have.
_WANTED: Dict[str, Tuple[frozenset[int], frozenset[int]]] = {
    "refused": (frozenset({1, 3, 10}), frozenset({1, 10})),
    "named": (frozenset({1, 3}), frozenset({1, 3})),
    "check": (frozenset({1, 3}), frozenset({0, 1, 3})),
    "restore": (frozenset({0, 1, 3}), frozenset({1, 3})),
    "harmless": (frozenset({0}), frozenset({0})),
    "any": (_CODES, _CODES),
}


@attrs.frozen
class Arena:
    """A place where a repository is put before all commands, and what lies around it is watched.

    Attributes:
        work: An empty directory.
    """

    work: Path

    def prepare(self, base: Path) -> Path:
        """Empty the place, and put a copy of a repository into it; return its path."""
        shutil.rmtree(str(self.work), ignore_errors=True)
        for name in ("repository", "outside", "source/dir"):
            (self.work / name).mkdir(parents=True)
        (self.work / "outside" / "victim").write_bytes(b"not to be touched\n")
        (self.work / "source" / "a.txt").write_bytes(b"of the present\n")
        (self.work / "source" / "dir" / "b.txt").write_bytes(b"of the present as well\n")
        repository = self.work / "repository" / "backups.db"
        shutil.copyfile(str(base), str(repository))
        repository.chmod(0o600)
        return repository

    def commands(self, repository: Path) -> List[List[str]]:
        """Return what is done with a repository, in this order."""
        out = self.work / "out"
        db = ["--db-path", str(repository), "--lock-timeout", "5"]
        to = ["--output-directory", str(out)]
        arguments: List[List[str]] = [
            ["list", "-v"],
            ["check"],
            ["check", "--quick"],
            ["restore", "--snapshot-number", "2", *to],
            ["restore", "--snapshot-number", "latest", *to, "--verify", "--delete-extra"],
            ["restore", "--snapshot-number", "1", *to, "--overwrite", "always", "--delete-extra"],
            ["stats"],
            ["history", "a.txt"],
            ["find", "*"],
            ["find", "--larger-than", "1k", "--newer", "2020-01-01", "--json"],
            ["ls", "--recursive", "--snapshot-number", "2"],
            ["cat", "--snapshot-number", "1", "a.txt", "dir/sub/c.txt"],
            ["diff", "1", "2"],
            ["diff", "1", "2", "--text", "a.txt"],
            ["diff", "2", "--directory", str(out)],
            ["export", "--snapshot-number", "2", "--output", str(out / "exported.tar"), "--overwrite"],
            ["copy", "--destination", str(out / "copy.db")],
            ["drill", "--snapshot-number", "2", "--scratch-directory", str(out)],
            ["annotate", "--snapshot", "1", "--note", "new"],
            ["prune", "--dry-run", "--keep-last", "1", "--keep-daily", "2"],
            ["prune", "--dry-run", "--max-size", "1k"],
            ["snapshot", "--target-directory", str(self.work / "source")],
            ["prune", "--snapshot", "1"],
            ["prune", "--snapshot", "2"],
            ["list", "--json"],
        ]
        return [[*db, *command] for command in arguments]

    def watched(self) -> Dict[str, Tuple[object, ...]]:
        """Return everything that can be seen of what lies around repository and destination."""
        found: Dict[str, Tuple[object, ...]] = {}
        places = [str(self.work / "outside"), str(self.work / "source"), "/tmp/reliability-planted"]
        names = [os.path.join(top, name) for place in places for top, d, f in os.walk(place) for name in (".", *d, *f)]
        for path in [*names, places[2], *(os.path.join(str(self.work), name) for name in os.listdir(str(self.work)))]:
            try:
                status = os.lstat(path)
            except OSError:
                continue
            known: Tuple[object, ...] = (status.st_ino, status.st_mode, status.st_uid, status.st_gid)
            if not stat.S_ISDIR(status.st_mode):
                known += (status.st_nlink, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            if path != str(self.work / "out"):
                found[path] = known
        return found

    def attack(self, victim: Victim, repository: Path) -> Tuple[List[Outcome], List[str]]:
        """Run all commands on a repository; return what they did, and what must never happen and did."""
        before = self.watched()
        commands = self.commands(repository)
        outcomes = victim.run(commands)
        faults = []
        if self.watched() != before:
            faults.append("something outside the destination was touched")
        if outcomes[-1].code == STOPPED:
            outcomes.pop()
        elif len(outcomes) != len(commands):
            faults.append(f"it was killed in {commands[len(outcomes) - 1][4]}")
        for command, (code, out, err) in zip(commands, outcomes):
            what = " ".join(command[4:7])
            if code not in _CODES:
                faults.append(f"{what}: exit code {code}: {err[-200:]}")
            if "(-v shows where)" in err or "Traceback" in err or "Traceback" in out:
                faults.append(f"{what}: an error that nobody expected: {err[-300:]}")
            if (code != 0) != bool(err):
                faults.append(f"{what}: exit code {code}, and it says: {err[-200:]!r}")
            raw = _RAW.search("" if command[4] == "cat" else out) or _RAW.search(err)
            if raw:
                faults.append(f"{what}: prints {raw.group()!r}")
        return outcomes, faults


def judge(case: Case, outcomes: List[Outcome]) -> List[str]:
    """Return what is not as it must be for a case."""
    wanted_check, wanted_restore = _WANTED[case.outcome]
    check = outcomes[1].code if len(outcomes) > 1 else -1
    restores = {outcome.code for outcome in outcomes[3:6]}
    faults = []
    if check not in wanted_check:
        faults.append(f"check ended with {check}, and it should be {case.outcome}")
    everywhere = case.outcome in ("refused", "harmless")
    if not (restores <= wanted_restore if everywhere else restores & wanted_restore):
        faults.append(f"restore ended with {restores}, and it should be {case.outcome}")
    return faults


def try_case(case: Case, arena: Arena, base: Path, victim: Victim) -> List[str]:
    """Forge a case, run everything on it, and return what is not as it must be."""
    repository = arena.prepare(base)
    case.apply(repository)
    outcomes, faults = arena.attack(victim, repository)
    return [f"{case.name}: {fault}" for fault in faults + judge(case, outcomes)]


def try_mutation(seed: str, arena: Arena, base: Path, victim: Victim, figures: Figures) -> List[str]:
    """Change a repository at random, run everything on it, and return what must never happen and did."""
    repository = arena.prepare(base)
    what = mutate(repository, random.Random(seed))
    outcomes, faults = arena.attack(victim, repository)
    if len(outcomes) < len(arena.commands(repository)) and not faults:
        figures.tried["of these stopped after 20 s of processor time, hashing holes"] += 1
        if "parts" not in what and "size" not in what:
            faults = ["it was stopped, and has no holes"]
    return [f"mutation {seed}: {fault}; {what}" for fault in faults]


def run(effort: Effort) -> Figures:
    """Try all cases, then mutations: some, or for an hour unless another time is given."""
    figures = Figures()
    base = make_base(effort.work)
    arena = Arena(effort.work / "arena")
    with Victim(_SECONDS) as victim:
        for case in CASES:
            figures.tried["forged repositories"] += 1
            figures.tried["commands run on hostile files"] += len(arena.commands(base))
            figures.faults += try_case(case, arena, base, victim)
        number = 0
        while not effort.is_over(3600) if effort.full else number < _SHORT:
            figures.tried["mutated repositories"] += 1
            figures.tried["commands run on hostile files"] += len(arena.commands(base))
            found = try_mutation(f"{effort.seed}.{number}", arena, base, victim, figures)
            for fault in found:
                effort.tell(fault)
            figures.faults += found
            number += 1
            if number % 1000 == 0:
                effort.tell(f"{number:,} mutations, {len(figures.faults)} faults")
    return figures


def test_hostile_files_touch_nothing_outside_and_end_in_clear_words(tmp_path: Path) -> None:
    assert len(CASES) >= 80
    assert len({case.name for case in CASES}) == len(CASES)
    figures = run(Effort(work=tmp_path))
    assert figures.faults == []
    assert figures.tried["forged repositories"] == len(CASES)


# Controls.


def caught(fault: str, name: str, work: Path) -> List[str]:
    """Return what is found in a case when a fault was put into the package."""
    work.mkdir()
    base = make_base(work)
    case = next(case for case in CASES if case.name == name)
    with Victim(_SECONDS) as sound:
        assert try_case(case, Arena(work / "arena"), base, sound) == []
    with Victim(_SECONDS, fault=fault) as victim:
        return try_case(case, Arena(work / "arena"), base, victim)


@pytest.mark.parametrize("name", ["a trigger", "another view", "a check that calls a function", "rows in UTF-16"])
def test_without_the_schema_check_the_hostile_file_gets_through(tmp_path: Path, name: str) -> None:
    found = caught("no schema check", name, tmp_path / "work")
    assert any("check ended with" in fault and "should be refused" in fault for fault in found)


@pytest.mark.parametrize(
    "name", ["a path is the parent", "a FIFO is above the root", "a path is a parent further down"]
)
def test_without_the_path_check_something_outside_is_touched(tmp_path: Path, name: str) -> None:
    assert any("outside the destination" in fault for fault in caught("no path check", name, tmp_path / "work"))


@pytest.mark.parametrize(
    "name",
    [
        "a symlink with a file through it",
        "a symlink with a file that is there already through it",
        "a symlink with a FIFO through it",
        "two symlinks with a file through both",
    ],
)
def test_a_restore_that_follows_symlinks_touches_something_outside(tmp_path: Path, name: str) -> None:
    assert any("outside the destination" in fault for fault in caught("following symlinks", name, tmp_path / "work"))


def test_an_error_that_nobody_expected_is_noticed(tmp_path: Path) -> None:
    found = caught("unexpected error", "the note has a million characters", tmp_path / "work")
    assert any("nobody expected" in fault for fault in found)


def test_the_memory_that_commands_get_is_limited(tmp_path: Path) -> None:
    arena = Arena(tmp_path / "arena")
    repository = arena.prepare(make_base(tmp_path))
    run_sql(repository, "UPDATE snapshots SET note = hex(zeroblob(125000000)) WHERE id = 1")
    with Victim(_SECONDS) as victim:
        outcomes, faults = arena.attack(victim, repository)
    assert "there is not enough memory" in outcomes[0].err
    assert faults == [], "that is said in clear words"
