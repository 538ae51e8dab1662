"""What restoring did."""

from __future__ import annotations

from typing import Literal

import attrs

from .presentation import Result, count, format_size
from .problem import Problem, problem_tail
from .snapshot import Snapshot

__all__ = ["OverwritePolicy", "RestoreResult"]

#: What a restore does with a file that is already there.
OverwritePolicy = Literal["always", "if-changed", "if-newer", "never"]


@attrs.frozen(kw_only=True, repr=False)
class RestoreResult(Result):
    """What restoring did, or with ``dry_run`` would do.

    Attributes:
        snapshot: The snapshot restored from.
        destination: Absolute path of the directory restored into.
        restored_files: Files written, links made and special files created.
        unchanged_files: Files that were already there as saved, or that the overwrite policy left alone.
        restored_directories: Directories made, or given their metadata.
        deleted_files: Entries removed because the snapshot does not have them (``delete_extra``).
        written_bytes: Bytes written into files.
        verified_files: Files read back from the destination and compared by hash (``verify``).
        dry_run: True if nothing was written.
        elapsed_seconds: Wall time.
        unmatched: What ``include`` has that nothing in the snapshot matches, where something else in it does.
        problems: What could not be restored.
    """

    snapshot: Snapshot
    destination: str
    restored_files: int
    unchanged_files: int
    restored_directories: int
    deleted_files: int
    written_bytes: int
    verified_files: int
    dry_run: bool
    elapsed_seconds: float
    unmatched: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()

    def _headline(self) -> str:
        verb = "would restore" if self.dry_run else "restored"
        text = (
            f"{self.snapshot.id} to {self.destination}: {verb} {count(self.restored_files, 'file')}, "
            f"{format_size(self.written_bytes)}, {self.unchanged_files:,} already there"
        )
        return text + problem_tail(0, self.problems)
