"""Permissions: the repository and its journal are their owner's alone, restored files are never open to more people.

Under each umask the process is stopped before each call that could change a permission or a name. At every such moment
the modes of everything there are looked at: of the repository and its journal, and of what is being restored.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Callable, Dict, FrozenSet, List, Tuple

import pytest
from conftest import write_tree

from backuptool import Repository

from .calls import Call
from .programme import Effort, Figures
from .tracing import run_traced

pytestmark = [pytest.mark.reliability, pytest.mark.usefixtures("tracing")]

#: Calls that make something, name it, or change who may use it; and those that fill it.
_CALLS: FrozenSet[str] = frozenset(
    {
        *("openat", "mkdir", "mkdirat", "mknodat", "symlinkat", "link", "linkat", "chmod", "fchmod", "fchmodat"),
        *(
            "fchown",
            "fchownat",
            "write",
            "pwrite64",
            "rename",
            "renameat",
            "renameat2",
            "unlink",
            "unlinkat",
            "fdatasync",
        ),
        *("ftruncate", "utimensat", "fsetxattr"),
    }
)

_MODES = (
    0o000,
    0o200,
    0o400,
    0o440,
    0o600,
    0o604,
    0o640,
    0o644,
    0o660,
    0o666,
    0o700,
    0o711,
    0o755,
    0o775,
    0o777,
    0o4755,
)

#: Umasks in the short form.
_SHORT = (0o000, 0o022, 0o077)


def make_source(root: Path) -> Dict[str, int]:
    """Make files, directories and FIFOs of many modes; return the mode of each."""
    write_tree(root, {f"file {mode:o}": b"%o" % mode for mode in _MODES})
    for mode in _MODES:
        (root / f"file {mode:o}").chmod(mode)
        os.mkfifo(str(root / f"fifo {mode:o}"))
        (root / f"fifo {mode:o}").chmod(mode & 0o777)
        if mode & 0o700 == 0o700:
            (root / f"directory {mode:o}" / "sub").mkdir(parents=True)
            (root / f"directory {mode:o}" / "sub" / "file").write_bytes(b"inside")
            (root / f"directory {mode:o}" / "sub").chmod(mode & 0o777)
            (root / f"directory {mode:o}").chmod(mode & 0o777)
    os.setxattr(str(root / "file 640"), "user.note", b"attribute")
    root.chmod(0o750)
    return modes(root)


def modes(root: Path) -> Dict[str, int]:
    """Return the permissions of everything below a directory, and of itself, by path."""
    found = {".": stat.S_IMODE(os.lstat(str(root)).st_mode)}
    for directory, names, files in os.walk(str(root)):
        for name in [*names, *files]:
            path = os.path.join(directory, name)
            try:
                found[os.path.relpath(path, str(root))] = stat.S_IMODE(os.lstat(path).st_mode)
            except FileNotFoundError:
                continue
    return found


def too_wide(out: Path, saved: Dict[str, int]) -> List[str]:
    """Return what others than its owner may do with what is restored and could not with what was saved."""
    faults = []
    for path, mode in modes(out).items():
        name = os.path.basename(path)
        if name.startswith(".backuptool-"):
            path = os.path.join(os.path.dirname(path), name[len(".backuptool-") : -len(".part")])
        wider = mode & ~saved.get(path, 0) & 0o7077
        if wider:
            faults.append(f"{path} has the mode {mode:o}, and was saved with {saved.get(path, 0):o}")
    return faults


def not_private(repository: Path) -> List[str]:
    """Return which file of a repository others than its owner may use."""
    faults = []
    for path in repository.parent.glob(f"{repository.name}*"):
        try:
            status = os.lstat(str(path))
        except FileNotFoundError:
            continue
        if stat.S_IMODE(status.st_mode) != 0o600:
            faults.append(f"{path.name} has the mode {stat.S_IMODE(status.st_mode):o}")
    return faults


Job = Tuple[str, Callable[[Repository], object]]


def watch(work: Path, umask: int, figures: Figures, saved: Dict[str, int], spoil: int = 0) -> None:
    """Take snapshots, prune and restore under a umask, and look at all modes before each call.

    Args:
        spoil: Permissions that the repository is given at once, to see that this is noticed.
    """
    repository, out, source = work / f"{umask:o}.db", work / f"out {umask:o}", work / "source"
    jobs: List[Job] = [
        ("snapshot", lambda repo: repo.snapshot(source, host="host")),
        ("snapshot", lambda repo: repo.snapshot(source, host="host", note="again")),
        ("prune", lambda repo: repo.prune(1)),
        ("restore", lambda repo: repo.restore(2, out)),
        ("restore", lambda repo: repo.restore(2, out, overwrite="always", delete_extra=True)),
    ]
    for name, job in jobs:

        def look(call: Call, name: str = name) -> None:
            figures.tried["moments looked at"] += 1
            found = not_private(repository)
            if out.exists():
                found += too_wide(out, saved)
            if found:
                figures.faults.append(f"umask {umask:03o}, {name}, before {call.name}: {found[0]}")

        def act(job: Callable[[Repository], object] = job) -> int:
            os.umask(umask)
            with Repository(repository, max_helpers=0) as repo:
                job(repo)
                if spoil:
                    os.chmod(str(repository), spoil)
                    os.utime(str(repository))
            return 0

        ended = run_traced(act, _CALLS, look)
        if ended.code:
            figures.faults.append(f"umask {umask:03o}: {name} ended with {ended.code}")
        figures.tried["commands"] += 1
    if modes(out) != saved:
        differing = {path for path in {*saved, *modes(out)} if saved.get(path) != modes(out).get(path)}
        figures.faults.append(f"umask {umask:03o}: {sorted(differing)[:3]} did not come back with their modes")


def run(effort: Effort) -> Figures:
    """Try all umasks up to 077, or a few of them."""
    figures = Figures()
    saved = make_source(effort.work / "source")
    for umask in range(0o100) if effort.full else _SHORT:
        if effort.is_over():
            break
        figures.tried["umasks"] += 1
        watch(effort.work, umask, figures, saved)
        effort.tell(f"umask {umask:03o}: {figures.tried['moments looked at']:,} moments, {len(figures.faults)} faults")
    return figures


def test_nothing_is_ever_open_to_more_people(tmp_path: Path) -> None:
    figures = run(Effort(work=tmp_path))
    assert figures.faults == []
    assert figures.tried["moments looked at"] > 1_000


# Controls.


def test_repository_that_is_open_for_a_moment_is_noticed(tmp_path: Path) -> None:
    figures = Figures()
    watch(tmp_path, 0o022, figures, make_source(tmp_path / "source"), spoil=0o640)
    assert "22.db has the mode 640" in figures.faults[0]


def test_file_that_is_made_with_its_last_mode_at_once_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes of a private file would be there for everybody, until its mode is set."""
    saved = make_source(tmp_path / "source")
    opens = os.open

    def widely(path: object, flags: int, mode: int = 0o777, **options: object) -> int:
        return opens(path, flags, 0o666 if mode == 0o600 else mode, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", widely)
    figures = Figures()
    watch(tmp_path, 0o000, figures, saved)
    assert any("restore, before" in fault and "has the mode 666" in fault for fault in figures.faults)
    assert any("0.db has the mode 666" in fault for fault in figures.faults)
