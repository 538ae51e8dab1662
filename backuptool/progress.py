"""How long operations tell what they are doing: events, and who receives them.

The operations know :class:`Reporter` alone; whether events end in a user's callback or in a tqdm bar is decided here.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from typing import Any, Callable, Optional, Union

import attrs

__all__ = ["ProgressCallback", "ProgressEvent", "Reporter", "bar"]

_INTERVAL_SECONDS = 0.1  # ten events a second: smooth for the eye, and unmeasurable beside the work


@attrs.frozen(kw_only=True)
class ProgressEvent:
    """Where a long operation is.

    Attributes:
        phase: ``"scan"``, ``"read"``, ``"commit"`` (snapshot), ``"restore"``, ``"metadata"``, ``"delete"``,
            ``"verify"`` (restore), ``"catalog"``, ``"data"`` (check), ``"remove"``, ``"repack"``, ``"shrink"`` (prune).
        done_files: Entries finished in this phase.
        total_files: Entries there are, or None where it is not known yet.
        done_bytes: Bytes finished in this phase.
        total_bytes: Bytes there are, or None where it is not known yet.
        path: What is being worked on, or ``""``.
    """

    phase: str
    done_files: int = 0
    total_files: Optional[int] = None
    done_bytes: int = 0
    total_bytes: Optional[int] = None
    path: str = ""


ProgressCallback = Callable[[ProgressEvent], object]


class Reporter:
    """Passes events on, at most ten a second and always at the beginning of a phase and at the end.

    Calling it costs nothing worth mentioning when nobody listens. An exception of the callback ends the operation.
    """

    def __init__(self, progress: Union[ProgressCallback, bool, None]) -> None:
        self._close: Callable[[], None] = _nothing
        self._callback: Optional[ProgressCallback] = None
        if progress is True:
            self._callback, self._close = bar()
        elif callable(progress):
            self._callback = progress
        self.active = self._callback is not None
        self._next = 0.0
        self._last: Optional[ProgressEvent] = None
        self._phase = ""

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            if exc_info[0] is None and self._callback is not None and self._last is not None:
                self._callback(self._last)
        finally:
            self._close()

    def report(
        self,
        phase: str,
        *,
        done_files: int = 0,
        total_files: Optional[int] = None,
        done_bytes: int = 0,
        total_bytes: Optional[int] = None,
        path: bytes = b"",
    ) -> None:
        """Tell where the operation is; cheap enough to be called for every file."""
        if self._callback is None:
            return
        event = ProgressEvent(
            phase=phase,
            done_files=done_files,
            total_files=total_files,
            done_bytes=done_bytes,
            total_bytes=total_bytes,
            path=os.fsdecode(path),
        )
        now = time.monotonic()
        if phase == self._phase and now < self._next:
            self._last = event
            return
        if phase != self._phase and self._last is not None:
            self._callback(self._last)
        self._last = None
        self._phase = phase
        self._next = now + _INTERVAL_SECONDS
        self._callback(event)


_FILES = "{desc}: {n:,} files [{elapsed}]"
_FILES_OF_TOTAL = "{desc}: {percentage:3.0f}%|{bar}| {n:,}/{total:,} files [{elapsed}<{remaining}]"


def bar(**options: Any) -> tuple[ProgressCallback, Callable[[], None]]:
    """Return a callback that draws a tqdm bar (in a terminal or a notebook), and the function that ends it.

    It is one line: the phase, bytes or else files, the time since the beginning, and the present rate. It vanishes at
    the end.

    Args:
        options: Passed on to tqdm, for example ``file=``.
    """
    # Imported here: it takes longer than listing a repository does. Outside of notebooks "auto" adds asyncio alone.
    tqdm = importlib.import_module("tqdm.auto" if "ipykernel" in sys.modules else "tqdm").tqdm
    kind = type("Bar", (tqdm,), {"monitor_interval": 0})  # without the thread that would outlive it
    bars: list[Any] = []
    shown: list[tuple[str, bool]] = []

    def show(event: ProgressEvent) -> None:
        by_bytes = event.total_bytes is not None or event.done_bytes > 0
        done, total = (event.done_bytes, event.total_bytes) if by_bytes else (event.done_files, event.total_files)
        line = None if by_bytes else _FILES_OF_TOTAL if total is not None else _FILES
        look = {"desc": event.phase, "total": total, "bar_format": line}
        if not bars:
            numbers = {"unit": "B", "unit_scale": True, "unit_divisor": 1024}
            drawing = {"leave": False, "dynamic_ncols": True, "mininterval": 0, "miniters": 0}
            bars.append(kind(**look, **numbers, **drawing, **options))
            shown.append((event.phase, by_bytes))
        current = bars[0]
        for name, value in look.items():
            setattr(current, name, value)
        if shown[-1] != (event.phase, by_bytes):
            shown[-1] = (event.phase, by_bytes)
            begin = current.start_t
            current.reset(total)
            current.start_t = begin
            current.n = current.last_print_n = done  # what was done before does not count as done at once
        current.set_postfix_str(f"{event.done_files:,} files" if by_bytes and event.done_files else "", refresh=False)
        current.update(done - current.n)

    def close() -> None:
        while bars:
            bars.pop().close()

    return show, close


def _nothing() -> None:
    """End of a progress display that was never begun."""
