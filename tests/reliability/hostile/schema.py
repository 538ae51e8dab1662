"""Tables, views, triggers and indexes that are not those of the format, or lie elsewhere."""

from __future__ import annotations

from typing import List

from ..forging import run_sql
from .case import CHECK, HARMLESS, NAMED, REFUSED, Case, Forge

__all__ = ["schema_cases"]


def _schema(*statements: str) -> Forge:
    return lambda repository: run_sql(repository, *statements)


def schema_cases() -> List[Case]:
    def refused(name: str, *statements: str) -> Case:
        return Case(name, _schema(*statements), REFUSED, settled=False)

    def text(name: str, of: str, sql: str) -> Case:
        return refused(name, f"UPDATE sqlite_master SET sql = {sql} WHERE name = '{of}'")

    return [
        refused("a trigger", "CREATE TRIGGER t AFTER INSERT ON snapshots BEGIN DELETE FROM files; END"),
        refused("a trigger on a view", "CREATE TRIGGER t INSTEAD OF DELETE ON snapshot_files BEGIN SELECT 1; END"),
        refused("another view", "CREATE VIEW v AS SELECT * FROM files"),
        refused("another table", "CREATE TABLE more (x)"),
        refused("another index", "CREATE INDEX more ON files (mode)"),
        refused("an index of an expression", "CREATE INDEX more ON files (abs(mode))"),
        refused("a virtual table", "CREATE VIRTUAL TABLE v USING fts5(x)"),
        refused("a virtual table of R-trees", "CREATE VIRTUAL TABLE v USING rtree(id, a, b)"),
        refused("statistics", "ANALYZE"),
        refused(
            "a view in the place of a table",
            "ALTER TABLE files RENAME TO real",
            "CREATE VIEW files AS SELECT * FROM real",
        ),
        refused(
            "a table in the place of the view", "DROP VIEW snapshot_files", "CREATE TABLE snapshot_files (snapshot_id)"
        ),
        refused("a generated column", "ALTER TABLE snapshots ADD COLUMN g AS (abs(size))"),
        refused("another column", "ALTER TABLE files ADD COLUMN more"),
        refused("a table is missing", "DROP TABLE parts"),
        refused("an index is missing", "DROP INDEX files_last"),
        text(
            "a column computes a default",
            "packs",
            "replace(sql, 'codec       TEXT NOT NULL', 'codec TEXT DEFAULT (1)')",
        ),
        text(
            "a check that calls a function",
            "packs",
            "replace(sql, 'codec       TEXT NOT NULL', 'codec CHECK (abs(1))')",
        ),
        text("a table is written in another way", "pruned", "upper(sql)"),
        text("a comment is another", "pruned", "replace(sql, 'inherited', 'Inherited')"),
        text("a table has no text", "pruned", "NULL"),
        Case(
            "a table has a blob for a text",
            _schema("UPDATE sqlite_master SET sql = CAST(sql AS BLOB) WHERE name = 'pruned'"),
            HARMLESS,
            settled=False,
        ),
        text("a table is no SQL", "pruned", "'CREATE TABLE pruned'"),
        refused("a table there twice", "INSERT INTO sqlite_master SELECT * FROM sqlite_master WHERE name = 'packs'"),
        refused("a table of another name", "UPDATE sqlite_master SET tbl_name = 'files' WHERE name = 'packs'"),
        Case("a table is where another is", _schema(_root("parts", "files")), NAMED, settled=False),
        Case("an index is where a table is", _schema(_root("contents_hash", "contents")), CHECK, settled=False),
        Case("tables change places", _schema(_root("contents", "snapshots")), NAMED, settled=False),
        Case("a table is nowhere", _schema("UPDATE sqlite_master SET rootpage = 0 WHERE name = 'files'"), NAMED, False),
        Case(
            "a table is behind the end",
            _schema("UPDATE sqlite_master SET rootpage = 9999 WHERE name = 'files'"),
            REFUSED,
            False,
        ),
        Case(
            "a table is a negative page",
            _schema("UPDATE sqlite_master SET rootpage = -1 WHERE name = 'files'"),
            REFUSED,
            False,
        ),
        Case(
            "a table is the schema",
            _schema("UPDATE sqlite_master SET rootpage = 1 WHERE name = 'files'"),
            REFUSED,
            False,
        ),
    ]


def _root(name: str, of: str) -> str:
    return (
        f"UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master WHERE name = '{of}') "
        f"WHERE name = '{name}'"
    )
