"""What all results share: how values look as text, as JSON and in a notebook.

Owns ``Result``, the base of every result class, and the phrases they are described with. Which fields there are is left
to the modules beside it, one for each operation. Paths are str with the bytes that are not UTF-8 as lone surrogates
(``os.fsencode`` gives the exact bytes back), sizes are bytes, times ns since 1970 UTC.
"""

from __future__ import annotations

import datetime
import html
from typing import (
    Any,
    Callable,
    Generic,
    Iterable,
    Iterator,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    TypeVar,
    Union,
    overload,
)

import attrs

__all__ = ["Result", "Sequenced", "count", "format_size", "html_table", "local_time", "printable"]

T = TypeVar("T")

#: Rows that a table in a notebook has at most, and how many from either end where there are more: a notebook keeps
#: each, 350 bytes for a file that was found.
_MOST_ROWS, _ENDS = 60, 10


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
        rows = _shortened(
            self._rows(),
            lambda row: (
                f"<th style='text-align:left'>{html.escape(row[0])}</th>"
                f"<td style='text-align:left'>{html.escape(printable(row[1]))}</td>"
            ),
            2,
        )
        return f"<table><caption>{html.escape(repr(self)[1:-1])}</caption>{rows}</table>"


class Sequenced(Generic[T]):
    """What results are that are sequences: such a one is iterated over, indexed, sliced, and has a length."""

    __slots__ = ()

    def _items(self) -> Tuple[T, ...]:
        """What it is a sequence of."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[T]:
        return iter(self._items())

    def __len__(self) -> int:
        return len(self._items())

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> Tuple[T, ...]: ...

    def __getitem__(self, index: Union[int, slice]) -> Union[T, Tuple[T, ...]]:
        return self._items()[index]


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
        return local_time(value).strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) if len(value) < 6 else f"{len(value)} of them"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    return str(value)


def html_table(caption: str, heads: Sequence[str], items: Sequence[T], cells: Callable[[T], Iterable[str]]) -> str:
    """Return a table for a notebook: of many items the first and the last, and how many there are.

    Args:
        caption: What it shows.
        heads: The names of the columns.
        items: What has a row each.
        cells: Returns the texts of a row.
    """
    head = "".join(f"<th>{name}</th>" for name in heads)
    body = _shortened(
        items,
        lambda item: "".join(
            f"<td style='text-align:left'>{html.escape(printable(cell))}</td>" for cell in cells(item)
        ),
        len(heads),
    )
    title = html.escape(printable(caption))
    return f"<table><caption>{title}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _shortened(items: Sequence[T], cells: Callable[[T], str], columns: int) -> str:
    """Return the rows of a table, without those in the middle if there are many, which a line tells."""
    if len(items) <= _MOST_ROWS:
        return "".join(f"<tr>{cells(item)}</tr>" for item in items)
    first, last = ("".join(f"<tr>{cells(item)}</tr>" for item in part) for part in (items[:_ENDS], items[-_ENDS:]))
    return f"{first}<tr><td colspan='{columns}'>… {len(items):,} rows in all …</td></tr>{last}"


def local_time(time_ns: int, zone: Optional[datetime.tzinfo] = None) -> datetime.datetime:
    """Return the time in a zone, by default the machine's, also before 1970 and far beyond 2038.

    There the platform's own conversion may refuse; what cannot be converted stays in universal time.
    """
    utc = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
    try:
        moment = utc + datetime.timedelta(microseconds=time_ns // 1000)
    except OverflowError:
        return datetime.datetime.max.replace(tzinfo=datetime.timezone.utc) if time_ns > 0 else utc
    try:
        return moment.astimezone(zone)
    except (OverflowError, OSError, ValueError):
        return moment


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
