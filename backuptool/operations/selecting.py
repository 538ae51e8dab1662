"""Selecting: which paths of a snapshot are meant, and which of a directory are extra.

Owns the decision alone; what is done with the paths is the restore's business.
"""

from __future__ import annotations

import os
import stat
from typing import AbstractSet, Callable, Iterable, Iterator, Optional, Sequence

from ..errors import UnsafePathError
from ..results.problem import Problem
from ..storage.digest import FileVersion
from ..storage.files import CatalogFile
from ..tree.confined import require_safe, split
from ..tree.exclusions import paths_or_patterns
from ..tree.patterns import Patterns

__all__ = ["Selection"]


class Selection:
    """The paths that patterns select.

    Args:
        include: Paths or patterns of what is meant; everything, if there are none.
        exclude: Paths or patterns of what is not.
        only: Paths of files, to the byte, in place of patterns; None for no such limit.

    Attributes:
        everything: True if there is no limit at all.
        found: True when something was selected.
    """

    def __init__(
        self, include: Sequence[str], exclude: Sequence[str], only: Optional[AbstractSet[bytes]] = None
    ) -> None:
        self._lines = tuple(include)
        self._include = Patterns(paths_or_patterns(include)) if include else None
        self._exclude = Patterns(paths_or_patterns(exclude)) if exclude else None
        self._only = only
        # A later line overrules earlier ones, and one that takes back matches nothing by itself.
        lines = [line for line in include if line.strip() and line[0] not in "!#"]
        self._waiting = {line: Patterns(paths_or_patterns([line])) for line in lines} if len(include) > 1 else {}
        self.everything = self._include is None and self._exclude is None and only is None
        self.found = False

    @property
    def unmatched(self) -> tuple[str, ...]:
        """Return what was to be included and matched nothing, where something else was found."""
        return tuple(self._waiting) if self.found else ()

    def nothing_found(self, snapshot: int) -> list[Problem]:
        """Return a problem if what was to be included is not in a snapshot: a misspelling should not pass."""
        if not self._lines or self.found:
            return []
        message = f"nothing in snapshot {snapshot} matches {', '.join(self._lines)}; paths are relative to the source"
        return [Problem(kind="nothing-found", path="", message=message)]

    def __contains__(self, version: FileVersion) -> bool:
        return self.selects(version.path, version.kind == b"d")

    def selects(self, path: bytes, is_directory: bool) -> bool:
        """Tell whether a path is meant."""
        if self.everything:
            return True
        if self._only is not None:
            return path in self._only
        if not path:
            return self._include is None
        if self._include is not None and not self._include.match(path, is_directory):
            return False
        return self._exclude is None or not self._exclude.match(path, is_directory)

    def among(
        self, files: Iterable[CatalogFile], problem: Callable[[str, bytes, str], object]
    ) -> Iterator[CatalogFile]:
        """Yield the files that are meant, each directory on the way to one before it.

        Args:
            files: In byte order of their paths.
            problem: Called with kind, path and message for a path that is not plainly below the destination.
        """
        everything = self.everything
        unselected: dict[bytes, CatalogFile] = {}
        for file in files:
            version = file.version
            try:
                require_safe(version.path)
            except UnsafePathError as exc:
                problem("unsafe-path", version.path, str(exc))
                continue
            if self._waiting:
                self._note_matches(version)
            if not everything and version not in self:
                if version.kind == b"d":
                    unselected[version.path] = file
                continue
            self.found = True
            if unselected:
                yield from _ancestors(version.path, unselected)
            yield file

    def _note_matches(self, version: FileVersion) -> None:
        """Note which of the lines that have matched nothing yet match a path."""
        path, is_directory = version.path, version.kind == b"d"
        if path and self._include is not None and self._include.match(path, is_directory):
            for line in [line for line, patterns in self._waiting.items() if patterns.match(path, is_directory)]:
                del self._waiting[line]

    def extra(self, walk: Iterable[tuple[bytes, os.stat_result]], known: Iterator[bytes]) -> list[bytes]:
        """Return the paths that are there, selected and not known; not directories that hold what is not selected.

        Args:
            walk: What is there: (path, status), in byte order of the paths.
            known: Paths that belong there, in the same order.

        Returns:
            A directory before what is in it.
        """
        extra = []
        needed = {b""}
        next_known = next(known, None)
        for path, status in walk:
            while next_known is not None and next_known < path:
                next_known = next(known, None)
            if next_known == path:
                continue
            if path and self.selects(path, stat.S_ISDIR(status.st_mode)):
                extra.append(path)
                continue
            while path not in needed:
                needed.add(path)
                path = split(path)[0]
        return [path for path in extra if path not in needed]


def _ancestors(path: bytes, unselected: dict[bytes, CatalogFile]) -> Iterator[CatalogFile]:
    """Take and yield the directories above a path that the selection does not name but that are needed for it."""
    missing = []
    while path and unselected:
        path = split(path)[0]
        file = unselected.pop(path, None)
        if file is not None:
            missing.append(file)
    yield from reversed(missing)
