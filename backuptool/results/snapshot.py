"""Snapshots, lists of them, and what taking one did."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any, Iterator, Literal, Optional, Tuple

import attrs

from .changes import Alert
from .presentation import Result, Sequenced, count, format_size, html_table, local_time
from .problem import Problem, problem_tail

if TYPE_CHECKING:
    from .drill import Drill

__all__ = ["Compression", "SkippedFile", "Snapshot", "SnapshotList", "SnapshotResult"]

#: How hard a snapshot compresses.
Compression = Literal["fast", "balanced", "max"]


@attrs.frozen(kw_only=True, repr=False)
class SkippedFile(Result):
    """A file that was left out because of its size.

    Attributes:
        path: The file, relative to the source.
        size_bytes: Its size.
        reason: The limit that it exceeds, in words.
    """

    path: str
    size_bytes: int
    reason: str

    def _headline(self) -> str:
        return f"{self.path}: {format_size(self.size_bytes)}, {self.reason}"


@attrs.frozen(kw_only=True, repr=False)
class Snapshot(Result):
    """The state of one source at one time.

    Attributes:
        id: Its number; numbers ascend and are never used again.
        host: Name of the machine it was taken on.
        source: Absolute path of the directory that was saved.
        started_ns: When it began, ns since 1970 UTC.
        finished_ns: When it was committed, ns since 1970 UTC.
        files: Number of entries that are not directories.
        directories: Number of directories, the source itself included.
        size_bytes: Bytes of all its files, each path counted.
        distinct_bytes: Bytes of the contents that no earlier kept snapshot has, before compression.
        skipped_files: Number of files left out because of their size.
        problem_files: Number of files and directories that had a problem: not saved, changed while they were read, or
            saved without something that belongs to them.
        note: Free text given with it.
        tags: Words given with it, sorted.
        digest: Fingerprint of everything it holds, 64 hex digits; ``check`` recomputes it.
        pinned: True if it is removed only after it was unpinned.
        alerts: What looked alarming about its changes when it was taken.
        drill: The last restore of it for proof that is recorded, None if there is none; only ``list`` says it.
    """

    id: int
    host: str
    source: str
    started_ns: int
    finished_ns: int
    files: int
    directories: int
    size_bytes: int
    distinct_bytes: int
    skipped_files: int = 0
    problem_files: int = 0
    note: str = ""
    tags: tuple[str, ...] = ()
    digest: str = ""
    pinned: bool = False
    alerts: tuple[Alert, ...] = ()
    drill: Optional[Drill] = None

    @property
    def time(self) -> datetime.datetime:
        """When it began, in local time, with the UTC offset."""
        return local_time(self.started_ns)

    def _derived(self) -> dict[str, Any]:
        return {"time": self.time.isoformat(timespec="seconds")}

    def _headline(self) -> str:
        return (
            f"{self.id} {self.source} {self.time:%Y-%m-%d %H:%M:%S}, {count(self.files, 'file')}, "
            f"{format_size(self.size_bytes)}, {format_size(self.distinct_bytes)} distinct"
            + (", pinned" if self.pinned else "")
            + "".join(f", {alert.kind}" for alert in self.alerts if not alert.acknowledged)
        )


@attrs.frozen(kw_only=True, repr=False)
class SnapshotList(Sequenced[Snapshot], Result):
    """The snapshots of a repository, oldest first, and their totals. Iterate over it, index it, take its len().

    Attributes:
        snapshots: The snapshots that were asked for, by ascending number.
        size_bytes: Sum of their sizes: what plain copies would take.
        distinct_bytes: Sum of their distinct sizes; over all snapshots, the bytes kept after deduplication.
        repository_bytes: Size of the repository file.
        drills: The last restore for proof of each of their sources, by host and source; of sources without one, none.
    """

    snapshots: tuple[Snapshot, ...]
    size_bytes: int
    distinct_bytes: int
    repository_bytes: int
    drills: tuple[Drill, ...] = ()

    def _items(self) -> Tuple[Snapshot, ...]:
        return self.snapshots

    def _headline(self) -> str:
        return (
            f"{count(len(self), 'snapshot')}, {format_size(self.size_bytes)} in all, "
            f"{format_size(self.distinct_bytes)} distinct, repository {format_size(self.repository_bytes)}"
        )

    def _repr_html_(self) -> str:
        return html_table(
            self._headline(),
            ("id", "time", "source", "files", "size", "distinct size", "tags", "note"),
            self.snapshots,
            lambda snapshot: (
                str(snapshot.id),
                f"{snapshot.time:%Y-%m-%d %H:%M:%S}",
                f"{snapshot.host}:{snapshot.source}",
                f"{snapshot.files:,}",
                format_size(snapshot.size_bytes),
                format_size(snapshot.distinct_bytes),
                ", ".join(snapshot.tags),
                ", ".join(filter(None, [*_marks(snapshot), snapshot.note])),
            ),
        )


def _marks(snapshot: Snapshot) -> Iterator[str]:
    """Yield what is to be seen of a snapshot at a glance: that it is pinned, and what was alarming about it."""
    if snapshot.pinned:
        yield "pinned"
    for alert in snapshot.alerts:
        if not alert.acknowledged:
            yield f"{alert.kind}: {alert}"


@attrs.frozen(kw_only=True, repr=False)
class SnapshotResult(Result):
    """What taking a snapshot did. "Files" are all entries that are not directories.

    Attributes:
        snapshot: The snapshot as it was committed.
        new_files: Files that the source's previous snapshot does not have, or has as directories.
        changed_files: Files whose bytes or metadata differ from the previous snapshot.
        unchanged_files: Files that are as they were.
        removed_files: Files of the previous snapshot that this one does not have: they are gone, became directories, or
            were left out this time (excluded, skipped, not readable).
        skipped_files: Files left out because of their size; ``skipped`` names each.
        read_bytes: Bytes read from files.
        new_bytes: Bytes of contents that the repository did not have, before compression.
        stored_bytes: Bytes that these contents take in packs, after compression.
        elapsed_seconds: Wall time.
        databases: SQLite databases that were captured in one state, whoever was using them.
        skipped: The files left out because of their size.
        problems: What had a problem: not saved, changed while it was read, or saved without something that belongs to
            it.
    """

    snapshot: Snapshot
    new_files: int
    changed_files: int
    unchanged_files: int
    removed_files: int
    skipped_files: int
    read_bytes: int
    new_bytes: int
    stored_bytes: int
    elapsed_seconds: float
    databases: tuple[str, ...] = ()
    skipped: tuple[SkippedFile, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def alerts(self) -> tuple[Alert, ...]:
        """What looks alarming about the changes: those of the snapshot."""
        return self.snapshot.alerts

    def _headline(self) -> str:
        text = (
            f"{self.snapshot.id}: {self.new_files:,} new, {self.changed_files:,} changed, "
            f"{self.unchanged_files:,} unchanged, {self.removed_files:,} removed, "
            f"{format_size(self.read_bytes)} read, {format_size(self.stored_bytes)} stored"
        )
        text += "".join(f", {alert.kind}" for alert in self.alerts)
        return text + problem_tail(self.skipped_files, self.problems)
