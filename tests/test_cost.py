"""What operations cost, in counts that no noisy machine changes: statements, files opened, bytes written."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, Callable, List, Tuple

import attrs
import pytest
from conftest import age, noise, write

from backuptool import Repository

#: Two trees of which one is ten times as large; what must not grow with the tree is compared between them.
SIZES = (200, 2000)


@attrs.frozen
class Cost:
    """What was counted while something ran."""

    statements: Tuple[str, ...]
    opened_files: int
    opened_directories: int
    written_bytes: int  # handed to the system, journal included


# A fast machine writes a tree and saves it within the tick in which no change time is trusted.
pytestmark = pytest.mark.usefixtures("clock")


@pytest.fixture
def tmp_path(memory_path: Path) -> Path:
    """Thousands of files are to be written here."""
    return memory_path


def written() -> int:
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("wchar:"):
            return int(line.split()[1])
    raise AssertionError("the system does not count what is written")


def cost_of(repo: Repository, run: Callable[[], object], patch: pytest.MonkeyPatch) -> Cost:
    """Count what one call takes. The connection is open before, as in any process that does more than one thing."""
    statements: List[str] = []
    opened: List[int] = []
    system_open = os.open

    def counted(*arguments: Any, **keywords: Any) -> int:
        descriptor = system_open(*arguments, **keywords)
        opened.append(os.fstat(descriptor).st_mode)
        return descriptor

    with repo._pool.writing() as database:
        database.trace(statements.append)
    with patch.context() as inner:
        inner.setattr(os, "open", counted)
        before = written()
        run()
        after = written()
    with repo._pool.writing() as database:
        database.trace(None)
    kinds = tuple(statement.split(" ", 1)[0] for statement in statements)
    return Cost(kinds, sum(map(stat.S_ISREG, opened)), sum(map(stat.S_ISDIR, opened)), after - before)


def tree_of(path: Path, files: int) -> Path:
    """A tree of so many files, a hundred in each directory, that is old enough to be trusted."""
    for number in range(files):
        age(write(path / str(number // 100) / f"{number}.txt", b"file %d\n" % number))
    return path


def repository_of(path: Path, files: int) -> Tuple[Repository, Path]:
    """A repository with one snapshot of such a tree."""
    root = tree_of(path / "tree", files)
    repo = Repository(path / "backups.db")
    repo.snapshot(root)
    repo.snapshot(root)  # the root's own time is trusted from now on
    return repo, root


def costs(
    tmp_path: Path, patch: pytest.MonkeyPatch, step: Callable[[Repository, Path], Callable[[], object]]
) -> List[Cost]:
    """The cost of the same step on a small and on a large repository."""
    found = []
    for files in SIZES:
        repo, root = repository_of(tmp_path / str(files), files)
        with repo:
            found.append(cost_of(repo, step(repo, root), patch))
    return found


def test_unchanged_snapshot_costs_two_rows_whatever_the_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = costs(tmp_path, monkeypatch, lambda repo, root: lambda: repo.snapshot(root))
    assert small.statements == large.statements
    assert small.statements.count("INSERT") == 2  # of snapshots, and of changes
    assert small.statements.count("UPDATE") + small.statements.count("DELETE") == 0
    assert (small.opened_files, large.opened_files) == (0, 0)
    assert large.opened_directories - small.opened_directories == (SIZES[1] - SIZES[0]) // 100
    assert small.written_bytes == large.written_bytes


def test_snapshot_costs_what_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(repo: Repository, root: Path) -> Callable[[], object]:
        for number in range(7):
            write(root / "0" / f"{number}.txt", b"changed %d\n" % number)
        return lambda: repo.snapshot(root)

    small, large = costs(tmp_path, monkeypatch, step)
    assert (small.opened_files, large.opened_files) == (7, 7)
    assert small.statements == large.statements
    # Seven rows that end, seven that begin; the pages of a larger catalog may be split in other places.
    assert abs(large.written_bytes - small.written_bytes) <= 12 * 16384


def test_prune_costs_what_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(repo: Repository, root: Path) -> Callable[[], object]:
        for number in range(7):
            write(root / "0" / f"{number}.txt", b"changed %d\n" % number)
        repo.snapshot(root)
        for number in range(7):
            write(root / "0" / f"{number}.txt", b"changed again %d\n" % number)
        repo.snapshot(root)
        return lambda: repo.prune(3)

    small, large = costs(tmp_path, monkeypatch, step)
    assert small.statements == large.statements
    assert (large.opened_files, large.opened_directories) == (0, 0)
    assert abs(large.written_bytes - small.written_bytes) <= 12 * 16384


def test_what_a_prune_removes_from_the_end_of_the_file_is_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo, root = repository_of(tmp_path, 50)
    with repo:
        write(root / "large", noise(40 << 20))
        repo.snapshot(root)
        before = os.path.getsize(repo.path)
        cost = cost_of(repo, lambda: repo.prune(3), monkeypatch)
    freed = before - os.path.getsize(repo.path)
    assert freed > 40 << 20
    assert cost.written_bytes < freed // 10


def test_list_costs_a_query_for_snapshots_and_one_for_drills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = costs(tmp_path, monkeypatch, lambda repo, root: repo.list)
    assert small.statements == large.statements
    assert small.statements.count("SELECT") == 2
    assert small.written_bytes == large.written_bytes == 0
