"""One command run and measured: wall time, processor time, peak memory and how it ended.

The times are those of the command and of every process it waited for; the peak memory is that of the largest one
process among them. Which commands there are is left to ``programs``, in which order they run to ``runner``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Mapping

__all__ = ["Command", "Measurement", "measure", "output_of"]

_LAUNCHER = Path(__file__).with_name("launcher.py")

#: How much of what a failing command said is kept, in characters.
_MESSAGE_LENGTH = 2000

#: Beginnings of the names of variables that change what a program does, or how fast: a developer's shell may have some
#: (an interpreter that may not keep compiled modules compiles them at every start), a user's machine has not.
_CONFIGURING = (
    "BACKUPTOOL_",
    "BORG_",
    "RESTIC_",
    "TAR_OPTIONS",
    "ZSTD_",
    "PYTHONDEVMODE",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONPYCACHEPREFIX",
    "PYTHONWARNINGS",
)


@dataclass(frozen=True)
class Command:
    """What to run.

    Attributes:
        argv: The program and its arguments.
        directory: The directory to run it in.
        environment: Variables added to those of the harness.
    """

    argv: tuple[str, ...]
    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """What running a command once cost.

    Attributes:
        exit_status: As a shell would tell it; negative is a signal.
        wall_seconds: From start to end.
        cpu_seconds: User and system time of all its processes.
        peak_bytes: Resident memory of the largest of its processes.
        floor_bytes: A peak_bytes not above this one cannot be told apart from the launcher's own.
        message: The end of what it wrote to standard error.
    """

    exit_status: int
    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    floor_bytes: int
    message: str


def measure(command: Command, *, timeout_seconds: float) -> Measurement:
    """Run a command, its standard output thrown away, and return what it cost.

    Raises:
        subprocess.TimeoutExpired: It took longer than allowed; it and its children were killed.
    """
    with tempfile.TemporaryFile() as errors:
        report, report_end = os.pipe()
        with os.fdopen(report, encoding="ascii") as stream:
            try:
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(_LAUNCHER), str(report_end), *command.argv],
                    cwd=command.directory,
                    env=_environment(command),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    pass_fds=[report_end],
                    start_new_session=True,
                )
            finally:
                os.close(report_end)
            _wait(process, timeout_seconds)
            figures = json.loads(stream.read() or "{}")
        errors.seek(0)
        message = errors.read().decode("utf-8", "backslashreplace").strip()[-_MESSAGE_LENGTH:]
    return Measurement(
        exit_status=int(figures.get("exit_status", process.returncode)),
        wall_seconds=float(figures.get("wall_seconds", 0)),
        cpu_seconds=float(figures.get("user_seconds", 0)) + float(figures.get("system_seconds", 0)),
        peak_bytes=int(figures.get("peak_bytes", 0)),
        floor_bytes=int(figures.get("floor_bytes", 0)),
        message=message,
    )


def output_of(command: Command) -> str:
    """Run a command that is not measured and return its standard output.

    Raises:
        RuntimeError: It failed; the message holds what it said.
    """
    done = subprocess.run(
        command.argv,
        cwd=command.directory,
        env=_environment(command),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="backslashreplace",
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command.argv)}: exit status {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def _wait(process: subprocess.Popen[bytes], timeout_seconds: float) -> None:
    """Wait for the end; whatever interrupts the waiting ends the command's whole session."""
    try:
        process.wait(timeout_seconds)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise


def _environment(command: Command) -> Mapping[str, str]:
    """Return the harness's variables without any that would configure a program under test, and the command's own."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_CONFIGURING)}
    return {**inherited, **command.environment}
