"""Data sets that are a few large files: media that do not compress, a disk image, a database."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import BinaryIO, Iterator

from .datasets import DataSet
from .generation import BLOCK, TextSource, noise, write_noise
from .plan import Change, Measure, Operation, Plan

__all__ = ["Database", "Image", "Media"]

#: What a disk image is read and written in.
_IMAGE_BLOCK = 4096


class Media(DataSet):
    """A few files of noise, as videos and photos are to a backup program; then one is added and one gets new tags."""

    name = "media"
    stored_share = 1.05

    @property
    def description(self) -> str:
        return "incompressible files; the small change is a new file of 1/64 of all and 64 KiB rewritten in another"

    def build(self, directory: Path) -> None:
        rng = random.Random(self.name)
        total = self._sizes.media_bytes
        for number, size in enumerate((total // 2, total // 4, total // 8, total // 8)):
            with open(directory / f"film-{number}.bin", "wb") as stream:
                write_noise(stream, rng, size)

    def plan(self) -> Plan:
        return (
            Measure(Operation.FIRST, "first snapshot"),
            Measure(Operation.UNCHANGED, "unchanged"),
            Change(self._change),
            Measure(Operation.CHANGED, "small change"),
            Measure(Operation.RESTORE, "restore"),
            Measure(Operation.RESTORE_FILE, "restore one file"),
            Measure(Operation.CHECK, "check, all data"),
            Measure(Operation.PRUNE_ONE, "prune 1 of 3"),
        )

    def _change(self, directory: Path) -> None:
        rng = random.Random(f"{self.name} change")
        with open(directory / "film-new.bin", "wb") as stream:
            write_noise(stream, rng, self._sizes.media_bytes // 64)
        with open(directory / "film-3.bin", "r+b") as stream:
            stream.write(noise(rng, 64 << 10))


class Image(DataSet):
    """A file like a disk image; then 1 % of its blocks are rewritten, then everything moves by a few bytes."""

    name = "image"
    stored_share = 1.05

    @property
    def description(self) -> str:
        return (
            "one file like a disk image (noise, text and zeros); 1 % of its 4 KiB blocks are rewritten at random, "
            "then 777 bytes are inserted after a third"
        )

    def build(self, directory: Path) -> None:
        rng = random.Random(self.name)
        text = TextSource(self.name, min(64 << 20, max(1 << 20, self._sizes.image_bytes // 4)))
        left = self._sizes.image_bytes // _IMAGE_BLOCK * _IMAGE_BLOCK
        with open(directory / "disk.img", "wb") as stream:
            while left:
                size = min(left, _IMAGE_BLOCK * rng.randint(1, 512))
                kind = rng.random()
                if kind < 0.2:
                    stream.write(bytes(size))
                else:
                    stream.write(noise(rng, size) if kind < 0.5 else text.text(rng, size))
                left -= size

    def plan(self) -> Plan:
        return (
            Measure(Operation.FIRST, "first snapshot"),
            Measure(Operation.UNCHANGED, "unchanged"),
            Change(self._rewrite),
            Measure(Operation.CHANGED, "1 % of the blocks rewritten"),
            Change(self._insert),
            Measure(Operation.CHANGED, "777 bytes inserted"),
            Measure(Operation.RESTORE, "restore"),
            Measure(Operation.CHECK, "check, all data"),
            Measure(Operation.PRUNE_ONE, "prune 1 of 4"),
        )

    def _rewrite(self, directory: Path) -> None:
        rng = random.Random(f"{self.name} rewritten")
        path = directory / "disk.img"
        blocks = path.stat().st_size // _IMAGE_BLOCK
        with open(path, "r+b") as stream:
            for block in sorted(rng.sample(range(blocks), max(1, blocks // 100))):
                stream.seek(block * _IMAGE_BLOCK)
                stream.write(noise(rng, _IMAGE_BLOCK))

    def _insert(self, directory: Path) -> None:
        path = directory / "disk.img"
        inserted = noise(random.Random(f"{self.name} inserted"), 777)
        with open(path, "r+b") as stream:
            _shift(stream, path.stat().st_size // 3, inserted)


class Database(DataSet):
    """A SQLite file of one table and two indexes; then rows all over it are updated, then rows are appended."""

    name = "database"

    @property
    def description(self) -> str:
        return "a SQLite file with two indexes; 0.2 % of its rows are updated at random, then 1 % are appended"

    def build(self, directory: Path) -> None:
        with closing(_connect(directory)) as connection, connection:
            connection.execute("PRAGMA page_size = 4096")
            connection.execute(
                "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER, amount INTEGER, placed TEXT, note TEXT)"
            )
            self._append(connection, "built", self._sizes.database_rows)
            connection.execute("CREATE INDEX orders_customer ON orders (customer)")
            connection.execute("CREATE INDEX orders_amount ON orders (amount)")

    def plan(self) -> Plan:
        return (
            Measure(Operation.FIRST, "first snapshot"),
            Measure(Operation.UNCHANGED, "unchanged"),
            Change(self._update),
            Measure(Operation.CHANGED, "0.2 % of the rows updated"),
            Change(partial(self._grow, seed="appended")),
            Measure(Operation.CHANGED, "1 % more rows"),
            Measure(Operation.RESTORE, "restore"),
            Measure(Operation.CHECK, "check, all data"),
            Measure(Operation.PRUNE_ONE, "prune 1 of 4"),
        )

    def _update(self, directory: Path) -> None:
        rng = random.Random(f"{self.name} updated")
        rows = self._sizes.database_rows
        chosen = rng.sample(range(1, rows + 1), max(1, rows // 500))
        with closing(_connect(directory)) as connection, connection:
            connection.executemany(
                "UPDATE orders SET amount = ? WHERE id = ?", ((rng.randrange(1_000_000), row) for row in chosen)
            )

    def _grow(self, directory: Path, *, seed: str) -> None:
        with closing(_connect(directory)) as connection, connection:
            self._append(connection, seed, max(1, self._sizes.database_rows // 100))

    def _append(self, connection: sqlite3.Connection, seed: str, count: int) -> None:
        rng = random.Random(f"{self.name} {seed}")
        text = TextSource(f"{self.name} {seed}", 32 << 20 if count > 10_000 else 1 << 20)
        connection.executemany(
            "INSERT INTO orders (customer, amount, placed, note) VALUES (?, ?, ?, ?)", _rows(rng, text, count)
        )


def _rows(rng: random.Random, text: TextSource, count: int) -> Iterator[tuple[int, int, str, str]]:
    for number in range(count):
        day = f"2024-{number % 12 + 1:02}-{number % 28 + 1:02}T{rng.randrange(86400):05}"
        note = text.text(rng, rng.randint(20, 700)).decode("ascii")
        yield rng.randrange(200_000), rng.randrange(1_000_000), day, note


def _connect(directory: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(str(directory / "orders.sqlite"))
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    return connection


def _shift(stream: BinaryIO, position: int, inserted: bytes) -> None:
    """Insert bytes into a file in place, moving the rest towards the end."""
    carried = inserted
    while True:
        stream.seek(position)
        block = stream.read(BLOCK)
        moved = carried + block
        stream.seek(position)
        if len(block) < BLOCK:
            stream.write(moved)
            return
        stream.write(moved[:BLOCK])
        carried = moved[BLOCK:]
        position += BLOCK
