"""Where large files are cut: content-defined chunking, so that an insertion moves one cut and not all of them.

Owns the parameters, which the repository stores. Finding the cuts is pyfastcdc's (FastCDC 2020, Xia et al.,
doi:10.1109/TPDS.2020.2984632).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import attrs

if TYPE_CHECKING:
    from pyfastcdc import FastCDC

__all__ = ["CHUNKING", "LARGE_FILE", "Chunking", "cut"]

#: Bytes. A file up to this size is one content; cutting it would cost catalog rows and gain little.
LARGE_FILE = 1 << 20

_NORMALIZED: Literal[1] = 1

#: Mean sizes that a repository may have: what the algorithm takes, and no chunk above ``LARGE_FILE``.
_AVERAGES = frozenset(1 << bits for bits in range(10, 19))


@attrs.frozen
class Chunking:
    """How a repository cuts large files.

    Of a 512 MiB image with 1 % of its 4 KiB blocks rewritten and 777 bytes inserted, average chunks of
    16 / 32 / 64 / 128 / 1,024 KiB store 7.9 / 13.3 / 22.7 / 38 / 96 % again; a chunk costs about 100 bytes of catalog.
    Larger files get larger chunks, so that the list of one file's parts stays below 4 million entries a TiB. No chunk
    is larger than ``LARGE_FILE``: what is longer is a list of chunks, and a chunk must not be found to be a list.

    Attributes:
        average: Mean size of a chunk in bytes, a power of two; a quarter of it is the least, four times it the most.
        large_average: The same for files above ``large_size``.
        large_size: Bytes.
        huge_average: The same for files above ``huge_size``.
        huge_size: Bytes.
    """

    average: int = 32 << 10
    large_average: int = 128 << 10
    large_size: int = 16 << 30
    huge_average: int = 256 << 10
    huge_size: int = 256 << 30

    def settings(self) -> list[tuple[str, object]]:
        """Return what the settings table keeps: the algorithm and its parameters."""
        values = [("chunking", "fastcdc-2020"), ("chunk_normalization", _NORMALIZED)]
        return values + [(f"chunk_{name}", value) for name, value in attrs.asdict(self).items()]

    @classmethod
    def from_settings(cls, settings: dict[str, object]) -> Chunking:
        """Return the chunking of a repository.

        Raises:
            ValueError: It is not one that this version knows.
        """
        names = [field.name for field in attrs.fields(cls)]
        values = [settings.get(f"chunk_{name}") for name in names]
        if settings.get("chunking") != "fastcdc-2020" or not all(isinstance(value, int) for value in values):
            raise ValueError("unknown chunking")
        if settings.get("chunk_normalization") != _NORMALIZED:
            raise ValueError("unknown normalization of chunks")
        chunking = cls(*values)  # type: ignore[arg-type]
        for average in (chunking.average, chunking.large_average, chunking.huge_average):
            if average not in _AVERAGES:
                raise ValueError(f"chunks of {average} bytes")
        if not 0 <= chunking.large_size <= chunking.huge_size:
            raise ValueError("sizes of large files that cannot be")
        return chunking

    def for_size(self, size: int) -> FastCDC:
        """Return the chunker for a file of that many bytes."""
        from pyfastcdc import FastCDC  # imported here: listing snapshots needs no chunker

        return FastCDC(self._average_for(size), normalized_chunking=_NORMALIZED, seed=0)

    def largest_chunk(self, size: int) -> int:
        """Return the most bytes that a chunk of a file of that many bytes has."""
        return 4 * self._average_for(size)

    def _average_for(self, size: int) -> int:
        if size > self.huge_size:
            return self.huge_average
        return self.large_average if size > self.large_size else self.average


CHUNKING = Chunking()


def cut(chunker: FastCDC, data: memoryview, *, final: bool) -> list[int]:
    """Return the lengths of the chunks that some bytes of a stream begin with.

    The cuts are those of one pass over the whole stream: the last chunk may have been cut by the end of these bytes
    alone, so it is left out unless they are the last ones, and its bytes have to be given again with those that follow.

    Args:
        chunker: From :meth:`Chunking.for_size`.
        data: The bytes, from the beginning of a chunk on. To get on, more than the largest chunk.
        final: Whether nothing follows.
    """
    lengths = [chunk.length for chunk in chunker.cut_buf(data)]
    return lengths if final else lengths[:-1]
