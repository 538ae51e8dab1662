"""Checking: recompute everything that can be recomputed, compare, and name what is damaged. Changes nothing.

Owns the order and the problems. SQLite's own checks first, then one sweep over the catalog (recounting), while every
pack is read, decompressed and hashed (examining); last, damaged contents are traced to files and snapshots.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import Iterator, Optional, Sequence

import attrs

from ...errors import CorruptionError
from ...progress import Reporter
from ...results.check import CheckResult
from ...results.problem import Problem
from ...results.remembered import Remembered
from ...storage.bases import bases_by_pack, behind_bases
from ...storage.database import Database
from ...storage.drivers import TO_CHECK
from ...storage.partial_indexes import compare_partial_indexes
from .beside import Sweeps
from .examining import Examination
from .recounting import Recount, text_of

__all__ = ["check", "unopened"]

#: What SQLite says of the pages that an encrypted repository keeps its wrapped keys in, if that is all it says.
_KEY_PAGES_ONLY = ("*** in database main ***\nPage 3: never used\nPage 4: never used",)

_TABLES = (
    *("settings", "sources", "snapshots", "files", "contents", "parts", "pruned"),
    *("bases", "pins", "changes", "drills"),
)


def check(
    database: Database,
    *,
    quick: bool,
    reporter: Reporter,
    expect_at_least: Optional[int] = None,
    remembered: Optional[Remembered] = None,
    most_helpers: Optional[int] = None,
) -> CheckResult:
    """Verify a repository, with at most so many processes beside this one."""
    begin = time.monotonic()
    run = _Check(database, reporter)
    with Examination(database, () if quick else run.pack_ids(), most=most_helpers) as examination:
        run.sqlite(quick)
        run.history(expect_at_least)
        if remembered is not None and remembered.problem is not None:
            run.problems.append(remembered.problem)
        run.catalog()
        run.data(examination)
    try:
        run.trace()
    except CorruptionError as exc:
        run.unreadable("the tables of files and contents", exc)
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


def unopened(damage: CorruptionError, *, quick: bool) -> CheckResult:
    """Return what there is to tell of a repository that is too damaged to be looked at."""
    return CheckResult(
        snapshots=0,
        files=0,
        contents=0,
        packs=0,
        read_bytes=0,
        quick=quick,
        elapsed_seconds=0.0,
        problems=(Problem(kind="database-corrupt", path="", message=str(damage).replace(TO_CHECK, "")),),
    )


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
    sweeps: Sweeps = attrs.field(init=False)  # how the catalog can be read
    ids: dict[int, list[int]] = attrs.Factory(dict)  # of snapshots, by source
    _fails: bool = False  # a statement of SQLite's own checks did not come to its end
    _noted: set[Problem] = attrs.Factory(set)

    def problem(self, kind: str, message: str, *, path: str = "", snapshots: Sequence[int] = ()) -> None:
        """Note something that is not as it must be, once."""
        found = Problem(kind=kind, path=path, message=message, snapshots=tuple(snapshots))
        if found not in self._noted:
            self._noted.add(found)
            self.problems.append(found)

    def unreadable(self, what: str, exc: CorruptionError, snapshots: Sequence[int] = ()) -> None:
        """Note what SQLite cannot read as a whole."""
        self.problem("database-corrupt", f"{what} cannot be read as a whole: {exc.reason}", snapshots=snapshots)

    def sqlite(self, quick: bool) -> None:
        """Let SQLite check its own structures."""
        self.reporter.report("catalog")
        pragmas = [f"integrity_check({table})" for table in _TABLES] if quick else ["integrity_check(1000)"]
        for pragma in [*pragmas, "foreign_key_check"]:
            try:
                rows = self.database.query(f"PRAGMA {pragma}")
            except CorruptionError as exc:
                self._fails = True
                self.problem("database-corrupt", f"SQLite's own check did not come to its end: {exc.reason}")
                continue
            for row in rows:
                text = row[0].decode("utf-8", "replace") if isinstance(row[0], bytes) else str(row[0])
                if self.database.encrypted and text in _KEY_PAGES_ONLY:
                    continue
                if pragma == "foreign_key_check":
                    self.problem("catalog-corrupt", f"a row of {text} refers to something that does not exist")
                elif text != "ok":
                    self.problem("database-corrupt", f"SQLite: {' '.join(text.split())}")

    def history(self, expect_at_least: Optional[int]) -> None:
        """Find what is older than it should be: parts of a file, or all of it."""
        try:
            self.database.prove(self.problem)
        except CorruptionError as exc:
            self.unreadable("what proves whose the file is", exc)
        try:
            compare_partial_indexes(self.database, self.problem)
        except CorruptionError as exc:
            self.unreadable("a table or its indexes", exc)
        try:
            newest = self.database.next_id("snapshots") - 1
        except CorruptionError as exc:
            self.unreadable("the counter of snapshots", exc)
            return
        if expect_at_least is not None and newest < expect_at_least:
            self.problem(
                "rolled-back",
                f"the newest snapshot that was ever taken is {newest or 'none'}, and {expect_at_least} was there: an "
                "older copy of the repository was put in its place",
            )

    def catalog(self) -> None:
        """Compare the catalog with itself."""
        recount = Recount(self.database, self.reporter, self.problem, self.unreadable, self.damaged)
        # The cipher of an encrypted file reads nothing more in a transaction in which it has once failed.
        with nullcontext() if self._fails else self.database.read_transaction():
            recount.run()
        self.snapshots, self.files = recount.snapshots, recount.files
        self.contents, self.packs = recount.contents, recount.packs
        self.live_bytes = recount.live_bytes
        self.sweeps, self.ids = recount.sweeps, recount.ids

    def pack_ids(self) -> Sequence[int]:
        """Return the ids of all packs, each behind its base; where their table is damaged, those that can be found."""
        try:
            packs = [pack for (pack,) in self.database.query("SELECT id FROM packs")]
            if all(isinstance(pack, int) for pack in packs) and packs == sorted(set(packs)):
                return behind_bases(packs, bases_by_pack(self.database))
        except CorruptionError:
            pass  # found again, and named, below
        return list(self._found_packs())

    def _found_packs(self) -> Iterator[int]:
        """Yield ids of packs, by their own table or by what contents name."""
        last = 0
        while True:
            pack = self._next_pack(last)
            if pack is None:
                return
            last = pack
            yield pack

    def _next_pack(self, last: int) -> Optional[int]:
        """Return the number of the pack behind one; where the table is damaged, of the next that contents name."""
        for sql in ("SELECT min(id) FROM packs WHERE id > ?", "SELECT min(pack) FROM contents WHERE pack > ?"):
            try:
                pack = self.database.value(sql, (last,))
            except CorruptionError as exc:
                self.unreadable("the table of packs" if "packs" in sql else "the table of contents", exc)
                continue
            if pack is None:
                return None
            if isinstance(pack, int) and pack > last:
                return pack
            self.problem("database-corrupt", f"the packs behind {last} are not in order")
        return None

    def data(self, examination: Examination) -> None:
        """Take what was found in the packs."""
        for report in examination.reports():
            self.read_bytes += report.read_bytes
            self.reporter.report("data", done_bytes=self.read_bytes, total_bytes=self.live_bytes)
            for content, digest, why in report.damaged:
                self.damaged[content] = (digest, why)
            if report.damage is not None and not report.damaged:
                self.problem("pack-corrupt", f"pack {report.pack} is damaged, but no content in it is: {report.damage}")

    def trace(self) -> None:
        """Name the files and the snapshots that damaged contents belong to."""
        if not self.damaged:
            return
        bad = dict(self.damaged)
        wholes: dict[int, list[int]] = {}  # what damaged parts are parts of
        for content, _, part, *_, digest, _ in self.sweeps.parts():
            if part in self.damaged:
                wholes.setdefault(part, []).append(content)
                if content not in bad and isinstance(digest, bytes):
                    bad[content] = (digest, f"its part {self.damaged[part][0].hex()[:16]} is damaged")
        named = set()
        for path, source, first, last, content in self.sweeps.references():
            if content not in bad:
                continue
            named.add(content)
            digest, why = bad[content]
            try:
                snapshots = tuple(n for n in self.ids.get(source, ()) if n >= first and (last is None or n <= last))
            except TypeError:  # the row is damaged, and was named
                snapshots = ()
            self.problems.append(
                Problem(
                    kind="content-corrupt",
                    path=text_of(path),
                    message=f"content {digest.hex()[:16]} is damaged ({why})",
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
