"""Contents on their way into the repository: what is known of them before they have a row.

Owns the values that readers, the writer and the committer pass on.
"""

from __future__ import annotations

import hashlib
from array import array
from typing import Iterable, NamedTuple, Optional

from .digest import layout_entry

__all__ = ["Content", "LargeContent", "WaitingContent"]


class Content(NamedTuple):
    """A content on its way into the repository.

    Attributes:
        size: Bytes.
        digest: SHA-256, 32 bytes.
        ordinal: Position in :attr:`ContentWriter.ids`.
    """

    size: int
    digest: bytes
    ordinal: int


class LargeContent:
    """The parts of a large file, while it is being read: two numbers for each, so that a long list stays small."""

    def __init__(self) -> None:
        self.offsets = array("q")
        self.parts = array("q")  # ordinals, -1 for a hole
        self._layout = hashlib.sha256()

    def append(self, offset: int, part: Optional[Content]) -> None:
        """Add a part behind the others; None is a hole."""
        self.offsets.append(offset)
        self.parts.append(-1 if part is None else part.ordinal)
        self._layout.update(layout_entry(offset, None if part is None else part.digest))

    def extend(self, offset: int, parts: Iterable[Content]) -> int:
        """Add parts that lie one behind the other from an offset on; returns where the last one ends."""
        entries = []
        for size, digest, ordinal in parts:
            self.offsets.append(offset)
            self.parts.append(ordinal)
            entries.append(layout_entry(offset, digest))
            offset += size
        self._layout.update(b"".join(entries))
        return offset

    def layout(self) -> bytes:
        """Return the digest of the list of parts."""
        return self._layout.digest()


class WaitingContent(NamedTuple):
    """A large content that waits for its parts to be committed."""

    ordinal: int
    digest: bytes
    size: int
    layout: bytes
    parts: LargeContent
