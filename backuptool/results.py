"""Every result class: frozen attrs values that show, iterate and serialise themselves.

What they look like lives here; how they come about is left to the operations. Paths are str with the bytes that are
not UTF-8 as lone surrogates (``os.fsencode`` gives the exact bytes back), sizes are bytes, times ns since 1970 UTC.
"""

from __future__ import annotations

import datetime
import html
from typing import Any, Iterator, Literal, Mapping, Optional

import attrs

__all__ = [
    "CheckResult",
    "Compression",
    "OverwritePolicy",
    "Problem",
    "PruneResult",
    "RestoreResult",
    "SkippedFile",
    "Snapshot",
    "SnapshotList",
    "SnapshotResult",
    "format_size",
    "printable",
]

#: How hard a snapshot compresses.
Compression = Literal["fast", "balanced", "max"]

#: What a restore does with a file that is already there.
OverwritePolicy = Literal["always", "if-changed", "if-newer", "never"]


def format_size(size_bytes: int) -> str:
    """Return a size for people: ``"512 B"``, ``"1.5 KiB"``, ``"2.0 GiB"``."""
    if abs(size_bytes) < 1024:
        return f"{size_bytes} B"
    value = float(size_bytes)
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        value /= 1024
        if abs(value) < 1024 or unit == "PiB":
            break
    return f"{value:.1f} {unit}"


def printable(text: str) -> str:
    r"""Return text that is safe on a terminal and in a page: whatever is not printable becomes an escape.

    Control characters, bidirectional overrides, line separators and bytes that are not UTF-8 come out as ``\x1b``,
    ``\u202e``, ``\xff``; a backslash becomes two, so that the result is unambiguous.
    """
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(_escape(character) for character in text)


def _escape(character: str) -> str:
    code = ord(character)
    if character == "\\":
        return "\\\\"
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if character.isprintable():
        return character
    if code < 0x80:  # above it would look like a byte
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class Result:
    """What all results share: ``to_dict()`` for JSON, one line for the prompt, a table for a notebook."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values that ``json.dumps`` accepts, nested results as dicts."""
        return {**self._fields(), **self._derived()}

    def _fields(self) -> dict[str, Any]:
        return {
            field.name: _plain(getattr(self, field.name))
            for field in attrs.fields(type(self))  # type: ignore[arg-type]
        }

    def _derived(self) -> dict[str, Any]:
        """Figures computed from the fields that belong into the JSON as well."""
        return {}

    def _headline(self) -> str:
        """The line of text behind the class name in the repr."""
        raise NotImplementedError

    def _rows(self) -> list[tuple[str, str]]:
        """The label and the text of each line of the notebook table."""
        return [(name.replace("_", " "), _cell(name, value)) for name, value in self._fields().items() if value]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {printable(self._headline())}>"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(label)}</th>"
            f"<td style='text-align:left'>{html.escape(printable(text))}</td></tr>"
            for label, text in self._rows()
        )
        return f"<table><caption>{html.escape(repr(self)[1:-1])}</caption>{rows}</table>"


def _plain(value: Any) -> Any:
    if isinstance(value, Result):
        return value.to_dict()
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


def _cell(name: str, value: Any) -> str:
    if name.endswith("_bytes"):
        return f"{value:,} ({format_size(value)})"
    if name.endswith("_ns"):
        return _local(value).strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) if len(value) < 6 else f"{len(value)} of them"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    return str(value)


def _local(time_ns: int) -> datetime.datetime:
    """Return local time, also before 1970 and far beyond 2038, where the platform's own conversion may refuse."""
    utc = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
    try:
        moment = utc + datetime.timedelta(microseconds=time_ns // 1000)
    except OverflowError:
        return datetime.datetime.max.replace(tzinfo=datetime.timezone.utc) if time_ns > 0 else utc
    try:
        return moment.astimezone()
    except (OverflowError, OSError, ValueError):
        return moment


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


@attrs.frozen(kw_only=True, repr=False)
class Problem(Result):
    """Something that went wrong with one thing while the operation went on with the rest.

    Attributes:
        kind: What went wrong, in one hyphenated word: ``unreadable``, ``changed-while-read``, ``content-corrupt`` …
            (docs/api.md lists them all).
        path: The file, as seen from the source or the destination; ``""`` where it concerns the repository as a whole.
        message: What happened and, where there is one, the next step.
        count: Number of files this stands for (restoring as a normal user reports owners once, not once a file).
        content: SHA-256 of the content concerned, 64 hex digits, or None.
        snapshots: Numbers of the snapshots that are hurt, ascending.
    """

    kind: str
    path: str
    message: str
    count: int = 1
    content: Optional[str] = None
    snapshots: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message

    def _headline(self) -> str:
        return f"{self.kind}: {self}"


@attrs.frozen(kw_only=True, repr=False)
class SkippedFile(Result):
    """A file that was left out because of its size.

    Attributes:
        path: The file, relative to the source.
        size_bytes: Its size.
        reason: The limit that it exceeds, in words.
    """

    path: str
    size_bytes: int
    reason: str

    def _headline(self) -> str:
        return f"{self.path}: {format_size(self.size_bytes)}, {self.reason}"


@attrs.frozen(kw_only=True, repr=False)
class Snapshot(Result):
    """The state of one source at one time.

    Attributes:
        id: Its number; numbers ascend and are never used again.
        host: Name of the machine it was taken on.
        source: Absolute path of the directory that was saved.
        started_ns: When it began, ns since 1970 UTC.
        finished_ns: When it was committed, ns since 1970 UTC.
        files: Number of entries that are not directories.
        directories: Number of directories, the source itself included.
        size_bytes: Bytes of all its files, each path counted.
        distinct_bytes: Bytes of the contents that no earlier kept snapshot has, before compression.
        skipped_files: Number of files left out because of their size.
        problem_files: Number of files and directories that could not be saved.
        note: Free text given with it.
        tags: Words given with it, sorted.
        digest: Fingerprint of everything it holds, 64 hex digits; ``check`` recomputes it.
    """

    id: int
    host: str
    source: str
    started_ns: int
    finished_ns: int
    files: int
    directories: int
    size_bytes: int
    distinct_bytes: int
    skipped_files: int = 0
    problem_files: int = 0
    note: str = ""
    tags: tuple[str, ...] = ()
    digest: str = ""

    @property
    def time(self) -> datetime.datetime:
        """When it began, in local time, with the UTC offset."""
        return _local(self.started_ns)

    def _derived(self) -> dict[str, Any]:
        return {"time": self.time.isoformat(timespec="seconds")}

    def _headline(self) -> str:
        return (
            f"{self.id} {self.source} {self.time:%Y-%m-%d %H:%M:%S}, {_count(self.files, 'file')}, "
            f"{format_size(self.size_bytes)}, {format_size(self.distinct_bytes)} distinct"
        )


@attrs.frozen(kw_only=True, repr=False)
class SnapshotList(Result):
    """The snapshots of a repository, oldest first, and their totals. Iterate over it, index it, take its len().

    Attributes:
        snapshots: The snapshots that were asked for, by ascending number.
        size_bytes: Sum of their sizes: what plain copies would take.
        distinct_bytes: Sum of their distinct sizes; over all snapshots, the bytes kept after deduplication.
        repository_bytes: Size of the repository file.
    """

    snapshots: tuple[Snapshot, ...]
    size_bytes: int
    distinct_bytes: int
    repository_bytes: int

    def __iter__(self) -> Iterator[Snapshot]:
        return iter(self.snapshots)

    def __len__(self) -> int:
        return len(self.snapshots)

    def __getitem__(self, index: int) -> Snapshot:
        return self.snapshots[index]

    def _headline(self) -> str:
        return (
            f"{_count(len(self), 'snapshot')}, {format_size(self.size_bytes)} in all, "
            f"{format_size(self.distinct_bytes)} distinct, repository {format_size(self.repository_bytes)}"
        )

    def _repr_html_(self) -> str:
        heads = ("id", "time", "source", "files", "size", "distinct size", "note")
        head = "".join(f"<th>{name}</th>" for name in heads)
        body = "".join(
            "<tr>"
            + "".join(
                f"<td style='text-align:left'>{html.escape(printable(text))}</td>"
                for text in (
                    str(snapshot.id),
                    f"{snapshot.time:%Y-%m-%d %H:%M:%S}",
                    f"{snapshot.host}:{snapshot.source}",
                    f"{snapshot.files:,}",
                    format_size(snapshot.size_bytes),
                    format_size(snapshot.distinct_bytes),
                    snapshot.note,
                )
            )
            + "</tr>"
            for snapshot in self
        )
        caption = html.escape(self._headline())
        return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


@attrs.frozen(kw_only=True, repr=False)
class SnapshotResult(Result):
    """What taking a snapshot did. "Files" are all entries that are not directories.

    Attributes:
        snapshot: The snapshot as it was committed.
        new_files: Files that the source's previous snapshot does not have.
        changed_files: Files whose bytes or metadata differ from the previous snapshot.
        unchanged_files: Files that are as they were.
        removed_files: Files of the previous snapshot that are gone.
        skipped_files: Files left out because of their size; ``skipped`` names each.
        read_bytes: Bytes read from files.
        new_bytes: Bytes of contents that the repository did not have, before compression.
        stored_bytes: Bytes that these contents take in packs, after compression.
        elapsed_seconds: Wall time.
        skipped: The files left out because of their size.
        problems: Files and directories that could not be saved, or changed while they were read.
    """

    snapshot: Snapshot
    new_files: int
    changed_files: int
    unchanged_files: int
    removed_files: int
    skipped_files: int
    read_bytes: int
    new_bytes: int
    stored_bytes: int
    elapsed_seconds: float
    skipped: tuple[SkippedFile, ...] = ()
    problems: tuple[Problem, ...] = ()

    def _headline(self) -> str:
        text = (
            f"{self.snapshot.id}: {self.new_files:,} new, {self.changed_files:,} changed, "
            f"{self.unchanged_files:,} unchanged, {self.removed_files:,} removed, "
            f"{format_size(self.read_bytes)} read, {format_size(self.stored_bytes)} stored"
        )
        return text + _problem_tail(self.skipped_files, self.problems)


@attrs.frozen(kw_only=True, repr=False)
class RestoreResult(Result):
    """What restoring did, or with ``dry_run`` would do.

    Attributes:
        snapshot: The snapshot restored from.
        destination: Absolute path of the directory restored into.
        restored_files: Files written, links made and special files created.
        unchanged_files: Files that were already there as saved, or that the overwrite policy left alone.
        restored_directories: Directories made, or given their metadata.
        deleted_files: Entries removed because the snapshot does not have them (``delete_extra``).
        written_bytes: Bytes written into files.
        verified_files: Files read back from the destination and compared by hash (``verify``).
        dry_run: True if nothing was written.
        elapsed_seconds: Wall time.
        problems: What could not be restored.
    """

    snapshot: Snapshot
    destination: str
    restored_files: int
    unchanged_files: int
    restored_directories: int
    deleted_files: int
    written_bytes: int
    verified_files: int
    dry_run: bool
    elapsed_seconds: float
    problems: tuple[Problem, ...] = ()

    def _headline(self) -> str:
        verb = "would restore" if self.dry_run else "restored"
        text = (
            f"{self.snapshot.id} to {self.destination}: {verb} {_count(self.restored_files, 'file')}, "
            f"{format_size(self.written_bytes)}, {self.unchanged_files:,} already there"
        )
        return text + _problem_tail(0, self.problems)


@attrs.frozen(kw_only=True, repr=False)
class PruneResult(Result):
    """What pruning removed, or with ``dry_run`` would remove.

    Attributes:
        snapshots: The snapshots removed.
        removed_versions: File versions that no kept snapshot has.
        removed_contents: Contents that nothing refers to any more, leftovers of interrupted snapshots included.
        removed_bytes: Bytes of these contents, before compression.
        repacked_packs: Packs that were mostly empty and were written again.
        freed_bytes: Bytes by which the repository file shrank (or would shrink, exactly).
        repository_bytes: Size of the repository file afterwards.
        dry_run: True if nothing was changed.
        elapsed_seconds: Wall time.
        problems: Damage met on the way: packs that could not be packed again.
    """

    snapshots: tuple[Snapshot, ...]
    removed_versions: int
    removed_contents: int
    removed_bytes: int
    repacked_packs: int
    freed_bytes: int
    repository_bytes: int
    dry_run: bool
    elapsed_seconds: float
    problems: tuple[Problem, ...] = ()

    def _headline(self) -> str:
        verb = "would remove" if self.dry_run else "removed"
        text = (
            f"{verb} {_count(len(self.snapshots), 'snapshot')}, {_count(self.removed_contents, 'content')}, "
            f"{format_size(self.freed_bytes)} freed"
        )
        return text + _problem_tail(0, self.problems)


@attrs.frozen(kw_only=True, repr=False)
class CheckResult(Result):
    """What checking found.

    Attributes:
        snapshots: Number of snapshots whose digests were recomputed.
        files: Number of file versions in the catalog.
        contents: Number of contents.
        packs: Number of packs.
        read_bytes: Bytes of contents decompressed and hashed (0 in quick mode).
        quick: True if the data in the packs was not read.
        elapsed_seconds: Wall time.
        problems: What is damaged, each named: which content, which file, in which snapshots.
    """

    snapshots: int
    files: int
    contents: int
    packs: int
    read_bytes: int
    quick: bool
    elapsed_seconds: float
    problems: tuple[Problem, ...] = ()

    @property
    def ok(self) -> bool:
        """True if everything that was looked at is sound."""
        return not self.problems

    def _derived(self) -> dict[str, Any]:
        return {"ok": self.ok}

    def _headline(self) -> str:
        scope = "catalog only" if self.quick else f"{format_size(self.read_bytes)} of contents"
        verdict = "no problems" if self.ok else _count(len(self.problems), "problem")
        return f"{verdict}: {_count(self.snapshots, 'snapshot')}, {_count(self.files, 'file version')}, {scope}"


def _problem_tail(skipped: int, problems: tuple[Problem, ...]) -> str:
    tail = f", {skipped:,} skipped" if skipped else ""
    return tail + (f", {_count(len(problems), 'problem')}" if problems else "")
