"""What is asked of a restore."""

from __future__ import annotations

import os
from pathlib import Path
from typing import List, NamedTuple, Tuple

from backuptool import Repository, RestoreResult, SnapshotResult
from backuptool.results.restore import OverwritePolicy

POLICIES: Tuple[OverwritePolicy, ...] = ("always", "if-changed", "if-newer", "never")


def names(root: Path) -> List[str]:
    """Return the relative paths of all that is below a directory, sorted."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def kinds(result: RestoreResult) -> List[Tuple[str, str]]:
    """Return kind and path of each problem, sorted."""
    return sorted((problem.kind, problem.path) for problem in result.problems)


def leftovers(root: Path) -> List[str]:
    """Return the temporary files below a directory."""
    return [name for name in names(root) if os.path.basename(name).startswith(".backuptool-")]


class Everything(NamedTuple):
    """A tree with every kind of file, and a repository with a snapshot of it. No test changes them."""

    source: Path
    repo: Repository
    saved: SnapshotResult


NOW_NS = 1_650_000_000_000_000_000
