"""What a command may decide for its process and a library may not: how memory is given back, whether a bar is drawn"""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import TextIO

__all__ = ["give_memory_back", "is_terminal", "wants_bar"]

#: Numbers of glibc's mallopt.
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8

#: Bytes from which a block is one of its own, which is given back to the system when it is freed.
_LARGE_BLOCK = 256 << 10


def give_memory_back() -> None:
    """Have the C library return large blocks to the system at once, and keep one heap for all threads.

    A library must not decide that for its process, a command may. Packs of all sizes come and go, and what they leave
    in pieces is a sixth of the memory of a first snapshot.
    """
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):  # another C library
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)
            mallopt(_M_ARENA_MAX, 1)


def wants_bar(options: argparse.Namespace) -> bool:
    """Tell whether progress is to be drawn."""
    return options.verbosity >= 0 and is_terminal(sys.stderr)


def is_terminal(stream: TextIO | None) -> bool:
    """Tell whether somebody looks at a stream."""
    return stream is not None and stream.isatty()
