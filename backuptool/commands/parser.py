"""The parser of the command line: what is said before a command, and what every command accepts.

Owns help texts and shared options. The options of a command stand in its own module, imported when it is named.
"""

from __future__ import annotations

import argparse
from typing import Any, NoReturn, Sequence

from backuptool import __version__, printable

from . import COMMANDS, load
from .arguments import number_of, path, seconds

__all__ = ["build_parser"]


class _Parser(argparse.ArgumentParser):
    """A parser that shows examples as they are, wants options in full, and quotes arguments safely in its messages."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


def build_parser(argv: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """Return the parser of the command line; ``command`` in its result names the command.

    Args:
        argv: What is to be parsed: only commands that are named in it get their options. By default all do.
    """
    parser = _Parser(
        prog="backuptool",
        description="Incremental, deduplicated backups of directories in one SQLite file.",
        epilog="""\
examples:
  backuptool snapshot ~/photos
  backuptool list
  backuptool history todo.txt
  backuptool find '*.pdf'
  backuptool ls drafts
  backuptool cat drafts/plan.txt
  backuptool diff 1 2
  backuptool restore latest /tmp/photos
  backuptool prune --keep-daily 7 --keep-monthly 12
  backuptool check

exit codes:
  0 done, 1 failed, 2 wrong usage, 3 done with problems or alerts, 10 no repository, 11 repository locked,
  12 wrong password, 130 interrupted

"backuptool COMMAND --help" shows the options of a command.""",
    )
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", required=True, prog="backuptool"
    )
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if argv is None or name in argv:
            module = load(name)
            command.epilog = f"example:\n  {module.EXAMPLE}"
            module.add_options(command)
            _add_shared(command)
    _add_shared(parser)
    parser.set_defaults(db_path=None, lock_timeout=60.0, max_helpers=None, json=False, verbosity=0)
    parser.set_defaults(password_file=None, password_command=None)
    return parser


def _add_shared(parser: argparse.ArgumentParser) -> None:
    """Add what is accepted before and after the command; without defaults, so that neither place undoes the other."""
    option = parser.add_argument_group("options of every command", argument_default=argparse.SUPPRESS).add_argument
    option(
        "--db-path",
        metavar="FILE",
        type=path,
        help="the repository (default: $BACKUPTOOL_DB, else backups.db in the current directory)",
    )
    option("--password-file", metavar="FILE", type=path, help="a file with the password of an encrypted repository")
    option(
        "--password-command",
        metavar="COMMAND",
        help="a shell command that prints it (default: $BACKUPTOOL_PASSWORD, else it is asked for on a terminal)",
    )
    option("--json", action="store_true", help="print the result as one JSON document")
    quiet = "no progress bar and no summary; what went wrong is still told"
    option("-q", "--quiet", dest="verbosity", action="store_const", const=-1, help=quiet)
    option("-v", "--verbose", dest="verbosity", action="store_const", const=1, help="tell more")
    option(
        "--lock-timeout",
        metavar="SECONDS",
        type=seconds,
        help="how long to wait for another process that is writing (default: 60)",
    )
    option(
        "--max-helpers",
        metavar="N",
        type=number_of,
        help="how many processes may work beside this one (default: as many as there are processors)",
    )
    option("--version", action="version", version=f"backuptool {__version__}", help="show the version and exit")
