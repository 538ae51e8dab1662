"""The part of a Markdown file that the benchmark writes: between two comments, a section for each data set.

Whatever else is in the file is left as it is, and so are the sections of data sets that were not measured this time.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Sequence

__all__ = ["BEGIN", "END", "can_write", "write_sections"]

BEGIN = "<!-- benchmark results: written by python -m tests.benchmarks, not by hand -->"
END = "<!-- end of the benchmark results -->"

_SECTION = "<!-- data set: {} -->"


def can_write(path: Path) -> bool:
    """Whether a file can take the results: it does not exist, or it has the two comments."""
    return not path.exists() or _parts(path.read_text(encoding="utf-8")) is not None


def write_sections(path: Path, sections: dict[str, str], order: Sequence[str]) -> None:
    """Write sections into a file, in the place of those of the same names.

    Args:
        path: The file; is made if it does not exist.
        sections: Markdown by heading: the data set's name, perhaps with a colon and more behind it.
        order: All data sets there are, in the order of the document.

    Raises:
        ValueError: The file exists and has no place for them.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else f"# Benchmarks\n\n{BEGIN}\n{END}\n"
    parts = _parts(text)
    if parts is None:
        raise ValueError(f"{path}: has no line {BEGIN!r} with a line {END!r} after it")
    before, present, after = parts
    merged = {**_read_sections(present), **sections}
    known = [title for name in order for title in sorted(merged) if title.partition(":")[0] == name]
    body = "\n".join(f"{_SECTION.format(name)}\n\n{merged[name].strip()}\n" for name in known)
    path.write_text(f"{before}{BEGIN}\n{body}{END}{after}", encoding="utf-8")


def _parts(text: str) -> tuple[str, str, str] | None:
    before, found, rest = text.partition(BEGIN)
    present, found_end, after = rest.partition(END)
    return (before, present, after) if found and found_end else None


def _read_sections(text: str) -> dict[str, str]:
    pieces = re.split(_SECTION.format(r"(.+?)"), text)
    return dict(zip(pieces[1::2], pieces[2::2]))
