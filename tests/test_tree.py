from __future__ import annotations

import errno
import os
import resource
import shutil
import stat
from pathlib import Path
from typing import Any, Callable, Dict, FrozenSet, Iterator, List, Optional, Tuple

import pytest
from conftest import NOBODY, as_nobody, write, write_tree
from trees import make_deep, make_sparse_file, mounted, needs_root, random_bytes

from backuptool import PatternError, RestoreError, SourceError, UnsafePathError
from backuptool.tree.attributes import Metadata
from backuptool.tree.confined import ConfinedRoot, require_safe, split
from backuptool.tree.destination import Destination, is_temporary
from backuptool.tree.exclusions import (
    CACHE_TAG_SIGNATURE,
    Exclusions,
    Patterns,
    paths_or_patterns,
    read_pattern_file,
)
from backuptool.tree.metadata import (
    clamp_ns,
    decode_xattrs,
    encode_xattrs,
    kind_of,
    read_xattrs,
    signed_inode,
    trusted_ctime_ns,
)
from backuptool.tree.portability import (
    OPEN_DIRECTORY,
    OPEN_FILE,
    group_name,
    list_xattrs,
    next_data,
    next_hole,
    read_xattr,
    remove_xattr,
    user_name,
    write_xattr,
)
from backuptool.tree.source import FileChangedError, Source

Errors = List[Tuple[bytes, int]]


def walk(root: Path, exclusions: Optional[Exclusions] = None, errors: Optional[Errors] = None) -> List[bytes]:
    """Return the paths that a walk yields; errors fail the test unless they are collected."""
    source = Source(os.fsencode(root))
    try:
        return [path for path, _ in source.walk(exclusions or Exclusions(), _collect(errors))]
    finally:
        source.close()


def _collect(errors: Optional[Errors]) -> Callable[[bytes, OSError], None]:
    def report(path: bytes, exc: OSError) -> None:
        if errors is None:
            raise AssertionError(f"{path!r} could not be walked") from exc
        errors.append((path, exc.errno or 0))

    return report


def descriptors() -> int:
    """Return the number of open descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Source]:
    """A directory with a file, a symlink and a directory with a file in it, opened."""
    root = write_tree(tmp_path / "source", {"file": b"data", "sub/inner": b"inner"})
    (root / "symlink").symlink_to("file")
    opened = Source(os.fsencode(root))
    yield opened
    opened.close()


def status_of(source: Source, path: bytes) -> os.stat_result:
    return os.lstat(os.path.join(source.root, path))


def read_small(source: Source, path: bytes, expected: os.stat_result) -> Optional[Tuple[bytes, bytes]]:
    """Return (bytes, encoded extended attributes) of a file that is as expected, None of any other."""
    room = memoryview(bytearray(expected.st_size + 1))
    xattrs = source.read_small(path, expected, room)
    return None if xattrs is None else (bytes(room[:-1]), xattrs)


# The walk.


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


# The source.


def test_a_missing_source_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"cannot read .*nowhere: No such file or directory; check the") as caught:
        Source(os.fsencode(tmp_path / "nowhere"))
    assert caught.value.path == str(tmp_path / "nowhere")


def test_an_empty_name_is_no_source() -> None:
    with pytest.raises(SourceError, match="name a directory"):
        Source(b"")


def test_a_source_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "file", b"")
    with pytest.raises(SourceError, match="is not a directory; name the directory that holds it"):
        Source(os.fsencode(tmp_path / "file"))
    with pytest.raises(SourceError, match="Not a directory; nothing was saved"):
        Source(os.fsencode(tmp_path / "file" / "sub"))


def test_a_source_that_cannot_be_listed_is_an_error(public_path: Path) -> None:
    (public_path / "closed").mkdir()
    (public_path / "closed").chmod(0o311)

    def run() -> str:
        with pytest.raises(SourceError) as caught:
            Source(os.fsencode(public_path / "closed"))
        return str(caught.value)

    if os.geteuid() != 0:
        (public_path / "closed").chmod(0o300)
    assert "Permission denied; nothing was saved" in as_nobody(run)


def test_a_source_refused_leaves_no_descriptor_open(tmp_path: Path) -> None:
    before = descriptors()
    for name in ("nowhere", "file"):
        with pytest.raises(SourceError):
            Source(os.fsencode(write(tmp_path / "file", b"").with_name(name)))
    assert descriptors() == before


# Reading.


def test_a_file_is_read_as_it_is(source: Source) -> None:
    with source.open_file(b"file", status_of(source, b"file")) as file:
        assert file.read_all(1 << 20) == b"data"
        assert file.unchanged(4)
        assert not file.unchanged(3)
        file.rewind()
        assert file.read_all(1 << 20) == b"data"


def test_a_file_replaced_by_another_is_read_as_the_other(source: Source, tmp_path: Path) -> None:
    status = status_of(source, b"file")
    write(tmp_path / "other", b"other data")
    os.replace(tmp_path / "other", tmp_path / "source" / "file")
    with source.open_file(b"file", status) as file:
        assert file.read_all(1 << 20) == b"other data"


@pytest.mark.parametrize("swap", ["symlink", "fifo", "socket", "directory"])
def test_a_file_that_became_something_else_is_not_read(source: Source, tmp_path: Path, swap: str) -> None:
    status = status_of(source, b"file")
    path = tmp_path / "source" / "file"
    path.unlink()
    if swap == "symlink":
        path.symlink_to(write(tmp_path / "outside", b"secret"))
    elif swap == "fifo":
        os.mkfifo(path)
    elif swap == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    else:
        path.mkdir()
    before = descriptors()
    with pytest.raises(FileChangedError, match="another kind of file"):
        source.open_file(b"file", status)
    assert read_small(source, b"file", status) is None
    assert descriptors() == before


def test_a_file_behind_a_swapped_directory_is_not_read(source: Source, tmp_path: Path) -> None:
    status = status_of(source, b"sub/inner")
    shutil.rmtree(str(tmp_path / "source" / "sub"))
    write(tmp_path / "outside" / "inner", b"secret")
    (tmp_path / "source" / "sub").symlink_to(tmp_path / "outside")
    before = descriptors()
    with pytest.raises(NotADirectoryError):
        source.open_file(b"sub/inner", status)
    assert read_small(source, b"sub/inner", status) is None
    assert descriptors() == before


def test_a_file_with_the_inode_number_of_the_listed_one_is_not_taken_for_it(source: Source, tmp_path: Path) -> None:
    """Inode numbers are used again: the same file, moved outside and changed, stands for one that got its number."""
    status = status_of(source, b"sub/inner")
    os.rename(tmp_path / "source" / "sub", tmp_path / "outside")
    (tmp_path / "outside" / "inner").write_bytes(b"other")
    (tmp_path / "source" / "sub").symlink_to(tmp_path / "outside")
    assert status_of(source, b"sub/inner").st_ino == status.st_ino
    with pytest.raises(NotADirectoryError):
        source.open_file(b"sub/inner", status)
    assert read_small(source, b"sub/inner", status) is None


def test_a_symlink_behind_a_swapped_directory_is_not_read(source: Source, tmp_path: Path) -> None:
    shutil.rmtree(str(tmp_path / "source" / "sub"))
    write(tmp_path / "outside" / "file", b"")
    (tmp_path / "outside" / "symlink").symlink_to("secret")
    (tmp_path / "source" / "sub").symlink_to(tmp_path / "outside")
    with pytest.raises(NotADirectoryError):
        source.read_link(b"sub/symlink")
    with pytest.raises(NotADirectoryError):
        source.unfollowed(b"sub/symlink")


def test_a_missing_file_is_an_error_of_the_system(source: Source) -> None:
    with pytest.raises(FileNotFoundError):
        source.open_file(b"missing", status_of(source, b"file"))


@needs_root
def test_a_file_of_another_user_is_read_too(public_path: Path) -> None:
    """Its access time cannot be kept then."""
    write(public_path / "root" / "file", b"root's")

    def run() -> bytes:
        source = Source(os.fsencode(public_path / "root"))
        assert read_small(source, b"file", status_of(source, b"file")) is None
        with source.open_file(b"file", status_of(source, b"file")) as file:
            return file.read_all(1 << 20)

    assert as_nobody(run) == b"root's"


def test_reading_leaves_the_access_time_alone(source: Source, tmp_path: Path) -> None:
    path = tmp_path / "source" / "file"
    os.utime(path, ns=(1, 1))
    with source.open_file(b"file", status_of(source, b"file")) as file:
        file.read_all(1 << 20)
    assert read_small(source, b"file", status_of(source, b"file")) == (b"data", b"")
    assert path.stat().st_atime_ns == 1


@pytest.mark.parametrize("data", [b"", b"shorter", b"x" * 3_000_000])
def test_a_file_that_changes_while_it_is_open_is_noticed(source: Source, tmp_path: Path, data: bytes) -> None:
    with source.open_file(b"file", status_of(source, b"file")) as file:
        (tmp_path / "source" / "file").write_bytes(data)
        assert file.read_all(4_000_000) == data
        assert not file.unchanged(len(data))
        file.rewind()
        assert file.read_all(4_000_000) == data
        assert file.unchanged(len(data))


def test_a_file_that_grows_beyond_all_bounds_is_not_read_whole(source: Source, tmp_path: Path) -> None:
    with source.open_file(b"file", status_of(source, b"file")) as file:
        (tmp_path / "source" / "file").write_bytes(b"x" * 5_000_000)
        assert file.read_all(1 << 20) == b"x" * (1 << 20)


def test_a_small_file_is_read_in_one_go(source: Source, tmp_path: Path) -> None:
    assert read_small(source, b"sub/inner", status_of(source, b"sub/inner")) == (b"inner", b"")
    os.setxattr(tmp_path / "source" / "file", "user.x", b"1")
    status = status_of(source, b"file")
    before = descriptors()
    assert read_small(source, b"file", status) == (b"data", encode_xattrs({b"user.x": b"1"}))
    (tmp_path / "source" / "file").write_bytes(b"longer than before")
    assert read_small(source, b"file", status) is None
    (tmp_path / "source" / "file").write_bytes(b"few")
    assert read_small(source, b"file", status) is None
    assert read_small(source, b"missing", status) is None
    make_sparse_file(tmp_path / "source" / "sparse", 1 << 20, [])
    assert read_small(source, b"sparse", status_of(source, b"sparse")) is None
    write(tmp_path / "source" / "empty", b"")
    assert read_small(source, b"empty", status_of(source, b"empty")) == (b"", b"")
    assert descriptors() == before


def test_a_small_file_goes_into_its_room_and_no_further(source: Source, tmp_path: Path) -> None:
    buffer = bytearray(b"." * 20)
    room = memoryview(buffer)
    assert source.read_small(b"file", status_of(source, b"file"), room[8:13]) == b""
    assert bytes(buffer) == b"." * 8 + b"data" + b"." * 8
    status = status_of(source, b"sub/inner")
    (tmp_path / "source" / "sub" / "inner").write_bytes(b"grown since it was listed")
    assert source.read_small(b"sub/inner", status, room[4:10]) is None
    assert bytes(buffer) == b"." * 4 + b"grown " + b"ta" + b"." * 8


def test_a_fifo_in_the_place_of_a_small_file_keeps_what_is_in_it(source: Source, tmp_path: Path) -> None:
    status = status_of(source, b"file")
    path = tmp_path / "source" / "file"
    path.unlink()
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.write(descriptor, b"theirs")
        assert read_small(source, b"file", status) is None
        assert os.read(descriptor, 100) == b"theirs"
    finally:
        os.close(descriptor)


def test_a_small_file_that_is_not_the_listed_one_is_not_taken(source: Source, tmp_path: Path) -> None:
    status = status_of(source, b"file")
    path = tmp_path / "source" / "file"
    os.replace(write(tmp_path / "other", b"atad"), path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert read_small(source, b"file", status) is None
    assert read_small(source, b"file", status_of(source, b"file")) == (b"atad", b"")


@pytest.mark.parametrize("data", [b"atad", b"dat", b"", b"data and more"], ids=["same size", "cut", "empty", "grown"])
def test_a_small_file_that_changes_while_it_is_read_is_not_taken(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    status = status_of(source, b"file")
    system_preadv = os.preadv
    read: List[int] = []

    def changing(descriptor: int, rooms: List[memoryview], offset: int) -> int:
        read.append(system_preadv(descriptor, rooms, offset))
        (tmp_path / "source" / "file").write_bytes(data)
        return read[-1]

    monkeypatch.setattr(os, "preadv", changing)
    assert read_small(source, b"file", status) is None
    assert read == [4]


def test_a_small_file_of_which_only_a_part_is_read_is_not_taken(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    system_preadv = os.preadv
    monkeypatch.setattr(
        os, "preadv", lambda descriptor, rooms, offset: system_preadv(descriptor, [rooms[0][:3]], offset)
    )
    assert read_small(source, b"file", status_of(source, b"file")) is None


def test_a_small_file_whose_attributes_cannot_be_read_is_not_taken(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> List[str]:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "listxattr", refuse)
    assert read_small(source, b"file", status_of(source, b"file")) is None


@pytest.mark.parametrize(
    ("size", "pieces"),
    [
        (0, []),
        (1 << 20, []),
        (1 << 20, [(0, 4096)]),
        (1 << 20, [(1 << 19, 4096)]),
        (1 << 20, [((1 << 20) - 4096, 4096)]),
        (1 << 20, [(0, 8192), (65536, 4096), ((1 << 20) - 8192, 8192)]),
    ],
)
def test_segments_are_the_data_between_the_holes(source: Source, size: int, pieces: List[Tuple[int, int]]) -> None:
    make_sparse_file(
        Path(os.fsdecode(source.root), "sparse"), size, [(begin, random_bytes(length)) for begin, length in pieces]
    )
    with source.open_file(b"sparse", status_of(source, b"sparse")) as file:
        assert file.is_sparse() == (size > 0)
        found = []
        for begin, end in file.segments():
            assert os.lseek(file.descriptor, 0, os.SEEK_CUR) == begin
            found.append((begin, end - begin))
    assert found == pieces


def test_a_file_without_holes_is_one_segment(source: Source) -> None:
    with source.open_file(b"file", status_of(source, b"file")) as file:
        assert not file.is_sparse()
        assert list(file.segments()) == [(0, 4)]


# Exclusions.


def test_patterns_leave_out_what_they_match_and_all_below(tmp_path: Path) -> None:
    root = write_tree(
        tmp_path / "root",
        {"a.tmp": b"", "keep.tmp": b"", "sub/b.tmp": b"", "sub/b": b"", "cache/x/y": b"", "dir": b"", "sub/dir/z": b""},
    )
    patterns = Patterns(["*.tmp", "!keep.tmp", "/cache", "dir/"])
    assert walk(root, Exclusions(patterns=patterns)) == [b"", b"dir", b"keep.tmp", b"sub", b"sub/b"]


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("*.txt", b"a.txt", True),
        ("*.txt", b"sub/a.txt", True),
        ("/*.txt", b"sub/a.txt", False),
        ("sub/*.txt", b"sub/a.txt", True),
        ("sub/*.txt", b"sub/deep/a.txt", False),
        ("sub/**/a.txt", b"sub/very/deep/a.txt", True),
        ("sub", b"sub/deep/a", True),
        ("# sub", b"# sub", False),
        ("\\#sub", b"#sub", True),
        ("", b"sub", False),
        ("[ab]", b"b", True),
        ("new?line", b"new\nline", True),
        ("*.txt", b"a.txt\n", False),
        ("sub/", b"sub/new\nline", True),
        ("new\nline", b"new\nline", True),
        ("*", b"\xff\xfe", True),
        ("\udcff*", b"\xff\xfe", True),
        ("\udcff*", b"\xfe\xff", False),
    ],
)
def test_patterns_are_those_of_gitignore(pattern: str, path: bytes, expected: bool) -> None:
    assert Patterns([pattern]).match(path) is expected


def test_a_pattern_for_directories_matches_no_file() -> None:
    assert Patterns(["sub/"]).match(b"sub", True)
    assert not Patterns(["sub/"]).match(b"sub")


def test_a_pattern_that_is_none_is_an_error() -> None:
    with pytest.raises(PatternError, match="cannot be understood"):
        Patterns(["fine", "!"])


@pytest.mark.parametrize(
    "name", ["a[1]", "#a", "!a", "a*", "a?", "a\\", "a\\\\", "a ", "a  ", "\\", "\\b", " ", "a\nb", "[", "]", "[!a]"]
)
def test_a_path_is_matched_by_itself_whatever_is_in_it(name: str) -> None:
    for path in (name, f"sub/{name}", f"/sub/{name}/"):
        found = Patterns(paths_or_patterns([path]))
        assert found.match(os.fsencode(path.strip("/")), True)
        assert not found.match(b"other", True)


def test_a_plain_path_stays_the_pattern_that_it_is() -> None:
    assert paths_or_patterns(["a", "sub/b", "*.c"]) == ["a", "sub/b", "*.c", "/\\*.c"]


def test_a_file_of_patterns_is_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "patterns"
    path.write_bytes(b"\xef\xbb\xbf*.tmp\r\n# comment\n\n\xff\nnot\x0ca\xe2\x80\xa8line\nlast")
    expected = ["*.tmp", "# comment", "", "\udcff", "not\x0ca\u2028line", "last"]
    assert read_pattern_file(str(path)) == expected
    with pytest.raises(PatternError, match=r"cannot read the patterns in .*: No such file") as caught:
        read_pattern_file(str(tmp_path / "missing"))
    assert caught.value.pattern == str(tmp_path / "missing")


@pytest.mark.parametrize(
    ("tag", "marks"),
    [
        (CACHE_TAG_SIGNATURE, True),
        (CACHE_TAG_SIGNATURE + b"\n# made by a program\n", True),
        (CACHE_TAG_SIGNATURE[:-1], False),
        (b"", False),
        (b"\n" + CACHE_TAG_SIGNATURE, False),
    ],
)
def test_a_cache_keeps_nothing_but_its_tag(tmp_path: Path, tag: bytes, marks: bool) -> None:
    root = write_tree(tmp_path / "root", {"cache/CACHEDIR.TAG": tag, "cache/a": b"", "cache/z/z": b"", "file": b""})
    everything = [b"", b"cache", b"cache/CACHEDIR.TAG", b"cache/a", b"cache/z", b"cache/z/z", b"file"]
    marked = [b"", b"cache", b"cache/CACHEDIR.TAG", b"file"]
    assert walk(root, Exclusions(caches=True)) == (marked if marks else everything)
    assert walk(root) == everything


def test_a_source_that_is_a_cache_keeps_nothing_but_its_tag(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", {"CACHEDIR.TAG": CACHE_TAG_SIGNATURE, "a": b""})
    assert walk(root, Exclusions(caches=True)) == [b"", b"CACHEDIR.TAG"]


@pytest.mark.parametrize("kind", ["fifo", "directory", "symlink"])
def test_only_a_file_is_a_cache_tag(tmp_path: Path, kind: str) -> None:
    root = write_tree(tmp_path / "root", {"a": b""})
    if kind == "fifo":
        os.mkfifo(root / "CACHEDIR.TAG")
    elif kind == "directory":
        (root / "CACHEDIR.TAG").mkdir()
    else:
        (root / "CACHEDIR.TAG").symlink_to(write(tmp_path / "tag", CACHE_TAG_SIGNATURE))
    assert walk(root, Exclusions(caches=True)) == [b"", b"CACHEDIR.TAG", b"a"]


def test_a_marker_keeps_out_what_is_beside_it(tmp_path: Path) -> None:
    root = write_tree(
        tmp_path / "root", {"a/.nobackup": b"", "a/file": b"", "b/.other/x": b"", "b/file": b"", "c/file": b""}
    )
    markers: FrozenSet[bytes] = frozenset({b".nobackup", b".other"})
    assert walk(root, Exclusions(markers=markers)) == [b"", b"a", b"a/.nobackup", b"b", b"b/.other", b"c", b"c/file"]


def test_files_above_a_size_are_left_out(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", {"a": b"12", "b": b"123", "c": b"1234"})
    (root / "symlink").symlink_to("x" * 100)
    assert walk(root, Exclusions(larger_than=3)) == [b"", b"a", b"b", b"symlink"]


@needs_root
def test_another_file_system_is_an_empty_directory_if_one_is_enough(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", {"mounted": None, "other/file": b""})
    with mounted(root / "mounted"):
        write(root / "mounted" / "file", b"")
        everything = [b"", b"mounted", b"mounted/file", b"other", b"other/file"]
        assert walk(root) == everything
        everything.remove(b"mounted/file")
        assert walk(root, Exclusions(one_file_system=True)) == everything


def test_exclusions_are_made_of_what_a_user_gives() -> None:
    none = Exclusions.of([], [], False, None, False)
    assert none == Exclusions()
    some = Exclusions.of(["*.tmp"], ["a", "\udcff"], True, 5, True)
    assert some.patterns is not None
    assert some.patterns.match(b"x.tmp")
    assert some.markers == frozenset({b"a", b"\xff"})
    assert (some.caches, some.larger_than, some.one_file_system) == (True, 5, True)


# A root that nothing leaves.


@pytest.fixture
def confined(tmp_path: Path) -> Iterator[ConfinedRoot]:
    write_tree(tmp_path / "root", {"a/b/c/file": b"inside", "file": b"top"})
    write_tree(tmp_path / "outside", {"b/c/file": b"outside"})
    (tmp_path / "root" / "link").symlink_to(tmp_path / "outside")
    root = ConfinedRoot(os.fsencode(tmp_path / "root"))
    yield root
    root.close()


def read(root: ConfinedRoot, path: bytes) -> bytes:
    descriptor = root.open(path, OPEN_FILE)
    try:
        return os.read(descriptor, 100)
    finally:
        os.close(descriptor)


def test_paths_split_into_parent_and_name() -> None:
    assert [split(path) for path in (b"", b"a", b"a/b", b"a/b/c")] == [
        (b"", b""),
        (b"", b"a"),
        (b"a", b"b"),
        (b"a/b", b"c"),
    ]


def test_files_below_the_root_are_opened(confined: ConfinedRoot) -> None:
    assert read(confined, b"file") == b"top"
    assert read(confined, b"a/b/c/file") == b"inside"
    descriptor = confined.open(b"", OPEN_DIRECTORY)
    assert sorted(os.listdir(descriptor)) == ["a", "file", "link"]
    os.close(descriptor)


@pytest.mark.parametrize("path", [b"link/b/c/file", b"link/b", b"link"])
def test_symlinks_on_the_way_are_refused(confined: ConfinedRoot, path: bytes) -> None:
    with pytest.raises(OSError, match=r"Not a directory|Too many levels of symbolic links"):
        read(confined, path)
    with pytest.raises(NotADirectoryError):
        confined.directory(path)


def test_a_directory_swapped_for_a_symlink_is_refused(confined: ConfinedRoot, tmp_path: Path) -> None:
    os.rename(tmp_path / "root" / "a", tmp_path / "moved")
    (tmp_path / "root" / "a").symlink_to(tmp_path / "outside")
    with pytest.raises(NotADirectoryError):
        read(confined, b"a/b/c/file")


def test_a_directory_that_is_open_stays_the_one_it_was(confined: ConfinedRoot, tmp_path: Path) -> None:
    assert read(confined, b"a/b/c/file") == b"inside"
    os.rename(tmp_path / "root" / "a", tmp_path / "moved")
    (tmp_path / "root" / "a").symlink_to(tmp_path / "outside")
    assert read(confined, b"a/b/c/file") == b"inside"
    confined.forget(b"a")
    with pytest.raises(NotADirectoryError):
        read(confined, b"a/b/c/file")


def test_forgetting_a_directory_forgets_what_is_below_it_alone(tmp_path: Path) -> None:
    for name in ("a", "a-b", "ab"):
        (tmp_path / "root" / name / "sub").mkdir(parents=True)
    root = ConfinedRoot(os.fsencode(tmp_path / "root"))
    before = descriptors()
    for path in (b"a/sub", b"a-b/sub", b"ab/sub"):
        root.directory(path)
    assert descriptors() == before + 6
    root.forget(b"a")
    assert descriptors() == before + 4
    root.close()


def test_few_descriptors_are_kept_however_many_directories_there_are(tmp_path: Path) -> None:
    for number in range(200):
        write(tmp_path / "root" / str(number) / "sub" / "file", b"%d" % number)
    before = descriptors()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, limits[1]))
    try:
        root = ConfinedRoot(os.fsencode(tmp_path / "root"))
        for _ in range(2):
            for number in range(200):
                assert read(root, b"%d/sub/file" % number) == b"%d" % number
            assert before + 90 <= descriptors() <= before + 110
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    root.close()
    root.close()
    assert descriptors() == before


def test_directories_deeper_than_descriptors_are_kept_can_be_opened(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d"] * 300)
    write(deep / "file", b"deep")
    root = ConfinedRoot(os.fsencode(tmp_path))
    for _ in range(2):
        assert read(root, b"d/" * 300 + b"file") == b"deep"
        assert read(root, b"d/" * 300 + b"file") == b"deep"
        assert stat.S_ISDIR(os.fstat(root.directory(b"d")).st_mode)
    root.close()


def test_a_directory_need_not_be_readable_to_be_passed_through(public_path: Path) -> None:
    write(public_path / "root" / "closed" / "file", b"data")
    (public_path / "root" / "closed").chmod(0o311)
    assert as_nobody(lambda: read(ConfinedRoot(os.fsencode(public_path / "root")), b"closed/file")) == b"data"


# The destination.


METADATA = Metadata(0o640, os.geteuid(), os.getegid(), 1_600_000_000_123_456_789, None)


class Failures(List[Tuple[str, bytes, int]]):
    """What could not be restored."""

    def __call__(self, what: str, path: bytes, exc: OSError) -> None:
        self.append((what, path, exc.errno or 0))


@pytest.mark.parametrize(
    "path", [b"", b"a", b"a/b", b"...", b"..a", b"a..", b".a/..b", b"\xff\n", b"-", b" ", b"\\", b"C:"]
)
def test_paths_that_stay_below_are_safe(path: bytes) -> None:
    require_safe(path)


@pytest.mark.parametrize(
    "path", [b"/", b"/a", b"..", b"../a", b"a/..", b"a/../b", b".", b"./a", b"a/.", b"a//b", b"a/", b"a\0", b"\0"]
)
def test_paths_that_lead_elsewhere_are_not(path: bytes) -> None:
    with pytest.raises(UnsafePathError, match="leads elsewhere"):
        require_safe(path)


def test_temporary_names_are_known_again() -> None:
    assert not is_temporary(b"a/b")
    assert not is_temporary(b".backuptool-x/b")
    assert is_temporary(b"a/.backuptool-b.part")


def test_entries_with_the_longest_names_are_made(tmp_path: Path) -> None:
    metadata = Metadata(0o600, os.getuid(), os.getgid(), 0, None)
    names = [letter * length for length in range(235, 256) for letter in (b"a", b"b")]
    with Destination(os.fsencode(tmp_path / "out"), lambda *failure: None) as destination:
        for name in names:
            destination.write_file(name, iter([(0, name)]), len(name), False, metadata)
    assert sorted(os.listdir(os.fsencode(tmp_path / "out"))) == sorted(names)
    assert all((tmp_path / "out" / os.fsdecode(name)).read_bytes() == name for name in names)


def test_what_is_made_is_confined_to_the_destination(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(outside)
    write(root / "file", b"")
    failures = Failures()
    with Destination(os.fsencode(root), failures) as destination:
        for step in (
            lambda: destination.write_file(b"link/a", [(0, b"evil")], 4, False, METADATA),
            lambda: destination.make_symlink(b"link/a", b"evil", METADATA),
            lambda: destination.make_special(b"link/a", b"p", 0, METADATA),
            lambda: destination.make_link(b"link/a", b"file"),
            lambda: destination.make_directory(b"link/a"),
            lambda: destination.remove(b"link/a"),
            lambda: destination.hash_file(b"link/a"),
            lambda: destination.read_link(b"link/a"),
        ):
            with pytest.raises(NotADirectoryError):
                step()
        destination.set_metadata(b"link/a", b"f", METADATA)
        destination.set_metadata(b"link", b"d", METADATA)
        assert destination.lstat(b"link/a") is None
    assert [what for what, _, _ in failures] == ["metadata", "metadata"]
    assert os.listdir(outside) == []


def test_what_the_catalog_lacks_of_a_path_is_made(tmp_path: Path) -> None:
    failures = Failures()
    with Destination(os.fsencode(tmp_path / "root"), failures) as destination:
        destination.write_file(b"a/b/c/file", [(0, b"data")], 4, False, METADATA)
        destination.write_file(b"a/b/other", [(0, b"data")], 4, False, METADATA)
        destination.write_file(b"a/b/d/other", [(0, b"data")], 4, False, METADATA)
    assert (tmp_path / "root" / "a" / "b" / "c" / "file").read_bytes() == b"data"
    assert failures == [("metadata", path, errno.ENOENT) for path in (b"a", b"a/b", b"a/b/c", b"a/b/d")]


def test_a_directory_opened_up_and_removed_meanwhile_is_no_error(public_path: Path) -> None:
    def run() -> Tuple[Failures, List[str]]:
        failures = Failures()
        (public_path / "root" / "closed").mkdir(parents=True)
        (public_path / "root" / "closed").chmod(0o500)
        with Destination(os.fsencode(public_path / "root"), failures) as destination:
            assert not destination.make_directory(b"closed")
            destination.write_file(b"closed/file", [(0, b"data")], 4, False, METADATA)
            destination.remove(b"closed/file")
            (public_path / "root" / "closed").rmdir()
        return failures, os.listdir(public_path / "root")

    failures, left = as_nobody(run)
    assert left == []
    assert {what for what, _, _ in failures} <= {"owner"}


def test_only_files_can_be_hashed(tmp_path: Path) -> None:
    with Destination(os.fsencode(tmp_path), Failures()) as destination:
        os.mkfifo(tmp_path / "fifo")
        with pytest.raises(OSError, match="no regular file"):
            destination.hash_file(b"fifo")


def test_attributes_that_no_file_can_have_are_reported(tmp_path: Path) -> None:
    failures = Failures()
    with Destination(os.fsencode(tmp_path / "root"), failures) as destination:
        for number, xattrs in enumerate((b"\0", encode_xattrs({b"nonsense": b"1"}), encode_xattrs({b"user.\0": b"1"}))):
            metadata = Metadata(0o640, METADATA.uid, METADATA.gid, 0, xattrs)
            destination.write_file(b"%d" % number, [(0, b"data")], 4, False, metadata)
    assert [(what, path) for what, path, _ in failures] == [("xattr", b"%d" % number) for number in range(3)]
    assert sorted(os.listdir(tmp_path / "root")) == ["0", "1", "2"]


def test_attributes_inherited_from_the_directory_are_removed(tmp_path: Path) -> None:
    with Destination(os.fsencode(tmp_path / "root"), Failures()) as destination:
        write(tmp_path / "root" / "file", b"")
        os.setxattr(tmp_path / "root" / "file", "user.other", b"1")
        destination.set_metadata(b"file", b"f", METADATA)
    assert os.listxattr(tmp_path / "root" / "file") == []
    assert (tmp_path / "root" / "file").stat().st_mtime_ns == METADATA.mtime_ns


def test_times_and_modes_that_cannot_be_set_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on file systems that keep neither."""

    def refuse(*arguments: Any, **options: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    failures = Failures()
    with Destination(os.fsencode(tmp_path / "root"), failures) as destination:
        write(tmp_path / "root" / "there", b"")
        os.setxattr(tmp_path / "root" / "there", "user.extra", b"1")
        monkeypatch.setattr(os, "removexattr", refuse)
        destination.set_metadata(b"there", b"f", METADATA)
        assert failures == [("xattr", b"there", errno.EPERM)]
        failures.clear()
        for name in ("utime", "fchmod", "chmod", "fchown", "chown", "listxattr"):
            monkeypatch.setattr(os, name, refuse)
        xattrs = encode_xattrs({b"user.x": b"1"})
        metadata = Metadata(0o4640, METADATA.uid, METADATA.gid, 0, xattrs)
        destination.write_file(b"file", [(0, b"data")], 4, False, metadata)
        destination.make_special(b"fifo", b"p", 0, metadata)
        destination.make_symlink(b"symlink", b"target", Metadata(0o777, METADATA.uid, METADATA.gid, 0, None))
        monkeypatch.undo()
    assert [(what, path) for what, path, _ in failures] == [
        *((what, b"file") for what in ("owner", "xattr", "mode", "times")),
        *((what, b"fifo") for what in ("owner", "mode", "xattr", "times")),
        *((what, b"symlink") for what in ("owner", "times")),
    ]
    assert sorted(os.listdir(tmp_path / "root")) == ["fifo", "file", "symlink", "there"]


def test_nothing_is_left_of_what_could_not_be_made(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a directory" / "full").mkdir(parents=True)
    write(root / "file", b"")
    with Destination(os.fsencode(root), Failures()) as destination:
        steps: Tuple[Callable[[], None], ...] = (
            lambda: destination.write_file(b"a directory", [(0, b"data")], 4, False, METADATA),
            lambda: destination.make_symlink(b"a directory", b"target", METADATA),
            lambda: destination.make_special(b"a directory", b"p", 0, METADATA),
            lambda: destination.make_link(b"a directory", b"file"),
        )
        for step in steps:
            with pytest.raises(OSError, match="not empty"):
                step()
        with pytest.raises(FileNotFoundError):
            destination.make_link(b"other", b"missing")
    assert sorted(os.listdir(root)) == ["a directory", "file"]


def test_an_empty_directory_gives_way(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("file", "symlink"):
        (root / name).mkdir(parents=True)
    with Destination(os.fsencode(root), Failures()) as destination:
        destination.write_file(b"file", [(0, b"data")], 4, False, METADATA)
        destination.make_symlink(b"symlink", b"target", METADATA)
    assert (root / "file").read_bytes() == b"data"
    assert os.readlink(root / "symlink") == "target"


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize(
    ("size", "pieces"),
    [
        (0, []),
        (0, [(0, b"")]),
        (5, [(0, b"12345")]),
        (10_000, [(0, None)]),
        (3_000_000, [(0, None)]),
        (10_003, [(0, None), (10_000, b"end")]),
        (3_000_000, [(0, b"begin"), (5, None)]),
        (20_000, [(0, bytes(8192) + b"x" * 4096 + bytes(7712))]),
        (20_000, [(0, b"x" * 4096 + bytes(15_904))]),
        (12_288, [(0, bytes(4096)), (4096, b"x" * 8192)]),
        (12_288, [(0, b"x" * 4096), (4096, None), (8192, bytes(4096))]),
        (8_192, [(0, bytes(8192))]),
    ],
)
def test_pieces_and_holes_become_the_file(
    tmp_path: Path, size: int, pieces: List[Tuple[int, Optional[bytes]]], sparse: bool
) -> None:
    expected = bytearray(size)
    for offset, data in pieces:
        if data:
            expected[offset : offset + len(data)] = data
    with Destination(os.fsencode(tmp_path / "root"), Failures()) as destination:
        destination.write_file(b"file", pieces, size, sparse, METADATA)
    path = tmp_path / "root" / "file"
    assert path.read_bytes() == expected
    if not sparse:
        assert path.stat().st_blocks * 512 >= size


def test_a_destination_that_cannot_be_made_is_an_error(public_path: Path) -> None:
    def run(path: Path) -> str:
        with pytest.raises(RestoreError) as caught:
            Destination(os.fsencode(path), Failures())
        return str(caught.value)

    (public_path / "closed").mkdir()
    (public_path / "closed").chmod(0o500 if os.geteuid() else 0o700)
    assert "Permission denied; name another directory" in as_nobody(lambda: run(public_path / "closed" / "sub"))
    (public_path / "dangling").symlink_to("nowhere")
    assert "a file is in the way; name another directory" in run(public_path / "dangling")
    assert "a file is in the way" in run(write(public_path / "file", b"") / "sub")


# Metadata.


def test_each_kind_has_the_letter_that_find_prints() -> None:
    kinds = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)
    assert b"".join(kind_of(kind | 0o644) or b"?" for kind in kinds) == b"fdlpscb"
    assert kind_of(0o160000) is None


def test_times_beyond_64_bits_become_the_nearest_that_fit() -> None:
    limit = (1 << 63) - 1
    assert [clamp_ns(value) for value in (0, -1, limit, limit + 1, -limit, -limit - 5)] == [
        0,
        -1,
        limit,
        limit,
        -limit,
        -limit,
    ]


def test_inode_numbers_of_64_bits_fit_into_signed_ones() -> None:
    assert [signed_inode(value) for value in (0, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)] == [
        0,
        (1 << 63) - 1,
        -(1 << 63),
        -1,
    ]


SECOND = 1_000_000_000
NOON = 1_700_000_000 * SECOND


@pytest.mark.parametrize(
    ("ctime_ns", "mtime_ns", "trusted"),
    [
        (NOON - 10_000_001, 0, True),
        (NOON - 9_999_999, 0, False),  # as young as the walk
        (NOON + 1, 0, False),
        (NOON - 10_000_001, NOON + SECOND, False),
        (NOON - 2 * SECOND, 0, True),  # whole seconds: a file system with a coarse clock, perhaps
        (NOON - SECOND, 0, False),
        (-5, -5, True),
    ],
)
def test_a_change_time_as_young_as_the_walk_is_not_trusted(ctime_ns: int, mtime_ns: int, trusted: bool) -> None:
    status = os.stat_result(
        (0o100644, 1, 2, 1, 0, 0, 0, 0, 0, 0),
        {"st_ctime_ns": ctime_ns, "st_mtime_ns": mtime_ns},
    )
    assert trusted_ctime_ns(status, NOON) == (ctime_ns if trusted else None)


def test_attributes_survive_their_encoding() -> None:
    hypothesis = pytest.importorskip("hypothesis")
    strategies = pytest.importorskip("hypothesis.strategies")

    def holds(xattrs: Dict[bytes, bytes]) -> None:
        data = encode_xattrs(xattrs)
        assert (data is None) == (not xattrs)
        assert list(decode_xattrs(data)) == sorted(xattrs.items())

    settings = hypothesis.settings(max_examples=100, deadline=None, database=None)
    settings(hypothesis.given(strategies.dictionaries(strategies.binary(), strategies.binary()))(holds))()


def test_damaged_attributes_are_an_error_and_nothing_else() -> None:
    hypothesis = pytest.importorskip("hypothesis")
    strategies = pytest.importorskip("hypothesis.strategies")

    def holds(data: bytes) -> None:
        try:
            found = dict(decode_xattrs(data))
        except ValueError:
            return
        assert sum(8 + len(name) + len(value) for name, value in found.items()) <= len(data)

    settings = hypothesis.settings(max_examples=200, deadline=None, database=None)
    settings(hypothesis.given(strategies.binary(max_size=40))(holds))()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\0\0\0", "within a length"),
        (b"\0\0\0\1", "within a field"),
        (b"\0\0\0\1a", "behind a name"),
        (b"\xff\xff\xff\xffa", "within a field"),
    ],
)
def test_attributes_cut_short_are_an_error(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(decode_xattrs(data))


def test_no_attributes_are_no_bytes() -> None:
    assert encode_xattrs({}) is None
    assert list(decode_xattrs(None)) == [] == list(decode_xattrs(b""))


def test_attributes_are_read_sorted_by_descriptor_and_by_path(tmp_path: Path) -> None:
    path = write(tmp_path / "file", b"")
    assert read_xattrs(os.fsencode(path)) is None
    for name in ("user.b", "user.a", "user.c"):
        os.setxattr(path, name, name.encode())
    expected = encode_xattrs({name: name for name in (b"user.a", b"user.b", b"user.c")})
    assert read_xattrs(os.fsencode(path)) == expected
    descriptor = os.open(path, OPEN_FILE)
    assert read_xattrs(descriptor) == expected
    os.close(descriptor)
    (tmp_path / "symlink").symlink_to("file")
    assert read_xattrs(os.fsencode(tmp_path / "symlink")) is None


@pytest.mark.parametrize("error", [errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.ENOENT])
def test_a_file_system_without_attributes_has_none(monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    def refuse(*arguments: object, **options: object) -> List[str]:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "listxattr", refuse)
    if error in (errno.ENOTSUP, errno.ENOSYS):
        assert read_xattrs(b"/") is None
    else:
        with pytest.raises(OSError, match=os.strerror(error)):
            read_xattrs(b"/")


@pytest.mark.parametrize("error", [errno.ENODATA, errno.EACCES])
def test_an_attribute_removed_since_it_was_listed_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    path = write(tmp_path / "file", b"")
    for name in ("user.a", "user.b"):
        os.setxattr(path, name, b"1")
    getxattr = os.getxattr

    def vanished(target: bytes, name: str, **options: bool) -> bytes:
        if name == "user.a":
            raise OSError(error, os.strerror(error))
        return getxattr(target, name, **options)

    monkeypatch.setattr(os, "getxattr", vanished)
    if error == errno.ENODATA:
        assert read_xattrs(os.fsencode(path)) == encode_xattrs({b"user.b": b"1"})
    else:
        with pytest.raises(PermissionError):
            read_xattrs(os.fsencode(path))


# Portability.


def test_attributes_are_set_and_removed_by_descriptor_and_by_path(tmp_path: Path) -> None:
    path = write(tmp_path / "file", b"")
    descriptor = os.open(path, OPEN_FILE)
    for target in (os.fsencode(path), descriptor):
        write_xattr(target, "user.x", b"1")
        assert list_xattrs(target) == ["user.x"]
        assert read_xattr(target, "user.x") == b"1"
        remove_xattr(target, "user.x")
        assert list_xattrs(target) == []
    os.close(descriptor)


@needs_root
def test_attributes_of_a_symlink_are_its_own(tmp_path: Path) -> None:
    write(tmp_path / "file", b"")
    (tmp_path / "symlink").symlink_to("file")
    symlink = os.fsencode(tmp_path / "symlink")
    write_xattr(symlink, "trusted.x", b"1")
    assert read_xattr(symlink, "trusted.x") == b"1"
    assert os.listxattr(tmp_path / "file") == []
    remove_xattr(symlink, "trusted.x")
    assert list_xattrs(symlink) == []


def test_users_and_groups_have_names_or_none() -> None:
    assert (user_name(0), group_name(0)) == (b"root", b"root")
    for unknown in (3_999_999_999, 1 << 40, -5):
        assert (user_name(unknown), group_name(unknown)) == (b"", b"")


def test_holes_are_found(tmp_path: Path) -> None:
    make_sparse_file(tmp_path / "file", 1 << 20, [(65536, b"x" * 4096)])
    descriptor = os.open(tmp_path / "file", OPEN_FILE)
    assert [next_data(descriptor, offset, 1 << 20) for offset in (0, 65536, 70000)] == [65536, 65536, 1 << 20]
    assert [next_hole(descriptor, offset, 1 << 20) for offset in (0, 65536, 70000)] == [0, 69632, 70000]
    os.close(descriptor)
