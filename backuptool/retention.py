"""Retention: which snapshots a policy keeps and which it removes, and why. Pure decisions: the clock is passed in.

Owns the rules. What removing frees, and removing itself, are prune's business.

**Order is by number, never by time.** Numbers ascend in the order in which snapshots were taken, whatever the clock
said. "The newest of a day" is the one of the highest number.

**A time is believed if it fits.** The times of the snapshots of a source must ascend with their numbers (equal ones
do), and none may lie in the future, or before there was this program. The largest set of snapshots for which that holds
is believed; the others had a wrong clock (they are *doubtful*): one snapshot dated 2099 or 1970, or all that were taken
until a wrong clock was set back.

- A doubtful snapshot takes no place: "7 daily" are seven believed days, whatever else there is.
- It is kept like the others, the newest of each period among the doubtful ones, while the rule has places left for
  older snapshots. So the day of a snapshot whose date is wrong does not go missing, nor does it stay for ever. Of those
  dated before there was this program, as by a machine that begins in 1970 each time it is switched on, each is kept.

**What an alert is about stays** until somebody has acknowledged it: the snapshot that raised it, so that it goes on
being told, and the one before it, which is the last that has what was encrypted or deleted.

A clock that stands still in a year that can be is the one thing that cannot be noticed.

**Periods are those of local time**, of the policy's time zone if it has one, else the machine's. Summer time makes one
day of 23 hours and one of 25; of the hour that comes twice each one is an hour of its own. Periods without a snapshot
do not count: "7 daily" are the last seven days that have one, so that a machine that was off loses nothing.

**"Within" is counted back from the newest believed snapshot of the source**, not from now: a source that is not saved
any more keeps what it has, also where the clock of the machine that prunes is years ahead. What follows a snapshot that
is within is within as well, whatever its own time says; if no time is believed, everything is.
"""

from __future__ import annotations

import datetime
from bisect import bisect_right
from typing import AbstractSet, Any, Callable, Iterable, Optional, Protocol, Sequence

import attrs

from .results.presentation import Result, format_size, local_time
from .results.retention import Decision, Reason
from .results.snapshot import Snapshot

__all__ = ["EARLIEST_NS", "RetentionPolicy", "decide", "over_budget"]

#: The beginning of 2025, ns since 1970 UTC: whatever was saved by this program was saved later.
EARLIEST_NS = 1_735_689_600 * 1_000_000_000


def _natural(policy: RetentionPolicy, field: attrs.Attribute[int], value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{field.name} must be a number of 0 or more, not {value!r}")


def _words(value: object) -> tuple[str, ...]:
    words = (value,) if isinstance(value, str) else tuple(value)  # type: ignore[arg-type]
    if not all(isinstance(word, str) and word for word in words):
        raise ValueError(f"tags must be words that are not empty, not {value!r}")
    return words


def _places() -> Any:
    return attrs.field(default=0, validator=_natural)


@attrs.frozen(kw_only=True, repr=False)
class RetentionPolicy(Result):
    """Which snapshots to keep: those that any of its rules keeps. Each source is looked at by itself.

    Whatever the rules say, the newest snapshot of each source stays, and what is pinned; and until its alerts are
    acknowledged a snapshot that raised some, with the one before it. A policy without a rule keeps everything. Rules
    that are not given keep nothing.

    Attributes:
        last: The last so many snapshots.
        hourly, daily, weekly, monthly, quarterly, yearly: The newest snapshot of each of the last so many hours, days,
            weeks (Monday to Sunday), months, quarters and years that have one.
        within: All that are at most this much older than the newest one.
        tags: All that have one of these tags.
        max_bytes: Size of the repository file that it should not exceed: of what the other rules keep, the oldest
            snapshots go first, of all sources that are pruned, until it fits; none of them if not even that is enough.
            None for no limit.
        timezone: Where days and the other periods begin; None for the time zone of the machine.

    Raises:
        ValueError: A number is negative or none, the duration or the size is not positive, a tag is empty.
    """

    last: int = _places()
    hourly: int = _places()
    daily: int = _places()
    weekly: int = _places()
    monthly: int = _places()
    quarterly: int = _places()
    yearly: int = _places()
    within: Optional[datetime.timedelta] = attrs.field(default=None)
    tags: tuple[str, ...] = attrs.field(default=(), converter=_words)
    max_bytes: Optional[int] = attrs.field(default=None)
    timezone: Optional[datetime.tzinfo] = None

    @within.validator
    def _check_within(self, field: object, value: object) -> None:
        if value is not None and (not isinstance(value, datetime.timedelta) or value <= datetime.timedelta(0)):
            raise ValueError(f"within must be a timedelta above 0, not {value!r}")

    @max_bytes.validator
    def _check_max_bytes(self, field: object, value: object) -> None:
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value <= 0):
            raise ValueError(f"max_bytes must be a number of bytes above 0, not {value!r}")

    def periods(self) -> dict[str, int]:
        """Return the number of places of each rule for periods, the finest first; of those that have any."""
        return {name: getattr(self, name) for name in _PERIODS if getattr(self, name)}

    def _fields(self) -> dict[str, Any]:
        within = None if self.within is None else self.within.total_seconds()
        zone = None if self.timezone is None else str(self.timezone)
        fields = {**super()._fields(), "within": within, "timezone": zone}
        return {"within_seconds" if name == "within" else name: value for name, value in fields.items()}

    def _headline(self) -> str:
        rules = [f"last {self.last}"] if self.last else []
        rules += [f"{name} {places}" for name, places in self.periods().items()]
        rules += [f"within {_span(self.within)}"] if self.within else []
        rules += [f"tag {tag}" for tag in self.tags]
        rules += [f"at most {format_size(self.max_bytes)}"] if self.max_bytes is not None else []
        return ", ".join(rules) or "no rule: everything is kept"


def _hour(moment: datetime.datetime) -> str:
    return f"{moment:%Y-%m-%d %H}:00{moment:%z}"  # with the offset: the hour that comes twice is two hours


def _week(moment: datetime.datetime) -> str:
    year, week, _ = moment.isocalendar()
    return f"{year}-W{week:02}"


#: What each rule calls the period of a moment; the finest first.
_PERIODS: dict[str, Callable[[datetime.datetime], str]] = {
    "hourly": _hour,
    "daily": lambda moment: f"{moment:%Y-%m-%d}",
    "weekly": _week,
    "monthly": lambda moment: f"{moment:%Y-%m}",
    "quarterly": lambda moment: f"{moment.year}-Q{(moment.month + 2) // 3}",
    "yearly": lambda moment: f"{moment.year}",
}


def decide(
    policy: RetentionPolicy, snapshots: Iterable[Snapshot], now_ns: int, unsure: AbstractSet[int] = frozenset()
) -> tuple[Decision, ...]:
    """Return for every snapshot whether a policy keeps it, and why, by ascending number.

    ``max_bytes`` is left to :func:`over_budget`, as sizes are not known here.

    Args:
        policy: The rules.
        snapshots: In any order, of any sources.
        now_ns: The present, ns since 1970 UTC: what is dated later had a wrong clock.
        unsure: Numbers of snapshots of which it is not known whether they raised an alert.
    """
    sources: dict[tuple[str, str], list[Snapshot]] = {}
    for snapshot in sorted(snapshots, key=lambda each: each.id):
        sources.setdefault((snapshot.host, snapshot.source), []).append(snapshot)
    decisions = [decision for group in sources.values() for decision in _decide_source(policy, group, now_ns, unsure)]
    return tuple(sorted(decisions, key=lambda decision: decision.snapshot.id))


def over_budget(decisions: Sequence[Decision]) -> tuple[int, ...]:
    """Return the numbers of the kept snapshots that may go to make the repository smaller, the first to go first.

    Neither what is pinned nor the newest of a source is among them, nor what stays because of an alert.
    """
    newest = {(each.snapshot.host, each.snapshot.source): each.snapshot.id for each in decisions}
    kept = [
        each.snapshot
        for each in decisions
        if each.kept and not each.snapshot.pinned and not any(reason.rule == "alert" for reason in each.reasons)
    ]
    return tuple(each.id for each in kept if newest[each.host, each.source] != each.id)


def _decide_source(
    policy: RetentionPolicy, snapshots: Sequence[Snapshot], now_ns: int, unsure: AbstractSet[int]
) -> list[Decision]:
    """Decide on the snapshots of one source, which come by ascending number."""
    alerted = _alerted(snapshots, unsure)
    believed = _believed([snapshot.started_ns for snapshot in snapshots], now_ns)
    candidates = [_Candidate(*each, policy.timezone) for each in zip(snapshots, believed)]
    rules = _rules(policy, candidates)
    decisions = []
    for candidate in reversed(candidates):
        answers = [rule.ask(candidate) for rule in rules]
        reasons = [*alerted.get(candidate.snapshot.id, ()), *(reason for kept, reason in answers if kept)]
        if candidate.snapshot.pinned:
            reasons.insert(0, Reason(rule="pinned", text="pinned"))
        if candidate is candidates[-1]:
            reasons.insert(0, Reason(rule="newest", text="newest of its source"))
        decisions.append(
            Decision(
                snapshot=candidate.snapshot,
                kept=bool(reasons),
                reasons=tuple(reasons or (reason for _, reason in answers)),
                doubtful=not candidate.believed,
            )
        )
    return decisions


def _alerted(snapshots: Sequence[Snapshot], unsure: AbstractSet[int]) -> dict[int, list[Reason]]:
    """Return why snapshots of one source stay because of alerts, by their numbers."""
    found: dict[int, list[Reason]] = {}
    before: Optional[int] = None
    for snapshot in snapshots:
        kinds = ", ".join(alert.kind for alert in snapshot.alerts if not alert.acknowledged)
        if kinds or snapshot.id in unsure:
            text = f"{kinds} not acknowledged" if kinds else "its changes are damaged: it may have raised an alert"
            found.setdefault(snapshot.id, []).append(Reason(rule="alert", text=text))
            if before is not None:
                found.setdefault(before, []).append(
                    Reason(rule="alert", text=f"last before the alert of {snapshot.id}")
                )
        before = snapshot.id
    return found


class _Candidate:
    """A snapshot, whether its time is believed, and that time in the policy's zone."""

    def __init__(self, snapshot: Snapshot, believed: bool, zone: Optional[datetime.tzinfo]) -> None:
        self.snapshot = snapshot
        self.believed = believed
        self.moment = local_time(snapshot.started_ns, zone)


def _believed(times: Sequence[int], now_ns: int) -> list[bool]:
    """Tell which times fit: the longest sequence that does not descend, of those that can be.

    By patience sorting: ``ends[n]`` is the position at which the best sequence of n + 1 times ends, the one that ends
    earliest; each position knows the one before it.
    """
    tails: list[int] = []
    ends: list[int] = []
    before = [-1] * len(times)
    for position, time in enumerate(times):
        if not EARLIEST_NS <= time <= now_ns:
            continue
        length = bisect_right(tails, time)
        before[position] = ends[length - 1] if length else -1
        tails[length : length + 1] = [time]
        ends[length : length + 1] = [position]
    believed = [False] * len(times)
    position = ends[-1] if ends else -1
    while position >= 0:
        believed[position] = True
        position = before[position]
    return believed


# The rules. Each is asked about one snapshot after the other, the newest first, and answers whether it keeps it, and
# why or why not.


class _Rule(Protocol):
    def ask(self, candidate: _Candidate) -> tuple[bool, Reason]: ...


def _rules(policy: RetentionPolicy, candidates: Sequence[_Candidate]) -> list[_Rule]:
    rules: list[_Rule] = [_Last(policy.last)] if policy.last else []
    rules += [_Newest(name, places) for name, places in policy.periods().items()]
    if policy.within is not None:
        rules.append(_Within(policy.within, candidates))
    rules += [_Tagged(tag) for tag in policy.tags]
    return rules or [_All()]


class _All:
    """Keeps everything: what a policy without rules does."""

    def ask(self, candidate: _Candidate) -> tuple[bool, Reason]:
        return True, Reason(rule="none", text="no rule")


@attrs.define(eq=False)
class _Last:
    """Keeps the first so many that it is asked about."""

    places: int
    used: int = 0

    def ask(self, candidate: _Candidate) -> tuple[bool, Reason]:
        self.used += 1
        if self.used > self.places:
            return False, Reason(rule="last", text=f"last: {self.places} newer")
        return True, Reason(rule="last", text="last")


@attrs.define(eq=False)
class _Newest:
    """Keeps the newest one of each period."""

    name: str
    places: int
    used: int = 0
    holders: dict[tuple[bool, str], int] = attrs.Factory(dict)  # who has a period, among the believed and the doubtful

    def ask(self, candidate: _Candidate) -> tuple[bool, Reason]:
        snapshot = candidate.snapshot
        period = _PERIODS[self.name](candidate.moment)
        place = (candidate.believed, period if snapshot.started_ns >= EARLIEST_NS else f"snapshot {snapshot.id}")
        text = f"{self.name} {period}"
        if place in self.holders:
            return False, Reason(rule=self.name, period=period, text=f"{text} has {self.holders[place]}")
        if self.used >= self.places:
            return False, Reason(rule=self.name, period=period, text=f"{self.name}: {self.places} newer")
        self.holders[place] = snapshot.id
        self.used += candidate.believed
        return True, Reason(rule=self.name, period=period, text=text)


def _span(duration: datetime.timedelta) -> str:
    hours = duration / datetime.timedelta(hours=1)
    return f"{hours:g} h" if hours % 24 else f"{hours / 24:g} d"


class _Within:
    """Keeps those from the first one on that is not older than a duration."""

    def __init__(self, duration: datetime.timedelta, candidates: Sequence[_Candidate]) -> None:
        self._text = f"within {_span(duration)}"
        times = [(each.snapshot.started_ns, each.snapshot.id) for each in candidates if each.believed]
        span_ns = duration // datetime.timedelta(microseconds=1) * 1000
        self._first = next((number for time_ns, number in times if time_ns >= times[-1][0] - span_ns), 0)

    def ask(self, candidate: _Candidate) -> tuple[bool, Reason]:
        inside = candidate.snapshot.id >= self._first
        return inside, Reason(rule="within", text=self._text if inside else f"not {self._text}")


@attrs.define(eq=False)
class _Tagged:
    """Keeps those with a tag."""

    tag: str

    def ask(self, candidate: _Candidate) -> tuple[bool, Reason]:
        found = self.tag in candidate.snapshot.tags
        return found, Reason(rule="tag", period=self.tag, text=f"tag {self.tag}" if found else f"no tag {self.tag}")
