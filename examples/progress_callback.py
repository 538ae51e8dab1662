"""Show progress in your own way, and stop a snapshot that takes too long.

    python progress_callback.py [REPOSITORY DIRECTORY SECONDS]

Without arguments it works on a temporary directory.
"""

import sys
import tempfile
import time
from pathlib import Path

from backuptool import ProgressEvent, Repository, format_size, printable


class TooSlowError(Exception):
    """Raised by the callback; it ends the snapshot, and the repository is as before."""


def save_in_time(repository: str, directory: str, seconds: float) -> None:
    """Save a directory, unless that takes longer than some seconds."""
    deadline = time.monotonic() + seconds

    def show(event: ProgressEvent) -> None:
        print(f"{event.phase}: {event.done_files} files, {format_size(event.done_bytes)} {printable(event.path)}")
        if time.monotonic() > deadline:
            raise TooSlowError(f"not done within {seconds} seconds")

    with Repository(repository) as repo:
        print(repo.snapshot(directory, progress=show))


if __name__ == "__main__":
    if len(sys.argv) == 4:
        save_in_time(sys.argv[1], sys.argv[2], float(sys.argv[3]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            Path(temporary, "notes").mkdir()
            Path(temporary, "notes", "numbers.txt").write_text("\n".join(map(str, range(10**6))), encoding="ascii")
            save_in_time(str(Path(temporary, "backups.db")), str(Path(temporary, "notes")), 60.0)
