from __future__ import annotations

import copy
import datetime
import html.parser
import inspect
import json
import os
import pickle
import time
from typing import Any, Dict, Iterator, List, Tuple

import attrs
import pytest

from backuptool import (
    CheckResult,
    Decision,
    Diff,
    Difference,
    Entry,
    FindResult,
    History,
    HistoryVersion,
    Listing,
    Problem,
    PruneResult,
    RestoreResult,
    RetentionPolicy,
    SkippedFile,
    Snapshot,
    SnapshotList,
    SnapshotResult,
    Version,
    format_size,
    printable,
)
from backuptool.results.presentation import Result

#: Everything that may not reach a terminal, a page or a JSON parser as it is.
NASTY = "a<b>&\"'\x1b[31m\n\r\t\x00\x7f\x85\u202e\u2028\\\udcff\U0001f600"
NASTY_PRINTED = "a<b>&\"'\\x1b[31m\\x0a\\x0d\\x09\\x00\\x7f\\u0085\\u202e\\u2028\\\\\\xff\U0001f600"

SNAPSHOT = Snapshot(
    id=7,
    host="machine",
    source="/home/" + NASTY,
    started_ns=1_743_348_645_999_999_999,  # 2025-03-30 15:30:45.999999999 UTC
    finished_ns=1_743_348_650_000_000_000,
    files=1234,
    directories=5,
    size_bytes=123_456_789,
    distinct_bytes=1000,
    skipped_files=1,
    problem_files=2,
    note="note " + NASTY,
    tags=("one", NASTY),
    digest="0f" * 32,
)
PROBLEM = Problem(kind="unreadable", path=NASTY, message="why: " + NASTY, count=3, content="ab" * 32, snapshots=(1, 7))
SKIPPED = SkippedFile(path=NASTY, size_bytes=5 << 30, reason="above the limit of 1.0 GiB")

RESULTS: Tuple[Result, ...] = (
    SNAPSHOT,
    PROBLEM,
    SKIPPED,
    SnapshotList(snapshots=(SNAPSHOT,), size_bytes=123_456_789, distinct_bytes=1000, repository_bytes=65536),
    SnapshotResult(
        snapshot=SNAPSHOT,
        new_files=1,
        changed_files=2,
        unchanged_files=3,
        removed_files=4,
        skipped_files=1,
        read_bytes=5,
        new_bytes=6,
        stored_bytes=7,
        elapsed_seconds=1.5,
        skipped=(SKIPPED,),
        problems=(PROBLEM,),
    ),
    RestoreResult(
        snapshot=SNAPSHOT,
        destination="/out/" + NASTY,
        restored_files=1,
        unchanged_files=2000,
        restored_directories=3,
        deleted_files=4,
        written_bytes=5,
        verified_files=6,
        dry_run=False,
        elapsed_seconds=0.25,
        problems=(PROBLEM, PROBLEM),
    ),
    PruneResult(
        snapshots=(SNAPSHOT,),
        removed_versions=1,
        removed_contents=1,
        removed_bytes=2,
        repacked_packs=3,
        freed_bytes=4096,
        repository_bytes=65536,
        dry_run=True,
        elapsed_seconds=0.25,
        problems=(PROBLEM,),
    ),
    CheckResult(
        snapshots=1,
        files=2,
        contents=3,
        packs=4,
        read_bytes=5,
        quick=False,
        elapsed_seconds=0.5,
        problems=(PROBLEM,),
    ),
)

ENTRY = Entry(
    path="dir/" + NASTY,
    kind="file",
    mode=0o644,
    uid=1000,
    gid=1000,
    user=NASTY,
    group="",
    mtime_ns=1_743_348_645_999_999_999,
    size_bytes=1536,
    sha256="ab" * 32,
)
LINK = attrs.evolve(ENTRY, kind="symlink", size_bytes=0, sha256=None, target="to " + NASTY)
VERSION = Version(
    entry=ENTRY,
    host="machine",
    source="/home/" + NASTY,
    first=1,
    last=7,
    first_ns=1_743_348_645_000_000_000,
    last_ns=1_743_348_655_000_000_000,
    current=True,
)
HISTORY_VERSION = HistoryVersion(
    **{field.name: getattr(VERSION, field.name) for field in attrs.fields(Version)},
    event="came-back",
    changes=("content", "mtime"),
    moved_from=(NASTY,),
    removed_in=8,
    moved_to=(NASTY,),
)
DIFFERENCE = Difference(status="moved", old=attrs.evolve(ENTRY, path="old " + NASTY), new=ENTRY, changes=("mode",))
ADDED = Difference(status="added", old=None, new=LINK)
REMOVED = Difference(status="removed", old=attrs.evolve(ENTRY, kind="directory", size_bytes=0), new=None)
HISTORY = History(path=NASTY, versions=(HISTORY_VERSION,), problems=(PROBLEM,))
FOUND = FindResult(versions=(VERSION, VERSION), limited=True, problems=(PROBLEM,))
LISTING = Listing(snapshot=SNAPSHOT, path="dir", entries=(ENTRY, LINK), problems=(PROBLEM,))
DIFF = Diff(
    old=SNAPSHOT,
    new=None,
    directory="/home/" + NASTY,
    path="dir",
    differences=(DIFFERENCE, ADDED, REMOVED),
    added_files=1,
    removed_files=2,
    changed_files=3,
    moved_files=4,
    changed_directories=5,
    added_bytes=6,
    removed_bytes=7,
    changed_bytes=8,
    read_files=9,
    read_bytes=10,
    problems=(PROBLEM,),
)
RESULTS += (ENTRY, LINK, VERSION, HISTORY_VERSION, DIFFERENCE, ADDED, REMOVED, HISTORY, FOUND, LISTING, DIFF)

each_result = pytest.mark.parametrize("result", RESULTS, ids=lambda result: type(result).__name__)


@pytest.fixture(autouse=True)
def universal_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


class Page(html.parser.HTMLParser):
    """The tags of a page, balanced or else an error, and the text of its cells."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: List[str] = []
        self.cells: List[str] = []
        self._open: List[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attributes: object) -> None:
        self.tags.append(tag)
        self._open.append(tag)
        self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.cells[-1] += data


@each_result
def test_the_repr_is_one_line_that_a_terminal_may_show(result: Result) -> None:
    text = repr(result)
    assert text.startswith(f"<{type(result).__name__} ")
    assert text.endswith(">")
    assert text.isprintable()
    assert len(text.splitlines()) == 1


@each_result
def test_the_table_of_a_notebook_escapes_everything(result: Result) -> None:
    text = result._repr_html_()
    page = Page(text)
    assert set(page.tags) <= {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert text.isprintable()
    assert text.encode("utf-8")
    assert "<b>" not in text


@pytest.mark.parametrize("result", [PROBLEM, SNAPSHOT, SKIPPED], ids=lambda result: type(result).__name__)
def test_what_is_escaped_is_escaped_once(result: Result) -> None:
    """A backslash in the table is one that a user may read as in the repr."""
    page = Page(result._repr_html_())
    assert page.cells[page.tags.index("caption")] == repr(result)[1:-1]
    assert NASTY_PRINTED in " ".join(page.cells)
    assert "\\\\x1b" not in " ".join(page.cells)


@each_result
def test_json_takes_what_to_dict_gives_and_keeps_it(result: Result) -> None:
    found = result.to_dict()
    assert json.loads(json.dumps(found)) == found
    assert json.loads(json.dumps(found, ensure_ascii=True, allow_nan=False)) == found
    assert set(found) >= {field.name for field in attrs.fields(type(result))}  # type: ignore[arg-type]


def test_paths_that_are_not_utf8_survive_json() -> None:
    for name in (b"\xff", b"caf\xe9", bytes(range(1, 256)).replace(b"/", b"")):
        problem = Problem(kind="unreadable", path=os.fsdecode(name), message="")
        assert os.fsencode(json.loads(json.dumps(problem.to_dict()))["path"]) == name


def test_nested_results_become_dicts_in_lists() -> None:
    found = RESULTS[4].to_dict()
    assert found["snapshot"] == SNAPSHOT.to_dict()
    assert found["problems"] == [PROBLEM.to_dict()]
    assert found["skipped"] == [{"path": NASTY, "size_bytes": 5 << 30, "reason": "above the limit of 1.0 GiB"}]
    assert found["problems"][0]["snapshots"] == [1, 7]


def test_derived_figures_are_in_the_json() -> None:
    assert SNAPSHOT.to_dict()["time"] == "2025-03-30T15:30:45+00:00"
    assert RESULTS[7].to_dict()["ok"] is False
    assert attrs.evolve(RESULTS[7], problems=()).to_dict()["ok"] is True  # type: ignore[misc]


@each_result
def test_results_cannot_be_changed(result: Result) -> None:
    name = attrs.fields(type(result))[0].name  # type: ignore[arg-type]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(result, name, None)
    with pytest.raises((AttributeError, TypeError)):
        result.anything_else = 1  # type: ignore[attr-defined]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        delattr(result, name)


@each_result
def test_results_are_values(result: Result) -> None:
    for same in (copy.copy(result), copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
        assert same == result
        assert hash(same) == hash(result)
        assert repr(same) == repr(result)
    assert result != object()


@each_result
def test_results_are_made_by_keyword_alone(result: Result) -> None:
    values = [getattr(result, field.name) for field in attrs.fields(type(result))]  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        type(result)(*values)


def test_a_list_of_snapshots_is_a_sequence() -> None:
    other = attrs.evolve(SNAPSHOT, id=8)
    listing = SnapshotList(snapshots=(SNAPSHOT, other), size_bytes=0, distinct_bytes=0, repository_bytes=0)
    assert list(listing) == [SNAPSHOT, other]
    assert len(listing) == 2
    assert (listing[0], listing[-1]) == (SNAPSHOT, other)
    assert other in listing
    assert [snapshot.id for snapshot in reversed(listing.snapshots)] == [8, 7]
    with pytest.raises(IndexError):
        listing[2]


def test_an_empty_list_of_snapshots_is_shown_too() -> None:
    listing = SnapshotList(snapshots=(), size_bytes=0, distinct_bytes=0, repository_bytes=0)
    assert repr(listing) == "<SnapshotList 0 snapshots, 0 B in all, 0 B distinct, repository 0 B>"
    assert Page(listing._repr_html_()).tags.count("tr") == 1
    assert not listing


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (SKIPPED, f"<SkippedFile {NASTY_PRINTED}: 5.0 GiB, above the limit of 1.0 GiB>"),
        (PROBLEM, f"<Problem unreadable: {NASTY_PRINTED}: why: {NASTY_PRINTED}>"),
        (Problem(kind="damaged", path="", message="all of it"), "<Problem damaged: all of it>"),
        (
            SNAPSHOT,
            f"<Snapshot 7 /home/{NASTY_PRINTED} 2025-03-30 15:30:45, 1,234 files, 117.7 MiB, 1000 B distinct>",
        ),
        (RESULTS[3], "<SnapshotList 1 snapshot, 117.7 MiB in all, 1000 B distinct, repository 64.0 KiB>"),
        (
            RESULTS[4],
            "<SnapshotResult 7: 1 new, 2 changed, 3 unchanged, 4 removed, 5 B read, 7 B stored, 1 skipped, 1 problem>",
        ),
        (
            RESULTS[5],
            f"<RestoreResult 7 to /out/{NASTY_PRINTED}: restored 1 file, 5 B, 2,000 already there, 2 problems>",
        ),
        (RESULTS[6], "<PruneResult would remove 1 snapshot, 1 content, 4.0 KiB freed, 1 problem>"),
        (RESULTS[7], "<CheckResult 1 problem: 1 snapshot, 2 file versions, 5 B of contents>"),
        (
            attrs.evolve(RESULTS[7], problems=(), quick=True),  # type: ignore[misc]
            "<CheckResult no problems: 1 snapshot, 2 file versions, catalog only>",
        ),
        (
            attrs.evolve(RESULTS[5], dry_run=True, problems=(), destination="/out"),  # type: ignore[misc]
            "<RestoreResult 7 to /out: would restore 1 file, 5 B, 2,000 already there>",
        ),
        (
            attrs.evolve(RESULTS[6], dry_run=False, problems=()),  # type: ignore[misc]
            "<PruneResult removed 1 snapshot, 1 content, 4.0 KiB freed>",
        ),
    ],
)
def test_the_repr_says_what_was_done(result: Result, text: str) -> None:
    assert repr(result) == text


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (ENTRY, f"<Entry -rw-r--r-- dir/{NASTY_PRINTED}, 1.5 KiB, 2025-03-30 15:30:45>"),
        (LINK, f"<Entry lrw-r--r-- dir/{NASTY_PRINTED}, 2025-03-30 15:30:45 -> to {NASTY_PRINTED}>"),
        (VERSION, f"<Version 1 to 7: -rw-r--r-- dir/{NASTY_PRINTED}, 1.5 KiB, 2025-03-30 15:30:45>"),
        (DIFFERENCE, f"<Difference moved dir/{NASTY_PRINTED} from old {NASTY_PRINTED} (mode)>"),
        (ADDED, f"<Difference added dir/{NASTY_PRINTED}>"),
        (HISTORY, f"<History {NASTY_PRINTED}: 1 version, 1 problem>"),
        (FOUND, "<FindResult 2 versions of 1 path, and more, 1 problem>"),
        (LISTING, "<Listing dir in 7: 2 entries, 1.5 KiB, 1 problem>"),
        (
            DIFF,
            f"<Diff 7 to /home/{NASTY_PRINTED}: 1 added (6 B), 2 removed (7 B), 3 changed (8 B), 4 moved, 1 problem>",
        ),
    ],
)
def test_the_repr_says_what_was_read(result: Result, text: str) -> None:
    assert repr(result) == text


@pytest.mark.parametrize("result", [HISTORY, FOUND, LISTING, DIFF], ids=lambda result: type(result).__name__)
def test_what_was_read_is_a_sequence_and_a_table_with_a_row_for_each(result: History) -> None:
    assert list(result) == [result[index] for index in range(len(result))]
    assert Page(result._repr_html_()).tags.count("tr") == len(result) + 1


@pytest.mark.parametrize("number", [60, 61, 5000])
@pytest.mark.parametrize("kind", ["found", "listed", "differs", "snapshots"])
def test_a_table_of_many_has_the_first_the_last_and_their_number(kind: str, number: int) -> None:
    many: Dict[str, Result] = {
        "found": attrs.evolve(
            FOUND, versions=tuple(attrs.evolve(FOUND[0], first=index, last=index) for index in range(number))
        ),
        "listed": attrs.evolve(LISTING, entries=(LISTING[0],) * number),
        "differs": attrs.evolve(DIFF, differences=(DIFF[0],) * number),
        "snapshots": SnapshotList(
            snapshots=tuple(attrs.evolve(SNAPSHOT, id=index) for index in range(number)),
            size_bytes=0,
            distinct_bytes=0,
            repository_bytes=0,
        ),
    }
    text = many[kind]._repr_html_()
    page = Page(text)
    if number <= 60:
        assert page.tags.count("tr") == 1 + number
        assert "rows in all" not in text
    else:
        assert page.tags.count("tr") == 1 + 10 + 1 + 10
        assert f"… {number:,} rows in all …" in text
        assert len(text) < 20_000
    if kind == "snapshots":
        shown = [row.split("<td style='text-align:left'>")[1] for row in text.split("<tr>")[2:] if "style" in row]
        ids = [int(row.partition("<")[0]) for row in shown]
        assert ids == (list(range(60)) if number == 60 else [*range(10), *range(number - 10, number)])
    assert len(repr(many[kind])) < 300


def test_the_table_of_many_decisions_is_short_too() -> None:
    decisions = tuple(
        Decision(snapshot=attrs.evolve(SNAPSHOT, id=index), kept=True, reasons=()) for index in range(1000)
    )
    result = PruneResult(
        snapshots=(),
        decisions=decisions,
        removed_versions=0,
        removed_contents=0,
        removed_bytes=0,
        repacked_packs=0,
        freed_bytes=0,
        repository_bytes=0,
        dry_run=True,
        elapsed_seconds=0.5,
    )
    text = result._repr_html_()
    assert Page(text).tags.count("tr") == 10 + 1 + 10
    assert "snapshot 999" in text


def test_the_table_of_snapshots_shows_their_tags() -> None:
    listing = SnapshotList(snapshots=(SNAPSHOT,), size_bytes=0, distinct_bytes=0, repository_bytes=0)
    page = Page(listing._repr_html_())
    assert "tags" in page.cells
    assert f"one, {NASTY_PRINTED}" in page.cells


@pytest.mark.parametrize("result", [HISTORY, FOUND, LISTING, DIFF], ids=lambda result: type(result).__name__)
def test_a_part_of_a_sequence_is_a_tuple(result: History) -> None:
    """Also for type checkers: the names of its elements are known."""
    part = result[0:1]
    assert part == (result[0],)
    assert result[5:] == ()


@pytest.mark.parametrize(
    ("within", "text"),
    [
        (datetime.timedelta(days=3), "within 3 d"),
        (datetime.timedelta(hours=36), "within 36 h"),
        (datetime.timedelta(minutes=90), "within 1.5 h"),
    ],
)
def test_the_repr_of_a_policy_says_spans_as_its_reasons_do(within: datetime.timedelta, text: str) -> None:
    assert text in repr(RetentionPolicy(within=within))
    assert "0:00" not in repr(RetentionPolicy(within=within))


def test_an_entry_tells_its_name_and_its_time() -> None:
    assert attrs.evolve(ENTRY, path="a/b.txt").name == "b.txt"
    assert (ENTRY.time.isoformat(), VERSION.first_time.second, VERSION.last_time.second) == (
        "2025-03-30T15:30:45.999999+00:00",
        45,
        55,
    )
    assert FOUND.paths == (ENTRY.path,)
    assert (DIFF.identical, DIFF.to_dict()["identical"]) == (False, False)


def test_the_table_of_a_result_has_a_row_for_each_figure_that_is_not_zero() -> None:
    page = Page(RESULTS[4]._repr_html_())
    rows = dict(zip(page.cells[3::3], page.cells[4::3]))
    assert rows["new files"] == "1"
    assert rows["read bytes"] == "5 (5 B)"
    assert rows["elapsed seconds"] == "1.50"
    assert rows["snapshot"].startswith("id=7, host=machine, ")
    page = Page(SNAPSHOT._repr_html_())
    rows = dict(zip(page.cells[3::3], page.cells[4::3]))
    assert rows["started ns"] == "2025-03-30 15:30:45"
    assert rows["size bytes"] == "123,456,789 (117.7 MiB)"
    assert rows["tags"] == f"one, {NASTY_PRINTED}"
    many = Problem(kind="damaged", path="", message="m", snapshots=tuple(range(1, 10)))
    page = Page(many._repr_html_())
    assert dict(zip(page.cells[3::3], page.cells[4::3]))["snapshots"] == "9 of them"
    assert "path" not in page.cells


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (-2048, "-2.0 KiB"),
        (1 << 20, "1.0 MiB"),
        ((1 << 30) * 2, "2.0 GiB"),
        (1 << 40, "1.0 TiB"),
        (1 << 50, "1.0 PiB"),
        (1 << 63, "8192.0 PiB"),
    ],
)
def test_sizes_are_for_people(size: int, text: str) -> None:
    assert format_size(size) == text


def test_printable_text_is_left_as_it_is() -> None:
    for text in ("", "plain", "é 日本語 \U0001f600", "a'b\"c"):
        assert printable(text) is text


def test_what_is_not_printable_becomes_an_escape() -> None:
    assert printable(NASTY) == NASTY_PRINTED
    assert printable("\U000e0001") == "\\U000e0001"
    assert printable("\ud800") == "\\ud800"


def test_no_two_texts_are_printed_alike() -> None:
    hypothesis = pytest.importorskip("hypothesis")
    strategies = pytest.importorskip("hypothesis.strategies")
    text = strategies.text(
        strategies.one_of(
            strategies.characters(),
            strategies.integers(0xDC80, 0xDCFF).map(chr),
            strategies.sampled_from("\\x1bu0f\x85\udc85"),
        )
    )

    def holds(one: str, other: str) -> None:
        assert printable(one).isprintable()
        assert (printable(one) == printable(other)) == (one == other)
        assert printable(one).encode("utf-8").decode("utf-8") == printable(one)

    settings = hypothesis.settings(max_examples=200, deadline=None, database=None)
    settings(hypothesis.given(text, text)(holds))()


@pytest.mark.parametrize(
    ("time_ns", "expected"),
    [
        (0, "1970-01-01T00:00:00+00:00"),
        (-1, "1969-12-31T23:59:59.999999+00:00"),
        (-2_208_988_800_000_000_000, "1900-01-01T00:00:00+00:00"),
        (253_402_300_799_000_000_000, "9999-12-31T23:59:59+00:00"),
        ((1 << 63) - 1, "2262-04-11T23:47:16.854775+00:00"),
        (-(1 << 63), "1677-09-21T00:12:43.145224+00:00"),
    ],
)
def test_times_far_away_are_times_all_the_same(time_ns: int, expected: str) -> None:
    snapshot = attrs.evolve(SNAPSHOT, started_ns=time_ns)
    assert snapshot.time.isoformat() == expected
    assert repr(snapshot)
    assert snapshot._repr_html_()
    assert snapshot.to_dict()["time"]


def test_a_time_beyond_all_calendars_is_the_last_one() -> None:
    later = attrs.evolve(SNAPSHOT, started_ns=1 << 80).time
    assert later == datetime.datetime.max.replace(tzinfo=datetime.timezone.utc)
    assert attrs.evolve(SNAPSHOT, started_ns=-(1 << 80)).time.year == 1970


def test_a_local_time_beyond_the_calendar_is_given_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "XXX-14")  # 14 hours ahead of universal time
    time.tzset()
    last = attrs.evolve(SNAPSHOT, started_ns=253_402_300_799_000_000_000)
    assert last.time.isoformat() == "9999-12-31T23:59:59+00:00"


def test_times_are_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    offset = SNAPSHOT.time.utcoffset()
    assert offset is not None
    assert SNAPSHOT.time.timestamp() == pytest.approx(SNAPSHOT.started_ns / 1e9, abs=1e-5)


def test_a_problem_is_a_sentence_with_its_path() -> None:
    assert str(Problem(kind="unreadable", path="a", message="cannot be read")) == "a: cannot be read"
    assert str(Problem(kind="damaged", path="", message="it is damaged")) == "it is damaged"


def test_every_result_class_documents_each_of_its_fields() -> None:
    for result in RESULTS:
        kind = type(result)
        for field in attrs.fields(kind):  # type: ignore[arg-type]
            assert f"\n    {field.name}: " in (inspect.getdoc(kind) or ""), f"{kind.__name__}.{field.name}"


def test_a_result_without_a_headline_is_a_mistake_that_shows() -> None:
    @attrs.frozen(kw_only=True, repr=False)
    class Unfinished(Result):
        pass

    with pytest.raises(NotImplementedError):
        repr(Unfinished())
    empty: Dict[str, Any] = {}
    assert Unfinished().to_dict() == empty
