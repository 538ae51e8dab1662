"""The backup programs that are compared, each used as its users would: how it is found, told what to do, and weighed.

Every snapshot is saved so that a restore yields the same paths whatever the program: restic and borg are told to save
``.`` from inside the tree, and backuptool's paths begin at the tree anyway.
Plain programs that set physical limits are in ``yardsticks``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Sequence

from .measure import Command, output_of
from .plan import Operation

__all__ = ["BackupProgram", "Backuptool", "Borg", "Job", "Program", "Restic", "size_of"]


@dataclass(frozen=True)
class Job:
    """What an operation works on.

    Attributes:
        place: A directory of the program's own: the repository and whatever the program puts beside it.
        source: The tree to save.
        number: How many snapshots were taken before, for programs that want a name for each.
        references: The snapshots there are, oldest first.
        target: An empty directory to restore into.
        file: The path of one regular file in the tree, '/'-separated.
    """

    place: Path
    source: Path
    number: int = 0
    references: tuple[str, ...] = ()
    target: Path = Path()
    file: str = ""


class Program(ABC):
    """A program that can do some of the operations.

    Attributes:
        name: What it is called on the command line of the benchmark.
        remark: How it is used, for the report.
        warning_status: The exit status that means "done, but": it counts as done.
        keeps_repository: Whether a later operation needs what an earlier one wrote.
    """

    name: ClassVar[str]
    remark: ClassVar[str] = ""
    warning_status: ClassVar[int | None] = None
    keeps_repository: ClassVar[bool] = True

    @abstractmethod
    def missing(self) -> str | None:
        """Return the name of what is not installed, or None."""

    @abstractmethod
    def version(self) -> str:
        """Return the version, digits and dots."""

    @property
    def label(self) -> str:
        """What it is called in the tables."""
        return f"{self.name} {self.version()}"

    def prepare(self, job: Job) -> tuple[Command, ...]:
        """Return what makes the repository, where that is a command of its own. Not measured."""
        return ()

    @abstractmethod
    def command(self, operation: Operation, job: Job) -> Command | None:
        """Return what to run, or None for an operation that the program does not have."""

    def references(self, job: Job) -> tuple[str, ...]:
        """Return the snapshots there are, oldest first. Not measured."""
        return ()

    def repository_bytes(self, job: Job) -> int:
        """Return the sizes of all files of the repository added up."""
        return size_of(job.place / "repository")

    def cache_bytes(self, job: Job) -> int:
        """Return the sizes of all files kept outside the repository added up."""
        return size_of(job.place) - self.repository_bytes(job)


class BackupProgram(Program):
    """A program with a repository that holds many snapshots: every operation is one command."""

    def command(self, operation: Operation, job: Job) -> Command | None:
        """Return what to run."""
        if operation.is_snapshot:
            return self.snapshot(job)
        if operation.is_restore:
            return self.restore(job, job.file if operation is Operation.RESTORE_FILE else None)
        if operation is Operation.PRUNE_ONE:
            return self.prune(job, job.references[:1])
        if operation is Operation.PRUNE_HALF:
            return self.prune(job, job.references[::2])
        return self.check(job) if operation is Operation.CHECK else self.list_snapshots(job)

    @abstractmethod
    def snapshot(self, job: Job) -> Command:
        """Save the source."""

    @abstractmethod
    def list_snapshots(self, job: Job) -> Command:
        """List the snapshots."""

    @abstractmethod
    def restore(self, job: Job, file: str | None) -> Command:
        """Write the newest snapshot, or one file of it, into the target."""

    @abstractmethod
    def check(self, job: Job) -> Command:
        """Check the repository with all of its data."""

    @abstractmethod
    def prune(self, job: Job, references: Sequence[str]) -> Command:
        """Remove snapshots and give back the space."""


class Backuptool(BackupProgram):
    """This program, as ``python -m backuptool``: what is importable is what is measured.

    It never runs inside the tree: ``python -m`` looks for modules in the current directory first, and a tree of Python
    sources would be imported instead of the standard library.
    """

    name = "backuptool"
    remark = "default settings, files of any size"
    warning_status = 3

    def __init__(self, interpreter: str = sys.executable) -> None:
        self._interpreter = interpreter
        found = importlib.util.find_spec("backuptool")
        self._package = Path(found.origin).parent if found and found.origin else None

    def missing(self) -> str | None:
        return None if self._package else "backuptool"

    def version(self) -> str:
        return _version(output_of(self._run(Path.cwd(), "--version")))

    def prepare(self, job: Job) -> tuple[Command, ...]:
        # As an installed package is; otherwise the first use of each module would pay for compiling it.
        return (Command((self._interpreter, "-m", "compileall", "-q", str(self._package)), job.place),)

    def references(self, job: Job) -> tuple[str, ...]:
        listed = json.loads(output_of(self._in(job, "list", "--json")))
        return tuple(str(snapshot["id"]) for snapshot in listed["snapshots"])

    def snapshot(self, job: Job) -> Command:
        return self._in(job, "snapshot", "--target-directory", str(job.source), "--max-file-size", "none")

    def list_snapshots(self, job: Job) -> Command:
        return self._in(job, "list")

    def restore(self, job: Job, file: str | None) -> Command:
        only = () if file is None else ("--include", f"/{file}")
        newest = ("--snapshot-number", job.references[-1])
        return self._in(job, "restore", *newest, "--output-directory", str(job.target), *only)

    def check(self, job: Job) -> Command:
        return self._in(job, "check")

    def prune(self, job: Job, references: Sequence[str]) -> Command:
        return self._in(job, "prune", "--snapshot", *references)

    def _in(self, job: Job, *arguments: str) -> Command:
        return self._run(job.place, "--db-path", str(job.place / "repository"), *arguments)

    def _run(self, directory: Path, *arguments: str) -> Command:
        root = self._package.parent if self._package else Path()
        search = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {"PYTHONPATH": os.pathsep.join(search)}
        return Command((self._interpreter, "-m", "backuptool", *arguments), directory, environment)


class Restic(BackupProgram):
    """restic with its default settings and its cache; a password, since there is no repository without one."""

    name = "restic"
    remark = "default compression (auto), encrypted as it always is, its cache on the same file system"
    warning_status = 3

    def __init__(self, executable: str = "restic") -> None:
        self._executable = executable

    def missing(self) -> str | None:
        return None if shutil.which(self._executable) else self._executable

    def version(self) -> str:
        return _version(output_of(Command((self._executable, "version"), Path.cwd())))

    def prepare(self, job: Job) -> tuple[Command, ...]:
        return (self._in(job, job.place, "init"),)

    def references(self, job: Job) -> tuple[str, ...]:
        snapshots = json.loads(output_of(self._in(job, job.place, "snapshots", "--json")))
        return tuple(snapshot["id"] for snapshot in sorted(snapshots, key=lambda snapshot: str(snapshot["time"])))

    def snapshot(self, job: Job) -> Command:
        return self._in(job, job.source, "backup", ".")

    def list_snapshots(self, job: Job) -> Command:
        return self._in(job, job.place, "snapshots")

    def restore(self, job: Job, file: str | None) -> Command:
        only = () if file is None else ("--include", f"/{file}")
        return self._in(job, job.place, "restore", "latest", "--target", str(job.target), *only)

    def check(self, job: Job) -> Command:
        return self._in(job, job.place, "check", "--read-data")

    def prune(self, job: Job, references: Sequence[str]) -> Command:
        return self._in(job, job.place, "forget", "--prune", *references)

    def _in(self, job: Job, directory: Path, *arguments: str) -> Command:
        environment = {
            "RESTIC_REPOSITORY": str(job.place / "repository"),
            "RESTIC_PASSWORD": "benchmark",
            "RESTIC_CACHE_DIR": str(job.place / "cache"),
            "TMPDIR": str(job.place),
        }
        return Command((self._executable, *arguments), directory, environment)


class Borg(BackupProgram):
    """borg without encryption and with its default compression."""

    name = "borg"
    remark = "no encryption, default compression (lz4), its cache on the same file system"
    warning_status = 1

    def __init__(self, executable: str = "borg") -> None:
        self._executable = executable

    def missing(self) -> str | None:
        return None if shutil.which(self._executable) else self._executable

    def version(self) -> str:
        return _version(output_of(Command((self._executable, "--version"), Path.cwd())))

    def prepare(self, job: Job) -> tuple[Command, ...]:
        return (self._in(job, job.place, self._executable, "init", "--encryption", "none"),)

    def references(self, job: Job) -> tuple[str, ...]:
        listed = json.loads(output_of(self._in(job, job.place, self._executable, "list", "--json")))
        return tuple(str(snapshot["name"]) for snapshot in listed["archives"])

    def snapshot(self, job: Job) -> Command:
        return self._in(job, job.source, self._executable, "create", f"::{job.number:06}", ".")

    def list_snapshots(self, job: Job) -> Command:
        return self._in(job, job.place, self._executable, "list")

    def restore(self, job: Job, file: str | None) -> Command:
        only = () if file is None else (file,)
        return self._in(job, job.target, self._executable, "extract", f"::{job.references[-1]}", *only)

    def check(self, job: Job) -> Command:
        return self._in(job, job.place, self._executable, "check", "--verify-data")

    def prune(self, job: Job, references: Sequence[str]) -> Command:
        script = '"$0" delete :: "$@" && "$0" compact'
        return self._in(job, job.place, "sh", "-c", script, self._executable, *references)

    def _in(self, job: Job, directory: Path, *argv: str) -> Command:
        environment: dict[str, str] = {
            "BORG_REPO": str(job.place / "repository"),
            "BORG_BASE_DIR": str(job.place / "base"),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
            "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
            "TMPDIR": str(job.place),
        }
        return Command(argv, directory, environment)


def size_of(path: Path) -> int:
    """Return the sizes in bytes of all regular files at and below a path added up; 0 if there is nothing."""
    if not path.is_dir():
        return path.lstat().st_size if path.exists() else 0
    with os.scandir(path) as entries:
        return sum(
            size_of(Path(entry.path))
            if entry.is_dir(follow_symlinks=False)
            else entry.stat(follow_symlinks=False).st_size
            for entry in entries
        )


def _version(text: str) -> str:
    found = re.search(r"\d+(\.\d+)+\S*", text)
    return found.group() if found else "unknown"
