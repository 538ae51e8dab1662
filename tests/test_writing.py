from __future__ import annotations

import ctypes
import errno
import marshal
import os
import shutil
import signal
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import attrs
import pytest
from conftest import NOBODY, EveryEvent, as_nobody, children, helper_message, noise, sql, write
from trees import differences, facts, make_every_kind, mounted, needs_root, program, rsync_differences

from backuptool import Problem, ProgressEvent, Repository, RestoreError, RestoreResult
from backuptool.operations.restore.restoring import RestoreOptions, restore
from backuptool.operations.restore.writing import Answer, Order, Writing, as_file, as_order
from backuptool.progress import ProgressCallback
from backuptool.storage.connecting import open_database
from backuptool.storage.files import files_of
from backuptool.storage.snapshots import find_snapshot
from backuptool.tree.destination import Destination

FILES = 300


@pytest.fixture
def tmp_path(memory_path: Path) -> Path:
    """Thousands of files are to be written here."""
    return memory_path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Small files in several packs, many of them with a copy or a second name."""
    root = tmp_path / "source"
    for number in range(FILES):
        path = write(root / f"{number % 7}" / f"{number}.bin", noise(30_000 if number % 3 else 10, number % 250))
        if number % 11 == 0:
            os.link(path, root / "0" / f"link {number}")
    return root


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where to restore to; nothing is there."""
    return tmp_path / "out"


def restored(
    repo: Repository,
    out: Path,
    helpers: Optional[int],
    callback: ProgressCallback = lambda event: None,
    **options: Any,
) -> RestoreResult:
    """Restore the newest snapshot with so many helpers."""
    wanted = RestoreOptions(destination=os.fsencode(str(out)), helpers=helpers, **options)
    with closing(open_database(repo.path, 10.0)) as database:
        return restore(database, "latest", wanted, EveryEvent(callback))


def facts_of(result: RestoreResult) -> RestoreResult:
    """Everything of a result but where and how long."""
    return attrs.evolve(result, destination="", elapsed_seconds=0.0)


def both_ways(repo: Repository, out: Path, **options: Any) -> RestoreResult:
    """Restore without helpers and with one to three; the results and the trees must be the same."""
    alone = restored(repo, out, 0, **options)
    for helpers in (1, 3):
        other = out.with_name(f"out {helpers}")
        assert facts_of(restored(repo, other, helpers, **options)) == facts_of(alone)
        assert files_below(out) == files_below(other)
        assert leftovers(other) == []
        shutil.rmtree(str(other))
    return alone


def files_below(root: Path) -> Dict[bytes, Tuple[object, ...]]:
    """Return all that is to be compared of what is no directory: one that the snapshot lacks has the present's time."""
    return {path: fact for path, fact in facts(root).items() if not os.path.isdir(os.fsencode(root) + b"/" + path)}


def leftovers(root: Path) -> List[str]:
    """Return the temporary files below a directory."""
    return [str(path) for path in root.rglob(".backuptool-*")]


def test_a_second_restore_into_a_directory_waits_for_its_turn(repo: Repository, source: Path, out: Path) -> None:
    """Both would use the same temporary names, and give a file its name that the other one is still writing."""
    repo.snapshot(source)
    errors: List[str] = []

    def again(event: ProgressEvent) -> None:
        if not errors:
            with pytest.raises(RestoreError, match="another restore is writing into") as caught:
                repo.restore(1, out)
            errors.append(caught.value.path)
            assert repo.restore(1, out, dry_run=True).problems == ()

    assert restored(repo, out, 0, again).problems == ()
    assert errors == [str(out)]
    assert differences(source, out) == []
    assert repo.restore(1, out).unchanged_files > 0


def has_open(process: int, path: Path) -> bool:
    """Tell whether a process has a file or directory open."""
    try:
        return any(os.readlink(entry.path) == str(path) for entry in os.scandir(f"/proc/{process}/fd"))
    except FileNotFoundError:  # that of a descriptor that it has closed
        return False


@pytest.fixture(autouse=True)
def _no_helper_is_left() -> Iterator[None]:
    """Whatever happens, all helpers have ended when a restore has."""
    yield
    assert children() == []


# The same with and without.


def test_helpers_restore_what_this_process_restores(repo: Repository, source: Path, out: Path) -> None:
    repo.snapshot(source)
    result = both_ways(repo, out, verify=True)
    assert (result.problems, result.restored_files) == ((), FILES + 28)
    assert differences(source, out) == []
    assert rsync_differences(source, out) == ""


@pytest.mark.both
def test_helpers_restore_every_kind_of_file(repo: Repository, tmp_path: Path, out: Path) -> None:
    make_every_kind(tmp_path / "source")
    repo.snapshot(tmp_path / "source")
    assert both_ways(repo, out, verify=True).problems == ()
    assert differences(tmp_path / "source", out) == []
    assert rsync_differences(tmp_path / "source", out) == ""


@pytest.mark.parametrize("policy", ["always", "if-changed", "if-newer", "never"])
def test_helpers_heed_what_is_there(repo: Repository, source: Path, tmp_path: Path, out: Path, policy: str) -> None:
    repo.snapshot(source)
    there = tmp_path / "there"
    shutil.copytree(str(source / "0"), str(there / "0"))
    for number, path in enumerate(sorted((there / "0").iterdir())):
        if number % 3:
            os.utime(path, ns=(1, 1 if number % 2 else 2_000_000_000 << 30))
    (there / "1" / "1.bin").mkdir(parents=True)
    (there / "1" / "8.bin").symlink_to("nowhere")
    write(there / "1" / "15.bin" / "precious", b"mine")
    shutil.copytree(str(there), str(out), symlinks=True)
    assert facts_of(restored(repo, there, 0, overwrite=policy)) == facts_of(restored(repo, out, 2, overwrite=policy))
    assert files_below(there) == files_below(out)


def damaged_pack(path: str) -> None:
    sql(path, "UPDATE packs SET data = zeroblob(length(data)) WHERE id = 2")


def missing_pack(path: str) -> None:
    sql(path, "DELETE FROM packs WHERE id = 2")


def wrong_hashes(path: str) -> None:
    sql(path, "UPDATE contents SET hash = zeroblob(32) WHERE id % 10 = 0")


def wrong_sizes(path: str) -> None:
    sql(path, "UPDATE files SET size = size + 1 WHERE path LIKE '%3.bin'")


def wrong_modes(path: str) -> None:
    sql(path, "UPDATE files SET mode = -1, uid = -5, mtime_ns = -9223372036854775808 WHERE path LIKE '%3.bin'")


def huge_owners(path: str) -> None:
    sql(path, "UPDATE files SET uid = 1 << 40 WHERE path LIKE '%3.bin'")


def nonsense_in_attributes(path: str) -> None:
    sql(path, "UPDATE files SET xattrs = x'00' WHERE path LIKE '%3.bin'")


def missing_directory(path: str) -> None:
    sql(path, "DELETE FROM files WHERE path = '3'")


@pytest.mark.parametrize(
    "damage",
    [
        *(damaged_pack, missing_pack, wrong_hashes, wrong_sizes, wrong_modes, huge_owners, nonsense_in_attributes),
        missing_directory,
    ],
    ids=lambda damage: damage.__name__,
)
def test_helpers_find_the_damage_that_this_process_finds(
    repo: Repository, source: Path, out: Path, damage: Callable[[str], None]
) -> None:
    repo.snapshot(source)
    damage(repo.path)
    assert both_ways(repo, out).problems != ()


@needs_root
def test_helpers_of_an_ordinary_user_report_what_only_root_may_restore(public_path: Path) -> None:
    for number in range(40):
        path = write(public_path / "source" / str(number % 3) / str(number), b"%d" % number)
        os.chown(path, number % 2 * NOBODY, 0)
        path.chmod(0o4755)
    with Repository(public_path / "backups.db") as repo:
        repo.snapshot(public_path / "source")
    os.chmod(public_path / "backups.db", 0o644)

    def run() -> List[RestoreResult]:
        return [facts_of(restored(repo, public_path / f"out {helpers}", helpers)) for helpers in (0, 2)]

    alone, helped = as_nobody(run)
    assert alone == helped
    [problem] = [problem for problem in alone.problems if problem.kind == "owner-not-restored"]
    assert problem.count == 44
    assert differences(public_path / "out 0", public_path / "out 2") == []
    assert stat.S_IMODE((public_path / "out 2" / "0" / "0").stat().st_mode) == 0o755


def test_further_paths_of_a_file_wait_for_the_first(
    repo: Repository, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backuptool.operations.restore.restoring._PUT_OFF", 3)
    monkeypatch.setattr("backuptool.operations.restore.gathering._HELD", 20)
    for number in range(0, FILES, 2):
        os.link(source / f"{number % 7}" / f"{number}.bin", source / "6" / f"more {number}")
    repo.snapshot(source)
    both_ways(repo, out)
    assert rsync_differences(source, out) == ""


def test_a_further_path_is_the_first_if_that_cannot_be_written(repo: Repository, source: Path, out: Path) -> None:
    for number in range(0, FILES, 11):
        first, second = source / "0" / f"link {number}", source / f"{number % 7}" / f"{number}.bin"
        write(out / min(first, second).relative_to(source) / "precious", b"mine")
    repo.snapshot(source)
    shutil.copytree(str(out), str(out.with_name("copy")))
    alone = restored(repo, out, 0)
    assert facts_of(restored(repo, out.with_name("copy"), 2)) == facts_of(alone)
    assert {problem.kind for problem in alone.problems} == {"in-the-way"}
    assert differences(out, out.with_name("copy")) == []


def test_progress_grows_to_the_whole(repo: Repository, source: Path, out: Path) -> None:
    repo.snapshot(source)
    events: List[ProgressEvent] = []
    result = restored(repo, out, 2, events.append)
    seen = [(event.done_files, event.done_bytes) for event in events if event.phase == "restore"]
    assert sorted(seen) == seen
    assert seen[-1][0] == result.restored_files
    assert all(event.done_files <= FILES + 28 for event in events)


# Helpers that fail.


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\n",
        helper_message((1, [], []))[:-3],
        helper_message((9999, [], [])),
        helper_message((1, [], [(0, "system", errno.EPERM, "no")])),
        helper_message((True, [], [])),
        helper_message(7),
        helper_message((1, [], [(5, "content", None, "no")])),
        helper_message((1, [], [(0, "strange", None, "no")])),
        helper_message((1, [("owner", "text", 1, "no")], [])),
        b"\xff\xff\xff\xff",
    ],
    ids=[
        *("nothing", "nonsense", "half", "more files", "not fatal", "a truth", "a number", "another file", "no kind"),
        *("no path", "an endless message"),
    ],
)
def test_what_a_helper_fails_to_do_is_done_here(
    repo: Repository, source: Path, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    repo.snapshot(source)
    (tmp_path / "answer").write_bytes(answer)
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\nread path\ncat {tmp_path}/answer\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    result = restored(repo, out, 2)
    assert (result.problems, result.restored_files) == ((), FILES + 28)
    assert differences(source, out) == []


@pytest.mark.parametrize("events", [1, 3, 9])
def test_helpers_that_are_killed_lose_nothing(repo: Repository, source: Path, out: Path, events: int) -> None:
    (source / "1" / "a symlink").symlink_to("nowhere")
    (source / "5" / "another").symlink_to("nowhere")
    repo.snapshot(source)
    seen: List[ProgressEvent] = []

    def kill(event: ProgressEvent) -> None:
        seen.append(event)
        if len(seen) == events:
            for process in children():
                os.kill(process, signal.SIGKILL)

    result = restored(repo, out, 2, kill)
    assert (result.problems, result.restored_files) == ((), FILES + 30)
    assert differences(source, out) == []
    assert leftovers(out) == []


@pytest.mark.parametrize("executable", ["", None, "/usr/bin/uwsgi", "/nothing/python3"])
def test_without_an_interpreter_it_is_all_done_here(
    repo: Repository, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, executable: str
) -> None:
    repo.snapshot(source)
    monkeypatch.setattr(sys, "executable", executable)
    assert restored(repo, out, 2).problems == ()
    assert differences(source, out) == []


class StopError(Exception):
    """What a callback raises."""


@pytest.mark.parametrize("exception", [KeyboardInterrupt, StopError])
@pytest.mark.parametrize("events", [1, 4])
def test_helpers_end_with_an_interrupted_restore_and_leave_nothing_half_done(
    repo: Repository, source: Path, out: Path, exception: type[BaseException], events: int
) -> None:
    for number in range(5):
        (source / f"{number}" / "a symlink").symlink_to("nowhere")
    repo.snapshot(source)
    seen: List[int] = []

    def stop(event: ProgressEvent) -> None:
        seen.append(len(children()))
        if len(seen) == events:
            raise exception

    with pytest.raises(exception):
        restored(repo, out, 2, stop)
    assert children() == []
    assert leftovers(out) == []
    for path in out.rglob("*.bin"):
        assert path.read_bytes() == (source / path.relative_to(out)).read_bytes()
    assert restored(repo, out, 2).problems == ()
    assert differences(source, out) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills the children of a process with it")
def test_helpers_are_killed_with_the_process_that_started_them(repo: Repository, source: Path, out: Path) -> None:
    """Not a moment later: the next run uses the same temporary names."""
    repo.snapshot(source)
    prctl, set_child_subreaper = ctypes.CDLL(None).prctl, 36
    receiving, sending = os.pipe()
    prctl(set_child_subreaper, 1, 0, 0, 0)  # so that helpers whose parent is gone can be waited for
    try:
        process = os.fork()
        if process == 0:  # pragma: no cover (it is killed)

            def tell(event: ProgressEvent) -> None:
                helpers = children()
                while not all(has_open(helper, out) for helper in helpers):
                    os.sched_yield()  # it has not begun
                os.write(sending, marshal.dumps(helpers))
                signal.pause()

            restored(repo, out, 2, tell)
            os._exit(0)
        helpers = marshal.loads(os.read(receiving, 1000))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        ended = [os.waitpid(helper, 0)[1] for helper in helpers]
    finally:
        prctl(set_child_subreaper, 0, 0, 0, 0)
        os.close(receiving)
        os.close(sending)
    assert [os.WIFSIGNALED(status) and os.WTERMSIG(status) for status in ended] == [signal.SIGKILL] * 2
    assert restored(repo, out, 2).problems == ()
    assert differences(source, out) == []
    assert leftovers(out) == []


def test_helper_imports_nothing_from_the_current_directory(
    repo: Repository, source: Path, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.snapshot(source)
    trap = tmp_path / "trap"
    for name in ("json.py", "attr.py", "sqlite3.py", "sitecustomize.py"):
        write(trap / name, b"open('sprung', 'w').close()\n")
    monkeypatch.chdir(trap)
    monkeypatch.setenv("PYTHONPATH", str(trap))
    assert restored(repo, out, 1).problems == ()
    assert not (trap / "sprung").exists()


@needs_root
def test_a_full_file_system_ends_the_restore_and_a_second_run_finishes_it(
    repo: Repository, source: Path, out: Path
) -> None:
    repo.snapshot(source)
    out.mkdir()
    with mounted(out, "2m"):
        with pytest.raises(RestoreError, match=r"No space left.*run it again"):
            restored(repo, out, 2)
        assert leftovers(out) == []
        present = list(out.rglob("*.bin"))
        assert 0 < len(present) < FILES
        for path in present:
            assert path.read_bytes() == (source / path.relative_to(out)).read_bytes()
        subprocess.run([program("mount"), "-o", "remount,size=40m", str(out)], check=True)
        assert restored(repo, out, 2).problems == ()
        assert differences(source, out) == []


# What one helper does.


@pytest.fixture
def orders(repo: Repository, source: Path) -> Dict[bytes, Order]:
    """What is to be written of each small file."""
    repo.snapshot(source)
    with closing(open_database(repo.path, 10.0)) as database:
        found = [as_order(file) for file in files_of(database, find_snapshot(database, 1))]
    return {order[0]: order for order in found if order is not None}


def answer_to(
    repo: Repository, out: Path, orders: List[Order], before: Callable[[], object] = lambda: None
) -> Optional[Answer]:
    """Have one helper write a group, after something was done to the destination; None if it would not."""
    failures: List[Tuple[Any, ...]] = []
    with closing(open_database(repo.path, 10.0)) as database, Destination(
        os.fsencode(out), lambda *failure: failures.append(failure)
    ) as destination, Writing(1) as writing:
        before()
        writing.expect(0, database, destination)
        for order in orders:
            writing.give(order)
        writing.flush()
        [(group, answer)] = writing.answers(wait=True)
        assert (group, writing.unanswered, failures) == (orders, False, [])
        return answer


def test_a_helper_writes_a_group(repo: Repository, source: Path, out: Path, orders: Dict[bytes, Order]) -> None:
    group = [orders[b"1/1.bin"], orders[b"1/8.bin"]]
    (out / "1").mkdir(parents=True)
    assert answer_to(repo, out, group) == Answer(2, [], {})
    assert [as_file(order).version.path for order in group] == [b"1/1.bin", b"1/8.bin"]
    for name in ("1/1.bin", "1/8.bin"):
        assert (out / name).read_bytes() == (source / name).read_bytes()


def test_a_content_that_was_moved_meanwhile_is_found(
    repo: Repository, source: Path, out: Path, orders: Dict[bytes, Order]
) -> None:
    order = orders[b"1/1.bin"]
    (out / "1").mkdir(parents=True)
    assert answer_to(repo, out, [(*order[:10], 99, order[11])]) == Answer(1, [], {})
    assert (out / "1" / "1.bin").read_bytes() == (source / "1" / "1.bin").read_bytes()


def test_a_helper_does_not_write_into_another_directory_of_that_name(
    repo: Repository, tmp_path: Path, out: Path, orders: Dict[bytes, Order]
) -> None:
    outside = tmp_path / "outside"
    (outside / "1").mkdir(parents=True)

    def swap() -> None:
        out.rename(tmp_path / "elsewhere")
        out.symlink_to(outside)

    assert answer_to(repo, out, [orders[b"1/1.bin"]], swap) is None
    assert list(outside.rglob("*")) == [outside / "1"]

    def remove() -> None:
        (tmp_path / "gone").rmdir()

    assert answer_to(repo, tmp_path / "gone", [orders[b"1/1.bin"]], remove) is None
    assert not (tmp_path / "gone").exists()


def test_a_helper_does_not_follow_a_symlink_in_the_destination(
    repo: Repository, tmp_path: Path, out: Path, orders: Dict[bytes, Order]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    out.mkdir()
    (out / "1").symlink_to(outside)
    answer = answer_to(repo, out, [orders[b"1/1.bin"]])
    assert answer is not None
    assert [getattr(error, "errno", None) for error in answer.errors.values()] == [errno.ENOTDIR]
    assert list(outside.iterdir()) == []


def test_nothing_is_started_for_a_few_files(repo: Repository, source: Path, out: Path) -> None:
    repo.snapshot(source)
    seen: List[List[int]] = []
    restored(repo, out, None, lambda event: seen.append(children()))
    assert {len(processes) for processes in seen} == {0}


def test_a_dry_run_starts_nothing(repo: Repository, source: Path, out: Path) -> None:
    repo.snapshot(source)
    out.mkdir()
    seen: List[List[int]] = []
    result = restored(repo, out, 2, lambda event: seen.append(children()), dry_run=True)
    assert {len(processes) for processes in seen} == {0}
    assert facts_of(attrs.evolve(result, dry_run=False)) == facts_of(restored(repo, out, 2))


def test_problems_come_in_the_order_of_their_paths(repo: Repository, source: Path, out: Path) -> None:
    repo.snapshot(source)
    wrong_hashes(repo.path)
    problems: Tuple[Problem, ...] = restored(repo, out, 2).problems
    assert [problem.path for problem in problems] == sorted(problem.path for problem in problems)
    assert len(problems) > 10
