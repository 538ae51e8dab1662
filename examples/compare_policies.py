"""What some retention policies would keep, and exactly how much each would free. Nothing is removed.

    python compare_policies.py [REPOSITORY]

Without arguments it works on a temporary repository.
"""

import sys
import tempfile
from datetime import timedelta
from pathlib import Path

from backuptool import Repository, RetentionPolicy, format_size

POLICIES = {
    "a week of days": RetentionPolicy(daily=7),
    "days, weeks, months": RetentionPolicy(daily=7, weekly=4, monthly=12),
    "30 days, all of them": RetentionPolicy(within=timedelta(days=30)),
    "what fits into 100 GiB": RetentionPolicy(max_bytes=100 << 30),
}


def compare(repository: Path) -> None:
    """Print a line for each policy, and why the strictest one removes what it does."""
    with Repository(repository) as repo:
        plans = repo.forecast(POLICIES.values())
    for name, plan in zip(POLICIES, plans):
        print(f"{name:24} keeps {len(plan.kept)}, frees {format_size(plan.freed_bytes)}")
    for decision in min(plans, key=lambda plan: plan.repository_bytes).decisions:
        print(decision)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as temporary, Repository(Path(temporary, "backups.db")) as example:
        if len(sys.argv) == 1:
            example.snapshot(temporary)
        compare(Path(sys.argv[1] if len(sys.argv) > 1 else example.path))
