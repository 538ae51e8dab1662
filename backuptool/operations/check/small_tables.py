"""The small tables: what each of their rows must be by itself, before anything is added up.

Owns settings, descriptions of snapshots, and what is kept beside them. Files, contents and packs are recounting's.
"""

from __future__ import annotations

from typing import Callable, Sequence

from ...errors import CorruptionError
from ...storage.chunking import Chunking
from ...storage.database import Database
from ...storage.drills import damaged_drills
from ...storage.records import damaged_records
from ...storage.snapshots import SnapshotRow, SnapshotRowError, heirs, snapshot_rows

__all__ = ["SmallTables", "text_of"]


class SmallTables:
    """Verifies them, one at a time; each may raise ``CorruptionError`` where SQLite cannot read it.

    Args:
        database: The repository.
        problem: Of check: kind, message, path=, snapshots=.
    """

    def __init__(self, database: Database, problem: Callable[..., None]) -> None:
        self._database = database
        self._problem = problem

    def settings(self) -> None:
        """Verify the settings."""
        settings = {
            text_of(name): text_of(value) if isinstance(value, bytes) else value
            for name, value in self._database.query("SELECT name, value FROM settings")
        }
        known = {"id", "swept_content", *(name for name, _ in Chunking().settings())}
        if self._database.encrypted:
            known |= {"seal", "key_page"}
        try:
            Chunking.from_settings(settings)
            intact = set(settings) <= known and len(bytes.fromhex(settings["id"])) == 16
        except (KeyError, TypeError, ValueError):
            intact = False
        if not intact:
            self._problem("catalog-corrupt", "the settings of the repository are damaged")

    def snapshot_rows(self) -> list[SnapshotRow]:
        """Return the rows of snapshots that can be read, each compared with its digest."""
        rows = snapshot_rows(self._database, on_damage=self._damaged_snapshot)
        for row in rows:
            if row.compute_digest() != row.digest:
                self._problem(
                    "snapshot-corrupt",
                    f"the description of snapshot {row.id} (time, source, note, tags, sizes) is not as it was saved",
                    snapshots=[row.id],
                )
        return rows

    def _damaged_snapshot(self, exc: CorruptionError) -> None:
        number = exc.snapshot if isinstance(exc, SnapshotRowError) else None
        self._problem("catalog-corrupt", str(exc), snapshots=[] if number is None else [number])

    def heirs(self, rows: Sequence[SnapshotRow]) -> dict[int, int]:
        """Return which snapshots have inherited what pruned ones brought."""
        known = {row.id for row in rows}
        found = heirs(self._database)
        for pruned, heir in found.items():
            if heir not in known or pruned in known:
                self._problem("catalog-corrupt", f"what snapshot {pruned} brought is booked on {heir}, which cannot be")
        return found

    def records(self) -> None:
        """Verify what is kept beside the snapshots; it says nothing of the files."""
        for what, number in damaged_records(self._database):
            snapshots = [number] if isinstance(number, int) else []
            message = f"the {what} row of snapshot {number} is not as it was saved; its files are not concerned"
            self._problem("snapshot-corrupt", message, snapshots=snapshots)

    def drills(self) -> None:
        """Verify the record of restore drills."""
        for number in damaged_drills(self._database):
            self._problem("catalog-corrupt", f"the record of restore drill {number} is not as it was written")

    def sources(self) -> None:
        """Read every source: snapshots are read without those that SQLite cannot read."""
        self._database.query("SELECT id, host, root FROM sources ORDER BY id")

    def counters(self) -> None:
        """Verify that no number in use will be given out again."""
        for table in ("snapshots", "contents"):
            used = self._database.value(f"SELECT max(id) FROM {table}") or 0
            counter = self._database.value("SELECT max(seq) FROM sqlite_sequence WHERE name = ?", (table,)) or 0
            if not isinstance(counter, int) or counter < used:
                self._problem("catalog-corrupt", f"the counter of {table} is below a number that is in use")


def text_of(value: object) -> str:
    """Return a text of the database as str, whatever it is."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
