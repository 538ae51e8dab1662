"""Every example runs, is short, and uses public names only; the notebook runs from top to bottom."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import json
import os
import random
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any, Tuple

import pytest

import backuptool
from backuptool import Repository

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
READER = ROOT / "examples" / "independent_reader.py"
NOTEBOOK = ROOT / "examples" / "first_tour.ipynb"
PATH = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def run(example: Path, *arguments: object, cwd: Path, code: int = 0) -> str:
    """Run an example in a process of its own, warnings being errors, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(example), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": PATH, "PYTHONIOENCODING": "utf-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stderr == "" or code
    return done.stdout


def example(name: str) -> Path:
    return ROOT / "examples" / f"{name}.py"


def imported_names(source: str) -> set[str]:
    """Return what a program imports of backuptool, with the module where it is not the package itself."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("backuptool"):
            prefix = "" if node.module == "backuptool" else f"{node.module}."
            found.update(prefix + alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name.startswith("backuptool."))
    return found


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_imports_public_names_only(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= (62 if path == READER else 40)
    assert imported_names(source) <= set(backuptool.__all__)
    assert (ast.get_docstring(ast.parse(source)) or "").count(f"python {path.name}") == 1


@pytest.mark.parametrize("path", [path for path in EXAMPLES if path != READER], ids=lambda path: path.stem)
def test_an_example_runs_without_arguments_and_leaves_nothing_behind(path: Path, tmp_path: Path) -> None:
    assert run(path, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


#: Too few arguments, too many, and words in place of numbers; each in an empty directory.
MISUSED = (
    ("check_and_report", ("backups.db", "more")),
    ("compare_policies", ("backups.db", "more")),
    ("first_backup", ("directory",)),
    ("guarded_experiment", ("directory",)),
    ("independent_reader", ()),
    ("independent_reader", ("backups.db", "latest", "path", "out")),
    ("nightly_run", ("backups.db",)),
    ("progress_callback", ("backups.db", "n")),
    ("progress_callback", ("backups.db", "directory", "soon")),
    ("proven_lately", ("backups.db",)),
    ("proven_lately", ("backups.db", "month")),
    ("proven_lately", ("backups.db", "30", "more")),
    ("read_in_place", ("backups.db",)),
    ("restore_one_file", ("backups.db", "path")),
    ("save_from_memory", ("backups.db", "more")),
)


@pytest.mark.parametrize(("name", "arguments"), MISUSED)
def test_an_example_that_is_misused_says_how_it_is_used_and_does_nothing_else(
    name: str, arguments: Tuple[str, ...], tmp_path: Path
) -> None:
    """Above all it does not show itself off on a directory of its own, as if all were well."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(example(name)), *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": PATH},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr.strip()
        == (ast.get_docstring(ast.parse(example(name).read_text(encoding="utf-8")), False) or "").strip()
    )
    assert list(tmp_path.iterdir()) == []


def test_every_example_is_misused() -> None:
    assert {name for name, _ in MISUSED} == {path.stem for path in EXAMPLES}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    (directory / "sub").mkdir(parents=True)
    (directory / "sub" / "plan.txt").write_text("a plan\n", encoding="utf-8")
    return directory


def test_first_backup_saves_and_restores_what_it_is_given(source: Path, tmp_path: Path) -> None:
    run(example("first_backup"), source, tmp_path / "backups.db", tmp_path / "out", cwd=tmp_path)
    assert (tmp_path / "out" / "sub" / "plan.txt").read_text(encoding="utf-8") == "a plan\n"


def test_restore_one_file_writes_each_snapshot_into_its_own_directory(source: Path, tmp_path: Path) -> None:
    database = tmp_path / "backups.db"
    with Repository(database) as repo:
        repo.snapshot(source)
        (source / "other.txt").write_text("other", encoding="utf-8")
        repo.snapshot(source)
    printed = run(example("restore_one_file"), database, "other.txt", tmp_path / "out", cwd=tmp_path)
    assert printed.startswith("snapshot 2 of")
    assert (tmp_path / "out" / "2" / "other.txt").read_text(encoding="utf-8") == "other"
    assert not (tmp_path / "out" / "2" / "sub").exists()


def test_nightly_run_tells_by_its_exit_code_that_a_directory_is_missing(source: Path, tmp_path: Path) -> None:
    database = tmp_path / "backups.db"
    run(example("nightly_run"), database, source, cwd=tmp_path)
    run(example("nightly_run"), database, tmp_path / "missing", source, cwd=tmp_path, code=1)
    with Repository(database) as repo:
        assert [snapshot.tags for snapshot in repo.list()] == [("nightly",)] * 2


def test_progress_callback_ends_a_snapshot_that_takes_too_long(source: Path, tmp_path: Path) -> None:
    database = tmp_path / "backups.db"
    run(example("progress_callback"), database, source, 0, cwd=tmp_path, code=1)
    run(example("progress_callback"), database, source, 60, cwd=tmp_path)
    with Repository(database) as repo:
        assert len(repo.list()) == 1


def test_check_and_report_ends_with_zero_for_a_sound_repository(source: Path, tmp_path: Path) -> None:
    with Repository(tmp_path / "backups.db") as repo:
        repo.snapshot(source)
    printed = run(example("check_and_report"), tmp_path / "backups.db", cwd=tmp_path)
    assert json.loads(printed) == {"ok": True, "read_bytes": 7, "damaged": {}}


def test_independent_reader_restores_every_kind_of_content(source: Path, tmp_path: Path) -> None:
    (source / "empty").touch()
    (source / "large").write_bytes(b"".join(b"%d\n" % number for number in range(400_000)))
    (source / os.fsdecode(b"name-\xff")).write_bytes(os.urandom(5000))
    with open(source / "sparse", "wb") as file:
        file.write(b"begin")
        file.truncate(5 << 20)
        file.seek(3 << 20)
        file.write(b"middle")
    with Repository(tmp_path / "backups.db") as repo:
        assert repo.snapshot(source).problems == ()
    for path in (path for path in source.rglob("*") if path.is_file()):
        name = os.path.relpath(os.fsencode(path), os.fsencode(source))
        run(READER, tmp_path / "backups.db", 1, os.fsdecode(name), tmp_path / "out", cwd=tmp_path)
        assert (tmp_path / "out").read_bytes() == path.read_bytes(), path


def test_independent_reader_restores_from_packs_that_have_a_base(source: Path, tmp_path: Path) -> None:
    before = random.Random(1).getrandbits(8 * 100_000).to_bytes(100_000, "big")
    (source / "file").write_bytes(before)
    with Repository(tmp_path / "backups.db") as repo:
        repo.snapshot(source)
        (source / "file").write_bytes(b"changed" + before)
        repo.snapshot(source)
    with contextlib.closing(sqlite3.connect(tmp_path / "backups.db")) as database:
        assert database.execute("SELECT pack, base FROM bases").fetchall() == [(2, 1)]
        for number, expected in ((1, before), (2, b"changed" + before)):
            run(READER, tmp_path / "backups.db", number, "file", tmp_path / "out", cwd=tmp_path)
            assert (tmp_path / "out").read_bytes() == expected
        (tmp_path / "out").unlink()
        database.execute("UPDATE bases SET base = 2")
        database.commit()
    run(READER, tmp_path / "backups.db", 2, "file", tmp_path / "out", cwd=tmp_path, code=1)
    assert not (tmp_path / "out").exists()


def test_independent_reader_gives_out_nothing_damaged(source: Path, tmp_path: Path) -> None:
    with Repository(tmp_path / "backups.db") as repo:
        repo.snapshot(source)
    data = (tmp_path / "backups.db").read_bytes()
    assert data.count(b"a plan\n") == 1
    (tmp_path / "backups.db").write_bytes(data.replace(b"a plan\n", b"a plot\n"))
    run(READER, tmp_path / "backups.db", 1, "sub/plan.txt", tmp_path / "out", cwd=tmp_path, code=1)
    assert not (tmp_path / "out").exists()


def test_independent_reader_needs_no_backuptool() -> None:
    assert "import backuptool" not in READER.read_text(encoding="utf-8")
    assert imported_names(READER.read_text(encoding="utf-8")) == set()


# The notebook.


def notebook() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return loaded


def code_cells() -> list[str]:
    return ["".join(cell["source"]) for cell in notebook()["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_is_clean_and_uses_public_names_only() -> None:
    for cell in notebook()["cells"]:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
    assert imported_names("\n".join(code_cells())) <= set(backuptool.__all__)


def test_the_notebook_runs_from_top_to_bottom_in_a_plain_namespace() -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        for cell in code_cells():
            exec(compile(cell, "cell", "exec"), names)
    assert names["report"].ok
    assert names["second"].new_bytes < names["second"].read_bytes / 2
    assert names["restored"].restored_files == 1
    assert [len(names[name]._repr_html_()) > 100 for name in ("first", "second", "report")] == [True] * 3
    assert not Path(names["place"].name).exists()


_EXECUTE = """
import sys
import nbformat
from nbclient import NotebookClient

book = nbformat.read(sys.argv[1], as_version=4)
nbformat.validate(book)
NotebookClient(book, timeout=120, kernel_name="python3").execute()
nbformat.write(book, sys.argv[2])
"""


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("nbclient", "nbformat", "ipykernel")),
    reason="needs nbclient and ipykernel: pip install '.[notebook]'",
)
def test_the_notebook_runs_through_a_kernel_and_shows_tables(tmp_path: Path) -> None:
    executed = tmp_path / "executed.ipynb"
    directories = {f"JUPYTER_{name}": str(tmp_path / name) for name in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")}
    done = subprocess.run(
        [sys.executable, "-c", _EXECUTE, str(NOTEBOOK), str(executed)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": PATH, "HOME": str(tmp_path), **directories},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    shown = executed.read_text(encoding="utf-8")
    assert shown.count("text/html") >= 4
    assert '"output_type": "error"' not in shown


def test_proven_lately_ends_with_one_until_each_source_was_drilled(source: Path, tmp_path: Path) -> None:
    database = tmp_path / "backups.db"
    with Repository(database) as repo:
        repo.snapshot(source)
        assert "never proven" in run(example("proven_lately"), database, 30, cwd=tmp_path, code=1)
        repo.drill()
    assert run(example("proven_lately"), database, 30, cwd=tmp_path) == "all proven lately\n"


def test_proven_lately_gives_no_all_clear_where_nothing_is_saved(source: Path, tmp_path: Path) -> None:
    database = tmp_path / "backups.db"
    with Repository(database) as repo:
        repo.snapshot(source)
        repo.prune(1)
    assert run(example("proven_lately"), database, 30, cwd=tmp_path, code=1) == "nothing is saved there\n"


def test_read_in_place_reads_what_has_one_snapshot_and_what_is_empty(source: Path, tmp_path: Path) -> None:
    database = tmp_path / "backups.db"
    (source / "empty").touch()
    with Repository(database) as repo:
        repo.snapshot(source)
        assert run(example("read_in_place"), database, "empty", cwd=tmp_path) == "snapshot 1, came: b'' … b''\n"
        (source / "new").touch()
        repo.snapshot(source)
    printed = run(example("read_in_place"), database, "sub/plan.txt", cwd=tmp_path)
    assert printed == "snapshot 1, came: b'a plan\\n' … b'\\n'\nlast night: changed .\nlast night: added new\n"
    assert "no snapshot has" in run(example("read_in_place"), database, "missing", cwd=tmp_path)


def test_independent_reader_says_that_there_is_no_such_file(source: Path, tmp_path: Path) -> None:
    with Repository(tmp_path / "backups.db") as repo:
        repo.snapshot(source)
    for arguments in ((1, "missing"), (2, "sub/plan.txt")):
        run(READER, tmp_path / "backups.db", *arguments, tmp_path / "out", cwd=tmp_path, code=1)
    assert not list(tmp_path.glob("out*"))
