"""The restore drill: restore a snapshot, or a sample of it, for proof, compare all of it, and record the outcome.

Owns the sample, the comparison and the record. The restore is that of the restore operation, called as users call it;
what it finds is found here.
"""

from __future__ import annotations

import math
import os
import random
import time
from typing import Callable, Iterator, Optional, Union

import attrs

from ..errors import CorruptionError, RepositoryError, SnapshotNotFoundError
from ..progress import Reporter
from ..results.drill import Drill, DrillResult
from ..results.problem import Problem
from ..storage.database import Database
from ..storage.drills import insert_drill
from ..storage.files import files_of
from ..storage.pool import ConnectionPool
from ..storage.snapshots import SnapshotRow, find_snapshot
from ..tree.scratch import Scratch
from .restore.restoring import RestoreOptions, restore
from .trial import TrialComparison

__all__ = ["DrillOptions", "drill"]

#: What to do about a place that is full.
_IF_FULL = "name a scratch directory with more room, or drill a smaller sample"

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
            unwritten: dict[bytes, OSError] = {}
            wanted = RestoreOptions(
                destination=tree,
                only=paths,
                overwrite="always",
                most_helpers=options.most_helpers,
                on_unwritten=unwritten.__setitem__,
                if_full=_IF_FULL,
            )
            restored = restore(database, snapshot.id, wanted, reporter)
            comparison = TrialComparison(database, snapshot, paths, restored.problems, unwritten, reporter)
            comparison.run(tree)
    found = Drill(
        host=snapshot.host,
        source=os.fsdecode(snapshot.root),
        snapshot=snapshot.id,
        finished_ns=clock(),
        files=comparison.files,
        size_bytes=comparison.size,
        failed_files=comparison.failed,
        complete=paths is None and not comparison.without,
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
    files = files_of(database, snapshot, on_gap=lambda gap: None)  # the restore tells of them
    return frozenset(_at(drawn, (f.version.path for f in files if f.version.kind != b"d")))


def _at(positions: list[int], paths: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the paths at ascending positions."""
    wanted = iter(positions)
    position = next(wanted, None)
    for number, path in enumerate(paths):
        if number == position:
            yield path
            position = next(wanted, None)


def _record(pool: ConnectionPool, snapshot: SnapshotRow, found: Drill) -> Optional[Problem]:
    """Record a drill; return a problem if the repository cannot take it."""
    try:
        with pool.writing() as database, database.transaction():
            row = find_snapshot(database, snapshot.id)
            insert_drill(database, row.source, row.root, found)
        return None
    except (CorruptionError, RepositoryError, SnapshotNotFoundError) as exc:
        message = f"the outcome of the drill could not be recorded: {exc}"
        return Problem(kind="not-recorded", path="", message=message, snapshots=(snapshot.id,))
