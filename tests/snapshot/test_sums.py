"""What a snapshot counts adds up: to the files of the one before, and to its own."""

from __future__ import annotations

import io
import os
import random
import shutil
import tarfile
from pathlib import Path
from typing import Dict, List, Tuple

import attrs
import pytest
from conftest import age, write, write_tree

from backuptool import Repository, SnapshotResult

from .making import Counts, counts

#: What is at a path: a kind, and what it holds.
State = Dict[str, Tuple[str, bytes]]

_LIMIT = 8


def _random_state(rng: random.Random) -> State:
    """Return a tree of few names, so that each of them becomes everything in time."""
    state: State = {}
    for name in "abcd":
        kind = rng.choice(["nothing", "file", "file", "large", "symlink", "fifo", "directory", "directory"])
        if kind == "directory":
            state[name] = ("directory", b"")
            for below in ("x", "y.tmp"):
                if rng.random() < 0.7:
                    state[f"{name}/{below}"] = ("file", rng.choice([b"1", b"2"]))
        elif kind in ("file", "large"):
            state[name] = ("file", rng.choice([b"1", b"2"]) * (_LIMIT + 1 if kind == "large" else 1))
        elif kind != "nothing":
            state[name] = (kind, b"")
    return state


def _make(root: Path, state: State) -> None:
    shutil.rmtree(str(root), ignore_errors=True)
    root.mkdir()
    for path, (kind, data) in state.items():
        if kind == "directory":
            (root / path).mkdir()
        elif kind == "file":
            write(root / path, data)
        elif kind == "symlink":
            (root / path).symlink_to("target")
        else:
            os.mkfifo(str(root / path))
    for path in sorted(state, reverse=True):
        os.utime(str(root / path), ns=(10**18, 10**18), follow_symlinks=False)


def _model(before: State, after: State) -> Counts:
    old = {path: what for path, what in before.items() if what[0] != "directory"}
    new = {path: what for path, what in after.items() if what[0] != "directory"}
    both = old.keys() & new.keys()
    return Counts(
        new=len(new.keys() - both),
        changed=sum(old[path] != new[path] for path in both),
        unchanged=sum(old[path] == new[path] for path in both),
        removed=len(old.keys() - both),
    )


def _require_sums(repo: Repository, result: SnapshotResult, before: State, after: State) -> None:
    assert attrs.evolve(counts(result), skipped=0) == _model(before, after)
    files = sum(kind != "directory" for kind, _ in after.values())
    assert result.snapshot.files == files == result.new_files + result.changed_files + result.unchanged_files
    changes = repo.stats().snapshots[-1].changes
    assert changes is not None
    assert changes.base_files == sum(kind != "directory" for kind, _ in before.values())


@pytest.mark.parametrize("seed", range(3))
def test_each_file_is_new_changed_unchanged_or_removed(repo: Repository, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    root = tmp_path / "tree"
    before: State = {}
    for _ in range(15):
        state = _random_state(rng)
        _make(root, state)
        exclude = rng.choice([[], [], ["*.tmp"], ["a"], ["b/"]])
        limit = rng.choice([None, None, _LIMIT])
        after = {
            path: (kind, data)
            for path, (kind, data) in state.items()
            if not (path.endswith(".tmp") and "*.tmp" in exclude)
            and not (path.split("/")[0] == "a" and "a" in exclude)
            and not (path.split("/")[0] == "b" and state["b"][0] == "directory" and "b/" in exclude)
            and not (limit is not None and len(data) > limit)
        }
        _require_sums(repo, repo.snapshot(root, exclude=exclude, max_file_size=limit), before, after)
        before = after


@pytest.mark.parametrize("seed", range(2))
def test_the_entries_of_a_stream_are_new_changed_unchanged_or_removed(repo: Repository, seed: int) -> None:
    rng = random.Random(seed)
    before: State = {}
    for _ in range(10):
        after = _random_state(rng)
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as tar:
            for path, (kind, data) in after.items():
                member = tarfile.TarInfo(path)
                member.type = {"directory": tarfile.DIRTYPE, "symlink": tarfile.SYMTYPE, "fifo": tarfile.FIFOTYPE}.get(
                    kind, tarfile.REGTYPE
                )
                member.linkname = "target" if kind == "symlink" else ""
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        stream.seek(0)
        _require_sums(repo, repo.import_tar(stream, source="stream"), before, after)
        before = after


def _alerts(result: SnapshotResult) -> List[str]:
    return [alert.kind for alert in result.snapshot.alerts]


def _fifty(root: Path) -> Path:
    return write_tree(root, {f"{number:02}.dat": b"%d" % number * 20 for number in range(50)})


def test_files_that_became_directories_are_deleted(repo: Repository, tmp_path: Path) -> None:
    root = _fifty(tmp_path / "tree")
    repo.snapshot(root)
    for path in root.iterdir():
        path.unlink()
        path.mkdir()
    result = repo.snapshot(root)
    assert counts(result) == Counts(removed=50)
    assert _alerts(result) == ["mass-deletion"]


@pytest.mark.parametrize("way", ["pattern", "marker", "cache", "limit", "larger", "everything"])
def test_files_that_are_left_out_now_are_removed_but_not_deleted(repo: Repository, tmp_path: Path, way: str) -> None:
    root = _fifty(tmp_path / "tree" / "most").parent
    write(root / "keep.txt", b"")
    write(root / "most" / "CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc55")
    repo.snapshot(root)
    if way == "limit":
        result = repo.snapshot(root, max_file_size=10)
    elif way == "larger":
        result = repo.snapshot(root, exclude_larger_than=10)
    elif way == "marker":
        result = repo.snapshot(root, exclude_if_present=["CACHEDIR.TAG"])
    elif way == "cache":
        result = repo.snapshot(root, exclude_caches=True)
    else:
        result = repo.snapshot(root, exclude=["*.dat"] if way == "pattern" else ["*"])
    assert result.removed_files >= 50
    assert result.snapshot.files + result.removed_files == 52
    assert _alerts(result) == []


def test_files_that_are_gone_are_deleted_whatever_is_left_out(repo: Repository, tmp_path: Path) -> None:
    root = _fifty(tmp_path / "tree" / "most").parent
    write_tree(root, {f"left out/{number}": b"" for number in range(10)})
    write(root / "keep.txt", b"")
    repo.snapshot(root)
    shutil.rmtree(str(root / "most"))
    result = repo.snapshot(root, exclude=["most/", "left out/"])
    assert counts(result) == Counts(unchanged=1, removed=60)
    [alert] = result.snapshot.alerts
    assert "50 of 61 files are gone" in alert.message


def test_what_an_import_does_not_take_is_not_deleted(repo: Repository, tmp_path: Path) -> None:
    root = _fifty(tmp_path / "tree")
    age(write(root / "keep.txt", b""))
    path = tmp_path / "it.tar"
    with tarfile.open(str(path), "w") as tar:
        tar.add(str(root), "")
    repo.import_tar(path, source="it")
    result = repo.import_tar(path, source="it", exclude=["*.dat"])
    assert counts(result) == Counts(unchanged=1, removed=50)
    assert _alerts(result) == []
    empty = tmp_path / "empty.tar"
    with tarfile.open(str(empty), "w"):
        pass
    repo.import_tar(path, source="it")
    assert _alerts(repo.import_tar(empty, source="it", exclude=["keep.txt"])) == ["mass-deletion"]
