"""Programs that are no backup programs but set a scale: what the machine needs to read, compress, copy or look.

They can do only some of the operations, keep one state, and promise nothing; a backup program that is as fast does
more in the same time.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from .measure import Command, output_of
from .plan import Operation
from .programs import Job, Program

__all__ = ["Copy", "Find", "PlainTar", "Tar"]


class PlainTar(Program):
    """tar into an uncompressed file, and out of it again."""

    name = "tar-plain"
    remark = "`tar c` to a file and `tar x` from it, uncompressed"
    _write = 'exec tar c -f "$0" .'
    _read = 'exec tar x -f "$0" "$@"'

    def missing(self) -> str | None:
        return None if shutil.which("tar") else "tar"

    def version(self) -> str:
        return _version_of("tar")

    def command(self, operation: Operation, job: Job) -> Command | None:
        """Return what to run: tar saves a tree whole and restores it, or one file of it."""
        container = str(job.place / "repository")
        if operation is Operation.FIRST:
            return Command(("sh", "-c", self._write, container), job.source)
        if operation is Operation.RESTORE:
            return Command(("sh", "-c", self._read, container), job.target)
        if operation is Operation.RESTORE_FILE:
            return Command(("sh", "-c", self._read, container, f"./{job.file}"), job.target)
        return None


class Tar(PlainTar):
    """tar through zstd at its fastest ordinary level and with all cores, and out of it again."""

    name = "tar"
    remark = "`tar c | zstd -1 -T0` to a file, `zstd -d | tar x` from it"
    _write = 'tar c . | zstd -q -f -1 -T0 -o "$0"'
    _read = 'container="$0"; zstd -q -d -c "$container" | tar x "$@"'

    def missing(self) -> str | None:
        return next((name for name in ("tar", "zstd") if not shutil.which(name)), None)

    def version(self) -> str:
        return f"{_version_of('tar')} | zstd {_version_of('zstd')}"


class Copy(Program):
    """cp of the whole tree, as a real copy even where a file system could share the blocks."""

    name = "cp"
    remark = "`cp -a --reflink=never`"
    keeps_repository = False

    def missing(self) -> str | None:
        return None if shutil.which("cp") else "cp"

    def version(self) -> str:
        return _version_of("cp")

    def command(self, operation: Operation, job: Job) -> Command | None:
        """Return what to run: a copy is the least that a first snapshot can be."""
        if operation is Operation.FIRST:
            return Command(("cp", "-a", "--reflink=never", ".", str(job.place / "repository")), job.source)
        return None


class Find(Program):
    """find that looks at every entry's metadata, as a snapshot of an unchanged tree must."""

    name = "find"
    remark = "`find -printf` of size, times, inode, mode, owner and path"
    keeps_repository = False

    def missing(self) -> str | None:
        return None if shutil.which("find") else "find"

    def version(self) -> str:
        return _version_of("find")

    def command(self, operation: Operation, job: Job) -> Command | None:
        """Return what to run: looking at each file is the least that an unchanged snapshot can be."""
        if operation is Operation.UNCHANGED:
            return Command(("find", ".", "-printf", r"%s %T@ %C@ %i %m %U %G %p\n"), job.source)
        return None


def _version_of(executable: str) -> str:
    found = re.search(r"\d+(\.\d+)+", output_of(Command((executable, "--version"), Path.cwd())))
    return found.group() if found else "unknown"
