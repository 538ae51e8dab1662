"""The driver of encrypted files: apsw built with SQLite3 Multiple Ciphers, every page under AEGIS-256.

Owns that the library is the encrypting one and does encrypt, and access to the pages that stay in clear. Plain apsw
installed beside it replaces the same module, ignores the pragmas and writes what it is given as it is. So the library
is asked who it is and which cipher it has, and a new file is looked at.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Sequence

from ...errors import RepositoryError
from ..encryption.construction import unavailable
from ..recognition import ENCRYPTED_MAGIC
from ..schema import PAGE_SIZE
from . import failure

if TYPE_CHECKING:
    from .with_apsw import ApswConnection

__all__ = ["EncryptedDriver", "read_pages", "write_page"]

#: What the encrypting library says of itself begins with this.
_LIBRARY = "SQLite3 Multiple Ciphers"

#: AEGIS with the parameters of today came with this version.
_OLDEST_SQLITE = (3, 51)


class EncryptedDriver:
    """Opens files that are encrypted with one key.

    Args:
        key: Of the pages, 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def connect(self, path: str, lock_timeout: float) -> ApswConnection:
        """Open a file that exists; an empty one becomes an encrypted one."""
        require_library(path)
        from .with_apsw import ApswDriver

        connection = ApswDriver().connect(path, lock_timeout)
        try:
            for name, value in (("cipher", "aegis"), ("algorithm", "aegis-256")):
                connection.query(f"PRAGMA {name}='{value}'")
                if connection.query(f"PRAGMA {name}") != [(value.encode(),)]:
                    raise RepositoryError(
                        f"the SQLite library does not encrypt: it has no {value}; run: "
                        "pip install --force-reinstall apsw-sqlite3mc",
                        path,
                    )
            # The 16 bytes behind the key are what the file begins with.
            if not connection.unlock(f"raw:{self._key.hex()}{ENCRYPTED_MAGIC.hex()}"):
                raise RepositoryError(f"the SQLite library takes no key for {path}", path)
        except BaseException:
            connection.close()
            raise
        return connection

    def memory(self) -> ApswConnection:
        """Open an empty database in memory; that is not encrypted."""
        from .with_apsw import ApswDriver

        return ApswDriver().memory()

    def __repr__(self) -> str:
        return "EncryptedDriver()"


def require_library(path: str) -> Any:
    """Return the encrypting library.

    Raises:
        RepositoryError: It is missing, too old, or another one has taken its place; or it does not take that path.
    """
    if sys.version_info < (3, 9):
        raise unavailable(path)
    try:
        path.encode()
    except UnicodeEncodeError as exc:
        raise RepositoryError(
            f"the path {path} is not UTF-8, and that of an encrypted repository must be; rename the file", path
        ) from exc
    try:
        import apsw
    except ImportError as exc:
        raise unavailable(path) from exc
    if not str(getattr(apsw, "mc_version", "")).startswith(_LIBRARY):
        raise RepositoryError(
            "the module apsw is the plain one, which encrypts nothing; run: "
            "pip uninstall apsw && pip install --force-reinstall apsw-sqlite3mc",
            path,
        )
    if tuple(map(int, apsw.sqlite_lib_version().split(".")[:2])) < _OLDEST_SQLITE:
        raise RepositoryError(
            f"apsw-sqlite3mc {apsw.apsw_version()} is too old; run: pip install --upgrade 'apsw-sqlite3mc>=3.51'",
            path,
        )
    return apsw


def read_pages(path: str, numbers: Sequence[int]) -> list[bytes]:
    """Return pages as they are in the file; fewer bytes where it ends before.

    Through SQLite's own file: opening and closing it in any other way would drop the locks of this process.
    """
    apsw = require_library(path)
    try:
        file = apsw.VFSFile("unix", path, [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READONLY, 0])
        try:
            size = file.xFileSize()
            places = [PAGE_SIZE * (number - 1) for number in numbers]
            return [file.xRead(PAGE_SIZE, place) if place + PAGE_SIZE <= size else b"" for place in places]
        finally:
            file.xClose()
    except apsw.CantOpenError as exc:
        raise failure("unopened", path, str(exc)) from exc
    except apsw.Error as exc:
        raise failure("io", path, str(exc)) from exc


def write_page(path: str, number: int, data: bytes) -> None:
    """Write a page as it is, and have it on the medium. The file must be held by a write lock."""
    apsw = require_library(path)
    try:
        file = apsw.VFSFile("unix", path, [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READWRITE, 0])
        try:
            file.xWrite(data, PAGE_SIZE * (number - 1))
            file.xSync(apsw.SQLITE_SYNC_FULL)
        finally:
            file.xClose()
    except apsw.CantOpenError as exc:
        raise failure("unopened", path, str(exc)) from exc
    except apsw.FullError as exc:
        raise failure("full", path, str(exc)) from exc
    except apsw.Error as exc:
        raise failure("io", path, str(exc)) from exc
