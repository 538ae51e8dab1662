"""Which sources an operation looks at."""

from __future__ import annotations

from typing import Optional

import attrs

from ..storage.snapshots import SnapshotRow

__all__ = ["Selection"]


@attrs.frozen
class Selection:
    """The sources that an operation is to look at.

    Attributes:
        root: The directory, None for all.
        host: The machine, None for all.
    """

    root: Optional[bytes] = None
    host: Optional[str] = None

    def has(self, row: SnapshotRow) -> bool:
        """Tell whether a snapshot's source is among them."""
        return (self.root is None or row.root == self.root) and (self.host is None or row.host == self.host)
