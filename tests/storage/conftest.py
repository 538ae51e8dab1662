"""What several of these modules need."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Iterator

import pytest
from conftest import new_database

from backuptool.storage.database import Database


@pytest.fixture
def database(tmp_path: Path, driver: str) -> Iterator[Database]:
    """An empty repository, on each driver."""
    with closing(new_database(tmp_path / "backups.db")) as opened:
        yield opened
