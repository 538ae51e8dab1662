"""Names: every byte but NUL and the slash, of every length, at every depth; and none of them speaks to the terminal.

Thousands of names are saved and restored, and must be there bit for bit. Then the command names them on a terminal, and
no control byte of a name may reach that.
"""

from __future__ import annotations

import os
import pty
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Sequence, Set

import pytest
from trees import differences, make_deep

from backuptool import Repository

from .programme import Effort, Figures

pytestmark = pytest.mark.reliability

#: Names in the short form and in the full one.
_SHORT, _FULL = 2_000, 100_000

_NASTY = (
    *(b"\n", b"\r", b"\r\n", b"\x1b[2J\x1b[H", b"\x1b]0;title\x07", b"\x1b[31mred", b"\x9b31m", b"\x07", b"\x08" * 9),
    *("\u202eevil".encode(), "\u2066x\u2069".encode(), "\u200b".encode(), "\ufeff".encode(), "e\u0301".encode()),
    *(b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"-rf", b"--", b"*", b"$(id)", b"`id`"),
    *(b"'", b'"', b"\\", b" ", b"  a  ", b"...", b"..x", b"~", b"#", b"!", b"%s%n", b"con", b"a:b", b"\x7f", b"\x1a"),
    *(b".backuptool-x.part", b".backuptool-.part", "\U0001f600".encode() * 63, b"\xff" * 255, b"\n" * 255),
)

#: What may come out of a terminal: text, ends of lines, and the colours of a label.
_COLOURS = re.compile(rb"\x1b\[(31|33|0)m")
_RAW = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


def names(number: int, chance: random.Random) -> List[bytes]:
    """Return so many different names: each byte, the nasty ones, and any bytes of any length."""
    found: Set[bytes] = set(_NASTY)
    for byte in range(1, 256):
        if byte != 47:
            found.update((bytes([byte]) + b"x", b"x" + bytes([byte]), bytes([byte]) * 3))
    found.update(b"n" * length for length in range(1, 256))
    while len(found) < number + 2:
        length = chance.choice((1, 2, 3, 8, 40, 254, 255, chance.randrange(1, 256)))
        kind = chance.randrange(3)
        if kind == 0:
            name = bytes(chance.randrange(1, 256) for _ in range(length))
        elif kind == 1:
            name = bytes(chance.choice(b"ab.\n\x1b\xff- ") for _ in range(length))
        else:
            text = "".join(chr(chance.randrange(0x20, 0x11000)) for _ in range(length))
            name = text.encode("utf-8", "surrogatepass")[:length]
        found.add(name.replace(b"/", b"_").replace(b"\0", b"0"))
    found -= {b".", b".."}
    return sorted(found)


def make_tree(root: Path, wanted: Sequence[bytes]) -> None:
    """Make files, directories, symlinks and FIFOs of these names; each with something of its own."""
    root.mkdir()
    top = os.fsencode(str(root))
    for number, name in enumerate(wanted):
        path = os.path.join(top, name)
        kind = number % 8
        if kind == 0:
            os.mkdir(path)
            path = os.path.join(path, name)
        if kind == 1:
            os.symlink(name, path)
        elif kind == 2:
            os.mkfifo(path)
        else:
            with open(path, "wb") as file:
                file.write(b"named " + name)


def on_a_terminal(arguments: Sequence[str], environment: Dict[str, str]) -> bytes:
    """Run the command on a terminal of its own, and return all that arrives there."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "backuptool", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", **environment},
    )
    os.close(theirs)
    pieces = []
    while True:
        try:
            piece = os.read(ours, 1 << 16)
        except OSError:  # nobody has the other end any more
            break
        if not piece:
            break
        pieces.append(piece)
    os.close(ours)
    process.wait()
    return b"".join(pieces)


def raw_in(output: bytes) -> List[str]:
    """Return what came out that speaks to the terminal, and is no colour of a label."""
    text = _COLOURS.sub(b"", output).replace(b"\r\n", b"\n").decode("utf-8", "backslashreplace")
    return sorted(set(_RAW.findall(text)))


def run(effort: Effort) -> Figures:
    """Save and restore names, then name them on a terminal."""
    figures = Figures()
    wanted = names(_FULL if effort.full else _SHORT, random.Random(effort.seed))
    source, out = effort.work / "source", effort.work / "out"
    make_tree(source, wanted)
    deep = make_deep(source)
    figures.tried["names"] = len(wanted)
    figures.tried["bytes of the longest path"] = len(deep)
    with Repository(effort.work / "backups.db") as repo:
        problems = [*repo.snapshot(source, host="host").problems, *repo.restore(1, out).problems]
        problems += repo.check().problems
        figures.faults += [f"{problem.path!r}: {problem.message}" for problem in problems]
    figures.faults += differences(source, out)
    if sorted(os.listdir(os.fsencode(str(out)))) != sorted({*wanted, deep.split(b"/")[0]}):
        figures.faults.append("names are not those that were saved")
    _speak(effort.work, source, figures)
    return figures


def _speak(work: Path, source: Path, figures: Figures) -> None:
    """Have every command say every name on a terminal."""
    db = ["--db-path", str(work / "terminal.db")]
    hostile = os.fsdecode(b"\x1b[2J\x07\xff \xe2\x80\xaeevil\n")
    skipping = ["snapshot", "--target-directory", str(source), "--max-file-size", "1"]
    with Repository(work / "terminal.db") as repo:
        repo.snapshot(source, host=hostile, note=hostile, tags=[hostile])
    for arguments in (
        [*db, "-q", *skipping],
        [*db, "list", "-v"],
        [*db, "list", "--json"],
        [*db, "-q", "restore", "--snapshot-number", "1", "--output-directory", str(work / hostile)],
        [*db, "-q", "restore", "--snapshot-number", "1", "--output-directory", str(work / "x"), "--include", hostile],
        [*db, "-q", "snapshot", "--target-directory", str(work / hostile / "not there")],
        ["--db-path", str(work / hostile / "no.db"), "list"],
    ):
        for environment in ({}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
            output = on_a_terminal(arguments, environment)
            figures.tried["bytes that came out of a terminal"] += len(output)
            figures.faults += [f"{arguments[2:4]} prints {raw!r}" for raw in raw_in(output)]


def test_names_come_back_bit_for_bit_and_say_nothing_to_the_terminal(tmp_path: Path) -> None:
    figures = run(Effort(work=tmp_path))
    assert figures.faults == []
    assert figures.tried["names"] >= 2_000
    assert figures.tried["bytes of the longest path"] > 4096
    assert figures.tried["bytes that came out of a terminal"] > 100_000


# Controls.


def test_a_name_that_is_printed_as_it_is_is_noticed() -> None:
    echo = on_a_terminal(["--db-path", "/nowhere\x1b[2J", "list"], {})
    assert raw_in(echo) == []
    assert raw_in(b"problem: \x1b[2J\n") == ["\x1b"]
    assert raw_in("problem: \u202eevil".encode()) == ["\u202e"]
    assert raw_in(b"\x1b[31merror\x1b[0m: plain\r\n") == []


def test_a_name_that_is_lost_is_noticed(tmp_path: Path) -> None:
    wanted = names(1_000, random.Random(5))
    make_tree(tmp_path / "one", wanted)
    make_tree(tmp_path / "two", [name.replace(b"\n", b"\r") for name in wanted if b"\r" not in name])
    assert differences(tmp_path / "one", tmp_path / "two") != []
