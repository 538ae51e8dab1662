"""Anomalies: does what a snapshot changed look like mass encryption or mass deletion? A pure decision, without a clock.

Owns the thresholds and their reasons. A snapshot is compared with the source's own past, so that what is usual for a
source (a directory of spool files that is emptied every night) is not told every night.

Files that are there and that were left out (excluded, skipped, not readable) are not taken for deleted. Of past
snapshots it is not known how many of these there were; who excludes most of a source three times in a month is told of
no deletion for a while.

The limits of it: damage that comes slowly, a few files each night, looks like work; so does what hits fewer than
``FEWEST_FILES`` files. And a photo library all of which is written again looks exactly like encryption, as pictures do
not compress either.
"""

from __future__ import annotations

from typing import Optional, Sequence

from .results.changes import Alert, Changes

__all__ = ["FEWEST_FILES", "HISTORY", "judge"]

#: Snapshots of the past that count: a month of nights.
HISTORY = 30

#: What three of these did before is usual for the source. Two are not: an attack that takes two nights is told twice.
HABIT = 3

#: Fewer files are a day's work: who empties a directory of notes, or encrypts a few letters, means it.
FEWEST_FILES = 20

#: Share of the files that were replaced. The days of the simulated histories in the tests replace 2 % at most; an
#: encrypting program goes through all that its user may write, of which a tenth is reached early.
REPLACED_SHARE = 0.1

#: Share of the files that are gone. Cleaning up removes less; a disk that is not mounted, everything.
LOST_SHARE = 0.5

#: Stored to new bytes. Encrypted bytes stay as they are (1.0), text and programs take 0.2 to 0.45, office documents 0.6
#: to 0.9, pictures and films 0.95 to 1.0. With an ordinary day's work in the same snapshot 0.9 is still reached.
INCOMPRESSIBLE = 0.9

#: Programs that encrypt every other block, to be quick, leave half of what was compressible so: 0.3 becomes 0.65.
WORSE_BY = 0.3


def judge(changes: Changes, past: Sequence[Changes], left_out: int = 0) -> tuple[Alert, ...]:
    """Return what is alarming about a snapshot.

    Args:
        changes: What it changed. Of a source's first snapshot nothing is alarming.
        past: The same of up to ``HISTORY`` snapshots of its source before it, in any order.
        left_out: Removed files that are still there.
    """
    usual = _usual_compressibility(past)
    alerts = []
    if _looks_encrypted(changes, usual) and sum(_looks_encrypted(each, usual) for each in past) < HABIT:
        alerts.append(Alert(kind="mass-encryption", message=_encryption_text(changes, past, usual)))
    if _looks_deleted(changes, left_out) and sum(_looks_deleted(each) for each in past) < HABIT:
        alerts.append(Alert(kind="mass-deletion", message=_deletion_text(changes, past, left_out)))
    return tuple(alerts)


def _usual_compressibility(past: Sequence[Changes]) -> Optional[float]:
    """Return stored to new bytes over the past; None where nothing was stored."""
    new_bytes = sum(each.new_bytes for each in past)
    return sum(each.stored_bytes for each in past) / new_bytes if new_bytes else None


def _looks_encrypted(changes: Changes, usual: Optional[float]) -> bool:
    ratio = changes.compressibility
    replaced = changes.replaced_files
    if ratio is None or replaced < FEWEST_FILES or replaced < REPLACED_SHARE * changes.base_files:
        return False
    return ratio >= INCOMPRESSIBLE or (usual is not None and ratio >= usual + WORSE_BY)


def _looks_deleted(changes: Changes, left_out: int = 0) -> bool:
    if changes.removed_files <= left_out:
        return False
    if changes.new_files + changes.changed_files + changes.unchanged_files == 0:  # nothing is left
        return True
    lost = changes.lost_files - left_out
    return lost >= FEWEST_FILES and lost >= LOST_SHARE * changes.base_files


def _encryption_text(changes: Changes, past: Sequence[Changes], usual: Optional[float]) -> str:
    compressed = "" if usual is None else f", which compressed to {usual:.0%}"
    most = max((each.replaced_files for each in past if each.base_files), default=0)
    before = f"; before, {most:,} at most{compressed}" if past else ""
    return (
        f"{changes.replaced_files:,} of {changes.base_files:,} files have new bytes that compress to "
        f"{changes.compressibility:.0%} only, as encrypted ones do{before}; look at the files, and prune nothing until "
        "you know"
    )


def _deletion_text(changes: Changes, past: Sequence[Changes], left_out: int) -> str:
    most = max((each.removed_files for each in past), default=0)
    before = f"; before, {most:,} at most" if past else ""
    gone = changes.removed_files - left_out
    return (
        f"{gone:,} of {changes.base_files:,} files are gone, {changes.new_files:,} are new{before}; "
        "is the disk mounted? Prune nothing until you know"
    )
