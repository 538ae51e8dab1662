"""Plans say exactly what pruning does, before it is done; what no longer fits, or is pinned, is refused."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import pickle
import re
import shutil
from pathlib import Path
from typing import Callable, Iterator, List, Tuple

import attrs
import pytest
from conftest import Clock, noise, restored, sql, write, write_tree

from backuptool import (
    CorruptionError,
    PlanOutdatedError,
    ProgressEvent,
    PrunePlan,
    Repository,
    RepositoryLockedError,
    RetentionPolicy,
    SnapshotPinnedError,
)
from backuptool.cli import main

DAY = 86400

#: Of ten days: what removes nothing, little, and nearly everything.
POLICIES = (
    RetentionPolicy(),
    RetentionPolicy(last=8),
    RetentionPolicy(daily=8),
    RetentionPolicy(weekly=1, last=2),
    RetentionPolicy(last=1),
)


@pytest.fixture
def tmp_path(memory_path: Path) -> Path:
    """Many repositories are to be copied here."""
    return memory_path


@pytest.fixture
def days(tmp_path: Path, clock: Clock) -> Iterator[Repository]:
    """Ten days of a directory in which something changes, comes and goes every day."""
    tree = write_tree(tmp_path / "tree", {"stays": noise(50_000, 99)})
    with Repository(tmp_path / "backups.db", lock_timeout=5) as repo:
        for day in range(10):
            write(tree / "changes", noise(30_000 + 7_000 * day, day))
            write(tree / f"comes {day}", b"text of the day %d " % day * 4_000)
            if day % 3 == 2:
                (tree / f"comes {day - 2}").unlink()
            repo.snapshot(tree, tags=["even"] if day % 2 == 0 else [])
            clock.advance(DAY)
        yield repo


def digest(repo: Repository) -> str:
    return hashlib.sha256(Path(repo.path).read_bytes()).hexdigest()


def copy_of(repo: Repository, name: str) -> Repository:
    repo.close()
    path = Path(repo.path).with_name(name)
    shutil.copy(repo.path, path)
    return Repository(path)


def ids(repo: Repository) -> List[int]:
    return [snapshot.id for snapshot in repo.list()]


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
@pytest.mark.both
def test_a_plan_says_exactly_what_pruning_then_does(days: Repository, policy: RetentionPolicy) -> None:
    before, size = digest(days), os.path.getsize(days.path)
    plan = days.plan_prune(policy)
    assert digest(days) == before
    result = days.prune(plan)
    assert os.path.getsize(days.path) == plan.repository_bytes == result.repository_bytes
    assert size - os.path.getsize(days.path) == plan.freed_bytes == result.freed_bytes
    for name in ("removed_versions", "removed_contents", "removed_bytes", "repacked_packs", "decisions", "problems"):
        assert getattr(plan, name) == getattr(result, name), name
    assert plan.removed == result.snapshots
    assert tuple(days.list()) == tuple(
        attrs.evolve(there, distinct_bytes=now.distinct_bytes) for there, now in zip(plan.kept, days.list())
    )
    assert [each.snapshot.id for each in plan.decisions] == list(range(1, 11))
    assert days.check().problems == ()


def test_a_policy_does_what_its_plan_says(days: Repository) -> None:
    policy = RetentionPolicy(last=1, weekly=2, tags=("none",))
    plan = days.plan_prune(policy)
    assert plan.removed
    trial = days.prune(policy, dry_run=True)
    assert (trial.decisions, trial.freed_bytes, trial.dry_run) == (plan.decisions, plan.freed_bytes, True)
    result = days.prune(policy)
    assert (result.decisions, result.repository_bytes) == (plan.decisions, plan.repository_bytes)
    assert os.path.getsize(days.path) == plan.repository_bytes
    assert days.prune(policy).snapshots == ()


def test_policies_are_compared_to_the_byte_before_anything_is_removed(days: Repository) -> None:
    before = digest(days)
    plans = days.forecast(POLICIES)
    assert digest(days) == before
    assert [plan.policy for plan in plans] == list(POLICIES)
    assert len({plan.state for plan in plans}) == 1
    for number, (policy, plan) in enumerate(zip(POLICIES, plans)):
        with copy_of(days, f"{number}.db") as copy:
            result = copy.prune(policy)
            assert os.path.getsize(copy.path) == plan.repository_bytes
            assert (result.freed_bytes, result.decisions) == (plan.freed_bytes, plan.decisions)
    assert plans[1].freed_bytes == plans[2].freed_bytes < plans[3].freed_bytes < plans[4].freed_bytes
    assert days.forecast([]) == ()


def test_policies_that_begin_alike_and_differ_in_the_size_have_plans_of_their_own(days: Repository) -> None:
    policies = [RetentionPolicy(last=8, max_bytes=limit) for limit in (1, 1 << 40)]
    policies += [RetentionPolicy(last=8), RetentionPolicy(max_bytes=1), RetentionPolicy(), RetentionPolicy(daily=8)]
    plans = days.forecast(policies)
    assert [len(plan.removed) for plan in plans] == [2, 2, 2, 0, 0, 2]
    assert plans == tuple(days.plan_prune(policy) for policy in policies)
    assert [bool(plan.problems) for plan in plans] == [True, False, False, True, False, False]


def sizes_without_the_oldest(days: Repository) -> List[int]:
    """The size of the repository without its oldest, its two oldest … snapshots, each measured on a copy."""
    found = []
    for number in range(10):
        with copy_of(days, f"without-{number}.db") as copy:
            copy.prune(list(range(1, number + 1)))
            found.append(os.path.getsize(copy.path))
    return found


def test_a_size_removes_the_oldest_and_no_more_than_it_takes(days: Repository) -> None:
    sizes = sizes_without_the_oldest(days)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[4] > sizes[9]
    for limit in {size + more for size in sizes for more in (0, -1, 1)}:
        plan = days.plan_prune(RetentionPolicy(max_bytes=limit))
        enough = [number for number, size in enumerate(sizes) if size <= limit]
        assert len(plan.removed) == (enough[0] if enough else 0)
        assert [snapshot.id for snapshot in plan.removed] == list(range(1, len(plan.removed) + 1))
        assert plan.repository_bytes == sizes[len(plan.removed)]
        assert [problem.kind for problem in plan.problems] == ([] if enough else ["above-max-size"])
    result = days.prune(RetentionPolicy(max_bytes=sizes[5]))
    assert ids(days)[0] == sizes.index(sizes[5]) + 1
    assert os.path.getsize(days.path) == result.repository_bytes == sizes[5]
    assert {str(reason)[:5] for each in result.decisions if not each.kept for reason in each.reasons} == {"size:"}
    assert days.check().problems == ()


def test_room_that_only_packing_again_gives_back_counts_for_a_size(tmp_path: Path, clock: Clock) -> None:
    tree = write_tree(tmp_path / "tree", {})
    with Repository(tmp_path / "backups.db") as repo:
        for day in range(10):
            write(tree / f"stays {day}", noise(2_000, day))
            write(tree / "changes", noise(9_000, 100 + day))
            repo.snapshot(tree)
        sizes = sizes_without_the_oldest(repo)
        assert len(set(sizes)) > 3
        for limit in {size + more for size in sizes for more in (0, -1)}:
            plan = repo.plan_prune(RetentionPolicy(max_bytes=limit))
            enough = [number for number, size in enumerate(sizes) if size <= limit]
            assert len(plan.removed) == (enough[0] if enough else 0), (limit, sizes)


def test_a_size_that_cannot_be_reached_is_a_problem_of_the_plan_and_of_the_result(days: Repository) -> None:
    days.annotate(3, pinned=True)
    policy = RetentionPolicy(last=9, max_bytes=4096)
    plan = days.plan_prune(policy)
    assert [snapshot.id for snapshot in plan.removed] == [1]  # by the other rule
    [problem] = plan.problems
    assert problem.message.startswith("the limit of 4.0 KiB cannot be reached, so nothing goes for it")
    assert days.prune(policy, dry_run=True).problems == plan.problems
    result = days.prune(plan)
    assert ids(days) == list(range(2, 11))
    assert result.problems == plan.problems
    assert days.prune(policy).problems == plan.problems  # it stays one
    [smallest] = re.findall(r"still have ([\d,]+) bytes", problem.message)
    result = days.prune(RetentionPolicy(max_bytes=int(smallest.replace(",", ""))))
    assert result.problems == ()
    assert ids(days) == [3, 10]


def test_a_source_without_snapshots_is_a_problem_and_not_a_success(
    days: Repository, run: Callable[..., Tuple[int, str, str]]
) -> None:
    [problem] = days.plan_prune(RetentionPolicy(last=1), source="/typo", host="elsewhere").problems
    assert problem.kind == "nothing-found"
    assert problem.message.startswith("there is no snapshot of /typo from the machine elsewhere")
    days.close()
    code, _, err = run("--keep-last", "1", "--source", "/typo")
    assert (code, len(ids(days))) == (3, 10)
    assert "there is no snapshot of /typo, so no rule was applied" in err


@pytest.mark.parametrize(
    "change",
    [
        lambda repo: repo.snapshot(Path(repo.path).with_name("tree")),
        lambda repo: repo.prune(4),
        lambda repo: repo.annotate(4, pinned=True),
        lambda repo: repo.annotate(10, add_tags=["x"]),
    ],
    ids=["snapshot", "prune", "pin", "tag"],
)
def test_a_plan_for_another_state_is_refused(days: Repository, change: Callable[[Repository], object]) -> None:
    plan = days.plan_prune(RetentionPolicy(last=2))
    change(days)
    before = ids(days)
    with pytest.raises(PlanOutdatedError, match="make a new plan") as caught:
        days.prune(plan)
    assert caught.value.path == days.path
    assert ids(days) == before


def test_a_plan_for_another_repository_is_refused(days: Repository, tmp_path: Path) -> None:
    plan = days.plan_prune(RetentionPolicy(last=2))
    with Repository(tmp_path / "other.db") as other:
        other.snapshot(tmp_path / "tree")
        with pytest.raises(PlanOutdatedError):
            other.prune(plan)
    with copy_of(days, "copy.db") as copy:
        assert len(copy.prune(plan).snapshots) == 8  # a copy is the same repository


def test_a_plan_survives_pickling_and_is_plain_in_json(days: Repository) -> None:
    plan = days.plan_prune(RetentionPolicy(last=2, within=datetime.timedelta(days=3)))
    again: PrunePlan = pickle.loads(pickle.dumps(plan))
    assert again == plan
    document = json.loads(json.dumps(plan.to_dict()))
    assert document["policy"]["within_seconds"] == 3 * DAY
    assert [each["kept"] for each in document["decisions"]] == [False] * 7 + [True] * 3  # 7 is some ms older
    assert document["decisions"][0]["reasons"][0] == {"rule": "last", "period": "", "text": "last: 2 newer"}
    assert repr(plan).startswith("<PrunePlan keep 3, remove 7 snapshots, ")
    assert days.prune(again).repository_bytes == plan.repository_bytes


def test_only_the_sources_asked_for_are_looked_at(days: Repository, tmp_path: Path) -> None:
    other = write_tree(tmp_path / "other", {"a": b"a"})
    for _ in range(3):
        days.snapshot(other, host="elsewhere")
    plan = days.plan_prune(RetentionPolicy(last=1), source=other)
    assert [each.snapshot.id for each in plan.decisions] == [11, 12, 13]
    assert days.plan_prune(RetentionPolicy(last=1), host="elsewhere").decisions == plan.decisions
    assert days.plan_prune(RetentionPolicy(last=1), host="nowhere").decisions == ()
    assert days.prune(RetentionPolicy(last=1), host="elsewhere").snapshots == plan.removed
    assert ids(days) == [*range(1, 11), 13]
    for wanted in (1, (), days.plan_prune(RetentionPolicy())):
        with pytest.raises(ValueError, match="are for policies"):
            days.prune(wanted, source=other)


def test_a_pinned_snapshot_is_removed_only_after_it_was_unpinned(days: Repository) -> None:
    for number in (2, 4):
        days.annotate(number, pinned=True)
    with pytest.raises(SnapshotPinnedError, match="snapshots 2, 4 are pinned; unpin them first") as caught:
        days.prune([1, 2, 4])
    assert caught.value.snapshots == (2, 4)
    with pytest.raises(SnapshotPinnedError, match="snapshot 2 is pinned; unpin it first"):
        days.prune(2, dry_run=True)
    assert ids(days) == list(range(1, 11))
    days.prune(RetentionPolicy(last=1))
    assert ids(days) == [2, 4, 10]
    days.annotate(2, pinned=False)
    days.prune([2, 10])
    assert ids(days) == [4]
    assert restored(days, 4, Path(days.path).with_name("out"))


def test_a_policy_is_not_applied_where_it_is_not_sure_what_is_pinned(days: Repository) -> None:
    days.annotate(3, pinned=True)
    days.close()
    sql(days.path, "UPDATE pins SET snapshot = 5")
    with pytest.raises(CorruptionError, match=r"the pin of snapshot 5 .* damaged"):
        days.prune(RetentionPolicy(last=1))
    with pytest.raises(SnapshotPinnedError):
        days.prune(5)
    assert ids(days) == list(range(1, 11))
    days.annotate(5, pinned=False)
    days.prune(RetentionPolicy(last=1))
    assert ids(days) == [10]


def test_a_pin_of_a_snapshot_that_is_not_there_goes_with_any_other(days: Repository) -> None:
    days.annotate(3, pinned=True)
    days.close()
    sql(days.path, "UPDATE pins SET snapshot = 99")
    with pytest.raises(CorruptionError):
        days.plan_prune(RetentionPolicy(last=1))
    days.annotate(3, pinned=True)
    assert days.check().problems == ()
    assert [snapshot.id for snapshot in days.plan_prune(RetentionPolicy(last=1)).kept] == [3, 10]


def test_nobody_changes_the_repository_between_choosing_and_removing(days: Repository) -> None:
    refused: List[str] = []

    def meanwhile(event: ProgressEvent) -> None:
        if event.phase == "remove" and not refused:
            with Repository(days.path, lock_timeout=0) as other, pytest.raises(RepositoryLockedError):
                other.snapshot(Path(days.path).with_name("tree"))
            refused.append(event.phase)

    days.prune(RetentionPolicy(last=3), progress=meanwhile)
    assert refused == ["remove"]
    assert ids(days) == [8, 9, 10]


# The command.


@pytest.fixture
def run(days: Repository, capsys: pytest.CaptureFixture[str]) -> Callable[..., Tuple[int, str, str]]:
    days.close()

    def call(*arguments: str) -> Tuple[int, str, str]:
        code = main(["--db-path", days.path, "prune", *arguments])
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


@pytest.mark.plain
def test_the_command_shows_every_snapshot_and_why(days: Repository, run: Callable[..., Tuple[int, str, str]]) -> None:
    code, out, err = run("--keep-last", "1", "--keep-tag", "even", "--keep-weekly", "1", "--dry-run")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].endswith(str(Path(days.path).with_name("tree")))
    assert [line.split()[:2] for line in lines[1:11]] == [
        ["keep" if number % 2 or number == 10 else "remove", str(number)] for number in range(1, 11)
    ]
    assert lines[1].endswith("  tag even")
    assert lines[2].endswith(("has 10", "weekly: 1 newer"))
    assert "newest of its source, last, weekly 20" in lines[10]
    assert lines[11] == "Would remove 4 of 10 snapshots"
    assert ids(days) == list(range(1, 11))
    code, out, err = run("-v", "--keep-last", "1", "--keep-within", "2d", "--dry-run")
    assert "last: 1 newer, not within 2 d\n" in out


@pytest.mark.plain
def test_the_command_prunes_by_rules_and_gives_the_same_as_json(
    days: Repository, run: Callable[..., Tuple[int, str, str]]
) -> None:
    rules = ("--keep-last", "2", "--keep-within", "84h", "--source", str(Path(days.path).with_name("tree")))
    code, out, err = run("--json", *rules)
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert [each["snapshot"]["id"] for each in document["decisions"] if each["kept"]] == [7, 8, 9, 10]
    assert [each["id"] for each in document["snapshots"]] == [1, 2, 3, 4, 5, 6]
    assert ids(days) == [7, 8, 9, 10]
    assert run("-q", "--keep-daily", "2")[0] == 0
    assert ids(days) == [9, 10]


@pytest.mark.plain
def test_the_command_ends_with_three_where_the_size_cannot_be_reached(
    days: Repository, run: Callable[..., Tuple[int, str, str]]
) -> None:
    code, _, err = run("-q", "--max-size", "1K")
    assert code == 3
    assert err.startswith("backuptool: problem: above-max-size: the limit of 1.0 KiB cannot be reached")
    assert ids(days) == list(range(1, 11))


@pytest.mark.parametrize(
    "arguments",
    [
        ("--snapshot", "1", "--keep-last", "2"),
        ("--source", "x"),
        ("--host", "x", "--snapshot", "1"),
        ("--keep-last", "-1"),
        ("--keep-daily", "many"),
        ("--keep-within", "30"),
        ("--keep-within", "0d"),
        ("--keep-within", "3 months"),
        ("--keep-tag", ""),
        ("--max-size", "0"),
        ("--max-size", "big"),
    ],
)
def test_options_that_make_no_sense_are_wrong_usage(
    days: Repository, run: Callable[..., Tuple[int, str, str]], arguments: Tuple[str, ...]
) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "error: " in err
    assert "Traceback" not in err
    assert len(days.list()) == 10


@pytest.mark.plain
def test_rules_without_a_number_keep_everything(days: Repository, run: Callable[..., Tuple[int, str, str]]) -> None:
    assert run("--keep-last", "0", "--keep-daily", "0")[0] == 0
    assert len(days.list()) == 10
