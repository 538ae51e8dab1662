"""Media that take no writes: a read-only file, directory or mount, with a journal of an interrupted writer and without.

List, check and restore work, or say in a line why not and what to do. Snapshot and prune say why not.
"""

from __future__ import annotations

import importlib
import io
import os
import pkgutil
import shutil
import subprocess
import sys
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Tuple

import pytest
from conftest import NOBODY, as_nobody, write_tree
from trees import IS_ROOT, contents, program

import backuptool
from backuptool import Repository
from backuptool.cli import main

from .programme import Effort, Figures
from .test_damage import interrupt

pytestmark = [pytest.mark.reliability, pytest.mark.skipif(not IS_ROOT, reason="only root can mount and change owners")]

#: Commands that only read, and commands that write.
_READING = ("list", "check", "restore")
_WRITING = ("snapshot", "prune")


class Medium(NamedTuple):
    """A repository on a medium.

    Attributes:
        name: What kind of medium.
        path: The repository.
        rooted: Whether the commands are run by root, or by a user without rights.
        readable: Whether what only reads must work.
        changeable: Whether the file itself may be written to, so that a journal is rolled back.
    """

    name: str
    path: Path
    rooted: bool
    readable: bool
    changeable: bool = False


def make_repositories(work: Path) -> Tuple[bytes, bytes, bytes]:
    """Return a repository, the same in the middle of a write, and the journal of that."""
    source = write_tree(work / "source", {"a.txt": b"a" * 1000, "sub/b.txt": b"b\n" * 3000})
    for place in [source, *source.rglob("*")]:
        os.chown(str(place), NOBODY, NOBODY)
    with Repository(work / "made.db") as repo:
        repo.snapshot(source, host="host")
        repo.close()
        before = (work / "made.db").read_bytes()
        (source / "more").write_bytes(bytes(range(256)) * 300)
        repo.snapshot(source, host="host")
        repo.close()
        hot = interrupt(before, (work / "made.db").read_bytes(), work)
    (source / "more").unlink()
    return before, hot.data, hot.journal


def put(directory: Path, data: bytes, journal: bytes = b"") -> Path:
    """Put a repository, and a journal if there is one, into a directory of its own."""
    directory.mkdir(parents=True)
    path = directory / "backups.db"
    path.write_bytes(data)
    if journal:
        (directory / "backups.db-journal").write_bytes(journal)
    return path


@contextmanager
def mounted_read_only(path: Path) -> Iterator[None]:
    """Mount a directory over itself, read-only; skip the test where that is not allowed."""
    mount = program("mount")
    if subprocess.run([mount, "--bind", str(path), str(path)], stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        subprocess.run([mount, "-o", "remount,ro,bind", str(path)], check=True)
        yield
    finally:
        subprocess.run([program("umount"), str(path)], check=True)


def states(directory: Path) -> Dict[str, Tuple[bytes, int]]:
    """Return bytes and mode of everything in a directory."""
    return {path.name: (path.read_bytes(), path.stat().st_mode) for path in directory.iterdir()}


def run_commands(medium: Medium, work: Path, figures: Figures) -> None:
    """Run all commands on a medium, and see that they work or say why not, and change nothing."""
    before = states(medium.path.parent)
    out = work / "out"
    for command in (*_READING, *_WRITING):
        shutil.rmtree(str(out), ignore_errors=True)
        out.mkdir()
        os.chown(str(out), NOBODY, NOBODY)
        arguments = {
            "restore": ["--snapshot-number", "1", "--output-directory", str(out)],
            "snapshot": ["--target-directory", str(work / "source")],
            "prune": ["--snapshot", "1"],
        }.get(command, [])
        code, err = _run([command, *arguments], medium)
        figures.tried["commands"] += 1
        what = f"{medium.name}: {command}"
        if "Traceback" in err or "shows where" in err or code not in (0, 1):
            figures.faults.append(f"{what} ended with {code}: {err}")
        if bool(code) != bool(err):
            figures.faults.append(f"{what} ended with {code}, and says {err!r}")
        if command in _READING and medium.readable:
            if code:
                figures.faults.append(f"{what} should work: {err}")
            if command == "restore" and contents(out) != contents(work / "source"):
                figures.faults.append(f"{what}: what came back is not what was saved")
        elif command in _READING and "make the file and its directory writable" not in err:
            figures.faults.append(f"{what} does not say what to do: {err}")
        elif command in _WRITING and code != 1:
            figures.faults.append(f"{what} should not work, and ended with {code}")
    if states(medium.path.parent) != before and not medium.changeable:
        figures.faults.append(f"{medium.name}: something was changed")


def _import_everything() -> None:
    """Import all of the package while this is root: the interpreter may lie where another user cannot go."""
    import ctypes  # noqa: F401

    for module in pkgutil.walk_packages(backuptool.__path__, "backuptool."):
        if not module.name.endswith("__main__"):
            try:
                importlib.import_module(module.name)
            except ImportError:
                continue  # what it needs is not installed


def _run(arguments: List[str], medium: Medium) -> Tuple[int, str]:
    """Run a command as root or as a user without rights; return its exit code and what it said."""
    program_text = "import sys; from backuptool.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program_text, "--db-path", str(medium.path), *arguments]
    if medium.rooted:
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8", check=False)
        return done.returncode, done.stderr
    return as_nobody(lambda: _main(["--db-path", str(medium.path), *arguments]))


def _main(arguments: List[str]) -> Tuple[int, str]:
    """Run the command in this process, which is another user's."""
    err = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(err):
        code = int(main(arguments))
    return code, err.getvalue()


def media(work: Path) -> Iterator[Medium]:
    """Yield each medium while it is there."""
    sound, half, journal = make_repositories(work)
    for hot in (False, True):
        data, beside = (half, journal) if hot else (sound, b"")
        word = "with the journal of an interrupted writer, " if hot else ""

        place = work / f"file {hot}"
        path = put(place, data, beside)
        for file in place.iterdir():
            file.chmod(0o444)
        place.chmod(0o777)
        # Whoever may write to the directory may not write to the file: the journal cannot be rolled back.
        yield Medium(f"{word}a read-only file", path, False, not hot)

        place = work / f"directory {hot}"
        path = put(place, data, beside)
        for file in place.iterdir():
            os.chown(str(file), NOBODY, NOBODY)
        place.chmod(0o555)
        yield Medium(f"{word}a read-only directory", path, False, not hot, changeable=hot)

        place = work / f"both {hot}"
        path = put(place, data, beside)
        for file in place.iterdir():
            file.chmod(0o444)
        place.chmod(0o555)
        yield Medium(f"{word}a read-only file in a read-only directory", path, False, not hot)

        place = work / f"mount {hot}"
        path = put(place, data, beside)
        for file in place.iterdir():
            file.chmod(0o666)
        with mounted_read_only(place):
            yield Medium(f"{word}a read-only mount, by root", path, True, not hot)
            yield Medium(f"{word}a read-only mount, by a user", path, False, not hot)


def run(effort: Effort) -> Figures:
    """Run all commands on all media."""
    figures = Figures()
    effort.work.chmod(0o755)
    _import_everything()
    for medium in media(effort.work):
        figures.tried["media"] += 1
        run_commands(medium, effort.work, figures)
    return figures


def test_media_that_take_no_writes_are_read_or_it_is_said_why_not(public_path: Path) -> None:
    figures = run(Effort(work=public_path))
    assert figures.faults == []
    assert figures.tried["media"] == 10
    assert figures.tried["commands"] == 50


# Controls.


def test_a_medium_that_is_written_to_is_noticed(public_path: Path) -> None:
    sound, _, _ = make_repositories(public_path)
    path = put(public_path / "writable", sound)
    figures = Figures()
    run_commands(Medium("writable", path, True, True), public_path, figures)
    assert any("prune should not work" in fault for fault in figures.faults)
    assert any("something was changed" in fault for fault in figures.faults)


def test_a_journal_that_cannot_be_rolled_back_is_not_passed_over(public_path: Path) -> None:
    """Without its journal the file is read as it is, half written: that is what must not happen."""
    _, half, _ = make_repositories(public_path)
    path = put(public_path / "half", half)
    figures = Figures()
    run_commands(Medium("half", path, True, True), public_path, figures)
    assert figures.faults != []
