"""Recounting: recompute every digest, count and size from the rows of the catalog, and compare.

Owns what the catalog's tables must add up to. Which problems there are besides is check's business.
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from bisect import bisect_left, bisect_right
from collections import defaultdict
from typing import Any, Callable, DefaultDict, Optional, Sequence, TypeVar, Union

import attrs

from ...errors import CorruptionError
from ...progress import Reporter
from ...storage.compression import ZSTD_BASE
from ...storage.database import Database
from ...storage.digest import MODULUS, layout_entry, row_hash, to_bytes
from ...storage.lost import lost_rows
from ...storage.snapshots import SnapshotRow, snapshots_by_index
from ..validating import flaw
from .beside import Beside, Sweeps
from .small_tables import SmallTables, text_of

__all__ = ["Recount", "text_of"]

T = TypeVar("T")

_NONE = (1 << 63) - 1

#: A number for each content id.
_Numbers = Union["array[int]", DefaultDict[int, int]]


class _UnfitError(ValueError):
    """A row of a file is not as it can be; the message says how."""


@attrs.define(eq=False)
class _Group:
    """File versions of one source with the same range of snapshots, added up."""

    begin: int  # position of the first snapshot that has them
    end: int  # and of the one behind the last
    brought: int  # the first one's number
    digest: int = 0
    size: int = 0
    files: int = 0
    directories: int = 0


@attrs.define(eq=False)
class _Source:
    """What the sweep adds up for the snapshots of one source: differences between neighbours."""

    ids: list[int]
    digest: list[int]
    size: list[int]
    files: list[int]
    directories: list[int]
    initial: set[int] = attrs.Factory(set)  # snapshots that versions marked as the source's first ones begin with
    added_from: int = _NONE  # the lowest that others begin with

    @classmethod
    def of(cls, ids: list[int]) -> _Source:
        digest, size, files, directories = ([0] * (len(ids) + 1) for _ in range(4))
        return cls(ids, digest, size, files, directories)

    def span(self, first: int, last: Optional[int]) -> tuple[int, int]:
        """Return the positions of the first snapshot that has a version and of the one behind its last."""
        return bisect_left(self.ids, first), len(self.ids) if last is None else bisect_right(self.ids, last)

    def add(self, group: _Group) -> None:
        """Add what a group contributes from its first snapshot on, and no more behind its last."""
        for position, sign in ((group.begin, 1), (group.end, -1)):
            self.digest[position] += sign * group.digest
            self.size[position] += sign * group.size
            self.files[position] += sign * group.files
            self.directories[position] += sign * group.directories


@attrs.define(eq=False)
class Recount:
    """One sweep over the catalog.

    Attributes:
        snapshots, files, contents, packs: Rows seen.
        live_bytes: Bytes of contents in packs.
        sweeps: How the tables are read, by now.
        ids: Numbers of the snapshots of each source.
        damaged: (hash, what is wrong) by content id.
    """

    database: Database
    reporter: Reporter
    problem: Callable[..., None]  # of check: kind, message, path=, snapshots=
    unreadable: Callable[..., None]  # of check: what, the error, snapshots
    damaged: dict[int, tuple[bytes, str]]
    snapshots: int = 0
    files: int = 0
    contents: int = 0
    packs: int = 0
    live_bytes: int = 0
    sweeps: Sweeps = attrs.field(init=False)
    ids: dict[int, list[int]] = attrs.Factory(dict)
    _has_damaged_rows: bool = False
    _inherited: Optional[dict[int, int]] = None  # heirs of pruned snapshots, if they could be read

    def __attrs_post_init__(self) -> None:
        self.sweeps = Sweeps(self.database)

    def run(self) -> None:
        """Recompute every digest, count and size from the rows of the catalog.

        A table that SQLite cannot read is named, and the next one follows.
        """
        small = SmallTables(self.database, self.problem)
        self._step("the table of settings", small.settings)
        found = self._step("the table of snapshots", small.snapshot_rows)
        rows = found or []
        self._inherited = self._step("the record of pruned snapshots", lambda: small.heirs(rows))
        self._step("what is kept beside snapshots", small.records)
        self._step("the record of restore drills", small.drills)
        self._step("the table of sources", small.sources)
        self.snapshots = len(rows)
        self._step("the index of snapshots", lambda: self._snapshots_of_sources(rows))
        if not self.ids:
            for row in rows:
                self.ids.setdefault(row.source, []).append(row.id)
        if self.ids or found is not None:
            self._step("the catalog", lambda: self._recount(rows))
        self._step("the counters", small.counters)

    def _step(self, what: str, step: Callable[[], T]) -> Optional[T]:
        """Do a step; what SQLite cannot read of it is a problem."""
        try:
            return step()
        except CorruptionError as exc:
            self.unreadable(what, exc)
            return None

    def _recount(self, rows: Sequence[SnapshotRow]) -> None:
        try:
            refs, since = self._numbers()
            self._sweep(rows, refs, since)
        except CorruptionError as exc:
            self.unreadable("the catalog", exc)
            self.sweeps = Beside(self.database, self.ids)
            self.files = self.contents = self.packs = self.live_bytes = 0
            self._sweep(rows, defaultdict(int), defaultdict(lambda: _NONE))

    def _sweep(self, rows: Sequence[SnapshotRow], refs: _Numbers, since: _Numbers) -> None:
        sources = {number: _Source.of(ids) for number, ids in self.ids.items()}
        self._sweep_files(sources, refs, since)
        self._sweep_parts(refs, since)
        distinct = self._sweep_contents(refs, since, {row.id for row in rows})
        if not self.sweeps.whole or self._has_damaged_rows:
            self._name_lost(sources)
        for row in rows:
            self._compare_snapshot(row, sources[row.source], distinct.get(row.id, 0))

    def _name_lost(self, sources: dict[int, _Source]) -> None:
        """Name the versions whose rows are lost, and that an index still knows."""
        for number, source in sources.items():
            for path, first, last in lost_rows(self.database, number):
                begin, end = source.span(first, last)
                self._name_lost_row(path, source.ids[begin:end])

    def _name_lost_row(self, path: bytes, snapshots: Sequence[int]) -> None:
        self.problem(
            "catalog-corrupt",
            f"its row cannot be read{_listed(snapshots)}",
            path=text_of(path) or ".",
            snapshots=snapshots,
        )

    def _numbers(self) -> tuple[_Numbers, _Numbers]:
        """Return where the references to each content and its first snapshot are noted."""
        count, highest = self.database.query("SELECT count(*), max(0, coalesce(max(id), 0)) FROM contents")[0]
        if highest > 8 * count + (1 << 20):  # much was pruned, or a damaged row claims any number
            return defaultdict(int), defaultdict(lambda: _NONE)
        return array("q", bytes(8 * (highest + 1))), array("q", [_NONE]) * (highest + 1)

    def _snapshots_of_sources(self, rows: Sequence[SnapshotRow]) -> None:
        """Find which snapshots each source has, also those whose rows are lost: an index has their numbers."""
        known = {row.id: row.source for row in rows}
        for number, source in snapshots_by_index(self.database).items():
            if number not in known:
                known[number] = source
                self.problem("catalog-corrupt", f"the row of snapshot {number} is lost", snapshots=[number])
        for number in sorted(known):
            self.ids.setdefault(known[number], []).append(number)

    def _sweep_files(self, sources: dict[int, _Source], refs: _Numbers, since: _Numbers) -> None:
        """Add up what the versions contribute to the snapshots that have them."""
        groups: dict[tuple[Any, ...], _Group] = {}
        before: Sequence[Any] = (None,) * 22
        for row in self.sweeps.versions():
            self.files += 1
            if self.files % 1024 == 0:
                self.reporter.report("catalog", done_files=self.files)
            try:
                range_of = row[15:19]
                group = groups.get(range_of)
                if group is None:
                    group = groups[range_of] = self._group(sources, *range_of)
                version = row[:15]
                group.digest += row_hash(version)
                size = row[8]
                group.size += size
                if row[1] == b"d":
                    group.directories += 1
                else:
                    group.files += 1
                wrong = flaw(version)
                if wrong is not None or row[21] != b"text":
                    raise _UnfitError(wrong or "its path is no text")
                if row[0] == before[0] and row[15] == before[15] and (before[17] is None or before[17] >= row[16]):
                    raise _UnfitError("a snapshot has another version of it as well")
                before = row
                content = row[19]
                if content is not None:
                    content_size = row[20]
                    if content_size is None:
                        snapshots = sources[row[15]].ids[group.begin : group.end]
                        message = "its content is not in the repository"
                        if self.sweeps.is_unreadable(content):
                            message = "the row of its content cannot be read"
                        message += _listed(snapshots)
                        self.problem("content-missing", message, path=text_of(row[0]), snapshots=snapshots)
                        continue
                    if content_size != size:
                        raise _UnfitError("its size is not that of its content")
                    refs[content] += 1
                    if since[content] > group.brought:
                        since[content] = group.brought
                elif row[1] == b"f":
                    raise _UnfitError("it has no content")
            except (KeyError, TypeError, ValueError, struct.error, IndexError) as exc:
                self._damaged_row(row, exc, sources)
        for (source, *_), group in groups.items():
            sources[source].add(group)
        for known in sources.values():
            # Pruning finds what the newest snapshot added by this mark.
            if len(known.initial) > 1 or max(known.initial, default=0) >= known.added_from:
                self.problem("catalog-corrupt", "the marks of files that a source's first snapshot had are wrong")

    def _damaged_row(self, row: Sequence[Any], exc: Exception, sources: dict[int, _Source]) -> None:
        """Name the row of a file that is not as it can be, and the snapshots that should have it."""
        self._has_damaged_rows = True
        why = str(exc) if isinstance(exc, _UnfitError) else "a value in it is of another type than it can be"
        path = (text_of(row[0]) or ".") if isinstance(row[0], bytes) else ""
        try:
            source = sources[row[15]]
            begin, end = source.span(row[16], row[17])
            snapshots = source.ids[begin:end]
        except (KeyError, TypeError):
            snapshots = []
        self.problem(
            "catalog-corrupt",
            f"the row of a file{'' if path else ' without a path'} is damaged: {why}{_listed(snapshots)}",
            path=path,
            snapshots=snapshots,
        )

    def _group(self, sources: dict[int, _Source], number: int, first: int, last: Optional[int], added: int) -> _Group:
        """Return an empty group.

        Raises:
            _UnfitError: There is no such source; no snapshot has these versions.
        """
        source = sources.get(number)
        if source is None:
            raise _UnfitError(
                f"no snapshot is of its source, {number}" if isinstance(number, int) else "it has no source"
            )
        begin, end = source.span(first, last)
        if begin >= end:
            raise _UnfitError("no snapshot has it")
        if added:
            source.added_from = min(source.added_from, first)
        else:
            source.initial.add(first)
        return _Group(begin, end, source.ids[begin])

    def _sweep_parts(self, refs: _Numbers, since: _Numbers) -> None:
        """Verify the lists of parts: without gaps, of the right size, with the digest that was stored."""
        current: Optional[int] = None
        expected = position = 0
        layout: object = None
        whole = b""
        hasher = hashlib.sha256()
        intact = open_end = True
        seen = set()

        def finish() -> None:
            if current is None:
                return
            complete = position == expected or (open_end and position <= expected)
            if not (intact and complete and hasher.digest() == layout):
                self.damaged[current] = (whole, "the list of its parts is damaged")

        for content, offset, part, digest, size, whole_size, stored, whole_hash, pack in self.sweeps.parts():
            if content != current:
                finish()
                seen.add(content)
                current, position, layout = content, 0, stored
                expected = whole_size if isinstance(whole_size, int) else -1
                whole = whole_hash if isinstance(whole_hash, bytes) else b""
                hasher = hashlib.sha256()
                intact, open_end = expected >= 0, False
            try:
                intact = intact and (offset == position or (open_end and offset > position))
                open_end = part is None
                if part is None:
                    hasher.update(layout_entry(offset, None))
                    position = offset
                elif digest is None or pack is None:
                    intact = False
                else:
                    hasher.update(layout_entry(offset, digest))
                    position = offset + size
                    refs[part] += 1
                    since[part] = min(since[part], since[content])
            except (TypeError, IndexError, struct.error):  # what a damaged row holds may be anything
                intact = False
        finish()
        for content, whole_hash in self.sweeps.large():
            if content not in seen:
                digest = whole_hash if isinstance(whole_hash, bytes) else b""
                self.damaged[content] = (digest, "the list of its parts is missing")

    def _sweep_contents(self, refs: _Numbers, since: _Numbers, kept: set[int]) -> dict[int, int]:
        """Compare the reference counts and the fill of the packs; return each snapshot's distinct size."""
        database = self.database
        inherited = self._inherited or {}
        distinct: dict[int, int] = {}
        live: dict[int, int] = {}
        wrong = 0
        for content, digest, size, pack, offset, count, brought, layout in self.sweeps.contents():
            self.contents += 1
            typed = content > 0 and isinstance(size, int) and isinstance(digest, bytes) and len(digest) == 32
            placed = (isinstance(pack, int) and isinstance(offset, int)) or (pack is None and offset is None)
            try:
                if not typed or not placed or size < 0 or (size and pack is None and layout is None):
                    raise ValueError
                first, counted = since[content], refs[content]
            except (ValueError, IndexError):
                self.damaged[content] = (digest if isinstance(digest, bytes) else b"", "its row is damaged")
                continue
            if pack is not None:
                self.live_bytes += size
                live[pack] = live.get(pack, 0) + size
            if first == _NONE:
                first = 0
            elif layout is None:
                distinct[first] = distinct.get(first, 0) + size
            booked = brought if brought in kept else inherited.get(brought, 0)
            if count != counted or (layout is None and booked != first and self._inherited is not None):
                wrong += 1
        if not self.sweeps.whole:  # what is missing makes all counts wrong
            self._step("the table of bases", self._bases)
            self._step("the table of packs", self._count_packs)
            return distinct
        if wrong:
            self.problem("catalog-corrupt", f"the reference counts or the origin of {wrong:,} contents are wrong")
        twice = 0
        if database.query("SELECT 1 FROM contents GROUP BY substr(hash, 1, 8) HAVING count(*) > 1 LIMIT 1"):
            twice = database.value("SELECT count(*) - count(DISTINCT hash) FROM contents")
        if twice:
            self.problem("catalog-corrupt", f"{twice:,} contents are stored twice")
        self._step("the table of bases", self._bases)
        wrong = 0
        for pack, stored in database.stream("SELECT id, live FROM packs"):
            self.packs += 1
            if live.pop(pack, 0) != stored:
                wrong += 1
        if wrong:
            self.problem("catalog-corrupt", f"the fill of {wrong:,} packs is wrong")
        if live:
            ids = ",".join(map(str, live))
            for content, digest in database.query(f"SELECT id, hash FROM contents WHERE pack IN ({ids})"):
                self.damaged[content] = (digest if isinstance(digest, bytes) else b"", "its pack is missing")
        return distinct

    def _count_packs(self) -> None:
        self.packs = self.database.total("SELECT count(*) FROM packs NOT INDEXED")

    def _bases(self) -> None:
        """Verify that packs which refer to a base have one, others do not, and that no base has a base itself."""
        for pack, codec, base, base_codec in self.database.query(
            "SELECT b.pack, p.codec, b.base, q.codec FROM bases AS b LEFT JOIN packs AS p ON p.id = b.pack "
            "LEFT JOIN packs AS q ON q.id = b.base UNION ALL "
            "SELECT p.id, p.codec, NULL, NULL FROM packs AS p WHERE p.codec = ? "
            "AND NOT EXISTS (SELECT 1 FROM bases WHERE pack = p.id)",
            (ZSTD_BASE,),
        ):
            number = text_of(base)
            if codec is None:
                what = "is missing, but has a base"
            elif base is None:
                what = "refers to a base, but does not say to which"
            elif codec != ZSTD_BASE.encode():
                what = f"has pack {number} as its base, but does not refer to one"
            elif base_codec is None:
                what = f"refers to pack {number}, which is missing"
            elif base_codec == ZSTD_BASE.encode():
                what = f"refers to pack {number}, which refers to another one itself"
            else:
                continue
            self.problem("catalog-corrupt", f"pack {pack} {what}")
            if codec != ZSTD_BASE.encode():
                continue
            for content, digest in self.database.query("SELECT id, hash FROM contents WHERE pack = ?", (pack,)):
                why = "its pack has no base that it can be read with"
                self.damaged[content] = (digest if isinstance(digest, bytes) else b"", why)

    def _compare_snapshot(self, row: SnapshotRow, source: _Source, distinct: int) -> None:
        end = source.ids.index(row.id) + 1
        if to_bytes(sum(source.digest[:end]) % MODULUS) != row.tree_digest:
            self.problem(
                "snapshot-corrupt",
                f"the list of files of snapshot {row.id} is not as it was saved (a name, owner, mode, time or link "
                "differs, or a file is missing)",
                snapshots=[row.id],
            )
        figures = (sum(source.files[:end]), sum(source.directories[:end]), sum(source.size[:end]), distinct)
        if not self.sweeps.whole:
            missing = row.files + row.directories - figures[0] - figures[1]
            if missing > 0:
                self.problem(
                    "snapshot-corrupt",
                    f"{missing:,} of the {row.files + row.directories:,} entries of snapshot {row.id} cannot be read",
                    snapshots=[row.id],
                )
            return
        if figures != (row.files, row.directories, row.size, row.distinct_size):
            self.problem(
                "snapshot-corrupt",
                f"the counts or sizes of snapshot {row.id} are wrong: {row.files} files, {row.size} bytes and "
                f"{row.distinct_size} distinct are stored, {figures[0]}, {figures[2]} and {figures[3]} there",
                snapshots=[row.id],
            )


def _listed(snapshots: Sequence[int]) -> str:
    """Return the end of a message that names snapshots."""
    return f", in snapshot {', '.join(map(str, snapshots))}" if snapshots else ""
