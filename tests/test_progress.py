from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

import attrs
import pytest
from conftest import EveryEvent, write, write_tree
from trees import random_bytes

import backuptool
from backuptool import ProgressEvent, Repository
from backuptool.operations.check.checking import check
from backuptool.operations.prune.pruning import prune
from backuptool.operations.restore.restoring import RestoreOptions, restore
from backuptool.operations.snapshot.directory import SnapshotOptions, snapshot
from backuptool.progress import Reporter, bar
from backuptool.storage.pool import ConnectionPool

#: The phases of each operation in the order in which each appears for the first time.
PHASES = {
    "snapshot": ["scan", "read", "commit"],
    "restore": ["restore", "metadata", "verify"],
    "check": ["catalog", "data"],
    "prune": ["remove", "repack", "shrink"],
}


def run(verb: str, path: str, source: Path, out: Path, reporter: Reporter) -> None:
    """Run one operation of a repository with a reporter of one's own."""
    pool = ConnectionPool(path, 10.0)
    try:
        if verb == "snapshot":
            snapshot(pool, SnapshotOptions(source=os.fsencode(source), host="host"), reporter, clock=time.time_ns)
        elif verb == "restore":
            with pool.reading() as database:
                restore(database, "latest", RestoreOptions(destination=os.fsencode(out), verify=True), reporter)
        elif verb == "check":
            with pool.reading() as database:
                check(database, quick=False, reporter=reporter)
        else:
            with pool.writing() as database:
                prune(database, (1,), dry_run=False, reporter=reporter, clock=time.time_ns)
    finally:
        pool.close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A few files, one of them large."""
    files: Dict[str, Optional[bytes]] = {f"{number}": b"%d" % number for number in range(20)}
    files["sub/large"] = random_bytes(5 << 20)
    return write_tree(tmp_path / "source", files)


def prepare(verb: str, repo: Repository, source: Path) -> None:
    """Take the snapshots that an operation needs."""
    if verb != "snapshot":
        repo.snapshot(source)
    if verb == "prune":
        write(source / "sub" / "large", random_bytes(5 << 20)[: 3 << 20])
        (source / "7").unlink()
        repo.snapshot(source)
    repo.close()


@pytest.mark.parametrize("verb", PHASES)
def test_phases_come_in_order_and_counts_never_go_back(
    verb: str, repo: Repository, source: Path, tmp_path: Path
) -> None:
    prepare(verb, repo, source)
    events: List[ProgressEvent] = []
    run(verb, repo.path, source, tmp_path / "out", EveryEvent(events.append))
    phases = list(dict.fromkeys(event.phase for event in events))
    assert phases == [phase for phase in PHASES[verb] if phase in phases]
    assert set(PHASES[verb]) - set(phases) <= {"repack", "shrink"}
    for phase in phases:
        of_phase = [event for event in events if event.phase == phase]
        for name in ("done_files", "done_bytes"):
            done = [getattr(event, name) for event in of_phase]
            assert done == sorted(done), f"{name} of {phase}"
            assert min(done) >= 0
            total = [getattr(event, name.replace("done", "total")) for event in of_phase]
            assert all(most is None or value <= most for value, most in zip(done, total)), f"{name} of {phase}"
        assert len({event.total_files for event in of_phase}) == 1
    documented = (ProgressEvent.__doc__ or "").split("done_files:")[0]
    assert all(f'``"{phase}"``' in documented for phase in phases)


@pytest.mark.parametrize("verb", PHASES)
def test_a_callback_that_raises_ends_the_operation_at_every_step(
    verb: str, repo: Repository, source: Path, tmp_path: Path
) -> None:
    class CancelledError(Exception):
        pass

    prepare(verb, repo, source)
    saved = Path(repo.path).read_bytes() if verb != "snapshot" else b""
    events: List[ProgressEvent] = []
    run(verb, repo.path, source, tmp_path / "out", EveryEvent(events.append))
    steps = sorted({0, 1, len(events) // 2, len(events) - 1})
    for step in steps:
        Path(repo.path).unlink()
        if saved:
            Path(repo.path).write_bytes(saved)
        left = iter(range(step))

        def cancel(event: ProgressEvent) -> None:
            if next(left, None) is None:  # noqa: B023 (called within this turn)
                raise CancelledError

        with pytest.raises(CancelledError):
            run(verb, repo.path, source, tmp_path / f"out {step}", EveryEvent(cancel))
        if os.path.exists(repo.path):
            assert repo.check().ok
            if verb == "snapshot":
                assert len(repo.list()) == 0
        repo.close()


def test_progress_may_be_a_callback_true_or_nothing(
    repo: Repository, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events: List[ProgressEvent] = []
    repo.snapshot(source, progress=events.append)
    assert {event.phase for event in events} == {"scan", "read", "commit"}
    for progress in (None, False):
        repo.restore(1, tmp_path / "out", progress=progress)
        repo.check(progress=progress)
        repo.prune((), progress=progress)
    assert capsys.readouterr() == ("", "")


def test_a_bar_is_drawn_on_standard_error_and_vanishes(
    repo: Repository, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = threading.active_count()
    repo.snapshot(source, progress=True)
    repo.restore(1, tmp_path / "out", progress=True)
    repo.check(progress=True)
    repo.prune(1, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    for phase in ("scan", "restore", "catalog", "remove"):
        assert phase in err
    assert err.rpartition("\r")[0].rpartition("\r")[2].strip() == ""  # the last line was wiped
    assert threading.active_count() == threads


def test_a_bar_is_closed_when_the_operation_fails(
    repo: Repository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tqdm: Any = pytest.importorskip("tqdm")
    source = write_tree(tmp_path / "source", {"file": b"data"})
    repo.snapshot(source)
    write(tmp_path / "out", b"in the way")
    with pytest.raises(backuptool.RestoreError):
        repo.restore(1, tmp_path / "out", progress=True)
    with pytest.raises(backuptool.SnapshotNotFoundError):
        repo.prune(5, progress=True)
    assert len(getattr(tqdm.tqdm, "_instances", ())) == 0


def test_a_bar_shows_files_or_bytes_and_how_many_there_are() -> None:
    stream = io.StringIO()
    show, close = bar(file=stream, ncols=80)
    show(ProgressEvent(phase="scan", done_files=1000))
    show(ProgressEvent(phase="scan", done_files=2000, path="some/file"))
    show(ProgressEvent(phase="read", done_files=7, done_bytes=1 << 20, total_bytes=4 << 20))
    show(ProgressEvent(phase="metadata", done_files=5, total_files=10))
    show(ProgressEvent(phase="metadata", done_files=10, total_files=10))
    close()
    close()
    lines = stream.getvalue().split("\r")
    text = "\n".join(lines)
    assert "scan: 2,000 files" in text
    assert any(line.startswith("read:  25%") and "1.00M/4.00M" in line and "7 files" in line for line in lines)
    assert any(line.startswith("metadata: 100%") and "10/10 files" in line for line in lines)
    assert not any("\n" in line for line in lines)


def test_a_bar_that_was_never_drawn_is_closed_without_a_word() -> None:
    stream = io.StringIO()
    _, close = bar(file=stream)
    close()
    assert stream.getvalue() == ""


def test_within_a_notebook_the_bar_is_that_of_notebooks() -> None:
    """Where there is no page to draw on it draws text, as anywhere."""
    program = (
        "import sys, types, warnings; warnings.simplefilter('ignore'); sys.modules['ipykernel'] = types.ModuleType('k')"
        "; from backuptool.progress import *; show, close = bar(); show(ProgressEvent(phase='scan', done_files=1));"
        " close(); assert 'tqdm.auto' in sys.modules"
    )
    place = os.path.dirname(os.path.dirname(backuptool.__file__))
    done = subprocess.run([sys.executable, "-c", program], cwd=place, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)


def test_events_are_thinned_out_but_the_ends_of_phases_are_all_told(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    events: List[ProgressEvent] = []
    with Reporter(events.append) as reporter:
        for number in range(5):
            reporter.report("scan", done_files=number, path=b"\xff")
        now[0] += 0.2
        reporter.report("scan", done_files=5)
        reporter.report("scan", done_files=6)
        reporter.report("read", done_files=1, total_files=9, done_bytes=2, total_bytes=3)
        reporter.report("read", done_files=2)
        reporter.report("commit")
    assert [(event.phase, event.done_files) for event in events] == [
        ("scan", 0),
        ("scan", 5),
        ("scan", 6),
        ("read", 1),
        ("read", 2),
        ("commit", 0),
    ]
    assert events[0].path == "\udcff"
    assert attrs.asdict(events[3]) == {
        "phase": "read",
        "done_files": 1,
        "total_files": 9,
        "done_bytes": 2,
        "total_bytes": 3,
        "path": "",
    }


def test_the_last_event_is_told_at_the_end_but_not_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    events: List[ProgressEvent] = []
    with Reporter(events.append) as reporter:
        reporter.report("scan", done_files=1)
        reporter.report("scan", done_files=2)
    assert [event.done_files for event in events] == [1, 2]
    failing = Reporter(events.append)
    failing.report("scan", done_files=3)
    failing.report("scan", done_files=4)
    failing.__exit__(KeyError, KeyError(), None)
    assert [event.done_files for event in events] == [1, 2, 3]


def test_a_reporter_that_nobody_listens_to_is_silent() -> None:
    for progress in (None, False):
        with Reporter(progress) as reporter:
            assert not reporter.active
            reporter.report("scan", done_files=1)


def test_events_are_values() -> None:
    event = ProgressEvent(phase="scan", done_files=1)
    assert event == ProgressEvent(phase="scan", done_files=1)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        event.phase = "read"  # type: ignore[misc]
    with pytest.raises(TypeError):
        ProgressEvent("scan")  # type: ignore[call-arg]
