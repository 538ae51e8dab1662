"""Finding: which versions of which paths, in which snapshots, have a name, a size, a time, a hash.

One sweep over the versions of each source, in SQLite; patterns that SQLite does not know are matched against what is
left.
"""

from __future__ import annotations

import re
import sys
from bisect import bisect_left, bisect_right
from typing import Callable, Iterator, Optional, Union

import attrs

from ...errors import PatternError
from ...results.entry import KINDS
from ...results.history import FindResult, Version
from ...results.problem import Problem
from ...storage.database import Database
from ...storage.snapshots import SourceRow, find_snapshot, snapshot_times, sources
from ...storage.versions import Criteria, StoredVersion, content_ids, details, entry_of, matching
from .globs import Glob
from .locating import damaged, shown

__all__ = ["FindOptions", "find"]

#: That of names, as os.fsdecode has it, which takes longer.
_ENCODING = sys.getfilesystemencoding()


@attrs.frozen(kw_only=True)
class FindOptions:
    """What is searched for; see :meth:`backuptool.Repository.find`."""

    name: Optional[str] = None
    path: Optional[str] = None
    regex: Optional[str] = None
    kind: Optional[str] = None
    larger_than: Optional[int] = None
    smaller_than: Optional[int] = None
    oldest_ns: Optional[int] = None
    newest_ns: Optional[int] = None
    digest: Optional[bytes] = None
    snapshot: Union[int, str, None] = None
    root: Optional[bytes] = None
    host: Optional[str] = None
    limit: Optional[int] = None


def find(database: Database, options: FindOptions) -> FindResult:
    """Return the versions that meet everything that is asked for.

    Raises:
        PatternError: A pattern cannot be understood.
        SnapshotNotFoundError: There is no such snapshot.
        ValueError: There is no such kind.
    """
    matches = _Matcher(options)
    search = _Search(database, matches, options.limit)
    wanted = sources(database, options.root, options.host)
    criteria = _criteria(options, matches.sweep)
    if options.snapshot is not None:
        snapshot = find_snapshot(database, options.snapshot)
        wanted = [source for source in wanted if source.id == snapshot.source]
        criteria = attrs.evolve(criteria, snapshots=(snapshot.id, snapshot.id))
    if options.digest is not None:
        criteria = attrs.evolve(criteria, contents=content_ids(database, options.digest))
        if not criteria.contents:
            wanted = []
    for source in wanted:
        if not search.run(source, criteria):
            break
    return FindResult(versions=tuple(search.versions), limited=search.limited, problems=tuple(search.problems))


def _criteria(options: FindOptions, globs: tuple[bytes, ...]) -> Criteria:
    letters = {word: letter.encode() for letter, word in KINDS.items()}
    if options.kind is not None and options.kind not in letters:
        raise ValueError(f"kind must be {', '.join(letters)}, not {options.kind!r}")
    sized = options.larger_than is not None or options.smaller_than is not None
    kind = "file" if options.kind is None and sized else options.kind
    return Criteria(
        globs=globs,
        kinds=() if kind is None else (letters[kind],),
        smallest=None if options.larger_than is None else options.larger_than + 1,
        largest=None if options.smaller_than is None else options.smaller_than - 1,
        oldest_ns=options.oldest_ns,
        newest_ns=options.newest_ns,
    )


class _Matcher:
    """The patterns that a path must match, all of them.

    Attributes:
        sweep: For SQLite: of these one must match.
    """

    def __init__(self, options: FindOptions) -> None:
        self._tests: list[Callable[[str], object]] = []
        self.sweep: tuple[bytes, ...] = ()
        globs = []
        if options.name is not None:
            globs.append(Glob(options.name, name=True))
        if options.path is not None:
            globs.append(Glob(options.path.strip("/") or options.path))
        for glob in globs:
            self._tests.append(glob.matches)
            self.sweep = glob.sweep  # of two, the path says more
        if options.regex is not None:
            try:
                self._tests.append(re.compile(options.regex, re.DOTALL).search)
            except re.error as exc:
                raise PatternError(
                    f"the regular expression {options.regex!r} cannot be understood: {exc}", options.regex
                ) from exc

    def among(self, keys: list[tuple[bytes, int]]) -> list[tuple[bytes, int]]:
        """Return the keys whose paths match."""
        for test in self._tests:
            keys = [key for key in keys if test(key[0].decode(_ENCODING, "surrogateescape"))]
        return keys


class _Search:
    """A search through sources, one after the other.

    Attributes:
        versions: What was found.
        problems: What could not be read.
        limited: True if there was more than wanted.
    """

    def __init__(self, database: Database, matches: _Matcher, limit: Optional[int]) -> None:
        self._database = database
        self._matches = matches
        self._limit = limit
        self.versions: list[Version] = []
        self.problems: list[Problem] = []
        self.limited = False

    def run(self, source: SourceRow, criteria: Criteria) -> bool:
        """Search one source; False if there is enough."""
        times = snapshot_times(self._database, source.id)
        ids = list(times)
        for stored in self._found(source, criteria):
            if stored.version.kind == b"?":
                path = stored.version.path
                self.problems.append(Problem(kind="catalog-corrupt", path=shown(path), message=damaged(path)))
                continue
            begin = bisect_left(ids, stored.first)
            end = len(ids) if stored.last is None else bisect_right(ids, stored.last)
            if begin >= end:
                continue  # it belongs to no snapshot; check says so
            if self._limit is not None and len(self.versions) >= self._limit:
                self.limited = True
                return False
            first, last = ids[begin], ids[end - 1]
            self.versions.append(
                Version(
                    entry=entry_of(stored.version),
                    host=source.host,
                    source=shown(source.root),
                    first=first,
                    last=last,
                    first_ns=times[first],
                    last_ns=times[last],
                    current=end == len(ids),
                )
            )
        return True

    def _found(self, source: SourceRow, criteria: Criteria) -> Iterator[StoredVersion]:
        for keys in matching(self._database, source.id, criteria):
            yield from details(self._database, source.id, self._matches.among(keys))
