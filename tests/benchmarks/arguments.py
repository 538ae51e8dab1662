"""The benchmark's options, and what they mean in numbers."""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
from pathlib import Path
from typing import Callable, Sequence

from .catalogue import DATA_SETS, DEFAULT_PROGRAMS, PROGRAMS
from .datasets import FULL, SMALL, Sizes
from .plan import Operation
from .runner import ORDERS
from .workspace import default_parent

__all__ = ["build_parser", "sizes_of"]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the benchmark's options."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measure backuptool beside other backup programs and physical yardsticks, on the same data.",
    )
    option = parser.add_argument
    names = "comma-separated, of: "
    option("--data", type=_choices(DATA_SETS), default=("many",), metavar="NAMES", help=names + ", ".join(DATA_SETS))
    option("--dir", type=_directory, help="the directory that 'many' copies (default: a generated tree)")
    option(
        "--release",
        type=_directory,
        action="append",
        default=[],
        metavar="DIR",
        help="a release that 'releases' uses, oldest first; may be given several times (default: generated ones)",
    )
    option(
        "--programs",
        type=_choices(PROGRAMS),
        default=DEFAULT_PROGRAMS,
        metavar="NAMES",
        help=f"{names}{', '.join(PROGRAMS)} (default: {','.join(DEFAULT_PROGRAMS)})",
    )
    several = "may be given several times to compare versions (default: the one on PATH)"
    option("--restic", type=_executable, action="append", default=[], metavar="PATH", help=f"a restic; {several}")
    option("--borg", type=_executable, action="append", default=[], metavar="PATH", help=f"a borg; {several}")
    option(
        "--python",
        type=_executable,
        default=sys.executable,
        metavar="PATH",
        help="what runs backuptool (default: this one)",
    )
    option("--repeat", type=_positive, metavar="N", help="medians of so many (default: 3; with --small 1)")
    operations = tuple(operation.value for operation in Operation)
    option(
        "--operations",
        type=_operations,
        default=tuple(Operation),
        metavar="NAMES",
        help=f"measure only these beside the first snapshot; {names}{', '.join(operations)}",
    )
    option("--small", action="store_true", help="the smallest form: a few files of each, to see that everything works")
    option("--scale", type=float, default=1.0, metavar="F", help="so many times the data (--scale 0.1 for a tenth)")
    option("--files", type=_positive, metavar="N", help="files in a generated tree of many, nightly, million")
    option("--size", type=_positive, metavar="MIB", help="MiB of media and image")
    option("--nights", type=_positive, metavar="N", help="snapshots of nightly, 3 or more")
    option("--versions", type=_positive, metavar="N", help="generated releases, 2 or more")
    option("--order", choices=ORDERS, default="auto", help="program: one after the other, needs the least room")
    option("--timeout", type=float, default=7200.0, metavar="SECONDS", help="for a single command (default: 7200)")
    option("--work", type=Path, default=default_parent(), metavar="DIR", help="where to work (default: %(default)s)")
    option("--out", type=Path, metavar="FILE", help="a Markdown file to write the tables into, beside what is there")
    option("--json", type=Path, metavar="FILE", help="every single measurement")
    option("--plot", type=Path, metavar="DIR", help="where to write a chart of each data set as SVG")
    return parser


def sizes_of(options: argparse.Namespace) -> Sizes:
    """Return how much data is wanted."""
    sizes = (SMALL if options.small else FULL).scaled(options.scale)
    wanted: dict[str, int | None] = {
        "many_files": options.files,
        "nightly_files": options.files,
        "million_files": options.files,
        "media_bytes": options.size and options.size << 20,
        "image_bytes": options.size and options.size << 20,
        "nights": options.nights and max(3, options.nights),
        "releases": options.versions and max(2, options.versions),
    }
    return dataclasses.replace(sizes, **{name: value for name, value in wanted.items() if value})


def _choices(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """Return a function that reads a list of known names; "all" is every one."""

    def read(text: str) -> tuple[str, ...]:
        names = tuple(known) if text == "all" else tuple(name.strip() for name in text.split(","))
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"not known: {', '.join(unknown)}; there are {', '.join(known)}")
        return tuple(name for name in known if name in names)

    return read


def _operations(text: str) -> tuple[Operation, ...]:
    names = _choices([operation.value for operation in Operation])(text)
    return tuple(Operation(name) for name in names)


def _directory(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"no such directory: {text}")
    return path.resolve()


def _executable(text: str) -> str:
    found = shutil.which(Path(text).expanduser())
    if found is None:
        raise argparse.ArgumentTypeError(f"cannot be run: {text}")
    return str(Path(found).absolute())


def _positive(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"not a number above 0: {text}")
    return int(text)
