"""What differs between systems."""

from __future__ import annotations

import os
from pathlib import Path

from conftest import write
from trees import make_sparse_file, needs_root

from backuptool.tree.portability import (
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
