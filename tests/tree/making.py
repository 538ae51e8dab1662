"""Sources, and what is asked of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable, List, Optional, Tuple

from backuptool.tree.confined import ConfinedRoot
from backuptool.tree.exclusions import Exclusions
from backuptool.tree.portability import OPEN_FILE
from backuptool.tree.source import Source

Errors = List[Tuple[bytes, int]]


def walk(root: Path, exclusions: Optional[Exclusions] = None, errors: Optional[Errors] = None) -> List[bytes]:
    """Return the paths that a walk yields; errors fail the test unless they are collected."""
    source = Source(os.fsencode(root))
    try:
        return [path for path, _ in source.walk(exclusions or Exclusions(), _collect(errors))]
    finally:
        source.close()


def _collect(errors: Optional[Errors]) -> Callable[[bytes, OSError], None]:
    def report(path: bytes, exc: OSError) -> None:
        if errors is None:
            raise AssertionError(f"{path!r} could not be walked") from exc
        errors.append((path, exc.errno or 0))

    return report


def descriptors() -> int:
    """Return the number of open descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def read(root: ConfinedRoot, path: bytes) -> bytes:
    descriptor = root.open(path, OPEN_FILE)
    try:
        return os.read(descriptor, 100)
    finally:
        os.close(descriptor)
