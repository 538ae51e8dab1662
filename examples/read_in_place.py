"""Look into every version of a file, without restoring any.

    python read_in_place.py [REPOSITORY PATH]

PATH is relative to the directory that was saved. Without arguments it works on a temporary directory.
"""

import sys
import tempfile
from pathlib import Path

from backuptool import Repository


def show_versions(repository: str, path: str) -> None:
    """Print the first line and the last byte of each version, and what else changed in the last night."""
    with Repository(repository) as repo:
        history = repo.history(path)
        for version in history:
            with (repo.tree(version.first) / path).open("rb") as file:
                first_line = file.readline(80)
                file.seek(max(0, version.entry.size_bytes - 1))
                print(f"snapshot {version.first}, {version.event}: {first_line!r} … {file.read()!r}")
        print(*history.problems, end="")
        sources = [(snapshot.host, snapshot.source) for snapshot in repo.list()]
        if sources.count(sources[-1]) > 1:
            print(*[f"last night: {found.status} {found.path or '.'}" for found in repo.diff("latest~1")], sep="\n")


if __name__ == "__main__":
    if len(sys.argv) not in (1, 3):
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as temporary, Repository(Path(temporary, "backups.db")) as example:
        for text in ("milk\n", "milk and bread\n") if len(sys.argv) == 1 else ():
            Path(temporary, "todo.txt").write_text(text, encoding="utf-8")
            example.snapshot(temporary)
        show_versions(*sys.argv[1:] or (str(example.path), "todo.txt"))
