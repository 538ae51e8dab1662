"""Paths that lead elsewhere, are longer than any, or are none."""

from __future__ import annotations

from typing import List

from .case import CHECK, HARMLESS, NAMED, RESTORE, Case
from .rows import change, link, row

__all__ = ["path_cases"]

_DEEP = "replace(hex(zeroblob(10000)), '00', 'd/') || 'x'"


def path_cases() -> List[Case]:
    outside = {
        "the parent": "'../outside/planted'",
        "an absolute path": "'/tmp/reliability-planted'",
        "a parent further down": "'dir/../../outside/planted'",
        "two dots": "'..'",
        "one dot": "'.'",
        "a dot within": "'dir/./x'",
        "an empty component": "'dir//x'",
        "a slash at the end": "'new/'",
        "nothing but a slash": "'/'",
        "two dots at the end": "'dir/..'",
        "a NUL": "CAST(x'610062' AS TEXT)",
        "a NUL at the beginning": "CAST(x'00' AS TEXT)",
        "dots behind a NUL": "CAST(x'2e2e002f6f757473696465' AS TEXT)",
    }
    cases = [Case(f"a path is {name}", (row("new", path=path),), NAMED) for name, path in outside.items()]
    return [
        *cases,
        Case("a directory is the parent", (row("dir", path="'../outside'"),), NAMED),
        Case("a symlink is above the root", (row("symlink", path="'../link'", target="'outside'"),), NAMED),
        Case("a FIFO is above the root", (row("fifo", path="'../outside/fifo'"),), NAMED),
        Case("a name is longer than a name may be", (row("new", path="printf('%.*c', 300, 'n')"),), RESTORE),
        Case("a path of a million bytes", (row("new", path="printf('%.*c', 1000000, 'n')"),), RESTORE),
        Case(
            "a path of 10,000 directories",
            (row("new", path=_DEEP),),
            RESTORE,
        ),
        Case("a name of control bytes", (row("new", path="CAST(x'1b5b33316d0a0d07e280aeff' AS TEXT)"),), HARMLESS),
        Case("a path is a number", (change("new", path="7"),), HARMLESS),  # SQLite makes it a text
        Case("a path is a blob", (change("new", path="x'6e6577'"),), CHECK),
        Case("the root is a file", ("DELETE FROM files WHERE path = ''", row("new", path="''")), RESTORE),
        Case(
            "the root is a symlink",
            ("DELETE FROM files WHERE path = ''", link("", "../outside")),
            RESTORE,
        ),
        Case("the root is a FIFO", ("DELETE FROM files WHERE path = ''", row("fifo", path="''")), RESTORE),
        Case("the root is missing", ("DELETE FROM files WHERE path = ''",), HARMLESS),
        Case("a directory is missing", ("DELETE FROM files WHERE path = 'dir'",), RESTORE),
    ]
