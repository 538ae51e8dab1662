"""Writing regular files in processes beside this one, group by group.

Owns how groups are handed out and what a helper answers. What is written, and what is made of the answers, is the
restore's business. A file costs some twenty microseconds of Python beside the system's work, and threads would take
turns for them; processes do not.
"""

from __future__ import annotations

import errno
import threading
from collections import deque
from typing import Any, Deque, NamedTuple, Optional, Sequence, Tuple

from ...errors import CorruptionError
from ...storage.connecting import open_address
from ...storage.contents import ContentLocation
from ...storage.database import Database
from ...storage.digest import FileVersion
from ...storage.files import CatalogFile
from ...storage.packs import PackReader
from ...storage.reader import ContentReader
from ...tree.attributes import Metadata
from ...tree.destination import Destination
from ..processes import Channel, Helper, HelperFailedError, helpers_for, keep_memory, start_helpers

__all__ = ["FATAL", "Answer", "Order", "Writing", "as_file", "as_order", "serve"]

#: What makes it pointless to go on with the next file.
FATAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

#: What a file costs besides its bytes, in bytes: 118,000 files of 1.76 GB take 25 µs a file and 2.2 ns a byte.
_FILE_COST = 12_000

#: For less than this helpers do not win back the 0.15 s of processor time that each takes to start. 2,900 files of
#: 49 MiB, a part of a tree and of its packs, took 2.6 to 4.5 s without and 2.1 to 4.2 s with them.
_FEW = 100 << 20

#: A group is handed out when it has so many files or bytes, of whole packs: else two helpers would decompress one.
_GROUP_FILES = 64
_GROUP_BYTES = 1 << 20

#: So many times more are handed out in any case: many copies of what is in one pack.
_GROUP_MOST = 16

#: Files that wait for a helper, at most: the main process can do something else for half a second.
_WAITING = 8192

#: Groups that a helper has at a time, so that it need not wait while its answer is read.
_AHEAD = 2

#: Bytes of decompressed packs that a helper keeps: it is through with a pack before it is given the next.
_CACHE_BYTES = 2 << 20

#: Seconds in which a helper that is told to stop finishes the file that it is writing, which is 1 MiB at most.
_PATIENCE = 10.0

#: A path, what went wrong with it (owner, mode, ...), and the system's number and words for it.
Failure = Tuple[str, bytes, Optional[int], Optional[str]]


#: What is to be written, as plain values: a third of what a CatalogFile takes, and nothing for Python's collector to
#: look through. Path, size, sparse, mode, uid, gid, mtime_ns, xattrs; id, hash, pack and offset of the content.
Order = Tuple[bytes, int, int, int, int, int, int, Optional[bytes], int, bytes, Optional[int], Optional[int]]


def as_order(file: CatalogFile) -> Optional[Order]:
    """Return what is to be written of a file; None if it is none whose content is one piece and sound."""
    v, content = file
    if v.kind != b"f" or content is None or content.size != v.size or (content.pack is None and v.size):
        return None
    return (
        *(v.path, v.size, v.sparse, v.mode, v.uid, v.gid, v.mtime_ns, v.xattrs),
        *(content.id, content.hash, content.pack, content.offset),
    )


def as_file(order: Order) -> CatalogFile:
    """Return the file again, but for its links and the names of its owners."""
    path, size, sparse, mode, uid, gid, mtime_ns, xattrs, content, digest, pack, offset = order
    version = FileVersion(
        path, b"f", mode, uid, gid, b"", b"", mtime_ns, size, digest, sparse, None, None, xattrs, None
    )
    return CatalogFile(version, ContentLocation(content, digest, size, pack, offset))


class Answer(NamedTuple):
    """What became of a group.

    Attributes:
        done: Files that were tried, the first ones of the group; fewer than there are if the last is fatal.
        failures: What could not be restored of files that were written all the same.
        errors: Why files were not written, by their number in the group.
    """

    done: int
    failures: Sequence[Failure]
    errors: dict[int, Exception]


# The other end.


def serve(channel: Channel, address: Any, root: bytes, device: int, inode: int) -> None:
    """Write files for another process: some at a time, until there are no more."""
    keep_memory()
    failures: list[Failure] = []

    def failed(what: str, where: bytes, exc: OSError) -> None:
        failures.append((what, where, exc.errno, exc.strerror))

    database = open_address(address, 10.0)
    reader = ContentReader(database, PackReader(database, _CACHE_BYTES))
    with reader, Destination(root, failed, (device, inode)) as destination:
        while True:
            done, errors = _write(channel, channel.receive(), reader, destination)
            channel.send((done, failures, errors))
            failures.clear()


def _write(
    channel: Channel, files: Sequence[Order], reader: ContentReader, destination: Destination
) -> tuple[int, list[tuple[int, str, Optional[int], str]]]:
    """Write files and return how many were tried, and what went wrong with which."""
    errors: list[tuple[int, str, Optional[int], str]] = []
    for number, order in enumerate(files):
        if channel.ended:
            raise HelperFailedError("nobody wants the rest")
        try:
            path, size, sparse, mode, uid, gid, mtime_ns, xattrs, content, digest, pack, offset = order
            data = reader.read(ContentLocation(content, digest, size, pack, offset))
            destination.write_file(path, ((0, data),), size, bool(sparse), Metadata(mode, uid, gid, mtime_ns, xattrs))
        except CorruptionError as exc:
            errors.append((number, "content", None, str(exc)))
        except OSError as exc:
            errors.append((number, "system", exc.errno, exc.strerror or str(exc)))
            if exc.errno in FATAL:
                return number + 1, errors
        except (ValueError, TypeError, OverflowError) as exc:
            errors.append((number, "value", None, str(exc)))
    return len(files), errors


def _checked(message: Any, files: int) -> Answer:
    """Return a helper's message as an answer.

    Raises:
        ValueError, TypeError: It is none.
    """
    done, failures, errors = message
    found = Answer(done, failures, {number: _error(kind, code, text) for number, kind, code, text in errors})
    whole = done == files or (0 < done < files and getattr(found.errors.get(done - 1), "errno", None) in FATAL)
    if not whole or type(done) is not int or not all(0 <= number < done for number in found.errors):
        raise ValueError("no answer to what was asked")
    for what, path, code, text in failures:
        if (type(what), type(path)) != (str, bytes) or not isinstance(code, (int, type(None))):
            raise TypeError("no failure")
        if not isinstance(text, (str, type(None))):
            raise TypeError("no failure")
    return found


def _error(kind: str, code: Optional[int], text: str) -> Exception:
    """Return the exception that a helper met, for those that restore tells apart."""
    if not isinstance(text, str) or not isinstance(code, (int, type(None))):
        raise TypeError("no error")
    if kind == "content":
        return CorruptionError(text)
    if kind == "system":
        return OSError(code, text)
    if kind == "value":
        return ValueError(text)
    raise ValueError("no kind of error")


# This end.


class _Exchange:
    """Groups that wait to be written, and those that were; for several threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: Deque[list[Order]] = deque()
        self._waiting_files = 0
        self._answers: Deque[tuple[list[Order], Optional[Answer]]] = deque()
        self._closed = False
        self.feeders = 0

    def put(self, group: list[Order]) -> None:
        """Add a group."""
        with self._changed:
            if not self.feeders:
                self._answers.append((group, None))
                return
            self._waiting.append(group)
            self._waiting_files += len(group)
            self._changed.notify_all()

    def has_room(self) -> bool:
        """Tell whether more groups should be added."""
        return self._waiting_files < _WAITING

    def take(self, *, wait: bool) -> Optional[list[Order]]:
        """Return a group; None if there is none for now, or none any more."""
        with self._changed:
            while wait and not self._waiting and not self._closed:
                self._changed.wait()
            if self._closed or not self._waiting:
                return None
            group = self._waiting.popleft()
            self._waiting_files -= len(group)
            return group

    def answered(self, group: list[Order], answer: Answer) -> None:
        """Add an answer."""
        with self._changed:
            self._answers.append((group, answer))
            self._changed.notify_all()

    def leave(self, unanswered: Sequence[list[Order]]) -> None:
        """Be a feeder no more; nobody has answered for these groups, nor ever will for others if it was the last."""
        with self._changed:
            self.feeders -= 1
            self._answers.extend((group, None) for group in unanswered)
            if not self.feeders:
                self._answers.extend((group, None) for group in self._waiting)
                self._waiting.clear()
                self._waiting_files = 0
            self._changed.notify_all()

    def answers(self, *, wait: bool) -> list[tuple[list[Order], Optional[Answer]]]:
        """Return what has come since the last time."""
        with self._changed:
            while wait and not self._answers:
                self._changed.wait()
            found = list(self._answers)
            self._answers.clear()
            return found

    def close(self) -> None:
        """Hand out nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class _Feeder:
    """A thread that has groups written by a helper."""

    def __init__(self, helper: Helper, exchange: _Exchange) -> None:
        self.helper = helper
        self._exchange = exchange
        self._thread = threading.Thread(target=self._feed, name="backuptool-write", daemon=True)
        self._thread.start()

    def _feed(self) -> None:
        """Hand out groups until there are no more; what the process does not answer for is done by the caller."""
        exchange = self._exchange
        given: Deque[list[Order]] = deque()
        try:
            while True:
                while len(given) < _AHEAD:
                    group = exchange.take(wait=not given)
                    if group is None:
                        break
                    given.append(group)
                    self.helper.send(group)
                if not given:
                    break
                exchange.answered(given[0], _checked(self.helper.receive(), len(given[0])))
                given.popleft()
        except (HelperFailedError, TypeError, ValueError):
            self.helper.end()  # two processes must not write one file
        finally:
            exchange.leave(given)

    def end(self) -> None:
        """End the process when it is through with the file that it is writing."""
        self.helper.end(_PATIENCE)
        self._thread.join()
        self.helper.close()


class Writing:
    """Writes groups of files in helpers; a context manager, with whose block they end.

    Args:
        helpers: Number of processes beside this one; by default as many as there are processors, but none for one.
        most: How many that may be; None for no limit.
    """

    def __init__(self, helpers: Optional[int] = None, most: Optional[int] = None) -> None:
        self._number = helpers
        self._most = most
        self._exchange = _Exchange()
        self._feeders: list[_Feeder] = []
        self._expected = 0
        self._group: list[Order] = []
        self._group_bytes = 0
        self._given = 0
        self._started = False

    def __enter__(self) -> Writing:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._exchange.close()
        feeders, self._feeders = self._feeders, []
        for feeder in feeders:
            feeder.helper.finish()
        for feeder in feeders:
            feeder.end()

    def expect(self, size: int, database: Database, destination: Destination) -> None:
        """Start the helpers as soon as it is clear that there is enough for them to do.

        Args:
            size: Bytes of a file that will be written.
        """
        if self._started:
            return
        self._expected += _FILE_COST + size
        if self._number is not None or self._expected >= _FEW:
            self._started = True
            number = self._number
            if number is None:
                number = helpers_for(self._most)
            helpers = start_helpers(
                number,
                "restore.writing",
                database.address(),
                destination.root,
                *destination.identity(),
                private=database.encrypted,
            )
            self._exchange.feeders = len(helpers)
            self._feeders = [_Feeder(helper, self._exchange) for helper in helpers]

    @property
    def active(self) -> bool:
        """Whether there are helpers."""
        return self._exchange.feeders > 0

    @property
    def unanswered(self) -> bool:
        """Whether there are files that were given and not answered for."""
        return self._given > 0 or bool(self._group)

    def has_room(self) -> bool:
        """Tell whether more files should be given: if not, there is enough to do for the helpers."""
        return self._exchange.has_room()

    def give(self, order: Order) -> None:
        """Have a file written; those of one pack one after the other."""
        self._group.append(order)
        self._group_bytes += order[1]
        if len(self._group) >= _GROUP_MOST * _GROUP_FILES or self._group_bytes >= _GROUP_MOST * _GROUP_BYTES:
            self.flush()

    def end_pack(self) -> None:
        """Tell that the files which come next are of another pack."""
        if len(self._group) >= _GROUP_FILES or self._group_bytes >= _GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand out what was given, be it much or little."""
        if self._group:
            self._given += 1
            self._exchange.put(self._group)
            self._group, self._group_bytes = [], 0

    def answers(self, *, wait: bool = False) -> list[tuple[list[Order], Optional[Answer]]]:
        """Return the groups that were answered for since the last time; None in place of an answer is a lost helper.

        Args:
            wait: Wait for one, if there are groups without an answer.
        """
        found = self._exchange.answers(wait=wait and self._given > 0)
        self._given -= len(found)
        return found
