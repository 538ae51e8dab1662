"""Checking: recompute everything that can be recomputed, compare, and name what is damaged. Changes nothing.

Owns what is compared with what. First SQLite's own checks, then one sweep over the catalog (digests, reference counts,
sizes), then every pack is read, decompressed and hashed; last, damaged contents are traced to files and snapshots.
"""

from __future__ import annotations

import hashlib
import os
import struct
import time
from array import array
from bisect import bisect_left, bisect_right
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Any, DefaultDict, Deque, Iterator, Optional, Sequence, Union

import attrs

from ..errors import ContentMissingError, CorruptionError
from ..progress import Reporter
from ..results import CheckResult, Problem
from ..storage.catalog import SnapshotRow, heirs, snapshot_rows
from ..storage.chunking import Chunking
from ..storage.database import Database
from ..storage.digest import MODULUS, FileVersion, layout_entry, row_hash, to_bytes
from ..storage.packs import read_pack, unpack

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["check"]

_TABLES = ("settings", "sources", "snapshots", "files", "contents", "parts", "pruned")

_NONE = (1 << 63) - 1

#: A number for each content id.
_Numbers = Union["array[int]", DefaultDict[int, int]]


def check(database: Database, *, quick: bool, reporter: Reporter) -> CheckResult:
    """Verify a repository."""
    begin = time.monotonic()
    run = _Check(database, reporter)
    run.sqlite(quick)
    try:
        with database.read_transaction():
            run.catalog()
    except CorruptionError as exc:
        run.problem("database-corrupt", str(exc))
    if not quick:
        run.data()
    try:
        run.trace()
    except CorruptionError as exc:
        run.problem("database-corrupt", str(exc))
    return CheckResult(
        snapshots=run.snapshots,
        files=run.files,
        contents=run.contents,
        packs=run.packs,
        read_bytes=run.read_bytes,
        quick=quick,
        elapsed_seconds=time.monotonic() - begin,
        problems=tuple(run.problems),
    )


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


@attrs.define(eq=False)
class _Check:
    """The steps, and what they found."""

    database: Database
    reporter: Reporter
    snapshots: int = 0
    files: int = 0
    contents: int = 0
    packs: int = 0
    read_bytes: int = 0
    live_bytes: int = 0  # of contents in packs, by the catalog
    problems: list[Problem] = attrs.Factory(list)
    damaged: dict[int, tuple[bytes, str]] = attrs.Factory(dict)  # (hash, what is wrong) by content id

    def problem(self, kind: str, message: str, *, path: str = "", snapshots: Sequence[int] = ()) -> None:
        """Note something that is not as it must be."""
        self.problems.append(Problem(kind=kind, path=path, message=message, snapshots=tuple(snapshots)))

    def sqlite(self, quick: bool) -> None:
        """Let SQLite check its own structures."""
        self.reporter.report("catalog")
        pragmas = [f"integrity_check({table})" for table in _TABLES] if quick else ["integrity_check(1000)"]
        for pragma in [*pragmas, "foreign_key_check"]:
            try:
                rows = self.database.query(f"PRAGMA {pragma}")
            except CorruptionError as exc:
                self.problem("database-corrupt", str(exc))
                continue
            for row in rows:
                text = row[0].decode("utf-8", "replace") if isinstance(row[0], bytes) else str(row[0])
                if pragma == "foreign_key_check":
                    self.problem("catalog-corrupt", f"a row of {text} refers to something that does not exist")
                elif text != "ok":
                    self.problem("database-corrupt", f"SQLite: {' '.join(text.split())}")

    def catalog(self) -> None:
        """Recompute every digest, count and size from the rows of the catalog."""
        database = self.database
        self._settings()
        rows = self._snapshot_rows()
        self.snapshots = len(rows)
        sources: dict[int, _Source] = {}
        for row in rows:
            sources.setdefault(row.source, _Source.of([])).ids.append(row.id)
        for number, source in sources.items():
            sources[number] = _Source.of(source.ids)
        refs, since = self._numbers()
        self._sweep_files(sources, refs, since)
        self._sweep_parts(refs, since)
        distinct = self._sweep_contents(refs, since, {row.id for row in rows})
        for row in rows:
            self._compare_snapshot(row, sources[row.source], distinct.get(row.id, 0))
        for table in ("snapshots", "contents"):
            used = database.value(f"SELECT max(id) FROM {table}") or 0
            counter = database.value("SELECT max(seq) FROM sqlite_sequence WHERE name = ?", (table,)) or 0
            if not isinstance(counter, int) or counter < used:
                self.problem("catalog-corrupt", f"the counter of {table} is below a number that is in use")

    def _numbers(self) -> tuple[_Numbers, _Numbers]:
        """Return where the references to each content and its first snapshot are noted."""
        count, highest = self.database.query("SELECT count(*), coalesce(max(id), 0) FROM contents")[0]
        if highest > 8 * count + (1 << 20):  # much was pruned, or a damaged row claims any number
            return defaultdict(int), defaultdict(lambda: _NONE)
        return array("q", bytes(8 * (highest + 1))), array("q", [_NONE]) * (highest + 1)

    def _settings(self) -> None:
        settings = {
            _text(name): _text(value) if isinstance(value, bytes) else value
            for name, value in self.database.query("SELECT name, value FROM settings")
        }
        known = {"id", "swept_content", *(name for name, _ in Chunking().settings())}
        try:
            Chunking.from_settings(settings)
            intact = set(settings) <= known and len(bytes.fromhex(settings["id"])) == 16
        except (KeyError, TypeError, ValueError):
            intact = False
        if not intact:
            self.problem("catalog-corrupt", "the settings of the repository are damaged")

    def _snapshot_rows(self) -> list[SnapshotRow]:
        rows = snapshot_rows(self.database, on_damage=lambda exc: self.problem("catalog-corrupt", str(exc)))
        for row in rows:
            if row.compute_digest() != row.digest:
                self.problem(
                    "snapshot-corrupt",
                    f"the description of snapshot {row.id} (time, source, note, tags, sizes) is not as it was saved",
                    snapshots=[row.id],
                )
        known = {row.id for row in rows}
        for pruned, heir in heirs(self.database).items():
            if heir not in known or pruned in known:
                self.problem("catalog-corrupt", f"what snapshot {pruned} brought is booked on {heir}, which cannot be")
        return rows

    def _sweep_files(self, sources: dict[int, _Source], refs: _Numbers, since: _Numbers) -> None:
        """Add up what the versions contribute to the snapshots that have them."""
        sql = (
            "SELECT f.path, f.kind, f.mode, f.uid, f.gid, f.user, f.grp, f.mtime_ns, f.size, c.hash, f.sparse, f.rdev, "
            "f.target, f.xattrs, f.link, f.source, f.first, f.last, f.content, c.size, f.added FROM files AS f "
            "LEFT JOIN contents AS c ON c.id = f.content"
        )
        for row in self.database.stream(sql):
            self.files += 1
            if self.files % 1024 == 0:
                self.reporter.report("catalog", done_files=self.files)
            source_id, first, last, content, content_size, added = row[15:]
            try:
                source = sources[source_id]
                begin, end = source.span(first, last)
                if begin >= end:
                    raise ValueError("no snapshot has it")
                if added:
                    source.added_from = min(source.added_from, first)
                else:
                    source.initial.add(first)
                version = FileVersion(*row[:15])
                digest = row_hash(version)
                is_directory = version.kind == b"d"
                source.digest[begin] += digest
                source.digest[end] -= digest
                source.size[begin] += version.size
                source.size[end] -= version.size
                counts = source.directories if is_directory else source.files
                counts[begin] += 1
                counts[end] -= 1
                if content is not None:
                    if content_size is None:
                        self._missing(row, source.ids[begin:end])
                        continue
                    if content_size != version.size:
                        raise ValueError("its size is not that of its content")
                    refs[content] += 1
                    since[content] = min(since[content], source.ids[begin])
                elif version.kind == b"f":
                    raise ValueError("it has no content")
            except (KeyError, TypeError, ValueError, struct.error, IndexError) as exc:
                why = f"its source {exc} does not exist" if isinstance(exc, KeyError) else str(exc)
                self.problem("catalog-corrupt", f"the row of a file is damaged: {why}", path=_text(row[0]))
        for source in sources.values():
            # Pruning finds what the newest snapshot added by this mark.
            if len(source.initial) > 1 or max(source.initial, default=0) >= source.added_from:
                self.problem("catalog-corrupt", "the marks of files that a source's first snapshot had are wrong")

    def _missing(self, row: Sequence[object], snapshots: Sequence[int]) -> None:
        self.problem("content-missing", "its content is not in the repository", path=_text(row[0]), snapshots=snapshots)

    def _sweep_parts(self, refs: _Numbers, since: _Numbers) -> None:
        """Verify the lists of parts: without gaps, of the right size, with the digest that was stored."""
        sql = (
            "SELECT p.content, p.offset, p.part, c.hash, c.size, w.size, w.layout, w.hash, c.pack FROM parts AS p "
            "LEFT JOIN contents AS c ON c.id = p.part LEFT JOIN contents AS w ON w.id = p.content "
            "ORDER BY p.content, p.offset"
        )
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

        for content, offset, part, digest, size, whole_size, stored, whole_hash, pack in self.database.stream(sql):
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
        for content, whole_hash in self.database.query("SELECT id, hash FROM contents WHERE layout IS NOT NULL"):
            if content not in seen:
                self.damaged[content] = (whole_hash, "the list of its parts is missing")

    def _sweep_contents(self, refs: _Numbers, since: _Numbers, kept: set[int]) -> dict[int, int]:
        """Compare the reference counts and the fill of the packs; return each snapshot's distinct size."""
        database = self.database
        inherited = heirs(database)
        distinct: dict[int, int] = {}
        live: dict[int, int] = {}
        wrong = 0
        for content, digest, size, pack, offset, count, brought, layout in database.stream(
            "SELECT id, hash, size, pack, offset, refs, since, layout FROM contents"
        ):
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
            if count != counted or (layout is None and booked != first):
                wrong += 1
        if wrong:
            self.problem("catalog-corrupt", f"the reference counts or the origin of {wrong:,} contents are wrong")
        twice = database.value("SELECT count(*) - count(DISTINCT hash) FROM contents")
        if twice:
            self.problem("catalog-corrupt", f"{twice:,} contents are stored twice")
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
        if figures != (row.files, row.directories, row.size, row.distinct_size):
            self.problem(
                "snapshot-corrupt",
                f"the counts or sizes of snapshot {row.id} are wrong: {row.files} files, {row.size} bytes and "
                f"{row.distinct_size} distinct are stored, {figures[0]}, {figures[2]} and {figures[3]} there",
                snapshots=[row.id],
            )

    def data(self) -> None:
        """Read, decompress and hash every pack, in as many threads as there are processors."""
        from concurrent.futures import ThreadPoolExecutor

        workers = max(1, min(os.cpu_count() or 1, 16))
        waiting: Deque[Future[_PackReport]] = deque()
        with ThreadPoolExecutor(workers, thread_name_prefix="backuptool-check") as pool:
            try:
                for work in self._pack_work():
                    waiting.append(pool.submit(_examine, *work))
                    if len(waiting) > 2 * workers:
                        self._take_report(waiting.popleft().result())
                while waiting:
                    self._take_report(waiting.popleft().result())
            except BaseException:
                for future in waiting:
                    future.cancel()
                raise

    def _pack_work(self) -> Iterator[tuple[int, list[Any], int, str, bytes]]:
        """Yield what there is to examine, pack by pack; each is read in one state of the database."""
        database = self.database
        last = 0
        while True:
            pack = self._next_pack(last)
            if pack is None:
                return
            last = pack
            members = []
            try:
                with database.read_transaction():
                    members = database.query(
                        "SELECT id, hash, size, offset FROM contents WHERE pack = ? ORDER BY offset", (pack,)
                    )
                    stored = read_pack(database, pack)
            except CorruptionError as exc:
                if members or not isinstance(exc, ContentMissingError):  # else a prune has emptied it meanwhile
                    self._unreadable_pack(pack, exc)
                continue
            yield pack, members, *stored

    def _next_pack(self, last: int) -> Optional[int]:
        """Return the number of the pack behind one; where the table is damaged, of the next that contents name."""
        for sql in ("SELECT min(id) FROM packs WHERE id > ?", "SELECT min(pack) FROM contents WHERE pack > ?"):
            try:
                pack = self.database.value(sql, (last,))
            except CorruptionError as exc:
                self.problem("database-corrupt", str(exc))
                continue
            if pack is None:
                return None
            if isinstance(pack, int) and pack > last:
                return pack
            self.problem("database-corrupt", f"the packs behind {last} are not in order")
        return None

    def _unreadable_pack(self, pack: int, exc: CorruptionError) -> None:
        try:
            members = self.database.query("SELECT id, hash FROM contents WHERE pack = ?", (pack,))
        except CorruptionError:
            members = []
        if not members:
            self.problem("pack-corrupt", f"pack {pack} cannot be read: {exc}")
        for content, digest in members:
            self.damaged[content] = (digest if isinstance(digest, bytes) else b"", f"pack {pack} cannot be read")

    def _take_report(self, report: _PackReport) -> None:
        self.read_bytes += report.read_bytes
        self.reporter.report("data", done_bytes=self.read_bytes, total_bytes=self.live_bytes)
        self.damaged.update(report.damaged)
        if report.damage is not None and not report.damaged:
            self.problem("pack-corrupt", f"pack {report.pack} is damaged, but no content in it is: {report.damage}")

    def trace(self) -> None:
        """Name the files and the snapshots that damaged contents belong to."""
        if not self.damaged:
            return
        database = self.database
        bad = dict(self.damaged)
        wholes: dict[int, list[int]] = {}  # what damaged parts are parts of
        for content, part, digest in database.stream(
            "SELECT p.content, p.part, c.hash FROM parts AS p LEFT JOIN contents AS c ON c.id = p.content"
        ):
            if part in self.damaged:
                wholes.setdefault(part, []).append(content)
                if content not in bad and isinstance(digest, bytes):
                    bad[content] = (digest, f"its part {self.damaged[part][0].hex()[:16]} is damaged")
        ids: dict[int, list[int]] = {}
        for number, source in database.query("SELECT id, source FROM snapshots ORDER BY id"):
            ids.setdefault(source, []).append(number)
        named = set()
        for path, source, first, last, content in database.stream(
            "SELECT path, source, first, last, content FROM files WHERE content IS NOT NULL"
        ):
            if content not in bad:
                continue
            named.add(content)
            digest, why = bad[content]
            try:
                snapshots = tuple(n for n in ids.get(source, ()) if n >= first and (last is None or n <= last))
            except TypeError:  # the row is damaged, and was named
                snapshots = ()
            listed = ", ".join(map(str, snapshots))
            self.problems.append(
                Problem(
                    kind="content-corrupt",
                    path=_text(path),
                    message=f"content {digest.hex()[:16]} is damaged ({why}), in snapshot {listed}",
                    content=digest.hex(),
                    snapshots=snapshots,
                )
            )
        for content, (digest, why) in self.damaged.items():
            if content not in named and named.isdisjoint(wholes.get(content, ())):
                self.problems.append(
                    Problem(
                        kind="content-corrupt",
                        path="",
                        message=f"content {digest.hex()[:16]} is damaged ({why}); no snapshot has it",
                        content=digest.hex(),
                    )
                )


@attrs.frozen
class _PackReport:
    """What a worker found in one pack."""

    pack: int
    read_bytes: int
    damage: Optional[str]
    damaged: dict[int, tuple[bytes, str]]


def _examine(pack: int, members: Sequence[Sequence[Any]], size: int, codec: str, data: bytes) -> _PackReport:
    """Decompress a pack and hash its contents; runs in a worker thread."""
    unpacked = unpack(size, codec, data)
    view = memoryview(unpacked.data)
    damaged = {}
    read_bytes = 0
    for content, digest, length, offset in members:
        if not (isinstance(digest, bytes) and isinstance(length, int) and isinstance(offset, int)):
            continue  # the row is damaged, and was named
        if hashlib.sha256(view[offset : offset + length]).digest() != digest:
            damaged[content] = (digest, unpacked.damage or "its bytes do not have its hash")
        read_bytes += length
    return _PackReport(pack, read_bytes, unpacked.damage, damaged)


def _text(value: object) -> str:
    """Return a text of the database as str, whatever it is."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
