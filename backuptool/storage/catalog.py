"""The catalog: sources, snapshots, and which version of which file each snapshot holds.

Owns the rows of ``sources``, ``snapshots``, ``files`` and ``pruned``. Bytes of files are left to contents; what is to
be recorded or removed is decided by the operations.
"""

from __future__ import annotations

import json
from itertools import groupby, product
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Callable, Iterable, Iterator, NamedTuple, Optional, Sequence, Tuple, Union

import attrs

from ..errors import CorruptionError, SnapshotNotFoundError
from ..results.changes import Alert
from ..results.snapshot import Snapshot
from .database import Database
from .digest import FileVersion, snapshot_digest
from .records import alerts_of
from .references import Latest, parse_reference

if TYPE_CHECKING:
    from .contents import ContentLocation

__all__ = [
    "PAGE",
    "STORED_COLUMNS",
    "VERSION_COLUMNS",
    "CatalogFile",
    "SnapshotRow",
    "VersionRow",
    "close_versions",
    "current_files",
    "file_version",
    "files_of",
    "find_snapshot",
    "heirs",
    "insert_snapshot",
    "insert_versions",
    "load_versions",
    "neighbours",
    "newest_snapshot",
    "next_snapshot_id",
    "only_in",
    "row_version",
    "snapshot_rows",
    "source_id",
    "stored_file",
    "update_description",
    "update_distinct_size",
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

_SNAPSHOT_COLUMNS = (
    "n.id, n.source, s.host, s.root, n.started_ns, n.finished_ns, n.files, n.directories, n.size, n.distinct_size, "
    "n.skipped_files, n.problem_files, n.note, n.tags, n.tree_digest, n.digest"
)

_SNAPSHOTS = "FROM snapshots AS n LEFT JOIN sources AS s ON s.id = n.source"

#: What is kept beside them; a snapshot can be read without it.
_RECORDS = "LEFT JOIN pins AS p ON p.snapshot = n.id LEFT JOIN changes AS g ON g.snapshot = n.id"


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
            source=self.root.decode("utf-8", "surrogateescape"),
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
    try:
        values[2] = values[2].decode("utf-8", "surrogateescape")  # type: ignore[attr-defined]
        values[12] = values[12].decode("utf-8", "surrogateescape")  # type: ignore[attr-defined]
        values[13] = tuple(str(tag) for tag in json.loads(values[13]))  # type: ignore[arg-type]
        numbers = [values[0], values[1], *values[4:12]]
        if not all(isinstance(number, int) for number in numbers) or not isinstance(values[3], bytes):
            raise TypeError("a number is none")
        if not isinstance(values[14], bytes) or not isinstance(values[15], bytes):
            raise TypeError("a digest is none")
    except (AttributeError, TypeError, ValueError, RecursionError) as exc:
        raise CorruptionError(f"the row of snapshot {row[0]!r} is damaged ({exc})", path) from exc
    values[16:] = [bool(values[16]), alerts_of(values[17])]
    return SnapshotRow(*values)  # type: ignore[arg-type]


def _select_snapshots(database: Database, tail: str, parameters: Sequence[int] = ()) -> list[Any]:
    """Return rows of snapshots; where SQLite cannot read what is kept beside them, as if there was none."""
    try:
        columns = f"{_SNAPSHOT_COLUMNS}, p.snapshot IS NOT NULL, g.alerts"
        return database.query(f"SELECT {columns} {_SNAPSHOTS} {_RECORDS} {tail}", parameters)
    except CorruptionError:
        return database.query(f"SELECT {_SNAPSHOT_COLUMNS}, 0, NULL {_SNAPSHOTS} {tail}", parameters)


def snapshot_rows(
    database: Database, on_damage: Optional[Callable[[CorruptionError], object]] = None
) -> list[SnapshotRow]:
    """Return all snapshots by ascending number.

    Args:
        on_damage: Called for each row that is damaged, which is then left out; without it the first one is an error.
    """
    found = []
    for row in _select_snapshots(database, "ORDER BY n.id"):
        try:
            found.append(_snapshot_row(row, database.path))
        except CorruptionError as exc:
            if on_damage is None:
                raise
            on_damage(exc)
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
    raise SnapshotNotFoundError(_not_found(reference, available), reference, available)


def _counted_back(database: Database, latest: Latest) -> Optional[int]:
    """Return the number of a snapshot that is counted back from the newest one."""
    if latest.root is None:
        newest = database.value("SELECT max(id) FROM snapshots")
        if latest.back == 0 or newest is None:
            return None if newest is None else int(newest)
        sources, parameters = "(SELECT source FROM snapshots WHERE id = ?)", [newest]
    else:
        sources, parameters = "(SELECT id FROM sources WHERE root = CAST(? AS TEXT)", [latest.root]
        if latest.host is not None:
            sources += " AND host = CAST(? AS TEXT)"
            parameters.append(latest.host.encode("utf-8", "surrogateescape"))
        sources += ")"
    # Of several machines with this source, it is that of the newest one.
    found = database.value(
        "SELECT id FROM snapshots WHERE source = "
        f"(SELECT source FROM snapshots WHERE source IN {sources} ORDER BY id DESC LIMIT 1) "
        "ORDER BY id DESC LIMIT 1 OFFSET ?",
        (*parameters, latest.back),
    )
    return None if found is None else int(found)


def _not_found(reference: int | str, available: Sequence[int]) -> str:
    if not available:
        return f"there is no snapshot {reference}: the repository has none yet; take one with snapshot"
    shown = ", ".join(map(str, available if len(available) <= 20 else [*available[:8], "…", *available[-8:]]))
    return f"there is no snapshot {reference}; there are: {shown}"


def source_id(database: Database, host: str, root: bytes, *, create: bool = False) -> Optional[int]:
    """Return the id of a source, None if it was never saved (unless it is created)."""
    key = (host.encode("utf-8", "surrogateescape"), root)
    found = database.value("SELECT id FROM sources WHERE host = CAST(? AS TEXT) AND root = CAST(? AS TEXT)", key)
    if found is None and create:
        # Above all numbers that snapshots name: where the row of a source is lost, another one must not inherit them.
        database.execute(
            "INSERT INTO sources (id, host, root) SELECT 1 + max(coalesce((SELECT max(id) FROM sources), 0), "
            "coalesce((SELECT max(source) FROM snapshots), 0)), CAST(? AS TEXT), CAST(? AS TEXT)",
            key,
        )
        found = source_id(database, host, root)
    return None if found is None else int(found)


def newest_snapshot(database: Database, source: Optional[int]) -> Optional[int]:
    """Return the number of a source's newest snapshot."""
    found = database.value("SELECT max(id) FROM snapshots WHERE source = ?", (source,))
    return None if found is None else int(found)


def next_snapshot_id(database: Database) -> int:
    """Return the lowest number above all that were ever used; the write lock must be held."""
    return database.next_id("snapshots")


def neighbours(database: Database, source: int, snapshot: int) -> tuple[Optional[int], Optional[int]]:
    """Return the numbers of the snapshots of a source before and behind one."""
    before = database.value("SELECT max(id) FROM snapshots WHERE source = ? AND id < ?", (source, snapshot))
    behind = database.value("SELECT min(id) FROM snapshots WHERE source = ? AND id > ?", (source, snapshot))
    return before, behind


def only_in(row: SnapshotRow, before: Optional[int], behind: Optional[int]) -> tuple[str, tuple[int, ...]]:
    """Return the condition for versions that only one snapshot has, given its neighbours; an index serves each."""
    if behind is not None:
        return "source = ? AND last >= ? AND last < ? AND first > ?", (row.source, row.id, behind, before or 0)
    if before is not None:
        return "source = ? AND first > ? AND added", (row.source, before)
    return "source = ?", (row.source,)


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
                shown = path.decode("utf-8", "surrogateescape")
                raise CorruptionError(f"the row of {shown} in the repository is damaged; run check", database.path)
            yield version, row[15], row[16]


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


#: What :func:`stored_file` takes.
STORED_COLUMNS = f"{VERSION_COLUMNS}, c.id, c.size, c.pack, c.offset"


def stored_file(row: Sequence[Any]) -> CatalogFile:
    """Return the file that a row with the columns ``STORED_COLUMNS`` is; of the kind ``?`` if the row is damaged."""
    from .contents import ContentLocation  # imported here: listing snapshots needs no packs

    version = file_version(row)
    content, size, pack, offset = row[15:19]
    typed = (type(content), type(size), type(pack), type(offset)) in _LOCATION_TYPES
    if version.hash is None or not typed:
        return CatalogFile(version, None)
    return CatalogFile(version, ContentLocation(content, version.hash, size, pack, offset))


def files_of(
    database: Database, snapshot: SnapshotRow, begin: bytes = b"", end: Optional[bytes] = None
) -> Iterator[CatalogFile]:
    """Yield the files of a snapshot in byte order of their paths. Read in pages.

    One whose row is damaged is of the kind ``?``. A path that is no text but a blob is left out: these sort behind all
    texts, and a page would begin with them again and again. ``check`` names them.

    Args:
        begin: Only paths from here on.
        end: Only paths before this one.
    """
    from .contents import ContentLocation  # imported here: listing snapshots needs no packs

    sql = (
        f"SELECT {VERSION_COLUMNS}, c.id, c.size, c.pack, c.offset FROM files AS f "
        "LEFT JOIN contents AS c ON c.id = f.content WHERE f.source = ? AND f.path {} CAST(? AS TEXT) AND f.path < x'' "
        "AND f.first <= ? AND (f.last IS NULL OR f.last >= ?) {} ORDER BY f.path LIMIT ?"
    )
    bound, ends = ("", ()) if end is None else ("AND f.path < CAST(? AS TEXT)", (end,))
    after, comparison = begin, ">="
    while True:
        rows = database.query(
            sql.format(comparison, bound), (snapshot.source, after, snapshot.id, snapshot.id, *ends, PAGE)
        )
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
