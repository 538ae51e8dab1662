"""What a snapshot holds at one path."""

from __future__ import annotations

import datetime
import posixpath
import stat
from typing import Any, Literal, Optional

import attrs

from .presentation import Result, format_size, local_time

__all__ = ["KINDS", "Entry", "Kind"]

#: What an entry is.
Kind = Literal["file", "directory", "symlink", "fifo", "socket", "character-device", "block-device"]

#: The kinds by the letter that the repository has for each.
KINDS: dict[str, Kind] = {
    "f": "file",
    "d": "directory",
    "l": "symlink",
    "p": "fifo",
    "s": "socket",
    "c": "character-device",
    "b": "block-device",
}

_FORMATS = {
    "file": stat.S_IFREG,
    "directory": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
    "character-device": stat.S_IFCHR,
    "block-device": stat.S_IFBLK,
}


@attrs.frozen(kw_only=True, repr=False)
class Entry(Result):
    """What a snapshot holds at one path.

    Attributes:
        path: Relative to the source, ``""`` for the source itself.
        kind: ``"file"``, ``"directory"``, ``"symlink"``, ``"fifo"``, ``"socket"``, ``"character-device"`` or
            ``"block-device"``.
        mode: Permission bits with setuid, setgid and sticky, 0 to 0o7777.
        uid: Number of the owner.
        gid: Number of the group.
        user: Name of the owner where it was saved, ``""`` if it had none.
        group: Name of the group where it was saved, ``""`` if it had none.
        mtime_ns: When it was modified last, ns since 1970 UTC.
        size_bytes: Bytes of a file; 0 of everything else.
        sha256: SHA-256 of a file's bytes, 64 hex digits, equal to what ``sha256sum`` prints; None of everything else.
        target: Where a symlink leads; None of everything else.
        device: Number of a device, as ``st_rdev`` has it; None of everything else.
    """

    path: str
    kind: Kind
    mode: int
    uid: int
    gid: int
    user: str
    group: str
    mtime_ns: int
    size_bytes: int
    sha256: Optional[str] = None
    target: Optional[str] = None
    device: Optional[int] = None

    @property
    def name(self) -> str:
        """The last component of its path."""
        return posixpath.basename(self.path)

    @property
    def time(self) -> datetime.datetime:
        """When it was modified last, in local time, with the UTC offset."""
        return local_time(self.mtime_ns)

    @property
    def st_mode(self) -> int:
        """Kind and permissions as ``os.stat`` has them; of a mode that no file can have, what is within the range."""
        return _FORMATS[self.kind] | (self.mode & 0o7777)

    def _derived(self) -> dict[str, Any]:
        return {"time": self.time.isoformat(timespec="seconds")}

    def _headline(self) -> str:
        text = f"{stat.filemode(self.st_mode)} {self.path or '.'}"
        if self.kind == "file":
            text += f", {format_size(self.size_bytes)}"
        text += f", {self.time:%Y-%m-%d %H:%M:%S}"
        return text if self.target is None else f"{text} -> {self.target}"
