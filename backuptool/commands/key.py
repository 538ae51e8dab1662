"""The command ``key``."""

from __future__ import annotations

import argparse

from backuptool import KeyList, Repository, printable

from .arguments import path, text
from .passwords import ask_new, read_password
from .phrases import count, text_of

__all__ = ["EXAMPLE", "add_options", "as_text", "run"]

EXAMPLE = "backuptool key add --new-password-file ~/.backup-key --label 'key file'"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command accepts."""
    option = parser.add_argument
    option("action", choices=("list", "add", "remove"), help="what to do")
    option("id", nargs="?", help="of remove: the id that list shows, or its beginning")
    option("--new-password-file", metavar="FILE", type=path, help="of add: a file with the new password, or a key file")
    option("--new-password-command", metavar="COMMAND", help="of add: a shell command that prints the new password")
    option("--label", metavar="TEXT", type=text, default="", help="of add: what to call it, in clear")


def run(repository: Repository, options: argparse.Namespace) -> KeyList:
    """Make the call."""
    if (options.action == "remove") != (options.id is not None):
        raise argparse.ArgumentTypeError("remove takes the id of what is to be removed, list and add take none")
    if options.action == "remove":
        return repository.remove_key(options.id)
    if options.action == "add":
        repository.keys()  # a wrong password is told before a new one is asked for
        password = read_password(repository.path, options.new_password_file, options.new_password_command)
        return repository.add_key(ask_new(repository.path) if password is None else password, label=options.label)
    return repository.keys()


def as_text(result: KeyList, *, verbose: bool = False) -> str:
    """Return the passwords, one a line, behind what was done to them."""
    lines = [f"Added {result.added}"] * bool(result.added) + [f"Removed {result.removed}"] * bool(result.removed)
    lines.append(f"{count(len(result), 'password opens', 'passwords open')} the repository")
    for key in result:
        used = ", in use" if key.in_use else ""
        label = f"  {printable(key.label)}" if key.label else ""
        lines.append(f"  {key.id}  added {key.created:%Y-%m-%d %H:%M:%S}{used}{label}")
    return text_of(lines)
