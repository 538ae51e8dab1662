"""Whether a restore brought everything back: a time for a restore that lost something would be worth nothing."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Iterator

__all__ = ["differences"]

_BLOCK = 1 << 20


def differences(source: Path, restored: Path) -> Iterator[str]:
    """Yield what differs between two trees, a line for each path.

    Compared are the kind, the permissions, the contents, the link targets and the times of files to the second: that
    is as exact as tar's default format. Sockets are left out, as they are by most programs.
    """
    with os.scandir(source) as entries:
        wanted = {entry.name: entry for entry in entries}
    found = set(os.listdir(restored))
    for name in sorted(found - wanted.keys()):
        yield f"{restored / name}: is not in the source"
    for name, entry in sorted(wanted.items()):
        information = entry.stat(follow_symlinks=False)
        if stat.S_ISSOCK(information.st_mode):
            continue
        if name not in found:
            yield f"{entry.path}: was not restored"
            continue
        other = restored / name
        wrong = difference(Path(entry.path), other)
        if wrong:
            yield f"{entry.path}: {wrong}"
        elif stat.S_ISDIR(information.st_mode):
            yield from differences(Path(entry.path), other)


def difference(one: Path, other: Path) -> str:
    """Return in which way two entries differ, or nothing."""
    first, second = one.lstat(), other.lstat()
    if stat.S_IFMT(first.st_mode) != stat.S_IFMT(second.st_mode):
        return "is of another kind"
    if stat.S_ISLNK(first.st_mode):
        return "" if os.readlink(str(one)) == os.readlink(str(other)) else "points elsewhere"
    unlike: list[str] = []
    if stat.S_IMODE(first.st_mode) != stat.S_IMODE(second.st_mode):
        unlike.append("permissions differ")
    if stat.S_ISREG(first.st_mode):
        if int(first.st_mtime) != int(second.st_mtime):
            unlike.append("times differ")
        if first.st_size != second.st_size or not _same_bytes(one, other):
            unlike.append("contents differ")
    return ", ".join(unlike)


def _same_bytes(one: Path, other: Path) -> bool:
    with open(one, "rb", buffering=0) as first, open(other, "rb", buffering=0) as second:
        while True:
            block = first.read(_BLOCK)
            if block != second.read(_BLOCK):
                return False
            if not block:
                return True
