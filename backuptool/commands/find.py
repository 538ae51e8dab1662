"""The command ``find``."""

from __future__ import annotations

import argparse
from typing import Iterator, get_args

from backuptool import FindResult, Kind, Repository, printable

from .arguments import moment, number_of, reference, sha256, size, words
from .options import of_source
from .phrases import snapshot_range, source_name, stamp

__all__ = ["EXAMPLE", "IS_ANSWER", "add_options", "as_text", "run"]

EXAMPLE = "backuptool find '*.pdf' --larger-than 10M --newer 2025-01-01"

IS_ANSWER = True


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command accepts."""
    option = parser.add_argument
    marks = "* stands for anything but a slash, ** for anything, ? for one character, [a-z] for one of a set"
    option("name", metavar="NAME", nargs="?", type=words, help=f"the name, in whatever directory it is; {marks}")
    option(
        "--path",
        metavar="PATTERN",
        type=words,
        help="the whole path, relative to the directory that was saved; marks as above",
    )
    option("--regex", metavar="EXPRESSION", type=words, help="a Python regular expression that occurs in the path")
    option("--kind", choices=get_args(Kind), help="what it is")
    option("--larger-than", metavar="SIZE", type=size, help="only files above this size (sizes: 4096, 500M, 10GiB)")
    option("--smaller-than", metavar="SIZE", type=size, help="only files below this size")
    when = "2025-03-30, '2025-03-30 15:30', or 36h, 7d, 2w: so long ago"
    option("--newer", metavar="TIME", type=moment, help=f"only what was modified then or later (times: {when})")
    option("--older", metavar="TIME", type=moment, help="only what was modified then or earlier")
    option(
        "--sha256",
        metavar="HASH",
        type=sha256,
        help="only files with these bytes, by the 64 digits that sha256sum prints",
    )
    option("--snapshot-number", metavar="N|latest", type=reference, help="only what this snapshot has")
    of_source(option)
    option("--limit", metavar="N", type=number_of, help="at most so many versions")


def run(repository: Repository, options: argparse.Namespace) -> FindResult:
    """Make the call."""
    return repository.find(
        options.name,
        path=options.path,
        regex=options.regex,
        kind=options.kind,
        larger_than=options.larger_than,
        smaller_than=options.smaller_than,
        newer=options.newer,
        older=options.older,
        sha256=options.sha256,
        snapshot=options.snapshot_number,
        source=options.source,
        host=options.host,
        limit=options.limit,
    )


def as_text(found: FindResult, *, verbose: bool = False) -> Iterator[str]:
    """Yield a line for each version: its snapshots, its size or kind, its time, its path; a heading for each source.

    Args:
        found: What to show.
        verbose: Add the hash, or where a symlink leads.
    """
    source = None
    for version in found:
        if (version.host, version.source) != source:
            source = version.host, version.source
            yield source_name(*source) + "\n"
        entry = version.entry
        size = f"{entry.size_bytes}" if entry.kind == "file" else entry.kind
        snapshots = snapshot_range(version.first, version.last)
        yield f"  {snapshots:<12} {size:>14}  {stamp(entry.time)}  {printable(entry.path or '.')}\n"
        detail = entry.sha256 or entry.target
        if verbose and detail is not None:
            yield f"{'':50}{printable(detail)}\n"
    if found.limited:
        yield "and more: --limit was reached\n"
