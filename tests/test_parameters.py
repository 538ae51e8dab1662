"""What methods accept, and that what they do not accept is named in words."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Any, Callable

import pytest
from conftest import write, write_tree

from backuptool import Repository, SnapshotNotFoundError


@pytest.fixture
def saved(repo: Repository, tmp_path: Path) -> Repository:
    """Three snapshots, of which the second has a tag."""
    write_tree(tmp_path / "source", {"a": b"1"})
    for tags in ((), ("test",), ()):
        repo.snapshot(tmp_path / "source", tags=tags)
        write(tmp_path / "source" / "a", os.urandom(8))
    return repo


class Index:
    """A number of another kind, such as those of numpy."""

    def __index__(self) -> int:
        return 2


@pytest.mark.parametrize("name", [2, Index(), "2", "latest~1"])
def test_a_snapshot_is_named_by_its_number_a_word_or_itself(saved: Repository, name: Any) -> None:
    second = saved.tree(2).snapshot
    assert saved.tree(name).snapshot == second == saved.tree(second).snapshot


@pytest.mark.parametrize("name", [None, 1.0, True, b"latest", ["1"]])
def test_what_names_no_snapshot_is_named(saved: Repository, tmp_path: Path, name: Any) -> None:
    expected = f"a snapshot is named by its number, a word such as 'latest', or the Snapshot itself, not by {name!r}"
    calls: list[Callable[[], object]] = [
        lambda: saved.restore(name, tmp_path / "out"),
        lambda: saved.annotate(name, note="a"),
        lambda: saved.copy(tmp_path / "other.db", [name]),
    ]
    for call in calls:
        with pytest.raises(TypeError) as raised:
            call()
        assert str(raised.value) == expected


def test_prune_takes_snapshots_and_lists_of_them(saved: Repository) -> None:
    first, second, third = saved.list()

    def would_go(snapshots: Any) -> list[int]:
        return [snapshot.id for snapshot in saved.prune(snapshots, dry_run=True).snapshots]

    assert would_go(saved.list(tag="test")) == would_go(second) == would_go([2, second]) == would_go(Index()) == [2]
    assert would_go([third, 1]) == would_go({third, first}) == [1, 3]
    assert would_go(saved.list()) == [1, 2, 3]
    assert would_go(saved.list(tag="nowhere")) == []


@pytest.mark.parametrize("name", ["latest", "2", None, True, 1.0, ["latest"], [1, "latest~1"]])
def test_prune_takes_no_words(saved: Repository, name: Any) -> None:
    """They name another snapshot the next time."""
    with pytest.raises(TypeError, match="a snapshot is named by its number or the Snapshot itself, not by"):
        saved.prune(name)
    assert len(saved.list()) == 3


def test_prune_removes_nothing_for_a_snapshot_of_another_repository(saved: Repository, tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "b", b"2")
    with Repository(tmp_path / "other.db") as other:
        stranger = other.snapshot(tmp_path / "elsewhere").snapshot
        same_source = other.snapshot(tmp_path / "source").snapshot
    for snapshot in (stranger, same_source):
        with pytest.raises(SnapshotNotFoundError, match=r"is another one than .*; nothing was removed") as raised:
            saved.prune([3, snapshot])
        assert raised.value.available == (1, 2, 3)
    assert len(saved.list()) == 3


def test_prune_knows_a_snapshot_whose_note_was_changed(saved: Repository) -> None:
    second = saved.list()[1]
    saved.annotate(2, note="another", add_tags=["more"])
    assert [snapshot.id for snapshot in saved.prune(second).snapshots] == [2]


def test_copy_takes_every_reference(saved: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    references: list[Any] = [[saved.list()[0]], saved.list(tag="test"), "latest:source"]
    for number, names in enumerate(references, 1):
        assert saved.copy("other.db", names).copied_snapshots == 1
        with Repository("other.db") as other:
            assert [snapshot.note for snapshot in other.list()] == [""] * number
            assert other.list()[-1].started_ns == saved.list()[number - 1].started_ns


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"note": None}, "note must be a str, not None"),
        ({"note": b"bytes"}, "note must be a str, not b'bytes'"),
        ({"host": 1}, "host must be a str, not 1"),
        ({"tags": [1, "a"]}, "a tag must be a str, not 1"),
        ({"tags": None}, "several values are wanted, () for none; not None"),
    ],
)
def test_what_is_no_text_is_named(saved: Repository, tmp_path: Path, options: Any, message: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: saved.snapshot(tmp_path / "source", **options),
        lambda: saved.snapshot_files({"a": b"1"}, "name", **options),
        lambda: saved.import_tar(tmp_path / "a.tar", **options),
    ]
    if "host" not in options:
        calls.append(lambda: saved.guard(tmp_path / "source", **options))
    for call in calls:
        with pytest.raises(TypeError) as raised:
            call()
        assert str(raised.value) == message
    assert len(saved.list()) == 3


@pytest.mark.parametrize("options", [{"note": 1}, {"add_tags": [1]}, {"remove_tags": None}])
def test_what_is_no_text_describes_no_snapshot(saved: Repository, options: Any) -> None:
    with pytest.raises(TypeError, match=r"must be a str|are wanted"):
        saved.annotate(1, **options)


def test_a_date_is_its_first_moment(saved: Repository, tmp_path: Path) -> None:
    day = datetime.date(2024, 2, 29)
    midnight = int(datetime.datetime(2024, 2, 29).timestamp()) * 10**9
    for name, mtime_ns in (("before", midnight - 1), ("at", midnight), ("after", midnight + 1)):
        write(tmp_path / "source" / name, b"x")
        os.utime(tmp_path / "source" / name, ns=(0, mtime_ns))
    saved.snapshot(tmp_path / "source")
    assert saved.find(path="[!a]*", older=day).paths == ("before",)
    assert sorted(saved.find(newer=day, older=midnight + 1).paths) == ["after", "at"]
    assert saved.find(newer=day).paths == saved.find(newer=datetime.datetime(2024, 2, 29)).paths


@pytest.mark.parametrize("moment", [1.5, "2024-02-29", True, datetime.time(1)])
def test_what_is_no_time_is_named(saved: Repository, moment: Any) -> None:
    with pytest.raises(TypeError, match="a time is ns since 1970 UTC as an int, a datetime or a date, not "):
        saved.find(newer=moment)


@pytest.mark.parametrize("sha256", ["abc", b"abc", 3, "g" * 64])
def test_what_is_no_hash_is_named(saved: Repository, sha256: Any) -> None:
    with pytest.raises(ValueError, match="not a SHA-256 of 64 hex digits, or of 32 bytes"):
        saved.find(sha256=sha256)
