"""The command ``diff``."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any, Iterator, Union

from backuptool import Diff, Difference, Repository, Result, Snapshot, SnapshotNotFoundError, format_size, printable

from .arguments import SEVERAL, path, reference
from .phrases import count, problem_count
from .process import is_terminal, wants_bar

__all__ = ["EXAMPLE", "IS_ANSWER", "add_options", "as_bytes", "as_text", "run"]

EXAMPLE = "backuptool diff 1 2"

IS_ANSWER = True


class TextDiff(Result):
    """A unified diff of one file."""

    def __init__(self, text: str) -> None:
        self.text = text

    def to_dict(self) -> dict[str, Any]:
        """Return the text."""
        return {"text": self.text}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command accepts."""
    option = parser.add_argument
    option(
        "old",
        metavar="OLD",
        nargs="?",
        type=reference,
        help="a snapshot, by its number, or latest~1 (the default) for the last but one of the same directory",
    )
    option(
        "new", metavar="NEW", nargs="?", type=reference, help="another one (default: the newest of the same directory)"
    )
    against = "compare OLD (by default the newest snapshot of it, else latest) with what is in this"
    either = parser.add_mutually_exclusive_group().add_argument
    either("--directory", metavar="DIRECTORY", type=path, help=against)
    option("--quick", action="store_true", help="with --directory: compare sizes and times, and leave the files unread")
    option(
        "--exclude",
        metavar="PATTERN",
        **SEVERAL,
        help="with --directory: leave out what matches; may be given several times",
    )
    option("--path", metavar="PATH", type=path, help="only this file, or what is below this directory")
    either("--text", metavar="FILE", type=path, help="show how the lines of this file changed, as a unified diff")


def run(repository: Repository, options: argparse.Namespace) -> Union[Diff, TextDiff]:
    """Make the call."""
    if options.directory is not None:
        if options.new is not None:
            raise argparse.ArgumentTypeError("a directory is compared with one snapshot; leave the second one out")
        return repository.compare(
            options.old or _newest_of(repository, options.directory),
            options.directory,
            content=not options.quick,
            exclude=options.exclude,
            progress=wants_bar(options),
        )
    old = options.old or "latest~1"
    if options.text is not None:
        return TextDiff(repository.text_diff(old, options.new, options.text))
    return repository.diff(old, options.new, path=options.path or "")


def _newest_of(repository: Repository, directory: str) -> Union[Snapshot, str]:
    """Return the newest snapshot of a directory; where there is none, as of a restored copy, the newest one."""
    try:
        return repository.tree(f"latest:{os.path.abspath(os.path.expanduser(directory))}").snapshot
    except SnapshotNotFoundError:
        return "latest"


def as_bytes(result: Union[Diff, TextDiff]) -> Union[Iterator[bytes], None]:
    """Return a unified diff for a program: exactly what patch wants to read."""
    if isinstance(result, TextDiff) and not is_terminal(sys.stdout):
        return iter([result.text.encode("utf-8", "surrogateescape")])
    return None


def as_text(result: Union[Diff, TextDiff], *, verbose: bool = False) -> Iterator[str]:
    """Yield a line for each difference, then how many there were.

    Args:
        result: What to show.
        verbose: Also directories in which nothing but the time differs.
    """
    if isinstance(result, TextDiff):
        for line in result.text.split("\n")[:-1]:
            yield "\t".join(map(printable, line.split("\t"))) + "\n"
        return
    for difference in result:
        if verbose or not _is_trifle(difference):
            yield _line(difference)
    new = printable(result.directory or "") if result.new is None else f"snapshot {result.new.id}"
    yield f"Snapshot {result.old.id} to {new}:\n"
    yield (
        f"  {result.added_files:,} added, {format_size(result.added_bytes)}; "
        f"{result.removed_files:,} removed, {format_size(result.removed_bytes)}; "
        f"{result.changed_files:,} changed, {format_size(result.changed_bytes)}; {result.moved_files:,} moved\n"
    )
    if result.new is None:
        yield f"  {count(result.read_files, 'file')} read and compared, {format_size(result.read_bytes)}\n"
    yield from (f"{line}\n" for line in problem_count(result.problems))


def _is_trifle(difference: Difference) -> bool:
    new = difference.new
    return difference.changes == ("mtime",) and new is not None and new.kind == "directory"


def _line(difference: Difference) -> str:
    entry = difference.new or difference.old
    mark = "/" if entry is not None and entry.kind == "directory" else ""
    name = printable(difference.path or ".") + mark
    if difference.status == "moved" and difference.old is not None:
        name = f"{printable(difference.old.path)}{mark} -> {name}"
    changes = f" ({', '.join(difference.changes)})" if difference.changes else ""
    return f"{difference.status:<8} {name}{changes}\n"
