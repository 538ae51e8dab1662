"""What patterns match: what they match for git."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import Dict, List, Tuple

import pytest
from conftest import write_tree
from properties import given, st

from backuptool import PatternError
from backuptool.tree.patterns import Patterns

_NAMES = ["a", "b", "ab", "a.b", "b1", "-", "]", "a]", "[", "!a", "^", "a:", "1", "foo", "foobar", "a-b", "foo "]

_PIECES = [
    *("a", "b", "ab", "foo", "*", "?", "**", "[ab]", "[!a]", "[^b]", "[a-c]", "[!a-b]", "[]a]", "[!]]", "[[:alpha:]]"),
    *("[![:digit:]]", "[[:punct:]a]", "[a-]", "[--b]", "[\\]a]", "[z-a]", "[a\\-b]", "\\a", "\\*", "-", "1", ".", " "),
    *("[a-c-e]", "[[a]", "[[:a]", "[a", "[[:x:]]", "[/]", "]", "!", "\\", "[a/b]", "/", "/", "/"),
]


def _patterns(rng: random.Random) -> List[str]:
    lines = []
    for position in range(rng.choice([1, 1, 1, 2, 3])):
        line = rng.choice(["", "", "", "/", "**/"]) + "".join(rng.choices(_PIECES, k=rng.randint(1, 6)))
        line += rng.choice(["", "", "", "/"])
        lines.append(("!" if position and rng.random() < 0.4 else "") + line)
    return lines


def _tree(root: Path, rng: random.Random) -> List[Tuple[str, bool]]:
    """Make files and directories, and return all of them: (path, is it a directory)."""
    found: Dict[str, bool] = {}
    for _ in range(120):
        names = rng.choices(_NAMES, k=rng.randint(1, 4))
        ways = ["/".join(names[:end]) for end in range(1, len(names) + 1)]
        if any(found.get(way) is False for way in ways[:-1]) or ways[-1] in found:
            continue
        found.update(dict.fromkeys(ways[:-1], True))
        found[ways[-1]] = False
    write_tree(root, {path: b"" for path, is_directory in found.items() if not is_directory})
    return sorted(found.items())


def _ignored(root: Path, lines: List[str], paths: List[str]) -> List[bool]:
    """Ask git."""
    (root / ".git/info/exclude").write_text("\n".join(lines) + "\n")
    done = subprocess.run(
        ["git", "check-ignore", "--no-index", "-z", "-v", "-n", "--stdin"],
        cwd=root,
        input="\0".join(paths).encode(),
        env={**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"},
        stdout=subprocess.PIPE,
        check=False,
    )
    fields = done.stdout.decode().split("\0")[:-1]
    assert fields[3::4] == paths
    return [bool(file) and not line.startswith("!") for file, line in zip(fields[::4], fields[2::4])]


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
@pytest.mark.parametrize("rounds", [150, pytest.param(3000, marks=pytest.mark.long)])
def test_patterns_leave_out_what_git_ignores(tmp_path: Path, rounds: int) -> None:
    rng = random.Random(rounds)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    tree = _tree(tmp_path, rng)
    left_out = refused = 0
    for _ in range(rounds):
        lines = _patterns(rng)
        good = []
        for line in lines:
            try:
                Patterns([line])
                good.append(line)
            except PatternError:
                refused += 1  # git ignores them
        patterns = Patterns(good)
        found = [patterns.leave_out(os.fsencode(path), is_directory) for path, is_directory in tree]
        assert found == _ignored(tmp_path, lines, [path for path, _ in tree]), lines
        left_out += sum(found)
    assert left_out > rounds
    assert refused > rounds / 20


@pytest.mark.parametrize(
    ("pattern", "path", "is_directory", "expected"),
    [
        ("foo[!x]", b"foo", True, False),
        ("foo[!x]", b"foo/keep.txt", False, False),
        ("foo[!x]", b"food", True, True),
        ("*.[!c]", b"proj.", True, False),
        ("data[!0-9]foo", b"data/foo", False, False),
        ("data[!0-9]foo", b"data-foo", False, True),
        ("/a[^b]c", b"a/c", False, False),
        ("foo/*", b"foo", True, False),
        ("foo/**", b"foo", True, False),
        ("foo/**", b"foo/a/b", False, True),
        ("[[:alpha:]]*", b"a1", False, True),
        ("[[:alpha:]]*", b"1a", False, False),
        ("[![:digit:][:upper:]]", b"x", False, True),
        ("[![:digit:][:upper:]]", b"X", False, False),
        ("[[:space:]]", b"\n", False, True),
        ("?", "ä".encode(), False, True),
        ("[ä-ü]", "ö".encode(), False, True),
        ("[!a]", "ä".encode(), False, True),
        ("[\udcfe-\udcff]", b"\xff", False, True),
        ("[[a&&b||c~~d--e]", b"&", False, True),
    ],
)
def test_a_set_is_of_characters_and_never_of_slashes(
    pattern: str, path: bytes, is_directory: bool, expected: bool
) -> None:
    assert Patterns([pattern]).match(path, is_directory) is expected
    assert Patterns([pattern, "!none"]).leave_out(path, is_directory) is expected


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("[ab", r"a \[ has no \]"),
        ("a[]", r"a \[ has no \]"),
        ("sub/[!", r"a \[ has no \]"),
        ("[\\", r"a \[ has no \]"),
        ("[[:alpha:]", r"a \[ has no \]"),
        ("[[:word:]]", r"there is no class \[:word:\]"),
        ("a\\", "nothing behind the backslash"),
        ("a\\/", "nothing behind the backslash"),
        ("!", "nothing behind the !"),
    ],
)
def test_a_pattern_that_can_match_nothing_is_refused_by_name(pattern: str, reason: str) -> None:
    with pytest.raises(PatternError, match=reason) as caught:
        Patterns(["fine", pattern])
    assert caught.value.pattern == pattern
    assert repr(pattern) in str(caught.value)


@given(
    st.lists(st.one_of(st.text(st.sampled_from("ab/!^[]-:\\*?.#& |~\n\udcff"), max_size=12), st.text()), max_size=4),
    st.binary(),
)
def test_whatever_is_given_is_a_pattern_or_refused_as_one(lines: List[str], path: bytes) -> None:
    try:
        patterns = Patterns(lines)
        patterns.match(path)
        patterns.leave_out(path, True)
        refused = lines[0] if lines else ""
    except PatternError as exc:
        refused = exc.pattern
    assert not lines or refused in lines


def test_what_is_taken_back_counts_for_itself_where_parts_are_selected() -> None:
    patterns = Patterns(["build/", "!build/keep", "!/docs"])
    assert patterns.match(b"build/other")
    assert not patterns.match(b"build/keep")
    assert patterns.leave_out(b"build/keep")  # no walk comes there
    assert patterns.leave_out(b"docs/build/x")
    assert not patterns.leave_out(b"docs/x")
