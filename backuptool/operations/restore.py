"""Restoring: write a snapshot, or a part of it, into a directory.

Owns what is written, what is left alone, and in which order. Writing safely is the destination's, giving back the
right bytes the content reader's.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import Callable, Iterator, Optional, Union

import attrs

from ..errors import CorruptionError, RestoreError, UnsafePathError
from ..progress import Reporter
from ..results import OverwritePolicy, Problem, RestoreResult
from ..storage.catalog import CatalogFile, SnapshotRow, files_of, find_snapshot
from ..storage.contents import ContentReader
from ..storage.database import Database
from ..storage.digest import FileVersion
from ..tree.confined import split
from ..tree.destination import Destination, Metadata, is_temporary, require_safe
from ..tree.exclusions import Exclusions
from ..tree.metadata import kind_of
from ..tree.source import Source
from .selecting import Selection

__all__ = ["RestoreOptions", "restore"]

_Step = Callable[[CatalogFile], None]

#: Files gathered before half of them are written, in the order in which their contents were stored: a pack is then
#: decompressed once. It is more than a snapshot gathers, and half of them stay, as windows begin at other files.
_WINDOW = 40_000

#: What makes it pointless to go on with the next file.
_FATAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

#: What a file system says that cannot have a hard link there, or not one more.
_NO_LINK = (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.ENOTSUP)


@attrs.frozen(kw_only=True)
class RestoreOptions:
    """What is to be restored, and how; see :meth:`backuptool.Repository.restore`."""

    destination: bytes
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    overwrite: OverwritePolicy = "if-changed"
    delete_extra: bool = False
    dry_run: bool = False
    verify: bool = False


def restore(
    database: Database, reference: Union[int, str], options: RestoreOptions, reporter: Reporter
) -> RestoreResult:
    """Restore a snapshot.

    Raises:
        ValueError: The overwrite policy is none.
    """
    begin = time.monotonic()
    if options.overwrite not in ("always", "if-changed", "if-newer", "never"):
        raise ValueError(f"overwrite must be always, if-changed, if-newer or never, not {options.overwrite!r}")
    snapshot = find_snapshot(database, reference)
    run = _Restore(database, snapshot, options, reporter)
    return run.run(begin)


class _Restore:
    """One run over a snapshot."""

    def __init__(self, database: Database, snapshot: SnapshotRow, options: RestoreOptions, reporter: Reporter) -> None:
        self._database = database
        self._snapshot = snapshot
        self._options = options
        self._reporter = reporter
        self._selection = Selection(options.include, options.exclude)
        self._reader = ContentReader(database)
        self._destination: Optional[Destination] = None
        self._repository = database.identities()
        self._made: set[bytes] = set()  # directories that were made now: nothing is in them
        self._directories: list[FileVersion] = []
        self._unselected: dict[bytes, FileVersion] = {}
        self._links: dict[object, tuple[bytes, bool]] = {}  # path by inode, and whether it was written now
        self._in_the_way: list[CatalogFile] = []
        self._failures: dict[tuple[str, int], tuple[int, bytes, OSError]] = {}
        self._problems: list[Problem] = []
        self._found = False
        self._restored = self._unchanged = self._deleted = self._verified = 0
        self._restored_directories = self._written_bytes = self._done = 0

    def run(self, begin: float) -> RestoreResult:
        options = self._options
        if not options.destination:
            raise RestoreError("the destination is empty; name a directory", "")
        root = os.path.abspath(options.destination)
        try:
            if options.dry_run and not os.path.lexists(root):
                self._restore_all()
            else:
                with self._reader, Destination(root, self._failed) as self._destination:
                    self._restore_all()
                    if options.delete_extra:
                        self._delete_extra()
                    self._retry()
                    self._finish_directories()
                    if options.verify and not options.dry_run:
                        self._verify()
        except OSError as exc:
            if exc.errno not in _FATAL:
                raise
            shown = os.fsdecode(root)
            raise RestoreError(
                f"cannot go on restoring into {shown}: {exc.strerror}; make room and run it again, it will finish the "
                "rest",
                shown,
            ) from exc
        return RestoreResult(
            snapshot=self._snapshot.to_result(),
            destination=os.fsdecode(os.path.realpath(root)),
            restored_files=self._restored,
            unchanged_files=self._unchanged,
            restored_directories=self._restored_directories,
            deleted_files=self._deleted,
            written_bytes=self._written_bytes,
            verified_files=self._verified,
            dry_run=options.dry_run,
            elapsed_seconds=time.monotonic() - begin,
            problems=tuple(self._problems + self._failure_problems() + self._nothing_found()),
        )

    def _selected(self) -> Iterator[CatalogFile]:
        """Yield the entries that are meant, each directory on the way to one before it."""
        for file in files_of(self._database, self._snapshot):
            version = file.version
            try:
                require_safe(version.path)
            except UnsafePathError as exc:
                self._problem("unsafe-path", version.path, str(exc))
                continue
            if version not in self._selection:
                if version.kind == b"d":
                    self._unselected[version.path] = version
                continue
            self._found = True
            if self._unselected:
                yield from self._ancestors(version.path)
            yield file

    def _ancestors(self, path: bytes) -> Iterator[CatalogFile]:
        """Yield the directories above a path that the selection does not name but that are needed for it."""
        missing = []
        while path and self._unselected:
            path = split(path)[0]
            version = self._unselected.pop(path, None)
            if version is not None:
                missing.append(CatalogFile(version, None))
        yield from reversed(missing)

    def _restore_all(self) -> None:
        window: list[CatalogFile] = []
        late: list[CatalogFile] = []  # a file of that name must not be taken for a temporary one of another's
        for file in self._selected():
            if file.version.kind == b"d":
                self._guarded(self._restore_directory, file)
                continue
            if is_temporary(file.version.path):
                late.append(file)
                continue
            window.append(file)
            if len(window) >= _WINDOW:
                window.sort(key=_stored_order)
                self._restore_files(window[: _WINDOW // 2])
                del window[: _WINDOW // 2]
        window.sort(key=_stored_order)
        self._restore_files(window)
        self._restore_files(late)

    def _restore_files(self, files: list[CatalogFile]) -> None:
        if not self._options.dry_run:
            self._reader.expect(file.content for file in files if file.content is not None)
        for file in files:
            self._done += 1
            if self._reporter.active:
                self._report(file.version.path)
            self._guarded(self._restore_file, file)

    def _report(self, path: bytes, offset: int = 0) -> None:
        self._reporter.report(
            "restore",
            done_files=self._done,
            total_files=self._snapshot.files,
            done_bytes=self._written_bytes + offset,
            total_bytes=self._snapshot.size if self._selection.everything else None,
            path=path,
        )

    def _guarded(self, step: _Step, file: CatalogFile) -> None:
        """Do one entry; what goes wrong with it is a problem, and the next one follows."""
        path = file.version.path
        try:
            step(file)
        except CorruptionError as exc:
            self._problem("content-corrupt", path, f"not restored: {exc}", content=file.version.hash)
        except OSError as exc:
            if exc.errno in _FATAL:
                raise
            if exc.errno == errno.EPERM and file.version.kind in b"cb":
                self._failed("device", path, exc)
            elif exc.errno in (errno.ENOTEMPTY, errno.EEXIST):
                self._in_the_way.append(file)
            else:
                self._problem("not-written", path, f"not restored: {exc.strerror or exc}")
        except (ValueError, TypeError, OverflowError) as exc:  # a NUL in a link's target, text in place of a number
            self._problem("catalog-corrupt", path, f"not restored: {exc}")

    def _retry(self) -> None:
        """Restore what a directory was in the way of, if it is empty now that what is extra was deleted."""
        for last in (False, True):
            blocked, self._in_the_way = self._in_the_way, []
            for file in blocked:
                if last or not self._options.delete_extra:
                    self._problem(
                        "in-the-way", file.version.path, "not restored: a directory that is not empty has its name"
                    )
                else:
                    self._guarded(self._restore_file, file)

    def _restore_directory(self, file: CatalogFile) -> None:
        version = file.version
        path = version.path
        existing = self._existing(path)
        made = existing is None or not stat.S_ISDIR(existing.st_mode)
        if existing is not None and made and (self._options.overwrite == "never" or self._is_repository(existing)):
            self._problem("in-the-way", path, "not restored: a file has its name")
            return
        if not self._options.dry_run:
            assert self._destination is not None
            made = self._destination.make_directory(path)
        if made:
            self._made.add(path)
        # A directory that was there keeps its metadata if nobody asked for it: restoring one file into a shared
        # directory must not change that directory.
        if made or (self._options.overwrite != "never" and version in self._selection):
            self._directories.append(version)
            self._restored_directories += 1

    def _restore_file(self, file: CatalogFile) -> None:
        version = file.version
        existing = self._existing(version.path)
        if existing is not None and self._is_repository(existing):
            self._problem("in-the-way", version.path, "not restored: the repository itself has its name")
            return
        if version.link is not None and self._restore_link(version, existing):
            return
        leave = existing is not None and self._leave(version, existing)
        if leave:
            self._unchanged += 1
        else:
            if not self._options.dry_run:
                self._write(file)
            self._restored += 1
            if version.kind == b"f":
                self._written_bytes += version.size
        # What the policy left alone may be another file altogether: nothing is linked to that.
        if version.link is not None and (not leave or (existing is not None and self._as_saved(version, existing))):
            self._links[_inode(version)] = (version.path, not leave)

    def _existing(self, path: bytes) -> Optional[os.stat_result]:
        if self._destination is None or (path and split(path)[0] in self._made):
            return None
        return self._destination.lstat(path)

    def _is_repository(self, existing: os.stat_result) -> bool:
        return (existing.st_dev, existing.st_ino) in self._repository

    def _restore_link(self, version: FileVersion, existing: Optional[os.stat_result]) -> bool:
        """Make a hard link if another path of the inode was restored; False if this is the first."""
        first, written = self._links.get(_inode(version), (b"", False))
        if not first:
            return False
        if self._destination is not None and existing is not None:
            status = None if written else self._destination.lstat(first)
            same = status is not None and (status.st_dev, status.st_ino) == (existing.st_dev, existing.st_ino)
            newer = self._options.overwrite == "if-newer" and version.mtime_ns <= existing.st_mtime_ns
            if same or newer or self._options.overwrite == "never":
                self._unchanged += 1
                return True
        if not self._options.dry_run:
            assert self._destination is not None
            try:
                self._destination.make_link(version.path, first)
            except OSError as exc:
                if exc.errno not in _NO_LINK:
                    raise
                return False  # it becomes a file of its own
        self._restored += 1
        return True

    def _leave(self, version: FileVersion, existing: os.stat_result) -> bool:
        """Tell whether what is there stays, by the overwrite policy."""
        policy = self._options.overwrite
        if policy == "never":
            return True
        if policy == "always":
            return False
        if policy == "if-newer":
            return version.mtime_ns <= existing.st_mtime_ns
        if not self._as_saved(version, existing):
            return False
        if version.kind == b"l":
            return True
        assert self._destination is not None
        owner = (version.mode, version.uid, version.gid)
        changed = (
            existing.st_mode & 0o7777,
            existing.st_uid,
            existing.st_gid,
        ) != owner or self._destination.read_xattrs(version.path) != version.xattrs
        if version.kind != b"f":
            return not changed
        if changed and not self._options.dry_run:
            self._destination.set_metadata(version.path, version.kind, _metadata(version))
        return True

    def _as_saved(self, version: FileVersion, existing: os.stat_result) -> bool:
        """Tell whether what is there looks like what was saved: kind, time, and size, target or device."""
        if kind_of(existing.st_mode) != version.kind or existing.st_mtime_ns != version.mtime_ns:
            return False
        if version.kind == b"f":
            return existing.st_size == version.size
        if version.kind == b"l":
            assert self._destination is not None
            return self._destination.read_link(version.path) == version.target
        return version.rdev is None or existing.st_rdev == version.rdev

    def _write(self, file: CatalogFile) -> None:
        version = file.version
        destination = self._destination
        assert destination is not None
        metadata = _metadata(version)
        if version.kind == b"f":
            if file.content is None or version.hash is None:
                raise CorruptionError("its content is not in the repository")
            if file.content.size != version.size:
                raise CorruptionError("its size is not that of its content")
            pieces = self._reader.stream(file.content)
            if file.content.pack is not None:
                pieces = iter(list(pieces))  # verified before the file is made
            elif self._reporter.active and version.size:
                pieces = self._reported(pieces, version.path)
            destination.write_file(version.path, pieces, version.size, bool(version.sparse), metadata)
        elif version.kind == b"l":
            destination.make_symlink(version.path, version.target or b"", metadata)
        elif version.kind in (b"p", b"s", b"c", b"b"):
            destination.make_special(version.path, version.kind, version.rdev or 0, metadata)
        else:
            raise CorruptionError(f"its kind {version.kind!r} is unknown")

    def _reported(
        self, pieces: Iterator[tuple[int, Optional[bytes]]], path: bytes
    ) -> Iterator[tuple[int, Optional[bytes]]]:
        """Pass the pieces of a large file on, and tell how far it is."""
        for offset, data in pieces:
            self._report(path, offset)
            yield offset, data

    def _finish_directories(self) -> None:
        """Give directories their metadata when nothing is written into them any more, the deepest first."""
        if self._options.dry_run:
            return
        assert self._destination is not None
        for number, version in enumerate(reversed(self._directories)):
            self._reporter.report("metadata", done_files=number, total_files=len(self._directories), path=version.path)
            self._guarded(self._finish_directory, CatalogFile(version, None))

    def _finish_directory(self, file: CatalogFile) -> None:
        assert self._destination is not None
        self._destination.set_metadata(file.version.path, b"d", _metadata(file.version))

    def _delete_extra(self) -> None:
        """Remove what the snapshot does not have; what is in a directory goes before the directory."""
        assert self._destination is not None
        source = Source(self._destination.root)
        try:
            walk = source.walk(Exclusions(), self._unlisted, self._repository, self._database.journal_names())
            known = (file.version.path for file in files_of(self._database, self._snapshot))
            extra = self._selection.extra(walk, known)
        finally:
            source.close()
        for path in reversed(extra):
            self._reporter.report("delete", done_files=self._deleted, total_files=len(extra), path=path)
            try:
                if not self._options.dry_run:
                    self._destination.remove(path)
                self._deleted += 1
            except OSError as exc:
                self._problem("not-removed", path, f"not removed: {exc.strerror}")

    def _unlisted(self, path: bytes, exc: OSError) -> None:
        self._problem("unreadable", path, f"cannot be listed: {exc.strerror}")

    def _verify(self) -> None:
        """Read the restored files back from the destination and compare them with their hashes."""
        assert self._destination is not None
        failed = {problem.path for problem in self._problems}
        for file in files_of(self._database, self._snapshot):
            version = file.version
            shown = version.path.decode("utf-8", "surrogateescape")
            if version.kind != b"f" or version not in self._selection or shown in failed:
                continue
            self._reporter.report(
                "verify", done_files=self._verified, total_files=self._snapshot.files, path=version.path
            )
            try:
                require_safe(version.path)
                if self._destination.hash_file(version.path) != version.hash:
                    self._problem("verify-mismatch", version.path, "is not as saved in the destination")
                    continue
            except UnsafePathError:
                continue
            except OSError as exc:
                kind = "unreadable" if exc.errno in (errno.EACCES, errno.EPERM) else "verify-mismatch"
                self._problem(kind, version.path, f"cannot be read back: {exc.strerror or exc}")
                continue
            self._verified += 1

    def _failed(self, what: str, path: bytes, exc: OSError) -> None:
        key = (what, exc.errno or 0)
        count, first, error = self._failures.get(key, (0, path, exc))
        self._failures[key] = (count + 1, first, error)

    def _failure_problems(self) -> list[Problem]:
        """Return one problem for each thing that could not be restored, however many files it concerns."""
        problems = []
        for (what, number), (count, path, exc) in self._failures.items():
            hint = "; only root may, run it as root to have it" if number == errno.EPERM else ""
            files = "1 file" if count == 1 else f"{count:,} files, this one the first"
            problems.append(
                Problem(
                    kind=f"{what}-not-restored",
                    path=path.decode("utf-8", "surrogateescape") or ".",
                    message=f"{what} not restored for {files}: {exc.strerror}{hint}",
                    count=count,
                )
            )
        return problems

    def _nothing_found(self) -> list[Problem]:
        """Return a problem if what was to be included is not in the snapshot: a misspelling should not pass."""
        if not self._options.include or self._found:
            return []
        names = ", ".join(self._options.include)
        message = f"nothing in snapshot {self._snapshot.id} matches {names}; paths are relative to the source"
        return [Problem(kind="nothing-found", path="", message=message)]

    def _problem(self, kind: str, path: bytes, message: str, content: Optional[bytes] = None) -> None:
        self._problems.append(
            Problem(
                kind=kind,
                path=path.decode("utf-8", "surrogateescape") or ".",
                message=message,
                content=content.hex() if isinstance(content, bytes) else None,
                snapshots=(self._snapshot.id,) if content is not None else (),
            )
        )


def _stored_order(file: CatalogFile) -> tuple[int, bytes]:
    """Return a key by which files sort as their contents were stored."""
    return 0 if file.content is None else file.content.id, file.version.path


def _inode(version: FileVersion) -> object:
    """Return what all paths of one inode have in common.

    The identity alone would not do: two devices may have the same inode number, and device numbers are used again.
    """
    v = version
    return v.link, v.kind, v.mode, v.uid, v.gid, v.mtime_ns, v.size, v.hash, v.rdev, v.target, v.xattrs


def _metadata(version: FileVersion) -> Metadata:
    return Metadata(version.mode, version.uid, version.gid, version.mtime_ns, version.xattrs)
