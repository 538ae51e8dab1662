"""``python -m tests.reliability``: run rows of the programme and print their figures."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where pytest finds what all tests share

from .programme import ROWS, Effort, run_row

__all__ = ["main"]


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the rows that are asked for and return the exit code: 0 nothing found, 1 a promise was broken."""
    names = [name for name, _ in ROWS]
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"one of {', '.join(names)}; all by default")
    parser.add_argument("--full", action="store_true", help="try everything, which takes up to hours a row")
    parser.add_argument("--minutes", type=float, help="stop each row after so long; the figures say how far it came")
    parser.add_argument("--scenario", default="", help="of rows with several (kill, faults, damage), only this one")
    parser.add_argument("--seed", type=int, default=1, help="of what is chosen at random (1)")
    parser.add_argument("--work", type=Path, help="where to work; in memory by default")
    options = parser.parse_args(argv)
    unknown = [name for name in options.rows if name not in names]
    if unknown:
        parser.error(f"there is no row {unknown[0]}; there are {', '.join(names)}")
    found = 0
    for name in options.rows or names:
        found += _run(name, options)
    return 1 if found else 0


def _run(name: str, options: argparse.Namespace) -> int:
    """Run a row, print its figures, and return the number of faults."""
    work = Path(tempfile.mkdtemp(prefix=f"reliability-{name}-", dir=str(options.work or _in_memory())))
    begin = time.monotonic()
    try:
        seconds = None if options.minutes is None else 60 * options.minutes
        effort = Effort(
            work=work,
            full=options.full,
            seconds=seconds,
            scenario=options.scenario,
            seed=options.seed,
            tell=_tell,
        )
        figures = run_row(name, effort)
    finally:
        shutil.rmtree(str(work), ignore_errors=True)
    form = "full" if options.full else "short"
    sys.stdout.write(f"{name}, {form} form, seed {options.seed}, {time.monotonic() - begin:,.0f} s\n")
    sys.stdout.writelines(line + "\n" for line in figures.lines())
    sys.stdout.flush()
    return len(figures.faults)


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _in_memory() -> Optional[str]:
    memory = os.environ.get("TMPDIR") or "/dev/shm"
    return memory if os.access(memory, os.W_OK) else None


if __name__ == "__main__":
    sys.exit(main())
