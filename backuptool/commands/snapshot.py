"""The command ``snapshot``."""

from __future__ import annotations

import argparse
import os
import shutil

from backuptool import DEFAULT_MAX_FILE_SIZE, Repository, SkippedFile, SnapshotResult, format_size, printable

from .arguments import SEVERAL, path, size, size_or_none
from .options import compression, described, description
from .output import stream
from .phrases import count, details, duration, problem_count, text_of
from .process import give_memory_back, wants_bar

__all__ = ["EXAMPLE", "add_options", "as_text", "run", "skipped_text"]

EXAMPLE = "backuptool snapshot ~/photos --exclude '*.tmp' --note 'before the move'"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command accepts."""
    option = parser.add_argument
    option(
        "given",
        metavar="DIRECTORY",
        nargs="*",
        type=path,
        help="the directory to save; with --stdin, behind --: a command whose output is saved, if it does not fail",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--target-directory", metavar="DIRECTORY", type=path, help="the directory to save, by name")
    what.add_argument("--stdin", metavar="NAME", type=path, help="save standard input as a file of this name")
    option(
        "--exclude",
        metavar="PATTERN",
        **SEVERAL,
        help="leave out what matches, as in a .gitignore file; may be given several times",
    )
    option(
        "--exclude-from",
        metavar="FILE",
        type=path,
        **SEVERAL,
        help="leave out what matches a pattern in this file; may be given several times",
    )
    option(
        "--exclude-if-present",
        metavar="NAME",
        **SEVERAL,
        help="leave out what is in directories that hold a file of this name; may be given several times",
    )
    option("--exclude-caches", action="store_true", help="leave out what is in directories with a CACHEDIR.TAG file")
    option(
        "--exclude-larger-than",
        metavar="SIZE",
        type=size,
        help="leave out files above this size without naming them (sizes: 4096, 500M, 10GiB)",
    )
    option(
        "--max-file-size",
        metavar="SIZE|none",
        type=size_or_none,
        default=DEFAULT_MAX_FILE_SIZE,
        help="skip files above this size and name each (default: 1GiB)",
    )
    option("--one-file-system", action="store_true", help="save mount points as empty directories")
    option(
        "--no-live-sqlite",
        dest="live_sqlite",
        action="store_false",
        help="save SQLite databases byte by byte, even if a program may be writing to them",
    )
    compression(option, "how hard to compress what is new", "balanced")
    option("--encrypt", action="store_true", help="create the repository encrypted; one that exists must be")
    description(option)


def run(repository: Repository, options: argparse.Namespace) -> SnapshotResult:
    """Make the call."""
    give_memory_back()
    if options.stdin is not None:
        return _run_stream(repository, options)
    return repository.snapshot(
        _directory(options),
        exclude=options.exclude,
        exclude_from=options.exclude_from,
        exclude_if_present=options.exclude_if_present,
        exclude_caches=options.exclude_caches,
        exclude_larger_than=options.exclude_larger_than,
        max_file_size=options.max_file_size,
        one_file_system=options.one_file_system,
        live_sqlite=options.live_sqlite,
        progress=wants_bar(options),
        **described(options),
    )


def _directory(options: argparse.Namespace) -> str:
    """Return the directory to save."""
    directories: list[str] = options.given if options.target_directory is None else [options.target_directory]
    if options.given and options.target_directory is not None:
        raise argparse.ArgumentTypeError(f"{options.given[0]}: --target-directory names the directory already")
    if not directories:
        raise argparse.ArgumentTypeError("name the directory to save, or --stdin NAME")
    if len(directories) > 1:
        raise argparse.ArgumentTypeError(
            f"{directories[1]}: one directory at a time, each has its own snapshots; a command is run only with --stdin"
        )
    return directories[0]


def _run_stream(repository: Repository, options: argparse.Namespace) -> SnapshotResult:
    """Save standard input, or what a command prints."""
    for option in ("exclude", "exclude_from", "exclude_if_present", "exclude_caches", "one_file_system"):
        if getattr(options, option):
            raise argparse.ArgumentTypeError(f"--{option.replace('_', '-')} selects files of a directory, not --stdin")
    if options.given and os.path.isdir(options.given[0]) and shutil.which(options.given[0]) is None:
        raise argparse.ArgumentTypeError(
            f"{options.given[0]} is a directory, and --stdin saves standard input, or behind -- the output of a "
            "command; leave one of them out"
        )
    try:
        with stream(options.given) as output:
            return repository.snapshot_files(
                {options.stdin: output},
                name=options.stdin,
                progress=wants_bar(options),
                **described(options),
            )
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def as_text(result: SnapshotResult, *, verbose: bool = False) -> str:
    """Return what taking a snapshot did, in three or four lines."""
    snapshot = result.snapshot
    lines = [
        f"Snapshot {snapshot.id} saved: {printable(snapshot.source)}",
        f"  {count(snapshot.files, 'file')}, {format_size(snapshot.size_bytes)}: {result.new_files:,} new, "
        f"{result.changed_files:,} changed, {result.unchanged_files:,} unchanged, {result.removed_files:,} removed",
        f"  {format_size(result.read_bytes)} read, {format_size(result.new_bytes)} new, "
        f"{format_size(result.stored_bytes)} stored, in {duration(result.elapsed_seconds)}",
    ]
    if verbose:
        lines += ["  " + details(snapshot), f"  digest {snapshot.digest}"]
    if result.databases:
        lines.append(f"  {count(len(result.databases), 'SQLite database')} captured")
    if result.skipped_files:
        lines.append(f"  {count(result.skipped_files, 'file')} skipped because of the size")
    lines += [f"  looks like {alert.kind}, see standard error" for alert in result.alerts]
    return text_of(lines + problem_count(result.problems))


def skipped_text(skipped: SkippedFile) -> str:
    """Return a file that was left out because of its size, in one line."""
    return printable(f"{skipped.path}: {format_size(skipped.size_bytes)}, {skipped.reason}")
