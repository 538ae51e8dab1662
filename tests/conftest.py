"""Trees, repositories, clocks and other users for the tests. Everything here is real: files, processes, SQLite."""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401  (imported early: as another user Python's own files may be unreachable)
import importlib
import itertools
import marshal
import os
import pickle
import random
import shutil
import signal
import socket
import sqlite3
import stat
import sys
import tempfile
import time
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Set, TypeVar, Union

import properties  # noqa: F401  (its settings hold for all tests)
import pyfastcdc  # noqa: F401
import pytest
from runner import Runner

from backuptool import Repository, SnapshotResult
from backuptool.operations.snapshot.directory import SnapshotOptions, snapshot
from backuptool.progress import ProgressCallback, ProgressEvent, Reporter
from backuptool.storage import connecting
from backuptool.storage.chunking import CHUNKING, Chunking
from backuptool.storage.compression import compress, decompress
from backuptool.storage.connecting import create_database
from backuptool.storage.database import Database
from backuptool.storage.drivers import Driver, default_driver, set_default_driver
from backuptool.storage.pool import ConnectionPool
from backuptool.storage.recognition import is_encrypted

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell starts what runs in the background so
    signal.signal(signal.SIGINT, signal.default_int_handler)

T = TypeVar("T")

NOBODY = 65534

SECOND_NS = 1_000_000_000

#: Long before any test runs, and each file written gets another one.
OLD_NS = 1_600_000_000 * SECOND_NS
_stamps = itertools.count(1)

compress(b"imports the zstd module")

#: Of all encrypted repositories.
PASSWORD = "correct horse 4711 battery"

#: What opens repositories: name of the driver, and its class in storage.drivers.
DRIVERS = {"sqlite3": "Sqlite3Driver", "apsw": "ApswDriver"}


#: Modules and directories of tests that ``--driver encrypted`` runs, but for what is marked ``plain`` in them.
STORAGE_AND_OPERATIONS = (
    *("annotate", "anomalies", "bases", "check", "committer", "copy", "databases", "diff", "drill", "drivers"),
    *("examining", "export", "files", "guard", "history", "import", "journal", "large_files", "opening", "planning"),
    *("prune", "reading", "reading_model", "restore", "snapshot", "stats", "storage", "taking", "window", "writing"),
)


def make_driver(name: str, **options: Any) -> Driver:
    """Return a driver; the test is skipped where its library is not installed."""
    if name != "sqlite3":
        pytest.importorskip(name)
    module = importlib.import_module(f"backuptool.storage.drivers.with_{name}")
    driver: Driver = getattr(module, DRIVERS[name])(**options)
    return driver


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let everything in this process be run on another SQLite library; helpers and commands keep the default one."""
    choices = [*sorted(DRIVERS), "encrypted"]
    parser.addoption("--driver", choices=choices, default="sqlite3", help="what opens repositories")


def pytest_configure(config: pytest.Config) -> None:
    """Use the driver that was asked for."""
    driver = config.getoption("--driver")
    set_default_driver(make_driver("sqlite3" if driver == "encrypted" else driver))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what is marked with ``both`` on plain and on encrypted repositories."""
    if metafunc.definition.get_closest_marker("both") and metafunc.config.getoption("--driver") == "sqlite3":
        metafunc.fixturenames.insert(0, "kind_of_repository")  # before any fixture makes one
        metafunc.parametrize("kind_of_repository", ["plain", "encrypted"], indirect=True)


#: Markers of tests that run only when they are asked for.
LATE = ("long", "reliability", "benchmark")


def pytest_collection_modifyitems(config: pytest.Config, items: List[pytest.Item]) -> None:
    """Leave the tests that take minutes out, unless markers were asked for."""
    if config.getoption("--driver") == "encrypted":
        others = {
            item
            for item in items
            if not {item.path.stem[len("test_") :], item.path.parent.name} & set(STORAGE_AND_OPERATIONS)
        }
        _leave_out(config, items, others | {item for item in items if item.get_closest_marker("plain")})
    if not config.option.markexpr:
        late = {item for item in items if any(item.get_closest_marker(name) for name in LATE)}
        _leave_out(config, items, late)


def _leave_out(config: pytest.Config, items: List[pytest.Item], late: Set[pytest.Item]) -> None:
    config.hook.pytest_deselected(items=[item for item in items if item in late])
    items[:] = [item for item in items if item not in late]


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that no compression makes smaller, the same in every run."""
    return random.Random(seed).getrandbits(8 * size).to_bytes(size, "big") if size else b""


def write(path: Union[str, Path], data: bytes, *, mode: int = 0o644) -> Path:
    """Write a file, with the directories above it, and give it an old modification time that no other file has."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)
    age(path)
    return path


def age(path: Union[str, Path]) -> None:
    """Give an entry an old modification time that no other has."""
    stamp = OLD_NS + next(_stamps) * SECOND_NS
    os.utime(str(path), ns=(stamp, stamp), follow_symlinks=False)


def write_tree(root: Path, files: Mapping[str, Optional[bytes]]) -> Path:
    """Write files by relative path; None makes a directory. The directories get old times as well."""
    root.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        if data is None:
            (root / name).mkdir(parents=True, exist_ok=True)
        else:
            write(root / name, data)
    for directory, _, _ in os.walk(str(root)):
        age(directory)
    return root


class Entry(NamedTuple):
    """What the tests compare of one entry of a tree."""

    kind: int
    mode: int
    owner: int
    group: int
    mtime_ns: int
    data: bytes
    device: int
    xattrs: Dict[str, bytes]
    links: int


def entries(root: Union[str, Path]) -> Dict[bytes, Entry]:
    """Read a tree, as independently of the package as can be: relative path to everything that is to be kept."""
    top = os.fsencode(str(root))
    found = {}
    for directory, names, files in os.walk(top):
        for name in [b"."] * (directory == top) + names + files:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            kind = stat.S_IFMT(status.st_mode)
            data = b""
            if kind == stat.S_IFREG:
                with open(path, "rb") as file:
                    data = file.read()
            elif kind == stat.S_IFLNK:
                data = os.readlink(path)
            names_of_attributes = os.listxattr(path, follow_symlinks=False)
            found[os.path.relpath(path, top)] = Entry(
                kind,
                stat.S_IMODE(status.st_mode),
                status.st_uid,
                status.st_gid,
                status.st_mtime_ns,
                data,
                status.st_rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0,
                {attr: os.getxattr(path, attr, follow_symlinks=False) for attr in names_of_attributes},
                0 if kind == stat.S_IFDIR else status.st_nlink,
            )
    return found


def restored(repo: Repository, number: int, destination: Path) -> Dict[bytes, Entry]:
    """Restore a snapshot into a new directory, without a problem, and return what is there."""
    result = repo.restore(number, destination)
    assert result.problems == ()
    return entries(destination)


def sql(path: Union[str, Path], statement: str, *parameters: object) -> list[Any]:
    """Run a statement on a repository as any user with SQLite might, and commit.

    In an encrypted one it is who has the key that does so, and seals what was changed as if it had been meant.
    """
    if is_encrypted(str(path)):
        return _sql_with_key(str(path), statement, parameters)
    connection = sqlite3.connect(str(path))
    try:
        rows = connection.execute(statement, parameters).fetchall()
        connection.commit()
        return rows
    finally:
        connection.close()


def damage_content(repo: Repository, path: str) -> None:
    """Change stored bytes of a file so that only its own content is hit."""
    repo.close()
    content, pack, offset, size = sql(
        repo.path,
        "SELECT c.id, c.pack, c.offset, c.size FROM files AS f JOIN contents AS c ON c.id = f.content WHERE path = ?",
        path,
    )[0]
    if pack is None:
        ((pack, offset, size),) = sql(
            repo.path,
            "SELECT c.pack, c.offset, c.size FROM parts AS p JOIN contents AS c ON c.id = p.part "
            "WHERE content = ? ORDER BY p.offset LIMIT 1 OFFSET 5",
            content,
        )
    codec, data, whole = sql(repo.path, "SELECT codec, data, size FROM packs WHERE id = ?", pack)[0]
    plain = bytearray(decompress(codec, data, whole))
    plain[offset + size // 2] ^= 1
    sql(repo.path, "UPDATE packs SET codec = 'raw', data = ? WHERE id = ?", bytes(plain), pack)


def new_database(path: Path, chunking: Chunking = CHUNKING, lock_timeout: float = 10.0) -> Database:
    """Create an empty repository."""
    return create_database(str(path), lock_timeout, [("id", "00" * 16), *chunking.settings()])


def _sql_with_key(path: str, statement: str, parameters: Sequence[object]) -> list[Any]:
    from backuptool.storage.drivers.with_sqlite3mc import EncryptedDriver
    from backuptool.storage.encryption.keyring import Keyring
    from backuptool.storage.encryption.seal import Sealer

    key = Keyring(PASSWORD).unlock(path)
    connection = EncryptedDriver(key.pages()).connect(path, 10.0)
    with closing(Database(path, connection, key)) as database:
        rows: list[Any] = connection._connection.execute(statement, parameters).fetchall()
        database.query("BEGIN IMMEDIATE")
        Sealer(key).seal(database)
        database.query("COMMIT")
        return rows


class EveryEvent(Reporter):
    """Passes every event on, where Reporter thins them out: the same calls in each run, however fast the machine."""

    def __init__(self, callback: ProgressCallback) -> None:
        super().__init__(callback)
        self._every = callback

    def report(
        self,
        phase: str,
        *,
        done_files: int = 0,
        total_files: Optional[int] = None,
        done_bytes: int = 0,
        total_bytes: Optional[int] = None,
        path: bytes = b"",
    ) -> None:
        self._every(
            ProgressEvent(
                phase=phase,
                done_files=done_files,
                total_files=total_files,
                done_bytes=done_bytes,
                total_bytes=total_bytes,
                path=path.decode("utf-8", "surrogateescape"),
            )
        )


def snapshot_watched(
    repository: Union[str, Path],
    source: Path,
    callback: ProgressCallback,
    clock: Callable[[], int] = lambda: time.time_ns(),
    **options: Any,
) -> SnapshotResult:
    """Take a snapshot and call back at every single event."""
    pool = ConnectionPool(str(repository), 10.0)
    try:
        options.setdefault("host", socket.gethostname())
        wanted = SnapshotOptions(source=os.fsencode(str(source)), **options)
        return snapshot(pool, wanted, EveryEvent(callback), clock)
    finally:
        pool.close()


def children() -> List[int]:
    """The helpers that this process has started and that have not ended; other tests' processes may be there too."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # the thread has ended
            found += [int(child) for child in (task / "children").read_text().split()]
    return [child for child in found if b"operations.processes" in _command_line(child)]


def _command_line(process: int) -> bytes:
    """Return what a process runs; of one that has just begun to run it the system says nothing for a moment."""
    place = Path(f"/proc/{process}")
    while True:
        line = (place / "cmdline").read_bytes()
        if line or (place / "stat").read_bytes().rpartition(b")")[2].split()[0] in b"ZX":
            return line
        os.sched_yield()


def helper_message(value: Any) -> bytes:
    """What a helper writes to say that."""
    data = marshal.dumps(value)
    return len(data).to_bytes(4, "little") + data


def as_nobody(function: Callable[[], T]) -> T:
    """Return what a function returns, or raise what it raises, in a process of a user without rights.

    The process is forked and not started anew: the interpreter may lie where that user cannot reach it.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover (measured in the parent only)
        try:
            os.close(reading)
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            try:
                answer: tuple[bool, object] = (True, function())
            except BaseException as exc:
                answer = (False, exc)
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(pickle.dumps(answer))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    returned, value = pickle.loads(data)
    if not returned:
        raise value
    result: T = value
    return result


class Clock:
    """The time of the operations: that of the machine, and as much later or earlier as a test wants.

    Change times cannot be set, and the stamp of a file as young as the walk is not trusted. A clock that is ahead makes
    every file old.
    """

    def __init__(self, ahead_seconds: float) -> None:
        self._now = time.time_ns
        self._ahead_ns = int(ahead_seconds * SECOND_NS)

    def advance(self, seconds: float) -> None:
        """Let time pass, or turn it back."""
        self._ahead_ns += int(seconds * SECOND_NS)

    def __call__(self) -> int:
        return self._now() + self._ahead_ns


@contextmanager
def cheapened_argon2() -> Iterator[None]:
    """Let Argon2id take 1 ms instead of 300, in this process; that it takes what it should is a test of its own."""
    from backuptool.storage.encryption import construction

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(construction, "_MEMORY_KIB", 32)
        patch.setattr(construction, "_PASSES", 1)
        yield


@contextmanager
def everything_encrypted() -> Iterator[List[str]]:
    """Have each repository that this process makes be an encrypted one, and open those with the same password.

    Lends a list of the paths at which encrypted ones were made or opened to be written to.

    It is what ``Repository(path, password=PASSWORD)`` does, without its being said in each test. A plain one that is
    there already stays so. Helpers get the key through their pipe as they do for any user.
    """
    from backuptool.storage.encryption.keyring import Keyring

    def is_plain(path: str) -> bool:
        return os.path.exists(path) and os.path.getsize(path) > 0 and not is_encrypted(path)

    def keyring_for(path: str, keyring: Optional[Keyring]) -> Optional[Keyring]:
        return keyring or (None if is_plain(path) else Keyring(PASSWORD, clock=time.time_ns))

    def opening(path: str, lock_timeout: float, keyring: Optional[Keyring] = None) -> Database:
        return connecting.open_database(path, lock_timeout, keyring_for(path, keyring))

    def creating(path: str, lock_timeout: float, settings: Any, keyring: Optional[Keyring] = None) -> Database:
        database = connecting.create_database(path, lock_timeout, settings, keyring_for(path, keyring))
        used.extend([path] * database.encrypted)
        return database

    used: List[str] = []

    with cheapened_argon2(), pytest.MonkeyPatch.context() as patch:
        for module in [one for one in list(sys.modules.values()) if one is not connecting]:
            for name, other in (("open_database", opening), ("create_database", creating)):
                if vars(module).get(name) is getattr(connecting, name):
                    patch.setattr(module, name, other)
        yield used


@pytest.fixture(scope="session", autouse=True)
def _driver_of_the_session(request: pytest.FixtureRequest) -> Iterator[None]:
    with everything_encrypted() if request.config.getoption("--driver") == "encrypted" else nullcontext():
        yield


@pytest.fixture
def kind_of_repository(request: pytest.FixtureRequest) -> Iterator[None]:
    """Plain or encrypted repositories, for the tests that run on both."""
    if request.param == "plain":
        yield
        return
    pytest.importorskip("apsw")
    pytest.importorskip("cryptography")
    if sys.version_info < (3, 9):
        pytest.skip("encryption needs Python 3.9")
    with everything_encrypted() as used:
        yield
    assert used  # else the test ran on a plain one


@pytest.fixture(scope="session", autouse=True)
def _state_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What commands remember must not get to the place of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Let the machine's clock be an hour ahead of its file systems."""
    ahead = Clock(3600)
    monkeypatch.setattr(time, "time_ns", ahead)
    return ahead


@pytest.fixture(params=sorted(DRIVERS))
def driver(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each driver in turn; what this process opens meanwhile is opened with it."""
    before = default_driver()
    set_default_driver(make_driver(request.param))
    yield request.param
    set_default_driver(before)


@pytest.fixture
def repo(tmp_path: Path, clock: Clock) -> Iterator[Repository]:
    """A repository that does not exist yet."""
    with Repository(tmp_path / "backups.db", lock_timeout=10) as repository:
        yield repository


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current directory, universal time, and none of the variables that the commands read."""
    monkeypatch.chdir(tmp_path)
    for name in ("BACKUPTOOL_DB", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield tmp_path
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def run(place: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> Runner:
    """What runs commands in an empty directory."""
    return Runner(capsysbinary)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small directory: five files of 6,001 bytes in all, two of them equal, one empty; three directories."""
    return write_tree(
        tmp_path / "tree",
        {
            "a.txt": b"a" * 1000,
            "b.txt": b"b" * 2000,
            "empty": b"",
            "docs/copy of b.txt": b"b" * 2000,
            "docs/deep/c.bin": bytes(range(256)) * 3 + b"c" * 233,
        },
    )


@pytest.fixture
def memory_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory in memory where there is one with room: for tests that commit thousands of times."""
    memory = Path("/dev/shm")
    if not os.access(str(memory), os.W_OK) or shutil.disk_usage(str(memory)).free < 1 << 30:
        yield tmp_path_factory.mktemp("memory")
        return
    path = Path(tempfile.mkdtemp(prefix="backuptool-test-", dir=str(memory)))
    try:
        yield path
    finally:
        shutil.rmtree(str(path))


@pytest.fixture
def public_path() -> Iterator[Path]:
    """A directory that every user may use; pytest's own are closed to others."""
    path = Path(tempfile.mkdtemp(prefix="backuptool-test-"))
    path.chmod(0o777)
    try:
        yield path
    finally:
        for directory, names, _ in os.walk(str(path)):
            for name in names:
                if not os.path.islink(os.path.join(directory, name)):
                    os.chmod(os.path.join(directory, name), 0o700)
        shutil.rmtree(str(path))
