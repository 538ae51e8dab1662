"""Diffs between snapshots, with directories, and of the lines of a file."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Callable, Dict, List, Tuple

import pytest
from conftest import NOBODY, EveryEvent, age, as_nobody, noise, write
from trees import make_every_kind, needs_root, program

from backuptool import Diff, PathNotFoundError, PatternError, ProgressEvent, Repository, SourceError, WrongKindError
from backuptool.operations.looking.compare import CompareOptions, compare


def shown(diff: Diff) -> Dict[str, Tuple[object, ...]]:
    """What differs by path, but for directories in which nothing but the time does."""
    return {
        difference.path: (difference.status, *difference.changes)
        for difference in diff
        if not (difference.changes == ("mtime",) and difference.new and difference.new.kind == "directory")
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    write(root / "kept", b"kept")
    write(root / "sub" / "gone", b"12345")
    write(root / "sub" / "changed", b"before")
    write(root / "sub" / "renamed", b"renamed")
    write(root / "sub-2" / "file", b"file")
    return root


def change(root: Path) -> None:
    (root / "sub" / "gone").unlink()
    write(root / "sub" / "changed", b"behind it")
    (root / "sub" / "renamed").rename(root / "new name")
    write(root / "added", b"123")
    (root / "sub-2").rename(root / "sub-3")


# Between snapshots. The model in test_reading_model compares all pairs; here are the figures, and other sources.


@pytest.mark.both
def test_a_diff_adds_up(repo: Repository, source: Path) -> None:
    repo.snapshot(source)
    change(source)
    repo.snapshot(source)
    diff = repo.diff(1, 2)
    assert shown(diff) == {
        "added": ("added",),
        "new name": ("moved",),
        "sub-3": ("moved",),
        "sub-3/file": ("moved",),
        "sub/changed": ("changed", "content", "mtime"),
        "sub/gone": ("removed",),
    }
    assert (diff.added_files, diff.removed_files, diff.changed_files, diff.moved_files) == (1, 1, 1, 2)
    assert (diff.added_bytes, diff.removed_bytes, diff.changed_bytes) == (3, 5, 9)
    assert diff.changed_directories == 3
    assert not diff.identical
    assert list(repo.iter_diff(1, 2)) == list(diff)
    back = repo.diff(2, 1)
    assert (back.added_files, back.removed_files, back.changed_files, back.moved_files) == (1, 1, 1, 2)
    assert (back.added_bytes, back.removed_bytes, back.changed_bytes) == (5, 3, 6)
    assert repo.diff(2, 2).identical
    assert diff.old.id == 1
    assert repo.diff(1) == diff


def test_a_diff_may_be_restricted_to_a_path(repo: Repository, source: Path) -> None:
    repo.snapshot(source)
    change(source)
    repo.snapshot(source)
    for path in ("sub", source / "sub", "sub/"):
        found = repo.diff(1, 2, path=path)
        assert list(shown(found)) == ["sub/changed", "sub/gone", "sub/renamed"]
        assert found.path == "sub"
    assert list(shown(repo.diff(1, 2, path="added"))) == ["added"]
    assert list(shown(repo.diff(1, 2, path="sub-2"))) == ["sub-2", "sub-2/file"]
    with pytest.raises(PathNotFoundError):
        repo.diff(1, 2, path="nothing")


def test_a_diff_costs_what_changed_and_reads_no_packs(repo: Repository, tmp_path: Path) -> None:
    counts = []
    for files in (20, 400):
        root = tmp_path / str(files)
        for number in range(files):
            write(root / f"{number}", b"%d" % number)
        first = repo.snapshot(root).snapshot.id
        write(root / "3", b"changed")
        second = repo.snapshot(root).snapshot.id
        statements: List[str] = []
        with repo._pool.reading() as database:
            database.trace(statements.append)
        assert len(shown(repo.diff(first, second))) == 1
        with repo._pool.reading() as database:
            database.trace(None)
        assert not [each for each in statements if "packs" in each]
        counts.append(len(statements))
    assert counts[0] == counts[1]


def test_the_indexes_answer_what_began_and_what_ended(repo: Repository, source: Path) -> None:
    """Without them each diff would sweep over all versions."""
    repo.snapshot(source)
    repo.snapshot(source)
    statements: List[str] = []
    with repo._pool.reading() as database:
        database.trace(statements.append)
    repo.diff(1, 2)
    with repo._pool.reading() as database:
        database.trace(None)
        plans = [
            str(database.query(f"EXPLAIN QUERY PLAN {statement}", (1, 1, 2, 1) if "?" in statement else ()))
            for statement in statements
            if "FROM files AS f WHERE" in statement
        ]
    assert [re.findall(r"INDEX (\w+) \(source=\?", plan) for plan in plans] == [["files_last"], ["files_first"]]


def test_what_many_snapshots_changed_and_changed_back_is_no_difference(repo: Repository, source: Path) -> None:
    repo.snapshot(source)
    status = (source / "kept").stat()
    write(source / "kept", b"xxxx")
    repo.snapshot(source)
    write(source / "kept", b"kept")
    os.utime(source / "kept", ns=(status.st_mtime_ns,) * 2)
    repo.snapshot(source)
    assert list(shown(repo.diff(1, 2))) == ["kept"]
    assert shown(repo.diff(1, 3)) == {}


def test_snapshots_of_different_sources_are_compared_as_trees(repo: Repository, source: Path, tmp_path: Path) -> None:
    shutil.copytree(source, tmp_path / "copy", symlinks=True)
    shutil.copystat(source, tmp_path / "copy")
    os.link(tmp_path / "copy" / "kept", tmp_path / "copy" / "linked")
    os.link(source / "kept", source / "linked")
    repo.snapshot(source)
    repo.snapshot(tmp_path / "copy")
    assert shown(repo.diff(1, 2)) == {}
    change(tmp_path / "copy")
    (tmp_path / "copy" / "linked").unlink()
    shutil.copy2(tmp_path / "copy" / "kept", tmp_path / "copy" / "linked")
    repo.snapshot(tmp_path / "copy")
    diff = repo.diff(1, 3)
    assert shown(diff) == {
        "added": ("added",),
        "linked": ("changed", "links"),
        "new name": ("moved",),
        "sub-2": ("removed",),
        "sub-3": ("added",),
        "sub-3/file": ("moved",),
        "sub/changed": ("changed", "content", "mtime"),
        "sub/gone": ("removed",),
    }
    assert list(repo.iter_diff(1, 3)) == list(diff)
    assert list(shown(repo.diff(1, 3, path="sub"))) == ["sub/changed", "sub/gone", "sub/renamed"]
    assert list(shown(repo.diff(1, 3, path="sub-2"))) == ["sub-2", "sub-2/file"]


def test_every_aspect_has_its_name(repo: Repository, tmp_path: Path) -> None:
    root = tmp_path / "source"
    write(root / "content", b"1")
    write(root / "mode", b"1")
    write(root / "xattrs", b"1")
    write(root / "links", b"1")
    write(root / "kind", b"1")
    (root / "target").symlink_to("one")
    with (root / "holes").open("wb") as file:
        file.truncate(1 << 20)
    age(root / "holes")
    repo.snapshot(root)
    write(root / "content", b"2")
    (root / "mode").chmod(0o600)
    os.setxattr(root / "xattrs", "user.x", b"1")
    os.link(root / "links", root / "links too")
    (root / "kind").unlink()
    (root / "kind").symlink_to("x")
    (root / "target").unlink()
    (root / "target").symlink_to("two")
    stamp = (root / "holes").stat().st_mtime_ns
    (root / "holes").write_bytes(bytes(1 << 20))
    os.utime(root / "holes", ns=(stamp, stamp))
    repo.snapshot(root)
    assert shown(repo.diff(1, 2)) == {
        "content": ("changed", "content", "mtime"),
        "holes": ("changed", "holes"),
        "kind": ("changed", "kind"),
        "links": ("changed", "links"),
        "links too": ("added",),
        "mode": ("changed", "mode"),
        "target": ("changed", "target", "mtime"),
        "xattrs": ("changed", "xattrs"),
    }


@needs_root
def test_owners_and_devices_are_aspects(repo: Repository, tmp_path: Path) -> None:
    root = tmp_path / "source"
    write(root / "owner", b"1")
    os.mknod(root / "device", 0o020600, os.makedev(1, 3))
    repo.snapshot(root)
    os.chown(root / "owner", 1, 1)
    (root / "device").unlink()
    os.mknod(root / "device", 0o020600, os.makedev(1, 5))
    repo.snapshot(root)
    assert shown(repo.diff(1, 2)) == {"owner": ("changed", "owner"), "device": ("changed", "device", "mtime")}


# With a directory.


def test_a_restored_copy_is_identical(repo: Repository, tmp_path: Path) -> None:
    make_every_kind(tmp_path / "source")
    repo.snapshot(tmp_path / "source", max_file_size=None)
    repo.restore(1, tmp_path / "out")
    for directory in (tmp_path / "source", tmp_path / "out"):
        compared = repo.compare(1, directory)
        assert (compared.differences, compared.problems) == ((), ())
        assert compared.identical
        assert compared.read_files > 50
        assert repo.compare(1, directory, content=False).read_files == 0
        assert repo.compare(1, directory, content=False).identical
    assert os.fsencode(compared.directory or "") == os.fsencode(tmp_path / "out")


@pytest.mark.both
def test_a_directory_differs_as_its_next_snapshot_would(repo: Repository, source: Path) -> None:
    repo.snapshot(source)
    change(source)
    compared = repo.compare(1, source)
    repo.snapshot(source)
    expected = shown(repo.diff(1, 2))
    # Inodes tell that a directory moved; with another tree there are bytes alone.
    assert shown(compared) == {**expected, "sub-3": ("added",), "sub-2": ("removed",)}
    assert repo.compare("latest", source).identical
    assert shown(repo.compare(1, source, content=False))["new name"] == ("added",)


def test_bytes_that_changed_behind_the_back_of_size_and_time_are_found(repo: Repository, source: Path) -> None:
    repo.snapshot(source)
    stamp = (source / "kept").stat().st_mtime_ns
    (source / "kept").write_bytes(b"kepT")
    os.utime(source / "kept", ns=(stamp, stamp))
    assert shown(repo.compare(1, source)) == {"kept": ("changed", "content")}
    assert shown(repo.compare(1, source, content=False)) == {}


def test_what_is_excluded_is_compared_on_neither_side(repo: Repository, source: Path) -> None:
    repo.snapshot(source, exclude=["*.tmp"])
    write(source / "x.tmp", b"")
    write(source / "sub" / "gone", b"other")
    (source / "sub-2" / "file").unlink()
    assert list(shown(repo.compare(1, source, exclude=["*.tmp", "/sub-2/"]))) == ["sub/gone"]
    assert list(shown(repo.compare(1, source))) == ["sub-2/file", "sub/gone", "x.tmp"]
    with pytest.raises(PatternError):
        repo.compare(1, source, exclude=["!"])


def test_the_repository_itself_is_no_difference(tmp_path: Path) -> None:
    write(tmp_path / "source" / "a", b"a")
    with Repository(tmp_path / "source" / "backups.db") as repo:
        repo.snapshot(tmp_path / "source")
        assert shown(repo.compare(1, tmp_path / "source")) == {}


def test_a_directory_that_is_missing_is_an_error(repo: Repository, source: Path) -> None:
    repo.snapshot(source)
    with pytest.raises(SourceError):
        repo.compare(1, source / "nothing")


@needs_root
def test_what_cannot_be_read_is_a_problem_and_no_difference(public_path: Path) -> None:
    root = public_path / "source"
    write(root / "secret", b"secret")
    write(root / "open", b"open")
    write(root / "closed" / "inside", b"inside")
    with Repository(public_path / "backups.db") as repo:
        repo.snapshot(root)
    for path in (public_path / "backups.db", root / "open", root / "secret", root / "closed" / "inside"):
        os.chown(path, NOBODY, NOBODY)
    (root / "secret").chmod(0)
    (root / "closed").chmod(0)

    def compare() -> Tuple[List[Tuple[str, str]], List[str]]:
        with Repository(public_path / "backups.db") as repo:
            compared = repo.compare(1, root)
        assert not compared.identical
        return [(problem.kind, problem.path) for problem in compared.problems], list(shown(compared))

    problems, differing = as_nobody(compare)
    assert sorted(problems) == [("unreadable", "closed"), ("unreadable", "secret")]
    assert "closed/inside" not in differing
    assert "secret" not in differing


def test_a_file_that_changes_while_it_is_read_is_a_problem(
    repo: Repository, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.snapshot(source)
    read = os.read

    def touched(descriptor: int, size: int) -> bytes:
        data = read(descriptor, size)
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("/kept"):
            age(source / "kept")
        return data

    monkeypatch.setattr(os, "read", touched)
    compared = repo.compare(1, source)
    assert [(problem.kind, problem.path) for problem in compared.problems] == [("changed-while-read", "kept")]


def compare_watched(repo: Repository, directory: Path, callback: Callable[[ProgressEvent], object]) -> Diff:
    """Compare with snapshot 1, and call back before each single entry is looked at."""
    with repo._pool.reading() as database:
        options = CompareOptions(directory=os.fsencode(directory))
        return compare(database, 1, options, EveryEvent(callback))


def test_what_changes_between_listing_and_reading_is_handled_as_by_a_snapshot(repo: Repository, source: Path) -> None:
    (source / "link").symlink_to("kept")
    repo.snapshot(source)

    def change_beside(event: ProgressEvent) -> None:
        path = source / event.path
        if event.path in ("kept", "link", "sub/changed", "sub/gone"):
            path.unlink()
        if event.path == "kept":
            os.mkfifo(path)
        if event.path in ("link", "sub/changed"):
            path.mkdir()

    compared = compare_watched(repo, source, change_beside)
    assert [(problem.kind, problem.path) for problem in compared.problems] == [
        ("changed-kind", "kept"),
        ("changed-kind", "link"),
        ("changed-kind", "sub/changed"),
    ]
    assert shown(compared) == {"sub/gone": ("removed",)}


def test_a_comparison_tells_where_it_is(repo: Repository, source: Path) -> None:
    repo.snapshot(source)
    events: List[Tuple[str, int]] = []
    repo.compare(1, source, progress=lambda event: events.append((event.phase, event.done_files)))
    assert events[0] == ("compare", 1)
    assert events[-1] == ("compare", 8)


# Lines.


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"a\nb\nc\n", b"a\nB\nc\n"),
        (b"a\n", b"a"),
        (b"a", b"a\n"),
        (b"", b"a\nb\n"),
        (b"a\nb\n", b""),
        (
            b"".join(b"%d\n" % n for n in range(100)),
            b"".join(b"%d\n" % n for n in range(100) if n not in (3, 50, 51, 99)),
        ),
        (b"".join(b"%d\n" % (n % 7) for n in range(90)), b"".join(b"%d\n" % (n % 7) for n in range(3, 95))),
        (b"same\n" * 20, b"same\n" * 21),
        (b"tab\tand \\ \xff\r\n", b"tab\tand \\ \xfe\r\n\x0c"),
    ],
)
def test_patch_makes_the_new_version_of_the_old_one(repo: Repository, tmp_path: Path, old: bytes, new: bytes) -> None:
    patch = program("patch")
    write(tmp_path / "source" / "file", old)
    repo.snapshot(tmp_path / "source")
    write(tmp_path / "source" / "file", new)
    repo.snapshot(tmp_path / "source")
    text = repo.text_diff(1, 2, "file")
    assert text.startswith("--- 1/file\n+++ 2/file\n@@ ")
    target = write(tmp_path / "patched", old)
    done = subprocess.run(
        [patch, "--binary", "--silent", str(target)], input=os.fsencode(text), stdout=subprocess.PIPE, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"")
    assert (target.read_bytes() if target.exists() else b"") == new


@pytest.mark.parametrize(
    ("name", "heading"),
    [
        (b"plain", "1/plain"),
        ("\u00fcml\u00e4ut".encode(), "1/\u00fcml\u00e4ut"),
        (b"not utf-8 \xff", "1/not utf-8 \udcff\t"),
        (b"two words", "1/two words\t"),
        (b" begins", "1/ begins\t"),
        (b"in front/of it", "1/in front/of it\t"),
        (b"ends ", '"1/ends "\t'),
        (b"a\ttab", r'"1/a\ttab"'),
        (b"a tab\tand 2020-01-01 00:00:00", '"1/a tab\\tand 2020-01-01 00:00:00"\t'),
        (b"a\nline", r'"1/a\nline"'),
        (b"\a\b\v\f\r\x01\x7f", r'"1/\a\b\v\f\r\001\177"'),
        (b'a "quote"', '"1/a \\"quote\\""\t'),
        (b"back\\slash", r'"1/back\\slash"'),
        (b"dev/null", "1/dev/null"),
    ],
)
def test_patch_finds_the_file_whatever_its_name(repo: Repository, tmp_path: Path, name: bytes, heading: str) -> None:
    patch = program("patch")
    path = tmp_path / "source" / os.fsdecode(name)
    write(path, b"1\n")
    repo.snapshot(tmp_path / "source")
    write(path, b"2\n")
    repo.snapshot(tmp_path / "source")
    path.unlink()
    repo.snapshot(tmp_path / "source")
    text = repo.text_diff(1, 2, os.fsdecode(name))
    assert text.split("\n")[0] == f"--- {heading}"
    for old, new, has in [(None, 1, b"1\n"), (1, 2, b"2\n"), (2, 3, None)]:  # it is made, changed and removed
        text = repo.text_diff(old or 3, new, os.fsdecode(name))
        done = subprocess.run(
            [patch, "--silent", "-p1"],
            input=os.fsencode(text),
            cwd=tmp_path / "source",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, b"")
        assert has == (path.read_bytes() if path.exists() else None)


@pytest.mark.parametrize(("name", "quoted"), [("a\nname", r'"%d/a\nname"'), ("two words", "%d/two words")])
def test_a_line_that_says_two_files_differ_is_one_line(
    repo: Repository, tmp_path: Path, name: str, quoted: str
) -> None:
    for content in (b"1\0", b"2\0"):
        write(tmp_path / "source" / name, content)
        repo.snapshot(tmp_path / "source")
    assert repo.text_diff(1, 2, name) == f"Binary files {quoted % 1} and {quoted % 2} differ\n"


def test_a_text_diff_is_what_diff_prints(repo: Repository, tmp_path: Path) -> None:
    old = write(tmp_path / "source" / "file", b"".join(b"%d\n" % n for n in range(40)))
    repo.snapshot(tmp_path / "source")
    shutil.copy(old, tmp_path / "old")
    write(old, b"".join(b"%d\n" % n for n in range(-2, 40) if n != 20))
    repo.snapshot(tmp_path / "source")
    done = subprocess.run(
        [program("diff"), "--unified=3", "--label=1/file", str(tmp_path / "old"), "--label=2/file", str(old)],
        stdout=subprocess.PIPE,
        check=False,
    )
    assert repo.text_diff(1, None, "file") == done.stdout.decode()


def test_what_has_no_lines_is_said_to_differ(repo: Repository, tmp_path: Path) -> None:
    root = tmp_path / "source"
    write(root / "binary", noise(5000) + b"\0")
    write(root / "large", b"line\n" * 1000)
    write(root / "gone", b"gone\n")
    write(root / "same", b"same\n")
    (root / "dir").mkdir()
    repo.snapshot(root)
    write(root / "binary", noise(5000, 1) + b"\0")
    write(root / "large", b"line\n" * 1001)
    (root / "gone").unlink()
    write(root / "same", b"same\n")
    repo.snapshot(root)
    assert repo.text_diff(1, 2, "binary") == "Binary files 1/binary and 2/binary differ\n"
    assert repo.text_diff(1, 2, "large", max_bytes=5000).startswith("Files 1/large and 2/large differ")
    assert repo.text_diff(1, 2, "large", context=0).splitlines()[2] == "@@ -1000,0 +1001 @@"
    assert repo.text_diff(1, 2, "gone") == "--- 1/gone\n+++ /dev/null\n@@ -1 +0,0 @@\n-gone\n"
    assert repo.text_diff(2, 1, "gone") == "--- /dev/null\n+++ 1/gone\n@@ -0,0 +1 @@\n+gone\n"
    assert repo.text_diff(1, 2, "same") == ""
    with pytest.raises(PathNotFoundError):
        repo.text_diff(1, 2, "nothing")
    with pytest.raises(WrongKindError):
        repo.text_diff(1, 2, "dir")
