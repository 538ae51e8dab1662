"""The command ``ls``."""

from __future__ import annotations

import argparse
import stat
from typing import Iterator

from backuptool import Entry, Listing, Repository, printable

from .arguments import path
from .options import of_a_snapshot, snapshot_number
from .phrases import stamp

__all__ = ["EXAMPLE", "IS_ANSWER", "add_options", "as_text", "run"]

EXAMPLE = "backuptool ls --snapshot-number 2 drafts"

IS_ANSWER = True


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command accepts."""
    option = parser.add_argument
    option(
        "path", metavar="PATH", nargs="?", type=path, default=".", help="the directory (default: all of the snapshot)"
    )
    snapshot_number(option)
    option("--recursive", action="store_true", help="everything below it")


def run(repository: Repository, options: argparse.Namespace) -> Listing:
    """Make the call."""
    with of_a_snapshot(options.path):
        return repository.ls(options.snapshot_number, options.path, recursive=options.recursive)


def as_text(listing: Listing, *, verbose: bool = False) -> Iterator[str]:
    """Yield a line for each entry, as ls -l would: mode, owner, size, time, path, and where a symlink leads.

    Args:
        listing: What to show.
        verbose: Put the hash of a file behind it.
    """
    for entry in listing:
        owner = printable(f"{entry.user or entry.uid} {entry.group or entry.gid}")
        leads = "" if entry.target is None else f" -> {entry.target}"
        line = f"{stat.filemode(entry.st_mode)} {owner} {_size(entry):>12} {stamp(entry.time)} "
        line += printable(entry.path or ".") + ("/" if entry.kind == "directory" else "") + printable(leads)
        yield line + (f" {entry.sha256}" if verbose and entry.sha256 is not None else "") + "\n"


def _size(entry: Entry) -> str:
    if entry.device is not None:
        return f"{entry.device >> 8 & 0xFFF}, {entry.device & 0xFF}"
    return str(entry.size_bytes) if entry.kind == "file" else "-"
