"""The restore drill: what it proves, what it finds, what it leaves behind, and what is kept of it."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Callable, Iterator, List

import pytest
from conftest import as_nobody, sql, write, write_tree
from trees import IS_ROOT, make_deep, make_every_kind, mounted, needs_root, program, random_bytes

import backuptool
from backuptool import Drill, Problem, ProgressEvent, Repository, RestoreError, SnapshotNotFoundError
from backuptool.tree.scratch import Scratch


def damage_pack_of(repo: Repository, path: str) -> None:
    """Change the middle of the pack that a file's content lies in."""
    repo.close()
    (pack,) = sql(repo.path, "SELECT pack FROM files AS f JOIN contents AS c ON c.id = f.content WHERE path = ?", path)[
        0
    ]
    (data,) = sql(repo.path, "SELECT data FROM packs WHERE id = ?", pack)[0]
    middle = len(data) // 2
    sql(repo.path, "UPDATE packs SET data = ? WHERE id = ?", data[:middle] + bytes(20) + data[middle + 20 :], pack)


@pytest.mark.both
def test_a_drill_restores_all_of_every_kind_and_records_that_it_came_back(repo: Repository, tmp_path: Path) -> None:
    make_every_kind(tmp_path / "source")
    make_deep(tmp_path / "source")
    snapshot = repo.snapshot(tmp_path / "source").snapshot
    result = repo.drill(scratch=tmp_path)
    assert result.problems == ()
    assert result.snapshot == snapshot
    assert result.ok
    assert result.recorded
    assert (result.drill.files, result.drill.size_bytes) == (snapshot.files, snapshot.size_bytes)
    assert (result.drill.complete, result.drill.failed_files) == (True, 0)
    assert repo.check().ok


def test_nothing_is_left_in_the_scratch_directory(repo: Repository, tmp_path: Path, tree: Path) -> None:
    (tree / "docs").chmod(0o500)
    repo.snapshot(tree)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    repo.drill(scratch=scratch)
    repo.drill(scratch=str(scratch), sample=1)
    assert os.listdir(scratch) == []


def test_a_drill_that_is_cancelled_leaves_nothing_and_records_nothing(
    repo: Repository, tmp_path: Path, tree: Path
) -> None:
    repo.snapshot(tree)
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    def cancel(event: ProgressEvent) -> None:
        if event.phase == "verify":
            assert len(list(scratch.rglob("*.txt"))) == 3
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repo.drill(scratch=scratch, progress=cancel)
    assert os.listdir(scratch) == []
    assert repo.list().drills == ()


def test_removing_the_scratch_directory_follows_no_link(repo: Repository, tmp_path: Path) -> None:
    outside = write(tmp_path / "outside" / "file", b"outside")
    source = write_tree(tmp_path / "source", {"a": b"a"})
    (source / "link").symlink_to(outside.parent)
    repo.snapshot(source)
    assert repo.drill().ok
    assert outside.read_bytes() == b"outside"


# Samples.


def restored_paths(repo: Repository, tmp_path: Path, **options: object) -> List[str]:
    """Return the files that are in the scratch directory when a drill compares them."""
    found: List[str] = []

    def look(event: ProgressEvent) -> None:
        if event.phase == "verify" and not found:
            found.extend(sorted(path.name for path in tmp_path.glob("backuptool-drill-*/tree/**/f*")))

    repo.drill(scratch=tmp_path, progress=look, **options)  # type: ignore[arg-type]
    return found


@pytest.fixture
def many(repo: Repository, tmp_path: Path) -> Path:
    source = write_tree(tmp_path / "many", {f"d{number % 7}/f{number:03}": b"%d" % number for number in range(200)})
    repo.snapshot(source)
    return source


@pytest.mark.parametrize(("sample", "files"), [(1, 1), (17, 17), (0.1, 20), (0.001, 1), (0.5, 100)])
def test_a_sample_is_a_number_or_a_share_of_the_files(
    repo: Repository, many: Path, sample: float, files: int, tmp_path: Path
) -> None:
    result = repo.drill(sample=sample)
    assert (result.drill.files, result.drill.complete, result.ok) == (files, False, True)
    assert len(restored_paths(repo, tmp_path, sample=sample)) == files


@pytest.mark.parametrize("sample", [None, 200, 1000, 1.0])
def test_a_sample_of_everything_is_complete(repo: Repository, many: Path, sample: float) -> None:
    result = repo.drill(sample=sample)
    assert (result.drill.files, result.drill.complete) == (200, True)


@pytest.mark.parametrize("sample", [0, -1, 0.0, 1.5, -0.5, True, "5"])
def test_a_sample_that_is_neither_is_refused(repo: Repository, many: Path, sample: float) -> None:
    with pytest.raises((ValueError, TypeError)):
        repo.drill(sample=sample)
    assert repo.list().drills == ()


def test_a_seed_draws_the_same_files_again_and_another_one_others(repo: Repository, many: Path, tmp_path: Path) -> None:
    first = restored_paths(repo, tmp_path, sample=20, seed=1)
    assert restored_paths(repo, tmp_path, sample=20, seed=1) == first
    assert restored_paths(repo, tmp_path, sample=20, seed=2) != first
    result = repo.drill(sample=20)
    assert restored_paths(repo, tmp_path, sample=20, seed=result.seed) == restored_paths(
        repo, tmp_path, sample=20, seed=result.seed
    )


def test_samples_reach_every_file(repo: Repository, many: Path, tmp_path: Path) -> None:
    seen = set()
    for seed in range(40):
        seen.update(restored_paths(repo, tmp_path, sample=40, seed=seed))
    assert len(seen) == 200


def test_an_empty_snapshot_can_be_drilled(repo: Repository, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    repo.snapshot(tmp_path / "empty")
    result = repo.drill(sample=5)
    assert (result.drill.files, result.drill.complete, result.ok) == (0, True, True)


# What it finds.


def test_a_damaged_content_is_a_failure_that_names_its_files(repo: Repository, tmp_path: Path) -> None:
    source = write_tree(tmp_path / "source", {"a.bin": random_bytes(50_000), "b.bin": b"sound"})
    (source / "copy.bin").write_bytes(random_bytes(50_000))
    repo.snapshot(source)
    damage_pack_of(repo, "a.bin")
    result = repo.drill()
    assert not result.ok
    assert {problem.path for problem in result.problems} >= {"a.bin", "copy.bin"}
    assert {problem.kind for problem in result.problems} == {"content-corrupt"}
    assert result.drill.failed_files == len(result.problems)
    assert result.drill.files == 3
    listed = repo.list()
    assert listed[0].drill == result.drill
    assert not listed.drills[0].ok


@pytest.mark.parametrize(
    "change", ["SET mode = 420 WHERE path = 'a.txt'", "SET mtime_ns = mtime_ns + 1 WHERE path = 'docs'"]
)
def test_a_changed_row_comes_back_as_the_catalog_has_it_and_the_drill_fails(
    repo: Repository, tree: Path, change: str
) -> None:
    """That what is stored is what was saved, the digest of the snapshot tells."""
    (tree / "a.txt").chmod(0o600)
    repo.snapshot(tree)
    repo.close()
    sql(repo.path, f"UPDATE files {change}")
    result = repo.drill()
    assert [problem.kind for problem in result.problems] == ["snapshot-corrupt"]
    assert result.drill.failed_files == 1
    assert [problem.kind for problem in repo.check().problems] == ["snapshot-corrupt"]


def test_what_a_disturbed_scratch_directory_holds_is_found(repo: Repository, tmp_path: Path, tree: Path) -> None:
    os.link(tree / "a.txt", tree / "linked.txt")
    (tree / "link").symlink_to("a.txt")
    os.mkfifo(tree / "fifo")
    os.mkfifo(tree / "second fifo")
    os.setxattr(tree / "docs/deep/c.bin", "user.x", b"1")
    repo.snapshot(tree)

    def disturb(event: ProgressEvent) -> None:
        if event.phase != "verify" or event.done_files:
            return
        (there,) = tmp_path.glob("backuptool-drill-*/tree")
        (there / "b.txt").write_bytes(b"x" * 2000)
        os.utime(there / "b.txt", ns=(0, (tree / "b.txt").stat().st_mtime_ns))
        (there / "empty").unlink()
        (there / "docs/copy of b.txt").chmod(0o611)
        (there / "docs").chmod(0o711)
        shutil.copy2(there / "linked.txt", there / "unlinked")
        (there / "unlinked").rename(there / "linked.txt")
        (there / "link").unlink()
        (there / "link").symlink_to("b.txt")
        os.utime(there / "link", ns=(0, (tree / "link").lstat().st_mtime_ns), follow_symlinks=False)
        (there / "fifo").unlink()
        (there / "fifo").mkdir()
        os.removexattr(there / "docs/deep/c.bin", "user.x")
        os.utime(there / "second fifo", ns=(0, 0))
        os.utime(there, ns=(0, tree.stat().st_mtime_ns))
        os.utime(there / "docs", ns=(0, (tree / "docs").stat().st_mtime_ns))

    result = repo.drill(scratch=tmp_path, progress=disturb)
    prefix = "did not come back as it was saved: "
    found = {problem.path: problem.message.replace(prefix, "") for problem in result.problems}
    assert found == {
        "b.txt": "content",
        "empty": "it is missing",
        "docs": "mode",
        "docs/copy of b.txt": "mode",
        "docs/deep/c.bin": "extended attributes",
        "fifo": "it is another kind of file",
        "link": "target",
        "linked.txt": "hard link",
        "second fifo": "time",
    }
    assert result.drill.failed_files == len(found)
    assert {(problem.kind, problem.snapshots) for problem in result.problems} == {("not-as-saved", (1,))}


def test_a_file_whose_row_is_gone_is_missed(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    repo.close()
    sql(repo.path, "DELETE FROM files WHERE path = 'b.txt'")
    result = repo.drill()
    assert [problem.message for problem in result.problems][1:] == [
        "the snapshot should have 5 files, and 4 are there; run check"
    ]
    assert result.drill.failed_files == 1


def test_a_name_that_leads_elsewhere_fails_and_is_not_written(repo: Repository, tmp_path: Path, tree: Path) -> None:
    repo.snapshot(tree)
    repo.close()
    sql(repo.path, "UPDATE files SET path = '../b.txt' WHERE path = 'b.txt'")
    result = repo.drill(scratch=tmp_path)
    assert "unsafe-path" in [problem.kind for problem in result.problems]
    assert not result.ok
    assert not (tmp_path / "b.txt").exists()


@needs_root
def test_what_only_root_may_restore_is_told_and_not_held_against_the_snapshot(public_path: Path) -> None:
    source = write_tree(public_path / "source", {"a": b"a", "b": b"b"})
    os.chown(source / "a", 1234, 1234)
    (source / "a").chmod(0o4755)
    os.mknod(source / "null", 0o20666, os.makedev(1, 3))
    with Repository(public_path / "backups.db") as repo:
        repo.snapshot(source)
    os.chmod(public_path / "backups.db", 0o666)

    def drill() -> backuptool.DrillResult:
        with Repository(public_path / "backups.db") as theirs:
            return theirs.drill(scratch=public_path)

    result = as_nobody(drill)
    assert sorted(problem.kind for problem in result.problems) == ["device-not-restored", "owner-not-restored"]
    assert result.ok
    assert result.recorded


def drill_as_nobody(place: Path, **options: object) -> backuptool.DrillResult:
    """Drill the newest snapshot of the repository of a place, as an ordinary user."""

    def run() -> backuptool.DrillResult:
        with Repository(place / "backups.db") as repo:
            return repo.drill(scratch=place, **options)  # type: ignore[arg-type]

    return as_nobody(run)


@needs_root
def test_what_was_closed_to_its_owner_is_compared_all_the_same(public_path: Path) -> None:
    source = write_tree(public_path / "source", {"noperm": b"bytes", "closed/file": b"in it", "own": b"own"})
    os.link(source / "noperm", source / "second name")
    os.setxattr(source / "noperm", "user.x", b"1")
    write(source / "with ACL", b"acl").chmod(0)
    subprocess.run([program("setfacl"), "-m", "u:1:r", str(source / "with ACL")], check=True)
    (source / "closed").chmod(0)
    (source / "noperm").chmod(0)
    source.chmod(0)
    with Repository(public_path / "backups.db") as repo:
        repo.snapshot(source)
    os.chmod(public_path / "backups.db", 0o666)
    for sample in (None, 4):
        result = drill_as_nobody(public_path, sample=sample)
        assert [problem.kind for problem in result.problems] == ["owner-not-restored"]
        assert result.ok
        assert result.drill.files == (sample or 5)
    assert list(public_path.glob("backuptool-drill-*")) == []


@needs_root
@pytest.mark.parametrize(
    ("disturb", "difference"),
    [
        (lambda there: (there / "a").write_bytes(b"b"), "content"),
        (lambda there: (there / "a").chmod(0o200), "mode"),
        (lambda there: os.setxattr(there / "a", "user.x", b"2"), "extended attributes"),
    ],
)
def test_what_was_closed_to_its_owner_is_really_compared(
    public_path: Path, disturb: Callable[[Path], object], difference: str
) -> None:
    source = write_tree(public_path / "source", {"a": b"a"})
    os.setxattr(source / "a", "user.x", b"1")
    times = (source / "a").stat().st_mtime_ns
    (source / "a").chmod(0)

    def drill() -> backuptool.DrillResult:
        def on_verify(event: ProgressEvent) -> None:
            if event.phase == "verify" and not event.done_files:
                (there,) = public_path.glob("backuptool-drill-*/tree")
                (there / "a").chmod(0o600)
                disturb(there)
                if difference != "mode":
                    (there / "a").chmod(0)
                os.utime(there / "a", ns=(0, times))

        with Repository(public_path / "backups.db") as repo:
            return repo.drill(scratch=public_path, progress=on_verify)

    with Repository(public_path / "backups.db") as repo:
        repo.snapshot(source)
    os.chmod(public_path / "backups.db", 0o666)
    result = as_nobody(drill)
    (problem,) = [problem for problem in result.problems if problem.kind == "not-as-saved"]
    assert problem.message == f"did not come back as it was saved: {difference}"
    assert result.drill.failed_files == 1


# What the place cannot hold.


@needs_root
def test_a_scratch_directory_that_is_full_is_an_error_that_tells_what_helps_a_drill(
    repo: Repository, tmp_path: Path
) -> None:
    write(tmp_path / "source" / "large", random_bytes(3 << 20))
    repo.snapshot(tmp_path / "source")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with mounted(scratch):
        with pytest.raises(RestoreError, match="No space left on device; name a scratch directory with more room, or"):
            repo.drill(scratch=scratch)
        assert os.listdir(scratch) == []
    assert repo.list().drills == ()


def limited(place: Path, **options: object) -> backuptool.DrillResult:
    """Drill where no file may have more than 100,000 bytes."""
    resource = pytest.importorskip("resource")

    def run() -> backuptool.DrillResult:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with Repository(place / "backups.db") as repo:
            repo.list()
            before = resource.getrlimit(resource.RLIMIT_FSIZE)

            def limit(event: ProgressEvent) -> None:
                resource.setrlimit(
                    resource.RLIMIT_FSIZE, (before[1] if event.phase == "verify" else 100_000, before[1])
                )

            return repo.drill(scratch=place, progress=limit, **options)  # type: ignore[arg-type]

    os.chmod(place / "backups.db", 0o666)
    return as_nobody(run)


def test_files_that_the_place_cannot_hold_are_named_and_not_held_against_the_snapshot(
    public_path: Path,
) -> None:
    write_tree(public_path / "source", {"small": b"small", "too large": random_bytes(200_000)})
    with Repository(public_path / "backups.db") as repo:
        repo.snapshot(public_path / "source")
    result = limited(public_path)
    found = [(problem.kind, problem.path) for problem in result.problems if problem.kind != "owner-not-restored"]
    assert found == [("not-written", "too large")]
    assert result.ok
    assert (result.drill.files, result.drill.size_bytes, result.drill.complete) == (1, 5, False)
    assert result.recorded


def test_where_nothing_can_be_held_nothing_is_proven(public_path: Path) -> None:
    write_tree(public_path / "source", {"too large": random_bytes(200_000)})
    with Repository(public_path / "backups.db") as repo:
        repo.snapshot(public_path / "source")
        with pytest.raises(RestoreError, match="File too large; name another scratch directory"):
            limited(public_path)
        assert repo.list().drills == ()


@pytest.mark.parametrize("phase", ["restore", "verify"])
def test_a_scratch_directory_that_somebody_removes_is_no_failure_of_the_snapshot(
    repo: Repository, tmp_path: Path, tree: Path, phase: str
) -> None:
    repo.snapshot(tree)

    def remove(event: ProgressEvent) -> None:
        if event.phase == phase:
            for there in tmp_path.glob("backuptool-drill-*"):
                shutil.rmtree(str(there))

    with pytest.raises(RestoreError, match="was removed while the drill ran"):
        repo.drill(scratch=tmp_path, progress=remove)
    assert repo.list().drills == ()
    assert list(tmp_path.glob("backuptool-drill-*")) == []


def test_a_signal_at_any_line_before_the_block_leaves_no_directory(tmp_path: Path) -> None:
    """SIGTERM becomes an exception wherever it comes, also between making the directory and its block."""
    place = os.fsencode(tmp_path)
    raised = 0
    for number in range(100):
        lines = iter(range(number))

        def trace(frame: FrameType, event: str, argument: object, lines: Iterator[int] = lines) -> object:
            if frame.f_code not in (Scratch.__init__.__code__, Scratch.__enter__.__code__):
                return None
            if event == "line" and next(lines, None) is None:
                sys.settrace(None)
                raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        try:
            sys.settrace(trace)  # type: ignore[arg-type]
            with Scratch(place):
                break
        except KeyboardInterrupt:
            raised += 1
        finally:
            sys.settrace(before)
        assert os.listdir(place) == [], number
    assert raised >= 4
    assert os.listdir(place) == []


# What is kept of it.


def test_list_tells_when_each_source_was_last_proven_restorable(repo: Repository, tmp_path: Path, tree: Path) -> None:
    other = write_tree(tmp_path / "other", {"x": b"x"})
    third = write_tree(tmp_path / "third", {"y": b"y"})
    for source in (tree, other, tree, third):
        repo.snapshot(source)
    first = repo.drill(1).drill
    sampled = repo.drill(3, sample=2).drill
    second = repo.drill(2).drill
    listed = repo.list()
    assert [snapshot.drill for snapshot in listed] == [first, second, sampled, None]
    assert listed.drills == (second, sampled)
    assert [drill.source for drill in listed.drills] == [str(other), str(tree)]
    assert repo.list(source=third).drills == ()
    assert repo.list(source=tree).drills == (sampled,)
    assert isinstance(first, Drill)
    assert first.finished_ns < sampled.finished_ns
    assert listed.to_dict()["drills"][1]["ok"] is True


def test_the_record_outlives_its_snapshot_but_not_its_source(repo: Repository, tree: Path, tmp_path: Path) -> None:
    repo.snapshot(tree)
    repo.drill()
    write(tree / "new", b"new")
    repo.snapshot(tree)
    repo.prune(1)
    (drill,) = repo.list().drills
    assert (drill.snapshot, repo.list()[0].drill) == (1, None)
    repo.prune(2)
    assert repo.check().ok
    repo.snapshot(write_tree(tmp_path / "other", {"x": b"x"}))  # may get the number of the source that is gone
    assert repo.list().drills == ()
    assert repo.check().ok


@pytest.mark.parametrize("column", ["snapshot", "finished_ns", "files", "size", "failed", "complete"])
def test_check_finds_a_record_that_was_changed_and_list_leaves_it_out(
    repo: Repository, tree: Path, column: str
) -> None:
    repo.snapshot(tree)
    repo.drill()
    repo.close()
    sql(repo.path, f"UPDATE drills SET {column} = {column} + 1")
    for quick in (True, False):
        assert [problem.kind for problem in repo.check(quick=quick).problems] == ["catalog-corrupt"]
    assert repo.list().drills == ()


def test_a_record_with_a_text_in_place_of_a_number_is_found(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    repo.drill()
    repo.close()
    sql(repo.path, "UPDATE drills SET files = 'x'")
    assert "restore drill 1" in repo.check().problems[0].message
    assert len(repo.list()) == 1


def test_the_digest_of_a_record_is_as_the_format_says(repo: Repository, tree: Path) -> None:
    import hashlib

    repo.snapshot(tree, host="höst")
    repo.drill()
    repo.close()
    row = sql(
        repo.path,
        "SELECT d.id, host, root, snapshot, finished_ns, files, size, failed, complete, digest "
        "FROM drills AS d JOIN sources AS s ON s.id = d.source",
    )[0]
    hasher = hashlib.sha256()
    for position, field in enumerate(("drills", *row[:-1])):
        data = str(field).encode()
        hasher.update(b"%c%d:" % (b"b" if position == 3 else b"i", len(data)) + data)
    assert hasher.digest() == row[-1]


def test_a_repository_that_takes_no_writes_is_drilled_and_the_result_says_that_it_is_not_recorded(
    public_path: Path,
) -> None:
    source = write_tree(public_path / "source", {"a": b"a"})
    with Repository(public_path / "backups.db") as repo:
        repo.snapshot(source)
    os.chmod(public_path / "backups.db", 0o444)

    def drill() -> backuptool.DrillResult:
        with Repository(public_path / "backups.db") as theirs:
            return theirs.drill(scratch=public_path)

    result = as_nobody(drill) if IS_ROOT else drill()
    assert result.ok
    assert not result.recorded
    (problem,) = [problem for problem in result.problems if problem.kind == "not-recorded"]
    assert isinstance(problem, Problem)
    assert "read-only" in problem.message
    os.chmod(public_path / "backups.db", 0o644)
    with Repository(public_path / "backups.db") as repo:
        assert repo.list().drills == ()


def test_a_snapshot_pruned_during_its_drill_is_not_recorded(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    with Repository(repo.path) as other:

        def prune(event: ProgressEvent) -> None:
            if event.phase == "verify" and len(other.list()):
                other.prune(1)

        # The comparison reads the catalog in one page here, so it ends before it can miss anything.
        with pytest.raises(SnapshotNotFoundError):
            repo.drill(progress=prune)
    assert repo.check().ok


def test_a_drill_of_a_repository_of_format_1_makes_it_one_of_this_format(tmp_path: Path) -> None:
    from sample import unpack_sample

    path = unpack_sample("format-1", tmp_path / "backups.db")
    with Repository(path) as repo:
        result = repo.drill()
        assert result.recorded
        assert repo.list().drills == (result.drill,)
        assert repo.check().ok
    database = sqlite3.connect(str(path))
    assert database.execute("PRAGMA user_version").fetchone() == (2,)
    database.close()


def test_errors_name_the_place(repo: Repository, tree: Path, tmp_path: Path) -> None:
    with pytest.raises(backuptool.RepositoryNotFoundError):
        repo.drill()
    repo.snapshot(tree)
    with pytest.raises(SnapshotNotFoundError):
        repo.drill(7)
    with pytest.raises(RestoreError, match=r"cannot make a scratch directory in .*missing"):
        repo.drill(scratch=tmp_path / "missing")
