"""What remembers the newest state of an encrypted repository outside of it: a small file in the user's state directory.

Owns that file and the comparison. Nothing in a repository can tell that the whole of it was replaced by an older copy:
each copy is sealed as it should be. So the number of the seal, which grows with each change, is kept elsewhere.

The file is named and authenticated by the repository's key. It says how often the repository was changed, its highest
snapshot and its seal; no name, no path, and nothing that opens anything.
"""

from __future__ import annotations

import json
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Optional

import attrs

from ...errors import BackuptoolError
from ...results.problem import Problem
from ...results.remembered import Remembered
from .seal import found_seal

if TYPE_CHECKING:
    from ..database import Database
    from .construction import FileKey

__all__ = ["Witness"]

#: Of the file. Another one is taken for none.
_VERSION = 1

#: No file of ours is longer.
_MOST_BYTES = 4096

_BINARY = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


@attrs.frozen
class _State:
    """A state of a repository.

    Attributes:
        changes: The sequence number of its seal.
        seal: The proof in its seal, 64 hex digits: two states with one number differ in it.
        snapshot: The highest number that a snapshot ever had, 0 for none.
    """

    changes: int
    seal: str
    snapshot: int


@attrs.frozen
class _Testimony:
    """What the file says.

    Attributes:
        newest: The newest state that was seen.
        older: The older one that was found in its place, None if none was. It stays until the newest is back, or
            somebody removes the file: changes go on in the older copy, and soon there are as many as there were.
    """

    newest: _State
    older: Optional[_State] = None


class Witness:
    """Compares each state of one repository that it is shown with the newest one that was seen before.

    It never raises anything for the file's sake. May be used from several threads.

    Args:
        directory: Where the files are kept; it is made, for its owner alone, if it is missing.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._file = ""
        self._known: Optional[_Testimony] = None
        self._unsaved = ""
        self._guard = threading.Lock()

    @property
    def remembered(self) -> Optional[Remembered]:
        """What is remembered; None before a repository was opened."""
        known = self._known
        if known is None:
            return None
        return Remembered(
            file=self._file,
            changes=known.newest.changes,
            snapshot=known.newest.snapshot,
            problem=None if known.older is None else _problem(known.newest, known.older, self._file),
            unsaved=self._unsaved,
        )

    def look(self, database: Database, key: FileKey) -> None:
        """Compare the present state with what was seen, and remember it if it is newer."""
        with self._guard:
            if not self._file:
                self._file = os.path.join(self._directory, key.proof(b"remembered", b"name").hex()[:32] + ".json")
            if self._known is None:
                # Read before the repository is: what another process commits in between is newer, not older.
                self._known = self._read(key)
            try:
                now = _state(database)
            except BackuptoolError:
                return  # whoever opened it finds out what is wrong
            if now is None:
                return
            known = _with(self._known, now)
            if known != self._known:
                self._known = known
                self._write(known, key)

    def _read(self, key: FileKey) -> Optional[_Testimony]:
        try:
            descriptor = os.open(self._file, os.O_RDONLY | _BINARY)
        except FileNotFoundError:
            return None
        except OSError as exc:
            self._unsaved = f"{exc.strerror}"
            return None
        try:
            with os.fdopen(descriptor, "rb") as file:
                return _decoded(file.read(_MOST_BYTES), key)
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as exc:
            self._unsaved = f"what was there could not be read ({type(exc).__name__})"
            return None

    def _write(self, known: _Testimony, key: FileKey) -> None:
        """Keep it: under a temporary name, synced, and then under its own."""
        temporary = os.path.join(self._directory, f".{os.urandom(8).hex()}.new")
        try:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            kept = self._read(key)
            if kept is not None and known.older is None and kept.newest != known.newest:
                if kept.older is not None:
                    self._known = kept  # another process has found an older one
                    return
                if kept.newest.changes >= known.newest.changes:
                    return  # another process has seen a newer one
            descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | _BINARY, 0o600)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(_encoded(known, key))
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, self._file)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary)
                raise
            self._unsaved = ""
            _sync(self._directory)
        except OSError as exc:
            self._unsaved = f"{exc.strerror}"


def _with(known: Optional[_Testimony], now: _State) -> _Testimony:
    """Return what is to be remembered when a state is seen."""
    if known is None:
        return _Testimony(now)
    newest = known.newest
    if now == newest:
        return _Testimony(newest)  # it is back, if it was away
    if now.changes <= newest.changes:
        return known if known.older is not None else _Testimony(newest, now)
    return known if known.older is not None else _Testimony(now)


def _state(database: Database) -> Optional[_State]:
    """Return the present state, read in one statement so that it is of one time; None where it is damaged."""
    [(seal, snapshot)] = database.query(
        "SELECT (SELECT value FROM settings WHERE name = 'seal'), "
        "(SELECT max(seq) FROM sqlite_sequence WHERE name = 'snapshots')"
    )
    found = found_seal(seal)
    if found is None or not isinstance(snapshot, (int, type(None))):
        return None
    return _State(found[0], found[1].hex(), snapshot or 0)


def _problem(newest: _State, older: _State, file: str) -> Problem:
    def told(state: _State) -> str:
        return f"snapshot {state.snapshot or 'none'} after {state.changes:,} changes"

    return Problem(
        kind="rolled-back",
        path="",
        message=f"an older copy of the repository was put in its place: its newest state was {told(older)}, and "
        f"{told(newest)} had been seen. What is in it can be used; put the newer one back if you have it, or say that "
        f"this one is right by removing {file}",
    )


def _encoded(known: _Testimony, key: FileKey) -> bytes:
    body = json.dumps({"version": _VERSION, **attrs.asdict(known)}, sort_keys=True)
    return f"{body}\n{key.proof(b'remembered', body.encode()).hex()}\n".encode()


def _decoded(data: bytes, key: FileKey) -> _Testimony:
    """Return what the bytes of a file say.

    Raises:
        ValueError, TypeError, KeyError: They are not what a holder of the key wrote.
    """
    body, proof, _ = data.split(b"\n")
    if not key.proves(b"remembered", body, bytes.fromhex(proof.decode())):
        raise ValueError("it is another one's")
    said: dict[str, Any] = json.loads(body)
    if said["version"] != _VERSION:
        raise ValueError("it is of another version")
    older = said["older"]
    return _Testimony(_State(**said["newest"]), None if older is None else _State(**older))


def _sync(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems refuse
    finally:
        os.close(descriptor)
