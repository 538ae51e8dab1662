"""The benchmark in its smallest form: it finishes, its table is there, what it tells is true. Nothing about speed."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping

import pytest

from .__main__ import main
from .catalogue import DATA_SETS, find_programs, make_data_set
from .datasets import SMALL
from .document import BEGIN, END, can_write, write_sections
from .measure import Command, measure
from .plan import Change, Measure, Operation
from .report import share, size, table, times
from .runner import Options, run
from .workspace import Workspace, default_parent
from .yardsticks import PlainTar

pytestmark = [
    pytest.mark.benchmark,
    pytest.mark.skipif(sys.platform != "linux", reason="the benchmark runs on Linux"),
]

YARDSTICKS = "tar,tar-plain,cp,find"


class ForgetfulTar(PlainTar):
    """A tar that loses the last byte of one file and reports success."""

    _read = 'tar x -f "$0" "$@" && find . -type f -size +0 | head -n 1 | xargs truncate -s -1'


@pytest.fixture
def work() -> Iterator[Path]:
    """A path to work at that does not exist yet, in memory where there is such a file system."""
    with tempfile.TemporaryDirectory(dir=default_parent()) as parent:
        yield Path(parent) / "work"


@pytest.fixture
def benchmark(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, Any]]:
    """Return a function that runs the smallest form and returns the table and the samples."""

    def run_smallest(*arguments: str) -> tuple[str, Any]:
        samples = tmp_path / "samples.json"
        status = main(["--small", "--work", str(work), "--json", str(samples), *arguments])
        output = capsys.readouterr()
        assert status == 0, output.err
        assert not work.exists(), "the work directory is removed"
        return output.out, json.loads(samples.read_text(encoding="ascii"))

    return run_smallest


@pytest.mark.parametrize("name", ["many", "nightly"])
def test_smallest_form_measures_backuptool_beside_the_yardsticks(
    benchmark: Callable[..., tuple[str, Any]], name: str
) -> None:
    """Every operation of backuptool is in the table, and what it restored was compared with the source."""
    text, (result,) = benchmark("--data", name, "--programs", f"backuptool,{YARDSTICKS}")
    assert f"### {name}" in text
    assert "| operation | backuptool " in text
    assert "failed" not in text
    titles = {step.title for step in make_data_set(name, SMALL).plan() if isinstance(step, Measure)}
    measured = {sample["title"] for sample in result["samples"] if sample["program"].startswith("backuptool")}
    assert titles == measured
    assert all(sample["measurement"]["wall_seconds"] > 0 for sample in result["samples"])


@pytest.mark.parametrize("name", DATA_SETS)
def test_every_data_set_gives_a_table(benchmark: Callable[..., tuple[str, Any]], name: str) -> None:
    """The yardsticks alone go through each plan; a tree that tar restored equals the changed one."""
    text, (result,) = benchmark("--data", name, "--programs", YARDSTICKS)
    assert f"### {name}" in text
    assert "| operation | tar " in text
    assert result["entries"] > 0
    assert not any(sample["fault"] for sample in result["samples"])


@pytest.mark.parametrize("name", DATA_SETS)
def test_data_are_the_same_each_time(tmp_path: Path, name: str) -> None:
    """Two trees, built and changed by two data sets of one seed, hold the same bytes; and the changes change them."""
    states = []
    for number in range(2):
        directory = tmp_path / str(number) / "source"
        directory.mkdir(parents=True)
        data_set = make_data_set(name, SMALL)
        data_set.build(directory)
        before = contents(directory)
        for step in data_set.plan():
            if isinstance(step, Change):
                step.apply(directory)
        states.append((before, contents(directory)))
    assert states[0] == states[1]
    assert states[0][0] != states[0][1]


def test_program_order_gives_each_program_the_same_data(work: Path) -> None:
    """One after the other, on data built again: the sizes are those of the other order."""
    programs, _ = find_programs(["tar-plain", "cp"])
    sizes = []
    with Workspace(work) as workspace:
        for order in ("operation", "program"):
            data_set = make_data_set("many", replace(SMALL, many_files=30))
            result = run(data_set, programs, workspace, Options(2, lambda _: None, order=order))
            sizes.append([sample.repository_bytes for sample in result.samples if sample.program.startswith("cp")])
            assert result.order == order
    assert sizes[0] == sizes[1]


def test_wrong_restore_is_a_failure(work: Path) -> None:
    """A restore that loses a byte counts as failed, whatever the program says."""
    with Workspace(work) as workspace:
        result = run(make_data_set("many", SMALL), [ForgetfulTar()], workspace, Options(1, lambda _: None))
    faults = [sample.fault for sample in result.samples if sample.operation is Operation.RESTORE]
    assert len(faults) == 1
    assert faults[0].startswith("restored wrongly: ")


def test_what_is_not_installed_is_named() -> None:
    """A program that cannot be found is left out and told of."""
    programs, missing = find_programs(["restic", "cp"], restic=["no-such-restic"])
    assert [program.name for program in programs] == ["cp"]
    assert missing == ["no-such-restic"]


def test_measurement_tells_status_time_memory_and_words(tmp_path: Path) -> None:
    """A child that takes time and memory, complains and fails is told as just that."""
    script = "import sys, time; data = b'x' * (64 << 20); time.sleep(0.05); sys.stderr.write('no'); sys.exit(7)"
    measurement = measure(Command((sys.executable, "-c", script), tmp_path), timeout_seconds=60)
    assert measurement.exit_status == 7
    assert measurement.wall_seconds > 0.05
    assert measurement.peak_bytes > 64 << 20
    assert measurement.message == "no"


def test_measured_memory_is_not_that_of_the_harness(tmp_path: Path) -> None:
    """However much the harness holds, a small program is small."""
    ballast = bytearray(os.urandom(1 << 20) * 128)
    measurement = measure(Command(("true",), tmp_path), timeout_seconds=60)
    assert len(ballast) > measurement.peak_bytes
    assert measurement.peak_bytes <= measurement.floor_bytes < 32 << 20


def test_command_that_does_not_exist_is_a_failure(tmp_path: Path) -> None:
    """The status is a shell's for a command that was not found."""
    assert measure(Command(("no-such-command",), tmp_path), timeout_seconds=60).exit_status == 127


def test_sections_replace_only_those_of_the_same_name(tmp_path: Path) -> None:
    """What people wrote stays, what was measured before stays, and the order is that of the data sets."""
    path = tmp_path / "benchmarks.md"
    path.write_text(f"# Before\n\n{BEGIN}\n{END}\n\nAfter.\n", encoding="utf-8")
    write_sections(path, {"media": "old media", "many": "old many", "many: one": "old one"}, DATA_SETS)
    write_sections(path, {"media": "new media", "many: two": "new two"}, DATA_SETS)
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"# Before\n\n{BEGIN}\n")
    assert text.endswith(f"{END}\n\nAfter.\n")
    places = [text.index(word) for word in ("old many", "old one", "new two", "new media")]
    assert places == sorted(places)
    assert "old media" not in text


def test_file_without_a_place_is_refused(tmp_path: Path) -> None:
    """A file of somebody else is not written to."""
    path = tmp_path / "notes.md"
    path.write_text("mine\n", encoding="utf-8")
    assert not can_write(path)
    with pytest.raises(SystemExit):
        main(["--small", "--out", str(path)])
    assert path.read_text(encoding="utf-8") == "mine\n"


def test_documentation_has_a_place_for_the_results() -> None:
    """The command that docs/benchmarks.md names can write into it."""
    path = Path(__file__).parents[2] / "docs" / "benchmarks.md"
    assert path.exists()
    assert can_write(path)


def test_chart_is_drawn(benchmark: Callable[..., tuple[str, Any]], tmp_path: Path) -> None:
    """A chart has a bar for each operation that two programs have."""
    benchmark("--data", "many", "--programs", "tar,tar-plain", "--plot", str(tmp_path / "plots"))
    chart = (tmp_path / "plots" / "many.svg").read_text(encoding="utf-8")
    assert chart.startswith("<svg ")
    assert all(title in chart for title in ("first snapshot", "restore", "restore one file"))


def test_figures_are_short_and_right() -> None:
    """Three digits, a thousand is a thousand, and a pipe does not break a table."""
    assert size(999) == "999 B"
    assert size(695_400_000) == "695 MB"
    assert size(-1_500) == "-1.50 kB"
    assert times(16.2, 5.9) == "2.75\u00d7"
    assert share(468, 695) == "0.67 of 695 B"
    assert share(468, 0) == "0 B"
    assert table(["a", "b"], [["x|y", "1"]], left=1).splitlines()[1:] == ["| --- | --: |", r"| x\|y | 1 |"]


def contents(directory: Path) -> Mapping[str, bytes]:
    """Return the bytes of every regular file by its path."""
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }
