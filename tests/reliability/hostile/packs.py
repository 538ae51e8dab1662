"""Packs that are not what their rows say, and frames that are more than they seem."""

from __future__ import annotations

import sqlite3
import struct
from contextlib import closing
from pathlib import Path
from typing import List

from backuptool.storage.compression import compress

from .case import CHECK, HARMLESS, MAX, NAMED, Case
from .contents import NEW

__all__ = ["pack_cases"]


def _pack(repository: Path, **change: object) -> None:
    """Change the pack of the file ``new``."""
    assignments = ", ".join(f"{name} = ?" for name in change)
    with closing(sqlite3.connect(str(repository))) as connection:
        connection.execute(
            f"UPDATE packs SET {assignments} WHERE id = (SELECT pack FROM contents WHERE id = {NEW})",
            tuple(change.values()),
        )
        connection.commit()


def _frame(header: str, *blocks: bytes) -> bytes:
    """Return a zstd frame of blocks, each of them without its header."""
    data = bytes.fromhex("28b52ffd" + header)
    for number, block in enumerate(blocks):
        last = number == len(blocks) - 1
        data += struct.pack("<I", len(block) << 3 | last)[:3] + block
    return data


def _run_length_frame(header: str, blocks: int) -> bytes:
    """Return a zstd frame of blocks of 128 KiB, each of four bytes: a bomb."""
    block = 131_072 << 3 | 2
    pieces = [struct.pack("<I", block | (number == blocks - 1))[:3] + b"\0" for number in range(blocks)]
    return bytes.fromhex("28b52ffd" + header) + b"".join(pieces)


def pack_cases() -> List[Case]:
    def packed(name: str, outcome: str, **change: object) -> Case:
        return Case(name, lambda repository: _pack(repository, **change), outcome)

    plain = compress(b"new in the second one\n" * 3 + b"changed\n" * 30)[1]
    return [
        packed("a pack claims 2^40 bytes", NAMED, size=1 << 40),
        packed("a pack claims 2^62 bytes", NAMED, size=1 << 62),
        packed("a pack claims -1 bytes", NAMED, size=-1),
        packed("a pack claims no bytes", NAMED, size=0),
        packed("the size of a pack is a text", NAMED, size="text"),
        packed("the size of a pack is a fraction", NAMED, size=1.5),
        packed("the codec is unknown", NAMED, codec="lz4"),
        packed("the codec is a blob", NAMED, codec=b"\xff"),
        packed("the codec is a number", NAMED, codec=7),
        packed("a pack says it is compressed", NAMED, codec="zstd"),
        packed("a pack is empty", NAMED, data=b""),
        packed("a pack is a text", NAMED, data="text"),
        packed("a pack is a number", NAMED, data=7),
        packed("a pack of 300 MB", NAMED, codec="raw", data=bytes(300_000_000)),
        packed("a pack is cut short", NAMED, data=plain[:-5]),
        packed("there is something behind the frame", CHECK, data=plain + b"x"),
        packed("there is another frame behind the frame", CHECK, data=plain + plain),
        packed("a bomb of 8 GiB", NAMED, data=_run_length_frame("0058", 65_536)),
        packed("a bomb that tells its 8 GiB", NAMED, data=_run_length_frame("e00000000002000000", 65_536)),
        packed("a bomb of 16 MiB that tells of 297 bytes", NAMED, data=_run_length_frame("60c700", 128)),
        packed("a frame that needs a window of 2 GiB", NAMED, data=_frame("00a8", b"x" * 297)),
        packed("a frame that needs a window of 3.75 TiB", NAMED, data=_frame("00ff", b"x" * 297)),
        packed("a frame that needs a dictionary", NAMED, data=_frame("0158" + "07", b"x" * 297)),
        packed("a frame that may be skipped", NAMED, data=struct.pack("<II", 0x184D2A50, 1 << 31)),
        packed("a frame without blocks", NAMED, data=_frame("0058")),
        packed("the age of a pack is a text", HARMLESS, written_ns="text"),
        packed("the age of a pack is the highest there is", HARMLESS, written_ns=MAX),
        Case("the fill of a pack is negative", ("UPDATE packs SET live = -5",), CHECK, settled=False),
        Case("the fill of a pack is a text", ("UPDATE packs SET live = 'text'",), CHECK, settled=False),
        Case("there are no packs", ("DELETE FROM packs",), NAMED),
        Case("packs are one another", ("UPDATE packs SET data = (SELECT data FROM packs WHERE id = 1)",), NAMED),
    ]
