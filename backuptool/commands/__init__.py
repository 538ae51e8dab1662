"""The commands: options become one call of the library, and its result becomes text. A module for each command.

Owns which commands there are. Each module has these names:

- ``EXAMPLE``: a command line for its help.
- ``add_options(parser)``: adds what the command accepts.
- ``run(repository, options)``: makes the one call, and returns its result; options that do not go together are an
  ``argparse.ArgumentTypeError``.
- ``as_text(result, *, verbose)``: returns the result as text, or yields it line by line where it may be long.

and these, if they are needed:

- ``IS_ANSWER = True``: the result is what was asked for, and no summary: it is printed with ``--quiet`` as well.
- ``LEAVES_FILES = True``: it makes files that must not stay if it is ended in the middle.
- ``as_bytes(result)``: yields what is written as it is, or returns None if it is text after all.

Printing it, JSON and exit codes are left to ``cli``.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["COMMANDS", "load"]

#: What each command does, in the order in which the help names them.
COMMANDS = {
    "snapshot": "save the present state of a directory; the first one creates the repository",
    "list": "show the snapshots and their sizes",
    "history": "show every version of a file: which snapshots have it, and what changed",
    "find": "search all snapshots at once by name, path, size, time or hash",
    "ls": "show what is in a directory of a snapshot",
    "cat": "write a file of a snapshot to standard output",
    "diff": "show in what two snapshots differ, or a snapshot and a directory",
    "restore": "write a snapshot, or a part of it, into a directory",
    "annotate": "change the note, the tags or the pin of a snapshot",
    "prune": "remove snapshots and give back the space that only they use",
    "import": "make a snapshot of a tar stream",
    "export": "write a snapshot, or a part of it, as a tar stream",
    "copy": "copy snapshots to another repository",
    "drill": "prove that a snapshot can be restored: restore it for trial, compare everything, record the outcome",
    "stats": "show what snapshots, sources and packs take, and which files stand out",
    "check": "verify the repository and name what is damaged; nothing is changed",
    "completion": "print a script by which a shell completes commands and options",
    "key": "list, add or remove the passwords of an encrypted repository",
}

#: Where a module is not called as its command.
_MODULES = {"list": "listing", "import": "importing"}


def load(command: str) -> Any:
    """Return the module of a command."""
    return import_module(f".{_MODULES.get(command, command)}", __name__)
