"""Running commands: in this process, as the console script does, or in one of their own."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Dict, List

import attrs
import pytest

import backuptool
from backuptool.cli import main

__all__ = ["ESCAPE", "ESCAPED", "Outcome", "Runner", "command", "environment"]

#: What must not reach a terminal as it is, and how it is shown.
ESCAPE = "\x1b[31m\u202ered"
ESCAPED = r"\x1b[31m\u202ered"


@attrs.frozen
class Outcome:
    """What a command left behind: its exit code, what it wrote on standard output, and what on standard error."""

    code: int
    data: bytes
    err: str

    @property
    def out(self) -> str:
        return self.data.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.data)


class Runner:
    """Runs commands in this process."""

    def __init__(self, capture: pytest.CaptureFixture[bytes]) -> None:
        self._capture = capture

    def __call__(self, *arguments: str) -> Outcome:
        self._capture.readouterr()
        code = main(arguments)
        captured = self._capture.readouterr()
        return Outcome(code, captured.out, captured.err.decode())


def command(*arguments: str) -> List[str]:
    """What runs a command in a process of its own."""
    return [sys.executable, "-m", "backuptool", *arguments]


def environment(**more: str) -> Dict[str, str]:
    """The variables with which that finds the package, wherever it runs."""
    return {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(backuptool.__file__)), **more}
