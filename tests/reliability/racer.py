"""Exchanges directories of a destination for symlinks that lead out of it, as fast as the system can.

A process of its own, run as a program: ``racer.py DESTINATION TRAPS SEED NAME…``. The trap of each name is a symlink
in TRAPS; the exchange is one system call, so that there is never nothing. It says when it begins, runs until its input
ends, and then tells how often it exchanged.
"""

from __future__ import annotations

import ctypes
import os
import random
import select
import subprocess
import sys
from pathlib import Path
from typing import List, Sequence

__all__ = ["Racer"]

_AT_FDCWD = -100
_EXCHANGE = 2


class Racer:
    """A running racer; a context manager.

    Attributes:
        swaps: How often it exchanged, known when it has ended.
    """

    def __init__(self, destination: Path, traps: Path, names: Sequence[str], seed: int) -> None:
        self.swaps = 0
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), str(destination), str(traps), str(seed), *names],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="ascii",
        )

    def __enter__(self) -> Racer:
        assert self._process.stdout is not None
        # An interpreter starts slower than a small tree is restored.
        assert self._process.stdout.readline() == "racing\n"
        return self

    def __exit__(self, *exc_info: object) -> None:
        out, _ = self._process.communicate()
        self.swaps = int(out)


def _race(destination: str, traps: str, seed: int, names: Sequence[str]) -> int:
    library = ctypes.CDLL(None, use_errno=True)
    pairs = [(os.fsencode(os.path.join(destination, n)), os.fsencode(os.path.join(traps, n))) for n in names]
    chance = random.Random(seed)
    swaps = 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        for _ in range(200):
            inside, trap = chance.choice(pairs)
            if library.renameat2(_AT_FDCWD, inside, _AT_FDCWD, trap, _EXCHANGE) == 0:
                swaps += 1
                for _ in range(chance.choice((0, 0, 50, 500, 5000))):  # a moment, of any length
                    pass
                swaps += library.renameat2(_AT_FDCWD, inside, _AT_FDCWD, trap, _EXCHANGE) == 0
            for _ in range(chance.choice((0, 50, 500, 5000))):
                pass
    return swaps


def main(arguments: List[str]) -> None:
    """Run until standard input ends."""
    destination, traps, seed, *names = arguments
    sys.stdout.write("racing\n")
    sys.stdout.flush()
    sys.stdout.write(f"{_race(destination, traps, int(seed), names)}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
