"""What may be saved, what is said of it, and that the repository is not."""

from __future__ import annotations

import os
import pickle
import socket
from pathlib import Path

import pytest
from conftest import Clock, entries, restored, write, write_tree
from trees import mounted

from backuptool import Repository, SourceError

from .making import Counts, counts, saved


def test_symlinked_target_saves_its_directory(repo: Repository, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("tree")
    first = repo.snapshot(tmp_path / "link")
    assert first.snapshot.source == str(tree)
    assert counts(first) == Counts(new=5)
    assert counts(repo.snapshot(tree)) == Counts(unchanged=5)


def test_symlinks_inside_are_not_followed(repo: Repository, tree: Path, tmp_path: Path) -> None:
    write(tmp_path / "outside" / "secret", b"not to be saved")
    (tree / "link").symlink_to(tmp_path / "outside")
    result = repo.snapshot(tree)
    assert counts(result) == Counts(new=6)
    assert saved(repo) == {"a.txt", "b.txt", "empty", "docs/copy of b.txt", "docs/deep/c.bin", "link"}
    assert restored(repo, 1, tmp_path / "out") == entries(tree)


@pytest.mark.parametrize("target", ["missing", "tree/a.txt", "dangling"])
def test_target_that_is_no_directory_leaves_no_repository(
    repo: Repository, tree: Path, tmp_path: Path, target: str
) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(SourceError, match=target) as caught:
        repo.snapshot(tmp_path / target)
    assert caught.value.path == str(tmp_path / target)
    assert not os.path.exists(repo.path)


def test_target_may_be_bytes_or_relative(
    repo: Repository, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert repo.snapshot("tree").snapshot.source == str(tree)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert counts(repo.snapshot("~/tree")) == Counts(unchanged=5)
    assert counts(repo.snapshot(os.fsencode(str(tree)))) == Counts(unchanged=5)


def test_notes_tags_and_host_are_kept(repo: Repository, tree: Path, clock: Clock) -> None:
    before = clock()
    result = repo.snapshot(tree, note="before\nthe move \u2603", tags=["b", "a", "b"], host="other")
    snapshot = repo.list()[0]
    assert snapshot == result.snapshot
    assert (snapshot.note, snapshot.tags, snapshot.host) == ("before\nthe move \u2603", ("a", "b"), "other")
    assert before <= snapshot.started_ns <= snapshot.finished_ns <= clock()
    assert repo.snapshot(tree, tags="one").snapshot.tags == ("one",)
    assert repo.snapshot(tree).snapshot.host == socket.gethostname()
    assert repo.check().problems == ()


def test_list_selects_by_source_host_and_tag(repo: Repository, tree: Path, tmp_path: Path) -> None:
    other = write_tree(tmp_path / "other", {"x": b"other"})
    repo.snapshot(tree, tags=["nightly"])
    repo.snapshot(other, host="elsewhere")
    repo.snapshot(tree, tags=["nightly", "kept"])
    (tmp_path / "link").symlink_to("tree")
    assert [snapshot.id for snapshot in repo.list()] == [1, 2, 3]
    assert [snapshot.id for snapshot in repo.list(source=tmp_path / "link")] == [1, 3]
    assert [snapshot.id for snapshot in repo.list(host="elsewhere")] == [2]
    assert [snapshot.id for snapshot in repo.list(tag="kept")] == [3]
    assert [snapshot.id for snapshot in repo.list(tag="kept", host="elsewhere")] == []
    listing = repo.list(source=tree)
    assert (listing.size_bytes, listing.distinct_bytes) == (2 * 6001, 4001)
    assert listing.repository_bytes == os.path.getsize(repo.path)


def test_numbers_are_never_used_again(repo: Repository, tree: Path) -> None:
    for _ in range(3):
        repo.snapshot(tree)
    repo.prune([3])
    assert repo.snapshot(tree).snapshot.id == 4
    repo.prune([1, 2, 4])
    assert repo.snapshot(tree).snapshot.id == 5


def test_pickled_repository_opens_the_same_file(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    with pickle.loads(pickle.dumps(repo)) as copy:
        assert copy.list() == repo.list()


def test_repository_can_be_used_after_it_was_closed(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    repo.close()
    assert counts(repo.snapshot(tree)) == Counts(unchanged=5)


def test_repository_inside_its_source_is_not_saved(tree: Path, tmp_path: Path, clock: Clock) -> None:
    with Repository(tree / "docs" / "backups.db") as repo:
        first = repo.snapshot(tree)
        assert counts(first) == Counts(new=5)
        os.link(repo.path, str(tree / "by another name"))
        (tree / "by symlink").symlink_to("docs/backups.db")
        second = repo.snapshot(tree)
        assert counts(second) == Counts(new=1, unchanged=5)
        assert counts(repo.snapshot(tree)) == Counts(unchanged=6)
        assert "by symlink" in saved(repo)
        assert not [name for name in saved(repo) if "backups.db" in name or "another" in name]
        assert repo.check().problems == ()


@pytest.mark.plain
def test_repository_named_by_a_symlink_is_not_saved(tree: Path, tmp_path: Path, clock: Clock) -> None:
    real = tree / "docs" / "real.db"
    (tmp_path / "link.db").symlink_to(real)
    real.touch()
    with Repository(tmp_path / "link.db") as repo:
        assert counts(repo.snapshot(tree)) == Counts(new=5)
        assert counts(repo.snapshot(tree)) == Counts(unchanged=5)
        assert sorted(os.listdir(str(tree / "docs"))) == ["copy of b.txt", "deep", "real.db"]
        assert repo.check().problems == ()


def test_another_repository_is_saved_like_any_file(repo: Repository, tree: Path, tmp_path: Path) -> None:
    with Repository(tree / "other.db") as other:
        other.snapshot(tree / "docs")
    assert counts(repo.snapshot(tree)) == Counts(new=6)
    repo.restore(1, tmp_path / "out")
    with Repository(tmp_path / "out" / "other.db") as copy:
        assert copy.check().problems == ()
        assert len(copy.list()) == 1


def test_other_file_system_is_saved_as_an_empty_directory(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", {"a": b"a", "mount": None})
    with mounted(root / "mount"):
        write(root / "mount" / "inside", b"inside")
        first = repo.snapshot(root, one_file_system=True)
        assert (counts(first), first.snapshot.directories) == (Counts(new=1), 2)
        second = repo.snapshot(root)
        assert (counts(second), second.snapshot.directories) == (Counts(new=1, unchanged=1), 2)
    assert second.problems == ()


def test_links_on_two_file_systems_are_not_mistaken_for_each_other(repo: Repository, tmp_path: Path) -> None:
    # Inode numbers are the same on both; only the device tells them apart, also where one of them did not change.
    root = write_tree(tmp_path / "tree", {"one": None, "two": None})
    with mounted(root / "one"), mounted(root / "two"):
        for name in ("one", "two"):
            write(root / name / "a", name.encode())
            os.link(str(root / name / "a"), str(root / name / "b"))
        assert os.stat(str(root / "one" / "a")).st_ino == os.stat(str(root / "two" / "a")).st_ino
        repo.snapshot(root)
        for number, name in enumerate(("one", "two"), 2):
            write(root / name / "a", name.upper().encode())
            assert counts(repo.snapshot(root)) == Counts(changed=2, unchanged=2)
            assert restored(repo, number, tmp_path / f"out{number}") == entries(root)


def test_file_system_mounted_before_another_does_not_change_its_links(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", {"one": None, "two": None})
    with mounted(root / "two"):
        write(root / "two" / "a", b"two")
        os.link(str(root / "two" / "a"), str(root / "two" / "b"))
        repo.snapshot(root)
        with mounted(root / "one"):
            write(root / "one" / "a", b"one")
            os.link(str(root / "one" / "a"), str(root / "one" / "b"))
            assert counts(repo.snapshot(root)) == Counts(new=2, unchanged=2)
            assert restored(repo, 2, tmp_path / "out") == entries(root)
