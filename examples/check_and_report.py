"""Check a repository and print a report as JSON; the exit code is 1 if anything is damaged.

    python check_and_report.py [REPOSITORY]

Without arguments it damages a temporary one, to show what that looks like.
"""

import json
import sqlite3
import sys
import tempfile
from pathlib import Path

from backuptool import Repository


def check_and_report(repository: str) -> int:
    """Print what was checked and what is damaged, and return the number of problems."""
    with Repository(repository) as repo:
        report = repo.check()
    damaged = {problem.path: problem.snapshots for problem in report.problems if problem.path}
    print(json.dumps({"ok": report.ok, "read_bytes": report.read_bytes, "damaged": damaged}, indent=2))
    return len(report.problems)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        sys.exit(1 if check_and_report(sys.argv[1]) else 0)
    if len(sys.argv) > 2:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as temporary:
        database = Path(temporary, "backups.db")
        Path(temporary, "todo.txt").write_text("buy milk\n", encoding="utf-8")
        with Repository(database) as repo:
            repo.snapshot(temporary)
        assert check_and_report(str(database)) == 0
        with sqlite3.connect(database) as connection:
            connection.execute("UPDATE packs SET data = zeroblob(length(data))")  # what a dying disk might do
        connection.close()
        assert check_and_report(str(database)) == 1
