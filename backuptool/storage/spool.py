"""Rows set aside in memory until they are committed.

Owns the compression of what waits. What the rows mean is the catalog's.
"""

from __future__ import annotations

import marshal
from array import array
from typing import Any, Iterable, Iterator

from .compression import compress, decompress

__all__ = ["Spool"]

_BATCH_ROWS = 2048


class Spool:
    """Rows set aside until the commit, compressed: a million takes some 40 MB, and nothing is written to a disk."""

    def __init__(self) -> None:
        self._closed_rows = 0
        self._open: list[bytes] = []
        self._batches: list[tuple[str, int, bytes]] = []

    @property
    def count(self) -> int:
        """Number of rows."""
        return self._closed_rows + len(self._open)

    def extend(self, rows: Iterable[bytes]) -> None:
        """Add rows of plain values, as marshal writes them; the last value of each is the ordinal of its content."""
        for row in rows:
            self._open.append(row)
            if len(self._open) >= _BATCH_ROWS:
                data = marshal.dumps(self._open)
                codec, packed = compress(data, "fast")
                self._batches.append((codec, len(data), packed))
                self._closed_rows += len(self._open)
                self._open = []

    def drain(self, counts: array[int]) -> Iterator[tuple[Any, ...]]:
        """Yield the rows in the order they came, and count the uses of each ordinal."""
        for codec, size, packed in self._batches:
            yield from _counted(marshal.loads(decompress(codec, packed, size)), counts)
        yield from _counted(self._open, counts)


def _counted(rows: Iterable[bytes], counts: array[int]) -> Iterator[tuple[Any, ...]]:
    for data in rows:
        row = marshal.loads(data)
        if row[-1] >= 0:
            counts[row[-1]] += 1
        yield row
