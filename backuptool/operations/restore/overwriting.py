"""Overwriting: which of the entries that are there already stay.

Owns the decision by the overwrite policy; what follows from it is the restore's business.
"""

from __future__ import annotations

import os

from ...results.restore import OverwritePolicy
from ...storage.digest import FileVersion
from ...tree.metadata import kind_of
from ...tree.rehearsal import Place

__all__ = ["has_attributes", "looks_as_saved", "metadata_differs", "stays"]


def stays(policy: OverwritePolicy, version: FileVersion, existing: os.stat_result, destination: Place) -> bool:
    """Tell whether what is there stays; of a regular file its metadata may still differ."""
    if policy == "never":
        return True
    if policy == "always":
        return False
    if policy == "if-newer":
        return version.mtime_ns <= existing.st_mtime_ns
    if not looks_as_saved(version, existing, destination):
        return False
    return version.kind in b"lf" or not metadata_differs(version, existing, destination)


def looks_as_saved(version: FileVersion, existing: os.stat_result, destination: Place) -> bool:
    """Tell whether what is there looks like what was saved: kind, time, and size, target or device."""
    if kind_of(existing.st_mode) != version.kind or existing.st_mtime_ns != version.mtime_ns:
        return False
    if version.kind == b"f":
        return existing.st_size == version.size
    if version.kind == b"l":
        return destination.read_link(version.path) == version.target
    return version.rdev is None or existing.st_rdev == version.rdev


def metadata_differs(version: FileVersion, existing: os.stat_result, destination: Place) -> bool:
    """Tell whether mode, owner or extended attributes are not those that were saved."""
    found = (existing.st_mode & 0o7777, existing.st_uid, existing.st_gid)
    return found != (version.mode, version.uid, version.gid) or (
        destination.read_xattrs(version.path) != version.xattrs
    )


def has_attributes(version: FileVersion, existing: os.stat_result, destination: Place) -> bool:
    """Tell whether mode, owner and extended attributes are what a restore would give: an owner only root can."""
    as_far = version if destination.gives_owners else version._replace(uid=existing.st_uid, gid=existing.st_gid)
    return not metadata_differs(as_far, existing, destination)
