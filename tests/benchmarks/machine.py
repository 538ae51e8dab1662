"""What a figure was measured on, as far as it matters and no further: no names, no paths."""

from __future__ import annotations

import os
import platform
import re
import sqlite3
from pathlib import Path

__all__ = ["machine_description", "python_description"]


def machine_description(file_system: str) -> str:
    """Return a line such as "2 cores (x86_64, SHA instructions), 24.6 GB of memory, Linux 6.1, tmpfs"."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processor: list[str] = [platform.machine()]
    flags = _read(Path("/proc/cpuinfo")).split()
    if "sha_ni" in flags or "sha2" in flags:
        processor.append("SHA instructions")
    parts = [f"{cores} core{'s' if cores > 1 else ''} ({', '.join(processor)})"]
    memory = _memory_bytes()
    if memory:
        parts.append(f"{memory / 1e9:.1f} GB of memory")
    release = re.match(r"\d+(\.\d+)?", platform.release())
    parts.append(f"{platform.system()} {release.group() if release else ''}".strip())
    return ", ".join([*parts, file_system])


def python_description() -> str:
    """Return the versions of Python and of its SQLite."""
    return f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"


def _memory_bytes() -> int | None:
    found = re.search(r"^MemTotal:\s+(\d+) kB", _read(Path("/proc/meminfo")), re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
