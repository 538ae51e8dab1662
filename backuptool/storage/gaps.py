"""Gaps: what the catalog has on both sides of pages that SQLite cannot read.

Owns how rows are found behind such a page. A statement ends at the first one; a new one that begins behind it does not,
and where that is can be tried out, as rows are in the order of their keys. It is used only where SQLite has failed.
"""

from __future__ import annotations

from typing import Any, Callable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from ..errors import CorruptionError
from .database import Database

__all__ = ["Gap", "GapError", "OnGap", "beside_gaps", "content_row", "refuse"]

#: Rows read at a time.
_PAGE = 4096

#: Statements by which a reader may look for rows behind gaps: each takes 20 µs, as it reads one page of each level.
_MOST_PROBES = 50_000

#: Of these, places tried that lie evenly between the ends of what could not be read.
_EVENLY = 256

#: Paths taken from the index of versions that ended, as places to try.
_FROM_INDEX = 200

#: Steps by which a byte is raised to find a place behind: near ones first.
_STEPS = (1, 2, 4, 8, 16, 32, 64)

#: Sorts before all numbers of snapshots.
_BEFORE = -(1 << 63)

#: (path, first): what a row of one source is known by.
Key = Tuple[bytes, Any]


class GapError(CorruptionError):
    """Rows of files cannot be read, and nobody was there to be told but by an error."""


class Gap(NamedTuple):
    """Rows that cannot be read.

    Attributes:
        low: The key of the last row before it; it need not exist.
        high: The key of the first row behind it; None if there is none.
    """

    low: Key
    high: Optional[Key]


OnGap = Callable[[Gap], object]


def refuse(database: Database) -> OnGap:
    """Return what ends the reading of a list that has gaps, behind everything that could be read."""

    def on_gap(gap: Gap) -> None:
        raise GapError(
            f"rows of files in {database.path} cannot be read, and what they hold is missing here; run check to see "
            "what is hit",
            database.path,
        )

    return on_gap


def content_row(database: Database, content: object, columns: str) -> Optional[Sequence[Any]]:
    """Return columns of a content; none of it if it does not exist, None if SQLite cannot read its row."""
    if content is None:
        return ()
    try:
        rows = database.query(f"SELECT {columns} FROM contents AS c WHERE c.id = ?", (content,))
    except CorruptionError:
        return None
    return rows[0] if rows else ()


def beside_gaps(
    database: Database, source: object, columns: str, on_gap: OnGap, begin: bytes = b"", end: Optional[bytes] = None
) -> Iterator[Any]:
    """Yield columns of the versions of a source, in the order of (path, first), from all pages that can be read.

    Args:
        database: The repository.
        source: Number of the source.
        columns: Of ``files AS f``; no other table is read.
        on_gap: Called for each gap when all rows were given.
        begin: Only paths from here on.
        end: Only paths before this one.
    """
    reader = _Reader(database, source, columns, end)
    gaps: List[Gap] = []
    key: Key = (begin, _BEFORE)
    while True:
        rows, sound = reader.forward(key)
        for row in rows:
            yield row[:-2]
        if rows:
            key = rows[-1][-2:]
        if sound:
            if len(rows) < _PAGE:
                break
            continue
        rows = reader.behind(key)
        gaps.append(Gap(key, rows[0][-2:] if rows else None))
        if not rows:
            break
        for row in rows:
            yield row[:-2]
        key = rows[-1][-2:]
    for gap in gaps:
        on_gap(gap)


class _Reader:
    """Reads the rows of one source forward and backward, up to where that ends."""

    def __init__(self, database: Database, source: object, columns: str, end: Optional[bytes]) -> None:
        self._database = database
        self._source = source
        self._end = end
        # Paths that are blobs sort behind all texts, and are no paths.
        bound = "f.path < x''" if end is None else "f.path < CAST(? AS TEXT)"
        self._ends = () if end is None else (end,)
        rows = (
            f"SELECT {columns}, f.path, f.first FROM files AS f WHERE f.source = ? AND {bound} AND (f.path, f.first) > "
        )
        key = "(CAST(? AS TEXT), ?)"
        self._forward = f"{rows} {key} ORDER BY f.path, f.first LIMIT ?"
        self._backward = f"{rows} {key} AND (f.path, f.first) < {key} ORDER BY f.path DESC, f.first DESC LIMIT ?"
        self._from = (
            f"SELECT f.path, f.first FROM files AS f WHERE f.source = ? AND {bound} AND f.path >= CAST(? AS TEXT) "
            "ORDER BY f.path, f.first LIMIT 1"
        )
        self._last = (
            f"SELECT f.path, f.first FROM files AS f WHERE f.source = ? AND {bound} AND (f.path, f.first) > {key} "
            "ORDER BY f.path DESC, f.first DESC LIMIT 1"
        )
        self._probes = _MOST_PROBES

    def forward(self, key: Key) -> Tuple[List[Any], bool]:
        """Return a page of rows behind a key, and whether no gap ended it."""
        return self._page(self._forward, key)

    def behind(self, key: Key) -> List[Any]:
        """Return rows from the first one on that can be read behind a gap, as far as it can be found; none if none can.

        Args:
            key: Of the last row before the gap.
        """
        found: List[Any] = []
        high: Optional[Key] = None
        while True:
            spot = self._spot(key, high)
            if spot is None:
                return found
            # Backward from there, the gap is what ends it, or another one: then there is more to be found before that.
            rows, _ = self._page(self._backward, key, spot[0] + b"\0", _BEFORE)
            if not rows or (high is not None and rows[-1][-2:] >= high):
                return found
            found = rows[::-1]
            high = found[0][-2:]

    def _page(self, sql: str, *keys: Any) -> Tuple[List[Any], bool]:
        """Run a statement; return its rows, or else those before it failed, and whether it did not.

        Args:
            sql: Ends with a limit.
            keys: Key behind which rows are, and for a statement that goes backward the fields of that before which.
        """
        low, rest = keys[0], keys[1:]
        fixed = (self._source, *self._ends)
        try:
            return self._database.query(sql, (*fixed, *low, *rest, _PAGE)), True
        except CorruptionError:
            pass
        rows: List[Any] = []
        try:
            for row in self._database.stream(sql, (*fixed, *low, *rest, _PAGE), batch=1):
                rows.append(row)
        except CorruptionError:
            pass
        while True:  # some versions of Python read a row ahead, and lose one when that fails
            if rows and rest:
                rest = rows[-1][-2:]
            elif rows:
                low = rows[-1][-2:]
            try:
                more = self._database.query(sql, (*fixed, *low, *rest, 1))
            except CorruptionError:
                return rows, False
            if not more:
                return rows, True
            rows += more

    def _spot(self, low: Key, high: Optional[Key]) -> Optional[Key]:
        """Return the key of a row between two that can be read, None if none is found."""
        if high is None:
            try:
                rows = self._database.query(self._last, (self._source, *self._ends, *low))
                return rows[0] if rows else None
            except CorruptionError:
                pass
        end = high[0] if high is not None else self._end
        for place in self._places(low[0], end):
            if self._probes <= 0:
                return None
            self._probes -= 1
            try:
                rows = self._database.query(self._from, (self._source, *self._ends, place))
            except CorruptionError:
                continue
            if rows and rows[0] > low and (high is None or rows[0] < high):
                return rows[0]  # type: ignore[no-any-return]
        return None

    def _places(self, low: bytes, high: Optional[bytes]) -> Iterator[bytes]:
        """Yield paths between two by which rows may be found: evenly, by their names, and by another table."""
        end = b"\xff" * (len(low) + 1) if high is None else high
        candidates = (_evenly(low, end), _names_behind(low), _names_before(end), self._ended(low, end))
        for places in candidates:
            for place in places:
                if low < place < end:
                    yield place

    def _ended(self, low: bytes, end: bytes) -> Iterator[bytes]:
        """Yield paths of versions that ended: an index has these, on pages of its own."""
        try:
            rows = self._database.query(
                "SELECT DISTINCT path FROM files INDEXED BY files_last WHERE source = ? AND last IS NOT NULL "
                "AND path > CAST(? AS TEXT) AND path < CAST(? AS TEXT) LIMIT ?",
                (self._source, low, end, _FROM_INDEX),
            )
        except CorruptionError:
            return
        for (path,) in rows:
            yield path


def _evenly(low: bytes, high: bytes) -> Iterator[bytes]:
    """Yield byte strings between two: the one in the middle, then those in the middle of the halves, and so on."""
    same = 0
    while same < min(len(low), len(high)) and low[same] == high[same]:
        same += 1
    width = 8
    begin = int.from_bytes(low[same : same + width].ljust(width, b"\0"), "big")
    room = int.from_bytes(high[same : same + width].ljust(width, b"\0"), "big") - begin
    parts = 2
    while parts <= _EVENLY:
        for part in range(1, parts, 2):
            yield low[:same] + (begin + room * part // parts).to_bytes(width, "big")
        parts *= 2


def _names_behind(path: bytes) -> Iterator[bytes]:
    """Yield what comes behind a path in its directory, in that above it, and so on."""
    for length in range(len(path) - 1, -1, -1):
        for step in _STEPS:
            if path[length] + step < 256:
                yield path[:length] + bytes([path[length] + step])


def _names_before(path: bytes) -> Iterator[bytes]:
    """Yield where the directories on the way to a path begin, the nearest first."""
    for length in range(len(path) - 1, 0, -1):
        yield path[:length]
