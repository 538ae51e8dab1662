"""The scenarios: trees, repositories that hold three states of one, and the commands that are run on them.

Owns what there is before a command and what there must be after it. How it is run and examined is in ``scenarios``.
"""

from __future__ import annotations

import os
import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Dict, Tuple

from trees import Facts, facts

from backuptool import Repository
from backuptool.storage.schema import statements

from .scenarios import Scenario

__all__ = ["NAMES", "make_scenario"]

#: The scenarios there are: "first" is a snapshot that creates the repository, "upgrade" one into a file of format 1.
NAMES = ("first", "snapshot", "upgrade", "prune", "copy", "restore")

#: A user that does not exist.
_STRANGER = 12345

_SNAPSHOT = ("snapshot", "--target-directory", "{source}")
_PRUNE = ("prune", "--snapshot", "1", "--snapshot", "2")
_COPY = ("copy", "--destination", "{trial}/backups.db")
_RESTORE = ("restore", "--snapshot-number", "3", "--output-directory", "{trial}/out", "--delete-extra")

_LISTINGS: Dict[str, Tuple[Tuple[int, ...], ...]] = {
    "first": ((), (1,)),
    "snapshot": ((1, 2), (1, 2, 3)),
    "upgrade": ((1, 2), (1, 2, 3)),
    "prune": ((1, 2, 3), (3,)),
    "copy": ((), (1,), (1, 2), (1, 2, 3)),
    "restore": ((1, 2, 3),),
}


def make_scenario(name: str, place: Path, size: int, files: int = 60, seed: int = 0) -> Scenario:
    """Make one.

    Args:
        name: One of NAMES.
        place: A directory that does not exist.
        size: Bytes of the tree, of which two thirds change from one snapshot to the next.
        files: In the tree, besides a few odd ones.
        seed: Of their bytes and sizes.
    """
    template, source = place / "template", place / "source"
    template.mkdir(parents=True)
    path = (place if name == "copy" else template) / "backups.db"
    taken = _LISTINGS["prune" if name == "copy" else name][0]
    saved: Dict[int, Facts] = {}
    old: Facts = {}
    with Repository(path, max_helpers=0) as repo:
        for number in (1, 2, 3):
            _change(source, number, size, files, seed, alike=name != "upgrade" or number == 3)
            saved[number] = facts(source)
            if number in taken:
                assert repo.snapshot(source).problems == ()
        if name == "restore":
            assert repo.restore(1, template / "out").problems == ()
            old = facts(template / "out")
    if name == "upgrade":
        _downgrade(path)
    arguments = {"prune": _PRUNE, "copy": _COPY, "restore": _RESTORE}.get(name, _SNAPSHOT)
    return Scenario(
        name=name,
        place=place,
        arguments=tuple(argument.replace("{source}", str(source)) for argument in arguments),
        again=("prune",) if name == "prune" else (),
        saved={1: saved[3], 2: saved[3]} if name == "first" else {**saved, 4: saved[3]},
        listings=_LISTINGS[name],
        old=old,
        repository=str(path) if name == "copy" else "{trial}/backups.db",
    )


def _downgrade(path: Path) -> None:
    """Make a repository one of format 1: what later formats added is in tables of its own."""
    with closing(sqlite3.connect(str(path), isolation_level=None)) as database:
        assert database.execute("SELECT count(*) FROM bases").fetchone() == (0,)
        for statement in statements(2):
            _, kind, name = statement.split()[:3]
            if kind == "TABLE":
                database.execute(f"DROP TABLE {name}")
        database.execute("PRAGMA user_version=1")
    with Repository(path) as repo:
        assert len(repo.list().snapshots) == 2


def _change(source: Path, number: int, size: int, files: int, seed: int, *, alike: bool) -> None:
    """Make a tree, or change two thirds of it: files of all sizes, setuid and of others, links, other kinds.

    Args:
        alike: Also files of which each version is like the one before: their packs have bases, which format 1 has not.
    """
    chosen = random.Random(10 * seed + number)
    if number == 1:
        source.mkdir()
        os.mkfifo(source / "fifo")
        (source / "text").write_text("".join(f"line {line}\n" for line in range(150_000)), encoding="ascii")
    else:
        with (source / "text").open("r+") as text:  # large, and a little of it changes
            text.seek(400_000 * number)
            text.write("changed")
        (source / f"link {number - 1}").unlink()
    for file in range(files):
        directory = source / f"directory {file % 5}"
        directory.mkdir(exist_ok=True)
        if number > 1 and file % 3 == number % 3:
            continue  # it stays
        for path in directory.glob(f"file {file} *"):
            path.unlink()
        path = directory / f"file {file} of {number if file % 4 else 0}"  # another one, or another version
        length = chosen.randrange(2 * size // files) + 1
        path.write_bytes(b"%d" % file + _half_noise(chosen, length))
        if os.geteuid() == 0 and file % 2:
            os.chown(path, _STRANGER + file, _STRANGER)  # before the mode: it takes setuid away
        path.chmod((0o640, 0o4755, 0o2711, 0o6700)[file % 4])
    for log in range(8 if alike else 0):
        lines = [f"{log}: line {line} of {chosen.getrandbits(64)}\n" for line in range(300 if number == 1 else 2)]
        with (source / f"log {log}").open("a", encoding="ascii") as stream:
            stream.writelines(lines)
    path = source / "directory 0" / "linked"
    path.write_bytes(b"%d" % number)
    os.link(path, source / f"link {number}")
    path.unlink()
    os.symlink(f"file {number}", path)
    if number > 1:
        for name in sorted(os.listdir(source / f"directory {number}"))[:2]:
            (source / f"directory {number}" / name).unlink()


def _half_noise(chosen: random.Random, length: int) -> bytes:
    """Return bytes that compress to about half: what does not compress at all looks like an attack."""
    return chosen.getrandbits(8 * (length // 2 + 1)).to_bytes(length // 2 + 1, "big") + bytes(length - length // 2)
