"""Rows of snapshots, sources, settings, and of what is kept beside them."""

from __future__ import annotations

from typing import List

from .case import ANY, CHECK, HARMLESS, MAX, NAMED, Case

__all__ = ["catalog_cases"]


def catalog_cases() -> List[Case]:
    def snapshot(name: str, outcome: str, settled: bool = True, **change: str) -> Case:
        assignments = ", ".join(f"{column} = {value}" for column, value in change.items())
        return Case(name, (f"UPDATE snapshots SET {assignments} WHERE id = 2",), outcome, settled)

    def setting(name: str, value: str) -> Case:
        sql = f"UPDATE settings SET value = {value} WHERE name = '{name}'"
        return Case(f"the setting {name} is {value}", (sql,), CHECK)

    return [
        snapshot("the number of a snapshot is negative", NAMED, id="-2"),
        snapshot("the number of a snapshot is the highest there is", NAMED, id=str(MAX)),
        snapshot("the source of a snapshot is missing", CHECK, source="99"),
        snapshot("the source of a snapshot is a text", CHECK, source="'text'"),
        snapshot("a snapshot was taken at the end of time", HARMLESS, started_ns=str(MAX), finished_ns=str(MAX)),
        snapshot("a snapshot was taken before all time", HARMLESS, started_ns=f"-{MAX} - 1"),
        snapshot("a snapshot was taken at a text", CHECK, started_ns="'text'"),
        snapshot("a snapshot was taken at a fraction", CHECK, started_ns="1.5"),
        snapshot("the note is a blob", HARMLESS, note="x'ff00'"),
        snapshot("the note is a number", HARMLESS, note="7"),
        snapshot("the note is of control bytes", HARMLESS, note="CAST(x'1b5d303b6f776e6564071b5b324a0a' AS TEXT)"),
        snapshot("the note has a million characters", HARMLESS, note="printf('%.*c', 1000000, 'n')"),
        snapshot("the tags are no JSON", CHECK, tags="'text'"),
        snapshot("the tags are a number", CHECK, tags="'7'"),
        snapshot("the tags are a document", CHECK, tags="""'{"a": 1}'"""),
        snapshot("the tags are nested 100,000 times", CHECK, tags="replace(hex(zeroblob(50000)), '0', '[')"),
        snapshot("the tags are control characters", HARMLESS, tags="""'["\\u001b[2J", "\\u202e"]'"""),
        snapshot("the tags are NaN", CHECK, tags="'[NaN]'"),
        snapshot("a tag of 5,000 digits", NAMED, tags="'[' || printf('%.*c', 5000, '7') || ']'"),
        snapshot("the digest is short", CHECK, settled=False, digest="x'00'"),
        snapshot("the digest is a text", CHECK, settled=False, digest="'text'"),
        snapshot("the digest of the tree is short", CHECK, settled=False, tree_digest="x'00'"),
        snapshot("the counts are negative", CHECK, settled=False, files="-1", directories="-1", size="-1"),
        snapshot("the counts are texts", CHECK, settled=False, files="'a'", size="'b'"),
        snapshot("the counts are the highest there are", CHECK, settled=False, files=str(MAX), size=str(MAX)),
        snapshot("the distinct size is the highest there is", CHECK, settled=False, distinct_size=str(MAX)),
        Case("the host is of control bytes", ("UPDATE sources SET host = CAST(x'1b5b324a07' AS TEXT)",), HARMLESS),
        Case("the host is a blob", ("UPDATE sources SET host = x'ff' WHERE id = 1",), HARMLESS),
        Case("the root is relative", ("UPDATE sources SET root = '../outside' WHERE id = 1",), HARMLESS),
        Case("the root has a NUL", ("UPDATE sources SET root = CAST(x'2f00' AS TEXT) WHERE id = 1",), HARMLESS),
        Case("the root is a number", ("UPDATE sources SET root = 7 WHERE id = 1",), HARMLESS),
        Case("there are no sources", ("DELETE FROM sources",), CHECK),
        Case("a pruned snapshot is its own heir", ("INSERT INTO pruned VALUES (7, 7)",), CHECK, settled=False),
        Case("an heir is missing", ("INSERT INTO pruned VALUES (7, 99)",), CHECK, settled=False),
        Case("an heir is a text", ("INSERT INTO pruned VALUES (7, 'text')",), CHECK, settled=False),
        Case("the settings are gone", ("DELETE FROM settings",), CHECK),
        Case("there is a setting more", ("INSERT INTO settings VALUES ('more', 1)",), CHECK),
        setting("id", "'text'"),
        setting("chunking", "'rabin'"),
        setting("chunking", "x'ff'"),
        setting("chunk_average", "0"),
        setting("chunk_average", "-1"),
        setting("chunk_average", "1"),
        setting("chunk_average", str(1 << 40)),
        setting("chunk_average", "'text'"),
        setting("chunk_normalization", "77"),
        setting("chunk_large_size", "-1"),
        Case("what was swept is a text", ("INSERT INTO settings VALUES ('swept_content', 'text')",), HARMLESS),
        Case(
            "what was swept is the highest there is",
            (f"INSERT INTO settings VALUES ('swept_content', {MAX})",),
            HARMLESS,
        ),
        Case("what was swept is negative", ("INSERT INTO settings VALUES ('swept_content', -7)",), HARMLESS),
        Case("a pack is its own base", ("INSERT INTO bases VALUES (1, 1)",), ANY),
        Case("packs are bases of each other", ("INSERT INTO bases VALUES (1, 2), (2, 1)",), ANY),
        Case("a base is missing", ("INSERT INTO bases VALUES (1, 99)",), ANY),
        Case("a base is a text", ("INSERT INTO bases VALUES (1, 'text')",), ANY),
        Case("a pin is of a text", ("INSERT INTO pins VALUES (2, 'text', 'text')",), ANY),
        Case("a pin of a snapshot that is missing", ("INSERT INTO pins VALUES (99, 0, zeroblob(32))",), ANY),
        Case("changes are texts", ("UPDATE changes SET new_files = 'a', new_size = 'b', digest = 'c'",), ANY),
        Case("a drill of texts", ("INSERT INTO drills VALUES (1, 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h')",), ANY),
    ]
