"""Restoring a part of a snapshot."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Dict, List, Tuple

import pytest
from conftest import write
from trees import differences, facts

from backuptool import Repository

from .making import kinds, names


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (["docs/deep/c.bin"], [], ["docs", "docs/deep", "docs/deep/c.bin"]),
        (["/docs/deep"], [], ["docs", "docs/deep", "docs/deep/c.bin"]),
        (["docs"], ["deep"], ["docs", "docs/copy of b.txt"]),
        (["docs"], ["deep/"], ["docs", "docs/copy of b.txt"]),
        (["*.txt"], [], ["a.txt", "b.txt", "docs", "docs/copy of b.txt"]),
        (["/*.txt", "!/a.txt"], [], ["b.txt"]),
        ([], ["*.txt", "!/a.txt"], ["a.txt", "docs", "docs/deep", "docs/deep/c.bin", "empty"]),
        ([], ["docs"], ["a.txt", "b.txt", "empty"]),
        (["docs/"], [], ["docs", "docs/copy of b.txt", "docs/deep", "docs/deep/c.bin"]),
        (["**/deep"], [], ["docs", "docs/deep", "docs/deep/c.bin"]),
    ],
)
def test_a_part_is_selected_by_paths_and_patterns(
    repo: Repository, tree: Path, out: Path, include: List[str], exclude: List[str], expected: List[str]
) -> None:
    repo.snapshot(tree)
    result = repo.restore(1, out, include=include, exclude=exclude)
    assert (names(out), result.problems) == (expected, ())


def test_a_selection_that_finds_nothing_is_a_problem(repo: Repository, tree: Path, out: Path) -> None:
    repo.snapshot(tree)
    result = repo.restore(1, out, include=["nothing like it"])
    assert kinds(result) == [("nothing-found", "")]
    assert (result.restored_files, result.restored_directories) == (0, 0)


def test_what_was_to_be_included_and_matches_nothing_is_told(repo: Repository, tree: Path, out: Path) -> None:
    write(tree / "[x]", b"brackets")
    repo.snapshot(tree)
    cases: Dict[Tuple[str, ...], Tuple[str, ...]] = {
        ("a.txt", "nope", "b.txt", "/c.bin"): ("nope", "/c.bin"),
        ("docs", "docs/deep/c.bin", "docs/nope"): ("docs/nope",),
        ("a.txt", "*.txt", "[x]", "docs/deep/"): (),
        ("*.txt", "a.txt/", "!b.txt", "# no comment", ""): ("a.txt/",),
        ("nope",): (),  # a problem
        ("nope", "neither"): (),
    }
    for include, unmatched in cases.items():
        for dry_run in (True, False):
            result = repo.restore(1, out, include=include, dry_run=dry_run)
            assert result.unmatched == unmatched, include
            assert kinds(result) == ([("nothing-found", "")] if include[0] == "nope" else [])
    excluded = repo.restore(1, out, include=["a.txt", "b.txt", "nope"], exclude=["a.txt"])
    assert excluded.unmatched == ("nope",)


def test_what_is_in_the_destination_alone_does_not_count_as_matched(repo: Repository, tree: Path, out: Path) -> None:
    repo.snapshot(tree)
    write(out / "nope", b"extra")
    result = repo.restore(1, out, include=["a.txt", "nope"], delete_extra=True)
    assert (result.unmatched, result.deleted_files) == (("nope",), 1)


def test_one_lone_string_is_one_pattern(repo: Repository, tree: Path, out: Path) -> None:
    repo.snapshot(tree)
    repo.restore(1, out, include="a.txt")
    assert names(out) == ["a.txt"]


@pytest.mark.parametrize("name", ["new\nline", "\n", os.fsdecode(b"\xff\n\xfe"), " ", "tab\t"])
def test_a_directory_is_selected_with_whatever_names_are_in_it(
    repo: Repository, tmp_path: Path, out: Path, name: str
) -> None:
    source = tmp_path / "source"
    write(source / "sub" / name, b"1")
    write(source / "sub" / (name + "dir") / "file", b"2")
    repo.snapshot(source)
    repo.restore(1, out, include=["sub"])
    assert differences(source, out) == []
    result = repo.restore(1, tmp_path / "other", exclude=["sub"])
    assert result.restored_files == 0


@pytest.mark.parametrize(
    "name", ["a[1].txt", "#comment", "!important", "trailing  ", "back\\slash", "star*", "new\nline", "ba\\d "]
)
def test_a_path_is_selected_as_it_is_written(repo: Repository, tmp_path: Path, out: Path, name: str) -> None:
    source = tmp_path / "source"
    write(source / "sub" / name, b"1")
    write(source / "sub" / "other", b"2")
    repo.snapshot(source)
    repo.restore(1, out, include=["sub/" + name])
    assert os.listdir(out / "sub") == [name]


def test_a_name_that_is_not_utf8_is_selected_by_its_surrogates(repo: Repository, tmp_path: Path, out: Path) -> None:
    source = tmp_path / "source"
    write(source / os.fsdecode(b"\xff"), b"1")
    write(source / os.fsdecode(b"\xfe"), b"2")
    repo.snapshot(source)
    repo.restore(1, out, include=[os.fsdecode(b"\xff")])
    assert os.listdir(os.fsencode(out)) == [b"\xff"]


def test_directories_above_a_selected_file_get_what_was_saved_of_them(repo: Repository, tree: Path, out: Path) -> None:
    (tree / "docs").chmod(0o751)
    (tree / "docs" / "deep").chmod(0o711)
    repo.snapshot(tree)
    result = repo.restore(1, out, include=["c.bin"])
    assert result.restored_directories == 3
    saved, found = facts(tree), facts(out)
    for path in (b"", b"docs", b"docs/deep", b"docs/deep/c.bin"):
        assert found[path] == saved[path]


def test_restoring_one_file_leaves_the_directories_that_are_there_as_they_are(
    repo: Repository, tree: Path, out: Path
) -> None:
    repo.snapshot(tree)
    (out / "docs" / "deep").mkdir(parents=True)
    (out / "docs" / "other").mkdir()
    for path in (out, out / "docs", out / "docs" / "deep", out / "docs" / "other"):
        path.chmod(0o2770)
        os.setxattr(path, "user.mine", b"1")
    result = repo.restore(1, out, include=["docs/deep/c.bin"])
    assert (result.restored_files, result.restored_directories) == (1, 0)
    for path in (out, out / "docs", out / "docs" / "deep", out / "docs" / "other"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o2770
        assert os.getxattr(path, "user.mine") == b"1"


def test_restoring_one_file_leaves_an_empty_destination_its_mode(repo: Repository, tree: Path, out: Path) -> None:
    tree.chmod(0o700)
    repo.snapshot(tree)
    out.mkdir()
    out.chmod(0o1777)
    repo.restore(1, out, include=["a.txt"])
    assert stat.S_IMODE(out.stat().st_mode) == 0o1777
