"""Files and directories of a snapshot read in place: ls, open, and paths like pathlib's."""

from __future__ import annotations

import csv
import errno
import gzip
import io
import os
import pickle
import random
import sqlite3
import stat
import threading
import zipfile
from pathlib import Path
from typing import Any, List

import pytest
from conftest import noise, sql, write
from trees import make_sparse_file

from backuptool import (
    BackuptoolError,
    ContentCorruptError,
    ContentMissingError,
    PathNotFoundError,
    PatternError,
    Repository,
    SnapshotNotFoundError,
    SnapshotPath,
    WrongKindError,
)

MIB = 1 << 20


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Small, large, sparse and empty files, a symlink, a FIFO; directories with names around the slash."""
    root = tmp_path / "source"
    write(root / "data" / "a.csv", b"x,y\n1,2\n3,4\n")
    write(root / "data" / "deep" / "b.csv", "ä,ö\n".encode())
    write(root / "data-2" / "c.txt", b"c")
    write(root / "data.txt", b"line one\nline two\r\nline three")
    write(root / "empty", b"")
    write(root / "large", noise(3 * MIB + 17))
    make_sparse_file(root / "sparse", 6 * MIB, [(2 * MIB + 5, noise(700_000, 2)), (5 * MIB, b"end")])
    make_sparse_file(root / "nothing but a hole", 5 * MIB, [])
    (root / "link").symlink_to("data/a.csv")
    os.mkfifo(root / "fifo")
    return root


@pytest.fixture
def saved(repo: Repository, source: Path) -> Repository:
    repo.snapshot(source)
    return repo


def names(entries: Any) -> List[str]:
    return [entry.path for entry in entries]


# Listing.


def test_a_directory_is_listed_in_byte_order_without_what_is_below(saved: Repository) -> None:
    top = ["data", "data-2", "data.txt", "empty", "fifo", "large", "link", "nothing but a hole", "sparse"]
    assert names(saved.ls(1)) == names(saved.ls("latest", ".")) == top
    assert names(saved.ls(1, "data/")) == ["data/a.csv", "data/deep"]
    assert names(saved.ls(1, "data", recursive=True)) == ["data/a.csv", "data/deep", "data/deep/b.csv"]
    assert names(saved.ls(1, "data.txt")) == ["data.txt"]
    assert names(saved.walk(1, "data")) == names(saved.ls(1, "data", recursive=True))
    assert len(saved.ls(1, recursive=True)) == len(list(saved.walk(1))) == 13


def test_an_entry_has_all_that_is_known(saved: Repository, source: Path) -> None:
    for entry in saved.walk(1):
        status = (source / entry.path).lstat()
        assert (entry.st_mode, entry.uid, entry.gid) == (status.st_mode, status.st_uid, status.st_gid)
        assert (entry.mtime_ns, entry.user) == (status.st_mtime_ns, (source / "data").owner())
        assert entry.size_bytes == (status.st_size if entry.kind == "file" else 0)
        assert entry.name == os.path.basename(entry.path)
    assert saved.ls(1, "link")[0].target == "data/a.csv"
    assert saved.ls(1, "fifo")[0].kind == "fifo"


def test_a_listing_asks_for_what_it_shows_and_not_for_what_is_below(repo: Repository, tmp_path: Path) -> None:
    counts = []
    for files in (20, 200):
        for number in range(files):
            write(tmp_path / str(files) / "sub" / f"{number}", b"%d" % number)
        write(tmp_path / str(files) / "z", b"")
        number = repo.snapshot(tmp_path / str(files)).snapshot.id
        statements: List[str] = []
        with repo._pool.reading() as database:
            database.trace(statements.append)
        assert names(repo.ls(number)) == ["sub", "z"]
        with repo._pool.reading() as database:
            database.trace(None)
        counts.append(len(statements))
    assert counts[0] == counts[1] < 10


def test_directories_of_many_entries_and_many_subdirectories_are_listed_whole(repo: Repository, tmp_path: Path) -> None:
    expected = []
    for number in range(60):
        expected += [f"d{number:02}", f"d{number:02}-x", f"d{number:02}.txt"]
        write(tmp_path / "source" / f"d{number:02}" / "inner" / "f", b"")
        write(tmp_path / "source" / f"d{number:02}-x", b"")
        write(tmp_path / "source" / f"d{number:02}.txt", b"")
    repo.snapshot(tmp_path / "source")
    assert names(repo.ls(1)) == sorted(expected)


# Opening.


@pytest.mark.both
def test_every_file_reads_as_it_was(saved: Repository, source: Path) -> None:
    for name in ("data.txt", "empty", "large", "sparse", "nothing but a hole"):
        with saved.open(1, name) as file:
            assert (file.name, file.mode, file.readable(), file.seekable(), file.writable()) == (
                *(name, "rb", True, True),
                False,
            )
            assert file.read() == (source / name).read_bytes()
            assert file.read() == b""
        with saved.open("latest", source / name) as file:
            assert b"".join(file) == (source / name).read_bytes()


@pytest.mark.parametrize("name", ["large", "sparse", "data.txt", "empty"])
def test_a_file_can_be_sought_in_like_any_other(saved: Repository, source: Path, name: str) -> None:
    choices = random.Random(name)
    with saved.open(1, name) as file, (source / name).open("rb") as expected:
        size = os.path.getsize(source / name)
        for _ in range(300):
            whence = choices.choice((io.SEEK_SET, io.SEEK_CUR, io.SEEK_END))
            offset = choices.randint(-size // 2, size + 10) if whence else choices.randint(0, size + 10)
            try:
                position = expected.seek(offset, whence)
            except OSError:
                with pytest.raises((OSError, ValueError)):
                    file.seek(offset, whence)
                continue
            assert file.seek(offset, whence) == position
            length = choices.choice((0, 1, 100, 70_000, 400_000))
            assert file.read(length) == expected.read(length)
            assert file.tell() == expected.tell()


def test_other_programs_of_the_library_read_it(saved: Repository, source: Path) -> None:
    with zipfile.ZipFile(source / "x.zip", "w") as archive:
        archive.writestr("inside", noise(200_000))
    with gzip.open(source / "x.gz", "wb") as packed:
        packed.write(b"packed")
    saved.snapshot(source)
    with saved.open(2, "x.zip") as file, zipfile.ZipFile(file) as archive:
        assert archive.read("inside") == noise(200_000)
    with saved.open(2, "x.gz") as file, gzip.open(file) as packed:
        assert packed.read() == b"packed"
    with (saved.tree() / "data" / "a.csv").open() as text:
        assert list(csv.DictReader(text)) == [{"x": "1", "y": "2"}, {"x": "3", "y": "4"}]


def packs_read(repo: Repository, read: Any) -> int:
    statements: List[str] = []
    with repo._pool.reading() as database:
        database.trace(statements.append)
    read()
    with repo._pool.reading() as database:
        database.trace(None)
    return len({each for each in statements if "data" in each and "FROM packs" in each})


def test_only_the_packs_that_are_needed_are_read_and_each_once(repo: Repository, tmp_path: Path) -> None:
    source = tmp_path / "source"
    write(source / "huge", noise(20 * MIB))
    for number in range(50):
        write(source / "small" / f"{number}.txt", b"%d" % number)
    repo.snapshot(source, max_file_size=None)
    assert len(sql(repo.path, "SELECT id FROM packs")) > 8

    def read(position: int) -> None:
        with repo.open(1, "huge") as file:
            file.seek(position)
            file.read(10)

    assert packs_read(repo, lambda: read(9 * MIB)) == 1
    assert packs_read(repo, lambda: read(9 * MIB)) == 0
    repo.close()
    assert packs_read(repo, lambda: [path.read_bytes() for path in (repo.tree() / "small").iterdir()]) == 1


def test_what_is_kept_in_memory_is_bounded(repo: Repository, tmp_path: Path) -> None:
    write(tmp_path / "source" / "huge", noise(40 * MIB))
    repo.snapshot(tmp_path / "source", max_file_size=None)
    with repo.open(1, "huge") as file:
        assert sum(iter(lambda: len(file.read(MIB)), 0)) == 40 * MIB
        packs = repo._reader()._reader._packs
        assert sum(len(pack.data) for pack in packs._cache.values()) <= 18 * MIB


def test_a_file_that_was_closed_is_closed(saved: Repository) -> None:
    file = saved.open(1, "large")
    raw: Any = file.raw
    file.close()
    for use in (file.read, file.tell, lambda: file.seek(0), raw.tell, lambda: raw.seek(0), raw.readall):
        with pytest.raises(ValueError, match="closed"):
            use()
    assert raw.closed


def test_a_place_before_the_beginning_and_an_unknown_whence_are_errors(saved: Repository) -> None:
    with saved.open(1, "large") as file:
        raw: Any = file.raw
        with pytest.raises(ValueError, match="before the beginning"):
            raw.seek(-1)
        with pytest.raises(ValueError, match="whence"):
            raw.seek(0, 3)
        assert raw.readinto(bytearray()) == 0


def test_a_file_stays_open_beside_snapshots_and_prunes(saved: Repository, source: Path) -> None:
    data = (source / "large").read_bytes()
    with saved.open(1, "large") as file:
        assert file.read(10) == data[:10]
        write(source / "new", noise(MIB, 5))
        saved.snapshot(source)
        saved.prune(1)
        saved.close()
        assert file.read() == data[10:]


def test_a_pack_that_took_the_number_of_another_one_is_read_anew(repo: Repository, tmp_path: Path) -> None:
    source = tmp_path / "source"
    write(source / "a", b"a" * 5000)
    repo.snapshot(source)
    assert (repo.tree(1) / "a").read_bytes() == b"a" * 5000
    write(source / "b", b"b" * 5000)
    repo.snapshot(source)
    repo.prune(1)
    (source / "a").unlink()
    write(source / "c", b"c" * 5000)
    newest = repo.snapshot(source).snapshot.id
    repo.prune(2)
    pack = sql(repo.path, "SELECT max(pack) FROM contents")[0][0]
    reader = repo._reader()
    assert (repo.tree(newest) / "b").read_bytes() == b"b" * 5000
    cache = reader._reader._packs._cache
    cache[pack] = type(next(iter(cache.values())))(b"of another time", None)
    assert (repo.tree(newest) / "c").read_bytes() == b"c" * 5000


@pytest.mark.both
def test_threads_may_read_at_the_same_time(saved: Repository, source: Path) -> None:
    failures: List[str] = []

    def read(name: str) -> None:
        for _ in range(5):
            if (saved.tree() / name).read_bytes() != (source / name).read_bytes():
                failures.append(name)

    threads = [threading.Thread(target=read, args=(name,)) for name in ("large", "sparse", "data.txt", "data/a.csv")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.parametrize(
    ("path", "error", "message", "number"),
    [
        ("nothing", PathNotFoundError, "there is no nothing in snapshot 1", errno.ENOENT),
        ("/etc/passwd", PathNotFoundError, "/etc/passwd is not in .*/source, which snapshot 1 is of", errno.ENOENT),
        ("data", WrongKindError, "data is a directory; only a file can be opened", errno.EISDIR),
        ("link", WrongKindError, "link is a symlink, which leads to data/a.csv", errno.EINVAL),
        ("fifo", WrongKindError, "fifo is a fifo", errno.EINVAL),
    ],
)
def test_what_cannot_be_opened_is_told(
    saved: Repository, path: str, error: type[OSError], message: str, number: int
) -> None:
    with pytest.raises(error, match=message) as raised:
        saved.open(1, path)
    assert isinstance(raised.value, BackuptoolError)
    assert raised.value.errno == number
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)
    assert pickle.loads(pickle.dumps(raised.value)).errno == number
    with pytest.raises(SnapshotNotFoundError):
        saved.open(2, path)


# Damage.


def test_no_damaged_byte_is_given_out(saved: Repository, source: Path) -> None:
    saved.close()
    sql(saved.path, "UPDATE packs SET data = zeroblob(length(data)), codec = 'raw', size = length(data)")
    for name in ("data.txt", "large"):
        with pytest.raises(ContentCorruptError), saved.open(1, name) as file:
            file.read(1)
    with saved.open(1, "nothing but a hole") as file:
        assert file.read(10) == bytes(10)


LARGE = "content = (SELECT content FROM files WHERE path = 'large')"


@pytest.mark.parametrize(
    "damage",
    [
        f"UPDATE parts SET offset = offset + 1 WHERE {LARGE} AND offset > 0",
        f"DELETE FROM parts WHERE {LARGE} AND offset = (SELECT max(offset) FROM parts WHERE {LARGE})",
        f"DELETE FROM parts WHERE {LARGE}",
        f"UPDATE parts SET part = NULL WHERE {LARGE} AND offset = 0",
        f"UPDATE parts SET part = (SELECT max(part) FROM parts WHERE {LARGE}) WHERE {LARGE} AND offset = 0",
        f"UPDATE parts SET part = 99999 WHERE {LARGE} AND offset = 0",
        "UPDATE contents SET layout = zeroblob(32) WHERE layout IS NOT NULL",
    ],
)
def test_a_damaged_list_of_parts_is_noticed_before_the_first_byte(saved: Repository, damage: str) -> None:
    saved.close()
    sql(saved.path, damage)
    with pytest.raises((ContentCorruptError, ContentMissingError)):
        saved.open(1, "large")


def test_a_part_that_is_no_part_any_more_is_noticed(saved: Repository) -> None:
    with saved.open(1, "large") as file:
        sql(saved.path, f"UPDATE contents SET pack = NULL WHERE id IN (SELECT part FROM parts WHERE {LARGE})")
        with pytest.raises(ContentCorruptError, match="the list of its parts"):
            file.read(1)


def test_a_content_that_is_missing_is_an_error(saved: Repository) -> None:
    saved.close()
    sql(saved.path, "UPDATE files SET size = 7 WHERE path = 'data.txt'")
    with pytest.raises(ContentMissingError, match=r"the content of data\.txt is not in the repository"):
        saved.open(1, "data.txt")


# Paths.


def test_a_path_has_what_pathlib_has(saved: Repository, source: Path) -> None:
    tree = saved.tree()
    path = tree / "data" / "deep" / "b.csv"
    assert path == tree.joinpath("data", Path("deep/b.csv")) == tree / "data/./deep//b.csv"
    assert (path.name, path.stem, path.suffix, path.suffixes) == ("b.csv", "b", ".csv", [".csv"])
    assert (path.parts, str(path), path.path) == (("data", "deep", "b.csv"), "data/deep/b.csv", "data/deep/b.csv")
    assert [str(parent) for parent in path.parents] == ["data/deep", "data", "."]
    assert (path.parent.parent.parent, tree.parent, str(tree), tree.name) == (tree, tree, ".", "")
    assert str(path.relative_to(tree / "data")) == "deep/b.csv"
    assert (repr(path), hash(path), path < tree / "large") == ("<SnapshotPath 1:data/deep/b.csv>", hash(path), True)
    assert (path == 1, path != tree) == (False, True)
    assert sorted([tree / "b", tree / "a"]) == [tree / "a", tree / "b"]
    copy = pickle.loads(pickle.dumps(path))
    assert (copy, copy.read_text(), path.read_text("latin-1")) == (path, "ä,ö\n", "Ã¤,Ã¶\n")
    copy._repository.close()
    with pytest.raises(ValueError, match="relative"):
        tree / "/etc/passwd"
    with pytest.raises(TypeError):
        path < 1  # type: ignore[operator]  # noqa: B015


def test_paths_of_different_snapshots_differ(saved: Repository, source: Path) -> None:
    saved.snapshot(source)
    first, second = saved.tree(1) / "large", saved.tree() / "large"
    assert first != second
    with pytest.raises(ValueError, match="same snapshot"):
        first.relative_to(second.parent)


def test_a_path_knows_what_it_is(saved: Repository, source: Path) -> None:
    tree = saved.tree()
    kinds = {
        name: [test(tree / name) for test in (SnapshotPath.exists, SnapshotPath.is_file, SnapshotPath.is_dir)]
        for name in ("data", "large", "link", "fifo", "nothing", "data/nothing", "large/x", "..")
    }
    assert kinds == {
        "data": [True, False, True],
        "large": [True, True, False],
        "link": [True, False, False],
        "fifo": [True, False, False],
        **{name: [False, False, False] for name in ("nothing", "data/nothing", "large/x", "..")},
    }
    assert (tree / "link").is_symlink()
    assert (tree / "link").readlink() == "data/a.csv"
    with pytest.raises(OSError, match="no symlink"):
        (tree / "large").readlink()
    for name in ("data", "large", "link", "fifo"):
        there, here = (tree / name).stat(), (source / name).lstat()
        assert (there.st_mode, there.st_mtime_ns, there.st_uid) == (here.st_mode, here.st_mtime_ns, here.st_uid)
        assert there.st_mtime == here.st_mtime
    assert (tree / "large").stat().st_size == 3 * MIB + 17
    assert stat.S_ISDIR(tree.stat().st_mode)
    with pytest.raises(FileNotFoundError):
        (tree / "nothing").stat()


@pytest.mark.parametrize(
    "pattern",
    [
        *("*", "*.csv", "data/*", "data/*.csv", "*/*.csv", "*/deep/b.csv", "d*/*", "data*", "[de]*", "nothing/*"),
        *("**/*.csv", "data/**/*.csv", "**/deep/*", "data/deep", "large/*", "?ata", "**/b.csv", "data/"),
    ],
)
def test_a_glob_finds_what_pathlib_finds(saved: Repository, source: Path, pattern: str) -> None:
    expected = sorted(str(path.relative_to(source)) for path in source.glob(pattern.rstrip("/")))
    assert sorted(str(path) for path in saved.tree().glob(pattern)) == expected


def test_globs_below_and_walks(saved: Repository, source: Path) -> None:
    tree = saved.tree()
    assert [str(path) for path in tree.rglob("*.csv")] == ["data/a.csv", "data/deep/b.csv"]
    assert [str(path) for path in (tree / "data").rglob("b.*")] == ["data/deep/b.csv"]
    assert list((tree / "large").glob("*")) == list(tree.glob("nothing/**/x")) == []
    walked = [(str(path), names, files) for path, names, files in tree.walk()]
    expected = []
    for directory, names, files in os.walk(source):
        names.sort()
        expected.append((os.path.relpath(directory, source), list(names), sorted(files)))
    assert walked == expected
    for path, names, _ in tree.walk():
        names.clear()
        assert path == tree
    for pattern in ("", "/etc/*", "[b-a]*"):
        with pytest.raises(PatternError):
            list(tree.glob(pattern))
    with pytest.raises(WrongKindError):
        (tree / "large").iterdir()


def test_text_is_utf8_unless_told_otherwise(saved: Repository) -> None:
    path = saved.tree() / "data.txt"
    assert path.read_bytes() == b"line one\nline two\r\nline three"
    assert path.read_text() == "line one\nline two\nline three"
    with path.open(newline="") as file:
        assert list(file) == ["line one\n", "line two\r\n", "line three"]
    with path.open("rb") as binary:
        assert binary.readline() == b"line one\n"
    for mode in ("w", "a", "r+", "wb", "x"):
        with pytest.raises(ValueError, match="snapshots do not change"):
            path.open(mode)  # type: ignore[call-overload]
    with pytest.raises(LookupError):
        path.open(encoding="no such encoding")


def test_a_path_is_no_name_of_a_file(saved: Repository) -> None:
    with pytest.raises(TypeError):
        open(saved.tree() / "large")  # type: ignore[call-overload]  # noqa: SIM115
    assert not isinstance(saved.tree(), os.PathLike)


def test_what_latest_means_is_decided_when_a_tree_is_made(saved: Repository, source: Path) -> None:
    tree = saved.tree("latest")
    (source / "empty").unlink()
    saved.snapshot(source)
    assert (tree / "empty").exists()
    assert not (saved.tree("latest") / "empty").exists()


def test_pandas_reads_a_file_in_a_snapshot(saved: Repository) -> None:
    pandas = pytest.importorskip("pandas")
    with (saved.tree() / "data" / "a.csv").open() as file:
        assert pandas.read_csv(file).y.sum() == 6


@pytest.mark.plain
def test_sqlite_is_not_left_locked_by_a_file_that_is_open(saved: Repository, source: Path) -> None:
    with saved.open(1, "large") as file:
        file.read(1)
        walking = saved.walk(1)
        next(walking)
        with sqlite3.connect(saved.path, timeout=0) as other:
            other.execute("BEGIN EXCLUSIVE")
            other.rollback()
        other.close()
