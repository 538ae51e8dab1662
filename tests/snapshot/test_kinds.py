"""Links, names, attributes and kinds of files are kept."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
from pathlib import Path

import pytest
from conftest import OLD_NS, SECOND_NS, age, entries, restored, sql, write_tree

from backuptool import Repository

from .making import Counts, counts


def test_hard_links_are_read_once_and_linked_again(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", {"a": b"linked", "sub/other": b"alone"})
    os.link(str(root / "a"), str(root / "sub" / "b"))
    os.link(str(root / "a"), str(root / "z"))
    result = repo.snapshot(root)
    assert counts(result) == Counts(new=4)
    assert (result.read_bytes, result.new_bytes) == (11, 11)
    assert result.snapshot.size_bytes == 6 * 3 + 5
    assert restored(repo, 1, tmp_path / "out") == entries(root)
    assert os.stat(str(tmp_path / "out" / "a")).st_ino == os.stat(str(tmp_path / "out" / "sub" / "b")).st_ino
    assert counts(repo.snapshot(root)) == Counts(unchanged=4)


def test_link_that_is_removed_leaves_the_others_linked(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", {"a": b"linked"})
    os.link(str(root / "a"), str(root / "b"))
    os.link(str(root / "a"), str(root / "c"))
    repo.snapshot(root)
    (root / "b").unlink()
    repo.snapshot(root)
    assert restored(repo, 2, tmp_path / "out") == entries(root)
    (root / "c").unlink()
    repo.snapshot(root)
    assert restored(repo, 3, tmp_path / "out3") == entries(root)
    assert sql(repo.path, "SELECT count(*) FROM files WHERE last IS NULL AND link IS NOT NULL") == [(0,)]


@pytest.mark.both
def test_every_kind_of_file_is_kept(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", {"file": b"data", "setuid": b"program", "directory": None})
    (root / "setuid").chmod(0o4755)
    (root / "directory").chmod(0o1777)
    (root / "link").symlink_to("file")
    (root / "dangling").symlink_to("/nowhere/at all")
    (root / "to directory").symlink_to("directory")
    os.mkfifo(str(root / "fifo"), 0o640)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(str(root / "socket")))
    expected = 7
    if os.geteuid() == 0:
        os.mknod(str(root / "null"), stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(str(root / "disk"), stat.S_IFBLK | 0o660, os.makedev(7, 300))
        os.chown(str(root / "file"), 12345, 54321)
        expected += 2
    for name in ("file", "setuid"):
        os.setxattr(str(root / name), "user.note", name.encode())
    for name in os.listdir(str(root)):
        age(root / name)
    result = repo.snapshot(root)
    assert result.problems == ()
    assert counts(result) == Counts(new=expected)
    assert restored(repo, 1, tmp_path / "out") == entries(root)
    assert counts(repo.snapshot(root)) == Counts(unchanged=expected)
    assert repo.check().problems == ()


def test_changed_extended_attribute_is_a_change(repo: Repository, tree: Path, tmp_path: Path) -> None:
    repo.snapshot(tree)
    os.setxattr(str(tree / "a.txt"), "user.note", b"new")
    os.setxattr(str(tree / "docs"), "user.note", b"on a directory")
    result = repo.snapshot(tree)
    assert counts(result) == Counts(changed=1, unchanged=4)
    assert restored(repo, 2, tmp_path / "out") == entries(tree)


@pytest.mark.both
def test_names_are_kept_bit_for_bit(repo: Repository, tmp_path: Path) -> None:
    root = os.fsencode(str(write_tree(tmp_path / "tree", {})))
    names = [b"latin-\xe9\xff", b"new\nline", b" ", b"-rf", b"a\\b", "\u00e9".encode(), "e\u0301".encode(), b"'\"%_"]
    names += [b"x" * 255, b"\xc0\x80", b"\x01\x1b[31m"]
    for name in names:
        os.mkdir(os.path.join(root, name))
        with open(os.path.join(root, name, name), "wb") as file:
            file.write(name)
        os.symlink(name, os.path.join(root, name, b"link"))
    result = repo.snapshot(root)
    assert counts(result) == Counts(new=2 * len(names))
    assert restored(repo, 1, tmp_path / "out") == entries(os.fsdecode(root))
    assert counts(repo.snapshot(root)) == Counts(unchanged=2 * len(names))
    assert repo.check().problems == ()


def test_names_around_the_slash_are_compared_in_byte_order(repo: Repository, tmp_path: Path) -> None:
    # '-' and '.' sort before '/', '0' behind it: where a naive order of a walk and of an index differ.
    names = ["a", "a-", "a-/x", "a.b/y", "a/x", "a/x-", "a/x.d/z", "a0", "a0/q", "b"]
    files = {name + "/file": name.encode() for name in names}
    root = write_tree(tmp_path / "tree", files)
    assert counts(repo.snapshot(root)) == Counts(new=10)
    assert counts(repo.snapshot(root)) == Counts(unchanged=10)
    shutil.rmtree(str(root / "a"))
    assert counts(repo.snapshot(root)) == Counts(unchanged=6, removed=4)
    assert restored(repo, 3, tmp_path / "out") == entries(root)


def test_directory_tree_deeper_than_a_path_may_be_long_is_saved(repo: Repository, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    before = os.getcwd()
    os.chdir(str(root))
    try:
        for _ in range(150):
            os.mkdir("n" * 40)
            os.chdir("n" * 40)
        Path("leaf").write_bytes(b"at the bottom")
    finally:
        os.chdir(before)
    result = repo.snapshot(root)
    assert (result.problems, counts(result)) == ((), Counts(new=1))
    assert result.snapshot.directories == 151
    assert counts(repo.snapshot(root)) == Counts(unchanged=1)
    assert repo.check().problems == ()
    subprocess.run(["rm", "-rf", str(root)], check=True)


def test_time_that_does_not_fit_is_saved_as_the_nearest_one(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", {"far": b"future", "old": b"past"})
    try:
        os.utime(str(root / "far"), ns=(OLD_NS, (1 << 63) + SECOND_NS))
    except OSError:
        pytest.skip("this file system has no such times")
    if os.stat(str(root / "far")).st_mtime_ns < 1 << 63:
        pytest.skip("this file system has no such times")
    os.utime(str(root / "old"), ns=(OLD_NS, -5 * SECOND_NS + 1))
    result = repo.snapshot(root)
    assert [(problem.kind, problem.path) for problem in result.problems] == [("time-out-of-range", "far")]
    found = restored(repo, 1, tmp_path / "out")
    assert found[b"far"].mtime_ns == (1 << 63) - 1
    assert found[b"old"].mtime_ns == -5 * SECOND_NS + 1
    assert repo.check().problems == ()
