"""The manual page, made from the parser: ``python -m backuptool.commands.manual > docs/backuptool.1``.

Owns what a manual page says beside the help texts. A test compares the page in ``docs`` with what comes out here.
"""

from __future__ import annotations

import argparse
import sys
from typing import Iterator

from backuptool import __version__

from . import COMMANDS, load
from .parser import build_parser

__all__ = ["manual_page"]

_SHARED = "options of every command"

_DESCRIPTION = """\
saves the state of a directory, again and again, into one SQLite file, the repository. Each snapshot is complete to look
at and incremental in cost: what has not changed is not read, and what is there already is not stored again."""

_EXIT_STATUS = (
    ("0", "Done."),
    ("1", "Failed: nothing, or not all, could be done; the error says what and why."),
    ("2", "Wrong usage."),
    ("3", "Done, with problems or alerts: each is named on standard error; the rest was done."),
    ("10", "There is no repository. snapshot and import create one, and copy its destination."),
    ("11", "The repository was in use by another process for longer than the lock timeout."),
    ("12", "The repository is encrypted, and the password is wrong or was not given."),
    ("130", "Interrupted."),
)

_ENVIRONMENT = (
    ("BACKUPTOOL_DB", "The repository where --db-path is not given."),
    (
        "BACKUPTOOL_PASSWORD",
        "The password of an encrypted repository, where neither --password-file nor --password-command is given.",
    ),
    (
        "XDG_STATE_HOME",
        "In backuptool below it is what is remembered of encrypted repositories. By default it is ~/.local/state.",
    ),
    ("NO_COLOR", "If it is set and not empty, no colour."),
    ("TZ", "The time zone of the times that are shown."),
)

_FILES = (
    ("backups.db", "The repository in the current directory, unless another one is named."),
    ("~/.local/state/backuptool", "What is remembered of encrypted repositories, to know an older copy of one."),
    ("backups.db-journal", "SQLite's journal: it belongs to the repository if it is not empty."),
)


def manual_page() -> str:
    """Return the page as troff with the macros of man(7)."""
    return "\n".join(_lines(build_parser())) + "\n"


def _lines(parser: argparse.ArgumentParser) -> Iterator[str]:
    commands = _commands(parser)
    yield f'.TH BACKUPTOOL 1 "" "backuptool {__version__}" "User Commands"'
    yield ".SH NAME"
    yield "backuptool \\- incremental, deduplicated backups of directories in one SQLite file"
    yield ".SH SYNOPSIS"
    yield ".B backuptool"
    yield ".RI [ options ]"
    yield ".I COMMAND"
    yield ".RI [ options ]"
    yield ".SH DESCRIPTION"
    yield ".B backuptool"
    yield _text(_DESCRIPTION)
    yield ".SH COMMANDS"
    for name, summary in COMMANDS.items():
        yield f".SS {_text(name)}"
        yield _text(f"{summary[0].upper()}{summary[1:]}.")
        for action in _own(commands[name]):
            yield from _option(action, commands[name])
        yield ".PP"
        yield "Example:"
        yield ".PP"
        yield ".RS 4"
        yield ".nf"
        yield _text(load(name).EXAMPLE)
        yield ".fi"
        yield ".RE"
    yield ".SH OPTIONS OF EVERY COMMAND"
    yield "They are accepted before and after the command."
    for action in next(group for group in parser._action_groups if group.title == _SHARED)._group_actions:
        yield from _option(action, parser)
    for title, entries in (("EXIT STATUS", _EXIT_STATUS), ("ENVIRONMENT", _ENVIRONMENT), ("FILES", _FILES)):
        yield f".SH {title}"
        for term, meaning in entries:
            yield from (".TP", f".B {_text(term)}", _text(meaning))
    yield ".SH SEE ALSO"
    yield ".BR sqlite3 (1),"
    yield ".BR tar (1)"


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise AssertionError("the parser has no commands")


def _own(command: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield what only this command accepts."""
    for group in command._action_groups:
        if group.title != _SHARED:
            for action in group._group_actions:
                if "--help" not in action.option_strings:
                    yield action


def _option(action: argparse.Action, parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield an option as a paragraph with a tag."""
    formatter = parser._get_formatter()
    values = ""
    if action.nargs != 0:
        name = action.metavar or (action.choices and "|".join(map(str, action.choices))) or action.dest.upper()
        values = str(name) + (" ..." if action.nargs == "+" else "")
    names = ", ".join(f"\\fB{_text(name)}\\fR" for name in action.option_strings)
    yield ".TP"
    yield " ".join(filter(None, [names, f"\\fI{_text(values)}\\fR" if values else ""]))
    meaning = formatter._expand_help(action) if action.help else ""
    yield _text(meaning[:1].upper() + meaning[1:] + ("" if meaning.endswith(".") else "."))


def _text(text: str) -> str:
    """Return text in which nothing means anything to troff."""
    text = " ".join(text.split()).replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text[:1] in (".", "'") else text


if __name__ == "__main__":  # pragma: no cover
    sys.stdout.write(manual_page())
