"""Tell which sources were not proven restorable lately; the exit code is 1 if there are any.

Run it as: python proven_lately.py backups.db 30
Without arguments it shows what it does on a source of its own.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from backuptool import Repository, printable

DAY_NS = 86_400 * 1_000_000_000


def main(database: str, days: float) -> int:
    with Repository(database) as repo:
        snapshots = repo.list()
    proven = {(drill.host, drill.source): drill.finished_ns for drill in snapshots.drills if drill.ok}
    late = 0
    for host, source in sorted({(snapshot.host, snapshot.source) for snapshot in snapshots}):
        age = (time.time_ns() - proven.get((host, source), 0)) / DAY_NS
        if age > days:
            late += 1
            print(printable(f"{host}:{source}: " + ("never proven" if age > 10_000 else f"{age:.1f} days ago")))
    print(f"{late} of them late" if late else "all proven lately")
    return 1 if late else 0


if __name__ == "__main__":
    if len(sys.argv) == 3:
        sys.exit(main(sys.argv[1], float(sys.argv[2])))
    with tempfile.TemporaryDirectory() as place, Repository(f"{place}/backups.db") as repository:
        (Path(place) / "source").mkdir()
        repository.snapshot(f"{place}/source")
        repository.drill()
        main(repository.path, 30)
