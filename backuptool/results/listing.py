"""What is in a directory of a snapshot."""

from __future__ import annotations

from typing import Tuple

import attrs

from .entry import Entry
from .presentation import Result, Sequenced, format_size, html_table
from .problem import Problem, problem_tail
from .snapshot import Snapshot

__all__ = ["Listing"]


@attrs.frozen(kw_only=True, repr=False)
class Listing(Sequenced[Entry], Result):
    """What is in a directory of a snapshot, in byte order. Iterate over it, index it, take its len().

    Attributes:
        snapshot: The snapshot.
        path: The directory, relative to the source, ``""`` for the source itself; or a file, which is then the one
            entry.
        entries: What is in it; with ``recursive``, everything below it.
        problems: Entries whose row is damaged.
    """

    snapshot: Snapshot
    path: str
    entries: tuple[Entry, ...]
    problems: tuple[Problem, ...] = ()

    def _items(self) -> Tuple[Entry, ...]:
        return self.entries

    def _headline(self) -> str:
        size = sum(entry.size_bytes for entry in self.entries)
        entries = "1 entry" if len(self) == 1 else f"{len(self):,} entries"
        text = f"{self.path or '.'} in {self.snapshot.id}: {entries}, {format_size(size)}"
        return text + problem_tail(0, self.problems)

    def _repr_html_(self) -> str:
        return html_table(
            self._headline(),
            ("path", "kind", "mode", "owner", "size", "modified", "SHA-256"),
            self.entries,
            lambda entry: (
                entry.path if entry.target is None else f"{entry.path} -> {entry.target}",
                entry.kind,
                f"{entry.mode:04o}",
                f"{entry.user or entry.uid}:{entry.group or entry.gid}",
                format_size(entry.size_bytes),
                f"{entry.time:%Y-%m-%d %H:%M:%S}",
                (entry.sha256 or "")[:16],
            ),
        )
