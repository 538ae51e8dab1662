from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import runpy
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Callable, Iterator, TextIO

import pytest
from runner import ESCAPE, ESCAPED, Outcome, Runner, command, environment

import backuptool
from backuptool import Repository
from backuptool.cli import ExitCode, main

pytestmark = pytest.mark.usefixtures("place")


@pytest.fixture
def source(place: Path) -> Path:
    """A directory with three files of 156 bytes in all."""
    directory = place / "source"
    (directory / "sub").mkdir(parents=True)
    (directory / "a.txt").write_bytes(b"a" * 100)
    (directory / "b.txt").write_bytes(b"b" * 50)
    (directory / "sub" / "c.log").write_bytes(b"c" * 6)
    return directory


@pytest.fixture
def snapshots(run: Runner, source: Path) -> list[int]:
    """Two snapshots, of 156 bytes and of 236: one file of 50 is gone, one of 30 is new, and one is a copy."""
    assert run("snapshot", "--target-directory", "source", "--tag", "one").code == 0
    (source / "new").write_bytes(b"n" * 30)
    (source / "b.txt").unlink()
    (source / "copy.txt").write_bytes(b"a" * 100)
    assert run("snapshot", "--target-directory", "source", "--tag", "two", "--note", "second").code == 0
    return [1, 2]


def damage(path: str = "backups.db") -> None:
    """Overwrite the bytes of every pack, as a dying disk would."""
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        assert database.execute("UPDATE packs SET data = zeroblob(length(data))").rowcount


def tree(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if not path.is_dir()}


class Terminal:
    """The other end of a terminal that a command writes to."""

    def __init__(self) -> None:
        self._descriptor, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.stream = os.fdopen(other, "w")

    def text(self) -> str:
        """Close it and return all that was written."""
        self.stream.close()
        data = b""
        with contextlib.suppress(OSError):  # EIO is how a terminal says that nobody has it open any more
            while True:
                piece = os.read(self._descriptor, 65536)
                if not piece:
                    break
                data += piece
        os.close(self._descriptor)
        return data.decode()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Terminal]:
    """What puts a terminal in the place of standard error; from within the test, after pytest has put its own there."""

    def attach() -> Terminal:
        attached = Terminal()
        monkeypatch.setattr(sys, "stderr", attached.stream)
        return attached

    return attach


# The commands.


def test_the_first_snapshot_creates_backups_db_in_the_current_directory(run: Runner, source: Path) -> None:
    outcome = run("snapshot", "--target-directory", str(source))
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert [f"Snapshot 1 saved: {source}", "  3 files, 156 B: 3 new, 0 changed, 0 unchanged, 0 removed"] == lines[:2]
    assert os.path.exists("backups.db")


def test_list_prints_exactly_this_shape(run: Runner, snapshots: list[int]) -> None:
    with Repository("backups.db") as repository:
        first, second = (f"{snapshot.time:%Y-%m-%d %H:%M:%S}" for snapshot in repository.list())
    expected = (
        "SNAPSHOT ID  TIMESTAMP                 SIZE       DISTINCT SIZE  \n"
        "------------------------------------------------------------\n"
        f"1            {first}       156        156            \n"
        f"2            {second}       236        30             \n"
        "------------------------------------------------------------\n"
        "TOTAL                                  186        \n"
    )
    assert Outcome(0, expected.encode(), "") == run("list")


def test_list_shows_local_time(run: Runner, snapshots: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    in_universal_time = run("list").out
    monkeypatch.setenv("TZ", "XYZ-5:30")
    time.tzset()
    in_local_time = run("list").out
    with Repository("backups.db") as repository:
        assert f"1            {repository.list()[0].time:%Y-%m-%d %H:%M:%S}" == in_local_time.splitlines()[2][:32]
    assert in_universal_time != in_local_time


def test_after_a_prune_the_next_snapshot_owns_what_both_had(run: Runner, snapshots: list[int]) -> None:
    outcome = run("prune", "--snapshot", "1")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.splitlines()[0] == "Removed snapshot 1"
    lines = run("list").out.splitlines()
    assert lines[2][32:] == "       236        136            "
    assert lines[-1] == "TOTAL                                  136        "


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--tag", "two"], [2]),
        (["--tag", "three"], []),
        (["--host", "nowhere"], []),
        (["--source", "source"], [1, 2]),
        (["--source", "elsewhere"], []),
    ],
)
def test_list_selects_by_source_host_and_tag(
    run: Runner, snapshots: list[int], options: list[str], expected: list[int]
) -> None:
    assert expected == [snapshot["id"] for snapshot in run("--json", "list", *options).json["snapshots"]]


def test_a_verbose_list_shows_notes_and_tags(run: Runner, snapshots: list[int], source: Path) -> None:
    assert f":{source}, 4 files, tags: two, note: second\n" in run("list", "-v").out


@pytest.mark.parametrize("number", ["2", "latest"])
def test_restore_brings_the_files_back(run: Runner, snapshots: list[int], source: Path, number: str) -> None:
    outcome = run("restore", "--snapshot-number", number, "--output-directory", "out")
    assert (outcome.code, outcome.err) == (0, "")
    assert f"Snapshot 2 restored to {os.path.abspath('out')}" == outcome.out.splitlines()[0]
    assert tree(source) == tree(Path("out"))


def test_restore_brings_an_older_snapshot_back(run: Runner, snapshots: list[int]) -> None:
    assert run("restore", "--snapshot-number", "1", "--output-directory", "out").code == 0
    assert tree(Path("out")) == {"a.txt": b"a" * 100, "b.txt": b"b" * 50, "sub/c.log": b"c" * 6}


def test_restore_selects_by_pattern(run: Runner, snapshots: list[int]) -> None:
    options = ["--include", "*.txt", "--include", "/sub/", "--exclude", "b.*"]
    assert run("restore", "--snapshot-number", "1", "--output-directory", "out", *options).code == 0
    assert {"a.txt", "sub/c.log"} == set(tree(Path("out")))


def test_a_pattern_that_matches_nothing_is_named_and_no_failure_if_another_one_did(
    run: Runner, snapshots: list[int]
) -> None:
    note = "backuptool: note: nothing in the snapshot matches b.text; paths are relative to the source\n"
    for words in (["restore", "1", "out"], ["export", "--snapshot-number", "1", "--output", "out.tar"]):
        outcome = run(*words, "--include", "a.txt", "--include", "b.text")
        assert (outcome.code, outcome.err) == (0, note)
    outcome = run("restore", "1", "other", "--include", "c", "--include", "b.text")
    assert outcome.code == 3
    assert "problem: nothing-found: nothing in snapshot 1 matches c, b.text" in outcome.err
    assert "note:" not in outcome.err


@pytest.mark.parametrize(
    ("policy", "expected"), [("always", b"a" * 100), ("if-changed", b"a" * 100), ("if-newer", b"-"), ("never", b"-")]
)
def test_restore_overwrites_as_told(run: Runner, snapshots: list[int], policy: str, expected: bytes) -> None:
    Path("out").mkdir()
    Path("out/a.txt").write_bytes(b"-")
    os.utime("out/a.txt", (4e9, 4e9))
    assert run("restore", "--snapshot-number", "1", "--output-directory", "out", "--overwrite", policy).code == 0
    assert expected == Path("out/a.txt").read_bytes()


def test_restore_deletes_extra_files_only_when_told(run: Runner, snapshots: list[int]) -> None:
    Path("out").mkdir()
    Path("out/extra").write_bytes(b"-")
    arguments = ["restore", "--snapshot-number", "1", "--output-directory", "out"]
    assert run(*arguments).code == 0
    assert Path("out/extra").exists()
    outcome = run(*arguments, "--delete-extra", "--verify")
    assert "  1 extra deleted" in outcome.out.splitlines()
    assert "  3 files read back and compared" in outcome.out.splitlines()
    assert not Path("out/extra").exists()


def test_a_dry_restore_writes_nothing(run: Runner, snapshots: list[int]) -> None:
    outcome = run("restore", "--snapshot-number", "1", "--output-directory", "out", "--dry-run")
    assert outcome.code == 0
    assert outcome.out.splitlines()[-1] == "  Dry run: nothing was changed"
    assert not Path("out").exists()


def test_a_dry_prune_tells_the_bytes_that_the_prune_then_frees(run: Runner, snapshots: list[int]) -> None:
    before = run("list").out
    planned = run("prune", "--snapshot", "1", "2", "--dry-run", "--json")
    assert (planned.code, planned.err) == (0, "")
    assert before == run("list").out
    done = run("prune", "--snapshot", "1", "--snapshot", "2", "--json")
    assert [snapshot["id"] for snapshot in done.json["snapshots"]] == [1, 2]
    assert (planned.json["dry_run"], done.json["dry_run"]) == (True, False)
    for figure in ("freed_bytes", "removed_bytes", "removed_contents", "repository_bytes"):
        assert planned.json[figure] == done.json[figure]
    assert os.path.getsize("backups.db") == done.json["repository_bytes"]
    assert run("list", "--json").json["snapshots"] == []


def test_check_says_that_a_sound_repository_is(run: Runner, snapshots: list[int]) -> None:
    outcome = run("check")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.splitlines()[0] == "No problems found"
    assert "; 186 B read; " in outcome.out
    assert "; the data was not read; " in run("check", "--quick").out


def test_a_snapshot_leaves_out_what_it_is_told_to(run: Runner, source: Path) -> None:
    (source / "cache").mkdir()
    (source / "cache" / "CACHEDIR.TAG").write_bytes(b"Signature: 8a477f597d28d172789f06886806bc55\n")
    (source / "cache" / "data").write_bytes(b"-")
    (source / "private").mkdir()
    (source / "private" / ".nobackup").write_bytes(b"")
    (source / "private" / "data").write_bytes(b"-")
    (source / "large").write_bytes(b"-" * 2000)
    Path("patterns").write_text("# comment\n*.log\n")
    outcome = run(
        *("snapshot", "--target-directory", "source", "--json", "--host", "other", "--one-file-system"),
        *("--exclude", "b.*", "--exclude-from", "patterns", "--exclude-if-present", ".nobackup"),
        *("--exclude-caches", "--exclude-larger-than", "1.5k"),
    )
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.json["snapshot"]["host"] == "other"
    assert run("restore", "--snapshot-number", "1", "--output-directory", "out").code == 0
    assert {"a.txt", "cache/CACHEDIR.TAG", "private/.nobackup"} == set(tree(Path("out")))


# Files that are skipped, and problems.


def test_files_skipped_because_of_their_size_are_named_and_no_problem(run: Runner, source: Path) -> None:
    (source / "large").write_bytes(b"-" * 1025)
    outcome = run("snapshot", "--target-directory", "source", "--max-file-size", "1k", "--quiet")
    assert (outcome.code, outcome.out) == (0, "")
    assert outcome.err.startswith("backuptool: skipped: large: 1.0 KiB, ")
    assert outcome.err.count("\n") == 1
    outcome = run("snapshot", "--target-directory", "source", "--max-file-size", "none")
    assert (outcome.code, outcome.err) == (0, "")
    assert "  4 files, 1.2 KiB: 1 new, 0 changed, 3 unchanged, 0 removed" in outcome.out.splitlines()


def test_skipped_files_are_in_the_json(run: Runner, source: Path) -> None:
    outcome = run("snapshot", "--target-directory", "source", "--max-file-size", "99", "--json")
    assert [skipped["path"] for skipped in outcome.json["skipped"]] == ["a.txt"]
    assert outcome.err.startswith("backuptool: skipped: a.txt: 100 B, ")


@contextlib.contextmanager
def unprivileged() -> Iterator[Path]:
    """A current directory of a user who is not root, and that user for the time of the block."""
    before = os.getcwd()
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        try:
            if root:
                os.chown(name, 65534, 65534)
                os.seteuid(65534)
            yield Path(name)
        finally:
            if root:
                os.seteuid(0)
            os.chdir(before)


def test_what_cannot_be_read_is_named_and_the_rest_is_saved(run: Runner, snapshots: list[int]) -> None:
    assert run("check").code == 0  # whatever is imported late has been: root alone may read some interpreters
    with unprivileged() as directory:
        (directory / "source").mkdir()
        (directory / "source" / "open").write_bytes(b"1")
        (directory / "source" / "closed").write_bytes(b"2")
        (directory / "source" / "closed").chmod(0)
        outcome = run("--db-path", "here.db", "snapshot", "--target-directory", "source")
        assert outcome.code == ExitCode.PROBLEMS
        assert "backuptool: problem: unreadable: closed: " in outcome.err
        assert outcome.err.count("\n") == 1
        assert outcome.out.splitlines()[-1] == "  1 problem, named on standard error"
        assert [item["problem_files"] for item in run("--db-path", "here.db", "list", "--json").json["snapshots"]] == [
            1
        ]


def test_check_names_what_is_damaged(run: Runner, snapshots: list[int]) -> None:
    damage()
    outcome = run("check")
    assert outcome.code == ExitCode.PROBLEMS
    assert "No problems" not in outcome.out
    assert outcome.err.startswith("backuptool: problem: ")
    assert "a.txt" in outcome.err
    document = run("check", "--json").json
    assert document["ok"] is False
    assert any(problem["snapshots"] == [1, 2] for problem in document["problems"])


def test_a_restore_from_a_damaged_repository_names_what_is_missing(run: Runner, snapshots: list[int]) -> None:
    damage()
    outcome = run("restore", "--snapshot-number", "1", "--output-directory", "out", "-q")
    assert (outcome.code, outcome.out) == (ExitCode.PROBLEMS, "")
    for name in ("a.txt", "b.txt", "sub/c.log"):
        assert f"{name}: " in outcome.err
    assert tree(Path("out")) == {}


# Exit codes.


@pytest.mark.parametrize(
    "arguments",
    [
        ["list"],
        ["restore", "--snapshot-number", "1", "--output-directory", "out"],
        ["prune", "--snapshot", "1"],
        ["prune"],
        ["check"],
    ],
)
def test_without_a_repository_only_a_snapshot_creates_one(run: Runner, place: Path, arguments: list[str]) -> None:
    outcome = run(*arguments)
    assert (outcome.code, outcome.out) == (ExitCode.NO_REPOSITORY, "")
    assert outcome.err.startswith("backuptool: error: ")
    assert f"{place / 'backups.db'}" in outcome.err
    assert outcome.err.count("\n") == 1
    assert os.listdir() == []


def test_a_missing_target_is_a_clear_error_and_creates_nothing(run: Runner) -> None:
    outcome = run("snapshot", "--target-directory", "missing")
    assert (outcome.code, outcome.out) == (ExitCode.FAILED, "")
    assert outcome.err.startswith("backuptool: error: ")
    assert "missing" in outcome.err
    assert os.listdir() == []


@pytest.mark.parametrize(
    "arguments",
    [["prune", "--snapshot", "1", "7"], ["restore", "--snapshot-number", "7", "--output-directory", "out"]],
)
def test_a_missing_snapshot_is_a_clear_error_that_names_those_there_are(
    run: Runner, snapshots: list[int], arguments: list[str]
) -> None:
    outcome = run(*arguments)
    assert (outcome.code, outcome.out) == (ExitCode.FAILED, "")
    assert "7" in outcome.err
    assert "1, 2" in outcome.err
    assert not Path("out").exists()
    assert len(run("list", "--json").json["snapshots"]) == 2


@pytest.mark.parametrize("number", ["0", "999999999999999999"])
def test_a_snapshot_number_out_of_range_is_a_missing_snapshot(run: Runner, snapshots: list[int], number: str) -> None:
    outcome = run("restore", "--snapshot-number", number, "--output-directory", "out")
    assert outcome.code == ExitCode.FAILED
    assert "1, 2" in outcome.err


def test_a_file_that_is_no_repository_is_an_error(run: Runner, source: Path) -> None:
    outcome = run("--db-path", "source/a.txt", "list")
    assert (outcome.code, outcome.out) == (ExitCode.FAILED, "")
    assert "source/a.txt" in outcome.err


def test_wrong_usage_is_exit_code_2(run: Runner) -> None:
    outcome = run("list", "--no-such-option")
    assert (outcome.code, outcome.out) == (ExitCode.USAGE, "")
    assert "unrecognized arguments: --no-such-option" in outcome.err


def test_a_repository_that_another_process_holds_is_exit_code_11(run: Runner, snapshots: list[int]) -> None:
    with contextlib.closing(sqlite3.connect("backups.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        outcome = run("list", "--lock-timeout", "0")
    assert (outcome.code, outcome.out) == (ExitCode.LOCKED, "")
    assert outcome.err.startswith("backuptool: error: ")
    assert run("list").code == 0


def test_an_unexpected_error_is_one_line_and_its_trace_is_for_the_verbose(run: Runner) -> None:
    arguments = ["snapshot", "--target-directory", "nul\0inside"]
    outcome = run(*arguments)
    assert (outcome.code, outcome.out) == (ExitCode.FAILED, "")
    assert outcome.err.startswith("backuptool: error: ")
    assert outcome.err.count("\n") == 1


def test_a_current_directory_that_is_gone_is_one_line(run: Runner, place: Path) -> None:
    (place / "gone").mkdir()
    os.chdir(place / "gone")
    (place / "gone").rmdir()
    outcome = run("list")
    assert (outcome.code, outcome.out) == (ExitCode.FAILED, "")
    assert (
        outcome.err
        == "backuptool: error: the current directory was removed: change to another one, or give absolute paths\n"
    )
    lines = run("list", "-v").err.splitlines()
    assert lines[0] == "backuptool: trace: Traceback (most recent call last):"
    assert lines[-2] == "backuptool: trace: FileNotFoundError: [Errno 2] No such file or directory"


@pytest.mark.parametrize("arguments", [["--help"], ["check", "--help"], ["--version"], ["list", "--version"]])
def test_help_and_version_are_exit_code_0(run: Runner, arguments: list[str]) -> None:
    outcome = run(*arguments)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith(("usage: backuptool", f"backuptool {backuptool.__version__}\n"))


# Interruption. A FIFO of patterns shows when the command has begun, and keeps it waiting. It ends behind the
# signal: one that comes right before the system call that waits is heeded only when that returns.


def test_an_interrupted_command_ends_with_a_line_and_exit_code_130(run: Runner, source: Path) -> None:
    os.mkfifo("patterns")
    command_thread = threading.get_ident()

    def interrupt() -> None:
        descriptor = os.open("patterns", os.O_WRONLY)
        os.write(descriptor, b"*.tmp")
        while int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder):
            pass  # until it reads, and does not open the file any more
        signal.pthread_kill(command_thread, signal.SIGINT)
        os.close(descriptor)

    thread = threading.Thread(target=interrupt)
    thread.start()
    outcome = run("snapshot", "--target-directory", "source", "--exclude-from", "patterns")
    os.close(os.open("patterns", os.O_RDONLY | os.O_NONBLOCK))  # lets the thread go if the command never came so far
    thread.join()
    assert (outcome.code, outcome.out) == (ExitCode.INTERRUPTED, "")
    assert outcome.err.startswith("backuptool: interrupted: ")
    assert outcome.err.count("\n") == 1


def test_an_interrupted_process_shows_no_traceback(source: Path) -> None:
    os.mkfifo("patterns")
    with subprocess.Popen(
        command("snapshot", "--target-directory", "source", "--exclude-from", "patterns"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:

        def let_go() -> None:
            process.wait()
            os.close(os.open("patterns", os.O_RDONLY | os.O_NONBLOCK))

        thread = threading.Thread(target=let_go)
        thread.start()
        descriptor = os.open("patterns", os.O_WRONLY)
        process.send_signal(signal.SIGINT)
        os.close(descriptor)
        out, err = process.communicate()
        thread.join()
    assert (process.returncode, out) == (130, b"")
    assert err.startswith(b"backuptool: interrupted: ")
    assert err.count(b"\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_process_that_is_ended_leaves_nothing_of_a_drill(source: Path, number: signal.Signals) -> None:
    """As by systemd, or by closing the terminal: what was restored for trial may be secret."""
    for index in range(200):
        (source / f"large {index}").write_bytes(os.urandom(200_000))
    subprocess.run(command("-q", "snapshot", "--target-directory", "source"), env=environment(), check=True)
    os.mkdir("scratch")
    with subprocess.Popen(
        command("drill", "--scratch-directory", "scratch"), stderr=subprocess.PIPE, env=environment()
    ) as process:
        while not list(Path("scratch").glob("*/*")):
            os.sched_yield()
        process.send_signal(number)
        err = process.communicate()[1]
    assert process.returncode == -number
    assert err.startswith(b"backuptool: interrupted: ")
    assert os.listdir("scratch") == []


# The repository's place.


def test_the_repository_is_where_the_environment_says(
    run: Runner, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKUPTOOL_DB", "elsewhere.db")
    assert run("snapshot", "--target-directory", "source").code == 0
    assert os.path.exists("elsewhere.db")
    assert not os.path.exists("backups.db")


def test_an_option_outweighs_the_environment(run: Runner, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKUPTOOL_DB", "elsewhere.db")
    assert run("--db-path", "named.db", "snapshot", "--target-directory", "source").code == 0
    assert run("list", "--db-path", "named.db").code == 0
    assert os.path.exists("named.db")
    assert not os.path.exists("elsewhere.db")


def test_an_empty_variable_counts_as_none(run: Runner, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKUPTOOL_DB", "")
    assert run("snapshot", "--target-directory", "source").code == 0
    assert os.path.exists("backups.db")


# What goes where.


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        (["snapshot", "--target-directory", "source"], {"snapshot", "new_files", "skipped", "problems"}),
        (["list"], {"snapshots", "size_bytes", "distinct_bytes", "repository_bytes"}),
        (["restore", "--snapshot-number", "1", "--output-directory", "out"], {"snapshot", "restored_files"}),
        (["prune", "--snapshot", "1"], {"snapshots", "freed_bytes", "dry_run"}),
        (["check"], {"snapshots", "read_bytes", "ok"}),
    ],
)
@pytest.mark.parametrize("options", [["--json"], ["--json", "-q"], ["--json", "-v"]])
def test_with_json_standard_output_is_one_document(
    run: Runner, snapshots: list[int], arguments: list[str], keys: set[str], options: list[str]
) -> None:
    outcome = run(*arguments, *options)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.isascii()
    assert keys <= set(outcome.json)


def test_with_json_an_error_is_a_line_on_standard_error_alone(run: Runner) -> None:
    outcome = run("list", "--json")
    assert (outcome.code, outcome.out) == (ExitCode.NO_REPOSITORY, "")
    assert outcome.err.startswith("backuptool: error: ")


def test_quiet_commands_print_nothing_and_a_quiet_list_its_table(run: Runner, snapshots: list[int]) -> None:
    quiet = Outcome(0, b"", "")
    assert quiet == run("-q", "snapshot", "--target-directory", "source")
    assert quiet == run("-q", "restore", "--snapshot-number", "1", "--output-directory", "out")
    assert quiet == run("-q", "prune", "--snapshot", "1")
    assert quiet == run("-q", "check")
    assert run("list").out == run("list", "-q").out != ""


def test_a_terminal_gets_a_bar_that_vanishes(
    terminal: Callable[[], Terminal], source: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    attached = terminal()
    assert main(["snapshot", "--target-directory", "source"]) == 0
    shown = attached.text()
    assert "scan: " in shown
    assert shown.split("\r")[-1].strip() == ""
    assert capsysbinary.readouterr().out.startswith(b"Snapshot 1 saved: ")


def test_a_terminal_gets_a_bar_also_beside_json(
    terminal: Callable[[], Terminal], source: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    attached = terminal()
    assert main(["snapshot", "--target-directory", "source", "--json"]) == 0
    assert "scan: " in attached.text()
    assert json.loads(capsysbinary.readouterr().out)["snapshot"]["id"] == 1


def test_quiet_means_no_bar(terminal: Callable[[], Terminal], source: Path) -> None:
    attached = terminal()
    assert main(["snapshot", "--target-directory", "source", "-q"]) == 0
    assert attached.text() == ""


def test_labels_are_coloured_on_a_terminal(terminal: Callable[[], Terminal], source: Path) -> None:
    attached = terminal()
    assert main(["list"]) == 10
    assert main(["-q", "snapshot", "--target-directory", "source", "--max-file-size", "99"]) == 0
    shown = attached.text()
    assert "backuptool: \x1b[31merror\x1b[0m: there is no repository" in shown
    assert "backuptool: \x1b[33mskipped\x1b[0m: a.txt: " in shown


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_colour_where_it_is_not_wanted(
    terminal: Callable[[], Terminal], monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    attached = terminal()
    monkeypatch.setenv(name, value)
    assert main(["list"]) == 10
    assert attached.text().startswith("backuptool: error: there is no repository")


# Names of all kinds.


def test_a_directory_whose_name_is_not_utf8_can_be_saved_and_restored(run: Runner) -> None:
    os.makedirs(b"s\xff/d\xfe")
    Path(os.fsdecode(b"s\xff/d\xfe/f\xfd")).write_bytes(b"1")
    outcome = run("snapshot", "--target-directory", os.fsdecode(b"s\xff"))
    assert (outcome.code, outcome.err) == (0, "")
    assert r"s\xff" in outcome.out
    outcome = run("restore", "--snapshot-number", "1", "--output-directory", os.fsdecode(b"o\xfc"), "--json")
    assert os.path.abspath(b"o\xfc") == os.fsencode(outcome.json["destination"])
    assert os.path.abspath(b"s\xff") == os.fsencode(outcome.json["snapshot"]["source"])
    with open(b"o\xfc/d\xfe/f\xfd", "rb") as file:
        assert file.read() == b"1"
    assert [item["id"] for item in run("list", "--json", "--source", os.fsdecode(b"s\xff")).json["snapshots"]] == [1]


def test_words_that_are_not_utf8_are_kept(run: Runner, source: Path) -> None:
    word = os.fsdecode(b"w\xff")
    (source / word).write_bytes(b"1")
    options = ["--note", word, "--tag", word, "--host", word, "--exclude", word, "--exclude-if-present", word]
    assert run("snapshot", "--target-directory", "source", *options[:-2]).code == 0
    assert run("snapshot", "--target-directory", "source", *options[-2:], "--host", word).code == 0
    listed = run("list", "--json", "--tag", word, "--host", word).json["snapshots"]
    assert [(1, word, [word], word)] == [(item["id"], item["note"], item["tags"], item["host"]) for item in listed]
    assert run("restore", "--snapshot-number", "1", "--output-directory", "out", "--include", "*").code == 0
    assert {"a.txt", "b.txt", "sub/c.log"} == set(tree(Path("out")))


def test_names_cannot_steer_the_terminal(run: Runner, place: Path) -> None:
    directory = place / f"source{ESCAPE}"
    directory.mkdir()
    (directory / f"large{ESCAPE}").write_bytes(b"-" * 100)
    (directory / f"small{ESCAPE}").write_bytes(b"-")
    options = ["--note", f"note{ESCAPE}", "--tag", f"tag{ESCAPE}", "--host", f"host{ESCAPE}", "--max-file-size", "99"]
    outcomes = [
        run("-v", "snapshot", "--target-directory", str(directory), *options),
        run("-v", "list"),
        run("-v", "restore", "--snapshot-number", "1", "--output-directory", f"out{ESCAPE}"),
        run("-v", "prune", "--snapshot", "1", "--dry-run"),
        run("snapshot", "--target-directory", f"missing{ESCAPE}"),
        run("--db-path", f"missing{ESCAPE}", "list"),
        run("list", f"argument{ESCAPE}"),
    ]
    damage()
    outcomes += [
        run("-v", "check"),
        run("-v", "restore", "--snapshot-number", "1", "--output-directory", "again"),
    ]
    shown = "".join(outcome.out + outcome.err for outcome in outcomes)
    for name in ("source", "large", "small", "note", "tag", "host", "out", "missing", "argument"):
        assert name + ESCAPED in shown
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert [outcome.code for outcome in outcomes] == [0, 0, 0, 0, 1, 10, 2, 3, 3]


# Outputs of all kinds.


def test_what_the_encoding_of_the_output_lacks_becomes_an_escape(
    run: Runner, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "caf\u00e9").mkdir()
    raw = BytesIO()
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(raw, encoding="ascii"))
    assert main(["snapshot", "--target-directory", "caf\u00e9"]) == 0
    assert raw.getvalue().splitlines()[0].endswith(b"/caf\\xe9")


def write_end_of_a_broken_pipe() -> TextIO:
    read_end, write_end = os.pipe()
    os.close(read_end)
    return open(write_end, "w")


@pytest.mark.parametrize("arguments", [["list"], ["--help"]])
def test_a_reader_that_went_away_is_no_error(
    run: Runner, snapshots: list[int], arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with write_end_of_a_broken_pipe() as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert Outcome(0, b"", "") == run(*arguments)


def test_help_that_is_written_at_once_into_a_broken_pipe_is_quiet(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unbuffered standard output breaks within argparse already, which newer versions of it forgive."""
    with write_end_of_a_broken_pipe() as pipe:
        pipe.reconfigure(write_through=True)  # type: ignore[attr-defined]
        monkeypatch.setattr(sys, "stdout", pipe)
        assert run("--help") == Outcome(0, b"", "")


def test_a_process_whose_reader_went_away_is_quiet(snapshots: list[int]) -> None:
    with write_end_of_a_broken_pipe() as pipe:
        process = subprocess.run(command("list"), stdout=pipe, stderr=subprocess.PIPE, env=environment(), check=False)
    assert (process.returncode, process.stderr) == (0, b"")


def test_a_broken_standard_error_does_not_hide_the_exit_code(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    with write_end_of_a_broken_pipe() as pipe:
        monkeypatch.setattr(sys, "stderr", pipe)
        assert main(["list"]) == ExitCode.NO_REPOSITORY


def test_a_full_disk_under_standard_output_is_an_error(snapshots: list[int]) -> None:
    with open("/dev/full", "w") as full:
        process = subprocess.run(command("list"), stdout=full, stderr=subprocess.PIPE, env=environment(), check=False)
    assert (process.returncode, process.stderr) == (1, b"backuptool: error: <stdout>: No space left on device\n")


def test_a_full_disk_under_both_outputs_is_an_exit_code(snapshots: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as out, open("/dev/full", "w") as err:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        assert main(["list"]) == ExitCode.FAILED


def test_outputs_that_were_closed_before_the_start_are_not_missed(
    snapshots: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["check"]) == 0
    assert main(["snapshot", "source"]) == 0
    assert main(["--db-path", "missing.db", "list"]) == 10


def test_no_file_takes_the_number_of_a_stream_that_was_closed(snapshots: list[int], place: Path) -> None:
    """What is printed or asked for would be written into it, or read from it."""
    program = (
        "import os, sys\n"
        "from backuptool.cli import main\n"
        "code = main(['check'])\n"
        "opened = os.open('source', os.O_RDONLY)\n"
        "sys.exit(code if code else opened <= 2)"
    )
    closed = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", program]
    assert subprocess.run(closed, env=environment(), check=False).returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [["restore", "latest", "out"], ["export", "--output", "a.tar"], ["copy", "--destination", "b"]],
)
def test_a_current_directory_that_was_removed_is_named(snapshots: list[int], place: Path, arguments: list[str]) -> None:
    (place / "gone").mkdir()
    path = ["--db-path", str(place / "backups.db")]
    done = subprocess.run(
        ["sh", "-c", 'rmdir "$PWD" && exec "$@"', "sh", *command(*path, *arguments)],
        env=environment(),
        cwd=place / "gone",
        stderr=subprocess.PIPE,
        check=False,
    )
    expected = "backuptool: error: the current directory was removed: change to another one, or give absolute paths\n"
    assert (done.returncode, done.stderr.decode()) == (1, expected)


# The process.


def test_the_module_runs_as_a_program(snapshots: list[int], run: Runner) -> None:
    process = subprocess.run(command("list"), capture_output=True, env=environment(), check=True)
    assert (run("list").out, b"") == (process.stdout.decode(), process.stderr)


def test_the_program_ends_with_the_exit_code(monkeypatch: pytest.MonkeyPatch, run: Runner) -> None:
    monkeypatch.setattr(sys, "argv", ["backuptool", "list"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("backuptool", run_name="__main__")
    assert end.value.code == ExitCode.NO_REPOSITORY


def test_importing_the_program_runs_nothing() -> None:
    assert "main" in runpy.run_module("backuptool.__main__", run_name="imported")


def test_a_list_starts_without_what_only_the_other_commands_need(snapshots: list[int]) -> None:
    heavy = ["tqdm", "pyfastcdc", "concurrent.futures", "asyncio", "pyzstd", "backports.zstd"]
    program = (
        "import sys\n"
        "from backuptool.cli import main\n"
        "code = main(['list', '-q'])\n"
        f"sys.exit(repr([name for name in {[*heavy, 'compression.zstd']} if name in sys.modules] + [code]))"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, env=environment(), check=False)
    assert process.stderr.decode().strip() == "[<ExitCode.DONE: 0>]"


# The documentation.


def documented(heading: str) -> set[str]:
    """Return what stands in code type in the first column of the table under a heading of docs/cli.md."""
    text = (Path(__file__).parent.parent / "docs" / "cli.md").read_text(encoding="utf-8")
    section = text.split(f"# {heading}\n", 1)[1].split("\n#", 1)[0]
    cells = [line.split("|")[1] for line in section.replace("\\|", "/").splitlines() if line.startswith("|")]
    return {name for cell in cells for name in re.findall("`([^ `]+)[^`]*`", cell)}


def test_every_field_of_the_json_is_documented(run: Runner, snapshots: list[int]) -> None:
    taken = run("snapshot", "--target-directory", "source", "--max-file-size", "1", "--json").json
    listed = run("list", "--json").json
    restored = run("restore", "--snapshot-number", "1", "--output-directory", "out", "--json").json
    stats = run("stats", "--json").json
    pruned = run("prune", "--snapshot", "1", "--json").json
    damage()
    checked = run("check", "--json").json
    assert documented("snapshot --json") == set(taken)
    assert documented("list --json") == set(listed)
    assert documented("restore --json") == set(restored)
    assert documented("prune --json") == set(pruned)
    assert documented("stats --json") == set(stats)
    assert documented("check --json") == set(checked)
    assert documented("A snapshot") == set(listed["snapshots"][0])
    assert documented("A problem") == set(checked["problems"][0])
    assert {"path", "size_bytes", "reason"} == set(taken["skipped"][0])


@pytest.mark.parametrize("name", ["snapshot", "list", "restore", "prune", "check"])
def test_every_option_is_documented(run: Runner, name: str) -> None:
    shared = documented("Options of every command")
    shown = set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", run(name, "--help").out.split("example:")[0]))
    assert shared < shown
    assert documented(name) == shown - shared


def test_every_exit_code_is_documented() -> None:
    text = (Path(__file__).parent.parent / "docs" / "cli.md").read_text(encoding="utf-8")
    codes = {int(code) for code in re.findall(r"^\| ([0-9]+) \|", text, re.MULTILINE)}
    assert codes == {code.value for code in ExitCode}


# Directories and snapshots that are named in their order.


def test_the_directory_to_save_and_what_to_restore_need_no_options(run: Runner, source: Path, place: Path) -> None:
    assert run("snapshot", "source").code == 0
    assert run("restore", "1", "one").code == 0
    assert run("restore", "latest:source", "two", "--include", "a.txt").code == 0
    assert run("restore", "--snapshot-number", "1", "three").code == 0
    assert run("restore", "latest", "--output-directory", "four").code == 0
    for name in ("one", "three", "four"):
        assert (place / name / "sub" / "c.log").read_bytes() == b"c" * 6
    assert [path.name for path in (place / "two").iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["snapshot"], "name the directory to save, or --stdin NAME"),
        (["snapshot", ""], "an empty path names nothing"),
        (["snapshot", "source", "other"], "other: one directory at a time"),
        (
            ["snapshot", "source", "--target-directory", "source"],
            "source: --target-directory names the directory already",
        ),
        (["restore"], "name the snapshot, such as latest, and the directory to restore into"),
        (["restore", "latest"], "name the directory to restore into"),
        (["restore", "out", "latest"], "not a snapshot number: 'out'"),
        (["restore", "latest", "out", "a.txt"], "a.txt: too much; name a part of the snapshot with --include"),
        (["restore", "1", "out", "--output-directory", "other"], "out: too much"),
    ],
)
def test_what_is_missing_or_too_much_is_named(
    run: Runner, source: Path, snapshots: list[int], arguments: list[str], said: str
) -> None:
    outcome = run(*arguments)
    assert outcome.code == ExitCode.USAGE
    assert said in outcome.err
    assert not Path("out").exists()
    assert len(run("list", "--json").json["snapshots"]) == 2


def test_a_repository_whose_journal_could_have_no_name_is_not_created(run: Runner, source: Path, place: Path) -> None:
    outcome = run("--db-path", "n" * 248, "snapshot", "source")
    assert outcome.code == ExitCode.FAILED
    assert "its name has more than 247 bytes" in outcome.err
    assert [path.name for path in place.iterdir()] == ["source"]
    assert run("--db-path", "n" * 247, "snapshot", "source").code == 0
    assert run("--db-path", "n" * 247, "check").code == 0


@pytest.mark.parametrize("path", ["/", "source"])
def test_a_directory_is_not_imported_as_a_tar_file(run: Runner, source: Path, path: str) -> None:
    outcome = run("import", "--input", path)
    assert outcome.code == ExitCode.FAILED
    assert f"{path} is a directory; name a tar file, or take a snapshot of it" in outcome.err
