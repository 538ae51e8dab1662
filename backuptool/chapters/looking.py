"""Looking into snapshots: history and search, lists, files in place, differences, figures."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Iterable, Iterator, Optional, Union

from ..progress import Reporter

if TYPE_CHECKING:
    import datetime
    import io

    from ..results.diff import Diff, Difference
    from ..results.entry import Entry, Kind
    from ..results.history import FindResult, History
    from ..results.listing import Listing
    from ..results.stats import Stats
    from ..snapshot_path import SnapshotPath

from ..parameters import (
    BytesPath,
    Progress,
    SnapshotReference,
    digest_of,
    machine_path,
    reference_of,
    root_of,
    strings_of,
    time_ns_of,
)
from .opened import Opened

__all__ = ["Looking"]


class Looking(Opened):
    """What there is, where it came from, and in what it differs."""

    def history(self, path: BytesPath, *, source: Optional[BytesPath] = None, host: Optional[str] = None) -> History:
        """Return every version of a path: which snapshots have it, what changed, where it went and came from.

        A rename or a move is recognised by the content: where it was under another path before, or is after.

        Args:
            path: Relative to the source; or, with a slash or ``~`` in front, a path of this machine that was saved.
            source: Only in snapshots of this directory.
            host: Only in snapshots taken on this machine.

        Raises:
            PathNotFoundError: It is a path of this machine, and nothing above it was ever saved.

        Cost: one index look-up a source; for what moved, the changes between two neighbouring snapshots.
        """
        from ..operations.looking.history import history

        with self._pool.reading() as database:
            return history(database, machine_path(path), root=root_of(source), host=host)

    def find(
        self,
        name: Optional[str] = None,
        *,
        path: Optional[str] = None,
        regex: Optional[str] = None,
        kind: Optional[Kind] = None,
        larger_than: Optional[int] = None,
        smaller_than: Optional[int] = None,
        newer: Union[int, datetime.date, None] = None,
        older: Union[int, datetime.date, None] = None,
        sha256: Union[str, bytes, None] = None,
        snapshot: Optional[SnapshotReference] = None,
        source: Optional[BytesPath] = None,
        host: Optional[str] = None,
        limit: Optional[int] = None,
    ) -> FindResult:
        """Search all versions of all paths in all snapshots at once. What is asked for must all be met.

        In patterns ``*`` stands for anything but a slash, ``**`` for anything, ``?`` for one character, ``[a-z]`` and
        ``[!a-z]`` for one of a set. Case counts.

        Args:
            name: Pattern of the name, in whatever directory it is.
            path: Pattern of the whole path, relative to the source.
            regex: Regular expression that occurs in the path, relative to the source.
            kind: What it is: ``"file"``, ``"directory"``, ``"symlink"`` …
            larger_than: Only files above this many bytes.
            smaller_than: Only files below this many bytes.
            newer: Only what was modified then or later: ns since 1970 UTC, or a datetime, local if it has no zone; a
                date is its first moment.
            older: Only what was modified then or earlier.
            sha256: Only files with these bytes: 64 hex digits as ``sha256sum`` prints them, or 32 bytes.
            snapshot: Only what this snapshot has.
            source: Only in snapshots of this directory.
            host: Only in snapshots taken on this machine.
            limit: At most so many versions.

        Raises:
            PatternError: A pattern cannot be understood.
            SnapshotNotFoundError: There is no such snapshot.
            ValueError: There is no such kind, or that is no SHA-256.
            TypeError: That is no time.

        Cost: one sweep over the versions in the catalog, whatever the number of snapshots: about 0.5 s for a million.
        """
        from ..operations.looking.find import FindOptions, find

        options = FindOptions(
            name=name,
            path=path,
            regex=regex,
            kind=kind,
            larger_than=larger_than,
            smaller_than=smaller_than,
            oldest_ns=time_ns_of(newer),
            newest_ns=time_ns_of(older),
            digest=digest_of(sha256),
            snapshot=None if snapshot is None else reference_of(snapshot),
            root=root_of(source),
            host=host,
            limit=limit,
        )
        with self._pool.reading() as database:
            return find(database, options)

    def ls(self, snapshot: SnapshotReference, path: BytesPath = "", *, recursive: bool = False) -> Listing:
        """Return what is in a directory of a snapshot; of a file, the file.

        Args:
            snapshot: A :data:`SnapshotReference`.
            path: Relative to the source, or a path of this machine below it.
            recursive: Everything below it.

        Raises:
            SnapshotNotFoundError: There is no such snapshot.
            PathNotFoundError: There is no such path in it.

        Cost: follows the entries of the directory; what is below its subdirectories is leapt over.
        """
        from ..operations.looking.ls import list_directory

        with self._pool.reading() as database:
            return list_directory(database, reference_of(snapshot), machine_path(path), recursive=recursive)

    def walk(self, snapshot: SnapshotReference, path: BytesPath = "") -> Iterator[Entry]:
        """Yield everything below a directory of a snapshot in byte order of the paths, in constant memory.

        Args:
            snapshot: A :data:`SnapshotReference`.
            path: Relative to the source, or a path of this machine below it.

        Raises:
            SnapshotNotFoundError: There is no such snapshot, or it was pruned meanwhile.
            PathNotFoundError: There is no such path in it.
            WrongKindError: It is no directory.
            CorruptionError: A row is damaged.
        """
        from ..operations.looking.ls import walk

        return walk(self._database(), reference_of(snapshot), machine_path(path), recursive=True)

    def open(self, snapshot: SnapshotReference, path: BytesPath) -> io.BufferedReader:
        """Open a file of a snapshot for reading, where it is: nothing is restored.

        The file can be sought in, and only the packs are read that what is asked for lies in. All files that are open
        share one cache of 16 MiB of them, until :meth:`close`. Every byte was compared with a hash before it is given
        out. It may stay open beside snapshots and prunes; once its snapshot is pruned, reading on may fail.

        Args:
            snapshot: A :data:`SnapshotReference`.
            path: Relative to the source, or a path of this machine below it.

        Raises:
            SnapshotNotFoundError: There is no such snapshot.
            PathNotFoundError: There is no such path in it.
            WrongKindError: It is no regular file; symlinks are not followed.
            ContentMissingError, ContentCorruptError: It cannot be given back. Reading may raise these as well.

        Cost: three index look-ups; of a large file also the list of its parts, about 2 µs each.
        """
        from ..operations.looking.opening import open_file

        return open_file(self._reader(), reference_of(snapshot), machine_path(path))

    def tree(self, snapshot: SnapshotReference = "latest") -> SnapshotPath:
        """Return the root of a snapshot as a path object, to be used like a :class:`pathlib.Path`.

        Args:
            snapshot: A :data:`SnapshotReference`; what ``"latest"`` means is decided now, not when it is used.

        Raises:
            SnapshotNotFoundError: There is no such snapshot.

        Example:
            >>> for path in repo.tree("latest").rglob("*.csv"):     # doctest: +SKIP
            ...     print(path, path.read_text()[:20])
        """
        from ..snapshot_path import SnapshotPath
        from ..storage.snapshots import find_snapshot

        with self._pool.reading() as database:
            return SnapshotPath(self, find_snapshot(database, reference_of(snapshot)).to_result())

    def diff(self, old: SnapshotReference, new: Optional[SnapshotReference] = None, *, path: BytesPath = "") -> Diff:
        """Return in what two snapshots differ: what was added, removed, changed and moved.

        Args:
            old: A :data:`SnapshotReference`.
            new: Another one; by default the newest of the same source.
            path: Only this file, or what is below this directory.

        Raises:
            SnapshotNotFoundError: There is no such snapshot.
            PathNotFoundError: Neither has that path.

        Cost: of one source, follows what changed between the two; of two sources, both trees are read.
        """
        from ..operations.looking.diff import diff

        with self._pool.reading() as database:
            return diff(database, reference_of(old), None if new is None else reference_of(new), machine_path(path))

    def iter_diff(
        self, old: SnapshotReference, new: Optional[SnapshotReference] = None, *, path: BytesPath = ""
    ) -> Iterator[Difference]:
        """Yield what :meth:`diff` gathers, one by one: for differences that are too many for memory.

        Args:
            old: A :data:`SnapshotReference`.
            new: Another one; by default the newest of the same source.
            path: Only this file, or what is below this directory.

        Raises:
            SnapshotNotFoundError: There is no such snapshot, or it was pruned meanwhile.
            PathNotFoundError: Neither has that path.
            CorruptionError: A row is damaged.

        Cost: as :meth:`diff`; the keys of what changed are kept in memory, about 250 bytes each.
        """
        from ..operations.looking.diff import differences

        return differences(
            self._database(), reference_of(old), None if new is None else reference_of(new), machine_path(path)
        )

    def text_diff(
        self,
        old: SnapshotReference,
        new: Optional[SnapshotReference],
        path: BytesPath,
        *,
        context: int = 3,
        max_bytes: int = 16 << 20,
    ) -> str:
        """Return how a text file changed between two snapshots, as a unified diff; ``""`` if it did not.

        Where one of them does not have it, it counts as empty. Of files that are not text it only says that they
        differ. Bytes that are not UTF-8 come as lone surrogates.

        Args:
            old: A :data:`SnapshotReference`.
            new: Another one; None for the newest of the same source.
            path: The file, relative to the source, or a path of this machine below it.
            context: Lines shown around each change.
            max_bytes: Larger files are not compared line by line.

        Raises:
            SnapshotNotFoundError: There is no such snapshot.
            PathNotFoundError: Neither has that path.
            WrongKindError: It is no regular file.
            ContentMissingError, ContentCorruptError: It cannot be read.
        """
        from ..operations.looking.text_diff import text_diff

        lines = text_diff(
            self._reader(),
            reference_of(old),
            None if new is None else reference_of(new),
            machine_path(path),
            context=context,
            limit=max_bytes,
        )
        return "".join(f"{line}\n" for line in lines)

    def compare(
        self,
        snapshot: SnapshotReference,
        directory: BytesPath,
        *,
        content: bool = True,
        exclude: Iterable[str] = (),
        progress: Progress = None,
    ) -> Diff:
        """Compare a directory with a snapshot: what it has more, has not, or has otherwise.

        A file that cannot be read is a problem in the result; the rest is compared. Nothing is changed.

        Args:
            snapshot: A :data:`SnapshotReference`; it is the old state, the directory the new one.
            directory: The directory, be it the source or a restored copy.
            content: Read every file and compare its hash. Without, a file of the same size counts as having the same
                bytes, and only a time that differs hints at others.
            exclude: Patterns of what is not compared, as in a .gitignore file, relative to the directory.
            progress: A callback that receives :class:`ProgressEvent`, or True for a bar.

        Raises:
            SnapshotNotFoundError: There is no such snapshot.
            SourceError: The directory is missing, no directory, or cannot be listed.
            PatternError: A pattern cannot be understood.

        Cost: one lstat per entry; with ``content``, every file is read and hashed.
        """
        from ..operations.looking.compare import CompareOptions, compare

        options = CompareOptions(
            directory=os.path.expanduser(os.fsencode(directory)), content=content, exclude=tuple(strings_of(exclude))
        )
        with Reporter(progress) as reporter, self._pool.reading() as database:
            return compare(database, reference_of(snapshot), options, reporter)

    def stats(self, *, source: Optional[BytesPath] = None, host: Optional[str] = None, top: int = 10) -> Stats:
        """Return what the repository, its sources and each of its snapshots take, and which files stand out.

        Args:
            source: Only snapshots and files of this directory; the totals are still those of the whole repository.
            host: Only those of this machine.
            top: How many of the largest, and of the most changed files are named.

        Raises:
            ValueError: ``top`` is negative.

        Cost: three sweeps over the catalog in SQL, and for each snapshot a look at what it alone has; of each pack one
        page of 16 KiB. No trees are walked, no packs read. With 1 million files and 200 snapshots 2 to 3 seconds, in
        which nobody can commit.
        """
        from ..operations.sources import Selection
        from ..operations.stats import stats

        if top < 0:
            raise ValueError(f"top must be 0 or more, not {top}")
        with self._pool.reading() as database:
            return stats(database, Selection(root_of(source), host), top)
