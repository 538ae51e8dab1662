from __future__ import annotations

import argparse
import shlex

import pytest

from backuptool import DEFAULT_MAX_FILE_SIZE
from backuptool.commands import COMMANDS
from backuptool.commands.arguments import parse_size
from backuptool.commands.parser import build_parser


def parse(*arguments: str) -> argparse.Namespace:
    return build_parser().parse_args(arguments)


def usage_error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the last line of what is printed about arguments that are wrong."""
    with pytest.raises(SystemExit) as end:
        parse(*arguments)
    captured = capsys.readouterr()
    assert end.value.code == 2
    assert captured.out == ""
    assert captured.err.startswith("usage: backuptool")
    return captured.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("0", 0),
        ("4096", 4096),
        ("4096b", 4096),
        ("500M", 500 * 1024**2),
        ("10GiB", 10 * 1024**3),
        ("10 gib", 10 * 1024**3),
        (" 1.5g ", 3 * 1024**3 // 2),
        ("0.1k", 102),
        ("2T", 2 * 1024**4),
        ("1p", 1024**5),
        ("1PiB", 1024**5),
        ("1KB", 1000),
        ("2.5MB", 2_500_000),
        ("999999999999999999P", 999999999999999999 * 1024**5),
    ],
)
def test_sizes_are_counted_as_by_gnu_coreutils(size: str, expected: int) -> None:
    assert expected == parse_size(size)


@pytest.mark.parametrize(
    "size", ["", "x", "-1", "1.", ".5", "1e3", "0x10", "1GG", "1iB", "1 024", "\u0661", "1" * 19, "nan", "none", "5\n6"]
)
def test_what_is_no_size_is_refused(size: str) -> None:
    with pytest.raises(ValueError, match="not a size like 4096, 500M or 10GiB"):
        parse_size(size)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (["--db-path", "a"], [], "a"),
        ([], ["--db-path", "b"], "b"),
        (["--db-path", "a"], ["--db-path", "b"], "b"),
        ([], [], None),
    ],
)
def test_shared_options_are_accepted_before_and_after_the_command(
    before: list[str], after: list[str], expected: str | None
) -> None:
    assert expected == parse(*before, "list", *after).db_path


@pytest.mark.parametrize("option", ["--json", "--quiet", "--verbose", "--lock-timeout=2.5", "--max-helpers=0"])
def test_an_option_before_the_command_is_not_undone_by_the_commands_defaults(option: str) -> None:
    assert vars(parse(option, "check")) == vars(parse("check", option))
    assert vars(parse("check")) != vars(parse("check", option))


def test_of_quiet_and_verbose_the_last_one_counts() -> None:
    assert parse("-v", "list", "-q").verbosity == -1
    assert parse("list", "-q", "-v").verbosity == 1
    assert parse("list").verbosity == 0


def test_a_snapshot_has_the_defaults_of_the_library() -> None:
    options = parse("snapshot", "--target-directory", "x")
    assert options.max_file_size == DEFAULT_MAX_FILE_SIZE
    assert options.exclude_larger_than is None
    assert options.host is None
    assert (
        options.note,
        options.tag,
        options.exclude,
        options.exclude_from,
        options.exclude_if_present,
    ) == ("", [], [], [], [])


def test_sizes_of_a_snapshot_are_parsed_and_none_lifts_the_limit() -> None:
    options = parse("snapshot", "--target-directory", "x", "--max-file-size", "None", "--exclude-larger-than", "1k")
    assert options.max_file_size is None
    assert options.exclude_larger_than == 1024
    assert parse("snapshot", "--target-directory", "x", "--max-file-size", "10GiB").max_file_size == 10 << 30


def test_repeatable_options_gather_their_values_and_forget_them_for_the_next_parser() -> None:
    options = parse("snapshot", "--target-directory", "x", "--tag", "a", "--tag", "b", "--exclude", "*.o")
    assert (options.tag, options.exclude) == (["a", "b"], ["*.o"])
    assert parse("snapshot", "--target-directory", "x").tag == []


def test_snapshots_to_prune_may_be_listed_and_repeated() -> None:
    assert parse("prune", "--snapshot", "1", "2", "--snapshot", "3").snapshot == [1, 2, 3]
    assert parse("prune").snapshot == []


def test_a_snapshot_is_restored_by_number_or_as_the_latest() -> None:
    def reference(number: str) -> int | str:
        value = parse("restore", "--snapshot-number", number, "--output-directory", "x").snapshot_number
        assert isinstance(value, (int, str))
        return value

    assert reference("12") == 12
    assert reference("latest") == "latest"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["delete"], "argument COMMAND: invalid choice: 'delete'"),
        (["snapshot", "--target-directory", ""], "argument --target-directory: an empty path names nothing"),
        (["--db-path", "", "list"], "argument --db-path: an empty path names nothing"),
        (["snapshot", "--target", "x"], "unrecognized arguments: --target"),
        (
            ["snapshot", "--stdin", "x", "--target-directory", "y"],
            "argument --target-directory: not allowed with argument",
        ),
        (
            ["snapshot", "--target-directory", "x", "--max-file-size", "big"],
            "argument --max-file-size: not a size like 4096, 500M or 10GiB: 'big'",
        ),
        (
            ["snapshot", "--target-directory", "x", "--exclude-larger-than", "none"],
            "argument --exclude-larger-than: not a size like 4096, 500M or 10GiB: 'none'",
        ),
        (
            ["restore", "--output-directory", "x", "--snapshot-number", "newest"],
            "argument --snapshot-number: not a snapshot number: 'newest'",
        ),
        (
            ["restore", "--output-directory", "x", "--snapshot-number", "1", "--overwrite", "ask"],
            "argument --overwrite: invalid choice: 'ask'",
        ),
        (["prune", "--snapshot", "-1"], "argument --snapshot: not a snapshot number: '-1'"),
        (["prune", "--snapshot", "latest"], "argument --snapshot: not a snapshot number: 'latest'"),
        (["list", "--max-helpers", "-1"], "argument --max-helpers: not a number of 0 or more: '-1'"),
        (["list", "--lock-timeout", "soon"], "argument --lock-timeout: not a number of seconds: 'soon'"),
    ],
)
def test_wrong_usage_is_explained(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert f"error: {message}" in usage_error(capsys, *arguments)


def test_arguments_quoted_in_messages_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    line = usage_error(capsys, "list", "\x1b[31m\u202ered\udcff")
    assert line.endswith(r"unrecognized arguments: \x1b[31m\u202ered\xff")


@pytest.mark.parametrize("command", sorted({*COMMANDS} - {"completion"}))  # whose example is for the shell
def test_the_help_of_every_command_shows_an_example_that_parses(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    with pytest.raises(SystemExit) as end:
        parse(command, "--help")
    assert end.value.code == 0
    help_text = capsys.readouterr().out
    assert help_text.isascii()
    example = help_text.split("example:\n")[1].strip()
    name, *arguments = shlex.split(example)
    assert ("backuptool", command) == (name, parse(*arguments).command)


def test_the_examples_of_the_main_help_parse(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help")
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines() if line.startswith("  backuptool ")]
    assert [parse(*line[1:]).command for line in lines] == [
        *("snapshot", "list", "history", "find", "ls", "cat", "diff", "restore", "prune", "check"),
    ]
