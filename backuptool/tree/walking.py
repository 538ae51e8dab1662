"""Walking the directory that is saved: every entry once, in byte order of the paths.

Owns the order, and what is left out. Nothing but directories, and tags that mark them, is opened.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from operator import itemgetter
from typing import Any, Callable, Iterator, Optional

import attrs

from .companions import Companions
from .confined import ConfinedRoot, split
from .exclusions import CACHE_TAG, CACHE_TAG_SIGNATURE, Exclusions
from .portability import HAS_DIR_FD, OPEN_DIRECTORY, OPEN_FILE

__all__ = ["Report", "Walk"]

_ENCODING = sys.getfilesystemencoding()

# Directories kept open along the way down; deeper ones are opened anew from the root.
_DEEP = 100

#: Called with the path of what cannot be listed, and why.
Report = Callable[[bytes, OSError], None]


class Walk:
    """One walk over a directory; see :meth:`.Source.walk`.

    Args:
        root: The directory.
        status: Of the directory.
        confined: The same, for opening what is below.
        exclusions: What is not to be walked.
        on_error: Called with the path of a directory or file that cannot be listed, and why.
        companions: Takes note of files that belong to others; a directory's before anything in it comes.
    """

    def __init__(
        self,
        root: bytes,
        status: os.stat_result,
        confined: ConfinedRoot,
        exclusions: Exclusions,
        on_error: Report,
        companions: Optional[Companions],
    ) -> None:
        self._root = root
        self._status = status
        self._confined = confined
        self._exclusions = exclusions
        self._on_error = on_error
        self._companions = companions

    def entries(
        self, left_out: frozenset[tuple[int, int]], left_out_names: frozenset[tuple[int, int, bytes]]
    ) -> Iterator[tuple[bytes, os.stat_result]]:
        """Yield (path, lstat) of the root and everything below, but for what is left out."""
        exclusions, on_error = self._exclusions, self._on_error
        patterns = exclusions.patterns
        limit = exclusions.larger_than
        inodes = {inode for _, inode in left_out}
        parents = {(device, inode) for device, inode, _ in left_out_names}
        listed = os.DirEntry
        yield b"", self._status
        stack = [self._list(b"", None, self._status)]
        try:
            while stack:
                frame = stack[-1]
                prefix = frame.prefix
                watched = frame.identity in parents
                descended = False
                for name, entry in frame.entries:
                    if name[-1] == 47:  # a directory's second turn: now its children
                        status = frame.directories.pop(name, None)
                        if status is not None:
                            child = prefix + name[:-1]
                            stack.append(self._list(child, frame, status))
                            descended = True
                            break
                        continue
                    try:
                        status = entry.stat(follow_symlinks=False) if isinstance(entry, listed) else _known(entry)
                    except OSError as exc:
                        if exc.errno != errno.ENOENT:
                            on_error(prefix + name, exc)
                        continue
                    path = prefix + name
                    mode = status.st_mode
                    if (mode & 0o170000) == 0o040000:
                        if patterns is not None and patterns.match(path, True):
                            continue
                        if not exclusions.one_file_system or status.st_dev == self._status.st_dev:
                            frame.directories[name + b"/"] = status
                    else:
                        if patterns is not None and patterns.match(path):
                            continue
                        if status.st_ino in inodes and (status.st_dev, status.st_ino) in left_out:
                            continue
                        if watched and (*frame.identity, name) in left_out_names:
                            continue
                        if limit is not None and status.st_size > limit and stat.S_ISREG(mode):
                            continue
                    yield path, status
                if not descended:
                    frame.close()
                    stack.pop()
        finally:
            for frame in stack:
                frame.close()

    def _list(self, path: bytes, parent: Optional[_Frame], status: os.stat_result) -> _Frame:
        """Return what is in a directory, sorted; empty, after a report, if it cannot be listed."""
        exclusions, companions = self._exclusions, self._companions
        frame = _Frame(prefix=path + b"/" if path else b"", identity=(status.st_dev, status.st_ino))
        depth = 0 if parent is None else parent.depth + 1
        frame.depth = depth
        try:
            if not HAS_DIR_FD:  # pragma: no cover (not Linux)
                listing = os.scandir(os.fsdecode(os.path.join(self._root, path)))
            else:
                if parent is not None and parent.descriptor >= 0:
                    descriptor = os.open(split(path)[1], OPEN_DIRECTORY, dir_fd=parent.descriptor)
                else:
                    descriptor = self._confined.open(path, OPEN_DIRECTORY)
                frame.descriptor = descriptor
                listing = os.scandir(descriptor)
            entries = []
            with listing:
                for entry in listing:
                    name = entry.name.encode(_ENCODING, "surrogateescape")
                    entries.append((name, entry))
                    if companions is not None and name[-4:] in companions.endings:
                        companions.note(frame.prefix, name)
                    if entry.is_dir(follow_symlinks=False):
                        entries.append((name + b"/", entry))
            if exclusions.markers or exclusions.caches:
                entries = self._within_markers(path, entries)
            entries.sort(key=itemgetter(0))
            frame.entries = iter(entries)
            if depth >= _DEEP:
                frame.entries = iter([(name, _lstat(entry)) for name, entry in entries])
                frame.close()
        except OSError as exc:
            frame.close()
            frame.entries = iter(())
            if exc.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):  # gone, or replaced since it was listed
                self._on_error(path, exc)
        return frame

    def _within_markers(self, path: bytes, entries: list[tuple[bytes, Any]]) -> list[tuple[bytes, Any]]:
        """Return the marker alone if the directory holds one, else all entries."""
        exclusions = self._exclusions
        for name, _ in entries:
            if name in exclusions.markers:
                return [(name, entry) for found, entry in entries if found == name]
            if exclusions.caches and name == CACHE_TAG and self._is_cache_tag(path):
                return [(name, entry) for found, entry in entries if found == name]
        return entries

    def _is_cache_tag(self, path: bytes) -> bool:
        try:
            descriptor = self._confined.open(path + b"/" + CACHE_TAG if path else CACHE_TAG, OPEN_FILE)
        except OSError:
            return False
        try:
            return os.read(descriptor, len(CACHE_TAG_SIGNATURE)) == CACHE_TAG_SIGNATURE
        except OSError:
            return False
        finally:
            os.close(descriptor)


@attrs.define
class _Frame:
    """One directory on the way down."""

    prefix: bytes
    identity: tuple[int, int]
    entries: Iterator[tuple[bytes, Any]] = attrs.Factory(lambda: iter(()))
    directories: dict[bytes, os.stat_result] = attrs.Factory(dict)
    descriptor: int = -1
    depth: int = 0

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def _lstat(entry: os.DirEntry[str]) -> object:
    """Return the status of an entry while its directory is open, or why there is none."""
    try:
        return entry.stat(follow_symlinks=False)
    except OSError as exc:
        return exc


def _known(status: Any) -> Any:
    if isinstance(status, OSError):
        raise status
    return status
