"""The indexes of some rows alone: whether they have entries for rows that are not there.

SQLite's own check sees to it that each row has its entry, but many versions of it compare the number of entries only
where an index is of all rows. An older page of such an index may have more.
"""

from __future__ import annotations

from typing import Callable

from .database import Database

__all__ = ["compare_partial_indexes"]

#: For each table the names and the conditions of these indexes.
_INDEXES = (
    ("files", (("files_last", "last IS NOT NULL"), ("files_first", "added"))),
    ("contents", (("contents_pack", "pack IS NOT NULL"),)),
    ("packs", (("packs_half_empty", "live * 2 < size"),)),
)


def compare_partial_indexes(database: Database, problem: Callable[[str, str], object]) -> None:
    """Call problem with the kind and the message of each index that has another number of entries than there are rows.

    Reads each of the tables once, and the indexes; does nothing with an SQLite that cannot count entries.

    Raises:
        CorruptionError: They cannot be read.
    """
    if all(option != b"ENABLE_DBSTAT_VTAB" for (option,) in database.query("PRAGMA compile_options")):
        return
    with database.read_transaction():
        for table, indexes in _INDEXES:
            counts = ", ".join(f"count(CASE WHEN {condition} THEN 1 END)" for _, condition in indexes)
            rows = database.query(f"SELECT {counts} FROM {table}")[0]
            for (index, _), expected in zip(indexes, rows):
                entries = database.value("SELECT coalesce(sum(ncell), 0) FROM dbstat WHERE name = ?", (index,))
                if entries != expected:
                    problem("database-corrupt", f"the index {index} has {entries} entries for {expected} rows")
