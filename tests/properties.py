"""Hypothesis where it is installed; where it is not, the tests that need it are skipped and the others run.

Owns the stand-ins. Tests import from here what they would import from hypothesis.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from hypothesis import HealthCheck, example, given, settings
    from hypothesis import strategies as st
else:
    try:
        from hypothesis import HealthCheck, example, given, settings
        from hypothesis import strategies as st

        # Where many tests run at once everything is slow. The gate gives one verdict on one state of the code: it draws
        # the same examples each time, and everybody else new ones.
        settings.register_profile(
            "backuptool",
            deadline=None,
            derandomize=bool(os.environ.get("CI")),
            suppress_health_check=[HealthCheck.too_slow],
        )
        settings.load_profile("backuptool")
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
