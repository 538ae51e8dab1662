"""An open repository: its statements, its transactions, and what is to be known of the file.

Owns the connection, and who may use it when. How SQLite is asked, and what its errors mean, is left to the drivers, how
a file is opened to connecting, and what is in the tables to snapshots, files and contents. Text comes back as bytes:
names need not be UTF-8.
"""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Callable, Iterable, Iterator, Optional, Sequence

from ..errors import (
    BackuptoolError,
    CorruptionError,
)
from .recognition import Identity, identity_of, note_closed, note_opened

if TYPE_CHECKING:
    from .drivers import Connection
    from .encryption.construction import FileKey
    from .encryption.seal import Sealer
    from .encryption.witness import Witness

__all__ = ["Database"]

#: Ids are not given out beyond this: a sound repository never gets there, and SQLite has none behind 2^63 - 1.
_LAST_ID = 1 << 62


class Database:
    """An open repository file. Statements of several threads run one after the other; transactions are one thread's.

    Attributes:
        path: The file, as an absolute path.
        format: Of the file, when it was opened or upgraded.
    """

    def __init__(self, path: str, connection: Connection, key: Optional[FileKey] = None) -> None:
        self.path = path
        self._connection = connection
        self._key = key
        self._sealer: Optional[Sealer] = None
        self._identity = identity_of(path)
        self._forget = _noted(self, self._identity, key is not None)
        self._guard = threading.RLock()
        self.format = 0
        if key is not None:
            from .encryption.seal import Sealer

            self._sealer = Sealer(key)

    def same_file(self) -> bool:
        """Tell whether the path still names the file that this connection has open."""
        return self._identity is not None and self._identity == identity_of(self.path)

    def address(self) -> tuple[str, Optional[bytes]]:
        """Return what another process opens this repository with: secret if it is encrypted, so only for a pipe."""
        return self.path, None if self._key is None else self._key.reveal()

    @property
    def encrypted(self) -> bool:
        """Whether the file is encrypted."""
        return self._key is not None

    def prove(self, problem: Callable[[str, str], object]) -> None:
        """Find what in an encrypted file cannot be of its owner, or not of one time: call with kind and message."""
        if self._key is not None:
            from .encryption.proof import prove

            prove(self, self._key, problem)

    def show_to(self, witness: Witness) -> None:
        """Show the state of an encrypted file to who remembers the newest one."""
        if self._key is not None:
            witness.look(self, self._key)

    def same_format(self) -> bool:
        """Tell whether the file still has the format that it had when it was opened."""
        return bool(self.value("PRAGMA user_version") == self.format)

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Run a statement and return all its rows; no cursor stays open to hold a lock."""
        with self._guard:
            return self._connection.query(sql, parameters)

    def value(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """Return the first column of the first row, or None if there is no row."""
        rows = self.query(sql, parameters)
        return rows[0][0] if rows else None

    def number(self, sql: str, parameters: Sequence[Any] = ()) -> Optional[int]:
        """Return the integer in the first column of the first row, None if it is NULL or there is no row.

        Raises:
            CorruptionError: It is something else: where rows are damaged, so are their sums.
        """
        found = self.value(sql, parameters)
        if found is not None and not isinstance(found, int):
            raise CorruptionError(f"a number in {self.path} is none ({found!r:.40}); run check", self.path)
        return found

    def total(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Return a sum or count, 0 if it is NULL; see :meth:`number`."""
        return self.number(sql, parameters) or 0

    def stream(self, sql: str, parameters: Sequence[Any] = (), batch: int = 1024) -> Iterator[Any]:
        """Yield rows as they are found. Holds a read lock until it is exhausted or closed: writers wait."""
        with self._guard:
            batches = self._connection.stream(sql, parameters, batch)
        try:
            while True:
                with self._guard:
                    rows = next(batches, None)
                if rows is None:
                    return
                yield from rows
        finally:
            with self._guard:
                batches.close()

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run a statement that changes rows and return how many it changed."""
        if self._must_be_sealed(sql):
            with self.transaction():
                return self.execute(sql, parameters)
        with self._guard:
            return self._connection.execute(sql, parameters)

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> int:
        """Run a statement for each row of parameters and return how many rows changed in all."""
        if self._must_be_sealed(sql):
            with self.transaction():
                return self.executemany(sql, rows)
        with self._guard:
            return self._connection.executemany(sql, rows)

    def _must_be_sealed(self, sql: str) -> bool:
        """Tell whether a statement changes rows of an encrypted file outside of a transaction."""
        if self._sealer is None:
            return False
        with self._guard:
            if self._connection.in_transaction:
                return False
        return sql.lstrip().upper().startswith(("INSERT", "UPDATE", "DELETE", "REPLACE")) and "temp." not in sql

    def trace(self, callback: Optional[Callable[[str], object]]) -> None:
        """Call back with the text of each statement that is run, to count them; None ends it."""
        self._connection.trace(callback)

    @contextmanager
    def transaction(self, *, rollback: bool = False) -> Iterator[None]:
        """Hold the write lock; commit at the end, or take everything back if the block raises.

        Args:
            rollback: Take everything back in any case (a dry run).
        """
        self.execute("BEGIN IMMEDIATE")
        try:
            if self._sealer is not None and self.format:
                self._sealer.require_whole(self)
            yield
            if self._sealer is not None and not rollback:
                self._sealer.seal(self)
            self.execute("ROLLBACK" if rollback else "COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                try:
                    with self._guard:
                        self._connection.execute("ROLLBACK")
                except BackuptoolError:
                    # The journal is still there: whoever opens the file next rolls it back. Nothing else may use
                    # this connection.
                    self._connection.close()
            raise

    @contextmanager
    def trial(self) -> Iterator[None]:
        """Take everything back that the block does, within a transaction that goes on."""
        self.execute("SAVEPOINT trial")
        yield  # what raises ends the transaction
        self.execute("ROLLBACK TO trial")
        self.execute("RELEASE trial")

    @contextmanager
    def without_foreign_keys(self) -> Iterator[None]:
        """Leave out SQLite's enforcement of foreign keys, which costs a look-up a row, in the transactions within.

        For who sees to it that every reference holds; ``check`` looks at all of them.
        """
        self.execute("PRAGMA foreign_keys=OFF")
        try:
            yield
        except BaseException:
            with suppress(BackuptoolError):  # the connection may be closed by now
                self.execute("PRAGMA foreign_keys=ON")
            raise
        self.execute("PRAGMA foreign_keys=ON")

    @contextmanager
    def cache(self, size: int) -> Iterator[None]:
        """Let SQLite keep so many bytes of pages, if that is more than it may otherwise."""
        usual = self.value("PRAGMA cache_size")  # below zero, in KiB
        if isinstance(usual, int) and size > -usual << 10:
            self.query(f"PRAGMA cache_size={-(size >> 10)}")
        try:
            yield
        finally:
            self.query(f"PRAGMA cache_size={usual}")

    @contextmanager
    def read_transaction(self) -> Iterator[None]:
        """See one state of the database over several queries; a commit of another process waits meanwhile."""
        self.execute("BEGIN")
        try:
            yield
        finally:
            if self._connection.in_transaction:
                self.execute("ROLLBACK")

    def next_id(self, table: str) -> int:
        """Return the lowest id that no row of a table has or ever had; the write lock must be held.

        Raises:
            CorruptionError: The counter of the table is damaged, or no number is left.
        """
        last = self.value("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)) or 0
        if not isinstance(last, int) or not 0 <= last < _LAST_ID:
            raise CorruptionError(
                f"the counter of {table} in the repository {self.path} is damaged; run check", self.path
            )
        return last + 1

    def data_version(self) -> int:
        """Return a number that changes whenever another connection has committed."""
        return int(self.value("PRAGMA data_version"))

    def file_bytes(self) -> int:
        """Return the size of the file as this connection sees it, in bytes."""
        return int(self.value("PRAGMA page_count")) * self.page_size()

    def free_bytes(self) -> int:
        """Return the bytes of the file that nothing uses."""
        return int(self.value("PRAGMA freelist_count")) * self.page_size()

    def page_size(self) -> int:
        """Return the size of a page in bytes."""
        return int(self.value("PRAGMA page_size"))

    def usable_bytes(self) -> int:
        """Return the bytes of a page that SQLite uses: all, or what an encrypting library leaves."""
        return self.page_size() - self._connection.reserved_bytes

    def identities(self) -> frozenset[tuple[int, int]]:
        """Return (device, inode) of the file and of its journal, so that a walk can leave them out."""
        found = set()
        for suffix in ("", "-journal", "-wal", "-shm"):
            try:
                status = os.stat(self.path + suffix)
            except OSError:
                continue
            found.add((status.st_dev, status.st_ino))
        return frozenset(found)

    def drop_journal(self) -> None:
        """Remove the empty journal that stays after a transaction: at rest a repository is one file.

        SQLite does so under a lock, and leaves it where another process is writing.
        """
        try:
            self.query("PRAGMA journal_mode=DELETE")
            self.query("PRAGMA journal_mode=TRUNCATE")
        except BackuptoolError:
            pass  # an empty journal is harmless

    def journal_names(self) -> frozenset[tuple[int, int, bytes]]:
        """Return (device and inode of the directory, name) of the journals, which may come and go."""
        path = os.fsencode(os.path.realpath(self.path))
        directory = os.stat(os.path.dirname(path))
        return frozenset(
            (directory.st_dev, directory.st_ino, os.path.basename(path) + suffix)
            for suffix in (b"-journal", b"-wal", b"-shm")
        )

    def close(self) -> None:
        """Close the connection; an open transaction is rolled back."""
        self._connection.close()
        self._forget()


def _noted(database: Database, identity: Optional[Identity], encrypted: bool) -> Callable[[], object]:
    """Note that a file is open, and return what takes that back, once; it also goes with the object."""
    if identity is None:
        return lambda: None
    note_opened(identity, encrypted)
    finalizer = weakref.finalize(database, note_closed, identity)
    finalizer.atexit = False
    return finalizer
