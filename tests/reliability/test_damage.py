"""Damage: flipped bits, lost and exchanged pages, files cut short, journals that are torn, stale, missing or another's.

After each, everything is listed and restored, and compared with what was saved. What comes out otherwise than it should
must be found by ``check``, which names it; what is not hit must come back. The repository is tried as it is, with pages
of 16 KiB that are mostly empty, and packed into pages of 512 bytes, in which nearly every byte means something.

The scenarios: "pages" (files cut, pages lost and exchanged), "small" and "large" (flips, in pages of either size), and
"journals".
"""

from __future__ import annotations

import os
import random
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Dict, FrozenSet, Iterator, List, Optional, Sequence, Set, Tuple

import attrs
import pytest
from conftest import noise, sql, write, write_tree
from trees import Facts, facts, make_some_of_everything

from backuptool import BackuptoolError, Problem, Repository
from backuptool.operations.check.checking import _TABLES
from backuptool.operations.check.recounting import Recount

from .programme import Effort, Figures

pytestmark = pytest.mark.reliability

MIB = 1 << 20

#: Zeros in a row that are taken for space that nobody uses until something else is found.
_FREE = 16

#: Kinds of problems that come from SQLite's own checks.
_SQLITE = frozenset({"database-corrupt"})
_HASHES = frozenset({"content-corrupt", "content-missing", "pack-corrupt"})

Listing = List[Dict[str, Any]]


@attrs.frozen
class State:
    """A sound repository, and all that is in it.

    Attributes:
        data: The file.
        listing: What list tells of each snapshot.
        trees: What each snapshot holds.
    """

    data: bytes
    listing: Listing
    trees: Dict[int, Facts]


@attrs.frozen
class Observation:
    """What came out of a repository.

    Attributes:
        listing: What was listed; None if it could not be.
        lost: (snapshot, path) of what did not come back as it was saved.
        found: The problems of check; None if it ended in an error, which is as good as finding something.
    """

    listing: Optional[Listing]
    lost: FrozenSet[Tuple[int, bytes]]
    found: Optional[Tuple[Problem, ...]]

    @property
    def noticed(self) -> bool:
        """Whether check noticed anything."""
        return self.found is None or self.found != ()


# Making.


def make_history(work: Path) -> List[State]:
    """Return three states of one repository: with a snapshot more each time."""
    first = make_some_of_everything(work / "first", lines=2000, size=MIB + 50_000)
    write(first / "log", noise(20_000, 8) + b"a line of the log\n" * 1000)
    write(first / "kept", b"what stays, so that the base is not packed again\n" * 2000)
    second = write_tree(work / "second", {"x": b"of the second source", "same": b"the first file\n" * 20})
    trees: Dict[int, Facts] = {}
    states: List[State] = []
    with Repository(work / "backups.db", max_helpers=0) as repo:

        def take(source: Path, **options: Any) -> None:
            trees[repo.snapshot(source, host="machine", **options).snapshot.id] = facts(source)

        def note_state() -> None:
            repo.close()
            data = Path(repo.path).read_bytes()
            states.append(State(data, repo.list().to_dict()["snapshots"], dict(trees)))

        take(first, note="the first note", tags=["one", "two"])
        take(second)
        write(first / "one.txt", b"the first file, changed\n" * 30)
        (first / "sub" / "three.txt").unlink()
        with (first / "log").open("ab") as file:
            file.write(b"a line more\n")  # like the version before, which becomes its base
        take(first, note="the second note", pinned=True)
        repo.prune(1)
        del trees[1]
        note_state()
        write(first / "new", noise(10_000, 7))
        (first / "symlink").unlink()
        take(first)
        note_state()
        write(second / "y", b"another one\n" * 3000)
        take(second)
        assert repo.drill(scratch=work).problems == ()
        assert repo.check().problems == ()
        note_state()
    for table in _TABLES:
        assert sql(work / "backups.db", f"SELECT count(*) FROM {table}")[0][0] > 0, table
    return states


def with_small_pages(state: State, work: Path) -> State:
    """Return the same repository in pages of 512 bytes."""
    path = work / "small pages.db"
    path.write_bytes(state.data)
    with closing(sqlite3.connect(str(path), isolation_level=None)) as connection:
        connection.execute("PRAGMA page_size=512")
        connection.execute("VACUUM")
    data = path.read_bytes()
    assert int.from_bytes(data[16:18], "big") == 512
    return attrs.evolve(state, data=data)


# Looking.


@attrs.define
class Bench:
    """Where damaged repositories are looked at, one after the other.

    Attributes:
        work: A directory.
        states: What may come out of them without anybody noticing: states that were sound once.
        figures: What was tried and found.
    """

    work: Path
    states: Sequence[State]
    figures: Figures = attrs.Factory(Figures)

    def observe(self, data: bytes, journal: Optional[bytes] = None) -> Observation:
        """Put a file, and perhaps a journal, in the place of the repository, and see what comes out."""
        path = self.work / "damaged.db"
        beside = self.work / "damaged.db-journal"
        path.write_bytes(data)
        if journal is None:
            beside.unlink() if beside.exists() else None
        else:
            beside.write_bytes(journal)
        expected = self.states[-1].trees
        with Repository(path, max_helpers=0) as repo:
            found: Optional[Tuple[Problem, ...]] = None
            listing: Optional[Listing] = None
            try:
                found = repo.check().problems
            except BackuptoolError:
                pass
            try:
                listing = repo.list().to_dict()["snapshots"]
            except BackuptoolError:
                pass
            lost = set()
            for number, tree in expected.items():
                paths, told = self._lost_of(repo, number, tree)
                lost |= {(number, path) for path in paths}
                if paths and not told and journal is None:  # with one it may be another state, whole
                    self.figures.faults.append(f"a restore of snapshot {number} did not tell of {sorted(paths)[:3]}")
        if journal is None and path.read_bytes() != data:
            self.figures.faults.append("reading has changed the file")
        return Observation(listing, frozenset(lost), found)

    def _lost_of(self, repo: Repository, number: int, tree: Facts) -> Tuple[Set[bytes], bool]:
        """Return the paths of a snapshot that do not come back as they were saved, and whether the restore told of any.

        It knows nothing of what it was not asked for, but of everything that it was.
        """
        out = self.work / "out"
        shutil.rmtree(str(out), ignore_errors=True)
        try:
            told = repo.restore(number, out).problems != ()
        except BackuptoolError:
            told = True
        there = facts(out) if out.exists() else {}
        lost = {path for path in {*tree, *there} if tree.get(path) != there.get(path)}
        # A file whose bytes were never saved must not come back, noticed or not.
        known = {entry[4] for tree in self.states[-1].trees.values() for entry in tree.values()}
        for path, entry in there.items():
            if isinstance(entry[4], tuple) and entry[4] not in known:
                self.figures.faults.append(f"{path!r} came back with bytes that it never had")
        return lost, told

    def is_sound(self, seen: Observation) -> bool:
        """Tell whether what came out is one of the states that were sound."""
        for state in self.states:
            if seen.listing == state.listing:
                return not any(number in state.trees for number, _ in seen.lost)
        return False

    def is_harmless(self, data: bytes) -> bool:
        """Tell whether everything comes out of a damaged repository as it was saved, and check finds nothing."""
        try:
            seen = self.observe(data)
        except Exception:  # whoever looks closer says which
            return False
        return self.is_sound(seen) and not seen.noticed

    def judge(self, what: str, data: bytes, journal: Optional[bytes] = None) -> None:
        """Look at a damaged repository; whatever comes out otherwise than it was saved must have been found."""
        tried, faults = self.figures.tried, self.figures.faults
        tried[what.split(":")[0]] += 1
        try:
            seen = self.observe(data, journal)
        except Exception as exc:  # of any kind: nothing but errors of the package may come
            faults.append(f"{what}: {type(exc).__name__}: {exc}")
            return
        if self.is_sound(seen):
            tried["did no harm" if seen.noticed else "did no harm, and was not noticed"] += 1
            return
        tried["changed what is listed or restored"] += 1
        if not seen.noticed and what.startswith("journals of another repository"):
            tried["became the other repository, whole"] += 1  # which is as valid as if somebody had copied it there
            return
        if not seen.noticed:
            faults.append(f"{what}: not noticed, and lost {sorted(seen.lost)[:3]}")
            return
        tried["of these found"] += 1
        self._note_who_found_it(seen)
        self._judge_names(what, seen)

    def _note_who_found_it(self, seen: Observation) -> None:
        tried = self.figures.tried
        kinds = frozenset(problem.kind for problem in seen.found or ())
        if seen.found is None:
            tried["found at opening"] += 1
        elif kinds & _SQLITE:
            tried["found by SQLite as well"] += 1
        elif kinds & _HASHES:
            tried["found by the hashes of contents, not by SQLite"] += 1
        else:
            tried["found by the digests and counts of the catalog alone"] += 1

    def _judge_names(self, what: str, seen: Observation) -> None:
        """What check names must be what is hit, where the damage is in contents alone; else it must cover it."""
        found = seen.found
        if found is None or seen.listing is None:
            return
        listed = {snapshot["id"] for snapshot in seen.listing}  # a journal may have brought a state without some back
        lost = {(number, path) for number, path in seen.lost if number in listed}
        if {problem.kind for problem in found} == {"content-corrupt"}:
            named = {(n, os.fsencode(problem.path)) for problem in found for n in problem.snapshots}
            hit = {(number, path) for number, path in lost if path != b"."}
            self.figures.tried["damage in contents alone, which check names to the file"] += 1
            if not hit <= named:
                self.figures.faults.append(f"{what}: {sorted(hit - named)[:3]} did not come back and is not named")
            return
        general = any(not problem.snapshots and not problem.path for problem in found)
        for number, path in lost:
            if general or any(number in problem.snapshots or os.fsencode(problem.path) == path for problem in found):
                continue
            self.figures.faults.append(f"{what}: {path!r} of snapshot {number} did not come back, and is not named")
            return


# Damaging.


def flips(data: bytes, chance: random.Random) -> Iterator[Tuple[str, bytes]]:
    """Flip one bit of every byte, in an order without order."""
    offsets = list(range(len(data)))
    chance.shuffle(offsets)
    for offset in offsets:
        bit = chance.randrange(8)
        yield f"flipped bits: {bit} of byte {offset}", flipped(data, offset, bit)


def runs(data: bytes) -> List[Tuple[int, int]]:
    """Return (begin, end) of each byte, and of runs of zeros, of which nearly all are space that nobody uses."""
    found: List[Tuple[int, int]] = []
    end = 0
    for zeros in re.finditer(rb"\0{%d,}" % _FREE, data):
        found += [(offset, offset + 1) for offset in range(end, zeros.start())]
        found.append(zeros.span())
        end = zeros.end()
    return [*found, *((offset, offset + 1) for offset in range(end, len(data)))]


def flip_all(bench: Bench, data: bytes, left: List[Tuple[int, int]], chance: random.Random, effort: Effort) -> None:
    """Flip one bit of every byte, each alone; those of a run together, if that changes nothing at all.

    Where it does, they are tried in halves, down to single bytes.
    """
    chance.shuffle(left)
    number = 0
    while left and not effort.is_over():
        begin, end = left.pop()
        damaged = bytearray(data)
        bits = [chance.randrange(8) for _ in range(begin, end)]
        for offset, bit in enumerate(bits, begin):
            damaged[offset] ^= 1 << bit
        if end - begin == 1:
            bench.judge(f"flipped bits: {bits[0]} of byte {begin}", bytes(damaged))
        elif bench.is_harmless(bytes(damaged)):
            bench.figures.tried["bytes of zeros, flipped together with their neighbours"] += end - begin
            bench.figures.tried["runs of these, which changed nothing"] += 1
        else:
            middle = (begin + end) // 2
            left += [(begin, middle), (middle, end)]
        number += 1
        if number % 1000 == 0:
            effort.tell(f"{number:,} tried, {len(left):,} left, {len(bench.figures.faults)} faults")


def flipped(data: bytes, offset: int, bit: int) -> bytes:
    """Return bytes with one bit flipped."""
    return data[:offset] + bytes([data[offset] ^ 1 << bit]) + data[offset + 1 :]


def cuts(data: bytes, page: int) -> Iterator[Tuple[str, bytes]]:
    """Cut the file at every edge of a page, and a byte before and behind it."""
    for edge in [1, 16, 99, 100, *range(page, len(data), page)]:
        for length in (edge - 1, edge, edge + 1):
            yield f"files cut short: {length} bytes", data[:length]


def pages(data: bytes, page: int) -> Iterator[Tuple[str, bytes]]:
    """Lose each page, and exchange it with the next one."""
    for begin in range(0, len(data) - page, page):
        end = begin + page
        yield f"pages of zeros: {begin // page + 1}", data[:begin] + bytes(page) + data[end:]
        exchanged = data[end : end + page] + data[begin:end]
        yield f"exchanged pages: {begin // page + 1}", data[:begin] + exchanged + data[end + page :]


@attrs.frozen
class Interrupted:
    """A repository in the middle of a transaction that leads from one state to another.

    Attributes:
        data: The file, partly written.
        journal: What undoes it.
    """

    data: bytes
    journal: bytes


def interrupt(before: bytes, after: bytes, work: Path) -> Interrupted:
    """Write the rows of another state into a repository with hardly a cache, and copy it before the commit."""
    path, other = work / "interrupted.db", work / "other.db"
    path.write_bytes(before)
    other.write_bytes(after)
    with closing(sqlite3.connect(str(path))) as connection, closing(sqlite3.connect(str(other))) as source:
        connection.text_factory = source.text_factory = bytes
        connection.execute("PRAGMA foreign_keys=OFF")
        connection.execute("PRAGMA cache_size=5")
        connection.execute("BEGIN IMMEDIATE")
        names = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        for (name,) in source.execute(names).fetchall():
            table = name.decode()
            connection.execute(f"DELETE FROM {table}")
            for row in source.execute(f"SELECT * FROM {table}").fetchall():
                marks = ", ".join("CAST(? AS TEXT)" if _is_text(item) else "?" for item in row)
                connection.execute(f"INSERT INTO {table} VALUES ({marks})", row)
        interrupted = Interrupted(path.read_bytes(), Path(f"{path}-journal").read_bytes())
        connection.rollback()
    assert interrupted.data != before
    assert len(interrupted.journal) > 16384
    return interrupted


def _is_text(value: Any) -> bool:
    return isinstance(value, bytes) and len(value) != 32 and len(value) < 200 and value.isascii()


def journals(
    states: Sequence[State], hot: Interrupted, foreign: bytes, chance: random.Random
) -> Iterator[Tuple[str, bytes, Optional[bytes]]]:
    """Yield what may become of a repository and its journal: torn, stale, missing, another's, with flipped bits."""
    yield "journals of an interrupted writer: whole", hot.data, hot.journal
    yield "missing journals: none", hot.data, None
    yield "missing journals: empty", hot.data, b""
    for length in range(0, len(hot.journal), 512):
        yield f"journals cut short: {length} bytes", hot.data, hot.journal[:length]
    for number, state in enumerate(states):
        yield f"stale journals: whole, state {number}", state.data, hot.journal
        for length in range(512, len(hot.journal), 16384 + 8):
            yield f"stale journals: {length} bytes, state {number}", state.data, hot.journal[:length]
        yield f"journals of another repository: state {number}", state.data, foreign
    yield "journals of another repository: interrupted", hot.data, foreign
    used = [offset for offset in range(len(hot.journal)) if hot.journal[offset] or offset % 16 == 0]
    chance.shuffle(used)
    for offset in used:
        bit = chance.randrange(8)
        yield f"flipped bits of a journal: {bit} of byte {offset}", hot.data, flipped(hot.journal, offset, bit)


# Running.


def run(effort: Effort) -> Figures:
    """Damage repositories in every way: all of it, or a part that is spread over the whole."""
    chance = random.Random(effort.seed)
    states = make_history(effort.work)
    bench = Bench(effort.work, states[-1:])
    small = with_small_pages(states[-1], effort.work)

    def several(damaged: Iterator[Tuple[str, bytes]], most: Optional[int] = None) -> None:
        for number, (what, data) in enumerate(damaged):
            if effort.is_over() or (most is not None and not effort.full and number >= most):
                return
            bench.judge(what, data)
            if number % 1000 == 999:
                effort.tell(f"{what}: {number + 1:,}, {len(bench.figures.faults)} faults")

    if effort.scenario in ("", "pages"):
        several(cuts(states[-1].data, 16384))
        several(pages(states[-1].data, 16384))
        several(cuts(small.data, 512), 60)
        several(pages(small.data, 512), 60)
    for scenario, state, most in (("small", small, 250), ("large", states[-1], 100)):
        if effort.scenario not in ("", scenario):
            continue
        if effort.full:
            flip_all(bench, state.data, runs(state.data), chance, effort)
        else:
            several(flips(state.data, chance), most)
    if effort.scenario in ("", "journals"):
        _try_journals(effort, bench, states, chance)
    return bench.figures


def _try_journals(effort: Effort, bench: Bench, states: Sequence[State], chance: random.Random) -> None:
    other = effort.work / "another"
    other.mkdir()
    foreign = make_history(other)
    hot = interrupt(states[0].data, states[1].data, effort.work)
    foreign_hot = interrupt(foreign[0].data, foreign[2].data, effort.work)
    bench.states = states
    for number, (what, data, journal) in enumerate(journals(states, hot, foreign_hot.journal, chance)):
        if effort.is_over() or (not effort.full and number >= 250):
            break
        bench.judge(what, data, journal)
    bench.states = states[-1:]


def test_damage_is_found_and_named_or_does_no_harm(tmp_path: Path) -> None:
    figures = run(Effort(work=tmp_path))
    assert figures.faults == []
    found = figures.tried["of these found"] + figures.tried["became the other repository, whole"]
    assert figures.tried["changed what is listed or restored"] == found > 200
    for kind in (
        *("found at opening", "found by SQLite as well", "found by the hashes of contents, not by SQLite"),
        *("found by the digests and counts of the catalog alone", "did no harm, and was not noticed"),
        "damage in contents alone, which check names to the file",
    ):
        assert figures.tried[kind] > 0, kind


def test_bytes_flipped_together_are_tried_alone_where_that_changes_anything(tmp_path: Path) -> None:
    state = make_history(tmp_path)[-1]
    bench = Bench(tmp_path, [state])
    begin, end = next(run for run in runs(state.data) if run[1] - run[0] > 10_000 and state.data[run[0] - 2] == 0x3F)
    begin -= 2  # where the page says at which offset its last row begins
    flip_all(bench, state.data, [(begin, end)], random.Random(1), Effort(work=tmp_path))
    together = bench.figures.tried["bytes of zeros, flipped together with their neighbours"]
    alone = bench.figures.tried["flipped bits"]
    assert (together + alone, bench.figures.faults) == (end - begin, [])
    assert together > 10_000
    assert 0 < alone < 40


def test_journal_of_an_interrupted_writer_brings_the_state_before_back(tmp_path: Path) -> None:
    states = make_history(tmp_path)
    bench = Bench(tmp_path, states)
    hot = interrupt(states[0].data, states[1].data, tmp_path)
    seen = bench.observe(hot.data, hot.journal)
    assert (seen.listing, seen.noticed) == (states[0].listing, False)
    assert {number for number, _ in seen.lost} == states[2].trees.keys() - states[0].trees.keys()


# Controls.


def harm(bench: Bench, most: int) -> int:
    """Flip bits until something was not noticed, and return how many it took; 0 if all were."""
    for number, (what, data) in enumerate(flips(bench.states[-1].data, random.Random(3)), 1):
        bench.judge(what, data)
        if any("not noticed" in fault for fault in bench.figures.faults):
            return number
        if number >= most:
            return 0
    return 0


def ignore_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recount, "_compare_snapshot", lambda *arguments: None)


def ignore_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backuptool.operations.check.checking._Check.data", lambda self, examination: None)


@pytest.mark.parametrize("ignore", [ignore_digests, ignore_hashes])
def test_without_digests_or_hashes_flips_go_unnoticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ignore: Callable[[pytest.MonkeyPatch], None]
) -> None:
    state = with_small_pages(make_history(tmp_path)[-1], tmp_path)
    bench = Bench(tmp_path, [state])
    assert harm(bench, most=60) == 0
    assert bench.figures.faults == []
    ignore(monkeypatch)
    assert harm(Bench(tmp_path, [state]), most=4000) > 0  # which bytes these are depends on the times in the file


def test_check_that_names_the_wrong_file_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backuptool.operations.check.checking.text_of", lambda value: "another")
    state = make_history(tmp_path)[-1]
    bench = Bench(tmp_path, [state])
    begin = state.data.index(noise(10_000, 7)[:100])
    bench.judge("flipped bits: in a pack", flipped(state.data, begin + 50, 1))
    assert any("is not named" in fault for fault in bench.figures.faults)
