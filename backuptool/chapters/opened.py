"""What every chapter of a repository builds on: where it is, how it is opened, and that it is closed."""

from __future__ import annotations

import os
from typing import (
    TYPE_CHECKING,
    Any,
    Optional,
    TypeVar,
)

from ..storage.pool import BorrowingDatabase, ConnectionPool

if TYPE_CHECKING:
    from ..results.remembered import Remembered
    from ..storage.opened import SharedReader

from ..parameters import Password, StrPath, keyring_of

__all__ = ["Opened"]

_Self = TypeVar("_Self", bound="Opened")


class Opened:
    """A repository file and the connections to it.

    Args:
        path, password, lock_timeout, max_helpers, state_directory, create: As :class:`backuptool.Repository` says.
    """

    def __init__(
        self,
        path: StrPath = "backups.db",
        *,
        password: Optional[Password] = None,
        lock_timeout: float = 60.0,
        max_helpers: Optional[int] = None,
        state_directory: Optional[StrPath] = None,
        create: bool = True,
    ) -> None:
        if max_helpers is not None and max_helpers < 0:
            raise ValueError(f"max_helpers must be 0 or more, not {max_helpers}")
        self._path = os.path.abspath(os.path.expanduser(os.fspath(path)))
        self._lock_timeout = lock_timeout
        self._max_helpers = max_helpers
        self._shared_reader: Optional[SharedReader] = None
        self._state_directory = (
            None if state_directory is None else os.path.abspath(os.path.expanduser(state_directory))
        )
        self._pool = ConnectionPool(self._path, lock_timeout, keyring_of(password), self._state_directory, create)
        self._create = create

    @property
    def path(self) -> str:
        """Absolute path of the repository file."""
        return self._path

    @property
    def encrypted(self) -> bool:
        """Whether the file is there and is encrypted; its first bytes say so, no password is needed."""
        from ..storage.recognition import is_encrypted, looking

        with looking():
            return is_encrypted(self._path)

    @property
    def remembered(self) -> Optional[Remembered]:
        """What is remembered of an encrypted repository, and whether an older copy was put in its place.

        None without a state directory, where the repository is not encrypted, and as long as it was not opened.
        """
        return None if self._pool.witness is None else self._pool.witness.remembered

    def close(self) -> None:
        """Close the file. Using the repository afterwards opens it again."""
        if self._shared_reader is not None:
            self._shared_reader.forget()
        self._pool.close()

    def _database(self) -> BorrowingDatabase:
        """Return the repository for what outlives a call."""
        return BorrowingDatabase(self._pool)

    def _reader(self) -> SharedReader:
        """Return what all files that are open read with."""
        if self._shared_reader is None:
            from ..storage.opened import SharedReader

            self._shared_reader = SharedReader(self._database())
        return self._shared_reader

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Repository({self._path!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {
            "path": self._path,
            "lock_timeout": self._lock_timeout,
            "max_helpers": self._max_helpers,
            "state_directory": self._state_directory,
            "create": self._create,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state.pop("path"), **state)  # type: ignore[misc]
