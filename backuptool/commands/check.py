"""The command ``check``."""

from __future__ import annotations

import argparse

from backuptool import CheckResult, Repository, format_size

from .arguments import number
from .phrases import count, duration, text_of
from .process import keep_memory, wants_bar

__all__ = ["EXAMPLE", "add_options", "as_text", "run"]

EXAMPLE = "backuptool check --quick"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command accepts."""
    parser.add_argument("--quick", action="store_true", help="check the catalog alone and leave the data unread")
    parser.add_argument(
        "--expect-at-least",
        metavar="N",
        type=number,
        help="number of a snapshot that was taken: name it a problem if the repository is older than that",
    )


def run(repository: Repository, options: argparse.Namespace) -> CheckResult:
    """Make the call."""
    keep_memory()
    return repository.check(quick=options.quick, expect_at_least=options.expect_at_least, progress=wants_bar(options))


def as_text(result: CheckResult, *, verbose: bool = False) -> str:
    """Return what checking found, in two lines."""
    read = "the data was not read" if result.quick else f"{format_size(result.read_bytes)} read"
    return text_of(
        [
            "No problems found" if result.ok else f"{count(len(result.problems), 'problem')} found",
            f"  {count(result.snapshots, 'snapshot')}, {count(result.files, 'file version')}, "
            f"{count(result.contents, 'content')}, {count(result.packs, 'pack')}; {read}; "
            f"in {duration(result.elapsed_seconds)}",
        ]
    )
