"""Tell which sources were not proven restorable lately; the exit code is 1 if there are any, or none to be proven.

    python proven_lately.py [REPOSITORY DAYS]

Without arguments it shows what it does on a source of its own.
"""

import sys
import tempfile
import time
from pathlib import Path

from backuptool import Repository, printable

DAY_NS = 86_400 * 1_000_000_000


def main(database: str, days: int) -> int:
    """Print the last time of each source that is late, and return 1 if there is one."""
    with Repository(database) as repo:
        snapshots = repo.list()
    proven = {(drill.host, drill.source): drill.finished_ns for drill in snapshots.drills if drill.ok}
    sources = sorted({(snapshot.host, snapshot.source) for snapshot in snapshots})
    ages = {source: (time.time_ns() - proven.get(source, 0)) / DAY_NS for source in sources}
    late = [source for source in sources if ages[source] > days]
    for source in late:
        print(printable(":".join(source)), f"{ages[source]:.1f} days ago" if source in proven else "never proven")
    print(f"{len(late)} of them late" if late else "all proven lately" if sources else "nothing is saved there")
    return 0 if sources and not late else 1


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[2].isdecimal():
        sys.exit(main(sys.argv[1], int(sys.argv[2])))
    if len(sys.argv) > 1:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as place, Repository(Path(place, "backups.db")) as example:
        example.snapshot(place)
        print(example.drill())
        main(str(example.path), 30)
