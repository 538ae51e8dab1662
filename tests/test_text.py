from __future__ import annotations

import time
from typing import Any, Iterator

import attrs
import pytest

from backuptool import (
    CheckResult,
    Problem,
    PruneResult,
    RestoreResult,
    SkippedFile,
    Snapshot,
    SnapshotList,
    SnapshotResult,
)
from backuptool.commands.check import as_text as check_text
from backuptool.commands.listing import as_text as list_text
from backuptool.commands.phrases import duration, problem_text
from backuptool.commands.prune import as_text as prune_text
from backuptool.commands.restore import as_text as restore_text
from backuptool.commands.snapshot import as_text as snapshot_text
from backuptool.commands.snapshot import skipped_text

FIRST = Snapshot(
    id=1,
    host="machine",
    source="/home/user/photos",
    started_ns=1_743_348_645_999_999_999,  # 2025-03-30 15:30:45.999999999 UTC
    finished_ns=1_743_348_646_500_000_000,
    files=3,
    directories=1,
    size_bytes=156,
    distinct_bytes=156,
    digest="0f" * 32,
)
SECOND = attrs.evolve(FIRST, id=2, started_ns=1_743_414_312_000_000_000, size_bytes=172, distinct_bytes=30)
PROBLEM = Problem(kind="unreadable", path="secret", message="Permission denied")


@pytest.fixture(autouse=True)
def universal_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def listing(*snapshots: Snapshot) -> SnapshotList:
    return SnapshotList(
        snapshots=snapshots,
        size_bytes=sum(snapshot.size_bytes for snapshot in snapshots),
        distinct_bytes=sum(snapshot.distinct_bytes for snapshot in snapshots),
        repository_bytes=65536,
    )


def snapshot_result(**changes: Any) -> SnapshotResult:
    result = SnapshotResult(
        snapshot=SECOND,
        new_files=1,
        changed_files=1,
        unchanged_files=1,
        removed_files=0,
        skipped_files=0,
        read_bytes=2048,
        new_bytes=30,
        stored_bytes=24,
        elapsed_seconds=0.512,
    )
    return attrs.evolve(result, **changes)


def restore_result(**changes: Any) -> RestoreResult:
    result = RestoreResult(
        snapshot=SECOND,
        destination="/tmp/out",
        restored_files=2,
        unchanged_files=1,
        restored_directories=1,
        deleted_files=0,
        written_bytes=172,
        verified_files=0,
        dry_run=False,
        elapsed_seconds=0.25,
    )
    return attrs.evolve(result, **changes)


def prune_result(**changes: Any) -> PruneResult:
    result = PruneResult(
        snapshots=(FIRST,),
        removed_versions=2,
        removed_contents=1,
        removed_bytes=2048,
        repacked_packs=0,
        freed_bytes=16384,
        repository_bytes=98304,
        dry_run=False,
        elapsed_seconds=0.01,
    )
    return attrs.evolve(result, **changes)


def check_result(**changes: Any) -> CheckResult:
    result = CheckResult(snapshots=2, files=4, contents=3, packs=1, read_bytes=2048, quick=False, elapsed_seconds=0.02)
    return attrs.evolve(result, **changes)


def test_the_list_has_exactly_this_shape() -> None:
    expected = (
        "SNAPSHOT ID  TIMESTAMP                 SIZE       DISTINCT SIZE  \n"
        "------------------------------------------------------------\n"
        "1            2025-03-30 15:30:45       156        156            \n"
        "2            2025-03-31 09:45:12       172        30             \n"
        "------------------------------------------------------------\n"
        "TOTAL                                  186        \n"
    )
    assert expected == list_text(listing(FIRST, SECOND))


def test_the_list_shows_local_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")  # summer time began that morning
    time.tzset()
    assert "2025-03-30 17:30:45" in list_text(listing(FIRST))


def test_a_list_of_nothing_keeps_the_shape() -> None:
    expected = (
        "SNAPSHOT ID  TIMESTAMP                 SIZE       DISTINCT SIZE  \n"
        "------------------------------------------------------------\n"
        "------------------------------------------------------------\n"
        "TOTAL                                  0          \n"
    )
    assert expected == list_text(listing())


def test_values_that_just_fit_leave_the_columns_as_they_are() -> None:
    snapshot = attrs.evolve(FIRST, id=123456789012, size_bytes=1234567890, distinct_bytes=1234567890)
    expected = (
        "SNAPSHOT ID  TIMESTAMP                 SIZE       DISTINCT SIZE  \n"
        "------------------------------------------------------------\n"
        "123456789012 2025-03-30 15:30:45       1234567890 1234567890     \n"
        "------------------------------------------------------------\n"
        "TOTAL                                  1234567890 \n"
    )
    assert expected == list_text(listing(snapshot))


def test_wider_values_widen_their_columns_and_the_rules() -> None:
    large = attrs.evolve(FIRST, size_bytes=12345678901234, distinct_bytes=12345678901234)
    expected = (
        "SNAPSHOT ID  TIMESTAMP                 SIZE           DISTINCT SIZE  \n"
        "----------------------------------------------------------------\n"
        "1            2025-03-30 15:30:45       12345678901234 12345678901234 \n"
        "2            2025-03-31 09:45:12       172            30             \n"
        "----------------------------------------------------------------\n"
        "TOTAL                                  12345678901264 \n"
    )
    assert expected == list_text(listing(large, SECOND))


def test_the_total_alone_may_widen_its_column() -> None:
    snapshots = [attrs.evolve(FIRST, id=number, distinct_bytes=9_999_999_999) for number in range(1, 12)]
    lines = list_text(listing(*snapshots)).splitlines()
    assert lines[-1] == "TOTAL                                  109999999989 "
    assert "-" * 62 == lines[1] == lines[-2]


def test_a_verbose_list_tells_the_rest_below_each_snapshot() -> None:
    second = attrs.evolve(
        SECOND, files=1234, tags=("daily", "home"), note="after\x1b[2J", skipped_files=2, problem_files=1
    )
    lines = list_text(listing(FIRST, second), verbose=True).splitlines()
    assert lines[3] == "             machine:/home/user/photos, 3 files"
    assert lines[5] == (
        r"             machine:/home/user/photos, 1,234 files, 2 skipped, 1 with problems, tags: daily home, "
        r"note: after\x1b[2J"
    )


def test_a_snapshot_is_told_in_three_lines() -> None:
    expected = (
        "Snapshot 2 saved: /home/user/photos\n"
        "  3 files, 172 B: 1 new, 1 changed, 1 unchanged, 0 removed\n"
        "  2.0 KiB read, 30 B new, 24 B stored, in 0.51 s\n"
    )
    assert expected == snapshot_text(snapshot_result())


def test_a_verbose_snapshot_shows_where_it_was_taken_and_its_digest() -> None:
    lines = snapshot_text(snapshot_result(), verbose=True).splitlines()
    assert lines[3:] == ["  machine:/home/user/photos, 3 files", "  digest " + "0f" * 32]


def test_a_snapshot_that_left_something_out_says_so() -> None:
    skipped = SkippedFile(path="big.iso", size_bytes=2 << 30, reason="larger than 1.0 GiB")
    lines = snapshot_text(snapshot_result(skipped_files=1, skipped=(skipped,), problems=(PROBLEM,))).splitlines()
    assert lines[3:] == ["  1 file skipped because of the size", "  1 problem, named on standard error"]


def test_a_restore_is_told_in_two_lines() -> None:
    expected = "Snapshot 2 restored to /tmp/out\n  2 files written, 172 B; 1 file already there; in 0.25 s\n"
    assert expected == restore_text(restore_result())


def test_a_dry_restore_says_what_would_be_done() -> None:
    expected = (
        "Snapshot 2 would be restored to /tmp/out\n"
        "  2 files would be written, 172 B; 1 file already there; in 0.25 s\n"
        "  4 extra would be deleted\n"
        "  Dry run: nothing was changed\n"
    )
    assert expected == restore_text(restore_result(dry_run=True, deleted_files=4))


def test_a_restore_tells_what_was_asked_for_besides() -> None:
    result = restore_result(deleted_files=1, verified_files=3, problems=(PROBLEM, PROBLEM))
    lines = restore_text(result, verbose=True).splitlines()
    assert lines[2:] == [
        "  machine:/home/user/photos, 3 files",
        "  1 directory written",
        "  1 extra deleted",
        "  3 files read back and compared",
        "  2 problems, named on standard error",
    ]


def test_a_prune_is_told_in_three_lines() -> None:
    expected = (
        "Removed snapshot 1\n"
        "  1 content, 2.0 KiB; 2 file versions; in 0.01 s\n"
        "  16,384 bytes (16.0 KiB) freed, the repository now has 98,304 bytes (96.0 KiB)\n"
    )
    assert expected == prune_text(prune_result())


def test_a_dry_prune_tells_the_exact_bytes() -> None:
    expected = (
        "Would remove snapshots 1, 2\n"
        "  1 content, 2.0 KiB; 2 file versions; 1 pack packed again; in 0.01 s\n"
        "  1 byte would be freed, the repository would then have 512 bytes\n"
        "  1: machine:/home/user/photos, 3 files\n"
        "  2: machine:/home/user/photos, 3 files\n"
        "  Dry run: nothing was changed\n"
    )
    result = prune_result(
        dry_run=True, snapshots=(FIRST, SECOND), repacked_packs=1, freed_bytes=1, repository_bytes=512
    )
    assert expected == prune_text(result, verbose=True)


def test_a_prune_of_no_snapshot_speaks_of_leftovers_and_names_its_problems() -> None:
    lines = prune_text(prune_result(snapshots=(), problems=(PROBLEM,))).splitlines()
    assert lines[0] == "Removed leftovers of interrupted snapshots"
    assert lines[-1] == "  1 problem, named on standard error"


def test_a_sound_repository_is_told_in_two_lines() -> None:
    expected = "No problems found\n  2 snapshots, 4 file versions, 3 contents, 1 pack; 2.0 KiB read; in 0.02 s\n"
    assert expected == check_text(check_result())


def test_a_check_counts_its_problems_and_says_if_the_data_was_not_read() -> None:
    expected = (
        "2 problems found\n  2 snapshots, 4 file versions, 3 contents, 1 pack; the data was not read; in 0.02 s\n"
    )
    assert expected == check_text(check_result(problems=(PROBLEM, PROBLEM), quick=True, read_bytes=0))


def test_a_problem_is_one_line_with_all_that_is_known() -> None:
    problem = Problem(
        kind="content-corrupt", path="a\nb\udcff", message="bytes differ", count=3, content="ab" * 32, snapshots=(1, 4)
    )
    line = r"content-corrupt: a\x0ab\xff: bytes differ (3 files) (in snapshots 1, 4)"
    assert line == problem_text(problem)
    assert f"{line} (content {'ab' * 32})" == problem_text(problem, verbose=True)
    owners = Problem(
        kind="owner-not-restored", path="a", message="not restored for 3 files, this one the first", count=3
    )
    assert problem_text(owners) == "owner-not-restored: a: not restored for 3 files, this one the first"
    copied = Problem(kind="not-copied", path="", message="snapshot 1 was not copied", snapshots=(1,))
    assert problem_text(copied) == "not-copied: snapshot 1 was not copied"
    other = Problem(kind="not-copied", path="", message="snapshot 12 is there", snapshots=(1,))
    assert problem_text(other) == "not-copied: snapshot 12 is there (in snapshot 1)"
    assert problem_text(PROBLEM, verbose=True) == "unreadable: secret: Permission denied"


def test_a_skipped_file_is_one_line() -> None:
    skipped = SkippedFile(path="big\u202e.iso", size_bytes=2 << 30, reason="larger than 1.0 GiB")
    assert skipped_text(skipped) == r"big\u202e.iso: 2.0 GiB, larger than 1.0 GiB"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0, "0.00 s"),
        (9.994, "9.99 s"),
        (9.996, "10.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (125.4, "2 min 5 s"),
        (3599.7, "1 h 0 min"),
        (90061.0, "25 h 1 min"),
    ],
)
def test_durations_are_for_people(seconds: float, expected: str) -> None:
    assert expected == duration(seconds)
