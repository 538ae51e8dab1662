"""The public Repository: a table of contents. Each method opens the file and hands over to one operation.

Here are the five verbs, files that lie in no directory, and the guard. What goes beyond them stands in ``chapters``, by
what it is good for. An operation is imported by the method that needs it: listing snapshots takes no longer than
listing snapshots takes.

What the verbs do is in ``operations``, what the file looks like in ``storage``, what trees look like in ``tree``.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Iterable, Mapping, Optional, Sequence, Union

from .progress import Reporter

if TYPE_CHECKING:
    from .guard import Guard
    from .operations.arrivals.given import Given
    from .results.check import CheckResult
    from .results.prune import PrunePlan, PruneResult
    from .results.restore import OverwritePolicy, RestoreResult
    from .results.snapshot import Compression, Snapshot, SnapshotList, SnapshotResult
    from .retention import RetentionPolicy

from .chapters.keeping import Keeping
from .chapters.looking import Looking
from .chapters.moving import Moving
from .chapters.protecting import Protecting
from .parameters import (
    BytesPath,
    Progress,
    SnapshotReference,
    StrPath,
    numbered,
    reference_of,
    root_of,
    several_of,
    strings_of,
    tags_of,
    text_of,
)

__all__ = ["DEFAULT_MAX_FILE_SIZE", "Repository", "SnapshotReference"]

#: Files larger than this many bytes are skipped unless ``max_file_size`` says otherwise (1 GiB).
DEFAULT_MAX_FILE_SIZE = 1 << 30


class Repository(Looking, Keeping, Moving, Protecting):
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
        state_directory: A directory, made if it is missing, in which the newest state of an encrypted repository is
            remembered; :attr:`remembered` then tells whether an older copy was put in its place. By default nothing is.
        create: False if a repository that is not there is not to be made: where its disk is not mounted, the file would
            be made on another one. RepositoryNotFoundError is raised instead.

    Example:
        >>> with Repository("backups.db") as repo:              # doctest: +SKIP
        ...     result = repo.snapshot("~/photos", note="before the move")
        ...     repo.restore(result.snapshot.id, "/tmp/out")
    """

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

        from .operations.snapshot.directory import SnapshotOptions, snapshot

        options = SnapshotOptions(
            source=os.path.expanduser(os.fsencode(source)),
            exclude=tuple(strings_of(exclude)),
            exclude_from=tuple(os.path.expanduser(os.fspath(path)) for path in strings_of(exclude_from)),
            exclude_if_present=tuple(strings_of(exclude_if_present)),
            exclude_caches=exclude_caches,
            exclude_larger_than=exclude_larger_than,
            max_file_size=max_file_size,
            one_file_system=one_file_system,
            live_sqlite=live_sqlite,
            compression=compression,
            note=text_of("note", note),
            tags=tags_of(tags),
            pinned=pinned,
            host=socket.gethostname() if host is None else text_of("host", host),
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

        from .operations.arrivals.files import FilesOptions, files_root, given_files, snapshot_files

        options = FilesOptions(
            files=given_files(files),
            root=files_root(name),
            compression=compression,
            note=text_of("note", note),
            tags=tags_of(tags),
            pinned=pinned,
            host=socket.gethostname() if host is None else text_of("host", host),
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
            return list_snapshots(database, source=root_of(source), host=host, tag=tag)

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
            dry_run: Report what would be done and what would be in the way; write nothing. Contents are not read.
            verify: Read every file back afterwards and compare it with its hash.
            progress: A callback that receives :class:`ProgressEvent`, or True for a bar.

        Raises:
            SnapshotNotFoundError: There is no such snapshot; its message lists those there are.
            RestoreError: The destination cannot be written to at all, or another restore is writing into it.
            RepositoryNotFoundError, NotARepositoryError, CorruptionError: The repository cannot be read.
        """
        from .operations.restore.restoring import RestoreOptions, restore

        options = RestoreOptions(
            destination=os.path.expanduser(os.fsencode(destination)),
            include=tuple(strings_of(include)),
            exclude=tuple(strings_of(exclude)),
            overwrite=overwrite,
            delete_extra=delete_extra,
            dry_run=dry_run,
            verify=verify,
            most_helpers=self._max_helpers,
        )
        with Reporter(progress) as reporter, self._pool.reading() as database:
            return restore(database, reference_of(snapshot), options, reporter)

    def prune(
        self,
        snapshots: Union[int, Snapshot, Iterable[Union[int, Snapshot]], RetentionPolicy, PrunePlan] = (),
        *,
        source: Optional[BytesPath] = None,
        host: Optional[str] = None,
        dry_run: bool = False,
        progress: Progress = None,
    ) -> PruneResult:
        """Remove snapshots; contents that others use stay, the rest goes, and the file gets smaller.

        Args:
            snapshots: One number or several, or the snapshots themselves (such as ``repo.list(tag="test")``); a policy;
                or a plan of :meth:`plan_prune`. With none, only leftovers of interrupted snapshots are removed. Words
                such as ``"latest"``, which name another snapshot the next time, are refused.
            source: With a policy: only snapshots of this directory are looked at.
            host: With a policy: only snapshots taken on this machine are looked at.
            dry_run: Do all of it, measure what would be freed, and take it back.
            progress: A callback that receives :class:`ProgressEvent`, or True for a bar.

        Raises:
            SnapshotNotFoundError: One of the numbers does not exist, or a Snapshot is another repository's; nothing is
                removed.
            SnapshotPinnedError: One of the numbers is that of a pinned snapshot; nothing is removed.
            PlanOutdatedError: The repository has changed since the plan was made; nothing is removed.
            ValueError: A source or host is given without a policy.
            TypeError: A snapshot is named otherwise than by its number or itself.

        Cost: follows what is removed, not what is kept.
        """
        from .operations.prune.pruning import prune
        from .operations.sources import Selection
        from .results.prune import PrunePlan
        from .retention import RetentionPolicy

        if (source is not None or host is not None) and not isinstance(snapshots, RetentionPolicy):
            raise ValueError("source and host are for policies; numbers and plans name their snapshots")
        wanted: Union[Sequence[Union[int, Snapshot]], RetentionPolicy, PrunePlan]
        wanted = snapshots if isinstance(snapshots, (RetentionPolicy, PrunePlan)) else several_of(snapshots, numbered)
        selection = Selection(root_of(source), host)
        with Reporter(progress) as reporter, self._pool.writing() as database:
            return prune(database, wanted, selection, dry_run=dry_run, reporter=reporter, clock=time.time_ns)

    def check(
        self, *, quick: bool = False, expect_at_least: Optional[int] = None, progress: Progress = None
    ) -> CheckResult:
        """Verify the repository and name what is damaged; it never changes anything.

        Args:
            quick: Check the catalog alone and leave the data in the packs unread.
            expect_at_least: The number of a snapshot that was taken: if the repository knows of none so new, it is an
                older copy, which nothing in it can tell. What is remembered (``state_directory``) is compared as well.
            progress: A callback that receives :class:`ProgressEvent`, or True for a bar.

        Cost: reads, decompresses and hashes everything once; with ``quick``, one sweep over the catalog.
        """
        from .errors import CorruptionError
        from .operations.check.checking import check, unopened

        try:
            with Reporter(progress) as reporter, self._pool.reading(fresh=True) as database:
                return check(
                    database,
                    quick=quick,
                    reporter=reporter,
                    expect_at_least=expect_at_least,
                    remembered=self.remembered,
                    most_helpers=self._max_helpers,
                )
        except CorruptionError as exc:
            if exc.__cause__ is None:  # it can be opened, and is none of this program's
                raise
            return unopened(exc, quick=quick)

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
            {
                "source": directory,
                "note": text_of("note", note),
                "tags": tags_of(tags),
                "host": host,
                "progress": progress,
            },
        )
