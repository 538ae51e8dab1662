"""Runs commands on repositories that nobody trusts: each in a process of its own, with little memory and little time.

The program imports the package once and forks for each line that it reads, a list of commands. The child runs them one
after the other as somebody at a terminal would, and answers with what each one printed and returned.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Type, cast

__all__ = ["STOPPED", "Outcome", "Victim"]

#: The code of a process that has used up its processor time.
STOPPED = 128 + signal.SIGXCPU

#: Bytes of memory that a process may map: the interpreter and its libraries take 150 MB of them.
MEMORY = 512 << 20

#: Bytes of a file that it may write: what a forged size makes it write must end.
FILE = 64 << 20


class Outcome(NamedTuple):
    """What a command did.

    Attributes:
        code: Its exit code; 128 and the signal if the process died.
        out, err: What it printed.
    """

    code: int
    out: str
    err: str


class Victim:
    """A process that runs commands in forks of itself; a context manager.

    Args:
        seconds: Of processor time that the commands of one job may take, and thirty times as long by the clock.
        memory: Bytes that they may map.
        fault: Something to be put into the package first, to see that it is noticed.
    """

    def __init__(self, seconds: int = 60, memory: int = MEMORY, fault: str = "") -> None:
        program = str(Path(__file__).resolve())
        environment = {**os.environ, "PYTHONPATH": str(Path(program).parents[2]), "COLUMNS": "120"}
        self._process = subprocess.Popen(
            [sys.executable, program, str(seconds), str(memory), fault],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            encoding="utf-8",
        )

    def __enter__(self) -> Victim:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], exc: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def run(self, commands: Sequence[Sequence[str]]) -> List[Outcome]:
        """Run commands of the command line, one after the other; fewer outcomes than commands if one killed it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(list(map(list, commands))) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the process that runs the commands has died"
        return [Outcome(*outcome) for outcome in json.loads(answer)]


# The other end.


def _no_schema_check() -> None:
    from backuptool.storage import connecting
    from backuptool.storage.database import Database

    def verify(database: Database) -> int:
        return int(database.value("PRAGMA user_version"))

    connecting.verify = verify  # type: ignore[attr-defined]


def _no_path_check() -> None:
    from backuptool.operations import selecting

    def require_safe(path: bytes) -> None:
        pass

    selecting.require_safe = require_safe  # type: ignore[attr-defined]


def _following_symlinks() -> None:
    from backuptool.tree import confined

    confined._TRAVERSE &= ~os.O_NOFOLLOW


def _unexpected_error() -> None:
    from backuptool.storage import snapshots

    def snapshot_row(row: Sequence[object], path: str) -> object:
        raise KeyError("tags")

    snapshots._snapshot_row = snapshot_row  # type: ignore[assignment]


#: What can be put in, by name.
FAULTS: Dict[str, Callable[[], None]] = {
    "": lambda: None,
    "no schema check": _no_schema_check,
    "no path check": _no_path_check,
    "following symlinks": _following_symlinks,
    "unexpected error": _unexpected_error,
}


def _serve(seconds: int, memory: int, fault: str) -> None:
    from backuptool.cli import main  # the import is what takes long: it is done once

    FAULTS[fault]()

    for line in sys.stdin:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            os.setsid()
            _limit(seconds, memory)
            with os.fdopen(writing, "w", encoding="utf-8", errors="surrogateescape") as pipe:
                for command in json.loads(line):
                    pipe.write(json.dumps(_run(main, command)) + "\n")
                    pipe.flush()
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as pipe:
            outcomes: List[Any] = [json.loads(answer) for answer in pipe if answer.endswith("\n")]
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            outcomes.append((128 + os.WTERMSIG(status), "", ""))
        elif os.WEXITSTATUS(status):
            outcomes.append((os.WEXITSTATUS(status), "", "the process ended by itself"))
        sys.stdout.write(json.dumps(outcomes) + "\n")
        sys.stdout.flush()


def _limit(seconds: int, memory: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE, FILE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(30 * seconds)


def _run(main: Any, command: Sequence[str]) -> Sequence[object]:
    printed = [io.TextIOWrapper(io.BytesIO(), "utf-8", "surrogateescape", newline="\n") for _ in range(2)]
    with redirect_stdout(printed[0]), redirect_stderr(printed[1]):
        code = int(main(command))
    return code, *(_text_in(stream) for stream in printed)


def _text_in(stream: io.TextIOWrapper) -> str:
    stream.flush()
    data = cast(io.BytesIO, stream.buffer).getvalue()
    return data.decode("utf-8", "surrogateescape")


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
