"""What a snapshot changed against the one before it of its source, and what is alarming about that."""

from __future__ import annotations

from typing import Any, Literal, Optional

import attrs

from .presentation import Result, format_size

__all__ = ["Alert", "AlertKind", "Changes"]

#: What a snapshot's changes can look like.
AlertKind = Literal["mass-encryption", "mass-deletion"]


@attrs.frozen(kw_only=True, repr=False)
class Alert(Result):
    """A snapshot was taken as it should be, and what changed in its source looks like a disaster.

    Attributes:
        kind: ``"mass-encryption"`` or ``"mass-deletion"``.
        message: What changed, in numbers, what is usual for the source, and the next step.
        acknowledged: True once somebody has said that he knows of it. Until then retention policies keep the snapshot,
            and the one before it.
    """

    kind: AlertKind
    message: str
    acknowledged: bool = False

    def __str__(self) -> str:
        return self.message

    def _headline(self) -> str:
        return f"{self.kind}: {self.message}" + " (acknowledged)" * self.acknowledged


@attrs.frozen(kw_only=True, repr=False)
class Changes(Result):
    """What a snapshot changed against the one before it of its source. "Files" are entries that are not directories.

    Attributes:
        new_files: Files that the one before does not have, or has as directories.
        changed_files: Files whose bytes or metadata differ.
        unchanged_files: Files that are as they were.
        removed_files: Files that the one before has, and this one has not, or has as directories: they are gone, or
            were left out this time (excluded, skipped, not readable).
        new_contents: Contents of files that the repository did not have: how many files came with bytes of their own.
        new_bytes: Bytes of contents that the repository did not have, before compression.
        stored_bytes: Bytes that these took in packs.
    """

    new_files: int
    changed_files: int
    unchanged_files: int
    removed_files: int
    new_contents: int
    new_bytes: int
    stored_bytes: int

    @property
    def base_files(self) -> int:
        """Files of the snapshot before: each of them is changed, unchanged, or removed."""
        return self.changed_files + self.unchanged_files + self.removed_files

    @property
    def replaced_files(self) -> int:
        """Files whose bytes gave way to bytes that were never seen before, in place or under another name; at most."""
        return min(self.new_contents, self.changed_files + self.removed_files)

    @property
    def lost_files(self) -> int:
        """Files that were removed and not made up for by new ones: a directory that was moved loses none."""
        return max(0, self.removed_files - self.new_files)

    @property
    def compressibility(self) -> Optional[float]:
        """Stored bytes to new bytes: 1.0 for what does not compress, None if nothing new was stored."""
        return self.stored_bytes / self.new_bytes if self.new_bytes else None

    def _derived(self) -> dict[str, Any]:
        return {"compressibility": self.compressibility}

    def _headline(self) -> str:
        return (
            f"{self.new_files:,} new, {self.changed_files:,} changed, {self.unchanged_files:,} unchanged, "
            f"{self.removed_files:,} removed, {format_size(self.new_bytes)} new, "
            f"{format_size(self.stored_bytes)} stored"
        )
