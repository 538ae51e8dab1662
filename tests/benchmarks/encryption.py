"""``python -m tests.benchmarks.encryption DIRECTORY``: what encryption costs a first snapshot, and opening.

Commands on a plain and on an encrypted repository, one after the other in turn, so that whatever else the machine does
meanwhile is no one's disadvantage. Processor time counts that of helpers.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence

__all__ = ["main"]


class Cost(NamedTuple):
    """Seconds of wall and of processor time that a command took."""

    wall: float
    processor: float


def run(arguments: Sequence[str], work: Path, *, encrypted: bool) -> Cost:
    """Run a command of backuptool."""
    environment = {**os.environ, "XDG_STATE_HOME": str(work), **({"BACKUPTOOL_PASSWORD": "p"} if encrypted else {})}
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [sys.executable, "-m", "backuptool", "-q", *arguments]
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    wall, after = time.monotonic() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def measure(source: Path, work: Path, rounds: int) -> Dict[str, List[Cost]]:
    """Return the costs of each command, by its name."""
    costs: Dict[str, List[Cost]] = {}
    for number in range(rounds):
        for encrypted in (False, True) if number % 2 else (True, False):
            path = work / f"{'encrypted' if encrypted else 'plain'}.db"
            if path.exists():
                path.unlink()
            taking = ["snapshot", "--target-directory", str(source), *["--encrypt"] * encrypted]
            for arguments in (taking, ["list"]):
                cost = run([*arguments, "--db-path", str(path)], work, encrypted=encrypted)
                costs.setdefault(f"{arguments[0]}, {path.stem}", []).append(cost)
    return costs


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Measure, and print the medians and their ratios."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.encryption", description=__doc__)
    parser.add_argument("directory", type=Path, help="what is saved")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, help="where to work; in the directory for temporary files by default")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=options.work) as work:
        costs = measure(options.directory, Path(work), options.rounds)
    medians = {name: Cost(*map(statistics.median, zip(*found))) for name, found in costs.items()}
    for name, cost in medians.items():
        sys.stdout.write(f"{name:24} {cost.wall:7.2f} s, processor {cost.processor:7.2f} s\n")
    plain, encrypted = medians["snapshot, plain"], medians["snapshot, encrypted"]
    opening = [one - other for one, other in zip(medians["list, encrypted"], medians["list, plain"])]
    sys.stdout.write(
        f"first snapshot: {encrypted.wall / plain.wall:.3f} times the time, "
        f"{encrypted.processor / plain.processor:.3f} times the processor time\n"
        f"opening: {opening[0]:.2f} s more, processor {opening[1]:.2f} s more\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
