"""What a policy keeps, compared with a slow reference that knows the rules from their description alone."""

from __future__ import annotations

import datetime
import json
import os
import random
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Set, Tuple

import attrs
import pytest
from conftest import Clock, write

from backuptool import Alert, Repository, RetentionPolicy, Snapshot
from backuptool.retention import EARLIEST_NS, decide, over_budget

SECOND = 1_000_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR

#: Some Monday, at 02:30 in universal time.
START = 1_767_580_200 * SECOND  # 2026-01-05

FAR = START + 4000 * DAY

RULES = ("hourly", "daily", "weekly", "monthly", "quarterly", "yearly")


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets the machine's time zone; it begins with one that has summer time."""

    def set_zone(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    set_zone("Europe/Berlin")
    yield set_zone
    monkeypatch.undo()
    time.tzset()


def alarming(snapshot: Snapshot, acknowledged: bool = False) -> Snapshot:
    alert = Alert(kind="mass-deletion", message="all is gone", acknowledged=acknowledged)
    return attrs.evolve(snapshot, alerts=(alert,))


def taken(number: int, time_ns: int, source: str = "/s", pinned: bool = False, tags: Sequence[str] = ()) -> Snapshot:
    return Snapshot(
        id=number,
        host="h",
        source=source,
        started_ns=time_ns,
        finished_ns=time_ns,
        files=0,
        directories=1,
        size_bytes=0,
        distinct_bytes=0,
        pinned=pinned,
        tags=tuple(tags),
    )


def policy_of(rule: str, places: int) -> RetentionPolicy:
    names: Dict[str, Any] = {rule: places}
    return RetentionPolicy(**names)


def at(*times: int) -> List[Snapshot]:
    """Snapshots numbered from 1 on, taken at these times."""
    return [taken(number, each) for number, each in enumerate(times, 1)]


def kept(policy: RetentionPolicy, snapshots: Iterable[Snapshot], now_ns: int = FAR) -> List[int]:
    return [decision.snapshot.id for decision in decide(policy, snapshots, now_ns) if decision.kept]


def removed(policy: RetentionPolicy, snapshots: Iterable[Snapshot], now_ns: int = FAR) -> List[int]:
    return [decision.snapshot.id for decision in decide(policy, snapshots, now_ns) if not decision.kept]


# The reference: the C library's calendar, sets of periods, and no walk from one snapshot to the next.


def period(rule: str, snapshot: Snapshot) -> str:
    moment = time.localtime(snapshot.started_ns // SECOND)
    quarter = f"{moment.tm_year} {(moment.tm_mon - 1) // 3}"
    formats = {"daily": "%Y %j", "weekly": "%G %V", "monthly": "%Y %m", "yearly": "%Y", "hourly": "%Y %j %H %z"}
    return quarter if rule == "quarterly" else time.strftime(formats[rule], moment)


def reference(policy: RetentionPolicy, snapshots: Sequence[Snapshot], doubtful: Set[int] = frozenset()) -> Set[int]:  # type: ignore[assignment]
    """The numbers that are kept of one source, by what the rules say of each snapshot by itself."""
    newest = max(each.id for each in snapshots)
    believed = [each for each in snapshots if each.id not in doubtful]
    result = {each.id for each in snapshots if each.pinned or each.id == newest or set(each.tags) & set(policy.tags)}
    result |= set(sorted(each.id for each in snapshots)[-policy.last :] if policy.last else [])
    for rule in RULES:
        places: int = getattr(policy, rule)
        if not places:
            continue
        holders: Dict[str, int] = {}
        for each in believed:
            name = period(rule, each)
            holders[name] = max(holders.get(name, 0), each.id)
        chosen = sorted(holders.values())[-places:]
        result |= set(chosen)
        # A doubtful one is kept if the places were not all taken by newer ones.
        full = chosen[0] if len(chosen) == places else 0
        among: Dict[str, int] = {}
        for each in snapshots:
            if each.id in doubtful and each.id > full:
                name = period(rule, each) if each.started_ns >= EARLIEST_NS else str(each.id)
                among[name] = max(among.get(name, 0), each.id)
        result |= set(among.values())
    if policy.within is not None:
        since = believed[-1].started_ns - int(policy.within.total_seconds()) * SECOND if believed else 0
        first = min((each.id for each in believed if each.started_ns >= since), default=0)
        result |= {each.id for each in snapshots if each.id >= first}
    return result


def without_rules(policy: RetentionPolicy) -> bool:
    return not (policy.last or policy.within or policy.tags or any(getattr(policy, rule) for rule in RULES))


def longest(times: Sequence[int], now_ns: int) -> int:
    """How many times at most ascend and can be, by trying what may come before each."""
    best: List[int] = []
    for position, each in enumerate(times):
        fits = EARLIEST_NS <= each <= now_ns
        before = [best[other] for other in range(position) if times[other] <= each]
        best.append(1 + max(before, default=0) if fits else 0)
    return max(best, default=0)


# Each rule.


def test_a_policy_without_rules_keeps_everything() -> None:
    assert removed(RetentionPolicy(), at(START, START, START + DAY)) == []
    assert decide(RetentionPolicy(), at(START), FAR)[0].reasons[-1].rule == "none"
    assert decide(RetentionPolicy(last=1), [], FAR) == ()


def test_last_counts_snapshots_by_number(zone: Any) -> None:
    assert kept(RetentionPolicy(last=2), at(START, START, START, START)) == [3, 4]
    assert kept(RetentionPolicy(last=9), at(START, START)) == [1, 2]


@pytest.mark.parametrize(
    ("rule", "step", "expected"),
    [
        ("hourly", HOUR // 2, "2026-01-05 03:00+0100"),
        ("daily", DAY // 2, "2026-01-05"),
        ("weekly", 3 * DAY + DAY // 2, "2026-W02"),
        ("monthly", 15 * DAY, "2026-01"),
        ("quarterly", 45 * DAY, "2026-Q1"),
        ("yearly", 182 * DAY, "2026"),
    ],
)
def test_the_newest_of_each_of_the_last_periods_is_kept_and_named(
    zone: Any, rule: str, step: int, expected: str
) -> None:
    snapshots = at(*(START + number * step for number in range(40)))
    policy = policy_of(rule, 3)
    assert set(kept(policy, snapshots, FAR + 20 * 365 * DAY)) == reference(policy, snapshots)
    assert len(reference(policy, snapshots)) == 3
    [first] = decide(policy, snapshots[:1], FAR)
    assert [reason.rule for reason in first.reasons] == ["newest", rule]
    assert str(first.reasons[1]) == f"{rule} {expected}"
    assert first.reasons[1].period == expected


def test_within_counts_from_the_newest_snapshot_and_not_from_now() -> None:
    policy = RetentionPolicy(within=datetime.timedelta(days=2))
    snapshots = at(START, START + DAY, START + 2 * DAY, START + 3 * DAY)
    assert kept(policy, snapshots, START + 3 * DAY) == kept(policy, snapshots, FAR) == [2, 3, 4]
    assert kept(RetentionPolicy(within=datetime.timedelta(microseconds=1)), snapshots) == [4]


def test_any_of_the_tags_keeps() -> None:
    snapshots = [taken(number, START, tags=tags) for number, tags in enumerate([["a"], ["b", "c"], [], ["ab"], []], 1)]
    assert kept(RetentionPolicy(tags=("a", "c")), snapshots) == [1, 2, 5]
    assert kept(RetentionPolicy(tags="a"), snapshots) == [1, 5]


def test_pinned_ones_and_the_newest_of_each_source_stay_whatever_the_rules_say() -> None:
    snapshots = [
        taken(1, START, "/a"),
        taken(2, START, "/b", pinned=True),
        taken(3, START, "/b"),
        taken(4, START, "/b"),
    ]
    policy = RetentionPolicy(tags=("none",))
    assert removed(policy, snapshots) == [3]
    reasons = {
        decision.snapshot.id: [str(each) for each in decision.reasons] for decision in decide(policy, snapshots, 0)
    }
    assert reasons == {1: ["newest of its source"], 2: ["pinned"], 3: ["no tag none"], 4: ["newest of its source"]}


def test_what_an_alert_is_about_stays_until_it_is_acknowledged() -> None:
    nights = [taken(number, START + number * DAY, "/t" if number == 3 else "/s") for number in range(1, 9)]
    nights[3] = alarming(nights[3])
    nights[6] = alarming(nights[6], acknowledged=True)
    decisions = decide(RetentionPolicy(last=1), nights, FAR)
    assert {each.snapshot.id: [str(reason) for reason in each.reasons] for each in decisions if each.kept} == {
        2: ["last before the alert of 4"],
        3: ["newest of its source", "last"],
        4: ["mass-deletion not acknowledged"],
        8: ["newest of its source", "last"],
    }
    assert {reason.rule for reason in decisions[1].reasons} == {"alert"}
    nights[3] = alarming(nights[3], acknowledged=True)
    assert kept(RetentionPolicy(last=1), nights) == [3, 8]
    assert kept(RetentionPolicy(last=1), [alarming(nights[0]), *nights[1:]]) == [1, 3, 8]  # nothing is before it


def test_what_may_have_raised_an_alert_stays_with_the_one_before_it() -> None:
    assert [each.snapshot.id for each in decide(RetentionPolicy(last=1), at(1, 2, 3, 4), FAR, {3}) if each.kept] == [
        *(2, 3, 4)
    ]


def test_sources_are_told_apart_by_host_and_directory() -> None:
    other = attrs.evolve(taken(3, START), host="other")
    snapshots = [taken(1, START), taken(2, START, "/t"), other, taken(4, START), taken(5, START, "/t")]
    assert kept(RetentionPolicy(last=1), reversed(snapshots)) == [3, 4, 5]


def test_what_is_removed_says_why_no_rule_keeps_it(zone: Any) -> None:
    policy = RetentionPolicy(last=1, daily=2, weekly=5, within=datetime.timedelta(hours=36), tags=("x",))
    decisions = decide(policy, at(*(START + day * DAY for day in range(4)), START + 3 * DAY), FAR)
    assert not decisions[1].kept
    assert [str(reason) for reason in decisions[1].reasons] == [
        "last: 1 newer",
        "daily: 2 newer",
        "weekly 2026-W02 has 5",
        "not within 36 h",
        "no tag x",
    ]
    assert [str(reason) for reason in decisions[4].reasons] == [
        "newest of its source",
        "last",
        "daily 2026-01-08",
        "weekly 2026-W02",
        "within 36 h",
    ]
    assert repr(decisions[4]).startswith("<Decision 5 kept: newest of its source, last, daily 2026-01-08")


def test_the_budget_takes_the_oldest_first_and_spares_the_newest_and_the_pinned() -> None:
    snapshots = [taken(1, START, pinned=True), taken(2, START), taken(3, START, "/t"), taken(4, START), taken(5, START)]
    assert over_budget(decide(RetentionPolicy(), snapshots, FAR)) == (2, 4)
    assert over_budget(decide(RetentionPolicy(last=1), snapshots, FAR)) == ()
    several = [alarming(each) if each.id == 4 else each for each in at(*range(7))]
    assert over_budget(decide(RetentionPolicy(), several, FAR)) == (1, 2, 5, 6)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"last": -1}, "last must be a number of 0 or more, not -1"),
        ({"daily": True}, "daily must be a number of 0 or more, not True"),
        ({"yearly": 1.5}, "yearly must be"),
        ({"weekly": "7"}, "weekly must be"),
        ({"within": datetime.timedelta(0)}, "within must be a timedelta above 0"),
        ({"within": 30}, "within must be a timedelta above 0, not 30"),
        ({"tags": ("a", "")}, "tags must be words"),
        ({"tags": (1,)}, "tags must be words"),
        ({"max_bytes": 0}, "max_bytes must be a number of bytes above 0, not 0"),
        ({"max_bytes": -5}, "max_bytes must be"),
        ({"max_bytes": True}, "max_bytes must be"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_by_name(values: Dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        RetentionPolicy(**values)


def test_a_policy_says_what_it_is() -> None:
    policy = RetentionPolicy(last=2, yearly=1, within=datetime.timedelta(days=30), tags=("a",), max_bytes=1 << 30)
    assert repr(policy) == "<RetentionPolicy last 2, yearly 1, within 30 d, tag a, at most 1.0 GiB>"
    assert repr(RetentionPolicy()) == "<RetentionPolicy no rule: everything is kept>"
    zoned = attrs.evolve(policy, timezone=datetime.timezone.utc)
    document = json.loads(json.dumps(zoned.to_dict()))
    assert (document["within_seconds"], document["timezone"], document["tags"]) == (30 * 86400, "UTC", ["a"])


# Clocks.


def test_the_hour_that_comes_twice_is_two_hours_and_the_long_day_one_day(zone: Any) -> None:
    begin = 1_792_886_400 * SECOND  # 2026-10-25 00:00 UTC: 02:00 in Berlin, for the first time
    snapshots = at(*(begin + number * HOUR // 2 for number in range(4)))
    assert kept(RetentionPolicy(hourly=9), snapshots) == [2, 4]
    assert [str(decision.reasons[-1]) for decision in decide(RetentionPolicy(hourly=9), snapshots, FAR)][1::2] == [
        "hourly 2026-10-25 02:00+0200",
        "hourly 2026-10-25 02:00+0100",
    ]
    midnight = begin - 2 * HOUR
    assert kept(RetentionPolicy(daily=9), at(midnight - 1, midnight, midnight + 25 * HOUR - 1)) == [1, 3]
    assert kept(RetentionPolicy(daily=9), at(midnight, midnight + 25 * HOUR - 1, midnight + 25 * HOUR)) == [2, 3]


def test_days_are_those_of_the_policys_zone_or_of_the_machine(zone: Callable[[str], None]) -> None:
    evening = at(START - 4 * HOUR, START)  # 22:30 and 02:30 in universal time
    for name, expected in (("UTC", [1, 2]), ("America/New_York", [2]), ("Asia/Kolkata", [2])):
        zone(name)
        assert kept(RetentionPolicy(daily=5), evening) == expected
        assert kept(RetentionPolicy(daily=5, timezone=datetime.timezone.utc), evening) == [1, 2]


def test_a_snapshot_of_the_future_takes_no_place_and_its_day_does_not_go_missing(zone: Any) -> None:
    times = [START + day * DAY for day in range(10)]
    times[6] += 5000 * DAY
    decisions = decide(RetentionPolicy(daily=5), at(*times), START + 10 * DAY)
    assert [each.snapshot.id for each in decisions if each.kept] == [5, 6, 7, 8, 9, 10]
    assert [each.snapshot.id for each in decisions if each.doubtful] == [7]
    later = at(*times, *(START + day * DAY for day in range(10, 20)))
    assert kept(RetentionPolicy(daily=5), later, START + 20 * DAY) == [16, 17, 18, 19, 20]  # it does not stay for ever


def test_a_snapshot_of_the_past_changes_nothing_for_those_before_it(zone: Any) -> None:
    times = [START + day * DAY for day in range(10)]
    times[6] = EARLIEST_NS + DAY
    assert kept(RetentionPolicy(daily=5), at(*times)) == [5, 6, 7, 8, 9, 10]
    assert kept(RetentionPolicy(within=datetime.timedelta(days=5)), at(*times)) == [5, 6, 7, 8, 9, 10]


def test_a_clock_that_was_ahead_and_is_set_back_loses_no_day(zone: Any) -> None:
    ahead = [START + (365 + day) * DAY for day in range(30)]
    right = [START + (30 + day) * DAY for day in range(5)]
    assert kept(RetentionPolicy(daily=7), at(*ahead, *right), right[-1]) == list(range(1, 36))
    right += [START + (35 + day) * DAY for day in range(5)]
    assert kept(RetentionPolicy(daily=7), at(*ahead, *right), right[-1]) == [34, 35, 36, 37, 38, 39, 40]


def test_pruning_by_a_clock_that_is_behind_removes_no_more_than_by_a_right_one(zone: Any) -> None:
    snapshots = at(*(START + number * DAY // 2 for number in range(200)))
    policy = RetentionPolicy(last=1, daily=7, weekly=4, monthly=3, within=datetime.timedelta(days=3))
    right = set(kept(policy, snapshots, START + 100 * DAY))
    for days in (-20_000, -10, 0, 30, 60, 90, 99):
        assert right <= set(kept(policy, snapshots, START + days * DAY))
    assert right == set(kept(policy, snapshots, FAR))  # and one that is ahead is as good as a right one


def test_a_machine_that_begins_in_1970_each_time_loses_nothing(zone: Any) -> None:
    snapshots = at(*(random.Random(1).randrange(400) * SECOND for _ in range(50)))
    assert removed(RetentionPolicy(daily=3, yearly=1), snapshots, 500 * SECOND) == []
    snapshots += [taken(51 + day, START + day * DAY) for day in range(3)]
    assert kept(RetentionPolicy(daily=3), snapshots) == [51, 52, 53]


def test_equal_times_are_told_apart_by_number(zone: Any) -> None:
    assert kept(RetentionPolicy(hourly=1, daily=1), at(START, START, START)) == [3]


def test_times_beyond_every_calendar_are_doubtful_and_decided_all_the_same() -> None:
    snapshots = at(-(1 << 63), (1 << 63) - 1, START)
    assert [each.doubtful for each in decide(RetentionPolicy(daily=1), snapshots, FAR)] == [True, True, False]
    assert kept(RetentionPolicy(daily=1), snapshots) == [3]
    assert kept(RetentionPolicy(daily=2, hourly=2), snapshots) == [1, 2, 3]


# Years of nights.


def nights(days: int) -> Iterator[int]:
    """When a nightly job runs: at 02:30 by the wall clock, or a few minutes later, and sometimes not at all."""
    chance = random.Random(days)
    day = datetime.datetime(2026, 1, 1, 2, 30)
    for number in range(days):
        if chance.random() > 0.03:
            moment = day + datetime.timedelta(days=number, seconds=chance.randrange(600))
            yield int(moment.timestamp()) * SECOND


def hours(days: int) -> Iterator[int]:
    for number in range(24 * days):
        yield START + number * HOUR + number % 7 * SECOND


def years(count: int) -> Iterator[int]:
    for number in range(count):
        yield START + number * 365 * DAY


POLICIES = [
    RetentionPolicy(last=3, hourly=24, daily=7, weekly=5, monthly=12, quarterly=8, yearly=10),
    RetentionPolicy(daily=30, yearly=2, within=datetime.timedelta(days=10)),
    RetentionPolicy(hourly=48, weekly=3, quarterly=2),
]


@pytest.mark.parametrize(
    ("runs", "count", "policy"),
    [
        (nights, 31, 0),
        (nights, 31, 1),
        (nights, 31, 2),
        (nights, 1096, 0),
        (hours, 31, 0),
        (years, 60, 0),
        pytest.param(nights, 1096, 1, marks=pytest.mark.long),
        pytest.param(nights, 1096, 2, marks=pytest.mark.long),
        pytest.param(hours, 90, 1, marks=pytest.mark.long),
        pytest.param(hours, 90, 2, marks=pytest.mark.long),
    ],
)
def test_pruning_after_every_run_keeps_what_the_reference_says_and_what_one_prune_would(
    zone: Any, runs: Callable[[int], Iterator[int]], count: int, policy: int
) -> None:
    survive(POLICIES[policy], list(runs(count)))


def survive(policy: RetentionPolicy, times: List[int]) -> None:
    """Take a snapshot at each time and prune after each."""
    assert len(times) > 25
    there: List[Snapshot] = []
    for number, each in enumerate(times, 1):
        there.append(taken(number, each))
        expected = reference(policy, there)
        left = kept(policy, there, each)
        assert set(left) == expected
        there = [snapshot for snapshot in there if snapshot.id in expected]
    assert kept(policy, at(*times), times[-1]) == [snapshot.id for snapshot in there]


def test_a_month_of_nights_in_a_repository_prunes_to_what_the_reference_says(
    repo: Repository, tree: Path, clock: Clock, zone: Any
) -> None:
    policy = RetentionPolicy(last=2, daily=5, weekly=3, monthly=2)
    taken_at: List[Snapshot] = []
    for number in range(31):
        write(tree / "a.txt", b"%d" % number)
        taken_at.append(repo.snapshot(tree, pinned=number == 4).snapshot)
        repo.prune(policy)
        expected = reference(policy, taken_at)
        taken_at = [snapshot for snapshot in taken_at if snapshot.id in expected]
        assert [snapshot.id for snapshot in repo.list()] == [snapshot.id for snapshot in taken_at]
        clock.advance(86400)
    assert 8 <= len(taken_at) <= 12
    assert repo.check().problems == ()


def test_any_policy_on_any_times_agrees_with_the_reference(zone: Any) -> None:
    explore(zone, 150)


@pytest.mark.long
def test_many_policies_on_many_times_agree_with_the_reference(zone: Any) -> None:
    explore(zone, 20_000)


def explore(zone: Callable[[str], None], examples: int) -> None:
    hypothesis = pytest.importorskip("hypothesis")
    some = hypothesis.strategies
    places = {name: some.integers(0, 5) for name in ("last", *RULES)}
    policies = some.builds(
        RetentionPolicy,
        within=some.none()
        | some.timedeltas(datetime.timedelta(hours=1), datetime.timedelta(days=60)).map(
            lambda span: datetime.timedelta(seconds=int(span.total_seconds()))
        ),
        tags=some.sampled_from([(), ("a",), ("a", "b")]),
        **places,
    )
    # Steps from one snapshot to the next: mostly ahead, sometimes far, sometimes back.
    steps = some.sampled_from([0, 60, 1800, 3600, 10_000, 86_400, 86_400, 90_000, 700_000, 9_000_000, -4000, -86_400])
    wrong = some.none() | some.integers(-60, 200).map(lambda days: START + days * DAY) | some.just(77 * SECOND)
    runs = some.lists(some.tuples(steps, wrong, some.booleans(), some.sampled_from(["", "a", "b"])), max_size=40)
    zones = some.sampled_from(["UTC", "Europe/Berlin", "Pacific/Auckland", "America/St_Johns"])

    def agrees(policy: RetentionPolicy, run: List[Tuple[int, Optional[int], bool, str]], now: int, name: str) -> None:
        zone(name)
        snapshots = []
        moment = START
        for number, (step, other, pinned, tag) in enumerate(run, 1):
            moment += step * SECOND
            tags = [tag] if tag else []
            snapshots.append(taken(3 * number, moment if other is None else other, pinned=pinned, tags=tags))
        now_ns = moment + now * DAY
        decisions = decide(policy, snapshots[::-1], now_ns)
        assert [each.snapshot for each in decisions] == snapshots
        believed = [each.snapshot.started_ns for each in decisions if not each.doubtful]
        assert believed == sorted(believed)
        assert all(EARLIEST_NS <= each <= now_ns for each in believed)
        assert len(believed) == longest([each.started_ns for each in snapshots], now_ns)
        result = {each.snapshot.id for each in decisions if each.kept}
        if not snapshots or without_rules(policy):
            assert len(result) == len(snapshots)
        else:
            assert result == reference(policy, snapshots, {each.snapshot.id for each in decisions if each.doubtful})
            assert all(each.reasons for each in decisions)

    test = hypothesis.given(policies, runs, some.integers(-100, 100), zones)(agrees)
    settings: Dict[str, Any] = {"max_examples": examples, "derandomize": examples < 1000, "database": None}
    fixture = hypothesis.HealthCheck.function_scoped_fixture
    hypothesis.settings(deadline=None, suppress_health_check=[fixture], **settings)(test)()


def test_the_zones_of_these_tests_are_there() -> None:
    assert os.path.exists("/usr/share/zoneinfo/Europe/Berlin"), "apt-get install tzdata"
