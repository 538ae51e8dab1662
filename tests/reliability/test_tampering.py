"""Tampering with encrypted repositories: by who may write to the file and does not have the key.

One bit of every byte is flipped, any two pages are swapped, any pages are put back as they were once, and the file is
cut. Each time ``check`` must find something, or refuse the file. A flip is looked for in the cheapest step of it that
could find it: reading the tree of pages that the byte is in, through SQLite and its cipher, as the check of SQLite's
structures does with every tree. Where that finds nothing, the whole check has to.
"""

from __future__ import annotations

import itertools
import os
import random
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import attrs
import pytest
from conftest import PASSWORD, cheapened_argon2, noise, sql, write, write_tree

from backuptool import BackuptoolError, Repository

from .programme import Effort, Figures

for library in ("apsw", "cryptography"):
    pytest.importorskip(library)
pytestmark = [
    pytest.mark.reliability,
    pytest.mark.skipif(sys.version_info < (3, 9), reason="encryption needs Python 3.9"),
]

from backuptool.storage.connecting import open_database  # noqa: E402
from backuptool.storage.drivers.with_sqlite3mc import EncryptedDriver  # noqa: E402
from backuptool.storage.encryption import proof  # noqa: E402
from backuptool.storage.encryption.construction import FileKey  # noqa: E402
from backuptool.storage.encryption.keypages import KEY_PAGES  # noqa: E402
from backuptool.storage.encryption.keyring import Keyring  # noqa: E402
from backuptool.storage.encryption.seal import Sealer  # noqa: E402

PAGE = 16384

#: Tables that must have rows, so that a page of each holds something.
_TABLES = (
    *("settings", "sources", "snapshots", "files", "contents", "parts", "packs", "bases", "pruned", "pins"),
    *("changes", "drills"),
)


def make_states(work: Path) -> List[bytes]:
    """Return the file of one small repository after each of several changes; every table has rows at the end."""
    lines = [noise(24, number).hex().encode() for number in range(1000)]
    tree = write_tree(work / "tree", {"a.txt": b"\n".join(lines), "d/noise": noise(30_000, 1), "d/empty": b""})
    with (tree / "large").open("wb") as file:
        file.truncate(3 << 20)
        file.seek(1 << 20)
        file.write(b"a large file, line after line\n" * 2000)
    path = work / "backups.db"
    states: List[bytes] = []
    with Repository(path, password=PASSWORD, max_helpers=0) as repo:

        def note_state() -> None:
            repo.close()
            states.append(path.read_bytes())

        repo.snapshot(tree, note="the first", tags=["one"], host="machine")
        note_state()
        lines[7] = b"edited"
        write(tree / "a.txt", b"\n".join(lines))
        repo.snapshot(tree, host="machine", pinned=True)
        note_state()
        write(tree / "d" / "new", noise(20_000, 2))
        (tree / "d" / "empty").unlink()
        repo.snapshot(tree, host="machine")
        note_state()
        repo.prune(1)
        note_state()
        repo.add_key("another password", label="second")
        note_state()
        repo.drill(3, scratch=work)
        note_state()
        repo.annotate(3, note="another note")
        note_state()
    for table in _TABLES:
        assert sql(path, f"SELECT count(*) FROM {table}") > [(0,)], table
    return states


@attrs.define
class Bench:
    """Where a repository is tampered with, again and again.

    Attributes:
        path: The file.
        data: What it should be.
        figures: What was tried and found.
        key: Of the repository.
        sound: What SQLite says of it as it should be.
        trees: Name of the tree that each page belongs to, where it belongs to one.
    """

    path: Path
    data: bytes
    repository: Repository
    figures: Figures = attrs.Factory(Figures)
    key: FileKey = attrs.Factory(FileKey)
    sound: List[Any] = attrs.Factory(list)
    trees: Dict[int, str] = attrs.Factory(dict)

    @classmethod
    def make(cls, path: Path, data: bytes) -> Bench:
        """Put a sound repository there."""
        path.write_bytes(data)
        bench = cls(path, data, Repository(path, password=PASSWORD, max_helpers=0))
        assert bench.check() == ()
        bench.key = Keyring(PASSWORD).unlock(str(path))
        with closing(EncryptedDriver(bench.key.pages()).connect(str(path), 1.0)) as connection:
            bench.sound = connection.query("PRAGMA integrity_check")
            bench.trees = {page: name.decode() for name, page in connection.query("SELECT name, pageno FROM dbstat")}
        return bench

    def check(self, data: Optional[bytes] = None) -> Tuple[str, ...]:
        """Return the kinds of problems that are found, or the class of the error if the file is refused."""
        if data is not None:
            self.path.write_bytes(data)
        try:
            return tuple(problem.kind for problem in self.repository.check().problems)
        except BackuptoolError as exc:
            return (type(exc).__name__,)
        finally:
            self.repository.close()

    def judge(self, what: str, data: bytes) -> None:
        """Try a file that somebody made of it; what counts is the part of the text before the colon."""
        self.figures.tried[what.partition(":")[0]] += 1
        found = self.check(data)
        if not found:
            self.figures.faults.append(f"not found: {what}")

    def is_read(self, page: int) -> bool:
        """Tell whether a page can still be read, with the rest of its tree; True where it belongs to none."""
        tree = self.trees.get(page)
        try:
            with closing(EncryptedDriver(self.key.pages()).connect(str(self.path), 1.0)) as connection:
                connection.execute("SELECT count(*) FROM sqlite_master")
                if tree is not None:
                    connection.execute("SELECT count(*) FROM dbstat WHERE name = ?", (tree,))
        except BackuptoolError:
            return False
        return True

    def is_proven(self) -> bool:
        """Tell whether nothing is found by the proofs and by SQLite, which are the first steps of the check."""
        problems: List[str] = []
        try:
            with closing(open_database(str(self.path), 1.0, Keyring(key=self.key))) as database:
                database.prove(lambda kind, message: problems.append(kind))
                sound = database.query("PRAGMA integrity_check") == self.sound
        except BackuptoolError:
            return False
        return sound and not problems


def flip(bench: Bench, offsets: Sequence[int], chance: random.Random, effort: Effort) -> None:
    """Flip one bit of each of these bytes, each alone."""
    bench.path.write_bytes(bench.data)
    figures = bench.figures
    with bench.path.open("r+b", buffering=0) as file:
        for number, offset in enumerate(offsets):
            if effort.is_over():
                return
            if number % 50_000 == 49_999:
                effort.tell(f"flipped bits: {number + 1:,} of {len(offsets):,}, {len(figures.faults)} faults")
            os.pwrite(file.fileno(), bytes([bench.data[offset] ^ 1 << chance.randrange(8)]), offset)
            figures.tried["flipped bits"] += 1
            if not bench.is_read(offset // PAGE + 1):
                figures.tried["of these found by the cipher, as the page cannot be read"] += 1
            elif not bench.is_proven() or bench.check():
                figures.tried["of these found by the rest of the check"] += 1
            else:
                figures.faults.append(f"not found: a flipped bit in byte {offset}")
            os.pwrite(file.fileno(), bench.data[offset : offset + 1], offset)


def pages_of(data: bytes) -> List[bytes]:
    """Return the pages of a file."""
    return [data[at : at + PAGE] for at in range(0, len(data), PAGE)]


def swaps(data: bytes) -> Iterator[Tuple[str, bytes]]:
    """Swap any two pages, but the two copies of the key page, which are equal."""
    for one, other in itertools.combinations(range(len(data) // PAGE), 2):
        pages = pages_of(data)
        if pages[one] != pages[other]:
            pages[one], pages[other] = pages[other], pages[one]
            yield f"swapped pages: {one + 1} and {other + 1}", b"".join(pages)


def put_back(states: Sequence[bytes], chance: random.Random, mixtures: int) -> Iterator[Tuple[str, bytes]]:
    """Put any page back as it was in any earlier state, any two, and many as they were in any states."""
    now = pages_of(states[-1])
    seen = {states[-1]}
    for number, state in enumerate(states[:-1]):
        old = pages_of(state)
        changed = [at for at in range(min(len(now), len(old))) if now[at] != old[at]]
        for count, what in ((1, "pages put back alone"), (2, "pages put back in pairs")):
            for places in itertools.combinations(changed, count):
                pages = list(now)
                for at in places:
                    pages[at] = old[at]
                data = b"".join(pages)
                if data not in seen:
                    seen.add(data)
                    yield f"{what}: {[at + 1 for at in places]} of state {number}", data
    everything = [pages_of(state) for state in states]
    for number in range(mixtures):
        newest = chance.choice(everything)
        share = chance.random()
        mixed = [
            chance.choice([other[at] for other in everything if at < len(other)]) if chance.random() < share else page
            for at, page in enumerate(newest)
        ]
        data = b"".join(mixed)
        if data not in seen and data not in states:
            seen.add(data)
            yield f"mixtures of pages of several times: {number}", data


def cuts(data: bytes, step: int) -> Iterator[Tuple[str, bytes]]:
    """Cut the file near each edge of a page, and everywhere else in steps."""
    sizes = {edge + beside for edge in range(0, len(data) + 1, PAGE) for beside in range(-3, 4)}
    for size in sorted((sizes | set(range(0, len(data), step))) & set(range(len(data)))):
        yield f"files cut short: {size} bytes", data[:size]


def run(effort: Effort) -> Figures:
    """Tamper with a repository in every way: everywhere, or in places that are spread over the whole."""
    chance = random.Random(effort.seed)
    with cheapened_argon2():
        states = make_states(effort.work)
        bench = Bench.make(effort.work / "tampered.db", states[-1])
        size = len(bench.data)
        if effort.full:
            offsets: List[int] = list(range(size))
        else:
            offsets = [*range(24), *(at + chance.randrange(PAGE) for at in range(0, size, PAGE))]
        if effort.scenario in ("", "flips"):
            for offset in range(0, size, PAGE):  # what the shorter way of the rest takes for granted
                at = offset + chance.randrange(PAGE)
                flipped = bench.data[:at] + bytes([bench.data[at] ^ 1 << chance.randrange(8)]) + bench.data[at + 1 :]
                bench.judge(f"flipped bits in the whole check, one a page: byte {at}", flipped)
            flip(bench, offsets, chance, effort)
        kinds = {
            "swaps": (swaps(bench.data), 20),
            "put back": (put_back(states, chance, 3000 if effort.full else 100), 150),
            "cuts": (cuts(bench.data, 32 if effort.full else PAGE // 2), 60),
        }
        for name, (tampered, most) in kinds.items():
            if effort.scenario not in ("", name):
                continue
            chosen = list(tampered)
            if not effort.full:
                chosen = chance.sample(chosen, min(most, len(chosen)))
            for what, data in chosen:
                if effort.is_over():
                    break
                bench.judge(what, data)
            effort.tell(f"{name}: {len(chosen):,}, {len(bench.figures.faults)} faults")
    return bench.figures


def test_whoever_has_no_key_changes_nothing_unnoticed(tmp_path: Path) -> None:
    figures = run(Effort(work=tmp_path))
    assert figures.faults == []
    for kind in (
        *("flipped bits", "of these found by the cipher, as the page cannot be read"),
        "of these found by the rest of the check",
        *("swapped pages", "pages put back alone", "pages put back in pairs", "mixtures of pages of several times"),
        "files cut short",
    ):
        assert figures.tried[kind] > 5, kind


# Controls.


def test_without_the_seal_pages_of_other_times_go_unnoticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sealer, "is_whole", lambda self, database: True)
    monkeypatch.setattr(proof, "_prove_key_pages", lambda *arguments: None)
    figures = run(Effort(work=tmp_path, scenario="put back"))
    assert len(figures.faults) > 5


def test_without_the_cipher_most_flips_go_unnoticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository that is not encrypted has its hashes and digests alone, and much room that nobody uses."""
    tree = write_tree(tmp_path / "tree", {"a": noise(30_000)})
    with Repository(tmp_path / "plain.db", max_helpers=0) as repo:
        repo.snapshot(tree)
        repo.close()
        data = (tmp_path / "plain.db").read_bytes()
        chance = random.Random(1)
        unnoticed = 0
        for at in range(0, len(data), PAGE):
            offset = at + chance.randrange(PAGE)
            changed = data[:offset] + bytes([data[offset] ^ 1 << chance.randrange(8)]) + data[offset + 1 :]
            (tmp_path / "plain.db").write_bytes(changed)
            try:
                unnoticed += repo.check().problems == ()
            except BackuptoolError:
                pass
            repo.close()
    assert unnoticed > 10


def test_flip_in_a_key_page_that_nobody_looks_at_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "_prove_key_pages", lambda *arguments: None)
    with cheapened_argon2():
        bench = Bench.make(tmp_path / "r.db", make_states(tmp_path)[-1])
        places = [(number - 1) * PAGE + offset for number in KEY_PAGES for offset in (100, 9000)]
        flip(bench, places, random.Random(1), Effort(work=tmp_path))
    assert len(bench.figures.faults) == len(places)
