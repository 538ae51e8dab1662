"""Does a data set's plan with every program, several times, and collects what was measured.

Order is what this module is about. Each repeat begins with fresh data and fresh repositories. In the order "operation"
all programs do the first operation one right after the other, then all the second, so that what else happens on the
machine meets them alike; and each repeat begins with another program. Where there is no room for all repositories at
once, in the order "program" each program does everything before the next one begins, on data that are built again.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import time
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Callable, Collection, Sequence

from .comparison import difference, differences
from .datasets import DataSet, extent_of
from .measure import Command, Measurement, measure, output_of
from .plan import Change, Measure, Operation
from .programs import Job, Program
from .workspace import Workspace

__all__ = ["ORDERS", "Options", "Result", "Sample", "run"]

ORDERS = ("auto", "operation", "program")

#: Programs do not trust a time stamp that is as young as their own start; a user's files are older than that.
_SETTLE_SECONDS = 0.1

#: How many of a restore's faults are told.
_FAULTS_TOLD = 5


@dataclass(frozen=True)
class Options:
    """How to run.

    Attributes:
        repeats: How many times everything is done.
        order: One of :data:`ORDERS`; "auto" takes "operation" if there is room for it.
        operations: What is measured; the first snapshot always is.
        timeout_seconds: When a single command is given up.
        tell: Is called with a line of progress.
    """

    repeats: int
    tell: Callable[[str], None]
    order: str = "auto"
    operations: Collection[Operation] = frozenset(Operation)
    timeout_seconds: float = 7200.0


@dataclass(frozen=True)
class Sample:
    """One operation done once by one program.

    Attributes:
        program: The program's label.
        operation: What was done.
        title: The row it belongs to.
        repeat: In which repeat, from 0.
        measurement: What it cost.
        repository_bytes: Size of the repository afterwards.
        grown_bytes: How much of that is new; negative after a prune.
        cache_bytes: Size of what the program keeps outside the repository.
        fault: Why it does not count; empty if it does.
    """

    program: str
    operation: Operation
    title: str
    repeat: int
    measurement: Measurement
    repository_bytes: int
    grown_bytes: int
    cache_bytes: int
    fault: str = ""


@dataclass
class Result:
    """Everything measured with one data set.

    Attributes:
        name: The data set's.
        description: The data set's.
        entries: Files, directories and so on in its first state.
        size_bytes: What its files hold in the first state.
        order: "operation" or "program".
        programs: The labels of all programs, in the order of the report.
        samples: In the order in which they were taken.
    """

    name: str
    description: str
    entries: int = 0
    size_bytes: int = 0
    order: str = ""
    programs: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)


@dataclass
class _Contestant:
    """A program within one repeat."""

    program: Program
    label: str
    job: Job
    snapshots: int = 0
    repository_bytes: int = 0
    cache_bytes: int = 0
    failed: bool = False
    stale: bool = False


def run(data_set: DataSet, programs: Sequence[Program], workspace: Workspace, options: Options) -> Result:
    """Do everything a data set asks for with each program, as often as the options say.

    Raises:
        OSError: There is no room, or the data cannot be built.
    """
    result = Result(data_set.name, data_set.description, order=options.order)
    labels = _labels(programs)
    result.programs = list(labels.values())
    for repeat in range(options.repeats):
        first = repeat % max(1, len(programs))
        turn = [*programs[first:], *programs[:first]]
        while turn:
            place = workspace.new_directory(f"{data_set.name}-{repeat + 1}")
            options.tell(f"{data_set.name}, repeat {repeat + 1} of {options.repeats}: building the data")
            source = place / "source"
            source.mkdir()
            data_set.build(source)
            _describe(result, data_set, source, programs, workspace.free_bytes())
            size = 1 if result.order == "program" else len(turn)
            now, turn = turn[:size], turn[size:]
            round_ = _Round(data_set, workspace, options, result, place, repeat)
            round_.run([(program, labels[program]) for program in now])
            workspace.discard(place)
    return result


class _Round:
    """One pass through the plan with some programs, on data that were just built."""

    def __init__(
        self, data_set: DataSet, workspace: Workspace, options: Options, result: Result, place: Path, repeat: int
    ) -> None:
        self._plan = data_set.plan()
        self._source = place / "source"
        self._data_set = data_set
        self._sample = ""
        self._workspace = workspace
        self._options = options
        self._result = result
        self._place = place
        self._repeat = repeat

    def run(self, programs: Sequence[tuple[Program, str]]) -> None:
        contestants = [self._enter(program, label) for program, label in programs]
        time.sleep(_SETTLE_SECONDS)
        wanted = {Operation.FIRST, *self._options.operations}
        for step in self._plan:
            if isinstance(step, Change):
                step.apply(self._source)
                self._workspace.discard(self._place / "discarded")
                time.sleep(_SETTLE_SECONDS)
                self._sample = ""
                for contestant in contestants:
                    contestant.stale = True
            elif step.operation in wanted:
                for contestant in contestants:
                    if not contestant.failed:
                        self._measure(contestant, step)

    def _enter(self, program: Program, label: str) -> _Contestant:
        place = self._place / f"{len(os.listdir(self._place))}-{program.name}"
        place.mkdir()
        job = Job(place, self._source)
        for command in program.prepare(job):
            output_of(command)
        contestant = _Contestant(program, label, job)
        contestant.repository_bytes = program.repository_bytes(job)
        return contestant

    def _measure(self, contestant: _Contestant, step: Measure) -> None:
        """Have one program do one operation, and note what it cost and what it left."""
        program, operation = contestant.program, step.operation
        if operation.is_restore and contestant.stale:
            self._refresh(contestant)
        needs_references = operation.is_restore or operation.is_prune
        job = dataclasses.replace(
            contestant.job,
            number=contestant.snapshots,
            references=program.references(contestant.job) if needs_references else (),
            target=self._workspace.new_directory("restored") if operation.is_restore else Path(),
            file=self._sample_file() if operation is Operation.RESTORE_FILE else "",
        )
        command = program.command(operation, job)
        if command is not None:
            if not self._workspace.in_memory:
                # What was written before, by whatever program, is not to be written out at this one's cost.
                os.sync()
            measurement = self._run(command)
            fault = self._fault(program, operation, job, measurement)
            self._note(contestant, step, measurement, fault)
        if operation.is_restore:
            self._workspace.discard(job.target)

    def _sample_file(self) -> str:
        """Return the file to restore alone; looked for only once between two changes, since it takes a walk."""
        self._sample = self._sample or self._data_set.sample_file(self._source)
        return self._sample

    def _refresh(self, contestant: _Contestant) -> None:
        """Have a program that did not save the last change do so, unmeasured: tar, or any if it was not asked to."""
        job = dataclasses.replace(contestant.job, number=contestant.snapshots)
        command = contestant.program.command(Operation.FIRST, job)
        if command is not None:
            output_of(command)
            contestant.snapshots += 1
            contestant.repository_bytes = contestant.program.repository_bytes(job)
        contestant.stale = False

    def _run(self, command: Command) -> Measurement:
        try:
            return measure(command, timeout_seconds=self._options.timeout_seconds)
        except subprocess.TimeoutExpired:
            return Measurement(-1, self._options.timeout_seconds, 0.0, 0, 0, "took too long")

    def _fault(self, program: Program, operation: Operation, job: Job, measurement: Measurement) -> str:
        """Return why a measurement does not count, or nothing."""
        if measurement.exit_status not in (0, program.warning_status):
            return f"exit status {measurement.exit_status}: {measurement.message}"
        if operation is Operation.RESTORE_FILE:
            restored = job.target / job.file
            found = difference(self._source / job.file, restored) if os.path.lexists(restored) else "is not there"
            return f"restored wrongly: {found}" if found else ""
        if operation is Operation.RESTORE:
            wrong = "; ".join(islice(differences(self._source, job.target), _FAULTS_TOLD))
            return f"restored wrongly: {wrong}" if wrong else ""
        return ""

    def _note(self, contestant: _Contestant, step: Measure, measurement: Measurement, fault: str) -> None:
        before = contestant.repository_bytes
        if step.operation.writes:
            contestant.repository_bytes = contestant.program.repository_bytes(contestant.job)
            contestant.cache_bytes = contestant.program.cache_bytes(contestant.job)
            if not contestant.program.keeps_repository:
                self._workspace.discard(contestant.job.place / "repository")
        if step.operation.is_snapshot:
            contestant.snapshots += 1
            contestant.failed = bool(fault)
            contestant.stale = False
        self._result.samples.append(
            Sample(
                program=contestant.label,
                operation=step.operation,
                title=step.title,
                repeat=self._repeat,
                measurement=measurement,
                repository_bytes=contestant.repository_bytes,
                grown_bytes=contestant.repository_bytes - before,
                cache_bytes=contestant.cache_bytes,
                fault=fault,
            )
        )
        outcome = f"failed: {fault}" if fault else f"{measurement.wall_seconds:.3f} s"
        self._options.tell(f"  {step.title}: {contestant.label}: {outcome}")


def _labels(programs: Sequence[Program]) -> dict[Program, str]:
    """Return a label of its own for each program, also for two of the same version."""
    labels: dict[Program, str] = {}
    for program in programs:
        label, number = program.label, 2
        while label in labels.values():
            label, number = f"{program.label} ({number})", number + 1
        labels[program] = label
    return labels


def _describe(result: Result, data_set: DataSet, source: Path, programs: Sequence[Program], free_bytes: int) -> None:
    """Note how large the data are, and settle the order by the room there is beside them.

    Raises:
        OSError: There is not enough.
    """
    if result.entries:
        return
    extent = extent_of(source)
    result.entries, result.size_bytes = extent.entries, extent.size_bytes
    repository = data_set.stored_share * extent.size_bytes
    kept = sum(program.keeps_repository for program in programs)
    # Beside the repositories there is one restore at a time, or one copy.
    room = {
        "operation": kept * repository + extent.allocated_bytes,
        "program": repository + extent.allocated_bytes,
    }
    if result.order == "auto":
        result.order = "operation" if room["operation"] < 0.7 * free_bytes else "program"
    if room[result.order] > free_bytes:
        raise OSError(
            f"{result.name}: up to {room[result.order] / 1e9:.1f} GB more are needed where the benchmark works, "
            f"{free_bytes / 1e9:.1f} GB are free; use --work or --scale"
        )
