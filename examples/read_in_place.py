"""Look into every version of a file, without restoring any.

    python read_in_place.py [REPOSITORY PATH]

PATH is relative to the directory that was saved. Without arguments it works on a temporary directory.
"""

import sys
import tempfile
from pathlib import Path

from backuptool import Repository


def show_versions(repository: str, path: str) -> None:
    """Print when each version was there, and its first line and last byte."""
    with Repository(repository) as repo:
        for version in repo.history(path):
            there = repo.tree(version.first) / path
            with there.open("rb") as file:
                first_line = file.readline(80)
                file.seek(-1, 2)
                last_byte = file.read()
            print(f"snapshots {version.first} to {version.last}, {version.event}: {first_line!r} … {last_byte!r}")
        for difference in repo.diff("latest~1"):
            print(f"last night: {difference.status} {difference.path}")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        show_versions(*sys.argv[1:])
    else:
        with tempfile.TemporaryDirectory() as temporary:
            notes, database = Path(temporary, "notes"), str(Path(temporary, "backups.db"))
            notes.mkdir()
            for text in ("milk\n", "milk and bread\n"):
                notes.joinpath("todo.txt").write_text(text, encoding="utf-8")
                with Repository(database) as repo:
                    repo.snapshot(notes)
            show_versions(database, "todo.txt")
