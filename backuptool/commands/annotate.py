"""The command ``annotate``."""

from __future__ import annotations

import argparse

from backuptool import Repository, Snapshot

from .arguments import SEVERAL, reference, tag, text
from .phrases import details, text_of

__all__ = ["EXAMPLE", "add_options", "as_text", "run"]

EXAMPLE = "backuptool annotate --snapshot latest --pin --note 'before the upgrade'"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command accepts."""
    option = parser.add_argument
    option("--snapshot", metavar="N|latest", type=reference, required=True, help="the snapshot")
    option("--note", metavar="TEXT", type=text, help="its new note; an empty one for none")
    option("--add-tag", metavar="TAG", type=tag, **SEVERAL, help="a word to keep with it; may be given several times")
    option("--remove-tag", metavar="TAG", type=text, **SEVERAL, help="a word to take away; may be given several times")
    pin = parser.add_mutually_exclusive_group().add_argument
    pin("--pin", dest="pinned", action="store_true", default=None, help="have it removed only after it was unpinned")
    pin("--unpin", dest="pinned", action="store_false", default=None, help="let it be removed like any other")
    option(
        "--acknowledge",
        action="store_true",
        help="say that its alerts are known: until then rules keep it, and the one before it",
    )


def run(repository: Repository, options: argparse.Namespace) -> Snapshot:
    """Make the call."""
    return repository.annotate(
        options.snapshot,
        note=options.note,
        add_tags=options.add_tag,
        remove_tags=options.remove_tag,
        pinned=options.pinned,
        acknowledge=options.acknowledge,
    )


def as_text(snapshot: Snapshot, *, verbose: bool = False) -> str:
    """Return the snapshot as it is now, in one or two lines."""
    lines = [f"Snapshot {snapshot.id}: {details(snapshot)}"]
    return text_of(lines + ([f"  digest {snapshot.digest}"] if verbose else []))
