"""The command ``copy``."""

from __future__ import annotations

import argparse
import os

from backuptool import CopyResult, Repository, RepositoryError, RepositoryNotFoundError, format_size, printable

from .arguments import path, reference
from .options import compression
from .passwords import read_password
from .phrases import count, duration, problem_count, text_of
from .process import give_memory_back, wants_bar

__all__ = ["EXAMPLE", "add_options", "as_text", "run"]

EXAMPLE = "backuptool copy --destination /mnt/disk/backups.db --snapshot 1 2"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command accepts."""
    option = parser.add_argument
    option(
        "--destination",
        metavar="FILE",
        type=path,
        required=True,
        help="the repository to copy into; it is created if there is none",
    )
    option("--destination-password-file", metavar="FILE", type=path, help="a file with the password of that repository")
    option(
        "--destination-password-command",
        metavar="COMMAND",
        help="a shell command that prints it (default: the password of the repository that is copied, if it has one)",
    )
    option("--destination-plain", action="store_true", help="what is copied there is not encrypted")
    option("--existing", action="store_true", help="make none where there is none: its disk may be missing")
    option(
        "--snapshot",
        metavar="N|latest",
        type=reference,
        nargs="+",
        action="extend",
        default=None,
        help="the snapshots to copy; without it, all",
    )
    option(
        "--incomplete",
        action="store_true",
        help="copy damaged snapshots as well, without what is damaged, and mark them with the tag incomplete",
    )
    as_they_are = "take packs as they are where they are wanted as a whole"
    compression(option, f"compress everything anew, so hard (default: {as_they_are})")


def run(repository: Repository, options: argparse.Namespace) -> CopyResult:
    """Make the call."""
    give_memory_back()
    return repository.copy(
        _destination(options),
        options.snapshot,
        incomplete=options.incomplete,
        compression=options.compression,
        progress=wants_bar(options),
    )


def _destination(options: argparse.Namespace) -> str | Repository:
    file = options.destination
    if options.existing and not os.path.lexists(os.path.expanduser(file)):
        raise RepositoryNotFoundError(
            f"there is no repository at {file}, and none is to be made: nothing was copied; see "
            "whether its disk is mounted",
            file,
        )
    password = read_password(file, options.destination_password_file, options.destination_password_command)
    if password is not None and options.destination_plain:
        raise RepositoryError("with a password the destination is encrypted, so it is not plain", file)
    if password is None and not options.destination_plain:
        return str(file)
    return Repository(
        file, password=password, lock_timeout=options.lock_timeout, state_directory=options.state_directory
    )


def as_text(result: CopyResult, *, verbose: bool = False) -> str:
    """Return what was copied, in two or more lines."""
    there = f", {result.present_snapshots:,} there before" if result.present_snapshots else ""
    lines = [
        f"{count(result.copied_snapshots, 'snapshot')} copied to {printable(result.destination)}{there}",
        f"  {count(result.copied_versions, 'file version')}; {format_size(result.new_bytes)} new, "
        f"{format_size(result.stored_bytes)} stored; in {duration(result.elapsed_seconds)}",
    ]
    if verbose:
        lines.append(f"  {count(result.whole_packs, 'pack')} taken as they are")
        lines += [
            f"  {copied.original.id} is {copied.snapshot.id}{' (there before)' if copied.was_there else ''}"
            for copied in result.copies
        ]
    return text_of(lines + problem_count(result.problems))
