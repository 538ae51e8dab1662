"""Opening a file of a snapshot for reading in place.

Owns which content is meant; reading from anywhere in it is left to the storage.
"""

from __future__ import annotations

import io
from typing import Union

from ...storage.opened import SharedReader, opened
from ...storage.snapshots import find_snapshot
from .locating import file_in, relative, require_kind

__all__ = ["open_file"]


def open_file(reader: SharedReader, reference: Union[int, str], path: bytes) -> io.BufferedReader:
    """Return a regular file of a snapshot as a binary file.

    Raises:
        SnapshotNotFoundError: There is no such snapshot.
        PathNotFoundError: There is no such path in it.
        WrongKindError: It is no regular file.
        ContentMissingError, ContentCorruptError: It cannot be read.
    """
    database = reader.database
    snapshot = find_snapshot(database, reference)
    file = file_in(database, snapshot, relative(path, snapshot))
    require_kind(file, b"f", "only a file can be opened")
    return opened(reader, file)
