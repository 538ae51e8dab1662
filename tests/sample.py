"""A small repository with something of everything, and what must come out of it: the samples in tests/data.

``python tests/sample.py NAME`` writes ``tests/data/NAME.db.gz`` with the present code, and beside it ``NAME.json`` with
what each snapshot holds, as the source was read by these tests and not by the package. Done once for each format, when
it is final; what was written is never written again. Root alone can make all of it.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import stat
import struct
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

import trees

from backuptool import ProgressEvent, Repository

__all__ = ["DATA", "HOST", "PINNED", "Expected", "facts", "load_expected", "unpack_sample", "write_history"]

DATA = Path(__file__).resolve().parent / "data"

HOST = "sample"

#: The snapshot that is pinned, in formats that have pins.
PINNED = 4

#: What is known of an entry: see :func:`facts`.
Expected = Dict[str, List[Any]]

_SECOND = 1_000_000_000

_NOBODY = 2**32 - 1  # in an ACL: not of a certain user


class _InterruptedError(Exception):
    """Raised in the middle of a snapshot, to leave contents that nothing refers to."""


def noise(size: int, seed: int) -> bytes:
    """Return bytes that no compression makes smaller, the same in every run."""
    return random.Random(seed).getrandbits(8 * size).to_bytes(size, "big")


def facts(root: Path) -> Expected:
    """Return what is to be kept of each entry of a tree, by its path, as JSON has it.

    Mode, owner, group, modification time in ns, size, what is in it (SHA-256, target or device number), extended
    attributes in hex, and the first path of its inode.
    """
    found: Expected = {}
    for path, (mode, uid, gid, mtime_ns, detail, xattrs, group) in trees.facts(root).items():
        size = 0
        if isinstance(detail, tuple):
            size, detail = detail
        found[os.fsdecode(path)] = [
            *(mode, uid, gid, mtime_ns, size, os.fsdecode(detail) if isinstance(detail, bytes) else detail),
            {name: value.hex() for name, value in xattrs},  # type: ignore[attr-defined]
            os.fsdecode(group),  # type: ignore[arg-type]
        ]
    return found


def _write(path: Path, data: bytes, mtime: int, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)
    _age(path, mtime)


def _age(path: Path, mtime: int) -> None:
    stamp = mtime * _SECOND + mtime % 999_999_937
    os.utime(path, ns=(stamp, stamp), follow_symlinks=False)


def _numbers(first: int, last: int) -> bytes:
    return b"".join(b"%d\n" % number for number in range(first, last))


def _make_home(root: Path) -> None:
    """Every kind of entry, name, mode and attribute; a large file, and sparse ones."""
    _write(root / "small.txt", b"a small file\n" * 3, 1_500_000_001)
    _write(root / "copy of small.txt", b"a small file\n" * 3, 1_500_000_002, 0o600)
    _write(root / "empty", b"", 1_500_000_003, 0o444)
    _write(root / "large", _numbers(100_000, 330_000), 1_500_000_004)
    with (root / "holes").open("wb") as file:
        file.write(b"begin")
        file.seek(1_500_000)
        file.write(_numbers(1, 2000))
        file.truncate(4_000_000)
    with (root / "nothing but a hole").open("wb") as file:
        file.truncate(7 << 20)
    _write(root / "dir/sub/deep.txt", b"deep down\n", 1_500_000_005)
    (root / "empty dir").mkdir()
    (root / "empty dir").chmod(0o1775)
    os.link(root / "small.txt", root / "dir/linked small")
    os.link(root / "large", root / "dir/linked large")
    (root / "symlink").symlink_to("dir/sub/deep.txt")
    (root / "dangling").symlink_to(os.fsdecode(b"/nowhere/\xff"))
    os.mkfifo(root / "fifo", 0o640)
    os.mknod(root / "socket", stat.S_IFSOCK | 0o755)
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "block", stat.S_IFBLK | 0o660, os.makedev(7, 200))
    names = os.fsencode(root / "names")
    os.mkdir(names)
    every_byte = bytes(byte for byte in range(1, 256) if byte != 47)
    for name in (every_byte, b"new\nline", b"\x1b[31mred", "e\u0301 \u202eevil 日本".encode(), b"\xff\xfe", b"n" * 255):
        with open(os.path.join(names, name), "wb") as out:
            out.write(b"named " + name)
        os.utime(os.path.join(names, name), ns=(1_400_000_000 * _SECOND,) * 2)
    for mtime, year in ((-1_893_456_000, "1910"), (4_294_967_296, "2106"), (7_258_118_400, "2200")):
        _write(root / "times" / year, year.encode(), mtime)
    _write(root / "modes/setuid", b"#!/bin/sh\n", 1_500_000_006, 0o4755)
    _write(root / "modes/other's", b"owned", 1_500_000_007)
    os.chown(root / "modes/other's", 1234, 2345)
    (root / "modes/other's").chmod(0o2711)
    attributed = root / "attributes/file"
    _write(attributed, b"with attributes", 1_500_000_008)
    os.setxattr(attributed, "user.binary", bytes(range(256)))
    os.setxattr(attributed, "user.empty", b"")
    os.setxattr(attributed, "trusted.of root", b"1")
    # u::rw- u:1234:rw- g::r-- m::rw- o::r--, as the kernel has it
    entries = ((1, 6, _NOBODY), (2, 6, 1234), (4, 4, _NOBODY), (16, 6, _NOBODY), (32, 4, _NOBODY))
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(attributed, "system.posix_acl_access", acl)
    os.setxattr(root / "empty dir", "user.of a directory", b"2")
    _age(attributed, 1_500_000_008)
    for number, directory in enumerate(sorted(root.rglob("*"), reverse=True)):
        if directory.is_dir() and not directory.is_symlink():
            _age(directory, 1_450_000_000 + number)
    specials = ("symlink", "dangling", "fifo", "socket", "null", "block", "holes", "nothing but a hole")
    for number, special in enumerate(specials):
        _age(root / special, 1_460_000_000 + number)
    root.chmod(0o750)
    _age(root, 1_450_000_000)


def write_history(repository: Path, work: Path) -> Dict[int, Expected]:
    """Take snapshots of two sources that change, prune two of them, interrupt one, pin one and drill one.

    Returns what each kept one holds.

    Args:
        repository: The file; it must not exist.
        work: An empty directory, which lies where the sources are to have been.
    """
    home, etc = work / "home", work / "etc"
    expected: Dict[int, Expected] = {}
    with Repository(repository) as repo:

        def take(source: Path, note: str = "", tags: Optional[List[str]] = None) -> None:
            result = repo.snapshot(source, host=HOST, note=note, tags=tags or [])
            assert result.problems == ()
            expected[result.snapshot.id] = facts(source)

        home.mkdir()
        _make_home(home)
        take(home, "the first, with ümlauts and a \udcff", ["daily", "été"])
        etc.mkdir()
        _write(etc / "passwd", b"root:x:0:0::/root:/bin/sh\n", 1_300_000_000)
        _write(etc / "same as small", b"a small file\n" * 3, 1_300_000_001)
        _write(etc / "noise", noise(40_000, 1), 1_300_000_002)  # compresses to nothing less: a raw pack
        take(etc, "of another source")
        _write(home / "large", _numbers(100_000, 200_000) + b"inserted\n" + _numbers(200_000, 330_000), 1_500_000_010)
        _write(home / "only in the pruned one", b"gone\n" * 9, 1_500_000_011)
        take(home, "to be pruned")
        (home / "only in the pruned one").unlink()
        (home / "symlink").unlink()
        _write(home / "symlink", b"a file where a symlink was\n", 1_500_000_012)
        (home / "empty").chmod(0o640)
        shutil.rmtree(home / "dir" / "sub")
        take(home, "", ["weekly"])
        _write(etc / "hosts", b"127.0.0.1 localhost\n", 1_300_000_003)
        # A changed file of some size: its pack has the one of its last version as base.
        _write(etc / "noise", noise(40_000, 1)[:-1] + b"changed", 1_300_000_004)
        take(etc)
        _write(home / "new", _numbers(1, 3000), 1_500_000_013)
        take(home, "the last")
        _write(home / "after the last", b"pruned as well\n", 1_500_000_014)
        take(home, "the newest, to be pruned")
        for number in (3, 7):
            repo.prune(number)
            del expected[number]

        def interrupt(event: ProgressEvent) -> None:
            if event.phase == "commit":
                raise _InterruptedError

        _write(home / "never committed", b"a leftover\n" * 20, 1_500_000_015)
        try:
            repo.snapshot(home, host=HOST, progress=interrupt)
        except _InterruptedError:
            pass
        repo.annotate(PINNED, pinned=True)
        assert repo.drill(6, scratch=work, seed=1).problems == ()
        assert repo.check().problems == ()
    return expected


def unpack_sample(name: str, path: Path) -> Path:
    """Write a sample from tests/data as a repository file, for its owner alone, and return its path."""
    with gzip.open(DATA / f"{name}.db.gz") as packed:
        path.write_bytes(packed.read())
    path.chmod(0o600)
    return path


def load_expected(name: str) -> Dict[int, Expected]:
    """Return what each snapshot of a sample holds."""
    document = json.loads((DATA / f"{name}.json").read_text(encoding="ascii"))
    versions = document["versions"]
    return {
        int(number): {path: versions[position] for path, position in entries.items()}
        for number, entries in document["snapshots"].items()
    }


def _document(expected: Dict[int, Expected]) -> Dict[str, Any]:
    """Return what is stored of it: each version of an entry once."""
    versions: List[List[Any]] = []
    snapshots: Dict[str, Dict[str, int]] = {}
    for number, entries in expected.items():
        positions = snapshots[str(number)] = {}
        for path, entry in entries.items():
            if entry not in versions:
                versions.append(entry)
            positions[path] = versions.index(entry)
    return {"versions": versions, "snapshots": snapshots}


def _text(document: Dict[str, Any]) -> str:
    """Return a document as JSON with a line for each version and each snapshot."""
    versions = ",\n".join(json.dumps(version) for version in document["versions"])
    snapshots = ",\n".join(f"{json.dumps(number)}: {json.dumps(of)}" for number, of in document["snapshots"].items())
    return f'{{"versions": [\n{versions}\n],\n"snapshots": {{\n{snapshots}\n}}}}\n'


def main(name: str) -> None:
    """Write a sample."""
    target = DATA / f"{name}.db.gz"
    if target.exists():
        raise SystemExit(f"{target} exists: what an old version wrote is kept as it is")
    work = Path("/tmp") / name  # where the sources are said to have been, for ever
    work.mkdir()
    try:
        expected = write_history(work / "backups.db", work)
        with target.open("wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
            packed.write((work / "backups.db").read_bytes())
    finally:
        shutil.rmtree(work)
    (DATA / f"{name}.json").write_text(_text(_document(expected)), encoding="ascii")


if __name__ == "__main__":
    main(sys.argv[1])
