"""What cannot be restored, and why it is said."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import write
from trees import differences, mounted, needs_root, program, random_bytes

from backuptool import Repository, RepositoryNotFoundError, RestoreError, SnapshotNotFoundError

from .making import leftovers, names


@pytest.mark.parametrize("reference", [3, 0, -1, 1 << 70, "3", "newest", "", "²", "9" * 5000])
def test_a_missing_snapshot_is_an_error_that_lists_those_there_are(
    repo: Repository, tree: Path, out: Path, reference: Any
) -> None:
    repo.snapshot(tree)
    repo.snapshot(tree)
    with pytest.raises(SnapshotNotFoundError, match="there are: 1, 2") as caught:
        repo.restore(reference, out)
    assert (caught.value.reference, caught.value.available) == (reference, (1, 2))
    assert not out.exists()


def test_without_a_repository_nothing_is_made(repo: Repository, out: Path) -> None:
    with pytest.raises(RepositoryNotFoundError):
        repo.restore("latest", out)
    assert not out.exists()
    assert not os.path.exists(repo.path)


def test_an_empty_repository_has_no_latest_snapshot(repo: Repository, tree: Path, out: Path) -> None:
    repo.snapshot(tree)
    repo.prune(1)
    with pytest.raises(SnapshotNotFoundError, match="the repository has none any more"):
        repo.restore("latest", out)


@needs_root
def test_a_full_file_system_ends_the_restore_and_a_second_run_finishes_it(
    repo: Repository, tmp_path: Path, out: Path
) -> None:
    source = tmp_path / "source"
    for number in range(12):
        write(source / f"{number}", random_bytes(300_000, seed=number))
    write(source / "large", random_bytes(2 << 20, seed=99))
    repo.snapshot(source)
    out.mkdir()
    with mounted(out, "2m"):
        with pytest.raises(RestoreError, match=r"No space left.*run it again") as caught:
            repo.restore(1, out)
        assert caught.value.path == str(out)
        assert leftovers(out) == []
        present = names(out)
        assert 0 < len(present) < 13
        for name in present:
            assert (out / name).read_bytes() == (source / name).read_bytes()
        subprocess.run([program("mount"), "-o", "remount,size=20m", str(out)], check=True)
        result = repo.restore(1, out)
        assert (result.problems, result.unchanged_files) == ((), len(present))
        assert differences(source, out) == []


@needs_root
def test_a_read_only_file_system_is_one_error(repo: Repository, tree: Path, out: Path) -> None:
    repo.snapshot(tree)
    out.mkdir()
    with mounted(out):
        subprocess.run([program("mount"), "-o", "remount,ro", str(out)], check=True)
        for dry_run in (True, False):
            with pytest.raises(RestoreError, match="it cannot be written to; name another directory"):
                repo.restore(1, out, dry_run=dry_run)
