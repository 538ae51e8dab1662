from __future__ import annotations

import hashlib
import itertools
import os
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import pytest
from conftest import Clock, Entry, entries, noise, restored, snapshot_watched, sql, write, write_tree
from properties import example, given, settings, st

from backuptool import ContentCorruptError, ProgressEvent, Repository
from backuptool.operations.restore.restoring import RestoreOptions, restore
from backuptool.progress import Reporter
from backuptool.storage.bases import Base, behind_bases, least_bytes
from backuptool.storage.compression import (
    RAW,
    SETTINGS,
    ZSTD,
    ZSTD_BASE,
    compress,
    compress_with_base,
    decompress,
    salvage,
)
from backuptool.storage.filling import Filling, Members
from backuptool.storage.unpacking import MAX_PACK_SIZE, PackSource, StoredPack

KIB = 1 << 10
MIB = 1 << 20

WORDS = [bytes(random.Random(number).choices(b"etaoinshrdlu", k=2 + number % 9)) for number in range(3000)]

Files = Dict[str, bytes]


@pytest.fixture
def tmp_path(memory_path: Path) -> Path:
    """Many commits are to be made here."""
    return memory_path


def text(seed: object, size: int) -> bytes:
    """Lines of words that have nothing but the words in common with those of other seeds."""
    rng = random.Random(str(seed))
    lines = (b" ".join(rng.choices(WORDS, k=10)) for _ in range(size // 40))
    return b"\n".join(lines)[:size]


def edited(data: bytes, seed: object) -> bytes:
    """The same lines, but for a few."""
    lines = data.split(b"\n")
    rng = random.Random(str(seed))
    for _ in range(max(1, len(lines) // 50)):
        lines[rng.randrange(len(lines))] = b"edited " + str(rng.random()).encode()
    return b"\n".join(lines)


def release(number: int, files: int = 40, size: int = 8 * KIB) -> Files:
    """A version of a tree of which each file is a little different in the next."""
    tree = {f"d{file % 3}/{file}.txt": text(file, size) for file in range(files)}
    for version in range(number):
        tree = {name: edited(data, (name, version)) for name, data in tree.items()}
    return tree


def save(repo: Repository, root: Path, files: Files, **options: Any) -> Dict[bytes, Entry]:
    """Let a directory have these files alone, and save it."""
    shutil.rmtree(str(root), ignore_errors=True)
    write_tree(root, dict(files))
    result = repo.snapshot(root, **options)
    assert result.problems == ()
    return entries(root)


def codecs(repo: Repository) -> List[Tuple[int, str, Optional[int]]]:
    """(pack, codec, base) of all packs."""
    return sql(repo.path, "SELECT id, codec, base FROM packs LEFT JOIN bases ON pack = id ORDER BY id")


def stored_bytes(repo: Repository, pack: int) -> int:
    return int(sql(repo.path, "SELECT length(data) FROM packs WHERE id = ?", pack)[0][0])


def compressed_with(data: bytes, base: bytes, compression: str = "balanced") -> Tuple[str, bytes]:
    codec, frame = compress_with_base(data, base, compression)
    return codec, data if frame is None else frame


def damage(repo: Repository, *statements: str) -> None:
    with closing(sqlite3.connect(str(repo.path))) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def damage_first_pack(repo: Repository) -> None:
    damage(
        repo, "UPDATE packs SET data = CAST(substr(data, 1, 500) || x'00ff' || substr(data, 503) AS BLOB) WHERE id = 1"
    )


@pytest.fixture
def releases(repo: Repository, tmp_path: Path) -> List[Dict[bytes, Entry]]:
    """Three releases, saved one over the other."""
    return [save(repo, tmp_path / "tree", release(number)) for number in range(3)]


# Which packs have a base.


@pytest.mark.both
def test_changed_files_are_compressed_with_the_pack_of_their_last_versions(
    repo: Repository, releases: List[Dict[bytes, Entry]], tmp_path: Path
) -> None:
    assert codecs(repo) == [(1, ZSTD, None), (2, ZSTD_BASE, 1), (3, ZSTD_BASE, 1)]
    assert stored_bytes(repo, 2) * 5 < stored_bytes(repo, 1)
    assert repo.check().problems == ()
    for number, expected in enumerate(releases, 1):
        assert restored(repo, number, tmp_path / f"out{number}") == expected


@pytest.mark.parametrize("compression", sorted(SETTINGS))
def test_every_setting_compresses_with_a_base(repo: Repository, tmp_path: Path, compression: str) -> None:
    saved = [save(repo, tmp_path / "tree", release(number), compression=compression) for number in range(2)]
    assert [codec for _, codec, _ in codecs(repo)] == [ZSTD, ZSTD_BASE]
    assert restored(repo, 2, tmp_path / "out") == saved[1]


def test_new_and_touched_files_have_no_base(repo: Repository, tmp_path: Path) -> None:
    save(repo, tmp_path / "tree", release(0))
    save(repo, tmp_path / "tree", {**release(0), **{f"new/{name}": data for name, data in release(1).items()}})
    assert [base for *_, base in codecs(repo)] == [None, None]


def test_few_changes_share_a_pack_with_what_is_new(repo: Repository, tmp_path: Path) -> None:
    few = {name: data for name, data in release(1).items() if name in ("d0/0.txt", "d1/1.txt")}
    assert sum(map(len, few.values())) < least_bytes(Base(1, 0))
    save(repo, tmp_path / "tree", release(0))
    save(repo, tmp_path / "tree", {**release(0), **few, "new.txt": text("new", 3000)})
    assert codecs(repo) == [(1, ZSTD, None), (2, ZSTD, None)]
    assert sql(repo.path, "SELECT count(*) FROM contents WHERE pack = 2") == [(3,)]


def test_changes_next_to_much_that_is_new_get_a_pack_of_their_own(repo: Repository, tmp_path: Path) -> None:
    save(repo, tmp_path / "tree", release(0))
    new = {f"new/{number}.txt": text(f"new{number}", 64 * KIB) for number in range(70)}
    expected = save(repo, tmp_path / "tree", {**release(1), **new})
    assert sorted(codec for _, codec, _ in codecs(repo)) == [ZSTD] * 4 + [ZSTD_BASE]
    assert sql(repo.path, "SELECT sum(length(data)) < 30000 FROM packs WHERE codec = ?", ZSTD_BASE) == [(1,)]
    assert restored(repo, 2, tmp_path / "out") == expected


def test_what_has_nothing_in_common_with_its_last_version_stands_alone(repo: Repository, tmp_path: Path) -> None:
    save(repo, tmp_path / "tree", {name: noise(8 * KIB, number) for number, name in enumerate(release(0))})
    save(repo, tmp_path / "tree", {name: noise(8 * KIB, 1000 + number) for number, name in enumerate(release(0))})
    save(repo, tmp_path / "tree", release(0))
    save(repo, tmp_path / "tree", release(1))
    assert codecs(repo) == [(1, RAW, None), (2, RAW, None), (3, ZSTD, None), (4, ZSTD_BASE, 3)]


def test_what_has_drifted_away_from_its_base_stands_alone_and_is_the_next_base(
    repo: Repository, tmp_path: Path
) -> None:
    for drift in (0, 10 * KIB, 15 * KIB, 16 * KIB):  # of 25 KiB
        files = {f"{n}.bin": noise(25 * KIB, n)[drift:] + noise(25 * KIB, 100 + n)[:drift] for n in range(10)}
        save(repo, tmp_path / "tree", files)
    assert codecs(repo) == [(1, RAW, None), (2, ZSTD_BASE, 1), (3, RAW, None), (4, ZSTD_BASE, 3)]


def test_pack_that_did_not_compress_is_a_base_for_what_is_like_it(repo: Repository, tmp_path: Path) -> None:
    first = {f"{number}.bin": noise(20 * KIB, number) for number in range(10)}
    second = {name: b"changed" + data for name, data in first.items()}
    save(repo, tmp_path / "tree", first)
    expected = save(repo, tmp_path / "tree", second)
    assert codecs(repo) == [(1, RAW, None), (2, ZSTD_BASE, 1)]
    assert stored_bytes(repo, 2) < KIB
    assert restored(repo, 2, tmp_path / "out") == expected


def test_files_of_several_packs_have_several_bases(repo: Repository, tmp_path: Path) -> None:
    sizes = {"files": 120, "size": 48 * KIB}
    save(repo, tmp_path / "tree", release(0, **sizes))
    expected = save(repo, tmp_path / "tree", release(1, **sizes))
    bases = [base for *_, base in codecs(repo)]
    assert bases == [None, None, None, 1, 2, 3]
    assert repo.check().problems == ()
    assert restored(repo, 2, tmp_path / "out") == expected


def test_repository_of_format_1_gets_bases(repo: Repository, tmp_path: Path) -> None:
    save(repo, tmp_path / "tree", release(0))
    repo.close()
    for table in ("bases", "pins", "changes", "drills"):
        sql(repo.path, f"DROP TABLE {table}")
    sql(repo.path, "PRAGMA user_version=1")
    expected = save(repo, tmp_path / "tree", release(1))
    assert codecs(repo) == [(1, ZSTD, None), (2, ZSTD_BASE, 1)]
    assert restored(repo, 2, tmp_path / "out") == expected


@pytest.mark.parametrize("helpers", [0, 2])
def test_helpers_compress_with_a_base_and_restore_from_it(tmp_path: Path, clock: Clock, helpers: int) -> None:
    root = tmp_path / "tree"
    sizes = {"files": 90, "size": 60 * KIB}
    with Repository(tmp_path / "helped.db") as repo:
        for number in range(2):
            shutil.rmtree(str(root), ignore_errors=True)
            write_tree(root, dict(release(number, **sizes)))
            snapshot_watched(repo.path, root, lambda event: None, clock, helpers=helpers)
        based = [base for *_, base in codecs(repo) if base is not None]
        assert set(based) == {1, 2, 3}
        assert sql(repo.path, "SELECT sum(length(data)) FROM packs WHERE codec = ?", ZSTD_BASE)[0][0] < 300_000
        assert repo.check().problems == ()
        with repo._pool.reading() as database:
            options = RestoreOptions(destination=os.fsencode(tmp_path / "out"), helpers=helpers)
            assert restore(database, 2, options, Reporter(None)).problems == ()
    assert entries(tmp_path / "out") == entries(root)


def test_each_base_is_read_once_where_packs_are_read_in_order(
    repo: Repository, releases: List[Dict[bytes, Entry]], tmp_path: Path
) -> None:
    save(repo, tmp_path / "other", {"x": noise(MIB)})
    statements: List[str] = []
    with repo._pool.reading() as database:
        source = PackSource(database)
        database.trace(statements.append)
        order = behind_bases([1, 2, 4, 3], {2: 1, 3: 1})
        assert order == [1, 2, 3, 4]
        assert [source.read(pack).result().damage for pack in order] == [None] * 4
        database.trace(None)
    assert len(statements) == 4


# Prune.


@pytest.mark.parametrize("order", list(itertools.permutations([1, 2, 3])))
@pytest.mark.both
def test_prune_in_any_order_leaves_what_is_kept_and_gives_everything_back(
    repo: Repository, releases: List[Dict[bytes, Entry]], tmp_path: Path, order: Sequence[int]
) -> None:
    kept = dict(enumerate(releases, 1))
    for number in order:
        said = repo.prune(number, dry_run=True)
        done = repo.prune(number)
        assert done.problems == ()
        assert done.repository_bytes == said.repository_bytes == os.path.getsize(repo.path)
        assert done.repacked_packs == said.repacked_packs
        del kept[number]
        assert repo.check().problems == ()
        for left, expected in kept.items():
            assert restored(repo, left, tmp_path / f"{number}-{left}") == expected
    assert codecs(repo) == []
    assert sql(repo.path, "SELECT count(*) FROM bases") == [(0,)]


def test_base_without_contents_stays_while_enough_refers_to_it(
    repo: Repository, releases: List[Dict[bytes, Entry]], tmp_path: Path
) -> None:
    assert repo.prune(1).repacked_packs == 0
    assert sql(repo.path, "SELECT live FROM packs WHERE id = 1") == [(0,)]
    assert codecs(repo) == [(1, ZSTD, None), (2, ZSTD_BASE, 1), (3, ZSTD_BASE, 1)]
    save(repo, tmp_path / "tree", release(3))
    assert codecs(repo)[-1] == (4, ZSTD_BASE, 1)


def test_base_goes_when_little_refers_to_it_and_that_is_written_anew(repo: Repository, tmp_path: Path) -> None:
    first, second = release(0), release(1)
    few = dict(list(second.items())[:15])
    save(repo, tmp_path / "tree", first)
    save(repo, tmp_path / "tree", {**first, **few})
    expected = save(repo, tmp_path / "tree", few)
    assert codecs(repo) == [(1, ZSTD, None), (2, ZSTD_BASE, 1)]
    size = os.path.getsize(repo.path)
    said = repo.prune([1, 2], dry_run=True)
    result = repo.prune([1, 2])
    assert (result.repacked_packs, said.repository_bytes) == (2, result.repository_bytes)
    assert codecs(repo) == [(3, ZSTD, None)]
    assert result.repository_bytes < size
    assert repo.check().problems == ()
    assert restored(repo, 3, tmp_path / "out") == expected


def test_half_empty_packs_of_one_base_become_one_that_refers_to_it(repo: Repository, tmp_path: Path) -> None:
    first, second, third = (release(number, files=60) for number in range(3))
    names = list(first)
    halves = {**first, **{name: second[name] for name in names[:30]}}
    trees = [halves, {**halves, **{name: third[name] for name in names[30:]}}]
    save(repo, tmp_path / "tree", first)
    for tree in trees:
        save(repo, tmp_path / "tree", tree)
    kept = {name: (first if position % 3 else trees[1])[name] for position, name in enumerate(names)}
    expected = save(repo, tmp_path / "tree", kept)
    assert [base for *_, base in codecs(repo)] == [None, 1, 1]
    result = repo.prune([1, 2, 3])
    assert result.problems == ()
    assert repo.check().problems == ()
    assert restored(repo, 4, tmp_path / "out") == expected
    assert [codec for _, codec, _ in codecs(repo)] == [ZSTD, ZSTD_BASE]
    assert sql(repo.path, "SELECT live = size FROM packs JOIN bases ON pack = id") == [(1,)]


@pytest.mark.parametrize("seed", range(4))
def test_any_history_with_bases_is_kept_and_given_back(tmp_path: Path, clock: Clock, seed: int) -> None:
    """The model: every kept snapshot restores as it was saved, check finds nothing, a dry run is exact."""
    rng = random.Random(seed)
    names = [f"d{number % 3}/{number}.txt" for number in range(30)]
    tree = {name: text(name, rng.randrange(2 * KIB, 24 * KIB)) for name in names}
    kept: Dict[int, Dict[bytes, Entry]] = {}
    with Repository(tmp_path / "backups.db") as repo:
        for step in range(14):
            if rng.random() < 0.6 or not kept:
                for name in rng.sample(names, rng.choice((3, 12, 30))):
                    tree[name] = rng.choice((edited(tree[name], (seed, step)), text((step, name), 9000), tree[name]))
                expected = save(repo, tmp_path / "tree", tree)
                kept[repo.list()[-1].id] = expected
            else:
                numbers = rng.sample(sorted(kept), rng.randrange(1, len(kept) + 1))
                said = repo.prune(numbers, dry_run=True)
                done = repo.prune(numbers)
                assert (said.repository_bytes, said.repacked_packs) == (done.repository_bytes, done.repacked_packs)
                assert done.problems == ()
                for number in numbers:
                    del kept[number]
            assert repo.check().problems == ()
            assert sql(repo.path, "PRAGMA foreign_key_check") == []
        for number, expected in kept.items():
            assert restored(repo, number, tmp_path / f"out{number}") == expected
        repo.prune(sorted(kept))
        assert codecs(repo) == []


# Other processes.


@pytest.mark.parametrize("reused", [False, True])
def test_base_that_a_prune_took_meanwhile_is_noticed(
    repo: Repository, tmp_path: Path, clock: Clock, reused: bool
) -> None:
    root = tmp_path / "tree"
    before = {f"{number}.bin": noise(50 * KIB, number) for number in range(40)}
    save(repo, root, before)
    shutil.rmtree(str(root))
    write_tree(root, {name: data + noise(20 * KIB, len(name)) for name, data in before.items()})
    seen: List[str] = []

    def prune(event: ProgressEvent) -> None:
        """When a pack is full that refers to the base, and before it is committed."""
        if event.phase == "read" and not seen and event.done_files == 40:
            seen.append(event.path)
            with Repository(repo.path) as other:
                other.prune(1)
                if reused:  # another pack has the number of the base now
                    save(other, tmp_path / "other", {"other": noise(30 * KIB)})

    result = snapshot_watched(repo.path, root, prune, clock)
    assert len(seen) == 1
    assert result.problems == ()
    assert repo.check().problems == ()
    assert [base for *_, base in codecs(repo) if base is not None] == []
    assert restored(repo, result.snapshot.id, tmp_path / "out") == entries(root)


def test_base_that_was_packed_again_meanwhile_is_noticed(repo: Repository, tmp_path: Path, clock: Clock) -> None:
    root = tmp_path / "tree"
    before = {f"{number}.bin": noise(50 * KIB, number) for number in range(40)}
    save(repo, root, before)
    for number in range(24):
        (root / f"{number}.bin").unlink()
    repo.snapshot(root)
    for number in range(24, 40):
        write(root / f"{number}.bin", before[f"{number}.bin"] + noise(85 * KIB, number))
    seen: List[int] = []

    def prune(event: ProgressEvent) -> None:
        if event.phase == "read" and not seen and event.done_files == 16:
            with Repository(repo.path) as other:
                seen.append(other.prune(1).repacked_packs)

    result = snapshot_watched(repo.path, root, prune, clock)
    assert seen == [1]
    assert repo.check().problems == ()
    assert restored(repo, result.snapshot.id, tmp_path / "out") == entries(root)


# Damage.


def problem_paths(repo: Repository) -> set[str]:
    return {problem.path for problem in repo.check().problems if problem.kind == "content-corrupt"}


def test_damage_in_a_base_names_the_files_of_the_packs_that_refer_to_it(
    repo: Repository, releases: List[Dict[bytes, Entry]], tmp_path: Path
) -> None:
    middle = stored_bytes(repo, 1) // 2
    sql(
        repo.path,
        "UPDATE packs SET data = CAST(substr(data, 1, ?) || x'00ff00ff' || substr(data, ?) AS BLOB) WHERE id = 1",
        *(middle, middle + 5),
    )
    found = repo.check().problems
    assert {snapshot for problem in found for snapshot in problem.snapshots} == {1, 2, 3}
    for number, expected in enumerate(releases, 1):
        result = repo.restore(number, tmp_path / f"out{number}")
        lost = {problem.path for problem in result.problems}
        assert lost == {problem.path for problem in found if number in problem.snapshots}
        assert 0 < len(lost) < (40 if number == 1 else 41)  # what lies before the damage is there
        for path, entry in entries(tmp_path / f"out{number}").items():
            assert expected[path].data == entry.data


def test_what_does_not_refer_to_the_damage_in_a_base_is_given_back(repo: Repository, tmp_path: Path) -> None:
    first = {f"{number}.bin": noise(20 * KIB, number) for number in range(10)}
    save(repo, tmp_path / "tree", first)
    save(repo, tmp_path / "tree", {name: b"changed" + data for name, data in first.items()})
    sql(
        repo.path,
        "UPDATE packs SET data = CAST(substr(data, 1, 30000) || x'00' || substr(data, 30002) AS BLOB) WHERE id = 1",
    )
    assert problem_paths(repo) == {"1.bin"}
    assert [problem.path for problem in repo.restore(2, tmp_path / "out").problems] == ["1.bin"]


def test_what_refers_to_what_is_left_of_a_base_is_given_back(repo: Repository, tmp_path: Path) -> None:
    first = {f"{number:02}.bin": noise(20 * KIB, number) + bytes(20 * KIB) for number in range(20)}
    save(repo, tmp_path / "tree", first)
    save(repo, tmp_path / "tree", {name: b"changed" + data for name, data in first.items()})
    assert codecs(repo) == [(1, ZSTD, None), (2, ZSTD_BASE, 1)]
    sql(repo.path, "UPDATE packs SET data = substr(data, 1, length(data) / 2) WHERE id = 1")
    lost = {problem.path for problem in repo.check().problems if 2 in problem.snapshots}
    assert 0 < len(lost) < 14
    assert {problem.path for problem in repo.restore(2, tmp_path / "out").problems} == lost


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("DELETE FROM bases", "it does not say which pack is its base"),
        ("DELETE FROM packs WHERE id = 1", "its base, pack 1, cannot be read: pack 1 is missing"),
        ("UPDATE bases SET base = pack", "its base, pack 2, has a base itself"),
        ("UPDATE bases SET base = 3 WHERE pack = 2", "its base, pack 3, has a base itself"),
        ("UPDATE bases SET base = 'x'", "it does not say which pack is its base"),
        (
            "UPDATE packs SET data = substr(data, 9) WHERE id = 1",
            "its base, pack 1, is damaged: a pack cannot be decom",
        ),
    ],
)
@pytest.mark.plain
def test_pack_without_a_base_that_it_can_be_read_with_says_why(
    repo: Repository, releases: List[Dict[bytes, Entry]], statement: str, message: str
) -> None:
    damage(repo, statement)
    with repo._pool.reading(fresh=True) as database:
        damaged = PackSource(database).read(2).result()
    assert damaged.damage is not None
    assert damaged.damage.startswith(message)


HOSTILE = {
    "missing base": ("DELETE FROM packs WHERE id = 1", "refers to pack 1, which is missing"),
    "no row": ("DELETE FROM bases", "refers to a base, but does not say to which"),
    "itself": ("UPDATE bases SET base = pack", "which refers to another one itself"),
    "a chain": ("UPDATE bases SET base = 2 WHERE pack = 3", "pack 3 refers to pack 2, which refers to another one"),
    "a ring": ("UPDATE bases SET base = 5 - pack", "which refers to another one itself"),
    "another base": ("UPDATE bases SET base = 4", "content-corrupt"),
    "text": ("UPDATE bases SET base = 'x'", "which is missing"),
    "a row too many": ("INSERT INTO bases VALUES (1, 4)", "pack 1 has pack 4 as its base, but does not refer to one"),
    "a row of nothing": ("INSERT INTO bases VALUES (77, 1)", "pack 77 is missing, but has a base"),
    "codec without base": ("UPDATE packs SET codec = 'zstd' WHERE id = 2", "pack 2 has pack 1 as its base, but does"),
    "base that claims to be enormous": (f"UPDATE packs SET size = {1 << 40} WHERE id = 1", "content-corrupt"),
    "base that claims to be small": ("UPDATE packs SET size = 5 WHERE id = 1", "content-corrupt"),
    "empty base": ("UPDATE packs SET size = 0, codec = 'raw', data = x'' WHERE id = 1", "content-corrupt"),
    "tiny base": ("UPDATE packs SET size = 3, codec = 'raw', data = x'010203' WHERE id = 1", "content-corrupt"),
    "enormous base": (
        f"UPDATE packs SET size = {17 * MIB}, codec = 'raw', data = zeroblob({17 * MIB}) WHERE id = 1",
        "content-corrupt",
    ),
    "base of text": ("UPDATE packs SET data = CAST('text' AS TEXT) WHERE id = 1", "content-corrupt"),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.plain
def test_hostile_row_is_found_and_does_no_harm(
    repo: Repository, releases: List[Dict[bytes, Entry]], tmp_path: Path, name: str
) -> None:
    save(repo, tmp_path / "other", {"x": noise(30 * KIB)})
    statement, expected = HOSTILE[name]
    damage(repo, statement)
    for quick in (False, True):
        found = repo.check(quick=quick).problems
        if not quick or expected != "content-corrupt":
            assert any(expected in (problem.kind, problem.message) or expected in problem.message for problem in found)
    hit = {(problem.path, number) for problem in repo.check().problems for number in problem.snapshots}
    for number, tree in enumerate(releases, 1):
        problems = repo.restore(number, tmp_path / f"out{number}").problems
        assert {(problem.path, number) for problem in problems} == {place for place in hit if place[1] == number}
        for path, entry in entries(tmp_path / f"out{number}").items():
            assert tree[path].data == entry.data
    repo.snapshot(tmp_path / "other")
    write_tree(tmp_path / "tree", dict(release(4)))
    repo.snapshot(tmp_path / "tree")
    for number in (1, 3):
        repo.prune(number)
    after = restored(repo, 6, tmp_path / "new")
    assert {path: entry.data for path, entry in after.items()} == {
        path: entry.data for path, entry in entries(tmp_path / "tree").items()
    }


@pytest.mark.plain
def test_damaged_base_is_no_base_for_what_comes_next(repo: Repository, tmp_path: Path) -> None:
    save(repo, tmp_path / "tree", release(0))
    damage_first_pack(repo)
    expected = save(repo, tmp_path / "tree", release(1))
    assert codecs(repo) == [(1, ZSTD, None), (2, ZSTD, None)]
    assert restored(repo, 2, tmp_path / "out") == expected


def test_prune_leaves_what_refers_to_a_damaged_base(repo: Repository, tmp_path: Path) -> None:
    first, second = release(0), release(1)
    few = dict(list(second.items())[:15])
    save(repo, tmp_path / "tree", first)
    save(repo, tmp_path / "tree", {**first, **few})
    save(repo, tmp_path / "tree", few)
    sql(
        repo.path,
        "UPDATE packs SET data = CAST(substr(data, 1, 500) || x'00ff' || substr(data, 503) AS BLOB) WHERE id = 1",
    )
    before = codecs(repo)
    result = repo.prune([1, 2])
    assert [problem.kind for problem in result.problems] == ["content-corrupt"]
    assert codecs(repo) == before


# Frames.


@pytest.mark.parametrize("compression", sorted(SETTINGS))
@given(parts=st.lists(st.tuples(st.integers(0, 60_000), st.integers(0, 40_000)), max_size=6), seed=st.integers(0, 3))
@settings(max_examples=15, deadline=None)
def test_whatever_is_compressed_with_a_base_comes_back(
    compression: str, parts: List[Tuple[int, int]], seed: int
) -> None:
    base = text(seed, 60_000)
    data = b"".join(base[begin : begin + length] + noise(50, begin) for begin, length in parts)
    codec, frame = compressed_with(data, base, compression)
    assert decompress(codec, frame, len(data), base) == data
    assert salvage(codec, frame, len(data), base) == data
    assert len(frame) <= len(compress(data, compression)[1])
    if codec == ZSTD_BASE:
        for other in (bytes(len(base)), base[1:] + b"x", base[:-1], b"", b"1234567", None):
            with pytest.raises(ContentCorruptError):
                decompress(codec, frame, len(data), other)
            assert len(salvage(codec, frame, len(data), other)) <= len(data)


@pytest.mark.parametrize("size", [0, 1, 99_999, 100_001, 10 * MIB])
def test_frame_with_a_base_gives_exactly_what_is_declared_or_nothing(size: int) -> None:
    base = text("base", 100_000)
    codec, frame = compressed_with(base, base)
    assert codec == ZSTD_BASE
    with pytest.raises(ContentCorruptError, match="does not decompress to its"):
        decompress(codec, frame, size, base)
    assert len(salvage(codec, frame, size, base)) == min(size, 100_000)


def test_base_of_the_largest_size_is_reached_to_its_beginning() -> None:
    base = text("begin", 100_000) + bytes(MAX_PACK_SIZE - 100_000)
    data = bytes(2 * MIB) + text("begin", 100_000)
    codec, frame = compressed_with(data, base)
    assert codec == ZSTD_BASE
    assert len(frame) < 2000
    assert decompress(codec, frame, len(data), base) == data


def test_tiny_base_is_none() -> None:
    assert compressed_with(b"x" * 1000, b"x" * 7) == compress(b"x" * 1000)


# Filling.


BASES = (Base(1, 400), Base(2, MIB), Base(3, 100))


@given(
    steps=st.lists(st.one_of(st.integers(0, 60_000), st.sampled_from([None, *BASES])), max_size=60),
    in_place=st.booleans(),
)
@example(steps=[0, BASES[0], 40_000], in_place=False)
@settings(max_examples=100, deadline=None)
def test_whatever_comes_is_packed_once_and_only_large_groups_refer_to_their_base(
    steps: List[Any], in_place: bool
) -> None:
    """The model: each content, and the group that it came in. Base 3 cannot be read."""
    pack_size, room = 200_000, 60_001
    packs: List[Tuple[Members, bytes, Optional[int]]] = []

    def seal(members: Members, buffer: memoryview, begin: int, end: int, base: Optional[StoredPack]) -> memoryview:
        packs.append((members, bytes(buffer[begin:end]), None if base is None else base.id))
        return buffer if in_place or begin else memoryview(bytearray(pack_size + room))

    def read(base: Base) -> Optional[StoredPack]:
        return None if base.id == 3 else StoredPack(base.id, base.size, RAW, b"")

    filling = Filling(pack_size, memoryview(bytearray(pack_size + room)), read, seal)
    group: Optional[Base] = None
    came: Dict[int, Tuple[bytes, Optional[Base]]] = {}
    for number, step in enumerate(steps):
        if isinstance(step, int):
            data = (b"%d " % number * step)[:step]
            filling.room(len(data))[:] = data
            filling.keep(number, hashlib.sha256(data).digest(), len(data))
            came[number] = (data, group)
        else:
            filling.begin_group(step)
            group = step
    filling.finish()
    found = []
    for members, data, base in packs:
        assert data == b"".join(came[number][0] for number, *_ in members)
        assert len(data) < pack_size + room
        found += [number for number, *_ in members]
        if base is not None:
            assert {came[number][1] for number, *_ in members} == {BASES[base - 1]}
            assert len(data) >= least_bytes(BASES[base - 1])
    assert sorted(found) == sorted(came)


# Copying to another repository.


def test_a_copy_takes_packs_with_bases_as_they_are(
    repo: Repository, releases: List[Dict[bytes, Entry]], tmp_path: Path
) -> None:
    with Repository(tmp_path / "other.db") as other:
        assert repo.copy(other).whole_packs == 3
        assert codecs(other) == codecs(repo)
        assert sql(other.path, "SELECT data FROM packs") == sql(repo.path, "SELECT data FROM packs")
        assert other.check().problems == ()
        for number, expected in enumerate(releases, 1):
            assert restored(other, number, tmp_path / f"out{number}") == expected


def test_a_copy_made_bit_by_bit_finds_its_bases_whatever_their_numbers(
    repo: Repository, releases: List[Dict[bytes, Entry]], tmp_path: Path
) -> None:
    with Repository(tmp_path / "other.db") as other:
        other.snapshot(write_tree(tmp_path / "own", {"own": noise(5000)}))
        for number in (1, 2, 3):
            repo.copy(other, snapshots=[number])
        assert codecs(other) == [(1, RAW, None), (2, ZSTD, None), (3, ZSTD_BASE, 2), (4, ZSTD_BASE, 2)]
        assert other.check().problems == ()
        for number, expected in enumerate(releases, 1):
            assert restored(other, number + 1, tmp_path / f"out{number}") == expected


def test_what_is_packed_anew_by_a_copy_refers_to_what_holds_its_base_there(
    repo: Repository, releases: List[Dict[bytes, Entry]], tmp_path: Path
) -> None:
    with Repository(tmp_path / "other.db") as other:
        result = repo.copy(other, compression="max")
        assert (result.whole_packs, codecs(other)) == (0, codecs(repo))
        assert stored_bytes(other, 2) * 5 < stored_bytes(other, 1)
        assert other.check().problems == ()
        assert restored(other, 2, tmp_path / "out") == releases[1]


def test_of_a_snapshot_that_is_copied_alone_what_has_no_base_there_stands_alone(
    repo: Repository, releases: List[Dict[bytes, Entry]], tmp_path: Path
) -> None:
    with Repository(tmp_path / "other.db") as other:
        assert repo.copy(other, snapshots=[3]).whole_packs == 0
        assert [codec for _, codec, _ in codecs(other)] == [ZSTD]
        assert repo.copy(other, snapshots=[2]).whole_packs == 0
        assert other.check().problems == ()
        assert restored(other, 1, tmp_path / "three") == releases[2]
        assert restored(other, 2, tmp_path / "two") == releases[1]


def test_a_copy_of_files_whose_base_lies_in_the_same_snapshot_refers_to_it(repo: Repository, tmp_path: Path) -> None:
    files = release(0)
    save(repo, tmp_path / "tree", files)
    kept = {f"kept/{name}": data for name, data in files.items()}
    expected = save(repo, tmp_path / "tree", {**kept, **release(1)})
    with Repository(tmp_path / "other.db") as other:
        repo.copy(other, snapshots=[2])
        assert [codec for _, codec, _ in codecs(other)] == [ZSTD, ZSTD_BASE]
        assert other.check().problems == ()
        assert restored(other, 1, tmp_path / "out") == expected


@pytest.mark.plain
def test_a_copy_beside_a_damaged_base_names_what_is_lost_and_keeps_the_rest(
    repo: Repository, releases: List[Dict[bytes, Entry]], tmp_path: Path
) -> None:
    repo.close()
    damage_first_pack(repo)
    with Repository(tmp_path / "other.db") as other:
        result = repo.copy(other, incomplete=True)
        lost = {problem.path for problem in result.problems if problem.kind == "content-corrupt"}
        assert lost
        assert other.check().problems == ()
        for number, expected in enumerate(releases, 1):
            there = restored(other, number, tmp_path / f"out{number}")
            assert {os.fsencode(path) for path in lost} >= {path for path in expected if path not in there}
            assert all(expected[path] == entry for path, entry in there.items())


def test_a_base_that_is_pruned_at_the_destination_meanwhile_is_not_referred_to(
    repo: Repository, releases: List[Dict[bytes, Entry]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backuptool.operations.copy.counterparts import Counterparts

    target = tmp_path / "other.db"
    with Repository(target) as other:
        repo.copy(other, snapshots=[1])
        found = Counterparts.reference
        pruned: List[int] = []

        def prune_first(self: Counterparts, base: int) -> Any:
            reference = found(self, base)
            if not pruned:
                pruned.append(1)
                with Repository(target) as third:
                    third.prune(1)
            return reference

        monkeypatch.setattr(Counterparts, "reference", prune_first)
        repo.copy(other, snapshots=[2])
        assert pruned
        assert other.check().problems == ()
        assert restored(other, 2, tmp_path / "out") == releases[1]
