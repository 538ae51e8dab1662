"""Differing: a change of one path, which path it had before, and what all changes amount to.

Owns what diff and compare have in common. Where the two states come from is theirs.
"""

from __future__ import annotations

from typing import Any, Dict, Hashable, Iterable, NamedTuple, Optional, Sequence, Set, Tuple

from ...errors import CorruptionError
from ...results.diff import Diff, Difference
from ...results.history import Aspect
from ...results.problem import Problem
from ...results.snapshot import Snapshot
from ...storage.digest import FileVersion
from ...storage.versions import entry_of
from .aspects import aspects_of
from .locating import damaged, shown

__all__ = ["Change", "LinkGroups", "Moves", "Tally", "moves_between"]

#: With one of these, bytes that a user sees under the path are others.
_OTHER_BYTES = frozenset({"kind", "content", "target", "device"})


class LinkGroups:
    """Tells whether the same paths are one inode on both sides, whatever the inodes' numbers."""

    def __init__(self) -> None:
        self._firsts: Tuple[Dict[Hashable, bytes], Dict[Hashable, bytes]] = ({}, {})

    def differ(self, old: Optional[FileVersion], new: Optional[FileVersion]) -> bool:
        """Take the two states of the next path, and tell whether it is linked to another one than before."""
        firsts = []
        for known, version in zip(self._firsts, (old, new)):
            if version is None:
                continue
            own = version.path
            firsts.append(own if version.link is None else known.setdefault(version.link, own))
        return len(firsts) == 2 and firsts[0] != firsts[1]


class Change(NamedTuple):
    """What was at a path, and what is there now; of something that moved, what was at its old path.

    Attributes:
        old: None if it was added.
        new: None if it was removed.
        aspects: In what they differ.
    """

    old: Optional[FileVersion]
    new: Optional[FileVersion]
    aspects: Tuple[Aspect, ...]

    @classmethod
    def of(
        cls, old: Optional[FileVersion], new: Optional[FileVersion], links: Optional[LinkGroups] = None
    ) -> Optional[Change]:
        """Return a change, or None where nothing differs.

        Args:
            links: What compares hard links; without it the inodes of both sides have the same names.
        """
        relinked = links is not None and links.differ(old, new)
        if old is None or new is None:
            return None if old is new else cls(old, new, ())
        aspects = aspects_of(old, new, links=links is None)
        if relinked and old.path == new.path:
            aspects = (*aspects, "links")
        return None if old.path == new.path and not aspects else cls(old, new, aspects)


class Moves(NamedTuple):
    """Which paths are old ones under another name.

    Attributes:
        sources: The old path by the new one.
        olds: The old paths.
    """

    sources: Dict[bytes, bytes]
    olds: Set[bytes]


def moves_between(gone: Iterable[Tuple[bytes, object]], come: Iterable[Tuple[bytes, object]]) -> Moves:
    """Return which of the paths that came are paths that are gone: pairs of (path, identity).

    Of several with one identity, those of the same name belong together, the others in their order.
    """
    candidates: Dict[object, list[bytes]] = {}
    for path, identity in come:
        candidates.setdefault(identity, []).append(path)
    olds: Dict[object, list[bytes]] = {}
    for path, identity in gone:
        if identity in candidates:
            olds.setdefault(identity, []).append(path)
    sources: Dict[bytes, bytes] = {}
    for identity, before in olds.items():
        after = candidates[identity]
        by_name: Dict[bytes, list[bytes]] = {}
        for path in before:
            by_name.setdefault(_name(path), []).append(path)
        rest = []
        for path in after:
            same = by_name.get(_name(path))
            if same:
                sources[path] = same.pop(0)
            else:
                rest.append(path)
        left = [path for paths in by_name.values() for path in paths]
        sources.update(zip(rest, sorted(left)))
    return Moves(sources, set(sources.values()))


def _name(path: bytes) -> bytes:
    return path.rpartition(b"/")[2]


class Tally:
    """Counts differences.

    Args:
        repository: If it is given, a damaged row is an error, else a problem.

    Attributes:
        problems: What could not be compared.
    """

    def __init__(self, repository: Optional[str] = None) -> None:
        self.problems: list[Problem] = []
        self._repository = repository
        self._counts = {
            "added_files": 0,
            "removed_files": 0,
            "changed_files": 0,
            "moved_files": 0,
            "changed_directories": 0,
            "added_bytes": 0,
            "removed_bytes": 0,
            "changed_bytes": 0,
        }

    def is_sound(self, change: Change) -> bool:
        """Tell whether both rows can be shown; if not, it is a problem.

        Raises:
            CorruptionError: One cannot, and there is nowhere to put a problem.
        """
        for version in change[:2]:
            if version is not None and version.kind not in b"fdlpscb":
                message = damaged(version.path)
                if self._repository is not None:
                    raise CorruptionError(message, self._repository)
                self.problems.append(Problem(kind="catalog-corrupt", path=shown(version.path) or ".", message=message))
                return False
        return True

    def add(self, change: Change) -> Difference:
        """Count a change, and return it as users see it."""
        old, new, aspects = change
        if old is None:
            status = "added"
        elif new is None:
            status = "removed"
        else:
            status = "changed" if old.path == new.path else "moved"
        directory = any(version is not None and version.kind == b"d" for version in (old, new))
        if directory and (old is None or new is None or old.kind == new.kind):
            self._counts["changed_directories"] += 1
        else:
            self._counts[f"{status}_files"] += 1
            if status in ("added", "removed"):
                version = old if new is None else new
                self._counts[f"{status}_bytes"] += 0 if version is None else version.size
            elif new is not None and _OTHER_BYTES.intersection(aspects):
                self._counts["changed_bytes"] += new.size
        return Difference(
            status=status,  # type: ignore[arg-type]
            old=None if old is None else entry_of(old),
            new=None if new is None else entry_of(new),
            changes=aspects,
        )

    def diff(
        self,
        differences: Sequence[Difference],
        *,
        old: Snapshot,
        new: Optional[Snapshot] = None,
        path: str = "",
        directory: Optional[str] = None,
        read_files: int = 0,
        read_bytes: int = 0,
    ) -> Diff:
        """Return all of it."""
        counts: Any = self._counts
        return Diff(
            old=old,
            new=new,
            directory=directory,
            path=path,
            differences=tuple(differences),
            read_files=read_files,
            read_bytes=read_bytes,
            problems=tuple(self.problems),
            **counts,
        )
