"""Restore drills: what was proven when, and what doing one found."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

import attrs

from .presentation import Result, count, format_size, local_time
from .problem import Problem, problem_tail

if TYPE_CHECKING:
    from .snapshot import Snapshot

__all__ = ["Drill", "DrillResult"]


@attrs.frozen(kw_only=True, repr=False)
class Drill(Result):
    """A restore that was done for proof.

    Attributes:
        host: Name of the machine that the snapshot was taken on.
        source: Absolute path of the directory that was saved.
        snapshot: Number of the snapshot; it may have been pruned since.
        finished_ns: When it was done, ns since 1970 UTC.
        files: Number of files restored and compared. "Files" are all entries that are not directories.
        size_bytes: Bytes of these files, each path counted.
        failed_files: Number of files and directories that did not come back as they were saved.
        complete: True if all files of the snapshot were restored, False if a sample was, or the scratch directory could
            not hold all.
    """

    host: str
    source: str
    snapshot: int
    finished_ns: int
    files: int
    size_bytes: int
    failed_files: int
    complete: bool

    @property
    def ok(self) -> bool:
        """True if all that was restored came back as it was saved."""
        return self.failed_files == 0

    @property
    def time(self) -> datetime.datetime:
        """When it was done, in local time, with the UTC offset."""
        return local_time(self.finished_ns)

    def _derived(self) -> dict[str, Any]:
        return {"ok": self.ok, "time": self.time.isoformat(timespec="seconds")}

    def _headline(self) -> str:
        scope = "all" if self.complete else "a sample"
        verdict = "as saved" if self.ok else f"{self.failed_files:,} not as saved"
        return (
            f"{self.time:%Y-%m-%d %H:%M:%S} snapshot {self.snapshot}, {scope}: {count(self.files, 'file')}, "
            f"{format_size(self.size_bytes)}, {verdict}"
        )


@attrs.frozen(kw_only=True, repr=False)
class DrillResult(Result):
    """What a restore drill found.

    Attributes:
        snapshot: The snapshot that was restored.
        drill: When it was done, how much of it, and how it went; what is recorded.
        seed: What the sample was drawn with; the same seed draws the same files of the same snapshot again.
        recorded: True if the repository keeps the outcome; False if it could not be written to.
        elapsed_seconds: Wall time.
        problems: What did not come back as it was saved, and what the scratch directory could not hold.
    """

    snapshot: Snapshot
    drill: Drill
    seed: int
    recorded: bool
    elapsed_seconds: float
    problems: tuple[Problem, ...] = ()

    @property
    def ok(self) -> bool:
        """True if all that was restored came back as it was saved."""
        return self.drill.ok

    def _derived(self) -> dict[str, Any]:
        return {"ok": self.ok}

    def _headline(self) -> str:
        return self.drill._headline() + problem_tail(0, self.problems)
