"""Snapshots and their sources: one row each, found by number, by what is said of them, or as neighbours.

Owns the rows of ``sources``, ``snapshots`` and ``pruned``. Which files a snapshot has is left to files; what is to be
recorded or removed is decided by the operations.
"""

from __future__ import annotations

import json
import os
from typing import Any, Callable, Dict, NamedTuple, Optional, Sequence, Tuple

import attrs

from ..errors import CorruptionError, SnapshotNotFoundError
from ..results.changes import Alert
from ..results.snapshot import Snapshot
from .database import Database
from .digest import snapshot_digest
from .records import alerts_of
from .references import Latest, parse_reference

__all__ = [
    "SnapshotRow",
    "SnapshotRowError",
    "SourceRow",
    "find_snapshot",
    "heirs",
    "insert_snapshot",
    "neighbours",
    "newest_snapshot",
    "next_snapshot_id",
    "snapshot_rows",
    "snapshot_times",
    "snapshots_by_index",
    "source_id",
    "sources",
    "update_description",
    "update_distinct_size",
]

_SNAPSHOT_COLUMNS = (
    "n.id, n.source, s.host, s.root, n.started_ns, n.finished_ns, n.files, n.directories, n.size, n.distinct_size, "
    "n.skipped_files, n.problem_files, n.note, n.tags, n.tree_digest, n.digest"
)

_SNAPSHOTS = "FROM snapshots AS n LEFT JOIN sources AS s ON s.id = n.source"

#: The sources as the index of their names has them, which has all of them.
_SOURCES_BY_NAME = "sources INDEXED BY sqlite_autoindex_sources_1"

#: What is kept beside them; a snapshot can be read without it.
_RECORDS = "LEFT JOIN pins AS p ON p.snapshot = n.id LEFT JOIN changes AS g ON g.snapshot = n.id"


class SnapshotRowError(CorruptionError):
    """The row of a snapshot is damaged.

    Attributes:
        snapshot: Its number, if that can be told.
    """

    def __init__(self, message: str, path: str, snapshot: object) -> None:
        super().__init__(message, path)
        self.snapshot = snapshot if isinstance(snapshot, int) else None


@attrs.frozen
class SnapshotRow:
    """A row of ``snapshots`` together with its source."""

    id: int
    source: int
    host: str
    root: bytes
    started_ns: int
    finished_ns: int
    files: int
    directories: int
    size: int
    distinct_size: int
    skipped_files: int
    problem_files: int
    note: str
    tags: tuple[str, ...]
    tree_digest: bytes
    digest: bytes = b""
    pinned: bool = False
    alerts: tuple[Alert, ...] = ()

    def compute_digest(self) -> bytes:
        """Return what ``digest`` must be; ``distinct_size`` is left out, as pruning others changes it."""
        return snapshot_digest(
            (
                self.id,
                self.host,
                self.root,
                self.started_ns,
                self.finished_ns,
                self.files,
                self.directories,
                self.size,
                self.skipped_files,
                self.problem_files,
                self.note,
                json.dumps(self.tags),
                self.tree_digest,
            )
        )

    def to_result(self) -> Snapshot:
        """Return the snapshot as users see it."""
        return Snapshot(
            id=self.id,
            host=self.host,
            source=os.fsdecode(self.root),
            started_ns=self.started_ns,
            finished_ns=self.finished_ns,
            files=self.files,
            directories=self.directories,
            size_bytes=self.size,
            distinct_bytes=self.distinct_size,
            skipped_files=self.skipped_files,
            problem_files=self.problem_files,
            note=self.note,
            tags=self.tags,
            digest=self.digest.hex(),
            pinned=self.pinned,
            alerts=self.alerts,
        )


def _snapshot_row(row: Sequence[object], path: str) -> SnapshotRow:
    values = list(row)
    wrong = None
    try:
        values[2] = values[2].decode("utf-8", "surrogateescape")  # type: ignore[attr-defined]
        values[12] = values[12].decode("utf-8", "surrogateescape")  # type: ignore[attr-defined]
        values[13] = tuple(str(tag) for tag in json.loads(values[13]))  # type: ignore[arg-type]
    except (AttributeError, TypeError, ValueError, RecursionError):
        wrong = "a name, the note or the tags are none"
    numbers = [values[0], values[1], *values[4:12]]
    if not all(isinstance(number, int) for number in numbers) or not isinstance(values[3], bytes):
        wrong = wrong or "a number is none"
    if not isinstance(values[14], bytes) or not isinstance(values[15], bytes):
        wrong = wrong or "a digest is none"
    if wrong is not None:
        raise SnapshotRowError(f"the row of snapshot {row[0]!r} is damaged ({wrong})", path, row[0])
    values[16:] = [bool(values[16]), alerts_of(values[17])]
    return SnapshotRow(*values)  # type: ignore[arg-type]


def _select_snapshots(database: Database, tail: str, parameters: Sequence[int] = ()) -> list[Any]:
    """Return rows of snapshots; where SQLite cannot read what is kept beside them, as if there was none."""
    try:
        columns = f"{_SNAPSHOT_COLUMNS}, p.snapshot IS NOT NULL, g.alerts"
        return database.query(f"SELECT {columns} {_SNAPSHOTS} {_RECORDS} {tail}", parameters)
    except CorruptionError:
        pass
    try:
        return database.query(f"SELECT {_SNAPSHOT_COLUMNS}, 0, NULL {_SNAPSHOTS} {tail}", parameters)
    except CorruptionError:
        return _select_without_sources(database, tail, parameters)


def _select_without_sources(database: Database, tail: str, parameters: Sequence[int]) -> list[Any]:
    """Return rows of snapshots where SQLite cannot read their sources together with them.

    What is not known of a source is a ``?``. The digest of a snapshot covers it, so ``check`` names the snapshot, and
    no directory is taken for it: each is known by its absolute path.
    """
    apart = _SNAPSHOT_COLUMNS.replace("s.host, s.root", "NULL, NULL")
    try:
        columns = f"{apart}, p.snapshot IS NOT NULL, g.alerts"
        rows = database.query(f"SELECT {columns} FROM snapshots AS n {_RECORDS} {tail}", parameters)
    except CorruptionError:
        rows = database.query(f"SELECT {apart}, 0, NULL FROM snapshots AS n {tail}", parameters)
    names = {number: _names_of(database, number) for number in {row[1] for row in rows}}
    return [(*row[:2], *names[row[1]], *row[4:]) for row in rows]


def _names_of(database: Database, source: object) -> Tuple[object, object]:
    """Return host and root of a source by its row, or else by the index that has both; NULL if there is none."""
    for table in ("sources", _SOURCES_BY_NAME):
        try:
            rows = database.query(f"SELECT host, root FROM {table} WHERE id = ?", (source,))
        except CorruptionError:
            continue
        return rows[0] if rows else (None, None)
    return b"?", b"?%d" % source if isinstance(source, int) else b"?"


def snapshot_rows(
    database: Database, on_damage: Optional[Callable[[CorruptionError], object]] = None
) -> list[SnapshotRow]:
    """Return all snapshots by ascending number.

    Args:
        on_damage: Called for each row that is damaged, which is then left out; without it the first one is an error.
    """
    found = []
    try:
        selected = _select_snapshots(database, "ORDER BY n.id")
    except CorruptionError:
        if on_damage is None:
            raise
        selected = _select_one_by_one(database, on_damage)
    for row in selected:
        try:
            found.append(_snapshot_row(row, database.path))
        except CorruptionError as exc:
            if on_damage is None:
                raise
            on_damage(exc)
    return found


def snapshots_by_index(database: Database) -> Dict[int, int]:
    """Return the source of each snapshot by the index of sources alone, which need not agree with their table."""
    rows = database.query("SELECT id, source FROM snapshots INDEXED BY snapshots_source ORDER BY id")
    return {number: source for number, source in rows if isinstance(source, int)}


def _select_one_by_one(database: Database, on_damage: Callable[[CorruptionError], object]) -> list[Any]:
    """Return the rows of snapshots that SQLite can read where it cannot read all; an index has their numbers."""
    found = []
    for number in snapshots_by_index(database):
        try:
            found += _select_snapshots(database, "WHERE n.id = ?", (number,))
        except CorruptionError as exc:
            message = f"the row of snapshot {number} cannot be read: {exc.reason}"
            on_damage(SnapshotRowError(message, database.path, number))
    return found


def find_snapshot(database: Database, reference: int | str) -> SnapshotRow:
    """Return a snapshot by number, or counted back from the newest one; see :mod:`.references`.

    Raises:
        SnapshotNotFoundError: There is none; the message lists those there are.
    """
    number = parse_reference(reference)
    if isinstance(number, Latest):
        number = _counted_back(database, number)
    if number is not None and -(1 << 63) <= number < 1 << 63:
        rows = _select_snapshots(database, "WHERE n.id = ?", (number,))
        if rows:
            return _snapshot_row(rows[0], database.path)
    available = [row[0] for row in database.query("SELECT id FROM snapshots ORDER BY id")]
    ever = bool(available) or database.total("SELECT max(seq) FROM sqlite_sequence WHERE name = 'snapshots'") > 0
    raise SnapshotNotFoundError(_not_found(reference, available, ever), reference, available)


def _counted_back(database: Database, latest: Latest) -> Optional[int]:
    """Return the number of a snapshot that is counted back from the newest one."""
    if latest.root is None:
        newest = database.number("SELECT max(id) FROM snapshots")
        if latest.back == 0 or newest is None:
            return newest
        parameters: list[object] = [newest]
        sources = "(SELECT source FROM snapshots WHERE id = ?)"
    else:
        parameters = [latest.root]
        sources = "(SELECT id FROM sources WHERE root = CAST(? AS TEXT)"
        if latest.host is not None:
            sources += " AND host = CAST(? AS TEXT)"
            parameters.append(latest.host.encode("utf-8", "surrogateescape"))
        sources += ")"
    # Of several machines with this source, it is that of the newest one.
    return database.number(
        "SELECT id FROM snapshots WHERE source = "
        f"(SELECT source FROM snapshots WHERE source IN {sources} ORDER BY id DESC LIMIT 1) "
        "ORDER BY id DESC LIMIT 1 OFFSET ?",
        (*parameters, latest.back),
    )


def _not_found(reference: int | str, available: Sequence[int], ever: bool) -> str:
    if not available and ever:
        return f"there is no snapshot {reference}: the repository has none any more; run check, or take one"
    if not available:
        return f"there is no snapshot {reference}: the repository has none yet; take one with snapshot"
    shown = ", ".join(map(str, available if len(available) <= 20 else [*available[:8], "…", *available[-8:]]))
    return f"there is no snapshot {reference}; there are: {shown}"


def newest_snapshot(database: Database, source: Optional[int]) -> Optional[int]:
    """Return the number of a source's newest snapshot."""
    return database.number("SELECT max(id) FROM snapshots WHERE source = ?", (source,))


def next_snapshot_id(database: Database) -> int:
    """Return the lowest number above all that were ever used; the write lock must be held."""
    return database.next_id("snapshots")


def neighbours(database: Database, source: int, snapshot: int) -> tuple[Optional[int], Optional[int]]:
    """Return the numbers of the snapshots of a source before and behind one."""
    before = database.number("SELECT max(id) FROM snapshots WHERE source = ? AND id < ?", (source, snapshot))
    behind = database.number("SELECT min(id) FROM snapshots WHERE source = ? AND id > ?", (source, snapshot))
    return before, behind


def snapshot_times(database: Database, source: int) -> Dict[int, int]:
    """Return when each snapshot of a source began, by ascending number.

    Raises:
        CorruptionError: One began at what is no time.
    """
    rows = database.query("SELECT id, started_ns FROM snapshots WHERE source = ? ORDER BY id", (source,))
    for number, started_ns in rows:
        if not isinstance(started_ns, int):
            raise CorruptionError(f"the row of snapshot {number} is damaged (a number is none)", database.path)
    return dict(rows)


def heirs(database: Database) -> dict[int, int]:
    """Return for each pruned snapshot the kept one that has inherited the contents it brought."""
    return dict(database.query("SELECT id, heir FROM pruned"))


def insert_snapshot(database: Database, row: SnapshotRow) -> SnapshotRow:
    """Insert a snapshot with its digest, and return it."""
    row = attrs.evolve(row, digest=row.compute_digest())
    database.execute(
        "INSERT INTO snapshots VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, CAST(? AS TEXT), ?, ?, ?)",
        (
            row.id,
            row.source,
            row.started_ns,
            row.finished_ns,
            row.files,
            row.directories,
            row.size,
            row.distinct_size,
            row.skipped_files,
            row.problem_files,
            row.note.encode("utf-8", "surrogateescape"),
            json.dumps(row.tags),
            row.tree_digest,
            row.digest,
        ),
    )
    return row


def update_description(database: Database, row: SnapshotRow, note: str, tags: Sequence[str]) -> SnapshotRow:
    """Give a snapshot another note and other tags, and return it with its new digest.

    Raises:
        CorruptionError: Its row is not as it was saved: a new digest would hide that.
    """
    if row.compute_digest() != row.digest:
        raise CorruptionError(
            f"the description of snapshot {row.id} in {database.path} is not as it was saved, and stays as it is for "
            "check to name it",
            database.path,
        )
    row = attrs.evolve(row, note=note, tags=tuple(sorted(set(tags))))
    row = attrs.evolve(row, digest=row.compute_digest())
    database.execute(
        "UPDATE snapshots SET note = CAST(? AS TEXT), tags = ?, digest = ? WHERE id = ?",
        (row.note.encode("utf-8", "surrogateescape"), json.dumps(row.tags), row.digest, row.id),
    )
    return row


def update_distinct_size(database: Database, snapshot: int, size: int) -> None:
    """Add to a snapshot's distinct size."""
    database.execute("UPDATE snapshots SET distinct_size = distinct_size + ? WHERE id = ?", (size, snapshot))


class SourceRow(NamedTuple):
    """A directory that was saved."""

    id: int
    host: str
    root: bytes


def sources(database: Database, root: Optional[bytes] = None, host: Optional[str] = None) -> list[SourceRow]:
    """Return the sources, or those of a directory or a machine.

    Raises:
        CorruptionError: The name of one is no text.
    """
    found = []
    try:
        rows = database.query("SELECT id, host, root FROM sources ORDER BY id")
    except CorruptionError:
        rows = database.query(f"SELECT id, host, root FROM {_SOURCES_BY_NAME} ORDER BY id")
    for number, name, path in rows:
        if not isinstance(name, bytes) or not isinstance(path, bytes):
            raise CorruptionError(f"the row of source {number} in {database.path} is damaged; run check", database.path)
        row = SourceRow(number, name.decode("utf-8", "surrogateescape"), path)
        if root in (None, row.root) and host in (None, row.host):
            found.append(row)
    return found


def source_id(database: Database, host: str, root: bytes, *, create: bool = False) -> Optional[int]:
    """Return the id of a source, None if it was never saved (unless it is created)."""
    key = (host.encode("utf-8", "surrogateescape"), root)
    found = database.number("SELECT id FROM sources WHERE host = CAST(? AS TEXT) AND root = CAST(? AS TEXT)", key)
    if found is None and create:
        # Above all numbers that snapshots name: where the row of a source is lost, another one must not inherit them.
        database.execute(
            "INSERT INTO sources (id, host, root) SELECT 1 + max(coalesce((SELECT max(id) FROM sources), 0), "
            "coalesce((SELECT max(source) FROM snapshots), 0)), CAST(? AS TEXT), CAST(? AS TEXT)",
            key,
        )
        found = source_id(database, host, root)
    return found
