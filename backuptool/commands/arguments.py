"""What arguments may be: functions from the text of an argument to its value, for argparse.

Owns how sizes, numbers and paths are written. Which options take them is each command's.
"""

from __future__ import annotations

import argparse
import datetime
import re
from typing import Any

__all__ = [
    "SEVERAL",
    "moment",
    "number",
    "number_of",
    "parse_size",
    "path",
    "reference",
    "sample",
    "seconds",
    "sha256",
    "size",
    "size_or_none",
    "span",
    "tag",
    "text",
    "words",
]

#: Of an option that may be given several times.
SEVERAL: dict[str, Any] = {"action": "append", "default": []}


def parse_size(size: str) -> int:
    """Return the bytes that a size like ``10GiB``, ``500M``, ``1.5g`` or ``4096`` stands for.

    ``K``, ``M``, ``G``, ``T``, ``P``, alone or with ``iB``, are powers of 1024; ``KB``, ``MB`` and so on of 1000, as
    everywhere in GNU coreutils. A fraction of a byte is dropped.

    Raises:
        ValueError: It is no size.
    """
    match = re.fullmatch(r"([0-9]{1,18})(?:\.([0-9]{1,18}))? ?(?:([kmgtp])(i?b)?|b)?", size.strip(), re.IGNORECASE)
    if match is None:
        raise ValueError(f"not a size like 4096, 500M or 10GiB: {size!r}")
    whole, fraction, prefix, suffix = match.group(1), match.group(2) or "", match.group(3), match.group(4) or ""
    base = 1000 if suffix.lower() == "b" else 1024
    factor: int = base ** ("kmgtp".index(prefix.lower()) + 1) if prefix else 1
    scale: int = 10 ** len(fraction)
    return int(whole + fraction) * factor // scale


def path(argument: str) -> str:
    """Return a path as it was given."""
    if not argument:  # an unset variable in a script must not come to mean the current directory
        raise argparse.ArgumentTypeError("an empty path names nothing")
    return argument


def words(argument: str) -> str:
    """Return a pattern or an expression as it was given."""
    if not argument:  # an unset variable in a script
        raise argparse.ArgumentTypeError("it is empty, and matches nothing; leave it out to have everything")
    return argument


def sha256(argument: str) -> str:
    """Return a SHA-256 as it was given."""
    if re.fullmatch("[0-9A-Fa-f]{64}", argument) is None:
        raise argparse.ArgumentTypeError(f"not the 64 hexadecimal digits that sha256sum prints: {argument!r}")
    return argument


def text(argument: str) -> str:
    """Return words, in UTF-8 if the locale cannot have them: what is kept is not to depend on it."""
    return argument.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


def tag(argument: str) -> str:
    """Return a word that is kept with a snapshot."""
    if not argument:
        raise argparse.ArgumentTypeError("a tag is a word that is not empty")
    return text(argument)


def number(argument: str) -> int:
    """Return the number of a snapshot."""
    if re.fullmatch("[0-9]{1,18}", argument) is None:
        raise argparse.ArgumentTypeError(f"not a snapshot number: {argument!r}")
    return int(argument)


def reference(argument: str) -> int | str:
    """Return the number of a snapshot, or what is counted back from the newest one.

    ``latest``, ``latest~1``, ``latest:/home/you``, ``latest:laptop:/home/you``.
    """
    return argument if re.fullmatch("latest(~[0-9]{1,9})?(:.+)?", argument, re.DOTALL) else number(argument)


def size(argument: str) -> int:
    """Return the bytes of a size; see :func:`parse_size`."""
    try:
        return parse_size(argument)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def size_or_none(argument: str) -> int | None:
    """Return the bytes of a size, or None for the word ``none``."""
    return None if argument.lower() == "none" else size(argument)


def number_of(argument: str) -> int:
    """Return a number of 0 or more."""
    if re.fullmatch(r"[0-9]{1,6}", argument) is None:
        raise argparse.ArgumentTypeError(f"not a number of 0 or more: {argument!r}")
    return int(argument)


def sample(argument: str) -> int | float | None:
    """Return a number of files, a share of them for a percentage, or None for the word ``all``."""
    if argument == "all":
        return None
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)%", argument)
    share = float(match.group(1)) / 100 if match else 0.0
    if 0 < share <= 1:
        return share
    if re.fullmatch("[0-9]{1,18}", argument) is None or int(argument) == 0:
        raise argparse.ArgumentTypeError(f"not a number of files, a percentage or the word all: {argument!r}")
    return int(argument)


def span(argument: str) -> datetime.timedelta:
    """Return the time span that ``36h``, ``30d``, ``8w`` or ``2y`` (of 365 days) stands for; more than none."""
    match = re.fullmatch(r"([0-9]{1,5})([hdwy])", argument)
    if match is None or not int(match.group(1)):
        raise argparse.ArgumentTypeError(f"not a time span like 36h, 30d, 8w or 2y: {argument!r}")
    hours = {"h": 1, "d": 24, "w": 7 * 24, "y": 365 * 24}[match.group(2)]
    return datetime.timedelta(hours=int(match.group(1)) * hours)


def seconds(argument: str) -> float:
    """Return a number of seconds."""
    if re.fullmatch(r"[0-9]{1,6}(\.[0-9]*)?", argument) is None:
        raise argparse.ArgumentTypeError(f"not a number of seconds: {argument!r}")
    return float(argument)


#: Seconds in what a span of time may be given in.
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def moment(argument: str) -> datetime.datetime:
    """Return the local time that ``2025-03-30``, ``2025-03-30 15:30``, or ``36h`` (so long ago) stands for."""
    span = re.fullmatch("([0-9]{1,6})([smhdw])", argument)
    try:
        if span is not None:
            return datetime.datetime.now() - datetime.timedelta(seconds=int(span.group(1)) * _UNITS[span.group(2)])
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9]{2}:[0-9]{2}(:[0-9]{2})?)?", argument):
            return datetime.datetime.fromisoformat(argument)
    except (ValueError, OverflowError):
        pass
    raise argparse.ArgumentTypeError(f"not a time like 2025-03-30, '2025-03-30 15:30' or 7d: {argument!r}")
