"""The sound repository that every case begins with."""

from __future__ import annotations

import os
from pathlib import Path

from conftest import noise, write_tree

from backuptool import Repository

__all__ = ["HOST", "make_base"]

HOST = "victim"


def make_base(work: Path) -> Path:
    """Make a sound repository of two sources and three snapshots with something of everything; return its path."""
    tree = write_tree(
        work / "source",
        {
            "a.txt": b"the first file\n" * 20,
            "b.txt": b"the second file\n" * 9,
            "dir/sub/c.txt": b"far below\n" * 5,
            "dir/noise": noise(40_000),
            "hard": b"linked\n" * 4,
            "empty": b"",
        },
    )
    os.link(str(tree / "hard"), str(tree / "linked"))
    (tree / "symlink").symlink_to("a.txt")
    os.mkfifo(str(tree / "fifo"))
    with (tree / "large").open("wb") as file:
        file.write(b"".join(b"line %d\n" % number for number in range(110_000)))
    with (tree / "sparse").open("wb") as file:
        file.write(b"begin")
        file.seek(1 << 20)
        file.write(b"".join(b"data %d\n" % number for number in range(9000)))
        file.truncate(3 << 20)
    os.setxattr(str(tree / "a.txt"), "user.note", b"attribute")
    other = write_tree(work / "other", {"x": b"of the other source\n"})
    repository = work / "base.db"
    with Repository(repository) as repo:
        repo.snapshot(tree, host=HOST, note="the first", tags=["one"])
        (tree / "a.txt").write_bytes(b"changed\n" * 30)
        (tree / "b.txt").unlink()
        (tree / "new").write_bytes(b"new in the second one\n" * 3)
        (tree / "dir" / "noise").write_bytes(noise(40_000)[:-1] + b"changed")  # in a pack that has another as base
        repo.snapshot(tree, host=HOST, note="the second")
        repo.snapshot(other, host=HOST)
        assert repo.check().problems == ()
    return repository
