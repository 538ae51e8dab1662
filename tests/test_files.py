"""Files that are given one by one: from memory, from streams, by path; and on the command line from standard input."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional

import pytest
from conftest import Clock, noise, sql, write
from properties import HealthCheck, given, settings, st
from trees import contents

from backuptool import Repository, SourceError
from backuptool.operations.snapshot import directory as snapshot_operation

MIB = 1 << 20


class Drip(io.RawIOBase):
    """A stream that is read once and gives a little at a time, as a pipe does; it counts what it is asked for."""

    def __init__(self, data: bytes, most: int = 50_000) -> None:
        self._data = io.BytesIO(data)
        self._most = most
        self.largest = 0

    def read(self, size: int = -1) -> bytes:
        self.largest = max(self.largest, size)
        return self._data.read(min(size, self._most))


def given_back(repo: Repository, number: int, out: Path) -> Dict[str, bytes]:
    assert repo.restore(number, out, verify=True).problems == ()
    return contents(out)


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 5 * MIB + 12345])
@pytest.mark.both
def test_bytes_streams_and_files_come_back_as_they_were(repo: Repository, tmp_path: Path, size: int) -> None:
    data = noise(size)
    path = write(tmp_path / "given", data, mode=0o640)
    files: Dict[str, Any] = {
        "bytes": data,
        "view": memoryview(bytearray(data)),
        "a/b/stream": Drip(data),
        "a/file": io.BytesIO(data),
        "path": path,
        "text path": str(path),
    }
    result = repo.snapshot_files(files, name="mixed", note="given", tags=["t"])
    assert (result.new_files, result.problems, result.read_bytes) == (6, (), 6 * size)
    assert (result.snapshot.source, result.snapshot.note, result.snapshot.tags) == ("files:mixed", "given", ("t",))
    assert result.new_bytes <= size
    assert given_back(repo, 1, tmp_path / "out") == dict.fromkeys(files, data)
    assert repo.check().problems == ()


def test_a_file_is_kept_as_a_directory_would_keep_it(repo: Repository, tmp_path: Path) -> None:
    """The same contents, cut at the same places: nothing is stored twice."""
    for number, size in enumerate((10, 3 * MIB, MIB)):
        write(tmp_path / "tree" / str(number), noise(size, number))
    repo.snapshot(tmp_path / "tree")
    result = repo.snapshot_files(
        {str(number): Drip(noise(size, number)) for number, size in enumerate((10, 3 * MIB, MIB))}, name="same"
    )
    assert (result.new_bytes, result.stored_bytes) == (0, 0)


def test_the_same_bytes_again_add_nothing_and_a_change_adds_little(repo: Repository) -> None:
    data = noise(4 * MIB)
    first = repo.snapshot_files({"dump": Drip(data), "small": b"small"}, name="nightly")
    rows = sql(repo.path, "SELECT count(*) FROM files")
    again = repo.snapshot_files({"dump": Drip(data), "small": b"small"}, name="nightly")
    assert (again.unchanged_files, again.changed_files, again.new_bytes) == (2, 0, 0)
    assert sql(repo.path, "SELECT count(*) FROM files") == rows
    changed = repo.snapshot_files({"dump": Drip(b"inserted" + data), "new": b"new"}, name="nightly")
    assert (changed.changed_files, changed.new_files, changed.removed_files) == (1, 1, 1)
    assert changed.new_bytes < 300_000
    assert first.new_bytes == 4 * MIB + 5
    assert repo.check().problems == ()


def test_memory_does_not_depend_on_the_size_of_a_stream(repo: Repository) -> None:
    stream = Drip(noise(MIB) * 20, most=MIB)
    repo.snapshot_files({"large": stream}, name="large")
    assert stream.largest <= 8 * MIB


def test_sources_of_files_and_of_directories_are_told_apart(repo: Repository, tree: Path, tmp_path: Path) -> None:
    repo.snapshot(tree)
    repo.snapshot_files({"a.txt": b"given"}, name=str(tree))
    repo.snapshot_files({"a.txt": b"given"}, name="tree")
    assert [snapshot.source for snapshot in repo.list()] == [str(tree), f"files:{tree}", "files:tree"]
    assert [snapshot.id for snapshot in repo.list(source="files:tree")] == [3]
    assert [snapshot.id for snapshot in repo.list(source=tree)] == [1]
    assert given_back(repo, 3, tmp_path / "out") == {"a.txt": b"given"}


def test_what_has_no_mode_and_time_gets_those_of_a_private_file(repo: Repository, tmp_path: Path, clock: Clock) -> None:
    before = clock()
    repo.snapshot_files({"d/stream": b"1"}, name="x")
    clock.advance(100)
    repo.snapshot_files({"d/stream": b"1"}, name="x")
    given_back(repo, 2, tmp_path / "out")
    status = (tmp_path / "out" / "d" / "stream").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o600, os.getuid())
    assert before <= status.st_mtime_ns <= before + 50 * 10**9
    assert stat.S_IMODE((tmp_path / "out" / "d").stat().st_mode) == 0o700
    path = write(tmp_path / "file", b"2", mode=0o751)
    repo.snapshot_files({"d/stream": path}, name="x")
    given_back(repo, 3, tmp_path / "again")
    status = (tmp_path / "again" / "d" / "stream").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (0o751, path.stat().st_mtime_ns)


class Broken(io.RawIOBase):
    """A stream that fails behind the first bytes."""

    def __init__(self, error: BaseException) -> None:
        self._error: Optional[BaseException] = None
        self._next = error

    def read(self, size: int = -1) -> bytes:
        if self._error is not None:
            raise self._error
        self._error = self._next
        return b"begin"


def test_a_source_that_fails_leaves_no_snapshot(repo: Repository, tmp_path: Path) -> None:
    repo.snapshot_files({"a": b"a"}, name="x")
    for bad in (tmp_path / "missing", tmp_path, Broken(OSError(5, "Input/output error"))):
        with pytest.raises(SourceError, match="no snapshot was saved"):
            repo.snapshot_files({"a": b"other", "b": bad}, name="x")
    with pytest.raises(ZeroDivisionError):
        repo.snapshot_files({"b": Broken(ZeroDivisionError())}, name="x")
    with pytest.raises(KeyboardInterrupt):
        repo.snapshot_files({"b": Broken(KeyboardInterrupt())}, name="x")
    assert len(repo.list()) == 1
    assert repo.check().problems == ()


def test_text_and_streams_that_do_not_wait_are_refused(repo: Repository) -> None:
    for bad in (io.StringIO("text"), 5, None, [b"list"]):
        with pytest.raises(TypeError, match="must be bytes"):
            repo.snapshot_files({"a": bad}, name="x")  # type: ignore[dict-item]
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    with open(reading, "rb", buffering=0) as stream, pytest.raises(SourceError, match="does not wait"):
        repo.snapshot_files({"a": stream}, name="x")
    os.close(writing)


@pytest.mark.parametrize("path", ["", "/a", "a/", "a//b", ".", "..", "a/../b", "./a", "a\0b"])
def test_a_path_that_leads_elsewhere_is_refused(repo: Repository, path: str) -> None:
    with pytest.raises(ValueError, match="is no path of a file"):
        repo.snapshot_files({path: b"x"}, name="x")
    assert not os.path.exists(repo.path)


def test_names_and_files_must_make_sense(repo: Repository) -> None:
    for files, name, message in (
        ({}, "x", "no files"),
        ({"a": b""}, "", "name of a source"),
        ({"a": b""}, "a\0", "name of a source"),
        ({"a": b"", "a/b": b""}, "x", "would be in it"),
        ({"a": b"", b"a": b""}, "x", "given twice"),
    ):
        with pytest.raises(ValueError, match=message):
            repo.snapshot_files(files, name=name)  # type: ignore[arg-type]


def test_names_need_not_be_utf_8(repo: Repository, tmp_path: Path) -> None:
    odd = os.fsdecode(b"odd-\xff\n")
    result = repo.snapshot_files({odd: b"1", os.fsdecode(b"d\xfe/x"): b"2"}, name=odd)
    assert result.snapshot.source == f"files:{odd}"
    assert given_back(repo, 1, tmp_path / "out") == {odd: b"1", os.fsdecode(b"d\xfe/x"): b"2"}


def test_a_snapshot_of_the_same_name_meanwhile_is_compared_with(repo: Repository, tmp_path: Path) -> None:
    class Meanwhile(Drip):
        done = False

        def read(self, size: int = -1) -> bytes:
            if not self.done:
                self.done = True
                with Repository(repo.path) as other:
                    other.snapshot_files({"a": b"meanwhile", "b": b"b"}, name="x")
            return super().read(size)

    result = repo.snapshot_files({"a": Meanwhile(b"last")}, name="x")
    assert (result.snapshot.id, result.changed_files, result.removed_files) == (2, 1, 1)
    assert given_back(repo, 2, tmp_path / "out") == {"a": b"last"}
    assert repo.check().problems == ()


def test_what_a_prune_takes_meanwhile_is_read_again_where_that_is_possible(repo: Repository, tmp_path: Path) -> None:
    """The snapshot finds contents of another one, which is pruned before it commits."""
    data = noise(3000)

    class Pruning(io.BytesIO):
        def __init__(self, again: bool) -> None:
            super().__init__(b"last")
            self._again = again
            self._pruned = False

        def seekable(self) -> bool:
            return self._again

        def read(self, size: Optional[int] = -1) -> bytes:
            if not self._pruned:
                self._pruned = True
                with Repository(repo.path) as other:
                    other.prune([snapshot.id for snapshot in other.list(source="files:old")])
            return super().read(size)

    from backuptool import RepositoryLockedError

    for again in (True, False):
        repo.snapshot_files({"data": data}, name="old")
        files: Dict[str, Any] = {"a": data, "z": Pruning(again)}
        if again:
            number = repo.snapshot_files(files, name="x").snapshot.id
            assert given_back(repo, number, tmp_path / "out") == {"a": data, "z": b"last"}
            repo.prune(number)
        else:
            with pytest.raises(RepositoryLockedError, match="run it again"):
                repo.snapshot_files(files, name="x")
    assert repo.check().problems == ()


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    steps=st.lists(
        st.dictionaries(
            st.sampled_from(["a", "b", "d/a", "d/b", "d/e/a", "z"]), st.binary(max_size=20), min_size=1, max_size=6
        ),
        min_size=1,
        max_size=5,
    )
)
def test_whatever_is_given_one_after_the_other_each_snapshot_holds_what_it_was_given(
    memory_path: Path, steps: List[Dict[str, bytes]]
) -> None:
    directory = Path(tempfile.mkdtemp(dir=str(memory_path)))
    with Repository(directory / "backups.db") as repo:
        for number, files in enumerate(steps, 1):
            result = repo.snapshot_files(files, name="model")
            before = steps[number - 2] if number > 1 else {}
            assert (result.new_files, result.changed_files, result.unchanged_files, result.removed_files) == (
                len(files.keys() - before.keys()),
                sum(files[name] != before[name] for name in files.keys() & before.keys()),
                sum(files[name] == before[name] for name in files.keys() & before.keys()),
                len(before.keys() - files.keys()),
            )
        for number, files in enumerate(steps, 1):
            assert given_back(repo, number, directory / str(number)) == files
        assert repo.check().problems == ()


# The command line.


def run(*arguments: str, cwd: Path, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(Path(snapshot_operation.__file__).parents[2])}
    return subprocess.run(
        [sys.executable, "-m", "backuptool", *arguments], cwd=str(cwd), input=data, env=environment, capture_output=True
    )


def test_standard_input_is_saved_under_a_name(tmp_path: Path) -> None:
    data = noise(2 * MIB)
    done = run("snapshot", "--stdin", "dumps/db.sql", "--note", "by night", cwd=tmp_path, data=data)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"Snapshot 1 saved: files:dumps/db.sql\n  1 file, 2.0 MiB: 1 new")
    again = run("snapshot", "--stdin", "dumps/db.sql", cwd=tmp_path, data=data)
    assert b"0 new, 0 changed, 1 unchanged" in again.stdout
    with Repository(tmp_path / "backups.db") as repo:
        assert given_back(repo, 2, tmp_path / "out") == {"dumps/db.sql": data}


def test_the_output_of_a_command_is_saved_if_it_succeeds(tmp_path: Path) -> None:
    command = ("--", "sh", "-c", 'echo "$@"; echo told >&2', "name", "a", "--", "--b")
    done = run("snapshot", "--stdin", "out.txt", *command, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"told\n")
    with Repository(tmp_path / "backups.db") as repo:
        assert given_back(repo, 1, tmp_path / "out") == {"out.txt": b"a -- --b\n"}


def test_a_directory_behind_stdin_is_no_command(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    for words in (["home"], ["--", "home"], ["./home"]):
        done = run("snapshot", "--stdin", "x", *words, cwd=tmp_path)
        assert done.returncode == 2
        assert (
            b"home is a directory, and --stdin saves standard input, or behind -- the output of a command"
            in done.stderr
        )
    assert not (tmp_path / "backups.db").exists()
    (tmp_path / "echo").mkdir()  # there is a command of this name as well
    assert run("snapshot", "--stdin", "x", "--", "echo", "a", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["sh", "-c", "echo half; exit 7"], b"ended with exit code 7"),
        (["sh", "-c", "echo half; kill -9 $$"], b"was ended by signal 9"),
        (["no-such-command"], b"cannot be run"),
    ],
)
def test_a_command_that_fails_leaves_no_snapshot(tmp_path: Path, command: List[str], told: bytes) -> None:
    assert run("snapshot", "--stdin", "first", cwd=tmp_path).returncode == 0
    done = run("snapshot", "--stdin", "out.txt", "--", *command, cwd=tmp_path)
    assert done.returncode == 1
    assert told in done.stderr
    assert b"no snapshot was saved" in done.stderr
    with Repository(tmp_path / "backups.db") as repo:
        assert [snapshot.source for snapshot in repo.list()] == ["files:first"]


def test_a_command_ends_when_what_reads_it_fails(tmp_path: Path) -> None:
    (tmp_path / "backups.db").write_bytes(b"no repository" * 2000)
    done = run("snapshot", "--stdin", "endless", "--", "yes", cwd=tmp_path)
    assert done.returncode == 1
    assert b"is not a backuptool repository" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--stdin", "a", "--target-directory", "."],
        ["--stdin", "a", "--exclude", "x"],
        ["--stdin", "a", "--one-file-system"],
        ["--target-directory", ".", "--", "echo"],
        ["--stdin", "../a"],
        [],
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(tmp_path: Path, arguments: List[str]) -> None:
    done = run("snapshot", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, b"")
    assert not (tmp_path / "backups.db").exists()
