"""The command ``export``."""

from __future__ import annotations

import argparse
import contextlib
import sys

from backuptool import BackuptoolError, ExportResult, Repository, format_size, printable

from .arguments import path
from .options import selection, snapshot_number
from .phrases import count, details, duration, problem_count, text_of
from .process import is_terminal, keep_memory, standard_output, wants_bar

__all__ = ["EXAMPLE", "LEAVES_FILES", "add_options", "as_text", "run"]

EXAMPLE = "backuptool export --snapshot-number latest --output photos.tar.zst --include /2025/"

LEAVES_FILES = True


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command accepts."""
    option = parser.add_argument
    snapshot_number(option)
    option("--output", metavar="FILE|-", type=path, required=True, help="the file to write, or - for standard output")
    selection(option, "export")
    option(
        "--compress",
        choices=("none", "gzip", "zstd"),
        help="how to compress the stream (default: by the end of the name, .gz, .tgz, .zst or .tzst; else none)",
    )
    option("--overwrite", action="store_true", help="take the place of a file that is there")


def run(repository: Repository, options: argparse.Namespace) -> ExportResult:
    """Make the call; standard output is the stream's alone if it goes there."""
    keep_memory()
    if options.output == "-":
        if options.json:
            raise argparse.ArgumentTypeError("the stream and --json cannot both have standard output; name a file")
        if is_terminal(sys.stdout):
            raise BackuptoolError("a tar stream is not written to a terminal; redirect it, or name a file")
        options.verbosity = min(options.verbosity, -1)
    try:
        return _export(repository, options)
    except ValueError as error:  # what the name of the file says
        raise argparse.ArgumentTypeError(str(error)) from error


def _export(repository: Repository, options: argparse.Namespace) -> ExportResult:
    with standard_output() if options.output == "-" else contextlib.nullcontext(options.output) as output:
        return repository.export_tar(
            options.snapshot_number,
            output,
            include=options.include,
            exclude=options.exclude,
            compression=options.compress,
            overwrite=options.overwrite,
            progress=wants_bar(options),
        )


def as_text(result: ExportResult, *, verbose: bool = False) -> str:
    """Return what was exported, in two or more lines."""
    lines = [
        f"Snapshot {result.snapshot.id} exported to {printable(result.destination)}",
        f"  {count(result.exported_files, 'file')}, {format_size(result.content_bytes)}; "
        f"{format_size(result.written_bytes)} written; in {duration(result.elapsed_seconds)}",
    ]
    if verbose:
        lines += [
            "  " + details(result.snapshot),
            f"  {count(result.exported_directories, 'directory', 'directories')}; "
            f"{format_size(result.tar_bytes)} before compression ({result.compression})",
        ]
    return text_of(lines + problem_count(result.problems))
