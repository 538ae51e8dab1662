"""Processes beside this one that do a part of the work: started, talked to, ended.

Owns when it pays to have them, how they are started, and what goes through the pipes. What they do is written beside
the operation that starts them: each has a function ``serve`` for the other end.

A helper is this Python in isolated mode, with this process's search path: it imports nothing from the current directory
and heeds no variable of the environment. It ends when its input does, and is killed when this process is.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import marshal
import os
import queue
import signal
import struct
import subprocess
import sys
import threading
from io import BufferedIOBase
from typing import Any, Optional, cast

__all__ = [
    "Channel",
    "Helper",
    "HelperFailedError",
    "helpers_for",
    "keep_memory",
    "processors",
    "start_helpers",
]

#: What a helper runs; what it is to do comes as the first message.
_PROGRAM = (
    "import json, sys; private, sys.path[:] = json.loads(sys.stdin.buffer.readline()); "
    "from backuptool.operations.processes import run; run(private)"
)

#: Each takes some 40 MB, and the process that feeds them is busy with four to eight.
_MOST = 8

#: A message is a value that marshal can write, behind its length.
_LENGTH = struct.Struct("<I")

#: No message is longer: a pack, and what is in it.
_MOST_BYTES = 64 << 20

#: Linux keeps 64 KiB in a pipe; with more, both ends wait for each other less often.
_PIPE_BYTES = 1 << 20


#: Numbers of glibc's mallopt.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


#: Linux's number of a process's wish to be sent a signal when its parent ends.
_SET_PARENT_DEATH_SIGNAL = 1


class HelperFailedError(Exception):
    """A helper has ended, or does not answer as it should."""


def processors(most: Optional[int] = None) -> int:
    """Return how many processors this process may use, at most that many."""
    try:
        found = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # pragma: no cover (not Linux)
        found = os.cpu_count() or 1
    return found if most is None else min(found, most)


def helpers_for(most: Optional[int]) -> int:
    """Return how many helpers pay where there is much to do: one for each processor, none for a single one."""
    return processors(most) if processors() > 1 else 0


class Channel:
    """One end of the two pipes between a process and its helper.

    Attributes:
        ended: True as soon as a helper can know that nobody will ask for more, or wants what it is doing.
    """

    ended = False

    def __init__(self, receiving: BufferedIOBase, sending: BufferedIOBase) -> None:
        self._receiving = receiving
        self._sending = sending
        self._buffer = bytearray()  # one for all messages: allocating for each would leave memory in pieces

    def send(self, message: Any) -> None:
        """Send a message: numbers, bytes, text, None, and tuples and lists of them.

        Raises:
            HelperFailedError: Nobody is at the other end.
        """
        data = marshal.dumps(message)
        try:
            self._sending.write(_LENGTH.pack(len(data)))
            self._sending.write(data)
            self._sending.flush()
        except (OSError, ValueError) as exc:
            raise HelperFailedError(f"nothing can be sent: {exc}") from exc

    def receive(self) -> Any:
        """Return the next message.

        Raises:
            HelperFailedError: The other end is closed, or sent something else.
        """
        try:
            length = _LENGTH.unpack(self._receiving.read(_LENGTH.size))[0]
            if length > _MOST_BYTES:
                raise ValueError("too long")
            if length > len(self._buffer):
                self._buffer = bytearray(length)
            with memoryview(self._buffer)[:length] as room:
                if self._receiving.readinto(room) != length:
                    raise ValueError("it ends within")
                return marshal.loads(room)
        except (OSError, EOFError, ValueError, TypeError, MemoryError, struct.error) as exc:
            raise HelperFailedError(f"no message came: {exc}") from exc


class Helper:
    """A process that serves one operation, and the channel to it.

    Args:
        operation: Name of the module, from this package on, whose ``serve(channel, *arguments)`` it runs.
        arguments: What that is given.
        private: Whether a key is among it: the system then writes no core of the helper, from before it is read.

    Raises:
        OSError: No process can be started.
    """

    def __init__(self, operation: str, *arguments: Any, private: bool = False) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # an interrupt from the terminal is for this process alone, which ends the others
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        for pipe in (self._process.stdin, self._process.stdout):
            _widen(pipe)
        self._channel = Channel(cast(BufferedIOBase, self._process.stdout), cast(BufferedIOBase, self._process.stdin))
        self.send = self._channel.send
        self.receive = self._channel.receive
        search_path = [entry for entry in sys.path if isinstance(entry, str)]
        try:
            self._process.stdin.write(json.dumps([private, search_path]).encode() + b"\n")
            self.send((operation, arguments, os.getpid()))
        except (OSError, HelperFailedError):
            pass  # it has ended already: whoever asks it for something will be told

    @property
    def pid(self) -> int:
        """Its process number."""
        return self._process.pid

    def finish(self) -> None:
        """Tell it that there is nothing more to do."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except OSError:
            pass  # it has ended already

    def end(self, seconds: float = 0.0) -> None:
        """End it, whatever it does; one that was told to finish gets so many seconds for that."""
        if seconds:
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                pass
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Close the pipes of one that was ended, when no thread uses them any more."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except OSError:
                pass  # it was killed with something unread


def start_helpers(number: int, operation: str, *arguments: Any, private: bool = False) -> list[Helper]:
    """Start that many helpers, at most 8; none where this is no plain Python, fewer where no process is to be had."""
    helpers: list[Helper] = []
    if _is_python(sys.executable):
        try:
            while len(helpers) < min(number, _MOST):
                helpers.append(Helper(operation, *arguments, private=private))
        except OSError:
            pass
    return helpers


def keep_memory() -> None:
    """Have the C library of this helper use blocks of up to 32 MiB again, instead of returning them to the system.

    For one that decompresses packs one after the other: 550,000 pages for 2 GB, which the system clears each time,
    were a fifth of its processor time. It takes no more memory at its largest.
    """
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):  # another C library
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(_M_MMAP_THRESHOLD, 32 << 20)
            mallopt(_M_TRIM_THRESHOLD, 64 << 20)


def run(private: bool) -> None:
    """Be a helper: read what to do from standard input, and do it until that ends."""
    if private:
        from ..storage.encryption.privacy import keep_out_of_core_dumps

        keep_out_of_core_dumps()
    sending, receiving = cast(BufferedIOBase, sys.stdout.buffer), cast(BufferedIOBase, sys.stdin.buffer)
    sys.stdout = sys.stderr  # what is printed by mistake must not get between the messages
    channel = _Inbox(receiving, sending)
    try:
        operation, arguments, parent = channel.receive()
        _end_with(parent)
        importlib.import_module(f"backuptool.operations.{operation}").serve(channel, *arguments)
    except HelperFailedError:
        pass  # the other end is gone, or has enough


def _end_with(parent: int) -> None:
    """Have the system kill this helper at the moment at which the process that started it is killed.

    Its input ends then too, but a helper notices that only a moment later, and the next run may have begun by then: it
    uses the same temporary names. The system goes by the thread that started the helper, which is the one that the
    operation runs in, and that ends its helpers itself before it ends.
    """
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # that was too late
            os._exit(1)


class _Inbox(Channel):
    """A channel whose messages are taken out of the pipe at once, so that the two ends never wait for each other."""

    def __init__(self, receiving: BufferedIOBase, sending: BufferedIOBase) -> None:
        super().__init__(receiving, sending)
        self._messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._fetch, daemon=True).start()

    def _fetch(self) -> None:
        try:
            while True:
                self._messages.put(super().receive())
        except HelperFailedError as exc:
            self.ended = True
            self._messages.put(exc)

    def receive(self) -> Any:
        """Return the next message.

        Raises:
            HelperFailedError: There will be no more.
        """
        message = self._messages.get()
        if isinstance(message, HelperFailedError):
            self._messages.put(message)
            raise message
        return message


def _widen(pipe: Any) -> None:
    try:
        import fcntl

        fcntl.fcntl(pipe.fileno(), getattr(fcntl, "F_SETPIPE_SZ", 1031), _PIPE_BYTES)
    except (ImportError, OSError):
        pass  # not Linux, or the user has many pipes: it stays as it is


def _is_python(executable: Optional[str]) -> bool:
    """Tell whether this is an interpreter: in a frozen program, or one that embeds Python, it is something else."""
    name = os.path.basename(executable or "").lower()
    return name.startswith(("python", "pypy")) and not getattr(sys, "frozen", False)
