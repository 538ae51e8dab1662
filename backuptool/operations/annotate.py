"""Annotating: change what people say of a snapshot after it was taken.

That is its note, its tags, whether it is pinned, and that they know of its alerts.
"""

from __future__ import annotations

from typing import Callable, Optional, Sequence

import attrs

from ..results.snapshot import Snapshot
from ..storage import records
from ..storage.database import Database
from ..storage.snapshots import find_snapshot, update_description

__all__ = ["annotate"]


def annotate(
    database: Database,
    reference: int | str,
    *,
    note: Optional[str],
    add_tags: Sequence[str],
    remove_tags: Sequence[str],
    pinned: Optional[bool],
    acknowledge: bool,
    clock: Callable[[], int],
) -> Snapshot:
    """Change a snapshot's description, with its digest, in one transaction, and return it as it is then."""
    with database.transaction():
        row = find_snapshot(database, reference)
        if note is not None or add_tags or remove_tags:
            tags = (set(row.tags) | set(add_tags)) - set(remove_tags)
            row = update_description(database, row, row.note if note is None else note, sorted(tags))
        if pinned is not None:
            records.unpin(database, row.id)
            if pinned:
                records.pin(database, row.id, clock())
            row = attrs.evolve(row, pinned=pinned)
        if acknowledge:
            row = attrs.evolve(row, alerts=records.acknowledge(database, row.id))
    return row.to_result()
