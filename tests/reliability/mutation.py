"""Changing a repository at random: bytes of the file, or rows, with digests that agree with them afterwards.

Owns what is changed. The same seed changes the same, so that what was found can be tried again.
"""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, List, Tuple

from .forging import settle

__all__ = ["mutate"]

_TABLES = (
    *(
        "files",
        "files",
        "files",
        "contents",
        "contents",
        "parts",
        "packs",
        "snapshots",
        "sources",
        "settings",
        "pruned",
    ),
    *("bases", "pins", "changes", "drills", "sqlite_sequence", "sqlite_master"),
)

_NUMBERS = (
    *(0, 1, -1, 2, 7, 255, 256, 4095, 4096, 65535, 1 << 20, 1 << 31, (1 << 31) - 1, 1 << 32, (1 << 32) - 1),
    *(1 << 40, 1 << 62, (1 << 63) - 1, -(1 << 63), 0.5, 1e300, -1e300, float("inf")),
)

_TEXTS = (
    *(b"", b"text", b"..", b".", b"/", b"../outside/planted", b"/tmp/reliability-planted", b"a\0b", b"a.txt", b"dir"),
    *(b"dir/sub", b"dir/sub/c.txt", b"symlink", b"symlink/x", b"new", b"large", b"f", b"d", b"l", b"p", b"c", b"zstd"),
    *(b"raw", b"\xff\xfe", b"\x1b[2J", b"[]", b'["x"]', b"{}", b"null", b"[" * 5000, b"n" * 300, b"x" * 100_000, b"7"),
)


def mutate(repository: Path, chance: random.Random) -> str:
    """Change a repository, and return in words how."""
    if chance.random() < 0.7:
        words = _mutate_rows(repository, chance)
        if chance.random() < 0.8:
            try:
                settle(repository)
            except (sqlite3.Error, OverflowError, ValueError, TypeError) as exc:
                words.append(f"not settled: {exc}")
        if chance.random() < 0.1:
            words += _mutate_bytes(repository, chance)
    else:
        words = _mutate_bytes(repository, chance)
    if chance.random() < 0.03:
        journal = repository.with_name(repository.name + "-journal")
        journal.write_bytes(repository.read_bytes()[: chance.randrange(100_000)])
        words.append("a journal")
    return "; ".join(words)


# Rows.


def _mutate_rows(repository: Path, chance: random.Random) -> List[str]:
    words = []
    with closing(sqlite3.connect(str(repository))) as connection:
        connection.text_factory = bytes
        for pragma in ("foreign_keys=OFF", "writable_schema=ON", "ignore_check_constraints=ON"):
            connection.execute(f"PRAGMA {pragma}")
        for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
            try:
                words.append(_mutate_row(connection, chance))
            except (sqlite3.Error, OverflowError) as exc:
                words.append(f"({exc})")
        connection.commit()
    return words


def _mutate_row(connection: sqlite3.Connection, chance: random.Random) -> str:
    table = chance.choice(_TABLES)
    columns = [(row[1].decode(), row[5]) for row in connection.execute(f"PRAGMA table_info({table})").fetchall()]
    names = [name for name, _ in columns]
    rows = connection.execute(f"SELECT * FROM {table}").fetchall()
    if not rows:
        rows = [tuple(1 for _ in names)]
        connection.execute(f"INSERT INTO {table} VALUES ({', '.join('1' for _ in names)})")
    row = chance.choice(rows)
    keys = [name for name, key in columns if key] or names[:1]
    key = tuple(row[names.index(name)] for name in keys)
    condition = " AND ".join(f"{name} IS {_as_is(item)[0]}" for name, item in zip(keys, key))
    action = chance.random()
    if action < 0.1:
        connection.execute(f"DELETE FROM {table} WHERE {condition}", key)
        return f"deleted from {table} {key!r:.60}"
    column = chance.randrange(len(names))
    sql, value = _value(row[column], [other[column] for other in rows], chance)
    if action < 0.3:
        values = [(sql, value) if index == column else _as_is(item) for index, item in enumerate(row)]
        marks = ", ".join(mark for mark, _ in values)
        connection.execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", [item for _, item in values])
        return f"inserted into {table} {names[column]}={value!r:.60}"
    parameters = [value, *key]
    if chance.random() < 0.1:
        condition, parameters = "1", [value]
    connection.execute(f"UPDATE OR REPLACE {table} SET {names[column]} = {sql} WHERE {condition}", parameters)
    return f"{table}.{names[column]} = {value!r:.60} where {key!r:.60}"


def _as_is(value: Any) -> Tuple[str, Any]:
    """Return a mark and a value that bind what was read: texts come as bytes, and most bytes are texts."""
    if isinstance(value, bytes) and len(value) != 32:
        return "CAST(? AS TEXT)", value
    return "?", value


def _value(old: Any, others: List[Any], chance: random.Random) -> Tuple[str, Any]:
    """Return a mark and a value to put in the place of another."""
    kind = chance.randrange(8)
    if kind == 0:
        return "?", chance.choice(_NUMBERS)
    if kind == 1:
        return "CAST(? AS TEXT)", chance.choice(_TEXTS)
    if kind == 2:
        return "?", chance.choice(_TEXTS)
    if kind == 3:
        return "?", None
    if kind == 4:
        return _as_is(chance.choice(others))
    if isinstance(old, int):
        return "?", max(
            -(1 << 63), min((1 << 63) - 1, old + chance.choice((-1, 1, -16, 16, 1 << chance.randrange(63))))
        )
    if isinstance(old, bytes) and old:
        data = bytearray(old)
        for _ in range(chance.choice((1, 1, 4))):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        if chance.random() < 0.2:
            del data[chance.randrange(len(data)) :]
        return _as_is(bytes(data)) if chance.random() < 0.9 else ("?", bytes(data))
    return "?", bytes(chance.randrange(256) for _ in range(chance.randrange(40)))


# Bytes.


def _mutate_bytes(repository: Path, chance: random.Random) -> List[str]:
    data = bytearray(repository.read_bytes())
    page = 16384
    words = []
    for _ in range(chance.choice((1, 1, 2, 5))):
        kind = chance.randrange(8)
        used = [offset for offset in (chance.randrange(len(data)) for _ in range(40)) if data[offset]]
        offset = used[0] if used else chance.randrange(len(data))
        if kind == 0:
            offset = chance.randrange(100)
        if kind <= 3:
            data[offset] ^= 1 << chance.randrange(8)
            words.append(f"a bit of byte {offset}")
        elif kind == 4:
            length = chance.choice((1, 4, 16, 100, 2000))
            data[offset : offset + length] = bytes(
                chance.randrange(256) for _ in range(len(data[offset : offset + length]))
            )
            words.append(f"{length} bytes at {offset}")
        elif kind == 5:
            length = chance.choice((4, 100, page))
            data[offset : offset + length] = bytes(len(data[offset : offset + length]))
            words.append(f"{length} zeros at {offset}")
        elif kind == 6:
            one, two = (chance.randrange(len(data) // page or 1) * page for _ in range(2))
            data[one : one + page] = data[two : two + page]
            words.append(f"page at {two} also at {one}")
        else:
            del data[chance.randrange(len(data)) :]
            data = data or bytearray(b"x")
            words.append(f"cut to {len(data)} bytes")
    repository.write_bytes(data)
    return words
