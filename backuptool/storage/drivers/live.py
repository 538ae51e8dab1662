"""Databases of users that are in use while they are saved: held still, or copied by SQLite's online backup.

Owns what is asked of SQLite about files that are no repository: always of the standard library's, always read-only, and
so that nothing is written or made beside them. What lies where and in which process this runs is left to capturing.

A connection never makes or changes a ``-shm`` file (``readonly_shm``) and never rolls back a journal (``mode=ro``):
where SQLite would have to, it refuses, and the database is not captured.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from contextlib import contextmanager
from typing import FrozenSet, Iterator, Tuple
from urllib.parse import quote

__all__ = ["Identity", "NotCapturedError", "image", "locked", "require_room"]

#: Seconds to wait for a lock. A commit takes some ms; a program that keeps its database to itself keeps it for hours.
_PATIENCE = 2.0

#: Bytes that stay free where images are put.
_RESERVE = 16 << 20

#: Device and inode.
Identity = Tuple[int, int]

_REASONS = (
    ("locked", "a program keeps it locked"),
    ("readonly", "an interrupted transaction has to be rolled back first, by the program that uses it"),
    ("not a database", "SQLite does not understand it: it is encrypted or damaged"),
    ("unable to open", "SQLite cannot open it, or a file beside it"),
    ("full", "there is no room for its image"),
)


class NotCapturedError(Exception):
    """A database cannot be captured; the message is why, in words that follow its name."""


@contextmanager
def locked(path: bytes, allowed: FrozenSet[Identity]) -> Iterator[None]:
    """Keep everybody from writing into a database without a write-ahead log: its file holds what is committed.

    Who wants to commit meanwhile waits.

    Args:
        path: The file.
        allowed: What SQLite may come to open: the file, and those beside it.

    Raises:
        NotCapturedError: It cannot be locked.
    """
    with _reading(path, allowed) as connection:
        if connection.execute("PRAGMA journal_mode").fetchone() == ("wal",):
            raise NotCapturedError("it began to be used in another way")
        yield


def image(path: bytes, allowed: FrozenSet[Identity], directory: str) -> int:
    """Copy what is committed of a database with a write-ahead log; nobody has to wait for that.

    Args:
        path: The file.
        allowed: What SQLite may come to open: the file, and those beside it.
        directory: Where the image is put.

    Returns:
        A descriptor of the image, which has no name: it goes when that is closed.

    Raises:
        NotCapturedError: It cannot be read, or there is no room.
    """
    with _reading(path, allowed) as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        require_room(directory, pages * connection.execute("PRAGMA page_size").fetchone()[0])
        descriptor, name = tempfile.mkstemp(prefix="backuptool-", dir=directory)
        try:
            try:
                target = sqlite3.connect(name, isolation_level=None)
                # Without a journal SQLite does not mind that the file loses its name.
                target.execute("PRAGMA journal_mode=OFF")
                target.execute("PRAGMA synchronous=OFF")
            finally:
                os.unlink(name)
            try:
                connection.backup(target)
            finally:
                target.close()
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def require_room(directory: str, size: int) -> None:
    """Refuse to fill the place for temporary files.

    Raises:
        NotCapturedError: There is too little room.
    """
    if shutil.disk_usage(directory).free < size + _RESERVE:
        raise NotCapturedError(f"there is no room in {directory} for its image of {size:,} bytes; set TMPDIR")


@contextmanager
def _reading(path: bytes, allowed: FrozenSet[Identity]) -> Iterator[sqlite3.Connection]:
    """Open a database and begin to read: from now on it is seen in one state."""
    before = _descriptors()
    connection = None
    try:
        connection = sqlite3.connect(
            f"file:{quote(path)}?mode=ro&readonly_shm=1", uri=True, isolation_level=None, timeout=_PATIENCE
        )
        connection.execute("PRAGMA mmap_size=0")  # a file cut short meanwhile would end the process
        connection.execute("BEGIN")
        connection.execute("PRAGMA schema_version").fetchall()
        # SQLite opens paths and follows symlinks; somebody may have put one in the way.
        opened = {identity for number, identity in _descriptors().items() if number not in before}
        if not opened <= allowed:
            raise NotCapturedError("it was replaced meanwhile")
        yield connection
    except sqlite3.Error as exc:
        raise NotCapturedError(_reason(str(exc))) from exc
    finally:
        if connection is not None:
            connection.close()


def _reason(text: str) -> str:
    return next((reason for part, reason in _REASONS if part in text), text)


def _descriptors() -> dict[int, Identity]:
    """Return what this process has open, by descriptor."""
    try:
        names = os.listdir("/proc/self/fd")
    except OSError as exc:
        raise NotCapturedError("there is no /proc to see which files SQLite opens") from exc
    found = {}
    for name in names:
        try:
            status = os.fstat(int(name))
        except OSError:
            continue  # that of the listing
        found[int(name)] = (status.st_dev, status.st_ino)
    return found
