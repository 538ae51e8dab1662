"""Changes a source while it is saved: files grow, shrink, vanish, and become something else.

A process of its own, run as a program: ``mutator.py SOURCE OUTSIDE SEED``. It runs until its input ends, and then tells
how often it changed something.
"""

from __future__ import annotations

import os
import random
import select
import stat
import subprocess
import sys
from pathlib import Path
from typing import Callable, Dict, List, Tuple

__all__ = ["KINDS", "Mutator"]

Step = Callable[[str, str, random.Random], None]


class Mutator:
    """A running mutator; a context manager.

    Attributes:
        swaps: How often it changed something, by what became of it; known when it has ended.
    """

    def __init__(self, source: Path, outside: Path, seed: int) -> None:
        self.swaps: Dict[str, int] = {}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), str(source), str(outside), str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="ascii",
        )

    def __enter__(self) -> Mutator:
        return self

    def __exit__(self, *exc_info: object) -> None:
        out, _ = self._process.communicate()
        self.swaps = {name: int(count) for name, count in (line.split() for line in out.splitlines())}


def _clear(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        for name in os.listdir(path):
            os.unlink(os.path.join(path, name))
        os.rmdir(path)


def _file(path: str, outside: str, chance: random.Random) -> None:
    _clear(path)
    # Another mutator may have made a FIFO or a symlink of it meanwhile.
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NONBLOCK, 0o644), "wb") as file:
        file.write(b"%s %d\n" % (os.path.basename(path).encode(), chance.randrange(99)) * chance.randrange(1, 9000))


def _grow(path: str, outside: str, chance: random.Random) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK), "ab") as file:
        file.write(b"grown\n" * chance.randrange(1, 60_000))


def _shrink(path: str, outside: str, chance: random.Random) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        os.ftruncate(descriptor, chance.randrange(100))
    finally:
        os.close(descriptor)


def _vanish(path: str, outside: str, chance: random.Random) -> None:
    _clear(path)


def _fifo(path: str, outside: str, chance: random.Random) -> None:
    _clear(path)
    os.mkfifo(path)


def _symlink(path: str, outside: str, chance: random.Random) -> None:
    _clear(path)
    os.symlink(os.path.join(outside, "secret"), path)


def _symlink_to_directory(path: str, outside: str, chance: random.Random) -> None:
    _clear(path)
    os.symlink(outside, path)


def _device(path: str, outside: str, chance: random.Random) -> None:
    _clear(path)
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # zeros without end


def _directory(path: str, outside: str, chance: random.Random) -> None:
    _clear(path)
    os.mkdir(path)
    with open(os.open(os.path.join(path, "secret"), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as file:
        file.write(b"no secret\n")


def _parent(path: str, outside: str, chance: random.Random) -> None:
    """Put a symlink in the place of the directory that the file is in, and the directory back."""
    parent = os.path.dirname(path)
    aside = parent + ".aside"
    os.rename(parent, aside)
    try:
        os.symlink(outside, parent)
        for _ in range(chance.choice((10, 1000, 20_000))):
            pass
        os.unlink(parent)
    finally:
        os.rename(aside, parent)


def _unreadable(path: str, outside: str, chance: random.Random) -> None:
    _file(path, outside, chance)
    os.chmod(path, 0)


_STEPS: List[Tuple[str, Step]] = [
    *(("file", _file), ("file", _file), ("grown", _grow), ("shrunk", _shrink), ("gone", _vanish), ("fifo", _fifo)),
    *(("symlink", _symlink), ("directory-symlink", _symlink_to_directory), ("directory", _directory)),
    *(("parent-symlink", _parent), ("unreadable", _unreadable)),
]
if os.geteuid() == 0:
    _STEPS.append(("device", _device))

#: What files become.
KINDS = sorted({name for name, _ in _STEPS})


def main(source: str, outside: str, seed: int) -> None:
    """Run until standard input ends."""
    chance = random.Random(seed)
    counts: Dict[str, int] = {}
    paths = [os.path.join(source, f"dir{d}", f"file{f}") for d in range(8) for f in range(12)]
    while not select.select([sys.stdin], [], [], 0)[0]:
        for _ in range(20):
            name, step = chance.choice(_STEPS)
            try:
                step(chance.choice(paths), outside, chance)
            except OSError:
                continue  # another mutator was there
            counts[name] = counts.get(name, 0) + 1
    for name, count in counts.items():
        sys.stdout.write(f"{name} {count}\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
