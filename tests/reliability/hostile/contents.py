"""Rows of contents, and lists of parts."""

from __future__ import annotations

from typing import List, Sequence, Tuple, Union

from .case import ANY, CHECK, HARMLESS, MAX, NAMED, RESTORE, Case

__all__ = ["NEW", "content_cases"]

NEW = "(SELECT content FROM files WHERE path = 'new')"
_LARGE = "(SELECT content FROM files WHERE path = 'large')"
_SPARSE = "(SELECT content FROM files WHERE path = 'sparse')"


def _content(of: str, **change: Union[str, int]) -> str:
    assignments = ", ".join(f"{name} = {value}" for name, value in change.items())
    return f"UPDATE contents SET {assignments} WHERE id = {of}"


def content_cases() -> List[Case]:
    huge = str(1 << 62)
    changes: Sequence[Tuple[str, str, str]] = (
        ("hash", "x'00'", NAMED),
        ("hash", "zeroblob(32)", NAMED),
        ("hash", "'text'", NAMED),
        ("hash", "(SELECT hash FROM contents WHERE id = 1)", CHECK),
        ("size", "-1", NAMED),
        ("size", "0", NAMED),
        ("size", huge, NAMED),
        ("size", "'text'", NAMED),
        ("pack", "NULL", NAMED),
        ("pack", "4711", NAMED),
        ("pack", "'text'", NAMED),
        ("pack", "-1", NAMED),
        ("offset", "-5", NAMED),
        ("offset", huge, NAMED),
        ("offset", "'text'", NAMED),
        ("offset", "NULL", CHECK),
        ("layout", "zeroblob(32)", CHECK),
        ("layout", "'text'", CHECK),
    )
    unsettled: Sequence[Tuple[str, str, str]] = (
        ("refs", "-1", CHECK),
        ("refs", huge, CHECK),
        ("refs", "'text'", CHECK),
        ("since", "'text'", CHECK),
        ("since", huge, CHECK),
        ("since", "-1", CHECK),
    )
    return [
        *(
            Case(f"{name} of a content is {value}", (_content(NEW, **{name: value}),), then)
            for name, value, then in changes
        ),
        *(
            Case(f"{name} of a content is {value}", (_content(NEW, **{name: value}),), then, settled=False)
            for name, value, then in unsettled
        ),
        Case(
            "the id of a content is negative",
            (_content(NEW, id=-7), "UPDATE files SET content = -7 WHERE path = 'new'"),
            CHECK,
        ),
        Case(
            "the id of a content is the highest there is",
            (_content(NEW, id=MAX), f"UPDATE files SET content = {MAX} WHERE path = 'new'"),
            CHECK,
        ),
        Case("the counter of contents is the highest there is", (f"UPDATE sqlite_sequence SET seq = {MAX}",), CHECK),
        Case("the counter of snapshots is a text", ("UPDATE sqlite_sequence SET seq = 'text'",), CHECK),
        Case("there are no counters", ("DELETE FROM sqlite_sequence",), CHECK),
        Case("there are counters twice", ("INSERT INTO sqlite_sequence SELECT * FROM sqlite_sequence",), HARMLESS),
        # Lists of parts.
        Case("a content is a part of itself", (f"UPDATE parts SET part = content WHERE content = {_LARGE}",), NAMED),
        Case(
            "two contents are parts of each other",
            (
                f"UPDATE parts SET part = {_SPARSE} WHERE content = {_LARGE}",
                f"UPDATE parts SET part = {_LARGE} WHERE content = {_SPARSE}",
            ),
            NAMED,
        ),
        Case("a part is a large content", (f"UPDATE parts SET part = {_LARGE} WHERE content = {_SPARSE}",), NAMED),
        Case("a part is missing", (f"UPDATE parts SET part = 4711 WHERE content = {_LARGE} AND offset = 0",), NAMED),
        Case("a part is a text", (f"UPDATE parts SET part = 'text' WHERE content = {_LARGE} AND offset = 0",), NAMED),
        Case(
            "parts begin before the beginning",
            (f"UPDATE parts SET offset = -9 WHERE content = {_LARGE} AND offset = 0",),
            NAMED,
        ),
        Case(
            "parts begin behind the beginning", (f"DELETE FROM parts WHERE content = {_LARGE} AND offset = 0",), NAMED
        ),
        Case(
            "parts overlap", (f"UPDATE parts SET offset = offset - 1 WHERE content = {_LARGE} AND offset > 0",), NAMED
        ),
        Case(
            "a part is a text's offset",
            (f"UPDATE parts SET offset = 'text' WHERE content = {_LARGE} AND offset = 0",),
            NAMED,
        ),
        Case("there are no parts", (f"DELETE FROM parts WHERE content = {_LARGE}",), NAMED),
        Case("all parts are holes", (f"UPDATE parts SET part = NULL WHERE content = {_LARGE}",), RESTORE),
        Case("a hole of 2^60 bytes", (f"INSERT INTO parts VALUES ({_LARGE}, {1 << 60}, 1)",), ANY),
        Case("a million parts", (_content(NEW, pack="NULL", offset="NULL"), _million_parts()), NAMED),
        Case("a large content is smaller than its parts", (_content(_LARGE, size="5"),), NAMED),
        Case("a large content is larger than its parts", (_content(_LARGE, size=huge),), NAMED),
    ]


def _million_parts() -> str:
    return (
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000) "
        f"INSERT INTO parts SELECT {NEW}, 66 * i, 1 FROM n"
    )
