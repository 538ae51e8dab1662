"""Paths in a snapshot, to be used like those of pathlib.

A path asks the repository when it is asked; it holds nothing but the repository, the snapshot, and its own name.
"""

from __future__ import annotations

import io
import os
import re
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Iterator, Optional, TextIO, Union, overload

from .errors import PathNotFoundError, PatternError
from .operations.looking.globs import Glob, has_wildcard
from .results.entry import Entry
from .results.snapshot import Snapshot

if TYPE_CHECKING:
    from typing import Literal

    from .chapters.looking import Looking

__all__ = ["SnapshotPath"]


class SnapshotPath:
    """A path in a snapshot; made by :meth:`backuptool.Repository.tree` and from other paths with ``/``.

    It has what :class:`pathlib.Path` has for reading. Symlinks are values and never followed, as they may lead out
    of the snapshot; :meth:`readlink` tells where to. It has no ``__fspath__``: there is no file of that name, and a
    program that opens names would open another file or none. Give it ``path.open()`` instead.

    Paths are equal if repository, snapshot and path are. They can be sorted, in byte order, and pickled.

    Attributes:
        snapshot: The snapshot.
        path: Relative to the source, '/'-separated, ``""`` for the source itself.

    Example:
        >>> tree = repo.tree("latest")                              # doctest: +SKIP
        >>> (tree / "drafts" / "plan.txt").read_text()              # doctest: +SKIP
        'first draft'
    """

    __slots__ = ("_entry", "_repository", "path", "snapshot")

    def __init__(self, repository: Looking, snapshot: Snapshot, path: str = "", entry: Optional[Entry] = None) -> None:
        self._repository = repository
        self.snapshot = snapshot
        self.path = path
        self._entry = entry

    # Names.

    def __truediv__(self, other: Union[str, os.PathLike[str]]) -> SnapshotPath:
        name = os.fspath(other)
        if name.startswith("/"):
            raise ValueError(f"paths in a snapshot are relative to its source, {name!r} is not")
        return self._at(str(PurePosixPath(self.path) / name))

    def joinpath(self, *others: Union[str, os.PathLike[str]]) -> SnapshotPath:
        """Return the path with others behind it."""
        path = self
        for other in others:
            path = path / other
        return path

    def _at(self, path: str, entry: Optional[Entry] = None) -> SnapshotPath:
        return SnapshotPath(self._repository, self.snapshot, "" if path == "." else path, entry)

    @property
    def _pure(self) -> PurePosixPath:
        return PurePosixPath(self.path)

    @property
    def name(self) -> str:
        """The last component, ``""`` for the source itself."""
        return self._pure.name

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return self._pure.stem

    @property
    def suffix(self) -> str:
        """What the name ends with, from the last dot on."""
        return self._pure.suffix

    @property
    def suffixes(self) -> list[str]:
        """All suffixes of the name."""
        return self._pure.suffixes

    @property
    def parts(self) -> tuple[str, ...]:
        """The components, relative to the source."""
        return self._pure.parts

    @property
    def parent(self) -> SnapshotPath:
        """The directory it lies in; of the source itself, the source itself."""
        return self._at(str(self._pure.parent))

    @property
    def parents(self) -> tuple[SnapshotPath, ...]:
        """The directories above it, the nearest first, the source last."""
        return tuple(self._at(str(parent)) for parent in self._pure.parents)

    def relative_to(self, other: SnapshotPath) -> PurePosixPath:
        """Return the path as seen from a directory above it.

        Raises:
            ValueError: That is not above it.
        """
        if self.snapshot.id != other.snapshot.id:
            raise ValueError(f"{self} and {other} are not in the same snapshot")
        return self._pure.relative_to(other.path)

    # What is there.

    @property
    def entry(self) -> Entry:
        """What is there: kind, size, hash and so on.

        Raises:
            PathNotFoundError: Nothing.
        """
        if self._entry is None:
            from .operations.looking.ls import entry_at

            database = self._repository._database()
            self._entry = entry_at(database, self.snapshot.id, os.fsencode(self.path))
        return self._entry

    def stat(self) -> os.stat_result:
        """Return the same as :func:`os.stat` would, of the symlink if it is one; numbers not kept are 0.

        Raises:
            PathNotFoundError: There is nothing.
        """
        entry = self.entry
        second, fraction = divmod(entry.mtime_ns, 1_000_000_000)
        times = {f"st_{which}time_ns": entry.mtime_ns for which in "amc"}
        floats = {f"st_{which}time": second + 1e-9 * fraction for which in "amc"}
        return os.stat_result(
            (entry.st_mode, 0, 0, 1, entry.uid, entry.gid, entry.size_bytes, second, second, second),
            {**times, **floats, "st_rdev": entry.device or 0},
        )

    def exists(self) -> bool:
        """Tell whether there is anything, be it a symlink that leads nowhere."""
        try:
            return bool(self.entry.kind)
        except PathNotFoundError:
            return False

    def is_file(self) -> bool:
        """Tell whether it is a regular file; a symlink to one is none."""
        return self.exists() and self.entry.kind == "file"

    def is_dir(self) -> bool:
        """Tell whether it is a directory; a symlink to one is none."""
        return self.exists() and self.entry.kind == "directory"

    def is_symlink(self) -> bool:
        """Tell whether it is a symlink."""
        return self.exists() and self.entry.kind == "symlink"

    def readlink(self) -> str:
        """Return where a symlink leads.

        Raises:
            PathNotFoundError: There is nothing.
            OSError: It is no symlink.
        """
        target = self.entry.target
        if target is None:
            raise OSError(f"{self} is no symlink")
        return target

    # Directories.

    def iterdir(self) -> Iterator[SnapshotPath]:
        """Yield what is in a directory, in byte order.

        Raises:
            PathNotFoundError: There is no such directory.
            WrongKindError: It is no directory.
        """
        return self._below(recursive=False)

    def _below(self, *, recursive: bool) -> Iterator[SnapshotPath]:
        from .operations.looking.ls import walk

        entries = walk(self._repository._database(), self.snapshot.id, os.fsencode(self.path), recursive=recursive)
        return (self._at(entry.path, entry) for entry in entries)

    def walk(self) -> Iterator[tuple[SnapshotPath, list[str], list[str]]]:
        """Yield (directory, names of directories in it, names of all else in it), from the top down.

        Names may be removed from the first list: those directories are then not entered.
        """
        waiting = [self]
        while waiting:
            directory = waiting.pop()
            names: tuple[list[str], list[str]] = ([], [])
            for path in directory.iterdir():
                names[path.entry.kind != "directory"].append(path.name)
            yield directory, *names
            waiting += [directory / name for name in reversed(names[0])]

    def glob(self, pattern: str) -> Iterator[SnapshotPath]:
        """Yield what matches a pattern below this directory: directory by directory, with ``**`` in byte order.

        ``*`` stands for anything but a slash, ``**`` for anything, ``?`` for one character, ``[a-z]`` for one of a set.
        Only directories that may hold a match are looked into, but with ``**`` everything below.

        Raises:
            PatternError: The pattern is empty, begins with a slash, or cannot be understood.
        """
        if not pattern or pattern.startswith("/"):
            raise PatternError(f"a pattern is relative to the directory, and not empty: {pattern!r}", pattern)
        pattern = pattern.rstrip("/")
        if not self.is_dir():
            return iter(())
        if "**" not in pattern:
            return self._level(pattern.split("/"))
        # Up to the first "**" level by level, then everything at once.
        fixed, rest = re.fullmatch(r"((?:[^*?\[/]+/)*)(.*)", pattern, re.DOTALL).groups()  # type: ignore[union-attr]
        top = self / fixed if fixed else self
        if not top.is_dir():
            return iter(())
        matches = Glob(rest).matches
        prefix = len(top.path) + 1 if top.path else 0
        return (path for path in top._below(recursive=True) if matches(path.path[prefix:]))

    def _level(self, patterns: list[str]) -> Iterator[SnapshotPath]:
        first, rest = patterns[0], patterns[1:]
        found: Iterator[SnapshotPath]
        if not has_wildcard(first):
            path = self / first
            found = iter([path] if path.exists() else [])
        else:
            matches = Glob(first).matches
            found = (path for path in self.iterdir() if matches(path.name))
        for path in found:
            if not rest:
                yield path
            elif path.is_dir():
                yield from path._level(rest)

    def rglob(self, pattern: str) -> Iterator[SnapshotPath]:
        """Yield what matches a pattern in this directory or in any one below it, in byte order."""
        return self.glob(f"**/{pattern}")

    # Files.

    @overload
    def open(
        self,
        mode: Literal["r", "rt"] = "r",
        encoding: Optional[str] = None,
        errors: Optional[str] = None,
        newline: Optional[str] = None,
    ) -> TextIO: ...

    @overload
    def open(self, mode: Literal["rb"]) -> BinaryIO: ...

    def open(
        self,
        mode: str = "r",
        encoding: Optional[str] = None,
        errors: Optional[str] = None,
        newline: Optional[str] = None,
    ) -> IO[Any]:
        """Open the file for reading in place; see :meth:`backuptool.Repository.open`.

        Args:
            mode: ``"r"`` for text, ``"rb"`` for bytes.
            encoding: Of text; UTF-8 unless told otherwise, whatever the locale is.
            errors: What is done with bytes that are not of that encoding, as for :func:`open`.
            newline: How lines end, as for :func:`open`.

        Raises:
            ValueError: The mode is another one: snapshots do not change.
            PathNotFoundError: There is nothing.
            WrongKindError: It is no regular file.
            ContentMissingError, ContentCorruptError: It cannot be read.
        """
        if mode not in ("r", "rt", "rb"):
            raise ValueError(f"mode must be r or rb, not {mode!r}: snapshots do not change")
        binary = self._repository.open(self.snapshot.id, self.path)
        if mode == "rb":
            return binary
        try:
            return io.TextIOWrapper(binary, encoding or "utf-8", errors, newline)
        except BaseException:
            binary.close()
            raise

    def read_bytes(self) -> bytes:
        """Return the file's bytes."""
        with self.open("rb") as file:
            return file.read()

    def read_text(self, encoding: Optional[str] = None, errors: Optional[str] = None) -> str:
        """Return the file's text; UTF-8 unless told otherwise."""
        with self.open("r", encoding, errors) as file:
            return file.read()

    # As a value.

    def _key(self) -> tuple[str, int, bytes]:
        return self._repository.path, self.snapshot.id, os.fsencode(self.path)

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, SnapshotPath) else NotImplemented

    def __lt__(self, other: SnapshotPath) -> bool:
        return self._key() < other._key() if isinstance(other, SnapshotPath) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __str__(self) -> str:
        return self.path or "."

    def __repr__(self) -> str:
        from .results.presentation import printable

        return f"<SnapshotPath {self.snapshot.id}:{printable(str(self))}>"

    def __reduce__(self) -> tuple[object, ...]:
        return SnapshotPath, (self._repository, self.snapshot, self.path)
