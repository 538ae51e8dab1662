"""What a nightly job does: save directories, prune by rules, check, and tell by the exit code.

    python nightly_run.py [REPOSITORY DIRECTORY...]

Without arguments it works on a temporary directory.
"""

import sys
import tempfile
from pathlib import Path
from typing import List

from backuptool import BackuptoolError, Repository, RetentionPolicy

KEEP = RetentionPolicy(daily=7, weekly=4, monthly=12)


def nightly_run(repository: str, directories: List[str]) -> int:
    """Return 0 if all went well, else 1; whatever went wrong is on standard error."""
    failures: List[str] = []
    with Repository(repository) as repo:
        for directory in directories:
            try:
                result = repo.snapshot(directory, exclude_caches=True, tags=["nightly"])
                print(result)
                failures += [f"{directory}: {problem}" for problem in (*result.problems, *result.alerts)]
            except BackuptoolError as error:
                failures.append(str(error))
        if not failures:  # and after an alert the last good snapshot stays until somebody acknowledges it
            print(repo.prune(KEEP))
        failures += map(str, repo.check(quick=True).problems)
    print(*failures, sep="\n", end="", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(nightly_run(sys.argv[1], sys.argv[2:]) if len(sys.argv) > 2 else __doc__)
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(nightly_run(str(Path(temporary, "backups.db")), [temporary]))
