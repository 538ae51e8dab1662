"""Data sets that are trees of many small files, and the change of a few files between two snapshots."""

from __future__ import annotations

import random
import stat
from functools import partial
from pathlib import Path

from .datasets import DataSet, Sizes, copy_tree, regular_files
from .generation import TextSource, file_size
from .plan import Change, Measure, Operation, Plan

__all__ = ["Many", "Million", "Nightly"]

#: A changed file is read whole and written anew, so only files up to this size are chosen.
_LARGEST_CHANGED = 1 << 20


class Tree:
    """A tree of regular files that changes a little from time to time.

    Args:
        seed: What the files and the changes are made from.
        files: How many files :meth:`write` makes.
        median_size: Of those files, in bytes; the mean is about 2.5 times as large.
    """

    def __init__(self, seed: str, files: int, median_size: int = 2500) -> None:
        self._median_size = median_size
        self._seed = seed
        self._files = files
        self._text = TextSource(seed, min(32 << 20, max(1 << 20, files * 2000)))
        self._paths: list[str] = []
        self._next = 0

    def write(self, directory: Path) -> None:
        """Write the files into an empty directory, about 200 in each directory of two levels."""
        rng = random.Random(f"{self._seed} tree")
        self._paths, self._next = [], 0
        for _ in range(self._files):
            self._paths.append(self._write_new(directory, rng))

    def adopt(self, directory: Path) -> None:
        """Work with the files that are there."""
        self._paths, self._next = regular_files(directory), 0

    def change(self, directory: Path, *, seed: str, share: float) -> None:
        """Change a share of the files: of those chosen 70 % get another line, 20 % are new, 10 % are removed."""
        rng = random.Random(f"{self._seed} {seed}")
        count = max(1, round(share * len(self._paths)))
        removed = round(0.1 * count)
        created = round(0.2 * count)
        for _ in range(count - created - removed):
            self._insert_line(directory / rng.choice(self._paths), rng)
        for _ in range(removed):
            last = self._paths.pop()
            index = rng.randrange(len(self._paths) + 1)
            if index < len(self._paths):
                last, self._paths[index] = self._paths[index], last
            (directory / last).unlink()
        for _ in range(created):
            self._paths.append(self._write_new(directory, rng))

    def _write_new(self, directory: Path, rng: random.Random) -> str:
        number = self._next
        self._next += 1
        folder = f"generated-{number // 20_000:03}/{number // 200 % 100:02}"
        if number % 200 == 0:
            (directory / folder).mkdir(parents=True, exist_ok=True)
        path = f"{folder}/file-{number:07}.txt"
        # The number makes each content different from all others, however short it is.
        with open(directory / path, "wb") as stream:
            stream.write(b"%d\n" % number + self._text.text(rng, file_size(rng, self._median_size)))
        return path

    def _insert_line(self, path: Path, rng: random.Random) -> None:
        """Insert a line somewhere and put the new file in the place of the old one, as editors do."""
        old = path.stat()
        if old.st_size > _LARGEST_CHANGED:
            return
        data = path.read_bytes()
        position = data.find(b"\n", rng.randint(0, len(data))) + 1
        line = self._text.text(rng, rng.randint(20, 120)).replace(b"\n", b" ") + b"\n"
        changed = path.with_name(f"{path.name}.changed")
        changed.write_bytes(data[:position] + line + data[position:])
        changed.chmod(stat.S_IMODE(old.st_mode))
        changed.replace(path)


class Many(DataSet):
    """A copy of any directory, or a generated tree; then 0.1 % of its files change."""

    name = "many"

    def __init__(self, sizes: Sizes, directory: Path | None = None) -> None:
        super().__init__(sizes)
        self._directory = directory
        self._tree = Tree(self.name, sizes.many_files)

    @property
    def description(self) -> str:
        origin = "a generated tree" if self._directory is None else "a copy of a directory in use"
        return f"{origin}; the small change is 0.1 % of the files"

    def build(self, directory: Path) -> None:
        if self._directory is None:
            self._tree.write(directory)
        else:
            copy_tree(self._directory, directory)
            self._tree.adopt(directory)

    def plan(self) -> Plan:
        return (
            Measure(Operation.FIRST, "first snapshot"),
            Measure(Operation.UNCHANGED, "unchanged"),
            Change(partial(self._tree.change, seed="change", share=0.001)),
            Measure(Operation.CHANGED, "small change"),
            Measure(Operation.LIST, "list"),
            Measure(Operation.RESTORE, "restore"),
            Measure(Operation.RESTORE_FILE, "restore one file"),
            Measure(Operation.CHECK, "check, all data"),
            Measure(Operation.PRUNE_ONE, "prune 1 of 3"),
        )


class Million(Many):
    """Very many generated files, most of them of a few hundred bytes. They are not restored, for want of room."""

    name = "million"

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self._tree = Tree(self.name, sizes.million_files, median_size=250)

    def plan(self) -> Plan:
        return tuple(
            step for step in super().plan() if isinstance(step, Change) or step.operation is not Operation.RESTORE
        )


class Nightly(DataSet):
    """A snapshot of a generated tree every night, 0.1 to 1 % of the files changed since the last one."""

    name = "nightly"

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self._tree = Tree(self.name, sizes.nightly_files)

    @property
    def description(self) -> str:
        changed = "0.1 to 1 % of the files changed before each but the last"
        return f"{self._sizes.nights} snapshots of a generated tree, {changed}"

    def build(self, directory: Path) -> None:
        self._tree.write(directory)

    def plan(self) -> Plan:
        nights = self._sizes.nights
        shares = random.Random(self.name)
        steps: list[Measure | Change] = [Measure(Operation.FIRST, "first snapshot")]
        for night in range(2, nights):
            change = partial(self._tree.change, seed=f"night {night}", share=shares.uniform(0.001, 0.01))
            steps += [Change(change), Measure(Operation.CHANGED, f"snapshots 2 to {nights - 1}")]
        return (
            *steps,
            Measure(Operation.UNCHANGED, f"snapshot {nights}, unchanged"),
            Measure(Operation.LIST, "list"),
            Measure(Operation.RESTORE, "restore the newest"),
            Measure(Operation.RESTORE_FILE, "restore one file"),
            Measure(Operation.CHECK, "check, all data"),
            Measure(Operation.PRUNE_ONE, f"prune 1 of {nights}"),
            Measure(Operation.PRUNE_HALF, f"prune {nights // 2} of {nights - 1}"),
        )
