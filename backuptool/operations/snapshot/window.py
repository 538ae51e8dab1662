"""Windows: changed entries that wait to be read, and then their rows, which wait to be committed.

Owns the order in which files are read, which decides what meets in a pack, and how little memory a waiting entry takes.
"""

from __future__ import annotations

import marshal
import os
import struct
from array import array
from typing import Iterable, Iterator, NamedTuple, Optional, Union

from ...storage.files import VersionRow
from ...tree.metadata import Status

__all__ = ["Entry", "Window", "likeness", "unpack"]


#: In front of a row: whether its path is bound as text, and how many bytes it has.
_HEAD = struct.Struct("<?I")

#: Bytes of paths, and of statuses, with which a window is full.
_FULL = 1 << 30


class Entry(NamedTuple):
    """A changed entry of the tree.

    Attributes:
        path: Relative to the source.
        status: As it was listed.
        first: First snapshot of its version in the catalog, None if there is none.
    """

    path: bytes
    status: Status
    first: Optional[int]


class Window:
    """Changed entries in order of their paths; an entry is known by its position.

    Entries and rows wait as bytes behind each other, some 450 for each entry: as objects they would take several times
    that, and leave memory in pieces.

    Attributes:
        files: Positions of regular files that nobody reads yet.
        changed: Positions of regular files whose paths have a version in the catalog.
        others: Positions of everything that has no bytes.
        linked: Positions of regular files that have other paths.
        sizes: Bytes of each entry.
        unread: Number of files that someone else is reading.
    """

    def __init__(self) -> None:
        self.files = array("I")
        self.changed = array("I")
        self.others = array("I")
        self.linked: set[int] = set()
        self.sizes = array("q")
        self.unread = 0
        self._paths = bytearray()
        self._path_ends = array("I", [0])
        self._statuses = bytearray()
        self._status_ends = array("I", [0])
        self._rows = bytearray()
        self._row_begins = array("q")  # -1 where there is none

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def is_full(self) -> bool:
        """Whether it can take no more, however few entries it has."""
        return len(self._paths) >= _FULL or len(self._statuses) >= _FULL

    def add(self, path: bytes, status: os.stat_result, first: Optional[int]) -> None:
        """Add an entry behind the others."""
        regular = (status.st_mode & 0o170000) == 0o100000
        position = len(self.sizes)
        (self.files if regular else self.others).append(position)
        if first is not None and regular:
            self.changed.append(position)
        if regular and status.st_nlink > 1:
            self.linked.add(position)
        self.sizes.append(status.st_size if regular else 0)
        self._paths += path
        self._path_ends.append(len(self._paths))
        self._statuses += marshal.dumps((*Status.of(status), first))
        self._status_ends.append(len(self._statuses))
        self._row_begins.append(-1)

    def path(self, position: int) -> bytes:
        """Return the path of an entry."""
        return bytes(self._paths[self._path_ends[position] : self._path_ends[position + 1]])

    def packed(self, position: int) -> tuple[bytes, bytes]:
        """Return the path of an entry, and its status as :func:`unpack` takes it."""
        return self.path(position), bytes(self._statuses[self._status_ends[position] : self._status_ends[position + 1]])

    def entry(self, position: int) -> Entry:
        """Return an entry."""
        path, packed = self.packed(position)
        return Entry(path, *unpack(packed))

    def finish(self, position: int, row: Optional[VersionRow]) -> None:
        """Keep the row of an entry; None if it needs none."""
        if row is not None:
            self._row_begins[position] = len(self._rows)
            values = marshal.dumps(row[1:])
            self._rows += _HEAD.pack(isinstance(row[0], str), len(values))
            self._rows += values

    def rows(self) -> Iterator[tuple[Union[str, bytes], bytes]]:
        """Yield the rows in order of their paths: the path, and the other values as marshal writes them."""
        for position, begin in enumerate(self._row_begins):
            if begin >= 0:
                is_text, length = _HEAD.unpack_from(self._rows, begin)
                begin += _HEAD.size
                path = self.path(position)
                yield (path.decode() if is_text else path), bytes(self._rows[begin : begin + length])

    def by_likeness(self, positions: Iterable[int]) -> array[int]:
        """Return positions in the order in which their files are best read.

        One extension at a time is sorted: the keys of all files would take more memory than the window itself.
        """
        groups: dict[bytes, array[int]] = {}
        for position in positions:
            extension = self.path(position).rpartition(b"/")[2].rpartition(b".")[2]
            group = groups.get(extension)
            if group is None:
                group = groups[extension] = array("I")
            group.append(position)
        found = array("I")
        for extension in sorted(groups):
            keys = [
                b"%b\0%b" % (likeness(self.path(position)), position.to_bytes(4, "big"))
                for position in groups.pop(extension)
            ]
            keys.sort()
            found.extend(int.from_bytes(key[-4:], "big") for key in keys)
        return found


def unpack(packed: bytes) -> tuple[Status, Optional[int]]:
    """Return the status of an entry, and the first snapshot of its last version."""
    *status, first = marshal.loads(packed)
    return Status(*status), first


def likeness(path: bytes) -> bytes:
    """Return a key by which versions and copies of a file sort together.

    It is the extension, then the name up to its first dot, then the directories from the last one up: of two files that
    are called ``__init__.py``, those in directories of one name are versions of each other.
    """
    directory, _, name = path.rpartition(b"/")
    parents = directory.rsplit(b"/", 3)[:-4:-1]
    return b"\0".join((name.rpartition(b".")[2], name.partition(b".")[0], *parents, name))
