"""Snapshots beside other processes, and on disks that are full."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from pathlib import Path

import pytest
from conftest import Clock, entries, noise, restored, snapshot_watched, sql, write, write_tree
from trees import mounted

from backuptool import CorruptionError, ProgressEvent, Repository, RepositoryLockedError, RepositoryNotWritableError

from .making import Counts, counts, once

MIB = 1 << 20


def test_snapshot_committed_meanwhile_becomes_the_base(repo: Repository, tree: Path, tmp_path: Path) -> None:
    repo.snapshot(tree)
    write(tree / "a.txt", b"changed")

    def other() -> None:
        with Repository(repo.path) as second:
            assert counts(second.snapshot(tree)) == Counts(changed=1, unchanged=4)

    result = snapshot_watched(repo.path, tree, once(other, "read"))
    assert result.snapshot.id == 3
    assert counts(result) == Counts(unchanged=5)
    assert result.snapshot.distinct_bytes == 0
    assert restored(repo, 3, tmp_path / "out") == entries(tree)
    assert repo.check().problems == ()


def test_first_snapshot_committed_meanwhile_becomes_the_base(repo: Repository, tree: Path) -> None:
    def other() -> None:
        with Repository(repo.path) as second:
            second.snapshot(tree)

    result = snapshot_watched(repo.path, tree, once(other, "commit"))
    assert result.snapshot.id == 2
    assert counts(result) == Counts(unchanged=5)
    assert sql(repo.path, "SELECT count(*) FROM sources") == [(1,)]
    assert repo.check().problems == ()


def test_snapshot_of_another_source_meanwhile_shares_contents(repo: Repository, tree: Path, tmp_path: Path) -> None:
    shutil.copytree(str(tree), str(tmp_path / "copy"))
    write(tree / "image", noise(2 * MIB))
    write(tmp_path / "copy" / "image", noise(2 * MIB))

    def other() -> None:
        with Repository(repo.path) as second:
            second.snapshot(tmp_path / "copy")

    # Everything was looked up and compressed by then, but nothing written.
    result = snapshot_watched(repo.path, tree, once(other, "read", "empty"))
    assert result.snapshot.id == 2
    assert counts(result) == Counts(new=6)
    assert result.snapshot.distinct_bytes == 0
    assert sql(repo.path, "SELECT count(*) - count(DISTINCT hash) FROM contents") == [(0,)]
    assert restored(repo, 2, tmp_path / "out") == entries(tree)
    assert repo.check().problems == ()


def test_snapshot_that_is_always_overtaken_gives_up(repo: Repository, tree: Path) -> None:
    def other(event: ProgressEvent) -> None:
        if event.phase == "commit":
            with Repository(repo.path) as second:
                second.snapshot(tree)

    with pytest.raises(RepositoryLockedError, match="50 times"):
        snapshot_watched(repo.path, tree, other)
    assert [snapshot.id for snapshot in repo.list()] == list(range(1, 51))
    assert repo.check().problems == ()


@pytest.mark.parametrize("phase", ["read", "commit"])
@pytest.mark.parametrize("size", [1000, 3 * MIB])
def test_contents_pruned_meanwhile_are_stored_again(repo: Repository, tmp_path: Path, phase: str, size: int) -> None:
    data = noise(size)
    old = write_tree(tmp_path / "old", {"data": data})
    repo.snapshot(old)
    tree = write_tree(tmp_path / "tree", {"a": data, "b": b"found"})

    def other() -> None:
        with Repository(repo.path) as second:
            second.prune(1)

    result = snapshot_watched(repo.path, tree, once(other, phase))
    assert [snapshot.id for snapshot in repo.list()] == [2]
    assert counts(result) == Counts(new=2)
    assert result.snapshot.distinct_bytes == size + 5
    assert restored(repo, 2, tmp_path / "out") == entries(tree)
    assert repo.check().problems == ()


def test_base_pruned_meanwhile_is_no_base(repo: Repository, tree: Path, tmp_path: Path) -> None:
    repo.snapshot(tree)
    write(tree / "a.txt", b"changed")

    def other() -> None:
        with Repository(repo.path) as second:
            second.prune(1)

    result = snapshot_watched(repo.path, tree, once(other, "read"))
    assert counts(result) == Counts(new=5)
    assert result.snapshot.distinct_bytes == 3001 + 7
    assert restored(repo, 2, tmp_path / "out") == entries(tree)
    assert repo.check().problems == ()


def test_chunks_pruned_meanwhile_are_stored_again(repo: Repository, tmp_path: Path) -> None:
    # The large file is new, most of its chunks are not: they go while the last is still being read.
    data = noise(4 * MIB)
    old = write_tree(tmp_path / "old", {"image": data})
    repo.snapshot(old)
    changed = data[: 3 * MIB] + noise(MIB, 1)
    tree = write_tree(tmp_path / "tree", {"image": changed})

    def other() -> None:
        with Repository(repo.path) as second:
            second.prune(1)

    result = snapshot_watched(repo.path, tree, once(other, "commit"))
    assert result.snapshot.distinct_bytes == 4 * MIB
    assert restored(repo, 2, tmp_path / "out")[b"image"].data == changed
    assert repo.check().problems == ()


def test_locked_repository_is_an_error_after_the_timeout(tree: Path, tmp_path: Path, clock: Clock) -> None:
    with Repository(tmp_path / "r.db", lock_timeout=0) as repo:
        repo.snapshot(tree)
        write(tree / "new", b"new")

        def attempt() -> None:
            with pytest.raises(RepositoryLockedError, match=r"r\.db is in use"):
                repo.snapshot(tree)

        with Repository(tmp_path / "r.db") as other:
            # A prune holds the write lock while it reports.
            other.prune(dry_run=True, progress=once(attempt, "repack"))
            other.prune(1, dry_run=True, progress=once(attempt, "remove"))
        assert counts(repo.snapshot(tree)) == Counts(new=1, unchanged=5)


def test_full_disk_is_an_error_and_nothing_is_lost(tmp_path: Path, clock: Clock) -> None:
    root = write_tree(tmp_path / "tree", {"a": b"first"})
    (tmp_path / "small").mkdir()
    with mounted(tmp_path / "small", "2m"), Repository(tmp_path / "small" / "r.db") as repo:
        repo.snapshot(root)
        write(root / "b", noise(3 * MIB))
        with pytest.raises(RepositoryNotWritableError, match="no space left"):
            repo.snapshot(root)
        assert [snapshot.id for snapshot in repo.list()] == [1]
        assert repo.check().problems == ()
        assert restored(repo, 1, tmp_path / "out")[b"a"].data == b"first"
        (root / "b").unlink()
        assert counts(repo.snapshot(root)) == Counts(unchanged=1)


def test_file_that_may_not_grow_is_an_error_and_nothing_is_lost(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", {"a": b"first"})
    with Repository(tmp_path / "r.db") as repo:
        repo.snapshot(root)
    write(root / "b", noise(3 * MIB))

    def run() -> None:
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB))
        with Repository(tmp_path / "r.db") as small:
            small.snapshot(root)

    child = os.fork()
    if child == 0:  # pragma: no cover (another process)
        code = 1
        try:
            run()
        except Exception as exc:
            code = 3 if type(exc).__name__ in ("RepositoryNotWritableError", "RepositoryError") else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] >> 8 == 3
    with Repository(tmp_path / "r.db") as repo:
        assert [snapshot.id for snapshot in repo.list()] == [1]
        assert repo.check().problems == ()
        assert counts(repo.snapshot(root)) == Counts(new=1, unchanged=1)


def test_repository_with_damaged_settings_takes_no_snapshot(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    for change in ("value = 'rabin' WHERE name = 'chunking'", "value = x'ff' WHERE name = 'chunk_average'"):
        sql(repo.path, f"UPDATE settings SET {change}")
        with pytest.raises(CorruptionError, match="settings"):
            repo.snapshot(tree)


def test_errno_of_a_file_is_named_in_words(repo: Repository, tmp_path: Path) -> None:
    # A name that leads nowhere any more by the time it is opened, for a reason that is not "it is gone".
    root = write_tree(tmp_path / "tree", {"d/file": b"x"})

    def swap() -> None:
        (root / "d" / "file").unlink()
        (root / "d").rmdir()
        (root / "d").write_bytes(b"a file in its place")

    result = snapshot_watched(repo.path, root, once(swap, "read"))
    assert [problem.path for problem in result.problems] == ["d/file"]
    assert os.strerror(errno.ENOTDIR) in result.problems[0].message
