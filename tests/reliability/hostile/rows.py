"""Statements that forge rows of files."""

from __future__ import annotations

from typing import Union

__all__ = ["change", "link", "row"]

_COLUMNS = (
    "source, path, first, last, added, kind, mode, uid, gid, user, grp, mtime_ns, size, content, sparse, rdev, target, "
    "xattrs, link, ctime_ns, inode"
)


def row(like: str, **values: Union[str, int, None]) -> str:
    """Return a statement that inserts a row like the current one of a path, with other values (SQL expressions)."""
    row = [str(values.get(name, name)) for name in _COLUMNS.split(", ")]
    return (
        f"INSERT INTO files ({_COLUMNS}) SELECT {', '.join(row)} FROM files "
        f"WHERE path = '{like}' AND source = 1 AND last IS NULL"
    )


def change(of: str, **values: Union[str, int]) -> str:
    """Return a statement that changes the current row of a path."""
    assignments = ", ".join(f"{name} = {value}" for name, value in values.items())
    return f"UPDATE files SET {assignments} WHERE path = '{of}' AND source = 1 AND last IS NULL"


def link(path: str, target: str) -> str:
    """Return a statement that inserts a symlink."""
    return row("symlink", path=f"'{path}'", target=f"'{target}'")
