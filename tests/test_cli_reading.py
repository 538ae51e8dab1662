"""The commands that look into snapshots: history, find, ls, cat, diff."""

from __future__ import annotations

import datetime
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Dict, List

import pytest
from conftest import noise, sql, write
from runner import ESCAPE, ESCAPED, Runner, command, environment

import backuptool.cli
from backuptool.commands.arguments import moment


@pytest.fixture
def history(run: Runner, place: Path) -> Path:
    """Three snapshots in which a file changes, moves and is gone."""
    source = place / "source"
    write(source / "a.txt", b"first\n")
    write(source / "sub" / "kept.bin", b"\0\xff")
    os.symlink("a.txt", source / "link")
    assert run("-q", "snapshot", "--target-directory", "source", "--host", "laptop").code == 0
    write(source / "a.txt", b"first\nsecond\n")
    assert run("-q", "snapshot", "--target-directory", "source", "--host", "laptop").code == 0
    (source / "a.txt").rename(source / "sub" / "b.txt")
    assert run("-q", "snapshot", "--target-directory", "source", "--host", "laptop").code == 0
    return source


def shape(text: str) -> List[str]:
    """Lines with one space in place of several, and times by a letter."""
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "T", text)
    return [re.sub(" +", " ", line).strip() for line in text.splitlines()]


def test_history_shows_versions_changes_and_moves(run: Runner, history: Path) -> None:
    assert shape(run("history", "a.txt").out) == [
        f"laptop:{history}",
        "SNAPSHOTS FIRST TAKEN SIZE MODIFIED WHAT",
        "1 T 6 T came",
        "2 T 13 T changed: content, mtime",
        "3 gone, its content is in sub/b.txt",
    ]
    assert shape(run("history", str(history / "sub" / "b.txt")).out)[2:] == ["3 T 13 T came, from a.txt"]
    assert shape(run("history", "link", "-v").out)[2:] == ["1 to 3 T symlink T came", "a.txt"]
    assert len(shape(run("-v", "history", "a.txt").out)[3]) == 64
    nothing = run("history", "nothing")
    assert (nothing.code, nothing.out) == (3, "")
    assert "problem: nothing-found: nothing: no snapshot has nothing" in nothing.err


def test_find_shows_each_version_once(run: Runner, history: Path) -> None:
    assert shape(run("find", "*.txt").out) == [f"laptop:{history}", "1 6 T a.txt", "2 13 T a.txt", "3 13 T sub/b.txt"]
    assert shape(run("find", "--kind", "symlink", "-v").out)[1:] == ["1 to 3 symlink T link", "a.txt"]
    assert shape(run("find", "--path", "sub/*", "--smaller-than", "10").out)[1:] == ["1 to 3 2 T sub/kept.bin"]
    assert shape(run("find", "--regex", "^s", "--snapshot-number", "latest~2", "--larger-than", "1").out)[1:] == [
        "1 to 3 2 T sub/kept.bin"
    ]
    assert shape(run("find", "*.txt", "--limit", "1").out)[-1] == "and more: --limit was reached"
    assert run("find", "*.txt", "--newer", "1d").out == ""
    assert run("find", "*.txt", "--older", "2001-01-01", "--source", "source", "--host", "laptop").out == ""
    digest = "dd1d7ed1c7d92e12bfef3b7ee3d4a72a0dab8a6ecd6cdf51ec2e29bd5e0a0e11"
    assert run("find", "--sha256", digest).out == ""
    for wrong in (["--sha256", "short"], ["--sha256", f"{digest}0"], [""], ["--path", ""], ["--regex", ""]):
        assert run("find", *wrong).code == 2
    assert run("find", "--sha256", digest.upper()).code == 0


def test_ls_shows_what_is_there(run: Runner, history: Path) -> None:
    lines = shape(run("ls", "--snapshot-number", "1").out)
    assert [line.split(" ", 3)[-1] for line in lines] == ["6 T a.txt", "- T link -> a.txt", "- T sub/"]
    assert [line[:10] for line in lines] == ["-rw-r--r--", "lrwxrwxrwx", "drwxr-xr-x"]
    assert [line.split()[-1] for line in shape(run("ls", "sub").out)] == ["sub/b.txt", "sub/kept.bin"]
    assert len(shape(run("ls", "--recursive").out)) == 4
    assert len(shape(run("ls", "sub/b.txt", "-v").out)[0].split()[-1]) == 64
    missing = run("ls", "nothing")
    assert (missing.code, missing.out) == (1, "")
    assert "there is no nothing in snapshot 3" in missing.err


def test_cat_writes_the_bytes_as_they_are(
    run: Runner,
    history: Path,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    capsysbinary.readouterr()
    arguments = ["cat", "sub/kept.bin", str(history / "a.txt"), "--snapshot-number", "2"]
    for options in ([], ["-q"], ["-v"]):
        assert backuptool.cli.main([*arguments, *options]) == 0
        assert capsysbinary.readouterr().out == b"\0\xfffirst\nsecond\n"
    document = run(*arguments, "--json").json
    assert [os.fsencode(file["text"]) for file in document["files"]] == [b"\0\xff", b"first\nsecond\n"]
    assert [file["path"] for file in document["files"]] == ["sub/kept.bin", "a.txt"]
    wrong = run("cat", "a.txt", "sub", "--snapshot-number", "1")
    assert (wrong.code, wrong.out) == (1, "")
    assert "sub is a directory; only a file can be opened" in wrong.err


def test_diff_shows_what_differs(run: Runner, history: Path) -> None:
    last = ["moved a.txt -> sub/b.txt", "Snapshot 2 to snapshot 3:"]
    figures = "0 added, 0 B; 0 removed, 0 B; 0 changed, 0 B; 1 moved"
    assert shape(run("diff").out) == shape(run("diff", "2").out) == shape(run("diff", "2", "3").out) == [*last, figures]
    assert shape(run("diff", "-v").out)[0] == "changed ./ (mtime)"
    assert shape(run("diff", "1", "2").out)[0] == "changed a.txt (content, mtime)"
    assert shape(run("diff", "1", "--path", "sub").out)[0] == "added sub/b.txt"
    assert run("diff", "1", "--json").json["moved_files"] == 0


def test_diff_compares_with_a_directory(run: Runner, history: Path) -> None:
    write(history / "new.tmp", b"new")
    (history / "sub" / "kept.bin").chmod(0)
    outcome = run("diff", "--directory", "source")
    assert outcome.code == 0
    assert shape(outcome.out) == [
        "added new.tmp",
        "changed sub/kept.bin (mode)",
        f"Snapshot 3 to {history}:",
        "1 added, 3 B; 0 removed, 0 B; 1 changed, 0 B; 0 moved",
        "2 files read and compared, 15 B",
    ]
    quick = run("diff", "3", "--directory", "source", "--quick", "--exclude", "*.tmp").out
    assert shape(quick)[0] == "changed sub/kept.bin (mode)"
    assert shape(quick)[-1] == "0 files read and compared, 0 B"
    second = run("diff", "1", "2", "--directory", "source")
    assert (second.code, "leave the second one out" in second.err) == (2, True)
    assert run("diff", "--directory", "source", "--text", "a.txt").code == 2


def test_diff_compares_a_directory_with_its_own_newest_snapshot(run: Runner, history: Path, place: Path) -> None:
    write(place / "other" / "file", b"1")
    assert run("-q", "snapshot", "other").code == 0
    assert run("diff", "--directory", "source", "--json").json["old"]["id"] == 3
    assert run("diff", "--directory", "./source/../source/", "--json").json["old"]["id"] == 3
    assert run("diff", "latest", "--directory", "source", "--json").json["old"]["id"] == 4
    (place / "link").symlink_to("source")
    assert run("diff", "--directory", "link", "--json").json["old"]["id"] == 3
    # A copy was never saved itself.
    assert run("-q", "restore", "latest", "copy").code == 0
    outcome = run("diff", "--directory", "copy", "--json")
    assert (outcome.json["old"]["id"], outcome.json["identical"]) == (4, True)


@pytest.mark.parametrize("command", ["ls", "cat"])
@pytest.mark.parametrize("name", ["latest", "2", "latest~1", "latest:/home"])
def test_what_looks_like_a_snapshot_is_told_how_one_is_named(
    run: Runner, history: Path, command: str, name: str
) -> None:
    outcome = run(command, name)
    assert outcome.code == 1
    assert outcome.err == (
        f"backuptool: error: there is no {name} in snapshot 3; history tells in which it is; "
        f"a snapshot is named with --snapshot-number {name}\n"
    )
    assert "--snapshot-number" not in run(command, "nothing").err
    write(history / "latest", b"a file of that name\n")
    assert run("-q", "snapshot", "source", "--host", "laptop").code == 0
    assert "latest" in run("ls", "latest").out


def test_diff_of_lines_is_exact_in_a_pipe_and_safe_on_a_terminal(
    run: Runner,
    history: Path,
    capsysbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(history / "odd", b"a\t\\\x1b[31m\xff\n")
    run("-q", "snapshot", "--target-directory", "source", "--host", "laptop")
    capsysbinary.readouterr()
    assert backuptool.cli.main(["diff", "--text", "odd"]) == 0
    assert capsysbinary.readouterr().out == b"--- /dev/null\n+++ 4/odd\n@@ -0,0 +1 @@\n+a\t\\\x1b[31m\xff\n"
    monkeypatch.setattr("backuptool.commands.diff.is_terminal", lambda stream: True)
    assert run("diff", "--text", "odd").out.splitlines()[-1] == "+a\t\\\\\\x1b[31m\\xff"
    assert run("diff", "--text", "odd", "--json").json["text"].endswith("+a\t\\\x1b[31m\udcff\n")


def test_names_cannot_steer_the_terminal(run: Runner, place: Path) -> None:
    source = place / ("source" + ESCAPE)
    write(source / ("name" + ESCAPE), b"x")
    (source / ("link" + ESCAPE)).symlink_to("to" + ESCAPE)
    assert run("-q", "snapshot", "--target-directory", str(source), "--host", "h" + ESCAPE).code == 0
    write(source / ("name" + ESCAPE), b"y")
    assert run("-q", "snapshot", "--target-directory", str(source), "--host", "h" + ESCAPE).code == 0
    for arguments in (
        ["history", "name" + ESCAPE, "-v"],
        ["find", "-v"],
        ["ls", "-v"],
        ["diff", "1", "2"],
        ["diff", "--directory", str(source)],
    ):
        outcome = run(*arguments)
        assert outcome.code == 0
        assert ESCAPED in outcome.out
        assert "\x1b" not in outcome.out


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        (["history", "a.txt"], {"path", "versions", "problems"}),
        (["find", "*.txt"], {"versions", "paths", "limited", "problems"}),
        (["ls"], {"snapshot", "path", "entries", "problems"}),
        (["diff", "1", "3"], {"old", "new", "differences", "identical", "added_files"}),
        (["diff", "--directory", "source"], {"directory", "read_files", "identical"}),
    ],
)
def test_with_json_standard_output_is_one_document(
    run: Runner,
    history: Path,
    arguments: List[str],
    keys: set[str],
) -> None:
    outcome = run(*arguments, "--json", "-q")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.isascii()
    assert keys <= set(outcome.json)


def test_what_was_asked_for_is_printed_quietly_too(run: Runner, history: Path) -> None:
    for arguments in (["history", "a.txt"], ["find"], ["ls"], ["diff"], ["list"]):
        assert run(*arguments, "-q").out == run(*arguments).out != ""


@pytest.mark.parametrize("arguments", [["cat", "large"], ["find"], ["ls"], ["diff"]])
def test_a_reader_that_goes_away_is_no_error(place: Path, arguments: List[str]) -> None:
    write(place / "source" / "large", noise(3 << 20))
    with backuptool.Repository("backups.db") as repo:
        repo.snapshot("source")
        for number in range(3000):
            (place / "source" / f"{number}{'x' * 100}").touch()
        repo.snapshot("source")
    with subprocess.Popen(
        command(*arguments), env=environment(), cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


@pytest.mark.parametrize("size", [1, 3 << 20])
def test_a_full_disk_is_an_error(place: Path, history: Path, size: int) -> None:
    write(history / "file", noise(size))
    with backuptool.Repository("backups.db") as repo:
        repo.snapshot(history)
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command("cat", "file"), env=environment(), cwd=place, stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (1, b"backuptool: error: <stdout>: No space left on device\n")


@pytest.mark.parametrize("arguments", [["cat", "sub/b.txt"], ["list"], ["ls", "--json"], ["find", "-q"]])
def test_an_answer_needs_a_standard_output(place: Path, history: Path, arguments: List[str]) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command(*arguments)],
        env=environment(),
        cwd=place,
        stderr=subprocess.PIPE,
        check=False,
    )
    expected = b"backuptool: error: standard output is closed: there is nowhere to write the answer to\n"
    assert (done.returncode, done.stderr) == (1, expected)


def test_damage_found_while_writing_is_an_error(run: Runner, history: Path) -> None:
    sql("backups.db", "UPDATE packs SET data = zeroblob(length(data))")
    outcome = run("cat", "sub/b.txt")
    assert (outcome.code, outcome.out) == (1, "")
    assert "is damaged" in outcome.err


def test_a_locale_without_the_letters_of_a_name_changes_nothing(place: Path) -> None:
    ascii = environment(PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", LC_ALL="C", PYTHONIOENCODING="")

    def said(*arguments: str, variables: Dict[str, str] = ascii) -> str:
        words = [os.fsencode(word) for word in command(*arguments)]
        done = subprocess.run(words, env=variables, cwd=place, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout.decode()

    write(place / "tür" / "ümläut", b"first\n")
    write(place / "tür" / os.fsdecode(b"\xff"), b"not UTF-8")
    words = ("--note", "über", "--tag", "ü", "--host", "hütte")
    said("snapshot", "tür", *words)
    said("snapshot", "tür", *words, "--exclude", "ü*")
    (place / "patterns").write_bytes(b"\xef\xbb\xbf\xc3\xbc*\r\n")
    said("snapshot", "tür", *words, "--exclude-from", "patterns")
    write(place / "tür" / "ümläut", b"second\n")
    said("snapshot", "tür", *words)
    for search in (["ü*"], ["--path", "*ml??ut"], ["--regex", "ä"]):
        assert said("find", *search).count("ml") == 2, search
    assert said("ls", "--snapshot-number", "2").count("\n") == said("ls", "--snapshot-number", "3").count("\n") == 1
    assert said("cat", "--snapshot-number", "latest:tür", "ümläut") == "second\n"
    assert said("diff", "1", "4", "--text", "ümläut").splitlines()[1] == "+++ 4/ümläut"
    said("restore", "1", "out", "--include", "ümläut")
    assert [path.name for path in (place / "out").iterdir()] == ["ümläut"]
    # What is kept is what another locale would have kept.
    utf8 = environment(PYTHONUTF8="1")
    for variables in (ascii, utf8):
        assert said("list", "-q", "--tag", "ü", "--host", "hütte", variables=variables).count("\n") == 8
    for snapshot in json.loads(said("list", "--json", variables=utf8))["snapshots"]:
        assert (snapshot["note"], snapshot["tags"], snapshot["host"]) == ("über", ["ü"], "hütte")
        assert snapshot["source"] == str(place / "tür")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2025-03-30", datetime.datetime(2025, 3, 30)),
        ("2025-03-30 15:30", datetime.datetime(2025, 3, 30, 15, 30)),
        ("2025-03-30T15:30:45", datetime.datetime(2025, 3, 30, 15, 30, 45)),
    ],
)
def test_times_are_local(text: str, expected: datetime.datetime) -> None:
    assert moment(text) == expected


def test_spans_are_times_ago() -> None:
    for text, seconds in (("90s", 90), ("2m", 120), ("36h", 36 * 3600), ("7d", 7 * 86400), ("2w", 14 * 86400)):
        ago = (datetime.datetime.now() - moment(text)).total_seconds()
        assert abs(ago - seconds) < 60


@pytest.mark.parametrize("text", ["", "yesterday", "2025-13-01", "7", "7y", "2025", "999999w"])
def test_what_is_no_time_is_wrong_usage(run: Runner, text: str) -> None:
    outcome = run("find", "--newer", text)
    assert outcome.code == 2
    assert "not a time like 2025-03-30" in outcome.err
