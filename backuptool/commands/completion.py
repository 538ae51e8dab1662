"""The command ``completion``: a script by which a shell completes commands, options and file names.

It says nothing of a repository, and opens none. The script is made by shtab, which only this command needs.
"""

from __future__ import annotations

import argparse
import importlib
import re
from typing import Any

import attrs

from backuptool import BackuptoolError, Repository, Result

__all__ = ["EXAMPLE", "add_options", "as_text", "run"]

EXAMPLE = "backuptool completion bash > ~/.local/share/bash-completion/completions/backuptool"

_SHELLS = ("bash", "zsh", "tcsh", "fish")


@attrs.frozen(kw_only=True, repr=False)
class _Script(Result):
    """A script.

    Attributes:
        shell: What it is for.
        script: Its text.
    """

    shell: str
    script: str

    def _headline(self) -> str:
        return self.shell


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command accepts."""
    parser.add_argument("shell", choices=_SHELLS, help="the shell that the script is for")


def run(repository: Repository, options: argparse.Namespace) -> Result:
    """Make the script of all commands and options that there are."""
    from .parser import build_parser

    try:
        shtab: Any = importlib.import_module("shtab")
    except ImportError:
        raise BackuptoolError(
            "completion needs the package shtab, which is not installed; run: pip install 'shtab>=1.6'"
        ) from None
    if options.shell not in shtab.SUPPORTED_SHELLS:
        known = ", ".join(shell for shell in _SHELLS if shell in shtab.SUPPORTED_SHELLS)
        raise BackuptoolError(f"the installed version of shtab knows {known}; install a newer one for {options.shell}")
    parser = build_parser()
    _mark_paths(parser, shtab)
    return _Script(shell=options.shell, script=shtab.complete(parser, options.shell).rstrip("\n") + "\n")


def as_text(result: _Script, *, verbose: bool = False) -> str:
    """Return the script."""
    return result.script


def _mark_paths(parser: argparse.ArgumentParser, shtab: Any) -> None:
    """Let what is called a file or a directory be completed as such."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _mark_paths(command, shtab)
        elif isinstance(action.metavar, str):
            words = re.findall("[A-Z]+", action.metavar)  # of one in several parts, such as FILE|-, SNAPSHOT DIRECTORY
            for word, kind in (("FILE", shtab.FILE), ("DIRECTORY", shtab.DIRECTORY)):
                if word in words:
                    action.complete = kind  # type: ignore[attr-defined]
