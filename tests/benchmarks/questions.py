"""``python -m tests.benchmarks.questions``: how long the catalog takes to answer, on a history too long to be taken.

A catalog of a million files and 200 snapshots, with 0.1 % changed before each, is written through the storage layer:
rows as a snapshot writes them, but no contents behind them. Each question is asked in this process, and as a command.
With ``--restic`` a history of real files is taken with both programs, and both are asked the same.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Dict, List, Sequence, Tuple

from backuptool import Repository
from backuptool.storage.chunking import CHUNKING
from backuptool.storage.connecting import create_database
from backuptool.storage.contents import insert_contents, next_content_id
from backuptool.storage.digest import FileVersion
from backuptool.storage.files import VersionRow, close_versions, insert_versions, version_row
from backuptool.storage.snapshots import SnapshotRow, insert_snapshot, source_id

from .report import table
from .trees import Tree
from .workspace import Workspace, default_parent

__all__ = ["History", "main"]

_DAY_NS = 86_400_000_000_000
_START_NS = 1_600_000_000_000_000_000


class History:
    """Writes the catalog of a tree that changes a little before each snapshot.

    Args:
        path: The repository to make.
        files: In the first snapshot.
    """

    def __init__(self, path: Path, files: int) -> None:
        self._database = create_database(str(path), 60.0, [("id", "0" * 32), *CHUNKING.settings()])
        self._random = random.Random("questions")
        self._paths = [f"generated-{n // 20_000:03}/{n // 200 % 100:02}/file-{n:07}.txt" for n in range(files)]
        self._next = files
        self._firsts: Dict[str, int] = {}
        with self._database.transaction():
            source = source_id(self._database, "laptop", b"/home/you/tree", create=True)
            self._database.execute("INSERT INTO packs VALUES (1, 0, 0, 0, 'raw', x'')")
        assert source is not None
        self._source = source

    def close(self) -> None:
        """Close the repository."""
        self._database.close()

    def first(self) -> None:
        """Write the first snapshot: all files, and the directories above them."""
        directories = {path.rsplit("/", depth)[0] for path in self._paths for depth in (1, 2)}
        self._commit(1, [*((path, b"f") for path in self._paths), *((path, b"d") for path in directories | {""})], [])

    def change(self, number: int, share: float) -> None:
        """Write a snapshot in which a share of the files is another: 70 % changed, 20 % new, 10 % removed."""
        count = max(1, round(share * len(self._paths)))
        chosen = self._random.sample(range(len(self._paths)), count)
        changed = [self._paths[index] for index in chosen[count // 10 :][: round(0.7 * count)]]
        removed = [self._paths[index] for index in chosen[: count // 10]]
        for index in sorted(chosen[: count // 10], reverse=True):
            self._paths[index] = self._paths[-1]
            self._paths.pop()
        created = []
        for _ in range(round(0.2 * count)):
            n = self._next
            self._next += 1
            created.append(f"generated-{n // 20_000:03}/{n // 200 % 100:02}/file-{n:07}.txt")
        self._paths += created
        self._commit(number, [(path, b"f") for path in (*changed, *created)], [*changed, *removed])

    def _commit(self, number: int, rows: Sequence[Tuple[str, bytes]], ended: Sequence[str]) -> None:
        database = self._database
        now = _START_NS + number * _DAY_NS
        with database.without_foreign_keys(), database.transaction():
            keys = sorted((path.encode(), self._firsts.get(path, 1)) for path in ended)
            close_versions(database, self._source, number - 1, keys)
            first = next_content_id(database)
            files = sorted((path.encode(), kind) for path, kind in rows)
            count = sum(kind == b"f" for _, kind in files)
            sizes = [int(500 * self._random.lognormvariate(0, 1.35)) + 1 for _ in range(count)]
            insert_contents(
                database,
                [(first + n, self._random.getrandbits(256).to_bytes(32, "big"), sizes[n], 1, 0) for n in range(count)],
            )
            database.execute("UPDATE contents SET refs = 1, since = ? WHERE id >= ?", (number, first))
            ordinals = iter(range(count))
            versions: List[VersionRow] = []
            for path, kind in files:
                ordinal = next(ordinals) if kind == b"f" else -1
                size = sizes[ordinal] if kind == b"f" else 0
                fields = (path, kind, 0o644, 1000, 1000, b"you", b"you", now - len(path), size, None, 0)
                version = FileVersion(*fields, None, None, None, None)
                versions.append(version_row(version, now, len(versions), ordinal))
            insert_versions(database, self._source, number, number > 1, [versions], range(first, first + count))
            insert_snapshot(
                database,
                SnapshotRow(
                    id=number,
                    source=self._source,
                    host="laptop",
                    root=b"/home/you/tree",
                    started_ns=now,
                    finished_ns=now,
                    files=len(self._paths),
                    directories=1,
                    size=sum(sizes),
                    distinct_size=sum(sizes),
                    skipped_files=0,
                    problem_files=0,
                    note="",
                    tags=(),
                    tree_digest=bytes(32),
                ),
            )
        self._firsts.update((path, number) for path, _ in rows if number > 1)

    @property
    def often(self) -> str:
        """A path that changed in some snapshot, and is there in the newest one."""
        return next(path for path in self._paths if self._firsts.get(path, 1) > 1)


#: A question: its title, the call of the library, and the arguments of the command.
Question = Tuple[str, Callable[[Repository], object], List[str]]


def questions(path: str) -> List[Question]:
    """Return what is asked; the path is one that has several versions."""
    name = os.path.basename(path)
    directory = os.path.dirname(path)
    expression = f"{name[5:10]}.[.]txt$"
    return [
        ("list", lambda repo: repo.list(), ["list"]),
        ("history of a file", lambda repo: repo.history(path), ["history", path]),
        ("find one name", lambda repo: repo.find(name), ["find", name]),
        ("find *77.txt", lambda repo: repo.find("*77.txt"), ["find", "*77.txt"]),
        (
            "find by expression",
            lambda repo: repo.find(regex=expression),
            ["find", "--regex", expression],
        ),
        ("find above 50 KB", lambda repo: repo.find(larger_than=50_000), ["find", "--larger-than", "50000"]),
        ("find by SHA-256", lambda repo: repo.find(sha256=_digest(repo, path)), ["find", "--sha256"]),
        ("ls of the top", lambda repo: repo.ls("latest"), ["ls"]),
        ("ls of 200 files", lambda repo: repo.ls("latest", directory), ["ls", directory]),
        ("diff of the last two", lambda repo: repo.diff("latest~1", "latest"), ["diff"]),
        ("diff of first and last", lambda repo: repo.diff(1, "latest"), ["diff", "1"]),
        ("stats", lambda repo: repo.stats().snapshots, ["stats"]),
    ]


def _digest(repo: Repository, path: str) -> str:
    return repo.history(path)[-1].entry.sha256 or ""


def ask(repository: Path, path: str, repeats: int) -> List[List[str]]:
    """Return a row for each question: milliseconds in this process and as a command, processor time, found."""
    rows = []
    with Repository(repository) as repo:
        digest = _digest(repo, path)
        for title, call, arguments in questions(path):
            walls, cpus, found = [], [], 0
            for _ in range(repeats):
                wall, cpu = time.perf_counter(), time.process_time()
                answer = call(repo)
                walls.append(time.perf_counter() - wall)
                cpus.append(time.process_time() - cpu)
                found = len(answer)  # type: ignore[arg-type]
            line = [*arguments, digest] if arguments[-1] == "--sha256" else arguments
            command = [sys.executable, "-m", "backuptool", "--db-path", str(repository), *line]
            commands = [run(command) for _ in range(repeats)]
            rows.append([title, *map(_ms, map(statistics.median, (walls, cpus, commands))), f"{found:,}"])
    return rows


def run(command: Sequence[str]) -> float:
    """Return the seconds that a command takes."""
    begin = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.1f} ms"


def beside_restic(workspace: Workspace, restic: str, files: int, snapshots: int, repeats: int) -> List[List[str]]:
    """Return a row for each question that restic can be asked as well: seconds of both commands."""
    tree, place = workspace.new_directory("tree"), workspace.new_directory("repositories")
    source = Tree("questions", files, median_size=250)
    source.write(tree)
    password = place / "password"
    password.write_text("questions\n", encoding="ascii")
    database = place / "backups.db"
    theirs = [restic, "-r", str(place / "restic"), "-p", str(password), "--quiet"]
    subprocess.run([*theirs, "init"], check=True, stdout=subprocess.DEVNULL)
    with Repository(database) as repo:
        for number in range(snapshots):
            if number:
                source.change(tree, seed=f"night {number}", share=0.001)
            repo.snapshot(tree)
            run([*theirs, "backup", str(tree)])
        path = next(d.path for d in repo.diff("latest~1", "latest") if d.status == "changed" and d.new and d.new.sha256)
        name, directory = os.path.basename(path), os.path.dirname(path)
    ids = subprocess.run([*theirs, "snapshots", "--compact"], check=True, stdout=subprocess.PIPE, encoding="ascii")
    numbers = [line.split()[0] for line in ids.stdout.splitlines() if line[:8].isalnum() and len(line.split()[0]) == 8]
    ours = [sys.executable, "-m", "backuptool", "--db-path", str(database)]
    rows = []
    for title, own, other in (
        ("list", ["list"], ["snapshots"]),
        ("history of a file", ["history", path], ["find", "--long", str(tree / path)]),
        ("find one name", ["find", name], ["find", "--long", name]),
        ("find *77.txt", ["find", "*77.txt"], ["find", "--long", "*77.txt"]),
        ("ls of 200 files", ["ls", directory], ["ls", "--long", "latest", str(tree / directory)]),
        ("ls, everything", ["ls", "--recursive"], ["ls", "--long", "latest"]),
        ("diff of the last two", ["diff"], ["diff", numbers[-2], numbers[-1]]),
        ("diff of first and last", ["diff", "1"], ["diff", numbers[0], numbers[-1]]),
        ("one small file", ["cat", path], ["dump", "latest", str(tree / path)]),
    ):
        seconds = [
            statistics.median(run([*program, *arguments]) for _ in range(repeats))
            for program, arguments in ((ours, own), (theirs, other))
        ]
        rows.append([title, *(f"{value:.2f} s" for value in seconds)])
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Write a history, ask, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.questions", description=__doc__)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--snapshots", type=int, default=200)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--restic", help="compare with this restic, on real files")
    parser.add_argument("--work", type=Path, default=default_parent())
    options = parser.parse_args(argv)
    with Workspace(options.work) as workspace:
        if options.restic:
            rows = beside_restic(workspace, options.restic, options.files, options.snapshots, options.repeat)
            print_table(["question", "backuptool", "restic"], rows)
            return 0
        repository = workspace.path / "backups.db"
        history = History(repository, options.files)
        history.first()
        for number in range(2, options.snapshots + 1):
            history.change(number, 0.001)
        often = history.often
        history.close()
        sys.stderr.write(f"{repository.stat().st_size:,} bytes of catalog\n")
        rows = ask(repository, often, options.repeat)
        print_table(["question", "library", "its processor time", "command", "found"], rows)
    return 0


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table as the other benchmarks do."""
    sys.stdout.write(table(list(header), [list(row) for row in rows], left=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
