"""Which files this process has open, and whether they are encrypted.

Owns how the two kinds of file are told apart. Closing any descriptor of a file drops the locks that this process has on
it, so one that is open is never opened again to look at its first bytes. Nor is a plain SQLite asked first: before it
says of an encrypted file that it is no database, it removes the journal of an interrupted write, as it finds no page in
it that it could roll back.
"""

from __future__ import annotations

import os
import threading
from typing import Container, Optional, Tuple

from ..errors import RepositoryError

__all__ = [
    *("ENCRYPTED_MAGIC", "Identity", "first_bytes", "identity_of", "is_encrypted", "looking"),
    *("note_closed", "note_opened", "open_now"),
]

#: What an encrypted repository begins with, where another begins with "SQLite format 3".
ENCRYPTED_MAGIC = b"backuptool crypt"

#: Device and inode of a file.
Identity = Tuple[int, int]

_lock = threading.RLock()

_opened: dict[Identity, tuple[bool, int]] = {}  # whether it is encrypted, number of connections


def looking() -> threading.RLock:
    """Return the lock that is held from looking at a file until the connection to it is noted."""
    return _lock


def identity_of(path: str) -> Optional[Identity]:
    """Return what tells one file from another, None if there is no such file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def is_encrypted(path: str) -> bool:
    """Tell whether a file begins as an encrypted repository does; False if there is none or it may not be read.

    Raises:
        RepositoryError: It cannot be read now.
    """
    identity = identity_of(path)
    if identity is None:
        return False
    known = _opened.get(identity)
    if known is not None:
        return known[0]
    return first_bytes(path, len(ENCRYPTED_MAGIC)) == ENCRYPTED_MAGIC


def first_bytes(path: str, size: int) -> bytes:
    """Return what a file begins with, nothing if there is none or it may not be read.

    Raises:
        RepositoryError: It cannot be read now.
    """
    identity = identity_of(path)
    begin = None if identity is None else _read_where_open(identity, size)
    if begin is not None:
        return begin
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0))
    except (FileNotFoundError, PermissionError):
        return b""
    except OSError as exc:
        raise _unreadable(path, exc) from exc
    try:
        return os.read(descriptor, size)
    except IsADirectoryError:
        return b""
    except OSError as exc:
        raise _unreadable(path, exc) from exc
    finally:
        os.close(descriptor)


def _unreadable(path: str, exc: OSError) -> RepositoryError:
    return RepositoryError(f"cannot open the repository {path}: {exc.strerror}", path)


def _read_where_open(identity: Identity, size: int) -> Optional[bytes]:
    """Return what a file begins with if this process has it open: the caller may ask it with SQLite of its own.

    Read through the descriptor that is there: to open and close another one would drop the locks of that connection.
    """
    try:
        descriptors = os.listdir("/proc/self/fd")
    except OSError:  # pragma: no cover (not Linux)
        return None
    for name in descriptors:
        try:
            status = os.fstat(int(name))
            if (status.st_dev, status.st_ino) == identity:
                return os.pread(int(name), size, 0)
        except OSError:  # closed by now, or open for writing alone
            continue
    return None


def open_now() -> Container[Identity]:
    """Return what tells of a file, now and later, whether a connection has it open."""
    return _opened


def note_opened(identity: Identity, encrypted: bool) -> None:
    """Note that a connection has a file open."""
    with _lock:
        _opened[identity] = encrypted, _opened.get(identity, (encrypted, 0))[1] + 1


def note_closed(identity: Identity) -> None:
    """Note that a connection has closed a file."""
    with _lock:
        encrypted, number = _opened.get(identity, (False, 0))
        if number > 1:
            _opened[identity] = encrypted, number - 1
        else:
            _opened.pop(identity, None)


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
