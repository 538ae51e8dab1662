"""Copying between repositories: what arrives, what is not read twice, and what damage does."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import pytest
from conftest import Clock, Entry, damage_content, entries, noise, restored, sql, write, write_tree
from properties import HealthCheck, given, settings, st
from trees import differences, make_every_kind, make_sparse_file, random_bytes

import backuptool
from backuptool import CopyResult, CorruptionError, ProgressEvent, Repository, RepositoryError, SnapshotNotFoundError
from backuptool.operations.copy import carrying
from backuptool.storage import transfer, unpacking
from backuptool.storage.digest import layout_entry


@pytest.fixture
def other(tmp_path: Path, repo: Repository) -> Any:
    """Another repository, which does not exist yet."""
    with Repository(tmp_path / "other.db", lock_timeout=10) as repository:
        yield repository


@pytest.fixture
def history(repo: Repository, tmp_path: Path) -> Path:
    """A source with four snapshots: files that are added, changed, removed, and come back."""
    source = write_tree(
        tmp_path / "source",
        {**{f"d{n % 5}/{n:03}.txt": b"file %d " % n * 50 for n in range(60)}, "large": random_bytes(2_500_000)},
    )
    repo.snapshot(source, note="the first", tags=["one", "daily"])
    write(source / "d1/001.txt", b"changed")
    (source / "d2/002.txt").unlink()
    write(source / "new", b"new")
    repo.snapshot(source, tags=["two"])
    write(source / "d2/002.txt", b"file 2 " * 50)
    write(source / "large", random_bytes(2_500_000)[:1_500_000] + b"inserted" + random_bytes(2_500_000)[1_500_000:])
    repo.snapshot(source, host="elsewhere")
    repo.snapshot(source, note="with\x00nothing\udcff new")
    return source


def described(repo: Repository) -> List[Tuple[Any, ...]]:
    """Return what a copy keeps of each snapshot."""
    return [
        (
            *(s.host, s.source, s.started_ns, s.finished_ns, s.files, s.directories, s.size_bytes, s.note, s.tags),
            *(s.skipped_files, s.problem_files, s.pinned, s.alerts),
        )
        for s in repo.list()
    ]


def tree_digests(repo: Repository) -> List[bytes]:
    return [digest for (digest,) in sql(repo.path, "SELECT tree_digest FROM snapshots ORDER BY id")]


def assert_same(repo: Repository, other: Repository, tmp_path: Path) -> None:
    """Restore everything from both, and compare."""
    assert described(other) == described(repo)
    assert tree_digests(other) == tree_digests(repo)
    assert other.check().problems == ()
    for one, two in zip(repo.list(), other.list()):
        left, right = tmp_path / f"left {one.id}", tmp_path / f"right {two.id}"
        assert repo.restore(one.id, left).problems == ()
        assert other.restore(two.id, right).problems == ()
        assert differences(left, right) == []


# What arrives.


@pytest.mark.parametrize("page", [4096, 3])
@pytest.mark.both
def test_everything_arrives_as_it_was(
    repo: Repository, other: Repository, history: Path, tmp_path: Path, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_PAGE", page)
    result = repo.copy(other)
    assert result.problems == ()
    assert (result.copied_snapshots, result.present_snapshots) == (4, 0)
    assert [(copied.original.id, copied.snapshot.id, copied.was_there) for copied in result.copies] == [
        *((1, 1, False), (2, 2, False), (3, 3, False), (4, 4, False))
    ]
    assert result.destination == other.path
    assert_same(repo, other, tmp_path)
    # The same rows, the same contents, the same bytes: nothing is kept twice, and nothing more.
    for statement in (
        "SELECT count(*), sum(size) FROM contents",
        "SELECT count(*) FROM files",
        "SELECT count(*) FROM parts",
        "SELECT hash, size, refs, layout FROM contents ORDER BY hash",
        "SELECT path, last IS NULL, added, ctime_ns, inode FROM files ORDER BY source, path, first",
        "SELECT distinct_size FROM snapshots ORDER BY id",
    ):
        assert sql(repo.path, statement) == sql(other.path, statement)


def test_every_kind_of_file_arrives(repo: Repository, other: Repository, tmp_path: Path) -> None:
    make_every_kind(tmp_path / "source")
    make_sparse_file(tmp_path / "source" / "huge", 1 << 25, [(5 << 20, b"data"), (20 << 20, random_bytes(3 << 20))])
    repo.snapshot(tmp_path / "source")
    assert repo.copy(other).problems == ()
    assert other.restore(1, tmp_path / "out").problems == ()
    assert differences(tmp_path / "source", tmp_path / "out") == []
    assert other.check().ok


def test_a_path_names_the_destination_as_well(repo: Repository, tree: Path, tmp_path: Path) -> None:
    repo.snapshot(tree)
    result = repo.copy(tmp_path / "a.db")
    assert result.destination == str(tmp_path / "a.db")
    assert os.stat(tmp_path / "a.db").st_mode & 0o777 == 0o600
    with Repository(tmp_path / "a.db") as copied:
        assert copied.check().ok
        assert len(copied.list()) == 1


def test_copied_again_nothing_happens(repo: Repository, other: Repository, history: Path) -> None:
    repo.copy(other)
    other.close()
    before = Path(other.path).read_bytes()
    result = repo.copy(other)
    assert (result.copied_snapshots, result.present_snapshots, result.new_bytes, result.problems) == (0, 4, 0, ())
    assert [copied.snapshot.id for copied in result.copies] == [1, 2, 3, 4]
    other.close()
    assert Path(other.path).read_bytes() == before


def test_snapshots_may_be_named(repo: Repository, other: Repository, history: Path, tmp_path: Path) -> None:
    assert [copied.original.id for copied in repo.copy(other, 2).copies] == [2]
    assert [copied.original.id for copied in repo.copy(other, ["latest", 2]).copies] == [2, 4]
    assert [snapshot.note for snapshot in other.list()] == ["", "with\x00nothing\udcff new"]
    assert other.check().ok
    for number, there in ((2, 1), (4, 2)):
        assert restored(repo, number, tmp_path / f"a{number}") == restored(other, there, tmp_path / f"b{number}")
    with pytest.raises(SnapshotNotFoundError):
        repo.copy(other, [1, 77])
    assert len(other.list()) == 2


def test_an_older_snapshot_that_comes_later_is_told(
    repo: Repository, other: Repository, history: Path, tmp_path: Path
) -> None:
    repo.copy(other, 4)
    result = repo.copy(other)
    assert [(problem.kind, problem.snapshots) for problem in result.problems] == [
        ("out-of-order", (1,)),
        ("out-of-order", (2,)),
    ]
    assert [(copied.original.id, copied.snapshot.id) for copied in result.copies] == [(1, 2), (2, 3), (3, 4), (4, 1)]
    assert other.check().ok
    for copied in result.copies:
        left = restored(repo, copied.original.id, tmp_path / f"a{copied.original.id}")
        assert left == restored(other, copied.snapshot.id, tmp_path / f"b{copied.snapshot.id}")


def test_a_source_goes_on_at_the_destination_without_being_read_again(
    repo: Repository, other: Repository, history: Path
) -> None:
    """What change detection compares with is copied too."""
    repo.copy(other)
    result = other.snapshot(history)
    assert (result.read_bytes, result.new_files, result.changed_files, result.unchanged_files) == (0, 0, 0, 62)
    write(history / "another", b"x")
    other.snapshot(history)
    assert other.check().ok
    assert repo.copy(other).present_snapshots == 4


@pytest.mark.both
def test_two_repositories_can_be_merged(repo: Repository, other: Repository, tmp_path: Path, history: Path) -> None:
    also = write_tree(tmp_path / "also", {"x": b"file 7 " * 50, "large": (history / "large").read_bytes(), "y": b"y"})
    other.snapshot(also)
    taken = other.list()[0]
    result = repo.copy(other)
    assert result.new_bytes < 3_000_000
    assert [copied.snapshot.id for copied in result.copies] == [2, 3, 4, 5]
    assert other.list()[0] == taken
    assert other.check().ok
    assert differences(history, other_restored(other, 5, tmp_path)) == []


def other_restored(repo: Repository, number: int, tmp_path: Path) -> Path:
    out = tmp_path / f"out {number}"
    assert repo.restore(number, out).problems == ()
    return out


# What it costs.


def counted(monkeypatch: pytest.MonkeyPatch) -> List[int]:
    """Return a list that grows by the number of each pack that is read for its small contents."""
    read: List[int] = []
    original = unpacking.read_pack

    def read_pack(database: Any, pack: int) -> Any:
        read.append(pack)
        return original(database, pack)

    monkeypatch.setattr(carrying, "read_pack", read_pack)
    return read


def test_the_next_snapshot_costs_what_changed(
    repo: Repository, other: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_tree(tmp_path / "source", {f"{n:04}": b"%d" % n * 40 for n in range(1200)})
    repo.snapshot(source)
    repo.copy(other)
    write(source / "0007", b"changed")
    (source / "0008").unlink()
    repo.snapshot(source)
    read = counted(monkeypatch)
    result = repo.copy(other)
    assert (result.copied_versions, result.new_bytes, len(read)) == (2, 7, 1)  # the file, and its directory's time
    assert tree_digests(other) == tree_digests(repo)
    assert other.check().ok
    read.clear()
    repo.snapshot(source)
    assert (repo.copy(other).copied_versions, read) == (0, [])


def test_each_pack_is_read_once_and_taken_as_it_is_if_it_is_wanted_as_a_whole(
    repo: Repository, other: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_tree(tmp_path / "source", {f"{n:04}.{'ab'[n % 2]}": noise(20_000, n) for n in range(250)})
    repo.snapshot(source)
    read = counted(monkeypatch)
    result = repo.copy(other)
    packs = sql(repo.path, "SELECT count(*) FROM packs")[0][0]
    assert packs == 3
    assert (sorted(read), result.whole_packs) == ([1, 2, 3], packs)
    assert sql(other.path, "SELECT data FROM packs ORDER BY id") == sql(repo.path, "SELECT data FROM packs ORDER BY id")
    again = repo.copy(tmp_path / "anew.db", compression="max")
    assert again.whole_packs == 0
    assert sql(tmp_path / "anew.db", "SELECT count(*) FROM packs") == [(1,)]


def test_of_a_pack_that_is_partly_wanted_only_that_part_is_stored(
    repo: Repository, other: Repository, tmp_path: Path
) -> None:
    source = write_tree(tmp_path / "source", {f"{n}": noise(1000, n) for n in range(100)})
    repo.snapshot(source)
    half = write_tree(tmp_path / "half", {f"{n}": noise(1000, n) for n in range(0, 100, 2)})
    other.snapshot(half)
    result = repo.copy(other)
    assert (result.whole_packs, result.new_bytes) == (0, 50_000)
    assert other.check().ok
    assert differences(source, other_restored(other, 2, tmp_path)) == []


def test_after_a_prune_the_difference_is_still_a_query(
    repo: Repository, other: Repository, tree: Path, tmp_path: Path
) -> None:
    repo.snapshot(tree)
    repo.copy(other)
    for number in range(5):
        write(tree / f"new {number}", b"%d" % number)
        (tree / f"new {number - 2}").unlink() if number > 1 else None
        repo.snapshot(tree)
    repo.prune([2, 3, 5])
    assert repo.copy(other).copied_snapshots == 2
    assert_same_numbers = [(1, 1), (4, 2), (6, 3)]
    for number, there in assert_same_numbers:
        assert restored(repo, number, tmp_path / f"a{number}") == restored(other, there, tmp_path / f"b{number}")
    assert other.check().ok


# Damage.


def test_a_damaged_snapshot_is_not_copied_and_the_files_are_named(
    repo: Repository, other: Repository, history: Path, tmp_path: Path
) -> None:
    (history / "d1/001.txt").unlink()
    repo.snapshot(history)
    damage_content(repo, "d1/001.txt")  # in snapshot 1 alone: the first version of it
    result = repo.copy(other)
    assert [(p.kind, p.path, p.snapshots) for p in result.problems] == [
        ("content-corrupt", "d1/001.txt", (1,)),
        ("not-copied", "", (1,)),
    ]
    assert [copied.original.id for copied in result.copies] == [2, 3, 4, 5]
    assert other.check().ok
    for number, there in ((2, 1), (5, 4)):
        assert restored(repo, number, tmp_path / f"a{number}") == restored(other, there, tmp_path / f"b{number}")


#: Of the contents, by their hashes.
INDEX = "contents_hash"


def test_damage_at_the_destination_is_not_taken_for_that_of_a_file(
    repo: Repository, other: Repository, tmp_path: Path
) -> None:
    write(tmp_path / "tree" / "large", noise(1_500_000))
    repo.snapshot(tmp_path / "tree")
    write(tmp_path / "tree" / "another", b"another")
    other.snapshot(tmp_path / "tree", host="elsewhere")
    page, size = sql(
        other.path, "SELECT rootpage, page_size FROM sqlite_master, pragma_page_size WHERE name = ?", INDEX
    )[0]
    other.close()
    with open(other.path, "r+b") as file:
        file.seek((page - 1) * size)
        file.write(bytes(size))
    with pytest.raises(CorruptionError) as caught:
        repo.copy(other)
    assert caught.value.path == other.path


@pytest.mark.parametrize("path", ["d3/003.txt", "large"])
def test_an_incomplete_copy_has_all_the_rest_and_does_not_look_whole(
    repo: Repository, other: Repository, history: Path, tmp_path: Path, path: str
) -> None:
    write(history / path, b"later")
    repo.snapshot(history)
    damage_content(repo, path)
    assert [copied.original.id for copied in repo.copy(tmp_path / "strict.db").copies] == [5]
    result = repo.copy(other, incomplete=True)
    assert {(p.kind, p.path) for p in result.problems} == {("content-corrupt", path)}
    assert None not in {p.content for p in result.problems}
    damaged = {number for problem in result.problems for number in problem.snapshots}
    assert damaged == {1, 2, 3, 4}
    assert len(result.copies) == 5
    for original, copied in zip(repo.list(), other.list()):
        lost = original.id in damaged
        assert ("incomplete" in copied.tags) == lost
        assert copied.problem_files == int(lost)
        assert copied.files == original.files - lost
    assert other.check().ok
    whole = {p.relative_to(history) for p in history.rglob("*")}
    other.restore(4, tmp_path / "out")
    assert {p.relative_to(tmp_path / "out") for p in (tmp_path / "out").rglob("*")} == whole - {Path(path)}
    again = repo.copy(other, incomplete=True)
    assert (again.copied_snapshots, again.present_snapshots) == (0, 5)


@pytest.mark.parametrize("incomplete", [False, True])
def test_what_is_damaged_is_not_counted_as_new(
    repo: Repository, other: Repository, tmp_path: Path, incomplete: bool
) -> None:
    for number in range(4):
        write(tmp_path / "tree" / f"{number}", noise(1000 + number, number))
    repo.snapshot(tmp_path / "tree")
    for number in range(3):
        damage_content(repo, f"{number}")
        there = [3, 2, 1][number]
        result = repo.copy(tmp_path / f"{number}.db", incomplete=incomplete)
        arrived = sql(tmp_path / f"{number}.db", "SELECT coalesce(sum(size), 0), count(*) FROM contents")
        assert arrived == [(result.new_bytes, there)]
        assert result.new_bytes == sum(range(1001 + number, 1004))


def test_an_incomplete_copy_is_followed_by_a_whole_one_when_the_damage_is_mended(
    repo: Repository, other: Repository, tree: Path
) -> None:
    repo.snapshot(tree)
    repo.close()
    sound = Path(repo.path).read_bytes()
    damage_content(repo, "b.txt")
    repo.copy(other, incomplete=True)
    Path(repo.path).write_bytes(sound)
    result = repo.copy(other)
    assert (result.copied_snapshots, result.problems) == (1, ())
    assert [snapshot.tags for snapshot in other.list()] == [("incomplete",), ()]
    assert other.check().ok


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE files SET mode = mode + 1 WHERE path = 'a.txt'",
        "DELETE FROM files WHERE path = 'a.txt'",
        "UPDATE snapshots SET note = 'forged'",
        "UPDATE snapshots SET files = files + 1",
        "UPDATE snapshots SET tree_digest = zeroblob(32)",
    ],
)
def test_a_changed_catalog_is_not_copied_as_if_it_were_sound(
    repo: Repository, other: Repository, tree: Path, statement: str
) -> None:
    repo.snapshot(tree)
    repo.close()
    sql(repo.path, statement)
    result = repo.copy(other)
    assert [problem.kind for problem in result.problems] == ["snapshot-corrupt", "not-copied"]
    assert len(other.list()) == 0
    assert repo.copy(other, incomplete=True).copied_snapshots == 1
    assert other.list()[0].tags == ("incomplete",)
    assert other.check().ok


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ("path = '../a.txt'", "catalog-corrupt"),
        ("mode = 'x'", "catalog-corrupt"),
        ("size = size + 1", "content-corrupt"),
        ("content = (SELECT max(id) FROM contents) + 9", "content-corrupt"),
    ],
)
def test_a_row_that_no_file_can_have_is_not_taken_over(
    repo: Repository, other: Repository, tree: Path, tmp_path: Path, change: str, kind: str
) -> None:
    repo.snapshot(tree)
    repo.close()
    sql(repo.path, f"UPDATE files SET {change} WHERE path = 'a.txt'")
    result = repo.copy(other, incomplete=True)
    assert kind in [problem.kind for problem in result.problems]
    assert other.list()[0].files == 4
    assert other.check().ok
    assert other.restore(1, tmp_path / "out").problems == ()


def test_where_the_row_of_a_snapshot_cannot_be_read_the_others_are_copied(
    repo: Repository, other: Repository, tree: Path
) -> None:
    repo.snapshot(tree)
    write(tree / "new", b"new")
    repo.snapshot(tree)
    repo.close()
    sql(repo.path, "UPDATE snapshots SET tags = 'no list' WHERE id = 1")
    result = repo.copy(other)
    assert [problem.kind for problem in result.problems] == ["snapshot-corrupt"]
    assert "the row of snapshot 1 is damaged" in result.problems[0].message
    assert [copied.original.id for copied in result.copies] == [2]
    assert other.check().ok


def test_parts_that_do_not_make_up_the_hash_of_their_content_are_not_taken_over(
    repo: Repository, other: Repository, tmp_path: Path
) -> None:
    """A forged repository could otherwise give a well-known file other bytes, also for snapshots yet to be taken."""
    source = write_tree(tmp_path / "source", {"large": random_bytes(2_000_000)})
    repo.snapshot(source)
    repo.close()
    ((content,),) = sql(repo.path, "SELECT id FROM contents WHERE layout IS NOT NULL")
    parts = sql(repo.path, "SELECT offset, part FROM parts WHERE content = ? ORDER BY offset", content)
    sizes = dict(sql(repo.path, "SELECT id, size FROM contents"))
    hashes = dict(sql(repo.path, "SELECT id, hash FROM contents"))
    order = [part for _, part in parts]
    order[0], order[1] = order[1], order[0]
    sql(repo.path, "DELETE FROM parts")
    offset, layout = 0, hashlib.sha256()
    for part in order:
        sql(repo.path, "INSERT INTO parts VALUES (?, ?, ?)", content, offset, part)
        layout.update(layout_entry(offset, hashes[part]))
        offset += sizes[part]
    sql(repo.path, "UPDATE contents SET layout = ? WHERE id = ?", layout.digest(), content)
    result = repo.copy(other)
    assert [problem.kind for problem in result.problems] == ["content-corrupt", "not-copied"]
    assert sql(other.path, "SELECT count(*) FROM contents WHERE layout IS NOT NULL") == [(0,)]
    assert other.check().ok


# What others do meanwhile.


@pytest.mark.both
def test_an_interrupted_copy_is_finished_by_the_next_one(
    repo: Repository, other: Repository, history: Path, tmp_path: Path
) -> None:
    commits = []

    def interrupt(event: ProgressEvent) -> None:
        if event.phase == "commit":
            commits.append(event)
            if len(commits) == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repo.copy(other, progress=interrupt)
    assert len(other.list()) == 2
    assert other.check().ok
    result = repo.copy(other)
    assert (result.present_snapshots, result.copied_snapshots) == (2, 2)
    assert_same(repo, other, tmp_path)


def once_at_commit(action: Callable[[], object]) -> Callable[[ProgressEvent], None]:
    done: List[bool] = []

    def watch(event: ProgressEvent) -> None:
        if event.phase == "commit" and not done:
            done.append(True)
            action()

    return watch


def test_a_snapshot_of_the_source_at_the_destination_meanwhile_is_noticed(
    repo: Repository, other: Repository, history: Path, tmp_path: Path
) -> None:
    with Repository(other.path) as beside:
        result = repo.copy(other, 1, progress=once_at_commit(lambda: beside.snapshot(history)))
    assert [copied.snapshot.id for copied in result.copies] == [2]
    assert [problem.kind for problem in result.problems] == ["out-of-order"]
    assert other.check().ok
    assert restored(repo, 1, tmp_path / "a") == restored(other, 2, tmp_path / "b")


def test_contents_that_a_prune_takes_at_the_destination_meanwhile_are_copied_again(
    repo: Repository, other: Repository, tree: Path, tmp_path: Path
) -> None:
    other.snapshot(tree, host="another")
    repo.snapshot(tree)
    with Repository(other.path) as beside:
        result = repo.copy(other, progress=once_at_commit(lambda: beside.prune(1)))
    assert result.copied_snapshots == 1
    assert other.check().ok
    assert differences(tree, other_restored(other, 2, tmp_path)) == []


def test_a_snapshot_pruned_here_meanwhile_is_not_copied_and_the_others_are(
    repo: Repository, other: Repository, history: Path
) -> None:
    with Repository(repo.path) as beside:
        result = repo.copy(other, [1, 2, 4], progress=once_at_commit(lambda: beside.prune(2)))
    assert [(p.kind, p.snapshots) for p in result.problems] == [("not-copied", (2,))]
    assert [copied.original.id for copied in result.copies] == [1, 4]
    assert other.check().ok


def test_a_pack_that_a_prune_moves_meanwhile_is_found(
    repo: Repository, other: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_tree(tmp_path / "source", {f"{n}": noise(1000, n) for n in range(100)})
    repo.snapshot(source)
    for n in range(60):
        (source / f"{n}").unlink()
    repo.snapshot(source)
    original = unpacking.read_pack

    def read_pack(database: Any, pack: int) -> Any:
        with Repository(repo.path) as beside:
            if len(beside.list()) == 2:
                beside.prune(1)
        return original(database, pack)

    monkeypatch.setattr(carrying, "read_pack", read_pack)
    assert repo.copy(other, 2).problems == ()
    assert differences(source, other_restored(other, 1, tmp_path)) == []


def test_a_repository_is_not_copied_into_itself(repo: Repository, tree: Path, tmp_path: Path) -> None:
    repo.snapshot(tree)
    (tmp_path / "link.db").symlink_to(repo.path)
    for same in (repo, repo.path, tmp_path / "link.db"):
        with pytest.raises(RepositoryError, match="into itself"):
            repo.copy(same)
    with pytest.raises(ValueError, match="compression must be"):
        repo.copy(tmp_path / "x.db", compression="none")  # type: ignore[arg-type]
    assert not (tmp_path / "x.db").exists()
    with Repository(tmp_path / "none.db") as none, pytest.raises(backuptool.RepositoryNotFoundError):
        none.copy(tmp_path / "x.db")
    assert not (tmp_path / "x.db").exists()


# A model.

Step = Tuple[str, int, int]
_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "remove", "snapshot", "prune", "copy", "copy one"]),
        st.integers(0, 7),
        st.integers(0, 5),
    ),
    min_size=5,
    max_size=40,
)


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(steps=_STEPS)
def test_whatever_is_done_each_copy_is_its_original(memory_path: Path, clock: Clock, steps: List[Step]) -> None:
    place = Path(tempfile.mkdtemp(dir=str(memory_path)))
    source = write_tree(place / "source", {"0": b"0"})
    known: Dict[int, Dict[bytes, Entry]] = {}
    copies: Dict[Tuple[int, int], int] = {}
    with Repository(place / "a.db", max_helpers=0) as repo, Repository(place / "b.db", max_helpers=0) as other:
        for what, name, number in steps:
            if what == "write":
                write(source / f"{name}", b"%d" % number * 100)
            elif what == "remove":
                (source / f"{name}").unlink() if (source / f"{name}").exists() else None
            elif what == "snapshot":
                known[repo.snapshot(source).snapshot.id] = entries(source)
            elif what == "prune":
                kept = [snapshot.id for snapshot in repo.list()] if known else []
                if len(kept) > 1:
                    repo.prune(kept[number % len(kept)])
            elif known:
                chosen = None if what == "copy" else repo.list()[number % len(repo.list())].id
                result = repo.copy(other, chosen)
                assert {problem.kind for problem in result.problems} <= {"out-of-order"}
                for copied in result.copies:
                    original = (copied.original.id, copied.original.started_ns)
                    assert copied.was_there == (original in copies)
                    assert copies.setdefault(original, copied.snapshot.id) == copied.snapshot.id
        if copies:
            assert other.check().problems == ()
            for (original_id, _), there in copies.items():
                assert restored(other, there, place / f"out {there}") == known[original_id]


def test_a_result_says_what_it_did_in_one_line(repo: Repository, other: Repository, history: Path) -> None:
    result = repo.copy(other)
    assert isinstance(result, CopyResult)
    assert repr(result).startswith(f"<CopyResult 4 snapshots copied to {other.path}, 0 there before, ")
    assert repr(result.copies[1]) == "<CopiedSnapshot 2 is 2>"
    assert repr(repo.copy(other).copies[0]) == "<CopiedSnapshot 1 is 1, as it was>"
