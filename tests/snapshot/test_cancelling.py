"""A snapshot that is cancelled or killed leaves what was there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable, List

import pytest
from conftest import entries, noise, restored, snapshot_watched, sql, write, write_tree

from backuptool import ProgressEvent, Repository

from .making import Counts, counts, once

MIB = 1 << 20


class StopHereError(Exception):
    pass


@pytest.mark.parametrize("phase", ["scan", "read", "commit"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, StopHereError])
def test_cancelled_snapshot_leaves_none(
    repo: Repository, tree: Path, tmp_path: Path, phase: str, error: type[BaseException]
) -> None:
    def cancel(event: ProgressEvent) -> None:
        if event.phase == phase:
            raise error

    with pytest.raises(error):
        repo.snapshot(tree, progress=cancel)
    assert len(repo.list()) == 0
    assert repo.check().problems == ()
    result = repo.snapshot(tree)
    assert counts(result) == Counts(new=5)
    assert result.new_bytes == (0 if phase == "commit" else 4001)
    assert result.snapshot.distinct_bytes == 4001
    assert restored(repo, result.snapshot.id, tmp_path / "out") == entries(tree)
    assert repo.check().problems == ()


def test_cancelled_second_snapshot_changes_nothing(repo: Repository, tree: Path, tmp_path: Path) -> None:
    repo.snapshot(tree)
    first = entries(tree)
    write(tree / "a.txt", b"changed")
    (tree / "b.txt").unlink()

    def cancel() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repo.snapshot(tree, progress=once(cancel, "commit"))
    assert [snapshot.id for snapshot in repo.list()] == [1]
    assert restored(repo, 1, tmp_path / "out") == first
    assert counts(repo.snapshot(tree)) == Counts(changed=1, unchanged=3, removed=1)
    assert repo.check().problems == ()


def test_next_run_stores_only_what_the_cancelled_one_did_not(repo: Repository, tmp_path: Path) -> None:
    # Much more than one transaction's worth of packs is read before it is cancelled.
    names = [f"{number:02}" for number in range(40)]
    root = write_tree(tmp_path / "tree", {name: noise(MIB, seed) for seed, name in enumerate(names)})
    write(root / "large", noise(3 * MIB, 99))

    def cancel(event: ProgressEvent) -> None:
        if event.phase == "read" and event.path == "39":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        snapshot_watched(repo.path, root, cancel)
    [(stored,)] = sql(repo.path, "SELECT coalesce(sum(size), 0) FROM contents WHERE pack IS NOT NULL")
    assert 0 < stored < 43 * MIB
    assert repo.check().problems == ()
    result = repo.snapshot(root)
    assert result.new_bytes == 43 * MIB - stored
    assert result.snapshot.distinct_bytes == 43 * MIB
    assert repo.check().problems == ()


def test_killed_snapshot_leaves_none(repo: Repository, tree: Path, tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:  # pragma: no cover (another process)
        try:
            snapshot_watched(repo.path, tree, once(lambda: os.kill(os.getpid(), 9), "commit"))
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 9
    assert len(repo.list()) == 0
    assert repo.check().problems == ()
    result = repo.snapshot(tree)
    assert (result.new_bytes, result.snapshot.distinct_bytes) == (0, 4001)
    assert restored(repo, 1, tmp_path / "out") == entries(tree)


def kill_at(number: int) -> Callable[[ProgressEvent], None]:
    """Return a callback that kills its process at an event; at a later one than there are, at none."""
    seen: List[ProgressEvent] = []

    def callback(event: ProgressEvent) -> None:
        seen.append(event)
        if len(seen) == number:
            os.kill(os.getpid(), 9)

    return callback


def test_snapshot_killed_at_any_moment_leaves_what_was_there(repo: Repository, tree: Path, tmp_path: Path) -> None:
    write(tree / "large", noise(3 * MIB))
    repo.snapshot(tree)
    first = entries(tree)
    write(tree / "a.txt", b"changed")
    write(tree / "large", noise(3 * MIB)[MIB:] + b"changed")
    write(tree / "new", b"new")
    (tree / "b.txt").unlink()
    killed = 0
    for number in range(1, 1000):
        child = os.fork()
        if child == 0:  # pragma: no cover (another process)
            try:
                snapshot_watched(repo.path, tree, kill_at(number))
            finally:
                os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            break
        killed += 1
        assert [snapshot.id for snapshot in repo.list()] == [1]
        assert repo.check().problems == ()
    assert killed > 10
    assert restored(repo, 1, tmp_path / "1") == first
    assert restored(repo, 2, tmp_path / "2") == entries(tree)
    assert repo.check().problems == ()


def test_snapshot_cancelled_at_any_moment_leaves_what_was_there(repo: Repository, tree: Path, tmp_path: Path) -> None:
    repo.snapshot(tree)
    write(tree / "a.txt", b"changed")
    write(tree / "large", noise(3 * MIB))
    cancelled = 0
    for number in range(1, 1000):
        seen: List[ProgressEvent] = []

        def cancel(event: ProgressEvent, number: int = number, seen: List[ProgressEvent] = seen) -> None:
            seen.append(event)
            if len(seen) == number:
                raise KeyboardInterrupt

        try:
            result = snapshot_watched(repo.path, tree, cancel)
            break
        except KeyboardInterrupt:
            cancelled += 1
            assert [snapshot.id for snapshot in repo.list()] == [1]
            assert repo.check().problems == ()
    assert cancelled > 10
    assert (counts(result), result.new_bytes) == (Counts(new=1, changed=1, unchanged=4), 0)
    assert restored(repo, 2, tmp_path / "2") == entries(tree)


def test_phases_are_reported_in_order(repo: Repository, tree: Path) -> None:
    seen: List[str] = []

    def note(event: ProgressEvent) -> None:
        if event.phase not in seen:
            seen.append(event.phase)

    repo.snapshot(tree, progress=note)
    assert seen == ["scan", "read", "commit"]
