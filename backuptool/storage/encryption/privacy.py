"""What a process of our own with a key in its memory does for it. A library may not decide that for its caller's."""

from __future__ import annotations

import contextlib
import sys

__all__ = ["keep_out_of_core_dumps"]

#: Number of Linux's prctl.
_PR_SET_DUMPABLE = 4


def keep_out_of_core_dumps() -> None:
    """Have the system write no core of this process, and let no other process of its user look into it."""
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
