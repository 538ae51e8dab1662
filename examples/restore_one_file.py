"""Restore every saved version of one file, the newest last.

    python restore_one_file.py [REPOSITORY PATH OUTPUT]

PATH is relative to the directory that was saved. Without arguments it works on a temporary directory.
"""

import sys
import tempfile
from pathlib import Path

from backuptool import Repository


def restore_versions(repository: str, path: str, output: str) -> None:
    """Write the file as each snapshot has it into a directory named after the snapshot."""
    with Repository(repository) as repo:
        for snapshot in repo.list():
            place = Path(output, str(snapshot.id))
            result = repo.restore(snapshot.id, place, include=["/" + path])  # the slash: no other one of its name
            if result.restored_files:
                print(f"snapshot {snapshot.id} of {snapshot.time:%Y-%m-%d %H:%M}: {place / path}")


if __name__ == "__main__":
    if len(sys.argv) == 4:
        restore_versions(*sys.argv[1:])
    elif len(sys.argv) > 1:
        sys.exit(__doc__)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            source, database, out = (str(Path(temporary, name)) for name in ("notes", "backups.db", "out"))
            Path(source, "drafts").mkdir(parents=True)
            for text in ("first draft\n", "second draft\n"):
                Path(source, "drafts", "plan.txt").write_text(text, encoding="utf-8")
                with Repository(database) as repo:
                    repo.snapshot(source)
            restore_versions(database, "drafts/plan.txt", out)
            for number in ("1", "2"):
                print(number, Path(out, number, "drafts", "plan.txt").read_text(encoding="utf-8"), end="")
