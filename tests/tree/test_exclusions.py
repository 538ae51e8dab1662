"""What is left out of a walk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import FrozenSet

import pytest
from conftest import write, write_tree
from trees import mounted, needs_root

from backuptool import PatternError
from backuptool.tree.exclusions import CACHE_TAG_SIGNATURE, Exclusions, paths_or_patterns, read_pattern_file
from backuptool.tree.patterns import Patterns

from .making import walk


def test_patterns_leave_out_what_they_match_and_all_below(tmp_path: Path) -> None:
    root = write_tree(
        tmp_path / "root",
        {"a.tmp": b"", "keep.tmp": b"", "sub/b.tmp": b"", "sub/b": b"", "cache/x/y": b"", "dir": b"", "sub/dir/z": b""},
    )
    patterns = Patterns(["*.tmp", "!keep.tmp", "/cache", "dir/"])
    assert walk(root, Exclusions(patterns=patterns)) == [b"", b"dir", b"keep.tmp", b"sub", b"sub/b"]


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("*.txt", b"a.txt", True),
        ("*.txt", b"sub/a.txt", True),
        ("/*.txt", b"sub/a.txt", False),
        ("sub/*.txt", b"sub/a.txt", True),
        ("sub/*.txt", b"sub/deep/a.txt", False),
        ("sub/**/a.txt", b"sub/very/deep/a.txt", True),
        ("sub", b"sub/deep/a", True),
        ("# sub", b"# sub", False),
        ("\\#sub", b"#sub", True),
        ("", b"sub", False),
        ("[ab]", b"b", True),
        ("new?line", b"new\nline", True),
        ("*.txt", b"a.txt\n", False),
        ("sub/", b"sub/new\nline", True),
        ("new\nline", b"new\nline", True),
        ("*", b"\xff\xfe", True),
        ("\udcff*", b"\xff\xfe", True),
        ("\udcff*", b"\xfe\xff", False),
    ],
)
def test_patterns_are_those_of_gitignore(pattern: str, path: bytes, expected: bool) -> None:
    assert Patterns([pattern]).match(path) is expected


def test_a_pattern_for_directories_matches_no_file() -> None:
    assert Patterns(["sub/"]).match(b"sub", True)
    assert not Patterns(["sub/"]).match(b"sub")


def test_a_pattern_that_is_none_is_an_error() -> None:
    with pytest.raises(PatternError, match="cannot be understood"):
        Patterns(["fine", "!"])


@pytest.mark.parametrize(
    "name", ["a[1]", "#a", "!a", "a*", "a?", "a\\", "a\\\\", "a ", "a  ", "\\", "\\b", " ", "a\nb", "[", "]", "[!a]"]
)
def test_a_path_is_matched_by_itself_whatever_is_in_it(name: str) -> None:
    for path in (name, f"sub/{name}", f"/sub/{name}/"):
        found = Patterns(paths_or_patterns([path]))
        assert found.match(os.fsencode(path.strip("/")), True)
        assert not found.match(b"other", True)


def test_a_plain_path_stays_the_pattern_that_it_is() -> None:
    assert paths_or_patterns(["a", "sub/b", "*.c"]) == ["a", "sub/b", "*.c", "/\\*.c"]


def test_a_file_of_patterns_is_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "patterns"
    path.write_bytes(b"\xef\xbb\xbf*.tmp\r\n# comment\n\n\xff\nnot\x0ca\xe2\x80\xa8line\nlast")
    expected = ["*.tmp", "# comment", "", "\udcff", "not\x0ca\u2028line", "last"]
    assert read_pattern_file(str(path)) == expected
    with pytest.raises(PatternError, match=r"cannot read the patterns in .*: No such file") as caught:
        read_pattern_file(str(tmp_path / "missing"))
    assert caught.value.pattern == str(tmp_path / "missing")


@pytest.mark.parametrize(
    ("tag", "marks"),
    [
        (CACHE_TAG_SIGNATURE, True),
        (CACHE_TAG_SIGNATURE + b"\n# made by a program\n", True),
        (CACHE_TAG_SIGNATURE[:-1], False),
        (b"", False),
        (b"\n" + CACHE_TAG_SIGNATURE, False),
    ],
)
def test_a_cache_keeps_nothing_but_its_tag(tmp_path: Path, tag: bytes, marks: bool) -> None:
    root = write_tree(tmp_path / "root", {"cache/CACHEDIR.TAG": tag, "cache/a": b"", "cache/z/z": b"", "file": b""})
    everything = [b"", b"cache", b"cache/CACHEDIR.TAG", b"cache/a", b"cache/z", b"cache/z/z", b"file"]
    marked = [b"", b"cache", b"cache/CACHEDIR.TAG", b"file"]
    assert walk(root, Exclusions(caches=True)) == (marked if marks else everything)
    assert walk(root) == everything


def test_a_source_that_is_a_cache_keeps_nothing_but_its_tag(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", {"CACHEDIR.TAG": CACHE_TAG_SIGNATURE, "a": b""})
    assert walk(root, Exclusions(caches=True)) == [b"", b"CACHEDIR.TAG"]


@pytest.mark.parametrize("kind", ["fifo", "directory", "symlink"])
def test_only_a_file_is_a_cache_tag(tmp_path: Path, kind: str) -> None:
    root = write_tree(tmp_path / "root", {"a": b""})
    if kind == "fifo":
        os.mkfifo(root / "CACHEDIR.TAG")
    elif kind == "directory":
        (root / "CACHEDIR.TAG").mkdir()
    else:
        (root / "CACHEDIR.TAG").symlink_to(write(tmp_path / "tag", CACHE_TAG_SIGNATURE))
    assert walk(root, Exclusions(caches=True)) == [b"", b"CACHEDIR.TAG", b"a"]


def test_a_marker_keeps_out_what_is_beside_it(tmp_path: Path) -> None:
    root = write_tree(
        tmp_path / "root", {"a/.nobackup": b"", "a/file": b"", "b/.other/x": b"", "b/file": b"", "c/file": b""}
    )
    markers: FrozenSet[bytes] = frozenset({b".nobackup", b".other"})
    assert walk(root, Exclusions(markers=markers)) == [b"", b"a", b"a/.nobackup", b"b", b"b/.other", b"c", b"c/file"]


def test_files_above_a_size_are_left_out(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", {"a": b"12", "b": b"123", "c": b"1234"})
    (root / "symlink").symlink_to("x" * 100)
    assert walk(root, Exclusions(larger_than=3)) == [b"", b"a", b"b", b"symlink"]


@needs_root
def test_another_file_system_is_an_empty_directory_if_one_is_enough(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", {"mounted": None, "other/file": b""})
    with mounted(root / "mounted"):
        write(root / "mounted" / "file", b"")
        everything = [b"", b"mounted", b"mounted/file", b"other", b"other/file"]
        assert walk(root) == everything
        everything.remove(b"mounted/file")
        assert walk(root, Exclusions(one_file_system=True)) == everything


def test_exclusions_are_made_of_what_a_user_gives() -> None:
    none = Exclusions.of([], [], False, None, False)
    assert none == Exclusions()
    some = Exclusions.of(["*.tmp"], ["a", "\udcff"], True, 5, True)
    assert some.patterns is not None
    assert some.patterns.match(b"x.tmp")
    assert some.markers == frozenset({b"a", b"\xff"})
    assert (some.caches, some.larger_than, some.one_file_system) == (True, 5, True)
