"""What makes a SQLite file a repository: how it is created and verified, its pragmas, its transactions.

Owns the connection to the file. How SQLite is asked, and what its errors mean, is left to the drivers, and what is in
the tables to snapshots, files and contents. Text comes back as bytes: names need not be UTF-8.
"""

from __future__ import annotations

import os
import stat
import threading
import weakref
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Callable, Iterable, Iterator, Optional, Sequence

from ..errors import (
    BackuptoolError,
    CorruptionError,
    NotARepositoryError,
    RepositoryError,
    RepositoryNotFoundError,
    RepositoryNotWritableError,
    UnsupportedFormatError,
)
from .drivers import default_driver
from .journal import has_journal, named_file
from .recognition import Identity, identity_of, is_encrypted, looking, note_closed, note_opened
from .schema import APPLICATION_ID, FORMAT, PAGE_SIZE, statements

if TYPE_CHECKING:
    from .drivers import Connection, Driver
    from .encryption.construction import FileKey
    from .encryption.keyring import Keyring
    from .encryption.seal import Sealer
    from .encryption.witness import Witness

__all__ = ["Database", "FormatChangedError"]

#: Ids are not given out beyond this: a sound repository never gets there, and SQLite has none behind 2^63 - 1.
_LAST_ID = 1 << 62

#: KiB of page cache. 16 MiB instead made a first snapshot of 118,000 files no faster and took 50 MB more.
_CACHE_KIB = 4096


class FormatChangedError(Exception):
    """Another process has upgraded the file; it must be opened again."""


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

    @classmethod
    def open(cls, path: str, lock_timeout: float, keyring: Optional[Keyring] = None) -> Database:
        """Open an existing repository.

        Args:
            path: The file, absolute.
            lock_timeout: Seconds to wait for a lock.
            keyring: What opens it if it is encrypted. One that would create an encrypted repository opens no other.

        Raises:
            RepositoryNotFoundError: There is no file.
            NotARepositoryError: It is something else.
            UnsupportedFormatError: It was written by a newer version.
            WrongPasswordError: It is encrypted, and the keyring does not open it.
            CorruptionError: Its schema is not the format's.
        """
        _require_file(path)
        with looking():
            encrypted = is_encrypted(path)
        if not encrypted:
            if keyring is not None and keyring.wants_encryption:
                raise RepositoryError(
                    f"{path} is not encrypted, but a password was given: leave it out, or name another file for an "
                    "encrypted repository",
                    path,
                )
            return cls._opened(path, lock_timeout, default_driver(), None)
        if keyring is None:
            from .encryption.keyring import Keyring

            keyring = Keyring()
        key = keyring.unlock(path)
        try:
            return cls._opened(path, lock_timeout, _encrypted_driver(key), key)
        except NotARepositoryError as exc:
            raise CorruptionError(
                f"the first page of {path} is damaged; restore the repository from a copy", path
            ) from exc

    @classmethod
    def _opened(cls, path: str, lock_timeout: float, driver: Driver, key: Optional[FileKey]) -> Database:
        with _telling_of_journal(path):
            with looking():
                database = cls(path, _connect(path, lock_timeout, driver), key)
            try:
                database._verify()
                database._prepare_writing()
            except BaseException:
                database.close()
                raise
        return database

    def address(self) -> tuple[str, Optional[bytes]]:
        """Return what another process opens this repository with: secret if it is encrypted, so only for a pipe."""
        return self.path, None if self._key is None else self._key.reveal()

    @classmethod
    def open_address(cls, address: tuple[str, Optional[bytes]], lock_timeout: float) -> Database:
        """Open what another process has open."""
        path, secret = address
        if secret is None:
            return cls.open(path, lock_timeout)
        from .encryption.construction import FileKey
        from .encryption.keyring import Keyring
        from .encryption.privacy import keep_out_of_core_dumps

        keep_out_of_core_dumps()
        return cls.open(path, lock_timeout, Keyring(key=FileKey(secret)))

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

    @classmethod
    def create(
        cls,
        path: str,
        lock_timeout: float,
        settings: Sequence[tuple[str, object]],
        keyring: Optional[Keyring] = None,
    ) -> Database:
        """Open the repository, and create it first where there is none, or an empty file.

        Two processes may do so at once: one creates it, the other finds it. With a keyring that has a password it is
        created encrypted.
        """
        _refuse_other_things(path)
        if keyring is not None and keyring.wants_encryption:
            if not os.path.exists(path):
                cls._create_encrypted(path, lock_timeout, settings, keyring)
            elif os.path.getsize(path) == 0:
                raise RepositoryError(
                    f"{path} is an empty file; remove it, an encrypted repository is made where there is none", path
                )
            return cls.open(path, lock_timeout, keyring)
        try:
            # 0600 from the first moment on: a backup holds what its owner alone may read.
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_CLOEXEC", 0), 0o600))
        except FileExistsError:
            # SQLite writes the first page before there are tables; an interrupted creation is taken up there.
            if os.stat(path).st_size > PAGE_SIZE:
                return cls.open(path, lock_timeout, keyring)
        except OSError as exc:
            raise RepositoryNotWritableError(
                f"cannot create the repository {path}: {exc.strerror}; choose another place with --db-path", path
            ) from exc
        with looking():
            database = cls(path, _connect(path, lock_timeout, default_driver()))
        try:
            database._execute_creation(settings)
            database._verify()
            database._prepare_writing()
        except BaseException:
            database.close()
            raise
        _sync_directory(os.path.dirname(path))
        return database

    @classmethod
    def _create_encrypted(
        cls, path: str, lock_timeout: float, settings: Sequence[tuple[str, object]], keyring: Keyring
    ) -> None:
        """Create a repository under another name, with its key pages, and give it its own when it is whole."""
        from .encryption.creation import created

        with created(path, keyring) as (name, key):
            with looking():
                database = cls(name, _connect(name, lock_timeout, _encrypted_driver(key)), key)
            try:
                database._execute_creation([*settings, ("key_page", 1)])
            finally:
                database.close()
        _sync_directory(os.path.dirname(path))

    def _execute_creation(self, settings: Sequence[tuple[str, object]]) -> None:
        if self.value("PRAGMA application_id") or self.query("SELECT 1 FROM sqlite_master LIMIT 1"):
            return  # another process was faster, or it is another program's
        self.query(f"PRAGMA page_size={PAGE_SIZE}")
        self.query("PRAGMA auto_vacuum=INCREMENTAL")
        self._prepare_writing()
        with self.transaction():
            if self.query("SELECT 1 FROM sqlite_master LIMIT 1"):
                return  # another process was faster
            if self.encrypted:
                from .encryption.creation import reserve_key_pages

                reserve_key_pages(self)
            for statement in statements():
                self.execute(statement)
            self.executemany("INSERT INTO settings VALUES (?, ?)", settings)
            self.query(f"PRAGMA application_id={APPLICATION_ID}")
            self.query(f"PRAGMA user_version={FORMAT}")

    def _prepare_writing(self) -> None:
        """Choose the journal, once it is sure that this is a repository: another program's file keeps its own.

        TRUNCATE with FULL lost no acknowledged commit in a power-loss simulation and is twice as fast as DELETE with
        EXTRA.
        """
        self.query("PRAGMA journal_mode=TRUNCATE")
        self.query("PRAGMA synchronous=FULL")

    def _verify(self) -> None:
        """Refuse whatever is not exactly a repository of this format, before anything in it is used."""
        found = self.value("PRAGMA application_id")
        if found != APPLICATION_ID:
            if not found and self.file_bytes() <= PAGE_SIZE and not self.query("SELECT 1 FROM sqlite_master LIMIT 1"):
                raise _not_yet(self.path)  # the creation was interrupted behind the first page
            raise NotARepositoryError(
                f"{self.path} is an SQLite database, but not a backuptool repository; name another file", self.path
            )
        found = self.value("PRAGMA user_version")
        self.format = found
        if not 1 <= found <= FORMAT:
            raise UnsupportedFormatError(
                f"{self.path} has format {found}, and this version knows formats up to {FORMAT}: "
                "install a newer backuptool to use it",
                self.path,
                found,
                FORMAT,
            )
        if self.value("PRAGMA encoding") != b"UTF-8":  # names would be other names, and their bytes others
            raise CorruptionError(
                f"the texts in {self.path} are not in UTF-8, as those of a repository are: it was not written by "
                "backuptool; restore it from a copy",
                self.path,
            )
        # A trigger, view or generated column of a forged file would run code of its own. Nothing but the exact text
        # of the format passes.
        if _schema_rows(self._connection) != _expected_schema(found):
            raise CorruptionError(
                f"the tables of {self.path} are not those of format {found}: the file is damaged or was tampered with; "
                "restore it from a copy",
                self.path,
            )
        # What later formats keep in tables of their own is not there: empty ones of this connection stand for it.
        for statement in statements(found + 1):
            self.execute(statement.replace("CREATE TABLE ", "CREATE TEMP TABLE ", 1))

    def same_format(self) -> bool:
        """Tell whether the file still has the format that it had when it was opened."""
        return bool(self.value("PRAGMA user_version") == self.format)

    def upgrade(self) -> None:
        """Give a file of an earlier format the tables that it lacks; what is in it stays as it is.

        Whatever happens meanwhile, it has either format. Other connections are told by :meth:`same_format`.
        """
        with self.transaction():
            if self.value("PRAGMA user_version") != self.format:
                raise FormatChangedError  # by another process
            for name in _tables(self.format + 1):
                self.execute(f"DROP TABLE temp.{name}")
            for statement in statements(self.format + 1):
                self.execute(statement)
            self.query(f"PRAGMA user_version={FORMAT}")
        self.format = FORMAT

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Run a statement and return all its rows; no cursor stays open to hold a lock."""
        with self._guard:
            return self._connection.query(sql, parameters)

    def value(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """Return the first column of the first row, or None if there is no row."""
        rows = self.query(sql, parameters)
        return rows[0][0] if rows else None

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


def _encrypted_driver(key: FileKey) -> Driver:
    from .drivers.with_sqlite3mc import EncryptedDriver

    return EncryptedDriver(key.pages())


def _connect(path: str, lock_timeout: float, driver: Driver) -> Connection:
    _refuse_foreign_journal(path)
    connection = driver.connect(path, lock_timeout)
    try:
        for pragma in (
            "foreign_keys=ON",
            "trusted_schema=OFF",
            "temp_store=MEMORY",
            "mmap_size=0",
            "cell_size_check=ON",
            f"cache_size=-{_CACHE_KIB}",
        ):
            connection.query(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def _tables(first: int) -> list[str]:
    """Return the names of the tables that a format and those after it add."""
    return [statement.split()[2] for statement in statements(first) if statement.startswith("CREATE TABLE ")]


def _schema_rows(connection: Connection) -> list[Any]:
    return connection.query("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name")


@lru_cache(maxsize=None)
def _expected_schema(number: int) -> list[Any]:
    connection = default_driver().memory()
    try:
        for statement in statements(1, number):
            connection.execute(statement)
        return _schema_rows(connection)
    finally:
        connection.close()


def _require_file(path: str) -> None:
    _refuse_other_things(path)
    try:
        size = os.stat(path).st_size
    except FileNotFoundError as exc:
        raise RepositoryNotFoundError(
            f"there is no repository at {path}; name it with --db-path, or create it with a first snapshot", path
        ) from exc
    except OSError as exc:
        raise RepositoryError(f"cannot open the repository {path}: {exc.strerror}", path) from exc
    if size == 0:
        raise _not_yet(path)


def _not_yet(path: str) -> RepositoryNotFoundError:
    return RepositoryNotFoundError(f"{path} is empty, no repository yet; the first snapshot makes it one", path)


def _refuse_other_things(path: str) -> None:
    """Refuse directories (restic and borg keep repositories in them), devices and FIFOs before SQLite sees them."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return
    if stat.S_ISDIR(mode):
        names = set(os.listdir(path)) if os.access(path, os.R_OK) else set()
        other = ""
        if {"config", "data"} <= names:
            other = " (it looks like a repository of restic or borg)"
        raise NotARepositoryError(f"{path} is a directory{other}; a repository is one file, name it", path)
    if not stat.S_ISREG(mode):
        raise NotARepositoryError(f"{path} is not a regular file; a repository is one, name another path", path)


@contextmanager
def _telling_of_journal(path: str) -> Iterator[None]:
    """Say what to do where a repository cannot be opened because a journal beside it cannot be rolled back."""
    try:
        yield
    except RepositoryError as exc:
        if type(exc) not in (RepositoryError, RepositoryNotWritableError) or not has_journal(path):
            raise
        raise RepositoryNotWritableError(
            f"an interrupted write left the journal {path}-journal, which must be rolled back before anything is read, "
            f"but {path} cannot be written to: make the file and its directory writable, or copy both files to where "
            "they are",
            path,
        ) from exc


def _refuse_foreign_journal(path: str) -> None:
    """Refuse a journal that no version of this program wrote, before SQLite does what it says."""
    name = named_file(path)
    if name is not None:
        raise CorruptionError(
            f"the journal {path}-journal would have SQLite remove {os.fsdecode(name)}, as no journal of a repository "
            "does: somebody put it there; restore the repository and its journal from a copy",
            path,
        )


def _sync_directory(path: str) -> None:
    """Make a new file's name survive a power failure, where directories can be synced."""
    try:
        descriptor = os.open(path or ".", os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems refuse; the file itself is synced by SQLite
    finally:
        os.close(descriptor)
