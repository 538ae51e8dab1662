"""From a password to the key of a file, and the changes of its key page.

Owns when a password is asked for, and how the two copies of a key page are written. A key once found is kept for as
long as the keyring lives, so that Argon2id runs once.
"""

from __future__ import annotations

import os
import threading
from typing import Callable, NoReturn, Optional, Union

from ...errors import CorruptionError, RepositoryError, WrongPasswordError
from ..drivers.with_sqlite3mc import read_pages, write_page
from .construction import SALT_BYTES, FileKey, Stretched
from .keypages import KEY_PAGES, KeyPage, KeySlot, is_proven, readable

__all__ = ["Keyring", "write_key_pages"]

#: A password, or what asks for it when it is needed.
Password = Union[str, bytes, Callable[[], Union[str, bytes]]]


class Keyring:
    """What opens one encrypted repository.

    Args:
        password: Of the repository, None if there is none.
        key: Of the repository, where it is known already.
        clock: Returns the time, ns since 1970 UTC, that is noted with a new password.
    """

    def __init__(
        self,
        password: Optional[Password] = None,
        key: Optional[FileKey] = None,
        clock: Callable[[], int] = lambda: 0,
    ) -> None:
        self._password = password
        self._clock = clock
        self._key = key
        self._slot: Optional[bytes] = None  # the id of the slot that was opened
        self._guard = threading.Lock()

    @property
    def password(self) -> Optional[Password]:
        """The password, or what asks for it, as it was given."""
        return self._password

    @property
    def wants_encryption(self) -> bool:
        """Whether what is created with it is to be encrypted."""
        return self._password is not None or self._key is not None

    def unlock(self, path: str) -> FileKey:
        """Return the key of a repository.

        Raises:
            WrongPasswordError: The password is another one's, or there is none.
            CorruptionError: Neither copy of the key page can be read.
        """
        with self._guard:
            pages = readable(read_pages(path, KEY_PAGES))
            if self._key is not None:
                for _, data in pages:
                    if is_proven(data, self._key):
                        return self._key
            if not pages:
                raise CorruptionError(
                    f"the key pages of {path} are damaged, both of them; restore the repository from a copy", path
                )
            self._key = self._open(path, pages)
            return self._key

    def _open(self, path: str, pages: list[tuple[KeyPage, bytes]]) -> FileKey:
        if self._password is None:
            if self._key is not None:  # it is another repository's
                raise WrongPasswordError(f"the password does not open {path}", path)
            raise WrongPasswordError(
                f"{path} is encrypted, and no password was given: name one with --password-file or "
                "--password-command (password= in Python)",
                path,
            )
        stretched = None
        for page, data in pages:
            stretched = stretched or self.stretched(page.salt, path)
            opened = [(slot.id, key) for slot in page.slots for key in [slot.open(stretched, page.salt)] if key]
            for self._slot, key in opened:
                if is_proven(data, key):
                    return key
            if not opened:
                break  # an older copy may have passwords that were taken away
        raise WrongPasswordError(f"the password does not open {path}", path)

    def stretched(self, salt: bytes, path: str) -> Stretched:
        """Return what Argon2id makes of the password. No variable holds it: some programs log those of every frame.

        Raises:
            WrongPasswordError: It is empty, or there is none.
        """
        return Stretched(_bytes_of("" if self._password is None else self._password, path), salt)

    def page(self, path: str) -> KeyPage:
        """Return the key page, the newest of its copies that a holder of the key wrote."""
        key = self.unlock(path)
        for page, data in readable(read_pages(path, KEY_PAGES)):
            if is_proven(data, key):
                return page
        raise CorruptionError(f"the key pages of {path} are damaged; restore the repository from a copy", path)

    @property
    def opened(self) -> Optional[bytes]:
        """The id of the slot whose password opened the repository, None if that is not known."""
        return self._slot

    def first_page(self, key: FileKey, path: str) -> bytes:
        """Return the key page of a new repository, with this password in it."""
        if self._password is None:
            raise RepositoryError(f"{path} cannot be created encrypted without a password", path)
        salt = os.urandom(SALT_BYTES)
        stretched = self.stretched(salt, path)
        slot = KeySlot.make(key, stretched, salt, "first", self._clock())
        with self._guard:
            self._key, self._slot = key, slot.id
        return KeyPage(sequence=1, salt=salt, slots=(slot,)).encode(key)

    def __repr__(self) -> str:
        return "Keyring()"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a keyring is not pickled")


def write_key_pages(path: str, data: bytes) -> None:
    """Write both copies, the one that is not in use first, so that one is whole at any time."""
    pages = read_pages(path, KEY_PAGES)
    newest = readable(pages)
    first = 1 if newest and pages[0] == newest[0][1] else 0
    for index in (first, 1 - first):
        write_page(path, KEY_PAGES[index], data)


def _bytes_of(password: Password, path: str) -> bytes:
    """Return the bytes of a password; text is UTF-8."""
    found = password() if callable(password) else password
    data = found.encode("utf-8", "surrogateescape") if isinstance(found, str) else bytes(found)
    if not data:
        raise WrongPasswordError(f"the password for {path} is empty", path)
    return data
