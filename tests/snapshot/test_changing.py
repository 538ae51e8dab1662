"""A source, and a repository, that change while a snapshot is taken."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Callable, Dict, List

import pytest
from conftest import OLD_NS, SECOND_NS, age, entries, noise, restored, snapshot_watched, sql, write, write_tree
from trees import needs_root, program

from backuptool import ProgressEvent, Repository, RepositoryNotWritableError, SourceError

from .making import Counts, counts, make_sparse, once, saved

MIB = 1 << 20


def test_file_that_changes_while_it_is_read_is_read_again(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", {"log": noise(5 * MIB)})
    final = noise(5 * MIB, seed=1)
    reads: List[int] = []

    def change(event: ProgressEvent) -> None:
        if event.phase == "read" and event.done_bytes:
            reads.append(event.done_bytes)
            if len(reads) == 1:
                write(root / "log", final)

    result = snapshot_watched(repo.path, root, change)
    assert result.problems == ()
    assert result.read_bytes == 10 * MIB
    assert restored(repo, 1, tmp_path / "out") == entries(root)
    assert counts(repo.snapshot(root)) == Counts(unchanged=1)
    assert repo.check().problems == ()


def test_file_that_keeps_changing_is_saved_with_a_problem(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", {"log": noise(5 * MIB), "other": b"quiet"})

    def change(event: ProgressEvent) -> None:
        if event.phase == "read" and event.done_bytes > 5:
            with (root / "log").open("ab") as file:
                file.write(b"one more line")

    result = snapshot_watched(repo.path, root, change)
    assert [(problem.kind, problem.path) for problem in result.problems] == [("changed-while-read", "log")]
    assert counts(result) == Counts(new=2)
    assert result.snapshot.problem_files == 1
    found = restored(repo, 1, tmp_path / "out")
    assert (root / "log").read_bytes().startswith(found[b"log"].data)
    assert len(found[b"log"].data) >= 5 * MIB
    # It was as young as the walk: it is read again, and is whole then.
    assert repo.snapshot(root).problems == ()
    assert restored(repo, 2, tmp_path / "out2") == entries(root)
    assert repo.check().problems == ()


@pytest.mark.parametrize("left", [0, 1000, 2 * MIB, 3 * MIB + 1])
def test_file_cut_short_while_it_is_read_is_saved_as_it_became(repo: Repository, tmp_path: Path, left: int) -> None:
    root = write_tree(tmp_path / "tree", {"log": noise(5 * MIB)})
    reads: List[int] = []

    def cut(event: ProgressEvent) -> None:
        if event.phase == "read" and event.done_bytes:
            reads.append(event.done_bytes)
            if len(reads) == 1:
                os.truncate(str(root / "log"), left)

    result = snapshot_watched(repo.path, root, cut)
    assert result.problems == ()
    assert result.snapshot.size_bytes == left
    assert restored(repo, 1, tmp_path / "out") == entries(root)
    assert repo.check().problems == ()


def test_sparse_file_that_is_cut_short_in_its_hole_is_saved_as_it_became(repo: Repository, tmp_path: Path) -> None:
    path = make_sparse(tmp_path / "tree" / "disk", 64 * MIB, {0: noise(MIB), 32 * MIB: noise(3 * MIB)})
    reads: List[int] = []

    def cut(event: ProgressEvent) -> None:
        if event.phase == "read" and event.done_bytes:
            reads.append(event.done_bytes)
            if len(reads) == 1:
                os.truncate(str(path), 2 * MIB)

    result = snapshot_watched(repo.path, path.parent, cut)
    assert result.problems == ()
    assert restored(repo, 1, tmp_path / "out") == entries(path.parent)
    assert repo.check().problems == ()


def test_file_removed_before_it_is_read_counts_as_removed(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    write(tree / "a.txt", b"changed")
    write(tree / "new", b"never seen again")

    def remove() -> None:
        (tree / "a.txt").unlink()
        (tree / "new").unlink()

    result = snapshot_watched(repo.path, tree, once(remove, "read"))
    assert result.problems == ()
    assert counts(result) == Counts(unchanged=4, removed=1)
    assert repo.check().problems == ()


@pytest.mark.parametrize("became", ["symlink", "directory", "fifo", "socket"])
def test_file_that_became_another_kind_is_a_problem(repo: Repository, tree: Path, tmp_path: Path, became: str) -> None:
    repo.snapshot(tree)
    path = write(tree / "a.txt", b"changed")
    secret = write(tmp_path / "secret", b"not in the source")

    def replace() -> None:
        path.unlink()
        if became == "symlink":
            path.symlink_to(secret)
        elif became == "directory":
            path.mkdir()
        elif became == "fifo":
            os.mkfifo(str(path))
        else:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(os.path.relpath(str(path)))

    result = snapshot_watched(repo.path, tree, once(replace, "read"))
    assert [(problem.kind, problem.path) for problem in result.problems] == [("changed-kind", "a.txt")]
    assert counts(result) == Counts(unchanged=4, removed=1)
    assert "a.txt" not in saved(repo)
    assert repo.check().problems == ()


def test_file_under_a_directory_swapped_for_a_symlink_is_not_read(repo: Repository, tree: Path, tmp_path: Path) -> None:
    outside = write_tree(tmp_path / "outside", {"c.bin": b"a secret of somebody else"})

    def swap() -> None:
        (tree / "docs" / "deep").rename(tmp_path / "moved")
        (tree / "docs" / "deep").symlink_to(outside)

    result = snapshot_watched(repo.path, tree, once(swap, "read"))
    assert "docs/deep/c.bin" not in saved(repo)
    assert counts(result) == Counts(new=4)
    assert sql(repo.path, "SELECT count(*) FROM contents WHERE size = 25") == [(0,)]
    assert repo.check().problems == ()


def test_file_replaced_before_it_is_read_is_saved_as_the_new_one(repo: Repository, tree: Path, tmp_path: Path) -> None:
    write(tree / "other name", b"the new one")

    def replace() -> None:
        os.replace(str(tree / "other name"), str(tree / "a.txt"))

    result = snapshot_watched(repo.path, tree, once(replace, "read"))
    assert result.problems == ()
    assert restored(repo, 1, tmp_path / "out")[b"a.txt"].data == b"the new one"


def test_link_replaced_before_it_is_read_does_not_pass_its_bytes_on(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", {"1": b"linked"})
    os.link(str(root / "1"), str(root / "2"))
    os.link(str(root / "1"), str(tmp_path / "outside"))
    replacement = write(tmp_path / "replacement", b"another file")
    os.link(str(replacement), str(tmp_path / "its second name"))

    def replace() -> None:
        os.replace(str(replacement), str(root / "1"))

    result = snapshot_watched(repo.path, root, once(replace, "read", "1"))
    assert result.problems == ()
    found = restored(repo, 1, tmp_path / "out")
    assert (found[b"1"].data, found[b"2"].data) == (b"another file", b"linked")
    assert repo.check().problems == ()


@pytest.mark.parametrize("kind", ["symlink", "fifo"])
def test_special_file_that_vanishes_is_passed_over(repo: Repository, tmp_path: Path, kind: str) -> None:
    root = write_tree(tmp_path / "tree", {"a": b"a"})
    path = root / "z"
    path.symlink_to("x") if kind == "symlink" else os.mkfifo(str(path))
    # The scan reports each entry behind its lstat, and before it is recorded.
    result = snapshot_watched(repo.path, root, once(path.unlink, "scan", "z"))
    assert result.problems == ()
    assert counts(result) == Counts(new=1)
    assert result.snapshot.directories == 1
    assert set(restored(repo, 1, tmp_path / "out")) == {b".", b"a"}


def test_symlink_that_becomes_a_file_is_a_problem(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", {"a": b"a"})
    (root / "z").symlink_to("a")

    def replace() -> None:
        (root / "z").unlink()
        (root / "z").write_bytes(b"a file")

    result = snapshot_watched(repo.path, root, once(replace, "scan", "z"))
    assert [(problem.kind, problem.path) for problem in result.problems] == [("changed-kind", "z")]
    assert saved(repo) == {"a"}


def test_directory_that_vanishes_while_it_is_walked_is_saved_as_it_was_listed(repo: Repository, tree: Path) -> None:
    (tree / "docs" / "deep").chmod(0o711)
    result = snapshot_watched(
        repo.path, tree, once(lambda: shutil.rmtree(str(tree / "docs" / "deep")), "scan", "docs/deep")
    )
    assert result.problems == ()
    assert saved(repo) == {"a.txt", "b.txt", "empty", "docs/copy of b.txt"}
    assert sql(repo.path, "SELECT mode, ctime_ns FROM files WHERE path = 'docs/deep'") == [(0o711, None)]
    repo.snapshot(tree)
    assert sql(repo.path, "SELECT last FROM files WHERE path = 'docs/deep'") == [(1,)]
    assert repo.check().problems == ()


def test_what_is_saved_of_a_directory_that_vanishes_meanwhile_is_still_in_one(
    repo: Repository, tree: Path, tmp_path: Path
) -> None:
    """Its files are as the catalog has them, and kept without being read; what changed is the directory."""
    deep = tree / "docs" / "deep"
    os.setxattr(str(deep), "user.note", b"kept")
    age(tree)
    repo.snapshot(tree)
    before = restored(repo, 1, tmp_path / "out")
    os.utime(deep, ns=(OLD_NS, OLD_NS + SECOND_NS))
    moving = once(lambda: deep.rename(tmp_path / "moved"), "scan", "docs/deep/c.bin")
    assert snapshot_watched(repo.path, tree, moving).problems == ()
    after = restored(repo, 2, tmp_path / "out2")
    assert after.pop(b"docs/deep") == before.pop(b"docs/deep")._replace(mtime_ns=OLD_NS + SECOND_NS)
    assert after == before
    assert repo.check().problems == ()


@pytest.mark.parametrize("phase", ["scan", "read"])
@pytest.mark.parametrize("helpers", [0, 2])
@pytest.mark.parametrize("replaced", [False, True])
def test_source_that_is_moved_while_it_is_saved_is_no_empty_snapshot(
    repo: Repository, tree: Path, tmp_path: Path, phase: str, helpers: int, replaced: bool
) -> None:
    repo.snapshot(tree)
    age(tree)
    write(tree / "new", b"new")

    def move() -> None:
        tree.rename(tmp_path / "moved")
        if replaced:
            tree.mkdir()

    with pytest.raises(SourceError, match="was moved, removed or unmounted while it was saved; no snapshot was taken"):
        snapshot_watched(repo.path, tree, once(move, phase), helpers=helpers)
    assert [snapshot.id for snapshot in repo.list()] == [1]
    assert repo.check().problems == ()


@needs_root
def test_source_that_is_unmounted_while_it_is_saved_is_no_empty_snapshot(repo: Repository, tmp_path: Path) -> None:
    place = tmp_path / "mounted"
    place.mkdir()
    subprocess.run([program("mount"), "-t", "tmpfs", "none", str(place)], check=True)
    write(place / "file", b"bytes")

    def unmount() -> None:
        subprocess.run([program("umount"), "--lazy", str(place)], check=True)

    with pytest.raises(SourceError, match="unmounted"):
        snapshot_watched(repo.path, place, once(unmount, "read"), helpers=0)


@needs_root
def test_file_system_in_a_source_that_is_unmounted_while_it_is_saved_is_a_problem(repo: Repository, tree: Path) -> None:
    place = tree / "docs" / "mounted"
    place.mkdir()
    subprocess.run([program("mount"), "-t", "tmpfs", "none", str(place)], check=True)
    write(place / "file", b"bytes")

    def unmount() -> None:
        subprocess.run([program("umount"), "--lazy", str(place)], check=True)

    result = snapshot_watched(repo.path, tree, once(unmount, "read"), helpers=0)
    assert [(problem.kind, problem.path) for problem in result.problems] == [("unreadable", "docs/mounted")]
    assert saved(repo) == {"a.txt", "b.txt", "empty", "docs/copy of b.txt", "docs/deep/c.bin"}
    assert repo.snapshot(tree).problems == ()


@pytest.mark.parametrize("became", ["moved", "removed", "replaced"])
@pytest.mark.parametrize("phase", ["scan", "commit"])
def test_repository_that_is_moved_while_it_is_written_to_is_named(
    repo: Repository, tree: Path, tmp_path: Path, phase: str, became: str
) -> None:
    repo.snapshot(tree)
    repo.close()
    write(tree / "new", b"new")
    path, other = Path(repo.path), tmp_path / "other.db"
    other.write_bytes(path.read_bytes())
    act: Dict[str, Callable[[], object]] = {
        "moved": lambda: path.rename(tmp_path / "moved.db"),
        "removed": path.unlink,
        "replaced": lambda: other.replace(path),
    }
    with pytest.raises(RepositoryNotWritableError, match="was moved, removed or replaced while it was in use"):
        snapshot_watched(path, tree, once(act[became], phase))
    left = {"moved": tmp_path / "moved.db", "replaced": path}.get(became)
    if left is not None:
        with Repository(left) as moved:
            assert [snapshot.id for snapshot in moved.list()] == [1]
            assert moved.check().problems == ()
