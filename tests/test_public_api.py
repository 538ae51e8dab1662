from __future__ import annotations

import importlib
import inspect
import os
import pickle
import pkgutil
import sqlite3
import subprocess
import sys
import threading
import types
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Callable, List, Tuple, TypeVar

import pytest
from conftest import write, write_tree
from trees import differences, random_bytes

import backuptool
from backuptool import Repository, errors, progress, results

T = TypeVar("T")

ROOT = Path(backuptool.__file__).resolve().parent.parent
PROGRAM = Path(__file__).resolve().parent / "data" / "user_program.py"

#: As for a package that is installed: what is said is about the program.
MYPY = ("--strict", "--follow-imports=silent", "--cache-dir", str(ROOT / ".mypy_cache"))

METHODS = (
    *("snapshot", "snapshot_files", "list", "restore", "annotate", "prune", "plan_prune", "forecast", "stats", "check"),
    *("history", "find", "ls", "walk", "open", "tree", "diff", "iter_diff", "text_diff", "compare"),
    *("drill", "copy", "export_tar", "import_tar", "guard"),
)


def in_child(function: Callable[[], T]) -> T:
    """Return what a function returns in a forked process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover (another process)
        try:
            with os.fdopen(writing, "wb") as stream:
                pickle.dump(function(), stream)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        data = stream.read()
    os.waitpid(child, 0)
    result: T = pickle.loads(data)
    return result


def open_files() -> List[str]:
    """Return what this process has open."""
    return [os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.exists(entry.path)]


# Names.


def test_all_names_are_there_once_and_nothing_else_is_public() -> None:
    assert len(set(backuptool.__all__)) == len(backuptool.__all__)
    assert set(backuptool.__all__) <= set(dir(backuptool))
    for name in backuptool.__all__:
        getattr(backuptool, name)  # some are imported now
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        backuptool.nothing  # noqa: B018
    there = {
        name
        for name, value in vars(backuptool).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert there == set(backuptool.__all__) - {"__version__"}


def test_every_error_and_every_result_is_public() -> None:
    assert set(errors.__all__) <= set(backuptool.__all__)
    modules = [
        importlib.import_module(found.name) for found in pkgutil.iter_modules(results.__path__, "backuptool.results.")
    ]
    kinds = {
        name
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, backuptool.Result)
    }
    assert "SnapshotResult" in kinds
    assert kinds <= set(backuptool.__all__)
    assert set(progress.__all__) - {"Reporter", "bar"} <= set(backuptool.__all__)


def test_every_public_class_and_function_says_what_it_is() -> None:
    for name in backuptool.__all__:
        value = getattr(backuptool, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert (value.__doc__ or "").strip(), name
            assert value.__module__.startswith("backuptool.")


def test_every_public_method_documents_its_options() -> None:
    for method in METHODS:
        function = getattr(Repository, method)
        for name in list(inspect.signature(function).parameters)[1:]:
            assert f"\n    {name}: " in (inspect.getdoc(function) or ""), f"{method}({name})"


@pytest.mark.parametrize(
    ("method", "positional"),
    [
        ("__init__", ["path"]),
        ("snapshot", ["source"]),
        ("snapshot_files", ["files", "name"]),
        ("list", []),
        ("restore", ["snapshot", "destination"]),
        ("annotate", ["snapshot"]),
        ("history", ["path"]),
        ("find", ["name"]),
        ("ls", ["snapshot", "path"]),
        ("walk", ["snapshot", "path"]),
        ("open", ["snapshot", "path"]),
        ("tree", ["snapshot"]),
        ("diff", ["old", "new"]),
        ("iter_diff", ["old", "new"]),
        ("text_diff", ["old", "new", "path"]),
        ("compare", ["snapshot", "directory"]),
        ("prune", ["snapshots"]),
        ("plan_prune", ["policy"]),
        ("forecast", ["policies"]),
        ("stats", []),
        ("check", []),
        ("guard", ["directory"]),
        ("drill", ["snapshot"]),
        ("export_tar", ["snapshot", "destination"]),
        ("import_tar", ["tar"]),
        ("copy", ["destination", "snapshots"]),
    ],
)
def test_options_are_keyword_only_and_typed(method: str, positional: List[str]) -> None:
    signature = inspect.signature(getattr(Repository, method))
    parameters = list(signature.parameters.values())[1:]
    assert [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD] == positional
    options = [each for each in parameters if each.name not in positional]
    assert all(each.kind is each.KEYWORD_ONLY and each.default is not each.empty for each in options)
    assert all(each.annotation not in (each.empty, "Any") for each in parameters)
    assert signature.return_annotation not in (signature.empty, "Any")


# Types.


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "backuptool" / "py.typed").is_file()


def test_a_program_of_a_user_is_strictly_typed_and_runs(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is not installed")
    write_tree(tmp_path / "source", {"a.txt": b"a", "b.tmp": b"b"})
    program = write(tmp_path / "program.py", PROGRAM.read_bytes())
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", *MYPY, str(program)],
        cwd=str(tmp_path),
        env={**os.environ, "MYPYPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert (checked.returncode, checked.stdout) == (0, b"Success: no issues found in 1 source file\n")


def test_a_mistake_in_a_program_of_a_user_is_found(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is not installed")
    program = write(
        tmp_path / "program.py",
        b"from backuptool import Repository\n"
        b"repo = Repository('r')\n"
        b"repo.restore(1, 'out', overwrite='sometimes')\n"
        b"repo.check().problem\n"
        b"repo.snapshot('source', 'note')\n"
        b"x: str = repo.list()[0].id\n",
    )
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", *MYPY, str(program)],
        cwd=str(tmp_path),
        env={**os.environ, "MYPYPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        check=False,
    )
    lines = [line.split(b":")[1] for line in checked.stdout.splitlines() if b": error: " in line]
    assert lines == [b"3", b"4", b"5", b"6"]


def test_the_program_of_a_user_runs(tmp_path: Path) -> None:
    write_tree(tmp_path / "source", {"a.txt": b"a", "b.tmp": b"b"})
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert os.listdir(tmp_path / "out") == ["a.txt"]


# Importing.

HEAVY = (
    "tqdm",
    "pyfastcdc",
    "backports.zstd",
    "compression.zstd",
    "pyzstd",
    "concurrent.futures",
    "multiprocessing",
    "argparse",
    "asyncio",
    "hypothesis",
)


@pytest.mark.parametrize("statement", ["", "repo.list()", "repo.list(); repo.close(); repo.list(tag='x')"])
def test_importing_and_listing_load_nothing_that_they_do_not_need(repo: Repository, tree: Path, statement: str) -> None:
    repo.snapshot(tree)
    repo.close()
    program = (
        f"import sys; import backuptool; repo = backuptool.Repository({repo.path!r}); {statement}\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        check=True,
    )
    assert done.stdout == b"[]\n"


def test_importing_has_no_effect_on_the_process(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys, threading, warnings, logging\n"
        "def state():\n"
        "    return (os.getcwd(), os.umask(0o22), signal.getsignal(signal.SIGINT), threading.active_count(),\n"
        "            sorted(os.listdir('/proc/self/fd')), logging.root.handlers, dict(os.environ), sys.stdout)\n"
        "before = state()\n"
        "import backuptool\n"
        "backuptool.Repository('none')\n"
        "assert state() == before\n"
        "assert os.listdir() == []\n"
    )
    subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=str(tmp_path), check=True
    )


# The repository as an object.


def test_making_a_repository_opens_and_creates_nothing(tmp_path: Path) -> None:
    Repository(tmp_path / "none" / "backups.db").close()
    assert os.listdir(tmp_path) == []


def test_a_repository_knows_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tree: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Repository().path == str(tmp_path / "backups.db")
    assert Repository("~/r.db").path == str(tmp_path / "home" / "r.db")
    assert Repository(Path("sub/../r.db")).path == str(tmp_path / "r.db")
    repo = Repository("r.db")
    monkeypatch.chdir("/")
    repo.snapshot(tree)
    assert (tmp_path / "r.db").exists()
    assert repr(repo) == f"Repository('{tmp_path}/r.db')"
    repo.close()


def test_a_repository_is_a_context_manager_that_closes_the_file(repo: Repository, tree: Path) -> None:
    with repo as entered:
        assert entered is repo
        repo.snapshot(tree)
        assert repo.path in open_files()
    assert repo.path not in open_files()
    assert len(repo.list()) == 1
    with pytest.raises(KeyError), repo:
        raise KeyError
    assert repo.path not in open_files()
    repo.close()
    repo.close()


def test_a_repository_pickles_by_its_path(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        same = pickle.loads(pickle.dumps(repo, protocol))
        assert same.path == repo.path
        assert same.__getstate__() == repo.__getstate__()
        assert [snapshot.id for snapshot in same.list()] == [1]
        same.close()


def count(repo: Repository) -> int:
    return len(repo.list())


def test_a_repository_can_be_sent_to_other_processes(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    with get_context("spawn").Pool(1) as pool:
        assert pool.map(count, [repo, repo]) == [1, 1]
        pool.close()
        pool.join()


def test_a_forked_child_may_use_the_repository_of_its_parent(repo: Repository, tree: Path, tmp_path: Path) -> None:
    repo.snapshot(tree)

    def use() -> Tuple[int, bool, int]:
        listed = len(repo.list())
        write(tree / "new", b"of the child")
        taken = repo.snapshot(tree).snapshot.id
        repo.restore(taken, tmp_path / "out")
        return listed, repo.check().ok, taken

    assert in_child(use) == (1, True, 2)
    assert [snapshot.id for snapshot in repo.list()] == [1, 2]
    assert differences(tree, tmp_path / "out") == []
    assert repo.snapshot(tree).snapshot.id == 3
    assert in_child(use)[0] == 3
    repo.prune([1, 2])
    assert repo.check().ok


def test_a_child_forked_within_an_operation_may_use_the_repository(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    seen: List[Any] = []

    def fork(event: backuptool.ProgressEvent) -> None:
        if event.phase == "catalog" and not seen:
            seen.append(in_child(lambda: len(repo.list())))

    assert repo.check(progress=fork).ok
    assert seen == [1]


def test_eight_threads_may_use_one_repository_at_once(tmp_path: Path) -> None:
    repo = Repository(tmp_path / "backups.db")
    start = threading.Barrier(8)
    failures: List[str] = []

    def work(number: int) -> None:
        source = tmp_path / f"source {number}"
        shared = {f"{index}": b"shared %d" % index for index in range(30)}
        write_tree(source, {**shared, "own": b"%d" % number, "large": random_bytes(1_500_000, seed=number % 2)})
        start.wait()
        try:
            first = repo.snapshot(source, tags=[f"{number}"]).snapshot.id
            write(source / "own", b"changed %d" % number)
            second = repo.snapshot(source, tags=[f"{number}"]).snapshot.id
            assert [snapshot.id for snapshot in repo.list(tag=f"{number}")] == [first, second]
            assert repo.check().ok
            restored = repo.restore(second, tmp_path / f"out {number}", verify=True)
            assert (restored.problems, restored.verified_files) == ((), 32)
            assert differences(source, tmp_path / f"out {number}") == []
            repo.prune(first)
            assert [snapshot.id for snapshot in repo.list(source=source)] == [second]
        except BaseException as exc:
            failures.append(f"{number}: {exc!r}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(repo.list()) == 8
    assert repo.check().ok
    repo.close()
    assert not [name for name in open_files() if name.startswith(str(tmp_path))]


@pytest.mark.parametrize("application", [0, 1])
def test_a_creation_that_was_interrupted_is_finished(tmp_path: Path, tree: Path, application: int) -> None:
    """SQLite writes the first page before there are tables; only a file of another program is left alone."""
    with closing(sqlite3.connect(str(tmp_path / "backups.db"), isolation_level=None)) as database:
        database.execute("PRAGMA page_size=16384")
        database.execute("PRAGMA auto_vacuum=INCREMENTAL")
        database.execute(f"PRAGMA application_id={application}")
    assert (tmp_path / "backups.db").stat().st_size == 16384
    with Repository(tmp_path / "backups.db") as repo:
        if application:
            with pytest.raises(backuptool.NotARepositoryError):
                repo.snapshot(tree)
        else:
            assert repo.snapshot(tree).snapshot.id == 1
            assert repo.check().ok


def test_closing_beside_a_thread_that_works_takes_nothing_from_it(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    closed: List[bool] = []

    def close(event: backuptool.ProgressEvent) -> None:
        thread = threading.Thread(target=repo.close)
        thread.start()
        thread.join()
        closed.append(True)

    assert repo.check(progress=close).ok
    assert closed
    assert len(repo.list()) == 1


def test_a_database_of_another_program_keeps_its_journal_mode(tmp_path: Path, tree: Path) -> None:
    path = tmp_path / "places.sqlite"
    with closing(sqlite3.connect(str(path))) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE visits (url)")
        database.commit()
    before = path.read_bytes()
    with Repository(path) as repo:
        for refused in (lambda: repo.list(), lambda: repo.snapshot(tree)):
            with pytest.raises(backuptool.NotARepositoryError):
                refused()
    assert path.read_bytes() == before
    with closing(sqlite3.connect(str(path))) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
