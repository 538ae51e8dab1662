"""Hashing the files of a source, also those that change meanwhile.

Owns how bytes become a hash where nothing is kept of them. Opening safely is the source's.
"""

from __future__ import annotations

import hashlib
import os
from typing import NamedTuple, Optional

from .metadata import AnyStatus, Status, read_xattrs
from .open_file import OpenFile
from .source import Source

__all__ = ["HashedFile", "hash_file"]

_READ = 1 << 20

_ZEROS = bytes(_READ)


class HashedFile(NamedTuple):
    """What was found in a file.

    Attributes:
        status: When it was opened.
        size: Bytes that were hashed.
        hash: Their SHA-256.
        xattrs: Encoded extended attributes, None if there are none.
        changed: True if it changed while it was read, twice.
    """

    status: Status
    size: int
    hash: bytes
    xattrs: Optional[bytes]
    changed: bool


def hash_file(source: Source, path: bytes, status: AnyStatus) -> HashedFile:
    """Read a regular file of a source; one that changes meanwhile is read again.

    Args:
        source: Where it is.
        path: Relative to the source.
        status: As it was listed.

    Raises:
        OSError: It cannot be read.
        FileChangedError: It is no regular file any more.
    """
    with source.open_file(path, status) as file:
        size, digest = _hash(file)
        unchanged = file.unchanged(size)
        if not unchanged:
            file.rewind()
            size, digest = _hash(file)
            unchanged = file.unchanged(size)
        return HashedFile(Status.of(file.status), size, digest, read_xattrs(file.descriptor), not unchanged)


def _hash(file: OpenFile) -> tuple[int, bytes]:
    """Return (size, SHA-256) of what is there now, holes included."""
    hasher = hashlib.sha256()
    position = 0
    size = file.status.st_size
    for begin, end in file.segments():
        _feed_zeros(hasher, begin - position)
        position = begin
        while position < end:
            data = os.read(file.descriptor, min(_READ, end - position))
            if not data:  # it was cut short meanwhile
                return position, hasher.digest()
            hasher.update(data)
            position += len(data)
    _feed_zeros(hasher, size - position)
    return size, hasher.digest()


def _feed_zeros(hasher: hashlib._Hash, length: int) -> None:
    while length > 0:
        hasher.update(_ZEROS[:length] if length < _READ else _ZEROS)
        length -= _READ
