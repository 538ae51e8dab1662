"""Repositories written by every format there was: they open, they are sound, and all of it comes back.

The samples in tests/data were written by the versions that had these formats, and stay as they are for ever. What each
snapshot holds was read from the sources by these tests, not by the package.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, Dict, List

import pytest
from sample import DATA, HOST, PINNED, Expected, facts, load_expected, unpack_sample
from trees import IS_ROOT

from backuptool import Repository

FORMATS = sorted(path.name[: -len(".db.gz")] for path in DATA.glob("format-*.db.gz"))


@pytest.fixture(params=FORMATS)
def name(request: pytest.FixtureRequest) -> str:
    """The name of a sample."""
    return str(request.param)


@pytest.fixture
def repository(name: str, tmp_path: Path) -> Path:
    """A copy of a sample."""
    return unpack_sample(name, tmp_path / "backups.db")


def takes_attributes(path: Path) -> bool:
    """Tell whether the file system takes extended attributes of users."""
    try:
        os.setxattr(path, "user.probe", b"1")
        os.removexattr(path, "user.probe")
    except OSError:
        return False
    return True


def comparable(entries: Expected, attributes: bool) -> Expected:
    """Leave out what the present user, or this file system, cannot be given back."""
    found: Expected = {}
    for path, (mode, uid, gid, mtime_ns, size, detail, xattrs, group) in entries.items():
        owner: List[Any] = [mode, uid, gid]
        if not IS_ROOT:
            if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                continue
            owner = [mode & ~0o6000]
            xattrs = {name: value for name, value in xattrs.items() if name.startswith("user.")}
        found[path] = [*owner, mtime_ns, size, detail, xattrs if attributes else {}, group]
    return found


def assert_restored(repo: Repository, number: int, expected: Expected, out: Path) -> None:
    """Restore a snapshot, and compare all of it with what was saved."""
    result = repo.restore(number, out)
    attributes = takes_attributes(out)
    if IS_ROOT and attributes:
        assert result.problems == ()
    assert comparable(facts(out), attributes) == comparable(expected, attributes)


def test_there_is_a_sample_of_each_format() -> None:
    assert FORMATS[0] == "format-1"
    for name in FORMATS:
        assert (DATA / f"{name}.db.gz").stat().st_size <= 200_000
        assert (DATA / f"{name}.json").exists()


def test_old_repository_is_listed_and_sound(name: str, repository: Path) -> None:
    before = repository.read_bytes()
    with Repository(repository) as repo:
        snapshots = repo.list()
        assert [snapshot.id for snapshot in snapshots] == sorted(load_expected(name))
        assert {snapshot.host for snapshot in snapshots} == {HOST}
        assert snapshots[0].note == "the first, with ümlauts and a \udcff"
        assert snapshots[0].tags == ("daily", "été")
        for snapshot in snapshots:
            sizes = [entry[4] for entry in load_expected(name)[snapshot.id].values()]
            assert snapshot.size_bytes == sum(sizes)
            assert snapshot.files + snapshot.directories == len(sizes)
        assert repo.check().problems == ()
    assert repository.read_bytes() == before, "reading changes nothing"


def test_old_repository_is_restored_bit_for_bit(name: str, repository: Path, tmp_path: Path) -> None:
    before = repository.read_bytes()
    with Repository(repository) as repo:
        for number, expected in load_expected(name).items():
            assert_restored(repo, number, expected, tmp_path / str(number))
    assert repository.read_bytes() == before, "reading changes nothing"


def test_old_repository_takes_snapshots_and_finds_what_it_has(name: str, repository: Path, tmp_path: Path) -> None:
    with Repository(repository) as repo:
        newest = max(load_expected(name))
        tree = tmp_path / "tree"
        assert repo.restore(newest, tree).restored_files > 0
        result = repo.snapshot(tree, host=HOST)
        assert (result.problems, result.new_bytes) == ((), 0), "its contents are all there"
        assert result.snapshot.id == 8, "numbers are not used again"
        (tree / "new").write_bytes(b"changed\n")
        expected = facts(tree)
        second = repo.snapshot(tree, host=HOST)
        assert (second.changed_files, second.new_bytes) == (1, 8)
        assert repo.check().problems == ()
        assert_restored(repo, second.snapshot.id, expected, tmp_path / "again")


def test_old_repository_is_pruned(name: str, repository: Path, tmp_path: Path) -> None:
    with Repository(repository) as repo:
        everything: Dict[int, Expected] = load_expected(name)
        repo.annotate(PINNED, pinned=False)
        for number in sorted(everything)[:-1]:
            plan = repo.prune(number, dry_run=True)
            result = repo.prune(number)
            assert result.problems == ()
            assert plan.removed_bytes == result.removed_bytes
            del everything[number]
            assert repo.check().problems == ()
            for kept, expected in everything.items():
                assert_restored(repo, kept, expected, tmp_path / f"{kept} without {number}")


def test_what_is_expected_is_what_was_written() -> None:
    """The files beside the samples can be read by anybody: JSON, with a line for each version."""
    document = json.loads((DATA / "format-1.json").read_text(encoding="ascii"))
    assert sorted(document) == ["snapshots", "versions"]
    assert document["snapshots"].keys() == {"1", "2", "4", "5", "6"}
