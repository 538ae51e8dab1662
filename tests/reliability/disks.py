"""What may be on a disk after the power failed: a model of a directory, of what was synced in it, and of what was not.

Owns how a process's writes, syncs and directory changes are recorded, and which states may be found afterwards. The
process is a real one, and what is recorded are its system calls, so that nothing of it or of SQLite is left out.

The model is stricter than any file system: of what was written and not synced, each sector of 512 bytes may be there or
not, whatever came before or behind it; a file may have grown with nothing written into it, or with what an older file
had there; a name may be missing, or be there again, until its directory was synced.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Callable, Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Set, Tuple

import attrs

from .calls import Call, memory
from .tracing import Ended, Verdict, run_traced

__all__ = ["Disk", "Operation", "State", "record"]

_SECTOR = 512

#: The calls by which SQLite, and whoever creates its file, change a directory or make sure of it.
_CALLS: FrozenSet[str] = frozenset(
    {
        "openat",
        "write",
        "pwrite64",
        "ftruncate",
        "fsync",
        "fdatasync",
        "unlink",
        "unlinkat",
        "link",
        "linkat",
        "rename",
        "fallocate",
    }
)


class Operation(NamedTuple):
    """One thing that was done.

    Attributes:
        kind: "link", "unlink", "write", "truncate", "sync", "sync directory", or what the caller noted.
        inode: Of the file, a number of the recorder's.
        name: Of the entry, for "link" and "unlink".
        offset: Of a write in bytes, or the length for "truncate".
        data: What was written.
    """

    kind: str
    inode: int = -1
    name: str = ""
    offset: int = 0
    data: bytes = b""


class State(NamedTuple):
    """The files of a directory, by name, as they may be found."""

    files: Tuple[Tuple[str, bytes], ...]

    def write(self, place: Path) -> None:
        """Put them into a directory, and nothing else."""
        wanted = {name for name, _ in self.files}
        for entry in os.listdir(place):
            if entry not in wanted:
                os.unlink(place / entry)
        for name, data in self.files:
            with open(place / name, "wb") as file:
                file.write(data)


def record(
    function: Callable[[], int], place: Path, operations: List[Operation], note: Callable[[Call], Optional[str]]
) -> Ended:
    """Run a function in a process of its own and record what it does in a directory.

    Args:
        function: Returns the exit code.
        place: The directory.
        operations: Is added to. Inodes are numbered on from those it has.
        note: Is asked of each write elsewhere; what it returns is recorded as a kind of its own.
    """
    inodes = {operation.name: operation.inode for operation in operations if operation.kind == "link"}
    counter = 1 + max((operation.inode for operation in operations), default=-1)
    prefix = f"{place}/"

    def at_call(call: Call) -> Verdict:
        nonlocal counter
        path = call.full_path()
        name = path[len(prefix) :] if path.startswith(prefix) else ""
        if call.name == "openat":
            if name and call.arguments[2] & os.O_CREAT and not os.path.lexists(path):
                inodes[name] = counter
                operations.append(Operation("link", counter, name))
                counter += 1
        elif call.name in ("fsync", "fdatasync"):
            if path == str(place):
                operations.append(Operation("sync directory"))
            elif name:
                operations.append(Operation("sync", inodes[name]))
        elif call.name == "pwrite64" and name:
            data = memory(call.process, call.arguments[1], call.arguments[2])
            operations.append(Operation("write", inodes[name], offset=call.arguments[3], data=data))
        elif call.name == "ftruncate" and name:
            operations.append(Operation("truncate", inodes[name], offset=call.arguments[1]))
        elif call.name in ("link", "linkat") and name:
            inodes[name] = inodes[call.old_name()]
            operations.append(Operation("link", inodes[name], name))
        elif call.name in ("unlink", "unlinkat") and name:
            operations.append(Operation("unlink", inodes[name], name))
        elif name:
            raise AssertionError(f"{call.name} of {path}: the model does not know what that does")
        else:
            noted = note(call)
            if noted:
                operations.append(Operation(noted))
        return None

    return run_traced(function, _CALLS, at_call)


@attrs.define
class _File:
    """A file: what is sure to be there, and what was done since."""

    durable: bytes = b""
    pending: List[Operation] = attrs.Factory(list)


@attrs.define
class Disk:
    """A directory and everything that was done in it up to a moment."""

    _files: Dict[int, _File] = attrs.Factory(dict)
    _names: Dict[str, int] = attrs.Factory(dict)
    _pending: List[Operation] = attrs.Factory(list)

    @classmethod
    def of(cls, state: State) -> Disk:
        """Return a disk that has exactly this, all of it for sure; inodes are numbered in the order of the names."""
        disk = cls()
        for number, (name, data) in enumerate(state.files):
            disk._files[number] = _File(data)
            disk._names[name] = number
        return disk

    def links(self) -> List[Operation]:
        """Return the names that are there for sure as if they had just been made, for :func:`record` to go on from."""
        return [Operation("link", inode, name) for name, inode in self._names.items()]

    def apply(self, operation: Operation) -> None:
        """Do one thing more."""
        if operation.kind == "sync directory":
            self._names = _with(self._names, self._pending)
            self._pending = []
        elif operation.kind in ("link", "unlink"):
            self._files.setdefault(operation.inode, _File())
            self._pending.append(operation)
        elif operation.kind == "sync":
            file = self._files[operation.inode]
            file.durable, file.pending = _content(file, lambda change: None), []
        elif operation.kind in ("write", "truncate"):
            self._files[operation.inode].pending.append(operation)

    def unsynced(self) -> int:
        """Return how many operations may be lost."""
        return len(self._pending) + sum(len(file.pending) for file in self._files.values())

    def now(self) -> State:
        """Return what the process itself sees."""
        return self._state(_with(self._names, self._pending), lambda file: _content(file, lambda change: None))

    def synced(self) -> State:
        """Return what is there if everything that was not synced is lost."""
        return self._state(self._names, lambda file: file.durable)

    def states(self, number: int, chosen: random.Random) -> Iterator[State]:
        """Yield what may be found after a power failure: the two extremes, then so many at random."""
        yield self.now()
        if not self.unsynced():
            return
        yield self.synced()
        for _ in range(number):
            yield self.random(chosen)

    def random(self, chosen: random.Random) -> State:
        """Return one of the states that may be found."""
        likely = chosen.choice((0.03, 0.5, 0.9, 0.97, 1.0))
        if chosen.random() < 0.5:  # directories often keep the order of their changes
            done = self._pending[: chosen.randrange(len(self._pending) + 1)]
        else:
            done = [operation for operation in self._pending if chosen.random() < likely]
        tear = chosen.random() < 0.5

        def fate(change: Operation) -> Optional[Set[int]]:
            if not tear or change.kind != "write":
                return None if chosen.random() < likely else set()
            first, last = change.offset // _SECTOR, (change.offset + len(change.data) - 1) // _SECTOR
            return {sector for sector in range(first, last + 1) if chosen.random() < likely}

        grown = chosen.choice((None, None, b"\0", chosen.getrandbits(8 * _SECTOR).to_bytes(_SECTOR, "big")))
        return self._state(_with(self._names, done), lambda file: _content(file, fate, grown))

    def _state(self, names: Dict[str, int], content: Callable[[_File], bytes]) -> State:
        return State(tuple((name, content(self._files[inode])) for name, inode in sorted(names.items())))


def _with(names: Dict[str, int], operations: List[Operation]) -> Dict[str, int]:
    """Return the names after directory changes."""
    changed = dict(names)
    for operation in operations:
        if operation.kind == "link":
            changed[operation.name] = operation.inode
        elif changed.get(operation.name) == operation.inode:
            del changed[operation.name]
    return changed


def _content(file: _File, fate: Callable[[Operation], Optional[Set[int]]], grown: Optional[bytes] = None) -> bytes:
    """Return the bytes of a file of whose pending changes some have reached the disk.

    Args:
        file: The file.
        fate: Says of a change what became of it: None if all of it is there, else the sectors that are.
        grown: If the file has its full length, although not all is written: what is in the rest.
    """
    if not file.pending:
        return file.durable
    data = bytearray(file.durable)
    for change in file.pending:
        sectors = fate(change)
        if change.kind == "truncate":
            if sectors is None:
                del data[change.offset :]
                data.extend(bytes(change.offset - len(data)))
            continue
        end = change.offset + len(change.data)
        if sectors is None:
            _put(data, change.offset, change.data, grown)
        else:
            for sector in sorted(sectors):
                begin = max(change.offset, sector * _SECTOR)
                piece = change.data[begin - change.offset : (sector + 1) * _SECTOR - change.offset]
                _put(data, begin, piece, grown)
            if grown is not None and len(data) < end:
                _put(data, end, b"", grown)
    return bytes(data)


def _put(data: bytearray, offset: int, piece: bytes, grown: Optional[bytes]) -> None:
    """Write into a file; what lies between its end and there becomes zeros, or what was in that place before."""
    missing = offset - len(data)
    if missing > 0:
        filling = grown or b"\0"
        data.extend((filling * (missing // len(filling) + 1))[:missing])
    data[offset : offset + len(piece)] = piece
