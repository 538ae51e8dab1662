"""Stopping a process before any system call it makes: to kill it there, to let the call fail, or to look around.

Owns how a function is run in a forked process under ptrace. What a call is about is in ``calls``, what is done at it is
up to the caller. The calls of all threads are counted together, in the order in which they come, so that every single
one can be met: ``strace -e inject=...:when=N`` counts for each thread alone, and what one does hides what others do.
Only the calls that are asked for stop the process (seccomp).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import struct
import sys
from functools import lru_cache
from typing import Callable, Dict, FrozenSet, List, NamedTuple, Optional, Set

from .calls import CALLS, Call

__all__ = ["Ended", "Fail", "Kill", "Verdict", "run_traced", "why_not"]

_NAMES = {number: name for name, number in CALLS.items()}

# From the kernel's headers.
_TRACEME, _CONT, _POKEUSER, _SETOPTIONS, _EVENT_MESSAGE, _SYSCALL_INFO = 0, 7, 6, 0x4200, 0x4201, 0x420E
_TRACE_FORK, _TRACE_VFORK, _TRACE_CLONE, _TRACE_SECCOMP, _EXIT_KILL = 2, 4, 8, 0x80, 0x100000
_EVENTS_NEW, _EVENT_SECCOMP = (1, 2, 3), 7
_WALL = 0x40000000
_ORIG_RAX, _RAX = 15 * 8, 10 * 8  # offsets in struct user
_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER = 38, 22, 2
_ALLOW, _TRACE = 0x7FFF0000, 0x7FF00000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


class Kill(NamedTuple):
    """Kill the process, with all its threads, before the call is made."""


class Fail(NamedTuple):
    """Do not make the call, and let it fail."""

    errno: int


Verdict = Optional[object]


class Ended(NamedTuple):
    """How the process ended, when everything it had started has ended too.

    Attributes:
        code: Its exit code, or the negative number of the signal that killed it.
        calls: How many of its calls were met.
    """

    code: int
    calls: int


def run_traced(
    function: Callable[[], int],
    names: FrozenSet[str],
    at_call: Callable[[Call], Verdict],
) -> Ended:
    """Run a function in a forked process and meet every call of certain names that it makes.

    Args:
        function: What the process does; it returns the exit code. Its output is the caller's business.
        names: Of the calls.
        at_call: What is to be done before each call: None to let it be made, or Kill() or Fail(errno).

    Raises:
        OSError: Processes cannot be traced on this machine, or by this user.
    """
    if not CALLS:
        raise OSError(errno.ENOSYS, f"the numbers of the system calls of {platform.machine()} are not known")
    child = os.fork()
    if child == 0:
        _be_traced(function, sorted(CALLS[name] for name in names))
    return _Tracer(child, at_call).run()


def _be_traced(function: Callable[[], int], numbers: List[int]) -> None:
    """Be the process: never returns."""
    code = 99
    try:
        _check(_libc.ptrace(_TRACEME, 0, None, None))
        os.kill(os.getpid(), signal.SIGSTOP)
        _check(_libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0))
        program = _filter(numbers)
        buffer = ctypes.create_string_buffer(program, len(program))
        header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
        _check(_libc.prctl(_SET_SECCOMP, _FILTER, header, 0, 0))
        code = function()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _filter(numbers: List[int]) -> bytes:
    """Return a program that stops the calls of these numbers and lets all others be made."""
    program = [struct.pack("HBBI", 0x20, 0, 0, 0)]  # load the number of the call
    for left, number in zip(range(len(numbers), 0, -1), numbers):
        program.append(struct.pack("HBBI", 0x15, left, 0, number))  # if it is this one, go to the end
    program.append(struct.pack("HBBI", 0x06, 0, 0, _ALLOW))
    program.append(struct.pack("HBBI", 0x06, 0, 0, _TRACE))
    return b"".join(program)


class _Tracer:
    """The other side: goes from stop to stop until nobody is left."""

    def __init__(self, child: int, at_call: Callable[[Call], Verdict]) -> None:
        self._child = child
        self._at_call = at_call
        self._processes: Dict[int, int] = {child: child}  # process by thread
        self._living = {child}
        self._fresh: Set[int] = set()  # started, and not yet seen
        self._calls = 0
        self._code = 0
        self._error: Optional[BaseException] = None

    def run(self) -> Ended:
        os.waitpid(self._child, 0)
        options = _TRACE_FORK | _TRACE_VFORK | _TRACE_CLONE | _TRACE_SECCOMP | _EXIT_KILL
        _check(_libc.ptrace(_SETOPTIONS, self._child, None, options))
        self._go_on(self._child, 0)
        while self._living:
            thread, status = os.waitpid(-1, _WALL)
            if os.WIFSTOPPED(status):
                self._stopped(thread, os.WSTOPSIG(status), status >> 16)
                continue
            self._living.discard(thread)
            self._fresh.discard(thread)
            self._processes.pop(thread, None)
            if thread == self._child:
                self._code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        if self._error is not None:
            raise self._error
        return Ended(self._code, self._calls)

    def _stopped(self, thread: int, number: int, event: int) -> None:
        if event == _EVENT_SECCOMP:
            self._call(thread)
            return
        if event in _EVENTS_NEW:
            message = ctypes.c_ulong()
            if _libc.ptrace(_EVENT_MESSAGE, thread, None, ctypes.byref(message)) == 0:
                self._begun(message.value)
        elif not event and thread not in self._living:
            self._begun(thread)
        if event or number == signal.SIGTRAP:
            number = 0  # nothing that was sent to it: it started something, or is another program now
        elif number == signal.SIGSTOP and thread in self._fresh:
            self._fresh.discard(thread)
            number = 0
        self._go_on(thread, number)

    def _begun(self, thread: int) -> None:
        if thread not in self._living:
            self._living.add(thread)
            self._fresh.add(thread)

    def _call(self, thread: int) -> None:
        info = ctypes.create_string_buffer(96)
        if _libc.ptrace(_SYSCALL_INFO, thread, len(info), info) < 0:
            return  # it was killed meanwhile
        number, *arguments = struct.unpack_from("7Q", info, 24)
        process = self._process(thread)
        main = process == self._child
        verdict: Verdict = None
        if self._error is None:
            call = Call(self._calls, _NAMES[number], tuple(arguments), process, main)
            self._calls += main
            try:
                verdict = self._at_call(call)
            except BaseException as exc:
                self._error, verdict = exc, Kill()
        if isinstance(verdict, Kill):
            os.kill(process, signal.SIGKILL)
            return
        if isinstance(verdict, Fail):
            _libc.ptrace(_POKEUSER, thread, _ORIG_RAX, -1)
            _libc.ptrace(_POKEUSER, thread, _RAX, -verdict.errno)
        self._go_on(thread, 0)

    def _process(self, thread: int) -> int:
        if thread not in self._processes:
            with open(f"/proc/{thread}/status", encoding="ascii", errors="replace") as file:
                self._processes[thread] = next(int(line.split()[1]) for line in file if line.startswith("Tgid:"))
        return self._processes[thread]

    def _go_on(self, thread: int, number: int) -> None:
        if _libc.ptrace(_CONT, thread, None, number) < 0 and ctypes.get_errno() != errno.ESRCH:
            raise OSError(ctypes.get_errno(), "cannot go on")


def _check(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@lru_cache(maxsize=1)
def why_not() -> str:
    """Return why processes cannot be traced here, "" if they can."""
    met: List[str] = []

    def look(call: Call) -> Verdict:
        met.append(call.path())
        return Fail(errno.EIO)

    def sync() -> int:
        try:
            os.fsync(1)
        except OSError as exc:
            return exc.errno or 0
        return 0

    try:
        ended = run_traced(sync, frozenset({"fsync"}), look)
    except OSError as exc:
        return f"processes cannot be traced: {exc}"
    return "" if ended == (errno.EIO, 1) and met else f"processes cannot be traced: {ended}, {met}"
