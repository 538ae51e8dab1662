"""The command ``stats``."""

from __future__ import annotations

import argparse
from typing import Iterator, Sequence

from backuptool import Repository, SnapshotStats, Stats, format_size, printable

from .arguments import number_of
from .options import of_source
from .phrases import count, drill_text, exact_size, text_of

__all__ = ["EXAMPLE", "add_options", "as_text", "run"]

EXAMPLE = "backuptool stats --top 20"

_HEADING = ("SNAPSHOT", "TIMESTAMP", "SIZE", "DISTINCT", "STORED", "EXCLUSIVE", "ADDED", "ENDED")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command accepts."""
    option = parser.add_argument
    of_source(option)
    option("--top", metavar="N", type=number_of, default=10, help="how many files to name (default: 10)")


def run(repository: Repository, options: argparse.Namespace) -> Stats:
    """Make the call."""
    return repository.stats(source=options.source, host=options.host, top=options.top)


def as_text(stats: Stats, *, verbose: bool = False) -> str:
    """Return the totals, a table of the snapshots of each source, and the files that stand out."""
    packs = stats.packs
    lines = [
        f"{count(len(stats.snapshots), 'snapshot')} of {count(len(stats.sources), 'source')}, repository "
        f"{exact_size(stats.repository_bytes)}",
        f"  {format_size(stats.size_bytes)} as plain copies, {format_size(stats.contents_bytes)} deduplicated, "
        f"{format_size(packs.stored_bytes)} compressed",
        f"  {count(packs.packs, 'pack')}, {packs.fill:.0%} in use, {packs.half_empty_packs:,} less than half; "
        f"{format_size(stats.free_bytes)} free; {format_size(stats.unreferenced_bytes)} left by interrupted snapshots",
    ]
    for source in stats.sources:
        name = printable(f"{source.host}:{source.source}")
        lines.append(
            f"{name}: {format_size(source.size_bytes)} as plain copies, {format_size(source.distinct_bytes)} distinct, "
            f"{format_size(source.stored_bytes)} stored"
        )
        lines += [f"  last {drill_text(source.drill)}"] if source.drill else []
        wanted = (source.host, source.source)
        group = [each for each in stats.snapshots if (each.snapshot.host, each.snapshot.source) == wanted]
        lines += _table([_HEADING, *map(_row, group)])
    lines += ["Largest files"] if stats.largest_files else []
    for file in stats.largest_files:
        lines.append(f"  {format_size(file.size_bytes):>10}  {printable(file.path)} (snapshot {file.snapshot})")
    lines += ["Files that changed most"] if stats.most_changed_files else []
    for changed in stats.most_changed_files:
        versions = count(changed.past_versions, "past version")
        lines.append(f"  {format_size(changed.past_bytes):>10}  {printable(changed.path)} ({versions})")
    return text_of(lines)


def _row(stats: SnapshotStats) -> tuple[str, ...]:
    snapshot = stats.snapshot
    sizes = (snapshot.size_bytes, snapshot.distinct_bytes, stats.stored_bytes, stats.exclusive_bytes)
    texts = map(format_size, (*sizes, stats.added_bytes, stats.ended_bytes))
    return (str(snapshot.id), f"{snapshot.time:%Y-%m-%d %H:%M:%S}", *texts)


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the rows with their columns aligned, sizes to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        cells = [
            cell.ljust(width) if number < 2 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths))
        ]
        yield ("  " + "  ".join(cells)).rstrip()
