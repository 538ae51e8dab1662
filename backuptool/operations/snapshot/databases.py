"""SQLite databases that a walk comes upon, and the files that lie beside them.

Owns when a database counts as unchanged, and which companions (log, index, journal) are kept back until it is known
whether they belong to one that is captured. How they are saved is database_saving's.
"""

from __future__ import annotations

import hashlib
import os
from typing import Dict, List, NamedTuple, Optional, Set, Tuple

from ...storage.sqlite_files import COMPANIONS, LOG
from ...tree.companions import Companions
from ...tree.metadata import AnyStatus, Status, signed_inode, trusted_ctime_ns
from ...tree.source import Source

__all__ = ["Companion", "Databases"]


class Companion(NamedTuple):
    """A file that was kept back.

    Attributes:
        path: Relative to the source.
        status: As it was listed.
        first: First snapshot of its version in the catalog, None if there is none.
    """

    path: bytes
    status: os.stat_result
    first: Optional[int]


class Databases:
    """What is known of the databases of one walk.

    Args:
        source: Where they are.
        started_ns: When the walk began, ns since 1970 UTC.

    Attributes:
        companions: For the walk, to note files that may have companions.
    """

    def __init__(self, source: Source, started_ns: int) -> None:
        self.companions = Companions(COMPANIONS)
        self._source = source
        self._started_ns = started_ns
        self._found: Set[bytes] = set()
        self._owners: Set[bytes] = set()  # files that have companions
        self._kept: Set[bytes] = set()  # those of them that are unchanged
        self._as_captured: Set[bytes] = set()  # of these, those that are databases for sure
        self._waiting: Dict[bytes, List[Companion]] = {}  # by owner

    # While the tree is walked.

    def is_own(self, status: AnyStatus) -> bool:
        """Tell whether this process has the file open.

        It must not open and close it again: that would drop all locks that it has on it.
        """
        return self._source.own.has(status)

    def meet(self, path: bytes, status: os.stat_result, same: bool, ctime_ns: object, inode: object) -> bool:
        """Take note of a file that has companions, and tell whether it is unchanged.

        Args:
            path: The file.
            status: As it was listed.
            same: Whether it is by itself as the catalog has it.
            ctime_ns, inode: What the catalog has of it, None if it is new.
        """
        self._owners.add(path)
        log = self.log(path)
        if log is not None:
            same = ctime_ns == _stamp(status, log) and inode == signed_inode(status.st_ino)
            if same:
                self._as_captured.add(path)
        if same:
            self._kept.add(path)
        return same

    def put_off(self, path: bytes, status: os.stat_result, first: Optional[int]) -> bool:
        """Keep a file back if it may be a companion; False if it belongs to no file."""
        owner = self.companions.owner(path)
        if owner is None or owner not in self._owners:
            return False
        self._waiting.setdefault(owner, []).append(Companion(path, status, first))
        return True

    def found(self, path: bytes) -> None:
        """Take note of a file that is a database, or may be one."""
        self._found.add(path)

    # Behind the walk.

    def take_found(self) -> List[bytes]:
        """Return the paths that were found since the last time, in order."""
        found, self._found = sorted(self._found), set()
        return found

    def take_waiting(self) -> Dict[bytes, List[Companion]]:
        """Return what was kept back, by the file that it may belong to."""
        waiting, self._waiting = self._waiting, {}
        return waiting

    def is_kept(self, path: bytes) -> bool:
        """Tell whether a file with companions was unchanged."""
        return path in self._kept

    def is_as_captured(self, path: bytes) -> bool:
        """Tell whether a file was unchanged, and captured with a log that is unchanged as well."""
        return path in self._as_captured

    def log(self, path: bytes) -> Optional[Status]:
        """Return the status of a database's log; None if it has none, or an empty one.

        Its change time is left out: root's SQLite gives a log to the owner of the database whenever it opens it.
        """
        try:
            status = Status.of(self._source.status_of(path + LOG))
        except OSError:
            return None
        return status._replace(st_ctime_ns=status.st_mtime_ns) if status.st_size else None

    def stamp(self, status: os.stat_result, log: Status) -> Optional[int]:
        """Return what the next snapshot compares with in place of a change time; None if it cannot be trusted."""
        both: Tuple[AnyStatus, ...] = (status, log)
        settled = all(trusted_ctime_ns(each, self._started_ns) is not None for each in both)
        return _stamp(status, log) if settled else None


def _stamp(status: os.stat_result, log: Status) -> int:
    """Return a number below zero that is another one as soon as a database or its log is changed.

    No database has it as its own change time: a program that does not know of logs reads it again.
    """
    values = [(each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns, each.st_mode) for each in (status, log)]
    digest = hashlib.sha256(repr(values).encode()).digest()
    return -1 - (int.from_bytes(digest[:8], "big") >> 1)
