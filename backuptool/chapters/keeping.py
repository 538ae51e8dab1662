"""Keeping the right snapshots: what they are called, which ones rules keep, and what removing the others frees."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Iterable, Optional

from ..progress import Reporter

if TYPE_CHECKING:
    from ..results.prune import PrunePlan
    from ..results.snapshot import Snapshot
    from ..retention import RetentionPolicy

from ..parameters import BytesPath, Progress, SnapshotReference, reference_of, root_of, strings_of, tags_of, text_of
from .opened import Opened

__all__ = ["Keeping"]


class Keeping(Opened):
    """Which snapshots stay, and why."""

    def annotate(
        self,
        snapshot: SnapshotReference,
        *,
        note: Optional[str] = None,
        add_tags: Iterable[str] = (),
        remove_tags: Iterable[str] = (),
        pinned: Optional[bool] = None,
        acknowledge: bool = False,
    ) -> Snapshot:
        """Change the note, the tags or the pin of a snapshot, or acknowledge its alerts, and return it as it is then.

        What is not given stays. A tag that is both added and removed is removed. The snapshot's digest changes with its
        note and its tags.

        Args:
            snapshot: A snapshot's number, or ``"latest"``.
            note: The new note; ``""`` for none.
            add_tags: Words to keep with the snapshot.
            remove_tags: Words to take away from it; one that it does not have is no error.
            pinned: True to have it removed only after it was unpinned, False to unpin it.
            acknowledge: True to say that its alerts are known, so that retention policies need not keep it, and the one
                before it, because of them. A snapshot without an alert stays as it is.

        Raises:
            SnapshotNotFoundError: There is no such snapshot; its message lists those there are.
            CorruptionError: What is stored of it is damaged, and would be hidden by a new digest.

        Cost: one transaction of two or three rows.
        """
        from ..operations.annotate import annotate

        words = {
            "add_tags": tags_of(add_tags),
            "remove_tags": tuple(text_of("a tag", tag) for tag in strings_of(remove_tags)),
        }
        text = None if note is None else text_of("note", note)
        with self._pool.writing() as database:
            return annotate(
                database,
                reference_of(snapshot),
                note=text,
                pinned=pinned,
                acknowledge=acknowledge,
                clock=time.time_ns,
                **words,
            )

    def plan_prune(
        self,
        policy: RetentionPolicy,
        *,
        source: Optional[BytesPath] = None,
        host: Optional[str] = None,
        progress: Progress = None,
    ) -> PrunePlan:
        """Return what a policy would keep and remove, why, and exactly what that frees. Nothing is changed.

        :meth:`prune` applies the plan, as long as the repository is as it was.

        Args:
            policy: The rules.
            source: Only snapshots of this directory are looked at.
            host: Only snapshots taken on this machine are looked at.
            progress: A callback that receives :class:`ProgressEvent`, or True for a bar.

        Cost: that of the prune itself, which is done and taken back; writers wait meanwhile.
        """
        return self.forecast([policy], source=source, host=host, progress=progress)[0]

    def forecast(
        self,
        policies: Iterable[RetentionPolicy],
        *,
        source: Optional[BytesPath] = None,
        host: Optional[str] = None,
        progress: Progress = None,
    ) -> tuple[PrunePlan, ...]:
        """Return a plan for each of several policies, to compare them. Nothing is changed.

        Args:
            policies: The candidates.
            source: Only snapshots of this directory are looked at.
            host: Only snapshots taken on this machine are looked at.
            progress: A callback that receives :class:`ProgressEvent`, or True for a bar.

        Returns:
            The plans, in the order of the policies, all for one state of the repository.

        Cost: that of all the prunes, each of which is done and taken back; of those that remove the same, one.
        """
        from ..operations.prune.planning import forecast
        from ..operations.sources import Selection

        selection = Selection(root_of(source), host)
        with Reporter(progress) as reporter, self._pool.writing() as database:
            return forecast(database, tuple(policies), selection, reporter=reporter, clock=time.time_ns)
