"""Markdown out of results: what a reader wants to know first (how many times as fast), then all the figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Optional, Sequence, Tuple

from .figures import Figure, figures, rows_of
from .plan import Operation
from .runner import Result

__all__ = ["Context", "section"]

Cells = Dict[Tuple[str, str], Optional[Figure]]


@dataclass(frozen=True)
class Context:
    """What all data sets of a run have in common.

    Attributes:
        machine: What it ran on.
        python: Which Python ran the first program, if that is one.
        missing: Programs that were asked for and are not installed.
        repeats: How many times everything was done.
    """

    machine: str
    python: str
    missing: tuple[str, ...]
    repeats: int


def section(result: Result, context: Context, title: str | None = None) -> str:
    """Return the report of one data set: a heading (its name, if no title is given), a paragraph and the tables.

    The first program is the one that the others are compared with: a ratio of times above 1 is in its favour, and so is
    a share of sizes below 1.
    """
    cells, titles = figures(result), rows_of(result)
    present = [program for program in result.programs if any(key[1] == program for key in cells)]
    if not present:
        return f"### {title or result.name}\n\nNothing was measured.\n"
    parts = [
        f"### {title or result.name}",
        _introduction(result, context, present),
        f"How many times as fast {present[0]} is as each other program (whose time is beside it):",
        _times(cells, titles, present),
        f"What {present[0]} needs as a share of what each other program does:",
        _space(cells, titles, present),
        "All figures:",
        _details(cells, titles, present),
        _faults(result),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def seconds(value: float) -> str:
    """Return a time with three digits: ``0.045 s``, ``5.90 s``, ``162 s``."""
    digits = 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f} s"


def size(size_bytes: int) -> str:
    """Return a size with three digits in units of thousands: ``512 B``, ``1.50 kB``, ``695 MB``."""
    if abs(size_bytes) < 1000:
        return f"{size_bytes} B"
    value, unit = size_bytes / 1e3, "kB"
    for larger in ("MB", "GB"):
        if abs(value) >= 1000:
            value, unit = value / 1e3, larger
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{digits}f} {unit}"


def times(other: float, own: float) -> str:
    """Return how many times as large the other value is, with a multiplication sign; a dash where that says nothing."""
    if own <= 0:
        return "-"
    value = other / own
    digits = 3 if value < 0.1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f}\u00d7"


def share(own_bytes: int, other_bytes: int) -> str:
    """Return one size as a share of another, ``0.67 of 695 MB``; only the other one where that says nothing."""
    if other_bytes <= 0 or own_bytes < 0:
        return size(other_bytes)
    return f"{own_bytes / other_bytes:.2f} of {size(other_bytes)}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int) -> str:
    """Return a Markdown table.

    Args:
        header: The column titles.
        rows: The cells, as many in each row as there are titles.
        left: How many columns are aligned to the left; the others hold figures.
    """
    rule = ["---" if column < left else "--:" for column in range(len(header))]
    lines = [header, rule, *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def _introduction(result: Result, context: Context, present: Sequence[str]) -> str:
    order = {
        "operation": "each operation by all programs before the next",
        "program": "each program by itself on data built again",
    }
    sentences = [
        f"{result.description[0].upper()}{result.description[1:]}.",
        f"At first {result.entries:,} {'entry' if result.entries == 1 else 'entries'}, {size(result.size_bytes)}.",
        f"{f'Medians of {context.repeats}' if context.repeats > 1 else 'One run only'}, {order[result.order]}.",
        f"{context.machine}; {context.python}.",
        f"Programs: {', '.join(present)}.",
    ]
    if context.missing:
        sentences.append(f"Not installed and left out: {', '.join(context.missing)}.")
    return " ".join(sentences)


def _times(cells: Cells, titles: Sequence[str], present: Sequence[str]) -> str:
    rows = []
    for title in titles:
        own = cells.get((title, present[0]))
        row = [title]
        for program in present:
            figure = cells.get((title, program))
            if figure is None:
                row.append("failed" if (title, program) in cells else "")
            elif program == present[0] or own is None:
                row.append(seconds(figure.wall_seconds))
            else:
                row.append(f"{times(figure.wall_seconds, own.wall_seconds)} ({seconds(figure.wall_seconds)})")
        rows.append(row)
    return table(["operation", *present], rows, left=1)


def _space(cells: Cells, titles: Sequence[str], present: Sequence[str]) -> str:
    """Return the table of sizes: the repository's, what each row adds to it, what a prune leaves, and the memory."""
    rows = []
    for title in titles:
        known = [figure for (row, _), figure in cells.items() if row == title and figure is not None]
        if known and known[0].operation.writes:
            added = known[0].operation in (Operation.UNCHANGED, Operation.CHANGED)
            figures_of_row = [cells.get((title, program)) for program in present]
            values = [_stored(figure, added=added) for figure in figures_of_row]
            rows.append([f"added by {title}" if added else f"size after {title}", *_shares(values)])
    rows.append(["peak memory, at its largest", *_shares([_peak(cells, program) for program in present])])
    return table(["space", *present], rows, left=1)


def _stored(figure: Figure | None, *, added: bool) -> int | None:
    if figure is None or not figure.repository_bytes:
        return None
    return figure.grown_bytes if added else figure.repository_bytes


def _peak(cells: Cells, program: str) -> int | None:
    """Return the most memory that any operation took, if it is more than can be told apart from nothing."""
    own = [figure for (_, other), figure in cells.items() if other == program and figure is not None]
    return max((figure.peak_bytes for figure in own if figure.peak_bytes > figure.floor_bytes), default=None)


def _shares(values: Sequence[int | None]) -> list[str]:
    """Return the first value, and each other one with the first as a share of it."""
    own = values[0]
    cells = ["" if own is None else size(own)]
    return [*cells, *(_share_or_size(own, value) for value in values[1:])]


def _share_or_size(own: int | None, value: int | None) -> str:
    if value is None:
        return ""
    return size(value) if own is None else share(own, value)


def _details(cells: Cells, titles: Sequence[str], present: Sequence[str]) -> str:
    header = ["operation", "program", "wall", "range", "CPU", "peak memory", "repository", "cache"]
    rows = []
    for title in titles:
        for program in present:
            figure = cells.get((title, program))
            if figure is not None:
                rows.append([title, program, *_detail(figure)])
    return table(header, rows, left=2)


def _detail(figure: Figure) -> list[str]:
    spread = f"{seconds(figure.fastest_seconds)[:-2]} to {seconds(figure.slowest_seconds)}"
    peak = f"< {size(figure.floor_bytes)}" if figure.peak_bytes <= figure.floor_bytes else size(figure.peak_bytes)
    return [
        seconds(figure.wall_seconds) + (" (with warnings)" if figure.warnings else ""),
        spread if figure.repeats > 1 else "",
        seconds(figure.cpu_seconds),
        peak,
        size(figure.repository_bytes) if figure.operation.writes and figure.repository_bytes else "",
        size(figure.cache_bytes) if figure.operation.writes and figure.cache_bytes else "",
    ]


def _faults(result: Result) -> str:
    """Return a line for each thing that went wrong: its first words, the whole is told while it runs."""
    lines = [
        f"- {sample.title}, {sample.program}: failed ({sample.fault.split(':')[0]})"
        for sample in result.samples
        if sample.fault
    ]
    return "\n".join(dict.fromkeys(lines))
