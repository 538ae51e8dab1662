"""Values of files that no file can have."""

from __future__ import annotations

import struct
from typing import List, Sequence, Tuple

from .case import CHECK, HARMLESS, MAX, RESTORE, Case
from .rows import change, row

__all__ = ["value_cases"]


def value_cases() -> List[Case]:
    huge = str(1 << 62)
    values: Sequence[Tuple[str, str, str]] = (
        ("mode", "65535", CHECK),
        ("mode", "-1", CHECK),
        ("mode", huge, CHECK),
        ("mode", "'text'", CHECK),
        ("uid", "-1", CHECK),
        ("uid", "4294967295", CHECK),
        ("uid", huge, CHECK),
        ("uid", "x'00'", CHECK),
        ("gid", "-2", CHECK),
        ("gid", "1.5", CHECK),
        ("mtime_ns", str(MAX), HARMLESS),
        ("mtime_ns", f"-{MAX} - 1", CHECK),
        ("mtime_ns", "1e300", CHECK),
        ("mtime_ns", "'soon'", CHECK),
        ("size", "-1", CHECK),
        ("size", huge, CHECK),
        ("size", "'much'", CHECK),
        ("size", "1", CHECK),
        ("kind", "''", CHECK),
        ("kind", "'zz'", CHECK),
        ("kind", "'x'", CHECK),
        ("kind", "'l'", CHECK),
        ("kind", "'d'", CHECK),
        ("sparse", "300", CHECK),
        ("sparse", "-1", CHECK),
        ("sparse", "7", CHECK),
        ("rdev", "'text'", CHECK),
        ("content", "NULL", CHECK),
        ("content", "4711", CHECK),
        ("content", "-1", CHECK),
        ("content", "'text'", CHECK),
        ("content", "(SELECT content FROM files WHERE path = 'large')", CHECK),
        ("target", "'../outside/victim'", CHECK),
        ("xattrs", "x'00'", CHECK),
        ("xattrs", "x'ffffffff00'", CHECK),
        ("xattrs", "'text'", CHECK),
        ("xattrs", "zeroblob(50000000)", CHECK),
        ("link", "7", HARMLESS),
        ("first", "3", CHECK),
        ("first", "'text'", CHECK),
        ("first", f"{MAX}", CHECK),
        ("last", "1", CHECK),
        ("last", "'text'", CHECK),
        ("last", "-5", CHECK),
        ("added", "5", HARMLESS),
        ("added", "'text'", HARMLESS),
        ("source", "99", CHECK),
        ("ctime_ns", "'text'", HARMLESS),
        ("inode", "x'ff'", HARMLESS),
    )
    cases = [
        Case(f"{column} of a file is {value}", (change("new", **{column: value}),), outcome)
        for column, value, outcome in values
    ]
    return [
        *cases,
        Case("a symlink leads nowhere", (change("symlink", target="''"),), CHECK),
        Case("a symlink has no target", (change("symlink", target="NULL"),), CHECK),
        Case("a symlink leads to a NUL", (change("symlink", target="CAST(x'610062' AS TEXT)"),), CHECK),
        Case("a symlink of 5,000 bytes", (change("symlink", target="printf('%.*c', 5000, 'n')"),), RESTORE),
        Case("a device of any number", (row("fifo", path="'device'", kind="'c'", rdev=huge),), RESTORE),
        Case("a device of a negative number", (row("fifo", path="'device'", kind="'b'", rdev="-7"),), RESTORE),
        Case("a device without a number", (row("fifo", path="'device'", kind="'c'"),), CHECK),
        Case(
            "attributes that no file can have",
            (change("new", xattrs=_attributes("security.capability", 3)),),
            RESTORE,
        ),
        Case("an ACL that is none", (change("new", xattrs=_attributes("system.posix_acl_access", 9)),), RESTORE),
        Case("an attribute without a name", (change("new", xattrs="x'0000000000000000'"),), RESTORE),
        Case("a NUL in the name of an attribute", (change("new", xattrs=_attributes("user.\0x", 1)),), RESTORE),
        Case("100,000 attributes", (change("new", xattrs=_many_attributes()),), HARMLESS),
    ]


def _attributes(name: str, size: int) -> str:
    data = struct.pack(">I", len(name)) + name.encode() + struct.pack(">I", size) + b"x" * size
    return f"x'{data.hex()}'"


def _many_attributes() -> str:
    fields = (b"%s%s" % (struct.pack(">I", 10) + b"user.%05d" % number, bytes(4)) for number in range(100_000))
    return f"x'{b''.join(fields).hex()}'"
