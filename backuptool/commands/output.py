"""What a command saves that is no directory: standard input, or the output of another command.

Owns how that command is run, and that its failure is one of the snapshot.
"""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from typing import IO, Iterator, Sequence, Union

from backuptool import SourceError

from .process import standard_input

__all__ = ["Output", "stream"]


@contextmanager
def stream(command: Sequence[str]) -> Iterator[Union[IO[bytes], Output]]:
    """Lend what is to be saved: the output of a command, standard input if there is none.

    What the command writes to standard error goes where that of this process goes. If reading ends before its output
    does, the command is ended.

    Raises:
        BackuptoolError: Standard input is closed.
        SourceError: It cannot be run, or, when its output has been read, it has failed.
    """
    if not command:
        yield standard_input("no snapshot was saved")
        return
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
    except OSError as exc:
        message = f"{command[0]} cannot be run: {exc.strerror}; no snapshot was saved"
        raise SourceError(message, command[0]) from exc
    assert process.stdout is not None
    try:
        with process.stdout as output:
            yield Output(command[0], process, output)
    finally:
        process.kill()
        process.wait()


class Output:
    """The output of a process; whoever reads on to its end is told if the process has failed."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], output: IO[bytes]) -> None:
        self._name = name
        self._process = process
        self._output = output

    def read(self, size: int) -> bytes:
        """Return so many bytes, fewer at the end."""
        data = self._output.read(size)
        if not data:
            code = self._process.wait()
            if code:
                how = f"ended with exit code {code}" if code > 0 else f"was ended by signal {-code}"
                raise SourceError(f"{self._name} {how}; no snapshot was saved", self._name)
        return data
