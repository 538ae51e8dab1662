"""The catalog as check sweeps over it: table by table, or on both sides of what SQLite cannot read.

Owns how the rows come. What they must add up to is recounting's business, how gaps are found that of the storage.
"""

from __future__ import annotations

from typing import Any, Iterable, Iterator

from ...storage.database import Database
from ...storage.files import VERSION_COLUMNS
from ...storage.gaps import beside_gaps, content_row
from ...storage.lost import contents_beside_gaps, parts_beside_gaps

__all__ = ["Beside", "Sweeps"]

_CONTENT_COLUMNS = "c.id, c.hash, c.size, c.pack, c.offset, c.refs, c.since, c.layout"

_OWN_COLUMNS = "f.source, f.first, f.last, f.added, f.content"


class Sweeps:
    """Sweeps over the tables, each in one piece.

    Attributes:
        whole: True if nothing is left out.
    """

    whole = True

    def __init__(self, database: Database) -> None:
        self._database = database

    def versions(self) -> Iterator[Any]:
        """Yield all versions by source, path and first snapshot.

        Each is what is hashed of it, then source, first, last, added, content, the size of that, the type of the path.
        """
        return self._database.stream(
            f"SELECT {VERSION_COLUMNS}, {_OWN_COLUMNS}, c.size, typeof(f.path) "
            "FROM files AS f LEFT JOIN contents AS c ON c.id = f.content ORDER BY f.source, f.path, f.first"
        )

    def references(self) -> Iterator[Any]:
        """Yield path, source, first, last and content of each version that has one."""
        return self._database.stream("SELECT path, source, first, last, content FROM files WHERE content IS NOT NULL")

    def parts(self) -> Iterator[Any]:
        """Yield all parts in order: whole, offset, part, hash, size, then size, layout and hash of the whole, pack."""
        return self._database.stream(
            "SELECT p.content, p.offset, p.part, c.hash, c.size, w.size, w.layout, w.hash, c.pack FROM parts AS p "
            "LEFT JOIN contents AS c ON c.id = p.part LEFT JOIN contents AS w ON w.id = p.content "
            "ORDER BY p.content, p.offset"
        )

    def large(self) -> Iterator[Any]:
        """Yield (id, hash) of all contents that have parts."""
        return self._database.stream("SELECT id, hash FROM contents WHERE layout IS NOT NULL")

    def contents(self) -> Iterator[Any]:
        """Yield id, hash, size, pack, offset, refs, since and layout of all contents."""
        return self._database.stream(f"SELECT {_CONTENT_COLUMNS} FROM contents AS c")

    def is_unreadable(self, content: object) -> bool:
        """Tell whether the row of a content is there, but cannot be read."""
        return False


class Beside(Sweeps):
    """Sweeps over what can be read of the tables.

    Args:
        database: The repository.
        sources: Numbers of the sources.
    """

    whole = False

    def __init__(self, database: Database, sources: Iterable[int]) -> None:
        super().__init__(database)
        self._sources = sorted(sources)
        self._unreadable: set[object] = set()

    def versions(self) -> Iterator[Any]:
        """Yield the versions whose rows can be read; of a content whose row cannot be, hash and size are missing."""
        columns = f"{VERSION_COLUMNS.replace('c.hash', 'NULL')}, {_OWN_COLUMNS}, NULL, typeof(f.path)"
        for source in self._sources:
            for row in beside_gaps(self._database, source, columns, lambda gap: None):  # counts tell of them
                digest, size = self._content(row[19])
                yield (*row[:9], digest, *row[10:20], size, row[21])

    def _content(self, content: object) -> Any:
        row = content_row(self._database, content, "c.hash, c.size")
        if row is None:
            self._unreadable.add(content)
        return row or (None, None)

    def references(self) -> Iterator[Any]:
        """Yield those of the versions whose rows can be read."""
        columns = "f.path, f.source, f.first, f.last, f.content"
        for source in self._sources:
            for row in beside_gaps(self._database, source, columns, lambda gap: None):
                if row[4] is not None:
                    yield row

    def parts(self) -> Iterator[Any]:
        """Yield the parts of each content all parts of which can be read; others seem to have a wrong one."""
        for content, digest, size, *_, layout in contents_beside_gaps(self._database, _CONTENT_COLUMNS):
            if layout is None:
                continue
            parts = parts_beside_gaps(self._database, content, size)
            if parts is None:
                yield content, None, None, None, None, size, layout, digest, None
                continue
            for offset, part, part_digest, part_size, pack in parts:
                yield content, offset, part, part_digest, part_size, size, layout, digest, pack

    def large(self) -> Iterator[Any]:
        """Yield those whose rows can be read."""
        for content, digest, *_, layout in contents_beside_gaps(self._database, _CONTENT_COLUMNS):
            if layout is not None:
                yield content, digest

    def contents(self) -> Iterator[Any]:
        """Yield those whose rows can be read."""
        return contents_beside_gaps(self._database, _CONTENT_COLUMNS)

    def is_unreadable(self, content: object) -> bool:
        """Tell whether the row of a content is there, but cannot be read."""
        return content in self._unreadable
