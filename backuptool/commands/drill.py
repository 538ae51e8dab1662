"""The command ``drill``."""

from __future__ import annotations

import argparse

from backuptool import DrillResult, Repository, format_size

from .arguments import number_of, path, sample
from .options import snapshot_number
from .phrases import count, details, duration, problem_count, text_of
from .process import keep_memory, wants_bar

__all__ = ["EXAMPLE", "LEAVES_FILES", "add_options", "as_text", "run"]

EXAMPLE = "backuptool drill --snapshot-number latest --sample 5% --scratch-directory /mnt/disk"

LEAVES_FILES = True


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command accepts."""
    option = parser.add_argument
    snapshot_number(option)
    option(
        "--sample",
        metavar="N|N%|all",
        type=sample,
        default=None,
        help="restore so many files, or such a share of them, drawn at random (default: all)",
    )
    option(
        "--scratch-directory",
        metavar="DIRECTORY",
        type=path,
        help="where a directory is made to restore into, and removed again (default: that for temporary files)",
    )
    option("--seed", metavar="N", type=number_of, help="draw the same files as a drill that told this seed")


def run(repository: Repository, options: argparse.Namespace) -> DrillResult:
    """Make the call."""
    keep_memory()
    return repository.drill(
        options.snapshot_number,
        sample=options.sample,
        scratch=options.scratch_directory,
        seed=options.seed,
        progress=wants_bar(options),
    )


def as_text(result: DrillResult, *, verbose: bool = False) -> str:
    """Return what the drill found, in two or more lines."""
    drill = result.drill
    verdict = "came back as saved" if drill.ok else f"{drill.failed_files:,} did not come back as saved"
    lines = [
        f"Snapshot {drill.snapshot} restored for trial: {verdict}",
        f"  {'all' if drill.complete else 'a sample of'} {count(drill.files, 'file')}, "
        f"{format_size(drill.size_bytes)}, compared; in {duration(result.elapsed_seconds)}",
    ]
    if verbose:
        lines += ["  " + details(result.snapshot), f"  seed {result.seed}"]
    if not result.recorded:
        lines.append("  The outcome could not be recorded")
    return text_of(lines + problem_count(result.problems))
