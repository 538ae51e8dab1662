"""Options that more than one command has: they read alike wherever they are.

Owns their names and texts. What their values mean is arguments' business, which commands have them each command's.
Each function takes the ``add_argument`` of a parser or of a group.
"""

from __future__ import annotations

import argparse
import contextlib
from typing import Any, Callable, Iterator

from backuptool import BackuptoolError, PathNotFoundError

from .arguments import SEVERAL, path, reference, tag, text

__all__ = ["compression", "described", "description", "of_a_snapshot", "of_source", "selection", "snapshot_number"]


def snapshot_number(option: Callable[..., object], *, default: str | None = "latest") -> None:
    """Add ``--snapshot-number``."""
    text = "the snapshot, as numbered by list, or the word latest; latest:DIRECTORY is the newest one of that"
    text += f" (default: {default})" if default else ""
    option("--snapshot-number", metavar="N|latest", type=reference, default=default, help=text)


@contextlib.contextmanager
def of_a_snapshot(path: str) -> Iterator[None]:
    """Where there is no such path, and it is called as a snapshot is, tell how one is named."""
    try:
        yield
    except PathNotFoundError as error:
        try:
            reference(path)
        except argparse.ArgumentTypeError:
            raise error from None
        raise BackuptoolError(f"{error}; a snapshot is named with --snapshot-number {path}") from error


def of_source(option: Callable[..., object]) -> None:
    """Add ``--source`` and ``--host``, which limit a question to some snapshots."""
    option("--source", metavar="DIRECTORY", type=path, help="only snapshots of this directory")
    option("--host", metavar="NAME", type=text, help="only snapshots taken on this machine")


def selection(option: Callable[..., object], verb: str) -> None:
    """Add ``--include`` and ``--exclude``, which say what of a snapshot is wanted."""
    several = "this path, or what matches; may be given several times"
    option("--include", metavar="PATTERN", **SEVERAL, help=f"{verb} only {several}")
    option("--exclude", metavar="PATTERN", **SEVERAL, help=f"leave out {several}")


def compression(option: Callable[..., object], text: str, default: str | None = None) -> None:
    """Add ``--compression``."""
    text += f" (default: {default})" if default else ""
    option("--compression", choices=("fast", "balanced", "max"), default=default, help=text)


def description(option: Callable[..., object]) -> None:
    """Add what is said of a snapshot that is taken; :func:`described` passes it on."""
    option("--note", metavar="TEXT", type=text, default="", help="free text kept with the snapshot")
    option(
        "--tag", metavar="TAG", type=tag, **SEVERAL, help="a word kept with the snapshot; may be given several times"
    )
    option("--pin", action="store_true", help="have the snapshot removed only after it was unpinned")
    option("--host", metavar="NAME", type=text, help="name of the machine (default: its host name)")
    option("--existing", action="store_true", help="make no repository where there is none: its disk may be missing")


def described(options: argparse.Namespace) -> dict[str, Any]:
    """Return what was said of a snapshot that is taken, and how hard to compress it, as the library takes it."""
    return {
        "compression": options.compression,
        "note": options.note,
        "tags": options.tag,
        "pinned": options.pin,
        "host": options.host,
    }
