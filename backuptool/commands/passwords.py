"""Where a password comes from: a file, a command, the environment or a terminal. Never from an argument.

Owns asking for it, and what a process with a password in its memory does for it. What it opens, the library knows.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import stat
import subprocess
import sys
from functools import lru_cache
from typing import Callable, Optional

from backuptool import RepositoryError, RepositoryNotFoundError, WrongPasswordError

from .process import is_terminal

__all__ = ["ask_new", "exposed_files", "password_of", "read_password"]

#: Number of Linux's prctl.
_PR_SET_DUMPABLE = 4


def password_of(path: str, options: argparse.Namespace, given: Optional[str], *, new: bool) -> Callable[[], bytes]:
    """Return what gives the password of the repository, asking for it once, when it is first needed.

    Args:
        path: The repository.
        options: What the command was given.
        given: What the environment has.
        new: Whether the repository may be created, encrypted.

    Raises:
        RepositoryNotFoundError: There is no repository, and none is to be created.
        ArgumentTypeError: It is to come from a file and from a command.
    """
    _require_one(options.password_file, options.password_command)
    exists = os.path.lexists(os.path.expanduser(path))
    if not exists and not new:
        raise RepositoryNotFoundError(
            f"there is no repository at {path}; name it with --db-path, or create an encrypted one with: "
            "backuptool snapshot --encrypt",
            path,
        )
    _keep_out_of_core_dumps()

    @lru_cache(maxsize=None)
    def give() -> bytes:
        password = read_password(path, options.password_file, options.password_command)
        if password is None and given:
            password = os.fsencode(given)
        if password is not None:
            return password
        if is_terminal(sys.stdin):
            return _ask(f"Password for {path}: ") if exists else ask_new(path)
        raise WrongPasswordError(
            f"there is no password for the encrypted repository {path}: give --password-file, --password-command or "
            "$BACKUPTOOL_PASSWORD",
            path,
        )

    return give


def read_password(path: str, file: Optional[str], command: Optional[str]) -> Optional[bytes]:
    """Return what a file has or a command prints, without the end of the line; None if neither is named."""
    _require_one(file, command)
    if file is not None:
        with open(os.path.expanduser(file), "rb") as opened:
            return _without_end(opened.read())
    if command is not None:
        ended = subprocess.run(command, shell=True, stdout=subprocess.PIPE, check=False)
        if ended.returncode:
            raise RepositoryError(f"the command for the password of {path} failed with {ended.returncode}", path)
        return _without_end(ended.stdout)
    return None


def _require_one(file: Optional[str], command: Optional[str]) -> None:
    if file is not None and command is not None:
        raise argparse.ArgumentTypeError("a password comes from a file or from a command; name one of them")


def exposed_files(options: argparse.Namespace) -> list[str]:
    """Return those of the named files with passwords that others than their owner may read."""
    names = [name for option, name in vars(options).items() if option.endswith("password_file") and name is not None]
    exposed = []
    for name in names:
        with contextlib.suppress(OSError):  # opening it tells
            mode = os.stat(os.path.expanduser(name)).st_mode
            if stat.S_ISREG(mode) and mode & (stat.S_IRGRP | stat.S_IROTH):
                exposed.append(name)
    return exposed


def ask_new(path: str) -> bytes:
    """Ask for a new password on the terminal, twice.

    Raises:
        WrongPasswordError: The two differ, or there is no terminal.
    """
    if not is_terminal(sys.stdin):
        raise WrongPasswordError(f"there is no terminal on which to ask for the new password of {path}", path)
    password = _ask(f"New password for {path}, without which nothing in it can be read: ")
    if _ask("The same again: ") != password:
        raise WrongPasswordError("the two passwords differ", path)
    return password


def _ask(prompt: str) -> bytes:
    import getpass

    try:
        return os.fsencode(getpass.getpass(prompt))
    except EOFError:
        return b""


def _without_end(data: bytes) -> bytes:
    """Return it without one end of a line, which editors and echo leave."""
    for end in (b"\r\n", b"\n"):
        if data.endswith(end):
            return data[: -len(end)]
    return data


def _keep_out_of_core_dumps() -> None:
    """Have the system write no core of this process, and let no other process of this user look into it."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # inherited by the helpers
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
