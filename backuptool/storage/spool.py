"""Rows set aside in memory until they are committed.

Owns the compression of what waits. What the rows mean is files' business.
"""

from __future__ import annotations

import marshal
from array import array
from typing import Any, Iterable, Iterator, Tuple

from .compression import compress, decompress

__all__ = ["Spool"]

_BATCH_ROWS = 2048


#: The first value of a row, and the others as marshal writes them.
Row = Tuple[Any, bytes]


class Spool:
    """Rows set aside until the commit, compressed: a million takes some 40 MB, and nothing is written to a disk."""

    def __init__(self) -> None:
        self._closed_rows = 0
        self._open: list[Row] = []
        self._batches: list[tuple[str, int, bytes]] = []

    @property
    def count(self) -> int:
        """Number of rows."""
        return self._closed_rows + len(self._open)

    def extend(self, rows: Iterable[Row]) -> None:
        """Add rows of plain values; the last value of each is the ordinal of its content."""
        for row in rows:
            self._open.append(row)
            if len(self._open) >= _BATCH_ROWS:
                data = marshal.dumps(self._open)
                codec, packed = compress(data, "fast")
                self._batches.append((codec, len(data), packed))
                self._closed_rows += len(self._open)
                self._open = []

    def add(self, row: Tuple[Any, ...]) -> None:
        """Add a row of plain values."""
        self.extend([(row[0], marshal.dumps(row[1:]))])

    def drain(self, counts: array[int]) -> Iterator[list[tuple[Any, ...]]]:
        """Yield the rows in the order they came, some at a time, and count the uses of each ordinal."""
        for codec, size, packed in self._batches:
            yield _counted(marshal.loads(decompress(codec, packed, size)), counts)
        yield _counted(self._open, counts)


def _counted(batch: Iterable[Row], counts: array[int]) -> list[tuple[Any, ...]]:
    rows = [(first, *marshal.loads(others)) for first, others in batch]
    for row in rows:
        if row[-1] >= 0:
            counts[row[-1]] += 1
    return rows
