"""References: how a snapshot is named. By its number, or counted back from the newest one, of all or of one source.

Owns the words alone; which snapshots there are, snapshots knows.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple, Optional, Union

__all__ = ["Latest", "parse_reference"]

_LATEST = re.compile(r"latest(?:~([0-9]{1,9}))?(?::(?:([^/:]*):)?(.+))?", re.DOTALL)


class Latest(NamedTuple):
    """The newest snapshot, or one before it of the same source.

    Attributes:
        back: How many snapshots of the source before it.
        host: Name of the source's machine, None for any.
        root: The source, None for whichever was saved last.
    """

    back: int = 0
    host: Optional[str] = None
    root: Optional[bytes] = None


def parse_reference(reference: Union[int, str]) -> Union[int, Latest, None]:
    """Return what a reference means; None if it means nothing.

    Args:
        reference: A number; or ``latest``, ``latest~1``, ``latest:/home/you``, ``latest~1:laptop:/home/you``.
    """
    if isinstance(reference, str):
        if reference.isascii() and reference.isdigit() and len(reference) < 20:
            return int(reference)
        match = _LATEST.fullmatch(reference)
        if match is None:
            return None
        back, host, root = match.groups()
        return Latest(int(back or 0), host, None if root is None else os.fsencode(root))
    return reference if isinstance(reference, int) and not isinstance(reference, bool) else None
