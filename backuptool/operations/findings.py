"""Findings of a restore: what was not restored, or not as it was saved.

Owns how they are counted, worded and ordered; that something went wrong, the restore knows.
"""

from __future__ import annotations

import errno
import os
from typing import Optional

from ..results.problem import Problem

__all__ = ["Findings"]


class Findings:
    """Problems, and what could not be set of how many files.

    Args:
        snapshot: Number of the snapshot that is restored.
    """

    def __init__(self, snapshot: int) -> None:
        self._snapshot = snapshot
        self._problems: list[Problem] = []
        self._failures: dict[tuple[str, int], tuple[int, bytes, OSError]] = {}

    def problem(self, kind: str, path: bytes, message: str, content: Optional[bytes] = None) -> None:
        """Add a problem with one path."""
        self._problems.append(
            Problem(
                kind=kind,
                path=os.fsdecode(path) or ".",
                message=message,
                content=content.hex() if isinstance(content, bytes) else None,
                snapshots=(self._snapshot,) if content is not None else (),
            )
        )

    def failed(self, what: str, path: bytes, exc: OSError) -> None:
        """Count that an owner, a mode or the like could not be restored."""
        key = (what, exc.errno or 0)
        count, first, error = self._failures.get(key, (0, path, exc))
        self._failures[key] = (count + 1, min(first, path), error)

    def paths(self) -> set[str]:
        """Return the paths that have a problem, as problems name them."""
        return {problem.path for problem in self._problems}

    def problems(self) -> tuple[Problem, ...]:
        """Return everything by path, and behind it one problem for each thing that could not be set."""
        found = sorted(self._problems, key=lambda problem: problem.path)
        for (what, number), (count, path, exc) in sorted(self._failures.items(), key=lambda failure: failure[0]):
            hint = "; only root may, run it as root to have it" if number == errno.EPERM else ""
            files = "1 file" if count == 1 else f"{count:,} files, this one the first"
            found.append(
                Problem(
                    kind=f"{what}-not-restored",
                    path=os.fsdecode(path) or ".",
                    message=f"{what} not restored for {files}: {exc.strerror}{hint}",
                    count=count,
                )
            )
        return tuple(found)
