"""Exporting a tar stream: GNU tar and tarfile read what was saved, and nothing unverified goes into it."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any, Dict, List

import pytest
from conftest import NOBODY, as_nobody, damage_content, noise, sql, write, write_tree
from properties import example, given, settings, st
from trees import (
    differences,
    make_every_kind,
    make_sparse_file,
    mounted,
    needs_root,
    program,
    random_bytes,
    remove_sockets,
    rsync_differences,
)

from backuptool import CorruptionError, ExportResult, Repository, RestoreError, SnapshotNotFoundError, TarCompression
from backuptool.cli import main
from backuptool.operations import export as exporting
from backuptool.tree import pax


def extract(archive: Path, destination: Path, *options: str) -> str:
    """Extract with GNU tar, all that it can, and return what it says."""
    destination.mkdir()
    done = subprocess.run(
        [program("tar"), "--xattrs", "--xattrs-include=*", "--same-owner", "-xpf", str(archive), *options],
        cwd=destination,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode("utf-8", "replace")
    return done.stdout.decode("utf-8", "surrogateescape")


@needs_root
def test_gnu_tar_extracts_what_restore_restores(repo: Repository, tmp_path: Path) -> None:
    source = tmp_path / "source"
    make_every_kind(source)
    remove_sockets(source)
    os.utime(source / "specials", ns=(0, 10**18))
    os.setxattr(source / "files" / "small", "user.a=b%c", b"an equals sign in the name")
    repo.snapshot(source)
    result = repo.export_tar(1, tmp_path / "a.tar")
    assert result.problems == ()
    assert repo.restore(1, tmp_path / "restored").problems == ()
    said = extract(tmp_path / "a.tar", tmp_path / "extracted")
    said = "".join(line for line in said.splitlines(True) if "time stamp" not in line)  # in the future, or very old
    assert {line.partition(": ")[2] for line in said.splitlines()} <= {
        "Ignoring unknown extended header keyword 'hdrcharset'"
    }
    assert rsync_differences(tmp_path / "restored", tmp_path / "extracted") == ""
    assert differences(source, tmp_path / "extracted") == []


@needs_root
def test_tarfile_reads_it_as_well(repo: Repository, tmp_path: Path) -> None:
    source = tmp_path / "source"
    make_every_kind(source)
    remove_sockets(source)
    repo.snapshot(source)
    repo.export_tar(1, tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar", errors="surrogateescape") as archive:
        members = {os.fsencode(member.name): member for member in archive}
        expected = {os.fsencode(os.path.relpath(path, source)) for path in source.rglob("*")} | {b"."}
        assert set(members) == expected
        for name, member in members.items():
            status = os.lstat(os.fsencode(source) + b"/" + name)
            if not member.islnk():
                assert (member.mode, member.uid, member.gid) == (
                    stat.S_IMODE(status.st_mode),
                    status.st_uid,
                    status.st_gid,
                )
            if member.isreg():
                assert member.size == status.st_size
                content = archive.extractfile(member)
                assert content is not None
                assert content.read() == Path(os.fsdecode(os.fsencode(source) + b"/" + name)).read_bytes()
        linked = members[b"links/one"]
        others = [members[name] for name in (b"links/two", b"links/sub/three")]
        assert linked.isreg()
        assert [each.linkname for each in others if each.islnk()] == ["links/one"] * 2


@pytest.mark.both
def test_equal_snapshots_give_equal_streams_from_any_repository(repo: Repository, tmp_path: Path, tree: Path) -> None:
    os.link(tree / "a.txt", tree / "linked")
    make_sparse_file(tree / "sparse", 5 << 20, [(1 << 20, b"x" * 5000)])
    repo.snapshot(tree)
    write(tree / "b.txt", b"changed")
    repo.snapshot(tree)
    write(tree / "b.txt", b"b" * 2000)
    age = (tree / "docs").stat().st_mtime_ns
    os.utime(tree / "b.txt", ns=(age, age))
    repo.snapshot(tree)
    repo.copy(tmp_path / "other.db", 3, compression="max")
    first, second, third = io.BytesIO(), io.BytesIO(), io.BytesIO()
    repo.export_tar(3, first)
    repo.export_tar("latest", second)
    with Repository(tmp_path / "other.db") as other:
        other.export_tar(1, third)
    assert first.getvalue() == second.getvalue() == third.getvalue()
    assert len(first.getvalue()) % 10240 == 0
    compressions: List[TarCompression] = ["gzip", "zstd"]
    for compression in compressions:
        one, two = io.BytesIO(), io.BytesIO()
        repo.export_tar(3, one, compression=compression)
        repo.export_tar(3, two, compression=compression)
        assert one.getvalue() == two.getvalue()


@pytest.mark.parametrize(
    ("name", "given", "used", "tool"),
    [
        ("a.tar", None, "none", ["cat"]),
        ("a.tar.gz", None, "gzip", ["gzip", "-dc"]),
        ("a.tgz", None, "gzip", ["gzip", "-dc"]),
        ("a.tar.zst", None, "zstd", ["zstd", "-dc"]),
        ("a.tzst", None, "zstd", ["zstd", "-dc"]),
        ("a.tar.gz", "none", "none", ["cat"]),
        ("A.TAR.GZ", None, "gzip", ["gzip", "-dc"]),
        ("a.tar.xz", "none", "none", ["cat"]),
        ("xz", None, "none", ["cat"]),
        ("a", "zstd", "zstd", ["zstd", "-dc"]),
    ],
)
def test_the_name_or_an_option_says_how_it_is_compressed(
    repo: Repository, tmp_path: Path, tree: Path, name: str, given: Any, used: str, tool: List[str]
) -> None:
    write(tree / "large", noise(3_000_000))
    repo.snapshot(tree)
    plain = io.BytesIO()
    repo.export_tar(1, plain)
    result = repo.export_tar(1, tmp_path / name, compression=given)
    assert result.compression == used
    assert result.tar_bytes == len(plain.getvalue())
    assert result.written_bytes == (tmp_path / name).stat().st_size
    done = subprocess.run([program(tool[0]), *tool[1:], str(tmp_path / name)], stdout=subprocess.PIPE, check=True)
    assert done.stdout == plain.getvalue()


@pytest.mark.parametrize("name", ["a.tar.xz", "a.txz", "a.tar.bz2", "a.TBZ2", "a.tar.lz4", "a.tar.Z", "a.zip", "a.7z"])
def test_a_name_that_says_another_compression_is_refused(
    repo: Repository, tmp_path: Path, tree: Path, name: str
) -> None:
    repo.snapshot(tree)
    with pytest.raises(ValueError, match=r"nothing is compressed here as \.[a-z0-9]+ says; .*--compress"):
        repo.export_tar(1, tmp_path / name)
    assert not (tmp_path / name).exists()
    assert main(["--db-path", repo.path, "export", "--output", str(tmp_path / name)]) == 2


def test_a_part_of_a_snapshot_comes_with_the_directories_above_it(repo: Repository, tmp_path: Path, tree: Path) -> None:
    repo.snapshot(tree)
    result = repo.export_tar(1, tmp_path / "a.tar", include=["/docs/"], exclude=["copy*"])
    assert (result.exported_files, result.exported_directories, result.content_bytes) == (1, 3, 1001)
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert archive.getnames() == [".", "docs", "docs/deep", "docs/deep/c.bin"]
    result = repo.export_tar(1, tmp_path / "b.tar", include=["nothing"])
    assert [problem.kind for problem in result.problems] == ["nothing-found"]
    assert repo.export_tar(1, tmp_path / "c.tar", include=["/docs/", "nope"]).unmatched == ("nope",)
    assert isinstance(result, ExportResult)
    assert repr(result).startswith(f"<ExportResult 1 to {tmp_path}/b.tar: 0 files, 0 B, 10.0 KiB written, 1 problem")


def test_a_hole_takes_no_room_in_the_stream(repo: Repository, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    make_sparse_file(source / "huge", 300 << 20, [(100 << 20, b"data"), ((200 << 20) + 777, random_bytes(70_000))])
    make_sparse_file(source / "nothing", 20 << 20, [])
    make_sparse_file(source / "small", 500_000, [(100_001, b"middle"), (499_999, b"e")])
    repo.snapshot(source, max_file_size=None)
    result = repo.export_tar(1, tmp_path / "a.tar")
    assert result.tar_bytes < 200_000
    extract(tmp_path / "a.tar", tmp_path / "out")
    for name in ("nothing", "small"):
        assert (tmp_path / "out" / name).stat().st_size == (source / name).stat().st_size
        assert (tmp_path / "out" / name).stat().st_blocks <= (source / name).stat().st_blocks
    with (tmp_path / "out" / "huge").open("rb") as file:
        assert os.fstat(file.fileno()).st_size == 300 << 20
        assert os.fstat(file.fileno()).st_blocks * 512 < 200_000
        file.seek((100 << 20) - 2)
        assert file.read(8) == b"\0\0data\0\0"
        file.seek((200 << 20) + 775)
        assert file.read(70_004) == b"\0\0" + random_bytes(70_000) + b"\0\0"
    assert (tmp_path / "out" / "small").read_bytes() == (source / "small").read_bytes()


def test_holes_of_a_content_are_zeros_in_a_file_that_has_none(repo: Repository, tmp_path: Path) -> None:
    """Two files with the same bytes share a content, whichever of them has holes."""
    source = tmp_path / "source"
    source.mkdir()
    make_sparse_file(source / "sparse", 3 << 20, [(1 << 20, b"x" * 5000), ((3 << 20) - 1, b"y")])
    repo.snapshot(source)
    write(source / "written", (source / "sparse").read_bytes())
    repo.snapshot(source)
    result = repo.export_tar(2, tmp_path / "a.tar")
    assert 3 << 20 < result.tar_bytes < (3 << 20) + 50_000
    extract(tmp_path / "a.tar", tmp_path / "out")
    assert (tmp_path / "out" / "written").read_bytes() == (tmp_path / "out" / "sparse").read_bytes()
    assert (tmp_path / "out" / "written").read_bytes() == (source / "sparse").read_bytes()
    assert (tmp_path / "out" / "sparse").stat().st_blocks < (tmp_path / "out" / "written").stat().st_blocks


def test_a_socket_is_a_problem_and_nothing_else_suffers(repo: Repository, tmp_path: Path, tree: Path) -> None:
    os.mknod(tree / "socket", stat.S_IFSOCK | 0o600)
    repo.snapshot(tree)
    result = repo.export_tar(1, tmp_path / "a.tar")
    assert [(problem.kind, problem.path) for problem in result.problems] == [("not-exported", "socket")]
    assert result.exported_files == 5
    (tree / "socket").unlink()
    extract(tmp_path / "a.tar", tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == sorted(os.listdir(tree))


# Damage.


@pytest.mark.parametrize("path", ["d/b", "large"])
@pytest.mark.both
def test_a_damaged_file_is_left_out_and_named(repo: Repository, tmp_path: Path, path: str) -> None:
    files: Dict[str, Any] = {"a": b"a" * 500, "d/b": b"b" * 700, "large": random_bytes(2_000_000), "z": b"z"}
    source = write_tree(tmp_path / "source", files)
    repo.snapshot(source)
    damage_content(repo, path)
    result = repo.export_tar(1, tmp_path / "a.tar")
    assert [(problem.kind, problem.path) for problem in result.problems] == [("content-corrupt", path)]
    extract(tmp_path / "a.tar", tmp_path / "out")
    found = {name: (tmp_path / "out" / name).read_bytes() for name in files if (tmp_path / "out" / name).exists()}
    assert found == {name: data for name, data in files.items() if name != path}


@pytest.mark.parametrize("offset", ["'x'", "x'00'"])
def test_file_whose_list_of_parts_has_anything_but_offsets_is_left_out_and_named(
    repo: Repository, tmp_path: Path, offset: str
) -> None:
    repo.snapshot(write_tree(tmp_path / "source", {"large": random_bytes(2_000_000), "z": b"z"}))
    repo.close()
    sql(repo.path, f"UPDATE parts SET offset = {offset} WHERE offset > 0 AND part = (SELECT max(part) FROM parts)")
    result = repo.export_tar(1, tmp_path / "a.tar")
    assert [(problem.kind, problem.path) for problem in result.problems] == [("content-corrupt", "large")]
    assert result.exported_files == 1


def test_the_next_path_of_a_damaged_inode_is_no_link_to_nothing(repo: Repository, tmp_path: Path) -> None:
    source = write_tree(tmp_path / "source", {"a": b"a" * 500, "c": b"c"})
    os.link(source / "a", source / "b")
    repo.snapshot(source)
    damage_content(repo, "a")
    result = repo.export_tar(1, tmp_path / "a.tar")
    assert [problem.path for problem in result.problems] == ["a", "b"]
    extract(tmp_path / "a.tar", tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["c"]


def test_rows_that_no_file_can_have_are_named(repo: Repository, tmp_path: Path, tree: Path) -> None:
    repo.snapshot(tree)
    repo.close()
    sql(repo.path, "UPDATE files SET path = '../a.txt' WHERE path = 'a.txt'")
    sql(repo.path, "UPDATE files SET mode = 99999 WHERE path = 'b.txt'")
    sql(repo.path, "UPDATE files SET content = 77777 WHERE path = 'empty'")
    sql(repo.path, "UPDATE files SET size = 1 WHERE path = 'docs/deep/c.bin'")
    result = repo.export_tar(1, tmp_path / "a.tar")
    assert {(problem.kind, problem.path) for problem in result.problems} == {
        ("snapshot-corrupt", "."),
        ("unsafe-path", "../a.txt"),
        ("catalog-corrupt", "b.txt"),
        ("content-corrupt", "empty"),
        ("content-corrupt", "docs/deep/c.bin"),
    }
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert archive.getnames() == [".", "docs", "docs/copy of b.txt", "docs/deep"]


def test_damage_within_a_large_file_that_was_sound_a_moment_ago_ends_the_export(
    repo: Repository, tmp_path: Path
) -> None:
    """What is in the stream cannot be taken back; a file is not left half written."""
    source = write_tree(tmp_path / "source", {"large": random_bytes(30_000_000)})
    repo.snapshot(source)

    class Damaging(io.BytesIO):
        done = False

        def write(self, data: Any) -> int:
            if not self.done and self.tell() > 100_000:
                self.done = True
                sql(repo.path, "UPDATE packs SET data = zeroblob(length(data)) WHERE id > 10")
            return super().write(data)

    with pytest.raises(CorruptionError):
        repo.export_tar(1, Damaging())


# The file.


def test_a_file_that_is_there_stays_unless_told_otherwise(repo: Repository, tmp_path: Path, tree: Path) -> None:
    repo.snapshot(tree)
    there = write(tmp_path / "a.tar", b"precious")
    with pytest.raises(RestoreError, match="exists; remove it"):
        repo.export_tar(1, there)
    assert there.read_bytes() == b"precious"
    assert repo.export_tar(1, there, overwrite=True).destination == str(there)
    assert tarfile.is_tarfile(there)
    assert stat.S_IMODE(there.stat().st_mode) == 0o600
    with pytest.raises(RestoreError, match="is a directory"):
        repo.export_tar(1, tree, overwrite=True)
    with pytest.raises(RestoreError, match="cannot write"):
        repo.export_tar(1, tmp_path / "missing" / "a.tar")


def test_an_export_that_fails_or_is_cancelled_leaves_nothing(repo: Repository, tmp_path: Path, tree: Path) -> None:
    repo.snapshot(tree)
    place = tmp_path / "place"
    place.mkdir()

    def cancel(event: Any) -> None:
        assert os.listdir(place) == [".backuptool-a.tar.part"]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repo.export_tar(1, place / "a.tar", progress=cancel)
    assert os.listdir(place) == []
    write(place / ".backuptool-a.tar.part", b"left by an earlier run")
    repo.export_tar(1, place / "a.tar")
    assert os.listdir(place) == ["a.tar"]


@needs_root
def test_a_full_disk_is_told_and_leaves_nothing(repo: Repository, tmp_path: Path) -> None:
    source = write_tree(tmp_path / "source", {"a": noise(2_000_000)})
    repo.snapshot(source)
    (tmp_path / "full").mkdir()
    with mounted(tmp_path / "full") as full:
        with pytest.raises(RestoreError, match="No space left"):
            repo.export_tar(1, full / "a.tar")
        assert os.listdir(full) == []


def test_a_file_that_appears_meanwhile_is_not_replaced(repo: Repository, tmp_path: Path, tree: Path) -> None:
    repo.snapshot(tree)
    with pytest.raises(RestoreError, match="exists"):
        repo.export_tar(1, tmp_path / "a.tar", progress=lambda event: write(tmp_path / "a.tar", b"precious"))
    assert (tmp_path / "a.tar").read_bytes() == b"precious"
    assert not (tmp_path / ".backuptool-a.tar.part").exists()


def test_where_there_are_no_hard_links_a_file_takes_its_name_all_the_same(
    repo: Repository, tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.snapshot(tree)

    def link(*paths: object) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", link)
    repo.export_tar(1, tmp_path / "a.tar")
    assert tarfile.is_tarfile(tmp_path / "a.tar")
    with pytest.raises(RestoreError, match="exists"):
        repo.export_tar(1, tmp_path / "b.tar", progress=lambda event: write(tmp_path / "b.tar", b"precious"))
    assert (tmp_path / "b.tar").read_bytes() == b"precious"
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "b.tar", "backups.db", "tree"]


def test_errors_name_what_is_wrong(repo: Repository, tmp_path: Path, tree: Path) -> None:
    repo.snapshot(tree)
    with pytest.raises(SnapshotNotFoundError):
        repo.export_tar(5, tmp_path / "a.tar")
    with pytest.raises(ValueError, match="compression must be"):
        repo.export_tar(1, tmp_path / "a.tar", compression="xz")  # type: ignore[arg-type]
    assert not (tmp_path / "a.tar").exists()


def test_contents_come_in_windows_and_each_pack_is_read_once_in_each(
    repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_tree(tmp_path / "source", {f"{n:03}.{n % 9}": noise(30_000, n) for n in range(300)})
    repo.snapshot(source)
    whole = io.BytesIO()
    repo.export_tar(1, whole)
    monkeypatch.setattr(exporting, "_WINDOW_BYTES", 1 << 20)
    monkeypatch.setattr(exporting, "_WINDOW_MEMBERS", 10)
    parts = io.BytesIO()
    repo.export_tar(1, parts)
    assert parts.getvalue() == whole.getvalue()


_NAMES = [a + b for a in ("a", "b") for b in ("", ".", "-", "!", " ", "0", ".b", "-b")]
_PATHS = st.lists(st.lists(st.sampled_from(_NAMES), min_size=1, max_size=4), min_size=1, max_size=10)


def tree_of(paths: List[List[str]], source: Path) -> None:
    """Make a tree of which every other path is an empty directory, the others files, all of one time."""
    source.mkdir()
    for number, path in enumerate(paths):
        made = source.joinpath(*path)
        if number % 2 or made.exists():
            make_directories(made)
        elif make_directories(made.parent):
            made.touch()
    for directory, names, files in os.walk(source, topdown=False):
        for name in (*files, *names):
            os.utime(os.path.join(directory, name), ns=(0, 10**18))
    os.utime(source, ns=(0, 10**18))


def make_directories(path: Path) -> bool:
    """Make a directory and those above it, if no file is in the way; tell whether it is there."""
    with contextlib.suppress(FileExistsError, NotADirectoryError):
        path.mkdir(parents=True)
    return path.is_dir()


@example([["a", "a"], ["a.b", "b"]])
@example([["a", "a", "a"], ["a", "a.b", "b"], ["a", "a.b", "b"], ["a.", "a"]])
@settings(max_examples=25)
@given(_PATHS)
def test_gnu_tar_gives_every_directory_its_time(paths: List[List[str]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        tmp_path = Path(directory)
        tree_of(paths, tmp_path / "source")
        with Repository(tmp_path / "r.db") as repo:
            repo.snapshot(tmp_path / "source")
            repo.export_tar(1, tmp_path / "a.tar")
        extract(tmp_path / "a.tar", tmp_path / "extracted")
        for made, names, files in os.walk(tmp_path / "extracted"):
            for name in (".", *names, *files):
                assert os.stat(os.path.join(made, name)).st_mtime_ns == 10**18, os.path.join(made, name)


@needs_root
def test_gnu_tar_fills_directories_that_their_owner_may_not_write_to(public_path: Path) -> None:
    tree_of([["a", "f"], ["a.b", "y"]], public_path / "source")
    (public_path / "source" / "a.b").chmod(0o555)
    with Repository(public_path / "r.db") as repo:
        repo.snapshot(public_path / "source")
        repo.export_tar(1, public_path / "a.tar")
    (public_path / "a.tar").chmod(0o644)
    (public_path / "extracted").mkdir()
    os.chown(public_path / "extracted", NOBODY, NOBODY)
    command = [program("tar"), "-xpf", str(public_path / "a.tar"), "-C", str(public_path / "extracted")]
    done = as_nobody(lambda: subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False))
    assert (done.returncode, done.stdout) == (0, b"")
    assert (public_path / "extracted" / "a.b" / "y").is_dir()


# Headers.


@given(
    st.lists(st.tuples(st.integers(0, 40_000), st.integers(1, 5000)), max_size=12),
    st.integers(0, 3000),
)
def test_ranges_in_blocks_hold_all_the_data_and_are_whole_blocks(pairs: Any, tail: int) -> None:
    runs = []
    position = 0
    for gap, length in pairs:
        runs.append((position + gap, position + gap + length))
        position += gap + length
    size = position + tail
    found = list(pax.runs_in_blocks(runs, size))
    assert all(any(a <= begin and end <= b for a, b in found) for begin, end in runs)
    assert all(a % 512 == 0 and (b % 512 == 0 or b == size) and a < b <= size for a, b in found)
    assert all(one[1] < two[0] for one, two in zip(found, found[1:]))
    assert sum(b - a for a, b in found) <= sum(b - a for a, b in runs) + 1024 * len(runs)


@given(
    name=st.binary(min_size=1, max_size=300).map(
        lambda data: data.replace(b"\0", b"x").replace(b"/", b"y").rstrip(b" ")
    ),
    uid=st.integers(0, 2**32 - 2),
    mtime_ns=st.integers(-(2**62), 2**62),
    size=st.integers(0, 2**50),
    user=st.text(alphabet="aé\U0001f600", max_size=40),
)
def test_a_header_is_read_by_tarfile_as_it_was_meant(
    name: bytes, uid: int, mtime_ns: int, size: int, user: str
) -> None:
    member = pax.Member(name or b"x", b"0", 0o4755, uid, uid // 2, user.encode(), b"g", mtime_ns, size)
    data = pax.header(member)
    assert len(data) % 512 == 0
    with tarfile.open(fileobj=io.BytesIO(data + pax.END), errors="surrogateescape") as archive:
        found = archive.next()
    assert found is not None
    assert os.fsencode(found.name) == (name or b"x")
    assert (found.mode, found.uid, found.gid, found.size, found.uname) == (0o4755, uid, uid // 2, size, user)
    assert abs(found.mtime - mtime_ns / 1e9) < 1e-3 * max(1, abs(mtime_ns) / 1e15)
