"""Try something out in a directory, and have it put back as it was if that fails.

    python guarded_experiment.py [DIRECTORY REPOSITORY]

Without arguments it works in a temporary directory.
"""

import sys
import tempfile
from pathlib import Path

from backuptool import Guard, Repository


def experiment(directory: Path) -> None:
    """Change something, add something, and fail."""
    (directory / "parameters.txt").write_text("alpha = 0.9", encoding="utf-8")
    (directory / "half of the results.csv").write_text("1,2,3", encoding="utf-8")
    raise ValueError("alpha must be below 0.5")


def guarded(directory: Path, repository: str) -> Guard:
    """Run the experiment; whatever comes of it, the directory is as it was before or as it is after."""
    with Repository(repository) as repo:
        try:
            with repo.guard(directory, note="before the experiment", tags=["guard"]) as guard:
                experiment(directory)
        except ValueError as error:
            print(f"{error}; {guard.restored}")
    return guard


if __name__ == "__main__":
    if len(sys.argv) not in (1, 3):
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as temporary:
        place, database = sys.argv[1:] or (temporary, f"{temporary}/backups.db")
        Path(place, "experiment").mkdir(exist_ok=True)
        guarded(Path(place, "experiment"), database)
        print(*sorted(path.name for path in Path(place, "experiment").iterdir()))
