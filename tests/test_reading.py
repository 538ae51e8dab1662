from __future__ import annotations

import errno
import hashlib
import os
import pickle
import random
import sys
import threading
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

import attrs
import pytest
from conftest import Entry, children, entries, helper_message, noise, restored, snapshot_watched, sql, write, write_tree
from trees import facts, make_every_kind, rsync_differences

from backuptool import ProgressEvent, Repository, SnapshotResult
from backuptool.operations import processes
from backuptool.operations.processes import Channel, Helper, HelperFailedError, start_helpers
from backuptool.operations.snapshot import asking
from backuptool.operations.snapshot.saving import FileSaver
from backuptool.operations.snapshot.window import Window
from backuptool.progress import ProgressCallback
from backuptool.storage.arriving import Content
from backuptool.storage.compression import decompress
from backuptool.tree.metadata import encode_xattrs
from backuptool.tree.source import Source

MIB = 1 << 20

#: One version of a file as the catalog has it, by the hash of its content.
ROWS = """
    SELECT CAST(f.path AS BLOB), f.kind, f.mode, f.uid, f.gid, f.mtime_ns, f.size, f.sparse, CAST(f.target AS BLOB),
    f.xattrs, f.link, c.hash, c.refs, c.layout
    FROM files AS f LEFT JOIN contents AS c ON c.id = f.content ORDER BY f.source, f.path, f.first
"""


@pytest.fixture
def tmp_path(memory_path: Path) -> Path:
    """Some MiB are to be written here."""
    return memory_path


def nothing(event: ProgressEvent) -> None:
    """Do nothing."""


def saved(path: Path, root: Path, helpers: int, callback: ProgressCallback = nothing) -> SnapshotResult:
    """Save a directory with so many helpers into a repository of its own, and see that nothing is wrong with that."""
    result = snapshot_watched(path, root, callback, helpers=helpers)
    with Repository(path) as repo:
        assert repo.check().problems == ()
    assert sql(path, "SELECT hash FROM contents GROUP BY hash HAVING count(*) > 1") == []
    return result


def given_back(path: Path, number: int, out: Path) -> Dict[bytes, Entry]:
    """What a snapshot is when it was restored."""
    with Repository(path) as repo:
        return restored(repo, number, out)


def figures(result: SnapshotResult) -> Tuple[object, ...]:
    """What of a result does not depend on the time, nor on what came to lie in which pack."""
    values = attrs.asdict(result, recurse=False)
    snapshot = values.pop("snapshot")
    for name in ("elapsed_seconds", "stored_bytes"):
        values.pop(name)
    return (snapshot.files, snapshot.directories, snapshot.size_bytes, snapshot.distinct_bytes, *values.values())


def once(act: Callable[[], object], phase: str) -> Callable[[ProgressEvent], None]:
    """Return a callback that does something at the first event of a phase."""
    done: List[bool] = []

    def callback(event: ProgressEvent) -> None:
        if not done and event.phase == phase:
            done.append(True)
            act()

    return callback


def make_many(root: Path) -> Path:
    """Files of many sizes, some of them equal to others, some made of the same chunks."""
    chance = random.Random(5)
    for number in range(400):
        size = chance.choice([0, 1, 100, 5000, 70_000])
        write(root / str(number % 7) / f"{number}.dat", noise(size, chance.randrange(150)))
    for number in range(4):
        write(root / f"large{number}", noise(100 * number, 77) + noise(3 * MIB, number % 2))
        write(root / f"odd{number}", noise(MIB - 1 + number, 9 + number % 2))
    return root


@pytest.mark.parametrize("helpers", [1, 3])
def test_helpers_save_what_this_process_saves(tmp_path: Path, helpers: int) -> None:
    root = make_many(tmp_path / "tree")
    alone = saved(tmp_path / "alone.db", root, 0)
    beside = saved(tmp_path / "beside.db", root, helpers)
    assert figures(beside) == figures(alone)
    assert sql(tmp_path / "beside.db", ROWS) == sql(tmp_path / "alone.db", ROWS)
    with Repository(tmp_path / "beside.db") as repo:
        repo.restore("latest", tmp_path / "out")
    assert rsync_differences(root, tmp_path / "out") == ""


@pytest.mark.both
def test_helpers_save_every_kind_of_file(tmp_path: Path) -> None:
    make_every_kind(tmp_path / "tree")
    alone = saved(tmp_path / "alone.db", tmp_path / "tree", 0)
    beside = saved(tmp_path / "beside.db", tmp_path / "tree", 2)
    assert figures(beside) == figures(alone)
    assert sql(tmp_path / "beside.db", ROWS) == sql(tmp_path / "alone.db", ROWS)
    with Repository(tmp_path / "beside.db") as repo:
        repo.restore("latest", tmp_path / "out")
    assert facts(tmp_path / "out") == facts(tmp_path / "tree")


@pytest.mark.both
def test_what_is_stored_already_is_not_stored_again_by_helpers(tmp_path: Path) -> None:
    root = make_many(tmp_path / "tree")
    saved(tmp_path / "repo.db", root, 0)
    (root / "0").rename(root / "moved")
    for path in root.glob("large*"):
        path.write_bytes(path.read_bytes() + b"more")
    result = saved(tmp_path / "repo.db", root, 2)
    assert result.new_files > 50
    assert result.changed_files == 4
    assert 0 < result.new_bytes < 1.2 * MIB  # the last chunks of the large files
    assert given_back(tmp_path / "repo.db", 2, tmp_path / "out") == entries(root)


def test_linked_files_are_read_once_by_helpers(tmp_path: Path) -> None:
    root = make_many(tmp_path / "tree")
    for number in range(0, 400, 3):
        os.link(str(root / str(number % 7) / f"{number}.dat"), str(root / f"link{number}"))
    once_read = sum(path.stat().st_size for path in root.rglob("*") if path.is_file() and "link" not in path.name)
    assert saved(tmp_path / "repo.db", root, 2).read_bytes == once_read
    assert given_back(tmp_path / "repo.db", 1, tmp_path / "out") == entries(root)


def replace_by_symlink(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(str(path))


def replace_parent_by_symlink(path: Path) -> None:
    path.parent.rename(path.parent.with_name("aside"))
    path.parent.symlink_to("/etc")


@pytest.mark.parametrize("name", ["0/14.dat", "large1"])
@pytest.mark.parametrize(
    "change",
    [
        Path.unlink,
        replace_by_symlink,
        replace_by_fifo,
        lambda path: path.write_bytes(b"other"),
        lambda path: path.write_bytes(noise(4 * MIB, 8)),
        lambda path: path.write_bytes(b""),
    ],
    ids=["gone", "symlink", "FIFO", "small", "large", "empty"],
)
def test_what_changes_before_it_is_read_is_found_by_helpers_too(
    tmp_path: Path, name: str, change: Callable[[Path], object]
) -> None:
    results = []
    for helpers in (0, 2):
        root = make_many(tmp_path / f"tree{helpers}")
        # Nothing is read before the walk has come to its end; this is the last one that it comes to.
        act = once(lambda path=root / name: change(path), "read")  # type: ignore[misc]
        last: List[str] = []

        def callback(event: ProgressEvent, act: ProgressCallback = act, last: List[str] = last) -> None:
            if event.phase == "scan" and event.path == "odd3":
                last.append(event.path)
                act(attrs.evolve(event, phase="read"))

        result = saved(tmp_path / f"{helpers}.db", root, helpers, callback)
        assert last == ["odd3"]
        results.append((figures(result), sql(tmp_path / f"{helpers}.db", "SELECT path, size FROM files ORDER BY path")))
    assert results[0] == results[1]


def test_directory_that_became_a_symlink_is_not_followed_by_helpers(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", {"etc/passwd": b"ours", "zz": b"last"})

    def callback(event: ProgressEvent) -> None:
        if event.phase == "scan" and event.path == "zz":
            replace_parent_by_symlink(root / "etc" / "passwd")

    result = saved(tmp_path / "repo.db", root, 2, callback)
    assert result.snapshot.size_bytes == len(b"last")
    assert sql(tmp_path / "repo.db", "SELECT count(*) FROM contents") == [(1,)]


def test_file_that_keeps_changing_while_a_helper_reads_is_a_problem(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", {"log": noise(25 * MIB), "quiet": b"quiet"})
    begun, ended = threading.Event(), threading.Event()

    def grow() -> None:
        with (root / "log").open("ab", buffering=0) as file:
            while not ended.is_set():
                file.write(b"one more line")
                begun.set()

    writing = threading.Thread(target=grow)
    writing.start()
    begun.wait()
    try:
        result = snapshot_watched(tmp_path / "repo.db", root, nothing, helpers=1)
    finally:
        ended.set()
        writing.join()
    assert [(problem.kind, problem.path) for problem in result.problems] == [("changed-while-read", "log")]
    found = given_back(tmp_path / "repo.db", 1, tmp_path / "out")
    assert (root / "log").read_bytes().startswith(found[b"log"].data)


def test_helpers_that_are_killed_lose_nothing(tmp_path: Path) -> None:
    root = make_many(tmp_path / "tree")
    killed: List[int] = []

    def kill() -> None:
        for child in children():
            os.kill(child, 9)
            killed.append(child)

    result = saved(tmp_path / "repo.db", root, 2, once(kill, "read"))
    assert len(killed) == 2
    assert figures(result)[:2] == (408, 8)
    assert given_back(tmp_path / "repo.db", 1, tmp_path / "out") == entries(root)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\n",
        helper_message(None),
        helper_message(7),
        helper_message([1, 2, 3, 4]),
        helper_message(([b"x" * 32], [5], [], [7], [], 5)),
        helper_message(([b"x" * 32], [5], [], [0], [], 5)),
        helper_message(([], [], [(-2, b"x" * 32, 5, b"", b"", b"")], [], [], 5)),
    ],
    ids=["nothing", "nonsense", "the end", "a number", "no pack", "no content", "too few files", "an odd layout"],
)
def test_what_helpers_fail_to_do_is_done_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    root = make_many(tmp_path / "tree")
    (tmp_path / "answer").write_bytes(answer)
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\nread path\ncat {tmp_path}/answer\n")
    script.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(script))
        saved(tmp_path / "repo.db", root, 2)
    assert given_back(tmp_path / "repo.db", 1, tmp_path / "out") == entries(root)


@pytest.mark.parametrize("executable", ["", None, "/usr/bin/uwsgi", "/nothing/python3"])
def test_without_an_interpreter_it_is_all_read_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executable: str
) -> None:
    root = write_tree(tmp_path / "tree", {"a": b"a", "b": noise(2 * MIB)})
    monkeypatch.setattr(sys, "executable", executable)
    assert start_helpers(2, "snapshot.asking") == []
    assert saved(tmp_path / "repo.db", root, 2).new_files == 2


@pytest.mark.parametrize("exception", [KeyboardInterrupt, RuntimeError])
def test_helpers_end_with_what_ends_the_snapshot(tmp_path: Path, exception: type[BaseException]) -> None:
    root = make_many(tmp_path / "tree")
    seen: List[int] = []

    def interrupt() -> None:
        seen.extend(children())
        raise exception

    with pytest.raises(exception):
        saved(tmp_path / "repo.db", root, 2, once(interrupt, "read"))
    assert len(seen) == 2
    assert children() == []
    saved(tmp_path / "repo.db", root, 2)


def test_helpers_import_nothing_from_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_tree(tmp_path / "tree", {"a": b"a"})
    for name in ("json.py", "attr.py", "marshal.py", "sitecustomize.py"):
        write(tmp_path / "trap" / name, b"open('sprung', 'w').close()\n")
    monkeypatch.chdir(tmp_path / "trap")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "trap"))
    assert saved(tmp_path / "repo.db", root, 1).new_files == 1
    assert not (tmp_path / "trap" / "sprung").exists()


def test_few_files_are_read_without_helpers(repo: Repository, tree: Path) -> None:
    seen: List[int] = []
    snapshot_watched(repo.path, tree, lambda event: seen.extend(children()))
    assert seen == []


def test_many_files_are_read_by_helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "tree"
    for number in range(3100):
        write(root / str(number // 100) / str(number), b"%d" % number)
    seen: List[int] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2})
    result = saved(tmp_path / "repo.db", root, None, once(lambda: seen.extend(children()), "read"))  # type: ignore[arg-type]
    assert len(seen) == 3
    assert result.new_files == 3100


@pytest.mark.parametrize("most", [0, 2, None])
def test_no_more_helpers_work_than_the_caller_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: Optional[int]
) -> None:
    root = tmp_path / "tree"
    for number in range(3100):
        write(root / str(number // 100) / str(number), noise(26_000, number))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2})
    seen: List[Set[int]] = [set()]

    def callback(event: ProgressEvent) -> None:
        seen[-1].update(children())

    with Repository(tmp_path / "repo.db", max_helpers=most) as repo:
        repo.snapshot(root, progress=callback)
        seen.append(set())
        repo.restore("latest", tmp_path / "out", progress=callback)
        assert repo.check().problems == ()
        assert pickle.loads(pickle.dumps(repo))._max_helpers == most
    expected = 3 if most is None else most
    assert [len(found) for found in seen] == [expected, expected]


def test_less_than_no_helper_is_refused() -> None:
    with pytest.raises(ValueError, match="max_helpers must be 0 or more, not -1"):
        Repository("backups.db", max_helpers=-1)


# Both ends in one process


@attrs.frozen
class Told:
    """What the other end was told and answered."""

    packs: List[Tuple[Any, ...]]
    questions: List[Tuple[Any, ...]]


def asked(root: Path, lots: List[List[str]], compression: str) -> Told:
    """Have lots of files read by the other end, and want everything that it finds."""
    here, there = os.pipe(), os.pipe()
    ends = [os.fdopen(number, mode) for number, mode in zip((*here, *there), ("rb", "wb", "rb", "wb"))]
    helper, ours = processes._Inbox(ends[0], ends[3]), Channel(ends[2], ends[1])  # type: ignore[arg-type]
    serving = threading.Thread(target=asking.serve, args=(helper, bytes(root), compression), daemon=True)
    serving.start()
    window = Window()
    for lot in lots:
        packed = []
        for name in lot:
            window.add(name.encode(), os.lstat(root / name), None)
            packed.append(window.packed(len(window) - 1))
        ours.send(("read", packed, None))
    ours.send(("read", [], None))
    told = Told([], [])
    ordinal = 0
    while True:
        message = ours.receive()
        if message is None:
            break
        if isinstance(message[1], int):
            told.packs.append(message)
            continue
        told.questions.append(message)
        ours.send(("keep", list(range(ordinal, ordinal + len(message[0]))), None))
        ordinal += len(message[0])
    serving.join()
    for end in (ends[1], ends[3], ends[0], ends[2]):  # who writes first: the other side is still reading
        end.close()
    return told


@pytest.mark.parametrize("compression", ["fast", "max"])
def test_the_other_end_packs_what_is_wanted(tmp_path: Path, compression: str) -> None:
    files = {f"{number}": noise(700_000, number) for number in range(9)}
    files["grown"] = noise(5 * MIB, 99)
    files["empty"] = b""
    root = write_tree(tmp_path / "tree", files)
    os.setxattr(root / "0", "user.x", b"1")
    told = asked(root, [["0", "1", "empty"], ["grown"], ["2", "3", "4", "5", "6", "7", "8"]], compression)
    stored = {}
    for members, size, codec, data, _ in told.packs:
        plain = decompress(codec, data, size)
        offset = 0
        for number, digest, length in members:
            stored[number] = plain[offset : offset + length]
            assert hashlib.sha256(stored[number]).digest() == digest
            offset += length
        assert offset == size
    assert sorted(stored) == list(range(len(stored)))
    results = [result for question in told.questions for result in question[2]]
    assert results[0][::3] == (0, encode_xattrs({b"user.x": b"1"}))
    assert results[3] is None  # it is left to the one that asks
    assert [stored[result] for result in results if isinstance(result, int)] == [
        files[name] for name in ("1", "empty", "2", "3", "4", "5", "6", "7", "8")
    ]
    assert sum(question[4] for question in told.questions) == 9 * 700_000


def test_the_other_end_tells_what_it_cannot_read(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", {"gone": b"gone", "link": b"link", "there": b"there"})
    window = Window()
    for name in ("gone", "link", "there"):
        window.add(name.encode(), os.lstat(root / name), None)
    statuses = [window.entry(position) for position in range(3)]
    (root / "gone").unlink()
    replace_by_symlink(root / "link")
    saver = FileSaver(Source(bytes(root)), _Taker(), asking._refuse, lambda *finding: None)
    gone, link, there = [asking._read(saver, entry.path, entry.status) for entry in statuses]
    assert gone == (errno.ENOENT, os.strerror(errno.ENOENT))
    assert link == "it became another kind of file while the tree was walked"
    assert there == 7


class _Taker:
    """Takes one small file."""

    def __init__(self) -> None:
        self._room = memoryview(bytearray(1 << 20))

    def room(self, size: int) -> memoryview:
        return self._room[:size]

    def add_from_room(self, size: int) -> Content:
        return Content(size, b"", 7)

    def add(self, data: bytes | memoryview) -> Content:
        raise AssertionError("nothing else is there")


# Processes


def test_helper_that_has_ended_is_told_nothing_and_says_nothing() -> None:
    helper = Helper("snapshot.asking", b"/nonexistent", ())
    with pytest.raises(HelperFailedError, match="no message came"):
        helper.receive()
    helper.end()
    with pytest.raises(HelperFailedError, match="nothing can be sent"):
        helper.send("x" * 100_000)
    helper.close()


def test_helper_ends_when_nobody_asks_it_for_anything(tmp_path: Path) -> None:
    helper = Helper("snapshot.asking", bytes(tmp_path), "fast")
    helper.finish()
    assert helper._process.wait() == 0
    helper.close()


def test_no_more_helpers_are_started_than_pay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(processes, "_MOST", 2)
    helpers = start_helpers(5, "snapshot.asking", bytes(tmp_path), "fast")
    for helper in helpers:
        helper.end()
        helper.close()
    assert len(helpers) == 2
