"""Every kind of entry that the snapshot has, where every kind is, older or newer, under every policy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable, Dict, List, Tuple

import pytest
from conftest import write
from trees import differences, facts

from backuptool import Repository
from backuptool.results.restore import OverwritePolicy

from .making import NOW_NS, POLICIES, kinds, leftovers


def _full(path: Path) -> None:
    write(path / "inner", b"precious" if path.parent.name == "out" else b"saved")
    os.utime(path / "inner", ns=(0, NOW_NS))


MAKERS: Dict[str, Callable[[Path], object]] = {
    "file": lambda path: write(path, b"precious" if path.parent.name == "out" else b"saved"),
    "symlink": lambda path: path.symlink_to("there" if path.parent.name == "out" else "saved"),
    "empty directory": lambda path: path.mkdir(),
    "full directory": _full,
    "fifo": lambda path: os.mkfifo(path),
}


def make_each_for_each(source: Path, out: Path, age_ns: int) -> None:
    """Make what is saved and, so much younger, what is there, named by both."""
    source.mkdir()
    out.mkdir()
    for saved, make_saved in MAKERS.items():
        for there, make_there in MAKERS.items():
            for root, make, mtime_ns in ((source, make_saved, NOW_NS), (out, make_there, NOW_NS + age_ns)):
                path = root / f"{saved} for {there}"
                make(path)
                os.utime(path, ns=(0, mtime_ns), follow_symlinks=False)


def expected(saved: str, there: str, policy: OverwritePolicy, age_ns: int) -> str:
    """Return what should become of it: "saved", "stays", or "blocked" if that is a problem."""
    if "directory" in saved and "directory" in there:
        return "saved"
    if policy == "never" or (policy == "if-newer" and age_ns >= 0):
        return "blocked" if "directory" in saved else "stays"
    return "blocked" if there == "full directory" else "saved"


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("age_ns", [-1, 0, 1])
def test_what_is_there_is_replaced_stays_or_is_in_the_way(
    repo: Repository, tmp_path: Path, policy: OverwritePolicy, age_ns: int
) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    make_each_for_each(source, out, age_ns)
    repo.snapshot(source)
    before, wanted = facts(out), facts(source)
    dry = repo.restore(1, out, overwrite=policy, dry_run=True)
    assert facts(out) == before
    result = repo.restore(1, out, overwrite=policy)
    after = facts(out)
    problems: List[Tuple[str, str]] = []
    for saved in MAKERS:
        for there in MAKERS:
            name = f"{saved} for {there}"
            paths = [name.encode(), *([name.encode() + b"/inner"] if "full directory" in (saved, there) else [])]
            fate = expected(saved, there, policy, age_ns)
            if fate == "blocked":
                problems.append(("in-the-way", name))
                if saved == "full directory":
                    problems.append(("not-written", name + "/inner"))
            if "directory" in saved and "directory" in there:
                continue  # merged: below
            origin = wanted if fate == "saved" else before
            assert [after.get(path) for path in paths] == [origin.get(path) for path in paths], name
    assert kinds(result) == sorted(problems)
    assert leftovers(out) == []
    counts = [(r.restored_files, r.unchanged_files, r.restored_directories, r.problems) for r in (dry, result)]
    assert counts[0] == counts[1]
    merged = out / "full directory for full directory" / "inner"
    # What the two files "inner" look like does not depend on the directory's age: both are as old, and one is longer.
    assert merged.read_bytes() == (b"precious" if policy in ("never", "if-newer") else b"saved")
    assert (out / "empty directory for full directory" / "inner").read_bytes() == b"precious"
    assert (out / "full directory for empty directory" / "inner").read_bytes() == b"saved"


def test_if_newer_keeps_a_newer_file_whose_name_a_directory_should_have(
    repo: Repository, tmp_path: Path, out: Path
) -> None:
    write(tmp_path / "source" / "d" / "b", b"saved")
    repo.snapshot(tmp_path / "source")
    write(out / "d", b"precious")
    os.utime(out / "d", ns=(0, 2_000_000_000_000_000_000))
    result = repo.restore(1, out, overwrite="if-newer")
    assert (out / "d").read_bytes() == b"precious"
    assert [(problem.path, problem.message) for problem in result.problems] == [
        ("d", "not restored: a newer file has its name"),
        ("d/b", "not restored: the directory that it belongs into was not"),
    ]


def test_once_a_newer_file_is_gone_the_directory_is_restored(repo: Repository, tmp_path: Path, out: Path) -> None:
    write(tmp_path / "source" / "d" / "b", b"saved")
    repo.snapshot(tmp_path / "source")
    write(out / "d", b"precious")
    os.utime(out / "d")
    assert len(repo.restore(1, out, overwrite="if-newer").problems) == 2
    (out / "d").unlink()
    assert repo.restore(1, out, overwrite="if-newer").problems == ()
    assert differences(tmp_path / "source", out) == []


def test_a_directory_that_is_emptied_for_a_newer_file_makes_room_at_once(
    repo: Repository, tmp_path: Path, out: Path
) -> None:
    write(tmp_path / "source" / "file", b"saved")
    repo.snapshot(tmp_path / "source")
    write(out / "file" / "extra", b"extra")
    os.utime(out / "file", ns=(0, 1))
    result = repo.restore(1, out, overwrite="if-newer", delete_extra=True)
    assert (result.restored_files, result.unchanged_files, result.deleted_files, result.problems) == (1, 0, 1, ())
    assert (out / "file").read_bytes() == b"saved"
