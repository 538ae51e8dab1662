"""Forging a repository: change any row, then compute anew whatever vouches for it, as an attacker would.

Owns digests, counts and sizes as docs/format.md describes them, in code of its own: what it writes is what somebody
writes who has read the format and not the package.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import struct
from contextlib import closing
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

__all__ = ["adopt", "in_utf_16", "journal_naming", "row_digest", "run_sql", "settle"]

_ROWS = """
SELECT f.source, f.first, f.last, f.kind, f.mode, f.uid, f.gid, f.mtime_ns, f.size, f.sparse, f.rdev, f.path, f.user,
       f.grp, c.hash, f.target, f.xattrs, f.link
  FROM files AS f LEFT JOIN contents AS c ON c.id = f.content
"""

_FIELDS = """
SELECT n.id, s.host, s.root, n.started_ns, n.finished_ns, n.files, n.directories, n.size, n.skipped_files,
       n.problem_files, n.note, n.tags, n.tree_digest
  FROM snapshots AS n LEFT JOIN sources AS s ON s.id = n.source WHERE n.id = ?
"""


def run_sql(path: Path, *statements: str, parameters: Sequence[Any] = ()) -> None:
    """Run statements as anybody with SQLite might: nothing is enforced, the schema may be written to."""
    with closing(_open(path)) as connection:
        for statement in statements:
            connection.execute(statement, parameters)
        connection.commit()


def settle(path: Path) -> None:
    """Make digests, counts, sizes and references agree with the rows again, as far as these can be computed."""
    with closing(_open(path)) as connection:
        _settle_references(connection)
        _settle_layouts(connection)
        _settle_snapshots(connection)
        connection.commit()


def adopt(path: Path, root: Path) -> None:
    """Let the directory ``root`` be where the first source was: its next snapshot goes on from there."""
    with closing(_open(path)) as connection:
        first = connection.execute("SELECT min(id) FROM sources").fetchone()[0]
        connection.execute("UPDATE sources SET root = CAST(? AS TEXT) WHERE id = ?", (bytes(root), first))
        connection.commit()
    settle(path)


def in_utf_16(repository: Path) -> None:
    """Write the same rows into a file whose texts are UTF-16, which means another thing for what is cast to a text."""
    other = repository.with_name("utf-16")
    with closing(sqlite3.connect(str(other))) as connection:
        connection.text_factory = bytes
        connection.execute("PRAGMA encoding='UTF-16le'")
        with closing(sqlite3.connect(str(repository))) as old:
            old.text_factory = lambda data: data.decode("utf-8", "replace")
            schema = old.execute("SELECT sql, name FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid").fetchall()
            for sql, name in schema:
                if name != "sqlite_sequence":
                    connection.execute(sql)
            for sql, name in schema:
                if sql.startswith("CREATE TABLE"):
                    for row in old.execute(f"SELECT * FROM {name}").fetchall():
                        connection.execute(f"INSERT INTO {name} VALUES ({', '.join('?' * len(row))})", row)
            for pragma in ("application_id", "user_version"):
                connection.execute(f"PRAGMA {pragma}={old.execute(f'PRAGMA {pragma}').fetchone()[0]}")
        connection.commit()
    other.replace(repository)


def journal_naming(other: Path) -> bytes:
    """Return a journal as of a transaction over several files, whose main journal is said to be any file.

    SQLite rolls such a journal back, and removes the main journal when nothing in it is needed any more.
    """
    sector = 512
    header = bytes.fromhex("d9d505f920a163d7") + struct.pack(">IIIII", 0, 7, 1, sector, 16384)
    name = os.fsencode(str(other))
    end = struct.pack(">I", 1 + (1 << 30) // 16384) + name
    end += struct.pack(">II", len(name), sum(struct.unpack(f"{len(name)}b", name)) & 0xFFFFFFFF)
    return header.ljust(sector, b"\0") + end + bytes.fromhex("d9d505f920a163d7")


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(str(path))
    connection.text_factory = bytes
    connection.execute("PRAGMA foreign_keys=OFF")
    connection.execute("PRAGMA writable_schema=ON")
    connection.execute("PRAGMA ignore_check_constraints=ON")
    return connection


def _length(field: Any) -> int:
    return -1 if field is None else len(field)


def row_digest(row: Sequence[Any]) -> int:
    """Return the digest of a version: kind to rdev, then the seven fields of any length."""
    kind, mode, uid, gid, mtime_ns, size, sparse, rdev, *fields = row
    numbers = (mode, uid, gid, mtime_ns, size, sparse, -1 if rdev is None else rdev)
    head = struct.pack(">c5qBq7i", kind, *numbers, *map(_length, fields))
    return int.from_bytes(hashlib.sha256(head + b"".join(filter(None, fields))).digest(), "big")


def _settle_snapshots(connection: sqlite3.Connection) -> None:
    rows: Dict[Any, List[Tuple[Any, Any, Any, Any, int]]] = {}
    for source, first, last, *row in connection.execute(_ROWS).fetchall():
        try:
            digest = row_digest(row)
        except (TypeError, struct.error):
            continue  # no digest covers what is of no type
        rows.setdefault(source, []).append((first, last, row[0], row[5], digest))
    for number, source in connection.execute("SELECT id, source FROM snapshots").fetchall():
        held = [row for row in rows.get(source, ()) if _holds(row[0], row[1], number)]
        tree = (sum(row[4] for row in held) % 2**256).to_bytes(32, "big")
        directories = sum(row[2] == b"d" for row in held)
        figures = (len(held) - directories, directories, sum(row[3] for row in held), tree)
        if abs(figures[2]) < 1 << 63:
            connection.execute(
                f"UPDATE snapshots SET files = ?, directories = ?, size = ?, tree_digest = ? WHERE id = {number}",
                figures,
            )
        hasher = hashlib.sha256()
        for position, field in enumerate(connection.execute(_FIELDS, (number,)).fetchone()):
            data = field if isinstance(field, bytes) else str(field).encode()
            hasher.update(b"%c%d:" % (b"b" if position in (2, 12) else b"i", len(data)) + data)
        connection.execute("UPDATE snapshots SET digest = ? WHERE id = ?", (hasher.digest(), number))


def _holds(first: Any, last: Any, number: int) -> bool:
    if not isinstance(first, int) or not (last is None or isinstance(last, int)):
        return False
    return first <= number and (last is None or last >= number)


def _settle_layouts(connection: sqlite3.Connection) -> None:
    for (number,) in connection.execute("SELECT id FROM contents WHERE layout IS NOT NULL").fetchall():
        hasher = hashlib.sha256()
        for offset, digest in connection.execute(
            "SELECT p.offset, c.hash FROM parts AS p LEFT JOIN contents AS c ON c.id = p.part WHERE p.content = ? "
            "ORDER BY p.offset",
            (number,),
        ):
            try:
                hasher.update(struct.pack(">Q32s", offset, digest or b""))
            except (TypeError, struct.error):
                continue
        connection.execute("UPDATE contents SET layout = ? WHERE id = ?", (hasher.digest(), number))


def _settle_references(connection: sqlite3.Connection) -> None:
    connection.execute(
        "UPDATE contents SET refs = (SELECT count(*) FROM files WHERE content = contents.id) "
        "+ (SELECT count(*) FROM parts WHERE part = contents.id)"
    )
    connection.execute(
        "UPDATE packs SET live = coalesce((SELECT sum(size) FROM contents WHERE pack = packs.id), 0) "
        "WHERE typeof(size) = 'integer' AND NOT EXISTS "
        "(SELECT 1 FROM contents WHERE pack = packs.id AND (typeof(size) <> 'integer' OR abs(size / 2) > 1 << 60))"
    )
    # The first snapshot that has it, or a large content that it is part of.
    connection.execute("DELETE FROM pruned")
    connection.execute(
        "WITH held(content, number) AS (SELECT f.content, n.id FROM files AS f JOIN snapshots AS n "
        "ON n.source = f.source AND f.first <= n.id AND (f.last IS NULL OR f.last >= n.id)) "
        "UPDATE contents SET since = coalesce((SELECT min(number) FROM held WHERE content = contents.id OR content IN "
        "(SELECT content FROM parts WHERE part = contents.id)), 0) WHERE layout IS NULL"
    )
    connection.execute(
        "UPDATE snapshots SET distinct_size = coalesce((SELECT sum(size) FROM contents WHERE layout IS NULL "
        "AND since = snapshots.id), 0) WHERE NOT EXISTS (SELECT 1 FROM contents WHERE abs(size / 2) > 1 << 60)"
    )
