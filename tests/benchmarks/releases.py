"""The data set of several releases of one source tree, each unpacked over the last one and saved.

Either directories that were named, or the Python standard library of the interpreter that runs the benchmark with
seeded edits. Every file of a release has a new time stamp, as files out of a release's archive do, so programs must
read them all and find out for themselves what is new.
"""

from __future__ import annotations

import random
import shutil
import sysconfig
from functools import partial
from pathlib import Path
from typing import Sequence

from .datasets import DataSet, Sizes, copy_tree
from .generation import TextSource
from .plan import Change, Measure, Operation, Plan

__all__ = ["Releases"]

#: From one release to the next: the share of files edited, and of the lines of such a file, as between two minor
#: versions of the standard library itself.
_EDITED_FILES = 0.3
_EDITED_LINES = 0.03

#: From one release to the next: the share of files that are new, and of those that move to another name.
_NEW_FILES = 0.02
_MOVED_FILES = 0.02


class Releases(DataSet):
    """Versions of a source tree.

    Args:
        sizes: How many versions are made, and of how many files at most.
        directories: Releases to use instead, oldest first.
    """

    name = "releases"

    def __init__(self, sizes: Sizes, directories: Sequence[Path] = ()) -> None:
        super().__init__(sizes)
        self._directories = tuple(directories)
        self._text = TextSource(self.name, 1 << 20)

    @property
    def description(self) -> str:
        if self._directories:
            return f"{len(self._directories)} releases of one source tree, unpacked one over the other"
        return f"{self._sizes.releases} versions of the Python standard library's sources, made by seeded edits"

    def build(self, directory: Path) -> None:
        if self._directories:
            copy_tree(self._directories[0], directory)
            return
        library = Path(sysconfig.get_paths()["stdlib"])
        sources = sorted(path for path in library.rglob("*.py") if "site-packages" not in path.parts)
        for source in sources[: self._sizes.release_files]:
            target = directory / source.relative_to(library)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)

    def plan(self) -> Plan:
        count = len(self._directories) or self._sizes.releases
        steps: list[Measure | Change] = [Measure(Operation.FIRST, "first release")]
        for number in range(1, count):
            steps += [
                Change(partial(self._unpack, number=number)),
                Measure(Operation.CHANGED, "second release" if count == 2 else f"releases 2 to {count}"),
            ]
        return (
            *steps,
            Measure(Operation.RESTORE, "restore the newest"),
            Measure(Operation.RESTORE_FILE, "restore one file"),
            Measure(Operation.CHECK, "check, all data"),
            Measure(Operation.PRUNE_ONE, f"prune 1 of {count}"),
        )

    def _unpack(self, directory: Path, *, number: int) -> None:
        """Put the next release in the place of the present one."""
        old = directory.parent / "discarded" / f"release-{number}"
        old.parent.mkdir(exist_ok=True)
        directory.rename(old)
        directory.mkdir()
        if self._directories:
            copy_tree(self._directories[number], directory)
        else:
            self._edit(old, directory, random.Random(f"{self.name} {number}"))

    def _edit(self, old: Path, new: Path, rng: random.Random) -> None:
        """Write the next version of each file of a tree."""
        paths = sorted(path for path in old.rglob("*") if path.is_file())
        for path in paths:
            relative = path.relative_to(old)
            if rng.random() < _MOVED_FILES:
                relative = relative.with_name(f"moved_{relative.name}")
            data = path.read_bytes()
            if rng.random() < _EDITED_FILES:
                data = self._edited(data, rng)
            target = new / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            if rng.random() < _NEW_FILES:
                fresh = self._text.text(rng, rng.randint(500, 20_000))
                (new / relative.with_name(f"new_{rng.getrandbits(40):010x}.py")).write_bytes(fresh)

    def _edited(self, data: bytes, rng: random.Random) -> bytes:
        """Return a file with some of its lines changed, removed and added."""
        lines = data.splitlines(keepends=True)
        for _ in range(max(1, round(_EDITED_LINES * len(lines)))):
            position = rng.randint(0, max(0, len(lines) - 1))
            added = self._text.text(rng, rng.randint(20, 80)).replace(b"\n", b" ") + b"\n"
            kind = rng.choice(("change", "remove", "add"))
            lines[position : position + (kind != "add")] = [added] * (kind != "remove")
        return b"".join(lines)
