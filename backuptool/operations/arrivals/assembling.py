"""Making a snapshot of entries that come from anywhere: compare them with the source's last snapshot, and commit.

Owns what makes entries a tree, where no directory is walked: their order, the directories above them, and the
comparison. Where they come from, and how their bytes were stored, is the caller's business.
"""

from __future__ import annotations

import marshal
from collections import Counter
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional

from ...results.problem import Problem
from ...results.snapshot import SnapshotResult
from ...storage.database import Database
from ...storage.digest import FileVersion
from ...storage.files import version_row
from ...storage.transfer import StoredVersion, versions_of
from ...storage.writer import ContentWriter
from ...tree.confined import split
from ..committing import BaseMovedError, Description, Draft, commit, until_committed
from ..selecting import Selection

__all__ = ["Arrival", "Arrivals", "assemble"]

#: Of a directory that nothing is said of.
_DIRECTORY_MODE = 0o755


class Arrival(NamedTuple):
    """An entry.

    Attributes:
        version: What is known of it.
        ordinal: Of its content with the writer, -1 if it has none.
    """

    version: FileVersion
    ordinal: int


class Arrivals:
    """Entries by path, the last one of each path; some 400 bytes each, and as many contents as one likes.

    Args:
        on_problem: Called with kind, path and message.
    """

    def __init__(self, on_problem: Callable[[str, bytes, str], None]) -> None:
        self._problem = on_problem
        self._entries: Dict[bytes, bytes] = {}

    def __contains__(self, path: bytes) -> bool:
        return path in self._entries

    def add(self, arrival: Arrival) -> None:
        """Add an entry; one of that path that was there is no more."""
        self._entries[arrival.version.path] = marshal.dumps((*arrival.version[1:], arrival.ordinal))

    def get(self, path: bytes) -> Optional[Arrival]:
        """Return the entry of a path."""
        packed = self._entries.get(path)
        if packed is None:
            return None
        *others, ordinal = marshal.loads(packed)
        return Arrival(FileVersion(path, *others), ordinal)

    def settle(self) -> None:
        """Make a tree of them: add directories that are missing, and leave out what has a directory's name."""
        for path in sorted(self._entries):
            parent = split(path)[0]
            while path:
                above = self.get(parent)
                if above is not None and above.version.kind == b"d":
                    break
                if above is not None:
                    self._problem("in-the-way", parent, "not imported: other entries are below its name")
                self._add_directory(parent, path)
                path, parent = parent, split(parent)[0]
        if b"" not in self._entries:
            self._add_directory(b"", b"")
        self._part_single_links()

    def _add_directory(self, path: bytes, below: bytes) -> None:
        """Add a directory with the owner and the time of what is below it."""
        found = self.get(below)
        v = FileVersion(b"", b"d", 0, 0, 0, b"", b"", 0, 0, None, 0, None, None, None, None)
        if found is not None:
            v = found.version
        self.add(
            Arrival(
                FileVersion(
                    *(path, b"d", _DIRECTORY_MODE, v.uid, v.gid, v.user, v.group, v.mtime_ns),
                    *(0, None, 0, None, None, None, None),
                ),
                -1,
            )
        )

    def _part_single_links(self) -> None:
        """An inode of which one path is left has no link."""
        paths = Counter(arrival.version.link for arrival in self if arrival.version.link is not None)
        for arrival in list(self) if 1 in paths.values() else ():
            if arrival.version.link is not None and paths[arrival.version.link] == 1:
                self.add(Arrival(arrival.version._replace(link=None), arrival.ordinal))

    def __iter__(self) -> Iterator[Arrival]:
        for path in sorted(self._entries):
            arrival = self.get(path)
            assert arrival is not None
            yield arrival


def assemble(
    database: Database,
    writer: ContentWriter,
    arrivals: Arrivals,
    description: Description,
    problems: List[Problem],
    *,
    read_bytes: int,
    begin: float,
    clock: Callable[[], int],
    selection: Optional[Selection] = None,
) -> SnapshotResult:
    """Make a snapshot of entries whose contents were all flushed.

    Args:
        problems: Of the source, so far.
        read_bytes: For the result.
        begin: When the operation began, by the monotonic clock.
        selection: What was to be taken of the source; None for everything.

    Raises:
        ContentsVanishedError: A prune beside this took contents that were found.
    """

    def attempt() -> SnapshotResult:
        return commit(
            *(database, _draft(database, arrivals, description, selection), description, writer.ids, clock),
            begin=begin,
            read_bytes=read_bytes,
            new_bytes=writer.new_bytes,
            stored_bytes=writer.stored_bytes,
            problems=problems,
        )

    return until_committed(database.path, attempt, (BaseMovedError,))


def _draft(database: Database, arrivals: Arrivals, about: Description, selection: Optional[Selection]) -> Draft:
    """Merge entries with those of the last snapshot of their source, both in the order of their paths."""
    draft = Draft(database, about.host, about.root)
    there = iter(()) if draft.base is None else versions_of(database, draft.base)
    old = next(there, None)
    for version, ordinal in arrivals:
        is_file = version.kind != b"d"
        draft.hold(version)
        while old is not None and old.version.path < version.path:
            _end(draft, old, selection)
            old = next(there, None)
        if old is not None and old.version.path == version.path:
            same = old.version == version
            was_file = old.version.kind != b"d"
            draft.unchanged += is_file and same
            draft.changed += is_file and was_file and not same
            draft.new += is_file and not was_file
            draft.removed += was_file and not is_file
            if not same:
                draft.closed.append((version.path, old.first))
            old = next(there, None)
            if same:
                continue
        else:
            draft.new += is_file
        draft.rows.add(version_row(version, None, None, ordinal))
    while old is not None:
        _end(draft, old, selection)
        old = next(there, None)
    return draft


def _end(draft: Draft, old: StoredVersion, selection: Optional[Selection]) -> None:
    """End a version of an entry that did not come."""
    draft.closed.append((old.version.path, old.first))
    is_file = old.version.kind != b"d"
    draft.removed += is_file
    draft.left_out += is_file and selection is not None and old.version not in selection
