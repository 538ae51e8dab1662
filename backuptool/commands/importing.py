"""The command ``import``."""

from __future__ import annotations

import argparse
import sys

from backuptool import BackuptoolError, Repository, SnapshotResult

from .arguments import SEVERAL, path
from .process import give_memory_back, is_terminal, wants_bar
from .snapshot import as_text

__all__ = ["EXAMPLE", "add_options", "as_text", "run"]

EXAMPLE = "backuptool import --input old-backup.tar.gz --source old-backup --note 'from the old disk'"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command accepts."""
    option = parser.add_argument
    option("--input", metavar="FILE|-", type=path, required=True, help="the file to read, or - for standard input")
    option(
        "--source",
        metavar="NAME",
        type=path,
        help="the name of what the stream holds the state of (default: that of the file without its ending)",
    )
    several = "this path, or what matches; may be given several times"
    option("--include", metavar="PATTERN", **SEVERAL, help=f"import only {several}")
    option("--exclude", metavar="PATTERN", **SEVERAL, help=f"leave out {several}")
    option(
        "--compression",
        choices=("fast", "balanced", "max"),
        default="balanced",
        help="how hard to compress what is new (default: balanced)",
    )
    option("--note", metavar="TEXT", default="", help="free text kept with the snapshot")
    option("--tag", metavar="TAG", **SEVERAL, help="a word kept with the snapshot; may be given several times")
    option("--pin", action="store_true", help="have the snapshot removed only after it was unpinned")
    option("--host", metavar="NAME", help="name of the machine (default: its host name)")


def run(repository: Repository, options: argparse.Namespace) -> SnapshotResult:
    """Make the call."""
    give_memory_back()
    if options.input == "-":
        if options.source is None:
            raise argparse.ArgumentTypeError("standard input has no name; say with --source what it is the state of")
        if is_terminal(sys.stdin):
            raise BackuptoolError("a tar stream is not read from a terminal; redirect it, or name a file")
    return repository.import_tar(
        sys.stdin.buffer if options.input == "-" else options.input,
        source=options.source,
        include=options.include,
        exclude=options.exclude,
        compression=options.compression,
        note=options.note,
        tags=options.tag,
        pinned=options.pin,
        host=options.host,
        progress=wants_bar(options),
    )
