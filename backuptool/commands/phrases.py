"""How commands say things: counts, sizes, durations, problems. Text without control characters.

Owns what the texts of several commands have in common.
"""

from __future__ import annotations

import datetime
import re
from typing import Sequence

from backuptool import Drill, Problem, Snapshot, format_size, printable

__all__ = [
    "count",
    "details",
    "drill_text",
    "dry_run_note",
    "duration",
    "exact_size",
    "problem_count",
    "problem_text",
    "snapshot_numbers",
    "snapshot_range",
    "source_name",
    "stamp",
    "text_of",
]


def details(snapshot: Snapshot) -> str:
    """Return what there is to say of a snapshot beside its time and sizes, in one line."""
    parts = [f"{snapshot.host}:{snapshot.source}", count(snapshot.files, "file")]
    if snapshot.skipped_files:
        parts.append(f"{snapshot.skipped_files:,} skipped")
    if snapshot.problem_files:
        parts.append(f"{snapshot.problem_files:,} with problems")
    if snapshot.pinned:
        parts.append("pinned")
    parts += [f"{alert.kind} acknowledged" for alert in snapshot.alerts if alert.acknowledged]
    if snapshot.tags:
        parts.append("tags: " + " ".join(snapshot.tags))
    if snapshot.note:
        parts.append("note: " + snapshot.note)
    if snapshot.drill is not None:
        parts.append(drill_text(snapshot.drill))
    return printable(", ".join(parts))


def drill_text(drill: Drill) -> str:
    """Return when something was restored for trial, how much of it, and what came of it."""
    scope = "" if drill.complete else f" by a sample of {count(drill.files, 'file')}"
    verdict = "proven restorable" if drill.ok else f"not restorable as saved ({drill.failed_files:,} failed)"
    return f"{verdict}{scope} on {drill.time:%Y-%m-%d %H:%M:%S}"


def problem_text(problem: Problem, *, verbose: bool = False) -> str:
    """Return a problem in one line: its kind, the file, what happened, and the snapshots that are hurt."""
    text = f"{problem.kind}: {problem}"
    files = f"{problem.count:,} files"
    if problem.count > 1 and files not in problem.message:
        text += f" ({files})"
    said = len(problem.snapshots) == 1 and re.search(rf"\bsnapshot {problem.snapshots[0]}\b", problem.message)
    if problem.snapshots and not said:
        text += f" (in {snapshot_numbers(problem.snapshots)})"
    if verbose and problem.content is not None:
        text += f" (content {problem.content})"
    return printable(text)


def duration(seconds: float) -> str:
    """Return a time span for people: ``"0.04 s"``, ``"59.9 s"``, ``"2 min 5 s"``, ``"1 h 0 min"``."""
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def text_of(lines: Sequence[str]) -> str:
    """Return lines as text."""
    return "\n".join(lines) + "\n"


def count(number: int, noun: str, nouns: str = "") -> str:
    """Return a number with its noun."""
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def snapshot_numbers(ids: Sequence[int]) -> str:
    """Return ``snapshots 1, 2``, nothing for none."""
    if not ids:
        return ""
    return f"{'snapshot' if len(ids) == 1 else 'snapshots'} {', '.join(str(number) for number in ids)}"


def snapshot_range(first: int, last: int) -> str:
    """Return ``3``, or ``3 to 7``."""
    return f"{first}" if first == last else f"{first} to {last}"


def source_name(host: str, source: str) -> str:
    """Return a source in one line."""
    return printable(f"{host}:{source}")


def stamp(moment: datetime.datetime) -> str:
    """Return a time as a table shows it: to the second."""
    return moment.replace(tzinfo=None, microsecond=0).isoformat(sep=" ")


def exact_size(size_bytes: int) -> str:
    """Return a size to the byte, and for people."""
    exact = count(size_bytes, "byte")
    return exact if abs(size_bytes) < 1024 else f"{exact} ({format_size(size_bytes)})"


def problem_count(problems: Sequence[Problem]) -> list[str]:
    """Return the line that tells how many problems there were, none if there were none."""
    return [f"  {count(len(problems), 'problem')}, named on standard error"] if problems else []


def dry_run_note(dry_run: bool) -> list[str]:
    """Return the line that a dry run ends with."""
    return ["  Dry run: nothing was changed"] if dry_run else []
