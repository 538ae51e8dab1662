"""Text diff: two versions of one file, line by line, in the unified form that patch understands.

Owns what counts as text, and the form. Which lines belong together is decided by difflib.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import Iterator, Optional, Sequence, Tuple, Union

from ...errors import CorruptionError
from ...storage.files import CatalogFile
from ...storage.opened import SharedReader, opened
from ...storage.versions import file_at
from .locating import damaged, path_in_either, require_kind, two_snapshots

__all__ = ["text_diff"]

#: A zero byte among so many first ones: no text, as for diff and git.
_LOOKED_AT = 8000

_NO_NEWLINE = "\\ No newline at end of file"

#: What a name may not have in it as it is, and how that is written. Also a space at its end, where patch takes none.
_SPECIAL = re.compile(r'[\x00-\x1f\x7f"\\]')
_ESCAPES = {'"': '\\"', "\\": "\\\\", **{chr(7 + n): f"\\{letter}" for n, letter in enumerate("abtnvfr")}}
_PLAIN = re.compile(r'[^\x00-\x1f\x7f"\\]*(?<! )\Z')

_Opcode = Tuple[str, int, int, int, int]


def text_diff(
    reader: SharedReader,
    old: Union[int, str],
    new: Union[int, str, None],
    path: bytes,
    *,
    context: int,
    limit: int,
) -> Iterator[str]:
    """Yield the lines of a unified diff, without newlines at their ends; none if both versions are equal.

    Args:
        reader: What reads them.
        old: A snapshot.
        new: Another one, None for the newest of the same source.
        path: The file.
        context: Lines shown around a change.
        limit: Bytes above which a version is not compared line by line.

    Raises:
        SnapshotNotFoundError: There is no such snapshot.
        PathNotFoundError: Neither has that path.
        WrongKindError: It is no regular file.
        CorruptionError: Its row is damaged.
        ContentMissingError, ContentCorruptError: It cannot be read.
    """
    database = reader.database
    snapshots = two_snapshots(database, old, new)
    below = path_in_either(database, *snapshots, path)
    files = [file_at(database, snapshot, below) for snapshot in snapshots]
    if any(file is not None and file.version.kind not in b"fdlpscb" for file in files):
        raise CorruptionError(damaged(below), database.path)
    names = [_quoted(f"{snapshot.id}/{_utf8(below)}") for snapshot in snapshots]
    hashes = [None if file is None else file.version.hash for file in files]
    if hashes[0] == hashes[1] is not None:
        return
    texts = [_read(reader, file, limit + 1) for file in files]
    if any(b"\0" in text[:_LOOKED_AT] for text in texts):
        yield f"Binary files {names[0]} and {names[1]} differ"
    elif any(len(text) > limit for text in texts):
        yield f"Files {names[0]} and {names[1]} differ, and are too large to be compared line by line"
    elif texts[0] != texts[1]:
        for mark, file, name in zip(("---", "+++"), files, names):
            yield f"{mark} {'/dev/null' if file is None else _ended(name)}"
        yield from _hunks(_lines(texts[0]), _lines(texts[1]), context)


def _quoted(name: str) -> str:
    """Return a name that is one line: where diff and git quote names, in quotes and with the escapes of C."""
    if _PLAIN.match(name):
        return name
    return '"' + _SPECIAL.sub(lambda found: _ESCAPES.get(found[0]) or f"\\{ord(found[0]):03o}", name) + '"'


def _ended(name: str) -> str:
    """Return a name with what tells patch where it ends: with spaces in it only a tab does."""
    return name + "\t" if " " in name else name


def _read(reader: SharedReader, file: Optional[CatalogFile], size: int) -> bytes:
    """Return the beginning of a file, nothing if there is none."""
    if file is None:
        return b""
    require_kind(file, b"f", "only files have lines")
    with opened(reader, file) as stream:
        return stream.read(size)


def _utf8(data: bytes) -> str:
    """Return bytes as the text that they are in UTF-8: names and lines alike, whatever names are shown in elsewhere."""
    return data.decode("utf-8", "surrogateescape")


def _lines(text: bytes) -> list[str]:
    """Return lines with their newlines. A form feed or a carriage return alone ends none, as for diff."""
    lines = _utf8(text).split("\n")
    last = lines.pop()
    return [line + "\n" for line in lines] + ([last] if last else [])


def _hunks(old: Sequence[str], new: Sequence[str], context: int) -> Iterator[str]:
    # What both begin and end with needs no comparison: of two versions of a large file nearly all of it.
    begin = 0
    shortest = min(len(old), len(new))
    while begin < shortest and old[begin] == new[begin]:
        begin += 1
    end = 0
    while end < shortest - begin and old[-1 - end] == new[-1 - end]:
        end += 1
    begin, end = max(0, begin - context), max(0, end - context)
    matcher = SequenceMatcher(None, old[begin : len(old) - end], new[begin : len(new) - end])
    for group in matcher.get_grouped_opcodes(context):
        yield _heading(group, begin)
        for tag, old_first, old_last, new_first, new_last in group:
            if tag != "insert":
                mark = " " if tag == "equal" else "-"
                yield from _marked(mark, old[begin + old_first : begin + old_last])
            if tag in ("insert", "replace"):
                yield from _marked("+", new[begin + new_first : begin + new_last])


def _heading(group: Sequence[_Opcode], begin: int) -> str:
    first, last = group[0], group[-1]
    return f"@@ -{_range(begin + first[1], begin + last[2])} +{_range(begin + first[3], begin + last[4])} @@"


def _range(begin: int, end: int) -> str:
    """Return lines as diff counts them: from 1; an empty range by the line before it."""
    if end - begin == 1:
        return f"{begin + 1}"
    return f"{begin + (end > begin)},{end - begin}"


def _marked(mark: str, lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        if line.endswith("\n"):
            yield mark + line[:-1]
        else:
            yield mark + line
            yield _NO_NEWLINE
