"""The public Repository: a table of contents. Each method opens the file and hands over to one operation.

An operation is imported by the method that needs it: listing snapshots takes no longer than listing snapshots takes.

What the verbs do is in ``operations``, what the file looks like in ``storage``, what trees look like in ``tree``.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, BinaryIO, Callable, Iterable, Iterator, Mapping, Optional, Sequence, Union

from .progress import ProgressCallback, Reporter
from .storage.pool import BorrowingDatabase, ConnectionPool

if TYPE_CHECKING:
    import datetime
    import io

    from .guard import Guard
    from .operations.given import Given
    from .results.check import CheckResult
    from .results.copy import CopyResult
    from .results.diff import Diff, Difference
    from .results.drill import DrillResult
    from .results.entry import Entry, Kind
    from .results.export import ExportResult, TarCompression
    from .results.history import FindResult, History
    from .results.keys import KeyList
    from .results.listing import Listing
    from .results.prune import PrunePlan, PruneResult
    from .results.restore import OverwritePolicy, RestoreResult
    from .results.snapshot import Compression, Snapshot, SnapshotList, SnapshotResult
    from .results.stats import Stats
    from .retention import RetentionPolicy
    from .snapshot_path import SnapshotPath
    from .storage.encryption.keyring import Keyring
    from .storage.opened import SharedReader

__all__ = ["DEFAULT_MAX_FILE_SIZE", "Repository", "SnapshotReference"]

StrPath = Union[str, "os.PathLike[str]"]
BytesPath = Union[StrPath, bytes, "os.PathLike[bytes]"]
Progress = Union[ProgressCallback, bool, None]
Password = Union[str, bytes, Callable[[], Union[str, bytes]]]

#: How a snapshot is named: by its number; ``"latest"``, or ``"latest~1"`` for the one before it of the same source;
#: ``"latest:/home/you"`` or ``"latest:laptop:/home/you"`` for the newest one of a source; or as the Snapshot itself.
SnapshotReference = Union[int, str, "Snapshot"]

#: Files larger than this many bytes are skipped unless ``max_file_size`` says otherwise (1 GiB).
DEFAULT_MAX_FILE_SIZE = 1 << 30


class Repository:
    """A backup repository: one SQLite file that holds snapshots of directories.

    Making one opens nothing and creates nothing; the first :meth:`snapshot` creates the file. It is a context manager,
    may be used from several threads at once, and pickles by path (without a password).

    Args:
        path: The repository file.
        password: Opens an encrypted repository, and has the first snapshot create one: text, bytes (those of a key
            file), or a function that returns either and is called when the file is first opened. It is kept out of
            every text, and not pickled. With it a repository that is not encrypted is refused.
        lock_timeout: Seconds to wait for another process that is writing before RepositoryLockedError.
        max_helpers: How many processes may read, write and examine files beside this one, 0 for none. By default as
            many as there are processors, up to 8, where there is enough to do. Each takes up to 50 MB.

    Example:
        >>> with Repository("backups.db") as repo:              # doctest: +SKIP
        ...     result = repo.snapshot("~/photos", note="before the move")
        ...     repo.restore(result.snapshot.id, "/tmp/out")
    """

    def __init__(
        self,
        path: StrPath = "backups.db",
        *,
        password: Optional[Password] = None,
        lock_timeout: float = 60.0,
        max_helpers: Optional[int] = None,
    ) -> None:
        if max_helpers is not None and max_helpers < 0:
            raise ValueError(f"max_helpers must be 0 or more, not {max_helpers}")
        self._path = os.path.abspath(os.path.expanduser(os.fspath(path)))
        self._lock_timeout = lock_timeout
        self._max_helpers = max_helpers
        self._shared_reader: Optional[SharedReader] = None
        self._pool = ConnectionPool(self._path, lock_timeout, _keyring(password))

    @property
    def path(self) -> str:
        """Absolute path of the repository file."""
        return self._path

    @property
    def encrypted(self) -> bool:
        """Whether the file is there and is encrypted; its first bytes say so, no password is needed."""
        from .storage.recognition import is_encrypted, looking

        with looking():
            return is_encrypted(self._path)

    def snapshot(
        self,
        source: BytesPath,
        *,
        exclude: Iterable[str] = (),
        exclude_from: Iterable[StrPath] = (),
        exclude_if_present: Iterable[str] = (),
        exclude_caches: bool = False,
        exclude_larger_than: Optional[int] = None,
        max_file_size: Optional[int] = DEFAULT_MAX_FILE_SIZE,
        one_file_system: bool = False,
        live_sqlite: bool = True,
        compression: Compression = "balanced",
        note: str = "",
        tags: Iterable[str] = (),
        pinned: bool = False,
        host: Optional[str] = None,
        progress: Progress = None,
    ) -> SnapshotResult:
        """Save the present state of a directory; only what changed since its last snapshot is read.

        Creates the repository if there is none. A file that cannot be read is a problem in the result; the rest is
        saved. If it is interrupted no snapshot appears, and the next run finds what was stored already.

        Args:
            source: The directory; ``~`` is expanded, a symlink to a directory is followed.
            exclude: Patterns as in a .gitignore file, relative to the source.
            exclude_from: Files with such patterns, one a line.
            exclude_if_present: Leave out what is in directories that hold a file of one of these names.
            exclude_caches: Leave out what is in directories marked by a CACHEDIR.TAG file.
            exclude_larger_than: Leave out files above this many bytes without naming them.
            max_file_size: Skip files above this many bytes and name each in the result; None for no limit.
            one_file_system: Stay on the source's file system; mount points are saved as empty directories.
            live_sqlite: Capture SQLite databases in one state, also while programs write to them, without the logs and
                journals beside them; False to save them byte by byte.
            compression: How hard what is new is compressed: ``"fast"`` takes a tenth less time than ``"balanced"`` for
                3 % more room, ``"max"`` takes 16 % less room and three times the time. What is stored already stays as
                it is; one repository may hold all three.
            note: Free text kept with the snapshot.
            tags: Words kept with the snapshot.
            pinned: Whether it is to be removed only after it was unpinned (:meth:`annotate`).
            host: Name of the machine, by default its host name. Source and host together are what a snapshot is
                compared with.
            progress: A callback that receives :class:`ProgressEvent`, or True for a bar. If it raises, the operation
                ends, and the repository is as before.

        Raises:
            SourceError: The source is missing, no directory, or cannot be listed.
            PatternError: A pattern cannot be understood.
            ValueError: There is no such compression.
            RepositoryError: The repository cannot be opened or written to.

        Cost: one lstat per entry and one comparison with the catalog; reading, hashing and compressing what changed.
        """
        import socket

        from .operations.snapshot import SnapshotOptions, snapshot

        options = SnapshotOptions(
            source=os.path.expanduser(os.fsencode(source)),
            exclude=tuple(_strings(exclude)),
            exclude_from=tuple(os.path.expanduser(os.fspath(path)) for path in _strings(exclude_from)),
            exclude_if_present=tuple(_strings(exclude_if_present)),
            exclude_caches=exclude_caches,
            exclude_larger_than=exclude_larger_than,
            max_file_size=max_file_size,
            one_file_system=one_file_system,
            live_sqlite=live_sqlite,
            compression=compression,
            note=note,
            tags=tuple(sorted(set(_strings(tags)))),
            pinned=pinned,
            host=socket.gethostname() if host is None else host,
            most_helpers=self._max_helpers,
        )
        with Reporter(progress) as reporter:
            return snapshot(self._pool, options, reporter, clock=time.time_ns)

    def snapshot_files(
        self,
        files: Mapping[str, Given],
        name: str,
        *,
        compression: Compression = "balanced",
        note: str = "",
        tags: Iterable[str] = (),
        pinned: bool = False,
        host: Optional[str] = None,
        progress: Progress = None,
    ) -> SnapshotResult:
        """Save files that are given one by one: from memory, from streams, by path. All of them are saved, or none.

        They are a source of their own, which has a name in place of a directory: ``list`` shows ``files:NAME``. What
        its last snapshot has and is not given any more counts as removed. Bytes that are stored already are not stored
        again, whatever source had them; memory does not depend on the size of a stream.

        Args:
            files: For each path (relative, with ``/`` between names) its bytes, a binary file object that is read from
                where it is to its end, or the path of a file. A file with a path is saved with its mode, owner, time
                and attributes, symlinks are followed; one without is readable by its owner alone, and has the time of
                the first snapshot that has these bytes.
            name: Name of the source. With the host it is what a snapshot is compared with.
            compression: How hard what is new is compressed, as in :meth:`snapshot`.
            note: Free text kept with the snapshot.
            tags: Words kept with the snapshot.
            pinned: Whether it is to be removed only after it was unpinned (:meth:`annotate`).
            host: Name of the machine, by default its host name.
            progress: A callback that receives :class:`ProgressEvent`, or True for a bar.

        Raises:
            SourceError: A file cannot be read; no snapshot is saved. What a file object raises otherwise comes through.
            ValueError: There are no files, a path or the name is none, or there is no such compression.
            TypeError: Something is neither bytes, nor a binary file, nor a path.
            RepositoryError: The repository cannot be opened or written to.

        Cost: each file is read and hashed once; what is new is compressed.
        """
        import socket

        from .operations.files import FilesOptions, files_root, given_files, snapshot_files

        options = FilesOptions(
            files=given_files(files),
            root=files_root(name),
            compression=compression,
            note=note,
            tags=tuple(sorted(set(_strings(tags)))),
            pinned=pinned,
            host=socket.gethostname() if host is None else host,
        )
        with Reporter(progress) as reporter:
            return snapshot_files(self._pool, options, reporter, clock=time.time_ns)

    def list(
        self, *, source: Optional[BytesPath] = None, host: Optional[str] = None, tag: Optional[str] = None
    ) -> SnapshotList:
        """Return the snapshots, oldest first, with their sizes and the totals.

        Args:
            source: Only snapshots of this directory.
            host: Only snapshots taken on this machine.
            tag: Only snapshots with this tag.

        Cost: one row a snapshot; every figure is stored.
        """
        from .operations.listing import list_snapshots

        with self._pool.reading() as database:
            return list_snapshots(database, source=_root(source), host=host, tag=tag)

    def restore(
        self,
        snapshot: SnapshotReference,
        destination: BytesPath,
        *,
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
        overwrite: OverwritePolicy = "if-changed",
        delete_extra: bool = False,
        dry_run: bool = False,
        verify: bool = False,
        progress: Progress = None,
    ) -> RestoreResult:
        """Write a snapshot, or a part of it, into a directory.

        Each file is written under a temporary name, compared with its hash, and only then takes its own name. Running
        it again after an interruption finishes the rest. Nothing outside the destination is touched, also if there are
        symlinks in it.

        Args:
            snapshot: A snapshot's number, ``"latest"``, or another :data:`SnapshotReference`.
            destination: The directory; it is made if it is missing.
            include: Paths or patterns as in a .gitignore file; only what matches is restored.
            exclude: Paths or patterns of what is left out.
            overwrite: What to do with a file that is already there: ``"always"`` write it again, ``"if-changed"``
                (size or modification time differ), ``"if-newer"`` (the snapshot's is newer), ``"never"``.
            delete_extra: Remove what the snapshot does not have (within what include and exclude select).
            dry_run: Report what would be done; write nothing.
            verify: Read every file back afterwards and compare it with its hash.
            progress: A callback that receives :class:`ProgressEvent`, or True for a bar.

        Raises:
            SnapshotNotFoundError: There is no such snapshot; its message lists those there are.
            RestoreError: The destination cannot be written to at all.
            RepositoryNotFoundError, NotARepositoryError, CorruptionError: The repository cannot be read.
        """
        from .operations.restore import RestoreOptions, restore

        options = RestoreOptions(
            destination=os.path.expanduser(os.fsencode(destination)),
            include=tuple(_strings(include)),
            exclude=tuple(_strings(exclude)),
            overwrite=overwrite,
            delete_extra=delete_extra,
            dry_run=dry_run,
            verify=verify,
            most_helpers=self._max_helpers,
        )
        with Reporter(progress) as reporter, self._pool.reading() as database:
            return restore(database, _reference(snapshot), options, reporter)

    def annotate(
        self,
        snapshot: SnapshotReference,
        *,
        note: Optional[str] = None,
        add_tags: Iterable[str] = (),
        remove_tags: Iterable[str] = (),
        pinned: Optional[bool] = None,
    ) -> Snapshot:
        """Change the note, the tags or the pin of a snapshot, and return it as it is then.

        What is not given stays. A tag that is both added and removed is removed. The snapshot's digest changes with its
        note and its tags.

        Args:
            snapshot: A snapshot's number, or ``"latest"``.
            note: The new note; ``""`` for none.
            add_tags: Words to keep with the snapshot.
            remove_tags: Words to take away from it; one that it does not have is no error.
            pinned: True to have it removed only after it was unpinned, False to unpin it.

        Raises:
            SnapshotNotFoundError: There is no such snapshot; its message lists those there are.
            CorruptionError: What is stored of it is damaged, and would be hidden by a new digest.

        Cost: one transaction of two or three rows.
        """
        from .operations.annotate import annotate

        words = {"add_tags": tuple(_strings(add_tags)), "remove_tags": tuple(_strings(remove_tags))}
        with self._pool.writing() as database:
            return annotate(database, _reference(snapshot), note=note, pinned=pinned, clock=time.time_ns, **words)

    def prune(
        self,
        snapshots: Union[int, Iterable[int], RetentionPolicy, PrunePlan] = (),
        *,
        source: Optional[BytesPath] = None,
        host: Optional[str] = None,
        dry_run: bool = False,
        progress: Progress = None,
    ) -> PruneResult:
        """Remove snapshots; contents that others use stay, the rest goes, and the file gets smaller.

        Args:
            snapshots: One number or several, a policy, or a plan of :meth:`plan_prune`. With none, only leftovers of
                interrupted snapshots are removed.
            source: With a policy: only snapshots of this directory are looked at.
            host: With a policy: only snapshots taken on this machine are looked at.
            dry_run: Do all of it, measure what would be freed, and take it back.
            progress: A callback that receives :class:`ProgressEvent`, or True for a bar.

        Raises:
            SnapshotNotFoundError: One of the numbers does not exist; nothing is removed.
            SnapshotPinnedError: One of the numbers is that of a pinned snapshot; nothing is removed.
            PlanOutdatedError: The repository has changed since the plan was made; nothing is removed.
            ValueError: A source or host is given without a policy.

        Cost: follows what is removed, not what is kept.
        """
        from .operations.prune import prune
        from .operations.sources import Selection
        from .results.prune import PrunePlan
        from .retention import RetentionPolicy

        if (source is not None or host is not None) and not isinstance(snapshots, RetentionPolicy):
            raise ValueError("source and host are for policies; numbers and plans name their snapshots")
        wanted: Union[Sequence[int], RetentionPolicy, PrunePlan]
        if isinstance(snapshots, (RetentionPolicy, PrunePlan)):
            wanted = snapshots
        else:
            wanted = (snapshots,) if isinstance(snapshots, (int, str)) else tuple(snapshots)
        selection = Selection(_root(source), host)
        with Reporter(progress) as reporter, self._pool.writing() as database:
            return prune(database, wanted, selection, dry_run=dry_run, reporter=reporter, clock=time.time_ns)

    def plan_prune(
        self,
        policy: RetentionPolicy,
        *,
        source: Optional[BytesPath] = None,
        host: Optional[str] = None,
        progress: Progress = None,
    ) -> PrunePlan:
        """Return what a policy would keep and remove, why, and exactly what that frees. Nothing is changed.

        :meth:`prune` applies the plan, as long as the repository is as it was.

        Args:
            policy: The rules.
            source: Only snapshots of this directory are looked at.
            host: Only snapshots taken on this machine are looked at.
            progress: A callback that receives :class:`ProgressEvent`, or True for a bar.

        Cost: that of the prune itself, which is done and taken back; writers wait meanwhile.
        """
        return self.forecast([policy], source=source, host=host, progress=progress)[0]

    def forecast(
        self,
        policies: Iterable[RetentionPolicy],
        *,
        source: Optional[BytesPath] = None,
        host: Optional[str] = None,
        progress: Progress = None,
    ) -> tuple[PrunePlan, ...]:
        """Return a plan for each of several policies, to compare them. Nothing is changed.

        Args:
            policies: The candidates.
            source: Only snapshots of this directory are looked at.
            host: Only snapshots taken on this machine are looked at.
            progress: A callback that receives :class:`ProgressEvent`, or True for a bar.

        Returns:
            The plans, in the order of the policies, all for one state of the repository.

        Cost: that of all the prunes, each of which is done and taken back; of those that remove the same, one.
        """
        from .operations.planning import forecast
        from .operations.sources import Selection

        selection = Selection(_root(source), host)
        with Reporter(progress) as reporter, self._pool.writing() as database:
            return forecast(database, tuple(policies), selection, reporter=reporter, clock=time.time_ns)

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
        from .operations.sources import Selection
        from .operations.stats import stats

        if top < 0:
            raise ValueError(f"top must be 0 or more, not {top}")
        with self._pool.reading() as database:
            return stats(database, Selection(_root(source), host), top)

    def check(
        self, *, quick: bool = False, expect_at_least: Optional[int] = None, progress: Progress = None
    ) -> CheckResult:
        """Verify the repository and name what is damaged; it never changes anything.

        Args:
            quick: Check the catalog alone and leave the data in the packs unread.
            expect_at_least: The number of a snapshot that was taken: if the repository knows of none so new, it is an
                older copy, which nothing in it can tell.
            progress: A callback that receives :class:`ProgressEvent`, or True for a bar.

        Cost: reads, decompresses and hashes everything once; with ``quick``, one sweep over the catalog.
        """
        from .operations.check import check

        with Reporter(progress) as reporter, self._pool.reading(fresh=True) as database:
            return check(
                database,
                quick=quick,
                reporter=reporter,
                expect_at_least=expect_at_least,
                most_helpers=self._max_helpers,
            )

    def keys(self) -> KeyList:
        """Return the passwords and key files that open an encrypted repository, in the order they were added.

        Raises:
            RepositoryError: It is not encrypted.
        """
        from .operations.keys import list_keys

        return list_keys(self._pool)

    def add_key(self, password: Password, *, label: str = "") -> KeyList:
        """Let another password, or the bytes of a key file, open an encrypted repository as well.

        Nothing is encrypted anew, so it takes no longer for a large repository. To change a password, add the new one
        and remove the old one.

        Args:
            password: The new password, as for the repository itself.
            label: What to call it, in clear: at most 63 bytes.

        Raises:
            RepositoryError: It is not encrypted, that password opens it already, or 64 do.
            ValueError: The label is too long or not printable.
        """
        from .operations.keys import add_key

        return add_key(self._pool, password, label, clock=time.time_ns)

    def remove_key(self, key: str) -> KeyList:
        """Let a password open an encrypted repository no longer.

        Who has the password and a copy of the file from before can read that copy, and with its key all that is stored
        later.

        Args:
            key: The id that :meth:`keys` gives, or the beginning of it.

        Raises:
            RepositoryError: There is no such key, or it is the last one.
        """
        from .operations.keys import remove_key

        return remove_key(self._pool, key)

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
        from .operations.history import history

        with self._pool.reading() as database:
            return history(database, _machine_path(path), root=_root(source), host=host)

    def find(
        self,
        name: Optional[str] = None,
        *,
        path: Optional[str] = None,
        regex: Optional[str] = None,
        kind: Optional[Kind] = None,
        larger_than: Optional[int] = None,
        smaller_than: Optional[int] = None,
        newer: Union[int, datetime.datetime, None] = None,
        older: Union[int, datetime.datetime, None] = None,
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
            newer: Only what was modified then or later: ns since 1970 UTC, or a datetime, local if it has no zone.
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

        Cost: one sweep over the versions in the catalog, whatever the number of snapshots: about 0.5 s for a million.
        """
        from .operations.find import FindOptions, find

        options = FindOptions(
            name=name,
            path=path,
            regex=regex,
            kind=kind,
            larger_than=larger_than,
            smaller_than=smaller_than,
            oldest_ns=_time_ns(newer),
            newest_ns=_time_ns(older),
            digest=_digest(sha256),
            snapshot=None if snapshot is None else _reference(snapshot),
            root=_root(source),
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
        from .operations.ls import list_directory

        with self._pool.reading() as database:
            return list_directory(database, _reference(snapshot), _machine_path(path), recursive=recursive)

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
        from .operations.ls import walk

        return walk(self._database(), _reference(snapshot), _machine_path(path), recursive=True)

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
        from .operations.opening import open_file

        return open_file(self._reader(), _reference(snapshot), _machine_path(path))

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
        from .snapshot_path import SnapshotPath
        from .storage.catalog import find_snapshot

        with self._pool.reading() as database:
            return SnapshotPath(self, find_snapshot(database, _reference(snapshot)).to_result())

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
        from .operations.diff import diff

        with self._pool.reading() as database:
            return diff(database, _reference(old), None if new is None else _reference(new), _machine_path(path))

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
        from .operations.diff import differences

        return differences(
            self._database(), _reference(old), None if new is None else _reference(new), _machine_path(path)
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
        from .operations.text_diff import text_diff

        lines = text_diff(
            self._reader(),
            _reference(old),
            None if new is None else _reference(new),
            _machine_path(path),
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
        from .operations.compare import CompareOptions, compare

        options = CompareOptions(
            directory=os.path.expanduser(os.fsencode(directory)), content=content, exclude=tuple(_strings(exclude))
        )
        with Reporter(progress) as reporter, self._pool.reading() as database:
            return compare(database, _reference(snapshot), options, reporter)

    def copy(
        self,
        destination: Union[StrPath, Repository],
        snapshots: Union[int, str, Iterable[Union[int, str]], None] = None,
        *,
        incomplete: bool = False,
        compression: Optional[Compression] = None,
        progress: Progress = None,
    ) -> CopyResult:
        """Copy snapshots to another repository; what is there already is not read, and what is copied is verified.

        Source, host, times, note and tags stay; numbers become those that come next at the destination. A snapshot that
        was copied before is recognised by its source, its times and its digest, and left alone: after an interruption,
        run it again. The bytes of every content are compared with its hash before they are stored, and the digest of
        each tree with that of the original before the copy becomes a snapshot.

        A snapshot that is damaged here is not copied; the result names the files.

        Args:
            destination: The other repository, or its file; it is created if there is none. A file is opened and created
                with the password of this repository, if this one has any; for a copy that is encrypted in another way,
                or is not, give a Repository.
            snapshots: A snapshot's number or ``"latest"``, or several of them; by default all.
            incomplete: Copy damaged snapshots as well, without what is damaged. Such a copy has the tag
                ``incomplete``, and counts what it lacks in ``problem_files``.
            compression: Compress everything anew, so hard. By default packs that are wanted as a whole are taken as
                they are, and others compressed as ``"balanced"``.
            progress: A callback that receives :class:`ProgressEvent`, or True for a bar.

        Raises:
            SnapshotNotFoundError: One of them does not exist; nothing is copied.
            ValueError: There is no such compression.
            RepositoryError: One of the repositories cannot be used, or both are one.

        Cost: follows what the destination lacks, where the snapshot before is there already; else one walk over the
        catalog of the snapshot. A large file of which anything is missing is read as a whole.
        """
        from .operations.copy import copy
        from .operations.single_copy import CopyOptions

        numbers = (snapshots,) if snapshots is None or isinstance(snapshots, (int, str)) else tuple(snapshots)
        options = CopyOptions(
            snapshots=None if snapshots is None else numbers,  # type: ignore[arg-type]
            incomplete=incomplete,
            compression=compression,
        )
        other = (
            destination
            if isinstance(destination, Repository)
            else Repository(destination, password=self._pool.password, lock_timeout=self._lock_timeout)
        )
        try:
            with Reporter(progress) as reporter:
                return copy(self._pool, other._pool, options, reporter, clock=time.time_ns)
        finally:
            if other is not destination:
                other.close()

    def export_tar(
        self,
        snapshot: SnapshotReference,
        destination: Union[BytesPath, BinaryIO],
        *,
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
        compression: Optional[TarCompression] = None,
        overwrite: bool = False,
        progress: Progress = None,
    ) -> ExportResult:
        """Write a snapshot, or a part of it, as a tar stream in the pax format, which GNU tar and tarfile can read.

        Kept are contents, holes, names, links, hard links, owners, modes, times in ns, extended attributes, FIFOs and
        devices. A socket has no place in a tar stream, and is a problem in the result. Equal snapshots give equal
        bytes.

        No byte of a content goes into the stream before the whole of it was verified; a damaged file is left out and
        named. A file is written under a temporary name, synced, and then takes its own; only its owner may read it.

        Args:
            snapshot: A snapshot's number, or ``"latest"``.
            destination: A file, or anything with a ``write`` that takes bytes.
            include: Paths or patterns as in a .gitignore file; only what matches is exported.
            exclude: Paths or patterns of what is left out.
            compression: ``"none"``, ``"gzip"`` or ``"zstd"``; by default what the end of a file's name says (.gz, .tgz,
                .zst, .tzst), else none.
            overwrite: Take the place of a file that is there.
            progress: A callback that receives :class:`ProgressEvent`, or True for a bar.

        Raises:
            SnapshotNotFoundError: There is no such snapshot; its message lists those there are.
            RestoreError: The file cannot be written, or is there already.
            CorruptionError: The repository cannot be read, or was damaged while a large file was being written.

        Cost: reads what is exported once, large files twice; holds 128 MiB of contents, and a path for each inode with
        hard links.
        """
        from .operations.export import ExportOptions, export

        options = ExportOptions(
            include=tuple(_strings(include)),
            exclude=tuple(_strings(exclude)),
            compression=compression,
            overwrite=overwrite,
        )
        target: Any = destination
        if not hasattr(destination, "write"):
            target = os.path.expanduser(os.fsencode(destination))
        with Reporter(progress) as reporter, self._pool.reading() as database:
            return export(database, _reference(snapshot), target, options, reporter)

    def import_tar(
        self,
        tar: Union[BytesPath, BinaryIO],
        *,
        source: Union[str, bytes, None] = None,
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
        compression: Compression = "balanced",
        note: str = "",
        tags: Iterable[str] = (),
        pinned: bool = False,
        host: Optional[str] = None,
        progress: Progress = None,
    ) -> SnapshotResult:
        """Make a snapshot of a tar stream, with the same deduplication as one of a directory.

        The stream may be plain or compressed with gzip, zstd, xz or bzip2. Kept is all that ``export_tar`` writes. It
        is read once, from its beginning to its end. Names that lead elsewhere and members that cannot be are left out
        and named. A stream that is damaged, or ends within a member, is an error: no snapshot appears, and what was
        stored is found by the next one. Creates the repository if there is none.

        Args:
            tar: A file, or anything with a ``read`` that returns bytes.
            source: The name of the source; with the host it is what the snapshot is compared with. By default that of
                the file without its ending. An absolute path continues the source of that directory.
            include: Paths or patterns as in a .gitignore file; only what matches is imported.
            exclude: Paths or patterns of what is left out.
            compression: How hard what is new is compressed; see :meth:`snapshot`.
            note: Free text kept with the snapshot.
            tags: Words kept with the snapshot.
            pinned: Have the snapshot removed only after it was unpinned.
            host: Name of the machine, by default its host name.
            progress: A callback that receives :class:`ProgressEvent`, or True for a bar.

        Raises:
            SourceError: The stream cannot be read, or is no tar stream.
            ValueError: There is no such compression, or the source has no name.
            RepositoryError: The repository cannot be opened or written to.

        Cost: one pass over the stream; 400 bytes of memory for each member.
        """
        import socket

        from .operations.importing import ImportOptions, import_tar

        stream: Any = tar
        if not hasattr(tar, "read"):
            stream = os.path.expanduser(os.fsencode(tar))
            source = _without_ending(stream) if source is None else source
        if not source:
            raise ValueError("a stream has no name: source must say what it is the state of")
        options = ImportOptions(
            source=os.fsencode(source),
            host=socket.gethostname() if host is None else host,
            include=tuple(_strings(include)),
            exclude=tuple(_strings(exclude)),
            note=note,
            tags=tuple(sorted(set(_strings(tags)))),
            pinned=pinned,
            compression=compression,
        )
        with Reporter(progress) as reporter:
            return import_tar(self._pool, stream, options, reporter, clock=time.time_ns)

    def drill(
        self,
        snapshot: SnapshotReference = "latest",
        *,
        sample: Union[int, float, None] = None,
        scratch: Optional[BytesPath] = None,
        seed: Optional[int] = None,
        progress: Progress = None,
    ) -> DrillResult:
        """Prove that a snapshot can be restored: restore it for trial, compare everything, and record the outcome.

        Files are restored into a new directory, read back, and compared with the stored hashes and with all that is
        saved of them: kind, owner, mode, time, target, extended attributes, hard links. The directory is removed at the
        end. What the place cannot hold, such as owners where it is not root who restores, is a problem in the result
        and not held against the snapshot.

        Args:
            snapshot: A snapshot's number, or ``"latest"``.
            sample: How many files, drawn at random: a number (int), or a share of them (float, up to 1.0). By default
                all. Files are all entries that are not directories.
            scratch: A directory in which the other is made; by default the system's place for temporary files. It needs
                room for what is restored.
            seed: What the sample is drawn with; by default another one each time, which the result tells.
            progress: A callback that receives :class:`ProgressEvent`, or True for a bar.

        Raises:
            SnapshotNotFoundError: There is no such snapshot.
            ValueError: ``sample`` is neither a number nor a share.
            RestoreError: The scratch directory cannot be made, written to, or removed.
            RepositoryNotFoundError, NotARepositoryError, CorruptionError: The repository cannot be read.

        Cost: that of a restore of the files, and of reading them once; finding a sample reads the snapshot's catalog.
        """
        from .operations.drill import DrillOptions, drill

        options = DrillOptions(
            sample=sample,
            scratch=None if scratch is None else os.path.expanduser(os.fsencode(scratch)),
            seed=seed,
            most_helpers=self._max_helpers,
        )
        with Reporter(progress) as reporter:
            return drill(self._pool, _reference(snapshot), options, reporter, clock=time.time_ns)

    def guard(
        self,
        directory: BytesPath,
        *,
        note: str = "",
        tags: Iterable[str] = (),
        host: Optional[str] = None,
        progress: Progress = None,
    ) -> Guard:
        """Return a context manager that saves a directory, and puts it back exactly as it was if its block raises.

        What the block raised is raised again. Everything is saved, of any size, and nothing is left out; where that is
        not possible the block is not run. Guards may be nested. The repository may lie in the directory, and stays as
        it is. Programs that have files of the directory open go on with what they had: close them first.

        Args:
            directory: The directory; ``~`` is expanded, a symlink to a directory is followed.
            note: Free text kept with the snapshot.
            tags: Words kept with the snapshot.
            host: Name of the machine, by default its host name.
            progress: A callback that receives :class:`ProgressEvent`, or True for a bar.

        Raises:
            GuardError: Within ``with``: not all of it could be saved; or, with the error of the block as its cause, not
                all of it could be put back. The snapshot stays.
            SourceError, RepositoryError: As :meth:`snapshot`.

        Cost: that of :meth:`snapshot`; if the block raises, all files are read once, and what changed is written.
        """
        from .guard import Guard

        return Guard(
            self,
            {"source": directory, "note": note, "tags": tuple(_strings(tags)), "host": host, "progress": progress},
        )

    def close(self) -> None:
        """Close the file. Using the repository afterwards opens it again."""
        if self._shared_reader is not None:
            self._shared_reader.forget()
        self._pool.close()

    def _database(self) -> BorrowingDatabase:
        """Return the repository for what outlives a call."""
        return BorrowingDatabase(self._pool)

    def _reader(self) -> SharedReader:
        """Return what all files that are open read with."""
        if self._shared_reader is None:
            from .storage.opened import SharedReader

            self._shared_reader = SharedReader(self._database())
        return self._shared_reader

    def __enter__(self) -> Repository:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Repository({self._path!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self._path, "lock_timeout": self._lock_timeout, "max_helpers": self._max_helpers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"], lock_timeout=state["lock_timeout"], max_helpers=state["max_helpers"])  # type: ignore[misc]


def _root(source: Optional[BytesPath]) -> Optional[bytes]:
    """Return what a source is known by: its directory, or the name of what is none."""
    if source is None:
        return None
    path = os.path.expanduser(os.fsencode(source))
    if path.startswith(b"files:") or (b"/" not in path and not os.path.lexists(path)):  # a word that means nothing here
        return path
    return os.path.realpath(path)


def _keyring(password: Optional[Password]) -> Optional[Keyring]:
    if password is None:
        return None
    from .storage.encryption.keyring import Keyring

    return Keyring(password, clock=time.time_ns)


def _strings(values: Iterable[Any]) -> Sequence[Any]:
    """Return the values as a tuple; one lone string or path stands for itself, not for its letters."""
    return (values,) if isinstance(values, (str, bytes, os.PathLike)) else tuple(values)


def _without_ending(path: bytes) -> bytes:
    """Return the name of a file of a tar stream, without what says so."""
    name = os.path.basename(path)
    for ending in (b".gz", b".zst", b".xz", b".bz2"):
        name = name[: -len(ending)] if name.endswith(ending) else name
    for ending in (b".tar", b".tgz", b".tzst", b".txz", b".tbz2"):
        name = name[: -len(ending)] if name.endswith(ending) else name
    return name or os.path.basename(path)


def _reference(snapshot: SnapshotReference) -> Union[int, str]:
    """Return a reference to a snapshot without names that only this machine understands."""
    if not isinstance(snapshot, (int, str)):
        return snapshot.id
    if isinstance(snapshot, str):
        latest, colon, source = snapshot.partition(":")
        if colon and source and ":" not in source.partition("/")[0]:  # else it names the machine
            return f"{latest}:{os.fsdecode(_root(source) or b'')}"
    return snapshot


def _machine_path(path: BytesPath) -> bytes:
    """Return a path with ``~`` and symlinks in the directories above it resolved, if it is one of this machine."""
    given = os.fsencode(path)
    if given.startswith(b"~/"):
        given = os.path.expanduser(given)
    if not os.path.isabs(given):
        return given
    parent, name = os.path.split(os.path.normpath(given))
    return os.path.join(os.path.realpath(parent), name)


def _time_ns(moment: Union[int, datetime.datetime, None]) -> Optional[int]:
    if moment is None or isinstance(moment, int):
        return moment
    whole = moment.replace(microsecond=0).timestamp()
    return int(whole) * 1_000_000_000 + moment.microsecond * 1000


def _digest(sha256: Union[str, bytes, None]) -> Optional[bytes]:
    if sha256 is None:
        return None
    try:
        digest = bytes.fromhex(sha256) if isinstance(sha256, str) else sha256
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise ValueError(f"not a SHA-256 of 64 hex digits, or of 32 bytes: {sha256!r}")
    return digest
