"""The commands that move and prove: what they print, what their arguments may be, and how they end."""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import List

import pytest
import runner
from conftest import noise, sql, write_tree
from runner import Runner, environment

import backuptool
from backuptool.cli import ExitCode, main
from backuptool.commands import COMMANDS, load
from backuptool.commands.arguments import sample
from backuptool.commands.manual import manual_page
from backuptool.commands.parser import build_parser


@pytest.fixture
def run(run: Runner, place: Path) -> Runner:
    """What runs commands in a directory with a tree and a snapshot of it."""
    write_tree(place / "tree", {"a.txt": b"a" * 1000, "docs/b.txt": b"b" * 2000})
    assert run("-q", "snapshot", "--target-directory", "tree").code == 0
    return run


def damage() -> None:
    """Overwrite the bytes of every pack."""
    sql("backups.db", "UPDATE packs SET data = zeroblob(length(data))")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_shows_an_example_that_parses(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import shlex

    assert main([command, "--help"]) == 0
    example = load(command).EXAMPLE
    printed = capsys.readouterr().out
    assert f"example:\n  {example}" in printed
    words = shlex.split(next(part for part in re.split("[|>]", example) if "backuptool" in part))
    arguments = words[words.index("backuptool") + 1 :]
    assert build_parser(arguments).parse_args(arguments).command == command


# completion


@pytest.mark.parametrize(("shell", "program"), [("bash", "bash"), ("zsh", "zsh"), ("fish", "fish"), ("tcsh", "tcsh")])
def test_completion_prints_a_script_that_the_shell_understands(run: Runner, shell: str, program: str) -> None:
    shtab = pytest.importorskip("shtab")
    if shell not in shtab.SUPPORTED_SHELLS or shutil.which(program) is None:
        pytest.skip(f"{shell} is not there")
    told = run("completion", shell)
    assert (told.code, told.err) == (0, "")
    Path("script").write_bytes(told.data)
    subprocess.run([program, "-n", "script"], check=True)
    assert run("completion", shell, "--json").json == {"shell": shell, "script": told.out}
    assert not Path("none.db").exists()


def test_the_script_completes_commands_options_choices_and_files(run: Runner) -> None:
    pytest.importorskip("shtab")
    Path("script").write_bytes(run("completion", "bash").data)
    Path("file name.db").touch()

    def complete(*words: str) -> List[str]:
        program = (
            'source ./script; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}\n'
            "spec=$(complete -p backuptool); function=${spec##*-F }; function=${function%% *}\n"
            'compopt() { :; }; "$function" backuptool "${!#}" "" ; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(["bash", "-c", program, "bash", *words], capture_output=True, check=False)
        return done.stdout.decode().split("\n")[:-1]

    assert complete("backuptool", "re") == ["restore"]
    assert "--sample" in complete("backuptool", "drill", "--s")
    assert complete("backuptool", "restore", "--overwrite", "if") == ["if-changed", "if-newer"]
    assert complete("backuptool", "copy", "--destination", "file") == ["file name.db"]
    # Directories, wherever they stand; what may be one or the number of a snapshot too.
    for words in (
        ["snapshot"],
        ["snapshot", "--exclude", "*.tmp"],
        ["snapshot", "--target-directory"],
        ["restore"],
        ["restore", "latest"],
        ["restore", "1", "--verify"],
        ["restore", "--snapshot-number", "latest"],
        ["restore", "latest", "--output-directory"],
        ["diff", "--directory"],
        ["list", "--source"],
    ):
        assert complete("backuptool", *words, "tr") == ["tree"], words
    for_zsh = [line for line in run("completion", "zsh").out.splitlines() if "the snapshot, and where to" in line]
    assert [line.endswith(':_files -/"') for line in for_zsh] == [True]


def test_without_shtab_one_line_says_what_to_install(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    told = run("completion", "bash")
    assert (told.code, told.data) == (1, b"")
    assert told.err == (
        "backuptool: error: completion needs the package shtab, which is not installed; run: pip install 'shtab>=1.6'\n"
    )
    pyproject = Path(backuptool.__file__).parent.parent / "pyproject.toml"
    assert 'completion = ["shtab>=1.6"]' in pyproject.read_text(encoding="utf-8")


def test_a_shell_that_an_old_shtab_does_not_know_is_told(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    shtab = pytest.importorskip("shtab")
    monkeypatch.setattr(shtab, "SUPPORTED_SHELLS", ["bash", "zsh"])
    told = run("completion", "fish")
    assert told.code == 1
    assert told.err == (
        "backuptool: error: the installed version of shtab knows bash, zsh; install a newer one for fish\n"
    )


# The manual page


def test_the_manual_page_is_current() -> None:
    page = Path(backuptool.__file__).parent.parent / "docs" / "backuptool.1"
    made = "python -m backuptool.commands.manual > docs/backuptool.1"
    assert page.read_text(encoding="utf-8") == manual_page(), f"make it anew: {made}"


def test_the_manual_page_has_the_exit_codes_and_variables_that_the_documentation_has() -> None:
    text = (Path(backuptool.__file__).parent.parent / "docs" / "cli.md").read_text(encoding="utf-8")
    page = manual_page().replace("\\-", "-")
    for heading, number in (("## Exit codes", len(ExitCode)), ("## Environment variables", 5)):
        section = text.partition(f"{heading}\n")[2].partition("\n## ")[0]
        terms = re.findall(r"^\| `?(\w+)`? \|", section, re.MULTILINE)[1:]
        assert len(terms) == number
        for term in terms:
            assert f"\n.B {term}\n" in page


@pytest.mark.parametrize("command", COMMANDS)
def test_the_documentation_has_the_json_of_every_command(command: str) -> None:
    text = (Path(backuptool.__file__).parent.parent / "docs" / "cli.md").read_text(encoding="utf-8")
    documented = {"import": "`import --json` is the same", "annotate": "all of that of `annotate`"}
    assert documented.get(command, f"### {command} --json") in text


def test_the_manual_page_has_every_command_and_option() -> None:
    page = manual_page().replace("\\-", "-")
    for command in COMMANDS:
        assert f"\n.SS {command}\n" in page
        parser = build_parser([command])
        actions = (
            next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices[command]._actions
        )
        for option in (option for action in actions for option in action.option_strings):
            assert option in ("-h", "--help") or f"\\fB{option}\\fR" in page


@pytest.mark.parametrize("command", [["mandoc", "-Tlint", "-W", "warning"], ["man", "--warnings", "-l"]])
def test_the_manual_page_is_sound(command: List[str], tmp_path: Path) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    page = tmp_path / "backuptool.1"
    page.write_text(manual_page(), encoding="utf-8")
    done = subprocess.run(
        [*command, str(page)],
        env={**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "100", "MANPAGER": "cat"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    said = [
        line for line in done.stdout.decode().splitlines() if "WARNING" in line or "warning" in line.split(": ")[:3]
    ]
    assert [line for line in said if "missing date" not in line] == []


# drill


@pytest.mark.parametrize(
    ("text", "value"),
    [("all", None), ("1", 1), ("500", 500), ("100%", 1.0), ("5%", 0.05), ("0.5%", 0.005), ("12.5%", 0.125)],
)
def test_a_sample_is_a_number_a_percentage_or_all(text: str, value: float) -> None:
    assert sample(text) == value
    assert type(sample(text)) is type(value)


@pytest.mark.parametrize("text", ["", "0", "-1", "0%", "101%", "0.5", "5 %", "%", "none", "1e3"])
def test_another_sample_is_wrong_usage(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        sample(text)


def test_drill_tells_what_came_back_and_list_shows_it(run: Runner) -> None:
    told = run("drill")
    assert (told.code, told.err) == (0, "")
    assert told.out.startswith(
        "Snapshot 1 restored for trial: came back as saved\n  all 2 files, 2.9 KiB, compared; in "
    )
    listed = run("list", "-v").out.splitlines()
    assert ", 2 files, proven restorable on " in listed[3]
    assert listed[-1].split(": last ")[0].endswith("/tree")
    assert "proven" not in run("list").out


def test_drill_tells_the_seed_that_draws_the_sample_again(run: Runner, tmp_path: Path) -> None:
    first = run("drill", "--sample", "50%", "--json").json
    assert first["drill"]["files"] == 1
    again = run(
        *("drill", "-v", "--sample", "1", "--seed", str(first["seed"]), "--snapshot-number", "1"),
        *("--scratch-directory", str(tmp_path)),
    )
    assert f"  seed {first['seed']}\n" in again.out
    assert "  a sample of 1 file, " in again.out
    assert "by a sample of 1 file on" in run("list", "-v").out


def test_drill_ends_with_3_if_something_did_not_come_back(run: Runner) -> None:
    damage()
    told = run("drill")
    assert told.code == 3
    assert told.out.startswith("Snapshot 1 restored for trial: 2 did not come back as saved\n")
    assert told.out.endswith("  2 problems, named on standard error\n")
    assert told.err.count("backuptool: problem: content-corrupt: ") == 2
    assert "not restorable as saved (2 failed) on " in run("list", "-v").out


def test_drill_says_that_it_could_not_be_recorded(run: Runner) -> None:
    import attrs

    from backuptool import Repository

    with Repository("backups.db") as repo:
        result = attrs.evolve(repo.drill(), recorded=False)
    assert "  The outcome could not be recorded\n" in load("drill").as_text(result)
    assert os.listdir(".")


# copy


def test_copy_copies_all_snapshots_and_then_nothing(run: Runner, tmp_path: Path) -> None:
    told = run("copy", "--destination", "other.db")
    assert (told.code, told.err) == (0, "")
    assert told.out.startswith(f"1 snapshot copied to {tmp_path}/other.db\n  4 file versions; 2.9 KiB new, ")
    again = run("copy", "--destination", "other.db", "-v")
    assert again.out.startswith(
        f"0 snapshots copied to {tmp_path}/other.db, 1 there before\n  0 file versions; 0 B new, "
    )
    assert again.out.endswith("  0 packs taken as they are\n  1 is 1 (there before)\n")
    assert run("--db-path", "other.db", "check").code == 0


def test_copy_takes_the_snapshots_that_are_named(run: Runner, tmp_path: Path) -> None:
    for name in "xyz":
        (tmp_path / "tree" / name).write_bytes(name.encode())
        run("snapshot", "--target-directory", "tree")
    done = run("copy", "--destination", "other.db", "--snapshot", "2", "latest", "--compression", "max", "--json")
    assert [(each["original"]["id"], each["snapshot"]["id"]) for each in done.json["copies"]] == [(2, 1), (4, 2)]
    missing = run("copy", "--destination", "other.db", "--snapshot", "9")
    assert (missing.code, missing.err) == (1, "backuptool: error: there is no snapshot 9; there are: 1, 2, 3, 4\n")


def test_copy_leaves_damaged_snapshots_out_unless_told_otherwise(run: Runner) -> None:
    damage()
    told = run("copy", "--destination", "other.db")
    assert (told.code, told.out.startswith("0 snapshots copied")) == (3, True)
    assert "problem: content-corrupt: a.txt: not copied: content " in told.err
    assert "problem: not-copied: snapshot 1 was not copied: it is not whole; " in told.err
    assert run("copy", "--destination", "other.db", "--incomplete").code == 3
    assert ", 0 files, 2 with problems, tags: incomplete" in run("--db-path", "other.db", "list", "-v").out


# export


def test_export_writes_a_file_and_tells_so(run: Runner, tmp_path: Path) -> None:
    told = run("export", "--output", "a.tgz", "-v")
    assert (told.code, told.err) == (0, "")
    assert told.out.startswith(f"Snapshot 1 exported to {tmp_path}/a.tgz\n  2 files, 2.9 KiB; ")
    assert told.out.endswith("  2 directories; 10.0 KiB before compression (gzip)\n")
    again = run("export", "--output", "a.tgz")
    assert again.code == 1
    assert again.err.endswith("/a.tgz exists; remove it, or name another file\n")
    assert run("export", "--output", "a.tgz", "--overwrite", "--json").json["exported_files"] == 2


def test_export_to_standard_output_writes_the_stream_alone(run: Runner) -> None:
    run("export", "--output", "a.tar", "--snapshot-number", "1")
    told = run("export", "--output", "-", "-v")
    assert (told.code, told.err) == (0, "")
    assert told.data == Path("a.tar").read_bytes()
    zstd = run("export", "--output", "-", "--compress", "zstd", "--include", "/docs/", "--exclude", "b*")
    assert zstd.data[:4] == b"\x28\xb5\x2f\xfd"
    refused = run("export", "--output", "-", "--json")
    assert (refused.code, refused.data) == (2, b"")
    assert "cannot both have standard output" in refused.err


def exported(where: str) -> subprocess.CompletedProcess[bytes]:
    """What becomes of an export that a shell leads there."""
    return subprocess.run(
        ["bash", "-c", f'"$@" {where}; exit ${{PIPESTATUS[0]}}', "bash", *runner.command("export", "--output", "-")],
        env=environment(),
        stderr=subprocess.PIPE,
        check=False,
    )


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("| head -c 10 >/dev/null", "the reader of standard output went away; the stream that it has is not whole"),
        (">/dev/full", "cannot write to standard output: No space left on device; the stream that it has is not whole"),
        (">&-", "standard output is closed; redirect it, or name a file"),
    ],
)
def test_an_export_that_standard_output_does_not_take_whole_ends_with_1(run: Runner, where: str, reason: str) -> None:
    (Path("tree") / "large").write_bytes(noise(3 << 20))  # more than a pipe holds
    assert run("-q", "snapshot", "tree").code == 0
    done = exported(where)
    assert (done.returncode, done.stderr.decode()) == (1, f"backuptool: error: {reason}\n")


def test_a_short_export_that_does_not_fit_ends_with_1(run: Runner) -> None:
    """It fails when what is gathered is written at the end."""
    done = exported(">/dev/full")
    assert (done.returncode, done.stderr.count(b"\n"), b"No space left" in done.stderr) == (1, 1, True)


def test_export_writes_nothing_to_a_terminal(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    refused = run("export", "--output", "-")
    assert (refused.code, refused.data) == (1, b"")
    assert "not written to a terminal" in refused.err


def test_export_ends_with_3_if_something_is_not_in_the_stream(run: Runner) -> None:
    damage()
    told = run("export", "--output", "-")
    assert told.code == 3
    assert told.err.count("backuptool: problem: content-corrupt: ") == 2
    assert len(told.data) == 10240


# import


def test_import_makes_a_snapshot_of_a_file_or_of_standard_input(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    run("export", "--output", "old.tar.zst")
    told = run("import", "--input", "old.tar.zst", "--tag", "old", "--pin", "--host", "h", "--note", "n")
    assert (told.code, told.err) == (0, "")
    assert told.out.startswith("Snapshot 2 saved: old\n  2 files, 2.9 KiB: 2 new, 0 changed, 0 unchanged, 0 removed\n")
    listed = run("list", "--source", "old", "--json").json["snapshots"]
    assert [(each["id"], each["tags"], each["pinned"], each["note"]) for each in listed] == [(2, ["old"], True, "n")]
    with open("old.tar.zst", "rb") as file:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.FileIO(file.fileno(), closefd=False))))
        again = run("import", "--input", "-", "--source", "old", "--host", "h", "--include", "/docs/", "--json")
    assert (again.json["unchanged_files"], again.json["removed_files"]) == (1, 1)


def test_import_of_a_closed_standard_input_ends_with_1(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    outcome = run("import", "--input", "-", "--source", "x")
    assert (outcome.code, outcome.err) == (
        1,
        "backuptool: error: standard input is closed; redirect it, or name a file\n",
    )


def test_import_of_what_is_no_stream_ends_with_1(run: Runner, tmp_path: Path) -> None:
    told = run("import", "--input", "tree/a.txt")
    assert (told.code, told.data) == (1, b"")
    assert told.err.startswith("backuptool: error: tree/a.txt is no tar stream, or damaged, at byte ")
    assert len(run("list", "--json").json["snapshots"]) == 1


def test_import_from_standard_input_needs_a_name_and_no_terminal(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = run("import", "--input", "-")
    assert refused.code == 2
    assert "say with --source" in refused.err
    monkeypatch.setattr("backuptool.commands.importing.is_terminal", lambda stream: True)
    refused = run("import", "--input", "-", "--source", "x")
    assert refused.code == 1
    assert "not read from a terminal" in refused.err
