"""Hostile repository files: what is forged, and what must come of it.

Owns the table of the cases. Each begins with the same sound repository, changes rows, schema, header or journal, and
computes anew what vouches for them. How they are run, and what must never happen whatever is forged, is test_hostile's.
"""

from __future__ import annotations

import os
import sqlite3
import struct
from contextlib import closing
from pathlib import Path
from typing import Callable, List, Sequence, Tuple, Union

import attrs
from conftest import noise, write_tree

from backuptool import Repository
from backuptool.storage.compression import compress

from .forging import in_utf_16, journal_naming, run_sql, settle

__all__ = ["CASES", "HOST", "Case", "make_base"]

HOST = "victim"

_MAX = (1 << 63) - 1

#: What must come of a case.
#:
#: refused: nothing opens it. named: check and restore both name it. check: check names it, and all that the snapshot
#: holds is restored all the same or named. restore: it agrees with itself, so only restoring it shows what it is.
#: harmless: it is a valid repository, if an unusual one. any: nothing but what holds for all cases.
_REFUSED, _NAMED, _CHECK, _RESTORE, _HARMLESS, _ANY = "refused", "named", "check", "restore", "harmless", "any"

Forge = Callable[[Path], None]


@attrs.frozen
class Case:
    """Something forged.

    Attributes:
        name: What is forged.
        forge: How: statements of SQL, or a function that is given the file.
        outcome: What must come of it.
        settled: Whether digests, counts and sizes are computed anew.
    """

    name: str
    forge: Union[Forge, Tuple[str, ...]]
    outcome: str
    settled: bool = True

    def apply(self, repository: Path) -> None:
        """Forge a repository."""
        if callable(self.forge):
            self.forge(repository)
        else:
            run_sql(repository, *self.forge)
        if self.settled:
            settle(repository)


def make_base(work: Path) -> Path:
    """Make a sound repository of two sources and three snapshots with something of everything; return its path."""
    tree = write_tree(
        work / "source",
        {
            "a.txt": b"the first file\n" * 20,
            "b.txt": b"the second file\n" * 9,
            "dir/sub/c.txt": b"far below\n" * 5,
            "dir/noise": noise(40_000),
            "hard": b"linked\n" * 4,
            "empty": b"",
        },
    )
    os.link(str(tree / "hard"), str(tree / "linked"))
    (tree / "symlink").symlink_to("a.txt")
    os.mkfifo(str(tree / "fifo"))
    with (tree / "large").open("wb") as file:
        file.write(b"".join(b"line %d\n" % number for number in range(110_000)))
    with (tree / "sparse").open("wb") as file:
        file.write(b"begin")
        file.seek(1 << 20)
        file.write(b"".join(b"data %d\n" % number for number in range(9000)))
        file.truncate(3 << 20)
    os.setxattr(str(tree / "a.txt"), "user.note", b"attribute")
    other = write_tree(work / "other", {"x": b"of the other source\n"})
    repository = work / "base.db"
    with Repository(repository) as repo:
        repo.snapshot(tree, host=HOST, note="the first", tags=["one"])
        (tree / "a.txt").write_bytes(b"changed\n" * 30)
        (tree / "b.txt").unlink()
        (tree / "new").write_bytes(b"new in the second one\n" * 3)
        (tree / "dir" / "noise").write_bytes(noise(40_000)[:-1] + b"changed")  # in a pack that has another as base
        repo.snapshot(tree, host=HOST, note="the second")
        repo.snapshot(other, host=HOST)
        assert repo.check().problems == ()
    return repository


# Rows of files.

_DEEP = "replace(hex(zeroblob(10000)), '00', 'd/') || 'x'"

_COLUMNS = (
    "source, path, first, last, added, kind, mode, uid, gid, user, grp, mtime_ns, size, content, sparse, rdev, target, "
    "xattrs, link, ctime_ns, inode"
)


def _row(like: str, **change: Union[str, int, None]) -> str:
    """Return a statement that inserts a row like the current one of a path, with other values (SQL expressions)."""
    values = [str(change.get(name, name)) for name in _COLUMNS.split(", ")]
    return (
        f"INSERT INTO files ({_COLUMNS}) SELECT {', '.join(values)} FROM files "
        f"WHERE path = '{like}' AND source = 1 AND last IS NULL"
    )


def _change(of: str, **change: Union[str, int]) -> str:
    """Return a statement that changes the current row of a path."""
    assignments = ", ".join(f"{name} = {value}" for name, value in change.items())
    return f"UPDATE files SET {assignments} WHERE path = '{of}' AND source = 1 AND last IS NULL"


def _link(path: str, target: str) -> str:
    return _row("symlink", path=f"'{path}'", target=f"'{target}'")


def _path_cases() -> List[Case]:
    outside = {
        "the parent": "'../outside/planted'",
        "an absolute path": "'/tmp/reliability-planted'",
        "a parent further down": "'dir/../../outside/planted'",
        "two dots": "'..'",
        "one dot": "'.'",
        "a dot within": "'dir/./x'",
        "an empty component": "'dir//x'",
        "a slash at the end": "'new/'",
        "nothing but a slash": "'/'",
        "two dots at the end": "'dir/..'",
        "a NUL": "CAST(x'610062' AS TEXT)",
        "a NUL at the beginning": "CAST(x'00' AS TEXT)",
        "dots behind a NUL": "CAST(x'2e2e002f6f757473696465' AS TEXT)",
    }
    cases = [Case(f"a path is {name}", (_row("new", path=path),), _NAMED) for name, path in outside.items()]
    return [
        *cases,
        Case("a directory is the parent", (_row("dir", path="'../outside'"),), _NAMED),
        Case("a symlink is above the root", (_row("symlink", path="'../link'", target="'outside'"),), _NAMED),
        Case("a FIFO is above the root", (_row("fifo", path="'../outside/fifo'"),), _NAMED),
        Case("a name is longer than a name may be", (_row("new", path="printf('%.*c', 300, 'n')"),), _RESTORE),
        Case("a path of a million bytes", (_row("new", path="printf('%.*c', 1000000, 'n')"),), _RESTORE),
        Case(
            "a path of 10,000 directories",
            (_row("new", path=_DEEP),),
            _RESTORE,
        ),
        Case("a name of control bytes", (_row("new", path="CAST(x'1b5b33316d0a0d07e280aeff' AS TEXT)"),), _HARMLESS),
        Case("a path is a number", (_change("new", path="7"),), _HARMLESS),  # SQLite makes it a text
        Case("a path is a blob", (_change("new", path="x'6e6577'"),), _CHECK),
        Case("the root is a file", ("DELETE FROM files WHERE path = ''", _row("new", path="''")), _RESTORE),
        Case(
            "the root is a symlink",
            ("DELETE FROM files WHERE path = ''", _link("", "../outside")),
            _RESTORE,
        ),
        Case("the root is a FIFO", ("DELETE FROM files WHERE path = ''", _row("fifo", path="''")), _RESTORE),
        Case("the root is missing", ("DELETE FROM files WHERE path = ''",), _HARMLESS),
        Case("a directory is missing", ("DELETE FROM files WHERE path = 'dir'",), _RESTORE),
    ]


def _structure_cases() -> List[Case]:
    return [
        Case("a file with a file below it", (_row("new", path="'a.txt/x'"),), _RESTORE),
        Case("a FIFO with a file below it", (_row("new", path="'fifo/x'"),), _RESTORE),
        Case(
            "a symlink with a file through it",
            (_link("esc", "../outside"), _row("new", path="'esc/planted'")),
            _RESTORE,
        ),
        Case(
            "a symlink with a file that is there already through it",
            (_link("esc", "../outside"), _row("new", path="'esc/victim'")),
            _RESTORE,
        ),
        Case(
            "a symlink with a directory through it",
            (_link("esc", ".."), _row("dir", path="'esc/outside'", mode="448")),
            _RESTORE,
        ),
        Case(
            "a symlink with a symlink through it",
            (_link("esc", "../outside"), _link("esc/planted", "victim")),
            _RESTORE,
        ),
        Case(
            "a symlink with a FIFO through it", (_link("esc", "../outside"), _row("fifo", path="'esc/fifo'")), _RESTORE
        ),
        Case(
            "two symlinks with a file through both",
            (_link("l1", "l2"), _link("l2", "../outside"), _row("new", path="'l1/planted'")),
            _RESTORE,
        ),
        Case(
            "an absolute symlink with a file through it",
            (_link("esc", "/tmp"), _row("new", path="'esc/reliability-planted'")),
            _RESTORE,
        ),
        Case(
            "a path is a symlink and a directory at once",
            (
                _link("both", "../outside"),
                _row("dir", path="'both'", first=2),
                _row("new", path="'both/planted'"),
            ),
            _CHECK,
        ),
        Case(
            "a path is a directory and then a symlink",
            (
                _row("dir", path="'both'", first=1, last=2),
                _row("new", path="'both/planted'"),
                _row("symlink", path="'both'", first=2, target="'../outside'"),
            ),
            _NAMED,
        ),
        Case(
            "a file is a hard link of a symlink that leads outside",
            (
                _row("symlink", path="'l1'", target="'../outside/victim'", link="'7'"),
                _change("new", link="'7'"),
            ),
            _HARMLESS,
        ),
        Case(
            "two symlinks that lead outside are hard links",
            (
                _row("symlink", path="'l1'", target="'../outside/victim'", link="'7'"),
                _row("symlink", path="'l2'", target="'../outside/victim'", link="'7'"),
            ),
            _HARMLESS,
        ),
        Case("directories are hard links", (_change("dir", link="'7'"), _change("dir/sub", link="'7'")), _HARMLESS),
        Case("everything is one hard link", ("UPDATE files SET link = '7'",), _HARMLESS),
        Case("a file takes the name of a temporary one", (_row("new", path="'.backuptool-a.txt.part'"),), _HARMLESS),
        Case(
            "a symlink takes the name of a temporary file",
            (_link(".backuptool-new.part", "../outside/victim"),),
            _HARMLESS,
        ),
        Case(
            "a directory takes the name of a temporary file",
            (_row("dir", path="'.backuptool-new.part'"), _row("new", path="'.backuptool-new.part/x'")),
            _RESTORE,
        ),
    ]


def _value_cases() -> List[Case]:
    huge = str(1 << 62)
    values: Sequence[Tuple[str, str, str]] = (
        ("mode", "65535", _CHECK),
        ("mode", "-1", _CHECK),
        ("mode", huge, _CHECK),
        ("mode", "'text'", _CHECK),
        ("uid", "-1", _CHECK),
        ("uid", "4294967295", _CHECK),
        ("uid", huge, _CHECK),
        ("uid", "x'00'", _CHECK),
        ("gid", "-2", _CHECK),
        ("gid", "1.5", _CHECK),
        ("mtime_ns", str(_MAX), _HARMLESS),
        ("mtime_ns", f"-{_MAX} - 1", _CHECK),
        ("mtime_ns", "1e300", _CHECK),
        ("mtime_ns", "'soon'", _CHECK),
        ("size", "-1", _CHECK),
        ("size", huge, _CHECK),
        ("size", "'much'", _CHECK),
        ("size", "1", _CHECK),
        ("kind", "''", _CHECK),
        ("kind", "'zz'", _CHECK),
        ("kind", "'x'", _CHECK),
        ("kind", "'l'", _CHECK),
        ("kind", "'d'", _CHECK),
        ("sparse", "300", _CHECK),
        ("sparse", "-1", _CHECK),
        ("sparse", "7", _CHECK),
        ("rdev", "'text'", _CHECK),
        ("content", "NULL", _CHECK),
        ("content", "4711", _CHECK),
        ("content", "-1", _CHECK),
        ("content", "'text'", _CHECK),
        ("content", "(SELECT content FROM files WHERE path = 'large')", _CHECK),
        ("target", "'../outside/victim'", _CHECK),
        ("xattrs", "x'00'", _CHECK),
        ("xattrs", "x'ffffffff00'", _CHECK),
        ("xattrs", "'text'", _CHECK),
        ("xattrs", "zeroblob(50000000)", _CHECK),
        ("link", "7", _HARMLESS),
        ("first", "3", _CHECK),
        ("first", "'text'", _CHECK),
        ("first", f"{_MAX}", _CHECK),
        ("last", "1", _CHECK),
        ("last", "'text'", _CHECK),
        ("last", "-5", _CHECK),
        ("added", "5", _HARMLESS),
        ("added", "'text'", _HARMLESS),
        ("source", "99", _CHECK),
        ("ctime_ns", "'text'", _HARMLESS),
        ("inode", "x'ff'", _HARMLESS),
    )
    cases = [
        Case(f"{column} of a file is {value}", (_change("new", **{column: value}),), outcome)
        for column, value, outcome in values
    ]
    return [
        *cases,
        Case("a symlink leads nowhere", (_change("symlink", target="''"),), _CHECK),
        Case("a symlink has no target", (_change("symlink", target="NULL"),), _CHECK),
        Case("a symlink leads to a NUL", (_change("symlink", target="CAST(x'610062' AS TEXT)"),), _CHECK),
        Case("a symlink of 5,000 bytes", (_change("symlink", target="printf('%.*c', 5000, 'n')"),), _RESTORE),
        Case("a device of any number", (_row("fifo", path="'device'", kind="'c'", rdev=huge),), _RESTORE),
        Case("a device of a negative number", (_row("fifo", path="'device'", kind="'b'", rdev="-7"),), _RESTORE),
        Case("a device without a number", (_row("fifo", path="'device'", kind="'c'"),), _CHECK),
        Case(
            "attributes that no file can have",
            (_change("new", xattrs=_attributes("security.capability", 3)),),
            _RESTORE,
        ),
        Case("an ACL that is none", (_change("new", xattrs=_attributes("system.posix_acl_access", 9)),), _RESTORE),
        Case("an attribute without a name", (_change("new", xattrs="x'0000000000000000'"),), _RESTORE),
        Case("a NUL in the name of an attribute", (_change("new", xattrs=_attributes("user.\0x", 1)),), _RESTORE),
        Case("100,000 attributes", (_change("new", xattrs=_many_attributes()),), _HARMLESS),
    ]


def _attributes(name: str, size: int) -> str:
    data = struct.pack(">I", len(name)) + name.encode() + struct.pack(">I", size) + b"x" * size
    return f"x'{data.hex()}'"


def _many_attributes() -> str:
    fields = (b"%s%s" % (struct.pack(">I", 10) + b"user.%05d" % number, bytes(4)) for number in range(100_000))
    return f"x'{b''.join(fields).hex()}'"


# Rows of contents, parts and packs.

_NEW = "(SELECT content FROM files WHERE path = 'new')"
_LARGE = "(SELECT content FROM files WHERE path = 'large')"
_SPARSE = "(SELECT content FROM files WHERE path = 'sparse')"


def _content(of: str, **change: Union[str, int]) -> str:
    assignments = ", ".join(f"{name} = {value}" for name, value in change.items())
    return f"UPDATE contents SET {assignments} WHERE id = {of}"


def _content_cases() -> List[Case]:
    huge = str(1 << 62)
    changes: Sequence[Tuple[str, str, str]] = (
        ("hash", "x'00'", _NAMED),
        ("hash", "zeroblob(32)", _NAMED),
        ("hash", "'text'", _NAMED),
        ("hash", "(SELECT hash FROM contents WHERE id = 1)", _CHECK),
        ("size", "-1", _NAMED),
        ("size", "0", _NAMED),
        ("size", huge, _NAMED),
        ("size", "'text'", _NAMED),
        ("pack", "NULL", _NAMED),
        ("pack", "4711", _NAMED),
        ("pack", "'text'", _NAMED),
        ("pack", "-1", _NAMED),
        ("offset", "-5", _NAMED),
        ("offset", huge, _NAMED),
        ("offset", "'text'", _NAMED),
        ("offset", "NULL", _CHECK),
        ("layout", "zeroblob(32)", _CHECK),
        ("layout", "'text'", _CHECK),
    )
    unsettled: Sequence[Tuple[str, str, str]] = (
        ("refs", "-1", _CHECK),
        ("refs", huge, _CHECK),
        ("refs", "'text'", _CHECK),
        ("since", "'text'", _CHECK),
        ("since", huge, _CHECK),
        ("since", "-1", _CHECK),
    )
    return [
        *(
            Case(f"{name} of a content is {value}", (_content(_NEW, **{name: value}),), then)
            for name, value, then in changes
        ),
        *(
            Case(f"{name} of a content is {value}", (_content(_NEW, **{name: value}),), then, settled=False)
            for name, value, then in unsettled
        ),
        Case(
            "the id of a content is negative",
            (_content(_NEW, id=-7), "UPDATE files SET content = -7 WHERE path = 'new'"),
            _CHECK,
        ),
        Case(
            "the id of a content is the highest there is",
            (_content(_NEW, id=_MAX), f"UPDATE files SET content = {_MAX} WHERE path = 'new'"),
            _CHECK,
        ),
        Case("the counter of contents is the highest there is", (f"UPDATE sqlite_sequence SET seq = {_MAX}",), _CHECK),
        Case("the counter of snapshots is a text", ("UPDATE sqlite_sequence SET seq = 'text'",), _CHECK),
        Case("there are no counters", ("DELETE FROM sqlite_sequence",), _CHECK),
        Case("there are counters twice", ("INSERT INTO sqlite_sequence SELECT * FROM sqlite_sequence",), _HARMLESS),
        # Lists of parts.
        Case("a content is a part of itself", (f"UPDATE parts SET part = content WHERE content = {_LARGE}",), _NAMED),
        Case(
            "two contents are parts of each other",
            (
                f"UPDATE parts SET part = {_SPARSE} WHERE content = {_LARGE}",
                f"UPDATE parts SET part = {_LARGE} WHERE content = {_SPARSE}",
            ),
            _NAMED,
        ),
        Case("a part is a large content", (f"UPDATE parts SET part = {_LARGE} WHERE content = {_SPARSE}",), _NAMED),
        Case("a part is missing", (f"UPDATE parts SET part = 4711 WHERE content = {_LARGE} AND offset = 0",), _NAMED),
        Case("a part is a text", (f"UPDATE parts SET part = 'text' WHERE content = {_LARGE} AND offset = 0",), _NAMED),
        Case(
            "parts begin before the beginning",
            (f"UPDATE parts SET offset = -9 WHERE content = {_LARGE} AND offset = 0",),
            _NAMED,
        ),
        Case(
            "parts begin behind the beginning", (f"DELETE FROM parts WHERE content = {_LARGE} AND offset = 0",), _NAMED
        ),
        Case(
            "parts overlap", (f"UPDATE parts SET offset = offset - 1 WHERE content = {_LARGE} AND offset > 0",), _NAMED
        ),
        Case(
            "a part is a text's offset",
            (f"UPDATE parts SET offset = 'text' WHERE content = {_LARGE} AND offset = 0",),
            _NAMED,
        ),
        Case("there are no parts", (f"DELETE FROM parts WHERE content = {_LARGE}",), _NAMED),
        Case("all parts are holes", (f"UPDATE parts SET part = NULL WHERE content = {_LARGE}",), _RESTORE),
        Case("a hole of 2^60 bytes", (f"INSERT INTO parts VALUES ({_LARGE}, {1 << 60}, 1)",), _ANY),
        Case("a million parts", (_content(_NEW, pack="NULL", offset="NULL"), _million_parts()), _NAMED),
        Case("a large content is smaller than its parts", (_content(_LARGE, size="5"),), _NAMED),
        Case("a large content is larger than its parts", (_content(_LARGE, size=huge),), _NAMED),
    ]


def _million_parts() -> str:
    return (
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000) "
        f"INSERT INTO parts SELECT {_NEW}, 66 * i, 1 FROM n"
    )


def _pack(repository: Path, **change: object) -> None:
    """Change the pack of the file ``new``."""
    assignments = ", ".join(f"{name} = ?" for name in change)
    with closing(sqlite3.connect(str(repository))) as connection:
        connection.execute(
            f"UPDATE packs SET {assignments} WHERE id = (SELECT pack FROM contents WHERE id = {_NEW})",
            tuple(change.values()),
        )
        connection.commit()


def _frame(header: str, *blocks: bytes) -> bytes:
    """Return a zstd frame of blocks, each of them without its header."""
    data = bytes.fromhex("28b52ffd" + header)
    for number, block in enumerate(blocks):
        last = number == len(blocks) - 1
        data += struct.pack("<I", len(block) << 3 | last)[:3] + block
    return data


def _run_length_frame(header: str, blocks: int) -> bytes:
    """Return a zstd frame of blocks of 128 KiB, each of four bytes: a bomb."""
    block = 131_072 << 3 | 2
    pieces = [struct.pack("<I", block | (number == blocks - 1))[:3] + b"\0" for number in range(blocks)]
    return bytes.fromhex("28b52ffd" + header) + b"".join(pieces)


def _pack_cases() -> List[Case]:
    def packed(name: str, outcome: str, **change: object) -> Case:
        return Case(name, lambda repository: _pack(repository, **change), outcome)

    plain = compress(b"new in the second one\n" * 3 + b"changed\n" * 30)[1]
    return [
        packed("a pack claims 2^40 bytes", _NAMED, size=1 << 40),
        packed("a pack claims 2^62 bytes", _NAMED, size=1 << 62),
        packed("a pack claims -1 bytes", _NAMED, size=-1),
        packed("a pack claims no bytes", _NAMED, size=0),
        packed("the size of a pack is a text", _NAMED, size="text"),
        packed("the size of a pack is a fraction", _NAMED, size=1.5),
        packed("the codec is unknown", _NAMED, codec="lz4"),
        packed("the codec is a blob", _NAMED, codec=b"\xff"),
        packed("the codec is a number", _NAMED, codec=7),
        packed("a pack says it is compressed", _NAMED, codec="zstd"),
        packed("a pack is empty", _NAMED, data=b""),
        packed("a pack is a text", _NAMED, data="text"),
        packed("a pack is a number", _NAMED, data=7),
        packed("a pack of 300 MB", _NAMED, codec="raw", data=bytes(300_000_000)),
        packed("a pack is cut short", _NAMED, data=plain[:-5]),
        packed("there is something behind the frame", _CHECK, data=plain + b"x"),
        packed("there is another frame behind the frame", _CHECK, data=plain + plain),
        packed("a bomb of 8 GiB", _NAMED, data=_run_length_frame("0058", 65_536)),
        packed("a bomb that tells its 8 GiB", _NAMED, data=_run_length_frame("e00000000002000000", 65_536)),
        packed("a bomb of 16 MiB that tells of 297 bytes", _NAMED, data=_run_length_frame("60c700", 128)),
        packed("a frame that needs a window of 2 GiB", _NAMED, data=_frame("00a8", b"x" * 297)),
        packed("a frame that needs a window of 3.75 TiB", _NAMED, data=_frame("00ff", b"x" * 297)),
        packed("a frame that needs a dictionary", _NAMED, data=_frame("0158" + "07", b"x" * 297)),
        packed("a frame that may be skipped", _NAMED, data=struct.pack("<II", 0x184D2A50, 1 << 31)),
        packed("a frame without blocks", _NAMED, data=_frame("0058")),
        packed("the age of a pack is a text", _HARMLESS, written_ns="text"),
        packed("the age of a pack is the highest there is", _HARMLESS, written_ns=_MAX),
        Case("the fill of a pack is negative", ("UPDATE packs SET live = -5",), _CHECK, settled=False),
        Case("the fill of a pack is a text", ("UPDATE packs SET live = 'text'",), _CHECK, settled=False),
        Case("there are no packs", ("DELETE FROM packs",), _NAMED),
        Case("packs are one another", ("UPDATE packs SET data = (SELECT data FROM packs WHERE id = 1)",), _NAMED),
    ]


# Rows of snapshots, sources and settings.


def _catalog_cases() -> List[Case]:
    def snapshot(name: str, outcome: str, settled: bool = True, **change: str) -> Case:
        assignments = ", ".join(f"{column} = {value}" for column, value in change.items())
        return Case(name, (f"UPDATE snapshots SET {assignments} WHERE id = 2",), outcome, settled)

    def setting(name: str, value: str) -> Case:
        sql = f"UPDATE settings SET value = {value} WHERE name = '{name}'"
        return Case(f"the setting {name} is {value}", (sql,), _CHECK)

    return [
        snapshot("the number of a snapshot is negative", _NAMED, id="-2"),
        snapshot("the number of a snapshot is the highest there is", _NAMED, id=str(_MAX)),
        snapshot("the source of a snapshot is missing", _CHECK, source="99"),
        snapshot("the source of a snapshot is a text", _CHECK, source="'text'"),
        snapshot("a snapshot was taken at the end of time", _HARMLESS, started_ns=str(_MAX), finished_ns=str(_MAX)),
        snapshot("a snapshot was taken before all time", _HARMLESS, started_ns=f"-{_MAX} - 1"),
        snapshot("a snapshot was taken at a text", _CHECK, started_ns="'text'"),
        snapshot("a snapshot was taken at a fraction", _CHECK, started_ns="1.5"),
        snapshot("the note is a blob", _HARMLESS, note="x'ff00'"),
        snapshot("the note is a number", _HARMLESS, note="7"),
        snapshot("the note is of control bytes", _HARMLESS, note="CAST(x'1b5d303b6f776e6564071b5b324a0a' AS TEXT)"),
        snapshot("the note has a million characters", _HARMLESS, note="printf('%.*c', 1000000, 'n')"),
        snapshot("the tags are no JSON", _CHECK, tags="'text'"),
        snapshot("the tags are a number", _CHECK, tags="'7'"),
        snapshot("the tags are a document", _CHECK, tags="""'{"a": 1}'"""),
        snapshot("the tags are nested 100,000 times", _CHECK, tags="replace(hex(zeroblob(50000)), '0', '[')"),
        snapshot("the tags are control characters", _HARMLESS, tags="""'["\\u001b[2J", "\\u202e"]'"""),
        snapshot("the tags are NaN", _CHECK, tags="'[NaN]'"),
        snapshot("a tag of 5,000 digits", _NAMED, tags="'[' || printf('%.*c', 5000, '7') || ']'"),
        snapshot("the digest is short", _CHECK, settled=False, digest="x'00'"),
        snapshot("the digest is a text", _CHECK, settled=False, digest="'text'"),
        snapshot("the digest of the tree is short", _CHECK, settled=False, tree_digest="x'00'"),
        snapshot("the counts are negative", _CHECK, settled=False, files="-1", directories="-1", size="-1"),
        snapshot("the counts are texts", _CHECK, settled=False, files="'a'", size="'b'"),
        snapshot("the counts are the highest there are", _CHECK, settled=False, files=str(_MAX), size=str(_MAX)),
        snapshot("the distinct size is the highest there is", _CHECK, settled=False, distinct_size=str(_MAX)),
        Case("the host is of control bytes", ("UPDATE sources SET host = CAST(x'1b5b324a07' AS TEXT)",), _HARMLESS),
        Case("the host is a blob", ("UPDATE sources SET host = x'ff' WHERE id = 1",), _HARMLESS),
        Case("the root is relative", ("UPDATE sources SET root = '../outside' WHERE id = 1",), _HARMLESS),
        Case("the root has a NUL", ("UPDATE sources SET root = CAST(x'2f00' AS TEXT) WHERE id = 1",), _HARMLESS),
        Case("the root is a number", ("UPDATE sources SET root = 7 WHERE id = 1",), _HARMLESS),
        Case("there are no sources", ("DELETE FROM sources",), _CHECK),
        Case("a pruned snapshot is its own heir", ("INSERT INTO pruned VALUES (7, 7)",), _CHECK, settled=False),
        Case("an heir is missing", ("INSERT INTO pruned VALUES (7, 99)",), _CHECK, settled=False),
        Case("an heir is a text", ("INSERT INTO pruned VALUES (7, 'text')",), _CHECK, settled=False),
        Case("the settings are gone", ("DELETE FROM settings",), _CHECK),
        Case("there is a setting more", ("INSERT INTO settings VALUES ('more', 1)",), _CHECK),
        setting("id", "'text'"),
        setting("chunking", "'rabin'"),
        setting("chunking", "x'ff'"),
        setting("chunk_average", "0"),
        setting("chunk_average", "-1"),
        setting("chunk_average", "1"),
        setting("chunk_average", str(1 << 40)),
        setting("chunk_average", "'text'"),
        setting("chunk_normalization", "77"),
        setting("chunk_large_size", "-1"),
        Case("what was swept is a text", ("INSERT INTO settings VALUES ('swept_content', 'text')",), _HARMLESS),
        Case(
            "what was swept is the highest there is",
            (f"INSERT INTO settings VALUES ('swept_content', {_MAX})",),
            _HARMLESS,
        ),
        Case("what was swept is negative", ("INSERT INTO settings VALUES ('swept_content', -7)",), _HARMLESS),
        Case("a pack is its own base", ("INSERT INTO bases VALUES (1, 1)",), _ANY),
        Case("packs are bases of each other", ("INSERT INTO bases VALUES (1, 2), (2, 1)",), _ANY),
        Case("a base is missing", ("INSERT INTO bases VALUES (1, 99)",), _ANY),
        Case("a base is a text", ("INSERT INTO bases VALUES (1, 'text')",), _ANY),
        Case("a pin is of a text", ("INSERT INTO pins VALUES (2, 'text', 'text')",), _ANY),
        Case("a pin of a snapshot that is missing", ("INSERT INTO pins VALUES (99, 0, zeroblob(32))",), _ANY),
        Case("changes are texts", ("UPDATE changes SET new_files = 'a', new_size = 'b', digest = 'c'",), _ANY),
        Case("a drill of texts", ("INSERT INTO drills VALUES (1, 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h')",), _ANY),
    ]


# Schema, header and journal.


def _schema(*statements: str) -> Forge:
    return lambda repository: run_sql(repository, *statements)


def _schema_cases() -> List[Case]:
    def refused(name: str, *statements: str) -> Case:
        return Case(name, _schema(*statements), _REFUSED, settled=False)

    def text(name: str, of: str, sql: str) -> Case:
        return refused(name, f"UPDATE sqlite_master SET sql = {sql} WHERE name = '{of}'")

    return [
        refused("a trigger", "CREATE TRIGGER t AFTER INSERT ON snapshots BEGIN DELETE FROM files; END"),
        refused("a trigger on a view", "CREATE TRIGGER t INSTEAD OF DELETE ON snapshot_files BEGIN SELECT 1; END"),
        refused("another view", "CREATE VIEW v AS SELECT * FROM files"),
        refused("another table", "CREATE TABLE more (x)"),
        refused("another index", "CREATE INDEX more ON files (mode)"),
        refused("an index of an expression", "CREATE INDEX more ON files (abs(mode))"),
        refused("a virtual table", "CREATE VIRTUAL TABLE v USING fts5(x)"),
        refused("a virtual table of R-trees", "CREATE VIRTUAL TABLE v USING rtree(id, a, b)"),
        refused("statistics", "ANALYZE"),
        refused(
            "a view in the place of a table",
            "ALTER TABLE files RENAME TO real",
            "CREATE VIEW files AS SELECT * FROM real",
        ),
        refused(
            "a table in the place of the view", "DROP VIEW snapshot_files", "CREATE TABLE snapshot_files (snapshot_id)"
        ),
        refused("a generated column", "ALTER TABLE snapshots ADD COLUMN g AS (abs(size))"),
        refused("another column", "ALTER TABLE files ADD COLUMN more"),
        refused("a table is missing", "DROP TABLE parts"),
        refused("an index is missing", "DROP INDEX files_last"),
        text(
            "a column computes a default",
            "packs",
            "replace(sql, 'codec       TEXT NOT NULL', 'codec TEXT DEFAULT (1)')",
        ),
        text(
            "a check that calls a function",
            "packs",
            "replace(sql, 'codec       TEXT NOT NULL', 'codec CHECK (abs(1))')",
        ),
        text("a table is written in another way", "pruned", "upper(sql)"),
        text("a comment is another", "pruned", "replace(sql, 'inherited', 'Inherited')"),
        text("a table has no text", "pruned", "NULL"),
        Case(
            "a table has a blob for a text",
            _schema("UPDATE sqlite_master SET sql = CAST(sql AS BLOB) WHERE name = 'pruned'"),
            _HARMLESS,
            settled=False,
        ),
        text("a table is no SQL", "pruned", "'CREATE TABLE pruned'"),
        refused("a table there twice", "INSERT INTO sqlite_master SELECT * FROM sqlite_master WHERE name = 'packs'"),
        refused("a table of another name", "UPDATE sqlite_master SET tbl_name = 'files' WHERE name = 'packs'"),
        Case("a table is where another is", _schema(_root("parts", "files")), _NAMED, settled=False),
        Case("an index is where a table is", _schema(_root("contents_hash", "contents")), _CHECK, settled=False),
        Case("tables change places", _schema(_root("contents", "snapshots")), _NAMED, settled=False),
        Case(
            "a table is nowhere", _schema("UPDATE sqlite_master SET rootpage = 0 WHERE name = 'files'"), _NAMED, False
        ),
        Case(
            "a table is behind the end",
            _schema("UPDATE sqlite_master SET rootpage = 9999 WHERE name = 'files'"),
            _REFUSED,
            False,
        ),
        Case(
            "a table is a negative page",
            _schema("UPDATE sqlite_master SET rootpage = -1 WHERE name = 'files'"),
            _REFUSED,
            False,
        ),
        Case(
            "a table is the schema",
            _schema("UPDATE sqlite_master SET rootpage = 1 WHERE name = 'files'"),
            _REFUSED,
            False,
        ),
    ]


def _root(name: str, of: str) -> str:
    return (
        f"UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master WHERE name = '{of}') "
        f"WHERE name = '{name}'"
    )


def _header(offset: int, data: bytes) -> Forge:
    def forge(repository: Path) -> None:
        with repository.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    return forge


def _as_wal(repository: Path) -> None:
    with closing(sqlite3.connect(str(repository))) as connection:
        connection.execute("PRAGMA journal_mode=WAL").fetchall()


def _small_pages(repository: Path) -> None:
    with closing(sqlite3.connect(str(repository))) as connection:
        connection.execute("PRAGMA page_size=512")
        connection.execute("VACUUM")


def _journal_that_names(repository: Path) -> None:
    outside = repository.parent.parent / "outside"
    repository.with_name(repository.name + "-journal").write_bytes(journal_naming(outside / "victim"))


def _journal_of_noise(repository: Path) -> None:
    repository.with_name(repository.name + "-journal").write_bytes(noise(100_000))


def _file_cases() -> List[Case]:
    def header(name: str, offset: int, data: str, outcome: str) -> Case:
        return Case(name, _header(offset, bytes.fromhex(data)), outcome, settled=False)

    return [
        header("another application's number", 68, "00000000", _REFUSED),
        header("format 0", 60, "00000000", _REFUSED),
        header("a format of later", 60, "0000ffff", _REFUSED),
        header("a negative format", 60, "ffffffff", _REFUSED),
        header("format 1 with the tables of format 2", 60, "00000001", _REFUSED),
        header("another magic", 0, "53514c6974653300", _REFUSED),
        header("pages of no size", 16, "0000", _REFUSED),
        header("pages of 512 bytes", 16, "0200", _REFUSED),
        header("pages of 64 KiB", 16, "0001", _REFUSED),
        header("a schema of format 9", 44, "00000009", _REFUSED),
        header("texts in UTF-16", 56, "00000002", _REFUSED),
        header("texts in no encoding", 56, "00000009", _HARMLESS),
        header("bytes reserved in each page", 20, "ff", _REFUSED),
        header("more pages than there are", 28, "7fffffff", _REFUSED),
        header("no free pages", 36, "00000000", _HARMLESS),
        header("a list of free pages that is none", 32, "00000002" + "000000ff", _CHECK),
        header("no pages of pointers", 52, "00000000", _CHECK),
        header("written by a later SQLite", 18, "0303", _REFUSED),
        Case("rows in UTF-16", in_utf_16, _REFUSED, settled=False),
        Case("a write-ahead log", _as_wal, _HARMLESS, settled=False),
        Case("small pages", _small_pages, _HARMLESS),
        Case("a journal that names a file elsewhere", _journal_that_names, _REFUSED, settled=False),
        Case("a journal of noise", _journal_of_noise, _HARMLESS, settled=False),
    ]


#: All of them.
CASES: Tuple[Case, ...] = (
    *_path_cases(),
    *_structure_cases(),
    *_value_cases(),
    *_content_cases(),
    *_pack_cases(),
    *_catalog_cases(),
    *_schema_cases(),
    *_file_cases(),
)
