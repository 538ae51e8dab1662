"""Validating: whether the row of a file holds values that a file can have.

Owns what is possible at all. Digests tell what was changed since it was saved; this tells what nobody ever saved,
although digests agree with it: a forged file, or one that a faulty program wrote.
"""

from __future__ import annotations

from typing import Any, Optional, Sequence

from ..errors import UnsafePathError
from ..tree.confined import require_safe
from ..tree.metadata import decode_xattrs

__all__ = ["flaw"]

#: No user and no group has this number: for the system it means that an owner is to stay.
_NO_OWNER = (1 << 32) - 1

_NO_TIME = -(1 << 63)

_DEVICES = (b"c", b"b")
_OTHERS = (b"d", b"p", b"s")


def flaw(version: Sequence[Any]) -> Optional[str]:
    """Return what is wrong with a version as users see it, None if nothing is. About 0.5 µs.

    Args:
        version: Path to link, as in ``FileVersion``, each of the type that it should have.
    """
    path, kind, mode, uid, gid, _, _, mtime_ns, size, digest, sparse, rdev, target, xattrs, _ = version
    if not (0 <= mode <= 0o7777 and 0 <= uid < _NO_OWNER and 0 <= gid < _NO_OWNER):
        return "its mode or its owner is none that a file can have"
    if size < 0 or mtime_ns == _NO_TIME or not 0 <= sparse <= 1:
        return "a number in it is out of range"
    if kind == b"f":
        if target is not None or rdev is not None:
            return "it is a file and something else"
    elif digest is not None or size:
        return "it has bytes and is no file"
    elif kind == b"l":
        if not target or b"\0" in target or rdev is not None:
            return "it is a symlink that leads nowhere"
    elif kind in _DEVICES:
        if rdev is None or rdev < 0 or target is not None:
            return "it is a device without a number"
    elif kind not in _OTHERS or rdev is not None or target is not None:
        return "its kind is none that there is"
    if xattrs is not None:
        try:
            for name, _ in decode_xattrs(xattrs):
                if not name or b"\0" in name:
                    return "it has an extended attribute without a name"
        except ValueError as exc:
            return f"its {exc}"
    try:
        require_safe(path)
    except UnsafePathError:
        return "its path leads elsewhere; it is never restored"
    return None
