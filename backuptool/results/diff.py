"""In what two snapshots differ, or a snapshot and a directory."""

from __future__ import annotations

from typing import Any, Literal, Optional, Tuple

import attrs

from .entry import Entry
from .history import Aspect
from .presentation import Result, Sequenced, format_size, html_table
from .problem import Problem, problem_tail
from .snapshot import Snapshot

__all__ = ["Diff", "Difference"]


@attrs.frozen(kw_only=True, repr=False)
class Difference(Result):
    """One path that is not as it was.

    Attributes:
        status: ``"added"``, ``"removed"``, ``"changed"``, or ``"moved"``: what was at ``old.path`` is now at
            ``new.path``.
        old: What was there; None if it was added.
        new: What is there; None if it was removed.
        changes: In what the two differ: ``"kind"``, ``"content"``, ``"target"``, ``"device"``, ``"mode"``,
            ``"owner"``, ``"mtime"``, ``"xattrs"``, ``"links"`` (which other paths are the same file), ``"holes"``.
    """

    status: Literal["added", "removed", "changed", "moved"]
    old: Optional[Entry]
    new: Optional[Entry]
    changes: tuple[Aspect, ...] = ()

    @property
    def path(self) -> str:
        """Where it is now; of what was removed, where it was."""
        entry = self.new or self.old
        assert entry is not None
        return entry.path

    def _derived(self) -> dict[str, Any]:
        return {"path": self.path}

    def _headline(self) -> str:
        text = f"{self.status} {self.path or '.'}"
        if self.status == "moved" and self.old is not None:
            text += f" from {self.old.path}"
        return text + (f" ({', '.join(self.changes)})" if self.changes else "")


@attrs.frozen(kw_only=True, repr=False)
class Diff(Sequenced[Difference], Result):
    """In what two snapshots differ, or a snapshot and a directory. Iterate over it, index it, take its len().

    "Files" are all entries that are not directories.

    Attributes:
        old: The snapshot that is compared.
        new: The snapshot it is compared with, None if that is a directory.
        directory: Absolute path of the directory it is compared with, or None.
        path: The directory or file that the comparison was restricted to, or ``""``.
        differences: What differs, in byte order of the paths.
        added_files: Files that only the new state has.
        removed_files: Files that only the old state has.
        changed_files: Files that are not as they were.
        moved_files: Files that have another path now.
        changed_directories: Directories that were added, removed, or are not as they were.
        added_bytes: Bytes of added files.
        removed_bytes: Bytes of removed files.
        changed_bytes: Bytes that files of changed content, target or kind have now.
        read_files: Files of the directory that were read and compared by hash.
        read_bytes: Bytes of these.
        problems: What could not be compared.
    """

    old: Snapshot
    new: Optional[Snapshot]
    directory: Optional[str]
    path: str
    differences: tuple[Difference, ...]
    added_files: int
    removed_files: int
    changed_files: int
    moved_files: int
    changed_directories: int
    added_bytes: int
    removed_bytes: int
    changed_bytes: int
    read_files: int = 0
    read_bytes: int = 0
    problems: tuple[Problem, ...] = ()

    @property
    def identical(self) -> bool:
        """True if nothing differs, and everything could be compared."""
        return not self.differences and not self.problems

    def _items(self) -> Tuple[Difference, ...]:
        return self.differences

    def _derived(self) -> dict[str, Any]:
        return {"identical": self.identical}

    def _headline(self) -> str:
        new = self.directory if self.new is None else self.new.id
        text = (
            f"{self.old.id} to {new}: {self.added_files:,} added ({format_size(self.added_bytes)}), "
            f"{self.removed_files:,} removed ({format_size(self.removed_bytes)}), {self.changed_files:,} changed "
            f"({format_size(self.changed_bytes)}), {self.moved_files:,} moved"
        )
        return text + problem_tail(0, self.problems)

    def _repr_html_(self) -> str:
        return html_table(
            self._headline(),
            ("status", "path", "from", "changes", "old size", "new size"),
            self.differences,
            lambda difference: (
                difference.status,
                difference.path or ".",
                difference.old.path if difference.status == "moved" and difference.old else "",
                ", ".join(difference.changes),
                format_size(difference.old.size_bytes) if difference.old else "",
                format_size(difference.new.size_bytes) if difference.new else "",
            ),
        )
