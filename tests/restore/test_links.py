"""Hard links, and what has their names."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from conftest import write
from trees import differences, mounted, needs_root

from backuptool import Repository
from backuptool.results.restore import OverwritePolicy

from .making import NOW_NS


@pytest.mark.parametrize("policy", ["if-newer", "never"])
def test_a_missing_name_of_a_file_is_not_linked_to_one_that_was_left_alone(
    repo: Repository, linked: Path, out: Path, policy: OverwritePolicy
) -> None:
    repo.snapshot(linked)
    write(out / "a", b"mine")
    os.utime(out / "a", ns=(NOW_NS, NOW_NS))
    result = repo.restore(1, out, overwrite=policy)
    assert (out / "a").read_bytes() == b"mine"
    assert (out / "b").read_bytes() == b"linked"
    assert (out / "b").samefile(out / "sub" / "c")
    assert (result.restored_files, result.unchanged_files) == (2, 1)


def test_names_of_one_file_are_linked_again(repo: Repository, linked: Path, out: Path) -> None:
    repo.snapshot(linked)
    repo.restore(1, out)
    (out / "b").unlink()
    shutil.copy2(str(out / "a"), str(out / "b"))
    result = repo.restore(1, out)
    assert (result.restored_files, result.unchanged_files) == (1, 2)
    assert differences(linked, out) == []


def test_never_leaves_copies_unlinked(repo: Repository, linked: Path, out: Path) -> None:
    repo.snapshot(linked)
    write(out / "a", b"mine")
    write(out / "b", b"mine too")
    result = repo.restore(1, out, overwrite="never")
    assert (out / "b").read_bytes() == b"mine too"
    assert (out / "sub" / "c").read_bytes() == b"linked"
    assert (result.restored_files, result.unchanged_files) == (1, 2)


def test_one_name_alone_of_a_file_is_restored_as_a_file(repo: Repository, linked: Path, out: Path) -> None:
    repo.snapshot(linked)
    result = repo.restore(1, out, include=["c"])
    assert (result.restored_files, result.written_bytes) == (1, 6)
    assert (out / "sub" / "c").read_bytes() == b"linked"
    assert (out / "sub" / "c").stat().st_nlink == 1


@needs_root
def test_a_link_that_the_destination_cannot_have_becomes_a_copy(repo: Repository, linked: Path, out: Path) -> None:
    repo.snapshot(linked)
    (out / "sub").mkdir(parents=True)
    with mounted(out / "sub"):
        result = repo.restore(1, out)
        assert result.problems == ()
        assert (out / "sub" / "c").read_bytes() == b"linked"


@needs_root
def test_files_of_two_devices_with_one_inode_number_are_not_linked(repo: Repository, tmp_path: Path, out: Path) -> None:
    source = tmp_path / "source"
    (source / "one").mkdir(parents=True)
    (source / "two").mkdir()
    with mounted(source / "one"), mounted(source / "two"):
        for device, name in (("one", "a"), ("two", "b")):
            write(source / device / name, device.encode())
            os.link(source / device / name, source / device / "link")
        assert (source / "one" / "a").stat().st_ino == (source / "two" / "b").stat().st_ino
        repo.snapshot(source)
        write(source / "two" / "b", b"changed")
        repo.snapshot(source)
        repo.restore(2, out)
        assert differences(source, out) == []
