"""Files: which version of which path each snapshot holds.

Owns the rows of ``files``: how they are read, page by page, for taking a snapshot and for giving one back, and how they
are written. Other questions about versions are versions' business, bytes that of contents.
"""

from __future__ import annotations

import os
from itertools import groupby, product
from operator import itemgetter
from typing import Any, Iterable, Iterator, NamedTuple, Optional, Sequence, Tuple, Union

from ..errors import CorruptionError
from .contents import ContentLocation
from .database import Database
from .digest import FileVersion
from .gaps import OnGap, beside_gaps, content_row, refuse
from .snapshots import SnapshotRow, find_snapshot

__all__ = [
    "PAGE",
    "STORED_COLUMNS",
    "VERSION_COLUMNS",
    "CatalogFile",
    "VersionRow",
    "close_versions",
    "current_files",
    "file_version",
    "files_of",
    "insert_versions",
    "load_versions",
    "only_in",
    "row_version",
    "rows_beside_gaps",
    "stored_file",
    "update_stamps",
    "version_row",
]

#: Rows read at a time. A page takes a few ms, and no lock is held between pages.
PAGE = 4096

#: What :func:`file_version` takes, of ``files AS f`` joined with ``contents AS c``.
VERSION_COLUMNS = (
    "f.path, f.kind, f.mode, f.uid, f.gid, f.user, f.grp, f.mtime_ns, f.size, c.hash, f.sparse, f.rdev, f.target, "
    "f.xattrs, f.link"
)

#: What :func:`stored_file` takes.
STORED_COLUMNS = f"{VERSION_COLUMNS}, c.id, c.size, c.pack, c.offset"


class CatalogFile(NamedTuple):
    """A file as a snapshot holds it.

    Attributes:
        version: What is known of it.
        content: Where its bytes are; None if it is no regular file, or its content is missing.
    """

    version: FileVersion
    content: Optional[ContentLocation]


#: What the fields of a sound row may be; only a damaged one has others.
_VERSION_TYPES = frozenset(
    product(
        *((bytes,), (bytes,), (int,), (int,), (int,), (bytes,), (bytes,), (int,), (int,), (bytes, type(None)), (int,)),
        *((int, type(None)), (bytes, type(None)), (bytes, type(None)), (bytes, type(None))),
    )
)

_LOCATION_TYPES = frozenset({(int, int, int, int), (int, int, type(None), type(None))})

#: The same, field by field, for many rows at once.
_COLUMN_TYPES = tuple(map(frozenset, zip(*_VERSION_TYPES)))


def _are_sound(rows: Sequence[Sequence[Any]]) -> bool:
    """Tell whether no field of these rows is of a wrong type. It takes a third of asking each row."""
    if not rows:
        return True
    columns = list(zip(*rows))
    return (
        all(types.issuperset(map(type, column)) for types, column in zip(_COLUMN_TYPES, columns))
        and {*map(len, columns[1])} == {1}
        and 0 <= min(columns[10]) <= max(columns[10]) <= 255
    )


def file_version(row: Sequence[Any]) -> FileVersion:
    """Return a version; a damaged row gives one of the unknown kind ``?``."""
    if tuple(map(type, row[:15])) in _VERSION_TYPES and len(row[1]) == 1 and 0 <= row[10] <= 255:
        return FileVersion._make(row[:15])
    path = row[0] if isinstance(row[0], bytes) else str(row[0]).encode()
    return FileVersion(path, b"?", 0, 0, 0, b"", b"", 0, 0, None, 0, None, None, None, None)


def stored_file(row: Sequence[Any]) -> CatalogFile:
    """Return the file that a row with the columns ``STORED_COLUMNS`` is; of the kind ``?`` if the row is damaged."""
    version = file_version(row)
    content, size, pack, offset = row[15:19]
    typed = (type(content), type(size), type(pack), type(offset)) in _LOCATION_TYPES
    if version.hash is None or not typed:
        return CatalogFile(version, None)
    return CatalogFile(version, ContentLocation(content, version.hash, size, pack, offset))


def current_files(database: Database, source: Optional[int]) -> Iterator[Any]:
    """Yield the current version of each path of a source, in byte order, for comparison with a walk.

    Each is (path, kind, size, mtime_ns, ctime_ns, inode, mode, first). Read in pages; another process may commit
    between two of them, which the commit of a snapshot notices.
    """
    if source is None:
        return
    sql = (
        "SELECT path, kind, size, mtime_ns, ctime_ns, inode, mode, first FROM files "
        "WHERE source = ? AND path {} CAST(? AS TEXT) AND path < x'' AND last IS NULL ORDER BY path LIMIT ?"
    )
    rows = database.query(sql.format(">="), (source, b"", PAGE))
    while rows:
        if {*map(type, map(itemgetter(0), rows))} != {bytes}:
            raise CorruptionError(f"a path in the repository {database.path} is none; run check", database.path)
        yield from rows
        rows = database.query(sql.format(">"), (source, rows[-1][0], PAGE)) if len(rows) == PAGE else []


def load_versions(
    database: Database, source: int, paths: Iterable[bytes]
) -> Iterator[tuple[FileVersion, int, Optional[int]]]:
    """Yield (version, first, content id) of the current versions of paths. One index look-up each."""
    sql = (
        f"SELECT {VERSION_COLUMNS}, f.first, f.content FROM files AS f LEFT JOIN contents AS c ON c.id = f.content "
        "WHERE f.source = ? AND f.path = CAST(? AS TEXT) AND f.last IS NULL"
    )
    for path in paths:
        for row in database.query(sql, (source, path)):
            version = file_version(row)
            if version.kind == b"?":
                shown = os.fsdecode(path)
                raise CorruptionError(f"the row of {shown} in the repository is damaged; run check", database.path)
            yield version, row[15], row[16]


def rows_beside_gaps(
    database: Database,
    snapshot: SnapshotRow,
    on_gap: OnGap,
    begin: bytes = b"",
    end: Optional[bytes] = None,
    more: Sequence[str] = (),
) -> Iterator[Any]:
    """Yield the columns ``STORED_COLUMNS`` of a snapshot's files, and more, of all rows that SQLite can read.

    A file whose content's row cannot be read has none. For where SQLite has failed: it sweeps over all versions.

    Args:
        on_gap: Called at the end for each gap among the versions of the source.
        begin: Only paths from here on.
        end: Only paths before this one.
        more: Further columns of ``files AS f``.
    """
    here = f"f.first <= {snapshot.id} AND (f.last IS NULL OR f.last >= {snapshot.id})"
    own = VERSION_COLUMNS.replace("c.hash", "NULL")
    columns = ", ".join((own, here, "f.content", *more))
    for row in beside_gaps(database, snapshot.source, columns, on_gap, begin, end):
        if row[15]:
            content = content_row(database, row[16], "c.hash, c.id, c.size, c.pack, c.offset") or (None,) * 5
            yield (*row[:9], content[0], *row[10:15], *content[1:], *row[17:])


def files_of(
    database: Database,
    snapshot: SnapshotRow,
    begin: bytes = b"",
    end: Optional[bytes] = None,
    on_gap: Optional[OnGap] = None,
) -> Iterator[CatalogFile]:
    """Yield the files of a snapshot in byte order of their paths. Read in pages.

    One whose row is damaged is of the kind ``?``. A path that is no text but a blob is left out: these sort behind all
    texts, and a page would begin with them again and again. ``check`` names them.

    Args:
        begin: Only paths from here on.
        end: Only paths before this one.
        on_gap: Called, when all other files were given, for each gap that is left where SQLite cannot read rows.

    Raises:
        CorruptionError: There are gaps and nobody to tell; when all other files were given.
    """
    sql = (
        f"SELECT {STORED_COLUMNS} FROM files AS f "
        "LEFT JOIN contents AS c ON c.id = f.content WHERE f.source = ? AND f.path {} CAST(? AS TEXT) AND f.path < x'' "
        "AND f.first <= ? AND (f.last IS NULL OR f.last >= ?) {} ORDER BY f.path LIMIT ?"
    )
    bound, ends = ("", ()) if end is None else ("AND f.path < CAST(? AS TEXT)", (end,))
    after, comparison = begin, ">="
    while True:
        try:
            rows = database.query(
                sql.format(comparison, bound), (snapshot.source, after, snapshot.id, snapshot.id, *ends, PAGE)
            )
        except CorruptionError:
            begin = after if comparison == ">=" else after + b"\0"
            yield from map(stored_file, rows_beside_gaps(database, snapshot, on_gap or refuse(database), begin, end))
            break
        sound = _are_sound(rows)
        for row in rows:
            version = FileVersion._make(row[:15]) if sound else file_version(row)
            location = None
            if version.hash is not None:
                content, size, pack, offset = row[15:]
                if (type(content), type(size), type(pack), type(offset)) in _LOCATION_TYPES:
                    location = ContentLocation(content, version.hash, size, pack, offset)
            yield CatalogFile(version, location)
        if len(rows) < PAGE:
            break
        after, comparison = rows[-1][0], ">"
    find_snapshot(database, snapshot.id)  # pruned meanwhile, its files would have ended too early


def only_in(row: SnapshotRow, before: Optional[int], behind: Optional[int]) -> tuple[str, tuple[int, ...]]:
    """Return the condition for versions that only one snapshot has, given its neighbours; an index serves each."""
    if behind is not None:
        return "source = ? AND last >= ? AND last < ? AND first > ?", (row.source, row.id, behind, before or 0)
    if before is not None:
        return "source = ? AND first > ? AND added", (row.source, before)
    return "source = ?", (row.source,)


#: What :func:`insert_versions` inserts, in one of three shapes; plain values, so that it can be set aside.
VersionRow = Tuple[Any, ...]


def version_row(version: FileVersion, ctime_ns: Optional[int], inode: Optional[int], ordinal: int) -> VersionRow:
    """Return the row of a version: its path, then other values, the ordinal last.

    What is UTF-8, as nearly all names are, is bound as text: a cast takes longer than the rest of the row. Of other
    rows all texts are left as bytes.

    Args:
        version: Its fields.
        ctime_ns: Change time if it can be trusted, else None.
        inode: Inode number as stored.
        ordinal: Of its content, -1 if it has none.
    """
    path, kind, mode, uid, gid, user, group, mtime_ns, size, _, sparse, rdev, target, xattrs, link = version
    try:
        names = (path.decode(), kind.decode(), user.decode(), group.decode())
        numbers = (mode, uid, gid, mtime_ns, size)
        if target is None and link is None and rdev is None and xattrs is None and not sparse:
            return (*names, *numbers, ctime_ns, inode, ordinal)
        links = (None if target is None else target.decode(), None if link is None else link.decode())
        return (*names, *numbers, *links, sparse, rdev, xattrs, ctime_ns, inode, ordinal)
    except UnicodeDecodeError:
        texts = (path, kind, user, group)
    return (*texts, mode, uid, gid, mtime_ns, size, target, link, sparse, rdev, xattrs, ctime_ns, inode, ordinal)


def row_version(row: VersionRow, digest: Optional[bytes]) -> FileVersion:
    """Return the version that :func:`version_row` made a row of.

    Args:
        digest: SHA-256 of its content, which a row does not hold.
    """
    path, kind, user, group = map(_as_bytes, row[:4])
    mode, uid, gid, mtime_ns, size = row[4:9]
    target, link, sparse, rdev, xattrs = (None, None, 0, None, None) if _shape(row) == _PLAIN else row[9:14]
    target, link = (None if text is None else _as_bytes(text) for text in (target, link))
    return FileVersion(
        path, kind, mode, uid, gid, user, group, mtime_ns, size, digest, sparse, rdev, target, xattrs, link
    )


def _as_bytes(text: Union[str, bytes]) -> bytes:
    return text.encode() if isinstance(text, str) else text


def insert_versions(
    database: Database,
    source: int,
    snapshot: int,
    added: bool,
    batches: Iterable[Iterable[VersionRow]],
    contents: Sequence[int],
) -> None:
    """Insert file versions that begin with a snapshot, best in byte order of their paths.

    Args:
        added: False for the source's first snapshot.
        batches: Rows from :func:`version_row`, some at a time.
        contents: Id of each content by ordinal.
    """
    sql = (
        "INSERT INTO files (source, first, added, path, kind, user, grp, mode, uid, gid, mtime_ns, size, target, link, "
        "sparse, rdev, xattrs, ctime_ns, inode, content) "
        f"VALUES ({source}, {snapshot}, {1 if added else 0}, %s, ?, ?, ?)"
    )
    text, cast = ["?"], ["CAST(? AS TEXT)"]
    statements = {
        _PLAIN: sql % ", ".join(text * 9 + ["NULL", "NULL", "0", "NULL", "NULL"]),
        _FULL: sql % ", ".join(text * 14),
        _UNDECODABLE: sql % ", ".join(cast * 4 + text * 5 + cast * 2 + text * 3),
    }
    for rows in batches:
        for shape, group in groupby(rows, key=_shape):
            bound = [(*row[:-1], contents[row[-1]] if row[-1] >= 0 else None) for row in group]
            database.executemany(statements[shape], bound)


#: Shapes of rows, by the number of their values and what their texts are: that of nearly all files, which have no link,
#: target, holes or attributes (to bind so many NULLs takes as long as all other values together), and the others.
_PLAIN = (12, True)

_FULL = (17, True)

_UNDECODABLE = (17, False)


def _shape(row: VersionRow) -> tuple[int, bool]:
    return len(row), isinstance(row[0], str)


def close_versions(database: Database, source: int, base: int, keys: Iterable[tuple[bytes, int]]) -> None:
    """End versions with the snapshot ``base``: pairs of (path, first)."""
    database.executemany(
        "UPDATE files SET last = ? WHERE source = ? AND path = CAST(? AS TEXT) AND first = ?",
        ((base, source, path, first) for path, first in keys),
    )


def update_stamps(
    database: Database, source: int, stamps: Iterable[tuple[bytes, int, Optional[int], Optional[int]]]
) -> None:
    """Renew the change detection of versions that turned out to be unchanged: (path, first, ctime_ns, inode)."""
    database.executemany(
        "UPDATE files SET ctime_ns = ?, inode = ? WHERE source = ? AND path = CAST(? AS TEXT) AND first = ?",
        ((ctime_ns, inode, source, path, first) for path, first, ctime_ns, inode in stamps),
    )
