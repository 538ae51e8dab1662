"""Gathering files by pack, so that each pack is read once though its files lie in many directories.

Owns how many are held and which go first.
"""

from __future__ import annotations

from typing import Callable, Generic, Mapping, Optional, TypeVar

from ...storage.bases import behind_bases

__all__ = ["Gathering"]

T = TypeVar("T")

#: Files that are held. A snapshot gathers 200,000 before it packs them, so what is in a pack lies all over the tree: of
#: 118,000 files in 960 packs, holding them all takes 8.4 s of the helpers' time, holding 40,000 takes 10 s, as packs
#: are decompressed more than once. To take the lowest packs instead of those that have waited longest made it worse:
#: copies of what an earlier window has come one by one. A file takes 0.25 kB.
_HELD = 120_000

#: How much more may be held before some are taken, so that helpers get their work in small portions.
_SLACK_SHARE = 16


class Gathering(Generic[T]):
    """Files by the pack that their contents are in.

    Args:
        bases: Returns the bases of packs; asked when files are first taken.
    """

    def __init__(self, bases: Callable[[], Mapping[int, int]]) -> None:
        self._read_bases = bases
        self._bases: Optional[Mapping[int, int]] = None
        self._limit = _HELD
        self._full = _HELD + _HELD // _SLACK_SHARE
        self._packs: dict[int, list[T]] = {}  # in the order in which they were first seen
        self._held = 0

    def add(self, pack: Optional[int], file: T) -> bool:
        """Add a file; True if some should be taken.

        Args:
            pack: Where its content is; None for an empty one.
            file: Whatever the caller needs of it.
        """
        files = self._packs.get(pack or 0)
        if files is None:
            self._packs[pack or 0] = [file]
        else:
            files.append(file)
        self._held += 1
        return self._held > self._full

    def take(self, *, everything: bool = False) -> list[list[T]]:
        """Return the files of the packs that have waited longest, a list for each pack, each pack behind its base."""
        taken = []
        for pack, files in self._packs.items():
            if self._held <= self._limit and not everything:
                break
            taken.append(pack)
            self._held -= len(files)
        if self._bases is None:
            self._bases = self._read_bases()
        return [self._packs.pop(pack) for pack in behind_bases(taken, self._bases)]
