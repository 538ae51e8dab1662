"""The other end of reading: a helper that reads small files, asks which of them are wanted, and compresses those.

Owns what a helper does; see reading for what it is told and what becomes of its answers.
"""

from __future__ import annotations

from collections import deque
from hashlib import sha256
from typing import Any, Deque, Optional, Sequence

from ...storage.arriving import Content
from ...storage.bases import Base
from ...storage.chunking import LARGE_FILE
from ...storage.compression import SETTINGS
from ...storage.filling import Filling, Members
from ...storage.packs import compress_pack, pack_buffer
from ...storage.unpacking import StoredPack
from ...tree.metadata import Status
from ...tree.open_file import OpenFile
from ...tree.source import FileChangedError, Source
from ..processes import Channel
from .reading import Finding
from .saving import DatabaseFoundError, FileSaver
from .window import unpack

__all__ = ["serve"]

#: Bytes of a run: enough that messages cost little, few enough that several fit into memory.
_RUN_BYTES = 1 << 20

#: Runs of a helper: one that is being filled, and those it has asked for.
_RUNS = 3


class _GrownError(Exception):
    """A file that was small when it was listed is large now."""


def serve(channel: Channel, root: bytes, compression: str, capturing: bool = False) -> None:
    """Read files for another process, until it says that there are no more."""
    findings: list[Finding] = []
    asker = _Asker(channel, compression)
    saver = FileSaver(Source(root), asker, _refuse, lambda *finding: findings.append(finding), capturing)
    while True:
        lot, base = asker.next_lot()
        if not lot:
            break
        asker.begin_group(base)
        results = [_read(saver, path, unpack(packed)[0]) for path, packed in lot]
        asker.ask(results, findings, saver.read_bytes)
        findings.clear()
        saver.read_bytes = 0
    asker.finish()


def _refuse(file: OpenFile) -> Content:
    raise _GrownError


def _read(saver: FileSaver, path: bytes, listed: Status) -> Any:
    """Return what became of a file, as plain values; see ``_Conversation._outcome``."""
    try:
        status, content, sparse, xattrs = saver.save(path, listed)
    except FileChangedError as exc:
        return str(exc)
    except _GrownError:
        return None
    except DatabaseFoundError:
        return ()
    except OSError as exc:
        return (exc.errno, exc.strerror)
    if status is listed and xattrs is None:
        return content.ordinal
    return (content.ordinal, tuple(status), sparse, xattrs)


class _Run:
    """Contents that were read into a buffer, one behind the other."""

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(_RUN_BYTES + LARGE_FILE + 1))
        self.clear()

    def clear(self) -> None:
        self.digests: list[bytes] = []
        self.sizes: list[int] = []
        self.filled = 0
        self.base: Optional[Base] = None


class _Asker:
    """Takes contents for the writer of another process, which it asks; a content's ordinal is its number here."""

    def __init__(self, channel: Channel, compression: str) -> None:
        self._channel = channel
        self._compression = compression
        self._lots: Deque[Any] = deque()
        self._run = _Run()
        self._asked: Deque[_Run] = deque()
        self._free = [_Run() for _ in range(_RUNS - 1)]
        self._number = 0
        self._filling = Filling(SETTINGS[compression].pack_size, pack_buffer(compression), self._given, self._compress)
        self._base: Optional[StoredPack] = None  # the one given last

    def next_lot(self) -> Any:
        """Return the next files to be read, and the base of what they had before."""
        while not self._lots:
            self._listen()
        return self._lots.popleft()

    def begin_group(self, base: Optional[Sequence[int]]) -> None:
        """Let what is read next refer to a base; None for what has none. Nothing is being read now."""
        self._run.base = None if base is None else Base(*base)

    def room(self, size: int) -> memoryview:
        """Return where the bytes of the next content may be put."""
        run = self._run
        return run.buffer[run.filled : run.filled + size]

    def add_from_room(self, size: int) -> Content:
        """Take what was put there."""
        run = self._run
        begin = run.filled
        digest = sha256(run.buffer[begin : begin + size]).digest()
        run.digests.append(digest)
        run.sizes.append(size)
        run.filled = begin + size
        content = Content(size, digest, self._number)
        self._number += 1
        if run.filled >= _RUN_BYTES:
            self.ask()
        return content

    def add(self, data: bytes | memoryview) -> Content:
        """Take a small content or a chunk."""
        size = len(data)
        self.room(size)[:] = data
        return self.add_from_room(size)

    def ask(self, results: Sequence[Any] = (), findings: Sequence[Finding] = (), read_bytes: int = 0) -> None:
        """Ask which contents of the run are wanted, and tell what became of files."""
        run = self._run
        self._channel.send((run.digests, run.sizes, list(results), list(findings), read_bytes))
        self._asked.append(run)
        while not self._free:
            self._listen()
        base = run.base
        self._run = self._free.pop()
        self._run.base = base

    def finish(self) -> None:
        """Send the last pack, and say that there will be nothing more."""
        while self._asked:
            self._listen()
        self._filling.finish()
        self._channel.send(None)

    def _listen(self) -> None:
        what, values, base = self._channel.receive()
        if what == "read":
            self._lots.append((values, base))
        else:
            if base is not None:
                self._base = StoredPack(*base)
            run = self._asked.popleft()
            self._keep(run, values)
            run.clear()
            self._free.append(run)

    def _keep(self, run: _Run, wanted: Sequence[int]) -> None:
        """Put those contents of a run into the pack that have an ordinal there; -1 is not wanted."""
        filling = self._filling
        filling.begin_group(run.base)
        begin = 0
        for ordinal, digest, size in zip(wanted, run.digests, run.sizes):
            if ordinal >= 0:
                filling.room(size)[:] = run.buffer[begin : begin + size]
                filling.keep(ordinal, digest, size)
            begin += size

    def _given(self, base: Base) -> Optional[StoredPack]:
        """Return a base that was given, as it is stored."""
        return self._base if self._base is not None and self._base.id == base.id else None

    def _compress(
        self, members: Members, buffer: memoryview, begin: int, end: int, base: Optional[StoredPack]
    ) -> memoryview:
        pack = compress_pack(members, buffer[begin:end], self._compression, base)
        reference = None if pack.base is None else pack.base.id
        self._channel.send((pack.members, pack.size, pack.codec, pack.data, reference))
        return buffer
