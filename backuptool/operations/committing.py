"""Committing a snapshot: everything that makes it one, in one transaction, and beginning anew where that cannot be.

Owns what is written when, and the check that nothing has changed meanwhile. What a snapshot holds, and how it differs
from the one before it, is found out by those who commit.
"""

from __future__ import annotations

import time
from array import array
from contextlib import contextmanager
from typing import Callable, Iterator, Optional, Sequence, Tuple, Type, TypeVar

import attrs

from ..anomalies import HISTORY, judge
from ..errors import RepositoryLockedError
from ..results.changes import Changes
from ..results.problem import Problem
from ..results.snapshot import SkippedFile, SnapshotResult
from ..storage import records
from ..storage.database import Database
from ..storage.digest import MODULUS, FileVersion, row_hash, to_bytes
from ..storage.files import close_versions, insert_versions, update_stamps
from ..storage.refcounts import Brought, ContentsVanishedError, reference
from ..storage.snapshots import (
    SnapshotRow,
    find_snapshot,
    insert_snapshot,
    newest_snapshot,
    next_snapshot_id,
    source_id,
)
from ..storage.spool import Spool

__all__ = [
    "BaseMovedError",
    "Description",
    "Draft",
    "commit",
    "commit_copy",
    "until_committed",
]

#: Times that a snapshot begins anew because another process changed what it was based on. Of that many at once, each
#: of which saves the same source, all get their turn; an attempt reads nothing that was read before.
_ATTEMPTS = 50

_Result = TypeVar("_Result")


class BaseMovedError(Exception):
    """Another process has changed what a snapshot was compared with."""


def until_committed(
    path: str,
    attempt: Callable[[], _Result],
    anew: Tuple[Type[Exception], ...] = (BaseMovedError, ContentsVanishedError),
) -> _Result:
    """Do something that ends with a commit, until it is not in the way of others.

    Args:
        path: Of the repository.
        attempt: What is to be done.
        anew: Errors after which it is done anew.

    Raises:
        RepositoryLockedError: Others were in the way each time.
    """
    for _ in range(_ATTEMPTS):
        try:
            return attempt()
        except anew:
            pass
    raise RepositoryLockedError(
        f"other processes changed the repository {path} each of {_ATTEMPTS} times that a snapshot was to be committed; "
        "what was stored stays: run it again",
        path,
    )


@attrs.frozen(kw_only=True)
class Description:
    """What is said of a snapshot.

    Attributes:
        root: What names the source: an absolute path, or a name of something else.
        started_ns: When it began, ns since 1970 UTC.
    """

    host: str
    root: bytes
    started_ns: int
    note: str = ""
    tags: Tuple[str, ...] = ()
    pinned: bool = False


class Draft:
    """What a snapshot will hold, and how it differs from the newest one of its source, its base.

    Args:
        database: Where it is to be committed.
        host, root: Of the source.

    Attributes:
        source: The source's id, None if nothing of it was saved yet.
        base: None if there is none.
        files, directories, size: What the snapshot holds: entries, and bytes.
        digest: Of its tree; not reduced to 256 bits.
        new, changed, unchanged, removed: Entries that are no directories: the first three make up what it holds, the
            last three what the base holds.
        left_out: Those of the removed ones that are still there.
        rows: Of versions that begin with it.
        closed: (path, first) of versions that end with the base.
        stamps: (path, first, ctime_ns, inode) of versions that go on, and were looked into.
    """

    def __init__(self, database: Database, host: str, root: bytes) -> None:
        self.host = host
        self.root = root
        self.source = source_id(database, host, root)
        newest = newest_snapshot(database, self.source)
        self.base = None if newest is None else find_snapshot(database, newest)
        self.digest = self.files = self.directories = self.size = 0
        self.new = self.changed = self.unchanged = self.removed = self.left_out = 0
        self.rows = Spool()
        self.closed: list[tuple[bytes, int]] = []
        self.stamps: list[tuple[bytes, int, Optional[int], Optional[int]]] = []

    @property
    def tree_digest(self) -> bytes:
        """The digest as a snapshot has it."""
        return to_bytes(self.digest % MODULUS)

    def hold(self, version: FileVersion, sign: int = 1) -> None:
        """Count a version among what it holds, or no more."""
        self.digest += sign * row_hash(version)
        self.size += sign * version.size
        if version.kind == b"d":
            self.directories += sign
        else:
            self.files += sign


def commit(
    database: Database,
    draft: Draft,
    about: Description,
    ids: Sequence[int],
    clock: Callable[[], int],
    *,
    begin: float,
    read_bytes: int,
    new_bytes: int,
    stored_bytes: int,
    problems: Sequence[Problem],
    skipped: Sequence[SkippedFile] = (),
    databases: Sequence[str] = (),
) -> SnapshotResult:
    """Commit a snapshot.

    Args:
        ids: Id of each content by ordinal.
        begin: When the operation began, by the monotonic clock.
        read_bytes, new_bytes, stored_bytes: What was read, what of it is new, and what that takes.
        problems, skipped, databases: What there is to tell of the source.

    Raises:
        BaseMovedError: Another process has committed a snapshot of the same source.
        ContentsVanishedError: A prune beside this took contents that were found.
    """
    with _transaction(database, draft) as (source, number):
        brought = _insert_versions(database, draft, source, number, ids)
        row = insert_snapshot(
            database,
            SnapshotRow(
                id=number,
                source=source,
                host=about.host,
                root=about.root,
                started_ns=about.started_ns,
                finished_ns=clock(),
                files=draft.files,
                directories=draft.directories,
                size=draft.size,
                distinct_size=brought.size,
                skipped_files=len(skipped),
                problem_files=len({problem.path for problem in problems}),
                note=about.note,
                tags=about.tags,
                tree_digest=draft.tree_digest,
                pinned=about.pinned,
            ),
        )
        changes = Changes(
            new_files=draft.new,
            changed_files=draft.changed,
            unchanged_files=draft.unchanged,
            removed_files=draft.removed,
            new_contents=brought.contents,
            new_bytes=new_bytes,
            stored_bytes=stored_bytes,
        )
        row = attrs.evolve(row, alerts=judge(changes, records.past_changes(database, source, HISTORY), draft.left_out))
        _insert_records(database, row, changes, row.finished_ns)
    return SnapshotResult(
        snapshot=row.to_result(),
        new_files=changes.new_files,
        changed_files=changes.changed_files,
        unchanged_files=changes.unchanged_files,
        removed_files=changes.removed_files,
        skipped_files=len(skipped),
        read_bytes=read_bytes,
        new_bytes=new_bytes,
        stored_bytes=stored_bytes,
        elapsed_seconds=time.monotonic() - begin,
        databases=tuple(databases),
        skipped=tuple(skipped),
        problems=tuple(problems),
    )


def commit_copy(
    database: Database,
    draft: Draft,
    original: SnapshotRow,
    changes: Optional[Changes],
    ids: Sequence[int],
    now_ns: int,
) -> SnapshotRow:
    """Commit a snapshot of which all is told that is told of another one, and return it.

    Args:
        original: The other one.
        changes: What that changed, None if it is not known.
        ids: Id of each content by ordinal.
        now_ns: When it is pinned, if it is.

    Raises:
        BaseMovedError: Another process has committed a snapshot of the same source.
        ContentsVanishedError: A prune beside this took contents that were found.
    """
    with _transaction(database, draft) as (source, number):
        brought = _insert_versions(database, draft, source, number, ids)
        row = insert_snapshot(
            database,
            attrs.evolve(
                original,
                id=number,
                source=source,
                files=draft.files,
                directories=draft.directories,
                size=draft.size,
                distinct_size=brought.size,
                tree_digest=draft.tree_digest,
            ),
        )
        _insert_records(database, row, changes, now_ns)
    return row


@contextmanager
def _transaction(database: Database, draft: Draft) -> Iterator[Tuple[int, int]]:
    """Begin the transaction of a snapshot: the id of its source, and its number.

    What a prune took meanwhile is counted when it is referred to: foreign keys would ask for each row.
    """
    with database.without_foreign_keys(), database.transaction():
        source = source_id(database, draft.host, draft.root, create=True)
        assert source is not None
        if newest_snapshot(database, source) != (None if draft.base is None else draft.base.id):
            raise BaseMovedError
        yield source, next_snapshot_id(database)


def _insert_versions(database: Database, draft: Draft, source: int, number: int, ids: Sequence[int]) -> Brought:
    """End the versions that end, begin those that begin, and refer to their contents."""
    if draft.base is not None:
        close_versions(database, source, draft.base.id, draft.closed)
        update_stamps(database, source, draft.stamps)
    counts = array("I", bytes(4 * len(ids)))
    insert_versions(database, source, number, draft.base is not None, draft.rows.drain(counts), ids)
    return reference(database, number, ids, counts)


def _insert_records(database: Database, row: SnapshotRow, changes: Optional[Changes], now_ns: int) -> None:
    """Insert what is kept beside a snapshot."""
    if changes is not None:
        records.insert_changes(database, row.id, changes, row.alerts)
    if row.pinned:
        records.pin(database, row.id, now_ns)
