"""Reading small files in processes beside this one: read, hash, ask what is new, compress that.

Owns how the work is divided and what the processes tell each other. Which contents are new is decided here, by the one
writer, whoever read them.

A helper gets some files at a time. It reads them into a run, which is a buffer, and asks which of the contents in it
are wanted; those it puts into its pack, and a pack that is full comes back compressed. While it waits for the answer to
one run it reads the next. It numbers the contents as it comes upon them, and that is how a file names its own.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from typing import Any, Deque, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import attrs

from ...storage.arriving import Content
from ...storage.bases import Base, least_bytes
from ...storage.packs import BaseReference, CompressedPack
from ...storage.writer import ContentWriter
from ...tree.metadata import Status
from ...tree.source import FileChangedError
from ..processes import Helper, HelperFailedError, helpers_for, start_helpers
from .saving import DatabaseFoundError, SavedFile
from .window import Window

__all__ = ["Finding", "Outcome", "ReadFile", "Readers"]

#: Bytes and files that a helper is told of at a time.
_LOT_BYTES = 1 << 20
_LOT_FILES = 256

#: Lots that a helper has: one that it reads, and the next.
_LOTS = 2

#: Bytes and files that a helper takes in a row: what is alike lies together, and is to meet in one pack.
_STRETCH_BYTES = 8 << 20
_STRETCH_FILES = 1000

#: With fewer files it does not pay to start helpers, which takes each of them 0.1 s; a file takes 0.1 ms, a MiB 8 ms.
#: Of a single large one this process's own threads compress several pieces at once.
_MANY_FILES = 3000
_MANY_BYTES = 64 << 20

#: Kind, path and message of a file that changed while it was read.
Finding = Tuple[str, bytes, str]


#: What became of a file; None if it is not small any more.
Outcome = Union[Content, SavedFile, OSError, FileChangedError, DatabaseFoundError, None]


class ReadFile(NamedTuple):
    """What became of a file.

    Attributes:
        window, position: Where it was waiting.
        outcome: Where its bytes are, or why it could not be read; only the content of a file that is as it was listed;
            None if it has grown, and is to be read by this process.
    """

    window: Window
    position: int
    outcome: Outcome


class Readers:
    """Has files read by helpers, and gives back what they found; a context manager.

    There are none until :meth:`start`. A thread for each of them passes its questions on to the writer.

    Args:
        root: The source, an absolute path.
        compression: How hard packs are compressed.
        writer: Where the contents go.
        helpers: How many there are to be; None for as many as there are processors, if it pays.
        most: How many that may be; None for no limit.
        capturing: True if databases are left to who captures them.

    Attributes:
        read_bytes: Bytes read so far.
        findings: Files that changed while they were read; the caller may clear it.
    """

    def __init__(
        self,
        root: bytes,
        compression: str,
        writer: ContentWriter,
        helpers: Optional[int],
        most: Optional[int] = None,
        capturing: bool = False,
    ) -> None:
        self.read_bytes = 0
        self.findings: list[Finding] = []
        self._root = root
        self._compression = compression
        self._writer = writer
        self._wanted = helpers
        self._most = most
        self._capturing = capturing
        self._helpers: list[Helper] = []
        self._threads: list[threading.Thread] = []
        self._work = _Work()
        self._found: queue.SimpleQueue[Union[List[ReadFile], BaseException]] = queue.SimpleQueue()
        self._expected = 0

    def __enter__(self) -> Readers:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._work.close()
        for helper in self._helpers:
            helper.end()
        for thread in self._threads:
            thread.join()
        for helper in self._helpers:
            helper.close()

    def start(self, files: int, size: int) -> bool:
        """Tell whether there are helpers, after starting them if so much is to be read that it pays."""
        wanted = self._wanted
        if wanted is None:
            pays = files >= _MANY_FILES or (files > 1 and size >= _MANY_BYTES)
            wanted = helpers_for(self._most) if pays else 0
        if wanted and not self._helpers:
            self._helpers = start_helpers(wanted, "snapshot.asking", self._root, self._compression, self._capturing)
            for helper in self._helpers:
                thread = threading.Thread(target=self._feed, args=(helper,), name="backuptool-read", daemon=True)
                self._threads.append(thread)
                thread.start()
        return bool(self._helpers)

    @property
    def started(self) -> bool:
        """Whether there are helpers."""
        return bool(self._helpers)

    @property
    def unfinished(self) -> int:
        """Number of files that were submitted and not given back."""
        return self._expected

    def submit(self, window: Window, positions: Sequence[int], base: Optional[Base] = None) -> None:
        """Have files read, in this order as far as several helpers at once allow.

        Args:
            window: Where they are waiting.
            positions: Which of them.
            base: Where their last versions lie.
        """
        self._expected += len(positions)
        self._work.add(window, positions, base)

    def found(self, *, wait: bool) -> List[ReadFile]:
        """Return what was found in some files; nothing if there is nothing now and nobody wants to wait.

        Raises:
            HelperFailedError: A helper has ended, and what it was to store is lost.
            BackuptoolError: Something could not be stored.
        """
        if not self._expected:
            return []
        try:
            found = self._found.get(block=wait)
        except queue.Empty:
            return []
        if isinstance(found, BaseException):
            raise found
        self._expected -= len(found)
        return found

    def finish(self) -> None:
        """Wait until everything that was kept is with the writer.

        Raises:
            HelperFailedError, BackuptoolError: As :meth:`found`.
        """
        self._work.close()
        for thread in self._threads:
            thread.join()
        try:
            failure = self._found.get(block=False)
        except queue.Empty:
            return
        assert isinstance(failure, BaseException)
        raise failure

    def _feed(self, helper: Helper) -> None:
        """Hand out lots to a helper, and pass on what it finds and what it packed."""
        conversation = _Conversation(helper, self._writer)
        own: Iterator[_Lot] = iter(())
        try:
            while True:
                while len(conversation.lots) < _LOTS:
                    lot = next(own, None)
                    if lot is None:
                        stretch = self._work.take(wait=not conversation.lots)
                        if stretch is None:
                            break
                        own = _lots(stretch)
                        continue
                    conversation.tell(lot)
                if not conversation.lots:
                    break
                self._pass_on(conversation)
            conversation.tell(None)
            while self._pass_on(conversation):
                pass
        except BaseException as exc:
            self._found.put(exc)

    def _pass_on(self, conversation: _Conversation) -> bool:
        """Take one message; False if it was the last one."""
        message = conversation.listen()
        if message is None:
            return False
        found, findings, read_bytes = message
        self.read_bytes += read_bytes
        self.findings += findings
        if found:
            self._found.put(found)
        return True


class _Conversation:
    """What this process and one helper tell each other.

    Attributes:
        lots: Files that it was told of and has not answered for; it answers in order.
    """

    def __init__(self, helper: Helper, writer: ContentWriter) -> None:
        self.lots: Deque[_Lot] = deque()
        self._helper = helper
        self._writer = writer
        self._contents: dict[int, Content] = {}  # by the helper's number
        self._numbered = 0
        self._base: Optional[Base] = None  # of what it reads now, and the bytes of that which are wanted
        self._wanted_bytes = 0
        self._bases: dict[int, BaseReference] = {}  # what was sent

    def tell(self, lot: Optional[_Lot]) -> None:
        """Have some files read; None means that there will be no more."""
        if lot is None:
            self._helper.send(("read", [], None))
            return
        base = None if lot.base is None else (*lot.base,)
        self._helper.send(("read", [lot.window.packed(position) for position in lot.positions], base))
        self.lots.append(lot)

    def listen(self) -> Optional[Tuple[List[ReadFile], List[Finding], int]]:
        """Take one message: return what became of files, what else is to be said of them, and the bytes read.

        Returns None if there will be no more.

        Raises:
            HelperFailedError: It makes no sense.
        """
        message = self._helper.receive()
        if message is None:
            return None
        try:
            if isinstance(message[1], int):
                members, size, codec, data, base = message
                reference = None if base is None else self._bases[base]
                self._writer.deliver(CompressedPack(members, size, codec, data, reference))
                return [], [], 0
            digests, sizes, results, findings, read_bytes = message
            contents, wanted = self._writer.claim(sizes, digests)
            self._helper.send(("keep", wanted, self._base_for(sizes, wanted)))
            for content in contents:
                self._contents[self._numbered] = content
                self._numbered += 1
            found = []
            if results:
                lot = self.lots.popleft()
                if len(lot.positions) != len(results):
                    raise ValueError("no answer to what was asked")
                found = [
                    ReadFile(lot.window, position, self._outcome(result))
                    for position, result in zip(lot.positions, results)
                ]
                self._contents.clear()
            return found, findings, read_bytes
        except (TypeError, ValueError, KeyError, IndexError) as exc:
            raise HelperFailedError(f"a helper sent nonsense: {exc!r}") from exc

    def _base_for(self, sizes: Sequence[int], wanted: Sequence[int]) -> Optional[Tuple[int, int, str, bytes]]:
        """Return the base of what the helper reads now, as it is stored, as soon as enough is wanted; else None."""
        if not self.lots:
            return None
        base = self.lots[0].base
        if base != self._base:
            self._base, self._wanted_bytes = base, 0
        if base is None:
            return None
        before = self._wanted_bytes
        self._wanted_bytes += sum(size for size, ordinal in zip(sizes, wanted) if ordinal >= 0)
        if not before < least_bytes(base) <= self._wanted_bytes:
            return None
        stored = self._writer.read_base(base)
        if stored is None:
            return None
        self._bases[base.id] = BaseReference.to(stored)
        return stored[:4]

    def _outcome(self, result: Any) -> Outcome:
        if isinstance(result, int):  # as of nearly all files: it is as it was listed
            return self._contents[result]
        if result is None:
            return None
        if isinstance(result, str):
            return FileChangedError(result)
        if not result:
            return DatabaseFoundError()
        if len(result) == 2:
            return OSError(*result)
        number, status, sparse, xattrs = result
        return SavedFile(Status(*status), self._contents[number], sparse, xattrs)


@attrs.frozen
class _Lot:
    """Files for a helper: a stretch that it takes, or the part of one that it is told of at once."""

    window: Window
    positions: Sequence[int]
    base: Optional[Base]


class _Work:
    """Stretches of files that no helper has taken yet; for several threads."""

    def __init__(self) -> None:
        self._stretches: Deque[_Lot] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._stretches)

    def add(self, window: Window, positions: Sequence[int], base: Optional[Base]) -> None:
        """Let helpers take these."""
        with self._changed:
            for stretch in _divide(window, positions, _STRETCH_BYTES, _STRETCH_FILES):
                self._stretches.append(_Lot(window, stretch, base))
            self._changed.notify_all()

    def take(self, *, wait: bool) -> Optional[_Lot]:
        """Return the next stretch; None if there is none, and there will be none or nobody wants to wait."""
        with self._changed:
            while wait and not self._stretches and not self._closed:
                self._changed.wait()
            return self._stretches.popleft() if self._stretches else None

    def close(self) -> None:
        """Let nobody wait any more: what is there is all there is."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def _divide(window: Window, positions: Sequence[int], most_bytes: int, most_files: int) -> Iterator[Sequence[int]]:
    """Yield consecutive pieces; each is closed by the file that makes it full."""
    begin = size = 0
    for end, position in enumerate(positions, 1):
        size += window.sizes[position]
        if size >= most_bytes or end - begin >= most_files:
            yield positions[begin:end]
            begin, size = end, 0
    if begin < len(positions):
        yield positions[begin:]


def _lots(stretch: _Lot) -> Iterator[_Lot]:
    for positions in _divide(stretch.window, stretch.positions, _LOT_BYTES, _LOT_FILES):
        yield _Lot(stretch.window, positions, stretch.base)
