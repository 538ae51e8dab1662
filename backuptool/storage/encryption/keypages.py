"""The key page: the wrapped keys of an encrypted repository, in clear and in the file itself, twice.

Owns the layout of the page. Pages 3 and 4 of the file hold the same page: they are the first root pages that SQLite
gave out, their tables are not in the schema, and so SQLite neither reads, moves nor writes them again. A change writes
one after the other, so that one is whole whenever the power fails.
"""

from __future__ import annotations

import hashlib
import os
import struct
from typing import Optional, Sequence

import attrs

from ..schema import PAGE_SIZE
from .construction import ID_BYTES, NONCE_BYTES, SALT_BYTES, VERSION, FileKey, Stretched

__all__ = ["KEY_PAGES", "MOST_LABEL_BYTES", "MOST_SLOTS", "KeyPage", "KeySlot", "is_proven", "readable"]

#: Numbers of the pages, counted from 1 as SQLite does.
KEY_PAGES = (3, 4)

_MAGIC = b"backuptool keys\0"

#: Magic, version, number of slots, sequence, salt.
_HEAD = struct.Struct(f">16sIIQ{SALT_BYTES}s")

#: Id, when it was made (ns since 1970 UTC), label behind its length.
_SLOT = struct.Struct(f">{ID_BYTES}sQB63s")

#: Nonce and wrapped key behind each slot.
_WRAPPED = struct.Struct(f">{NONCE_BYTES}s48s")

#: What the page ends with: a proof by the repository's key, and a SHA-256 of everything before it.
_PROOF_BYTES, _SUM_BYTES = 32, 32
_BODY_BYTES = PAGE_SIZE - _PROOF_BYTES - _SUM_BYTES

#: Passwords that one repository may have.
MOST_SLOTS = 64

MOST_LABEL_BYTES = 63


@attrs.frozen(kw_only=True, repr=False)
class KeySlot:
    """One password's way to the key.

    Attributes:
        id: 16 random bytes.
        created_ns: When it was added, ns since 1970 UTC.
        label: What its owner calls it, UTF-8.
        nonce: 12 random bytes.
        wrapped: The key of the repository, wrapped.
    """

    id: bytes
    created_ns: int
    label: bytes
    nonce: bytes
    wrapped: bytes

    @classmethod
    def make(cls, key: FileKey, stretched: Stretched, salt: bytes, label: str, created_ns: int) -> KeySlot:
        """Wrap the key for a password."""
        id_, nonce, name = os.urandom(ID_BYTES), os.urandom(NONCE_BYTES), label.encode()
        context = _context(salt, id_, created_ns, name)
        wrapped = stretched.wrap(key, id_, nonce, context)
        return cls(id=id_, created_ns=created_ns, label=name, nonce=nonce, wrapped=wrapped)

    def open(self, stretched: Stretched, salt: bytes) -> Optional[FileKey]:
        """Return the key, or None if this is another password's."""
        context = _context(salt, self.id, self.created_ns, self.label)
        return stretched.unwrap(self.wrapped, self.id, self.nonce, context)


@attrs.frozen(kw_only=True, repr=False)
class KeyPage:
    """What a key page says.

    Attributes:
        sequence: Grows by one with each change.
        salt: For Argon2id, 16 bytes, the same for the life of the repository.
        slots: One for each password, in the order in which they were added.
    """

    sequence: int
    salt: bytes
    slots: tuple[KeySlot, ...]

    def encode(self, key: FileKey) -> bytes:
        """Return the page as bytes, with its proof."""
        body = bytearray(_HEAD.pack(_MAGIC, VERSION, len(self.slots), self.sequence, self.salt))
        for slot in self.slots:
            body += _SLOT.pack(slot.id, slot.created_ns, len(slot.label), slot.label)
            body += _WRAPPED.pack(slot.nonce, slot.wrapped)
        body += bytes(_BODY_BYTES - len(body))
        body += key.proof(b"key page", bytes(body))
        return bytes(body) + hashlib.sha256(body).digest()

    @classmethod
    def decode(cls, data: bytes) -> Optional[KeyPage]:
        """Return what a page says, or None if it is damaged, torn or none. Whether it is forged, the key will tell."""
        if len(data) != PAGE_SIZE or hashlib.sha256(data[:-_SUM_BYTES]).digest() != data[-_SUM_BYTES:]:
            return None
        magic, version, count, sequence, salt = _HEAD.unpack_from(data)
        if magic != _MAGIC or version != VERSION or count > MOST_SLOTS:
            return None
        slots = []
        offset = _HEAD.size
        for _ in range(count):
            id_, created_ns, length, label = _SLOT.unpack_from(data, offset)
            nonce, wrapped = _WRAPPED.unpack_from(data, offset + _SLOT.size)
            offset += _SLOT.size + _WRAPPED.size
            slots.append(KeySlot(id=id_, created_ns=created_ns, label=label[:length], nonce=nonce, wrapped=wrapped))
        return cls(sequence=sequence, salt=salt, slots=tuple(slots))


def is_proven(data: bytes, key: FileKey) -> bool:
    """Tell whether a page was written by a holder of the key."""
    return key.proves(b"key page", data[:_BODY_BYTES], data[_BODY_BYTES:-_SUM_BYTES])


def readable(pages: Sequence[bytes]) -> list[tuple[KeyPage, bytes]]:
    """Return the pages that are whole, with their bytes; the newest first."""
    found = [(page, data) for data in pages for page in [KeyPage.decode(data)] if page is not None]
    return sorted(found, key=lambda item: -item[0].sequence)


def _context(salt: bytes, id_: bytes, created_ns: int, label: bytes) -> bytes:
    return _HEAD.pack(_MAGIC, VERSION, 0, 0, salt) + _SLOT.pack(id_, created_ns, len(label), label)
