"""What the rows need of the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from .tracing import why_not


@pytest.fixture
def tracing() -> None:
    """Skip the test where processes cannot be traced."""
    if why_not():
        pytest.skip(why_not())


@pytest.fixture
def tmp_path(memory_path: Path) -> Path:
    """Much is committed and written here, and what is large is sparse."""
    return memory_path
