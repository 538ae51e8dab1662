from __future__ import annotations

import hashlib
import os
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple, Union

import attrs
import pyfastcdc
import pytest
from conftest import Clock, Entry, EveryEvent, entries, noise, restored, snapshot_watched, sql, write, write_tree

from backuptool import (
    CorruptionError,
    ProgressEvent,
    PruneResult,
    Repository,
    RetentionPolicy,
    SnapshotNotFoundError,
    SnapshotPinnedError,
)
from backuptool.operations.prune.pruning import prune
from backuptool.storage.pool import ConnectionPool
from backuptool.storage.schema import PAGE_SIZE, statements

MIB = 1 << 20

DAY = 24 * 3600


@pytest.fixture
def tmp_path(memory_path: Path) -> Path:
    """Thousands of commits are to be made here."""
    return memory_path


def fingerprint(path: Union[str, Path]) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


class StopHereError(Exception):
    pass


def stop_at(phase: str, error: type[BaseException] = StopHereError) -> Callable[[ProgressEvent], None]:
    def callback(event: ProgressEvent) -> None:
        if event.phase == phase:
            raise error

    return callback


def interrupted(repo: Repository, source: Path) -> None:
    """Store a source's contents, and no snapshot of it."""
    with pytest.raises(StopHereError):
        snapshot_watched(repo.path, source, stop_at("commit"))


# The model: what must come out, computed slowly and from nothing but bytes.


def leaves(data: bytes) -> Dict[bytes, int]:
    """Size by hash of what a file's bytes are stored as: themselves, or the chunks of a large file."""
    if len(data) <= MIB:
        return {hashlib.sha256(data).digest(): len(data)}
    chunks = [bytes(chunk.data) for chunk in pyfastcdc.FastCDC(32 << 10, normalized_chunking=1, seed=0).cut_buf(data)]
    return {hashlib.sha256(chunk).digest(): len(chunk) for chunk in chunks}


@attrs.define
class Saved:
    """A snapshot as the model remembers it."""

    id: int
    source: Path
    tree: Dict[bytes, Entry]
    size: int
    leaves: Dict[bytes, int]


class Model:
    """Two sources, their snapshots, and what must be true of them after every step."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self.directory = directory
        self.clock = clock
        self.repo = Repository(directory / "backups.db")
        self.sources = [write_tree(directory / name, {}) for name in ("first", "second")]
        self.saved: List[Saved] = []
        self.pinned: Set[int] = set()
        self.checked = 0

    def snapshot(self, source: Path) -> None:
        tree = entries(source)
        found: Dict[bytes, int] = {}
        for entry in tree.values():
            if entry.kind == 0o100000:
                found.update(leaves(entry.data))
        size = sum(len(entry.data) for entry in tree.values())
        result = self.repo.snapshot(source)
        assert result.problems == ()
        self.saved.append(Saved(result.snapshot.id, source, tree, size, found))
        self.compare()

    def pin(self, number: int) -> None:
        """Pin a snapshot, or unpin it."""
        self.pinned ^= {number}
        assert self.repo.annotate(number, pinned=number in self.pinned).pinned == (number in self.pinned)

    def keep_last(self, places: int) -> None:
        """Prune by the simplest of the rules, and see that the plan says the same."""
        policy = RetentionPolicy(last=places)
        newest = {number for root in self.sources for number in self._numbers(root)[-places:]}
        gone = [saved.id for saved in self.saved if saved.id not in newest | self.pinned]
        plan = self.repo.plan_prune(policy)
        assert [snapshot.id for snapshot in plan.removed] == gone
        self.prune(gone, policy)
        assert os.path.getsize(self.repo.path) == plan.repository_bytes

    def _numbers(self, root: Path) -> List[int]:
        return [saved.id for saved in self.saved if saved.source == root]

    def prune(self, ids: Sequence[int], policy: Optional[RetentionPolicy] = None) -> None:
        before = fingerprint(self.repo.path)
        if policy is None and self.pinned.intersection(ids):
            with pytest.raises(SnapshotPinnedError):
                self.repo.prune(ids)
            assert fingerprint(self.repo.path) == before
            ids = [number for number in ids if number not in self.pinned]
        wanted = ids if policy is None else policy
        planned = self.repo.prune(wanted, dry_run=True)
        assert fingerprint(self.repo.path) == before
        size_before = os.path.getsize(self.repo.path)
        result = self.repo.prune(wanted)
        size_after = os.path.getsize(self.repo.path)
        assert result.freed_bytes == size_before - size_after
        assert result.repository_bytes == size_after
        assert attrs.evolve(planned, dry_run=False, elapsed_seconds=0) == attrs.evolve(result, elapsed_seconds=0)
        assert [snapshot.id for snapshot in result.snapshots] == sorted(ids)
        self.saved = [saved for saved in self.saved if saved.id not in ids]
        self.compare()

    def compare(self) -> None:
        listed = self.repo.list() if os.path.exists(self.repo.path) else ()
        seen: Dict[bytes, int] = {}
        expected = []
        assert {snapshot.id for snapshot in listed if snapshot.pinned} == self.pinned
        for saved in self.saved:
            new = {digest: size for digest, size in saved.leaves.items() if digest not in seen}
            seen.update(new)
            expected.append((saved.id, saved.size, sum(new.values())))
        assert expected == [(snapshot.id, snapshot.size_bytes, snapshot.distinct_bytes) for snapshot in listed]
        if listed:
            assert self.repo.check().problems == ()
        for saved in self.saved:
            self.checked += 1
            out = self.directory / f"out{self.checked}"
            assert restored(self.repo, saved.id, out) == saved.tree
            shutil.rmtree(str(out))

    def close(self) -> None:
        self.repo.close()
        shutil.rmtree(str(self.directory))


IMAGE = noise(1_200_000)

#: What files may hold: among them a large file, versions of it, and small files that are its chunks.
DATA = [
    b"",
    b"x",
    noise(5_000, 1),
    noise(9_000, 2),
    noise(200_000, 3),
    b"compressible " * 3_000,
    IMAGE,
    IMAGE[:600_000] + b"edited" + IMAGE[600_000:],
    IMAGE[:100_000] + IMAGE[300_000:] + IMAGE[:200_000],
    bytes(pyfastcdc.FastCDC(32 << 10, normalized_chunking=1, seed=0).cut_buf(IMAGE).__next__().data),
]

NAMES = ["a", "b", "d/c", "d/e", "f"]

Step = Tuple[str, int, int, int]


def play(model: Model, steps: Sequence[Step]) -> None:
    for verb, which, name, data in steps:
        source = model.sources[which]
        path = source / NAMES[name]
        if verb == "write":
            write(path, DATA[data])
        elif verb == "remove" and path.exists():
            path.unlink()
        elif verb == "link" and path.exists() and not (source / "link").exists():
            os.link(str(path), str(source / "link"))
        elif verb == "snapshot":
            model.snapshot(source)
        elif verb == "interrupt":
            interrupted(model.repo, source)
            if model.saved:
                model.compare()
        elif verb == "days pass":
            model.clock.advance(2 * DAY)
        elif verb == "prune" and os.path.exists(model.repo.path):
            kept = [saved.id for saved in model.saved]
            # The bits of two numbers choose: none, one, several.
            model.prune([number for position, number in enumerate(kept) if (data + 10 * name) >> (position % 5) & 1])
        elif verb == "pin" and model.saved:
            model.pin(model.saved[(data + 10 * name) % len(model.saved)].id)
        elif verb == "keep last" and model.saved:
            model.keep_last(1 + data % 4)
        elif verb == "prune newest" and model.saved:
            model.prune([model.saved[-1].id])
        elif verb == "prune oldest" and model.saved:
            model.prune([model.saved[0].id])


VERBS = [
    *["write"] * 4,
    "remove",
    "link",
    *["snapshot"] * 4,
    "interrupt",
    "days pass",
    "prune",
    "prune newest",
    "prune oldest",
    "pin",
    "keep last",
]


def explore(tmp_path: Path, clock: Clock, **settings: Any) -> None:
    hypothesis = pytest.importorskip("hypothesis")
    strategies = hypothesis.strategies
    step = strategies.tuples(
        strategies.sampled_from(VERBS),
        strategies.integers(0, 1),
        strategies.integers(0, len(NAMES) - 1),
        strategies.integers(0, len(DATA) - 1),
    )
    runs: List[None] = []

    def run(steps: List[Step]) -> None:
        runs.append(None)
        directory = tmp_path / f"run{len(runs)}"
        directory.mkdir()
        model = Model(directory, clock)
        try:
            play(model, steps)
        finally:
            model.close()

    test = hypothesis.given(strategies.lists(step, min_size=5, max_size=30))(run)
    hypothesis.settings(deadline=None, database=None, **settings)(test)()


def test_any_sequence_of_snapshots_and_prunes_agrees_with_the_model(tmp_path: Path, clock: Clock) -> None:
    explore(tmp_path, clock, max_examples=40, derandomize=True)


@pytest.mark.long
def test_many_sequences_of_snapshots_and_prunes_agree_with_the_model(tmp_path: Path, clock: Clock) -> None:
    explore(tmp_path, clock, max_examples=3000)


def test_random_sequences_agree_with_the_model_without_hypothesis(tmp_path: Path, clock: Clock) -> None:
    choices = random.Random(1)
    for number in range(6):
        directory = tmp_path / str(number)
        directory.mkdir()
        model = Model(directory, clock)
        steps = [
            (choices.choice(VERBS), choices.randrange(2), choices.randrange(len(NAMES)), choices.randrange(len(DATA)))
            for _ in range(40)
        ]
        play(model, steps)
        model.close()


# Which snapshot goes


@pytest.fixture
def three(repo: Repository, tree: Path) -> List[Dict[bytes, Entry]]:
    """Three snapshots of one source, each with a file changed, added and removed; returns what each holds."""
    states = []
    for number in range(3):
        write(tree / "a.txt", noise(1000, number))
        write(tree / f"only in {number}", noise(500, 10 + number))
        if number:
            (tree / f"only in {number - 1}").unlink()
        repo.snapshot(tree)
        states.append(entries(tree))
    return states


@pytest.mark.parametrize("pruned", [(1,), (2,), (3,), (1, 2), (1, 3), (2, 3), (1, 2, 3)])
@pytest.mark.both
def test_what_is_kept_restores_as_before(
    repo: Repository, three: List[Dict[bytes, Entry]], tmp_path: Path, pruned: Tuple[int, ...]
) -> None:
    result = repo.prune(pruned)
    assert tuple(snapshot.id for snapshot in result.snapshots) == pruned
    kept = [number for number in (1, 2, 3) if number not in pruned]
    assert [snapshot.id for snapshot in repo.list()] == kept
    for number in kept:
        assert restored(repo, number, tmp_path / str(number)) == three[number - 1]
    assert repo.check().problems == ()


def test_distinct_sizes_move_to_the_next_snapshot(repo: Repository, three: List[Dict[bytes, Entry]]) -> None:
    # b.txt (twice), c.bin: 3,001 bytes that all three have; 1,500 that are each one's own.
    assert [snapshot.distinct_bytes for snapshot in repo.list()] == [4501, 1500, 1500]
    result = repo.prune(1)
    assert (result.removed_contents, result.removed_bytes) == (2, 1500)
    assert [snapshot.distinct_bytes for snapshot in repo.list()] == [4501, 1500]
    repo.prune(3)
    assert [snapshot.distinct_bytes for snapshot in repo.list()] == [4501]
    assert repo.list().distinct_bytes == 4501
    repo.prune(2)
    assert (len(repo.list()), repo.list().distinct_bytes) == (0, 0)


@pytest.mark.both
def test_pruning_the_newest_undoes_it(repo: Repository, three: List[Dict[bytes, Entry]], tree: Path) -> None:
    repo.prune(3)
    result = repo.snapshot(tree)
    assert result.snapshot.id == 4
    assert (result.new_files, result.changed_files, result.removed_files) == (1, 1, 1)
    assert (result.unchanged_files, result.new_bytes) == (4, 1500)
    assert repo.check().problems == ()


@pytest.mark.both
def test_pruning_all_leaves_an_empty_repository(
    repo: Repository, three: List[Dict[bytes, Entry]], tree: Path, tmp_path: Path
) -> None:
    repo.prune([1, 2, 3])
    for table in ("sources", "snapshots", "files", "contents", "parts", "packs", "pruned"):
        assert (table, sql(repo.path, f"SELECT count(*) FROM {table}")) == (table, [(0,)])
    assert repo.check().problems == ()
    assert repo.snapshot(tree).snapshot.id == 4
    assert restored(repo, 4, tmp_path / "out") == three[2]


def test_unchanged_snapshot_costs_and_frees_nothing(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    repo.snapshot(tree)
    result = repo.prune(1)
    assert (result.removed_versions, result.removed_contents, result.freed_bytes) == (0, 0, 0)
    assert repo.list()[0].distinct_bytes == 4001


@pytest.mark.parametrize("numbers", [(9,), (1, 9), (1, 2, 3, 0), (-1,), (1 << 70,)])
@pytest.mark.parametrize("dry_run", [False, True])
def test_unknown_number_removes_nothing(
    repo: Repository, three: List[Dict[bytes, Entry]], numbers: Tuple[int, ...], dry_run: bool
) -> None:
    before = fingerprint(repo.path)
    with pytest.raises(SnapshotNotFoundError, match="there are: 1, 2, 3") as caught:
        repo.prune(numbers, dry_run=dry_run)
    assert caught.value.available == (1, 2, 3)
    assert fingerprint(repo.path) == before


def test_number_that_was_pruned_is_unknown(repo: Repository, three: List[Dict[bytes, Entry]]) -> None:
    repo.prune(2)
    with pytest.raises(SnapshotNotFoundError, match="no snapshot 2; there are: 1, 3"):
        repo.prune(2)


def test_number_given_twice_is_pruned_once(repo: Repository, three: List[Dict[bytes, Entry]]) -> None:
    assert [snapshot.id for snapshot in repo.prune([2, 2]).snapshots] == [2]


def test_progress_names_the_phases(repo: Repository, tmp_path: Path) -> None:
    half_empty(repo, tmp_path)
    seen: List[str] = []
    repo.prune(1, progress=lambda event: seen.append(event.phase))
    assert list(dict.fromkeys(seen)) == ["remove", "repack", "shrink"]


# Sources that share contents


@pytest.mark.both
def test_content_that_another_source_has_stays(repo: Repository, tree: Path, tmp_path: Path) -> None:
    shutil.copytree(str(tree), str(tmp_path / "copy"))
    repo.snapshot(tree)
    repo.snapshot(tmp_path / "copy")
    result = repo.prune(1)
    assert (result.removed_contents, result.removed_bytes) == (0, 0)
    assert [snapshot.distinct_bytes for snapshot in repo.list()] == [4001]
    assert restored(repo, 2, tmp_path / "out") == entries(tmp_path / "copy")
    assert repo.check().problems == ()


def test_distinct_size_moves_to_the_source_that_had_it_next(repo: Repository, tmp_path: Path) -> None:
    one = write_tree(tmp_path / "one", {"shared": b"s" * 100, "own": b"o" * 10})
    two = write_tree(tmp_path / "two", {"shared": b"s" * 100})
    repo.snapshot(one)
    repo.snapshot(two)
    repo.snapshot(one)
    assert [snapshot.distinct_bytes for snapshot in repo.list()] == [110, 0, 0]
    repo.prune(1)
    assert [(snapshot.id, snapshot.distinct_bytes) for snapshot in repo.list()] == [(2, 100), (3, 10)]
    repo.prune(2)
    assert [(snapshot.id, snapshot.distinct_bytes) for snapshot in repo.list()] == [(3, 110)]
    assert repo.check().problems == ()


def test_distinct_size_of_a_removed_file_moves_to_where_it_lives_on(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", {"a": b"s" * 100})
    repo.snapshot(root)
    (root / "a").unlink()
    repo.snapshot(root)
    write(root / "b", b"s" * 100)
    repo.snapshot(root)
    assert [snapshot.distinct_bytes for snapshot in repo.list()] == [100, 0, 0]
    repo.prune(1)
    assert [(snapshot.id, snapshot.distinct_bytes) for snapshot in repo.list()] == [(2, 0), (3, 100)]
    assert repo.check().problems == ()


def test_chunks_that_another_large_file_has_stay(repo: Repository, tmp_path: Path) -> None:
    data = noise(3 * MIB)
    root = write_tree(tmp_path / "tree", {"image": data})
    repo.snapshot(root)
    changed = data[:MIB] + b"changed" + data[MIB:]
    write(root / "image", changed)
    second = repo.snapshot(root)
    result = repo.prune(1)
    assert result.removed_bytes == 3 * MIB - (len(changed) - second.new_bytes)
    assert [snapshot.distinct_bytes for snapshot in repo.list()] == [len(changed)]
    assert restored(repo, 2, tmp_path / "out")[b"image"].data == changed
    assert repo.check().problems == ()


# Giving space back


def half_empty(repo: Repository, tmp_path: Path) -> Path:
    """Two snapshots: of sixty files in one pack, and of the twenty of them that are left."""
    root = write_tree(tmp_path / "tree", {f"{number:02}": noise(10_000, number) for number in range(60)})
    repo.snapshot(root)
    for number in range(20, 60):
        (root / f"{number:02}").unlink()
    repo.snapshot(root)
    return root


@pytest.mark.plain
def test_pages_are_given_back_many_in_one_commit(repo: Repository, tmp_path: Path) -> None:
    write(tmp_path / "tree" / "first", noise(4_000_000, 1))
    repo.snapshot(tmp_path / "tree")
    (tmp_path / "tree" / "first").unlink()
    write(tmp_path / "tree" / "second", noise(3_000_000, 2))
    repo.snapshot(tmp_path / "tree")
    repo.close()
    before = change_counter(repo.path)
    assert repo.prune(1).freed_bytes > 200 * PAGE_SIZE
    repo.close()
    assert change_counter(repo.path) - before < 10


def change_counter(path: str) -> int:
    """Return how often something was committed, as the header of the file counts it."""
    with open(path, "rb") as file:
        return int.from_bytes(file.read(28)[24:], "big")


def test_file_gets_smaller(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", {"large": noise(10 * MIB), "small": b"small"})
    repo.snapshot(root)
    (root / "large").unlink()
    repo.snapshot(root)
    before = os.path.getsize(repo.path)
    result = repo.prune(1)
    after = os.path.getsize(repo.path)
    assert before > 10 * MIB
    assert after < MIB
    assert result.freed_bytes == before - after
    assert result.repository_bytes == repo.list().repository_bytes == after
    assert restored(repo, 2, tmp_path / "out") == entries(root)


def test_half_empty_packs_are_packed_again(repo: Repository, tmp_path: Path) -> None:
    root = half_empty(repo, tmp_path)
    assert sql(repo.path, "SELECT count(*), sum(size) FROM packs") == [(1, 600_000)]
    result = repo.prune(1)
    assert (result.repacked_packs, result.removed_contents, result.removed_bytes) == (1, 40, 400_000)
    assert sql(repo.path, "SELECT count(*), sum(size), sum(live) FROM packs") == [(1, 200_000, 200_000)]
    assert restored(repo, 2, tmp_path / "out") == entries(root)
    assert repo.check().problems == ()


@pytest.mark.parametrize("question", ["live * 2 < size", "size > live * 2"])
def test_index_of_half_empty_packs_would_be_read_if_its_condition_was_the_other_way_round(question: str) -> None:
    """As docs/format.md says; if it is read one day, that page and the cost of a prune have to be looked at."""
    used = []
    for condition in ("live * 2 < size", "size > live * 2"):
        with closing(sqlite3.connect(":memory:")) as connection:
            for statement in statements():
                connection.execute(statement.replace("live * 2 < size", condition))
            plan = connection.execute(f"EXPLAIN QUERY PLAN SELECT id FROM packs WHERE {question}").fetchall()
            used.append("packs_half_empty" in str(plan))
    assert used == [False, True]


def test_several_half_empty_packs_become_one(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", {f"{number:02}": noise(300_000, number) for number in range(40)})
    repo.snapshot(root)
    before = sql(repo.path, "SELECT count(*) FROM packs")[0][0]
    for number in range(40):
        if number % 4:
            (root / f"{number:02}").unlink()
    repo.snapshot(root)
    result = repo.prune(1)
    assert result.repacked_packs >= 2
    assert sql(repo.path, "SELECT count(*) FROM packs")[0][0] < before
    assert sql(repo.path, "SELECT sum(live) FROM packs") == [(10 * 300_000,)]
    assert sql(repo.path, "SELECT count(*) FROM packs WHERE live * 2 < size") == [(0,)]
    assert restored(repo, 2, tmp_path / "out") == entries(root)
    assert repo.check().problems == ()


def test_more_than_one_batch_is_packed_again(repo: Repository, tmp_path: Path) -> None:
    # A batch is 32 MiB of what is left: 40 of 100 MiB are here, in packs that are 40 % full.
    names = [f"{number:03}" for number in range(500)]
    root = write_tree(tmp_path / "tree", {name: noise(100, seed) * 2_000 for seed, name in enumerate(names)})
    repo.snapshot(root)
    for number, name in enumerate(names):
        if number % 5 not in (0, 1):
            (root / name).unlink()
    repo.snapshot(root)
    planned = repo.prune(1, dry_run=True)
    result = repo.prune(1)
    assert (planned.freed_bytes, planned.repacked_packs) == (result.freed_bytes, result.repacked_packs)
    assert result.repacked_packs > 40
    assert sql(repo.path, "SELECT sum(live) FROM packs") == [(200 * 200_000,)]
    assert sql(repo.path, "SELECT count(*) FROM packs WHERE live * 2 < size") == [(0,)]
    assert repo.check().problems == ()


def test_half_full_pack_stays(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", {f"{number}": noise(10_000, number) for number in range(4)})
    repo.snapshot(root)
    (root / "0").unlink()
    (root / "1").unlink()
    repo.snapshot(root)
    result = repo.prune(1)
    assert (result.repacked_packs, result.removed_bytes) == (0, 20_000)
    assert sql(repo.path, "SELECT size, live FROM packs") == [(40_000, 20_000)]
    assert repo.check().problems == ()


def test_dry_run_changes_nothing_and_frees_exactly_what_it_says(repo: Repository, tmp_path: Path) -> None:
    half_empty(repo, tmp_path)
    before = fingerprint(repo.path)
    planned = repo.prune(1, dry_run=True)
    assert fingerprint(repo.path) == before
    assert planned.dry_run
    size = os.path.getsize(repo.path)
    result = repo.prune(1)
    assert not result.dry_run
    assert planned.freed_bytes == result.freed_bytes == size - os.path.getsize(repo.path) > 300_000
    assert attrs.evolve(planned, dry_run=False, elapsed_seconds=0.0) == attrs.evolve(result, elapsed_seconds=0.0)


@pytest.mark.parametrize("megabytes", [1, 55])
def test_dry_run_is_exact_across_pointer_map_pages(tmp_path: Path, clock: Clock, megabytes: int) -> None:
    # SQLite has a page that maps the following 3,276 (at 16 KiB): one each 51 MiB.
    root = write_tree(tmp_path / "tree", {"kept": noise(MIB, 1)})
    for number in range(megabytes):
        write(root / f"gone {number}", os.urandom(MIB))
    with Repository(tmp_path / "backups.db") as repo:
        repo.snapshot(root)
        for number in range(megabytes):
            (root / f"gone {number}").unlink()
        write(root / "added", noise(2 * MIB, 2))
        repo.snapshot(root)
        planned = repo.prune(1, dry_run=True)
        before = os.path.getsize(repo.path)
        assert planned.freed_bytes == repo.prune(1).freed_bytes == before - os.path.getsize(repo.path)
        assert repo.check().problems == ()


@pytest.mark.long
@pytest.mark.parametrize("kept", [900, 1023, 1024, 1040])
def test_dry_run_is_exact_across_the_page_that_sqlite_never_uses(tmp_path: Path, clock: Clock, kept: int) -> None:
    # At 1 GiB lies the page that SQLite's locks are on.
    with Repository(tmp_path / "backups.db") as repo:
        repo.snapshot(write_tree(tmp_path / "tree", {"a": b"a"}))
        with sqlite3.connect(repo.path) as connection:
            connection.executemany(
                "INSERT INTO packs VALUES (?, ?, ?, 0, 'raw', zeroblob(1 << 20))",
                ((number, 1 << 20, 1 << 20 if number < kept else 0) for number in range(100, 1200)),
            )
        connection.close()
        planned = repo.prune(dry_run=True)
        before = os.path.getsize(repo.path)
        assert before > 1 << 30
        assert planned.freed_bytes == repo.prune().freed_bytes == before - os.path.getsize(repo.path) > 0


def test_prune_without_numbers_finds_nothing_to_do(repo: Repository, three: List[Dict[bytes, Entry]]) -> None:
    repo.prune()
    before = fingerprint(repo.path)
    result = repo.prune()
    assert (result.snapshots, result.removed_contents, result.freed_bytes) == ((), 0, 0)
    assert fingerprint(repo.path) == before


# Leftovers of interrupted snapshots


def test_leftovers_are_spared_for_a_day(repo: Repository, tree: Path, tmp_path: Path, clock: Clock) -> None:
    repo.snapshot(write_tree(tmp_path / "other", {"x": b"other"}))
    interrupted(repo, tree)
    assert sql(repo.path, "SELECT count(*) FROM contents") == [(5,)]
    assert repo.prune().removed_contents == 0
    clock.advance(DAY - 60)
    assert repo.prune().removed_contents == 0
    clock.advance(120)
    planned = repo.prune(dry_run=True)
    result = repo.prune()
    assert (result.removed_contents, result.removed_bytes) == (4, 4001)
    assert (planned.removed_contents, planned.freed_bytes) == (4, result.freed_bytes)
    assert sql(repo.path, "SELECT count(*) FROM contents") == [(1,)]
    assert repo.check().problems == ()


def test_leftovers_of_large_files_go_with_their_chunks(
    repo: Repository, tree: Path, tmp_path: Path, clock: Clock
) -> None:
    repo.snapshot(tree)
    interrupted(repo, write_tree(tmp_path / "other", {"image": noise(3 * MIB)}))
    clock.advance(2 * DAY)
    assert repo.prune().removed_bytes == 3 * MIB
    assert sql(repo.path, "SELECT count(*) FROM parts") == [(0,)]
    assert [snapshot.distinct_bytes for snapshot in repo.list()] == [4001]
    assert repo.check().problems == ()


def test_leftovers_that_a_later_snapshot_uses_stay(repo: Repository, tree: Path, tmp_path: Path, clock: Clock) -> None:
    interrupted(repo, tree)
    repo.snapshot(tree)
    clock.advance(2 * DAY)
    assert repo.prune().removed_contents == 0
    assert restored(repo, 1, tmp_path / "out") == entries(tree)


def test_leftovers_of_today_are_spared_after_old_packs_were_packed_again(
    repo: Repository, tree: Path, tmp_path: Path, clock: Clock
) -> None:
    # A pack that is written again keeps its age, and gets the highest number: numbers do not tell which are old.
    half_empty(repo, tmp_path / "half")
    clock.advance(2 * DAY)
    interrupted(repo, tree)
    assert repo.prune(1).repacked_packs == 1
    assert repo.prune().removed_contents == 0
    clock.advance(2 * DAY)
    assert repo.prune().removed_contents == 4
    assert repo.check().problems == ()


def test_leftovers_written_after_a_sweep_are_swept_later(
    repo: Repository, tree: Path, tmp_path: Path, clock: Clock
) -> None:
    for number in range(3):
        interrupted(repo, write_tree(tmp_path / str(number), {"x": b"%d" % number}))
        clock.advance(2 * DAY)
        assert repo.prune().removed_contents == 1
    repo.snapshot(tree)
    clock.advance(2 * DAY)
    assert repo.prune().removed_contents == 0


def test_many_young_packs_are_all_spared(repo: Repository, tmp_path: Path, clock: Clock) -> None:
    files = {f"{number:02}": noise(MIB, number) for number in range(70)}
    interrupted(repo, write_tree(tmp_path / "old", {"old": b"old"}))
    clock.advance(2 * DAY)
    interrupted(repo, write_tree(tmp_path / "tree", files))
    assert repo.prune().removed_contents == 1
    assert sql(repo.path, "SELECT count(*) FROM contents") == [(70,)]


def test_distinct_size_of_chunks_that_only_a_leftover_has_goes(repo: Repository, tmp_path: Path, clock: Clock) -> None:
    data = noise(3 * MIB)
    root = write_tree(tmp_path / "tree", {"image": data})
    interrupted(repo, root)
    write(root / "image", data[: 2 * MIB] + b"changed before the next try" + data[2 * MIB :])
    repo.snapshot(root)
    write(root / "image", b"something else")
    repo.snapshot(root)
    repo.prune(1)
    assert [snapshot.distinct_bytes for snapshot in repo.list()] == [14]
    assert repo.check().problems == ()
    # They are there, and nobody's: the next snapshot that has them brings them.
    write(root / "image", data)
    result = repo.snapshot(root)
    assert (result.new_bytes, result.snapshot.distinct_bytes) == (0, 3 * MIB)
    assert repo.check().problems == ()


def test_snapshot_that_takes_longer_than_the_grace_is_taken_again(
    repo: Repository, tree: Path, tmp_path: Path, clock: Clock
) -> None:
    done: List[PruneResult] = []

    def sweep(event: ProgressEvent) -> None:
        if event.phase == "commit" and not done:
            clock.advance(2 * DAY)
            with Repository(repo.path) as other:
                done.append(other.prune())

    result = snapshot_watched(repo.path, tree, sweep)
    assert done[0].removed_contents == 4
    assert result.new_files == 5
    assert result.snapshot.distinct_bytes == 4001
    assert restored(repo, 1, tmp_path / "out") == entries(tree)
    assert repo.check().problems == ()


# When something goes wrong


@pytest.mark.parametrize("phase", ["remove", "repack", "shrink"])
@pytest.mark.parametrize("error", [StopHereError, KeyboardInterrupt])
def test_cancelled_prune_leaves_a_sound_repository(
    repo: Repository, tmp_path: Path, phase: str, error: type[BaseException]
) -> None:
    root = half_empty(repo, tmp_path)
    planned = repo.prune(1, dry_run=True)
    before = os.path.getsize(repo.path)
    with pytest.raises(error):
        repo.prune(1, progress=stop_at(phase, error))
    assert [snapshot.id for snapshot in repo.list()] == ([1, 2] if phase == "remove" else [2])
    assert repo.check().problems == ()
    assert restored(repo, 2, tmp_path / "out") == entries(root)
    repo.prune([1] if phase == "remove" else [])
    assert before - os.path.getsize(repo.path) == planned.freed_bytes
    assert repo.check().problems == ()


@pytest.mark.parametrize("phase", ["remove", "repack", "shrink"])
def test_killed_prune_leaves_a_sound_repository(repo: Repository, tmp_path: Path, phase: str) -> None:
    root = half_empty(repo, tmp_path)
    repo.close()
    child = os.fork()
    if child == 0:  # pragma: no cover (another process)

        def kill(event: ProgressEvent) -> None:
            if event.phase == phase:
                os.kill(os.getpid(), 9)

        try:
            repo.prune(1, progress=kill)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 9
    assert [snapshot.id for snapshot in repo.list()] == ([1, 2] if phase == "remove" else [2])
    assert repo.check().problems == ()
    assert restored(repo, 2, tmp_path / "out") == entries(root)


def test_prune_killed_at_any_moment_leaves_a_sound_repository(repo: Repository, tmp_path: Path) -> None:
    half_empty(repo, tmp_path / "half")
    root = write_tree(tmp_path / "tree", {"large": noise(3 * MIB), "small": b"small"})
    repo.snapshot(root)
    write(root / "large", noise(3 * MIB)[MIB:])
    repo.snapshot(root)
    repo.close()
    data = Path(repo.path).read_bytes()
    killed = 0
    for number in range(1, 100):
        Path(repo.path).write_bytes(data)
        child = os.fork()
        if child == 0:  # pragma: no cover (another process)
            seen: List[ProgressEvent] = []

            def kill(event: ProgressEvent, number: int = number, seen: List[ProgressEvent] = seen) -> None:
                seen.append(event)
                if len(seen) == number:
                    os.kill(os.getpid(), 9)

            try:
                with ConnectionPool(repo.path, 10.0).writing() as database:
                    prune(database, [1, 3], dry_run=False, reporter=EveryEvent(kill), clock=lambda: 0)
            finally:
                os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            break
        killed += 1
        kept = [snapshot.id for snapshot in repo.list()]
        assert kept in ([1, 2, 3, 4], [2, 4])
        assert repo.check().problems == ()
        repo.close()
    assert killed > 3
    assert [snapshot.id for snapshot in repo.list()] == [2, 4]
    assert restored(repo, 4, tmp_path / "out") == entries(root)
    assert repo.check().problems == ()


def damage_pack(path: Union[str, Path], pack: int) -> None:
    [(data,)] = sql(path, "SELECT data FROM packs WHERE id = ?", pack)
    middle = len(data) // 2
    sql(path, "UPDATE packs SET data = ? WHERE id = ?", data[:middle] + b"damage" + data[middle + 6 :], pack)


def test_damaged_pack_is_named_and_left_as_it_is(repo: Repository, tmp_path: Path) -> None:
    half_empty(repo, tmp_path)
    # In the part that stays: 20 of 60 files, and the order of likeness is that of the names here.
    [(data,)] = sql(repo.path, "SELECT data FROM packs")
    sql(repo.path, "UPDATE packs SET data = ?", data[:50_000] + b"damage" + data[50_006:])
    result = repo.prune(1)
    assert [(problem.kind, problem.content is not None) for problem in result.problems] == [("content-corrupt", True)]
    assert (result.repacked_packs, result.removed_contents) == (0, 40)
    assert sql(repo.path, "SELECT size, live FROM packs") == [(600_000, 200_000)]
    out = repo.restore(2, tmp_path / "out")
    assert [problem.kind for problem in out.problems] == ["content-corrupt"]
    assert len(entries(tmp_path / "out")) == 1 + 20 - 1


@pytest.mark.parametrize("change", ["size = 17 << 20", "size = 'many'", "codec = x'00'", "data = 'text'", "data = 5"])
def test_pack_with_a_damaged_row_is_named_and_left_as_it_is(repo: Repository, tmp_path: Path, change: str) -> None:
    half_empty(repo, tmp_path)
    sql(repo.path, f"UPDATE packs SET {change}")
    result = repo.prune(1)
    assert [problem.kind for problem in result.problems] == ["content-corrupt"]
    assert [snapshot.id for snapshot in repo.list()] == [2]
    assert sql(repo.path, "SELECT live FROM packs") == [(200_000,)]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE contents SET offset = 'x' WHERE offset = 10000",
        "UPDATE contents SET hash = 5 WHERE offset = 10000",
        "UPDATE contents SET pack = NULL WHERE offset = 10000",
        "UPDATE packs SET live = 'x'",
        "UPDATE packs SET live = 400000",
    ],
)
def test_pack_whose_contents_are_not_all_found_is_left_as_it_is(
    repo: Repository, tmp_path: Path, statement: str
) -> None:
    half_empty(repo, tmp_path)
    sql(repo.path, statement)
    result = repo.prune(1)
    assert [problem.kind for problem in result.problems] == ["content-corrupt"]
    assert result.repacked_packs == 0
    assert sql(repo.path, "SELECT count(*) FROM packs WHERE size = 600000") == [(1,)]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE packs SET written_ns = 'x'",
        "INSERT INTO settings VALUES ('swept_content', 'x')",
    ],
)
def test_damaged_number_is_an_error_for_prune(repo: Repository, tmp_path: Path, statement: str) -> None:
    half_empty(repo, tmp_path)
    sql(repo.path, statement)
    with pytest.raises(CorruptionError, match="run check"):
        repo.prune(1)


def test_damage_in_what_is_removed_does_not_matter(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", {"a": noise(2 * MIB), "b": b"kept"})
    repo.snapshot(root)
    (root / "a").unlink()
    repo.snapshot(root)
    damage_pack(repo.path, 1)
    assert repo.check().problems != ()
    repo.prune(1)
    assert repo.check().problems == ()
    assert restored(repo, 2, tmp_path / "out") == entries(root)


def test_prune_beside_a_reader_waits_for_nothing_it_lost(repo: Repository, tree: Path, tmp_path: Path) -> None:
    # The restore has begun when the snapshot that it does not need goes, and the packs are written again.
    half = half_empty(repo, tmp_path / "half")
    done: List[Optional[PruneResult]] = []

    def prune(event: ProgressEvent) -> None:
        if event.phase == "restore" and not done:
            done.append(None)
            with Repository(repo.path) as other:
                done[0] = other.prune(1)

    result = repo.restore(2, tmp_path / "out", progress=prune)
    assert done[0] is not None
    assert done[0].repacked_packs == 1
    assert result.problems == ()
    assert entries(tmp_path / "out") == entries(half)


def test_snapshot_pruned_while_it_is_restored_gives_no_wrong_file(repo: Repository, tree: Path, tmp_path: Path) -> None:
    write(tree / "large", noise(24 * MIB))
    repo.snapshot(tree)
    expected = entries(tree)

    def prune(event: ProgressEvent) -> None:
        if event.phase == "restore":
            with Repository(repo.path) as other:
                other.prune([snapshot.id for snapshot in other.list()])

    result = repo.restore(1, tmp_path / "out", progress=prune)
    found = entries(tmp_path / "out")
    # Everything was listed by then, and some of it read ahead; of the rest it is said that it is not there.
    assert result.problems != ()
    missing = {os.fsencode(problem.path) for problem in result.problems}
    assert {path: entry for path, entry in expected.items() if path not in missing} == found
