"""Planning a prune: what one policy or several would remove and exactly what that frees, and nothing is changed.

Each plan is the real thing, done and taken back (docs/decisions/0009-dry-run-prune.md); plans that remove the same
snapshots are made once.
"""

from __future__ import annotations

from typing import Callable, Sequence

import attrs

from ..progress import Reporter
from ..results.prune import PrunePlan
from ..retention import RetentionPolicy
from ..storage.database import Database
from .choosing import choose, over_size, state_of
from .prune import Pruning
from .sources import Selection

__all__ = ["forecast"]


def forecast(
    database: Database,
    policies: Sequence[RetentionPolicy],
    selection: Selection,
    *,
    reporter: Reporter,
    clock: Callable[[], int],
) -> tuple[PrunePlan, ...]:
    """Return a plan for each policy, all for one state of the repository, in their order."""
    plans: list[PrunePlan] = []
    made: dict[tuple[int, ...], PrunePlan] = {}
    with database.without_foreign_keys(), database.transaction(rollback=True):
        state = state_of(database)
        before = database.file_bytes()
        for policy in policies:
            with database.trial():
                run = Pruning(database, reporter, clock)
                choice = choose(database, policy, selection, clock)
                key = tuple(row.id for row in choice.rows)
                if key not in made or choice.max_bytes is not None:
                    choice = run.remove(choice)
                    after = run.final_bytes()
                    made[key] = PrunePlan(
                        policy=policy,
                        state=state,
                        removed_versions=run.removed_versions,
                        removed_contents=run.removed_contents,
                        removed_bytes=run.removed_bytes,
                        repacked_packs=run.repacking.repacked_packs,
                        freed_bytes=before - after,
                        repository_bytes=after,
                        problems=(*run.repacking.problems, *over_size(choice, after)),
                    )
                plans.append(attrs.evolve(made[key], policy=policy, decisions=choice.decisions))
    return tuple(plans)
