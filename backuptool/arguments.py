"""What the command line accepts: the parser, its help, and how arguments become values.

What is done with the parsed options is left to ``cli``.
"""

from __future__ import annotations

import argparse
import re
from typing import Any, NoReturn

from backuptool import DEFAULT_MAX_FILE_SIZE, __version__, printable

__all__ = ["build_parser", "parse_size"]

_SEVERAL: dict[str, Any] = {"action": "append", "default": []}


def parse_size(size: str) -> int:
    """Return the bytes that a size like ``10GiB``, ``500M``, ``1.5g`` or ``4096`` stands for.

    ``K``, ``M``, ``G``, ``T``, ``P``, alone or with ``iB``, are powers of 1024; ``KB``, ``MB`` and so on of 1000, as
    everywhere in GNU coreutils. A fraction of a byte is dropped.

    Raises:
        ValueError: It is no size.
    """
    match = re.fullmatch(r"([0-9]{1,18})(?:\.([0-9]{1,18}))? ?(?:([kmgtp])(i?b)?|b)?", size.strip(), re.IGNORECASE)
    if match is None:
        raise ValueError(f"not a size like 4096, 500M or 10GiB: {size!r}")
    whole, fraction, prefix, suffix = match.group(1), match.group(2) or "", match.group(3), match.group(4) or ""
    base = 1000 if suffix.lower() == "b" else 1024
    factor: int = base ** ("kmgtp".index(prefix.lower()) + 1) if prefix else 1
    scale: int = 10 ** len(fraction)
    return int(whole + fraction) * factor // scale


class _Parser(argparse.ArgumentParser):
    """A parser that shows examples as they are, wants options in full, and quotes arguments safely in its messages."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line; ``command`` in its result names the command."""
    parser = _Parser(
        prog="backuptool",
        description="Incremental, deduplicated backups of directories in one SQLite file.",
        epilog="""\
examples:
  backuptool snapshot --target-directory ~/photos
  backuptool list
  backuptool restore --snapshot-number latest --output-directory /tmp/photos
  backuptool prune --snapshot 1
  backuptool check

exit codes:
  0 done, 1 failed, 2 wrong usage, 3 done with problems, 10 no repository, 11 repository locked, 130 interrupted

"backuptool COMMAND --help" shows the options of a command.""",
    )
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", required=True, prog="backuptool"
    )
    for name, summary, example, add_options in (
        (
            "snapshot",
            "save the present state of a directory; the first one creates the repository",
            "backuptool snapshot --target-directory ~/photos --exclude '*.tmp' --note 'before the move'",
            _add_snapshot,
        ),
        ("list", "show the snapshots and their sizes", "backuptool --db-path /mnt/disk/backups.db list", _add_list),
        (
            "restore",
            "write a snapshot, or a part of it, into a directory",
            "backuptool restore --snapshot-number 2 --output-directory /tmp/photos --include /2025/",
            _add_restore,
        ),
        (
            "prune",
            "remove snapshots and give back the space that only they use",
            "backuptool prune --snapshot 1 2 --dry-run",
            _add_prune,
        ),
        (
            "check",
            "verify the repository and name what is damaged; nothing is changed",
            "backuptool check --quick",
            _add_check,
        ),
    ):
        command = commands.add_parser(
            name, help=summary, description=summary[0].upper() + summary[1:] + ".", epilog=f"example:\n  {example}"
        )
        add_options(command)
        _add_shared(command)
    _add_shared(parser)
    parser.set_defaults(db_path=None, lock_timeout=60.0, max_helpers=None, json=False, verbosity=0)
    return parser


def _add_shared(parser: argparse.ArgumentParser) -> None:
    """Add what is accepted before and after the command; without defaults, so that neither place undoes the other."""
    option = parser.add_argument_group("options of every command", argument_default=argparse.SUPPRESS).add_argument
    option(
        "--db-path",
        metavar="FILE",
        type=_path,
        help="the repository (default: $BACKUPTOOL_DB, else backups.db in the current directory)",
    )
    option("--json", action="store_true", help="print the result as one JSON document")
    quiet = "no progress bar and no summary; what went wrong is still told"
    option("-q", "--quiet", dest="verbosity", action="store_const", const=-1, help=quiet)
    option("-v", "--verbose", dest="verbosity", action="store_const", const=1, help="tell more")
    option(
        "--lock-timeout",
        metavar="SECONDS",
        type=_seconds,
        help="how long to wait for another process that is writing (default: 60)",
    )
    option(
        "--max-helpers",
        metavar="N",
        type=_count,
        help="how many processes may work beside this one (default: as many as there are processors)",
    )
    option("--version", action="version", version=f"backuptool {__version__}", help="show the version and exit")


def _add_snapshot(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--target-directory", metavar="DIRECTORY", type=_path, required=True, help="the directory to save")
    option(
        "--exclude",
        metavar="PATTERN",
        **_SEVERAL,
        help="leave out what matches, as in a .gitignore file; may be given several times",
    )
    option(
        "--exclude-from",
        metavar="FILE",
        type=_path,
        **_SEVERAL,
        help="leave out what matches a pattern in this file; may be given several times",
    )
    option(
        "--exclude-if-present",
        metavar="NAME",
        **_SEVERAL,
        help="leave out what is in directories that hold a file of this name; may be given several times",
    )
    option("--exclude-caches", action="store_true", help="leave out what is in directories with a CACHEDIR.TAG file")
    option(
        "--exclude-larger-than",
        metavar="SIZE",
        type=_size,
        help="leave out files above this size without naming them (sizes: 4096, 500M, 10GiB)",
    )
    option(
        "--max-file-size",
        metavar="SIZE|none",
        type=_size_or_none,
        default=DEFAULT_MAX_FILE_SIZE,
        help="skip files above this size and name each (default: 1GiB)",
    )
    option("--one-file-system", action="store_true", help="save mount points as empty directories")
    option(
        "--compression",
        choices=("fast", "balanced", "max"),
        default="balanced",
        help="how hard to compress what is new (default: balanced)",
    )
    option("--note", metavar="TEXT", default="", help="free text kept with the snapshot")
    option("--tag", metavar="TAG", **_SEVERAL, help="a word kept with the snapshot; may be given several times")
    option("--host", metavar="NAME", help="name of the machine (default: its host name)")


def _add_list(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--source", metavar="DIRECTORY", type=_path, help="only snapshots of this directory")
    option("--host", metavar="NAME", help="only snapshots taken on this machine")
    option("--tag", metavar="TAG", help="only snapshots with this tag")


def _add_restore(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option(
        "--snapshot-number",
        metavar="N|latest",
        type=_reference,
        required=True,
        help="the snapshot, as numbered by list, or the word latest",
    )
    made = "where to; it is made if it does not exist"
    option("--output-directory", metavar="DIRECTORY", type=_path, required=True, help=made)
    several = "this path, or what matches; may be given several times"
    option("--include", metavar="PATTERN", **_SEVERAL, help=f"restore only {several}")
    option("--exclude", metavar="PATTERN", **_SEVERAL, help=f"leave out {several}")
    option(
        "--overwrite",
        choices=("always", "if-changed", "if-newer", "never"),
        default="if-changed",
        help="what to do with a file that is there already; if-changed compares size and time (default: %(default)s)",
    )
    option("--delete-extra", action="store_true", help="delete what the snapshot does not have")
    option("--dry-run", action="store_true", help="tell what would be done and write nothing")
    option("--verify", action="store_true", help="read every file back afterwards and compare it with its hash")


def _add_prune(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option(
        "--snapshot",
        metavar="N",
        type=_number,
        nargs="+",
        action="extend",
        default=[],
        help="the snapshots to remove; without it, only leftovers of interrupted snapshots are removed",
    )
    option("--dry-run", action="store_true", help="tell what would be removed and freed, and change nothing")


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="check the catalog alone and leave the data unread")


def _path(argument: str) -> str:
    if not argument:  # an unset variable in a script must not come to mean the current directory
        raise argparse.ArgumentTypeError("an empty path names nothing")
    return argument


def _number(argument: str) -> int:
    if re.fullmatch("[0-9]{1,18}", argument) is None:
        raise argparse.ArgumentTypeError(f"not a snapshot number: {argument!r}")
    return int(argument)


def _reference(argument: str) -> int | str:
    return argument if argument == "latest" else _number(argument)


def _size(argument: str) -> int:
    try:
        return parse_size(argument)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _size_or_none(argument: str) -> int | None:
    return None if argument.lower() == "none" else _size(argument)


def _count(argument: str) -> int:
    if re.fullmatch(r"[0-9]{1,6}", argument) is None:
        raise argparse.ArgumentTypeError(f"not a number of 0 or more: {argument!r}")
    return int(argument)


def _seconds(argument: str) -> float:
    if re.fullmatch(r"[0-9]{1,6}(\.[0-9]*)?", argument) is None:
        raise argparse.ArgumentTypeError(f"not a number of seconds: {argument!r}")
    return float(argument)
