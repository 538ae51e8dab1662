"""The command line: options become one call of the library, its result becomes text or JSON and an exit code.

This is the only module that prints, reads arguments and the environment, and decides how the process ends. What the
commands do is left to :class:`backuptool.Repository`, what they accept and how results look as text to ``commands``.
"""

from __future__ import annotations

import argparse
import contextlib
import enum
import os
import sys
from typing import Any, Callable, Iterable, Iterator, Sequence, TextIO

from backuptool import (
    BackuptoolError,
    Problem,
    Repository,
    RepositoryLockedError,
    RepositoryNotFoundError,
    Result,
    SnapshotResult,
    WrongPasswordError,
    printable,
)
from backuptool.commands import load
from backuptool.commands.parser import build_parser
from backuptool.commands.process import abandon, ending_in_order, is_terminal, occupy_streams

__all__ = ["ExitCode", "main"]


#: Characters that are written at a time where there are many lines.
_PIECE = 1 << 16


class ExitCode(enum.IntEnum):
    """How the process ends."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    PROBLEMS = 3
    NO_REPOSITORY = 10
    LOCKED = 11
    WRONG_PASSWORD = 12
    INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: The arguments without the program's name; by default those of the process.

    Returns:
        One of :class:`ExitCode`. Whatever happens ends in an exit code and a line on standard error; nothing is raised.
    """
    occupy_streams()
    try:
        argv = sys.argv[1:] if argv is None else argv
        options = build_parser(argv).parse_args(argv)
    except (SystemExit, OSError) as end:  # --help, --version, wrong usage; before 3.11 also a help that nobody reads
        with contextlib.suppress(OSError):
            _print(sys.stdout, "")
        return ExitCode.USAGE if getattr(end, "code", 0) else ExitCode.DONE
    command = load(options.command)
    with ending_in_order() if getattr(command, "LEAVES_FILES", False) else contextlib.nullcontext():
        return _run(command, options)


def _run(command: Any, options: argparse.Namespace) -> ExitCode:
    """Run a command, tell of its result or of what went wrong, and return the exit code."""
    try:
        path = options.db_path or _default_path()
        password = _password(path, options)
        _warn_of_files(options)
        options.state_directory = _state_directory()
        with Repository(
            path,
            password=password,
            lock_timeout=options.lock_timeout,
            max_helpers=options.max_helpers,
            state_directory=options.state_directory,
            create=not getattr(options, "existing", False),
        ) as repository:
            try:
                result = command.run(repository, options)
            except BackuptoolError:  # such as a snapshot that is not there: an older copy may be why
                _tell_of_rollback(repository, (), options)
                raise
            code = _report(result, command, options)  # it may still be read from the repository
            rolled_back = _tell_of_rollback(repository, getattr(result, "problems", ()), options)
            return ExitCode.PROBLEMS if rolled_back else code
    except KeyboardInterrupt:
        _tell("interrupted", "the repository is sound; run the command again to finish what it began")
        return ExitCode.INTERRUPTED
    except Exception as error:
        _tell_error(error, verbose=options.verbosity > 0)
        return _exit_code(error)


# What is printed.


def _report(result: Result, command: Any, options: argparse.Namespace) -> ExitCode:
    """Print the result on standard output, name what went wrong on standard error, and return the exit code."""
    verbose = options.verbosity > 0
    problems = getattr(result, "problems", ())
    for skipped in getattr(result, "skipped", ()):
        from backuptool.commands.snapshot import skipped_text

        _tell("skipped", skipped_text(skipped))
    if problems:
        from backuptool.commands.phrases import problem_text

        for problem in problems:
            _tell("problem", problem_text(problem, verbose=verbose))
    for line in getattr(result, "unmatched", ()):
        _tell("note", printable(f"nothing in the snapshot matches {line}; paths are relative to the source"))
    alerts = result.alerts if isinstance(result, SnapshotResult) else ()
    for alert in alerts:
        _tell("alert", printable(f"{alert.kind}: {alert}"))
    answers = getattr(command, "IS_ANSWER", False)
    if answers and sys.stdout is None:  # the descriptor was closed before the process began
        raise BackuptoolError("standard output is closed: there is nowhere to write the answer to")
    if options.json:
        import json

        _print(sys.stdout, json.dumps(result.to_dict(), indent=2) + "\n")  # in ASCII: lone surrogates survive
    elif options.verbosity >= 0 or answers:
        pieces = command.as_bytes(result) if hasattr(command, "as_bytes") else None
        if pieces is not None:
            _write(pieces)
        else:
            text: str | Iterable[str] = command.as_text(result, verbose=verbose)
            for part in (text,) if isinstance(text, str) else _gathered(text):
                _print(sys.stdout, part)
    return ExitCode.PROBLEMS if problems or alerts else ExitCode.DONE


def _tell_of_rollback(repository: Repository, told: Sequence[Problem], options: argparse.Namespace) -> bool:
    """Tell that an older copy was put in the place of the repository, unless that was told; return whether one was."""
    remembered = repository.remembered
    if remembered is None:
        return False
    if remembered.unsaved and options.verbosity > 0:
        _tell(
            "note", printable(f"{remembered.file} is not kept, so an older copy will go unseen: {remembered.unsaved}")
        )
    if remembered.problem is None:
        return False
    if remembered.problem not in told:
        _tell("problem", printable(f"{remembered.problem.kind}: {remembered.problem}"))
    return True


def _tell_error(error: Exception, *, verbose: bool) -> None:
    if isinstance(error, (BackuptoolError, argparse.ArgumentTypeError)):
        _tell("error", printable(str(error)))
        return
    if isinstance(error, MemoryError):
        _tell("error", "there is not enough memory; nothing saved before is lost, run it where there is more")
        return
    if verbose:
        import traceback

        for line in traceback.format_exc().splitlines():
            _tell("trace", printable(line))
    reason = f"{type(error).__name__}: {error}" + ("" if verbose else " (-v shows where)")
    if isinstance(error, OSError) and error.filename is not None:
        reason = f"{os.fsdecode(error.filename)}: {error.strerror}"
    elif isinstance(error, FileNotFoundError) and not _has_directory():
        reason = "the current directory was removed: change to another one, or give absolute paths"
    _tell("error", printable(reason))


def _has_directory() -> bool:
    """Tell whether there is a current directory, which relative paths need."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _exit_code(error: Exception) -> ExitCode:
    if isinstance(error, argparse.ArgumentTypeError):  # options that do not go together
        return ExitCode.USAGE
    if isinstance(error, RepositoryNotFoundError):
        return ExitCode.NO_REPOSITORY
    if isinstance(error, WrongPasswordError):
        return ExitCode.WRONG_PASSWORD
    return ExitCode.LOCKED if isinstance(error, RepositoryLockedError) else ExitCode.FAILED


def _tell(label: str, message: str) -> None:
    """Write one labelled line to standard error; where even that fails, the exit code has to do."""
    stream = sys.stderr
    if is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        label = f"\x1b[{'31' if label == 'error' else '33'}m{label}\x1b[0m"
    with contextlib.suppress(OSError):
        _print(stream, f"backuptool: {label}: {message}\n")


def _print(stream: TextIO | None, message: str) -> None:
    """Write and flush; what the stream's encoding lacks becomes an escape, a reader that went away is no error."""
    if stream is None:  # the descriptor was closed before the process began
        return
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(message.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except OSError as error:
        abandon(stream)
        if not isinstance(error, BrokenPipeError):
            raise OSError(error.errno, error.strerror, stream.name) from error


def _gathered(parts: Iterable[str]) -> Iterator[str]:
    """Yield many lines as fewer pieces: each is written and flushed by itself."""
    gathered: list[str] = []
    size = 0
    for part in parts:
        gathered.append(part)
        size += len(part)
        if size >= _PIECE:
            yield "".join(gathered)
            gathered, size = [], 0
    yield "".join(gathered)


def _write(pieces: Iterable[bytes]) -> None:
    """Write bytes as they are; a reader that went away is no error, and gets nothing more."""
    stream = sys.stdout
    for piece in pieces:  # what is wrong with these is no failure of the stream
        if not _written(stream, piece):
            return


def _written(stream: TextIO, piece: bytes) -> bool:
    try:
        stream.buffer.write(piece)
        stream.buffer.flush()
    except OSError as error:
        abandon(stream)
        if not isinstance(error, BrokenPipeError):
            raise OSError(error.errno, error.strerror, stream.name) from error
        return False
    return True


def _password(path: str, options: argparse.Namespace) -> Callable[[], bytes] | None:
    """Return what gives the password of the repository, None where none was given and none is needed."""
    given = os.environ.pop("BACKUPTOOL_PASSWORD", None)  # it is not for the processes that are started
    named = options.password_file is not None or options.password_command is not None
    new = getattr(options, "encrypt", False) and not options.existing
    if not (named or given or new or Repository(path).encrypted):
        return None
    from backuptool.commands.passwords import password_of

    return password_of(path, options, given, new=new)


def _warn_of_files(options: argparse.Namespace) -> None:
    """Tell, as ssh does, of files with passwords that others may read."""
    if any(name.endswith("password_file") and value is not None for name, value in vars(options).items()):
        from backuptool.commands.passwords import exposed_files

        for name in exposed_files(options):
            _tell(
                "warning", printable(f"{name}: others than its owner may read this password; chmod 600 keeps it secret")
            )


def _state_directory() -> str | None:
    """Return where what is remembered of repositories is kept, None where the user has no place for it."""
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):  # as the XDG base directory specification has it
        state = os.path.expanduser("~/.local/state")
    return os.path.join(state, "backuptool") if os.path.isabs(state) else None


def _default_path() -> str:
    return os.environ.get("BACKUPTOOL_DB") or "backups.db"
