from __future__ import annotations

import datetime
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Dict, List, Tuple, Union

import pytest
from conftest import OLD_NS, SECOND_NS, noise, sql, write

from backuptool import (
    BackuptoolError,
    FindResult,
    History,
    PathNotFoundError,
    PatternError,
    Repository,
    SnapshotNotFoundError,
)
from backuptool.operations.looking.globs import Glob

# History. What changes in which snapshot, the model in test_reading_model knows; here is what it does not come across.


def events(history: History) -> List[Tuple[object, ...]]:
    return [(version.first, version.last, version.event, *version.changes) for version in history]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write(tmp_path / "source" / "a.txt", b"first")
    return tmp_path / "source"


def test_what_came_between_two_equal_versions_and_was_pruned_leaves_one_version(repo: Repository, source: Path) -> None:
    status = (source / "a.txt").stat()
    repo.snapshot(source)
    (source / "a.txt").rename(source / "b.txt")
    repo.snapshot(source)
    (source / "b.txt").rename(source / "a.txt")
    repo.snapshot(source)
    assert (source / "a.txt").stat().st_mtime_ns == status.st_mtime_ns
    assert events(repo.history("a.txt")) == [(1, 1, "came"), (3, 3, "came-back")]
    repo.prune(2)
    assert events(repo.history("a.txt")) == [(1, 3, "came")]
    assert "a.txt" not in {difference.path for difference in repo.diff(1, 3)}


def test_a_copy_that_is_removed_is_no_move_of_what_stays(repo: Repository, source: Path) -> None:
    shutil.copy2(source / "a.txt", source / "copy.txt")
    repo.snapshot(source)
    (source / "copy.txt").unlink()
    (source / "a.txt").chmod(0o600)
    repo.snapshot(source)
    first, second = repo.history("a.txt")
    assert (first.moved_to, second.moved_from, second.changes) == ((), (), ("mode",))
    (copy,) = repo.history("copy.txt")
    assert (copy.removed_in, copy.moved_to) == (2, ())


@pytest.mark.both
def test_rotated_files_come_from_each_other(repo: Repository, source: Path) -> None:
    for number in (1, 2):
        write(source / f"log.{number}", b"log %d" % number)
    repo.snapshot(source)
    (source / "log.2").rename(source / "log.3")
    (source / "log.1").rename(source / "log.2")
    repo.snapshot(source)
    assert [version.moved_from for version in repo.history("log.2")] == [(), ("log.1",)]
    assert [version.moved_to for version in repo.history("log.2")] == [("log.3",), ()]
    assert [version.moved_from for version in repo.history("log.3")] == [("log.2",)]


def test_a_path_may_be_one_of_this_machine(
    repo: Repository, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.snapshot(source)
    (tmp_path / "link").symlink_to(source)
    monkeypatch.setenv("HOME", str(tmp_path))
    paths: List[Union[str, bytes, Path]] = [source / "a.txt", "./a.txt", b"a.txt", "x/../a.txt"]
    paths += [f"{source}//a.txt", tmp_path / "link" / "a.txt"]
    for path in [*paths, "~/source/a.txt"]:
        assert events(repo.history(path)) == [(1, 1, "came")], path
    assert events(repo.history(source)) == events(repo.history(".")) == [(1, 1, "came")]
    with pytest.raises(PathNotFoundError, match=rf"is in no directory that was saved; saved were: .*:{source}$"):
        repo.history("/etc/passwd")


def test_a_path_that_was_never_there_is_told(repo: Repository, source: Path) -> None:
    repo.snapshot(source)
    history = repo.history("nothing")
    assert (len(history), [problem.kind for problem in history.problems]) == (0, ["nothing-found"])


def test_sources_and_hosts_are_told_apart(repo: Repository, source: Path, tmp_path: Path) -> None:
    write(tmp_path / "other" / "a.txt", b"of the other")
    repo.snapshot(source, host="one")
    repo.snapshot(source, host="two")
    repo.snapshot(tmp_path / "other", host="two")

    def found(result: History | FindResult) -> List[Tuple[str, str, int]]:
        return [(version.host, os.path.basename(version.source), version.first) for version in result]

    everything = [("one", "source", 1), ("two", "source", 2), ("two", "other", 3)]
    assert found(repo.history("a.txt")) == found(repo.find("a.txt")) == everything
    choices: List[Dict[str, Any]] = [{"source": source}, {"host": "two"}, {"source": source, "host": "two"}]
    for options in choices:
        wanted = [
            each
            for each in everything
            if ("source" not in options or each[1] == "source") and ("host" not in options or each[0] == "two")
        ]
        assert found(repo.history("a.txt", **options)) == found(repo.find("a.txt", **options)) == wanted


def test_a_history_asks_as_often_for_many_snapshots_as_for_few(repo: Repository, source: Path) -> None:
    counts: List[int] = []
    for _ in range(2):
        for _ in range(3):
            write(source / "other", noise(50, len(counts)))
            repo.snapshot(source)
        statements: List[str] = []
        with repo._pool.reading() as database:
            database.trace(statements.append)
        assert len(repo.history("a.txt")) == 1
        with repo._pool.reading() as database:
            database.trace(None)
        counts.append(len(statements))
    assert counts[0] == counts[1] < 12


def test_a_damaged_row_is_a_problem_and_the_rest_is_told(repo: Repository, source: Path) -> None:
    repo.snapshot(source)
    write(source / "a.txt", b"second")
    repo.snapshot(source)
    repo.close()
    sql(repo.path, "UPDATE files SET mode = 'x' WHERE path = 'a.txt' AND first = 2")
    history = repo.history("a.txt")
    assert events(history) == [(1, 1, "came")]
    assert [problem.kind for problem in history.problems] == ["catalog-corrupt"]
    found = repo.find("a.txt")
    assert ([version.first for version in found], len(found.problems)) == ([1], 1)
    listing = repo.ls(2)
    assert ([entry.path for entry in listing], len(listing.problems)) == ([], 1)
    diff = repo.diff(1, 2)
    assert ([d.path for d in diff if d.path], [problem.kind for problem in diff.problems]) == ([], ["catalog-corrupt"])
    assert [problem.kind for problem in repo.compare(2, source).problems] == ["catalog-corrupt"]
    sql(repo.path, "UPDATE files SET mode = 0, kind = 'z' WHERE path = 'a.txt' AND first = 2")
    found = repo.find("a.txt")
    assert ([version.first for version in found], len(found.problems)) == ([1], 1)
    assert [problem.kind for problem in repo.history("a.txt").problems] == ["catalog-corrupt"]
    sql(repo.path, "UPDATE files SET mode = 'x', kind = 'f' WHERE path = 'a.txt' AND first = 2")
    for fails in (
        *(lambda: list(repo.walk(2)), lambda: list(repo.iter_diff(1, 2)), lambda: repo.open(2, "a.txt")),
        lambda: repo.text_diff(1, 2, "a.txt"),
    ):
        with pytest.raises(BackuptoolError, match=r"the row of a\.txt in the catalog is damaged"):
            fails()


# Naming snapshots.


def test_the_newest_of_a_source_has_a_name(repo: Repository, source: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write(other / "a.txt", b"of the other")
    for directory, host in ((source, "one"), (source, "one"), (other, "one"), (source, "two"), (other, "two")):
        repo.snapshot(directory, host=host)

    for name, number in (
        ("latest", 5),
        ("latest~1", 0),
        (f"latest:{source}", 4),
        (f"latest:one:{source}", 2),
        (f"latest~1:one:{source}", 1),
        (f"latest:{other}", 5),
        (f"latest:one:{other}", 3),
        ("2", 2),
    ):
        if number:
            assert repo.tree(name).snapshot.id == number, name
            assert repo.restore(name, tmp_path / "out", dry_run=True).snapshot.id == number
            assert repo.ls(repo.list()[number - 1]).snapshot.id == number
        else:
            with pytest.raises(SnapshotNotFoundError):
                repo.tree(name)
    for name in ("latest~", "latest~x", "latest:", "oldest", "-1", "latest:/nowhere", f"latest:three:{source}"):
        with pytest.raises(SnapshotNotFoundError, match="there are: 1, 2, 3, 4, 5"):
            repo.tree(name)


def test_a_source_may_be_named_as_the_shell_does(
    repo: Repository, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.snapshot(source)
    write(tmp_path / "other" / "x", b"")
    repo.snapshot(tmp_path / "other")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("latest:source", "latest:./source/", "latest:~/source", "latest:other/../source"):
        assert repo.tree(name).snapshot.id == 1


def test_a_source_that_is_no_directory_has_its_name(repo: Repository, tmp_path: Path) -> None:
    source = write(tmp_path / "source" / "a.txt", b"a").parent
    repo.snapshot(source)
    with (tmp_path / "tree.tar").open("wb") as stream:
        repo.export_tar(1, stream)
    repo.import_tar(tmp_path / "tree.tar", source="photos", host="laptop")
    for name in ("latest:photos", "latest:laptop:photos", "latest"):
        assert repo.tree(name).snapshot.id == 2
    assert [version.first for version in repo.history("a.txt", source="photos")] == [2]
    assert repo.find("a.txt", source="photos", host="laptop").paths == ("a.txt",)
    with repo.open("latest:photos", "a.txt") as file:
        assert file.read() == b"a"
    assert repo.diff(1, 2).changed_files == repo.diff(1, 2).added_files == 0


# Finding.


@pytest.mark.parametrize(
    ("options", "paths"),
    [
        ({"name": "*.txt"}, "a.txt b/a.txt b/c/ä.txt"),
        ({"name": "?.txt"}, "a.txt b/a.txt b/c/ä.txt"),
        ({"name": "b"}, "b"),
        ({"name": "b*"}, "b b.d"),
        ({"name": "[!a].txt"}, "b/c/ä.txt"),
        ({"name": "[[]x]*"}, "b.d/[x]"),
        ({"path": "b/*"}, "b/a.txt b/c"),
        ({"path": "/b/**"}, "b/a.txt b/c b/c/large b/c/ä.txt"),
        ({"path": "**/a.txt"}, "a.txt b/a.txt"),
        ({"path": "b/**/a.txt"}, "b/a.txt"),
        ({"path": "**/c/*"}, "b/c/large b/c/ä.txt"),
        ({"path": "**"}, ". a.txt b b.d b.d/[x] b/a.txt b/c b/c/large b/c/ä.txt"),
        ({"regex": "^b/.*t$"}, "b/a.txt b/c/ä.txt"),
        ({"regex": r"\[x"}, "b.d/[x]"),
        ({"name": "*.txt", "regex": "^b", "path": "b/a*"}, "b/a.txt"),
        ({"kind": "directory"}, ". b b.d b/c"),
        ({"kind": "symlink"}, "b.d/[x]"),
        ({"larger_than": 1}, "b/c/large"),
        ({"larger_than": 0, "smaller_than": 2}, "a.txt b/a.txt b/c/ä.txt"),
        ({"smaller_than": 1}, ""),
        ({"name": "*", "limit": 2}, "a.txt ."),
        ({"newer": OLD_NS + 5 * SECOND_NS, "kind": "file"}, "b/c/large"),
        ({"older": datetime.datetime.fromtimestamp(OLD_NS // SECOND_NS), "kind": "file"}, "a.txt"),
        ({"sha256": "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"}, "a.txt b/a.txt"),
        ({"sha256": bytes(32)}, ""),
        ({"source": "/nowhere"}, ""),
    ],
)
@pytest.mark.both
def test_a_search_finds_exactly_what_is_asked_for(
    repo: Repository, tmp_path: Path, options: dict[str, object], paths: str
) -> None:
    source = tmp_path / "source"
    for path, data, age in (("a.txt", b"a", 0), ("b/a.txt", b"a", 1), ("b/c/ä.txt", b"c", 2), ("b/c/large", b"12", 9)):
        os.utime(write(source / path, data), ns=(OLD_NS + age * SECOND_NS,) * 2)
    (source / "b.d").mkdir()
    (source / "b.d" / "[x]").symlink_to("nowhere")
    repo.snapshot(source)
    found = repo.find(**options)  # type: ignore[arg-type]
    assert sorted(path or "." for path in found.paths) == sorted(paths.split())
    assert found.limited == ("limit" in options)


def test_a_search_may_be_restricted_to_a_snapshot(repo: Repository, source: Path, tmp_path: Path) -> None:
    repo.snapshot(source)
    write(source / "b.txt", b"second")
    (source / "a.txt").unlink()
    repo.snapshot(source)
    repo.snapshot(write(tmp_path / "other" / "c.txt", b"of the other").parent)
    assert [repo.find("*.txt", snapshot=number).paths for number in (1, 2, 3)] == [("a.txt",), ("b.txt",), ("c.txt",)]
    assert repo.find(snapshot="latest~0", source=source).paths == ()
    assert len(repo.find("*.txt", limit=3)) == 3
    assert not repo.find("*.txt", limit=3).limited
    assert repo.find("*.txt", limit=0).limited


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"name": "a/b"}, PatternError),
        ({"name": ""}, PatternError),
        ({"path": "[z-a]"}, PatternError),
        ({"regex": "("}, PatternError),
        ({"kind": "folder"}, ValueError),
        ({"sha256": "abc"}, ValueError),
        ({"sha256": "ab"}, ValueError),
        ({"snapshot": 9}, SnapshotNotFoundError),
    ],
)
def test_what_cannot_be_searched_for_is_an_error(
    repo: Repository, source: Path, options: dict[str, object], error: type[Exception]
) -> None:
    repo.snapshot(source)
    with pytest.raises(error):
        repo.find(**options)  # type: ignore[arg-type]


def test_a_search_goes_through_more_pages_than_one(
    repo: Repository, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backuptool.storage.versions._SWEPT", 3)
    monkeypatch.setattr("backuptool.storage.versions._FETCHED", 2)
    for number in range(7):
        write(source / "a.txt", b"%d" % number)
        write(source / f"{number}.txt", b"%d" % number)
        repo.snapshot(source)
    assert len(repo.find("a.txt")) == 7
    assert len(repo.find("*.txt")) == 14
    assert repo.find("[0-9].txt").paths == tuple(f"{number}.txt" for number in range(7))


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("[a-c]", "abc"),
        ("[a-]", "a-"),
        ("[-a]", "-a"),
        ("[--9]", "-.0123456789"),  # from "-" to "9", and never a slash
        ("[+--]", "+,-"),
        ("[a-c-e]", "abc-e"),
        ("[&&~~||]", "&|~"),
        ("[!a-y]", "+,-.0123456789&|~zé"),
        ("[]a]", "a]"),
        ("[\\d]", "d\\"),
    ],
)
def test_a_set_in_a_pattern_holds_the_characters_and_ranges_it_names(pattern: str, matched: str) -> None:
    letters = "+,-./0123456789&|~abcdez\\]^é" if pattern[1] != "!" else "+,-./0123456789&|~abcyzé"
    assert sorted(matched) == sorted(letter for letter in letters if Glob(pattern).matches(letter))


@pytest.mark.parametrize("pattern", ["[?--]", "[z-a]", "[9--]"])
def test_a_range_from_its_end_to_its_beginning_is_an_error(pattern: str) -> None:
    with pytest.raises(PatternError, match="bad character range"):
        Glob(pattern)


def test_what_sqlite_sweeps_with_lets_everything_through_that_a_glob_matches() -> None:
    hypothesis = pytest.importorskip("hypothesis")
    strategies = pytest.importorskip("hypothesis.strategies")
    letters = strategies.text(strategies.sampled_from("ab/.*?[]!-é\udcff"), min_size=1, max_size=8)

    with closing(sqlite3.connect(":memory:")) as database:

        def holds(pattern: str, path: str, name: bool) -> None:
            try:
                glob = Glob(pattern, name=name)
            except PatternError:
                return
            if glob.matches(path):
                data = os.fsencode(path)
                sql = "SELECT max(CAST(? AS TEXT) GLOB CAST(column1 AS TEXT)) FROM (VALUES (?), (?), (?))"
                patterns = (*glob.sweep, *glob.sweep, *glob.sweep)[:3]
                assert database.execute(sql, (data, *patterns)).fetchone() == (1,)

        test = hypothesis.given(letters, letters, strategies.booleans())(holds)
        hypothesis.settings(max_examples=150, deadline=None, database=None)(test)()
