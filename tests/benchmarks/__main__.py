"""``python -m tests.benchmarks``: options, then one run for each data set, then tables."""

from __future__ import annotations

import argparse
import dataclasses
import enum
import json
import sys
from typing import Sequence

from .arguments import build_parser, sizes_of
from .catalogue import DATA_SETS, find_programs, make_data_set
from .document import BEGIN, can_write, write_sections
from .machine import machine_description, python_description
from .measure import output_of
from .plan import Operation
from .plots import bar_chart
from .programs import Job, Program
from .report import Context, section
from .runner import Options, Result, run
from .workspace import Workspace

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit code: 0 done, 1 something failed, 2 wrong usage, 130 interrupted."""
    parser = build_parser()
    options = parser.parse_args(argv)
    if options.out and not can_write(options.out):
        parser.error(f"{options.out} exists and has no place for the results (a line {BEGIN})")
    programs, missing = find_programs(
        options.programs, interpreter=options.python, restic=options.restic, borg=options.borg
    )
    if not programs:
        parser.error(f"nothing to measure is installed: {', '.join(missing)}")
    try:
        results = _run(options, programs, missing)
    except KeyboardInterrupt:
        _tell("interrupted; everything is removed")
        return 130
    except (OSError, RuntimeError) as error:
        _tell(f"error: {error}")
        return 1
    return 1 if any(sample.fault for result in results for sample in result.samples) else 0


def _run(options: argparse.Namespace, programs: Sequence[Program], missing: Sequence[str]) -> list[Result]:
    """Measure each data set that was asked for."""
    repeats = options.repeat or (1 if options.small else 3)
    how = Options(repeats, _tell, options.order, options.operations, options.timeout)
    results: list[Result] = []
    with Workspace(options.work) as workspace:
        context = Context(machine_description(workspace.file_system), python_description(), tuple(missing), repeats)
        _tell(f"{context.machine}; {context.python}")
        _warm_up(programs, workspace)
        for name in options.data:
            data_set = make_data_set(name, sizes_of(options), directory=options.dir, releases=options.release)
            results.append(run(data_set, programs, workspace, how))
            # After each data set, so that an interruption costs only the one that was under way.
            _write(results, context, options)
    return results


def _warm_up(programs: Sequence[Program], workspace: Workspace) -> None:
    """Have each program save a few bytes, so that none pays for being loaded from disk or compiled."""
    place = workspace.new_directory("warm-up")
    source = place / "source"
    source.mkdir()
    (source / "file").write_text("warm-up\n", encoding="ascii")
    for program in programs:
        job = Job(workspace.new_directory(program.name), source)
        try:
            saving = program.command(Operation.FIRST, job) or program.command(Operation.UNCHANGED, job)
            for command in (*program.prepare(job), *([saving] if saving else [])):
                output_of(command)
        except RuntimeError as error:
            # It will fail in the same way where it is measured, and be reported as failed.
            _tell(f"{program.name}: {error}")
        workspace.discard(job.place)
    workspace.discard(place)


def _title(result: Result, options: argparse.Namespace) -> str:
    """Return the heading of a result: one of a directory that was named stands beside those of other directories."""
    if result.name != "many" or options.dir is None:
        return result.name
    return f"{result.name}: {options.dir.name.lstrip('.') or 'root'}"


def _write(results: Sequence[Result], context: Context, options: argparse.Namespace) -> None:
    """Write everything that was asked for, and the newest table to standard output."""
    sections = {_title(result, options): section(result, context, _title(result, options)) for result in results}
    sys.stdout.write(f"{sections[_title(results[-1], options)]}\n")
    sys.stdout.flush()
    if options.out:
        write_sections(options.out, sections, DATA_SETS)
    if options.json:
        samples = [dataclasses.asdict(result) for result in results]
        options.json.write_text(json.dumps(samples, indent=1, default=_plain), encoding="ascii")
    if options.plot:
        options.plot.mkdir(parents=True, exist_ok=True)
        for result in results:
            chart = bar_chart(result)
            if chart:
                (options.plot / f"{result.name}.svg").write_text(chart, encoding="utf-8")


def _plain(value: object) -> object:
    return value.value if isinstance(value, enum.Enum) else str(value)


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
