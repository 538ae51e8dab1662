"""The passwords of an encrypted repository: listing, adding and removing them. None of it touches what is encrypted.

Owns which changes are allowed. How a key is wrapped and written is the encryption's.
"""

from __future__ import annotations

from typing import Callable

import attrs

from ..errors import RepositoryError
from ..results.keys import KeyList, RepositoryKey
from ..storage.database import Database
from ..storage.encryption.keypages import MOST_LABEL_BYTES, MOST_SLOTS, KeyPage, KeySlot
from ..storage.encryption.keyring import Keyring, write_key_pages
from ..storage.pool import ConnectionPool

__all__ = ["add_key", "list_keys", "remove_key"]

_SHOWN_DIGITS = 8


def list_keys(pool: ConnectionPool) -> KeyList:
    """Return the passwords that open a repository."""
    with pool.reading() as database:
        keyring = _keyring(pool, database)
        return _listed(keyring.page(pool.path), keyring)


def add_key(
    pool: ConnectionPool,
    new: Keyring,
    label: str,
    clock: Callable[[], int],
) -> KeyList:
    """Let the password of another keyring open the repository as well."""
    if len(label.encode("utf-8", "surrogateescape")) > MOST_LABEL_BYTES or not label.isprintable():
        raise ValueError(f"a label is printable and has at most {MOST_LABEL_BYTES} bytes: {label!r}")
    with pool.writing() as database:
        keyring = _keyring(pool, database)
        key = keyring.unlock(pool.path)
        stretched = new.stretched(keyring.page(pool.path).salt, pool.path)  # the salt never changes
        with database.transaction():
            page = keyring.page(pool.path)
            if len(page.slots) >= MOST_SLOTS:
                raise RepositoryError(f"{pool.path} has {MOST_SLOTS} passwords already; remove one first", pool.path)
            if any(slot.open(stretched, page.salt) for slot in page.slots):
                raise RepositoryError(f"that password opens {pool.path} already", pool.path)
            slot = KeySlot.make(key, stretched, page.salt, label, clock())
            page = _write(pool, database, keyring, page, (*page.slots, slot))
    return attrs.evolve(_listed(page, keyring), added=_shown(slot))


def remove_key(pool: ConnectionPool, id_: str) -> KeyList:
    """Let a password open the repository no longer."""
    with pool.writing() as database:
        keyring = _keyring(pool, database)
        with database.transaction():
            page = keyring.page(pool.path)
            found = [slot for slot in page.slots if id_ and slot.id.hex().startswith(id_.lower())]
            if len(found) != 1:
                known = ", ".join(_shown(slot) for slot in page.slots)
                raise RepositoryError(f"{pool.path} has no password {id_!r}; there are {known}", pool.path)
            if len(page.slots) == 1:
                raise RepositoryError(
                    f"{id_} is the last password of {pool.path}, without which nothing in it can be read; add another "
                    "one first",
                    pool.path,
                )
            page = _write(pool, database, keyring, page, tuple(slot for slot in page.slots if slot != found[0]))
    return attrs.evolve(_listed(page, keyring), removed=_shown(found[0]))


def _keyring(pool: ConnectionPool, database: Database) -> Keyring:
    if not database.encrypted or pool.keyring is None:
        raise RepositoryError(f"{pool.path} is not encrypted, so it has no passwords", pool.path)
    return pool.keyring


def _write(
    pool: ConnectionPool, database: Database, keyring: Keyring, page: KeyPage, slots: tuple[KeySlot, ...]
) -> KeyPage:
    """Write the key page with these slots, under the write lock of the transaction that is open."""
    page = attrs.evolve(page, sequence=page.sequence + 1, slots=slots)
    write_key_pages(pool.path, page.encode(keyring.unlock(pool.path)))
    # Committed behind the pages: the page may be newer than what the catalog knows, never older.
    database.execute("UPDATE settings SET value = ? WHERE name = 'key_page'", (page.sequence,))
    return page


def _listed(page: KeyPage, keyring: Keyring) -> KeyList:
    return KeyList(
        keys=tuple(
            RepositoryKey(
                id=_shown(slot),
                label=slot.label.decode("utf-8", "replace"),
                created_ns=slot.created_ns,
                in_use=slot.id == keyring.opened,
            )
            for slot in page.slots
        )
    )


def _shown(slot: KeySlot) -> str:
    return slot.id.hex()[:_SHOWN_DIGITS]
