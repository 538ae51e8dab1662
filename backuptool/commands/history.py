"""The command ``history``."""

from __future__ import annotations

import argparse
from typing import Iterator

from backuptool import History, HistoryVersion, Repository, printable

from .arguments import path
from .options import of_source
from .phrases import snapshot_range, source_name, stamp

__all__ = ["EXAMPLE", "IS_ANSWER", "add_options", "as_text", "run"]

EXAMPLE = "backuptool history drafts/plan.txt"

IS_ANSWER = True

_HEADING = f"{'SNAPSHOTS':<15}{'FIRST TAKEN':<21}{'SIZE':>14}  {'MODIFIED':<21}WHAT\n"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command accepts."""
    option = parser.add_argument
    where = (
        "the file or directory: relative to the directory that was saved, or with a slash or ~ in front as it is here"
    )
    option("path", metavar="PATH", type=path, help=where)
    of_source(option)


def run(repository: Repository, options: argparse.Namespace) -> History:
    """Make the call."""
    return repository.history(options.path, source=options.source, host=options.host)


def as_text(history: History, *, verbose: bool = False) -> Iterator[str]:
    """Yield a line for each version, and one for where the path went away; a heading for each source.

    Args:
        history: What to show.
        verbose: Add the hash, or where a symlink leads.
    """
    source = None
    for version in history:
        if (version.host, version.source) != source:
            source = version.host, version.source
            yield source_name(*source) + "\n"
            yield _HEADING
        yield _line(version)
        detail = version.entry.sha256 or version.entry.target
        if verbose and detail is not None:
            yield f"{'':15}{printable(detail)}\n"
        if version.removed_in is not None:
            gone = f"{version.removed_in:<15}{'':<37}{'':<21}gone"
            yield f"{gone}{_paths(', its content is in ', version.moved_to)}\n"


def _line(version: HistoryVersion) -> str:
    entry = version.entry
    size = f"{entry.size_bytes}" if entry.kind == "file" else entry.kind
    what = version.event.replace("-", " ")
    if version.changes:
        what += f": {', '.join(version.changes)}"
    return (
        f"{snapshot_range(version.first, version.last):<14} {stamp(version.first_time):<21}{size:>14}  "
        f"{stamp(entry.time):<21}{what}{_paths(', from ', version.moved_from)}\n"
    )


def _paths(words: str, paths: tuple[str, ...]) -> str:
    return words + printable(", ".join(paths)) if paths else ""
