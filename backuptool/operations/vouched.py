"""The files of a snapshot, and whether they are all that were saved, as they were saved.

Owns the comparison with the digest that the snapshot vouches for its tree with. What is done with the files, and what
may not be done where something of them is wrong, is left to those who restore and export.
"""

from __future__ import annotations

import struct
from typing import Callable, Iterator

from ..storage.database import Database
from ..storage.digest import row_hash, to_bytes
from ..storage.files import CatalogFile, files_of
from ..storage.gaps import Gap
from ..storage.snapshots import SnapshotRow

__all__ = ["VouchedFiles"]


class VouchedFiles:
    """The files of a snapshot; when all of them were seen, it is known whether they are as they were saved.

    Without this a row whose bits flipped in the catalog would come back as a sound one: under another name, with
    another mode, or not at all. 2 µs a file.

    Args:
        database: The repository.
        snapshot: One of its snapshots.

    Attributes:
        wrong: True once all were seen, if they are not those that were saved.
    """

    def __init__(self, database: Database, snapshot: SnapshotRow) -> None:
        self._database = database
        self._snapshot = snapshot
        self.wrong = False

    def __iter__(self) -> Iterator[CatalogFile]:
        """Yield them in byte order of their paths."""
        digest = 0
        gaps: list[Gap] = []
        unreadable = False
        for file in files_of(self._database, self._snapshot, on_gap=gaps.append):
            try:
                digest += row_hash(file.version)
            except (struct.error, TypeError):  # of the kind "?"
                unreadable = True
            yield file
        self.wrong = unreadable or bool(gaps) or to_bytes(digest % (1 << 256)) != self._snapshot.tree_digest

    def report(self, problem: Callable[[str, bytes, str], object], more: str = "") -> None:
        """Say so if they are not: call with kind, path and message.

        Args:
            problem: Takes it.
            more: What else follows from it, with a semicolon in front.
        """
        if self.wrong:
            problem(
                "snapshot-corrupt",
                b"",
                f"the list of files of snapshot {self._snapshot.id} is not as it was saved: some may be missing, or "
                f"have other names, modes or times{more}; check names what it can",
            )
