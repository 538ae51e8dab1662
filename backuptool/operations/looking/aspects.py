"""Aspects: in what two versions of a path differ.

Owns the names of the differences, for history and diff alike.
"""

from __future__ import annotations

from ...results.history import Aspect
from ...storage.digest import FileVersion

__all__ = ["aspects_of"]


def aspects_of(old: FileVersion, new: FileVersion, *, links: bool = True) -> tuple[Aspect, ...]:
    """Return in what two versions differ, apart from their paths; nothing if they are equal.

    Args:
        links: Whether the identities of the inodes can be compared.
    """
    if old[1:] == new[1:]:
        return ()
    if old.kind != new.kind:
        return ("kind",)
    found: list[Aspect] = []
    if (old.hash, old.size) != (new.hash, new.size):
        found.append("content")
    if old.target != new.target:
        found.append("target")
    if old.rdev != new.rdev:
        found.append("device")
    if old.mode != new.mode:
        found.append("mode")
    if (old.uid, old.gid, old.user, old.group) != (new.uid, new.gid, new.user, new.group):
        found.append("owner")
    if old.mtime_ns != new.mtime_ns:
        found.append("mtime")
    if old.xattrs != new.xattrs:
        found.append("xattrs")
    if links and old.link != new.link:
        found.append("links")
    if old.sparse != new.sparse:
        found.append("holes")
    return tuple(found)
