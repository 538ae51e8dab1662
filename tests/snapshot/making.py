"""What is asked of snapshots, and done while one is taken."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, List, Optional, Set

import attrs
from conftest import age, sql

from backuptool import ProgressEvent, Repository, SnapshotResult

MIB = 1 << 20


@attrs.frozen
class Counts:
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    skipped: int = 0


def counts(result: SnapshotResult) -> Counts:
    return Counts(
        result.new_files, result.changed_files, result.unchanged_files, result.removed_files, result.skipped_files
    )


def once(act: Callable[[], object], phase: str, path: Optional[str] = None) -> Callable[[ProgressEvent], None]:
    """Return a callback that does something at the first event of a phase, or of a path in it."""
    done: List[bool] = []

    def callback(event: ProgressEvent) -> None:
        if not done and event.phase == phase and path in (None, event.path):
            done.append(True)
            act()

    return callback


def saved(repo: Repository) -> Set[str]:
    rows = sql(
        repo.path,
        "SELECT path FROM snapshot_files WHERE kind <> 'd' AND snapshot_id = (SELECT max(id) FROM snapshots)",
    )
    return {path for (path,) in rows}


def make_sparse(path: Path, size: int, pieces: dict[int, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for offset, data in pieces.items():
            file.seek(offset)
            file.write(data)
        file.truncate(size)
    age(path)
    return path
