"""Small repositories and contents for these modules."""

from __future__ import annotations

import hashlib
import os
from typing import Callable, List, Tuple

from backuptool.storage.compression import SETTINGS
from backuptool.storage.contents import ContentLocation
from backuptool.storage.database import Database
from backuptool.storage.digest import FileVersion
from backuptool.storage.writer import ContentWriter

PACK_BYTES = SETTINGS["balanced"].pack_size

MIB = 1 << 20


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def count(database: Database) -> int:
    return int(database.value("SELECT count(*) FROM sources"))


def as_nobody_is_root(function: Callable[[], int]) -> int:
    """Run a function in a forked process of the same user; its small result is the exit code."""
    child = os.fork()
    if child == 0:  # pragma: no cover (another process)
        code = 99
        try:
            code = function()
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] >> 8


def store(database: Database, *pieces: bytes) -> Tuple[List[int], int, int]:
    """Store contents; return their ids, the bytes that were new, and the bytes they take."""
    with ContentWriter(database, lambda: 5) as writer:
        contents = [writer.add(piece) for piece in pieces]
        writer.flush()
        return [writer.ids[content.ordinal] for content in contents], writer.new_bytes, writer.stored_bytes


def location(database: Database, data: bytes) -> ContentLocation:
    [row] = database.query("SELECT id, hash, size, pack, offset FROM contents WHERE hash = ?", (sha256(data),))
    return ContentLocation(*row)


#: Packs that wait or are compressed, one to a processor and one more, and the one that is being filled.
BUFFERS = max(1, min(os.cpu_count() or 1, 16)) + 1 + 1

VERSION = FileVersion(
    path=b"a/b\xff",
    kind=b"f",
    mode=0o4755,
    uid=1000,
    gid=4_000_000_000,
    user=b"user",
    group=b"",
    mtime_ns=-1,
    size=5,
    hash=sha256(b"12345"),
    sparse=1,
    rdev=None,
    target=None,
    xattrs=b"\0\0\0\1x",
    link=b"1:2",
)
