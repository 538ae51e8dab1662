"""The driver of Python's own sqlite3, which every repository that is not encrypted is opened with.

Owns what is particular to that module; what is asked of a driver stands in the package above it.
"""

from __future__ import annotations

import re
import sqlite3
from typing import Any, Callable, Generator, Iterable, NoReturn, Optional, Sequence

from ...errors import BackuptoolError, RepositoryError
from . import failure

__all__ = ["Sqlite3Driver"]

#: WITHOUT ROWID, partial indexes and expression indexes work since 3.9; 3.24 is what CPython 3.8 was built with.
_OLDEST_SQLITE = (3, 24, 0)

#: What the module raises: its own errors, and two for numbers and messages of a damaged file that Python cannot take.
_ERRORS = (sqlite3.Error, OverflowError, UnicodeDecodeError)

#: Python 3.8 has no error codes: what happened is told by a part of the message.
_KINDS = (
    ("locked", "locked"),
    ("busy", "locked"),
    ("file is not a database", "foreign"),
    ("file is encrypted", "foreign"),
    ("disk is full", "full"),
    ("readonly", "readonly"),
    ("unable to open", "unopened"),
)

# What means itself in a URI.
_PLAIN = re.compile(r"[A-Za-z0-9/._-]+")


class Sqlite3Driver:
    """Opens databases with the standard library's sqlite3."""

    def connect(self, path: str, lock_timeout: float) -> Sqlite3Connection:
        """Open a file that exists."""
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            raise RepositoryError(
                f"SQLite {sqlite3.sqlite_version} is too old; Python must be built with "
                f"{'.'.join(map(str, _OLDEST_SQLITE))} or newer",
                path,
            )
        return Sqlite3Connection(path, f"file:{_uri_path(path)}?mode=rw", lock_timeout)

    def memory(self) -> Sqlite3Connection:
        """Open an empty database in memory."""
        return Sqlite3Connection("", ":memory:", 0.0)


class Sqlite3Connection:
    """A connection of the standard library's sqlite3."""

    def __init__(self, path: str, name: str, lock_timeout: float) -> None:
        self._path = path
        try:
            self._connection = sqlite3.connect(
                name,
                timeout=lock_timeout,
                isolation_level=None,
                check_same_thread=False,  # whoever has it sees to it that one thread uses it at a time
                uri=True,
                cached_statements=256,
            )
        except sqlite3.Error as exc:
            self._fail(exc)
        self._connection.text_factory = bytes

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction was begun and has not ended."""
        try:
            return self._connection.in_transaction
        except sqlite3.ProgrammingError:  # it is closed
            return False

    @property
    def reserved_bytes(self) -> int:
        """None: a file that this library makes has none, and no other is a repository."""
        return 0

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Run a statement and return all its rows."""
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except _ERRORS as exc:
            self._fail(exc)

    def stream(self, sql: str, parameters: Sequence[Any], batch: int) -> Generator[list[Any], None, None]:
        """Run a statement now, and yield its rows in lists."""
        try:
            cursor = self._connection.execute(sql, parameters)
        except _ERRORS as exc:
            self._fail(exc)
        return self._batches(cursor, batch)

    def _batches(self, cursor: sqlite3.Cursor, batch: int) -> Generator[list[Any], None, None]:
        try:
            while True:
                try:
                    rows = cursor.fetchmany(batch)
                except _ERRORS as exc:
                    self._fail(exc)
                if not rows:
                    return
                yield rows
        finally:
            cursor.close()

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run a statement and return how many rows it changed."""
        try:
            return self._connection.execute(sql, parameters).rowcount
        except _ERRORS as exc:
            self._fail(exc)

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> int:
        """Run a statement for each row of parameters and return how many rows changed in all."""
        try:
            return self._connection.executemany(sql, rows).rowcount
        except _ERRORS as exc:
            self._fail(exc)

    def trace(self, callback: Optional[Callable[[str], object]]) -> None:
        """Call back with the text of each statement that is run."""
        self._connection.set_trace_callback(callback)

    def close(self) -> None:
        """Close it."""
        self._connection.close()

    def _fail(self, exc: Exception) -> NoReturn:
        raise _translate(exc, self._path) from exc


def _uri_path(path: str) -> str:
    if _PLAIN.fullmatch(path):
        return path
    import os
    from urllib.parse import quote  # imported here: few paths need it, and it takes longer than listing snapshots

    return quote(os.fsencode(path))


def _translate(exc: Exception, path: str) -> BackuptoolError:
    text = str(exc)
    if isinstance(exc, OverflowError):
        return failure("number", path, text)
    for part, kind in _KINDS:
        if part in text:
            return failure(kind, path, text)
    if isinstance(exc, sqlite3.OperationalError) and "disk I/O error" in text:
        return failure("io", path, text)
    if isinstance(exc, sqlite3.ProgrammingError):
        return failure("closed", path, text)
    return failure("", path, text)
