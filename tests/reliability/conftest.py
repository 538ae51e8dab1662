"""What the rows need of the machine."""

from __future__ import annotations

import pytest

from .tracing import why_not


@pytest.fixture
def tracing() -> None:
    """Skip the test where processes cannot be traced."""
    if why_not():
        pytest.skip(why_not())
