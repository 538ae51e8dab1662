"""Making a snapshot of entries that come from anywhere: compare them with the source's last snapshot, and commit.

Owns what makes entries a snapshot, where no directory is walked: their order, the directories above them, and the
comparison. Where they come from, and how their bytes were stored, is the caller's business.
"""

from __future__ import annotations

import marshal
import time
from array import array
from collections import Counter
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import attrs

from ..anomalies import HISTORY, judge
from ..errors import RepositoryLockedError
from ..results.changes import Changes
from ..results.problem import Problem
from ..results.snapshot import SnapshotResult
from ..storage import catalog, records
from ..storage.contents import reference
from ..storage.database import Database
from ..storage.digest import MODULUS, FileVersion, row_hash, to_bytes
from ..storage.spool import Spool
from ..storage.transfer import versions_of
from ..storage.writer import ContentWriter
from ..tree.confined import split

__all__ = ["Arrival", "Arrivals", "Description", "assemble"]

#: Times that the comparison begins anew because another process has committed a snapshot of the same source.
_ATTEMPTS = 50

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


@attrs.frozen(kw_only=True)
class Description:
    """What is said of a snapshot.

    Attributes:
        root: What names the source: an absolute path, or a name of something else.
    """

    host: str
    root: bytes
    started_ns: int
    note: str = ""
    tags: Tuple[str, ...] = ()
    pinned: bool = False


class _BaseMovedError(Exception):
    """Another process has committed a snapshot of the same source."""


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
) -> SnapshotResult:
    """Make a snapshot of entries whose contents were all flushed.

    Args:
        problems: Of the source, so far.
        read_bytes: For the result.
        begin: When the operation began, by the monotonic clock.

    Raises:
        ContentsVanishedError: A prune beside this took contents that were found.
    """
    for _ in range(_ATTEMPTS):
        comparison = _Comparison(database, arrivals, description)
        try:
            row, changes = comparison.commit(writer, problems, clock)
        except _BaseMovedError:
            continue
        return SnapshotResult(
            snapshot=row.to_result(),
            new_files=changes.new_files,
            changed_files=changes.changed_files,
            unchanged_files=changes.unchanged_files,
            removed_files=changes.removed_files,
            skipped_files=0,
            read_bytes=read_bytes,
            new_bytes=writer.new_bytes,
            stored_bytes=writer.stored_bytes,
            elapsed_seconds=time.monotonic() - begin,
            problems=tuple(problems),
        )
    raise RepositoryLockedError(
        f"other processes changed the repository {database.path} each of {_ATTEMPTS} times that the snapshot was to be "
        "committed; what was read is stored: run it again",
        database.path,
    )


class _Comparison:
    """Entries beside the last snapshot of their source."""

    def __init__(self, database: Database, arrivals: Arrivals, description: Description) -> None:
        self._database = database
        self._description = description
        self._source = catalog.source_id(database, description.host, description.root)
        self._base = catalog.newest_snapshot(database, self._source)
        self._rows = Spool()
        self._closed: List[Tuple[bytes, int]] = []
        self._digest = self._files = self._directories = self._size = 0
        self._new = self._changed = self._unchanged = self._removed = 0
        self._compare(arrivals)

    def _compare(self, arrivals: Arrivals) -> None:
        """Merge two lists in the order of their paths."""
        database = self._database
        there = iter(()) if self._base is None else versions_of(database, catalog.find_snapshot(database, self._base))
        old = next(there, None)
        rows = []
        for version, ordinal in arrivals:
            is_file = version.kind != b"d"
            self._digest += row_hash(version)
            self._size += version.size
            self._files += is_file
            self._directories += not is_file
            while old is not None and old.version.path < version.path:
                self._end(old.version, old.first)
                old = next(there, None)
            if old is not None and old.version.path == version.path:
                same = old.version == version
                self._unchanged += is_file and same
                self._changed += is_file and not same
                if not same:
                    self._closed.append((version.path, old.first))
                old = next(there, None)
                if same:
                    continue
            else:
                self._new += is_file
            path, *others = catalog.version_row(version, None, None, ordinal)
            rows.append((path, marshal.dumps(tuple(others))))
        self._rows.extend(rows)
        while old is not None:
            self._end(old.version, old.first)
            old = next(there, None)

    def _end(self, version: FileVersion, first: int) -> None:
        self._closed.append((version.path, first))
        self._removed += version.kind != b"d"

    def commit(
        self, writer: ContentWriter, problems: List[Problem], clock: Callable[[], int]
    ) -> Tuple[catalog.SnapshotRow, Changes]:
        """Commit the snapshot, and say what it changed."""
        database, ids, about = self._database, writer.ids, self._description
        with database.without_foreign_keys(), database.transaction():
            source = catalog.source_id(database, about.host, about.root, create=True)
            assert source is not None
            if catalog.newest_snapshot(database, source) != self._base:
                raise _BaseMovedError
            number = catalog.next_snapshot_id(database)
            if self._base is not None:
                catalog.close_versions(database, source, self._base, self._closed)
            counts = array("I", bytes(4 * len(ids)))
            catalog.insert_versions(database, source, number, self._base is not None, self._rows.drain(counts), ids)
            brought = reference(database, number, ids, counts)
            row = catalog.insert_snapshot(
                database,
                catalog.SnapshotRow(
                    id=number,
                    source=source,
                    host=about.host,
                    root=about.root,
                    started_ns=about.started_ns,
                    finished_ns=clock(),
                    files=self._files,
                    directories=self._directories,
                    size=self._size,
                    distinct_size=brought.size,
                    skipped_files=0,
                    problem_files=len({problem.path for problem in problems}),
                    note=about.note,
                    tags=about.tags,
                    tree_digest=to_bytes(self._digest % MODULUS),
                ),
            )
            changes = Changes(
                new_files=self._new,
                changed_files=self._changed,
                unchanged_files=self._unchanged,
                removed_files=self._removed,
                new_contents=brought.contents,
                new_bytes=writer.new_bytes,
                stored_bytes=writer.stored_bytes,
            )
            alerts = judge(changes, records.past_changes(database, source, HISTORY))
            records.insert_changes(database, number, changes, alerts)
            if about.pinned:
                records.pin(database, number, row.finished_ns)
            return attrs.evolve(row, pinned=about.pinned, alerts=alerts), changes
