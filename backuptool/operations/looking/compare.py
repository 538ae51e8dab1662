"""Comparing a directory with a snapshot: what differs, by content, or by size and time.

Owns the merge of the walk with the catalog, and what counts as a difference. The directory is read as a snapshot reads
it, so that races, symlinks and what cannot be read are handled the same way.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import Iterator, List, Optional, Tuple, Union

import attrs

from ...progress import Reporter
from ...results.diff import Diff
from ...results.problem import Problem
from ...storage.database import Database
from ...storage.digest import FileVersion
from ...storage.files import files_of
from ...storage.recognition import open_now
from ...storage.snapshots import SnapshotRow, find_snapshot
from ...tree.exclusions import Exclusions, require_below
from ...tree.hashing import hash_file
from ...tree.held import OpenFiles
from ...tree.metadata import AnyStatus, clamp_ns, kind_of
from ...tree.portability import group_name, user_name
from ...tree.source import FileChangedError, Source
from .differing import Change, LinkGroups, Moves, Tally, moves_between
from .locating import shown

__all__ = ["CompareOptions", "compare"]


@attrs.frozen(kw_only=True)
class CompareOptions:
    """What is compared, and how; see :meth:`backuptool.Repository.compare`."""

    directory: bytes
    content: bool = True
    exclude: Tuple[str, ...] = ()


def compare(database: Database, reference: Union[int, str], options: CompareOptions, reporter: Reporter) -> Diff:
    """Return in what a directory differs from a snapshot.

    Raises:
        SnapshotNotFoundError: There is no such snapshot.
        SourceError: The directory is missing, no directory, or cannot be listed.
        PatternError: A pattern cannot be understood.
    """
    snapshot = find_snapshot(database, reference)
    exclusions = Exclusions.of(options.exclude, (), False, None, False)
    source = Source(options.directory, OpenFiles(open_now()))
    try:
        require_below(exclusions, options.directory, source.root)
        run = _Comparison(database, snapshot, source, exclusions, options.content, reporter)
        return run.run()
    finally:
        source.close()


class _Comparison:
    """One walk over the directory."""

    def __init__(
        self,
        database: Database,
        snapshot: SnapshotRow,
        source: Source,
        exclusions: Exclusions,
        content: bool,
        reporter: Reporter,
    ) -> None:
        self._database = database
        self._snapshot = snapshot
        self._source = source
        self._exclusions = exclusions
        self._content = content
        self._reporter = reporter
        self._tally = Tally()
        self._unreadable: set[bytes] = set()
        self._added: dict[bytes, os.stat_result] = {}  # files that the snapshot does not have
        self._entries = self._read_files = self._read_bytes = 0

    def run(self) -> Diff:
        """Compare everything."""
        changes = list(self._changes())
        moves = self._moves(changes)
        removed = {change.old.path: change.old for change in changes if change.old is not None and change.new is None}
        differences = []
        for change in changes:
            old, new, _ = change
            if new is None and old is not None and old.path in moves.olds:
                continue
            if new is not None and new.path in moves.sources:
                change = Change.of(removed[moves.sources[new.path]], new, LinkGroups()) or change
            if self._tally.is_sound(change):
                differences.append(self._tally.add(change))
        return self._tally.diff(
            differences,
            old=self._snapshot.to_result(),
            directory=shown(self._source.root),
            read_files=self._read_files,
            read_bytes=self._read_bytes,
        )

    def _changes(self) -> Iterator[Change]:
        """Yield what differs at each path, in byte order."""
        links = LinkGroups()
        for old, status in self._merged():
            new = None if status is None else self._look(*status, old)
            if new is None and (old is None or _is_within(old.path, self._unreadable)):
                continue
            change = Change.of(old, new, links)
            if change is not None:
                yield change

    def _merged(self) -> Iterator[Tuple[Optional[FileVersion], Optional[Tuple[bytes, os.stat_result]]]]:
        """Yield what the snapshot and the directory have at each path, in byte order."""
        walk = self._source.walk(
            self._exclusions, self._unlisted, self._database.identities(), self._database.journal_names()
        )
        saved = self._saved()
        old, entry = next(saved, None), next(walk, None)
        while old is not None or entry is not None:
            if entry is None or (old is not None and old.path < entry[0]):
                yield old, None
                old = next(saved, None)
            elif old is None or entry[0] < old.path:
                yield None, entry
                entry = next(walk, None)
            else:
                yield old, entry
                old, entry = next(saved, None), next(walk, None)

    def _saved(self) -> Iterator[FileVersion]:
        patterns = self._exclusions.patterns
        for file in files_of(self._database, self._snapshot):
            version = file.version
            if patterns is None or not version.path or not patterns.leave_out(version.path, version.kind == b"d"):
                yield version

    def _look(self, path: bytes, status: os.stat_result, old: Optional[FileVersion]) -> Optional[FileVersion]:
        """Return an entry of the directory as a snapshot would have it; None if it is gone, or cannot be read."""
        self._entries += 1
        self._reporter.report(
            "compare",
            done_files=self._entries,
            total_files=self._snapshot.files + self._snapshot.directories,
            done_bytes=self._read_bytes,
            path=path,
        )
        kind = kind_of(status.st_mode)
        if kind is None:
            self._unreadable_at("unsupported", path, "is of a kind that cannot be saved")
            return None
        try:
            if kind == b"f" and self._content and old is not None and old.kind == b"f" and old.size == status.st_size:
                return self._read(path, status, old)
            now, target, xattrs = self._source.look(path, status)
        except FileChangedError as exc:
            self._unreadable_at("changed-kind", path, str(exc))
            return None
        except OSError as exc:
            if exc.errno in (errno.EINVAL, errno.ENOTDIR):
                self._unreadable_at("changed-kind", path, "became another kind of file while the tree was walked")
            elif exc.errno != errno.ENOENT:
                self._unreadable_at("unreadable", path, f"cannot be read: {exc.strerror or exc}")
            return None
        if kind == b"f" and old is None:
            self._added[path] = status
        # Without its bytes a file of the same size counts as having the same ones.
        digest = old.hash if kind == b"f" and old is not None and old.size == now.st_size else None
        return _version(path, kind, now, old, digest, target, xattrs)

    def _read(self, path: bytes, status: os.stat_result, old: Optional[FileVersion]) -> FileVersion:
        """Return a regular file as a snapshot would have it, after reading it."""
        found = hash_file(self._source, path, status)
        self._read_files += 1
        self._read_bytes += found.size
        if found.changed:
            self._problem("changed-while-read", path, "changed while it was read; what was read is compared")
        return _version(path, b"f", found.status, old, found.hash, None, found.xattrs)

    def _moves(self, changes: List[Change]) -> Moves:
        """Return which files of the snapshot are in the directory under another path, by their bytes."""
        gone = [
            change.old
            for change in changes
            if change.new is None and change.old is not None and change.old.kind == b"f" and change.old.size
        ]
        sizes = {version.size for version in gone} if self._content else set()
        come = []
        for position, (old, new, _) in enumerate(changes):
            if old is None and new is not None and new.kind == b"f" and new.size in sizes:
                with suppress(OSError, FileChangedError):  # gone by now: it came, whatever it held
                    version = self._read(new.path, self._added[new.path], None)
                    changes[position] = Change(None, version, ())
                    come.append((version.path, version.hash))
        return moves_between(((version.path, version.hash) for version in gone), come)

    def _unlisted(self, path: bytes, exc: OSError) -> None:
        self._unreadable_at("unreadable", path, f"cannot be listed: {exc.strerror}")

    def _unreadable_at(self, kind: str, path: bytes, message: str) -> None:
        """Note what cannot be compared; neither it nor what is below it is a difference."""
        self._unreadable.add(path)
        self._problem(kind, path, message)

    def _problem(self, kind: str, path: bytes, message: str) -> None:
        self._tally.problems.append(Problem(kind=kind, path=shown(path) or ".", message=message))


def _is_within(path: bytes, others: set[bytes]) -> bool:
    """Tell whether a path or a directory above it is among others."""
    while others:
        if path in others:
            return True
        if not path:
            break
        path = path.rpartition(b"/")[0]
    return False


def _version(
    path: bytes,
    kind: bytes,
    status: AnyStatus,
    old: Optional[FileVersion],
    digest: Optional[bytes],
    target: Optional[bytes],
    xattrs: Optional[bytes],
) -> FileVersion:
    """Return an entry of a directory as a snapshot would have it.

    Names of owners with the same number may be others on this machine, and where holes are is up to its file system:
    neither is a difference.
    """
    uid, gid = status.st_uid, status.st_gid
    linked = status.st_nlink > 1 and kind != b"d"
    return FileVersion(
        path=path,
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=uid,
        gid=gid,
        user=old.user if old is not None and old.uid == uid else user_name(uid),
        group=old.group if old is not None and old.gid == gid else group_name(gid),
        mtime_ns=clamp_ns(status.st_mtime_ns),
        size=status.st_size if kind == b"f" else 0,
        hash=digest,
        sparse=0 if old is None else old.sparse,
        rdev=status.st_rdev if kind in b"cb" else None,
        target=target,
        xattrs=xattrs,
        link=b"%d:%d" % (status.st_dev, status.st_ino) if linked else None,
    )
