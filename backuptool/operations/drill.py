"""The restore drill: restore a snapshot, or a sample of it, for proof, compare all of it, and record the outcome.

Owns the sample, the comparison and the record. The restore is that of the restore operation, called as users call it;
what it finds is found here.
"""

from __future__ import annotations

import math
import os
import random
import stat
import time
from typing import Callable, Iterator, Optional, Tuple, Union

import attrs

from ..errors import RepositoryError, SnapshotNotFoundError, UnsafePathError
from ..progress import Reporter
from ..results.drill import Drill, DrillResult
from ..results.problem import Problem
from ..storage.database import Database
from ..storage.digest import FileVersion
from ..storage.drills import insert_drill
from ..storage.files import files_of
from ..storage.pool import ConnectionPool
from ..storage.snapshots import SnapshotRow, find_snapshot
from ..tree.confined import require_safe
from ..tree.destination import Destination
from ..tree.metadata import decode_xattrs, encode_xattrs, kind_of
from ..tree.scratch import Scratch
from .restore.restoring import RestoreOptions, restore
from .selecting import Selection

__all__ = ["DrillOptions", "drill"]

#: What the place that is restored into may be unable to hold: the restore names it, and nothing is held against the
#: snapshot.
_OF_THE_PLACE = ("owner", "mode", "xattr", "times", "device")

#: Name of what is restored within the scratch directory.
_TREE = b"tree"

#: Seeds are below this: short enough to be typed.
_SEEDS = 1_000_000


@attrs.frozen(kw_only=True)
class DrillOptions:
    """What is to be restored, and where; see :meth:`backuptool.Repository.drill`."""

    sample: Union[int, float, None] = None
    scratch: Optional[bytes] = None
    seed: Optional[int] = None
    most_helpers: Optional[int] = None


def drill(
    pool: ConnectionPool,
    reference: Union[int, str],
    options: DrillOptions,
    reporter: Reporter,
    clock: Callable[[], int],
) -> DrillResult:
    """Restore for proof, and record the outcome.

    Raises:
        ValueError: The sample is neither a number nor a share of files.
    """
    begin = time.monotonic()
    seed = random.SystemRandom().randrange(_SEEDS) if options.seed is None else options.seed
    with pool.reading() as database:
        snapshot = find_snapshot(database, reference)
        paths = _sample(database, snapshot, options.sample, seed)
        with Scratch(options.scratch) as scratch:
            tree = os.path.join(scratch.path, _TREE)  # a new directory: it gets its metadata as any other
            wanted = RestoreOptions(destination=tree, only=paths, overwrite="always", most_helpers=options.most_helpers)
            restored = restore(database, snapshot.id, wanted, reporter)
            comparison = _Comparison(database, snapshot, paths, restored.problems, reporter)
            comparison.run(tree)
    found = Drill(
        host=snapshot.host,
        source=os.fsdecode(snapshot.root),
        snapshot=snapshot.id,
        finished_ns=clock(),
        files=comparison.files,
        size_bytes=comparison.size,
        failed_files=comparison.failed or int(any(problem.kind == "snapshot-corrupt" for problem in restored.problems)),
        complete=paths is None,
    )
    unrecorded = _record(pool, snapshot, found)
    return DrillResult(
        snapshot=snapshot.to_result(),
        drill=found,
        seed=seed,
        recorded=unrecorded is None,
        elapsed_seconds=time.monotonic() - begin,
        problems=(*restored.problems, *comparison.problems, *([] if unrecorded is None else [unrecorded])),
    )


def _sample(
    database: Database, snapshot: SnapshotRow, sample: Union[int, float, None], seed: int
) -> Optional[frozenset[bytes]]:
    """Draw the paths to restore, each set of so many with the same chance; None for all."""
    if sample is None:
        return None
    whole = isinstance(sample, int) and not isinstance(sample, bool)
    if not (sample >= 1 if whole else isinstance(sample, float) and 0 < sample <= 1):
        raise ValueError(f"sample must be a number of files from 1 or a share of them up to 1.0, not {sample!r}")
    number = int(sample) if whole else math.ceil(sample * snapshot.files)
    if number >= snapshot.files:
        return None
    drawn = sorted(random.Random(seed).sample(range(snapshot.files), number))
    return frozenset(_at(drawn, (f.version.path for f in files_of(database, snapshot) if f.version.kind != b"d")))


def _at(positions: list[int], paths: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the paths at ascending positions."""
    wanted = iter(positions)
    position = next(wanted, None)
    for number, path in enumerate(paths):
        if number == position:
            yield path
            position = next(wanted, None)


class _Comparison:
    """Compares what was restored with all that the catalog says of it.

    Attributes:
        files, size: Files compared, and their bytes.
        failed: Files and directories that are not as they were saved.
        problems: What the restore did not name by itself.
    """

    def __init__(
        self,
        database: Database,
        snapshot: SnapshotRow,
        paths: Optional[frozenset[bytes]],
        problems: Tuple[Problem, ...],
        reporter: Reporter,
    ) -> None:
        self._database = database
        self._snapshot = snapshot
        self._selection = Selection((), (), paths)
        self._reporter = reporter
        self._excused = {what for what in _OF_THE_PLACE if any(p.kind == f"{what}-not-restored" for p in problems)}
        self._named = {problem.path for problem in problems if not problem.kind.endswith("-not-restored")}
        self._links: dict[Tuple[object, ...], Tuple[int, int]] = {}
        self.files = self.size = self.failed = 0
        self.problems: list[Problem] = []

    def run(self, root: bytes) -> None:
        """Compare everything that was to be restored."""
        expected = None if not self._selection.everything else self._snapshot.files
        with Destination(root, lambda *failure: None) as destination:
            for file in self._selection.among(files_of(self._database, self._snapshot), lambda *problem: None):
                version = file.version
                self.files += version.kind != b"d"
                self.size += version.size
                self._reporter.report(
                    "verify", done_files=self.files, total_files=expected, done_bytes=self.size, path=version.path
                )
                try:
                    differing = self._differing(version, destination)
                except OSError as exc:
                    differing = [f"it cannot be read back: {exc.strerror}"]
                except (UnsafePathError, ValueError) as exc:
                    differing = [str(exc)]
                if differing:
                    self._fail(version.path, f"did not come back as it was saved: {', '.join(differing)}")
        if expected is not None and self.files != expected:
            self.failed += abs(expected - self.files)
            self._note("", f"the snapshot should have {expected:,} files, and {self.files:,} are there; run check")

    def _fail(self, path: bytes, message: str) -> None:
        self.failed += 1
        shown = os.fsdecode(path) or "."
        if shown not in self._named:
            self._note(shown, message)

    def _note(self, path: str, message: str) -> None:
        number = self._snapshot.id
        self.problems.append(Problem(kind="not-as-saved", path=path, message=message, snapshots=(number,)))

    def _differing(self, version: FileVersion, destination: Destination) -> list[str]:
        """Return in words what of an entry is not as it was saved."""
        require_safe(version.path)
        status = destination.lstat(version.path)
        if status is None:
            return [] if version.kind in (b"c", b"b") and "device" in self._excused else ["it is missing"]
        if kind_of(status.st_mode) != version.kind:
            return ["it is another kind of file"]
        found = []
        if version.kind == b"f" and (
            status.st_size != version.size or destination.hash_file(version.path) != version.hash
        ):
            found.append("content")
        if version.kind == b"l" and destination.read_link(version.path) != version.target:
            found.append("target")
        if version.kind in (b"c", b"b") and status.st_rdev != version.rdev:
            found.append("device number")
        return found + self._differing_metadata(version, status, destination)

    def _differing_metadata(self, version: FileVersion, status: os.stat_result, destination: Destination) -> list[str]:
        found = []
        owned = "owner" not in self._excused
        if owned and (status.st_uid, status.st_gid) != (version.uid, version.gid):
            found.append("owner")
        mode = stat.S_IMODE(status.st_mode)
        if version.kind != b"l" and (mode ^ version.mode) & (0o7777 if owned else 0o1777) and self._held("mode"):
            found.append("mode")
        if status.st_mtime_ns != version.mtime_ns and self._held("times"):
            found.append("time")
        if self._held("xattr") and _kept(destination.read_xattrs(version.path), version.xattrs) != version.xattrs:
            found.append("extended attributes")
        if version.link is not None and version.kind != b"d":
            inode = (status.st_dev, status.st_ino)
            if self._links.setdefault(version.inode, inode) != inode:
                found.append("hard link")
        return found

    def _held(self, what: str) -> bool:
        """Tell whether the place that was restored into can hold something."""
        return what not in self._excused


def _kept(there: Optional[bytes], saved: Optional[bytes]) -> Optional[bytes]:
    """Return the attributes that are there but for those that the system gives by itself and were not saved."""
    names = {name for name, _ in decode_xattrs(saved)}
    return encode_xattrs(
        {name: value for name, value in decode_xattrs(there) if name in names or not name.startswith(b"security.")}
    )


def _record(pool: ConnectionPool, snapshot: SnapshotRow, found: Drill) -> Optional[Problem]:
    """Record a drill; return a problem if the repository cannot take it."""
    try:
        with pool.writing() as database, database.transaction():
            row = find_snapshot(database, snapshot.id)
            insert_drill(database, row.source, row.root, found)
        return None
    except (RepositoryError, SnapshotNotFoundError) as exc:
        message = f"the outcome of the drill could not be recorded: {exc}"
        return Problem(kind="not-recorded", path="", message=message, snapshots=(snapshot.id,))
