"""What the database module asks of a SQLite library, and the errors that the answers are put into.

Owns the interface, which library is used, and the words for what can go wrong. How one library is asked is its own
module's; what makes a file a repository is left to the database. Nothing above these modules knows which one runs.
"""

from __future__ import annotations

from typing import Any, Callable, Generator, Iterable, Optional, Protocol, Sequence

from ...errors import (
    BackuptoolError,
    CorruptionError,
    NotARepositoryError,
    RepositoryError,
    RepositoryLockedError,
    RepositoryNotWritableError,
)

__all__ = ["TO_CHECK", "Connection", "Driver", "default_driver", "failure", "set_default_driver"]


class Connection(Protocol):
    """One open database. Text comes back as bytes, since names need not be UTF-8; every error is this package's.

    One thread at a time may use it, also while a stream is open.
    """

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction was begun and has not ended."""

    @property
    def reserved_bytes(self) -> int:
        """Bytes of each page that SQLite leaves to an encrypting library."""

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Run a statement and return all its rows as tuples; no cursor stays open."""

    def stream(self, sql: str, parameters: Sequence[Any], batch: int) -> Generator[list[Any], None, None]:
        """Run a statement now, and yield its rows in lists of at most batch; closing the iterator ends it."""

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run a statement and return how many rows it changed; 0 or less if it is not one that changes rows."""

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> int:
        """Run a statement for each row of parameters and return how many rows changed in all."""

    def trace(self, callback: Optional[Callable[[str], object]]) -> None:
        """Call back with the text of each statement that is run; None ends it."""

    def close(self) -> None:
        """Close it; an open transaction is rolled back. Whatever is asked of it afterwards is an error."""


class Driver(Protocol):
    """A way to open databases."""

    def connect(self, path: str, lock_timeout: float) -> Connection:
        """Open a file that exists, for reading and writing if that is allowed.

        Args:
            path: The file, absolute. It need not be UTF-8.
            lock_timeout: Seconds to wait for another connection's lock.
        """

    def memory(self) -> Connection:
        """Open an empty database that is in memory alone."""


#: The next step where SQLite finds damage; check leaves it out.
TO_CHECK = "; run check to see what is hit"

_default: Optional[Driver] = None


def default_driver() -> Driver:
    """Return the standard library's driver, unless this process has set another one."""
    if _default is None:
        from .with_sqlite3 import Sqlite3Driver  # imported here: another driver may be all that is needed

        set_default_driver(Sqlite3Driver())
    assert _default is not None
    return _default


def set_default_driver(driver: Optional[Driver]) -> None:
    """Choose what opens the databases of this process from now on; None for the standard library's.

    Two SQLite libraries must not have one file open in one process: closing it in one drops the other's locks.
    """
    global _default
    _default = driver


def failure(kind: str, path: str, text: str) -> BackuptoolError:
    """Return this package's error for what a driver reports.

    Args:
        kind: ``"locked"``, ``"foreign"`` (no database), ``"full"``, ``"readonly"``, ``"unopened"``, ``"io"``,
            ``"closed"``, ``"number"`` (one too large for SQLite), or ``""`` for everything else, which is damage.
        path: The repository file.
        text: What the driver says about it.
    """
    if kind == "number":
        return RepositoryError(f"a number is too large for the repository {path}: {text}", path)
    if kind == "locked":
        return RepositoryLockedError(
            f"the repository {path} is in use by another process; try again, or wait longer with --lock-timeout "
            "(lock_timeout= in Python)",
            path,
        )
    if kind == "foreign":
        return NotARepositoryError(
            f"{path} is not a backuptool repository; name another file, or put a copy in its place if it was one: its "
            "first bytes are damaged then",
            path,
        )
    if kind == "full":
        return RepositoryNotWritableError(
            f"no space left for the repository {path}; nothing saved before is lost: free space, and run it again", path
        )
    if kind == "readonly":
        return RepositoryNotWritableError(
            f"the repository {path} is read-only: what only reads it works, for the rest make it writable", path
        )
    if kind == "unopened":
        return RepositoryNotWritableError(
            f"cannot open the repository {path} or write its journal beside it: "
            "check the permissions of the file and of its directory",
            path,
        )
    if kind == "io":
        return RepositoryError(
            f"the medium of the repository {path} reports an I/O error; check the disk, and whether files may be as "
            "large there (ulimit -f; FAT allows 4 GiB)",
            path,
        )
    if kind == "closed":
        return RepositoryError(f"the repository {path} was closed", path)
    return CorruptionError(f"the repository {path} is damaged ({text}){TO_CHECK}", path)
