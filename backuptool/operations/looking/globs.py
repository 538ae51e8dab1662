"""Globs: patterns of names and paths, as regular expressions, and in the simpler form that SQLite sweeps with.

``*`` stands for any characters but a slash, ``**`` for any at all, ``**/`` also for no directory, ``?`` for one
character, ``[abc]``, ``[a-z]`` and ``[!abc]`` for one of a set. Everything else stands for itself.
"""

from __future__ import annotations

import os
import re
from typing import Optional

from ...errors import PatternError

__all__ = ["Glob", "has_wildcard"]

_TOKEN = re.compile(r"\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\]|[^*?\[]+|\[")

_MEMBER = re.compile(r"(.)(?:-(.))?", re.DOTALL)  # of a set: a character, or the two ends of a range


def has_wildcard(pattern: str) -> bool:
    """Tell whether a pattern stands for more than itself."""
    return any(mark in pattern for mark in "*?[")


class Glob:
    """A pattern.

    Args:
        pattern: As above.
        name: Whether it is of a name, which lies in any directory, and not of a whole path.

    Attributes:
        sweep: Patterns for SQLite's GLOB of which one matches whatever this matches, and perhaps more.

    Raises:
        PatternError: It is a name with a slash, or a set is no set.
    """

    def __init__(self, pattern: str, *, name: bool = False) -> None:
        if not pattern:
            raise PatternError("an empty pattern matches nothing; leave it out to find everything", pattern)
        if name and "/" in pattern:
            raise PatternError(f"{pattern!r} is no name, it has a slash; give it as the path", pattern)
        expression, rough = _translate(pattern)
        try:
            self._matches = re.compile(("(?:.*/)?" if name else "") + expression, re.DOTALL).fullmatch
        except re.error as exc:
            raise PatternError(f"the pattern {pattern!r} cannot be understood: {exc}", pattern) from exc
        # "**/" in front stands for no directory as well.
        several = [rough] if not rough.startswith("*/") else [rough, rough[2:]]
        if name and not rough.startswith("*"):
            several.append("*/" + rough)
        self.sweep = tuple(os.fsencode(each) for each in several)

    def matches(self, path: str) -> bool:
        """Tell whether a path matches."""
        return self._matches(path) is not None


def _translate(pattern: str) -> tuple[str, str]:
    """Return a pattern as a regular expression, and as one of literals and ``*`` for SQLite.

    SQLite's ``?`` and sets are not used: what one character is, it sees differently where bytes are not UTF-8.
    """
    expression, rough = [], []
    for token in _TOKEN.findall(pattern):
        wildcard: Optional[str] = None
        if token == "**/":
            wildcard = "(?:.*/)?"
        elif token == "**":
            wildcard = ".*"
        elif token == "*":
            wildcard = "[^/]*"
        elif token == "?":
            wildcard = "[^/]"
        elif token.startswith("[") and len(token) > 2:
            wildcard = "(?!/)" + _set(token[1:-1])
        expression.append(re.escape(token) if wildcard is None else wildcard)
        rough.append(token.replace("[", "[[]") if wildcard is None else "*")
        if token == "**/" and rough[:-1]:
            rough[-1] = "*"
    text = re.sub(r"\*+", "*", "".join(rough))
    return "".join(expression), text


def _set(inside: str) -> str:
    negated = inside.startswith("!")
    members = inside[1:] if negated else inside
    # Each end of a range is escaped: "--" and the like are set operators to come, of which Python warns.
    escaped = _MEMBER.sub(lambda member: "-".join(re.escape(end) for end in member.groups() if end), members)
    return f"[{'^' if negated else ''}{escaped}]"
