"""Planning a prune: what one policy or several would remove and exactly what that frees, and nothing is changed.

Each plan is the real thing, done and taken back (docs/decisions/0009-dry-run-prune.md); plans that remove the same
snapshots are made once.
"""

from __future__ import annotations

from typing import Callable, Sequence

import attrs

from ...progress import Reporter
from ...results.prune import PrunePlan
from ...retention import RetentionPolicy
from ...storage.database import Database
from ..sources import Selection
from .choosing import Choice, choose, misfits, state_of
from .pruning import Pruning

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
    made: dict[tuple[int, ...], PrunePlan] = {}  # by what is removed, of policies without a size
    with database.without_foreign_keys(), database.transaction(rollback=True):
        state = state_of(database)
        for policy in policies:
            with database.trial():
                choice = choose(database, policy, selection, clock)
                key = tuple(row.id for row in choice.rows)
                if choice.max_bytes is None and key in made:
                    plan = attrs.evolve(made[key], policy=policy, decisions=choice.decisions)
                else:
                    plan = _plan(Pruning(database, reporter, clock), policy, choice, state)
                if choice.max_bytes is None:
                    made[key] = plan
                plans.append(plan)
    return tuple(plans)


def _plan(run: Pruning, policy: RetentionPolicy, choice: Choice, state: str) -> PrunePlan:
    """Remove what was chosen, and return what that comes to."""
    before = run.database.file_bytes()
    choice = run.remove(choice)
    after = run.final_bytes()
    return PrunePlan(
        policy=policy,
        decisions=choice.decisions,
        state=state,
        removed_versions=run.removed_versions,
        removed_contents=run.removed_contents,
        removed_bytes=run.removed_bytes,
        repacked_packs=run.repacking.repacked_packs,
        freed_bytes=before - after,
        repository_bytes=after,
        problems=(*run.repacking.problems, *misfits(choice, after)),
    )
