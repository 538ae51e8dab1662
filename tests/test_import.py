"""Importing tar streams: of GNU tar, of tarfile, of our own, and of people who mean no good."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import pytest
from conftest import noise, sql, write, write_tree
from properties import HealthCheck, given, settings, st
from trees import (
    differences,
    make_every_kind,
    make_sparse_file,
    needs_root,
    program,
    random_bytes,
    remove_sockets,
    rsync_differences,
)

from backuptool import PatternError, ProgressEvent, Repository, RepositoryLockedError, SourceError
from backuptool.tree import pax


def gnu_tar(source: Path, archive: Path, *options: str) -> Path:
    """Make a stream with GNU tar."""
    command = [program("tar"), "-C", str(source), *options, "-cf", str(archive), "."]
    subprocess.run(command, check=True, env={**os.environ, "LC_ALL": "C.UTF-8"}, stderr=subprocess.DEVNULL)
    return archive


def stream(*members: pax.Member, data: Optional[Dict[bytes, bytes]] = None, end: bytes = pax.END) -> io.BytesIO:
    """Return a stream of members, with the bytes of those that have some."""
    blocks = b""
    for member in members:
        content = (data or {}).get(member.name, b"") if member.flag == b"0" else b""
        blocks += pax.header(member._replace(size=len(content))) + content + pax.padding(len(content))
    return io.BytesIO(blocks + end)


def member(name: bytes, flag: bytes = b"0", link: bytes = b"", **others: Any) -> pax.Member:
    return pax.Member(name, flag, 0o644, 1, 2, b"u", b"g", 10**18, link=link)._replace(**others)


def kinds(result: Any) -> List[Tuple[str, str]]:
    return [(problem.kind, problem.path) for problem in result.problems]


def contents(repo: Repository, out: Path) -> Dict[str, bytes]:
    """Restore the newest snapshot and return its regular files."""
    assert repo.restore("latest", out).problems == ()
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


# What others wrote.


@needs_root
@pytest.mark.parametrize(
    "options",
    [
        ["--format=pax", "--xattrs", "--xattrs-include=*"],
        ["--format=pax", "--xattrs", "--xattrs-include=*", "--sparse", "--hole-detection=raw"],
    ],
    ids=["plain", "sparse 1.0"],
)
def test_all_that_gnu_tar_keeps_comes_back(repo: Repository, tmp_path: Path, options: List[str]) -> None:
    source = tmp_path / "source"
    make_every_kind(source)
    remove_sockets(source)
    for linked in ("specials/second linked fifo", "devices/linked null"):  # GNU tar keeps no hard links of these
        if (source / linked).exists():
            (source / linked).unlink()
    if "--hole-detection=raw" not in options:  # which takes zeros for holes, and more pieces than this has
        make_sparse_file(source / "sparse" / "huge", 30 << 20, [(3 << 20, b"a"), (20 << 20, random_bytes(2 << 20))])
    archive = gnu_tar(source, tmp_path / "a.tar", *options)
    result = repo.import_tar(archive)
    assert result.problems == ()
    assert result.snapshot.source == "a"
    assert repo.restore(1, tmp_path / "out").problems == ()
    assert differences(source, tmp_path / "out") == []
    assert rsync_differences(source, tmp_path / "out") == ""
    assert repo.check().ok


@needs_root
@pytest.mark.parametrize(
    "options",
    [
        ["--format=gnu"],
        ["--format=gnu", "--sparse"],
        ["--format=oldgnu", "--sparse"],
        ["--format=pax", "--sparse", "--sparse-version=0.1"],
        ["--format=pax", "--sparse", "--sparse-version=0.0"],
    ],
    ids=" ".join,
)
def test_the_formats_of_gnu_tar_are_read(repo: Repository, tmp_path: Path, options: List[str]) -> None:
    source = write_tree(tmp_path / "source", {"a": b"a", "d/" + "n" * 200: b"long", "large": random_bytes(3 << 20)})
    (source / "link").symlink_to("x/" * 120 + "y")
    os.link(source / "a", source / "b")
    os.chown(source / "a", 4_000_000_000, 3_000_000)
    make_sparse_file(source / "sparse", 60 << 20, [(at << 20, b"data" * 1024) for at in range(1, 60, 2)])
    for path in source.rglob("*"):  # whole seconds: these formats have no more
        os.utime(path, ns=(0, 1_500_000_000 * 10**9), follow_symlinks=False)
    os.utime(source, ns=(0, 1_500_000_000 * 10**9))
    repo.import_tar(gnu_tar(source, tmp_path / "a.tar", *options))
    assert repo.restore(1, tmp_path / "out").problems == ()
    assert differences(source, tmp_path / "out") == []


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_what_tarfile_writes_is_read(repo: Repository, tmp_path: Path, form: int) -> None:
    source = write_tree(tmp_path / "source", {"a": b"a" * 700, "d/b": b"b", "d/" + "deep/" * 30 + "c": b"c"})
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as archive:
        archive.add(source, "")
    assert repo.import_tar(tmp_path / "a.tar").problems == ()
    assert contents(repo, tmp_path / "out") == {
        str(path.relative_to(source)): path.read_bytes() for path in source.rglob("*") if path.is_file()
    }


@needs_root
@pytest.mark.both
def test_an_export_is_imported_as_it_was(repo: Repository, tmp_path: Path) -> None:
    source = tmp_path / "source"
    make_every_kind(source)
    remove_sockets(source)
    repo.snapshot(source)
    buffer = io.BytesIO()
    repo.export_tar(1, buffer)
    first = buffer.getvalue()
    result = repo.import_tar(io.BytesIO(first), source="copy")
    assert (result.problems, result.new_bytes) == ((), 0)
    assert (result.snapshot.files, result.snapshot.size_bytes) == (repo.list()[0].files, repo.list()[0].size_bytes)
    again = io.BytesIO()
    repo.export_tar(2, again)
    assert again.getvalue() == first
    assert repo.check().ok


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst", ".xz", ".bz2"])
def test_a_compressed_stream_is_told_by_how_it_begins(
    repo: Repository, tmp_path: Path, tree: Path, suffix: str
) -> None:
    archive = gnu_tar(tree, tmp_path / "a.tar")
    tool = {"": "cat", ".gz": "gzip", ".zst": "zstd", ".xz": "xz", ".bz2": "bzip2"}[suffix]
    command = [program(tool), str(archive)] if not suffix else [program(tool), "-qc", str(archive)]
    (tmp_path / "b").write_bytes(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    assert repo.import_tar(tmp_path / "b", source="x").snapshot.files == 5
    data = (tmp_path / "b").read_bytes()
    with pytest.raises(SourceError, match=r"cannot read|no tar stream"):
        repo.import_tar(io.BytesIO(data[: len(data) // 2 if suffix else 1000]), source="x")
    assert len(repo.list()) == 1


def test_a_stream_that_gives_its_bytes_one_by_one_is_read(repo: Repository, tmp_path: Path, tree: Path) -> None:
    data = gnu_tar(tree, tmp_path / "a.tar").read_bytes()

    class Slow:
        position = 0

        def read(self, size: int) -> bytes:
            self.position += 1
            return data[self.position - 1 : self.position]

    assert repo.import_tar(Slow(), source="x").snapshot.files == 5  # type: ignore[arg-type]


# Deduplication, and the source's past.


def test_the_second_stream_stores_what_changed(repo: Repository, tmp_path: Path, tree: Path) -> None:
    write(tree / "large", random_bytes(2_000_000))
    repo.snapshot(tree)
    first = repo.import_tar(gnu_tar(tree, tmp_path / "a.tar", "--format=pax"), note="one", tags=["t"], host="h")
    assert (first.new_files, first.new_bytes) == (6, 0)
    assert (first.snapshot.note, first.snapshot.tags, first.snapshot.host) == ("one", ("t",), "h")
    same = repo.import_tar(tmp_path / "a.tar", host="h", pinned=True)
    assert (same.unchanged_files, same.new_files, same.changed_files, same.removed_files) == (6, 0, 0, 0)
    assert same.snapshot.pinned
    write(tree / "a.txt", b"changed")
    (tree / "b.txt").unlink()
    write(tree / "c.txt", b"new")
    third = repo.import_tar(gnu_tar(tree, tmp_path / "a.tar", "--format=pax"), host="h")
    assert (third.unchanged_files, third.new_files, third.changed_files, third.removed_files) == (4, 1, 1, 1)
    assert third.new_bytes == len(b"changed") + len(b"new")
    assert sql(repo.path, "SELECT count(*) FROM sources") == [(2,)]
    assert repo.check().ok
    fourth = repo.import_tar(gnu_tar(tree, tmp_path / "a.tar", "--format=pax", "--exclude=./a.txt"), host="h")
    assert (fourth.unchanged_files, fourth.removed_files) == (5, 1)
    repo.prune([2, 5])
    assert repo.check().ok
    assert differences(tree, tmp_path / "out") if repo.restore(4, tmp_path / "out").problems else True
    assert contents(repo, tmp_path / "again")["c.txt"] == b"new"


def test_an_import_may_continue_the_source_of_a_directory(repo: Repository, tmp_path: Path, tree: Path) -> None:
    repo.snapshot(tree)
    repo.export_tar(1, tmp_path / "a.tar")
    result = repo.import_tar(tmp_path / "a.tar", source=str(tree))
    assert (result.unchanged_files, result.new_files) == (5, 0)
    assert [snapshot.source for snapshot in repo.list()] == [str(tree)] * 2
    assert repo.snapshot(tree).unchanged_files == 5
    assert repo.check().ok


def test_parts_of_a_stream_may_be_imported(repo: Repository, tmp_path: Path, tree: Path) -> None:
    archive = gnu_tar(tree, tmp_path / "a.tar")
    result = repo.import_tar(archive, include=["/docs/"], exclude=["copy*"])
    assert (result.snapshot.files, result.snapshot.directories) == (1, 3)
    assert list(contents(repo, tmp_path / "out")) == ["docs/deep/c.bin"]


def test_a_name_for_the_source_is_taken_from_the_file_or_must_be_given(
    repo: Repository, tmp_path: Path, tree: Path
) -> None:
    data = gnu_tar(tree, tmp_path / "a.tar").read_bytes()
    for name in ("old.tar", "old.tar.gz", "old.tgz", "old"):
        (tmp_path / name).write_bytes(data)
        assert repo.import_tar(tmp_path / name).snapshot.source == "old"
    with pytest.raises(ValueError, match="source must say"):
        repo.import_tar(io.BytesIO(data))
    with pytest.raises(ValueError, match="compression must be"):
        repo.import_tar(tmp_path / "old", compression="x")  # type: ignore[arg-type]
    with pytest.raises(SourceError, match=r"cannot read .*missing"):
        repo.import_tar(tmp_path / "missing")


# Streams that mean no good.


def test_names_that_lead_elsewhere_are_not_imported(repo: Repository, tmp_path: Path) -> None:
    names = [b"../a", b"a/../../b", b"..", b"ok/./c", b"./d", b"e//f", b"/etc/passwd", b"/etc/shadow"]
    result = repo.import_tar(stream(*map(member, names), data={name: name for name in names}), source="x")
    assert kinds(result) == [
        *(("unsafe-path", "../a"), ("unsafe-path", "a/../../b"), ("unsafe-path", "..")),
        ("absolute-name", "etc/passwd"),
    ]
    assert result.problems[-1].count == 2
    assert set(contents(repo, tmp_path / "out")) == {"ok/c", "d", "e/f", "etc/passwd", "etc/shadow"}
    assert repo.check().ok


def test_of_members_with_one_name_the_last_one_counts(repo: Repository, tmp_path: Path) -> None:
    first = stream(member(b"a"), member(b"b"), data={b"a": b"old", b"b": b"b"}, end=b"").getvalue()
    second = stream(member(b"d/", b"5"), member(b"a"), member(b"d/", b"5"), data={b"a": b"new"}).getvalue()
    result = repo.import_tar(io.BytesIO(first + second), source="x")
    assert kinds(result) == [("duplicate-name", "a")]
    assert contents(repo, tmp_path / "out") == {"a": b"new", "b": b"b"}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_where_a_file_has_the_name_of_a_directory_the_directory_counts(
    repo: Repository, tmp_path: Path, order: Tuple[int, int]
) -> None:
    members = [member(b"a"), member(b"a/b/c")]
    result = repo.import_tar(stream(*(members[n] for n in order), data={b"a": b"file", b"a/b/c": b"below"}), source="x")
    assert kinds(result) == [("in-the-way", "a")]
    assert contents(repo, tmp_path / "out") == {"a/b/c": b"below"}
    assert repo.check().ok


def test_a_symlink_on_the_way_leads_nowhere(repo: Repository, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    result = repo.import_tar(
        stream(member(b"a", b"2", bytes(outside)), member(b"a/evil"), data={b"a/evil": b"evil"}), source="x"
    )
    assert kinds(result) == [("in-the-way", "a")]
    assert contents(repo, tmp_path / "out") == {"a/evil": b"evil"}
    assert os.listdir(outside) == []


def test_hard_links_keep_to_what_came_before_them(repo: Repository, tmp_path: Path) -> None:
    result = repo.import_tar(
        stream(
            *(member(b"a"), member(b"b", b"1", b"./a"), member(b"c", b"1", b"b"), member(b"d/", b"5")),
            *(
                member(b"none", b"1", b"later"),
                member(b"later"),
                member(b"dir", b"1", b"d"),
                member(b"out", b"1", b"../x"),
            ),
            *(member(b"a"), member(b"e", b"1", b"a"), member(b"self"), member(b"self", b"1", b"self")),
            data={b"a": b"data", b"later": b"later", b"self": b"s"},
        ),
        source="x",
    )
    assert kinds(result) == [
        *(("broken-link", "none"), ("broken-link", "dir"), ("unsafe-path", "../x"), ("broken-link", "out")),
        ("duplicate-name", "a"),
    ]
    out = tmp_path / "out"
    contents(repo, out)
    inode = {name: (out / name).stat().st_ino for name in ("a", "b", "c", "e")}
    assert inode["b"] == inode["c"]
    assert inode["a"] == inode["e"] != inode["b"]
    assert sql(repo.path, "SELECT path FROM files WHERE link IS NOT NULL ORDER BY path") == [
        *(("a",), ("b",), ("c",), ("e",))
    ]


def test_an_inode_of_which_one_name_is_left_has_no_link(repo: Repository) -> None:
    repo.import_tar(stream(member(b"a"), member(b"b", b"1", b"a"), member(b"a"), data={b"a": b"x"}), source="x")
    assert sql(repo.path, "SELECT path FROM files WHERE link IS NOT NULL") == []


@pytest.mark.parametrize("flag", [b"M", b"V", b"A", b"Z", b"\xff"])
def test_members_of_unknown_types_are_named_and_passed_over(repo: Repository, tmp_path: Path, flag: bytes) -> None:
    odd = pax.header(member(b"odd", flag, size=700)) + bytes(1024)
    result = repo.import_tar(io.BytesIO(odd + stream(member(b"a"), data={b"a": b"a"}).getvalue()), source="x")
    assert kinds(result) == [("unsupported", "odd")]
    assert contents(repo, tmp_path / "out") == {"a": b"a"}


def test_attributes_in_words_are_told(repo: Repository, tmp_path: Path) -> None:
    first = member(b"a")
    head = pax._headers(first, b"a", 0, [(b"SCHILY.acl.access", b"user::rw-"), (b"RHT.security.selinux", b"x")])
    result = repo.import_tar(io.BytesIO(head + pax.END), source="x")
    assert kinds(result) == [("attribute-not-imported", "a")]


@pytest.mark.parametrize(
    ("record", "kind"),
    [((b"uid", b"4294967295"), "unsupported"), ((b"mtime", b"99999999999999"), "time-out-of-range")],
)
def test_values_that_no_file_can_have_are_told(repo: Repository, record: Tuple[bytes, bytes], kind: str) -> None:
    head = pax._headers(member(b"a"), b"a", 0, [record])
    assert kinds(repo.import_tar(io.BytesIO(head + pax.END), source="x")) == [(kind, "a")]
    assert repo.check().ok


def broken() -> Dict[str, bytes]:
    """Return streams that are none."""
    sound = stream(member(b"a"), member(b"b"), data={b"a": b"a" * 600, b"b": b"b"}).getvalue()
    sparse = member(b"s", runs=((0, 512), (1024, 1536)), size=2048)
    head = pax.header(sparse)

    def extended(body: bytes, size: Optional[int] = None) -> bytes:
        about = member(b"x", b"x", size=len(body) if size is None else size)
        return pax._ustar(about, b"x", b"x", about.size, 0) + body + pax.padding(len(body)) + sound

    return {
        "empty": b"",
        "text": b"hello " * 400,
        "cut within a header": sound[:300],
        "cut within a file": sound[: 512 + 300],
        "cut within the padding": sound[: 512 + 700],
        "a flipped bit": sound[:20] + bytes([sound[20] ^ 1]) + sound[21:],
        "a record without length": extended(b"path=x\n"),
        "a record that is too long": extended(b"999 path=x\n"),
        "a record without end": extended(b"9 path=xx"),
        "a huge header": extended(b"", 1 << 40),
        "a size that is none": extended(pax._record(b"size", b"-1")),
        "a time that is none": extended(pax._record(b"mtime", b"1e9")),
        "a map that overlaps": head.replace(b"1024\n512", b"0000\n512") + bytes(1024),
        "a map beyond the end": head.replace(b"1024\n512", b"1999\n512") + bytes(1024),
        "a map of another size": head.replace(b"0\n512", b"0\n511") + bytes(1024),
        "a map that is none": head.replace(b"0\n512", b"x\n512") + bytes(1024),
        "a map without end": head[:-512] + b"9" * 512 + bytes(1024),
        "a map of many": head[:-512] + b"9999999\n".ljust(512, b"0") + bytes(1024),
        "a map that ends early": head[:-512] + b"500\n".ljust(512, b"1"),
    }


@pytest.mark.parametrize("name", broken())
def test_a_stream_that_is_none_is_an_error_and_no_snapshot(repo: Repository, name: str) -> None:
    with pytest.raises(SourceError, match="the stream is no tar stream"):
        repo.import_tar(io.BytesIO(broken()[name]), source="x")
    assert len(repo.list()) == 0
    assert repo.check().ok


def test_a_stream_that_ends_without_its_mark_is_told(repo: Repository, tmp_path: Path) -> None:
    result = repo.import_tar(stream(member(b"a"), data={b"a": b"a"}, end=b""), source="x")
    assert kinds(result) == [("truncated", "")]
    assert contents(repo, tmp_path / "out") == {"a": b"a"}


def test_holes_larger_than_any_file_are_not_hashed(repo: Repository) -> None:
    forged = pax.header(member(b"a", runs=(), size=1 << 60))
    assert kinds(repo.import_tar(io.BytesIO(forged + pax.END), source="x")) == [("unsupported", "a")]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.data())
def test_whatever_is_changed_in_a_stream_is_an_error_or_a_sound_snapshot(repo: Repository, data: st.DataObject) -> None:
    sparse = member(b"s", runs=((0, 512), (1024, 1536)), size=2048)
    sound = bytearray(
        stream(
            member(b"d/", b"5"), member(b"d/" + b"n" * 120), member(b"l", b"1", b"a"), member(b"s", b"2", b"t"), end=b""
        ).getvalue()
        + pax.header(sparse)
        + b"x" * 1024
        + pax.END
    )
    for _ in range(data.draw(st.integers(1, 3))):
        block = data.draw(st.integers(0, len(sound) // 512 - 1)) * 512
        sound[block + data.draw(st.integers(0, 511))] = data.draw(st.integers(0, 255))
        if data.draw(st.booleans()):  # with a sum that is right
            head = bytes(sound[block : block + 512])
            sound[block + 148 : block + 156] = b"%06o\0 " % sum(head[:148] + b" " * 8 + head[156:])
    try:
        repo.import_tar(io.BytesIO(bytes(sound)), source="x")
    except SourceError:
        return
    assert repo.check().problems == ()


# What happens meanwhile.


def test_an_import_that_is_cancelled_leaves_no_snapshot(repo: Repository, tmp_path: Path) -> None:
    source = write_tree(tmp_path / "source", {f"{n}": noise(2000, n) for n in range(50)})
    archive = gnu_tar(source, tmp_path / "a.tar")

    def cancel(event: ProgressEvent) -> None:
        if event.phase == "commit":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repo.import_tar(archive, progress=cancel)
    assert len(repo.list()) == 0
    result = repo.import_tar(archive)
    assert (result.new_bytes, result.snapshot.files) == (0, 50)
    assert repo.check().ok


def test_another_import_of_the_source_meanwhile_is_noticed(repo: Repository, tmp_path: Path, tree: Path) -> None:
    archive = gnu_tar(tree, tmp_path / "a.tar")
    done: List[int] = []

    def beside(event: ProgressEvent) -> None:
        if event.phase == "commit" and not done:
            with Repository(repo.path) as other:
                done.append(other.import_tar(archive).snapshot.id)

    result = repo.import_tar(archive, progress=beside)
    assert (done, result.snapshot.id) == ([1], 2)
    assert repo.check().ok


def test_contents_that_a_prune_takes_meanwhile_are_read_again_from_a_file(
    repo: Repository, tmp_path: Path, tree: Path
) -> None:
    archive = gnu_tar(tree, tmp_path / "a.tar")
    for stream_given in (False, True):
        number = repo.snapshot(tree, host="another").snapshot.id
        done: List[int] = []

        def prune(event: ProgressEvent, number: int = number, done: List[int] = done) -> None:
            if event.phase == "commit" and not done:
                done.append(number)
                with Repository(repo.path) as other:
                    other.prune(number)

        if stream_given:
            repo.prune([snapshot.id for snapshot in repo.list() if snapshot.id != number])
            with archive.open("rb") as file, pytest.raises(RepositoryLockedError, match="again"):
                repo.import_tar(file, source="a", progress=prune)
        else:
            assert repo.import_tar(archive, progress=prune).snapshot.files == 5
        assert repo.check().ok


def test_an_import_of_which_nothing_is_wanted_is_none(repo: Repository, tmp_path: Path) -> None:
    path = tmp_path / "it.tar"
    with tarfile.open(str(path), "w") as tar:
        tar.add(str(write(tmp_path / "a.txt", b"1")), "a.txt")
    with pytest.raises(PatternError, match=r"nothing in .*it.tar matches nomatch, other; .* no snapshot was taken"):
        repo.import_tar(path, include=["nomatch", "other"])
    assert repo.list().snapshots == ()
    assert repo.import_tar(path, include=["*.txt"]).new_files == 1
