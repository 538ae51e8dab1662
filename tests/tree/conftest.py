"""What several of these modules need."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterator

import pytest
from conftest import write_tree

from backuptool.tree.source import Source


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Source]:
    """A directory with a file, a symlink and a directory with a file in it, opened."""
    root = write_tree(tmp_path / "source", {"file": b"data", "sub/inner": b"inner"})
    (root / "symlink").symlink_to("file")
    opened = Source(os.fsencode(root))
    yield opened
    opened.close()
