"""The command ``restore``."""

from __future__ import annotations

import argparse

from backuptool import Repository, RestoreResult, format_size, printable

from .arguments import path, reference
from .options import selection, snapshot_number
from .phrases import count, details, dry_run_note, duration, problem_count, text_of
from .process import keep_memory, wants_bar

__all__ = ["EXAMPLE", "LEAVES_FILES", "add_options", "as_text", "run"]

EXAMPLE = "backuptool restore 2 /tmp/photos --include /2025/"

LEAVES_FILES = True


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command accepts."""
    option = parser.add_argument
    option(
        "given",
        metavar="SNAPSHOT DIRECTORY",
        nargs="*",
        type=path,
        help="the snapshot, and where to; or whichever of the two no option below names",
    )
    snapshot_number(option, default=None)
    made = "where to; it is made if it does not exist"
    option("--output-directory", metavar="DIRECTORY", type=path, help=made)
    selection(option, "restore")
    option(
        "--overwrite",
        choices=("always", "if-changed", "if-newer", "never"),
        default="if-changed",
        help="what to do with a file that is there already; if-changed compares size and time (default: %(default)s)",
    )
    option("--delete-extra", action="store_true", help="delete what the snapshot does not have")
    option("--dry-run", action="store_true", help="tell what would be done and write nothing")
    option("--verify", action="store_true", help="read every file back afterwards and compare it with its hash")


def run(repository: Repository, options: argparse.Namespace) -> RestoreResult:
    """Make the call."""
    keep_memory()
    snapshot, directory = _what_and_where(options)
    return repository.restore(
        snapshot,
        directory,
        include=options.include,
        exclude=options.exclude,
        overwrite=options.overwrite,
        delete_extra=options.delete_extra,
        dry_run=options.dry_run,
        verify=options.verify,
        progress=wants_bar(options),
    )


def _what_and_where(options: argparse.Namespace) -> tuple[int | str, str]:
    """Return the snapshot and the directory, be they named by options or in their order."""
    given: list[str] = list(options.given)
    snapshot: int | str | None = options.snapshot_number
    directory: str | None = options.output_directory
    if snapshot is None and given:
        snapshot = reference(given.pop(0))
    if directory is None and given:
        directory = given.pop(0)
    if snapshot is None or directory is None:
        what = "the snapshot, such as latest, and the directory" if snapshot is None else "the directory"
        raise argparse.ArgumentTypeError(f"name {what} to restore into: backuptool restore SNAPSHOT DIRECTORY")
    if given:
        raise argparse.ArgumentTypeError(f"{given[0]}: too much; name a part of the snapshot with --include")
    return snapshot, directory


def as_text(result: RestoreResult, *, verbose: bool = False) -> str:
    """Return what restoring did, or would do, in two to six lines."""
    written = "would be written" if result.dry_run else "written"
    lines = [
        f"Snapshot {result.snapshot.id} {'would be restored' if result.dry_run else 'restored'} to "
        + printable(result.destination),
        f"  {count(result.restored_files, 'file')} {written}, {format_size(result.written_bytes)}; "
        f"{count(result.unchanged_files, 'file')} already there; in {duration(result.elapsed_seconds)}",
    ]
    if verbose:
        directories = count(result.restored_directories, "directory", "directories")
        lines += ["  " + details(result.snapshot), f"  {directories} {written}"]
    if result.deleted_files:
        lines.append(f"  {result.deleted_files:,} extra {'would be deleted' if result.dry_run else 'deleted'}")
    if result.verified_files:
        lines.append(f"  {count(result.verified_files, 'file')} read back and compared")
    return text_of(lines + problem_count(result.problems) + dry_run_note(result.dry_run))
