"""What is kept of a snapshot beside its row: its pin, what it changed, and the alerts that this raised.

Owns the rows of ``pins`` and ``changes`` and their digests (docs/format.md, "Digests"). A snapshot can be restored
without any of it: whoever reads it for a list takes a damaged row for none, and ``check`` names it.
"""

from __future__ import annotations

import json
from typing import Iterator, Optional, Sequence, Tuple

import attrs

from ..errors import CorruptionError
from ..results.changes import Alert, Changes
from .database import Database
from .digest import snapshot_digest

__all__ = [
    "acknowledge",
    "alerts_of",
    "changes_by_snapshot",
    "damaged_records",
    "insert_changes",
    "past_changes",
    "pin",
    "pinned_among",
    "remove_records",
    "unpin",
]

_FIGURES = tuple(field.name for field in attrs.fields(Changes))

_CHANGES_COLUMNS = (
    "g.snapshot, g.new_files, g.changed_files, g.unchanged_files, g.removed_files, g.new_contents, g.new_size, "
    "g.stored_size, g.alerts"
)


def insert_changes(database: Database, snapshot: int, changes: Changes, alerts: Sequence[Alert]) -> None:
    """Insert what a snapshot changed."""
    row = (snapshot, *attrs.astuple(changes), _alerts_text(alerts))
    database.execute(
        "INSERT INTO changes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, snapshot_digest(("changes", *row)))
    )


def acknowledge(database: Database, snapshot: int) -> tuple[Alert, ...]:
    """Mark the alerts of a snapshot as known to somebody, and return them.

    A damaged row goes: what it said is not known, and a new digest would hide that.
    """
    rows = database.query(f"SELECT {_CHANGES_COLUMNS}, g.digest FROM changes AS g WHERE g.snapshot = ?", (snapshot,))
    for *row, digest in rows:
        if not _is_sound("changes", row, digest):
            database.execute("DELETE FROM changes WHERE snapshot = ?", (snapshot,))
            continue
        alerts = tuple(attrs.evolve(alert, acknowledged=True) for alert in alerts_of(row[-1]))
        row[-1] = _alerts_text(alerts)
        database.execute(
            "UPDATE changes SET alerts = ?, digest = ? WHERE snapshot = ?",
            (row[-1], snapshot_digest(("changes", *row)), snapshot),
        )
        return alerts
    return ()


def _alerts_text(alerts: Sequence[Alert]) -> str:
    return json.dumps(
        [
            {"kind": alert.kind, "message": alert.message, **({"acknowledged": True} if alert.acknowledged else {})}
            for alert in alerts
        ]
    )


def past_changes(database: Database, source: int, limit: int) -> list[Changes]:
    """Return what the last snapshots of a source changed, newest first; damaged rows are left out."""
    rows = database.query(
        f"SELECT {_CHANGES_COLUMNS} FROM snapshots AS n JOIN changes AS g ON g.snapshot = n.id WHERE n.source = ? "
        "ORDER BY n.id DESC LIMIT ?",
        (source, limit),
    )
    return [changes for changes in map(_changes, rows) if changes is not None]


def changes_by_snapshot(database: Database) -> dict[int, Changes]:
    """Return what each snapshot changed, by its number, without damaged rows; nothing if SQLite cannot read them."""
    try:
        found = {row[0]: _changes(row) for row in database.query(f"SELECT {_CHANGES_COLUMNS} FROM changes AS g")}
    except CorruptionError:
        return {}
    return {snapshot: changes for snapshot, changes in found.items() if changes is not None}


def _changes(row: Sequence[object]) -> Optional[Changes]:
    figures = row[1:8]
    return Changes(**dict(zip(_FIGURES, figures))) if all(isinstance(each, int) for each in figures) else None  # type: ignore[arg-type]


def alerts_of(text: object) -> tuple[Alert, ...]:
    """Return alerts as they are stored, none if that is damaged."""
    if text is None or text == b"[]":
        return ()
    try:
        found = json.loads(text)  # type: ignore[arg-type]
        return tuple(
            Alert(kind=each["kind"], message=str(each["message"]), acknowledged=each.get("acknowledged", False) is True)
            for each in found
            if each["kind"] in ("mass-encryption", "mass-deletion")
        )
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return ()


def pin(database: Database, snapshot: int, now_ns: int) -> None:
    """Pin a snapshot; one that is pinned stays as it is."""
    row = (snapshot, now_ns)
    database.execute("INSERT OR IGNORE INTO pins VALUES (?, ?, ?)", (*row, snapshot_digest(("pins", *row))))


def unpin(database: Database, snapshot: int) -> None:
    """Take a pin away, and pins of snapshots that are not there, as damage leaves them; without one nothing happens."""
    database.execute("DELETE FROM pins WHERE snapshot = ? OR snapshot NOT IN (SELECT id FROM snapshots)", (snapshot,))


def pinned_among(database: Database, snapshots: Sequence[int]) -> list[int]:
    """Return those that are pinned, whatever else their row says: a damaged pin holds as well."""
    pinned = {number for (number,) in database.query("SELECT snapshot FROM pins")}
    return [number for number in snapshots if number in pinned]


def remove_records(database: Database, snapshot: int) -> None:
    """Remove what is kept beside a snapshot that is being removed."""
    database.execute("DELETE FROM pins WHERE snapshot = ?", (snapshot,))
    database.execute("DELETE FROM changes WHERE snapshot = ?", (snapshot,))


def damaged_records(database: Database) -> Iterator[Tuple[str, object]]:
    """Yield (what, number of its snapshot) for each row that is not as it was written."""
    for what, table, columns in (("pin", "pins", "g.snapshot, g.pinned_ns"), ("changes", "changes", _CHANGES_COLUMNS)):
        for *row, digest in database.query(f"SELECT {columns}, g.digest FROM {table} AS g"):
            if not _is_sound(table, row, digest):
                yield what, row[0]


def _is_sound(table: str, row: Sequence[object], digest: object) -> bool:
    fields = [each.decode("utf-8", "surrogateescape") if isinstance(each, bytes) else each for each in row]
    return bool(digest == snapshot_digest((table, *fields)))
