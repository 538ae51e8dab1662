"""Reading files in processes beside this one: read, cut, hash, ask what is new, compress that.

Owns how the work is divided and what the processes tell each other. Which contents are new is decided here, by the one
writer, whoever read them.

A helper gets some files at a time. It reads them into a run, which is a buffer, and asks which of the contents in it
are wanted; those it puts into its pack, and a pack that is full comes back compressed. While it waits for the answer to
one run it reads the next. It numbers the contents as it comes upon them, and that is how a file names its own.
"""

from __future__ import annotations

import queue
import threading
from array import array
from collections import deque
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Deque, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import attrs

from ..storage.chunking import LARGE_FILE, Chunking
from ..storage.packs import PACK_BUFFER_BYTES, PACK_SIZE, CompressedPack, compress_pack
from ..storage.writer import Content, ContentWriter, LargeContent
from ..tree.metadata import Status
from ..tree.source import FileChangedError, Source
from .processes import Channel, Helper, HelperFailedError, processors, start_helpers
from .saving import FileSaver, SavedFile

if TYPE_CHECKING:
    import hashlib
    from concurrent.futures import Future

__all__ = ["MOST_BYTES", "ReadFile", "Readers", "serve"]

#: Bytes of the largest file that a helper reads. What is larger is better read by this process, whose threads hash and
#: compress different pieces of it at once.
MOST_BYTES = 32 << 20

#: Bytes of a run: enough that messages cost little, few enough that several fit into memory.
_RUN_BYTES = 1 << 20

#: Runs of a helper: one that is being filled, and those it has asked for.
_RUNS = 3

#: Bytes and files that a helper is told of at a time.
_LOT_BYTES = 1 << 20
_LOT_FILES = 256

#: Lots that a helper has: one that it reads, and the next.
_LOTS = 2

#: Bytes and files that a helper takes in a row: what is alike lies together, and is to meet in one pack.
_STRETCH_BYTES = 8 << 20
_STRETCH_FILES = 1000

#: Below this many files, and bytes, it does not pay to start helpers: that takes each of them 0.1 s, a file 0.1 ms.
_FEW_FILES = 3000
_FEW_BYTES = 64 << 20

#: What is to be read: whatever the caller knows it by, path, status.
Task = Tuple[Any, bytes, Status]

#: Kind, path and message of a file that changed while it was read.
Finding = Tuple[str, bytes, str]


class ReadFile(NamedTuple):
    """What became of a file.

    Attributes:
        key: Whatever the caller knows it by.
        outcome: Where its bytes are, or why it could not be read.
    """

    key: Any
    outcome: Union[SavedFile, OSError, FileChangedError]


class Readers:
    """Has files read by helpers, and gives back what they found; a context manager.

    There are none until :meth:`start`. A thread for each of them passes its questions on to the writer.

    Args:
        root: The source, an absolute path.
        chunking: How large files are cut.
        writer: Where the contents go.
        helpers: How many there are to be; None for as many as there are processors, if it pays.

    Attributes:
        read_bytes: Bytes read so far.
        findings: Files that changed while they were read; the caller may clear it.
    """

    def __init__(self, root: bytes, chunking: Chunking, writer: ContentWriter, helpers: Optional[int]) -> None:
        self.read_bytes = 0
        self.findings: list[Finding] = []
        self._root = root
        self._chunking = chunking
        self._writer = writer
        self._wanted = helpers
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
            pays = processors() > 1 and (files >= _FEW_FILES or size >= _FEW_BYTES)
            wanted = processors() if pays else 0
        if wanted and not self._helpers:
            self._helpers = start_helpers(wanted, "reading", self._root, attrs.astuple(self._chunking))
            for helper in self._helpers:
                thread = threading.Thread(target=self._feed, args=(helper,), name="backuptool-read", daemon=True)
                self._threads.append(thread)
                thread.start()
        return bool(self._helpers)

    @property
    def unfinished(self) -> int:
        """Number of files that were submitted and not given back."""
        return self._expected

    @property
    def idle(self) -> bool:
        """Whether helpers will soon have nothing more to do."""
        return len(self._work) <= len(self._helpers)

    def submit(self, tasks: Sequence[Task]) -> None:
        """Have files read, in this order as far as several helpers at once allow."""
        self._expected += len(tasks)
        self._work.add(tasks)

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
        own: Iterator[Sequence[Task]] = iter(())
        try:
            while True:
                while len(conversation.lots) < _LOTS:
                    lot = next(own, None)
                    if lot is None:
                        stretch = self._work.take(wait=not conversation.lots)
                        if stretch is None:
                            break
                        own = _divide(stretch, _LOT_BYTES, _LOT_FILES)
                        continue
                    conversation.tell(lot)
                if not conversation.lots:
                    break
                self._pass_on(conversation)
            conversation.tell(())
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
        self.lots: Deque[Sequence[Task]] = deque()
        self._helper = helper
        self._writer = writer
        self._contents: dict[int, Content] = {}  # by the helper's number
        self._numbered = 0

    def tell(self, lot: Sequence[Task]) -> None:
        """Have some files read; none means that there will be no more."""
        self._helper.send(("read", [(path, tuple(status)) for _, path, status in lot]))
        if lot:
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
            if len(message) == 4:
                self._writer.deliver(CompressedPack(*message))
                return [], [], 0
            digests, sizes, larges, results, findings, read_bytes = message
            contents, wanted = self._writer.claim(sizes, digests)
            self._helper.send(("keep", wanted))
            for content in contents:
                self._contents[self._numbered] = content
                self._numbered += 1
            for number, digest, size, layout, offsets, parts in larges:
                large = LargeContent.of(array("q", offsets), array("q", self._ordinals(parts)), layout)
                self._contents[number] = self._writer.add_large(digest, size, large)
            found = []
            if results:
                lot = self.lots.popleft()
                if len(lot) != len(results):
                    raise ValueError("no answer to what was asked")
                found = [ReadFile(task[0], self._outcome(task[2], result)) for task, result in zip(lot, results)]
                self._contents.clear()
            return found, findings, read_bytes
        except (TypeError, ValueError, KeyError, IndexError) as exc:
            raise HelperFailedError(f"a helper sent nonsense: {exc!r}") from exc

    def _ordinals(self, parts: bytes) -> list[int]:
        """Return the ordinals of the numbered parts of a large content; -1 stays a hole."""
        numbers = array("q", parts)
        return [number if number < 0 else self._contents[number].ordinal for number in numbers]

    def _outcome(self, listed: Status, result: Any) -> Union[SavedFile, OSError, FileChangedError]:
        if isinstance(result, int):  # as of nearly all files: it is as it was listed
            return SavedFile(listed, self._contents[result], 0, None)
        if isinstance(result, str):
            return FileChangedError(result)
        if len(result) == 2:
            return OSError(*result)
        number, status, sparse, xattrs = result
        return SavedFile(Status(*status), self._contents[number], sparse, xattrs)


class _Work:
    """Stretches of files that no helper has taken yet; for several threads."""

    def __init__(self) -> None:
        self._stretches: Deque[Sequence[Task]] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._stretches)

    def add(self, tasks: Sequence[Task]) -> None:
        with self._changed:
            self._stretches.extend(_divide(tasks, _STRETCH_BYTES, _STRETCH_FILES))
            self._changed.notify_all()

    def take(self, *, wait: bool) -> Optional[Sequence[Task]]:
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


def _divide(tasks: Sequence[Task], most_bytes: int, most_files: int) -> Iterator[Sequence[Task]]:
    """Yield consecutive pieces; each is closed by the file that makes it full."""
    begin = size = 0
    for end, (_, _, status) in enumerate(tasks, 1):
        size += status.st_size
        if size >= most_bytes or end - begin >= most_files:
            yield tasks[begin:end]
            begin, size = end, 0
    if begin < len(tasks):
        yield tasks[begin:]


# The other end.


def serve(channel: Channel, root: bytes, chunking: Sequence[Any]) -> None:
    """Read files for another process, until it says that there are no more."""
    findings: list[Finding] = []
    asker = _Asker(channel)
    saver = FileSaver(
        Source(root), asker, Chunking(*chunking), lambda *finding: findings.append(finding), asker.nothing_to_report
    )
    while True:
        lot = asker.next_lot()
        if not lot:
            break
        results = [_read(saver, path, Status(*status)) for path, status in lot]
        asker.ask(results, findings, saver.read_bytes)
        findings.clear()
        saver.read_bytes = 0
    asker.finish()


def _read(saver: FileSaver, path: bytes, listed: Status) -> Any:
    """Return what became of a file, as plain values; see ``_Conversation._outcome``."""
    try:
        status, content, sparse, xattrs = saver.save(path, listed)
    except FileChangedError as exc:
        return str(exc)
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


class _Asker:
    """Takes contents for the writer of another process, which it asks; a content's ordinal is its number here."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._lots: Deque[Any] = deque()
        self._run = _Run()
        self._asked: Deque[_Run] = deque()
        self._free = [_Run() for _ in range(_RUNS - 1)]
        self._number = 0
        self._large_number = -1  # those of large contents count downwards; -1 itself is a hole
        self._larges: list[tuple[int, bytes, int, bytes, bytes, bytes]] = []
        self._buffer = memoryview(bytearray(PACK_BUFFER_BYTES))
        self._members: list[tuple[int, bytes, int]] = []
        self._filled = 0

    def next_lot(self) -> Any:
        """Return the next files to be read."""
        while not self._lots:
            self._listen()
        return self._lots.popleft()

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

    def add_large(self, digest: bytes, size: int, parts: LargeContent) -> Content:
        """Take a content whose parts have all been taken."""
        self.ask()  # so that the numbers of its parts are known
        self._large_number -= 1
        content = Content(size, digest, self._large_number)
        self._larges.append(
            (content.ordinal, digest, size, parts.layout(), parts.offsets.tobytes(), parts.parts.tobytes())
        )
        return content

    def hash_along(self, hasher: hashlib._Hash, data: bytes, before: Optional[Future[None]]) -> None:
        """Feed a hasher."""
        hasher.update(data)

    def nothing_to_report(self) -> None:
        """Do nothing: what was read is told with every question."""

    def ask(self, results: Sequence[Any] = (), findings: Sequence[Finding] = (), read_bytes: int = 0) -> None:
        """Ask which contents of the run are wanted, and tell what became of files."""
        run = self._run
        self._channel.send((run.digests, run.sizes, self._larges, list(results), list(findings), read_bytes))
        self._larges = []
        self._asked.append(run)
        while not self._free:
            self._listen()
        self._run = self._free.pop()

    def finish(self) -> None:
        """Send the last pack, and say that there will be nothing more."""
        while self._asked:
            self._listen()
        self._seal()
        self._channel.send(None)

    def _listen(self) -> None:
        what, values = self._channel.receive()
        if what == "read":
            self._lots.append(values)
        else:
            run = self._asked.popleft()
            self._keep(run, values)
            run.clear()
            self._free.append(run)

    def _keep(self, run: _Run, wanted: Sequence[int]) -> None:
        """Put those contents of a run into the pack that have an ordinal there; -1 is not wanted."""
        begin = 0
        for ordinal, digest, size in zip(wanted, run.digests, run.sizes):
            if ordinal >= 0:
                self._buffer[self._filled : self._filled + size] = run.buffer[begin : begin + size]
                self._members.append((ordinal, digest, size))
                self._filled += size
                if self._filled >= PACK_SIZE:
                    self._seal()
            begin += size

    def _seal(self) -> None:
        if self._members:
            pack = compress_pack(self._members, self._buffer[: self._filled])
            self._channel.send((pack.members, pack.size, pack.codec, pack.data))
            self._members, self._filled = [], 0
