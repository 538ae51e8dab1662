"""The command line: options become one call of the library, its result becomes text or JSON and an exit code.

This is the only module that prints, reads arguments and the environment, and decides how the process ends. What the
commands do is left to :class:`backuptool.Repository`, what they accept to ``arguments``, how results look as text to
``text``.
"""

from __future__ import annotations

import argparse
import contextlib
import enum
import os
import sys
from typing import Callable, Mapping, Sequence, TextIO, Union

from backuptool import (
    BackuptoolError,
    CheckResult,
    PruneResult,
    Repository,
    RepositoryLockedError,
    RepositoryNotFoundError,
    RestoreResult,
    SnapshotList,
    SnapshotResult,
    printable,
)
from backuptool.arguments import build_parser
from backuptool.text import check_text, list_text, problem_text, prune_text, restore_text, skipped_text, snapshot_text

__all__ = ["ExitCode", "main"]

AnyResult = Union[SnapshotResult, SnapshotList, RestoreResult, PruneResult, CheckResult]


#: Numbers of glibc's mallopt.
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8

#: Bytes from which a block is one of its own, which is given back to the system when it is freed.
_LARGE_BLOCK = 256 << 10


class ExitCode(enum.IntEnum):
    """How the process ends."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    PROBLEMS = 3
    NO_REPOSITORY = 10
    LOCKED = 11
    INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: The arguments without the program's name; by default those of the process.

    Returns:
        One of :class:`ExitCode`. Whatever happens ends in an exit code and a line on standard error; nothing is raised.
    """
    try:
        options = build_parser().parse_args(argv)
    except (SystemExit, OSError) as end:  # --help, --version, wrong usage; before 3.11 also a help that nobody reads
        with contextlib.suppress(OSError):
            _print(sys.stdout, "")
        return ExitCode.USAGE if getattr(end, "code", 0) else ExitCode.DONE
    run, as_text = _COMMANDS[options.command]
    try:
        path = options.db_path or _default_path()
        with Repository(path, lock_timeout=options.lock_timeout, max_helpers=options.max_helpers) as repository:
            result = run(repository, options)
        return _report(result, as_text, options)
    except KeyboardInterrupt:
        _tell("interrupted", "the repository is sound; run the command again to finish what it began")
        return ExitCode.INTERRUPTED
    except Exception as error:
        _tell_error(error, verbose=options.verbosity > 0)
        return _exit_code(error)


# The commands: each one call.


def _snapshot(repository: Repository, options: argparse.Namespace) -> SnapshotResult:
    _give_memory_back()
    return repository.snapshot(
        options.target_directory,
        exclude=options.exclude,
        exclude_from=options.exclude_from,
        exclude_if_present=options.exclude_if_present,
        exclude_caches=options.exclude_caches,
        exclude_larger_than=options.exclude_larger_than,
        max_file_size=options.max_file_size,
        one_file_system=options.one_file_system,
        compression=options.compression,
        note=options.note,
        tags=options.tag,
        host=options.host,
        progress=_wants_bar(options),
    )


def _list(repository: Repository, options: argparse.Namespace) -> SnapshotList:
    return repository.list(source=options.source, host=options.host, tag=options.tag)


def _restore(repository: Repository, options: argparse.Namespace) -> RestoreResult:
    _give_memory_back()
    return repository.restore(
        options.snapshot_number,
        options.output_directory,
        include=options.include,
        exclude=options.exclude,
        overwrite=options.overwrite,
        delete_extra=options.delete_extra,
        dry_run=options.dry_run,
        verify=options.verify,
        progress=_wants_bar(options),
    )


def _prune(repository: Repository, options: argparse.Namespace) -> PruneResult:
    return repository.prune(options.snapshot, dry_run=options.dry_run, progress=_wants_bar(options))


def _check(repository: Repository, options: argparse.Namespace) -> CheckResult:
    return repository.check(quick=options.quick, progress=_wants_bar(options))


def _give_memory_back() -> None:
    """Have the C library return large blocks to the system at once, and keep one heap for all threads.

    A library must not decide that for its process, a command may. Packs of all sizes come and go, and what they leave
    in pieces is a sixth of the memory of a first snapshot.
    """
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):  # another C library
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)
            mallopt(_M_ARENA_MAX, 1)


_COMMANDS: Mapping[str, tuple[Callable[..., AnyResult], Callable[..., str]]] = {
    "snapshot": (_snapshot, snapshot_text),
    "list": (_list, list_text),
    "restore": (_restore, restore_text),
    "prune": (_prune, prune_text),
    "check": (_check, check_text),
}


# What is printed.


def _report(result: AnyResult, as_text: Callable[..., str], options: argparse.Namespace) -> ExitCode:
    """Print the result on standard output, name what went wrong on standard error, and return the exit code."""
    verbose = options.verbosity > 0
    problems = () if isinstance(result, SnapshotList) else result.problems
    for skipped in result.skipped if isinstance(result, SnapshotResult) else ():
        _tell("skipped", skipped_text(skipped))
    for problem in problems:
        _tell("problem", problem_text(problem, verbose=verbose))
    if options.json:
        import json

        _print(sys.stdout, json.dumps(result.to_dict(), indent=2) + "\n")  # in ASCII: lone surrogates survive
    elif options.verbosity >= 0 or isinstance(result, SnapshotList):
        _print(sys.stdout, as_text(result, verbose=verbose))
    return ExitCode.PROBLEMS if problems else ExitCode.DONE


def _tell_error(error: Exception, *, verbose: bool) -> None:
    if isinstance(error, BackuptoolError):
        _tell("error", printable(str(error)))
        return
    if verbose:
        import traceback

        for line in traceback.format_exc().splitlines():
            _tell("trace", printable(line))
    reason = f"{type(error).__name__}: {error}" + ("" if verbose else " (-v shows where)")
    if isinstance(error, OSError) and error.filename is not None:
        reason = f"{os.fsdecode(error.filename)}: {error.strerror}"
    _tell("error", printable(reason))


def _exit_code(error: Exception) -> ExitCode:
    if isinstance(error, RepositoryNotFoundError):
        return ExitCode.NO_REPOSITORY
    return ExitCode.LOCKED if isinstance(error, RepositoryLockedError) else ExitCode.FAILED


def _tell(label: str, message: str) -> None:
    """Write one labelled line to standard error; where even that fails, the exit code has to do."""
    stream = sys.stderr
    if _is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
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
        _abandon(stream)
        if not isinstance(error, BrokenPipeError):
            raise OSError(error.errno, error.strerror, stream.name) from error


def _abandon(stream: TextIO) -> None:
    """Lead a stream that takes no more into nothing, so that the interpreter's last flush does not fail again."""
    with contextlib.suppress(OSError):  # a stream without a descriptor
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def _wants_bar(options: argparse.Namespace) -> bool:
    return options.verbosity >= 0 and _is_terminal(sys.stderr)


def _default_path() -> str:
    return os.environ.get("BACKUPTOOL_DB") or "backups.db"
