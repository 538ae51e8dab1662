"""Power failures: every prefix of what commands write, and of what was not synced any part lost, torn or out of order.

Commands run one after the other on one repository, and their system calls are recorded. After each call, the power may
fail; each state of the disk that may then be found is opened, which rolls back what was not committed. Each snapshot
that was acknowledged must be there, all that is there must restore as it was saved, and the next snapshot must succeed.
The power may fail again while the first failure is being rolled back.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Set, Tuple

import attrs
import pytest
from trees import Facts, facts

from backuptool import BackuptoolError, Repository, RepositoryNotFoundError
from backuptool.cli import main
from backuptool.operations.prune import pruning
from backuptool.storage import committer, connecting
from backuptool.storage.database import Database

from .calls import Call
from .disks import Disk, Operation, State, record
from .programme import Effort, Figures

pytestmark = [pytest.mark.reliability, pytest.mark.usefixtures("tracing")]

Numbers = Tuple[int, ...]

_NONE: Numbers = ()


@attrs.frozen
class Moment:
    """One operation of the commands, and which snapshots there may be from then on until the next one.

    Attributes:
        operation: What was done.
        allowed: One of these, if the power fails behind it.
    """

    operation: Operation
    allowed: Tuple[Numbers, ...]


class Recording:
    """Commands on one repository, and all that they did to its directory.

    Args:
        place: An empty directory.
        seed: Of the trees.
        cache_kib: Of SQLite's page cache: with little, pages are written before a transaction ends.
        password: If the repository is to be encrypted. Another one is added then.
    """

    def __init__(self, place: Path, seed: int, cache_kib: int, password: Optional[str] = None) -> None:
        self.moments: List[Moment] = []
        self.saved: Dict[int, Facts] = {}
        self.source = place / "source"
        self._other = place / "other"
        self._disk = place / "recorded"
        self._printed = place / "printed"
        self._operations: List[Operation] = []
        self._random = random.Random(seed)
        self._cache_kib = cache_kib
        self.password = password
        self._disk.mkdir(parents=True)
        for name in ("password", "another"):
            (place / name).write_text(password if password and name == "password" else name, encoding="ascii")
        self._listed = _NONE
        for step in range(8):
            if step in (3, 6):
                self._command("prune", "--snapshot", str(self._listed[0]), "--snapshot", str(self._listed[1]))
                continue
            source = self._other if step in (2, 4) else self.source
            self._change(source)
            encrypt = ["--encrypt"] if password and step == 0 else []
            self._command("snapshot", "--target-directory", str(source), *encrypt)
            self.saved[self._listed[-1]] = facts(source)
            if password and step == 1:
                self._command("key", "add", "--new-password-file", str(place / "another"))
        shutil.rmtree(str(self._disk))

    def _change(self, source: Path) -> None:
        source.mkdir(exist_ok=True)
        for number in self._random.sample(range(8), 5):
            size = self._random.choice((10, 3000, 30_000))
            (source / f"file {number}").write_bytes(self._random.getrandbits(8 * size).to_bytes(size, "big"))
        for number in range(3):  # each version is like the one before: their packs have bases
            with (source / f"log {number}").open("a", encoding="ascii") as log:
                lines = 2 if log.tell() else 600
                log.writelines(f"line of {self._random.getrandbits(256)}\n" for _ in range(lines))
        (source / "large").write_bytes(b"%d lines of text\n" % self._random.randrange(9) * 80_000)

    def _command(self, *arguments: str) -> None:
        """Run a command, record what it does, and note which snapshots there may be at each moment."""
        begin = len(self._operations)
        self._printed.write_text("", encoding="ascii")

        def run() -> int:
            # As if there were more to do: several transactions for packs, and for pages that are given back.
            committer._BATCH_BYTES, pruning._BATCH_PAGES, connecting._CACHE_KIB = 40_000, 3, self._cache_kib
            descriptor = os.open(str(self._printed), os.O_WRONLY)
            os.dup2(descriptor, 1)
            sys.stdout = os.fdopen(1, "w", closefd=False)
            options = ["--db-path", str(self._disk / "backups.db"), "--max-helpers", "0"]
            if self.password:
                options += ["--password-file", str(self._disk.with_name("password"))]
            return main([*options, *arguments])

        def acknowledge(call: Call) -> Optional[str]:
            return "acknowledged" if call.full_path() == str(self._printed) else None

        ended = record(run, self._disk, self._operations, acknowledge)
        assert ended.code in (0, 3), ended  # random bytes may look encrypted, which is told with 3
        before, after = self._listed, listed_in(self._disk, self.password)
        done = False
        for operation in self._operations[begin:]:
            done = done or operation.kind == "acknowledged"
            self.moments.append(Moment(operation, (after,) if done else (before, after)))
        assert done
        self._listed = after


def listed_in(place: Path, password: Optional[str] = None) -> Numbers:
    """Return the numbers of the snapshots in a repository, after rolling back what was not committed."""
    try:
        with Repository(place / "backups.db", lock_timeout=0, password=password) as repo:
            return tuple(snapshot.id for snapshot in repo.list())
    except RepositoryNotFoundError:
        return ()


class Judge:
    """Examines states; those that are the same when they were rolled back need only one look.

    Args:
        recording: What was done.
        place: An empty directory.
    """

    def __init__(self, recording: Recording, place: Path) -> None:
        self.figures = Figures()
        self._recording = recording
        self._place = place
        self._found: Dict[bytes, List[str]] = {}

    def look(self, state: State, allowed: Sequence[Numbers], what: str) -> None:
        """Open a state and hold it against what must be there."""
        state.write(self._place)
        try:
            listed = listed_in(self._place, self._recording.password)
        except BackuptoolError as exc:
            self.figures.faults.append(f"{what}: corrupt: {exc}")
            return
        if listed not in allowed:
            self.figures.faults.append(f"{what}: lost: there are {listed}, and not {allowed}")
        path = self._place / "backups.db"
        key = hashlib.sha256(path.read_bytes() if path.exists() else b"").digest()
        if key not in self._found:
            self._found[key] = self._examine(listed)
            self.figures.tried["different repositories that came of them, all restored and compared"] += 1
        self.figures.faults += [f"{what}: {fault}" for fault in self._found[key]]

    def _examine(self, listed: Numbers) -> List[str]:
        """Check a repository, restore all of it, and go on with it."""
        faults: List[str] = []
        out = self._place.with_name("out")
        try:
            path, password = self._place / "backups.db", self._recording.password
            with Repository(path, max_helpers=0, lock_timeout=0, password=password) as repo:
                for number in listed:
                    problems = repo.restore(number, out).problems
                    if problems or facts(out) != self._recording.saved[number]:
                        faults.append(f"corrupt: snapshot {number} is not what was saved: {problems}")
                    shutil.rmtree(str(out))
                number = repo.snapshot(self._recording.source).snapshot.id
                if repo.restore(number, out).problems or facts(out) != facts(self._recording.source):
                    faults.append("corrupt: the next snapshot is not what was saved")
                faults += [f"corrupt: check: {problem.message}" for problem in repo.check().problems]
        except Exception as exc:  # whatever it is, it is none that should come
            faults.append(f"corrupt: {exc!r}")
        finally:
            shutil.rmtree(str(out), ignore_errors=True)
        return faults


def fail_once(recording: Recording, judge: Judge, number: int, every: int, effort: Effort) -> None:
    """Let the power fail behind every operation, or one of so many, in so many ways each, and judge what is left."""
    chosen = random.Random(effort.seed)
    disk = Disk()
    judge.figures.tried["operations recorded"] += len(recording.moments)
    for position, moment in enumerate(recording.moments):
        disk.apply(moment.operation)
        if (position + effort.seed) % every or effort.is_over():
            continue
        judge.figures.tried["operations behind which the power failed"] += 1
        for state in disk.states(number, chosen):
            judge.figures.tried["states after a power failure"] += 1
            judge.look(state, moment.allowed, f"behind operation {position}")


def _roll_back(place: Path, password: Optional[str]) -> int:
    listed_in(place, password)
    return 0


def fail_twice(recording: Recording, judge: Judge, states: int, each: int, effort: Effort) -> None:
    """Let the power fail again while so many states are being rolled back, behind each operation in so many ways."""
    chosen = random.Random(effort.seed)
    place = recording.source.with_name("twice")
    place.mkdir()
    found = 0
    for position in chosen.choices(range(len(recording.moments)), k=20 * states):
        if found >= states or effort.is_over():
            break
        disk = Disk()
        for moment in recording.moments[: position + 1]:
            disk.apply(moment.operation)
        first = disk.random(chosen)
        first.write(place)
        again = Disk.of(first)
        operations = again.links()
        before = len(operations)
        record(partial(_roll_back, place, recording.password), place, operations, lambda call: None)
        if len(operations) - before < 3:
            continue  # there was nothing to roll back
        found += 1
        allowed = recording.moments[position].allowed
        for operation in operations[before:]:
            again.apply(operation)
            for _ in range(each):
                judge.figures.tried["states after a second failure, while the first was rolled back"] += 1
                judge.look(again.random(chosen), allowed, f"behind operation {position}, and again")
    shutil.rmtree(str(place))


def run(effort: Effort) -> Figures:
    """Fail behind every operation of several recordings, and twice."""
    figures = Figures()
    for number, cache_kib in enumerate((4096, 64) * (2 if effort.full else 1)):
        if effort.is_over():
            break
        place = effort.work / str(number)
        recording = Recording(place, effort.seed + number, cache_kib)
        judge = Judge(recording, place / "judged")
        (place / "judged").mkdir()
        if effort.full:
            fail_once(recording, judge, 25, 1, effort)
            fail_twice(recording, judge, 60, 3, effort)
        else:
            fail_once(recording, judge, 4, 5, effort)
            fail_twice(recording, judge, 5, 1, effort)
        figures.add(judge.figures)
        effort.tell(f"{sum(figures.tried.values())} in all, {len(figures.faults)} faults")
        shutil.rmtree(str(place))
    return figures


def test_no_power_failure_loses_or_damages_what_was_acknowledged(memory_path: Path) -> None:
    figures = run(Effort(work=memory_path))
    assert figures.faults == []
    assert figures.tried["states after a power failure"] > 2000
    assert figures.tried["states after a second failure, while the first was rolled back"] > 50


def test_an_encrypted_repository_loses_nothing_either(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("apsw", "cryptography"):
        pytest.importorskip(library)
    from backuptool.storage.encryption import construction

    monkeypatch.setattr(construction, "_MEMORY_KIB", 32)  # Argon2id takes a millisecond then
    monkeypatch.setattr(construction, "_PASSES", 1)
    recording = Recording(memory_path, 1, 64, "secret")
    judge = Judge(recording, memory_path / "judged")
    (memory_path / "judged").mkdir()
    fail_once(recording, judge, 2, 61, Effort(work=memory_path))
    assert judge.figures.faults == []
    assert judge.figures.tried["states after a power failure"] > 50


@pytest.mark.parametrize(
    ("pragmas", "found"),
    [
        (("journal_mode=TRUNCATE", "synchronous=OFF"), {"lost", "corrupt"}),
        (("journal_mode=OFF", "synchronous=FULL"), {"corrupt"}),
        # The name of the journal that was removed may be there again, and what was acknowledged is rolled back.
        (("journal_mode=DELETE", "synchronous=FULL"), {"lost"}),
    ],
)
def test_weaker_ways_of_committing_are_found(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch, pragmas: Tuple[str, str], found: Set[str]
) -> None:
    """The controls: what was measured when the way of committing was chosen is measured again."""

    def prepare(database: Database) -> None:
        for pragma in pragmas:
            database.query(f"PRAGMA {pragma}")

    monkeypatch.setattr("backuptool.storage.connecting.prepare_writing", prepare)
    monkeypatch.setattr("backuptool.storage.format.prepare_writing", prepare)
    monkeypatch.setattr(Database, "drop_journal", lambda self: None)
    recording = Recording(memory_path, 1, 4096)
    judge = Judge(recording, memory_path / "judged")
    (memory_path / "judged").mkdir()
    fail_once(recording, judge, 6, 25, Effort(work=memory_path))
    assert {fault.split(": ")[1] for fault in judge.figures.faults} >= found


def test_a_disk_that_forgets_what_was_synced_is_found(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the model: a disk that says that it has written what it has not."""
    apply = Disk.apply

    def forgetful(self: Disk, operation: Operation) -> None:
        if operation.kind != "sync":
            apply(self, operation)

    monkeypatch.setattr(Disk, "apply", forgetful)
    recording = Recording(memory_path, 1, 4096)
    judge = Judge(recording, memory_path / "judged")
    (memory_path / "judged").mkdir()
    fail_once(recording, judge, 4, 25, Effort(work=memory_path))
    assert {fault.split(": ")[1] for fault in judge.figures.faults} == {"lost", "corrupt"}
