"""Moving snapshots: to other repositories, and out of and into tar streams."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, BinaryIO, Iterable, Optional, Union

from ..progress import Reporter

if TYPE_CHECKING:
    from ..results.copy import CopyResult
    from ..results.export import ExportResult, TarCompression
    from ..results.snapshot import Compression, SnapshotResult

from ..parameters import (
    BytesPath,
    Progress,
    SnapshotReference,
    StrPath,
    reference_of,
    several_of,
    strings_of,
    tags_of,
    text_of,
    without_ending,
)
from .opened import Opened

__all__ = ["Moving"]


class Moving(Opened):
    """Snapshots that come and go."""

    def copy(
        self,
        destination: Union[StrPath, Opened],
        snapshots: Union[SnapshotReference, Iterable[SnapshotReference], None] = None,
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
            snapshots: A :data:`SnapshotReference`, or several; by default all.
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
        from ..operations.copy.copying import copy
        from ..operations.copy.single import CopyOptions

        options = CopyOptions(
            snapshots=None if snapshots is None else several_of(snapshots, reference_of),
            incomplete=incomplete,
            compression=compression,
        )
        other = (
            destination
            if isinstance(destination, Opened)
            else Opened(
                destination,
                password=self._pool.password,
                lock_timeout=self._lock_timeout,
                state_directory=self._state_directory,
            )
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
        from ..operations.export import ExportOptions, export

        options = ExportOptions(
            include=tuple(strings_of(include)),
            exclude=tuple(strings_of(exclude)),
            compression=compression,
            overwrite=overwrite,
        )
        target: Any = destination
        if not hasattr(destination, "write"):
            target = os.path.expanduser(os.fsencode(destination))
        with Reporter(progress) as reporter, self._pool.reading() as database:
            return export(database, reference_of(snapshot), target, options, reporter)

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

        from ..operations.arrivals.importing import ImportOptions, import_tar

        stream: Any = tar
        if not hasattr(tar, "read"):
            stream = os.path.expanduser(os.fsencode(tar))
            source = without_ending(stream) if source is None else source
        if not source:
            raise ValueError("a stream has no name: source must say what it is the state of")
        options = ImportOptions(
            source=os.fsencode(source),
            host=socket.gethostname() if host is None else text_of("host", host),
            include=tuple(strings_of(include)),
            exclude=tuple(strings_of(exclude)),
            note=text_of("note", note),
            tags=tags_of(tags),
            pinned=pinned,
            compression=compression,
        )
        with Reporter(progress) as reporter:
            return import_tar(self._pool, stream, options, reporter, clock=time.time_ns)
