"""What is lost with pages that SQLite cannot read: named by tables and indexes that still have it.

Owns questions that only ``check`` asks, where a table has gaps: which contents are left, and which rows of files an
index has that the table has not. How rows beside gaps are found is the business of gaps.
"""

from __future__ import annotations

from bisect import bisect_right
from contextlib import suppress
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from ..errors import CorruptionError
from .database import Database
from .gaps import content_row

__all__ = ["LostRow", "Members", "contents_beside_gaps", "lost_rows", "parts_beside_gaps"]

#: Rows read at a time.
_PAGE = 4096

#: Ids are tried one by one until so many could not be read, then every second one, then every fourth, and so on.
_STEP_SHARE = 1024

#: Contents read one by one before a page is tried again.
_BY_ID = 256

#: Ids tried behind a gap if the index of hashes cannot tell which there are.
_MOST_IDS = 10_000_000

#: Statements by which paths are spelled out. Each takes 20 to 100 µs, so this is some seconds, and some hundred paths.
_MOST_QUESTIONS = 50_000


class LostRow(NamedTuple):
    """A version that an index has and its table has not.

    Attributes:
        path: Its path.
        first: The snapshot that brought it.
        last: The last snapshot that has it, None while it is current.
    """

    path: bytes
    first: int
    last: Optional[int]


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
            # One by one, until a page can be read again; where nothing can for long, in growing steps.
            position, found, failed = bisect_right(ids, last), 0, 0
            while found < _BY_ID:
                if position >= len(ids):
                    return
                last = ids[position]
                row = content_row(database, last, columns)
                found, failed = (found, failed + 1) if row is None else (found + 1, 0)
                position += 1 << failed // _STEP_SHARE
                if row:
                    yield row
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


class Members:
    """Which contents lie in a pack.

    Args:
        database: The repository.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._by_pack: Optional[Dict[object, List[Any]]] = None

    def of(self, pack: int) -> Sequence[Any]:
        """Return (id, hash, size, offset) of the contents of a pack by their offset, without those that cannot be read.

        Raises:
            CorruptionError: None of them can be.
        """
        try:
            return self._database.query(
                "SELECT id, hash, size, offset FROM contents WHERE pack = ? ORDER BY offset", (pack,)
            )
        except CorruptionError:
            pass
        try:
            ids = self._database.query("SELECT id FROM contents INDEXED BY contents_pack WHERE pack = ?", (pack,))
            rows = [content_row(self._database, number, "c.id, c.hash, c.size, c.offset") for (number,) in ids]
        except CorruptionError:  # it is the index that cannot be read
            rows = self._by_table().get(pack, [])
        return sorted((row for row in rows if row), key=lambda row: row[3] if isinstance(row[3], int) else -1)

    def _by_table(self) -> Dict[object, List[Any]]:
        """Return the same for all packs, read once: nothing but the index knows those of one."""
        if self._by_pack is None:
            self._by_pack = {}
            for content, pack, *rest in contents_beside_gaps(self._database, "c.id, c.pack, c.hash, c.size, c.offset"):
                self._by_pack.setdefault(pack, []).append((content, *rest))
        return self._by_pack


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
    """Yield the rows that files do not have, or that cannot be read, as far as the indexes have them.

    There are two, of versions that ended and of those that were added later: what came with the first snapshot of a
    source and is still current is in neither.
    """
    ended = set()
    with suppress(CorruptionError):  # what the index has behind that is not known; SQLite's own check names it
        for path, first, last in database.stream(
            "SELECT path, first, last FROM files INDEXED BY files_last WHERE source = ? AND last IS NOT NULL", (source,)
        ):
            typed = isinstance(path, bytes) and isinstance(first, int) and isinstance(last, int)
            if typed and not _has_row(database, source, path, first):
                ended.add((path, first))
                yield LostRow(path, first, last)
    for path, first in _Hidden(database, source):
        if (path, first) not in ended:
            yield LostRow(path, first, None)


def _has_row(database: Database, source: int, path: bytes, first: int) -> bool:
    try:
        key = (source, path, first)
        sql = "SELECT kind FROM files WHERE source = ? AND path = CAST(? AS TEXT) AND first = ?"
        return bool(database.query(sql, key))
    except CorruptionError:
        return False


class _Hidden:
    """Keys that the index of added versions has for rows that cannot be read.

    SQLite goes to the row of every entry of that index, as only the row says that it was added, so these keys cannot be
    asked for. But whether there are any between two bounds can: a statement over such a range fails, and any other one
    does not. So they are spelled out byte by byte, with some ten statements each.
    """

    def __init__(self, database: Database, source: int) -> None:
        self._database = database
        self._source = source
        self._left = _MOST_QUESTIONS

    def __iter__(self) -> Iterator[Tuple[bytes, int]]:
        """Yield (path, first) in order of the second; none if the index itself cannot be read."""
        if not self._fails("first < -1", ()):
            for first in self._firsts():
                for path in self._paths(first):
                    yield path, first

    def _firsts(self) -> Iterator[int]:
        try:
            highest = self._database.next_id("snapshots")
        except CorruptionError:
            return
        waiting = [(0, highest)]
        while waiting:
            low, high = waiting.pop()
            if not self._fails("first >= ? AND first <= ?", (low, high)):
                continue
            if low == high:
                yield low
            else:
                middle = (low + high) // 2
                waiting += [(middle + 1, high), (low, middle)]

    def _paths(self, first: int) -> Iterator[bytes]:
        def is_hidden(path: bytes) -> bool:
            return self._hides(first, path, path + b"\0")

        if is_hidden(b""):
            yield b""
        waiting = [(b"", 1, 255)]
        while waiting:
            begin, low, high = waiting.pop()
            behind = begin + bytes([high + 1]) if high < 255 else _behind_all(begin)
            if not self._hides(first, begin + bytes([low]), behind):
                continue
            if low < high:
                middle = (low + high) // 2
                waiting += [(begin, middle + 1, high), (begin, low, middle)]
                continue
            path = begin + bytes([low])
            if is_hidden(path):
                if self._hides(first, path + b"\0", path + b"\0\0"):
                    return  # no path has a NUL: it is the index that cannot be read here
                yield path
            waiting.append((path, 1, 255))

    def _hides(self, first: int, low: bytes, high: Optional[bytes]) -> bool:
        if high is None:
            return self._fails("first = ? AND path >= CAST(? AS TEXT) AND path < x''", (first, low))
        return self._fails("first = ? AND path >= CAST(? AS TEXT) AND path < CAST(? AS TEXT)", (first, low, high))

    def _fails(self, terms: str, parameters: Sequence[object]) -> bool:
        if self._left <= 0:
            return False
        self._left -= 1
        try:
            # An aggregate ends with the first row that cannot be read, and takes no memory until then.
            self._database.query(
                f"SELECT count(kind) FROM files INDEXED BY files_first WHERE added AND source = ? AND {terms}",
                (self._source, *parameters),
            )
        except CorruptionError:
            return True
        return False


def _behind_all(begin: bytes) -> Optional[bytes]:
    """Return what comes behind everything that begins so, None if nothing does."""
    begin = begin.rstrip(b"\xff")
    return begin[:-1] + bytes([begin[-1] + 1]) if begin else None
