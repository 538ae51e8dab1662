"""Fingerprints of the catalog: what a snapshot holds in 32 bytes, so that no changed bit in it goes unnoticed.

Owns the canonical encoding of a file version and of a snapshot (docs/format.md, "Digests"). A tree's digest is a set
hash, the sum modulo 2^256 of the SHA-256 of each row, so that a commit updates it from the changed rows alone.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Iterable, NamedTuple, Optional, Tuple

__all__ = [
    "MODULUS",
    "FileVersion",
    "hash_zeros",
    "layout_entry",
    "row_hash",
    "snapshot_digest",
    "to_bytes",
]

MODULUS = 1 << 256

_HEAD = struct.Struct(">cqqqqqBqiiiiiii").pack

_PART = struct.Struct(">Q32s")

_HOLE = bytes(32)

_ZEROS = bytes(1 << 20)


class FileVersion(NamedTuple):
    """One version of one path, as users see it: a row of ``files`` without its range and change detection.

    A plain tuple: there is one for each row that is read or written, and an attrs class takes twice as long to make.

    Attributes:
        path: Relative to the source, ``b""`` for the source itself.
        kind: ``f d l p s c b`` as one byte.
        mode: Permission bits.
        uid, gid: Owner and group by number.
        user, group: Owner and group by name, b"" if unknown.
        mtime_ns: ns since 1970 UTC.
        size: Bytes of a regular file, else 0.
        hash: SHA-256 of a regular file's bytes, else None.
        sparse: 1 if the file had holes, else 0.
        rdev: Device number of a device, else None.
        target: Of a symlink, else None.
        xattrs: Encoded extended attributes, None if there are none.
        link: Equal for all paths of one inode, None if it has no other path.
    """

    path: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    user: bytes
    group: bytes
    mtime_ns: int
    size: int
    hash: Optional[bytes]
    sparse: int
    rdev: Optional[int]
    target: Optional[bytes]
    xattrs: Optional[bytes]
    link: Optional[bytes]

    @property
    def inode(self) -> Tuple[object, ...]:
        """What all paths of one inode have in common; of a file that has other paths.

        The identity alone would not do: two devices may have the same inode number, and device numbers are used again.
        """
        return (
            *(self.link, self.kind, self.mode, self.uid, self.gid, self.mtime_ns, self.size, self.hash, self.rdev),
            *(self.target, self.xattrs),
        )


def row_hash(version: FileVersion) -> int:
    """Return the SHA-256 of a version's canonical encoding, as an integer below 2^256. About 2 µs."""
    (path, kind, mode, uid, gid, user, group, mtime_ns, size, digest, sparse, rdev, target, xattrs, link) = version
    data = b"".join(
        (
            _HEAD(
                kind,
                mode,
                uid,
                gid,
                mtime_ns,
                size,
                sparse,
                -1 if rdev is None else rdev,
                len(path),
                len(user),
                len(group),
                -1 if digest is None else len(digest),
                -1 if target is None else len(target),
                -1 if xattrs is None else len(xattrs),
                -1 if link is None else len(link),
            ),
            path,
            user,
            group,
            digest or b"",
            target or b"",
            xattrs or b"",
            link or b"",
        )
    )
    return int.from_bytes(hashlib.sha256(data).digest(), "big")


def to_bytes(digest: int) -> bytes:
    """Return a digest as the 32 bytes that are stored, most significant first."""
    return digest.to_bytes(32, "big")


def snapshot_digest(fields: Iterable[object]) -> bytes:
    """Return the SHA-256 over a snapshot's own fields: each as its type, its length and its bytes."""
    hasher = hashlib.sha256()
    for field in fields:
        data = field if isinstance(field, bytes) else str(field).encode("utf-8", "surrogateescape")
        hasher.update(b"%c%d:" % (b"b" if isinstance(field, bytes) else b"i", len(data)))
        hasher.update(data)
    return hasher.digest()


def layout_entry(offset: int, part: Optional[bytes]) -> bytes:
    """Return what a part contributes to the digest of a large content's layout: the SHA-256 over all of these.

    Args:
        offset: Where the part begins.
        part: Its SHA-256, None for a hole.
    """
    return _PART.pack(offset, _HOLE if part is None else part)


def hash_zeros(hasher: hashlib._Hash, length: int) -> None:
    """Feed a hasher that many zeros: a hole."""
    while length > 0:
        hasher.update(_ZEROS if length >= len(_ZEROS) else _ZEROS[:length])
        length -= len(_ZEROS)
