"""The command ``cat``."""

from __future__ import annotations

import argparse
from typing import Any, Iterator

from backuptool import Repository, Result, SnapshotPath

from .arguments import path
from .options import of_a_snapshot, snapshot_number
from .phrases import text_of

__all__ = ["EXAMPLE", "IS_ANSWER", "add_options", "as_bytes", "as_text", "run"]

EXAMPLE = "backuptool cat --snapshot-number 2 drafts/plan.txt"

IS_ANSWER = True

#: Bytes that are read and written at a time.
_PIECE = 1 << 18


class Files(Result):
    """Files of a snapshot, which are read when they are shown."""

    def __init__(self, files: list[SnapshotPath]) -> None:
        self.files = files

    def to_dict(self) -> dict[str, Any]:
        """Return what is known of each file, and its bytes as text in which those that are not UTF-8 are surrogates."""
        return {"files": [{**file.entry.to_dict(), "text": _text(file)} for file in self.files]}


def _text(file: SnapshotPath) -> str:
    return file.read_bytes().decode("utf-8", "surrogateescape")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command accepts."""
    option = parser.add_argument
    option("path", metavar="PATH", nargs="+", type=path, help="the files, one written behind the other")
    snapshot_number(option)


def run(repository: Repository, options: argparse.Namespace) -> Files:
    """Make the call."""
    tree = repository.tree(options.snapshot_number)
    files = []
    for name in options.path:
        with of_a_snapshot(name):
            listed = repository.ls(tree.snapshot, name)
        file = tree / listed.path
        file.open("rb").close()  # an error before anything is written
        files.append(file)
    return Files(files)


def as_bytes(result: Files) -> Iterator[bytes]:
    """Yield the bytes of the files."""
    for file in result.files:
        with file.open("rb") as stream:
            piece = stream.read(_PIECE)
            while piece:
                yield piece
                piece = stream.read(_PIECE)


def as_text(result: Files, *, verbose: bool = False) -> str:
    """Return the names of the files: their bytes are no text."""
    return text_of([repr(file) for file in result.files])
