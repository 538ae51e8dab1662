"""The command ``list``."""

from __future__ import annotations

import argparse
from typing import Sequence

from backuptool import Repository, Snapshot, SnapshotList, printable

from .arguments import text
from .options import of_source
from .phrases import details, drill_text, text_of

__all__ = ["EXAMPLE", "IS_ANSWER", "add_options", "as_text", "run"]

EXAMPLE = "backuptool --db-path /mnt/disk/backups.db list"

IS_ANSWER = True

#: The columns of the table and the least number of characters each takes.
_COLUMNS = (("SNAPSHOT ID", 13), ("TIMESTAMP", 26), ("SIZE", 11), ("DISTINCT SIZE", 15))

#: The rule under the heading ends this many characters before the last column does.
_SHORTER_RULE = 5


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command accepts."""
    option = parser.add_argument
    of_source(option)
    option("--tag", metavar="TAG", type=text, help="only snapshots with this tag")


def run(repository: Repository, options: argparse.Namespace) -> SnapshotList:
    """Make the call."""
    return repository.list(source=options.source, host=options.host, tag=options.tag)


def as_text(snapshots: SnapshotList, *, verbose: bool = False) -> str:
    """Return the table of snapshots: local times, plain bytes, and the total of the distinct sizes.

    A column whose values need more than its usual width becomes wider, and the rules with it. Behind the columns of a
    snapshot that is pinned stands the word; what was alarming about one stands on lines of its own.

    Args:
        snapshots: What to show, one row each.
        verbose: Add a line under each row: host, source, files, tags, note and drill; and at the end one for each
            source that was restored for proof.
    """
    heading = tuple(name for name, _ in _COLUMNS)
    rows = [_row(snapshot) for snapshot in snapshots]
    total = ("TOTAL", "", str(snapshots.distinct_bytes))
    widths = [
        max([least, *(len(row[column]) + 1 for row in (*rows, total) if column < len(row))])
        for column, (_, least) in enumerate(_COLUMNS)
    ]
    rule = "-" * (sum(widths) - _SHORTER_RULE)
    lines = [_padded(heading, widths), rule]
    for snapshot, row in zip(snapshots, rows):
        lines.append(_padded(row, widths) + ("pinned" if snapshot.pinned else ""))
        if verbose:
            lines.append(" " * widths[0] + details(snapshot))
        lines += [
            " " * widths[0] + printable(f"{alert.kind}: {alert}") for alert in snapshot.alerts if not alert.acknowledged
        ]
    lines += [rule, _padded(total, widths)]
    if verbose:
        lines += [printable(f"{drill.host}:{drill.source}: last {drill_text(drill)}") for drill in snapshots.drills]
    return text_of(lines)


def _row(snapshot: Snapshot) -> tuple[str, ...]:
    moment = snapshot.time.replace(tzinfo=None).isoformat(sep=" ", timespec="seconds")
    return str(snapshot.id), moment, str(snapshot.size_bytes), str(snapshot.distinct_bytes)


def _padded(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "".join(cell.ljust(width) for cell, width in zip(cells, widths))
