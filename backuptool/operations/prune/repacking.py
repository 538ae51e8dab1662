"""Repacking: write what is left in packs into new ones, where a prune has emptied the most of them.

Owns which packs are worth it. What is left in them, the prune has decided.

A base stays while packs refer to it, even if no content in it is left: they would not be there without it. It is worth
its room as long as it and they hold half of what it has; below that all of them are written anew, without a base, and
the base goes. So what a prune writes is always less than what it and those before it have removed.
"""

from __future__ import annotations

import hashlib
from typing import Any, Iterator, Optional, Sequence

import attrs

from ...errors import CorruptionError
from ...progress import Reporter
from ...results.problem import Problem
from ...storage.bases import Base, insert_base, least_bytes
from ...storage.compression import DEFAULT, SETTINGS
from ...storage.database import Database
from ...storage.packs import compress_pack
from ...storage.unpacking import PackSource, StoredPack, UnpackedPack, read_pack

__all__ = ["Repacking"]

#: Bytes packed again in one transaction.
_BATCH_BYTES = 32 << 20

_PACK_SIZE = SETTINGS[DEFAULT].pack_size


@attrs.define(eq=False)
class _Pieces:
    """Contents on their way into new packs, with the same base or without one."""

    base: Optional[StoredPack] = None
    contents: list[int] = attrs.Factory(list)
    pieces: list[bytes] = attrs.Factory(list)
    filled: int = 0
    written_ns: int = 0


@attrs.define(eq=False)
class Repacking:
    """The steps; each needs a transaction around it.

    Attributes:
        problems: What could not be written anew.
        repacked_packs: Packs that were.
    """

    database: Database
    reporter: Reporter
    problems: list[Problem] = attrs.Factory(list)
    repacked_packs: int = 0
    next_pack: int = 0  # number of the next pack that is written
    _emptied: dict[int, int] = attrs.Factory(dict)  # bytes last taken from packs in which nothing should be left

    def take_from(self, pack: int, size: int) -> None:
        """Note that so many bytes less of a pack are used.

        The row of one in which nothing is left goes as it is: to change a number in it, SQLite would write all of the
        pack anew.
        """
        if not self.database.execute(
            "UPDATE packs SET live = live - ? WHERE id = ? "
            "AND (live <> ? OR EXISTS (SELECT 1 FROM bases WHERE base = packs.id))",
            (size, pack, size),
        ):
            self._emptied[pack] = size

    def remove_empty(self) -> None:
        """Remove packs that nothing is left in, and nothing refers to."""
        database = self.database
        empty = database.query(
            "SELECT id FROM packs WHERE live * 2 < size AND live = 0 "
            "AND NOT EXISTS (SELECT 1 FROM contents WHERE pack = packs.id)"
        )
        for pack, size in self._emptied.items():
            if database.value("SELECT 1 FROM contents WHERE pack = ? LIMIT 1", (pack,)):  # the catalog is damaged
                database.execute("UPDATE packs SET live = live - ? WHERE id = ?", (size, pack))
            else:
                empty.append((pack,))
        self._emptied.clear()
        database.executemany("DELETE FROM bases WHERE pack = ?", empty)
        database.executemany(
            "DELETE FROM packs WHERE id = ? AND NOT EXISTS (SELECT 1 FROM bases WHERE base = packs.id)", empty
        )

    def most_saved(self) -> int:
        """Return the bytes that packing again saves at most: what all packs take that it would replace, in whole pages.

        The last page of each is full only by chance, and its row may have one of its own.
        """
        return self.database.total(
            "SELECT sum(length(data) + ?) FROM packs WHERE id IN (SELECT id FROM packs "
            "WHERE live * 2 < size UNION SELECT pack FROM bases WHERE base IN "
            "(SELECT id FROM packs WHERE live * 2 < size))",
            (3 * self.database.page_size(),),
        )

    def half_empty(self) -> Iterator[list[int]]:
        """Yield the packs that are less than half full, in batches for one transaction each."""
        rows = self.database.query(
            "SELECT id, live + coalesce((SELECT sum(p.live) FROM bases AS b JOIN packs AS p ON p.id = b.pack "
            "WHERE b.base = packs.id), 0) FROM packs WHERE live * 2 < size ORDER BY id"
        )
        batch: list[int] = []
        size = 0
        for done, (pack, held) in enumerate(rows, 1):
            batch.append(pack)
            size += self._number(held)
            if size >= _BATCH_BYTES:
                self.reporter.report("repack", done_files=done, total_files=len(rows))
                yield batch
                batch, size = [], 0
        if batch:
            self.reporter.report("repack", done_files=done, total_files=len(rows))
            yield batch

    def repack(self, batch: Sequence[int]) -> None:
        """Write what is left in packs into new ones. A damaged pack is left as it is, and named."""
        database = self.database
        # A number is not used again: whoever restores beside this has packs in memory by their numbers.
        self.next_pack = database.total("SELECT max(id) FROM packs") + 1
        source = PackSource(database)
        alone = _Pieces()
        referring: dict[int, list[tuple[int, int]]] = {}  # (pack, live) by base
        for pack in batch:
            family = self._family(pack)
            if family is None:
                continue
            base, packs = family
            if base is None:
                self._move(source, packs, alone)
            else:
                referring.setdefault(base, []).extend(packs)
        for base, packs in referring.items():
            # Their base may have gone just now, and they with it.
            packs = [known for known in packs if self._exists(known[0])]
            stored = self._base(base)
            worth_it = stored is not None and sum(live for _, live in packs) >= least_bytes(Base(base, stored.size))
            together = _Pieces(stored) if worth_it else alone
            for known in packs:
                self._move(source, [known], together)
            if worth_it:
                self._write(together)
        self._write(alone)
        self.remove_empty()

    def _family(self, pack: int) -> Optional[tuple[Optional[int], list[tuple[int, int]]]]:
        """Return the base of a pack, and (number, live bytes) of the packs to be written anew with it.

        These are the pack itself, and those that refer to it; None if it is gone, or must stay for them.
        """
        database = self.database
        rows = database.query(
            "SELECT p.live, p.size, b.base FROM packs AS p LEFT JOIN bases AS b ON b.pack = p.id WHERE p.id = ?",
            (pack,),
        )
        if not rows:
            return None
        live, size, base = rows[0]
        referring = database.query(
            "SELECT p.id, p.live FROM bases AS b JOIN packs AS p ON p.id = b.pack WHERE b.base = ? ORDER BY p.id",
            (pack,),
        )
        held = self._number(live) + sum(self._number(other) for _, other in referring)
        if referring and (held * 2 >= self._number(size) or base is not None):
            return None
        return base, [(pack, live), *referring]

    def _exists(self, pack: int) -> bool:
        return self.database.value("SELECT 1 FROM packs WHERE id = ?", (pack,)) is not None

    def _base(self, number: int) -> Optional[StoredPack]:
        """Return a base as it is stored; None if it cannot be read."""
        try:
            return read_pack(self.database, number)
        except CorruptionError:
            return None

    def _move(self, source: PackSource, packs: Sequence[tuple[int, int]], to: _Pieces) -> None:
        """Move what is left in packs: all of them, or none if one is damaged, which others may refer to."""
        database = self.database
        found = []
        for pack, live in packs:
            contents = self._live_contents(source, pack, live)
            if contents is None:
                return
            found.append((pack, contents))
        for pack, contents in found:
            written = database.value("SELECT written_ns FROM packs WHERE id = ?", (pack,))
            to.written_ns = max(to.written_ns, self._number(written))
            for content, data in contents:
                to.contents.append(content)
                to.pieces.append(data)
                to.filled += len(data)
                if to.filled >= _PACK_SIZE:
                    self._write(to)
            self.repacked_packs += 1
            # Its last contents may still be waiting, in memory; the transaction ends after they are written.
            database.execute("DELETE FROM bases WHERE pack = ?", (pack,))
            database.execute("DELETE FROM packs WHERE id = ?", (pack,))

    def _live_contents(self, source: PackSource, pack: int, live: int) -> Optional[list[tuple[int, bytes]]]:
        """Return (id, bytes) of what is left in a pack, each compared with its hash; None if it is damaged."""
        try:
            unpacked = source.read(pack).result()
        except CorruptionError as exc:
            unpacked = UnpackedPack(b"", str(exc))
        found = []
        for content, digest, size, offset in self.database.query(
            "SELECT id, hash, size, offset FROM contents WHERE pack = ? ORDER BY offset", (pack,)
        ):
            typed = isinstance(size, int) and isinstance(offset, int) and isinstance(digest, bytes)
            data = unpacked.data[offset : offset + size] if typed else b""
            if not typed or hashlib.sha256(data).digest() != digest:
                self._damaged_pack(pack, digest.hex() if isinstance(digest, bytes) else None)
                return None
            found.append((content, data))
        if sum(len(data) for _, data in found) != live:  # some are not found, and would go with the pack
            self._damaged_pack(pack, None)
            return None
        return found

    def _damaged_pack(self, pack: int, content: Optional[str]) -> None:
        message = f"pack {pack} is damaged and stays as it is; check names the files that are hit"
        self.problems.append(Problem(kind="content-corrupt", path="", message=message, content=content))

    def _write(self, waiting: _Pieces) -> None:
        """Make a pack of what waits."""
        if not waiting.contents:
            return
        database = self.database
        number = self.next_pack
        self.next_pack += 1
        data = memoryview(b"".join(waiting.pieces))
        pack = compress_pack([], data, DEFAULT, waiting.base)
        database.execute(
            "INSERT INTO packs (id, size, live, written_ns, codec, data) VALUES (?, ?, ?, ?, ?, ?)",
            (number, pack.size, pack.size, waiting.written_ns, pack.codec, pack.data),
        )
        if pack.base is not None:
            insert_base(database, number, pack.base, unchanged=True)
        offset = 0
        rows: list[tuple[Any, ...]] = []
        for content, piece in zip(waiting.contents, waiting.pieces):
            rows.append((number, offset, content))
            offset += len(piece)
        database.executemany("UPDATE contents SET pack = ?, offset = ? WHERE id = ?", rows)
        waiting.contents, waiting.pieces, waiting.filled = [], [], 0

    def _number(self, value: object) -> int:
        """Return a number of the catalog; in a damaged one it may be anything."""
        if not isinstance(value, int):
            path = self.database.path
            raise CorruptionError(f"a number in the repository {path} is none; run check to see what is hit", path)
        return value
