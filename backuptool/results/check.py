"""What checking found."""

from __future__ import annotations

from typing import Any

import attrs

from .presentation import Result, count, format_size
from .problem import Problem

__all__ = ["CheckResult"]


@attrs.frozen(kw_only=True, repr=False)
class CheckResult(Result):
    """What checking found.

    Attributes:
        snapshots: Number of snapshots whose digests were recomputed.
        files: Number of file versions in the catalog.
        contents: Number of contents.
        packs: Number of packs.
        read_bytes: Bytes of contents decompressed and hashed (0 in quick mode).
        quick: True if the data in the packs was not read.
        elapsed_seconds: Wall time.
        problems: What is damaged, each named: which content, which file, in which snapshots.
    """

    snapshots: int
    files: int
    contents: int
    packs: int
    read_bytes: int
    quick: bool
    elapsed_seconds: float
    problems: tuple[Problem, ...] = ()

    @property
    def ok(self) -> bool:
        """True if everything that was looked at is sound."""
        return not self.problems

    def _derived(self) -> dict[str, Any]:
        return {"ok": self.ok}

    def _headline(self) -> str:
        scope = "catalog only" if self.quick else f"{format_size(self.read_bytes)} of contents"
        verdict = "no problems" if self.ok else count(len(self.problems), "problem")
        return f"{verdict}: {count(self.snapshots, 'snapshot')}, {count(self.files, 'file version')}, {scope}"
