"""A file that a user names to be written: complete before it takes its name.

Owns how it is made, synced and named. What is in it is the caller's business.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import Any, BinaryIO, Optional

from ..errors import RestoreError

__all__ = ["OutputFile"]


class OutputFile:
    """A new file, readable by its owner alone; a context manager, with whose block it takes its name or vanishes.

    Args:
        path: The file.
        overwrite: Take the place of a file that is there.

    Raises:
        RestoreError: It cannot be written there, or there is a file and it is to stay.
    """

    def __init__(self, path: bytes, *, overwrite: bool) -> None:
        self.path = os.path.abspath(path)
        self._shown = os.fsdecode(self.path)
        self._overwrite = overwrite
        directory, name = os.path.split(self.path)
        self._temporary = os.path.join(directory, b".backuptool-" + name[:200] + b".part")
        self._file: Optional[BinaryIO] = None
        if os.path.isdir(self.path):
            raise RestoreError(f"{self._shown} is a directory; name a file", self._shown)
        self._refuse_existing()

    def _refuse_existing(self) -> None:
        if not self._overwrite and os.path.lexists(self.path):
            raise RestoreError(f"{self._shown} exists; remove it, or name another file", self._shown)

    def __enter__(self) -> BinaryIO:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        try:
            try:
                descriptor = os.open(self._temporary, flags, 0o600)
            except FileExistsError:  # left by an interrupted run
                os.unlink(self._temporary)
                descriptor = os.open(self._temporary, flags, 0o600)
        except OSError as exc:
            raise RestoreError(f"cannot write {self._shown}: {exc.strerror}", self._shown) from exc
        self._file = os.fdopen(descriptor, "wb", buffering=1 << 20)
        return self._file

    def __exit__(self, kind: Any, exc: Optional[BaseException], trace: object) -> None:
        file = self._file
        assert file is not None
        if isinstance(exc, OSError):  # of the file: what else may fail has errors of its own
            with suppress(OSError):
                file.close()
            os.unlink(self._temporary)
            raise RestoreError(f"cannot write {self._shown}: {exc.strerror}", self._shown) from exc
        try:
            try:
                if kind is None:
                    file.flush()
                    os.fsync(file.fileno())
            finally:
                file.close()
            if kind is None:
                self._take_name()
                _sync_directory(os.path.dirname(self.path))
        except OSError as failure:
            raise RestoreError(f"cannot write {self._shown}: {failure.strerror}", self._shown) from failure
        finally:
            if os.path.lexists(self._temporary):
                os.unlink(self._temporary)

    def _take_name(self) -> None:
        if not self._overwrite:
            try:
                os.link(self._temporary, self.path)  # unlike a renaming it takes no other file's place
                return
            except FileExistsError:
                self._refuse_existing()
            except OSError as exc:
                if exc.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                    raise
                self._refuse_existing()  # a file system without hard links
        os.replace(self._temporary, self.path)


def _sync_directory(path: bytes) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
