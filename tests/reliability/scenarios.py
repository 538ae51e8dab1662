"""What is done again and again while something goes wrong, a snapshot, a prune, a restore; and what must hold after it.

Owns how a command is run and the examination afterwards. What goes wrong, and when, is up to the rows; what it is run
on, to ``making``. Everything is made once; each trial works on a copy of what it may change.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Callable, Dict, List, Sequence, Tuple

import attrs
from trees import Facts, facts

from backuptool import BackuptoolError, Repository, RepositoryNotFoundError
from backuptool.cli import main
from backuptool.operations.restore import writing
from backuptool.operations.snapshot import reading

__all__ = ["Scenario", "Trial"]


@attrs.frozen(kw_only=True)
class Scenario:
    """A command, on what it is run, and what there is before and after it.

    Attributes:
        name: Of the scenario.
        place: Where everything lies; what the command may change is in ``template``.
        arguments: Of the command; ``{trial}`` stands for the trial's directory.
        again: Of the command that is run afterwards, if this one did it all; the same if there are none.
        saved: What each snapshot holds that there may be.
        listings: Numbers of the snapshots that there may be: before the command, between its steps, after it.
        old: What the destination held before, if anything is restored.
        repository: What the command is run on, if that is not the one in the trial.
    """

    name: str
    place: Path
    arguments: Tuple[str, ...]
    again: Tuple[str, ...]
    saved: Dict[int, Facts]
    listings: Tuple[Tuple[int, ...], ...]
    old: Facts = attrs.Factory(dict)
    repository: str = "{trial}/backups.db"

    @property
    def before(self) -> Tuple[int, ...]:
        """Numbers of the snapshots before the command."""
        return self.listings[0]

    @property
    def after(self) -> Tuple[int, ...]:
        """Numbers of the snapshots after it."""
        return self.listings[-1]

    def trial(self, helpers: int = 0) -> Trial:
        """Return a fresh copy of everything that the command may change."""
        place = self.place / "trial"
        if place.exists():
            shutil.rmtree(str(place))
        place.mkdir()
        return self.trial_in(place, helpers)

    def trial_in(self, place: Path, helpers: int = 0) -> Trial:
        """Return a copy in an empty directory."""
        subprocess.run(["cp", "-a", f"{self.place / 'template'}/.", str(place)], check=True)
        for name in ("stdout", "stderr"):
            (self.place / name).write_text("", encoding="ascii")
        return Trial(self, place, helpers)


@attrs.define
class Trial:
    """One run of a scenario's command, and the examination of what came of it.

    Attributes:
        place: Its directory.
        helpers: How many processes may work beside the command's own.
        faults: What broke a promise.
    """

    scenario: Scenario
    place: Path
    helpers: int = 0
    faults: List[str] = attrs.Factory(list)

    def command(self, again: bool = False) -> Callable[[], int]:
        """Return the command as a function for a process of its own; what it prints goes into files."""
        arguments = self.arguments(again)

        def run() -> int:
            for number, name in ((1, "stdout"), (2, "stderr")):
                descriptor = os.open(str(self.scenario.place / name), os.O_WRONLY | os.O_TRUNC)
                os.dup2(descriptor, number)
                os.close(descriptor)
            sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
            if self.helpers:  # as if there were enough to do for them
                reading._MANY_FILES, writing._FEW = 1, 0
            code = main(arguments)
            lines = self.printed("stderr").splitlines()
            alerted = bool(lines) and all(line.startswith("backuptool: alert: ") for line in lines)
            return 0 if code == 3 and alerted else int(code)  # trees of random bytes look like encrypted ones

        return run

    def arguments(self, again: bool = False) -> List[str]:
        """Return what the command is given."""
        wanted = (again and self.scenario.again) or self.scenario.arguments
        options = ("--db-path", self.scenario.repository, "--max-helpers", str(self.helpers))
        return [argument.replace("{trial}", str(self.place)) for argument in (*options, *wanted)]

    def printed(self, name: str) -> str:
        """Return what the last run of the command has printed."""
        return (self.scenario.place / name).read_text(encoding="utf-8", errors="replace")

    def fault(self, what: str, fault: str) -> None:
        """Note that a promise was broken."""
        self.faults.append(f"{self.scenario.name}, {what}: {fault}")

    def examine(self, what: str, *, metadata: bool = True) -> Tuple[int, ...]:
        """Look at what an interrupted command has left: every snapshot that is reported must be what was saved.

        Args:
            what: Has happened to it.
            metadata: Whether restored files must have all of theirs; not if a problem was told.

        Returns the numbers of the snapshots there are.
        """
        scenario = self.scenario
        listed = self._listed()
        done = bool(self.printed("stdout"))
        if listed not in scenario.listings or (done and listed != scenario.after):
            self.fault(what, f"there are snapshots {listed}, and it had {'' if done else 'not '}said that it was done")
        self.compare(what, listed)
        if scenario.old:
            self._examine_destination(what, metadata)
        return listed

    def finish(self, what: str, listed: Tuple[int, ...]) -> None:
        """Run the command again as if nothing had happened: it must do what it should, and leave nothing behind."""
        scenario = self.scenario
        done = listed == scenario.after and listed != scenario.before
        code = self.run(again=done)
        if code != 0:
            self.fault(what, f"the next run ended with {code}: {self.printed('stderr')}")
        expected = scenario.after
        if done and scenario.arguments[0] == "snapshot":
            expected = (*expected, max(scenario.saved))
        if self._listed() != expected:
            self.fault(what, f"after the next run there are snapshots {self._listed()}")
        self.compare(what, expected[-1:])
        with Repository(self.place / "backups.db", max_helpers=0) as repo:
            for problem in repo.check().problems:
                self.fault(what, f"check: {problem.message}")
        if scenario.old and facts(self.place / "out") != scenario.saved[scenario.after[-1]]:
            self.fault(what, "the next restore did not finish it")
        for path in self.place.rglob(".backuptool-*"):
            self.fault(what, f"{path.name} is left after the next run")
        if (self.place / "backups.db-journal").exists() and scenario.name != "restore":
            self.fault(what, "a journal is left after the next run")

    def run(self, *, again: bool = False) -> int:
        """Run the command in a process of its own, undisturbed, and return its exit code."""
        status = os.waitpid(self.start(again=again), 0)[1]
        return os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)

    def start(self, *, again: bool = False) -> int:
        """Start the command in a process of its own and return its number."""
        child = os.fork()
        if child == 0:
            code = 99
            try:
                code = self.command(again)()
                sys.stdout.flush()
            finally:
                os._exit(code)
        return child

    def wrong_setuid(self) -> List[str]:
        """Return the files of the destination that run as somebody whom they were not saved for."""
        new, old = self.scenario.saved[self.scenario.after[-1]], self.scenario.old
        found = []
        for directory, _, names in os.walk(os.fsencode(str(self.place / "out"))):
            for name in names:
                path = os.path.join(directory, name)
                status = os.lstat(path)
                own = name[len(b".backuptool-") : -len(b".part")] if name.startswith(b".backuptool-") else name
                saved = os.path.relpath(os.path.join(directory, own), os.fsencode(str(self.place / "out")))
                owners = [facts[saved][1:3] for facts in (new, old) if saved in facts]
                setuid = status.st_mode & 0o4000 and status.st_uid not in [uid for uid, _ in owners]
                setgid = status.st_mode & 0o2000 and status.st_gid not in [gid for _, gid in owners]
                if setuid or setgid:
                    found.append(f"{name!r} has mode {status.st_mode:o}, owner {status.st_uid}:{status.st_gid}")
        return found

    def _listed(self) -> Tuple[int, ...]:
        try:
            with Repository(self.place / "backups.db") as repo:
                return tuple(snapshot.id for snapshot in repo.list())
        except RepositoryNotFoundError:
            return ()

    def compare(self, what: str, numbers: Sequence[int]) -> None:
        """Restore snapshots and compare them with what was saved."""
        for number in numbers:
            if self.restored(number) != self.scenario.saved.get(number):
                self.fault(what, f"snapshot {number} is not what was saved")

    def restored(self, number: int) -> Facts:
        """Restore a snapshot and return what came."""
        out = self.scenario.place / "compared"
        try:
            with Repository(self.place / "backups.db", max_helpers=0) as repo:
                repo.restore(number, out)
            return facts(out)
        except BackuptoolError as exc:
            return {b"": (str(exc),)}
        finally:
            shutil.rmtree(str(out), ignore_errors=True)

    def _examine_destination(self, what: str, metadata: bool) -> None:
        """Each file must be as it was, or as it should be, whole, under its name."""
        new, old = self.scenario.saved[self.scenario.after[-1]], self.scenario.old
        for path, fact in facts(self.place / "out").items():
            if os.path.basename(path).startswith(b".backuptool-") or stat.S_ISDIR(int(str(fact[0]))):
                continue
            allowed = [_own(which[path], metadata) for which in (old, new) if path in which]
            if _own(fact, metadata) not in allowed:
                self.fault(what, f"{path!r} is neither what it was nor what it should be: {fact}")


def _own(fact: Tuple[object, ...], metadata: bool) -> object:
    """Return what is known of a file but for its links, which change with those of others."""
    mode, detail = int(str(fact[0])), fact[4]
    return fact[:-1] if metadata else (stat.S_IFMT(mode), detail)
