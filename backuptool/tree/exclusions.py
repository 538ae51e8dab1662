"""Which paths are meant: gitignore-style patterns, and marker files that keep a directory's contents out.

Owns the decisions alone. What a pattern matches is in patterns; walking is left to source, selecting to restore.
"""

from __future__ import annotations

import codecs
import io
import os
import re
from typing import Iterable, Optional, Sequence

import attrs

from ..errors import PatternError
from .patterns import Patterns, is_unfinished

__all__ = [
    "CACHE_TAG",
    "CACHE_TAG_SIGNATURE",
    "Exclusions",
    "paths_or_patterns",
    "read_pattern_file",
    "require_below",
]

#: Cache Directory Tagging Specification, https://bford.info/cachedir/
CACHE_TAG = b"CACHEDIR.TAG"
CACHE_TAG_SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"

#: What means something else in a pattern than itself: wildcards, a comment, a negation, a space at the end.
_SPECIAL = re.compile(r"[\\*?\[\]]|^[#!]| (?= *$)")


def require_below(exclusions: Exclusions, given: bytes, root: bytes) -> None:
    """Make sure that no pattern is an absolute path where one is meant that begins at the root.

    Args:
        given: The root as it was named.
        root: What that leads to.

    Raises:
        PatternError: One begins with the root's own path.
    """
    if exclusions.patterns is not None:
        for path in (root, os.path.abspath(given)):
            exclusions.patterns.require_below(path)


def paths_or_patterns(lines: Iterable[str]) -> list[str]:
    r"""Return patterns that match what the lines match as patterns, and as paths relative to the root.

    ``photos/a[1].jpg`` is a pattern that matches a1.jpg; beside it stands one for the file of exactly that name.
    """
    patterns = []
    for line in lines:
        if not is_unfinished(line):
            patterns.append(line)
        literal = _SPECIAL.sub(r"\\\g<0>", line)
        if literal != line:
            patterns.append("/" + literal.strip("/"))
    return patterns


@attrs.frozen
class Exclusions:
    """What a walk leaves out.

    Attributes:
        patterns: Of the paths to be left out, None if there are none.
        markers: Names of files that keep out what is in their directory.
        caches: Leave out what is in directories that a CACHEDIR.TAG marks.
        larger_than: Leave out files above this many bytes, None for no limit.
        one_file_system: Stay on the root's device.
    """

    patterns: Optional[Patterns] = None
    markers: frozenset[bytes] = frozenset()
    caches: bool = False
    larger_than: Optional[int] = None
    one_file_system: bool = False

    @classmethod
    def of(
        cls,
        patterns: Sequence[str],
        markers: Iterable[str],
        caches: bool,
        larger_than: Optional[int],
        one_file_system: bool,
    ) -> Exclusions:
        """Return the exclusions for what a user asked for.

        Raises:
            PatternError: A pattern cannot be understood, or a marker is no name.
        """
        markers = tuple(markers)
        for marker in markers:
            if marker in ("", ".", "..") or "/" in marker:
                raise PatternError(
                    f"{marker!r} is no name of a file, so no directory holds one; give the name alone", marker
                )
        return cls(
            patterns=Patterns(patterns) if patterns else None,
            markers=frozenset(map(os.fsencode, markers)),
            caches=caches,
            larger_than=larger_than,
            one_file_system=one_file_system,
        )


def read_pattern_file(path: str) -> list[str]:
    """Return the lines of a file of patterns.

    Raises:
        PatternError: It cannot be read.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as exc:
        raise PatternError(f"cannot read the patterns in {path}: {exc.strerror}", path) from exc
    if data.startswith(codecs.BOM_UTF8):
        data = data[len(codecs.BOM_UTF8) :]
    return io.StringIO(os.fsdecode(data), newline=None).read().split("\n")
