"""Secrets: passwords and keys are looked for wherever they should not be, in runs of the command and of the library.

Each run has a repository of its own, with a password that nobody ever had. Commands end as they should, fail in every
way that a user can make them fail, and are killed; what they print, all files they leave, what other processes see of
them and their helpers, and their core are searched, for the password, the key of the file, the key of the pages and
what Argon2id makes of the password, as bytes, hexadecimal, base64 and text. Exceptions are searched with their
arguments, and with the variables of each frame of this package, which some programs put into their logs.
"""

from __future__ import annotations

import base64
import ctypes
import os
import random
import resource
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Set, Tuple

import attrs
import pytest
from conftest import as_nobody, cheapened_argon2, noise, write, write_tree

import backuptool
from backuptool import Repository
from backuptool.cli import main

from .programme import Effort, Figures

for library in ("apsw", "cryptography"):
    pytest.importorskip(library)
pytestmark = [
    pytest.mark.reliability,
    pytest.mark.skipif(sys.version_info < (3, 9), reason="encryption needs Python 3.9"),
    pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc"),
]

from backuptool.storage.encryption.construction import Stretched  # noqa: E402
from backuptool.storage.encryption.keyring import Keyring  # noqa: E402

ROOT = Path(backuptool.__file__).resolve().parent.parent

#: A command with an Argon2id of 1 ms, so that there can be a thousand; what it computes with is secret all the same.
PROGRAM = """
import sys
from backuptool.storage.encryption import construction
construction._MEMORY_KIB, construction._PASSES = 32, 1
from backuptool.cli import main
sys.exit(main())
"""

#: The same for a program that keeps what is asked for to itself and does not hinder the system.
CARELESS = PROGRAM.replace("sys.exit(main())", "main(); print(sys.argv)")


@attrs.define
class Place:
    """A repository, what opens it, and where its user works.

    Attributes:
        path: A directory.
        password: Text that no other place has.
        forms: What is looked for: name, and bytes.
    """

    path: Path
    password: str
    forms: List[Tuple[str, bytes]] = attrs.Factory(list)

    @classmethod
    def make(cls, path: Path) -> Place:
        """Make a directory with a source and an encrypted repository."""
        place = cls(path, "pass " + base64.b32encode(os.urandom(15)).decode())
        write_tree(path / "tree", {"a.txt": b"a" * 3000, "d/b": noise(20_000, 1)})
        for name in ("tmp", "home"):
            (path / name).mkdir()
        (path / "password").write_text(place.password + "\n")
        with cheapened_argon2(), Repository(path / "r.db", password=place.password, max_helpers=0) as repo:
            repo.snapshot(path / "tree")
            keyring = Keyring(place.password)
            key = keyring.unlock(repo.path)
            stretched = Stretched(place.password.encode(), keyring.page(repo.path).salt)
        secrets = (
            ("password", place.password.encode()),
            ("file key", key.reveal()),
            ("page key", key.pages()),
            ("stretched password", stretched._secret),
        )
        for name, secret in secrets:
            for how, form in (
                ("bytes", secret),
                ("hexadecimal", secret.hex().encode()),
                ("capital hexadecimal", secret.hex().upper().encode()),
                ("base64", base64.b64encode(secret).rstrip(b"=")),
                ("a repr", repr(secret)[2:-1].encode()),
                ("text", secret.decode("latin-1").encode("utf-8")),
            ):
                if not any(form == other for _, other in place.forms):
                    place.forms.append((f"the {name} as {how}", form))
        return place

    def found_in(self, data: bytes) -> Set[str]:
        """Return which secrets are in some bytes."""
        return {name for name, form in self.forms if form in data}

    def found_in_files(self) -> Set[str]:
        """Return which secrets are in files below, but for the one that the password is read from."""
        found = set()
        for directory, _, names in os.walk(str(self.path)):
            for name in names:
                if name != "password":
                    data = Path(directory, name).read_bytes()
                    found |= {f"{what} in {name}" for what in self.found_in(data)}
        return found


class Spy:
    """Looks at what other processes can see of a process and those that it starts, as long as it runs."""

    def __init__(self, pid: int, first_environment: bool) -> None:
        self.seen: Set[Tuple[str, bytes]] = set()
        self._pid = pid
        self._first_environment = first_environment
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._ended.wait(0.01):
            for pid in [self._pid, *_descendants(self._pid)]:
                for what in ("cmdline", "environ"):
                    # What the first one was given in its environment is what it was given.
                    if what == "cmdline" or pid != self._pid or self._first_environment:
                        with suppress(OSError):
                            data = Path(f"/proc/{pid}/{what}").read_bytes()
                            self.seen.add((f"{what} of {'it' if pid == self._pid else 'its child'}", data))

    def end(self) -> None:
        """Stop looking."""
        self._ended.set()
        self._thread.join()


def _descendants(pid: int) -> Iterator[int]:
    with suppress(OSError, ValueError):
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                yield int(child)
                yield from _descendants(int(child))


def _any_core() -> None:
    """Let a process write a core; what it does about that itself is what is tried."""
    limit = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))


def start(place: Place, arguments: Sequence[str], given: str, program: str = PROGRAM) -> subprocess.Popen[bytes]:
    """Start a command of a user, whose password comes from a file, a command or the environment."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "HOME": str(place.path / "home"),
        "TMPDIR": str(place.path / "tmp"),
        "XDG_STATE_HOME": str(place.path / "home"),
    }
    options = {"file": ["--password-file", "password"], "command": ["--password-command", "cat password"]}.get(
        given, []
    )
    if given == "environment":
        environment["BACKUPTOOL_PASSWORD"] = place.password
    return subprocess.Popen(
        [sys.executable, "-c", program, "--db-path", "r.db", *options, *arguments],
        cwd=str(place.path),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=_any_core,
    )


COMMANDS: Tuple[Tuple[str, ...], ...] = (
    ("snapshot", "--target-directory", "tree"),
    ("snapshot", "--target-directory", "missing"),
    ("snapshot", "--target-directory", "tree", "--db-path", "new.db", "--encrypt", "--json"),
    ("list",),
    ("list", "--db-path", "plain.db"),
    ("list", "--db-path", "missing.db"),
    ("check",),
    ("check", "--json", "--expect-at-least", "9"),
    ("restore", "--snapshot-number", "1", "--output-directory", "out"),
    ("restore", "--snapshot-number", "7", "--output-directory", "out"),
    ("prune", "--keep-last", "1"),
    ("key", "list", "--json"),
    ("key", "add", "--new-password-file", "password"),
    ("key", "remove", "00"),
    ("copy", "--destination", "copy.db"),
    ("copy", "--destination", "plain.db"),
    ("drill", "--json"),
    ("stats",),
    ("cat", "a.txt"),
    ("find", "*.txt"),
    ("diff", "--directory", "tree", "1"),
    ("annotate", "1", "--note", "x"),
)


def hinder(place: Place, chance: random.Random) -> str:
    """Put something in the way of a command, and return what."""
    what = chance.choice(["nothing", "nothing", "damage", "key pages", "short", "another password", "journal"])
    path = place.path / "r.db"
    data = bytearray(path.read_bytes())
    if what == "damage":
        at = chance.randrange(len(data))
        data[at : at + 40] = os.urandom(len(data[at : at + 40]))
        path.write_bytes(data)
    elif what == "key pages":
        data[2 * 16384 : 4 * 16384] = bytes(2 * 16384)
        path.write_bytes(data)
    elif what == "short":
        path.write_bytes(data[: chance.randrange(len(data))])
    elif what == "another password":
        (place.path / "password").write_text("another one\n")
    elif what == "journal":
        (place.path / "r.db-journal").write_bytes(os.urandom(3000))
    return what


def run_command(place: Place, chance: random.Random, figures: Figures) -> None:
    """Run one command, perhaps hindered and perhaps killed, and search everything."""
    hindered = hinder(place, chance)
    ways = ["file", "command", "environment"]
    given = "file" if hindered == "another password" else chance.choice(ways)
    arguments = [*chance.choice(COMMANDS), *chance.choice([(), ("-v",), ("-q",)])]
    with Repository(place.path / "plain.db") as plain:
        plain.snapshot_files({"a": b"a"}, "a")
    process = start(place, arguments, given)
    spy = Spy(process.pid, given != "environment")
    killed = chance.random() < 0.2
    try:
        out, err = process.communicate(timeout=chance.uniform(0.1, 0.8) if killed else 120)
    except subprocess.TimeoutExpired:
        process.send_signal(chance.choice([signal.SIGABRT, signal.SIGSEGV, signal.SIGINT, signal.SIGTERM]))
        out, err = process.communicate(timeout=120)
    spy.end()
    figures.tried["commands"] += 1
    figures.tried["of these failed or refused"] += process.returncode > 0
    figures.tried["of these killed by a signal"] += process.returncode < 0
    figures.tried["looks at command lines and environments of other processes"] += len(spy.seen)
    found = {f"{what} printed" for what in place.found_in(out + b"\n" + err)}
    for where, data in spy.seen:
        found |= {f"{what} in the {where}" for what in place.found_in(data)}
    # A process that is killed before it has read a line of its program has the environment it was given in its core.
    cores = list(place.path.glob("core*"))
    if cores and given == "environment":
        figures.tried["cores of a process killed before its first line, with the environment it was given"] += 1
        for core in cores:
            core.unlink()
    found |= place.found_in_files()
    figures.faults += [f"{what}: {arguments}, {hindered}, password by {given}" for what in sorted(found)]


USES: Tuple[Callable[[Repository, Place], object], ...] = (
    lambda repo, place: repo.list(),
    lambda repo, place: repo.check(),
    lambda repo, place: repo.snapshot(place.path / "tree"),
    lambda repo, place: repo.snapshot(place.path / "missing"),
    lambda repo, place: repo.restore(7, place.path / "out"),
    lambda repo, place: repo.restore(1, place.path / "out"),
    lambda repo, place: repo.prune([9]),
    lambda repo, place: repo.remove_key("00"),
    lambda repo, place: repo.remove_key(repo.keys()[0].id),
    lambda repo, place: repo.add_key(place.password),
    lambda repo, place: repo.copy(repo.path),
    lambda repo, place: repo.copy(place.path / "no" / "directory.db"),
    lambda repo, place: repo.open(1, "missing"),
)


def run_library(place: Place, chance: random.Random, figures: Figures) -> None:
    """Use the library so that it fails, and search what is raised, with the variables of its frames."""
    hindered = hinder(place, chance)
    password = "no " + place.password if chance.random() < 0.3 else place.password
    if password != place.password:
        place.forms.append(("the wrong password", password.encode()))
    with cheapened_argon2(), Repository(place.path / "r.db", password=password, max_helpers=0) as repo:
        use = chance.choice(USES)
        try:
            use(repo, place)
        except Exception as exc:
            figures.tried["exceptions of the library"] += 1
            texts = list(_texts_of(exc))
        else:
            figures.tried["uses of the library that succeeded"] += 1
            texts = []
        texts += [repr(repo), repr(vars(repo)), repr(repo._pool.keyring)]
    found = {
        f"{what} in {text.partition(' =')[0] if text.startswith('variable') else 'a text'}"
        for text in texts
        for what in place.found_in(text.encode("utf-8", "surrogateescape"))
    }
    found |= place.found_in_files()
    figures.faults += [f"{what}: {hindered}, use {USES.index(use)}" for what in sorted(found)]


def _texts_of(exc: Optional[BaseException]) -> Iterator[str]:
    """Yield all that a program could log of an exception and of what it came from."""
    while exc is not None:
        yield f"{exc!r} {exc} {exc.args!r} {vars(exc)!r}"
        trace: Optional[TracebackType] = exc.__traceback__
        while trace is not None:
            if "/backuptool/" in trace.tb_frame.f_code.co_filename:
                for name, value in trace.tb_frame.f_locals.items():
                    yield f"variable {name} of {trace.tb_frame.f_code.co_name} = {value!r}"
            trace = trace.tb_next
        exc = exc.__cause__ or exc.__context__


def run(effort: Effort) -> Figures:
    """Run commands and the library, each time with a repository of its own."""
    chance = random.Random(effort.seed)
    figures = Figures()
    for number in range(1000 if effort.full else 24):
        if effort.is_over():
            break
        place_path = effort.work / str(number)
        place_path.mkdir()
        for runner in (run_command, run_library):
            (place_path / runner.__name__).mkdir()
            place = Place.make(place_path / runner.__name__)
            runner(place, chance, figures)
            subprocess.run(["rm", "-rf", str(place.path)], check=True)
        if number % 100 == 99:
            effort.tell(f"{number + 1:,} of each, {len(figures.faults)} faults")
    return figures


def test_no_secret_is_anywhere_but_where_it_belongs(tmp_path: Path) -> None:
    figures = run(Effort(work=tmp_path))
    assert figures.faults == []
    assert figures.tried["commands"] == 24
    assert figures.tried["exceptions of the library"] > 5


# Cores.


HOLD = """
import os, sys
from backuptool.storage.encryption import construction
construction._MEMORY_KIB, construction._PASSES = 32, 1
from backuptool import cli, Repository
{use}
print("ready", flush=True)
sys.stdin.read()
"""

COMMAND = "held = cli.main(['-q', 'check', '--password-file', 'password', '--db-path', 'r.db'])"
LIBRARY = "repository = Repository('r.db', password=open('password').read().rstrip(), max_helpers=0); repository.list()"
HELPER = (
    "from backuptool.operations.processes import start_helpers\n"
    "repository = Repository('r.db', password=open('password').read().rstrip(), max_helpers=0)\n"
    "with repository._pool.reading() as database:\n"
    "    [helper] = start_helpers(1, 'check.examining', database.address(), private={private})\n"
    "helper.send([1])\n"
    "assert helper.receive()\n"
    "print(helper.pid, flush=True)"
)


def hold(place: Place, use: str) -> subprocess.Popen[str]:
    """Start a process that has used the repository and waits."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLD.format(use=use)],
        cwd=str(place.path),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=_any_core,
    )


def until_ready(process: subprocess.Popen[str]) -> List[str]:
    """Wait for it, and return what it printed before."""
    assert process.stdout is not None
    lines: List[str] = []
    while True:
        line = process.stdout.readline().strip()
        assert line or process.poll() is None, "it ended"
        if line == "ready":
            return lines
        lines.append(line)


def core_of(place: Place, use: str) -> Set[str]:
    """Return which secrets are in the core of a process that is ended by SIGABRT; "no core" if there is none."""
    if Path("/proc/sys/kernel/core_pattern").read_text().strip() != "core":
        pytest.skip("cores are not written into the directory of the process here")
    if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        pytest.skip("no process may write a core here")
    with hold(place, use) as process:
        until_ready(process)
        process.send_signal(signal.SIGABRT)
        process.wait()
    cores = list(place.path.glob("core*"))
    if not cores:
        return {"no core"}
    return {what for core in cores for what in place.found_in(core.read_bytes())}


def test_command_that_crashes_writes_no_core(tmp_path: Path) -> None:
    assert core_of(Place.make(tmp_path), COMMAND) == {"no core"}


def test_program_that_uses_the_library_decides_about_its_core_itself(tmp_path: Path) -> None:
    """Also the control: a core that is written does have the secrets, and they are found there."""
    found = core_of(Place.make(tmp_path), LIBRARY)
    assert {"the password as bytes", "the file key as bytes"} <= found


def test_other_processes_of_the_user_cannot_look_into_the_command(public_path: Path) -> None:
    def look() -> Dict[str, str]:
        looked = {}
        libc = ctypes.CDLL(None)
        for name in ("command", "library"):
            place = Place.make(public_path / name)
            reading, writing = os.pipe()
            child = os.fork()  # and not started anew: the interpreter may lie where this user cannot reach it
            if child == 0:  # pragma: no cover (another process)
                try:
                    libc.prctl(4, 1, 0, 0, 0)  # as of any process whose user has not changed
                    os.chdir(str(place.path))
                    if name == "command":
                        main(["-q", "check", "--password-file", "password", "--db-path", "r.db"])
                    else:
                        Repository("r.db", password=place.password, max_helpers=0).list()
                    os.write(writing, b"ready")
                    signal.pause()
                finally:
                    os._exit(0)
            os.close(writing)
            assert os.read(reading, 5) == b"ready"
            os.close(reading)
            for what in ("mem", "environ"):
                try:
                    with open(f"/proc/{child}/{what}", "rb"):
                        looked[f"{name} {what}"] = "opened"
                except PermissionError:
                    looked[f"{name} {what}"] = "refused"
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        return looked

    for name in ("command", "library"):
        (public_path / name).mkdir()
        (public_path / name).chmod(0o777)
    with cheapened_argon2():
        looked = as_nobody(look)
    assert looked == {
        "command mem": "refused",
        "command environ": "refused",
        "library mem": "opened",
        "library environ": "opened",
    }


@pytest.mark.parametrize("private", [True, False])
def test_helper_with_a_key_writes_no_core_whoever_started_it(tmp_path: Path, private: bool) -> None:
    """And one that does not know that it has one does: its key is found."""
    place = Place.make(tmp_path)
    with hold(place, HELPER.format(private=private)) as process:
        [helper] = until_ready(process)
        os.kill(int(helper), signal.SIGABRT)
        while Path(f"/proc/{helper}/exe").exists():  # until then it may be writing its core
            os.sched_yield()
        process.kill()
    found = {what for core in place.path.glob("core*") for what in place.found_in(core.read_bytes())}
    if not private and not found:
        pytest.skip("cores are not written into the directory of the process here")
    assert ("the file key as bytes" in found) == (not private)


# Controls.


def test_secret_in_a_printed_line_or_a_file_is_found(tmp_path: Path) -> None:
    place = Place.make(tmp_path)
    write(tmp_path / "tmp" / "left", b"x" + place.password.encode().hex().encode())
    assert place.found_in_files() == {"the password as hexadecimal in left"}
    process = start(place, ["list", "--label", place.password], "file", CARELESS)
    spy = Spy(process.pid, True)
    out, err = process.communicate()
    spy.end()
    assert place.found_in(out + err) == {"the password as bytes"}
    found = {(where, what) for where, data in spy.seen for what in place.found_in(data)}
    assert found == {("cmdline of it", "the password as bytes")}


def test_secret_in_a_variable_of_a_frame_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place.make(tmp_path)

    def open_badly(self: Keyring, *arguments: Any) -> Any:
        raise AssertionError(f"the password is {place.password}")

    monkeypatch.setattr(Keyring, "_open", open_badly)
    with Repository(place.path / "r.db", password=place.password) as repo:
        try:
            repo.list()
        except AssertionError as exc:
            found = {what for text in _texts_of(exc) for what in place.found_in(text.encode())}
    assert found == {"the password as bytes"}
