"""What a copy reads of a catalog: the versions a snapshot holds, and those by which two snapshots differ.

Owns these queries, which read a page at a time: no lock is held between two pages, and nothing is walked but what is
asked for. What is inserted at the destination goes through files and contents.
"""

from __future__ import annotations

from typing import Any, Iterator, NamedTuple, Optional

from ..errors import CorruptionError
from .contents import ContentLocation
from .database import Database
from .digest import FileVersion
from .files import STORED_COLUMNS, rows_beside_gaps, stored_file
from .gaps import OnGap, refuse
from .snapshots import SnapshotRow, find_snapshot

__all__ = [
    "StoredVersion",
    "added_between",
    "ended_between",
    "find_copies",
    "find_equal",
    "later_than",
    "versions_of",
]

_PAGE = 4096

_COLUMNS = f"{STORED_COLUMNS}, f.ctime_ns, f.inode, f.first, f.last"
_TABLES = "files AS f LEFT JOIN contents AS c ON c.id = f.content"


class StoredVersion(NamedTuple):
    """A version as the catalog has it.

    Attributes:
        version: What is known of the file; of the kind ``?`` if the row is damaged.
        content: Where its bytes are; None if it is no regular file, or its content is missing.
        ctime_ns: Change time, if it is trusted.
        inode: Inode number as stored.
        first: The snapshot that brought it.
    """

    version: FileVersion
    content: Optional[ContentLocation]
    ctime_ns: Optional[int]
    inode: Optional[int]
    first: int


def versions_of(database: Database, snapshot: SnapshotRow, on_gap: Optional[OnGap] = None) -> Iterator[StoredVersion]:
    """Yield all versions that a snapshot has, in byte order of their paths.

    Args:
        on_gap: Called, when all others were given, for each gap that is left where SQLite cannot read rows.

    Raises:
        CorruptionError: There are gaps and nobody to tell; when all other versions were given.
        SnapshotNotFoundError: It was pruned meanwhile.
    """
    sql = (
        f"SELECT {_COLUMNS} FROM {_TABLES} WHERE f.source = ? AND f.path {{}} CAST(? AS TEXT) "
        "AND f.first <= ? AND (f.last IS NULL OR f.last >= ?) ORDER BY f.path LIMIT ?"
    )
    after, comparison = b"", ">="
    while True:
        try:
            rows = database.query(sql.format(comparison), (snapshot.source, after, snapshot.id, snapshot.id, _PAGE))
        except CorruptionError:
            begin = after if comparison == ">=" else after + b"\0"
            columns = ("f.ctime_ns", "f.inode", "f.first", "f.last")
            yield from map(
                _stored, rows_beside_gaps(database, snapshot, on_gap or refuse(database), begin, more=columns)
            )
            break
        yield from map(_stored, rows)
        if len(rows) < _PAGE:
            break
        after, comparison = rows[-1][0], ">"
    find_snapshot(database, snapshot.id)


def added_between(database: Database, before: int, snapshot: SnapshotRow) -> Iterator[StoredVersion]:
    """Yield the versions that a snapshot has and an earlier one of its source lacks, by first snapshot and path.

    Raises:
        SnapshotNotFoundError: It was pruned meanwhile.
    """
    sql = (
        f"SELECT {_COLUMNS} FROM {_TABLES} WHERE f.source = ? AND f.added AND f.first <= ? "
        "AND (f.last IS NULL OR f.last >= ?) AND (f.first, f.path) > (?, CAST(? AS TEXT)) "
        "ORDER BY f.first, f.path LIMIT ?"
    )
    first, after = before + 1, b""
    # The root has the empty path, and nothing sorts before it: the first page begins with it.
    page_sql = sql.replace("> (?, CAST", ">= (?, CAST")
    while True:
        rows = database.query(page_sql, (snapshot.source, snapshot.id, snapshot.id, first, after, _PAGE))
        yield from map(_stored, rows)
        if len(rows) < _PAGE:
            break
        page_sql, first, after = sql, rows[-1][_FIRST], rows[-1][0]
    find_snapshot(database, snapshot.id)


def ended_between(database: Database, before: int, snapshot: SnapshotRow) -> Iterator[FileVersion]:
    """Yield the versions that an earlier snapshot of its source has and a snapshot lacks, by last snapshot and path."""
    sql = (
        f"SELECT {_COLUMNS} FROM {_TABLES} WHERE f.source = ? AND f.last < ? AND f.first <= ? "
        "AND (f.last, f.path) {} (?, CAST(? AS TEXT)) ORDER BY f.last, f.path LIMIT ?"
    )
    last, after, comparison = before, b"", ">="
    while True:
        rows = database.query(sql.format(comparison), (snapshot.source, snapshot.id, before, last, after, _PAGE))
        for row in rows:
            yield stored_file(row).version
        if len(rows) < _PAGE:
            return
        last, after, comparison = rows[-1][_FIRST + 1], rows[-1][0], ">"


def find_copies(database: Database, snapshot: SnapshotRow) -> list[SnapshotRow]:
    """Return the snapshots of a repository that were taken of the same source at the same time as one of another."""
    rows = database.query(
        "SELECT n.id FROM snapshots AS n JOIN sources AS s ON s.id = n.source WHERE s.host = CAST(? AS TEXT) "
        "AND s.root = CAST(? AS TEXT) AND n.started_ns = ? AND n.finished_ns = ? ORDER BY n.id",
        (snapshot.host.encode("utf-8", "surrogateescape"), snapshot.root, snapshot.started_ns, snapshot.finished_ns),
    )
    return [find_snapshot(database, number) for (number,) in rows]


def find_equal(database: Database, snapshot: SnapshotRow, tree_digest: bytes) -> Optional[int]:
    """Return the number of the last snapshot before one, of its source, that holds a tree with a digest."""
    return database.number(
        "SELECT max(id) FROM snapshots WHERE source = ? AND id < ? AND tree_digest = ?",
        (snapshot.source, snapshot.id, tree_digest),
    )


def later_than(database: Database, source: Optional[int], started_ns: int) -> Optional[int]:
    """Return the number of the last snapshot of a source that was taken after a time, None if there is none."""
    return database.number("SELECT max(id) FROM snapshots WHERE source = ? AND started_ns > ?", (source, started_ns))


#: Where ``f.first`` is in a row; ``f.last`` is behind it.
_FIRST = 21


def _stored(row: Any) -> StoredVersion:
    version, content = stored_file(row)
    ctime_ns, inode, first = row[19:22]
    if {type(ctime_ns), type(inode)} <= {int, type(None)}:
        return StoredVersion(version, content, ctime_ns, inode, first)
    return StoredVersion(version, content, None, None, first)  # damaged: the file is read again
