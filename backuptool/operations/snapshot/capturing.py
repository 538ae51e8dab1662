"""Capturing databases in a process of its own: hold them still while they are read, or make an image of them.

Owns what the two processes tell each other; what the other one does is taking's. Which files are captured, and what
becomes of their companions, is databases'.

A process of its own, because closing any descriptor of a file drops all locks that its process has on it: somebody who
takes a snapshot out of a notebook may have the database open in the same process.
"""

from __future__ import annotations

import os
from typing import Literal, Optional

import attrs

from ..processes import Helper, HelperFailedError, start_helpers

__all__ = ["Capturing", "How", "Taken"]

#: Helpers that may end over a file before there are no more: each may take some time to do so.
_MOST_FAILURES = 5

How = Literal["locked", "quiet", "image", "other", "refused"]


@attrs.frozen
class Taken:
    """How a file was taken.

    Attributes:
        how: ``"locked"``: nobody writes to it until it is released, read it; ``"quiet"``: read it, and releasing tells
            whether somebody wrote to it meanwhile; ``"image"``: read the image; ``"other"``: it is no database;
            ``"refused"``: it cannot be captured.
        descriptor: Of the image; of a copy of the bytes, if one was wanted of a file that is refused.
        reason: Why it was refused, in words that follow its name.
    """

    how: How
    descriptor: Optional[int] = None
    reason: str = ""


class Capturing:
    """Has files taken by a helper, one after the other; a context manager. The helper is started for the first one.

    One that ends over a file is followed by another one, for the next file.

    Args:
        root: The source, an absolute path.
    """

    def __init__(self, root: bytes) -> None:
        self._root = root
        self._helper: Optional[Helper] = None
        self._failures = 0

    def __enter__(self) -> Capturing:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._end()

    def take(self, path: bytes, *, apart: bool) -> Taken:
        """Take a file; it has to be released before the next one.

        Args:
            path: Relative to the source.
            apart: This process must not open the file: the answer is an image whatever happens, if there is room.
        """
        try:
            helper = self._start()
            helper.send(("take", path, apart))
            how, number, reason = helper.receive()
            descriptor = None
            if number is not None:
                descriptor = os.open(f"/proc/{helper.pid}/fd/{number}", os.O_RDONLY | os.O_CLOEXEC)
            return Taken(how, descriptor, reason)
        except (HelperFailedError, OSError, TypeError, ValueError):
            self._fail()
            return Taken("refused", None, "the process that captures it could not be had, or has ended")

    def release(self) -> bool:
        """Let go of what was taken; False if it was written to meanwhile, or nobody knows."""
        if self._helper is None:
            return True  # nothing was taken
        try:
            self._helper.send(("release",))
            return bool(self._helper.receive())
        except HelperFailedError:
            self._fail()
            return False

    def _start(self) -> Helper:
        if self._helper is None and self._failures < _MOST_FAILURES:
            import tempfile  # imported here: most snapshots come upon no database

            self._helper = next(iter(start_helpers(1, "snapshot.taking", self._root, tempfile.gettempdir())), None)
        if self._helper is None:
            raise HelperFailedError("there is none")
        return self._helper

    def _fail(self) -> None:
        self._failures += 1
        self._end()

    def _end(self) -> None:
        helper, self._helper = self._helper, None
        if helper is not None:
            helper.end()
            helper.close()
