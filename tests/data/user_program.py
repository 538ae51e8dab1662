"""A program as a user would write it: checked by mypy --strict against the package, and run."""

# ruff: noqa: T201

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from backuptool import (
    DEFAULT_MAX_FILE_SIZE,
    Alert,
    BackuptoolError,
    CheckResult,
    ContentCorruptError,
    PatternError,
    Problem,
    ProgressCallback,
    ProgressEvent,
    PrunePlan,
    PruneResult,
    Repository,
    RepositoryError,
    RestoreResult,
    RetentionPolicy,
    SkippedFile,
    Snapshot,
    SnapshotList,
    SnapshotNotFoundError,
    SnapshotResult,
    Stats,
    UnsupportedFormatError,
    __version__,
    format_size,
    printable,
)


class Meter:
    """A callback with a memory."""

    def __init__(self) -> None:
        self.seen: Dict[str, int] = {}

    def __call__(self, event: ProgressEvent) -> None:
        total: Optional[int] = event.total_files
        self.seen[event.phase] = max(self.seen.get(event.phase, 0), event.done_files, total or 0)


def back_up(repo: Repository, source: Path, callback: ProgressCallback) -> Snapshot:
    result: SnapshotResult = repo.snapshot(
        source,
        exclude=["*.tmp"],
        exclude_if_present=("nobackup",),
        exclude_caches=True,
        exclude_larger_than=None,
        max_file_size=2 * DEFAULT_MAX_FILE_SIZE,
        note="by a program",
        tags={"nightly"},
        progress=callback,
    )
    skipped: Tuple[SkippedFile, ...] = result.skipped
    names: List[str] = [file.path for file in skipped]
    print(printable(", ".join(names)), format_size(result.stored_bytes))
    return result.snapshot


def main(place: Path) -> int:
    meter = Meter()
    with Repository(place / "backups.db", lock_timeout=5) as repo:
        snapshot = back_up(repo, place / "source", meter)
        listing: SnapshotList = repo.list(host=snapshot.host, tag="nightly")
        newest: Snapshot = listing[-1]
        sizes: Dict[int, int] = {each.id: each.size_bytes for each in listing}
        restored: RestoreResult = repo.restore(
            newest.id, place / "out", include=["*.txt"], overwrite="if-newer", verify=True, progress=lambda event: None
        )
        problems: Tuple[Problem, ...] = restored.problems
        checked: CheckResult = repo.check(quick=not problems)
        pruned: PruneResult = repo.prune([newest.id], dry_run=True)
        policy = RetentionPolicy(last=3, daily=7, within=timedelta(days=2), tags=("nightly",), max_bytes=1 << 40)
        plans: Tuple[PrunePlan, ...] = repo.forecast([policy, RetentionPolicy()], host=snapshot.host)
        reasons: List[str] = [reason.text for decision in plans[0].decisions for reason in decision.reasons]
        applied: PruneResult = repo.prune(repo.plan_prune(policy))
        pinned: bool = repo.annotate("latest", pinned=True, add_tags=["kept"]).pinned
        stats: Stats = repo.stats(top=1)
        exclusive: int = sum(each.exclusive_bytes for each in stats.snapshots)
        alerts: Tuple[Alert, ...] = newest.alerts
        print(reasons, applied.freed_bytes, pinned, exclusive, alerts, stats.packs.fill)
        print(json.dumps([newest.to_dict(), restored.to_dict(), checked.to_dict(), pruned.to_dict()]), len(sizes))
        print(f"{newest.time:%Y-%m-%d}", newest.tags, checked.ok, __version__, sorted(meter.seen), file=sys.stderr)
        try:
            repo.restore("latest", place / "other", exclude="[")
            repo.restore(99, place / "other")
        except PatternError as exc:
            return len(exc.pattern) + 100
        except SnapshotNotFoundError as exc:
            missing: List[int] = [number for number in exc.available if number != exc.reference]
            return 0 if missing == [newest.id] else 1
        except UnsupportedFormatError as exc:
            return exc.found - exc.supported
        except ContentCorruptError as exc:
            return len(exc.content)
        except RepositoryError as exc:
            print(exc.path)
        except BackuptoolError:
            return 2
    return 3


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
