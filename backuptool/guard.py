"""Guarding a directory: saved when a block begins, put back as it was if the block raises.

Owns when it is put back, and that it is exactly that. Saving and restoring are the repository's own verbs.
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import TYPE_CHECKING, Any, Optional, Sequence, Type

import attrs

from .errors import GuardError
from .results.problem import Problem
from .results.restore import RestoreResult
from .results.snapshot import SnapshotResult

if TYPE_CHECKING:
    from .repository import Repository

__all__ = ["Guard"]

#: Files whose paths are given to a restore one by one; of more than these all files are written again.
_FEW = 200


class Guard:
    """A directory that is put back if a block raises; what :meth:`Repository.guard` returns. A context manager.

    Attributes:
        snapshot: What saving it did; None before the block.
        restored: What putting it back did; None if that was not necessary.
    """

    def __init__(self, repository: Repository, options: dict[str, Any]) -> None:
        self.snapshot: Optional[SnapshotResult] = None
        self.restored: Optional[RestoreResult] = None
        self._repository = repository
        self._options = options

    def __enter__(self) -> Guard:
        self.restored = None
        self.snapshot = result = self._repository.snapshot(max_file_size=None, **self._options)
        if result.problems:
            raise self._error(result, "cannot be guarded, as not all of it could be saved as it is", result.problems)
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if kind is None:
            return
        assert self.snapshot is not None
        try:
            problems = self._put_back(self.snapshot)
        except Exception as exc:
            raise self._error(self.snapshot, f"could not be put back as it was ({exc})", ()) from error
        if problems:
            raise self._error(self.snapshot, "could not be put back as it was", problems) from error

    def _put_back(self, saved: SnapshotResult) -> Sequence[Problem]:
        """Make it what it was, and return what is not."""
        number, directory = saved.snapshot.id, saved.snapshot.source
        if os.path.realpath(directory) != directory:  # what it leads to was not saved, and must not be emptied
            message = "it has become a symlink, or is reached over one"
            return [Problem(kind="in-the-way", path=".", message=message)]
        # A file that was changed and given its old size and time looks as it did: only reading it tells.
        self.restored = restored = self._restore(number, directory)
        changed = [problem.path for problem in restored.problems if problem.kind == "verify-mismatch"]
        if changed:
            only = [f"/{path}" for path in changed] if len(changed) <= _FEW else []
            again = self._repository.restore(
                number, directory, include=only, overwrite="always", progress=self._options["progress"]
            )
            last = self._restore(number, directory)  # the times of directories, and to be sure
            self.restored = restored = attrs.evolve(
                restored,
                restored_files=restored.restored_files + again.restored_files,
                written_bytes=restored.written_bytes + again.written_bytes,
                verified_files=last.verified_files,
                elapsed_seconds=restored.elapsed_seconds + again.elapsed_seconds + last.elapsed_seconds,
                problems=last.problems,
            )
        return restored.problems

    def _restore(self, number: int, directory: str) -> RestoreResult:
        return self._repository.restore(
            number, directory, delete_extra=True, verify=True, progress=self._options["progress"]
        )

    def _error(self, saved: SnapshotResult, what: str, problems: Sequence[Problem]) -> GuardError:
        snapshot = saved.snapshot
        named = "".join(f"; {problem}" for problem in problems[:3])
        more = f"; and {len(problems) - 3:,} more problems" if len(problems) > 3 else ""
        return GuardError(
            f"{snapshot.source} {what}{named}{more}; snapshot {snapshot.id} in {self._repository.path} is kept",
            snapshot.source,
            snapshot.id,
            tuple(problems),
        )
