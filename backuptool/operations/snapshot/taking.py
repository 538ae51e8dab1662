"""The other end of capturing: a helper that locks a database, or makes an image of it, for the one that saves it.

Owns what lies beside a database and how it is captured by that; see capturing for what it is told. What is asked of
SQLite is the live driver's.

- With a log that holds something, what is committed is in file and log: SQLite copies it into an image.
- With a log format and no log, or an empty one, it is what the file holds. SQLite would make files beside it to lock
  it, so it is left alone, and seen afterwards whether somebody wrote to it.
- With a rollback journal it is what the file holds while nobody may write to it: it is locked.
"""

from __future__ import annotations

import os
import signal
import stat
import tempfile
import time
from contextlib import ExitStack
from typing import Dict, Optional, Tuple

from ...storage.drivers import live
from ...storage.sqlite_files import COMPANIONS, HEADER_BYTES, INDEX, LOG, MAGIC, has_log_format
from ...tree.source import FileChangedError, Source
from ..processes import Channel
from .capturing import How

__all__ = ["serve"]

#: Attempts at a database that is used in another way in just these moments, and seconds between them.
_ATTEMPTS = 20
_PAUSE = 0.02

#: Seconds to wait until a change would give a file another change time than it has.
_SETTLING = 2.5

#: Linux's number of the clock that file systems take their times from; it ticks every few ms.
_FILE_CLOCK = 5

#: Some keep whole seconds, and FAT even ones.
_COARSE_NS = 2_000_000_000

_SECOND_NS = 1_000_000_000

_COPIED_AT_ONCE = 1 << 20

#: Seconds after which this process is ended by the system, and bytes a second that an image may take beside them: over
#: a log and an index that are damaged SQLite may go on for ever.
_DEADLINE = 20
_SLOWEST = 10 << 20


def serve(channel: Channel, root: bytes, directory: str) -> None:
    """Take files for another process, until it wants no more."""
    source = Source(root)
    while True:
        _, path, apart = channel.receive()
        with ExitStack() as held:
            file = _Database(source, path, directory, held)
            signal.alarm(_DEADLINE + file.size() // _SLOWEST)
            how, number, reason = file.take(apart=apart)
            signal.alarm(0)
            channel.send((how, number, reason))
            channel.receive()
            consistent = file.is_as_taken() if how == "quiet" else True
        channel.send(consistent)


#: What tells whether a file was changed: identity, size and times; None if there is none.
_State = Optional[Tuple[int, int, int, int, int]]


class _Database:
    """A file that may be a database, and what lies beside it.

    Args:
        source: Where it is.
        path: Its path there.
        directory: Where images are put.
        held: What is to be closed when it is released.
    """

    def __init__(self, source: Source, path: bytes, directory: str, held: ExitStack) -> None:
        self._source = source
        self._path = path
        self._directory = directory
        self._held = held
        self._states: Dict[bytes, _State] = {}

    def take(self, *, apart: bool) -> tuple[How, Optional[int], str]:
        """Take it, and return the values of a :class:`Taken`."""
        try:
            how, number = self._take(apart=apart)
            return how, number, ""
        except live.NotCapturedError as exc:
            reason = str(exc)
        except (OSError, FileChangedError) as exc:
            reason = getattr(exc, "strerror", None) or str(exc)
        number = None
        if apart:
            try:
                number = self._copy()
            except (OSError, FileChangedError, live.NotCapturedError):
                pass  # without a descriptor: not even that was possible
        return "refused", number, reason

    def _take(self, *, apart: bool) -> tuple[How, Optional[int]]:
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_PAUSE)
            status = self._source.status_of(self._path)
            with self._source.open_file(self._path, status) as file:
                header = os.pread(file.descriptor, HEADER_BYTES, 0)
            if not header.startswith(MAGIC):
                return "other", None
            states = self._states = self._look()
            try:
                if _size(states[LOG]):
                    return "image", self._image()
                if has_log_format(header):
                    self._settle()
                else:
                    self._held.enter_context(live.locked(self._full_path(), self._allowed()))
            except live.NotCapturedError:
                if attempt == _ATTEMPTS - 1 or self._look() == states:
                    raise
                continue  # it is used in another way now
            how: How = "quiet" if has_log_format(header) else "locked"
            if not apart:
                return how, None
            number = self._copy()
            if how == "locked" or self.is_as_taken():
                return "image", number
        raise live.NotCapturedError("it is written to again and again")

    def size(self) -> int:
        """Return the bytes of the file and of its log, 0 if that cannot be known."""
        try:
            states = self._look()
        except (OSError, live.NotCapturedError):
            return 0
        return _size(states[b""]) + _size(states[LOG])

    def is_as_taken(self) -> bool:
        """Tell whether nobody has written to it since it was taken."""
        now = self._look()
        return now[b""] == self._states[b""] and not _size(now[LOG])

    def _look(self) -> Dict[bytes, _State]:
        return {suffix: self._state(suffix) for suffix in (b"", *COMPANIONS)}

    def _state(self, suffix: bytes) -> _State:
        try:
            status = self._source.status_of(self._path + suffix)
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(status.st_mode):
            raise live.NotCapturedError("a file beside it is none" if suffix else "it is no regular file any more")
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def _full_path(self) -> bytes:
        return os.path.join(self._source.root, self._path)

    def _allowed(self) -> frozenset[live.Identity]:
        return frozenset(state[:2] for state in self._states.values() if state is not None)

    def _image(self) -> int:
        if self._states[INDEX] is None:
            raise live.NotCapturedError("no program has it open, and its -wal was left without a -shm")
        return self._keep(live.image(self._full_path(), self._allowed(), self._directory))

    def _copy(self) -> int:
        """Copy the bytes into a file without a name."""
        status = self._source.status_of(self._path)
        live.require_room(self._directory, status.st_size)
        descriptor, name = tempfile.mkstemp(prefix="backuptool-", dir=self._directory)
        self._keep(descriptor)
        os.unlink(name)
        with self._source.open_file(self._path, status) as file:  # closing it drops the lock, which has done its work
            while True:
                data = os.read(file.descriptor, _COPIED_AT_ONCE)
                if not data:
                    return descriptor
                view = memoryview(data)
                while view:
                    view = view[os.write(descriptor, view) :]

    def _keep(self, descriptor: int) -> int:
        self._held.callback(os.close, descriptor)
        return descriptor

    def _settle(self) -> None:
        """Wait until whoever writes to it would give it another change time than it has now."""
        state = self._states[b""]
        assert state is not None
        ctime_ns = state[-1]
        settled = ctime_ns + (0 if ctime_ns % _SECOND_NS else _COARSE_NS)
        end = time.monotonic() + _SETTLING
        while time.clock_gettime_ns(_FILE_CLOCK) <= settled:
            if time.monotonic() > end:
                raise live.NotCapturedError("its change time lies in the future")
            time.sleep(_PAUSE / 4)


def _size(state: _State) -> int:
    return 0 if state is None else state[2]
