"""Rows of snapshots and of files."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from conftest import entries, sql, write

from backuptool import CorruptionError, Repository, SnapshotNotFoundError
from backuptool.storage.connecting import open_database
from backuptool.storage.database import Database
from backuptool.storage.files import current_files, insert_versions, load_versions, row_version, version_row
from backuptool.storage.snapshots import find_snapshot, source_id

from .making import VERSION, store


def test_snapshots_are_found_by_number_and_as_the_latest(repo: Repository, tree: Path) -> None:
    for _ in range(3):
        repo.snapshot(tree)
    with closing(open_database(repo.path, 1.0)) as database:
        assert find_snapshot(database, "latest").id == 3
        assert find_snapshot(database, 2).id == 2
        assert find_snapshot(database, "2").id == 2
        for unknown in (0, 4, -1, 1 << 80, True, "", "x", "1.0", " 1", "-1", "\u0661", "first", "9" * 5000):
            with pytest.raises(SnapshotNotFoundError, match="there are: 1, 2, 3") as caught:
                find_snapshot(database, unknown)
            assert caught.value.reference == unknown
            assert caught.value.available == (1, 2, 3)


def test_message_about_a_missing_snapshot_stays_short(repo: Repository, tree: Path) -> None:
    for _ in range(25):
        repo.snapshot(tree)
    with pytest.raises(SnapshotNotFoundError, match="there are: 1, 2, 3, 4, 5, 6, 7, 8, …, 18, 19,") as caught:
        repo.prune(99)
    assert caught.value.available == tuple(range(1, 26))


def test_repository_without_snapshots_says_so(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    repo.prune(1)
    with pytest.raises(SnapshotNotFoundError, match="has none any more"):
        repo.restore("latest", tree)


SYMLINK = VERSION._replace(
    path=b"l", kind=b"l", size=0, hash=None, sparse=0, target="aim \u00e9".encode(), xattrs=None, link=None
)

#: By path: such as are UTF-8 throughout, and between them such as are not in one place, or in all.
VERSIONS = {
    version.path: version
    for version in (
        VERSION._replace(path=b""),
        VERSION._replace(path=b"a/b"),
        VERSION._replace(path=b"a/b\xe9"),
        VERSION._replace(path=b"a/b\xed\xb3\xa9"),  # a surrogate in UTF-8, which is none
        VERSION._replace(path="a/b\u00e9".encode()),
        VERSION._replace(path=b"a/b\xff", user=b"\xff\xfe", group=b"\x80", link=b"\xff:2", xattrs=b"\xff"),
        VERSION._replace(path=b"c", kind=b"c", size=0, hash=None, sparse=0, rdev=259),
        VERSION._replace(path=b"g", group=b"gr\xfcn"),
        VERSION._replace(path=b"h", link=b"h\xff:7"),
        SYMLINK,
        SYMLINK._replace(path=b"l2", target=b"aim \xe9"),
        SYMLINK._replace(path=b"l\xff", target=b"\xff"),
        VERSION._replace(path=b"p", xattrs=None, link=None, sparse=0),
        VERSION._replace(path=b"p\xff", xattrs=None, link=None, sparse=0),
        VERSION._replace(path=b"q", xattrs=None, link=None, sparse=0, user="J\u00fcrgen".encode()),
        VERSION._replace(path=b"u", user=b"J\xfcrgen"),
        VERSION._replace(path=b"v", user="J\u00fcrgen".encode(), group="\U0001f600".encode(), xattrs=None, link=None),
    )
}


def test_names_that_are_no_utf_8_come_back_bit_for_bit_beside_others(database: Database) -> None:
    ids, _, _ = store(database, b"another", b"12345")
    with database.transaction():
        source = source_id(database, "host", b"/\xff", create=True)
        assert source is not None
        rows = [
            version_row(version, 7 * number, None if number == 3 else -number, 1 if version.hash else -1)
            for number, version in enumerate(VERSIONS.values())
        ]
        versions = [row_version(row, version.hash) for row, version in zip(rows, VERSIONS.values())]
        assert versions == list(VERSIONS.values())
        insert_versions(database, source, 5, True, [rows[:5], [], rows[5:]], ids)
    found = list(load_versions(database, source, VERSIONS))
    assert [version for version, _, _ in found] == list(VERSIONS.values())
    assert [(first, content) for _, first, content in found] == [
        (5, ids[1] if version.hash else None) for version in VERSIONS.values()
    ]
    current = list(current_files(database, source))
    assert [row[0] for row in current] == sorted(VERSIONS)
    stamps = {path: (7 * number, None if number == 3 else -number) for number, path in enumerate(VERSIONS)}
    assert {row[0]: (row[4], row[5]) for row in current} == stamps
    texts = ", ".join(f"typeof({name})" for name in ("path", "kind", "user", "grp"))
    assert database.query(f"SELECT DISTINCT {texts}, added FROM files") == [(b"text",) * 4 + (1,)]
    for name, type_ in (("target", b"text"), ("link", b"text"), ("xattrs", b"blob")):
        assert database.query(f"SELECT DISTINCT typeof({name}) FROM files WHERE {name} IS NOT NULL") == [(type_,)]


def test_damaged_row_of_a_file_is_not_taken_for_a_file(repo: Repository, tree: Path, tmp_path: Path) -> None:
    repo.snapshot(tree)
    expected = entries(tree)
    sql(repo.path, "UPDATE files SET mode = 'rw' WHERE path = 'a.txt'")
    result = repo.restore(1, tmp_path / "out")
    assert [problem.path for problem in result.problems] == [".", "a.txt"]
    found = entries(tmp_path / "out")
    del expected[b"a.txt"]
    assert found == expected
    write(tree / "a.txt", b"changed")
    with pytest.raises(CorruptionError, match=r"row of a\.txt"):
        repo.snapshot(tree)
