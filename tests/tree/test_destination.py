"""Writing a tree: each file complete before it takes its name."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, Callable, List, Optional, Tuple

import pytest
from conftest import as_nobody, write

from backuptool import RestoreError, UnsafePathError
from backuptool.tree.attributes import Metadata
from backuptool.tree.confined import require_safe
from backuptool.tree.destination import Destination, is_temporary
from backuptool.tree.metadata import encode_xattrs

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
