"""What a command may decide for its process and a library may not.

What freed memory becomes, whether a bar shows, how it ends if somebody wants it to, and its standard streams.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from typing import Any, BinaryIO, Iterator, TextIO, cast

from backuptool import BackuptoolError

__all__ = [
    "abandon",
    "ending_in_order",
    "give_memory_back",
    "is_terminal",
    "keep_memory",
    "occupy_streams",
    "standard_input",
    "standard_output",
    "wants_bar",
]

#: Numbers of glibc's mallopt.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8

#: Bytes from which a block is one of its own, which is given back to the system when it is freed.
_LARGE_BLOCK = 256 << 10


#: Bytes up to which a block is taken from what was freed before, and bytes of that which are kept.
_KEPT_BLOCK, _KEPT = 32 << 20, 64 << 20


def give_memory_back() -> None:
    """Have the C library return large blocks to the system at once, and keep one heap for all threads.

    A library must not decide that for its process, a command may. Packs of all sizes come and go, and what they leave
    in pieces is a sixth of the memory of a first snapshot.
    """
    _tell_allocator((_M_MMAP_THRESHOLD, _LARGE_BLOCK), (_M_ARENA_MAX, 1))


def keep_memory() -> None:
    """Have the C library use large blocks again instead of returning them to the system.

    For commands that decompress one pack after the other, of one size: the system clears every page that it gives out,
    which is a tenth of the processor time of a restore, and a fifth of that of a check.
    """
    _tell_allocator((_M_MMAP_THRESHOLD, _KEPT_BLOCK), (_M_TRIM_THRESHOLD, _KEPT), (_M_ARENA_MAX, 1))


def _tell_allocator(*settings: tuple[int, int]) -> None:
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):  # another C library
            mallopt = ctypes.CDLL(None).mallopt
            for number, value in settings:
                mallopt(number, value)


@contextlib.contextmanager
def ending_in_order() -> Iterator[None]:
    """Take the wish to end (SIGTERM, and SIGHUP when a terminal is closed) as an interrupt, and end by it afterwards.

    So that nothing stays of what was restored for trial, or is half written. A second one ends the process at once.
    """
    received: list[int] = []
    numbers: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        received.append(number)
        signal.signal(number, signal.SIG_DFL)
        raise KeyboardInterrupt

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            with contextlib.suppress(ValueError):  # not the main thread: the program that uses this one decides
                signal.signal(number, interrupt)
                numbers.append(number)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
        if received:
            os.kill(os.getpid(), received[0])


def wants_bar(options: argparse.Namespace) -> bool:
    """Tell whether progress is to be drawn."""
    return options.verbosity >= 0 and is_terminal(sys.stderr)


def is_terminal(stream: TextIO | None) -> bool:
    """Tell whether somebody looks at a stream."""
    return stream is not None and stream.isatty()


# Standard streams. One that was closed before the process began is None.


def occupy_streams() -> None:
    """Lead standard streams that are closed into nothing: no file that is opened later may get the number of one."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


def standard_input(purpose: str) -> BinaryIO:
    """Return standard input for bytes.

    Raises:
        BackuptoolError: It is closed.
    """
    if sys.stdin is None:
        raise BackuptoolError(f"standard input is closed; {purpose}")
    return sys.stdin.buffer


@contextlib.contextmanager
def standard_output() -> Iterator[BinaryIO]:
    """Lend standard output for a stream that is worth nothing unless all of it arrives.

    Raises:
        BackuptoolError: It is closed, or did not take everything.
    """
    if sys.stdout is None:
        raise BackuptoolError("standard output is closed; redirect it, or name a file")
    output = _Output(sys.stdout)
    yield cast(BinaryIO, output)
    output.flush()


class _Output:
    """A standard stream whose failures are told in words."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, data: Any) -> int:
        """Write as much as the stream takes at a time."""
        with self._told():
            return self._stream.buffer.write(data)

    def flush(self) -> None:
        """Write what the stream still has."""
        with self._told():
            self._stream.buffer.flush()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            abandon(self._stream)
            reason = f"cannot write to standard output: {exc.strerror}"
            if isinstance(exc, BrokenPipeError):
                reason = "the reader of standard output went away"
            raise BackuptoolError(f"{reason}; the stream that it has is not whole") from exc


def abandon(stream: TextIO) -> None:
    """Lead a stream that takes no more into nothing, so that the interpreter's last flush does not fail again."""
    with contextlib.suppress(OSError):  # a stream without a descriptor
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)
