"""What makes a SQLite file a repository: its tables, letter by letter, and the numbers in its header.

Owns creating them, verifying them before anything in a file is used, and what an earlier format is given to become this
one. The text of the tables is the schema's, how a file is opened connecting's.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Sequence

from ..errors import CorruptionError, NotARepositoryError, RepositoryNotFoundError, UnsupportedFormatError
from .drivers import default_driver
from .schema import APPLICATION_ID, FORMAT, PAGE_SIZE, statements

if TYPE_CHECKING:
    from .database import Database

__all__ = ["FormatChangedError", "create_tables", "not_yet", "prepare_writing", "upgrade", "verify"]


#: Higher numbers of formats are damage, and not written by a later version.
_PLAUSIBLE = 1000


class FormatChangedError(Exception):
    """Another process has upgraded the file; it must be opened again."""


def create_tables(database: Database, settings: Sequence[tuple[str, object]]) -> None:
    """Make a repository of an empty file, unless another process was faster."""
    if database.value("PRAGMA application_id") or database.query("SELECT 1 FROM sqlite_master LIMIT 1"):
        return  # another process was faster, or it is another program's
    database.query(f"PRAGMA page_size={PAGE_SIZE}")
    database.query("PRAGMA auto_vacuum=INCREMENTAL")
    prepare_writing(database)
    with database.transaction():
        if database.query("SELECT 1 FROM sqlite_master LIMIT 1"):
            return  # another process was faster
        if database.encrypted:
            from .encryption.creation import reserve_key_pages

            reserve_key_pages(database)
        for statement in statements():
            database.execute(statement)
        database.executemany("INSERT INTO settings VALUES (?, ?)", settings)
        database.query(f"PRAGMA application_id={APPLICATION_ID}")
        database.query(f"PRAGMA user_version={FORMAT}")


def prepare_writing(database: Database) -> None:
    """Choose the journal, once it is sure that this is a repository: another program's file keeps its own.

    TRUNCATE with FULL lost no acknowledged commit in a power-loss simulation and is twice as fast as DELETE with
    EXTRA.
    """
    database.query("PRAGMA journal_mode=TRUNCATE")
    database.query("PRAGMA synchronous=FULL")


def verify(database: Database) -> int:
    """Refuse whatever is not exactly a repository, before anything in it is used, and return its format.

    Raises:
        RepositoryNotFoundError, NotARepositoryError, UnsupportedFormatError, CorruptionError: It is something else.
    """
    application = database.value("PRAGMA application_id")
    if application != APPLICATION_ID:
        small = not application and database.file_bytes() <= PAGE_SIZE
        if small and not database.query("SELECT 1 FROM sqlite_master LIMIT 1"):
            raise not_yet(database.path)  # the creation was interrupted behind the first page
        raise NotARepositoryError(
            f"{database.path} is an SQLite database, but not a backuptool repository; name another file, or put a copy "
            "in its place if it was one: its first bytes are damaged then",
            database.path,
        )
    found = int(database.value("PRAGMA user_version"))
    if not 1 <= found <= _PLAUSIBLE:
        raise CorruptionError(
            f"the header of {database.path} has {found} as the number of the format, as no version will: it is "
            "damaged; restore the repository from a copy",
            database.path,
        )
    if found > FORMAT:
        raise UnsupportedFormatError(
            f"{database.path} has format {found}, and this version knows formats up to {FORMAT}: "
            "install a newer backuptool to use it",
            database.path,
            found,
            FORMAT,
        )
    if database.value("PRAGMA encoding") != b"UTF-8":  # names would be other names, and their bytes others
        raise CorruptionError(
            f"the texts in {database.path} are not in UTF-8, as those of a repository are: it was not written by "
            "backuptool; restore it from a copy",
            database.path,
        )
    # A trigger, view or generated column of a forged file would run code of its own. Nothing but the exact text
    # of the format passes.
    if database.query(_SCHEMA) != _expected_schema(found):
        raise CorruptionError(
            f"the tables of {database.path} are not those of format {found}: the file is damaged or was tampered with; "
            "restore it from a copy",
            database.path,
        )
    # What later formats keep in tables of their own is not there: empty ones of this connection stand for it.
    for statement in statements(found + 1):
        database.execute(statement.replace("CREATE TABLE ", "CREATE TEMP TABLE ", 1))
    return found


def upgrade(database: Database) -> None:
    """Give a file of an earlier format the tables that it lacks; what is in it stays as it is.

    Whatever happens meanwhile, it has either format. Other connections are told by :meth:`.Database.same_format`.
    """
    with database.transaction():
        if database.value("PRAGMA user_version") != database.format:
            raise FormatChangedError  # by another process
        for name in _tables(database.format + 1):
            database.execute(f"DROP TABLE temp.{name}")
        for statement in statements(database.format + 1):
            database.execute(statement)
        database.query(f"PRAGMA user_version={FORMAT}")
    database.format = FORMAT


def not_yet(path: str) -> RepositoryNotFoundError:
    """Return the error of a file that is empty so far."""
    return RepositoryNotFoundError(f"{path} is empty, no repository yet; the first snapshot makes it one", path)


def _tables(first: int) -> list[str]:
    """Return the names of the tables that a format and those after it add."""
    return [statement.split()[2] for statement in statements(first) if statement.startswith("CREATE TABLE ")]


_SCHEMA = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name"


@lru_cache(maxsize=None)
def _expected_schema(number: int) -> list[Any]:
    connection = default_driver().memory()
    try:
        for statement in statements(1, number):
            connection.execute(statement)
        return connection.query(_SCHEMA)
    finally:
        connection.close()
