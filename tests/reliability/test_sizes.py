"""Sizes: files of every size at which something changes, up to 1 TiB, go in and come out, in bounded memory.

Each size is saved and restored by the command, in a process of its own whose memory is measured.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Tuple

import pytest
from trees import random_bytes

from .programme import Effort, Figures

pytestmark = pytest.mark.reliability

_KIB, _MIB, _GIB, _TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

#: Bytes that a process may have in memory.
_MOST = 300 * _MIB

#: Edges: of a block, of a page, of the smallest and the largest chunk, of a file that is cut, of a pack; and two packs.
_EDGES = (512, 4 * _KIB, 8 * _KIB, 16 * _KIB, 32 * _KIB, 128 * _KIB, _MIB, 2 * _MIB, 4 * _MIB, 8 * _MIB)

#: Sizes of dense files.
SMALL = (0, 1, *(edge + more for edge in _EDGES for more in (-1, 0, 1)))

#: Sizes of sparse files, with data at both ends and in the middle.
LARGE = tuple(edge + more for edge in (_GIB, 2 * _GIB, 4 * _GIB) for more in (-1, 0, 1))


#: Runs a command, and tells how much memory it had. The system's own account of a process begins with what the process
#: had that it was forked from.
_MEASURED = """
import resource, sys
from backuptool.cli import main
code = main(sys.argv[1:])
with open("/proc/self/status") as status:
    own = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
print("memory:", max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(code)
"""


def measured(arguments: List[str]) -> Tuple[int, int, str]:
    """Run a command; return its exit code, the most memory that it or a helper had in bytes, and what it said."""
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    out, _, memory = done.stdout.decode().rpartition("memory: ")
    return done.returncode, int(memory) * 1024, out


def write_dense(path: Path, size: int) -> str:
    """Write a file of bytes that do not compress, and return its SHA-256."""
    hasher = hashlib.sha256()
    with path.open("wb") as file:
        left = size
        while left:
            piece = random_bytes(min(left, _MIB), seed=left)
            file.write(piece)
            hasher.update(piece)
            left -= len(piece)
    return hasher.hexdigest()


def write_sparse(path: Path, size: int) -> None:
    """Write a file with data at both ends and in the middle, and holes between."""
    with path.open("wb") as file:
        for offset in (0, size // 2, size - 5000):
            file.seek(offset)
            file.write(random_bytes(5000, seed=offset))


def holes_of(path: Path) -> List[Tuple[int, int, str]]:
    """Return (begin, end, SHA-256) of the data between the holes of a file."""
    found = []
    with path.open("rb") as file:
        size, end = os.fstat(file.fileno()).st_size, 0
        while end < size:
            try:
                begin = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
            data = os.pread(file.fileno(), end - begin, begin)
            found.append((begin, end, hashlib.sha256(data).hexdigest()))
    return found


def sha256sum(path: Path) -> str:
    """Return the SHA-256 of a file, as another program has it."""
    return subprocess.run(["sha256sum", str(path)], check=True, stdout=subprocess.PIPE).stdout.decode()[:64]


class Trip:
    """Trees that go into a repository and come out of it.

    Args:
        work: An empty directory.
        figures: What was tried and found.
    """

    def __init__(self, work: Path, figures: Figures) -> None:
        self._work = work
        self._figures = figures
        self.source, self.out, self.repository = work / "source", work / "out", work / "backups.db"
        self.source.mkdir()
        self.highest = 0

    def go(self) -> None:
        """Save, check and restore, each in a process of its own."""
        db = ["--db-path", str(self.repository), "-q"]
        for arguments in (
            [*db, "snapshot", "--target-directory", str(self.source), "--max-file-size", "none"],
            [*db, "check"],
            [*db, "restore", "--snapshot-number", "latest", "--output-directory", str(self.out)],
        ):
            code, memory, said = measured(arguments)
            self.highest = max(self.highest, memory)
            if code or said:
                self._figures.faults.append(f"{arguments[3]} ended with {code}: {said[:300]}")
            if memory > _MOST:
                self._figures.faults.append(f"{arguments[3]} took {memory:,} bytes")
        self._figures.tried["bytes of memory, the most of any process"] = max(
            self._figures.tried["bytes of memory, the most of any process"], self.highest
        )

    def end(self) -> None:
        """Remove everything."""
        shutil.rmtree(str(self._work))


def try_dense(work: Path, sizes: Tuple[int, ...], figures: Figures) -> None:
    """Save and restore dense files of these sizes."""
    work.mkdir()
    trip = Trip(work, figures)
    expected: Dict[str, str] = {str(size): write_dense(trip.source / str(size), size) for size in sizes}
    trip.go()
    for name, digest in expected.items():
        figures.tried["dense files"] += 1
        if sha256sum(trip.out / name) != digest or (trip.out / name).stat().st_size != int(name):
            figures.faults.append(f"{name} bytes did not come back")
    trip.end()


def try_sparse(work: Path, size: int, figures: Figures) -> None:
    """Save and restore a sparse file of this size."""
    work.mkdir()
    trip = Trip(work, figures)
    write_sparse(trip.source / "sparse", size)
    expected = holes_of(trip.source / "sparse")
    trip.go()
    figures.tried["sparse files"] += 1
    restored = trip.out / "sparse"
    if restored.stat().st_size != size or holes_of(restored) != expected:
        figures.faults.append(f"a sparse file of {size:,} bytes did not come back")
    if restored.stat().st_blocks * 512 > 100_000:
        figures.faults.append(f"a sparse file of {size:,} bytes takes {restored.stat().st_blocks * 512:,} restored")
    if trip.repository.stat().st_size > _MIB:
        figures.faults.append(
            f"a sparse file of {size:,} bytes takes {trip.repository.stat().st_size:,} in the repository"
        )
    figures.tried["bytes of the largest file"] = max(figures.tried["bytes of the largest file"], size)
    trip.end()


def run(effort: Effort) -> Figures:
    """Try all sizes; in the full form up to 1 TiB of holes and 4 GiB of data."""
    figures = Figures()
    try_dense(effort.work / "small", SMALL, figures)
    for size in LARGE if effort.full else LARGE[:3]:
        if effort.is_over():
            return figures
        effort.tell(f"{size:,} bytes")
        try_sparse(effort.work / "large", size, figures)
    if effort.full and not effort.is_over():
        effort.tell("4 GiB and a byte, of data")
        try_dense(effort.work / "dense", (4 * _GIB + 1,), figures)
    if effort.full and not effort.is_over():
        effort.tell("1 TiB")
        try_sparse(effort.work / "huge", _TIB, figures)
    return figures


def test_files_of_all_sizes_come_back_in_little_memory(tmp_path: Path) -> None:
    figures = run(Effort(work=tmp_path))
    assert figures.faults == []
    assert figures.tried["dense files"] == len(SMALL)
    assert figures.tried["sparse files"] == 3


# Controls.


def test_a_file_that_comes_back_otherwise_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = Figures()
    go = Trip.go

    def spoil(trip: Trip) -> None:
        go(trip)
        with (trip.out / "4097").open("r+b") as file:
            file.truncate(4096)

    monkeypatch.setattr(Trip, "go", spoil)
    try_dense(tmp_path / "work", (4096, 4097), figures)
    assert figures.faults == ["4097 bytes did not come back"]


def test_memory_and_holes_that_are_filled_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = Figures()
    monkeypatch.setattr(sys.modules[__name__], "_MOST", 10 * _MIB)
    go = Trip.go

    def fill(trip: Trip) -> None:
        go(trip)
        subprocess.run(["cp", "--sparse=never", str(trip.out / "sparse"), str(trip.out / "copy")], check=True)
        os.replace(str(trip.out / "copy"), str(trip.out / "sparse"))

    monkeypatch.setattr(Trip, "go", fill)
    try_sparse(tmp_path / "work", 8 * _MIB, figures)
    assert any("snapshot took" in fault for fault in figures.faults)
    assert any("restored" in fault for fault in figures.faults)
