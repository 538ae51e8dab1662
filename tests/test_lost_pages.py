"""Lost pages: what SQLite cannot read of one table takes nothing else with it, and check says what it is.

A page of zeros stands for a sector that a disk gives back empty. SQLite ends a statement at the first such page; what
is on all the others must come back all the same.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Dict, List, Set, Tuple

import attrs
import pytest
from conftest import noise, write, write_tree
from trees import Facts, facts, make_some_of_everything

from backuptool import BackuptoolError, CheckResult, Repository

MIB = 1 << 20


@attrs.frozen
class Saved:
    """A sound repository with everything in it, to be damaged.

    Attributes:
        data: The file.
        trees: What each snapshot holds.
        source: The directory that the newest snapshot is of.
    """

    data: bytes
    trees: Dict[int, Facts]
    source: Path

    @property
    def page_size(self) -> int:
        """Bytes of a page."""
        return int.from_bytes(self.data[16:18], "big")

    def pages(self, name: str) -> List[int]:
        """Return the numbers of the pages of a table or an index, its root first; not those of long rows."""
        return _below(self.data, self.page_size, self._roots()[name])

    def _roots(self) -> Dict[str, int]:
        path = self.source.parent / "looked at.db"
        path.write_bytes(self.data)
        with closing(sqlite3.connect(str(path))) as connection:
            return dict(connection.execute("SELECT name, rootpage FROM sqlite_master WHERE rootpage > 0"))

    def names(self) -> List[str]:
        """Return the names of all tables and indexes."""
        return list(self._roots())

    def without(self, *pages: int, length: int = 0) -> bytes:
        """Return the file with zeros in place of some pages, or of the bytes in the middle of them."""
        data = bytearray(self.data)
        for page in pages:
            begin = (page - 1) * self.page_size + (self.page_size // 2 if length else 0)
            end = begin + (length or self.page_size)
            data[begin:end] = bytes(end - begin)
        return bytes(data)


def _below(data: bytes, size: int, page: int) -> List[int]:
    begin = (page - 1) * size
    header = begin + (100 if page == 1 else 0)
    found = [page]
    if data[header] in (2, 5):  # an interior page
        cells = int.from_bytes(data[header + 3 : header + 5], "big")
        at = [int.from_bytes(data[header + 12 + 2 * n : header + 14 + 2 * n], "big") for n in range(cells)]
        for place in (*(begin + offset for offset in at), header + 8):
            found += _below(data, size, int.from_bytes(data[place : place + 4], "big"))
    return found


def in_pages_of(size: int, data: bytes, work: Path) -> bytes:
    """Return the same repository in pages of another size, so that small tables have many."""
    path = work / "in other pages.db"
    path.write_bytes(data)
    with closing(sqlite3.connect(str(path), isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size={size}")
        connection.execute("VACUUM")
    return path.read_bytes()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Some of everything in two sources, five snapshots: links, a large file, versions that end, packs with bases."""
    work = tmp_path_factory.mktemp("saved")
    first = make_some_of_everything(work / "first", lines=2000, size=MIB + 50_000)
    write(first / "log", noise(20_000, 8) + b"a line of the log\n" * 1000)
    for number in range(60):
        write(first / "many" / f"{number:02}", b"%d\n" % number * 9)
    second = write_tree(work / "second", {"x": b"of the second source", "same": b"the first file\n" * 20})
    trees: Dict[int, Facts] = {}
    with Repository(work / "backups.db", max_helpers=0) as repo:

        def take(source: Path) -> None:
            trees[repo.snapshot(source, host="machine").snapshot.id] = facts(source)

        take(first)
        take(second)
        write(first / "one.txt", b"the first file, changed\n" * 30)
        (first / "sub" / "three.txt").unlink()
        with (first / "log").open("ab") as file:
            file.write(b"a line more\n")  # like the version before, which becomes its base
        take(first)
        write(first / "new", noise(10_000, 7))
        for number in range(0, 60, 3):
            write(first / "many" / f"{number:02}", b"another %d\n" % number * 7)
        take(first)
        write(second / "y", b"another one\n" * 3000)
        take(second)
        assert repo.drill(scratch=work).problems == ()
        assert repo.check().problems == ()
        path = Path(repo.path)
    return Saved(path.read_bytes(), trees, second)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path


def opened(data: bytes, work: Path) -> Repository:
    path = work / "damaged.db"
    path.write_bytes(data)
    return Repository(path, max_helpers=0)


def lost_of(repo: Repository, number: int, tree: Facts, work: Path) -> Set[bytes]:
    """Return the paths of a snapshot that do not come back as they were saved."""
    out = work / "out"
    shutil.rmtree(str(out), ignore_errors=True)
    try:
        problems = repo.restore(number, out).problems
    except BackuptoolError:
        return set(tree)
    there = facts(out) if out.exists() else {}
    lost = {path for path in {*tree, *there} if tree.get(path) != there.get(path)}
    if lost:
        assert problems, lost
    return lost


def lost(repo: Repository, saved: Saved, work: Path) -> Set[Tuple[int, bytes]]:
    return {(number, path) for number, tree in saved.trees.items() for path in lost_of(repo, number, tree, work)}


def messages(result: CheckResult) -> str:
    return "\n".join(f"{problem.kind}: {problem}" for problem in result.problems)


# Bases.


def test_without_the_table_of_bases_everything_comes_back_by_its_index(saved: Saved, work: Path) -> None:
    with opened(saved.without(*saved.pages("bases")), work) as repo:
        assert lost(repo, saved, work) == set()
        found = repo.check()
    assert "the table of bases cannot be read as a whole: database disk image is malformed" in messages(found)
    assert {problem.kind for problem in found.problems} == {"database-corrupt"}


def test_without_bases_and_their_index_only_packs_with_a_base_are_lost(saved: Saved, work: Path) -> None:
    with opened(saved.without(*saved.pages("bases"), *saved.pages("bases_base")), work) as repo:
        gone = lost(repo, saved, work)
        found = repo.check()
    named = {(n, os.fsencode(p.path)) for p in found.problems if p.kind == "content-corrupt" for n in p.snapshots}
    assert gone == named == {(n, path) for n in (3, 4) for path in (b"log", b"one.txt", b"link")}


# Sources.


def test_without_the_table_of_sources_everything_comes_back_by_its_index(saved: Saved, work: Path) -> None:
    with opened(saved.data, work) as repo:
        expected = repo.list().to_dict()["snapshots"]
    with opened(saved.without(*saved.pages("sources")), work) as repo:
        listed = repo.list().to_dict()["snapshots"]
        assert listed == [{**each, "drill": None} for each in expected]  # its record names the source
        assert lost(repo, saved, work) == set()
        found = repo.check()
    assert "the table of sources cannot be read as a whole: database disk image is malformed" in messages(found)
    assert (found.snapshots, found.packs) == (5, len(saved.trees))


def test_snapshots_of_unknown_sources_come_back_and_are_named(saved: Saved, work: Path) -> None:
    pages = [*saved.pages("sources"), *saved.pages("sqlite_autoindex_sources_1")]
    with opened(saved.without(*pages), work) as repo:
        assert [(each.host, each.source) for each in repo.list()] == [("?", f"?{n}") for n in (1, 2, 1, 1, 2)]
        assert lost(repo, saved, work) == set()
        named = {n for problem in repo.check().problems for n in problem.snapshots}
        with pytest.raises(BackuptoolError, match="is damaged"):
            repo.snapshot(saved.source, host="machine")
    assert named == {1, 2, 3, 4, 5}


def test_lost_index_of_sources_hides_nothing(saved: Saved, work: Path) -> None:
    with opened(saved.without(*saved.pages("sqlite_autoindex_sources_1")), work) as repo:
        assert lost(repo, saved, work) == set()
        assert not repo.check().ok


# What check says.


def test_check_says_nothing_twice_and_does_not_send_to_itself(saved: Saved, work: Path) -> None:
    for name in saved.names():
        page = saved.pages(name)[-1]
        if page == 1:
            continue
        with opened(saved.without(page), work) as repo:
            try:
                found = repo.check().problems
            except BackuptoolError:
                continue  # it was noticed at opening
        assert found, name
        lines = [f"{problem.kind}: {problem}" for problem in found]
        assert sorted(set(lines)) == sorted(lines), name
        for line in lines:
            assert "run check" not in line
            assert "None" not in line
            assert "object" not in line
