"""Forged and damaged repositories that once ended in an error nobody expected, or in too much memory."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Callable

import pytest
from conftest import sql, write_tree
from reliability.forging import in_utf_16

from backuptool import BackuptoolError, CorruptionError, Repository
from backuptool.tree.confined import ConfinedRoot

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
