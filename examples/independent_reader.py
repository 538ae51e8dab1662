"""Restore one file with nothing but SQLite, SHA-256 and zstd, by docs/format.md; no backuptool needed.

python independent_reader.py REPOSITORY SNAPSHOT PATH OUTPUT
"""

import hashlib
import importlib
import os
import sqlite3
import sys
from functools import lru_cache
from typing import Iterator


@lru_cache(maxsize=3)
def unpack(database: sqlite3.Connection, pack: int, is_base: bool = False) -> bytes:
    """Return the bytes of a pack, never more than it declares."""
    size, codec, data = database.execute("SELECT size, codec, data FROM packs WHERE id = ?", (pack,)).fetchone()
    assert 0 <= size <= 16 << 20, "no pack is larger"
    name = "pyzstd" if sys.version_info < (3, 9) else "backports.zstd"
    zstd = importlib.import_module(name if sys.version_info < (3, 14) else "compression.zstd")
    base = codec == b"zstd-base" and database.execute("SELECT base FROM bases WHERE pack = ?", (pack,)).fetchone()
    prefix = zstd.ZstdDict(unpack(database, *base, True), is_raw=True).as_prefix if base and not is_base else None
    return bytes(data if codec == b"raw" else zstd.ZstdDecompressor(zstd_dict=prefix).decompress(data, size))


def content(database: sqlite3.Connection, number: int, nested: bool = False) -> Iterator[bytes]:
    """Yield the bytes of a content: a slice of a pack, or its parts and holes one behind the other."""
    size, pack, offset = database.execute("SELECT size, pack, offset FROM contents WHERE id = ?", (number,)).fetchone()
    if pack is not None:
        yield unpack(database, pack)[offset : offset + size]
    elif size:
        assert not nested, "parts have no parts"
        parts = database.execute("SELECT offset, part FROM parts WHERE content = ? ORDER BY 1", (number,)).fetchall()
        for (begin, part), (end, _) in zip(parts, [*parts[1:], (size, None)]):
            zeros = (bytes(min(1 << 20, end - done)) for done in range(begin, end, 1 << 20))
            yield from zeros if part is None else content(database, part, nested=True)


def restore_file(repository: str, snapshot: int, path: bytes, output: str) -> None:
    """Write a file as a snapshot has it; it takes its name only if it has its hash."""
    database = sqlite3.connect(f"file:{repository}?mode=ro", uri=True)
    database.text_factory = bytes  # names need not be UTF-8
    header = [database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
    assert header in ([0x626B7570, 1], [0x626B7570, 2]), "not a repository of format 1 or 2"
    sql = """SELECT c.id, c.hash FROM snapshots s JOIN files f USING (source) JOIN contents c ON c.id = f.content
             WHERE s.id = ? AND s.id BETWEEN f.first AND coalesce(f.last, s.id) AND f.path = CAST(? AS TEXT)"""
    number, digest = database.execute(sql, (snapshot, path)).fetchone() or sys.exit("no such file in that snapshot")
    with open(output + ".part", "wb") as file:
        hasher = hashlib.sha256()
        for piece in content(database, number):
            hasher.update(piece)
            file.write(piece)
    database.close()
    assert hasher.digest() == digest, "the content is damaged"
    os.replace(output + ".part", output)


if __name__ == "__main__":
    if len(sys.argv) != 5 or not sys.argv[2].isdecimal():
        sys.exit(__doc__)
    restore_file(sys.argv[1], int(sys.argv[2]), os.fsencode(sys.argv[3]), sys.argv[4])
