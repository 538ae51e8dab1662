"""From samples to figures: medians over the repeats, for each row and program."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from .plan import Operation
from .runner import Result, Sample

__all__ = ["Figure", "figures", "rows_of"]


@dataclass(frozen=True)
class Figure:
    """What an operation costs a program: medians over the repeats, each the sum over the row's steps in that repeat.

    Attributes:
        operation: What was done.
        repeats: How many repeats count.
        wall_seconds: Median wall time.
        fastest_seconds: The shortest.
        slowest_seconds: The longest.
        cpu_seconds: Median of user and system time.
        peak_bytes: Median of the peak memory of the largest process.
        floor_bytes: A peak not above this cannot be told apart from the launcher's own.
        repository_bytes: Median size of the repository afterwards.
        grown_bytes: Median of how much of that is new.
        cache_bytes: Median size of what is kept outside the repository.
        warnings: Whether the program ended with a warning's exit status.
    """

    operation: Operation
    repeats: int
    wall_seconds: float
    fastest_seconds: float
    slowest_seconds: float
    cpu_seconds: float
    peak_bytes: int
    floor_bytes: int
    repository_bytes: int
    grown_bytes: int
    cache_bytes: int
    warnings: bool


def figures(result: Result) -> dict[tuple[str, str], Figure | None]:
    """Return the figure for each (title, program); None where the program failed in any repeat."""
    grouped: dict[tuple[str, str], dict[int, list[Sample]]] = {}
    for sample in result.samples:
        grouped.setdefault((sample.title, sample.program), {}).setdefault(sample.repeat, []).append(sample)
    return {key: _figure(list(repeats.values())) for key, repeats in grouped.items()}


def rows_of(result: Result) -> list[str]:
    """Return the titles, in the order of the plan."""
    return list(dict.fromkeys(sample.title for sample in result.samples))


def _figure(repeats: list[list[Sample]]) -> Figure | None:
    if any(sample.fault for samples in repeats for sample in samples):
        return None
    walls = [sum(sample.measurement.wall_seconds for sample in samples) for samples in repeats]
    peaks = [max(sample.measurement.peak_bytes for sample in samples) for samples in repeats]
    return Figure(
        operation=repeats[0][0].operation,
        repeats=len(repeats),
        wall_seconds=statistics.median(walls),
        fastest_seconds=min(walls),
        slowest_seconds=max(walls),
        cpu_seconds=statistics.median(sum(sample.measurement.cpu_seconds for sample in samples) for samples in repeats),
        peak_bytes=int(statistics.median(peaks)),
        floor_bytes=max(sample.measurement.floor_bytes for samples in repeats for sample in samples),
        repository_bytes=int(statistics.median(samples[-1].repository_bytes for samples in repeats)),
        grown_bytes=int(statistics.median(sum(sample.grown_bytes for sample in samples) for samples in repeats)),
        cache_bytes=int(statistics.median(samples[-1].cache_bytes for samples in repeats)),
        warnings=any(sample.measurement.exit_status for samples in repeats for sample in samples),
    )
