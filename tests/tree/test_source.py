"""Opening and reading files that may change meanwhile."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path
from typing import Any, List, Optional, Tuple

import pytest
from conftest import as_nobody, write
from trees import make_sparse_file, needs_root, random_bytes

from backuptool import SourceError
from backuptool.tree.metadata import encode_xattrs
from backuptool.tree.source import FileChangedError, Source

from .making import descriptors


def status_of(source: Source, path: bytes) -> os.stat_result:
    return os.lstat(os.path.join(source.root, path))


def read_small(source: Source, path: bytes, expected: os.stat_result) -> Optional[Tuple[bytes, bytes]]:
    """Return (bytes, encoded extended attributes) of a file that is as expected, None of any other."""
    room = memoryview(bytearray(expected.st_size + 1))
    xattrs = source.read_small(path, expected, room)
    return None if xattrs is None else (bytes(room[:-1]), xattrs)


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


def test_a_source_whose_disk_has_failed_is_not_called_moved(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **more: object) -> os.stat_result:
        raise OSError(errno.EIO, "Input/output error")

    source.require_same()
    monkeypatch.setattr(os, "stat", fail)
    with pytest.raises(SourceError, match=r"cannot read .* any more: Input/output error; no snapshot was taken"):
        source.require_same()


def test_an_entry_that_is_not_opened_is_told_with_its_target_and_attributes(source: Source) -> None:
    root = Path(os.fsdecode(source.root))
    os.setxattr(str(root / "sub"), "user.note", b"of the directory")
    status, attributes = status_of(source, b"sub"), encode_xattrs({b"user.note": b"of the directory"})
    assert source.look(b"sub", status) == (status, None, attributes)
    status = status_of(source, b"symlink")
    assert source.look(b"symlink", status) == (status, b"file", None)


@pytest.mark.parametrize("becomes", ["file", "fifo", "symlink"])
def test_a_directory_does_not_get_the_attributes_of_what_took_its_place(source: Source, becomes: str) -> None:
    root = Path(os.fsdecode(source.root))
    status = status_of(source, b"sub")
    shutil.rmtree(str(root / "sub"))
    if becomes == "file":
        os.setxattr(str(write(root / "sub", b"")), "user.note", b"of another one")
    elif becomes == "fifo":
        os.mkfifo(root / "sub")
    else:
        (root / "sub").symlink_to("file")
    with pytest.raises(FileChangedError, match="another kind of file"):
        source.look(b"sub", status)


def test_a_symlink_that_is_replaced_by_another_is_told_as_that_one(source: Source) -> None:
    root = Path(os.fsdecode(source.root))
    (root / "other").symlink_to("sub")
    status = status_of(source, b"symlink")
    os.replace(root / "other", root / "symlink")
    found = source.look(b"symlink", status)
    assert found.target == b"sub"
    assert found.status.st_ino == status_of(source, b"symlink").st_ino != status.st_ino


def test_a_symlink_that_is_replaced_again_and_again_is_given_up(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(os.fsdecode(source.root))
    status = status_of(source, b"symlink")
    read = os.readlink

    def replace_and_read(*arguments: Any, **more: Any) -> Any:
        (root / "next").symlink_to("file")
        os.replace(root / "next", root / "symlink")
        return read(*arguments, **more)

    monkeypatch.setattr(os, "readlink", replace_and_read)
    with pytest.raises(FileChangedError):
        source.look(b"symlink", status)


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
