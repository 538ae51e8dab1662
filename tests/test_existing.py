"""Repositories that have to be there: where a disk is not mounted, none is made in its place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backuptool import Repository, RepositoryNotFoundError
from backuptool.cli import main


def test_no_repository_is_made_where_none_is_to_be(tmp_path: Path, tree: Path) -> None:
    with Repository(tmp_path / "missing.db", create=False) as repo:
        with pytest.raises(RepositoryNotFoundError, match=r"none is to be made.*see whether its disk is mounted"):
            repo.snapshot(tree)
        with pytest.raises(RepositoryNotFoundError):
            repo.snapshot_files({"a": b"1"}, name="a")
        assert not os.path.exists(repo.path)
        with Repository(repo.path) as maker:
            maker.snapshot(tree)
        assert repo.snapshot(tree).snapshot.id == 2


def test_commands_make_no_repository_where_it_has_to_exist(
    tmp_path: Path, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there, missing = str(tmp_path / "there.db"), str(tmp_path / "missing.db")
    assert main(["--db-path", there, "snapshot", str(tree)]) == 0
    assert main(["--db-path", there, "snapshot", str(tree), "--existing"]) == 0
    for arguments in (
        ["--db-path", missing, "snapshot", str(tree), "--existing"],
        ["--db-path", missing, "snapshot", str(tree), "--existing", "--encrypt"],
        ["--db-path", there, "copy", "--destination", missing, "--existing"],
    ):
        capsys.readouterr()
        assert main(arguments) == 10
        assert "see whether its disk is mounted" in capsys.readouterr().err
        assert not os.path.exists(missing)
    assert main(["--db-path", there, "copy", "--destination", missing]) == 0
    assert main(["--db-path", there, "copy", "--destination", missing, "--existing"]) == 0
