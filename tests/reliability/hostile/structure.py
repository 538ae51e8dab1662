"""Rows that are sound by themselves and together no tree: files below files, through symlinks, twice."""

from __future__ import annotations

from typing import List

from .case import CHECK, HARMLESS, NAMED, RESTORE, Case
from .rows import change, link, row

__all__ = ["structure_cases"]


def structure_cases() -> List[Case]:
    return [
        Case("a file with a file below it", (row("new", path="'a.txt/x'"),), RESTORE),
        Case("a FIFO with a file below it", (row("new", path="'fifo/x'"),), RESTORE),
        Case(
            "a symlink with a file through it",
            (link("esc", "../outside"), row("new", path="'esc/planted'")),
            RESTORE,
        ),
        Case(
            "a symlink with a file that is there already through it",
            (link("esc", "../outside"), row("new", path="'esc/victim'")),
            RESTORE,
        ),
        Case(
            "a symlink with a directory through it",
            (link("esc", ".."), row("dir", path="'esc/outside'", mode="448")),
            RESTORE,
        ),
        Case(
            "a symlink with a symlink through it",
            (link("esc", "../outside"), link("esc/planted", "victim")),
            RESTORE,
        ),
        Case("a symlink with a FIFO through it", (link("esc", "../outside"), row("fifo", path="'esc/fifo'")), RESTORE),
        Case(
            "two symlinks with a file through both",
            (link("l1", "l2"), link("l2", "../outside"), row("new", path="'l1/planted'")),
            RESTORE,
        ),
        Case(
            "an absolute symlink with a file through it",
            (link("esc", "/tmp"), row("new", path="'esc/reliability-planted'")),
            RESTORE,
        ),
        Case(
            "a path is a symlink and a directory at once",
            (
                link("both", "../outside"),
                row("dir", path="'both'", first=2),
                row("new", path="'both/planted'"),
            ),
            CHECK,
        ),
        Case(
            "a path is a directory and then a symlink",
            (
                row("dir", path="'both'", first=1, last=2),
                row("new", path="'both/planted'"),
                row("symlink", path="'both'", first=2, target="'../outside'"),
            ),
            NAMED,
        ),
        Case(
            "a file is a hard link of a symlink that leads outside",
            (
                row("symlink", path="'l1'", target="'../outside/victim'", link="'7'"),
                change("new", link="'7'"),
            ),
            HARMLESS,
        ),
        Case(
            "two symlinks that lead outside are hard links",
            (
                row("symlink", path="'l1'", target="'../outside/victim'", link="'7'"),
                row("symlink", path="'l2'", target="'../outside/victim'", link="'7'"),
            ),
            HARMLESS,
        ),
        Case("directories are hard links", (change("dir", link="'7'"), change("dir/sub", link="'7'")), HARMLESS),
        Case("everything is one hard link", ("UPDATE files SET link = '7'",), HARMLESS),
        Case("a file takes the name of a temporary one", (row("new", path="'.backuptool-a.txt.part'"),), HARMLESS),
        Case(
            "a symlink takes the name of a temporary file",
            (link(".backuptool-new.part", "../outside/victim"),),
            HARMLESS,
        ),
        Case(
            "a directory takes the name of a temporary file",
            (row("dir", path="'.backuptool-new.part'"), row("new", path="'.backuptool-new.part/x'")),
            RESTORE,
        ),
    ]
