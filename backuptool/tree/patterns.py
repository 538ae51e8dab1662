r"""Patterns as in .gitignore files, and which paths they match.

Owns what a pattern means: that of `gitignore <https://git-scm.com/docs/gitignore>`_, as git itself matches, but that
``?`` and sets are of characters, not of bytes. What cannot match anything because it is written wrongly is an error
here, and not ignored. What is done with a path that matches is left to exclusions and to those who select.

All patterns together are one regular expression, as most paths match none. A directory is matched with a slash behind
its path. So ``(?!/|\Z)`` stands behind every slash of a pattern: no name is empty.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Dict, Iterable, Iterator, List, NamedTuple, Optional, Pattern, Tuple

from ..errors import PatternError

__all__ = ["Patterns", "is_unfinished"]

#: That of names, as os.fsdecode has it, which takes longer.
_ENCODING = sys.getfilesystemencoding()

_NAMED = r"(?!/|\Z)"

#: What is before a pattern that may match at any depth.
_ANYWHERE = "(?:.*/)?" + _NAMED

#: What is behind a match: nothing, or what is below; of a directory there is at least the slash.
_BELOW = r"(?:/.*)?\Z"
_BELOW_DIRECTORY = r"/.*\Z"

#: As git has them: of ASCII alone.
_CLASSES = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "blank": r" \t",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r" \t\n\v\f\r",
    "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
}


class _FlawError(Exception):
    """Why a pattern is none."""


class _UnfinishedError(_FlawError):
    """It ends within a set, or behind a backslash."""


class _Rule(NamedTuple):
    """What one line says.

    Attributes:
        before: A regular expression of what is before it.
        expression: One of the pattern itself.
        only_directories: The line ends with a slash.
        takes_back: The line begins with ``!``.
    """

    before: str
    expression: str
    only_directories: bool
    takes_back: bool

    def exact(self) -> Pattern[str]:
        """Return what matches the path itself, and nothing below it."""
        return re.compile(f"{self.before}{self.expression}{'/' if self.only_directories else '/?'}\\Z", re.DOTALL)


class Patterns:
    """A list of gitignore-style patterns; later ones overrule earlier ones, '!' takes back.

    Args:
        patterns: The lines.

    Raises:
        PatternError: One of them cannot be understood.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._lines = tuple(patterns)
        rules = [rule for rule in map(_parse, self._lines) if rule is not None]
        self._any = re.compile(_union(rule for rule in rules if not rule.takes_back), re.DOTALL).match
        self._decisive: Optional[List[Tuple[Pattern[str], bool]]] = None
        if any(rule.takes_back for rule in rules):
            self._decisive = [(rule.exact(), not rule.takes_back) for rule in reversed(rules)]

    def match(self, path: bytes, is_directory: bool = False) -> bool:
        """Tell whether a path relative to the root matches, or lies in a directory that does.

        Where patterns take back, what is said of the path itself counts more than what is said of its directory.
        """
        text = _text(path, is_directory)
        if self._any(text) is None:
            return False
        if self._decisive is None:
            return True
        for place in _upwards(text):
            decision = self._decide(place)
            if decision is not None:
                return decision
        return False

    def leave_out(self, path: bytes, is_directory: bool = False) -> bool:
        """Tell whether a walk that does not enter directories that match comes to no such path, or leaves it out."""
        text = _text(path, is_directory)
        if self._any(text) is None:
            return False
        return self._decisive is None or any(self._decide(place) for place in _upwards(text))

    def require_below(self, root: bytes) -> None:
        """Make sure that none is an absolute path where one is meant that begins at the root.

        Raises:
            PatternError: One begins with the root's own path, and there is no such path below the root.
        """
        prefix = os.fsdecode(root).rstrip("/") + "/"
        for line in self._lines:
            path = line[1:] if line.startswith("!") else line
            if (
                prefix != "/"
                and path.startswith(prefix)
                and not os.path.lexists(root + os.fsencode(prefix.rstrip("/")))
            ):
                meant = "!" * (path != line) + "/" + path[len(prefix) :]
                raise PatternError(
                    f"the pattern {line!r} matches nothing, as patterns begin at the directory {prefix[:-1]}: "
                    f"say {meant!r}",
                    line,
                )

    def _decide(self, text: str) -> Optional[bool]:
        assert self._decisive is not None
        for expression, decision in self._decisive:
            if expression.match(text):
                return decision
        return None


def is_unfinished(line: str) -> bool:
    """Tell whether a line is no pattern, as it ends within a set or behind a backslash."""
    try:
        _translate(line.rstrip("/"))
    except _UnfinishedError:
        return True
    except _FlawError:
        return False
    return False


def _union(rules: Iterable[_Rule]) -> str:
    """Return a regular expression of what any of the rules matches, with all that is below."""
    groups: Dict[Tuple[str, bool], List[str]] = {}
    for rule in rules:
        groups.setdefault((rule.before, rule.only_directories), []).append(rule.expression)
    return (
        "|".join(
            f"{before}(?:{'|'.join(expressions)}){_BELOW_DIRECTORY if only_directories else _BELOW}"
            for (before, only_directories), expressions in groups.items()
        )
        or "(?!)"
    )


def _text(path: bytes, is_directory: bool) -> str:
    text = path.decode(_ENCODING, "surrogateescape")
    return text + "/" if is_directory else text


def _upwards(text: str) -> Iterator[str]:
    """Yield a path and the directories above it, these with a slash behind them."""
    while text:
        yield text
        text = text[: text.rstrip("/").rfind("/") + 1]


def _parse(line: str) -> Optional[_Rule]:
    """Return what a line says, None if it is empty or a comment.

    Raises:
        PatternError: It cannot be understood.
    """
    pattern = _without_spaces(line)
    if not pattern or pattern.startswith("#"):
        return None
    takes_back = pattern.startswith("!")
    if takes_back:
        pattern = pattern[1:]
    only_directories = pattern.endswith("/")
    if only_directories:
        pattern = pattern[:-1]
        if not pattern:
            return None  # a slash alone: git has it match nothing
    before = _NAMED if "/" in pattern else _ANYWHERE
    try:
        if not pattern:
            raise _FlawError("there is nothing behind the !")
        expression = _translate(pattern[1:] if pattern.startswith("/") else pattern)
    except _FlawError as exc:
        raise PatternError(
            f"the pattern {line!r} cannot be understood: {exc}; a character behind a backslash stands for itself",
            line,
        ) from exc
    return _Rule(before, expression, only_directories, takes_back)


def _without_spaces(line: str) -> str:
    """Return a line without the spaces at its end, but for one that a backslash protects."""
    stripped = line.rstrip(" ")
    backslashes = len(stripped) - len(stripped.rstrip("\\"))
    return stripped + " " if backslashes % 2 and stripped != line else stripped


def _translate(pattern: str) -> str:
    """Return a pattern as a regular expression.

    Raises:
        _FlawError: It ends too early.
    """
    parts: List[str] = []
    position, end = 0, len(pattern)
    while position < end:
        character = pattern[position]
        if character == "*":
            begin = position
            while position < end and pattern[position] == "*":
                position += 1
            whole = position - begin > 1 and (begin == 0 or pattern[begin - 1] == "/")
            if whole and position == end:
                parts.append(".*")
            elif whole and pattern[position] == "/":
                parts.append(_ANYWHERE)
                position += 1
            else:
                parts.append("[^/]*")
            continue
        position += 1
        if character == "?":
            parts.append("[^/]")
        elif character == "/":
            parts.append("/" + _NAMED)
        elif character == "[":
            expression, position = _set(pattern, position)
            parts.append(expression)
        elif character == "\\":
            if position == end:
                raise _UnfinishedError("there is nothing behind the backslash at its end")
            parts.append("/" + _NAMED if pattern[position] == "/" else re.escape(pattern[position]))
            position += 1
        else:
            parts.append(re.escape(character))
    return "".join(parts)


def _set(pattern: str, position: int) -> Tuple[str, int]:
    """Return a set as a regular expression, and the position behind it; it never matches a slash.

    Args:
        pattern: The pattern.
        position: Behind the bracket that opens it.

    Raises:
        _FlawError: It has no end, or one of its classes has no such name.
    """
    negated = pattern[position : position + 1] in ("!", "^")
    position += negated
    members: List[str] = []
    previous = ""  # a character with which a range may begin
    begin = position
    while position == begin or pattern[position : position + 1] != "]":
        character, escaped, position = _member(pattern, position)
        following = pattern[position : position + 1]
        if character == "[" and following == ":" and not escaped:
            name, closing, _ = pattern[position + 1 :].partition("]")
            if closing and name.endswith(":"):
                if name[:-1] not in _CLASSES:
                    raise _FlawError(f"there is no class [:{name[:-1]}:]")
                members.append(_CLASSES[name[:-1]])
                position += len(name) + 2
                previous = ""
                continue
        if character == "-" and previous and following not in ("]", "") and not escaped:
            last, _, position = _member(pattern, position)
            if previous <= last:
                members.append(f"{re.escape(previous)}-{re.escape(last)}")
            previous = ""
        else:
            members.append(re.escape(character))
            previous = character
    return f"(?!/)[{'^' if negated else ''}{''.join(members)}]", position + 1


def _member(pattern: str, position: int) -> Tuple[str, bool, int]:
    """Return the next character of a set, whether a backslash is before it, and the position behind it."""
    escaped = pattern[position : position + 1] == "\\"
    position += escaped
    if position >= len(pattern):
        raise _UnfinishedError("a [ has no ]")
    return pattern[position], escaped, position + 1
