"""The command ``import``."""

from __future__ import annotations

import argparse
import os
import sys

from backuptool import BackuptoolError, Repository, SnapshotResult

from .arguments import path
from .options import compression, described, description, selection
from .process import give_memory_back, is_terminal, standard_input, wants_bar
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
    selection(option, "import")
    compression(option, "how hard to compress what is new", "balanced")
    description(option)


def run(repository: Repository, options: argparse.Namespace) -> SnapshotResult:
    """Make the call."""
    give_memory_back()
    if options.input == "-":
        if options.source is None:
            raise argparse.ArgumentTypeError("standard input has no name; say with --source what it is the state of")
        if is_terminal(sys.stdin):
            raise BackuptoolError("a tar stream is not read from a terminal; redirect it, or name a file")
    if options.input != "-" and os.path.isdir(options.input):
        raise BackuptoolError(f"{options.input} is a directory; name a tar file, or take a snapshot of it")
    return repository.import_tar(
        standard_input("redirect it, or name a file") if options.input == "-" else options.input,
        source=options.source,
        include=options.include,
        exclude=options.exclude,
        progress=wants_bar(options),
        **described(options),
    )
