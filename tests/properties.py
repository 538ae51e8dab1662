"""Hypothesis where it is installed; where it is not, the tests that need it are skipped and the others run.

Owns the stand-ins. Tests import from here what they would import from hypothesis.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from hypothesis import HealthCheck, example, given, settings
    from hypothesis import strategies as st
else:
    try:
        from hypothesis import HealthCheck, example, given, settings
        from hypothesis import strategies as st
    except ImportError:

        class _Anything:
            """Stands for what a skipped test would draw from, or be told."""

            def __getattr__(self, name: str) -> _Anything:
                return self

            def __call__(self, *arguments: Any, **options: Any) -> _Anything:
                return self

        def _unchanged(*arguments: Any, **options: Any) -> Any:
            return lambda test: test

        def given(*arguments: Any, **options: Any) -> Any:
            """Skip the test."""
            return pytest.mark.skip(reason="hypothesis is not installed")

        HealthCheck = st = _Anything()
        example = settings = _unchanged

__all__ = ["HealthCheck", "example", "given", "settings", "st"]
