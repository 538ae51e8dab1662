"""The command ``prune``."""

from __future__ import annotations

import argparse
from typing import Iterator

from backuptool import Decision, PruneResult, Repository, RetentionPolicy, format_size, printable

from .arguments import SEVERAL, number, number_of, size, span, text
from .options import of_source
from .phrases import count, details, dry_run_note, duration, exact_size, problem_count, snapshot_numbers, text_of
from .process import wants_bar

__all__ = ["EXAMPLE", "add_options", "as_text", "run"]

EXAMPLE = "backuptool prune --keep-daily 7 --keep-weekly 4 --keep-monthly 12 --dry-run"

#: What the rules are called here, and in the library.
_PLACES = {
    "last": "the last N snapshots",
    "hourly": "the newest snapshot of each of the last N hours that have one",
    "daily": "the newest of each of the last N days",
    "weekly": "the newest of each of the last N weeks",
    "monthly": "the newest of each of the last N months",
    "quarterly": "the newest of each of the last N quarters",
    "yearly": "the newest of each of the last N years",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command accepts."""
    option = parser.add_argument
    option(
        "--snapshot",
        metavar="N",
        type=number,
        nargs="+",
        action="extend",
        default=[],
        help="the snapshots to remove; without it and rules, only leftovers of interrupted snapshots are removed",
    )
    option("--dry-run", action="store_true", help="tell what would be removed and freed, and change nothing")
    rules = parser.add_argument_group(
        "rules",
        "For each directory, what no rule keeps is removed; but for its newest snapshot, what is pinned, and snapshots "
        "with an alert that nobody has acknowledged, with the one before each.",
    ).add_argument
    for name, what in _PLACES.items():
        rules(f"--keep-{name}", metavar="N", type=number_of, default=0, help=f"keep {what}")
    rules(
        "--keep-within",
        metavar="SPAN",
        type=span,
        help="keep all that are at most this much older than the newest one (spans: 36h, 30d, 8w, 2y)",
    )
    rules("--keep-tag", metavar="TAG", type=text, **SEVERAL, help="keep all with this tag; may be given several times")
    rules("--max-size", metavar="SIZE", type=size, help="remove the oldest until the repository has at most this size")
    of_source(rules)


def run(repository: Repository, options: argparse.Namespace) -> PruneResult:
    """Make the call."""
    policy = _policy(options)
    shared = {"dry_run": options.dry_run, "progress": wants_bar(options)}
    if policy is None:
        if options.source is not None or options.host is not None:
            raise argparse.ArgumentTypeError("--source and --host need a rule that says what to keep")
        return repository.prune(options.snapshot, **shared)
    if options.snapshot:
        raise argparse.ArgumentTypeError("--snapshot names what to remove, rules say what to keep: give one of them")
    return repository.prune(policy, source=options.source, host=options.host, **shared)


def _policy(options: argparse.Namespace) -> RetentionPolicy | None:
    """Return the policy that is asked for, None if there is no rule; one that would keep nothing is an error."""
    try:
        policy = RetentionPolicy(
            within=options.keep_within,
            tags=tuple(options.keep_tag),
            max_bytes=options.max_size,
            **{name: getattr(options, f"keep_{name}") for name in _PLACES},
        )
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return None if policy == RetentionPolicy() else policy


def as_text(result: PruneResult, *, verbose: bool = False) -> str:
    """Return what pruning removed, or would remove, below what a policy says of each snapshot."""
    word = "Would remove" if result.dry_run else "Removed"
    numbers = snapshot_numbers([snapshot.id for snapshot in result.snapshots])
    if result.decisions:
        numbers = f"{len(result.snapshots):,} of {count(len(result.decisions), 'snapshot')}"
    repacked = f"{count(result.repacked_packs, 'pack')} packed again; " if result.repacked_packs else ""
    lines = [
        *_table(result.decisions, verbose),
        f"{word} {numbers or 'leftovers of interrupted snapshots'}",
        f"  {count(result.removed_contents, 'content')}, {format_size(result.removed_bytes)}; "
        f"{count(result.removed_versions, 'file version')}; {repacked}in {duration(result.elapsed_seconds)}",
        f"  {exact_size(result.freed_bytes)} {'would be freed' if result.dry_run else 'freed'}, the repository "
        f"{'would then have' if result.dry_run else 'now has'} {exact_size(result.repository_bytes)}",
    ]
    if verbose:
        lines += [f"  {snapshot.id}: {details(snapshot)}" for snapshot in result.snapshots]
    return text_of(lines + problem_count(result.problems) + dry_run_note(result.dry_run))


def _table(decisions: tuple[Decision, ...], verbose: bool) -> Iterator[str]:
    """Yield a line for each source and below it one for each of its snapshots: kept or removed, and why."""
    sources: dict[str, list[Decision]] = {}
    for decision in decisions:
        sources.setdefault(f"{decision.snapshot.host}:{decision.snapshot.source}", []).append(decision)
    width = max((len(str(decision.snapshot.id)) for decision in decisions), default=0)
    for source, group in sources.items():
        yield printable(source)
        for decision in group:
            snapshot = decision.snapshot
            verb = "keep  " if decision.kept else "remove"
            yield f"  {verb}  {snapshot.id:{width}}  {snapshot.time:%Y-%m-%d %H:%M:%S}  {_why(decision, verbose)}"


def _why(decision: Decision, verbose: bool) -> str:
    """Return the reasons in words; unless verbose, of a removed snapshot that of the rule that reaches back longest."""
    reasons = list(decision.reasons)
    if not decision.kept and not verbose:
        reasons = [reason for reason in reasons if reason.rule not in ("last", "within", "tag")][-1:] or reasons[:1]
    doubt = " (by a wrong clock)" if decision.doubtful else ""
    return printable(", ".join(map(str, reasons))) + doubt
