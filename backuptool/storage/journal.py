"""What lies beside a repository file before SQLite sees it: a journal, one that does harm, a write-ahead log.

Owns the part of their formats that matters for this, and what is said of it. Rolling journals back is SQLite's
business.
"""

from __future__ import annotations

import os
import shlex
import stat
import struct
from contextlib import contextmanager
from typing import Iterator, Optional

from ..errors import CorruptionError, RepositoryError, RepositoryNotWritableError

__all__ = ["has_journal", "named_file", "refuse_what_does_harm", "telling_of_journal"]

#: What a journal of a transaction over several files ends with, see "Rollback Journal" in SQLite's file format.
_MAGIC = bytes.fromhex("d9d505f920a163d7")

_END = struct.Struct(">II8s")  # length and checksum of the name before it

_LONGEST = 4096  # bytes of a name that SQLite would use


def named_file(repository: str) -> Optional[bytes]:
    """Return the file that the journal of a repository names as the main one of several; None as good as always.

    No transaction of this program spans several files. SQLite removes the file that such a journal names, whatever it
    is, when it has rolled the journal back: a journal put beside a repository could have any file removed.
    """
    try:
        with open(repository + "-journal", "rb") as journal:
            size = journal.seek(0, os.SEEK_END)
            if size < _END.size:
                return None
            journal.seek(size - _END.size)
            length, checksum, magic = _END.unpack(journal.read(_END.size))
            if magic != _MAGIC or not 0 < length <= min(size - _END.size, _LONGEST):
                return None
            journal.seek(size - _END.size - length)
            name = journal.read(length)
    except (OSError, struct.error):
        return None  # there is none, or SQLite cannot read it either
    total = sum(byte - 256 if byte > 127 else byte for byte in name) & 0xFFFFFFFF
    return name if total == checksum else None


def has_journal(repository: str) -> bool:
    """Tell whether a writer that was interrupted, or is writing now, has left a journal that is not empty."""
    try:
        return os.stat(repository + "-journal").st_size > 0
    except OSError:
        return False


def refuse_what_does_harm(path: str) -> None:
    """Refuse what no version of this program left beside a repository, before SQLite does what it says.

    A journal that is a FIFO would have SQLite wait for ever. A write-ahead log is replayed into any file beside it,
    whatever that file's header says: one that was left by another database, or by an older copy of this one, replaces
    pages of the repository by its own.

    Raises:
        CorruptionError: There is something of the kind.
    """
    for suffix in ("-journal", "-wal"):
        try:
            status = os.lstat(path + suffix)
        except OSError:
            continue
        if not stat.S_ISREG(status.st_mode):
            raise CorruptionError(
                f"{path}{suffix} is no regular file, and SQLite would take it for what an interrupted write has left: "
                "see what it is, and move it away",
                path,
            )
        if suffix == "-wal" and status.st_size:
            raise CorruptionError(
                f"beside {path} is a write-ahead log, {path}-wal, as no version of this program writes one: SQLite "
                "would write it over the repository. If it was left by another file, or by another state of this one, "
                "move it away. If another program has just changed this repository, such as a database browser, keep "
                f"a copy of both, then run: sqlite3 {shlex.quote(path)} 'PRAGMA journal_mode=DELETE'",
                path,
            )
    name = named_file(path)
    if name is not None:
        raise CorruptionError(
            f"the journal {path}-journal would have SQLite remove {os.fsdecode(name)}, as no journal of a repository "
            "does: somebody put it there; restore the repository and its journal from a copy",
            path,
        )


@contextmanager
def telling_of_journal(path: str) -> Iterator[None]:
    """Say what to do where a repository cannot be opened because a journal beside it cannot be rolled back."""
    try:
        yield
    except RepositoryError as exc:
        if type(exc) not in (RepositoryError, RepositoryNotWritableError) or not has_journal(path):
            raise
        raise RepositoryNotWritableError(
            f"an interrupted write left the journal {path}-journal, which must be rolled back before anything is read, "
            f"but {path} cannot be written to: make the file and its directory writable, or copy both files to where "
            "they are",
            path,
        ) from exc
