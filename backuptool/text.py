"""How results look as text: the table of ``list`` and the few lines that every other command ends with.

Pure functions from results to text without control characters. Printing it, JSON and exit codes are left to ``cli``.
"""

from __future__ import annotations

from typing import Sequence

from backuptool import (
    CheckResult,
    Problem,
    PruneResult,
    RestoreResult,
    SkippedFile,
    Snapshot,
    SnapshotList,
    SnapshotResult,
    format_size,
    printable,
)

__all__ = [
    "check_text",
    "duration",
    "list_text",
    "problem_text",
    "prune_text",
    "restore_text",
    "skipped_text",
    "snapshot_text",
]

#: The columns of the table and the least number of characters each takes.
_COLUMNS = (("SNAPSHOT ID", 13), ("TIMESTAMP", 26), ("SIZE", 11), ("DISTINCT SIZE", 15))

#: The rule under the heading ends this many characters before the last column does.
_SHORTER_RULE = 5


def list_text(snapshots: SnapshotList, *, verbose: bool = False) -> str:
    """Return the table of snapshots: local times, plain bytes, and the total of the distinct sizes.

    A column whose values need more than its usual width becomes wider, and the rules with it.

    Args:
        snapshots: What to show, one row each.
        verbose: Add a line under each row: host, source, files, tags and note.
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
        lines.append(_padded(row, widths))
        if verbose:
            lines.append(" " * widths[0] + _details(snapshot))
    lines += [rule, _padded(total, widths)]
    return _text(lines)


def _row(snapshot: Snapshot) -> tuple[str, ...]:
    moment = snapshot.time.replace(tzinfo=None).isoformat(sep=" ", timespec="seconds")
    return str(snapshot.id), moment, str(snapshot.size_bytes), str(snapshot.distinct_bytes)


def _padded(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "".join(cell.ljust(width) for cell, width in zip(cells, widths))


def _details(snapshot: Snapshot) -> str:
    parts = [f"{snapshot.host}:{snapshot.source}", _count(snapshot.files, "file")]
    if snapshot.skipped_files:
        parts.append(f"{snapshot.skipped_files:,} skipped")
    if snapshot.problem_files:
        parts.append(f"{snapshot.problem_files:,} not saved")
    if snapshot.tags:
        parts.append("tags: " + " ".join(snapshot.tags))
    if snapshot.note:
        parts.append("note: " + snapshot.note)
    return printable(", ".join(parts))


def snapshot_text(result: SnapshotResult, *, verbose: bool = False) -> str:
    """Return what taking a snapshot did, in three or four lines."""
    snapshot = result.snapshot
    lines = [
        f"Snapshot {snapshot.id} saved: {printable(snapshot.source)}",
        f"  {_count(snapshot.files, 'file')}, {format_size(snapshot.size_bytes)}: {result.new_files:,} new, "
        f"{result.changed_files:,} changed, {result.unchanged_files:,} unchanged, {result.removed_files:,} removed",
        f"  {format_size(result.read_bytes)} read, {format_size(result.new_bytes)} new, "
        f"{format_size(result.stored_bytes)} stored, in {duration(result.elapsed_seconds)}",
    ]
    if verbose:
        lines += ["  " + _details(snapshot), f"  digest {snapshot.digest}"]
    if result.skipped_files:
        lines.append(f"  {_count(result.skipped_files, 'file')} skipped because of the size")
    return _text(lines + _problem_count(result.problems))


def restore_text(result: RestoreResult, *, verbose: bool = False) -> str:
    """Return what restoring did, or would do, in two to six lines."""
    written = "would be written" if result.dry_run else "written"
    lines = [
        f"Snapshot {result.snapshot.id} {'would be restored' if result.dry_run else 'restored'} to "
        + printable(result.destination),
        f"  {_count(result.restored_files, 'file')} {written}, {format_size(result.written_bytes)}; "
        f"{_count(result.unchanged_files, 'file')} already there; in {duration(result.elapsed_seconds)}",
    ]
    if verbose:
        directories = _count(result.restored_directories, "directory", "directories")
        lines += ["  " + _details(result.snapshot), f"  {directories} {written}"]
    if result.deleted_files:
        lines.append(f"  {result.deleted_files:,} extra {'would be deleted' if result.dry_run else 'deleted'}")
    if result.verified_files:
        lines.append(f"  {_count(result.verified_files, 'file')} read back and compared")
    return _text(lines + _problem_count(result.problems) + _dry_run(result.dry_run))


def prune_text(result: PruneResult, *, verbose: bool = False) -> str:
    """Return what pruning removed, or would remove, in three to six lines."""
    word = "Would remove" if result.dry_run else "Removed"
    numbers = _numbers([snapshot.id for snapshot in result.snapshots])
    repacked = f"{_count(result.repacked_packs, 'pack')} packed again; " if result.repacked_packs else ""
    lines = [
        f"{word} {numbers or 'leftovers of interrupted snapshots'}",
        f"  {_count(result.removed_contents, 'content')}, {format_size(result.removed_bytes)}; "
        f"{_count(result.removed_versions, 'file version')}; {repacked}in {duration(result.elapsed_seconds)}",
        f"  {_exact(result.freed_bytes)} {'would be freed' if result.dry_run else 'freed'}, the repository "
        f"{'would then have' if result.dry_run else 'now has'} {_exact(result.repository_bytes)}",
    ]
    if verbose:
        lines += [f"  {snapshot.id}: {_details(snapshot)}" for snapshot in result.snapshots]
    return _text(lines + _problem_count(result.problems) + _dry_run(result.dry_run))


def check_text(result: CheckResult, *, verbose: bool = False) -> str:
    """Return what checking found, in two lines."""
    read = "the data was not read" if result.quick else f"{format_size(result.read_bytes)} read"
    return _text(
        [
            "No problems found" if result.ok else f"{_count(len(result.problems), 'problem')} found",
            f"  {_count(result.snapshots, 'snapshot')}, {_count(result.files, 'file version')}, "
            f"{_count(result.contents, 'content')}, {_count(result.packs, 'pack')}; {read}; "
            f"in {duration(result.elapsed_seconds)}",
        ]
    )


def problem_text(problem: Problem, *, verbose: bool = False) -> str:
    """Return a problem in one line: its kind, the file, what happened, and the snapshots that are hurt."""
    text = f"{problem.kind}: {problem}"
    if problem.count > 1:
        text += f" ({problem.count:,} files)"
    if problem.snapshots:
        text += f" (in {_numbers(problem.snapshots)})"
    if verbose and problem.content is not None:
        text += f" (content {problem.content})"
    return printable(text)


def skipped_text(skipped: SkippedFile) -> str:
    """Return a file that was left out because of its size, in one line."""
    return printable(f"{skipped.path}: {format_size(skipped.size_bytes)}, {skipped.reason}")


def duration(seconds: float) -> str:
    """Return a time span for people: ``"0.04 s"``, ``"59.9 s"``, ``"2 min 5 s"``, ``"1 h 0 min"``."""
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _text(lines: Sequence[str]) -> str:
    return "\n".join(lines) + "\n"


def _count(number: int, noun: str, nouns: str = "") -> str:
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def _numbers(ids: Sequence[int]) -> str:
    if not ids:
        return ""
    return f"{'snapshot' if len(ids) == 1 else 'snapshots'} {', '.join(str(number) for number in ids)}"


def _exact(size_bytes: int) -> str:
    exact = _count(size_bytes, "byte")
    return exact if abs(size_bytes) < 1024 else f"{exact} ({format_size(size_bytes)})"


def _problem_count(problems: Sequence[Problem]) -> list[str]:
    return [f"  {_count(len(problems), 'problem')}, named on standard error"] if problems else []


def _dry_run(dry_run: bool) -> list[str]:
    return ["  Dry run: nothing was changed"] if dry_run else []
