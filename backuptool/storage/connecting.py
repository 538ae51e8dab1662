"""Opening a repository file, with what opens it, and creating it where there is none.

Owns what is looked at before SQLite sees a file, and the pragmas of a connection. What is in the file is verified by
format, what is asked of it then goes through the database.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, Iterator, Optional, Sequence

from ..errors import (
    CorruptionError,
    NotARepositoryError,
    RepositoryError,
    RepositoryNotFoundError,
    RepositoryNotWritableError,
)
from .database import Database
from .drivers import default_driver
from .format import create_tables, not_yet, prepare_writing, verify
from .journal import refuse_what_does_harm, telling_of_journal
from .recognition import first_bytes, is_encrypted, looking
from .schema import PAGE_SIZE
from .sqlite_files import HEADER_BYTES, declared_bytes

if TYPE_CHECKING:
    from .drivers import Connection, Driver
    from .encryption.construction import FileKey
    from .encryption.keyring import Keyring

__all__ = ["create_database", "open_address", "open_database"]

#: KiB of page cache. 16 MiB instead made a first snapshot of 118,000 files no faster and took 50 MB more.
_CACHE_KIB = 4096

#: Bytes that the name of a repository may have: beside it there is at times a file that has "-journal" behind it.
_LONGEST_NAME = 255 - len("-journal")


def open_database(path: str, lock_timeout: float, keyring: Optional[Keyring] = None) -> Database:
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
                "encrypted repository; if it was one, its first bytes are damaged: put a copy in its place",
                path,
            )
        return _opened(path, lock_timeout, default_driver(), None)
    if keyring is None:
        from .encryption.keyring import Keyring

        keyring = Keyring()
    key = keyring.unlock(path)
    try:
        return _opened(path, lock_timeout, _encrypted_driver(key), key)
    except NotARepositoryError as exc:
        raise CorruptionError(f"the first page of {path} is damaged; restore the repository from a copy", path) from exc


def _opened(path: str, lock_timeout: float, driver: Driver, key: Optional[FileKey]) -> Database:
    with _telling_of_the_end(path), telling_of_journal(path):
        with looking():
            database = Database(path, _connect(path, lock_timeout, driver), key)
        try:
            database.format = verify(database)
            prepare_writing(database)
        except BaseException:
            database.close()
            raise
    return database


@contextmanager
def _telling_of_the_end(path: str) -> Iterator[None]:
    """Say of a file that cannot be opened if it is shorter than it was: SQLite opens none that is."""
    try:
        yield
    except CorruptionError as exc:
        if exc.__cause__ is None:  # not because of what SQLite says
            raise
        with looking():
            declared = declared_bytes(first_bytes(path, HEADER_BYTES))
        size = os.stat(path).st_size
        if size >= declared:
            raise
        raise CorruptionError(
            f"the repository {path} was cut off: it had {declared:,} bytes, and {size:,} are left. Use another copy of "
            f"it; if there is none, lengthen a copy of this one (truncate -s {declared} COPY): check then names what "
            "is lost, and restore or copy --incomplete may save what is left",
            path,
        ) from exc


def open_address(address: tuple[str, Optional[bytes]], lock_timeout: float) -> Database:
    """Open what another process has open."""
    path, secret = address
    if secret is None:
        return open_database(path, lock_timeout)
    from .encryption.construction import FileKey
    from .encryption.keyring import Keyring

    return open_database(path, lock_timeout, Keyring(key=FileKey(secret)))


def create_database(
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
    if len(os.fsencode(os.path.basename(path))) > _LONGEST_NAME:
        raise RepositoryNotWritableError(
            f"cannot create the repository {path}: its name has more than {_LONGEST_NAME} bytes, and its journal "
            "needs 8 more; choose a shorter one with --db-path",
            path,
        )
    if keyring is not None and keyring.wants_encryption:
        if not os.path.exists(path):
            _create_encrypted(path, lock_timeout, settings, keyring)
        elif os.path.getsize(path) == 0:
            raise RepositoryError(
                f"{path} is an empty file; remove it, an encrypted repository is made where there is none", path
            )
        return open_database(path, lock_timeout, keyring)
    try:
        # 0600 from the first moment on: a backup holds what its owner alone may read.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_CLOEXEC", 0), 0o600))
    except FileExistsError:
        # SQLite writes the first page before there are tables; an interrupted creation is taken up there.
        if os.stat(path).st_size > PAGE_SIZE:
            return open_database(path, lock_timeout, keyring)
    except OSError as exc:
        raise RepositoryNotWritableError(
            f"cannot create the repository {path}: {exc.strerror}; choose another place with --db-path", path
        ) from exc
    with looking():
        database = Database(path, _connect(path, lock_timeout, default_driver()))
    try:
        create_tables(database, settings)
        database.format = verify(database)
        prepare_writing(database)
    except BaseException:
        database.close()
        raise
    _sync_directory(os.path.dirname(path))
    return database


def _create_encrypted(path: str, lock_timeout: float, settings: Sequence[tuple[str, object]], keyring: Keyring) -> None:
    """Create a repository under another name, with its key pages, and give it its own when it is whole."""
    from .encryption.creation import created

    with created(path, keyring) as (name, key):
        with looking():
            database = Database(name, _connect(name, lock_timeout, _encrypted_driver(key)), key)
        try:
            create_tables(database, [*settings, ("key_page", 1)])
        finally:
            database.close()
    _sync_directory(os.path.dirname(path))


def _encrypted_driver(key: FileKey) -> Driver:
    from .drivers.with_sqlite3mc import EncryptedDriver

    return EncryptedDriver(key.pages())


def _connect(path: str, lock_timeout: float, driver: Driver) -> Connection:
    refuse_what_does_harm(path)
    connection = driver.connect(path, lock_timeout)
    try:
        for pragma in (
            "foreign_keys=ON",
            "trusted_schema=OFF",
            "temp_store=MEMORY",
            "secure_delete=FAST",  # as some builds do it, every page that a prune frees would be overwritten first
            "mmap_size=0",
            "cell_size_check=ON",
            f"cache_size=-{_CACHE_KIB}",
        ):
            connection.query(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


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
        raise not_yet(path)


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
