"""Lost pages: what SQLite cannot read of one table takes nothing else with it, and check says what it is.

A page of zeros stands for a sector that a disk gives back empty. SQLite ends a statement at the first such page; what
is on all the others must come back all the same.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import tarfile
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

import attrs
import pytest
from conftest import PASSWORD, cheapened_argon2, noise, write, write_tree
from trees import Facts, facts, make_some_of_everything

from backuptool import BackuptoolError, CheckResult, Repository
from backuptool.storage.lost import contents_beside_gaps

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


def lost_of(repo: Repository, number: int, tree: Facts, work: Path, *, incomplete: bool = False) -> Set[bytes]:
    """Return the paths of a snapshot that do not come back as they were saved."""
    out = work / "out"
    shutil.rmtree(str(out), ignore_errors=True)
    try:
        problems = repo.restore(number, out).problems
    except BackuptoolError:
        return set(tree)
    there = facts(out) if out.exists() else {}
    lost = {path for path in {*tree, *there} if tree.get(path) != there.get(path)}
    if lost and not incomplete:
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


# All pages of all tables: what single look-ups can read must come back.

_COLUMNS = {
    "files": "source, path, first, last, added, kind, mode, uid, gid, user, grp, mtime_ns, size, content, sparse, "
    "rdev, target, xattrs, link",
    "contents": "id, hash, size, pack, offset",
    "parts": "content, offset, part",
    "packs": "id, size, codec, data",
    "bases": "pack, base",
    "snapshots": "id, source, started_ns, finished_ns, files, directories, size, note, tags, tree_digest, digest",
}

_KEYS = {"files": 3, "parts": 2}

Row = Tuple[Any, ...]


@attrs.define
class Oracle:
    """What single look-ups by whole keys say of a damaged repository, in SQL alone."""

    rows: Dict[str, Dict[Row, Row]]

    @classmethod
    def of(cls, path: Path) -> Oracle:
        with closing(_connected(path)) as connection:
            return cls(
                {
                    table: {
                        row[: _KEYS.get(table, 1)]: row for row in connection.execute(f"SELECT {columns} FROM {table}")
                    }
                    for table, columns in _COLUMNS.items()
                }
            )

    def readable(self, path: Path) -> Dict[str, Set[Row]]:
        """Return the keys of each table whose rows are as they were."""
        found: Dict[str, Set[Row]] = {}
        with closing(_connected(path)) as connection:
            for table, rows in self.rows.items():
                names = _COLUMNS[table].split(", ")[: _KEYS.get(table, 1)]
                where = " AND ".join(f"{name} = {'CAST(? AS TEXT)' if name == 'path' else '?'}" for name in names)
                found[table] = set()
                for key, row in rows.items():
                    with suppress(sqlite3.Error):
                        if connection.execute(
                            f"SELECT {_COLUMNS[table]} FROM {table} WHERE {where}", key
                        ).fetchall() == [row]:
                            found[table].add(key)
        return found

    def versions(self) -> Iterator[Tuple[int, bytes, Row]]:
        """Yield (snapshot, path, row) of all that there is."""
        for (number,), (_, source, *_) in self.rows["snapshots"].items():
            for row in self.rows["files"].values():
                if row[0] == source and row[2] <= number and (row[3] is None or row[3] >= number):
                    yield number, row[1], row

    def recoverable(self, path: Path) -> Set[Tuple[int, bytes]]:
        """Return (snapshot, path) of everything that all rows can be read of."""
        there = self.readable(path)
        found, broken = {}, set()
        for number, name, row in self.versions():
            link = (number, row[18] or name)
            if (number,) in there["snapshots"] and row[:3] in there["files"] and self._has_content(row[13], there):
                found[number, name] = link
            else:
                broken.add(link)  # a name that is lost is missed by the others of its file
        return {key for key, link in found.items() if link not in broken}

    def known(self, path: Path, index_is_whole: bool) -> Set[Tuple[int, bytes]]:
        """Return (snapshot, path) of what an index of files still knows, or what there is a row of.

        Args:
            path: The damaged file.
            index_is_whole: The index of added versions was not damaged, and rows cannot be read rather than are wrong.
        """
        there = self.readable(path)
        rows = set(there["files"])
        with closing(_connected(path)) as connection, suppress(sqlite3.Error):
            sql = "SELECT source, path, first FROM files INDEXED BY files_last WHERE last IS NOT NULL"
            rows |= set(connection.execute(sql).fetchall())
        if index_is_whole:
            rows |= {row[:3] for row in self.rows["files"].values() if row[4]}
        links = {(number, row[18]) for number, _, row in self.versions() if row[18] and row[:3] not in there["files"]}
        return {
            (number, name)
            for number, name, row in self.versions()
            if (number,) in there["snapshots"] and row[:3] in rows and (number, row[18]) not in links
        }

    def _has_content(self, content: Optional[int], there: Dict[str, Set[Row]]) -> bool:
        if content is None:
            return True
        parts = [row for row in self.rows["parts"].values() if row[0] == content]
        contents = [content, *(row[2] for row in parts if row[2] is not None)]
        packs = {self.rows["contents"][number,][3] for number in contents} - {None}
        bases = {key for pack in packs for key in [(pack,)] if key in self.rows["bases"]}
        packs |= {self.rows["bases"][key][1] for key in bases}
        return (
            {(number,) for number in contents} <= there["contents"]
            and {row[:2] for row in parts} <= there["parts"]
            and {(pack,) for pack in packs} <= there["packs"]
            and bases <= there["bases"]
        )


def _connected(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    connection.text_factory = bytes
    return connection


def not_given(
    saved: Saved, oracle: Oracle, data: bytes, work: Path, may_spell: bool
) -> Tuple[Set[Tuple[int, bytes]], CheckResult]:
    """Return what could be read and did not come back, and what check says."""
    with opened(data, work) as repo:
        recoverable = oracle.recoverable(Path(repo.path))
        gone = lost(repo, saved, work)
        found = repo.check()
    lines = [f"{problem.kind}: {problem}" for problem in found.problems]
    assert sorted(set(lines)) == sorted(lines)
    assert not any("run check" in line or "None" in line or "object" in line for line in lines), lines
    hit = {(number, path) for number, path in gone if (number, path) not in recoverable}
    assert {number for number, _ in hit} <= {number for problem in found.problems for number in problem.snapshots}, (
        lines
    )
    named = {(number, os.fsencode(p.path)) for p in found.problems for number in p.snapshots}
    missed = {key for key in hit if (key[0], key[1] or b".") not in named} & oracle.known(Path(repo.path), may_spell)
    assert missed == set(), lines
    return {(n, path) for n, path in gone if (n, path) in recoverable}, found


@pytest.mark.parametrize("length", [0, 128])
@pytest.mark.parametrize("table", sorted(_COLUMNS))
def test_whatever_can_be_read_beside_a_lost_page_comes_back(small: Saved, work: Path, table: str, length: int) -> None:
    (work / "sound.db").write_bytes(small.data)
    oracle = Oracle.of(work / "sound.db")
    for page in small.pages(table):
        missing, _ = not_given(small, oracle, small.without(page, length=length), work, not length)
        assert missing == set(), page


@pytest.mark.parametrize("table", ["contents", "files", "parts"])
def test_incomplete_copy_takes_whatever_can_be_read(small: Saved, work: Path, table: str) -> None:
    (work / "sound.db").write_bytes(small.data)
    oracle = Oracle.of(work / "sound.db")
    for page in small.pages(table)[::3]:
        (work / "copy.db").unlink() if (work / "copy.db").exists() else None
        with opened(small.without(page), work) as repo:
            recoverable = oracle.recoverable(Path(repo.path))
            result = repo.copy(work / "copy.db", incomplete=True)
        assert [copied.original.id for copied in result.copies] == [1, 2, 3, 4, 5], page
        assert result.problems, page
        with Repository(work / "copy.db", max_helpers=0) as copy:
            assert copy.check().problems == (), page
            for copied in result.copies:
                number = copied.original.id
                gone = lost_of(copy, copied.snapshot.id, small.trees[number], work, incomplete=True)
                whole = {path for path in small.trees[number] if (number, path) in recoverable}
                assert gone & whole == set(), page


def test_listing_and_export_give_what_can_be_read_and_say_that_something_is_missing(small: Saved, work: Path) -> None:
    (work / "sound.db").write_bytes(small.data)
    oracle = Oracle.of(work / "sound.db")
    page = small.pages("files")[-2]
    with opened(small.without(page), work) as repo:
        recoverable = {os.fsdecode(path) for number, path in oracle.recoverable(Path(repo.path)) if number == 4}
        listing = repo.ls(4, recursive=True)
        exported = repo.export_tar(4, work / "out.tar")
        top = repo.ls(4)
    assert {entry.path for entry in listing.entries} >= recoverable - {""}
    assert {entry.path for entry in top.entries} >= {path for path in recoverable - {""} if "/" not in path}
    for result in (listing, exported, top):
        assert [problem.kind for problem in result.problems if problem.kind != "not-exported"] == ["snapshot-corrupt"]
    with tarfile.open(str(work / "out.tar")) as tar:
        assert {name.rstrip("/") for name in tar.getnames()} >= recoverable - {"", "socket", "sub/socket"}
    assert len(recoverable) > 20


def test_restore_with_a_gap_deletes_nothing_extra(small: Saved, work: Path) -> None:
    out = work / "out"
    with opened(small.data, work) as repo:
        repo.restore(4, out)
    (out / "extra").write_bytes(b"may be what the snapshot has")
    with opened(small.without(small.pages("files")[-2]), work) as repo:
        result = repo.restore(4, out, delete_extra=True)
    assert result.deleted_files == 0
    assert "nothing extra was deleted" in "".join(problem.message for problem in result.problems)
    assert {path: fact for path, fact in facts(out).items() if path not in (b"extra", b"")} == {
        path: fact for path, fact in small.trees[4].items() if path
    }


def test_files_beside_one_whose_content_is_lost_can_be_opened(small: Saved, work: Path) -> None:
    (work / "sound.db").write_bytes(small.data)
    oracle = Oracle.of(work / "sound.db")
    page = small.pages("contents")[3]
    with opened(small.without(page), work) as repo:
        recoverable = sorted(path for number, path in oracle.recoverable(Path(repo.path)) if number == 4)
        regular = [path for path in recoverable if isinstance(small.trees[4][path][4], tuple)]
        assert 20 < len(regular) < sum(isinstance(fact[4], tuple) for fact in small.trees[4].values())
        for path in regular:
            with repo.open(4, os.fsdecode(path)) as file:
                data = file.read()
            assert (len(data), hashlib.sha256(data).hexdigest()) == small.trees[4][path][4]


@pytest.mark.parametrize("table", ["files", "contents"])
def test_paths_of_a_snapshot_with_lost_pages_end_in_errors_of_this_package_alone(
    small: Saved, work: Path, table: str
) -> None:
    """Files that are open ask with connections that they borrow."""
    read = 0
    for page in small.pages(table):
        with opened(small.without(page), work) as repo:
            for name in ("log", "sub", "one.txt"):
                try:
                    path = repo.tree(4) / name
                    read += len(path.read_bytes()) if path.is_file() else len(list(path.iterdir()))
                except (BackuptoolError, FileNotFoundError):
                    pass
    assert read > 0


def test_contents_whose_numbers_are_not_known_are_looked_for_in_growing_steps(small: Saved, work: Path) -> None:
    pages = [page for name in ("contents", "contents_hash", "sqlite_sequence") for page in small.pages(name)[:1]]
    with opened(small.without(*pages), work) as repo, repo._pool.reading() as database:
        statements: List[str] = []
        database.trace(statements.append)
        assert list(contents_beside_gaps(database, "c.id")) == []
        database.trace(None)
    assert 1000 < len(statements) < 20_000


def test_encrypted_repository_is_read_beside_what_its_cipher_refuses(work: Path) -> None:
    for library in ("apsw", "cryptography"):
        pytest.importorskip(library)
    source = write_tree(work / "source", {f"{number:02}": b"%d" % number * 99 for number in range(30)})
    with cheapened_argon2(), Repository(work / "secret.db", password=PASSWORD, max_helpers=0) as repo:
        repo.snapshot(source)
        with repo._pool.reading() as database:
            page = database.total("SELECT rootpage FROM sqlite_master WHERE name = 'contents'")
        repo.close()
        data = bytearray((work / "secret.db").read_bytes())
        data[(page - 1) * 16384 : page * 16384] = bytes(16384)
        (work / "secret.db").write_bytes(data)
        found = repo.check()
        restored = repo.restore(1, work / "out")
    lost = {problem.path for problem in found.problems if problem.snapshots == (1,) and problem.path}
    assert lost == {f"{number:02}" for number in range(30)}
    assert {problem.path for problem in restored.problems} - {"."} == lost


@pytest.fixture(scope="module")
def small(saved: Saved, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """The same in small pages, so that the tables have many."""
    return attrs.evolve(saved, data=in_pages_of(1024, saved.data, tmp_path_factory.mktemp("small")))
