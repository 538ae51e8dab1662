"""Bytes out of seeds: text that compresses as text does, noise that does not compress, sizes as trees have them.

The same seed gives the same bytes on every machine and with every version of Python.
"""

from __future__ import annotations

import random
from typing import BinaryIO

__all__ = ["BLOCK", "TextSource", "file_size", "noise", "write_noise"]

#: Files are written in pieces of this many bytes.
BLOCK = 1 << 20

#: File sizes are log-normal, as in source and package trees: with this spread the mean is about 2.5 times the median.
_SIZE_SPREAD = 1.35
_LARGEST_SIZE = 2 << 20


def noise(rng: random.Random, size: int) -> bytes:
    """Return bytes that no program can compress."""
    return rng.getrandbits(8 * size).to_bytes(size, "little") if size else b""


def write_noise(stream: BinaryIO, rng: random.Random, size: int) -> None:
    """Write bytes that no program can compress; any size in constant memory."""
    for start in range(0, size, BLOCK):
        stream.write(noise(rng, min(BLOCK, size - start)))


def file_size(rng: random.Random, median: int) -> int:
    """Return the size of a file in a tree of many small ones: 0 to 2 MiB."""
    if rng.random() < 0.01:
        return 0
    return min(_LARGEST_SIZE, int(median * rng.lognormvariate(0, _SIZE_SPREAD)))


class TextSource:
    """Text in lines of words, cut from a pool; a tree written from it compresses to about a third.

    The pool is many times larger than what any program compresses together, so that pieces that occur twice in a tree
    do not flatter a program for the size of its packs.

    Args:
        seed: What the words and their order are made from.
        pool_size: Bytes of text to make, at 10 MB a second.
    """

    def __init__(self, seed: str, pool_size: int = 32 << 20) -> None:
        rng = random.Random(seed)
        letters = "etaoinshrdlucmfwypvbgkqjxz_"
        words = ["".join(rng.choices(letters, k=rng.randint(2, 11))) for _ in range(6000)]
        # Half of all words come from a few hundred, as in every language.
        words += words[:300] * 20
        words += ["\n    ", "\n        ", "(", ") ", ", ", " = "] * 300
        pool = bytearray()
        while len(pool) < pool_size:
            pool += " ".join(rng.choices(words, k=20000)).encode("ascii")
        self._pool = bytes(pool)

    def text(self, rng: random.Random, size: int) -> bytes:
        """Return text of this many bytes, pieces of the pool of 200 to 4,000 bytes."""
        pieces = []
        while size > 0:
            length = min(size, rng.randint(200, 4000))
            start = rng.randrange(len(self._pool) - length)
            pieces.append(self._pool[start : start + length])
            size -= length
        return b"".join(pieces)
