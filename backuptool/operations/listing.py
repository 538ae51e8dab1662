"""Listing snapshots: one row each, every figure as it was stored.

Named ``listing`` because ``list`` is a word of Python.
"""

from __future__ import annotations

from typing import Optional

import attrs

from ..results.snapshot import SnapshotList
from ..storage.database import Database
from ..storage.drills import last_drills
from ..storage.snapshots import snapshot_rows

__all__ = ["list_snapshots"]


def list_snapshots(
    database: Database, *, source: Optional[bytes], host: Optional[str], tag: Optional[str]
) -> SnapshotList:
    """Return the snapshots that match all that is given, oldest first."""
    rows = [
        row
        for row in snapshot_rows(database)
        if (source is None or row.root == source)
        and (host is None or row.host == host)
        and (tag is None or tag in row.tags)
    ]
    of_snapshots, of_sources = last_drills(database)
    sources = {(row.host, row.root) for row in rows}
    return SnapshotList(
        snapshots=tuple(attrs.evolve(row.to_result(), drill=of_snapshots.get(row.id)) for row in rows),
        size_bytes=sum(row.size for row in rows),
        distinct_bytes=sum(row.distinct_size for row in rows),
        repository_bytes=database.file_bytes(),
        drills=tuple(of_sources[source] for source in sorted(sources & of_sources.keys())),
    )
