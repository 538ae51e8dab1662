"""What shows that pages of an encrypted repository are of one time: a sequence number and a proof over the catalog.

Owns the setting ``seal``, which each commit writes anew. The cipher proves each page, but not that it is the newest: an
older version of a page, put back in its place, passes. The seal covers every row of the small tables, the digests of
all snapshots among them, which cover the files, and the numbers given to contents and packs, whose bytes are hashed.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, Iterable, Optional

from ...errors import CorruptionError
from .construction import FileKey

if TYPE_CHECKING:
    from ..database import Database

__all__ = ["SETTINGS", "Sealer", "found_seal"]

#: Settings that only encrypted repositories have: the seal, and the sequence of the key page.
SETTINGS = ("seal", "key_page")

#: Tables whose rows are covered otherwise: by the digests of snapshots and contents, which ``check`` computes again.
_LARGE = ("files", "contents", "parts", "packs", "bases")

#: The sequence number, and the proof in hexadecimal.
_READABLE = re.compile(rb"([1-9][0-9]{0,17}) ([0-9a-f]{64})")


class Sealer:
    """Writes and verifies the seal of one repository.

    Args:
        key: Of the repository.
    """

    def __init__(self, key: FileKey) -> None:
        self._key = key
        self._changes: object = None  # when the transaction began

    def require_whole(self, database: Database) -> None:
        """Refuse to write where pages were put back, when a transaction begins: a new seal would hide it for ever.

        Raises:
            CorruptionError: The seal is not that of what is in the tables.
        """
        if not self.is_whole(database):
            raise CorruptionError(
                f"parts of {database.path} are older than others: pages were put back or replaced, and nothing is "
                "written to it any more; run check, and restore the repository from a copy",
                database.path,
            )
        self._changes = _changes(database)

    def seal(self, database: Database) -> None:
        """Write the seal of what is about to be committed, if that is anything."""
        if self._changes is not None and _changes(database) == self._changes:
            return
        sequence = self.sequence(database) + 1
        # Page 1 changes with each commit, but in what SQLite alone reads. This number in it is one that can be read.
        database.query(f"PRAGMA schema_version={sequence % (1 << 31)}")
        proof = self._key.proof(b"seal", _message(database, sequence))
        database.execute("INSERT OR REPLACE INTO settings VALUES ('seal', ?)", (f"{sequence} {proof.hex()}",))

    def sequence(self, database: Database) -> int:
        """Return how many times the repository was sealed; 0 if the seal is damaged."""
        found = found_seal(_value(database))
        return found[0] if found else 0

    def is_whole(self, database: Database) -> bool:
        """Tell whether the seal is that of what is in the tables; in a transaction."""
        found = found_seal(_value(database))
        if found is None:
            return False
        sequence, proof = found
        return self._key.proves(b"seal", _message(database, sequence), proof)


def found_seal(value: object) -> Optional[tuple[int, bytes]]:
    """Return sequence number and proof of what the setting ``seal`` holds, None if it is damaged."""
    found = _READABLE.fullmatch(value) if isinstance(value, bytes) else None
    return (int(found.group(1)), bytes.fromhex(found.group(2).decode())) if found else None


def _changes(database: Database) -> object:
    """Return what is another value as soon as a row or a table has changed."""
    return database.value("SELECT total_changes()"), database.value("PRAGMA schema_version")


def _value(database: Database) -> object:
    return database.value("SELECT value FROM settings WHERE name = 'seal'")


def _message(database: Database, sequence: int) -> bytes:
    return b"%d " % sequence + _state(database)


def _state(database: Database) -> bytes:
    """Return a SHA-256 of the rows that the seal covers."""
    digest = hashlib.sha256()
    names = database.query("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
    for name in [row[0].decode() for row in names]:
        if name not in _LARGE:
            digest.update(_encoded([(name.encode(),)]))
            columns = len(database.query(f"PRAGMA table_info({name})"))
            order = ", ".join(map(str, range(1, columns + 1)))
            where = " WHERE name <> 'seal'" if name == "settings" else ""
            digest.update(_encoded(database.query(f"SELECT * FROM {name}{where} ORDER BY {order}")))
    digest.update(_encoded(database.query("SELECT max(id) FROM packs")))
    digest.update(_encoded(database.query("PRAGMA schema_version")))
    return digest.digest()


def _encoded(rows: Iterable[Any]) -> bytes:
    """Return rows as bytes that no other rows have: each value behind its kind and its length."""
    parts = []
    for row in rows:
        for value in row:
            if isinstance(value, bytes):
                parts.append(b"B%d:%b" % (len(value), value))
            elif isinstance(value, int):
                parts.append(b"I%d;" % value)
            elif value is None:
                parts.append(b"N")
            else:
                raise CorruptionError("a setting or a snapshot has a value of a kind that is never written")
        parts.append(b"\n")
    return b"".join(parts)
