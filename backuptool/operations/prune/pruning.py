"""Pruning: remove snapshots, give back what nobody else uses, and make the file smaller.

Owns the order of the steps and the arithmetic of who brought which content. The work follows what is removed; only
where several sources share contents, or a removed file's content lives on elsewhere, one sweep over the catalog is
needed to find out which snapshot has it first.
"""

from __future__ import annotations

import time
from typing import Callable, Optional, Sequence

import attrs

from ...errors import CorruptionError
from ...progress import Reporter
from ...results.prune import PruneResult
from ...storage import records
from ...storage.database import Database
from ...storage.drills import forget_drills
from ...storage.files import only_in
from ...storage.snapshots import SnapshotRow, find_snapshot, heirs, neighbours, update_distinct_size
from ..sources import Selection
from .choosing import Choice, Wanted, choose, misfits
from .repacking import Repacking

__all__ = ["Pruning", "prune"]

#: Contents that no snapshot refers to are leftovers of an interrupted one, or belong to one that is running now. After
#: this time they count as leftovers. A snapshot that runs longer finds them gone when it commits, and is taken again.
_GRACE_NS = 24 * 3600 * 1_000_000_000

#: Pages given back in one transaction.
_BATCH_PAGES = 2048

#: Bytes of cache for them, and for those that they change beside: with less, SQLite writes pages that it cuts off next.
_CACHE_BYTES = 48 << 20

_EVERYTHING = Selection()

_PENDING_BYTE = 1 << 30  # SQLite never uses the page that holds this byte: its locks are there


def prune(
    database: Database,
    wanted: Wanted,
    selection: Selection = _EVERYTHING,
    *,
    dry_run: bool,
    reporter: Reporter,
    clock: Callable[[], int],
) -> PruneResult:
    """Remove snapshots.

    A dry run does all of it in one transaction, measures the file that would come out, and takes it back.
    """
    begin = time.monotonic()
    run = Pruning(database, reporter, clock)
    # Deleting a content would make SQLite search the whole catalog for references to it. The reference counts say
    # whether there are any, and check verifies them.
    with database.without_foreign_keys():
        with database.transaction(rollback=dry_run):
            before = database.file_bytes()
            choice = run.remove(choose(database, wanted, selection, clock))
            after = run.final_bytes() if dry_run else 0
        if not dry_run:
            for batch in run.repacking.half_empty():
                with database.transaction():
                    run.repacking.repack(batch)
            run.shrink()
            after = database.file_bytes()
    return PruneResult(
        snapshots=tuple(row.to_result() for row in choice.rows),
        decisions=choice.decisions,
        removed_versions=run.removed_versions,
        removed_contents=run.removed_contents,
        removed_bytes=run.removed_bytes,
        repacked_packs=run.repacking.repacked_packs,
        freed_bytes=before - after,
        repository_bytes=after,
        dry_run=dry_run,
        elapsed_seconds=time.monotonic() - begin,
        problems=(*run.repacking.problems, *misfits(choice, after)),
    )


@attrs.define(eq=False)
class Pruning:
    """The steps; each needs a transaction around it, but for ``shrink``, which makes its own."""

    database: Database
    reporter: Reporter
    clock: Callable[[], int]
    removed_versions: int = 0
    removed_contents: int = 0
    removed_bytes: int = 0
    repacking: Repacking = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.repacking = Repacking(self.database, self.reporter)

    def remove(self, choice: Choice) -> Choice:
        """Remove what was chosen, and as much of the expendable as it takes; return all that was removed.

        Where not even all of it is enough none of it goes: a limit that is too low would cost the whole history.
        """
        self.remove_all(choice.rows)
        if choice.expendable and not self._fits(choice.max_bytes):
            smallest = self._smallest(choice.expendable)
            if choice.max_bytes is not None and smallest > choice.max_bytes:
                return attrs.evolve(choice, smallest=smallest)
        more: list[SnapshotRow] = []
        while len(more) < len(choice.expendable) and not self._fits(choice.max_bytes):
            row = choice.expendable[len(more)]
            self._remove(row.id)
            self.repacking.remove_empty()
            more.append(row)
        return choice.with_removed(more)

    def _smallest(self, rows: Sequence[SnapshotRow]) -> int:
        """Return the size that the file would have without all of these."""
        with self.database.trial():
            run = Pruning(self.database, self.reporter, self.clock)
            for row in rows:
                run._remove(row.id)
            run.repacking.remove_empty()
            return run.final_bytes()

    def _fits(self, most: Optional[int]) -> bool:
        """Tell whether the file will have at most so many bytes; packing again is tried only where that decides it."""
        database = self.database
        if most is None:
            return True
        if _final_pages(database) * database.page_size() - self.repacking.most_saved() > most:
            return False
        with database.trial():
            return Pruning(database, self.reporter, self.clock).final_bytes() <= most

    def final_bytes(self) -> int:
        """Pack again what is mostly empty, and return the size that the file will have."""
        for batch in self.repacking.half_empty():
            self.repacking.repack(batch)
        return _final_pages(self.database) * self.database.page_size()

    def remove_all(self, rows: Sequence[SnapshotRow]) -> None:
        """Remove snapshots, leftovers, and the packs that nothing is left in."""
        database = self.database
        for table in ("released", "moved", "carriers"):
            database.execute(f"DROP TABLE IF EXISTS temp.{table}")
        database.execute("CREATE TEMP TABLE released (content INTEGER PRIMARY KEY, number INTEGER)")
        database.execute("CREATE TEMP TABLE moved (leaf INTEGER PRIMARY KEY)")
        database.execute("CREATE TEMP TABLE carriers (content INTEGER, leaf INTEGER, PRIMARY KEY (content, leaf))")
        for number, row in enumerate(rows):
            self.reporter.report("remove", done_files=number, total_files=len(rows))
            self._remove(row.id)
        self._sweep_leftovers()
        self.repacking.remove_empty()

    def _remove(self, number: int) -> None:
        """Remove one snapshot: the versions that it alone has, and the contents that only those had."""
        database = self.database
        row = find_snapshot(database, number)  # what one before it had brought may be booked on it by now
        before, behind = neighbours(database, row.source, row.id)
        group = [row.id, *(pruned for pruned, heir in heirs(database).items() if heir == row.id)]
        where, parameters = only_in(row, before, behind)
        database.execute("DELETE FROM temp.released")
        database.execute(
            f"INSERT INTO temp.released SELECT content, count(*) FROM files WHERE {where} AND content IS NOT NULL "
            "GROUP BY content",
            parameters,
        )
        self.removed_versions += database.execute(f"DELETE FROM files WHERE {where}", parameters)
        if behind is None and before is not None:
            # What this snapshot had ended is current again.
            database.execute("UPDATE files SET last = NULL WHERE source = ? AND last >= ?", (row.source, before))
        records.remove_records(database, row.id)
        database.execute("DELETE FROM snapshots WHERE id = ?", (row.id,))
        gone = self._release()
        self._hand_over(row, behind, group, gone)
        if before is None and behind is None:
            forget_drills(database, row.source)
            database.execute("DELETE FROM sources WHERE id = ?", (row.source,))

    def _release(self) -> int:
        """Take the references in ``released`` back and remove the contents without any.

        ``released`` is left with the contents that lost a reference and live on, the parts of large ones among them.
        Returns the bytes removed that a snapshot had brought.
        """
        database = self.database
        database.execute(
            "UPDATE contents SET refs = refs - (SELECT number FROM temp.released WHERE content = contents.id) "
            "WHERE id IN (SELECT content FROM temp.released)"
        )
        dead = "id IN (SELECT content FROM temp.released) AND refs <= 0"
        for (content,) in database.query(f"SELECT id FROM contents WHERE {dead} AND layout IS NOT NULL"):
            refs = database.query(
                "SELECT part, count(*) FROM parts WHERE content = ? AND part IS NOT NULL GROUP BY part", (content,)
            )
            database.executemany(
                "UPDATE contents SET refs = refs - ? WHERE id = ?", ((number, part) for part, number in refs)
            )
            database.executemany("INSERT OR IGNORE INTO temp.released VALUES (?, 0)", ((part,) for part, _ in refs))
            database.execute("DELETE FROM parts WHERE content = ?", (content,))
        for pack, size in database.query(
            f"SELECT pack, sum(size) FROM contents WHERE {dead} AND pack IS NOT NULL GROUP BY pack"
        ):
            self.repacking.take_from(pack, size)
        leaves = f"FROM contents WHERE {dead} AND layout IS NULL"
        self.removed_bytes += database.total(f"SELECT sum(size) {leaves}")
        brought = database.total(f"SELECT sum(size) {leaves} AND since > 0")
        self.removed_contents += database.execute(f"DELETE FROM contents WHERE {dead}")
        database.execute("DELETE FROM temp.released WHERE content NOT IN (SELECT id FROM contents)")
        return brought

    def _hand_over(self, row: SnapshotRow, behind: Optional[int], group: Sequence[int], gone: int) -> None:
        """Let another snapshot be the first to have the contents that the removed one brought.

        For nearly all of them that is the next one of the same source, and one number says so. The others are looked
        up: those whose file is gone there, and those that another source's snapshot had in between.
        """
        database = self.database
        ids = ",".join(map(str, group))
        database.execute("DELETE FROM temp.moved")
        database.execute(
            "INSERT INTO temp.moved SELECT id FROM contents WHERE id IN (SELECT content FROM temp.released) "
            f"AND layout IS NULL AND since IN ({ids}) UNION SELECT id FROM contents WHERE since IN ({ids}) AND id IN "
            "(SELECT part FROM parts WHERE content IN (SELECT content FROM temp.released))"
        )
        if behind is not None:
            self._find_shared(row, behind, ids)
        left = row.distinct_size - gone
        if database.value("SELECT 1 FROM temp.moved LIMIT 1"):
            left -= self._move()
        if behind is None:
            database.execute("DELETE FROM pruned WHERE heir = ?", (row.id,))
            return
        update_distinct_size(database, behind, left)
        database.execute("UPDATE pruned SET heir = ? WHERE heir = ?", (behind, row.id))
        database.execute("INSERT INTO pruned VALUES (?, ?)", (row.id, behind))

    def _find_shared(self, row: SnapshotRow, behind: int, ids: str) -> None:
        """Add to ``moved`` what another source's snapshot has that lies between the removed one and the next."""
        database = self.database
        between = "n.id > ? AND n.id < ?"
        span = (row.id, behind)
        if database.value(f"SELECT 1 FROM snapshots AS n WHERE {between} LIMIT 1", span) is None:
            return
        database.execute("DELETE FROM temp.released")
        database.execute(
            "INSERT INTO temp.released SELECT DISTINCT f.content, 0 FROM files AS f WHERE f.source <> ? "
            "AND f.content IS NOT NULL AND EXISTS (SELECT 1 FROM snapshots AS n WHERE n.source = f.source "
            f"AND n.id >= f.first AND (f.last IS NULL OR n.id <= f.last) AND {between})",
            (row.source, *span),
        )
        database.execute(
            "INSERT OR IGNORE INTO temp.moved SELECT id FROM contents WHERE id IN (SELECT content FROM temp.released) "
            f"AND layout IS NULL AND since IN ({ids}) UNION SELECT id FROM contents WHERE since IN ({ids}) AND id IN "
            "(SELECT part FROM parts WHERE content IN (SELECT content FROM temp.released))"
        )

    def _move(self) -> int:
        """Find the first snapshot of each content in ``moved`` in one sweep; return the bytes of all in ``moved``."""
        database = self.database
        database.execute("DELETE FROM temp.carriers")
        database.execute(
            "INSERT OR IGNORE INTO temp.carriers SELECT leaf, leaf FROM temp.moved "
            "UNION SELECT content, part FROM parts WHERE part IN (SELECT leaf FROM temp.moved)"
        )
        found = database.query(
            "SELECT k.leaf, c.size, min((SELECT min(n.id) FROM snapshots AS n WHERE n.source = f.source "
            "AND n.id >= f.first AND (f.last IS NULL OR n.id <= f.last))) "
            "FROM files AS f JOIN temp.carriers AS k ON k.content = f.content JOIN contents AS c ON c.id = k.leaf "
            "GROUP BY k.leaf"
        )
        # What only a leftover has belongs to no snapshot until another one finds it.
        moved = database.total("SELECT sum(size) FROM contents WHERE id IN (SELECT leaf FROM temp.moved)")
        database.execute("UPDATE contents SET since = 0 WHERE id IN (SELECT leaf FROM temp.moved)")
        sizes: dict[int, int] = {}
        for _, size, snapshot in found:
            sizes[snapshot] = sizes.get(snapshot, 0) + size
        database.executemany("UPDATE contents SET since = ? WHERE id = ?", ((new, leaf) for leaf, _, new in found))
        for snapshot, size in sizes.items():
            update_distinct_size(database, snapshot, size)
        return moved

    def _sweep_leftovers(self) -> None:
        """Remove the contents that interrupted snapshots left; those of a snapshot running now are spared."""
        database = self.database
        swept = self._number(database.value("SELECT value FROM settings WHERE name = 'swept_content'") or 0)
        newest = database.total("SELECT max(id) FROM contents")
        until = min(self._first_young_content(), newest + 1)
        if until <= swept + 1:
            return
        database.execute("DELETE FROM temp.released")
        database.execute(
            "INSERT INTO temp.released SELECT id, 0 FROM contents WHERE id > ? AND id < ? AND refs = 0", (swept, until)
        )
        self._release()
        database.execute("INSERT OR REPLACE INTO settings VALUES ('swept_content', ?)", (until - 1,))

    def _first_young_content(self) -> int:
        """Return the lowest id of a content that was stored within the time of grace.

        Ids ascend with time. The numbers of packs do not: one that is packed again keeps its age.
        """
        database = self.database
        youngest_old = self.clock() - _GRACE_NS
        first = 1 << 62
        while True:
            rows = database.query(
                "SELECT p.written_ns, (SELECT min(id) FROM contents WHERE pack = p.id) FROM contents AS c "
                "JOIN packs AS p ON p.id = c.pack WHERE c.id < ? ORDER BY c.id DESC LIMIT 1",
                (first,),
            )
            if not rows or self._number(rows[0][0]) < youngest_old:
                return first
            lowest = self._number(rows[0][1])
            if lowest >= first:
                raise CorruptionError(f"the index of contents in {database.path} is damaged; run check", database.path)
            first = lowest

    def _number(self, value: object) -> int:
        """Return a number of the catalog; in a damaged one it may be anything."""
        if not isinstance(value, int):
            path = self.database.path
            raise CorruptionError(f"a number in the repository {path} is none; run check to see what is hit", path)
        return value

    def shrink(self) -> None:
        """Give the free pages back to the file system, a part at a time."""
        database = self.database
        total = free = int(database.value("PRAGMA freelist_count"))
        with database.cache(min(_CACHE_BYTES, 2 * free * database.page_size())):
            self._give_back(total)

    def _give_back(self, total: int) -> None:
        database = self.database
        free = total
        while free:
            self.reporter.report("shrink", done_files=total - free, total_files=total)
            goal = max(0, free - _BATCH_PAGES)
            before = free
            with database.transaction():
                # The module of some versions of Python (3.11) ends the statement at the first page.
                while free > goal:
                    database.query(f"PRAGMA incremental_vacuum({free - goal})")
                    left = int(database.value("PRAGMA freelist_count"))
                    if left >= free:
                        break
                    free = left
            if free == before:  # nothing more can be given back
                return


def _final_pages(database: Database) -> int:
    """Return how many pages the file will have when all free ones are given back, by SQLite's own arithmetic.

    Besides the free pages go the pointer map pages (one for each usable size / 5 pages) that described the end.
    """
    pages = int(database.value("PRAGMA page_count"))
    free = int(database.value("PRAGMA freelist_count"))
    if not free:
        return pages
    page_size = database.page_size()
    entries = database.usable_bytes() // 5
    locks = _PENDING_BYTE // page_size + 1

    def map_page(page: int) -> int:
        found = (page - 2) // (entries + 1) * (entries + 1) + 2
        return found + 1 if found == locks else found

    maps = (free - pages + map_page(pages) + entries) // entries
    final = pages - free - maps
    if pages > locks > final:
        final -= 1
    while map_page(final) == final or final == locks:
        final -= 1
    return final
