"""Notes, tags and pins: given with a snapshot or later, kept, verified, and removed with it."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import List

import pytest
from conftest import restored, sql, write, write_tree

from backuptool import CorruptionError, PlanOutdatedError, Repository, RetentionPolicy, SnapshotNotFoundError
from backuptool.cli import main


def damage(repo: Repository, statement: str) -> None:
    repo.close()
    sql(repo.path, statement)


def messages(repo: Repository, *, quick: bool = False) -> List[str]:
    return [f"{problem.kind}: {problem.message}" for problem in repo.check(quick=quick).problems]


def test_a_pin_is_set_with_a_snapshot_or_later_and_taken_away(repo: Repository, tree: Path) -> None:
    assert repo.snapshot(tree, pinned=True).snapshot.pinned
    assert not repo.snapshot(tree).snapshot.pinned
    assert [snapshot.pinned for snapshot in repo.list()] == [True, False]
    assert repo.annotate("latest", pinned=True).pinned
    assert not repo.annotate(1, pinned=False).pinned
    assert not repo.annotate(1, pinned=False).pinned
    assert [snapshot.pinned for snapshot in repo.list()] == [False, True]
    assert repo.check().problems == ()
    assert repo.restore(2, tree.parent / "out").snapshot.pinned


@pytest.mark.both
def test_note_and_tags_change_with_the_digest_and_the_rest_stays(repo: Repository, tree: Path) -> None:
    before = repo.snapshot(tree, note="old", tags=["a", "b"]).snapshot
    after = repo.annotate(1, note="new \udcff\n", add_tags="c", remove_tags=["a", "never there"])
    assert (after.note, after.tags) == ("new \udcff\n", ("b", "c"))
    assert after.digest != before.digest
    assert {**before.to_dict(), "note": after.note, "tags": ["b", "c"], "digest": after.digest} == after.to_dict()
    assert repo.list()[0] == after
    assert repo.check().problems == ()
    assert repo.annotate(1, add_tags=["c"], remove_tags=["c"]).tags == ("b",)
    assert repo.annotate(1, note="").note == ""
    assert repo.annotate(1).note == ""


def test_annotating_back_gives_the_same_digest(repo: Repository, tree: Path) -> None:
    before = repo.snapshot(tree, note="old", tags=["a"]).snapshot
    repo.annotate(1, note="new", add_tags=["b"])
    assert repo.annotate(1, note="old", remove_tags=["b"]) == before


def test_a_damaged_description_is_not_hidden_by_a_new_digest(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    damage(repo, "UPDATE snapshots SET started_ns = started_ns + 1")
    with pytest.raises(CorruptionError, match=r"snapshot 1 .* not as it was saved"):
        repo.annotate(1, note="x")
    assert len(messages(repo)) == 1
    assert repo.annotate(1, pinned=True).pinned  # a pin has a digest of its own


def test_annotating_what_is_not_there_says_what_is(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    with pytest.raises(SnapshotNotFoundError, match="there are: 1"):
        repo.annotate(2, pinned=True)
    assert sql(repo.path, "SELECT * FROM pins") == []


def test_pins_and_changes_go_with_their_snapshot(repo: Repository, tree: Path) -> None:
    for _ in range(3):
        repo.snapshot(tree)
    assert sql(repo.path, "SELECT snapshot FROM changes") == [(1,), (2,), (3,)]
    repo.prune([1, 3])
    assert sql(repo.path, "SELECT snapshot FROM changes") == [(2,)]
    assert repo.check().problems == ()


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("UPDATE pins SET pinned_ns = pinned_ns + 1", "pin"),
        ("UPDATE pins SET snapshot = 1", "pin"),
        ("UPDATE pins SET digest = zeroblob(32)", "pin"),
        ("UPDATE changes SET removed_files = 1 WHERE snapshot = 2", "changes"),
        ("UPDATE changes SET new_contents = 'x' WHERE snapshot = 2", "changes"),
        ("UPDATE changes SET alerts = '[1]' WHERE snapshot = 2", "changes"),
        ("UPDATE changes SET alerts = x'ff' WHERE snapshot = 2", "changes"),
        ("UPDATE changes SET stored_size = 1 WHERE snapshot = 2", "changes"),
    ],
)
def test_damage_in_a_pin_or_in_changes_is_named_and_hurts_nothing_else(
    repo: Repository, tree: Path, statement: str, what: str
) -> None:
    repo.snapshot(tree)
    write(tree / "new", b"new")
    repo.snapshot(tree, pinned=True)
    damage(repo, statement)
    for quick in (True, False):
        [problem] = repo.check(quick=quick).problems
        assert problem.kind == "snapshot-corrupt"
        assert f"the {what} row of snapshot" in problem.message
        assert len(problem.snapshots) == 1
    assert len(repo.list()) == 2
    assert restored(repo, 2, tree.parent / "out")
    assert repo.snapshot(tree).problems == ()


def test_a_pin_of_no_snapshot_is_named(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree, pinned=True)
    damage(repo, "UPDATE pins SET snapshot = 9")
    found = messages(repo, quick=True)
    assert any("pin row of snapshot 9" in message for message in found)
    assert any("refers to something that does not exist" in message for message in found)


@pytest.mark.plain
def test_snapshots_are_restored_where_the_pages_of_pins_and_changes_are_unreadable(
    repo: Repository, tree: Path
) -> None:
    repo.snapshot(tree, pinned=True)
    repo.close()
    for table in ("pins", "changes"):
        [(page,)] = sql(repo.path, "SELECT rootpage FROM sqlite_master WHERE name = ?", table)
        with open(repo.path, "r+b") as file:
            file.seek((page - 1) * 16384)
            file.write(b"\xff" * 16384)
    assert [snapshot.id for snapshot in repo.list()] == [1]
    assert restored(repo, 1, tree.parent / "out")
    assert any(problem.kind == "database-corrupt" for problem in repo.check(quick=True).problems)
    with pytest.raises(CorruptionError):
        repo.prune(1)  # it may be pinned
    assert [snapshot.id for snapshot in repo.list()] == [1]


def test_a_repository_of_the_first_format_has_no_pins_until_one_is_set(tmp_path: Path) -> None:
    old = Path(__file__).parent / "data" / "format-1.db.gz"
    (tmp_path / "backups.db").write_bytes(gzip.decompress(old.read_bytes()))
    with Repository(tmp_path / "backups.db") as repo:
        listed = repo.list()
        assert not any(snapshot.pinned or snapshot.alerts for snapshot in listed)
        assert repo.annotate(listed[0].id, pinned=True, add_tags=["old"]).pinned
        assert repo.list()[0].pinned
        assert repo.check().problems == ()


@pytest.mark.plain
def test_the_command_annotates_and_the_list_shows_the_pin(
    tmp_path: Path, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ("--db-path", str(tmp_path / "backups.db"))
    assert main([*place, "-q", "snapshot", "--target-directory", str(tree), "--host", "h"]) == 0
    assert main([*place, "annotate", "--snapshot", "1", "--pin", "--note", "keep", "--add-tag", "t"]) == 0
    assert capsys.readouterr().out == f"Snapshot 1: h:{tree}, 5 files, pinned, tags: t, note: keep\n"
    assert main([*place, "list"]) == 0
    line = capsys.readouterr().out.splitlines()[2]
    assert line.split()[0] == "1"
    assert line.endswith("pinned")
    assert main([*place, "annotate", "-v", "--snapshot", "latest", "--unpin", "--remove-tag", "t"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"Snapshot 1: h:{tree}, 5 files, note: keep"
    assert second.startswith("  digest ")
    assert main([*place, "annotate", "--snapshot", "1", "--pin", "--unpin"]) == 2
    assert main([*place, "snapshot", "--target-directory", str(tree), "--pin"]) == 0


# Alerts.


def _nights(repo: Repository, tree: Path, count: int) -> None:
    """Take snapshots of many files, of which the third night sees nothing."""
    for night in range(count):
        if night == 2:
            shutil.rmtree(str(tree))
            tree.mkdir()
        elif night < 2:
            write_tree(tree, {f"{number}": b"%d" % number for number in range(41)})
        repo.snapshot(tree)
        repo.prune(RetentionPolicy(last=2))


def test_rules_keep_the_last_good_night_however_late_the_alert_is_read(repo: Repository, tmp_path: Path) -> None:
    _nights(repo, tmp_path / "many", 8)
    assert [snapshot.id for snapshot in repo.list()] == [2, 3, 7, 8]
    assert [alert.acknowledged for alert in repo.list()[1].alerts] == [False]
    repo.prune(RetentionPolicy(max_bytes=1))
    assert [snapshot.id for snapshot in repo.list() if snapshot.files] == [2]
    changed = repo.annotate(3, acknowledge=True)
    assert [alert.acknowledged for alert in changed.alerts] == [True]
    assert repo.list()[1] == changed
    assert repo.annotate(3, acknowledge=True) == changed
    assert repo.check().problems == ()
    repo.prune(RetentionPolicy(last=2))
    assert 2 not in [snapshot.id for snapshot in repo.list()]


def test_what_an_alert_is_about_can_be_removed_by_number(repo: Repository, tmp_path: Path) -> None:
    _nights(repo, tmp_path / "many", 5)
    repo.prune([3])
    assert repo.prune(RetentionPolicy(last=2)).snapshots[0].id == 2


def test_a_copy_of_an_acknowledged_alert_is_acknowledged(repo: Repository, tmp_path: Path) -> None:
    _nights(repo, tmp_path / "many", 3)
    repo.annotate("latest", acknowledge=True)
    repo.copy(tmp_path / "other.db")
    with Repository(tmp_path / "other.db") as other:
        assert [alert.acknowledged for snapshot in other.list() for alert in snapshot.alerts] == [True]


def test_a_plan_is_for_alerts_as_they_are(repo: Repository, tmp_path: Path) -> None:
    _nights(repo, tmp_path / "many", 5)
    plan = repo.plan_prune(RetentionPolicy(last=1))
    repo.annotate(3, acknowledge=True)
    with pytest.raises(PlanOutdatedError):
        repo.prune(plan)


def test_without_an_alert_there_is_nothing_to_acknowledge(repo: Repository, tree: Path) -> None:
    before = repo.snapshot(tree).snapshot
    assert repo.annotate(1, acknowledge=True) == before
    assert repo.check().problems == ()


def test_where_it_is_not_known_what_changed_the_one_before_stays(repo: Repository, tmp_path: Path) -> None:
    _nights(repo, tmp_path / "many", 5)
    damage(repo, "UPDATE changes SET alerts = '[]'")
    repo.prune(RetentionPolicy(last=1))
    assert [snapshot.id for snapshot in repo.list()] == [2, 3, 5]
    assert [problem.kind for problem in repo.check().problems] == ["snapshot-corrupt"]
    assert repo.annotate(3, acknowledge=True).alerts == ()
    assert sql(repo.path, "SELECT snapshot FROM changes") == [(2,), (5,)]
    assert repo.check().problems == ()
    assert [snapshot.id for snapshot in repo.prune(RetentionPolicy(last=1)).snapshots] == [2, 3]


def test_the_command_acknowledges_and_the_list_is_quiet(
    repo: Repository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _nights(repo, tmp_path / "many", 4)
    repo.close()
    assert main(["--db-path", repo.path, "prune", "--keep-last", "1", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "last before the alert of 3" in out
    assert "mass-deletion not acknowledged" in out
    assert main(["--db-path", repo.path, "list"]) == 0
    assert "mass-deletion: 41 of 41 files are gone" in capsys.readouterr().out
    assert main(["--db-path", repo.path, "annotate", "--snapshot", "3", "--acknowledge"]) == 0
    assert "mass-deletion acknowledged" in capsys.readouterr().out
    assert main(["--db-path", repo.path, "list"]) == 0
    assert "mass-deletion" not in capsys.readouterr().out


def test_a_tag_is_not_empty(repo: Repository, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repo.snapshot(tree)
    with pytest.raises(ValueError, match="a tag must be a word"):
        repo.snapshot(tree, tags=["a", ""])
    with pytest.raises(ValueError, match="a tag must be a word"):
        repo.annotate(1, add_tags="")
    assert repo.annotate(1, remove_tags=[""]).tags == ()  # an earlier version took it
    repo.close()
    for arguments in (["snapshot", str(tree), "--tag", ""], ["annotate", "--snapshot", "1", "--add-tag", ""]):
        assert main(["--db-path", repo.path, *arguments]) == 2
        assert "a tag is a word that is not empty" in capsys.readouterr().err
