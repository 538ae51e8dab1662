"""The documentation is true: its sessions run and print what they show, its links lead somewhere, nothing is left out.

Fenced blocks are run page by page, in order, in one new home directory a page: ``console`` and ``pycon`` blocks are
compared with what they show, ``bash``, ``python`` and ``sql`` blocks must succeed. A comment above a block says what is
special about it: ``<!-- set-up: … -->`` (makes a virtual environment; .ci/run runs it) or ``<!-- not run: … -->``.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import gc
import inspect
import io
import os
import re
import shlex
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Iterator

import attrs
import pytest

import backuptool
from backuptool.commands.parser import build_parser
from backuptool.results.presentation import Result
from backuptool.storage import chunking, compression, schema, unpacking

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])

RUN = {"console", "pycon", "python", "bash", "sql"}
NOT_RUN = {"text", "ini", "toml", "json"}


@attrs.frozen
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str
    mark: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, each with the comment right above it."""
    found = []
    name = str(page.relative_to(ROOT))
    lines = page.read_text(encoding="utf-8").splitlines()
    mark = language = ""
    begin = 0
    inside: list[str] | None = None
    for number, line in enumerate(lines, 1):
        if inside is not None:
            if line == "```":
                found.append(Block(name, begin, language, "\n".join(inside) + "\n", mark))
                inside, mark = None, ""
            else:
                inside.append(line)
        elif line.startswith("```"):
            inside, language, begin = [], line[3:].strip(), number
        elif line.startswith("<!--"):
            mark = line[4:].replace("-->", "").strip()
        elif line.strip():
            mark = ""
    assert inside is None, f"{name}: the block at line {begin} does not end"
    return found


def is_run(block: Block) -> bool:
    return block.language in RUN and not block.mark.startswith(("set-up:", "not run:"))


# Running the blocks of a page.


class Session:
    """A home directory, and the names that the Python blocks of a page share.

    Args:
        home: An empty directory, the current one while blocks run.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self._names: dict[str, Any] = {"__name__": "__main__"}
        programs = home.parent / "programs"
        programs.mkdir()
        for name, command in (("backuptool", "-m backuptool"), ("python", ""), ("python3", "")):
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {command} "$@"\n', encoding="ascii")
            program.chmod(0o755)
        self._environment = {
            "HOME": str(home),
            "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
            "TERM": "dumb",
        }

    def run(self, block: Block) -> str:
        """Run a block and return the text that it should show: commands with what they print."""
        return str(getattr(self, "_" + block.language)(block.text))

    def _bash(self, text: str) -> str:
        return self._shell("set -e\n" + text)

    def _console(self, text: str) -> str:
        commands = commands_of(text)
        mark = "-- end of a command --"
        script = "".join(f"{command}\nstatus=$?; echo; echo '{mark}'; (exit $status)\n" for command in commands)
        printed = self._shell(script + "true\n").split(f"\n{mark}\n")
        return "".join(show_command(command) + text for command, text in zip(commands, printed))

    def _shell(self, script: str) -> str:
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.home,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="backslashreplace",
            timeout=120,
        )
        assert done.returncode == 0, done.stdout
        return self._anonymous(done.stdout)

    def _python(self, text: str) -> str:
        with self._inside():
            exec(compile(text, "block", "exec"), self._names)
        return text

    def _pycon(self, text: str) -> str:
        shown = ""
        with self._inside():
            for prompt in prompts_of(text):
                source = "".join(line[4:] + "\n" for line in prompt)
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed):
                    exec(compile(source, "block", "single"), self._names)
                shown += "\n".join(prompt) + "\n" + self._anonymous(printed.getvalue())
        return shown

    def _sql(self, text: str) -> str:
        with contextlib.closing(sqlite3.connect(f"file:{self.home / 'backups.db'}?mode=ro", uri=True)) as database:
            for statement in filter(None, map(str.strip, text.split(";\n"))):
                assert database.execute(statement).fetchall(), f"no rows: {statement}"
        return text

    @contextlib.contextmanager
    def _inside(self) -> Iterator[None]:
        before = os.getcwd()
        outside = {name: os.environ.get(name) for name in self._environment if name != "PATH"}
        os.chdir(self.home)
        os.environ.update({name: self._environment[name] for name in outside})
        time.tzset()
        try:
            yield
        finally:
            os.chdir(before)
            for name, value in outside.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value
            time.tzset()

    def _anonymous(self, text: str) -> str:
        text = text.replace(str(self.home.resolve()), "/home/you").replace(str(self.home), "/home/you")
        return re.sub(rf"\b{re.escape(socket.gethostname())}\b", "laptop", text)


def commands_of(text: str) -> list[str]:
    """Return the commands of a console block: lines behind ``$``, each with its continuation lines behind ``>``."""
    commands: list[str] = []
    continued = False
    for line in text.splitlines():
        if line.startswith("$ "):
            commands.append(line[2:])
            continued = True
        elif line.startswith("> ") and continued:
            commands[-1] += "\n" + line[2:]
        else:
            continued = False
    assert text.startswith("$ "), "a console block begins with a command"
    return commands


def prompts_of(text: str) -> list[list[str]]:
    """Return the statements of a pycon block, each as the lines behind ``>>>`` and ``...``."""
    prompts: list[list[str]] = []
    for line in text.splitlines():
        if line.startswith(">>> "):
            prompts.append([line])
        elif line == "..." or line.startswith("... "):
            prompts[-1].append(line)
    assert prompts, "a pycon block has prompts"
    return prompts


def show_command(command: str) -> str:
    return "$ " + command.replace("\n", "\n> ") + "\n"


_VARYING = (
    (re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?([+-]\d\d:\d\d)?"), "<moment>"),
    (re.compile(r"\b\d{4}-(W\d\d|\d\d-\d\d|\d\d|Q\d)\b"), "<period>"),
    (re.compile(r"\b\d{19}\b"), "<ns>"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "<hash>"),
    (re.compile(r'(?<=_seconds": )[\d.e-]+'), "<seconds>"),
    (re.compile(r"\b(\d+ h )?(\d+ min )?\d+(\.\d+)? s\b"), "<duration>"),
)

_SIZE = re.compile(r'\d[\d,]*(?:\.\d+)?(?= (?:B|KiB|MiB|GiB|bytes?)\b)|(?<=_bytes": )\d+')


def alike(shown: str, printed: str) -> bool:
    """Tell whether two texts are the same but for times, and for sizes that differ by less than 15 %.

    How well a pack compresses depends on the version of zstd, and the size of the file on that of SQLite.
    """
    skeletons, sizes = [], []
    for text in (shown, printed):
        text = "\n".join(line.rstrip() for line in text.strip().splitlines())
        for pattern, name in _VARYING:
            text = pattern.sub(name, text)
        sizes.append([float(size.replace(",", "")) for size in _SIZE.findall(text)])
        skeletons.append(_SIZE.sub("<size>", text))
    return skeletons[0] == skeletons[1] and all(abs(a - b) <= 0.15 * max(a, b) for a, b in zip(*sizes))


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(map(is_run, blocks_of(page)))], ids=lambda page: page.stem
)
def test_every_block_of_a_page_runs_and_shows_what_it_prints(page: Path, tmp_path: Path) -> None:
    if page.stem == "encrypt":
        pytest.importorskip("apsw")
        pytest.importorskip("cryptography")
    home = tmp_path / "home"
    home.mkdir()
    session = Session(home)
    for block in filter(is_run, blocks_of(page)):
        try:
            printed = session.run(block)
        except Exception as error:
            raise AssertionError(f"{block.place} fails: {error}") from error
        assert alike(block.text, printed), f"{block.place} shows\n\n{block.text}\nbut this is what comes\n\n{printed}"
    del session
    gc.collect()  # what a page forgets to close is a warning here, not in another test


def test_every_block_names_a_language_that_is_run_or_cannot_be() -> None:
    odd = [block.place for page in PAGES for block in blocks_of(page) if block.language not in RUN | NOT_RUN]
    assert not odd


def test_a_difference_in_words_or_counts_is_found_and_one_in_times_is_not() -> None:
    shown = "3 files, 282.4 KiB stored, in 0.05 s\n2026-11-22 16:37:59"
    assert alike(shown, "3 files, 280.0 KiB stored, in 12.5 s\n2027-01-01 00:00:00")
    assert not alike(shown, shown.replace("3 files", "4 files"))
    assert not alike(shown, shown.replace("282.4", "182.4"))
    assert not alike(shown, shown.replace("stored", "read"))


def test_the_readme_has_both_set_up_commands() -> None:
    marks = [block.mark for block in blocks_of(ROOT / "README.md")]
    assert marks.count("set-up: first backup") == 1
    assert marks.count("set-up: tests") == 1


# Links.


def text_of(page: Path) -> str:
    """Return a page without its code: fenced, indented and within lines."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "``", text)


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and most renderers make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ +(.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def links_of(page: Path) -> Iterator[tuple[str, Path, str]]:
    """Yield (link, file, anchor) for each link within the project."""
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if not re.match(r"[a-z]+:", link):
            path, _, anchor = link.partition("#")
            yield link, (page.parent / path).resolve() if path else page, anchor


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for link, path, anchor in links_of(page):
        assert path.exists(), f"{link}: there is no such file"
        assert ROOT in path.parents, f"{link} leads out of the project"
        if anchor:
            assert anchor in anchors_of(path), f"{link}: there is no such heading"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page not in reached and page.suffix == ".md" and page.exists():
            reached.add(page)
            waiting.extend(path for _, path, _ in links_of(page))
    assert [str(page.relative_to(ROOT)) for page in PAGES if page not in reached] == []


# Completeness.


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def kinds_in_the_code() -> set[str]:
    """Return every kind that a Problem can have, found in the calls that make one."""
    kinds: set[str] = set()
    for path in (ROOT / "backuptool").rglob("*.py"):
        for call in filter(lambda node: isinstance(node, ast.Call), ast.walk(ast.parse(path.read_text("utf-8")))):
            assert isinstance(call, ast.Call)
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            first = [str(argument.value) for argument in call.args[:1] if isinstance(argument, ast.Constant)]
            if name in ("problem", "_problem"):
                kinds.update(first)
            elif name in ("failed", "_on_failure"):
                kinds.update(f"{what}-not-restored" for what in first)
            elif name == "Problem":
                values = [keyword.value for keyword in call.keywords if keyword.arg == "kind"]
                kinds.update(str(value.value) for value in values if isinstance(value, ast.Constant))
    return kinds


def test_every_public_name_is_in_the_api_page() -> None:
    text = read("docs/api.md")
    assert [name for name in backuptool.__all__ if f"`{name}" not in text and f"### {name}\n" not in text] == []


def test_every_method_and_option_of_the_repository_is_in_the_api_page() -> None:
    text = read("docs/api.md")
    for name, method in inspect.getmembers(backuptool.Repository):
        if name.startswith("_"):
            continue
        section = re.search(rf"^### (Repository\.)?{name}\b.*?(?=^##)", text, flags=re.MULTILINE | re.DOTALL)
        assert section, f"no heading for {name}"
        parameters = inspect.signature(method).parameters if callable(method) else {}
        assert [option for option in parameters if option != "self" and f"`{option}`" not in section.group()] == []


@pytest.mark.parametrize(
    "kind",
    [
        kind
        for kind in (getattr(backuptool, name) for name in backuptool.__all__)
        if isinstance(kind, type)
        and kind is not Result
        and (issubclass(kind, Result) or kind is backuptool.ProgressEvent)
    ],
    ids=lambda kind: kind.__name__,
)
def test_every_field_of_a_result_is_in_the_api_page(kind: type) -> None:
    section = re.search(rf"^### {kind.__name__}$.*?(?=^##|\Z)", read("docs/api.md"), flags=re.MULTILINE | re.DOTALL)
    assert section
    names = [field.name for field in attrs.fields(kind)]
    names += [name for name, value in vars(kind).items() if isinstance(value, property)]
    assert [name for name in names if f"`{name}`" not in section.group()] == []


def test_every_kind_of_problem_is_in_the_api_page() -> None:
    kinds = kinds_in_the_code()
    assert {"unreadable", "content-corrupt", "owner-not-restored"} <= kinds
    documented = set(
        re.findall(
            r"^\| `([a-z-]+)` \| (?:snapshot|restore|prune|check|import|export|copy|drill)",
            read("docs/api.md"),
            re.MULTILINE,
        )
    )
    assert documented == kinds


def test_every_option_of_the_command_line_is_in_its_page() -> None:
    text = read("docs/cli.md")
    parser = build_parser()
    parsers = {"": parser}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            parsers.update(action.choices)
    options = {option for each in parsers.values() for action in each._actions for option in action.option_strings}
    assert {"--target-directory", "--db-path", "-q"} <= options
    assert sorted(option for option in options if not re.search(rf"`{re.escape(option)}[`\\ ]", text)) == []
    assert sorted(command for command in parsers if f"## {command}" not in text) == []


def test_the_format_page_has_the_exact_schema() -> None:
    text = "\n\n".join(
        block.text.strip() for block in blocks_of(ROOT / "docs/format.md") if block.mark == "not run: the schema"
    )
    assert text == ";\n\n".join(schema.statements()) + ";"


def test_the_format_page_has_the_numbers_of_the_code() -> None:
    expected: dict[str, object] = {
        "application_id": schema.APPLICATION_ID,
        "user_version": schema.FORMAT,
        "page_size": schema.PAGE_SIZE,
        "PACK_SIZE": compression.SETTINGS["balanced"].pack_size,
        "MAX_PACK_SIZE": unpacking.MAX_PACK_SIZE,
        "LARGE_FILE": chunking.LARGE_FILE,
        **{name: value for name, value in chunking.CHUNKING.settings() if isinstance(value, int)},
    }
    rows = dict(re.findall(r"^\| `(\w+)` \| ([\d,]+) \|", read("docs/format.md"), re.MULTILINE))
    assert {name: int(value.replace(",", "")) for name, value in rows.items()} == expected


def test_the_changelog_begins_with_this_version() -> None:
    found = re.findall(r"^## (\S+)", read("docs/changelog.md"), re.MULTILINE)
    assert next(version for version in found if version != "Unreleased") == backuptool.__version__
