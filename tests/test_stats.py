"""What snapshots take: compared with what pruning each one frees, and with what the files of each say."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any, Dict, List, Set, Tuple

import pytest
from conftest import Clock, noise, sql, write, write_tree

from backuptool import Repository, RetentionPolicy, Stats
from backuptool.cli import main

MIB = 1 << 20


@pytest.fixture
def tmp_path(memory_path: Path) -> Path:
    """Many repositories are to be copied here."""
    return memory_path


IMAGE = noise(1_300_000)

DATA = [
    b"",
    b"small",
    noise(9_000, 1),
    b"compressible " * 3_000,
    IMAGE,
    IMAGE[:700_000] + b"edited" + IMAGE[700_000:],
    noise(40_000, 2),
]


def copy_of(repo: Repository, name: str) -> Repository:
    repo.close()
    path = Path(repo.path).with_name(name)
    shutil.copy(repo.path, path)
    return Repository(path)


def history(directory: Path, seed: int, clock: Clock) -> Repository:
    """Two sources that share contents, changed at random, saved, and pruned in part."""
    chance = random.Random(seed)
    repo = Repository(directory / f"{seed}.db")
    roots = [write_tree(directory / f"{name}{seed}", {"a": DATA[2], "big": IMAGE}) for name in ("one", "two")]
    for _ in range(9):
        for root in roots:
            for _ in range(3):
                path = root / chance.choice(["a", "b", "d/c", "d/e", "big"])
                if chance.random() < 0.25 and path.exists():
                    path.unlink()
                else:
                    write(path, chance.choice(DATA))
            if not (root / "link").exists() and (root / "a").exists():
                os.link(root / "a", root / "link")
        repo.snapshot(chance.choice(roots))
    ids = [snapshot.id for snapshot in repo.list()]
    repo.prune(chance.sample(ids, 2))
    clock.advance(1)
    return repo


Row = Tuple[Any, ...]


def files_of(repo: Repository, number: int) -> Dict[Any, Row]:
    """What a snapshot holds, by path, as anybody with SQL sees it."""
    rows = sql(
        repo.path,
        "SELECT CAST(path AS BLOB), kind, mode, uid, gid, mtime_ns, size, hash, link FROM snapshot_files "
        "WHERE snapshot_id = ? AND kind <> 'd'",
        number,
    )
    return {row[0]: row for row in rows}


def sizes(rows: Set[Row]) -> Tuple[int, int]:
    return len(rows), sum(row[6] for row in rows)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.both
def test_every_figure_is_what_counting_gives(tmp_path: Path, clock: Clock, seed: int) -> None:
    with history(tmp_path, seed, clock) as repo:
        listed = repo.list()
        stats = repo.stats()
        assert [each.snapshot for each in stats.snapshots] == list(listed)
        before: Dict[str, Set[Row]] = {}
        cumulative = 0
        for each in stats.snapshots:
            snapshot = each.snapshot
            cumulative += snapshot.distinct_bytes
            assert each.cumulative_bytes == cumulative
            now = set(files_of(repo, snapshot.id).values())
            last = before.get(snapshot.source, set())
            assert (each.added_files, each.added_bytes) == sizes(now - last)
            assert (each.ended_files, each.ended_bytes) == sizes(last - now)
            before[snapshot.source] = now
            with copy_of(repo, "copy.db") as copy:
                pruned = copy.prune(snapshot.id)
            assert (each.exclusive_contents, each.exclusive_bytes) == (pruned.removed_contents, pruned.removed_bytes)
            assert each.changes is not None
            assert each.changes.new_bytes >= 0
        assert stats.size_bytes == listed.size_bytes
        assert stats.contents_bytes == cumulative == stats.packs.live_bytes
        assert stats.repository_bytes == os.path.getsize(repo.path)
        assert sum(each.snapshots for each in stats.sources) == len(listed)
        assert sum(each.distinct_bytes for each in stats.sources) == cumulative
        packs = sql(repo.path, "SELECT size, live, length(data) FROM packs")
        stored = sum(length for _, _, length in packs)
        assert stats.packs.stored_bytes == stored
        assert (stats.packs.packs, stats.packs.size_bytes) == (len(packs), sum(size for size, _, _ in packs))
        in_use = sum(live * length / size for size, live, length in packs)
        shares = sum(each.stored_bytes for each in stats.snapshots)
        assert in_use - len(packs) * len(listed) <= shares <= in_use
        assert shares == sum(each.stored_bytes for each in stats.sources)


def test_what_snapshots_share_is_exclusive_to_none(repo: Repository, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree", {"a": b"a" * 1000, "b": b"b" * 2000})
    repo.snapshot(tree)
    write(tree / "b", b"c" * 4000)
    repo.snapshot(tree)
    repo.snapshot(tree)
    assert [each.exclusive_bytes for each in repo.stats().snapshots] == [2000, 0, 0]
    assert [(each.added_bytes, each.ended_bytes) for each in repo.stats().snapshots] == [
        (3000, 0),
        (4000, 2000),
        (0, 0),
    ]
    assert [each.snapshot.id for each in repo.stats().largest_changes] == [2, 3]
    repo.prune(3)
    assert [each.exclusive_bytes for each in repo.stats().snapshots] == [2000, 4000]
    repo.snapshot(write_tree(tmp_path / "other", {"c": b"c" * 4000}))
    assert [each.exclusive_bytes for each in repo.stats().snapshots] == [2000, 0, 0]
    repo.prune([1, 2])
    assert [each.exclusive_bytes for each in repo.stats().snapshots] == [4000]


@pytest.fixture
def three(repo: Repository, tmp_path: Path) -> Repository:
    """Three snapshots of one source and one of another."""
    tree = write_tree(tmp_path / "tree", {"log": b"1" * 100, "big": b"2" * 5000, "d/mid": b"3" * 700})
    for number in range(1, 4):
        write(tree / "log", b"1" * 100 * (number + 1))
        repo.snapshot(tree, host="h")
    (tree / "big").unlink()
    repo.snapshot(tree, host="h")
    repo.snapshot(write_tree(tmp_path / "other", {"odd \udcff": b"4" * 800}), host="h")
    return repo


def test_files_that_stand_out_are_named(three: Repository, tmp_path: Path) -> None:
    stats = three.stats(top=2)
    assert [(file.path, file.size_bytes, file.snapshot) for file in stats.largest_files] == [
        ("big", 5000, 3),
        ("odd \udcff", 800, 5),
    ]
    assert [(file.path, file.past_versions, file.past_bytes) for file in stats.most_changed_files] == [
        ("big", 1, 5000),
        ("log", 2, 500),
    ]
    assert {file.source for file in stats.most_changed_files} == {str(tmp_path / "tree")}
    assert three.stats(top=0).largest_files == ()
    three.prune([3])
    assert three.stats().largest_files[0].snapshot == 2
    with pytest.raises(ValueError, match="top must be 0 or more, not -1"):
        three.stats(top=-1)


def test_only_the_sources_asked_for_are_shown_and_the_totals_stay(three: Repository, tmp_path: Path) -> None:
    everything = three.stats()
    other = three.stats(source=tmp_path / "other")
    assert other.snapshots == everything.snapshots[-1:]
    assert [file.path for file in other.largest_files] == ["odd \udcff"]
    assert other.most_changed_files == ()
    assert (other.size_bytes, other.packs) == (everything.size_bytes, everything.packs)
    assert [source.newest for source in everything.sources] == [5, 4]
    nothing = three.stats(host="nowhere")
    assert (nothing.snapshots, nothing.sources, nothing.largest_files) == ((), (), ())
    assert three.stats(host="h").snapshots == everything.snapshots


def test_leftovers_and_an_empty_repository_have_figures(repo: Repository, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree", {"a": noise(1000)})
    repo.snapshot(tree)
    repo.close()
    sql(
        repo.path, "INSERT INTO contents (hash, size, pack, offset, refs, since) VALUES (zeroblob(32), 7, 1, 900, 0, 0)"
    )
    assert repo.stats().unreferenced_bytes == 7
    repo.prune(1)
    stats = repo.stats()
    assert (stats.snapshots, stats.size_bytes, stats.sources) == ((), 0, ())
    assert stats.packs.fill <= 1.0


def test_a_repository_without_packs_is_full(repo: Repository, tmp_path: Path) -> None:
    repo.snapshot(write_tree(tmp_path / "tree", {"empty": b""}))
    stats = repo.stats()
    assert (stats.packs.packs, stats.packs.fill, stats.contents) == (0, 1.0, 1)


def test_statistics_cost_the_same_statements_whatever_the_number_of_files(tmp_path: Path) -> None:
    counts: List[int] = []
    for files in (20, 2000):
        tree = write_tree(tmp_path / f"tree{files}", {f"{number // 100}/{number}": b"x" for number in range(files)})
        with Repository(tmp_path / f"{files}.db") as repo:
            repo.snapshot(tree)
            repo.snapshot(tree)
            statements: List[str] = []
            with repo._pool.reading() as database:
                database.trace(statements.append)
            repo.stats()
            with repo._pool.reading() as database:
                database.trace(None)
            counts.append(len(statements))
            assert not any("data FROM packs" in statement for statement in statements)
    assert counts[0] == counts[1]


@pytest.mark.plain
def test_the_command_shows_totals_snapshots_and_files(three: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    three.close()
    assert main(["--db-path", three.path, "stats", "--top", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("5 snapshots of 2 sources, repository ")
    assert "as plain copies" in lines[1]
    assert "1 pack" in lines[2] or "packs, 100% in use, 0 less than half" in lines[2]
    assert "other: 800 B as plain copies, 800 B distinct" in lines[3]
    assert lines[4].split() == ["SNAPSHOT", "TIMESTAMP", "SIZE", "DISTINCT", "STORED", "EXCLUSIVE", "ADDED", "ENDED"]
    assert lines[-4:] == [
        "Largest files",
        "     4.9 KiB  big (snapshot 3)",
        "Files that changed most",
        "     4.9 KiB  big (1 past version)",
    ]
    assert main(["--db-path", three.path, "stats", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    stats: Stats = three.stats()
    assert document["snapshots"] == json.loads(json.dumps(stats.to_dict()["snapshots"]))
    assert document["packs"]["fill"] == 1.0
    assert repr(stats).startswith("<Stats 5 snapshots, ")
    for each in (
        stats.snapshots[0],
        stats.sources[0],
        stats.packs,
        stats.largest_files[0],
        stats.most_changed_files[0],
    ):
        assert str(each).startswith(f"<{type(each).__name__} ")


@pytest.mark.plain
def test_a_source_says_when_it_was_last_proven(three: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    drill = three.drill(1).drill
    other, tree = three.stats().sources
    assert (other.drill, tree.drill) == (None, drill)
    three.close()
    assert main(["--db-path", three.path, "stats"]) == 0
    assert "\n  last " in capsys.readouterr().out


def test_a_notebook_shows_figures_and_decisions_as_tables(three: Repository) -> None:
    page = three.stats()._repr_html_()
    assert page.count("<tr>") == 1 + 5 + 2 + len(three.stats().largest_files) + len(three.stats().most_changed_files)
    three.annotate(2, pinned=True, note="<b>")
    plan = three.plan_prune(RetentionPolicy(last=1))
    assert (
        "<th style='text-align:left'>snapshot 2</th><td style='text-align:left'>kept: pinned</td>" in plan._repr_html_()
    )
    result = three.prune(plan)
    assert "removed: last: 1 newer" in result._repr_html_()
    assert "pinned, &lt;b&gt;" in three.list()._repr_html_()
