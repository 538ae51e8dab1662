"""Pieces of a large content on their way out: joined where they lie in a row, and hashed as a whole.

Owns what is done with bytes between the packs and whoever asked for them. Reading and comparing each part is contents'.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Iterable, Iterator, NamedTuple, Optional, Union

from .digest import hash_zeros

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

    from .contents import ContentLocation

__all__ = ["Bytes", "Part", "WholeHash", "joined"]

#: What is read: a part of a pack, which stays as long as somebody uses it.
Bytes = Union[bytes, memoryview]

#: Bytes of a content from which its hash is computed in a thread: starting one takes as long as hashing 200 KB.
_HASHED_IN_THREAD = 8 << 20


class Part(NamedTuple):
    """A part of a large content.

    Attributes:
        offset: Where it begins.
        data: Its bytes; None for a hole.
        length: How many.
        location: Where they lie; None for a hole.
    """

    offset: int
    data: Optional[Bytes]
    length: int
    location: Optional[ContentLocation]


def joined(parts: Iterable[Part]) -> Iterator[tuple[int, Optional[Bytes], int]]:
    """Yield (offset, bytes, length) of parts, those at once that lie one behind the other in one pack.

    That is how a file was stored whose bytes were new: what is done with a piece is done once for a pack, not 60 times.
    """
    run: Optional[Part] = None  # what has not been yielded yet
    whole: object = None  # the bytes of its pack
    begin = end = 0  # in these
    for part in parts:
        data, location = part.data, part.location
        base = data.obj if isinstance(data, memoryview) else None
        place = None if location is None else location.offset
        if run is not None and base is not None and base is whole and place == end:
            end += part.length
            joined = memoryview(base)[begin:end]
            run = Part(run.offset, joined, len(joined), run.location)
            continue
        if run is not None:
            yield run[:3]
        run, whole, begin = part, base, place or 0
        end = begin + part.length
    if run is not None:
        yield run[:3]


class WholeHash:
    """The hash of a large content, of a very large one computed in a thread beside reading it; a context manager.

    Args:
        size: Bytes of the content.
    """

    def __init__(self, size: int) -> None:
        self._hasher = hashlib.sha256()
        self._thread: Optional[ThreadPoolExecutor] = None
        self._feeding: Optional[Future[None]] = None
        if size >= _HASHED_IN_THREAD:
            from concurrent.futures import ThreadPoolExecutor  # imported here: listing snapshots needs no threads

            self._thread = ThreadPoolExecutor(1, thread_name_prefix="backuptool-hash")

    def __enter__(self) -> WholeHash:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=True)

    def feed(self, data: Bytes) -> None:
        """Add bytes; one piece at a time is waiting."""
        self._wait()
        if self._thread is None:
            self._hasher.update(data)
        else:
            self._feeding = self._thread.submit(self._hasher.update, data)

    def feed_zeros(self, length: int) -> None:
        """Add a hole."""
        self._wait()
        hash_zeros(self._hasher, length)

    def digest(self) -> bytes:
        """Return the hash of all that was added."""
        self._wait()
        return self._hasher.digest()

    def _wait(self) -> None:
        if self._feeding is not None:
            feeding, self._feeding = self._feeding, None
            feeding.result()
