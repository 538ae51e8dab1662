"""Take a snapshot of a directory, list what there is, and restore it.

    python first_backup.py [DIRECTORY REPOSITORY OUTPUT]

Without arguments it works on a temporary directory.
"""

import sys
import tempfile
from pathlib import Path

from backuptool import Repository


def first_backup(directory: str, repository: str, output: str) -> None:
    """Save a directory, show all snapshots, and write the new one into another directory."""
    with Repository(repository) as repo:
        result = repo.snapshot(directory, note="my first backup")
        print(result)
        for problem in result.problems:  # what could not be read; the rest is saved
            print("problem:", problem)

        for snapshot in repo.list():
            print(f"{snapshot.id}: {snapshot.time:%Y-%m-%d %H:%M}, {snapshot.files} files, {snapshot.note}")

        print(repo.restore(result.snapshot.id, output, verify=True))


if __name__ == "__main__":
    if len(sys.argv) == 4:
        first_backup(*sys.argv[1:])
    elif len(sys.argv) > 1:
        sys.exit(__doc__)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            place = Path(temporary)
            (place / "notes").mkdir()
            (place / "notes" / "todo.txt").write_text("buy milk\n", encoding="utf-8")
            first_backup(str(place / "notes"), str(place / "backups.db"), str(place / "restored"))
            print((place / "restored" / "todo.txt").read_text(encoding="utf-8"), end="")
