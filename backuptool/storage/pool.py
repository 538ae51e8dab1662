"""Connections to one repository file, one for each thread that asks at the same time.

Owns who may use a connection when, also across fork; what a connection is, the database knows.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Iterator, Optional, Sequence

from ..errors import BackuptoolError, RepositoryNotFoundError, RepositoryNotWritableError
from .chunking import CHUNKING
from .connecting import create_database, open_database
from .database import Database
from .format import FormatChangedError, upgrade
from .schema import FORMAT

if TYPE_CHECKING:
    from .encryption.keyring import Keyring, Password
    from .encryption.witness import Witness

__all__ = ["BorrowingDatabase", "ConnectionPool"]

_abandoned: list[Database] = []  # connections of a parent process: closing them would drop the parent's locks


class ConnectionPool:
    """Hands out connections and takes them back.

    Args:
        path: The repository file, absolute.
        lock_timeout: Seconds that a connection waits for a lock.
        keyring: What opens the file if it is encrypted.
        state_directory: Where the newest state of an encrypted file is remembered, None for nowhere.
        create: Whether a file may be made where there is none.

    Attributes:
        witness: What remembers it, as soon as an encrypted file was opened.
    """

    def __init__(
        self,
        path: str,
        lock_timeout: float,
        keyring: Optional[Keyring] = None,
        state_directory: Optional[str] = None,
        create: bool = True,
    ) -> None:
        self.path = path
        self._create = create
        self.keyring = keyring
        self.witness: Optional[Witness] = None
        self._state_directory = state_directory
        self._lock_timeout = lock_timeout
        self._idle: list[Database] = []
        self._guard = threading.Lock()
        self._process = os.getpid()
        self._closings = 0

    @property
    def password(self) -> Optional[Password]:
        """What the keyring was made with, None if there is none."""
        return None if self.keyring is None else self.keyring.password

    @contextmanager
    def reading(self, *, fresh: bool = False) -> Iterator[Database]:
        """Lend a connection to an existing repository; a fresh one has nothing of the file in its cache."""
        if fresh:
            self.close()
        database = self._take() or open_database(self.path, self._lock_timeout, self.keyring)
        with self._lend(database):
            self._show(database)
            yield database

    @contextmanager
    def writing(self, *, create: bool = False) -> Iterator[Database]:
        """Lend a connection to a repository that can be written to; with create, make it if there is none.

        A repository of an earlier format becomes one of this format.
        """
        database = self._writable(create)
        with self._lend(database):
            self._show(database)
            try:
                yield database
            except RepositoryNotWritableError as exc:  # SQLite writes to no file whose name leads to another one
                if database.same_file():
                    raise
                raise RepositoryNotWritableError(
                    f"the repository {self.path} was moved, removed or replaced while it was in use; nothing more was "
                    "saved: see what lies there, and run it again",
                    self.path,
                ) from exc
            finally:
                database.drop_journal()
            self._show(database)

    def _show(self, database: Database) -> None:
        """Compare the state of an encrypted file with the newest that was seen, and remember it."""
        if self._state_directory is None or not database.encrypted:
            return
        if self.witness is None:
            from .encryption.witness import Witness

            with self._guard:
                self.witness = self.witness or Witness(self._state_directory)
        database.show_to(self.witness)

    def _writable(self, create: bool) -> Database:
        """Return a connection to a repository of this format."""
        while True:
            database = self._take() or self._open(create)
            try:
                if not os.access(self.path, os.W_OK):
                    raise RepositoryNotWritableError(
                        f"the repository {self.path} is read-only: what only reads it works, "
                        "for the rest make it writable",
                        self.path,
                    )
                if database.format < FORMAT:
                    upgrade(database)
                return database
            except FormatChangedError:
                database.close()  # and open it as what it is now
            except BaseException:
                database.close()
                raise

    def _open(self, create: bool) -> Database:
        if create and not self._create and not os.path.lexists(self.path):
            raise RepositoryNotFoundError(
                f"there is no repository at {self.path}, and none is to be made: nothing was saved; see whether "
                "its disk is mounted",
                self.path,
            )
        if create and self._create:
            return create_database(self.path, self._lock_timeout, _settings(), self.keyring)
        return open_database(self.path, self._lock_timeout, self.keyring)

    def close(self) -> None:
        """Close every idle connection; one that is lent is closed when it comes back."""
        self._forget_parent()
        with self._guard:
            self._closings += 1
            idle, self._idle = self._idle, []
        for database in idle:
            database.close()

    def _take(self) -> Database | None:
        self._forget_parent()
        with self._guard:
            database = self._idle.pop() if self._idle else None
        if database is None:
            return None
        try:
            if database.same_file() and database.same_format():
                return database
        except BackuptoolError:
            pass  # whatever is wrong is told by opening it again
        database.close()
        return None

    @contextmanager
    def _lend(self, database: Database) -> Iterator[None]:
        closings = self._closings
        try:
            yield
        except BaseException:
            database.close()  # whatever state it is in, the next operation begins with a fresh one
            raise
        with self._guard:
            if closings == self._closings:
                self._idle.append(database)
                return
        database.close()

    def _forget_parent(self) -> None:
        if self._process != os.getpid():
            _abandoned.extend(self._idle)
            self._idle = []
            self._guard = threading.Lock()
            self._process = os.getpid()


class BorrowingDatabase(Database):
    """A repository that is asked now and then: each query borrows a connection, and nothing stays open in between.

    For what lives longer than one operation, such as an open file. There are queries alone; each sees the state of its
    moment.

    Args:
        pool: Who lends connections.
    """

    def __init__(self, pool: ConnectionPool) -> None:
        self.path = pool.path
        self._pool = pool

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Run a statement and return all its rows."""
        with self._pool.reading() as database:
            return database.query(sql, parameters)

    def stream(self, sql: str, parameters: Sequence[Any] = (), batch: int = 1024) -> Iterator[Any]:
        """Yield rows as they are found; a connection is borrowed until it is exhausted or closed."""
        with self._pool.reading() as database:
            yield from database.stream(sql, parameters, batch)


def _settings() -> list[tuple[str, object]]:
    import uuid  # imported here: it takes as long as listing snapshots

    return [("id", uuid.uuid4().hex), *CHUNKING.settings()]
