"""Sums over the tables: what snapshots hold, share and take. Statements that no other module needs.

Owns SQL over several tables at once, for figures; who owns the rows is as elsewhere. Nothing here reads a pack: of each
only the beginning of its row, which says how long it is.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Optional, Sequence

from .database import Database
from .files import only_in
from .snapshots import SnapshotRow

__all__ = [
    "LargeFile",
    "PackTotals",
    "PastFile",
    "StoredGroup",
    "VersionGroup",
    "content_totals",
    "exclusive_contents",
    "largest_files",
    "most_past_files",
    "pack_totals",
    "stored_groups",
    "version_groups",
]


class VersionGroup(NamedTuple):
    """File versions of one source with the same range of snapshots, those left out that were always there.

    Attributes:
        source: Whose.
        first, last: The range; ``last`` is None for current ones.
        files: How many, directories left out.
        size: Their bytes.
    """

    source: int
    first: int
    last: Optional[int]
    files: int
    size: int


class StoredGroup(NamedTuple):
    """Contents that one snapshot brought into one pack.

    Attributes:
        since: Number of the snapshot, 0 for what none has.
        size: Their bytes.
        pack_size: Bytes of the pack, decompressed.
        stored: Bytes of the pack as it is stored.
    """

    since: int
    size: int
    pack_size: int
    stored: int


class PackTotals(NamedTuple):
    """All packs: how many, bytes decompressed, bytes of contents in them, bytes stored, and how many are half empty."""

    packs: int
    size: int
    live: int
    stored: int
    half_empty: int


class LargeFile(NamedTuple):
    """A path with its largest version, the newest of several, and the range of snapshots that have it."""

    source: int
    path: bytes
    size: int
    first: int
    last: Optional[int]


class PastFile(NamedTuple):
    """A path with the versions of it that are past: how many, and their bytes, shared or not."""

    source: int
    path: bytes
    versions: int
    size: int


def version_groups(database: Database) -> list[VersionGroup]:
    """Return what changed: versions that a source's first snapshot did not bring, and those that ended. One sweep."""
    rows = database.query(
        "SELECT source, first, last, sum(kind <> 'd'), sum(size) FROM files WHERE added OR last IS NOT NULL "
        "GROUP BY source, first, last"
    )
    return [VersionGroup._make(row) for row in rows]


def exclusive_contents(
    database: Database, row: SnapshotRow, before: Optional[int], behind: Optional[int]
) -> tuple[int, int]:
    """Return the number and the bytes of the contents that would go if one snapshot was pruned.

    Of the file versions that it alone has, found by index, those contents that nothing else refers to; of large ones
    that go, the parts that nothing else refers to.

    Args:
        row: The snapshot.
        before, behind: Numbers of its neighbours.
    """
    where, parameters = only_in(row, before, behind)
    found = database.query(
        f"WITH gone (content, number) AS (SELECT content, count(*) FROM files WHERE {where} AND content IS NOT NULL "
        "GROUP BY content), "
        "large (content) AS (SELECT c.id FROM gone JOIN contents AS c ON c.id = gone.content "
        "WHERE c.layout IS NOT NULL AND c.refs <= gone.number), "
        "freed (content, number) AS (SELECT content, number FROM gone UNION ALL "
        "SELECT p.part, count(*) FROM large JOIN parts AS p ON p.content = large.content WHERE p.part IS NOT NULL "
        "GROUP BY p.part) "
        "SELECT count(*), coalesce(sum(CASE WHEN c.layout IS NULL THEN c.size END), 0) FROM "
        "(SELECT content, sum(number) AS number FROM freed GROUP BY content) AS f JOIN contents AS c "
        "ON c.id = f.content WHERE c.refs <= f.number",
        parameters,
    )
    number, size = found[0]
    return number, size


def stored_groups(database: Database) -> list[StoredGroup]:
    """Return which snapshot brought how much into which pack. One sweep over the contents."""
    rows = database.query(
        "SELECT g.since, g.size, p.size, length(p.data) FROM (SELECT since, pack, sum(size) AS size FROM contents "
        "WHERE pack IS NOT NULL GROUP BY since, pack) AS g JOIN packs AS p ON p.id = g.pack"
    )
    return [StoredGroup._make(row) for row in rows]


def content_totals(database: Database) -> tuple[int, int, int]:
    """Return the number and the bytes of all contents, and the bytes of those that nothing refers to."""
    number, size, unreferenced = database.query(
        "SELECT count(*), coalesce(sum(size), 0), coalesce(sum(CASE WHEN refs = 0 THEN size END), 0) FROM contents "
        "WHERE layout IS NULL"
    )[0]
    return number, size, unreferenced


def pack_totals(database: Database) -> PackTotals:
    """Return the sums over all packs."""
    sums = "count(*), coalesce(sum(size), 0), coalesce(sum(live), 0), coalesce(sum(length(data)), 0)"
    return PackTotals._make(
        database.query(f"SELECT {sums}, coalesce(sum(live * 2 < size), 0) FROM packs")[0],
    )


def largest_files(database: Database, sources: Sequence[int], limit: int) -> list[LargeFile]:
    """Return the paths with the largest versions, the largest first. One sweep."""
    return [
        LargeFile._make(row)
        for row in _top(
            database,
            "SELECT source, path, max(size), first, last FROM files WHERE kind = 'f' AND source IN ({}) "
            "GROUP BY source, path ORDER BY 3 DESC, source, path LIMIT ?",
            sources,
            limit,
        )
    ]


def most_past_files(database: Database, sources: Sequence[int], limit: int) -> list[PastFile]:
    """Return the paths the past versions of which have the most bytes. One look at each past version."""
    return [
        PastFile._make(row)
        for row in _top(
            database,
            "SELECT source, path, count(*), sum(size) FROM files WHERE last IS NOT NULL AND kind = 'f' "
            "AND source IN ({}) GROUP BY source, path ORDER BY 4 DESC, source, path LIMIT ?",
            sources,
            limit,
        )
    ]


def _top(database: Database, sql: str, sources: Sequence[int], limit: int) -> list[Any]:
    return database.query(sql.format(",".join(map(str, sources))), (limit,)) if sources and limit else []
