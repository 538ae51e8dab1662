"""The header of the file, and what lies beside it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import List

from conftest import noise

from ..forging import in_utf_16, journal_naming
from .case import CHECK, HARMLESS, REFUSED, Case, Forge

__all__ = ["file_cases"]


def _header(offset: int, data: bytes) -> Forge:
    def forge(repository: Path) -> None:
        with repository.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    return forge


def _as_wal(repository: Path) -> None:
    with closing(sqlite3.connect(str(repository))) as connection:
        connection.execute("PRAGMA journal_mode=WAL").fetchall()


def _small_pages(repository: Path) -> None:
    with closing(sqlite3.connect(str(repository))) as connection:
        connection.execute("PRAGMA page_size=512")
        connection.execute("VACUUM")


def _journal_that_names(repository: Path) -> None:
    outside = repository.parent.parent / "outside"
    repository.with_name(repository.name + "-journal").write_bytes(journal_naming(outside / "victim"))


def _journal_of_noise(repository: Path) -> None:
    repository.with_name(repository.name + "-journal").write_bytes(noise(100_000))


def _log_of_another(repository: Path) -> None:
    """Put the log of another database beside it, which SQLite would write over it."""
    other = repository.with_name("another.db")
    with closing(sqlite3.connect(str(other))) as connection:
        connection.execute("PRAGMA journal_mode=WAL").fetchall()
        connection.execute("CREATE TABLE another (value)")
        connection.commit()
        data = other.with_name("another.db-wal").read_bytes()
    repository.with_name(repository.name + "-wal").write_bytes(data)


def _fifo_as_journal(repository: Path) -> None:
    os.mkfifo(repository.with_name(repository.name + "-journal"))


def _symlink_as_journal(repository: Path) -> None:
    repository.with_name(repository.name + "-journal").symlink_to(repository.parent.parent / "outside" / "victim")


def file_cases() -> List[Case]:
    def header(name: str, offset: int, data: str, outcome: str) -> Case:
        return Case(name, _header(offset, bytes.fromhex(data)), outcome, settled=False)

    return [
        header("another application's number", 68, "00000000", REFUSED),
        header("format 0", 60, "00000000", REFUSED),
        header("a format of later", 60, "0000ffff", REFUSED),
        header("a negative format", 60, "ffffffff", REFUSED),
        header("format 1 with the tables of format 2", 60, "00000001", REFUSED),
        header("another magic", 0, "53514c6974653300", REFUSED),
        header("pages of no size", 16, "0000", REFUSED),
        header("pages of 512 bytes", 16, "0200", REFUSED),
        header("pages of 64 KiB", 16, "0001", REFUSED),
        header("a schema of format 9", 44, "00000009", REFUSED),
        header("texts in UTF-16", 56, "00000002", REFUSED),
        header("texts in no encoding", 56, "00000009", HARMLESS),
        header("bytes reserved in each page", 20, "ff", REFUSED),
        header("more pages than there are", 28, "7fffffff", REFUSED),
        header("no free pages", 36, "00000000", HARMLESS),
        header("a list of free pages that is none", 32, "00000002" + "000000ff", CHECK),
        header("no pages of pointers", 52, "00000000", CHECK),
        header("written by a later SQLite", 18, "0303", REFUSED),
        Case("rows in UTF-16", in_utf_16, REFUSED, settled=False),
        Case("a write-ahead log", _as_wal, HARMLESS, settled=False),
        Case("small pages", _small_pages, HARMLESS),
        Case("a journal that names a file elsewhere", _journal_that_names, REFUSED, settled=False),
        Case("a write-ahead log of another database", _log_of_another, REFUSED, settled=False),
        Case("a journal that is a FIFO", _fifo_as_journal, REFUSED, settled=False),
        Case("a journal that is a symlink", _symlink_as_journal, REFUSED, settled=False),
        Case("a journal of noise", _journal_of_noise, HARMLESS, settled=False),
    ]
