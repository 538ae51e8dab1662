"""What is lost with pages that SQLite cannot read: named by tables and indexes that still have it.

Owns questions that only ``check`` asks, where a table has gaps: which contents are left, and which rows of files an
index has that the table has not. How rows beside gaps are found is the business of gaps.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Any, Iterator, List, NamedTuple, Optional, Sequence

from ..errors import CorruptionError
from .database import Database
from .gaps import content_row

__all__ = ["LostRow", "contents_beside_gaps", "lost_rows", "members_beside_gaps", "parts_beside_gaps"]

#: Rows read at a time.
_PAGE = 4096

#: Ids tried one by one behind a gap if the index of hashes cannot tell which there are.
_MOST_IDS = 10_000_000


class LostRow(NamedTuple):
    """A version that an index has and its table has not.

    Attributes:
        path: Its path.
        first: The snapshot that brought it.
        last: The last snapshot that has it.
    """

    path: bytes
    first: int
    last: int


def contents_beside_gaps(database: Database, columns: str) -> Iterator[Any]:
    """Yield columns of all contents whose rows can be read, by ascending id.

    Args:
        columns: Of ``contents AS c``; the first one is the id.
    """
    ids: Optional[Sequence[int]] = None
    last = -(1 << 63)
    while True:
        try:
            rows = database.query(
                f"SELECT {columns} FROM contents AS c WHERE c.id > ? ORDER BY c.id LIMIT ?", (last, _PAGE)
            )
        except CorruptionError:
            if ids is None:
                ids = _content_ids(database)
            # One by one, until a page can be read again.
            position = bisect_right(ids, last)
            while position < len(ids):
                row = content_row(database, ids[position], columns)
                position += 1
                last = ids[position - 1]
                if row:
                    yield row
                if position % 64 == 0 and row:
                    break
            else:
                return
            continue
        yield from rows
        if len(rows) < _PAGE:
            return
        last = rows[-1][0]


def _content_ids(database: Database) -> Sequence[int]:
    """Return the ids of all contents by the index of their hashes, or else all that were ever given out."""
    try:
        rows = database.query("SELECT id FROM contents INDEXED BY contents_hash")
        return sorted(number for (number,) in rows if isinstance(number, int))
    except CorruptionError:
        pass
    try:
        highest = database.next_id("contents")
    except CorruptionError:
        highest = _MOST_IDS
    return range(1, min(highest, _MOST_IDS))


def members_beside_gaps(database: Database, pack: int) -> List[Any]:
    """Return (id, hash, size, offset) of the contents of a pack whose rows can be read, by offset."""
    ids = database.query("SELECT id FROM contents INDEXED BY contents_pack WHERE pack = ?", (pack,))
    rows = [content_row(database, number, "c.id, c.hash, c.size, c.offset") for (number,) in ids]
    return sorted((row for row in rows if row), key=lambda row: row[3] if isinstance(row[3], int) else -1)


def parts_beside_gaps(database: Database, content: int, size: object) -> Optional[List[Any]]:
    """Return (offset, id of the part, its hash, size, pack) of all parts of a content, None if not all can be read."""
    found: List[Any] = []
    end = after = -1
    while True:
        try:
            rows = database.query(
                "SELECT offset, part FROM parts WHERE content = ? AND offset > ? ORDER BY offset LIMIT 1",
                (content, after),
            )
        except CorruptionError:
            # Behind the last part comes another content's, which may be what cannot be read.
            return found if end == size else None
        if not rows:
            return found
        offset, part = rows[0]
        row = content_row(database, part, "c.hash, c.size, c.pack")
        if row is None or not isinstance(offset, int):
            return None
        digest, length, pack = row or (None, None, None)
        end = offset + length if isinstance(length, int) else -1
        found.append((offset, part, digest, length, pack))
        after = offset


def lost_rows(database: Database, source: int) -> Iterator[LostRow]:
    """Yield the rows that files do not have, or that cannot be read, as far as the index of ended versions has them."""
    try:
        for path, first, last in database.stream(
            "SELECT path, first, last FROM files INDEXED BY files_last WHERE source = ? AND last IS NOT NULL", (source,)
        ):
            typed = isinstance(path, bytes) and isinstance(first, int) and isinstance(last, int)
            if typed and not _has_row(database, source, path, first):
                yield LostRow(path, first, last)
    except CorruptionError:
        return  # what it has behind this is not known either; SQLite's own check names the index


def _has_row(database: Database, source: int, path: bytes, first: int) -> bool:
    try:
        key = (source, path, first)
        sql = "SELECT kind FROM files WHERE source = ? AND path = CAST(? AS TEXT) AND first = ?"
        return bool(database.query(sql, key))
    except CorruptionError:
        return False
