"""Directories below a root that nothing leaves."""

from __future__ import annotations

import os
import resource
import stat
from pathlib import Path
from typing import Iterator

import pytest
from conftest import as_nobody, write, write_tree

from backuptool.tree.confined import ConfinedRoot, split
from backuptool.tree.portability import OPEN_DIRECTORY

from .making import descriptors, read


@pytest.fixture
def confined(tmp_path: Path) -> Iterator[ConfinedRoot]:
    write_tree(tmp_path / "root", {"a/b/c/file": b"inside", "file": b"top"})
    write_tree(tmp_path / "outside", {"b/c/file": b"outside"})
    (tmp_path / "root" / "link").symlink_to(tmp_path / "outside")
    root = ConfinedRoot(os.fsencode(tmp_path / "root"))
    yield root
    root.close()


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
