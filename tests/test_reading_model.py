"""Random trees, edits, moves, snapshots and prunes: what is asked of the repository against a plain dict of all states.

The states are read from the file system by ``trees.facts``, which knows nothing of backups.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import random
import shutil
import stat
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Set, Tuple

import pytest
from conftest import Clock, age, noise
from trees import Facts, facts

from backuptool import Diff, HistoryVersion, Repository

NAMES = (
    b"a",
    b"a/x.txt",
    b"a/x",
    b"a-b",
    b"a/b/y.csv",
    b"a/b",
    b"b.txt",
    b"\xff/\xfe.txt",
    b"deep/er/and/x.txt",
    b"c0",
)

DATA = (b"", b"one\n", b"two\ntwo\n", b"two\ntwx\n", noise(1_300_000, 1), noise(1_300_000, 1) + b"more")

VERBS = (*["write"] * 4, "remove", *["move"] * 3, "chmod", "link", "touch", *["snapshot"] * 5, "prune", "prune newest")

Step = Tuple[str, int, int, int]

PATTERNS = ("*.txt", "x*", "?", "[ab]", "[!ab]*", "y.csv", "\udcfe.txt")


@pytest.fixture
def tmp_path(memory_path: Path) -> Path:
    """Thousands of commits are to be made here."""
    return memory_path


class Fact(NamedTuple):
    """What is to be known of an entry."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    detail: object
    xattrs: object

    @property
    def content(self) -> Optional[str]:
        """SHA-256 of a file that is not empty."""
        return self.detail[1] if isinstance(self.detail, tuple) and self.detail[0] else None

    def changes(self, other: Fact) -> Tuple[str, ...]:
        """In what another one differs."""
        if stat.S_IFMT(self.mode) != stat.S_IFMT(other.mode):
            return ("kind",)
        found = []
        if self.detail != other.detail:
            found.append("content" if stat.S_ISREG(self.mode) else "target")
        if self.mode != other.mode:
            found.append("mode")
        if self.mtime_ns != other.mtime_ns:
            found.append("mtime")
        return tuple(found)


State = Dict[bytes, Fact]


def state_of(root: Path) -> State:
    found: Facts = facts(root)
    return {path: Fact(*fact[:6]) for path, fact in found.items()}  # type: ignore[arg-type]


class Model:
    """A tree, a repository, and each state that a snapshot was taken of."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self.root = directory / "tree"
        self.root.mkdir(parents=True)
        self.repo = Repository(directory / "backups.db", lock_timeout=10)
        self.states: Dict[int, State] = {}
        self._clock = clock

    def path(self, number: int) -> bytes:
        return os.path.join(os.fsencode(self.root), NAMES[number % len(NAMES)])

    def step(self, step: Step) -> None:
        verb, first, second, third = step
        path, other = self.path(first), self.path(second)
        if verb == "write":
            self._make_room(path)
            with open(path, "wb") as file:
                file.write(DATA[third % len(DATA)])
            age(os.fsdecode(path))
        elif verb == "link":
            self._make_room(path)
            os.symlink(NAMES[second % len(NAMES)], path)
        elif verb == "snapshot":
            self.snapshot()
        elif verb.startswith("prune"):
            self._prune(max(self.states, default=0) if verb == "prune newest" else first + second)
        elif os.path.lexists(path):
            if verb == "remove":
                self._remove(path)
            elif verb == "move" and not other.startswith(path + b"/") and not path.startswith(other + b"/"):
                if path != other:
                    self._make_room(other)
                    os.rename(path, other)
            elif verb == "chmod" and not os.path.islink(path):
                os.chmod(path, 0o700 + third % 8)
            elif verb == "touch":
                age(os.fsdecode(path))

    def snapshot(self) -> None:
        self._clock.advance(60)
        result = self.repo.snapshot(self.root, host="host")
        assert result.problems == ()
        self.states[result.snapshot.id] = state_of(self.root)

    def _prune(self, number: int) -> None:
        if len(self.states) > 1:
            chosen = number if number in self.states else sorted(self.states)[number % len(self.states)]
            self.repo.prune(chosen)
            del self.states[chosen]

    def _make_room(self, path: bytes) -> None:
        self._remove(path)
        parent = os.path.dirname(path)
        while not os.path.isdir(parent) or os.path.islink(parent):
            if os.path.lexists(parent):
                os.unlink(parent)
                break
            parent = os.path.dirname(parent)
        os.makedirs(os.path.dirname(path), exist_ok=True)

    def _remove(self, path: bytes) -> None:
        if os.path.islink(path) or os.path.isfile(path):
            os.unlink(path)
        elif os.path.isdir(path):
            shutil.rmtree(path)

    # What must be there.

    @property
    def ids(self) -> List[int]:
        return sorted(self.states)

    @property
    def paths(self) -> Set[bytes]:
        return {path for state in self.states.values() for path in state}

    def history(self, path: bytes) -> List[Tuple[object, ...]]:
        found: List[Tuple[object, ...]] = []
        before: Optional[Fact] = None
        last: Optional[Fact] = None
        for position, number in enumerate(self.ids):
            fact = self.states[number].get(path)
            if fact is not None and fact == before:
                found[-1] = (found[-1][0], number, *found[-1][2:])
            elif fact is not None:
                event = "came" if last is None else "came-back" if before is None else "changed"
                changes = () if last is None else last.changes(fact)
                came_from = self._with_content(fact, position - 1, position, path)
                found.append((number, number, event, changes, fact.content, came_from))
            last = fact or last
            before = fact
        return found

    def _with_content(self, fact: Fact, here: int, there: int, path: bytes) -> Tuple[str, ...]:
        """Paths that had a content here and not there, if the path itself had it there and not here."""
        if fact.content is None or not (0 <= here < len(self.ids) and 0 <= there < len(self.ids)):
            return ()
        one, other = self.states[self.ids[here]], self.states[self.ids[there]]

        def has(state: State, name: bytes) -> bool:
            return name in state and state[name].content == fact.content

        if has(one, path) or not has(other, path):
            return ()
        return tuple(os.fsdecode(name) for name in sorted(one) if has(one, name) and not has(other, name))

    def gone(self, path: bytes, last: int) -> Tuple[Optional[int], Tuple[str, ...]]:
        """In which snapshot a path is gone behind a version, and where its content is since."""
        position = self.ids.index(last)
        if position + 1 == len(self.ids):
            return None, ()
        behind = self.ids[position + 1]
        moved = self._with_content(self.states[last][path], position + 1, position, path)
        return None if path in self.states[behind] else behind, moved

    # What is there.

    def check(self) -> None:
        for path in self.paths:
            self.check_history(path)
        for pattern in PATTERNS:
            self.check_find(pattern)
        for number in self.ids:
            self.check_tree(number)
            for other in self.ids:
                self.check_diff(self.repo.diff(number, other), self.states[number], self.states[other])
            self.check_diff(self.repo.compare(number, self.root), self.states[number], state_of(self.root))
        assert self.repo.check().ok

    def check_history(self, path: bytes) -> None:
        history = self.repo.history(os.fsdecode(path))
        assert history.problems == ()
        assert [summary(version) for version in history] == self.history(path), path
        for version in history:
            assert self.gone(path, version.last) == (version.removed_in, version.moved_to)
            assert version.current == (version.last == self.ids[-1])
            check_entry(version.entry, self.states[version.first][path])

    def check_find(self, pattern: str) -> None:
        found = self.repo.find(pattern)
        assert not found.limited
        seen = [
            (version.entry.path, number)
            for version in found
            for number in self.ids
            if version.first <= number <= version.last
        ]
        expected = {
            (os.fsdecode(path), number)
            for number, state in self.states.items()
            for path in state
            if fnmatch.fnmatchcase(os.fsdecode(os.path.basename(path)), pattern)
        }
        assert (len(seen), set(seen)) == (len(expected), expected)

    def check_tree(self, number: int) -> None:
        state = self.states[number]
        tree = self.repo.tree(number)
        assert [os.fsencode(entry.path) for entry in self.repo.walk(number)] == sorted(path for path in state if path)
        for path, fact in state.items():
            there = tree / os.fsdecode(path)
            check_entry(there.entry, fact)
            if stat.S_ISDIR(fact.mode):
                prefix = path + b"/" if path else b""
                expected = sorted(
                    other for other in state if other.startswith(prefix) and other and b"/" not in other[len(prefix) :]
                )
                listed = self.repo.ls(number, path or ".")
                assert [os.fsencode(entry.path) for entry in listed] == expected
                assert [child.name for child in there.iterdir()] == [os.fsdecode(os.path.basename(p)) for p in expected]
            elif stat.S_ISREG(fact.mode):
                data = there.read_bytes()
                assert (len(data), hashlib.sha256(data).hexdigest()) == fact.detail
            else:
                assert os.fsencode(there.readlink()) == fact.detail

    def check_diff(self, diff: Diff, old: State, new: State) -> None:
        assert diff.problems == ()
        added, removed, changed = set(), set(), {}
        for difference in diff:
            if difference.status == "changed":
                changed[os.fsencode(difference.path)] = difference.changes
                continue
            if difference.old is not None:
                removed.add(os.fsencode(difference.old.path))
                check_entry(difference.old, old[os.fsencode(difference.old.path)])
            if difference.new is not None:
                added.add(os.fsencode(difference.new.path))
            if difference.status == "moved":
                assert difference.old is not None
                assert difference.new is not None
                assert difference.old.sha256 == difference.new.sha256
                assert difference.old.kind == difference.new.kind
        assert added == new.keys() - old.keys()
        assert removed == old.keys() - new.keys()
        assert changed == {
            path: old[path].changes(new[path]) for path in old.keys() & new.keys() if old[path] != new[path]
        }
        assert [d.path for d in diff] == [os.fsdecode(p) for p in sorted(os.fsencode(d.path) for d in diff)]


def summary(version: HistoryVersion) -> Tuple[object, ...]:
    content = version.entry.sha256 if version.entry.size_bytes else None
    return version.first, version.last, version.event, version.changes, content, version.moved_from


def check_entry(entry: Any, fact: Fact) -> None:
    assert (entry.st_mode, entry.uid, entry.gid, entry.mtime_ns) == fact[:4]
    if entry.kind == "file":
        assert entry.sha256 is None or (entry.size_bytes, entry.sha256) == fact.detail
    elif entry.kind == "symlink":
        assert os.fsencode(entry.target) == fact.detail


def play(directory: Path, clock: Clock, steps: List[Step]) -> None:
    model = Model(directory, clock)
    try:
        for step in steps:
            model.step(step)
        model.snapshot()
        model.check()
    finally:
        model.repo.close()
        shutil.rmtree(directory)


def explore(tmp_path: Path, clock: Clock, **settings: Any) -> None:
    hypothesis = pytest.importorskip("hypothesis")
    strategies = hypothesis.strategies
    number = strategies.integers(0, 9)
    step = strategies.tuples(strategies.sampled_from(VERBS), number, number, number)

    def run(steps: List[Step]) -> None:
        play(tmp_path / "run", clock, steps)

    test = hypothesis.given(strategies.lists(step, min_size=10, max_size=40))(run)
    hypothesis.settings(deadline=None, database=None, **settings)(test)()


def test_whatever_is_asked_agrees_with_a_dict_of_all_states(tmp_path: Path, clock: Clock) -> None:
    explore(tmp_path, clock, max_examples=15, derandomize=True)


def test_whatever_is_asked_agrees_with_a_dict_of_all_states_without_hypothesis(tmp_path: Path, clock: Clock) -> None:
    choices = random.Random(7)
    for _ in range(3):
        steps = [(choices.choice(VERBS), *(choices.randrange(10) for _ in range(3))) for _ in range(40)]
        play(tmp_path / "run", clock, steps)  # type: ignore[arg-type]


@pytest.mark.long
def test_whatever_is_asked_agrees_with_a_dict_of_all_states_in_thousands_of_steps(tmp_path: Path, clock: Clock) -> None:
    explore(tmp_path, clock, max_examples=400)
