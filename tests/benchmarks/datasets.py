"""What data sets have in common: how large they are, what they can tell, and how trees are copied.

The data sets themselves are in ``trees``, ``releases`` and ``large_files``; ``catalogue`` knows them all.
"""

from __future__ import annotations

import dataclasses
import os
import stat
import subprocess
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from .plan import Plan

__all__ = ["FULL", "SMALL", "DataSet", "Extent", "Sizes", "copy_tree", "extent_of", "regular_files"]

#: What an entry costs a memory file system beside its contents: an inode, a name and their places in caches.
_ENTRY_BYTES = 1400

#: What a pattern of any of the programs could take for more than a letter.
_SPECIAL_CHARACTERS = frozenset("*?[]{}!\\#")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much data is made.

    Attributes:
        many_files: Files in a generated tree that stands in for a directory.
        media_bytes: Bytes in a few incompressible files.
        image_bytes: Bytes in one disk image.
        release_files: The most files in a source tree.
        releases: Versions of that tree.
        database_rows: Rows in a database, of about 430 bytes each with their share of the index.
        nightly_files: Files in the tree that is saved every night.
        nights: Snapshots of that tree.
        million_files: Files in the largest tree.
    """

    many_files: int
    media_bytes: int
    image_bytes: int
    release_files: int
    releases: int
    database_rows: int
    nightly_files: int
    nights: int
    million_files: int

    def scaled(self, factor: float) -> Sizes:
        """Return these sizes with every number multiplied, except those that count snapshots."""
        scaled = {
            field.name: max(1, round(factor * getattr(self, field.name)))
            for field in dataclasses.fields(self)
            if field.name not in ("releases", "nights")
        }
        return dataclasses.replace(self, **scaled)


@dataclasses.dataclass(frozen=True)
class Extent:
    """How large a tree is.

    Attributes:
        entries: Files, directories and so on.
        size_bytes: What its regular files hold.
        allocated_bytes: What it takes on a file system, about.
    """

    entries: int
    size_bytes: int
    allocated_bytes: int


#: The sizes of the tables in docs/benchmarks.md.
FULL = Sizes(
    many_files=100_000,
    media_bytes=4 << 30,
    image_bytes=4 << 30,
    release_files=100_000,
    releases=6,
    database_rows=2_500_000,
    nightly_files=100_000,
    nights=200,
    million_files=1_000_000,
)

#: Sizes at which every data set is done in seconds: they show that everything works, and nothing about speed.
SMALL = Sizes(
    many_files=200,
    media_bytes=8 << 20,
    image_bytes=8 << 20,
    release_files=40,
    releases=3,
    database_rows=4_000,
    nightly_files=200,
    nights=4,
    million_files=400,
)


class DataSet(ABC):
    """Data to save, and what is done with it.

    Attributes:
        name: What it is called on the command line and in the tables.
        stored_share: How large repositories of it get at most, beside the size of its files.
    """

    name: ClassVar[str]
    stored_share: ClassVar[float] = 0.7

    def __init__(self, sizes: Sizes) -> None:
        self._sizes = sizes

    @property
    @abstractmethod
    def description(self) -> str:
        """What it is, in a line for the report."""

    @abstractmethod
    def build(self, directory: Path) -> None:
        """Write the first state into an empty directory: the same bytes each time."""

    @abstractmethod
    def plan(self) -> Plan:
        """Return what is measured, and how the data changes in between."""

    def sample_file(self, directory: Path) -> str:
        """Return the path of a regular file to restore alone, '/'-separated: the middle one, or the next that will do.

        It has one name only, since tar cannot restore a second one alone, and one without wildcards.

        Raises:
            OSError: There is none.
        """
        paths = regular_files(directory)
        for path in paths[len(paths) // 2 :] + paths[: len(paths) // 2]:
            if not _SPECIAL_CHARACTERS.intersection(path) and (directory / path).lstat().st_nlink == 1:
                return path
        raise OSError("there is no ordinary file in the data")


def copy_tree(origin: Path, directory: Path) -> None:
    """Copy a tree with all metadata into an empty directory; what is copied is only read."""
    subprocess.run(["cp", "-a", "--", f"{origin}/.", str(directory)], check=True, stdin=subprocess.DEVNULL)


def extent_of(directory: Path) -> Extent:
    """Return how large the tree below a directory is."""
    count = size_bytes = allocated_bytes = 0
    for folder, directories, names in os.walk(directory):
        count += len(directories) + len(names)
        for name in names:
            information = os.lstat(os.path.join(folder, name))
            if stat.S_ISREG(information.st_mode):
                size_bytes += information.st_size
                allocated_bytes += getattr(information, "st_blocks", 0) * 512
    return Extent(count, size_bytes, max(size_bytes, allocated_bytes) + count * _ENTRY_BYTES)


def regular_files(directory: Path) -> list[str]:
    """Return the paths of all regular files below a directory that have printable names, '/'-separated, sorted."""
    found = []
    for folder, _, names in os.walk(directory):
        prefix = os.path.relpath(folder, directory)
        for name in names:
            path = os.path.normpath(os.path.join(prefix, name))
            if path.isprintable() and stat.S_ISREG(os.lstat(os.path.join(folder, name)).st_mode):
                found.append(path)
    return sorted(found)
