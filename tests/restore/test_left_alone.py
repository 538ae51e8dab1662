"""Hard links beside files that a restore leaves alone: no name gets bytes that are not its own."""

from __future__ import annotations

import itertools
import os
import stat
from pathlib import Path
from typing import Dict, Optional

import pytest
from conftest import as_nobody, write
from trees import needs_root

from backuptool import Repository
from backuptool.results.restore import OverwritePolicy

from .making import NOW_NS, leftovers

LEAVING = ("if-changed", "if-newer", "never")


def impostor(path: Path, saved: Path, data: bytes = b"WRONG!") -> Path:
    """Make what size, time, mode and owner call the saved file, with other bytes."""
    assert len(data) == saved.stat().st_size
    write(path, data)
    path.chmod(stat.S_IMODE(saved.stat().st_mode))
    os.utime(path, ns=(0, saved.stat().st_mtime_ns))
    return path


@pytest.mark.parametrize("policy", LEAVING)
def test_a_file_with_other_bytes_that_looks_as_saved_stays_and_gets_no_more_names(
    repo: Repository, linked: Path, out: Path, policy: OverwritePolicy
) -> None:
    repo.snapshot(linked)
    impostor(out / "a", linked / "a")
    dry = repo.restore(1, out, overwrite=policy, dry_run=True)
    result = repo.restore(1, out, overwrite=policy)
    assert (out / "a").read_bytes() == b"WRONG!"
    assert (out / "b").read_bytes() == b"linked"
    assert (out / "b").samefile(out / "sub" / "c")
    assert (result.restored_files, result.unchanged_files, result.written_bytes) == (2, 1, 6)
    assert (dry.restored_files, dry.unchanged_files, dry.written_bytes) == (2, 1, 6)
    assert (out / "b").stat().st_nlink == 2


@pytest.mark.parametrize("policy", LEAVING)
def test_a_file_that_is_as_saved_gets_the_names_that_are_missing(
    repo: Repository, linked: Path, out: Path, policy: OverwritePolicy
) -> None:
    repo.snapshot(linked)
    impostor(out / "a", linked / "a", b"linked")
    inode = (out / "a").stat().st_ino
    result = repo.restore(1, out, overwrite=policy)
    assert (result.restored_files, result.unchanged_files, result.written_bytes) == (2, 1, 0)
    assert (out / "a").stat().st_ino == inode
    assert [(out / name).stat().st_ino for name in ("b", "sub/c")] == [inode, inode]


@pytest.mark.parametrize("policy", ["if-newer", "never"])
@pytest.mark.parametrize("what", ["mode", "attributes"])
def test_a_file_that_has_the_right_bytes_and_another_mode_gets_no_more_names(
    repo: Repository, linked: Path, out: Path, policy: OverwritePolicy, what: str
) -> None:
    (linked / "a").chmod(0o600)
    repo.snapshot(linked)
    there = impostor(out / "a", linked / "a", b"linked")
    if what == "mode":
        there.chmod(0o666)
    else:
        os.setxattr(there, "user.x", b"1")
    repo.restore(1, out, overwrite=policy)
    assert there.stat().st_nlink == 1
    assert (out / "b").samefile(out / "sub" / "c")
    assert stat.S_IMODE((out / "b").stat().st_mode) == 0o600
    assert (out / "b").read_bytes() == b"linked"


@needs_root
def test_a_user_links_to_ones_own_file_although_the_owner_was_another(public_path: Path) -> None:
    source, out = public_path / "source", public_path / "out"
    write(source / "a", b"linked").chmod(0o644)
    os.link(source / "a", source / "b")
    with Repository(public_path / "backups.db") as repo:
        repo.snapshot(source)
    os.chmod(public_path / "backups.db", 0o644)

    def run() -> int:
        impostor(out / "a", source / "a", b"linked")
        with Repository(public_path / "backups.db") as theirs:
            return theirs.restore(1, out, overwrite="never").restored_files

    assert as_nobody(run) == 1
    assert (out / "a").samefile(out / "b")


@pytest.mark.parametrize("policy", LEAVING)
def test_whatever_looks_as_saved_no_name_that_is_written_has_wrong_bytes(
    repo: Repository, linked: Path, out: Path, policy: OverwritePolicy
) -> None:
    """Each of the three names is missing, right, wrong, or another name of what the one before it is."""
    repo.snapshot(linked)
    names = ("a", "b", "sub/c")
    states = (None, "right", "wrong", "linked", "changed")
    for number, there in enumerate(itertools.product(states, repeat=3)):
        place = out / str(number)
        before: Dict[str, Optional[bytes]] = {}
        for position, (name, state) in enumerate(zip(names, there)):
            path = place / name
            last = place / names[position - 1]
            if state == "linked" and position and last.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                os.link(last, path)
            elif state == "changed":
                os.utime(write(path, b"longer than it was"), ns=(0, NOW_NS))
            elif state is not None:
                impostor(path, linked / "a", b"WRONG!" if state == "wrong" else b"linked")
            before[name] = path.read_bytes() if path.exists() else None
        dry = repo.restore(1, place, overwrite=policy, dry_run=True)
        result = repo.restore(1, place, overwrite=policy)
        assert result.problems == ()
        assert leftovers(place) == []
        assert (dry.restored_files, dry.unchanged_files, dry.written_bytes) == (
            *(result.restored_files, result.unchanged_files, result.written_bytes),
        )
        assert result.restored_files + result.unchanged_files == 3
        for name in names:
            data = (place / name).read_bytes()
            assert data in (b"linked", before[name]), (there, name)
