"""Counting what refers to each content, and which snapshot brought it.

Owns ``refs`` and ``since`` of the rows of ``contents``. References are counted for runs of ids instead of one by one.
"""

from __future__ import annotations

from typing import Iterable, Iterator, Mapping, NamedTuple, Sequence

from .database import Database

__all__ = ["Brought", "ContentsVanishedError", "add_refs", "reference"]


class ContentsVanishedError(Exception):
    """A prune beside a snapshot has removed contents that the snapshot found; it must look again."""


class Brought(NamedTuple):
    """What a snapshot is the first to have.

    Attributes:
        contents: Contents of files; the parts of large ones are not counted.
        size: Bytes, the snapshot's distinct size. A large content brings its parts, and the bytes are counted there.
    """

    contents: int
    size: int


def reference(database: Database, snapshot: int, ids: Sequence[int], counts: Sequence[int]) -> Brought:
    """Count the references of a snapshot's new file versions, and let it have brought what no other has.

    Args:
        snapshot: Its number.
        ids: Id of each content by ordinal.
        counts: Number of new references to each, by ordinal.

    Raises:
        ContentsVanishedError: One of the contents is not there.
    """
    brought = new = 0
    several: list[tuple[int, int]] = []

    def once() -> Iterator[tuple[int, int]]:
        for content, number in _by_id(ids, counts):
            if number > 1:
                several.append((number - 1, content))
            yield content, 1

    for first, last, _ in _runs(once()):
        span = (first, last)
        fresh = "id BETWEEN ? AND ? AND since = 0"
        number, size, large = database.query(
            "SELECT count(*), coalesce(sum(CASE WHEN layout IS NULL THEN size END), 0), count(layout) FROM contents "
            f"WHERE {fresh}",
            span,
        )[0]
        new += number
        brought += size
        parted = database.query(f"SELECT id FROM contents WHERE {fresh} AND layout IS NOT NULL", span) if large else []
        found = database.execute(
            "UPDATE contents SET refs = refs + 1, since = CASE since WHEN 0 THEN ? ELSE since END "
            "WHERE id BETWEEN ? AND ?",
            (snapshot, *span),
        )
        if found <= last - first:
            raise ContentsVanishedError
        for content in parted:
            parts = "since = 0 AND id IN (SELECT part FROM parts WHERE content = ?)"
            brought += database.total(f"SELECT sum(size) FROM contents WHERE {parts}", content)
            database.execute(f"UPDATE contents SET since = ? WHERE {parts}", (snapshot, *content))
    database.executemany("UPDATE contents SET refs = refs + ? WHERE id = ?", several)
    return Brought(new, brought)


def _by_id(ids: Sequence[int], counts: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield (id, references) by ascending id, those of several ordinals of one id added up."""
    current = total = 0
    for ordinal in sorted(range(len(ids)), key=ids.__getitem__):
        if ids[ordinal] != current:
            if total:
                yield current, total
            current, total = ids[ordinal], 0
        total += counts[ordinal]
    if total:
        yield current, total


def add_refs(database: Database, refs: Mapping[int, int]) -> int:
    """Add to the reference counts of contents and return how many contents there were to add to.

    Args:
        refs: How much to add, by id. Neighbours with the same number share a statement.
    """
    changed = 0
    for first, last, number in _runs(sorted(refs.items())):
        changed += database.execute(
            "UPDATE contents SET refs = refs + ? WHERE id BETWEEN ? AND ?", (number, first, last)
        )
    return changed


def _runs(refs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """Yield (first id, last id, number) for each run of consecutive ids with the same number."""
    first = last = number = 0
    for content, count in refs:
        if count == number and content == last + 1:
            last = content
            continue
        if number:
            yield first, last, number
        first = last = content
        number = count
    if number:
        yield first, last, number
