"""Saving databases behind everything else: captured in one state, and without the files that lie beside them.

Owns what is saved of a database and of its companions. How one is held still or copied is capturing's; which there are,
databases'.

A companion of a database that was captured is not saved: what is committed is in the image, and a log of another
moment beside it would be played back over it. A database that cannot be captured is saved as it lies there, with its
companions, and that is a problem.
"""

from __future__ import annotations

import os
from typing import Callable, List, NamedTuple, Optional, Sequence, Set, Tuple, Union

from ...storage.files import VersionRow
from ...storage.sqlite_files import COMPANIONS, INDEX, MAGIC, is_companion
from ...tree.metadata import Status, read_xattrs
from ...tree.source import FileChangedError, Source
from .capturing import Capturing, Taken
from .databases import Companion, Databases
from .recording import Known, Recorder
from .saving import FileSaver, SavedFile
from .storing import Storing

__all__ = ["DatabaseSaver"]

#: Times that a database is read without a lock, which somebody has written to each time.
_ATTEMPTS = 5


class _Reading(NamedTuple):
    """What became of a database.

    Attributes:
        outcome: Its bytes, or why it could not be read.
        stamp: What takes the place of its change time; None if that is what counts.
        problems: What else is to be said of it.
        refused: Why it was not captured.
    """

    outcome: Union[SavedFile, OSError, FileChangedError]
    stamp: Optional[Tuple[Optional[int]]]
    problems: Sequence[Tuple[str, str]] = ()
    refused: str = ""


class DatabaseSaver:
    """Saves what the walk and the reading have left to it.

    Args:
        source: Where it is.
        databases: What was found.
        capturing: What captures them.
        storing: Stores what is no database after all, and records everything.
        recorder: Is told of companions that are not saved.
        look_up: Returns the last versions of paths that have one.
        on_problem: Called with kind, path and message.

    Attributes:
        captured: Paths of the databases that were captured.
    """

    def __init__(
        self,
        source: Source,
        databases: Databases,
        capturing: Capturing,
        storing: Storing,
        recorder: Recorder,
        look_up: Callable[[Sequence[bytes]], Known],
        on_problem: Callable[[str, bytes, str], None],
    ) -> None:
        self.captured: List[bytes] = []
        self._source = source
        self._databases = databases
        self._capturing = capturing
        self._storing = storing
        self._recorder = recorder
        self._look_up = look_up
        self._problem = on_problem
        self._freed: Set[bytes] = set()  # companions that are saved
        self._mishaps: List[Tuple[str, str]] = []
        self._saver: FileSaver = storing.plain_saver(lambda kind, _, message: self._mishaps.append((kind, message)))

    def run(self) -> None:
        """Save everything, until there is nothing more: a companion may turn out to be a database of its own."""
        self._storing.settle()
        while True:
            found = self._databases.take_found()
            self._save_all(found)
            waiting = self._databases.take_waiting()
            free = [
                companion
                for owner, companions in sorted(waiting.items())
                for companion in self._free(owner, companions)
            ]
            if free:
                self._freed.update(companion.path for companion in free)
                window = self._storing.new_window()
                for path, status, first in free:
                    window.add(path, status, first)
                self._storing.store(window)
                self._storing.settle()
            if not found and not free:
                break
        self._withdraw_companions()

    def _save_all(self, paths: Sequence[bytes]) -> None:
        window = self._storing.new_window()
        for path in paths:
            known = self._look_up([path])
            try:
                status = self._source.status_of(path)
            except OSError as exc:
                self._storing.record(path, exc, known)
                continue
            outcome, stamp, problems, refused = self._read(path, status)
            for kind, message in problems:
                self._problem(kind, path, message)
            if refused and isinstance(outcome, SavedFile):
                message = f"saved byte by byte, perhaps mixed, with the files beside it: {refused}"
                self._problem("database-not-captured", path, message)
            row: Optional[VersionRow] = self._storing.record(path, outcome, known, stamp)
            window.add(path, status, None)
            window.finish(len(window) - 1, row)
            self._storing.report_reading(path)

    def _read(self, path: bytes, status: os.stat_result) -> _Reading:
        """Read a database in one state, or as it is if that cannot be had."""
        saved = self._storing.saved_link(status)
        if saved is not None:
            return _Reading(saved, (None,))
        own = self._databases.is_own(status)
        reason = ""
        for _ in range(_ATTEMPTS):
            log = self._databases.log(path)
            taken = self._capturing.take(path, apart=own)
            reason = taken.reason
            self._mishaps.clear()
            try:
                outcome = self._read_taken(path, status, log, taken)
            finally:
                consistent = self._capturing.release()
            if not consistent:
                reason = "it is written to again and again"
                continue
            if taken.how in ("locked", "quiet", "image") and isinstance(outcome, SavedFile):
                self.captured.append(path)
            if taken.how == "refused":
                break
            stamp = None
            if log is not None and taken.how == "image":
                stamp = (self._databases.stamp(status, log),)
            return _Reading(outcome, stamp, tuple(self._mishaps))
        return _Reading(outcome, (None,), refused=reason)

    def _read_taken(
        self, path: bytes, status: os.stat_result, log: Optional[Status], taken: Taken
    ) -> Union[SavedFile, OSError, FileChangedError]:
        try:
            if taken.descriptor is not None:
                content = self._saver.save_image(taken.descriptor)
                mtime_ns = status.st_mtime_ns if log is None else max(status.st_mtime_ns, log.st_mtime_ns)
                xattrs = read_xattrs(self._source.unfollowed(path))
                return SavedFile(Status.of(status)._replace(st_mtime_ns=mtime_ns), content, 0, xattrs)
            return self._saver.save(path, Status.of(status))
        except (OSError, FileChangedError) as exc:
            return exc

    # Companions.

    def _free(self, owner: bytes, companions: Sequence[Companion]) -> List[Companion]:
        """Return those of the files beside another one that are to be saved, and let go of the others."""
        if not self._is_captured(owner):
            return list(companions)
        free = []
        for companion in companions:
            if self._belongs(owner, companion):
                self._recorder.lose(companion.path, self._look_up([companion.path]), gone=False)
            else:
                free.append(companion)
        return free

    def _is_captured(self, owner: bytes) -> bool:
        """Tell whether a file is a database that was captured, now or by an earlier snapshot."""
        if owner in self.captured or self._databases.is_as_captured(owner):
            return True
        return self._databases.is_kept(owner) and self._is_database(owner)

    def _is_database(self, path: bytes) -> bool:
        try:
            status = self._source.status_of(path)
            if self._databases.is_own(status):
                how = self._capturing.take(path, apart=False).how
                self._capturing.release()
                return how not in ("other", "refused")
            with self._source.open_file(path, status) as file:
                return file.begins_with(MAGIC)
        except (OSError, FileChangedError):
            return False

    def _belongs(self, owner: bytes, companion: Companion) -> bool:
        """Tell whether a file is what SQLite keeps beside a database, and not one that only has such a name."""
        suffix = companion.path[len(owner) :]
        header = b""
        try:
            if suffix != INDEX:  # that must not be opened: the locks on a log are on it
                with self._source.open_file(companion.path, companion.status) as file:
                    header = os.pread(file.descriptor, len(MAGIC), 0)
                    if not header:
                        return True
        except FileNotFoundError:
            return True
        except (OSError, FileChangedError):
            return False  # it will be tried again, and named
        return is_companion(suffix, companion.status.st_size, header)

    def _withdraw_companions(self) -> None:
        """Let go of companions that an earlier snapshot has saved and that are unchanged since."""
        for owner in self.captured:
            for path, (version, first) in self._look_up([owner + suffix for suffix in COMPANIONS]).items():
                if (
                    path not in self._freed
                    and version.kind == b"f"
                    and (path, first) not in self._recorder.draft.closed
                ):
                    self._recorder.withdraw(version, first)
