"""What snapshots, sources and packs take: figures."""

from __future__ import annotations

from typing import Any, Optional

import attrs

from .changes import Changes
from .drill import Drill
from .presentation import Result, count, format_size
from .snapshot import Snapshot

__all__ = ["ChangedFile", "LargestFile", "PackStats", "SnapshotStats", "SourceStats", "Stats"]


@attrs.frozen(kw_only=True, repr=False)
class SnapshotStats(Result):
    """What a snapshot holds, shares and takes.

    Attributes:
        snapshot: The snapshot, with its size and its distinct size.
        stored_bytes: What its distinct contents take in packs, after compression: of each pack the share that they have
            of its bytes, rounded down.
        exclusive_contents: Contents that no other snapshot has; large ones and their chunks count each.
        exclusive_bytes: Bytes of these, before compression: what pruning it alone would free of contents, exactly.
        added_files: Files that the kept snapshot of the source before it does not have in this version; of the first
            one all files.
        added_bytes: Bytes of these, each path counted.
        ended_files: Files of the kept snapshot before it that it does not have in that version.
        ended_bytes: Bytes of these, each path counted.
        cumulative_bytes: Bytes of the contents that it and all earlier kept snapshots of the repository have together,
            before compression: how the repository grew.
        changes: What it changed when it was taken; None where that is not known (format 1).
    """

    snapshot: Snapshot
    stored_bytes: int
    exclusive_contents: int
    exclusive_bytes: int
    added_files: int
    added_bytes: int
    ended_files: int
    ended_bytes: int
    cumulative_bytes: int
    changes: Optional[Changes] = None

    def _headline(self) -> str:
        return (
            f"{self.snapshot.id}: {format_size(self.snapshot.size_bytes)}, {format_size(self.snapshot.distinct_bytes)} "
            f"distinct, {format_size(self.stored_bytes)} stored, {format_size(self.exclusive_bytes)} exclusive"
        )


@attrs.frozen(kw_only=True, repr=False)
class SourceStats(Result):
    """What the snapshots of one source take together.

    Attributes:
        host: Name of the machine.
        source: Absolute path of the directory.
        snapshots: Number of its snapshots.
        newest: Number of its newest one.
        size_bytes: Sum of their sizes: what plain copies would take.
        distinct_bytes: Sum of their distinct sizes: bytes of the contents that they were the first to have.
        stored_bytes: What these take in packs, after compression; see :class:`SnapshotStats`.
        drill: The last restore of one of them for proof, None if there is none.
    """

    host: str
    source: str
    snapshots: int
    newest: int
    size_bytes: int
    distinct_bytes: int
    stored_bytes: int
    drill: Optional[Drill] = None

    def _headline(self) -> str:
        return (
            f"{self.host}:{self.source}, {count(self.snapshots, 'snapshot')}, {format_size(self.size_bytes)}, "
            f"{format_size(self.distinct_bytes)} distinct, {format_size(self.stored_bytes)} stored"
        )


@attrs.frozen(kw_only=True, repr=False)
class LargestFile(Result):
    """One of the largest files.

    Attributes:
        host: Name of the machine.
        source: Absolute path of the directory it was saved from.
        path: The file, relative to the source.
        size_bytes: Bytes of its largest version.
        snapshot: The newest kept snapshot that has that version.
    """

    host: str
    source: str
    path: str
    size_bytes: int
    snapshot: int

    def _headline(self) -> str:
        return f"{self.path}, {format_size(self.size_bytes)}, snapshot {self.snapshot}"


@attrs.frozen(kw_only=True, repr=False)
class ChangedFile(Result):
    """One of the files that changed most.

    Attributes:
        host: Name of the machine.
        source: Absolute path of the directory it was saved from.
        path: The file, relative to the source.
        past_versions: Number of its versions that the newest snapshot does not have.
        past_bytes: Bytes of these, whether they share contents or not.
    """

    host: str
    source: str
    path: str
    past_versions: int
    past_bytes: int

    def _headline(self) -> str:
        return f"{self.path}, {count(self.past_versions, 'past version')}, {format_size(self.past_bytes)}"


@attrs.frozen(kw_only=True, repr=False)
class PackStats(Result):
    """All packs together.

    Attributes:
        packs: How many there are.
        half_empty_packs: How many of them have less than half of their bytes in use; the next prune packs them again.
        size_bytes: Their bytes, decompressed.
        live_bytes: Bytes of contents in them.
        stored_bytes: What they take, compressed.
    """

    packs: int
    half_empty_packs: int
    size_bytes: int
    live_bytes: int
    stored_bytes: int

    @property
    def fill(self) -> float:
        """Share of their bytes that are contents; 1.0 if there are none."""
        return self.live_bytes / self.size_bytes if self.size_bytes else 1.0

    def _derived(self) -> dict[str, Any]:
        return {"fill": self.fill}

    def _headline(self) -> str:
        return f"{count(self.packs, 'pack')}, {format_size(self.stored_bytes)}, {self.fill:.0%} in use"


@attrs.frozen(kw_only=True, repr=False)
class Stats(Result):
    """What a repository, or the snapshots that were asked for, take. The totals are those of the whole repository.

    Attributes:
        snapshots: The snapshots that were asked for, by ascending number.
        sources: Their sources, by host and directory.
        size_bytes: Sum of the sizes of all snapshots: what plain copies would take.
        contents: Number of contents that are stored, chunks of large files among them.
        contents_bytes: Their bytes: what is left after deduplication.
        unreferenced_bytes: Bytes of those that no snapshot refers to: leftovers, or a snapshot that is running now.
        packs: What is left after compression.
        free_bytes: Bytes of the file that are free, to be used again or given back by the next prune.
        repository_bytes: Size of the repository file.
        largest_files: The files with the largest versions in the snapshots asked for, the largest first.
        most_changed_files: The files whose past versions have the most bytes, the most first.
        elapsed_seconds: Wall time.
    """

    snapshots: tuple[SnapshotStats, ...]
    sources: tuple[SourceStats, ...]
    size_bytes: int
    contents: int
    contents_bytes: int
    unreferenced_bytes: int
    packs: PackStats
    free_bytes: int
    repository_bytes: int
    largest_files: tuple[LargestFile, ...]
    most_changed_files: tuple[ChangedFile, ...]
    elapsed_seconds: float

    @property
    def largest_changes(self) -> tuple[SnapshotStats, ...]:
        """The snapshots whose files differ most from the one before of their source, by bytes, the most first."""
        first = {(each.snapshot.host, each.snapshot.source): each for each in reversed(self.snapshots)}
        others = [each for each in self.snapshots if each not in first.values()]
        return tuple(sorted(others, key=lambda each: (-each.added_bytes - each.ended_bytes, each.snapshot.id)))

    def _rows(self) -> list[tuple[str, str]]:
        several = (self.snapshots, self.sources, self.largest_files, self.most_changed_files)
        named = [(type(each).__name__, each._headline()) for group in several for each in group]
        return [("packs", self.packs._headline()), *named]

    def _headline(self) -> str:
        return (
            f"{count(len(self.snapshots), 'snapshot')}, {format_size(self.size_bytes)} in all, "
            f"{format_size(self.contents_bytes)} deduplicated, {format_size(self.packs.stored_bytes)} compressed, "
            f"repository {format_size(self.repository_bytes)}"
        )
