"""What is left out, and why."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from conftest import write, write_tree

from backuptool import PatternError, Repository

from .making import Counts, counts, saved

EXCLUDABLE = {
    "keep.txt": b"1",
    "drop.tmp": b"2",
    "build/out.o": b"3",
    "src/build/x": b"4",
    "src/keep.tmp": b"5",
    "src/deep/drop.tmp": b"6",
    "cache/CACHEDIR.TAG": b"Signature: 8a477f597d28d172789f06886806bc55\n# more",
    "cache/thing": b"7",
    "fake/CACHEDIR.TAG": b"no signature",
    "fake/thing": b"8",
    "private/.nobackup": b"",
    "private/secret": b"9",
}


def test_patterns_leave_out_what_they_match(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", EXCLUDABLE)
    result = repo.snapshot(root, exclude=["*.tmp", "!src/keep.tmp", "/build/"])
    assert set(EXCLUDABLE) - saved(repo) == {"drop.tmp", "build/out.o", "src/deep/drop.tmp"}
    assert counts(result) == Counts(new=9)
    assert result.problems == ()


def test_one_pattern_may_be_a_string(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", EXCLUDABLE)
    repo.snapshot(root, exclude="build")
    assert set(EXCLUDABLE) - saved(repo) == {"build/out.o", "src/build/x"}


def test_files_of_patterns_leave_out_what_they_match(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", EXCLUDABLE)
    patterns = write(tmp_path / "patterns", b"# a comment\n\n*.tmp\n")
    repo.snapshot(root, exclude_from=[patterns], exclude=["!drop.tmp"])
    assert set(EXCLUDABLE) - saved(repo) == {"src/keep.tmp"}


def test_missing_file_of_patterns_creates_no_repository(repo: Repository, tree: Path, tmp_path: Path) -> None:
    with pytest.raises(PatternError, match="nowhere"):
        repo.snapshot(tree, exclude_from=[tmp_path / "nowhere"])
    assert not os.path.exists(repo.path)


def test_marked_caches_keep_only_their_mark(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", EXCLUDABLE)
    repo.snapshot(root, exclude_caches=True)
    assert set(EXCLUDABLE) - saved(repo) == {"cache/thing"}


def test_unreadable_or_strange_cache_tag_marks_nothing(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", {"link/thing": b"1", "fifo/thing": b"2"})
    (root / "link" / "CACHEDIR.TAG").symlink_to("thing")
    os.mkfifo(str(root / "fifo" / "CACHEDIR.TAG"))
    repo.snapshot(root, exclude_caches=True)
    assert {"link/thing", "fifo/thing"} <= saved(repo)


def test_marker_file_keeps_the_others_out(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", EXCLUDABLE)
    repo.snapshot(root, exclude_if_present=".nobackup")
    assert set(EXCLUDABLE) - saved(repo) == {"private/secret"}


def test_files_above_a_size_are_left_out_without_a_word(repo: Repository, tree: Path) -> None:
    result = repo.snapshot(tree, exclude_larger_than=1000)
    assert counts(result) == Counts(new=2)
    assert saved(repo) == {"a.txt", "empty"}


def test_excluded_file_is_gone_from_the_next_snapshot(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    result = repo.snapshot(tree, exclude=["docs"])
    assert counts(result) == Counts(unchanged=3, removed=2)
    assert repo.check().problems == ()


def test_a_negated_set_does_not_leave_out_the_directory_before_it(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(
        tmp_path / "tree", {"foo/keep.txt": b"1", "foo1/drop": b"2", "proj./main.c": b"3", "data/foo": b"4"}
    )
    patterns = ["foo[!x]", "*.[!ct]", "data[!0-9]foo"]
    repo.snapshot(root, exclude=patterns)
    assert saved(repo) == {"foo/keep.txt", "proj./main.c", "data/foo"}
    assert repo.compare(1, root, exclude=patterns).differences == ()


def test_what_no_walk_comes_to_is_no_difference(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", {"build/keep": b"1", "main.c": b"2"})
    repo.snapshot(root)
    assert repo.compare(1, root, exclude=["build/", "!build/keep"]).differences == ()


def test_an_absolute_pattern_is_refused_with_the_one_that_would_do(repo: Repository, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", {"cache/a": b"1"})
    (tmp_path / "link").symlink_to(root)
    for pattern, meant in ((f"{root}/cache", "'/cache'"), (f"!{root}/cache/*.c", "'!/cache/*.c'")):
        for source in (root, tmp_path / "link"):
            with pytest.raises(PatternError, match=re.escape(f"say {meant}")) as caught:
                repo.snapshot(source, exclude=["fine", pattern])
            assert caught.value.pattern == pattern
    with pytest.raises(PatternError, match="say '/cache/'"):
        repo.snapshot(tmp_path / "link", exclude=[f"{tmp_path}/link/cache/"])
    assert not os.path.exists(repo.path)
    repo.snapshot(root, exclude=["/cache", f"{root}2/cache"])
    with pytest.raises(PatternError, match="say '/cache'"):
        repo.compare(1, root, exclude=[f"{root}/cache"])


def test_an_absolute_pattern_is_taken_where_the_tree_has_that_path(repo: Repository, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    within = str(root).lstrip("/")
    write_tree(root, {f"{within}/cache/a": b"1", f"{within}/b": b"2"})
    repo.snapshot(root, exclude=[f"{root}/cache"])
    assert saved(repo) == {f"{within}/b"}


@pytest.mark.parametrize("name", ["", "a/b", "/a", ".", ".."])
def test_what_no_file_is_called_marks_no_directory(repo: Repository, tree: Path, name: str) -> None:
    with pytest.raises(PatternError, match="is no name of a file") as caught:
        repo.snapshot(tree, exclude_if_present=[name])
    assert caught.value.pattern == name
