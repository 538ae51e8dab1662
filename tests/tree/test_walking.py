"""The walk: every entry once, in byte order, and nothing outside."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import List, Tuple

import pytest
from conftest import NOBODY, as_nobody, write, write_tree
from trees import make_deep

from backuptool.tree.exclusions import Exclusions
from backuptool.tree.source import Source

from .making import Errors, _collect, descriptors, walk


def test_the_order_of_the_walk_is_the_byte_order_of_the_paths(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path / "root")
    for name in (b"a", b"a-b", b"a.b", b"a0", b"A", b"\xff", "é".encode(), b"z\n", b"~"):
        for inner in (b"", b"a", b"a-", b"a/a", b"a.a", b"\x01", b"\xff"):
            os.makedirs(os.path.join(root, name, inner), exist_ok=True)
    for name in (b"a!", b"a/ ", b"a-b/z", b"a.b/a-x"):
        with open(os.path.join(root, name), "wb"):
            pass
    found = walk(tmp_path / "root")
    assert found == sorted(found)
    expected = {b""}
    for directory, names, files in os.walk(root):
        expected.update(os.path.relpath(os.path.join(directory, name), root) for name in names + files)
    assert set(found) == expected
    assert len(found) == len(expected)


def test_the_order_holds_for_any_names(tmp_path: Path) -> None:
    hypothesis = pytest.importorskip("hypothesis")
    strategies = pytest.importorskip("hypothesis.strategies")
    name = strategies.lists(strategies.sampled_from(list(b"a-./0\x01\xff")), min_size=1, max_size=6).map(bytes)
    numbers = iter(range(100_000))

    def holds(paths: List[bytes]) -> None:
        root = os.fsencode(tmp_path / str(next(numbers)))
        os.mkdir(root)
        for path in paths:
            parts = [part for part in path.split(b"/") if part not in (b"", b".", b"..")]
            os.makedirs(os.path.join(root, *parts), exist_ok=True)
        found = walk(Path(os.fsdecode(root)))
        assert found == sorted(set(found))
        assert len(found) == 1 + sum(len(names) for _, names, _ in os.walk(root))

    settings = hypothesis.settings(max_examples=40, deadline=None, database=None)
    settings(hypothesis.given(strategies.lists(name, max_size=12))(holds))()


def test_the_walk_goes_deeper_than_descriptors_are_kept_open(tmp_path: Path) -> None:
    level = tmp_path / "root"
    expected = [b""]
    for _ in range(260):
        write(level / "a-file", b"")
        level = level / "a"
        level.mkdir()
    write(level / "z", b"")
    before = descriptors()
    found = walk(tmp_path / "root")
    expected += [b"a/" * depth + name for depth in range(260) for name in (b"a", b"a-file")] + [b"a/" * 260 + b"z"]
    assert found == sorted(expected)
    assert descriptors() == before


def test_the_walk_follows_paths_longer_than_a_system_call_takes(tmp_path: Path) -> None:
    path = make_deep(tmp_path, levels=25)
    found = walk(tmp_path)
    assert path + b"/symlink" in found
    assert len(found) == 1 + 2 * 25 + 4
    source = Source(os.fsencode(tmp_path))
    with source.open_file(path + b"/file", dict(source.walk(Exclusions(), _collect(None)))[path + b"/file"]) as file:
        assert file.read_all(1 << 20) == b"level 24"
    assert source.read_link(path + b"/symlink") == b"file"
    assert os.readlink(source.unfollowed(path + b"/symlink")) == b"file"
    source.close()


def test_a_walk_that_is_given_up_closes_its_descriptors(tmp_path: Path) -> None:
    write_tree(tmp_path / "root", {"a/b/c/d": b"", "z": b""})
    before = descriptors()
    source = Source(os.fsencode(tmp_path / "root"))
    steps = source.walk(Exclusions(), _collect(None))
    for path, _ in steps:
        if path == b"a/b/c":
            break
    next(steps)
    assert descriptors() > before + 1
    steps.close()  # type: ignore[attr-defined]
    source.close()
    source.close()
    assert descriptors() == before


def test_symlinks_are_walked_as_symlinks(tmp_path: Path) -> None:
    write_tree(tmp_path / "root", {"real/file": b""})
    (tmp_path / "root" / "loop").symlink_to("..")
    (tmp_path / "root" / "dangling").symlink_to("nowhere")
    assert walk(tmp_path / "root") == [b"", b"dangling", b"loop", b"real", b"real/file"]


def test_a_symlink_to_the_source_is_followed(tmp_path: Path) -> None:
    write_tree(tmp_path / "root", {"file": b""})
    (tmp_path / "symlink").symlink_to("root")
    assert walk(tmp_path / "symlink") == [b"", b"file"]
    assert Source(os.fsencode(tmp_path / "symlink")).root == os.fsencode(tmp_path / "root")


@pytest.mark.parametrize("swap", ["removed", "symlink", "file", "fifo"])
def test_a_directory_that_is_replaced_before_its_turn_is_passed_over(tmp_path: Path, swap: str) -> None:
    root = write_tree(tmp_path / "root", {"a/file": b"", "b/file": b"", "c": b""})
    write_tree(tmp_path / "outside", {"secret": b""})
    source = Source(os.fsencode(root))
    found = []
    for path, _ in source.walk(Exclusions(), _collect(None)):
        found.append(path)
        if path == b"b":
            shutil.rmtree(str(root / "b"))
            if swap == "symlink":
                (root / "b").symlink_to(tmp_path / "outside")
            elif swap == "file":
                write(root / "b", b"")
            elif swap == "fifo":
                os.mkfifo(root / "b")
    source.close()
    assert found == [b"", b"a", b"a/file", b"b", b"c"]


def test_a_deep_directory_that_is_replaced_before_its_turn_is_passed_over(tmp_path: Path) -> None:
    root = tmp_path / "root"
    deep = root.joinpath(*["d"] * 110)
    write(deep / "last" / "file", b"")
    write_tree(tmp_path / "outside", {"last/secret": b""})
    source = Source(os.fsencode(root))
    found = []
    for path, _ in source.walk(Exclusions(), _collect(None)):
        found.append(path)
        if path.endswith(b"last"):
            shutil.rmtree(str(deep))
            deep.symlink_to(tmp_path / "outside")
    source.close()
    assert len(found) == 112


def test_a_file_that_vanishes_before_its_turn_is_passed_over(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", {"a": b"", "b": b"", "c": b""})
    source = Source(os.fsencode(root))
    found = []
    for path, _ in source.walk(Exclusions(), _collect(None)):
        found.append(path)
        if path == b"a":
            (root / "b").unlink()
    source.close()
    assert found == [b"", b"a", b"c"]


def test_what_cannot_be_listed_is_reported_and_the_walk_goes_on(public_path: Path) -> None:
    root = write_tree(public_path / "root", {"a": b"", "closed/file": b"", "listed/file": b"", "listed/sub": None})
    (root / "closed").chmod(0o300)
    (root / "listed").chmod(0o400)
    if os.geteuid() == 0:
        for path in (root / "closed", root / "listed"):
            os.chown(path, NOBODY, NOBODY)

    def run() -> Tuple[List[bytes], Errors]:
        errors: Errors = []
        return walk(root, errors=errors), errors

    found, errors = as_nobody(run)
    assert found == [b"", b"a", b"closed", b"listed"]
    assert errors == [
        (b"closed", errno.EACCES),
        (b"listed/file", errno.EACCES),
        (b"listed/sub", errno.EACCES),
    ]


def test_what_cannot_be_looked_at_deep_down_is_reported_with_its_own_reason(public_path: Path) -> None:
    deep = public_path.joinpath("root", *["d"] * 120)
    write(deep / "file", b"")
    (deep / "sub").mkdir()
    deep.chmod(0o400)
    if os.geteuid() == 0:
        os.chown(deep, NOBODY, NOBODY)

    def run() -> Tuple[int, Errors]:
        errors: Errors = []
        return len(walk(public_path / "root", errors=errors)), errors

    prefix = b"d/" * 120
    assert as_nobody(run) == (121, [(prefix + b"file", errno.EACCES), (prefix + b"sub", errno.EACCES)])


def test_what_is_left_out_is_passed_over_without_a_word(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", {"a": b"", "b": b"", "sub/b": b"", "sub/c": b"", "other/c": b""})
    os.link(root / "a", root / "sub" / "link to a")
    status = os.stat(root / "a")
    parent = os.stat(root / "sub")
    source = Source(os.fsencode(root))
    found = [
        path
        for path, _ in source.walk(
            Exclusions(),
            _collect(None),
            frozenset({(status.st_dev, status.st_ino)}),
            frozenset({(parent.st_dev, parent.st_ino, b"c")}),
        )
    ]
    source.close()
    assert found == [b"", b"b", b"other", b"other/c", b"sub", b"sub/b"]
