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


def save_in_time(repository: str, directory: str, seconds: int) -> None:
    """Save a directory, unless that takes longer than some seconds."""
    deadline = time.monotonic() + seconds

    def show(event: ProgressEvent) -> None:
        print(f"{event.phase}: {event.done_files} files, {format_size(event.done_bytes)} {printable(event.path)}")
        if time.monotonic() > deadline:
            raise TooSlowError(f"not done within {seconds} seconds")

    with Repository(repository) as repo:
        print(repo.snapshot(directory, progress=show))


if __name__ == "__main__":
    if len(sys.argv) != 1 and not (len(sys.argv) == 4 and sys.argv[3].isdecimal()):
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as temporary:
        Path(temporary, "numbers.txt").write_bytes(bytes(10**7))
        repository, directory, seconds = sys.argv[1:] or (f"{temporary}/backups.db", temporary, "60")
        save_in_time(repository, directory, int(seconds))
