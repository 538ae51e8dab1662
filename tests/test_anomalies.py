"""What a snapshot changed, judged against simulated pasts, and told where a user looks."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import List, Tuple

import attrs
import pytest
from conftest import noise, snapshot_watched, sql, write, write_tree

from backuptool import Alert, Changes, ProgressEvent, Repository
from backuptool.anomalies import HABIT, HISTORY, judge
from backuptool.cli import main

KIB = 1024


def changes(
    new: int = 0, changed: int = 0, unchanged: int = 0, removed: int = 0, contents: int = 0, ratio: float = 0.35
) -> Changes:
    """What a snapshot changed, where each content has 20 KiB."""
    return Changes(
        new_files=new,
        changed_files=changed,
        unchanged_files=unchanged,
        removed_files=removed,
        new_contents=contents,
        new_bytes=contents * 20 * KIB,
        stored_bytes=int(contents * 20 * KIB * ratio),
    )


class Source:
    """A source that is saved every night, and what its snapshots said."""

    def __init__(self, files: int = 5000, ratio: float = 0.35) -> None:
        self.ratio = ratio
        self.random = random.Random(files)
        self.past: List[Changes] = []
        self.files = 0
        self.night(new=files, contents=files)

    def night(
        self, new: int = 0, changed: int = 0, removed: int = 0, contents: int = 0, ratio: float = -1.0
    ) -> Tuple[Alert, ...]:
        """Take a snapshot of what happened in a day."""
        now = changes(
            new, changed, self.files - changed - removed, removed, contents, self.ratio if ratio < 0 else ratio
        )
        alerts = judge(now, self.past[-HISTORY:])
        self.past.append(now)
        self.files += new - removed
        return alerts

    def work(self, nights: int) -> List[Alert]:
        """Days of work: up to 2 % of the files changed, some new, some gone."""
        found: List[Alert] = []
        for _ in range(nights):
            changed, new = self.random.randrange(self.files // 50), self.random.randrange(30)
            found += self.night(new, changed, self.random.randrange(15), changed + new)
        return found


def kinds(alerts: Tuple[Alert, ...]) -> List[str]:
    return [alert.kind for alert in alerts]


def test_three_years_of_work_raise_no_alert() -> None:
    assert Source().work(1100) == []
    assert Source(ratio=0.99).work(1100) == []  # a library of pictures


def test_a_first_snapshot_and_one_in_which_nothing_changed_raise_no_alert() -> None:
    assert judge(changes(new=5000, contents=5000, ratio=1.0), []) == ()
    assert judge(changes(unchanged=5000), []) == ()
    assert judge(changes(), []) == ()


def test_a_big_import_raises_no_alert_however_little_it_compresses() -> None:
    source = Source()
    source.work(40)
    assert source.night(new=9000, changed=30, contents=9030, ratio=1.0) == ()


def test_a_reinstallation_raises_no_alert() -> None:
    source = Source()
    source.work(40)
    assert source.night(new=2500, changed=3000, removed=1200, contents=5500, ratio=0.42) == ()


def test_a_moved_directory_and_new_owners_raise_no_alert() -> None:
    source = Source()
    source.work(40)
    assert source.night(new=4000, removed=4000) == ()  # by a move, no content is new
    assert source.night(changed=source.files) == ()  # by chown


def test_files_encrypted_in_place_raise_an_alert_with_the_numbers() -> None:
    source = Source()
    source.work(40)
    total, most = source.files, max(each.replaced_files for each in source.past[-HISTORY:])
    [alert] = source.night(changed=4000, contents=4000, ratio=1.0)
    assert alert.kind == "mass-encryption"
    assert f"4,000 of {total:,} files" in alert.message
    assert "compress to 100% only" in alert.message
    assert f"before, {most} at most, which compressed to 35%" in alert.message
    assert "prune nothing" in alert.message


def test_files_encrypted_under_new_names_raise_an_alert() -> None:
    source = Source()
    source.work(40)
    assert kinds(source.night(new=4000, removed=4000, contents=4000, ratio=1.0)) == ["mass-encryption"]


def test_encryption_of_every_other_block_raises_an_alert_where_files_compressed_well() -> None:
    source = Source(ratio=0.3)
    source.work(40)
    assert kinds(source.night(changed=4000, contents=4000, ratio=0.65)) == ["mass-encryption"]


def test_encryption_of_a_tenth_in_each_of_two_nights_raises_two_alerts() -> None:
    source = Source()
    source.work(40)
    assert kinds(source.night(changed=600, contents=600, ratio=0.98)) == ["mass-encryption"]
    assert kinds(source.night(changed=600, contents=600, ratio=0.98)) == ["mass-encryption"]


def test_encryption_of_pictures_raises_an_alert_though_they_never_compressed() -> None:
    source = Source(ratio=0.99)
    source.work(40)
    assert kinds(source.night(changed=4000, contents=4000, ratio=1.0)) == ["mass-encryption"]


def test_the_thresholds_are_exact() -> None:
    def alarming(replaced: int, total: int, ratio: float) -> bool:
        return judge(changes(changed=replaced, unchanged=total - replaced, contents=replaced, ratio=ratio), []) != ()

    assert alarming(20, 200, 0.9)
    assert not alarming(19, 190, 0.9)
    assert not alarming(20, 201, 0.9)
    assert not alarming(20, 200, 0.899)
    assert judge(changes(unchanged=100, removed=100), []) != ()
    assert judge(changes(unchanged=101, removed=100), []) == ()
    assert judge(changes(unchanged=19, removed=19), []) == ()
    assert judge(changes(unchanged=100, removed=120), [], left_out=10) != ()
    assert judge(changes(unchanged=100, removed=120), [], left_out=11) == ()
    assert judge(changes(removed=120), [], left_out=120) == ()
    assert judge(changes(removed=120), [], left_out=119) != ()


def test_removing_everything_or_most_raises_an_alert_with_the_numbers() -> None:
    source = Source()
    source.work(40)
    total, most = source.files, max(each.removed_files for each in source.past[-HISTORY:])
    [alert] = source.night(removed=4500)
    assert alert.kind == "mass-deletion"
    assert f"4,500 of {total:,} files are gone, 0 are new; before, {most} at most" in alert.message
    [alert] = source.night(removed=source.files)
    assert alert.kind == "mass-deletion"
    assert "is the disk mounted?" in alert.message


def test_a_small_source_that_is_empty_all_at_once_raises_an_alert() -> None:
    assert kinds(judge(changes(removed=3), [])) == ["mass-deletion"]
    assert judge(changes(removed=2, unchanged=1), []) == ()


def test_what_a_source_does_often_is_told_a_few_times_only() -> None:
    spool = Source(files=100)
    told = []
    for _ in range(12):
        spool.night(new=100, contents=100)
        told.append(len(spool.night(removed=spool.files)))
    assert told == [1] * HABIT + [0] * (12 - HABIT)
    dumps = Source(files=100)
    assert [len(dumps.night(changed=100, contents=100, ratio=1.0)) for _ in range(5)] == [1, 1, 1, 0, 0]


def test_a_long_quiet_time_makes_what_was_usual_alarming_again() -> None:
    spool = Source(files=100)
    for _ in range(HABIT):
        assert spool.night(removed=spool.files) != ()
        spool.night(new=100, contents=100)
    assert spool.night(removed=spool.files) == ()
    spool.night(new=100, contents=100)
    for _ in range(HISTORY):
        spool.night()
    assert spool.night(removed=spool.files) != ()


def test_any_figures_get_a_verdict() -> None:
    hypothesis = pytest.importorskip("hypothesis")
    numbers = hypothesis.strategies.integers(0, 1 << 40)
    figures = hypothesis.strategies.builds(Changes, **{field.name: numbers for field in attrs.fields(Changes)})

    def judged(now: Changes, past: List[Changes]) -> None:
        for alert in judge(now, past):
            assert f"{now.base_files:,}" in alert.message

    hypothesis.given(figures, hypothesis.strategies.lists(figures, max_size=4))(judged)()


# Told where a user looks.


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "letters", {f"{number}.txt": b"dear %d, " % number * 500 for number in range(60)})


def test_an_encrypted_directory_is_told_by_the_result_the_list_and_the_json(repo: Repository, letters: Path) -> None:
    assert repo.snapshot(letters).alerts == ()
    for number in range(50):
        write(letters / f"{number}.txt", noise(4500, number))
    result = repo.snapshot(letters)
    assert kinds(result.alerts) == ["mass-encryption"]
    assert "50 of 60 files" in result.alerts[0].message
    assert result.problems == ()
    assert result.snapshot == repo.list()[-1]
    assert repo.list()[0].alerts == ()
    told = {"kind": "mass-encryption", "message": result.alerts[0].message, "acknowledged": False}
    assert result.to_dict()["snapshot"]["alerts"] == [told]
    assert "mass-encryption" in repr(result)
    assert "mass-encryption" in repr(result.snapshot)
    repo.prune(1)
    assert repo.list()[0].alerts == result.alerts  # what it was compared with may go
    assert repo.check().problems == ()


@pytest.mark.plain
def test_an_alert_is_on_standard_error_and_the_exit_code_is_three(
    tmp_path: Path, letters: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("-q", "--db-path", str(tmp_path / "backups.db"))
    assert main([*options, "snapshot", "--target-directory", str(letters)]) == 0
    for name in os.listdir(letters):
        os.unlink(letters / name)
    assert capsys.readouterr() == ("", "")
    assert main([*options, "snapshot", "--target-directory", str(letters)]) == 3
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("backuptool: alert: mass-deletion: 60 of 60 files are gone, 0 are new")
    assert main([*options[1:], "list"]) == 0
    told = capsys.readouterr()
    assert "\n             mass-deletion: 60 of 60 files are gone" in told.out
    assert main([*options[1:], "snapshot", "--target-directory", str(letters)]) == 0
    assert "looks like" not in capsys.readouterr().out


def test_the_contents_that_a_snapshot_brought_are_counted_with_their_bytes(repo: Repository, letters: Path) -> None:
    repo.snapshot(letters)
    write(letters / "same.txt", (letters / "1.txt").read_bytes())
    repo.snapshot(letters)
    first, second = sql(repo.path, "SELECT new_contents, new_size, stored_size FROM changes")
    assert first[:2] == (60, sum(os.path.getsize(letters / f"{number}.txt") for number in range(60)))
    assert 0 < first[2] < first[1]
    assert second == (0, 0, 0)


def test_what_an_attempt_has_stored_counts_in_the_next_one(repo: Repository, letters: Path) -> None:
    repo.snapshot(letters)
    data = [noise(4500, number) for number in range(50)]
    for number in range(50):
        write(letters / f"{number}.txt", data[number])

    def another(event: ProgressEvent) -> None:
        if event.phase == "commit" and len(repo.list()) == 1:
            repo.snapshot(letters, exclude=["*"])  # of the same source: the attempt begins again

    result = snapshot_watched(repo.path, letters, another)
    assert (result.snapshot.id, result.new_bytes) == (3, sum(map(len, data)))
    assert sql(repo.path, "SELECT new_contents, new_size, stored_size FROM changes WHERE snapshot = 3") == [
        (50, result.new_bytes, result.stored_bytes)
    ]
