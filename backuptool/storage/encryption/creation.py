"""How an encrypted repository comes to be: whole, under its own name, or not at all.

Owns the room for the key pages, the look at what was written, and the name. What is in the tables is the database's.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Iterator

from ...errors import RepositoryError, RepositoryNotWritableError
from ..drivers.with_sqlite3mc import read_pages, require_library
from ..recognition import ENCRYPTED_MAGIC
from .construction import FileKey
from .keypages import KEY_PAGES
from .keyring import Keyring, write_key_pages

if TYPE_CHECKING:
    from ..database import Database

__all__ = ["created", "reserve_key_pages"]


@contextmanager
def created(path: str, keyring: Keyring) -> Iterator[tuple[str, FileKey]]:
    """Lend the name of a new file and its key; behind the block it gets its key pages, and then its own name.

    Where another process was faster, that one's file stays.

    Raises:
        RepositoryError: What was written in the block is not encrypted.
        RepositoryNotWritableError: There cannot be a file of that name.
    """
    require_library(path)
    key = FileKey()
    page = keyring.first_page(key, path)
    name = f"{path}.new-{os.urandom(4).hex()}"
    try:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_CLOEXEC", 0), 0o600))
    except OSError as exc:
        raise RepositoryNotWritableError(
            f"cannot create the repository {path}: {exc.strerror}; choose another place with --db-path", path
        ) from exc
    try:
        yield name, key
        _require_encrypted(name, path)
        write_key_pages(name, page)
        _rename(name, path)
    finally:
        for left in (name, name + "-journal"):
            with suppress(OSError):
                os.unlink(left)


def reserve_key_pages(database: Database) -> None:
    """Take the first root pages for the key page: in the transaction that makes the tables, before them.

    SQLite gives out root pages in ascending order from 3 on and moves none of them. Without their rows in the schema
    nothing refers to these two any more: ``integrity_check`` names them as never used.
    """
    for number in KEY_PAGES:
        database.execute(f"CREATE TABLE key_page_{number} (page)")
        if database.value("SELECT rootpage FROM sqlite_master WHERE name = ?", (f"key_page_{number}",)) != number:
            raise RepositoryError(f"this SQLite library has no page {number} for keys", database.path)
    database.query("PRAGMA writable_schema=ON")
    try:
        database.execute("DELETE FROM sqlite_master WHERE name LIKE 'key_page_%'")
    finally:
        database.query("PRAGMA writable_schema=OFF")


def _require_encrypted(name: str, path: str) -> None:
    if not read_pages(name, [1])[0].startswith(ENCRYPTED_MAGIC):
        raise RepositoryError(
            f"the SQLite library wrote {path} without encrypting it, so it was removed; run: "
            "pip uninstall apsw && pip install --force-reinstall apsw-sqlite3mc",
            path,
        )


def _rename(name: str, path: str) -> None:
    """Give the file its name, unless there is one of that name by now."""
    try:
        os.link(name, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            os.replace(name, path)
