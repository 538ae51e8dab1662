"""Forged and damaged repositories that once ended in an error nobody expected, or in too much memory."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Callable, List

import pytest
from conftest import sql, write_tree
from reliability.forging import in_utf_16, run_sql, settle
from reliability.hostile import make_base
from trees import needs_root

from backuptool import BackuptoolError, CorruptionError, Repository
from backuptool.cli import main
from backuptool.tree.attributes import Metadata
from backuptool.tree.confined import ConfinedRoot
from backuptool.tree.destination import Destination

MIB = 1 << 20


@pytest.fixture
def saved(repo: Repository, tree: Path) -> Repository:
    """A repository with one snapshot."""
    repo.snapshot(tree)
    repo.close()
    return repo


def peak_of(function: Callable[[], object]) -> int:
    """Return how many bytes of Python's memory a call takes at most."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_texts_in_another_encoding_are_refused(saved: Repository) -> None:
    in_utf_16(Path(saved.path))
    with pytest.raises(CorruptionError, match="not in UTF-8"):
        saved.list()


@pytest.mark.parametrize("value", ["'text'", "9223372036854775807", "-1", "x'00'", "1.5"])
def test_damaged_counters_are_an_error_and_number_nothing(saved: Repository, tree: Path, value: str) -> None:
    sql(saved.path, f"UPDATE sqlite_sequence SET seq = {value}")
    (tree / "more").write_bytes(b"more")
    with pytest.raises(CorruptionError, match=r"the counter of (contents|snapshots) .* is damaged; run check"):
        saved.snapshot(tree)
    assert [snapshot.id for snapshot in saved.list()] == [1]


def test_tags_nested_without_end_are_damage(saved: Repository) -> None:
    sql(saved.path, "UPDATE snapshots SET tags = ?", "[" * 100_000)
    with pytest.raises(CorruptionError, match="the row of snapshot 1 is damaged"):
        saved.list()
    assert "the row of snapshot 1 is damaged" in str(saved.check().problems)


def test_pack_that_is_longer_than_any_is_not_read(saved: Repository, tmp_path: Path) -> None:
    sql(saved.path, "UPDATE packs SET data = zeroblob(60000000)")
    assert peak_of(lambda: saved.check()) < 8 * MIB
    assert {problem.kind for problem in saved.check().problems} == {"content-corrupt"}
    assert peak_of(lambda: saved.restore(1, tmp_path / "out")) < 8 * MIB


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("chunk_average", 0),
        ("chunk_average", -1),
        ("chunk_average", 1 << 40),
        ("chunk_large_average", 33_000),
        ("chunk_huge_average", 1 << 19),
        ("chunk_normalization", 77),
        ("chunk_large_size", -1),
        ("chunk_huge_size", 1),
    ],
)
def test_settings_by_which_nothing_can_be_cut_are_damage(saved: Repository, tree: Path, name: str, value: int) -> None:
    sql(saved.path, "UPDATE settings SET value = ? WHERE name = ?", value, name)
    assert "the settings of the repository are damaged" in str(saved.check().problems)
    with pytest.raises(CorruptionError, match="settings"):
        saved.snapshot(tree)


def test_snapshots_without_a_source_are_not_taken_over_by_another(
    saved: Repository, tree: Path, tmp_path: Path
) -> None:
    sql(saved.path, "DELETE FROM sources")
    other = write_tree(tmp_path / "other", {"x": b"another source"})
    result = saved.snapshot(other)
    assert (result.new_files, result.removed_files) == (1, 0)
    assert sql(saved.path, "SELECT id, source FROM snapshots") == [(1, 1), (2, 2)]
    with pytest.raises(BackuptoolError, match="the row of snapshot 1 is damaged"):
        saved.restore(1, tmp_path / "out")


def test_path_of_thousands_of_directories_takes_little_memory(tmp_path: Path) -> None:
    root = ConfinedRoot(bytes(tmp_path))
    try:
        path = b"/".join([b"directory"] * 20_000)  # of all paths above it, 2 GB

        def look() -> None:
            with pytest.raises(FileNotFoundError):
                root.directory(path)

        assert peak_of(look) < 4 * MIB
    finally:
        root.close()


def test_too_little_memory_is_said_in_words(saved: Repository) -> None:
    sql(saved.path, "UPDATE snapshots SET note = hex(zeroblob(150000000))")
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20)); "
        "from backuptool.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = [sys.executable, "-c", program, "--db-path", saved.path, "list"]
    done = subprocess.run(arguments, capture_output=True, encoding="utf-8", check=False)
    assert done.stderr == (
        "backuptool: error: there is not enough memory; nothing saved before is lost, run it where there is more\n"
    )
    assert (done.returncode, done.stdout) == (1, "")


def forge(repo: Repository, *statements: str) -> None:
    """Change rows, and let all digests agree with them."""
    repo.close()
    run_sql(Path(repo.path), *statements)
    settle(Path(repo.path))


def test_forging_nothing_is_no_damage(saved: Repository) -> None:
    forge(saved)
    assert saved.check().problems == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("path = '../elsewhere'", "its path leads elsewhere"),
        ("path = 'docs/./x'", "its path leads elsewhere"),
        ("path = CAST(x'6100' AS TEXT)", "its path leads elsewhere"),
        ("path = CAST(path AS BLOB)", "its path is no text"),
        ("mode = 65535", "its mode or its owner"),
        ("mode = -1", "its mode or its owner"),
        ("uid = -1", "its mode or its owner"),
        ("gid = 4294967295", "its mode or its owner"),
        ("mtime_ns = -9223372036854775807 - 1", "a number in it is out of range"),
        ("sparse = 2", "a number in it is out of range"),
        ("target = 'elsewhere'", "it is a file and something else"),
        ("rdev = 7", "it is a file and something else"),
        ("kind = 'd'", "it has bytes and is no file"),
        ("kind = 'x', content = NULL, size = 0", "its kind is none that there is"),
        ("kind = 'd', content = NULL, size = 0, target = 'x'", "its kind is none that there is"),
        ("kind = 'l', content = NULL, size = 0", "it is a symlink that leads nowhere"),
        ("kind = 'l', content = NULL, size = 0, target = ''", "it is a symlink that leads nowhere"),
        ("kind = 'l', content = NULL, size = 0, target = CAST(x'6100' AS TEXT)", "it is a symlink that leads nowhere"),
        ("kind = 'c', content = NULL, size = 0", "it is a device without a number"),
        ("kind = 'b', content = NULL, size = 0, rdev = -1", "it is a device without a number"),
        ("xattrs = x'00'", "its extended attributes end within a length"),
        ("xattrs = x'0000000000000000'", "it has an extended attribute without a name"),
    ],
)
def test_value_that_no_file_has_is_named_although_digests_agree(saved: Repository, change: str, message: str) -> None:
    forge(saved, f"UPDATE files SET {change} WHERE path = 'a.txt'")
    problems = [problem for problem in saved.check().problems if problem.kind == "catalog-corrupt"]
    assert any(message in problem.message for problem in problems)


def test_two_versions_of_a_path_in_one_snapshot_are_named(saved: Repository, tree: Path) -> None:
    (tree / "a.txt").write_bytes(b"changed")
    saved.snapshot(tree)
    forge(saved, "UPDATE files SET last = NULL WHERE path = 'a.txt' AND first = 1")
    messages = [problem.message for problem in saved.check().problems]
    assert any("a snapshot has another version of it as well" in message for message in messages)


def test_paths_that_are_no_texts_are_left_out_and_named(saved: Repository, tree: Path, tmp_path: Path) -> None:
    """More of them than are read at a time: a page of texts that began behind a blob would begin there again."""
    forge(
        saved,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000) INSERT INTO files SELECT "
        "source, CAST('blob ' || i AS BLOB), first, last, added, kind, mode, uid, gid, user, grp, mtime_ns, size, "
        "content, sparse, rdev, target, xattrs, link, ctime_ns, inode FROM files, n WHERE path = 'empty'",
    )
    assert sum("its path is no text" in problem.message for problem in saved.check(quick=True).problems) == 9000
    result = saved.restore(1, tmp_path / "out")
    assert result.restored_files == 5
    assert saved.snapshot(tree).unchanged_files == 5


@pytest.mark.parametrize("owner", ["uid = -1", "gid = 4294967295"])
def test_setuid_is_not_restored_for_an_owner_that_there_is_not(saved: Repository, tmp_path: Path, owner: str) -> None:
    forge(saved, f"UPDATE files SET mode = {0o6755}, {owner} WHERE path = 'a.txt'")
    problems = saved.restore(1, tmp_path / "out").problems
    assert [(problem.kind, problem.path) for problem in problems] == [("owner-not-restored", "a.txt")]
    assert stat.S_IMODE((tmp_path / "out" / "a.txt").stat().st_mode) == 0o755


def test_metadata_of_a_file_with_another_name_outside_stays(saved: Repository, tree: Path, tmp_path: Path) -> None:
    """It looks as saved, but for its mode: the inode outside must not get that."""
    outside = tmp_path / "outside"
    outside.write_bytes(b"A" * 1000)
    outside.chmod(0o600)
    status = (tree / "a.txt").stat()
    os.utime(str(outside), ns=(status.st_mtime_ns, status.st_mtime_ns))
    (tmp_path / "out").mkdir()
    os.link(str(outside), str(tmp_path / "out" / "a.txt"))
    before = outside.stat()
    saved.restore(1, tmp_path / "out")
    assert (tmp_path / "out" / "a.txt").read_bytes() == b"a" * 1000
    after = outside.stat()
    assert (after.st_mode, after.st_mtime_ns, after.st_size) == (before.st_mode, before.st_mtime_ns, 1000)
    assert after.st_nlink == 1


@needs_root
@pytest.mark.parametrize("kind", ["fifo", "symlink"])
def test_what_takes_the_place_of_an_entry_while_it_is_made_gets_no_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Somebody who may write there puts a hard link to a file outside where the entry was made a moment ago."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"of root")
    (tmp_path / "out").mkdir()
    failures: List[object] = []

    def swap(*arguments: object, dir_fd: int) -> None:
        os.link(str(victim), arguments[1] if kind == "symlink" else arguments[0], dst_dir_fd=dir_fd)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "mknod", swap)
    monkeypatch.setattr(os, "symlink", swap)
    with Destination(bytes(tmp_path / "out"), lambda *failure: failures.append(failure)) as destination:
        metadata = Metadata(0o777, 1234, 1234, 5, None)
        make: Callable[[], None] = lambda: destination.make_symlink(b"entry", b"target", metadata)  # noqa: E731
        if kind == "fifo":
            make = lambda: destination.make_special(b"entry", b"p", 0, metadata)  # noqa: E731
        with pytest.raises(OSError, match="something else was put in its place"):
            make()
    assert os.listdir(str(tmp_path / "out")) == []
    assert (victim.stat().st_uid, stat.S_IMODE(victim.stat().st_mode), failures) == (0, 0o644, [])


def test_hash_of_a_chunk_that_is_a_number_hurts_its_file_alone(repo: Repository, tmp_path: Path) -> None:
    source = write_tree(tmp_path / "source", {"large": bytes(range(256)) * 8000, "small": b"small"})
    repo.snapshot(source)
    forge(repo, "UPDATE contents SET hash = 7 WHERE id = (SELECT part FROM parts)")
    problems = repo.restore(1, tmp_path / "out").problems
    assert [(problem.kind, problem.path) for problem in problems] == [("content-corrupt", "large")]
    assert (tmp_path / "out" / "small").read_bytes() == b"small"
    assert not repo.check().ok


def test_contents_whose_numbers_are_all_negative_are_counted(saved: Repository) -> None:
    forge(saved, "UPDATE contents SET id = -10 - id", "UPDATE files SET content = -10 - content")
    assert not saved.check().ok


@pytest.mark.parametrize("change", ["first = 'text'", "last = 'text'"])
def test_statistics_of_numbers_that_are_none_are_damage(saved: Repository, tree: Path, change: str) -> None:
    for data in (b"second", b"third"):
        (tree / "a.txt").write_bytes(data)
        saved.snapshot(tree)
    forge(saved, f"UPDATE files SET {change} WHERE path = 'a.txt' AND first = 2")
    with pytest.raises(CorruptionError, match=r"a number in .* is none .*; run check"):
        saved.stats()


@pytest.mark.parametrize("change", ["kind = 'zz'", "kind = ''", "sparse = 300", "sparse = -1"])
def test_rows_that_no_digest_covers_are_neither_restored_nor_copied(
    saved: Repository, tmp_path: Path, change: str
) -> None:
    forge(saved, f"UPDATE files SET {change} WHERE path = 'a.txt'")
    assert [problem.path for problem in saved.restore(1, tmp_path / "out").problems] == [".", "a.txt"]
    try:
        assert saved.copy(tmp_path / "copy.db").problems != ()
    except CorruptionError:
        pass


def test_copy_of_a_content_whose_size_is_no_number_is_damage(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    run_sql(base, "UPDATE contents SET size = '[]' WHERE id = 13")
    settle(base)
    with Repository(base) as repo:
        with pytest.raises(CorruptionError, match=r"a number in .* is none .*; run check"):
            repo.copy(tmp_path / "copy.db")
        assert not repo.check().ok


def test_chunk_whose_place_is_no_number_is_damage_for_an_export_too(repo: Repository, tmp_path: Path) -> None:
    repo.snapshot(write_tree(tmp_path / "source", {"large": bytes(range(256)) * 8000, "small": b"small"}))
    forge(repo, "UPDATE contents SET offset = 'text' WHERE id = (SELECT part FROM parts)")
    assert [problem.path for problem in repo.export_tar(1, tmp_path / "out.tar").problems] == ["large"]


@pytest.mark.parametrize("mode", [-1, 1 << 62])
def test_modes_that_no_file_has_are_shown_all_the_same(saved: Repository, mode: int) -> None:
    forge(saved, f"UPDATE files SET mode = {mode} WHERE kind = 'f'")
    entry = next(entry for entry in saved.ls("latest") if entry.kind == "file")
    assert entry.mode == mode
    assert entry.path in str(entry)
    assert main(["--db-path", saved.path, "ls", "--recursive"]) == 0
    assert main(["--db-path", saved.path, "ls", "--recursive", "--json"]) == 0


def test_a_time_that_is_none_is_damage_for_questions_too(saved: Repository) -> None:
    forge(saved, "UPDATE snapshots SET started_ns = 'text'")
    for question in (lambda: list(saved.history("a.txt")), lambda: list(saved.find("*"))):
        with pytest.raises(CorruptionError, match="the row of snapshot 1 is damaged"):
            question()


def test_sources_whose_rows_are_those_of_another_table_are_damage_for_questions(saved: Repository) -> None:
    """Where a table begins is not in the text of the schema; what is read there has other types."""
    run_sql(
        Path(saved.path),
        "UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master WHERE name = 'contents') "
        "WHERE name = 'sources'",
    )
    for question in (lambda: list(saved.history("a.txt")), lambda: list(saved.find("*"))):
        with pytest.raises(CorruptionError, match="run check"):
            question()
    assert not saved.check().ok


def test_sizes_that_are_no_numbers_are_damage_for_a_prune(saved: Repository, tree: Path) -> None:
    (tree / "a.txt").unlink()
    saved.snapshot(tree)
    forge(saved, "UPDATE contents SET size = 9e999 WHERE size = 1000")
    with pytest.raises(CorruptionError, match=r"a number in .* is none \(inf\); run check"):
        saved.prune(1)
    assert len(saved.list()) == 2
    assert not saved.check().ok
