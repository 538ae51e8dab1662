"""Versions of paths: every one of a path, and those that a search finds."""

from __future__ import annotations

import datetime
from typing import Any, Literal, Optional, Tuple

import attrs

from .entry import Entry
from .presentation import Result, Sequenced, count, format_size, html_table, local_time
from .problem import Problem, problem_tail

__all__ = ["Aspect", "FindResult", "History", "HistoryVersion", "Version"]

#: In what two versions of a path may differ, in the order in which it is told.
Aspect = Literal["kind", "content", "target", "device", "mode", "owner", "mtime", "xattrs", "links", "holes"]


@attrs.frozen(kw_only=True, repr=False)
class Version(Result):
    """One version of one path, and which snapshots have it.

    Attributes:
        entry: The path, and what was there.
        host: Name of the machine.
        source: Absolute path of the directory that was saved.
        first: Number of the first snapshot that has it.
        last: Number of the last snapshot that has it.
        first_ns: When the first one began, ns since 1970 UTC.
        last_ns: When the last one began, ns since 1970 UTC.
        current: True if the newest snapshot of the source has it.
    """

    entry: Entry
    host: str
    source: str
    first: int
    last: int
    first_ns: int
    last_ns: int
    current: bool

    @property
    def first_time(self) -> datetime.datetime:
        """When its first snapshot began, in local time, with the UTC offset."""
        return local_time(self.first_ns)

    @property
    def last_time(self) -> datetime.datetime:
        """When its last snapshot began, in local time, with the UTC offset."""
        return local_time(self.last_ns)

    def _headline(self) -> str:
        return f"{self.first} to {self.last}: {self.entry._headline()}"


@attrs.frozen(kw_only=True, repr=False)
class HistoryVersion(Version):
    """A version of a path with what became of it.

    Attributes:
        entry: The path, and what was there.
        host: Name of the machine.
        source: Absolute path of the directory that was saved.
        first: Number of the first snapshot that has it.
        last: Number of the last snapshot that has it.
        first_ns: When the first one began, ns since 1970 UTC.
        last_ns: When the last one began, ns since 1970 UTC.
        current: True if the newest snapshot of the source has it.
        event: ``"came"``, ``"changed"``, or ``"came-back"`` where snapshots before it do not have the path.
        changes: In what it differs from the version before it, empty for the first one.
        moved_from: Paths that had its content in the snapshot before it, and no longer have.
        removed_in: Number of the snapshot in which the path is gone; None if it has another version there, or is
            current.
        moved_to: Paths that have its content since the snapshot after it, and had not before.
    """

    event: Literal["came", "changed", "came-back"]
    changes: tuple[Aspect, ...] = ()
    moved_from: tuple[str, ...] = ()
    removed_in: Optional[int] = None
    moved_to: tuple[str, ...] = ()


@attrs.frozen(kw_only=True, repr=False)
class History(Sequenced[HistoryVersion], Result):
    """Every version of a path, by source and then the oldest first. Iterate over it, index it, take its len().

    Attributes:
        path: What was asked for.
        versions: What was found.
        problems: Versions whose row is damaged, and that there is no such path.
    """

    path: str
    versions: tuple[HistoryVersion, ...]
    problems: tuple[Problem, ...] = ()

    def _items(self) -> Tuple[HistoryVersion, ...]:
        return self.versions

    def _headline(self) -> str:
        return f"{self.path}: {count(len(self), 'version')}" + problem_tail(0, self.problems)

    def _repr_html_(self) -> str:
        return _table(self._headline(), self.versions, events=True)


@attrs.frozen(kw_only=True, repr=False)
class FindResult(Sequenced[Version], Result):
    """What a search found, by source, then path, the oldest first. Iterate over it, index it, take its len().

    Attributes:
        versions: What was found.
        limited: True if there is more than the limit that was asked for.
        problems: Versions whose row is damaged.
    """

    versions: tuple[Version, ...]
    limited: bool = False
    problems: tuple[Problem, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths that were found, each once."""
        return tuple(dict.fromkeys(version.entry.path for version in self.versions))

    def _items(self) -> Tuple[Version, ...]:
        return self.versions

    def _derived(self) -> dict[str, Any]:
        return {"paths": list(self.paths)}

    def _headline(self) -> str:
        text = f"{count(len(self), 'version')} of {count(len(self.paths), 'path')}"
        return text + (", and more" if self.limited else "") + problem_tail(0, self.problems)

    def _repr_html_(self) -> str:
        return _table(self._headline(), self.versions)


def _table(caption: str, versions: tuple[Version, ...], *, events: bool = False) -> str:
    heads = ("path", "source", "first", "last", "kind", "size", "modified", *(("what",) if events else ()))

    def cells(version: Version) -> list[str]:
        entry = version.entry
        row = [
            entry.path or ".",
            f"{version.host}:{version.source}",
            f"{version.first} ({local_time(version.first_ns):%Y-%m-%d %H:%M:%S})",
            f"{version.last} ({local_time(version.last_ns):%Y-%m-%d %H:%M:%S})",
            entry.kind,
            format_size(entry.size_bytes),
            f"{entry.time:%Y-%m-%d %H:%M:%S}",
        ]
        if isinstance(version, HistoryVersion):
            row.append(" ".join([version.event, *version.changes]))
        return row

    return html_table(caption, heads, versions, cells)
