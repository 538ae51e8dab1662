"""Save results out of a running program, without writing them to a directory first; then read one of them back.

    python save_from_memory.py [REPOSITORY]

Without an argument it works in a temporary directory.
"""

import io
import json
import sys
import tempfile
from pathlib import Path

from backuptool import Repository


def save_from_memory(repository: str, scratch: str) -> None:
    """Save a table that is made line by line, and a few parameters; twice."""
    with Repository(repository) as repo:
        for rows in (1000, 2000):
            table = io.BytesIO(b"".join(b"%d,%d\n" % (number, number**2) for number in range(rows)))
            parameters = json.dumps({"rows": rows}).encode()
            print(repo.snapshot_files({"squares.csv": table, "parameters.json": parameters}, name="squares"))
        first, _ = repo.list(source="files:squares")
        repo.restore(first.id, scratch, include=["/parameters.json"])
        print(Path(scratch, "parameters.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as temporary:
        save_from_memory(sys.argv[1] if len(sys.argv) > 1 else str(Path(temporary, "backups.db")), temporary)
