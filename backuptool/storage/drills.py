"""Restore drills: the record of when which snapshot was restored for proof, and what came of it.

Owns the rows of ``drills``. How a drill is done is the operation's business.
"""

from __future__ import annotations

import os
from typing import Any, Dict, List, Optional, Sequence, Tuple

from ..errors import CorruptionError
from ..results.drill import Drill
from .database import Database
from .digest import snapshot_digest

__all__ = ["damaged_drills", "forget_drills", "insert_drill", "last_drills"]

_COLUMNS = "d.id, s.host, s.root, d.snapshot, d.finished_ns, d.files, d.size, d.failed, d.complete, d.digest"

_TABLES = "drills AS d LEFT JOIN sources AS s ON s.id = d.source"


def insert_drill(database: Database, source: int, root: bytes, drill: Drill) -> None:
    """Record a drill; the write lock must be held.

    Args:
        source: Id of the source that its snapshot belongs to.
        root: Of the source.
        drill: What came of it.
    """
    number = database.total("SELECT max(id) FROM drills") + 1
    d = drill
    host, figures = d.host, (d.snapshot, d.finished_ns, d.files, d.size_bytes, d.failed_files, int(d.complete))
    digest = snapshot_digest(("drills", number, host, root, *figures))
    database.execute("INSERT INTO drills VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (number, source, *figures, digest))


def last_drills(database: Database) -> Tuple[Dict[int, Drill], Dict[Tuple[str, bytes], Drill]]:
    """Return the last drill of each snapshot, by its number, and of each source, by host and root.

    A damaged record proves nothing and is left out, all of them where SQLite cannot read them; ``check`` names it.
    """
    snapshots: Dict[int, Drill] = {}
    sources: Dict[Tuple[str, bytes], Drill] = {}
    try:
        rows = database.query(f"SELECT {_COLUMNS} FROM {_TABLES} ORDER BY d.id")
    except CorruptionError:
        rows = []
    for row in rows:
        fields = _fields(row)
        if fields is not None:
            _, host, root, *figures = fields
            snapshots[figures[0]] = sources[host, root] = _drill(host, root, *figures)
    return snapshots, sources


def forget_drills(database: Database, source: int) -> None:
    """Remove the records of a source that is being removed."""
    database.execute("DELETE FROM drills WHERE source = ?", (source,))


def damaged_drills(database: Database) -> List[object]:
    """Return the numbers of the records that are not as they were written."""
    return [row[0] for row in database.query(f"SELECT {_COLUMNS} FROM {_TABLES} ORDER BY d.id") if _fields(row) is None]


def _fields(row: Sequence[Any]) -> Optional[Tuple[Any, ...]]:
    """Return what is recorded, None if it is damaged."""
    number, host, root, *figures, digest = row
    if not isinstance(host, bytes) or not isinstance(root, bytes) or {*map(type, figures)} != {int}:
        return None
    fields = (number, host.decode("utf-8", "surrogateescape"), root, *figures)
    return fields if snapshot_digest(("drills", *fields)) == digest else None


def _drill(
    host: str, root: bytes, snapshot: int, finished_ns: int, files: int, size: int, failed: int, complete: int
) -> Drill:
    return Drill(
        host=host,
        source=os.fsdecode(root),
        snapshot=snapshot,
        finished_ns=finished_ns,
        files=files,
        size_bytes=size,
        failed_files=failed,
        complete=bool(complete),
    )
