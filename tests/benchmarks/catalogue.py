"""Everything that can be asked for by name: the data sets and the programs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Sequence

from .datasets import DataSet, Sizes
from .large_files import Database, Image, Media
from .programs import Backuptool, Borg, Program, Restic
from .releases import Releases
from .trees import Many, Million, Nightly
from .yardsticks import Copy, Find, PlainTar, Tar

__all__ = ["DATA_SETS", "DEFAULT_PROGRAMS", "PROGRAMS", "find_programs", "make_data_set"]

#: The data sets' names, in the order of the report.
DATA_SETS = ("many", "media", "image", "releases", "database", "nightly", "million")

#: The programs' names, in the order of the report.
PROGRAMS = ("backuptool", "restic", "borg", "tar", "tar-plain", "cp", "find")

#: What is measured unless something else is asked for.
DEFAULT_PROGRAMS = ("backuptool", "restic", "borg", "tar", "cp", "find")


def make_data_set(name: str, sizes: Sizes, *, directory: Path | None = None, releases: Sequence[Path] = ()) -> DataSet:
    """Return a data set.

    Args:
        name: One of :data:`DATA_SETS`.
        sizes: How much of it.
        directory: For ``many``, the tree to copy; None for a generated one.
        releases: For ``releases``, the trees to use; none for generated ones.
    """
    if name == "many":
        return Many(sizes, directory)
    if name == "releases":
        return Releases(sizes, releases)
    others = (Media, Image, Database, Nightly, Million)
    return next(kind for kind in others if kind.name == name)(sizes)


def find_programs(
    names: Sequence[str], *, interpreter: str = sys.executable, restic: Sequence[str] = (), borg: Sequence[str] = ()
) -> tuple[list[Program], list[str]]:
    """Return the programs that are installed, and what is missing of the others.

    Args:
        names: Some of :data:`PROGRAMS`.
        interpreter: The Python that runs backuptool.
        restic: Executables of restic to measure, each as a program of its own; none for the one on PATH.
        borg: The same of borg.
    """
    programs: list[Program] = []
    for name in PROGRAMS:
        if name not in names:
            continue
        if name == "backuptool":
            programs.append(Backuptool(interpreter))
        elif name == "restic":
            programs += [Restic(executable) for executable in restic or ("restic",)]
        elif name == "borg":
            programs += [Borg(executable) for executable in borg or ("borg",)]
        else:
            yardsticks = (Tar, PlainTar, Copy, Find)
            programs.append(next(kind for kind in yardsticks if kind.name == name)())
    missing = [(program, program.missing()) for program in programs]
    return [program for program, lack in missing if not lack], [lack for _, lack in missing if lack]
