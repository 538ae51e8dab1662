"""Files that belong to another one in their directory: its name with something behind it.

Owns how they are noticed while a directory is listed. To what they belong, and whether they are saved, is not decided
here.
"""

from __future__ import annotations

from typing import Optional, Sequence

__all__ = ["Companions"]


class Companions:
    """What of a walk has companions, as far as it has got.

    Args:
        suffixes: What the names of companions end with; each is 4 bytes or longer.

    Attributes:
        owners: Paths to which a companion was seen.
        endings: The last 4 bytes of each suffix: what a name is asked for first.
    """

    def __init__(self, suffixes: Sequence[bytes]) -> None:
        self._suffixes = tuple(suffixes)
        self.endings = frozenset(suffix[-4:] for suffix in suffixes)
        self.owners: set[bytes] = set()

    def note(self, prefix: bytes, name: bytes) -> None:
        """Take note of a name in a directory.

        Args:
            prefix: What comes before names in the paths of its entries.
            name: The name.
        """
        owner = self.owner(name)
        if owner:
            self.owners.add(prefix + owner)

    def owner(self, path: bytes) -> Optional[bytes]:
        """Return the path that a companion belongs to by its own; None if it is no companion by that."""
        for suffix in self._suffixes:
            if path.endswith(suffix):
                return path[: -len(suffix)]
        return None
