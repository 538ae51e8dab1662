"""A scratch directory: made for one purpose, and removed with all that is in it, whatever that is.

Owns the removal. It follows no symlink, and modes, depth and names of any length do not stop it.
"""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from typing import Optional

from ..errors import RestoreError
from .confined import ConfinedRoot, split
from .portability import OPEN_DIRECTORY

__all__ = ["Scratch"]


class Scratch:
    """A directory that only its owner may look into; a context manager, with whose block it begins and ends.

    Args:
        parent: Where it is made; None for the system's place for temporary files.

    Attributes:
        path: The directory, absolute.
    """

    def __init__(self, parent: Optional[bytes]) -> None:
        self._place = os.fsencode(tempfile.gettempdir()) if parent is None else os.path.abspath(parent)
        self.path = os.path.join(self._place, b"backuptool-drill-" + secrets.token_hex(4).encode())

    def __enter__(self) -> Scratch:
        """Make it.

        Raises:
            RestoreError: It cannot be made there.
        """
        try:
            os.mkdir(self.path, 0o700)
            return self
        except OSError as exc:
            shown = os.fsdecode(self._place)
            raise RestoreError(
                f"cannot make a scratch directory in {shown}: {exc.strerror}; name another place", shown
            ) from exc
        except BaseException:  # a signal; whether it came before or after is not known
            self._forget()
            raise

    def _forget(self) -> None:
        try:
            os.rmdir(self.path)
        except OSError:
            pass  # it was not made yet

    def __exit__(self, *exc_info: object) -> None:
        try:
            if os.path.lexists(self.path):
                _empty(self.path)
                os.rmdir(self.path)
        except OSError as exc:
            shown = os.fsdecode(self.path)
            raise RestoreError(
                f"cannot remove the scratch directory {shown}: {exc.strerror}; remove it yourself", shown
            ) from exc


def _empty(root: bytes) -> None:
    """Remove everything below a directory, in constant depth of calls: paths may be thousands of levels deep."""
    os.chmod(root, 0o700)
    confined = ConfinedRoot(root)
    try:
        waiting = [b""]
        while waiting:
            path = waiting[-1]
            below = _remove_files(confined, path)
            if below:
                waiting += below
            else:
                waiting.pop()
                if path:
                    confined.forget(path)
                    parent, name = split(path)
                    os.rmdir(name, dir_fd=confined.directory(parent))
    finally:
        confined.close()


def _remove_files(confined: ConfinedRoot, path: bytes) -> list[bytes]:
    """Remove what is in a directory and no directory itself; return the directories, open for their owner."""
    below = []
    descriptor = os.open(b".", OPEN_DIRECTORY, dir_fd=confined.directory(path))
    try:
        with os.scandir(descriptor) as entries:
            for name in [os.fsencode(entry.name) for entry in entries]:
                mode = os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode
                if not stat.S_ISDIR(mode):
                    os.unlink(name, dir_fd=descriptor)
                    continue
                if mode & 0o700 != 0o700:
                    os.chmod(name, 0o700, dir_fd=descriptor)
                below.append(path + b"/" + name if path else name)
    finally:
        os.close(descriptor)
    return below
