"""The command ``prune``."""

from __future__ import annotations

import argparse

from backuptool import PruneResult, Repository, format_size

from .arguments import number
from .phrases import count, details, dry_run_note, duration, exact_size, problem_count, snapshot_numbers, text_of
from .process import wants_bar

__all__ = ["EXAMPLE", "add_options", "as_text", "run"]

EXAMPLE = "backuptool prune --snapshot 1 2 --dry-run"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command accepts."""
    option = parser.add_argument
    option(
        "--snapshot",
        metavar="N",
        type=number,
        nargs="+",
        action="extend",
        default=[],
        help="the snapshots to remove; without it, only leftovers of interrupted snapshots are removed",
    )
    option("--dry-run", action="store_true", help="tell what would be removed and freed, and change nothing")


def run(repository: Repository, options: argparse.Namespace) -> PruneResult:
    """Make the call."""
    return repository.prune(options.snapshot, dry_run=options.dry_run, progress=wants_bar(options))


def as_text(result: PruneResult, *, verbose: bool = False) -> str:
    """Return what pruning removed, or would remove, in three to six lines."""
    word = "Would remove" if result.dry_run else "Removed"
    numbers = snapshot_numbers([snapshot.id for snapshot in result.snapshots])
    repacked = f"{count(result.repacked_packs, 'pack')} packed again; " if result.repacked_packs else ""
    lines = [
        f"{word} {numbers or 'leftovers of interrupted snapshots'}",
        f"  {count(result.removed_contents, 'content')}, {format_size(result.removed_bytes)}; "
        f"{count(result.removed_versions, 'file version')}; {repacked}in {duration(result.elapsed_seconds)}",
        f"  {exact_size(result.freed_bytes)} {'would be freed' if result.dry_run else 'freed'}, the repository "
        f"{'would then have' if result.dry_run else 'now has'} {exact_size(result.repository_bytes)}",
    ]
    if verbose:
        lines += [f"  {snapshot.id}: {details(snapshot)}" for snapshot in result.snapshots]
    return text_of(lines + problem_count(result.problems) + dry_run_note(result.dry_run))
