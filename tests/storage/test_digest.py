"""Digests: what vouches for rows."""

from __future__ import annotations

import hashlib
import struct
from typing import Any, Dict

import pytest

from backuptool.storage.digest import hash_zeros, layout_entry, row_hash, snapshot_digest, to_bytes

from .making import MIB, VERSION, sha256


def test_hash_of_a_version_is_that_of_the_format() -> None:
    head = b"f" + struct.pack(">5q", 0o4755, 1000, 4_000_000_000, -1, 5) + b"\1" + struct.pack(">q", -1)
    lengths = struct.pack(">7i", 4, 4, 0, 32, -1, 5, 3)
    encoded = head + lengths + b"a/b\xff" + b"user" + sha256(b"12345") + b"\0\0\0\1x" + b"1:2"
    assert to_bytes(row_hash(VERSION)) == sha256(encoded)


@pytest.mark.parametrize(
    "change",
    [
        {"path": b"a/b"},
        {"kind": b"p"},
        {"mode": 0o755},
        {"uid": 1001},
        {"gid": 0},
        {"user": b""},
        {"group": b"user"},
        {"mtime_ns": 0},
        {"size": 6},
        {"hash": None},
        {"sparse": 0},
        {"rdev": 0},
        {"target": b""},
        {"xattrs": None},
        {"link": b""},
        {"path": b"a/b\xffuser", "user": b""},
    ],
)
def test_every_field_changes_the_hash(change: Dict[str, Any]) -> None:
    assert row_hash(VERSION._replace(**change)) != row_hash(VERSION)


def test_digest_of_a_snapshot_is_that_of_the_format() -> None:
    assert snapshot_digest((1, "h\udcff", b"/r", "")) == sha256(b"i1:1" + b"i2:h\xff" + b"b2:/r" + b"i0:")
    assert snapshot_digest(("ab", "c")) != snapshot_digest(("a", "bc"))
    assert snapshot_digest((b"1",)) != snapshot_digest(("1",))


def test_entry_of_a_layout_is_that_of_the_format() -> None:
    assert layout_entry(258, sha256(b"x")) == bytes(6) + b"\1\2" + sha256(b"x")
    assert layout_entry(0, None) == bytes(40)


@pytest.mark.parametrize("length", [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB + 7])
def test_zeros_are_hashed_without_making_them(length: int) -> None:
    hasher = hashlib.sha256(b"before")
    hash_zeros(hasher, length)
    assert hasher.digest() == sha256(b"before" + bytes(length))
