"""What several of these modules need."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterator

import pytest
from conftest import write
from trees import make_every_kind

from backuptool import Repository

from .making import Everything


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where to restore to; nothing is there."""
    return tmp_path / "out"


@pytest.fixture(scope="package")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Everything]:
    place = tmp_path_factory.mktemp("everything")
    make_every_kind(place / "source")
    with Repository(place / "backups.db") as repo:
        yield Everything(place / "source", repo, repo.snapshot(place / "source"))


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """Three names of one file."""
    source = tmp_path / "source"
    write(source / "a", b"linked")
    (source / "sub").mkdir()
    os.link(source / "a", source / "b")
    os.link(source / "a", source / "sub" / "c")
    return source
