"""Telling what would be done."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Tuple

import pytest
from conftest import write
from trees import facts

from backuptool import Repository, RestoreResult
from backuptool.results.restore import OverwritePolicy

from .making import POLICIES, Everything


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("delete_extra", [False, True])
def test_a_dry_run_counts_what_the_restore_then_does(
    everything: Everything, out: Path, policy: OverwritePolicy, delete_extra: bool
) -> None:
    repo = everything.repo
    repo.restore(1, out)
    write(out / "files" / "small", b"changed")
    write(out / "links" / "one", b"changed, under both its names")
    write(out / "more" / "extra", b"extra")
    shutil.rmtree(str(out / "names"))
    write(out / "names", b"a file where a directory was")
    os.utime(out / "names", ns=(1, 1))
    (out / "links" / "two").unlink()
    before = facts(out)
    dry = repo.restore(1, out, overwrite=policy, delete_extra=delete_extra, dry_run=True)
    assert facts(out) == before
    assert dry.dry_run
    real = repo.restore(1, out, overwrite=policy, delete_extra=delete_extra)
    assert _counts(dry) == _counts(real)
    assert dry.problems == real.problems


def _counts(result: RestoreResult) -> Tuple[int, ...]:
    return (
        result.restored_files,
        result.unchanged_files,
        result.restored_directories,
        result.written_bytes,
        result.deleted_files,
    )


def test_a_dry_run_into_a_new_directory_does_not_make_it(everything: Everything, out: Path) -> None:
    repo = everything.repo
    dry = repo.restore(1, out, dry_run=True, verify=True, delete_extra=True)
    assert not out.exists()
    assert _counts(dry) == _counts(repo.restore(1, out))
    assert dry.verified_files == 0


def test_a_dry_run_of_a_part_counts_what_the_restore_then_does(repo: Repository, tree: Path, out: Path) -> None:
    repo.snapshot(tree)
    for _ in range(2):
        dry = repo.restore(1, out, include=["c.bin"], dry_run=True)
        assert _counts(dry) == _counts(repo.restore(1, out, include=["c.bin"]))
