"""Progress, and restores that are interrupted and run again."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, Iterator, List

import pytest
from conftest import EveryEvent, write
from trees import differences, facts, random_bytes

from backuptool import ProgressEvent, Repository, RestoreResult
from backuptool.operations.restore.restoring import RestoreOptions, restore
from backuptool.progress import ProgressCallback
from backuptool.results.restore import OverwritePolicy
from backuptool.storage.pool import ConnectionPool

from .making import POLICIES, Everything, leftovers, names


def watched(
    repo: Repository, number: int, destination: Path, callback: ProgressCallback, **options: Any
) -> RestoreResult:
    """Restore and call back at every single event."""
    wanted = RestoreOptions(destination=os.fsencode(str(destination)), **options)
    pool = ConnectionPool(repo.path, 10.0)
    try:
        with pool.reading() as database:
            return restore(database, number, wanted, EveryEvent(callback))
    finally:
        pool.close()


class StopError(Exception):
    """What a callback raises."""


@pytest.mark.parametrize("exception", [KeyboardInterrupt, StopError])
def test_a_restore_that_was_interrupted_is_finished_by_the_next(
    everything: Everything, out: Path, exception: type[BaseException]
) -> None:
    source, repo, _ = everything
    wanted = facts(source)
    events: List[ProgressEvent] = []
    watched(repo, 1, out, events.append)
    restoring = sum(event.phase == "restore" for event in events)
    for stop_at in (1, restoring // 2, restoring + 50):
        out = out.with_name(f"out {stop_at}")
        phases = interrupted(repo, out, stop_at, exception)
        assert phases[-1] == ("restore" if stop_at <= restoring else "metadata")
        assert leftovers(out) == []
        for path, fact in facts(out).items():
            if wanted[path][4] is not None:  # bytes, target or device number: there is nothing by halves
                assert fact[4] == wanted[path][4]
        result = repo.restore(1, out)
        assert result.problems == ()
        assert differences(source, out) == []
        assert (result.unchanged_files > 0) == (stop_at > 1)


def interrupted(repo: Repository, out: Path, stop_at: int, exception: type[BaseException]) -> List[str]:
    """Restore, raise at an event, and return the phases of all events until then."""
    phases: List[str] = []

    def interrupt(event: ProgressEvent) -> None:
        phases.append(event.phase)
        if len(phases) == stop_at:
            raise exception

    with pytest.raises(exception):
        watched(repo, 1, out, interrupt)
    return phases


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_finishes_what_was_interrupted(
    repo: Repository, linked: Path, out: Path, policy: OverwritePolicy
) -> None:
    write(linked / "z", b"the last one")
    for name in ("fifo", "sub/fifo"):
        os.mkfifo(linked / name)
        os.link(linked / name, linked / (name + " link"))
    repo.snapshot(linked)
    for stop_at in range(1, 11):
        out = out.with_name(f"out {stop_at}")
        interrupted(repo, out, stop_at, KeyboardInterrupt)
        result = repo.restore(1, out, overwrite=policy)
        assert result.problems == ()
        if policy != "never":
            assert differences(linked, out) == []
        else:  # the directories that were there are left as they were
            assert {line.split(":")[0] for line in differences(linked, out)} <= {"b''", "b'sub'"}


def test_an_interruption_within_a_file_leaves_the_good_one_that_was_there(
    repo: Repository, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    write(source / "large", random_bytes(4 << 20))
    repo.snapshot(source)
    write(out / "large", b"good")
    calls: List[int] = []
    pwrite = os.pwrite

    def interrupted(descriptor: int, data: bytes, offset: int) -> int:
        calls.append(offset)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", interrupted)
    with pytest.raises(KeyboardInterrupt):
        repo.restore(1, out)
    assert (names(out), (out / "large").read_bytes()) == (["large"], b"good")
    monkeypatch.undo()
    repo.restore(1, out)
    assert differences(source, out) == []


def test_what_a_killed_process_left_behind_is_cleared_by_the_next(everything: Everything, out: Path) -> None:
    source, repo, _ = everything
    repo.close()
    replace = os.replace
    for step in (1, 40, 80):
        child = os.fork()
        if child == 0:  # pragma: no cover (another process)
            left = iter(range(step))

            def killed(*arguments: Any, left: Iterator[int] = left, **options: Any) -> None:
                if next(left, None) is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                replace(*arguments, **options)

            os.replace = killed
            try:
                Repository(repo.path).restore(1, out)
            finally:
                os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        assert leftovers(out) != []
    result = repo.restore(1, out)
    assert result.problems == ()
    assert differences(source, out) == []


def test_more_files_than_are_gathered_at_once_come_back(
    everything: Everything, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restore gathers tens of thousands of files and then writes those of some packs."""
    source, repo, saved = everything
    monkeypatch.setattr("backuptool.operations.restore.gathering._HELD", 10)
    result = repo.restore(1, out)
    assert (result.problems, result.restored_files) == ((), saved.snapshot.files)
    assert differences(source, out) == []


def test_short_writes_are_continued(
    repo: Repository, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    write(source / "small", random_bytes(10_000))
    write(source / "large", random_bytes(2 << 20))
    repo.snapshot(source)
    system_write, pwrite = os.write, os.pwrite
    monkeypatch.setattr(os, "write", lambda descriptor, data: system_write(descriptor, data[:4000]))
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: pwrite(descriptor, data[:100_000], offset))
    repo.restore(1, out)
    monkeypatch.undo()
    assert differences(source, out) == []


def test_progress_tells_the_phases_in_their_order(repo: Repository, tree: Path, out: Path) -> None:
    repo.snapshot(tree)
    repo.restore(1, out)
    write(out / "extra", b"extra")
    events: List[ProgressEvent] = []
    watched(repo, 1, out, events.append, overwrite="always", delete_extra=True, verify=True)
    phases = list(dict.fromkeys(event.phase for event in events))
    assert phases == ["restore", "delete", "metadata", "verify"]
    for phase in phases:
        done = [event.done_files for event in events if event.phase == phase]
        assert done == sorted(done)
        assert all(event.total_files is not None and event.done_files <= event.total_files for event in events)
    restored = [event for event in events if event.phase == "restore"]
    assert sorted(event.path for event in restored) == sorted(
        ["a.txt", "b.txt", "empty", "docs/copy of b.txt", "docs/deep/c.bin"]
    )
    assert {event.total_bytes for event in restored} == {6001}


def test_a_socket_file_does_not_make_a_restore_wait(repo: Repository, tree: Path, out: Path) -> None:
    """A FIFO in the place of a file must not be opened and waited for."""
    repo.snapshot(tree)
    out.mkdir()
    for name in ("a.txt", "b.txt", "docs"):
        os.mkfifo(out / name)
    for options in ({"overwrite": "never"}, {"dry_run": True}, {"verify": True, "delete_extra": True}):
        repo.restore(1, out, **options)
    assert differences(tree, out) == []
