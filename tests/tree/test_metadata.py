"""Kinds, times and extended attributes."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Dict, List

import pytest
from conftest import write

from backuptool.tree.metadata import (
    clamp_ns,
    decode_xattrs,
    encode_xattrs,
    kind_of,
    read_xattrs,
    signed_inode,
    trusted_ctime_ns,
)
from backuptool.tree.portability import OPEN_FILE


def test_each_kind_has_the_letter_that_find_prints() -> None:
    kinds = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)
    assert b"".join(kind_of(kind | 0o644) or b"?" for kind in kinds) == b"fdlpscb"
    assert kind_of(0o160000) is None


def test_times_beyond_64_bits_become_the_nearest_that_fit() -> None:
    limit = (1 << 63) - 1
    assert [clamp_ns(value) for value in (0, -1, limit, limit + 1, -limit, -limit - 5)] == [
        0,
        -1,
        limit,
        limit,
        -limit,
        -limit,
    ]


def test_inode_numbers_of_64_bits_fit_into_signed_ones() -> None:
    assert [signed_inode(value) for value in (0, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)] == [
        0,
        (1 << 63) - 1,
        -(1 << 63),
        -1,
    ]


SECOND = 1_000_000_000

NOON = 1_700_000_000 * SECOND


@pytest.mark.parametrize(
    ("ctime_ns", "mtime_ns", "trusted"),
    [
        (NOON - 10_000_001, 0, True),
        (NOON - 9_999_999, 0, False),  # as young as the walk
        (NOON + 1, 0, False),
        (NOON - 10_000_001, NOON + SECOND, False),
        (NOON - 2 * SECOND, 0, True),  # whole seconds: a file system with a coarse clock, perhaps
        (NOON - SECOND, 0, False),
        (-5, -5, True),
    ],
)
def test_a_change_time_as_young_as_the_walk_is_not_trusted(ctime_ns: int, mtime_ns: int, trusted: bool) -> None:
    status = os.stat_result(
        (0o100644, 1, 2, 1, 0, 0, 0, 0, 0, 0),
        {"st_ctime_ns": ctime_ns, "st_mtime_ns": mtime_ns},
    )
    assert trusted_ctime_ns(status, NOON) == (ctime_ns if trusted else None)


def test_attributes_survive_their_encoding() -> None:
    hypothesis = pytest.importorskip("hypothesis")
    strategies = pytest.importorskip("hypothesis.strategies")

    def holds(xattrs: Dict[bytes, bytes]) -> None:
        data = encode_xattrs(xattrs)
        assert (data is None) == (not xattrs)
        assert list(decode_xattrs(data)) == sorted(xattrs.items())

    settings = hypothesis.settings(max_examples=100, deadline=None, database=None)
    settings(hypothesis.given(strategies.dictionaries(strategies.binary(), strategies.binary()))(holds))()


def test_damaged_attributes_are_an_error_and_nothing_else() -> None:
    hypothesis = pytest.importorskip("hypothesis")
    strategies = pytest.importorskip("hypothesis.strategies")

    def holds(data: bytes) -> None:
        try:
            found = dict(decode_xattrs(data))
        except ValueError:
            return
        assert sum(8 + len(name) + len(value) for name, value in found.items()) <= len(data)

    settings = hypothesis.settings(max_examples=200, deadline=None, database=None)
    settings(hypothesis.given(strategies.binary(max_size=40))(holds))()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\0\0\0", "within a length"),
        (b"\0\0\0\1", "within a field"),
        (b"\0\0\0\1a", "behind a name"),
        (b"\xff\xff\xff\xffa", "within a field"),
    ],
)
def test_attributes_cut_short_are_an_error(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(decode_xattrs(data))


def test_no_attributes_are_no_bytes() -> None:
    assert encode_xattrs({}) is None
    assert list(decode_xattrs(None)) == [] == list(decode_xattrs(b""))


def test_attributes_are_read_sorted_by_descriptor_and_by_path(tmp_path: Path) -> None:
    path = write(tmp_path / "file", b"")
    assert read_xattrs(os.fsencode(path)) is None
    for name in ("user.b", "user.a", "user.c"):
        os.setxattr(path, name, name.encode())
    expected = encode_xattrs({name: name for name in (b"user.a", b"user.b", b"user.c")})
    assert read_xattrs(os.fsencode(path)) == expected
    descriptor = os.open(path, OPEN_FILE)
    assert read_xattrs(descriptor) == expected
    os.close(descriptor)
    (tmp_path / "symlink").symlink_to("file")
    assert read_xattrs(os.fsencode(tmp_path / "symlink")) is None


@pytest.mark.parametrize("error", [errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.ENOENT])
def test_a_file_system_without_attributes_has_none(monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    def refuse(*arguments: object, **options: object) -> List[str]:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "listxattr", refuse)
    if error in (errno.ENOTSUP, errno.ENOSYS):
        assert read_xattrs(b"/") is None
    else:
        with pytest.raises(OSError, match=os.strerror(error)):
            read_xattrs(b"/")


@pytest.mark.parametrize("error", [errno.ENODATA, errno.EACCES])
def test_an_attribute_removed_since_it_was_listed_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    path = write(tmp_path / "file", b"")
    for name in ("user.a", "user.b"):
        os.setxattr(path, name, b"1")
    getxattr = os.getxattr

    def vanished(target: bytes, name: str, **options: bool) -> bytes:
        if name == "user.a":
            raise OSError(error, os.strerror(error))
        return getxattr(target, name, **options)

    monkeypatch.setattr(os, "getxattr", vanished)
    if error == errno.ENODATA:
        assert read_xattrs(os.fsencode(path)) == encode_xattrs({b"user.b": b"1"})
    else:
        with pytest.raises(PermissionError):
            read_xattrs(os.fsencode(path))
