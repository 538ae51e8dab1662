"""Versions of paths, asked for from every side: one path, one directory, a search over all, what began and what ended.

Owns the questions to ``files`` that no snapshot is taken or restored with. What the answers mean for users is left to
the operations.
"""

from __future__ import annotations

import os
from typing import Any, Iterator, NamedTuple, Optional, Sequence, Tuple

import attrs

from ..errors import CorruptionError
from ..results.entry import KINDS, Entry
from .database import Database
from .digest import FileVersion
from .files import PAGE, STORED_COLUMNS, VERSION_COLUMNS, CatalogFile, file_version, files_of, stored_file
from .gaps import OnGap
from .snapshots import SnapshotRow, find_snapshot

_KINDS = frozenset(kind.encode() for kind in KINDS)

__all__ = [
    "ChangedKey",
    "Criteria",
    "StoredVersion",
    "begun",
    "children",
    "content_ids",
    "details",
    "ended",
    "entry_of",
    "file_at",
    "files_below",
    "is_shared",
    "matching",
    "moved_paths",
    "versions_of",
]

#: Rows that a sweep looks for at a time. A page is found in 20 to 100 ms, and no lock is held between pages.
_SWEPT = 20_000

#: Versions whose columns are fetched with one statement; older SQLite allows 999 parameters.
_FETCHED = 400

#: Rows read behind a subdirectory that was leapt over: mostly the next one comes at once.
_BEHIND = 2

#: Versions that began or ended at one snapshot among which a moved file is searched. 3 µs each.
_MOST_MOVED = 20_000

_DETAILS = f"{VERSION_COLUMNS}, f.source, f.first, f.last, f.content, f.inode"

_FROM = "FROM files AS f LEFT JOIN contents AS c ON c.id = f.content"

#: The lowest path that is not the root's; no name is empty.
_LOWEST = b"\x01"


class StoredVersion(NamedTuple):
    """A version of a path with the range in which it is valid.

    Attributes:
        version: What is known of it; of the kind ``?`` if its row is damaged.
        source: Number of the source.
        first: Number of the snapshot that brought it; it may have been pruned.
        last: Number of the last snapshot that has it, None while it is current.
        content: Number of its content.
        inode: As it was when it was saved.
    """

    version: FileVersion
    source: int
    first: int
    last: Optional[int]
    content: Optional[int]
    inode: Optional[int]


def entry_of(version: FileVersion) -> Entry:
    """Return a version as users see it."""
    path, kind, mode, uid, gid, user, group, mtime_ns, size, digest, _, rdev, target, *_ = version
    return Entry(
        path=_text(path),
        kind=KINDS[kind.decode("ascii", "replace")],
        mode=mode,
        uid=uid,
        gid=gid,
        user=_text(user),
        group=_text(group),
        mtime_ns=mtime_ns,
        size_bytes=size,
        sha256=None if digest is None else digest.hex(),
        target=None if target is None else _text(target),
        device=rdev,
    )


def _text(data: bytes) -> str:
    return os.fsdecode(data)


def _stored(row: Sequence[Any]) -> StoredVersion:
    version = file_version(row)
    typed = isinstance(row[16], int) and isinstance(row[17], (int, type(None)))
    if not typed or version.kind not in _KINDS:
        version = version._replace(kind=b"?")
    return StoredVersion(version, *row[15:])


# One path, one directory.


def versions_of(database: Database, source: int, path: bytes) -> list[StoredVersion]:
    """Return all versions of a path, the oldest first. One index look-up."""
    sql = f"SELECT {_DETAILS} {_FROM} WHERE f.source = ? AND f.path = CAST(? AS TEXT) ORDER BY f.first"
    return [_stored(row) for row in database.query(sql, (source, path))]


def file_at(database: Database, snapshot: SnapshotRow, path: bytes) -> Optional[CatalogFile]:
    """Return what a snapshot has at a path, None if nothing. One index look-up."""
    sql = (
        f"SELECT {STORED_COLUMNS} {_FROM} WHERE f.source = ? "
        "AND f.path = CAST(? AS TEXT) AND f.first <= ? AND (f.last IS NULL OR f.last >= ?)"
    )
    try:
        rows = database.query(sql, (snapshot.source, path, snapshot.id, snapshot.id))
    except CorruptionError:
        return next(files_of(database, snapshot, path, path + b"\0"), None)
    return stored_file(rows[0]) if rows else None


def files_below(
    database: Database, snapshot: SnapshotRow, directory: bytes, on_gap: Optional[OnGap] = None
) -> Iterator[CatalogFile]:
    """Yield everything below a directory of a snapshot, in byte order of the paths; see :func:`.files.files_of`."""
    if directory:
        return files_of(database, snapshot, directory + b"/", directory + b"0", on_gap)  # "0" comes right behind "/"
    return files_of(database, snapshot, _LOWEST, None, on_gap)


def children(
    database: Database, snapshot: SnapshotRow, directory: bytes, on_gap: Optional[OnGap] = None
) -> Iterator[CatalogFile]:
    """Yield what is in a directory of a snapshot, in byte order. What is below its subdirectories is leapt over.

    Where SQLite cannot read rows it goes on behind them; see :func:`.files.files_of`.
    """
    sql = (
        f"SELECT {STORED_COLUMNS} {_FROM} WHERE f.source = ? "
        "AND f.path {} CAST(? AS TEXT) AND f.path < CASE WHEN ? THEN x'' ELSE CAST(? AS TEXT) END AND f.first <= ? "
        "AND (f.last IS NULL OR f.last >= ?) ORDER BY f.path LIMIT ?"
    )
    prefix = len(directory) + 1 if directory else 0
    position, comparison = (directory + b"/" if directory else _LOWEST), ">="
    size = 4 * _BEHIND
    while True:
        try:
            rows = database.query(
                sql.format(comparison),
                (snapshot.source, position, not directory, directory + b"0", snapshot.id, snapshot.id, size),
            )
        except CorruptionError:
            begin = position if comparison == ">=" else position + b"\0"
            for file in files_of(database, snapshot, begin, directory + b"0" if directory else None, on_gap):
                if b"/" not in file.version.path[prefix:]:
                    yield file
            break
        for row in rows:
            slash = row[0].find(b"/", prefix) if isinstance(row[0], bytes) else -1
            if slash >= 0:
                position, comparison, size = row[0][:slash] + b"0", ">=", _BEHIND
                break
            yield stored_file(row)
        else:
            if len(rows) < size:
                break
            position, comparison, size = rows[-1][0], ">", min(4 * size, PAGE)
    find_snapshot(database, snapshot.id)  # pruned meanwhile, it would have ended too early


# All paths.


@attrs.frozen(kw_only=True)
class Criteria:
    """What a search asks of versions; SQLite answers all of it.

    Attributes:
        globs: One of these must match the path; ``*`` stands for any bytes, also for ``/``.
        kinds: One letter each.
        contents: Numbers of contents.
        snapshots: The lowest and the highest number of which one must be in the range of the version.
        smallest, largest: Bytes, both included.
        oldest_ns, newest_ns: Modification times, both included.
    """

    globs: Tuple[bytes, ...] = ()
    kinds: Tuple[bytes, ...] = ()
    contents: Optional[Tuple[int, ...]] = None
    snapshots: Optional[Tuple[int, int]] = None
    smallest: Optional[int] = None
    largest: Optional[int] = None
    oldest_ns: Optional[int] = None
    newest_ns: Optional[int] = None

    def terms(self) -> tuple[str, list[object]]:
        """Return what stands behind WHERE, each term with AND in front of it, and its parameters."""
        terms: list[str] = []
        parameters: list[object] = []

        def add(term: str, *values: object) -> None:
            terms.append(f" AND {term}")
            parameters.extend(values)

        # The cheapest first: a path is compared where it lies, and a number before it.
        if self.contents is not None:
            add(f"content IN ({', '.join('?' * len(self.contents))})", *self.contents)
        if self.globs:
            add(f"({' OR '.join(['path GLOB CAST(? AS TEXT)'] * len(self.globs))})", *self.globs)
        if self.kinds:
            add(f"kind IN ({', '.join(['CAST(? AS TEXT)'] * len(self.kinds))})", *self.kinds)
        for term, value in (
            ("size >= ?", self.smallest),
            ("size <= ?", self.largest),
            ("mtime_ns >= ?", self.oldest_ns),
            ("mtime_ns <= ?", self.newest_ns),
        ):
            if value is not None:
                add(term, value)
        if self.snapshots is not None:
            add("first <= ? AND (last IS NULL OR last >= ?)", self.snapshots[1], self.snapshots[0])
        return "".join(terms), parameters


def matching(database: Database, source: int, criteria: Criteria) -> Iterator[list[tuple[bytes, int]]]:
    """Yield (path, first) of the versions that meet all criteria, in lists, in byte order of the paths.

    One sweep over the versions of the source, in pages. A path that is no text but a blob is left out: these sort
    behind all texts, and a page would begin with them again and again.
    """
    terms, parameters = criteria.terms()
    sql = (
        "SELECT path, first FROM files WHERE source = ? AND (path, first) > (CAST(? AS TEXT), ?) AND path < x''"
        f"{terms} ORDER BY path, first LIMIT ?"
    )
    path, first = b"", -1
    while True:
        rows = database.query(sql, (source, path, first, *parameters, _SWEPT))
        if rows:
            yield rows
        if len(rows) < _SWEPT:
            return
        path, first = rows[-1]


def details(database: Database, source: int, keys: Sequence[tuple[bytes, int]]) -> Iterator[StoredVersion]:
    """Yield versions by (path, first), which must be in order. One index look-up each."""
    for begin in range(0, len(keys), _FETCHED):
        wanted = keys[begin : begin + _FETCHED]
        sql = (
            f"WITH wanted (path, first) AS (VALUES {', '.join(['(CAST(? AS TEXT), ?)'] * len(wanted))}) "
            f"SELECT {_DETAILS} FROM wanted AS w CROSS JOIN files AS f ON f.source = ? AND f.path = w.path "
            "AND f.first = w.first LEFT JOIN contents AS c ON c.id = f.content ORDER BY f.path, f.first"
        )
        for row in database.query(sql, (*(value for key in wanted for value in key), source)):
            yield _stored(row)


def content_ids(database: Database, digest: bytes) -> Tuple[int, ...]:
    """Return the number of the content with a hash, nothing if there is none. One index look-up."""
    rows = database.query("SELECT id FROM contents WHERE substr(hash, 1, 8) = ? AND hash = ?", (digest[:8], digest))
    return tuple(number for (number,) in rows)


# What began and what ended.

_ENDED = "f.source = ? AND f.last IS NOT NULL AND f.last >= ? AND f.last < ? AND f.first <= ?"

_BEGUN = "f.source = ? AND f.added AND f.first > ? AND f.first <= ? AND (f.last IS NULL OR f.last >= ?)"

_WITHIN = " AND (f.path = CAST(? AS TEXT) OR (f.path >= CAST(? AS TEXT) AND f.path < CAST(? AS TEXT)))"


class ChangedKey(NamedTuple):
    """A version that one of two snapshots has and the other has not.

    Attributes:
        path, first: Its key.
        identity: What a version has that is the same file under another path: of files that are not empty the content,
            of all others kind, inode and time.
    """

    path: bytes
    first: int
    identity: object


def ended(database: Database, source: int, old: int, new: int, path: bytes = b"") -> list[ChangedKey]:
    """Return what the snapshot ``old`` has and the later ``new`` has not, in byte order of the paths."""
    return _ranged(database, _ENDED, (source, old, new, old), path)


def begun(database: Database, source: int, old: int, new: int, path: bytes = b"") -> list[ChangedKey]:
    """Return what the snapshot ``new`` has and the earlier ``old`` had not, in byte order of the paths."""
    return _ranged(database, _BEGUN, (source, old, new, new), path)


def _ranged(database: Database, terms: str, parameters: Sequence[int], path: bytes) -> list[ChangedKey]:
    within: Sequence[bytes] = ()
    if path:
        terms += _WITHIN
        within = (path, path + b"/", path + b"0")
    sql = (
        "SELECT f.path, f.first, CASE WHEN f.kind = 'f' AND f.size > 0 THEN f.content END, f.kind, f.inode, f.mtime_ns "
        f"FROM files AS f WHERE {terms} ORDER BY +f.path"  # +: few rows are sorted, not all swept in their order
    )
    return [
        ChangedKey(name, first, (kind, inode, mtime_ns) if content is None else content)
        for name, first, content, kind, inode, mtime_ns in database.query(sql, (*parameters, *within))
        if isinstance(name, bytes)
    ]


def is_shared(database: Database, content: int) -> bool:
    """Tell whether anything else refers to a content than one version of one path."""
    return bool(database.value("SELECT refs > 1 FROM contents WHERE id = ?", (content,)))


def moved_paths(database: Database, source: int, old: int, new: int, content: int) -> tuple[list[bytes], list[bytes]]:
    """Return (paths that had a content at ``old`` and not at ``new``, paths that have it at ``new`` and had not).

    Looks at what changed between two neighbouring snapshots, unless that is most of a large tree.
    """
    found: list[list[bytes]] = []
    for terms, parameters in ((_ENDED, (source, old, new, old)), (_BEGUN, (source, old, new, new))):
        rows = database.query(
            f"SELECT path FROM (SELECT f.path, f.content FROM files AS f WHERE {terms} LIMIT {_MOST_MOVED}) "
            "WHERE content = ?",
            (*parameters, content),
        )
        found.append(sorted(path for (path,) in rows if isinstance(path, bytes)))
    before, after = found
    return [path for path in before if path not in after], [path for path in after if path not in before]
