from __future__ import annotations

import os
import sys
from contextlib import closing
from pathlib import Path
from typing import Iterator, List

import pytest
from conftest import helper_message, noise, sql, write

from backuptool import Repository
from backuptool.operations.check.examining import Examination, PackReport, examine
from backuptool.storage.connecting import open_database
from backuptool.storage.database import Database
from backuptool.storage.lost import Members
from backuptool.storage.unpacking import PackSource

PACKS = 20


@pytest.fixture
def tmp_path(memory_path: Path) -> Path:
    """Some MiB are to be written here."""
    return memory_path


@pytest.fixture
def database(repo: Repository, tmp_path: Path) -> Iterator[Database]:
    """A repository of one file and one pack a snapshot."""
    root = tmp_path / "tree"
    for number in range(PACKS):
        write(root / str(number), noise(1000 + number, number))
        repo.snapshot(root)
    repo.close()
    with closing(open_database(repo.path, 10.0)) as found:
        yield found


def pack_ids(database: Database) -> List[int]:
    return [pack for (pack,) in database.query("SELECT id FROM packs")]


def examined(database: Database, helpers: int) -> List[PackReport]:
    """What is found in all packs, by pack."""
    with Examination(database, pack_ids(database), helpers) as examination:
        return sorted(examination.reports(), key=lambda report: report.pack)


def damage(database: Database, pack: int) -> None:
    [(data,)] = sql(database.path, "SELECT data FROM packs WHERE id = ?", pack)
    sql(database.path, "UPDATE packs SET data = ? WHERE id = ?", b"?" + data[1:], pack)


@pytest.mark.parametrize("helpers", [0, 1, 3])
def test_every_pack_is_examined_once(database: Database, helpers: int) -> None:
    assert examined(database, helpers) == [PackReport(1 + number, 1000 + number) for number in range(PACKS)]


@pytest.mark.parametrize("helpers", [0, 1, 3])
@pytest.mark.both
def test_helpers_find_what_this_process_finds(database: Database, helpers: int) -> None:
    damage(database, 3)
    sql(database.path, "UPDATE packs SET size = 99, codec = 'strange' WHERE id = 5")
    sql(database.path, "UPDATE packs SET data = 7 WHERE id = 7")
    expected = [examine(database, pack, PackSource(database), Members(database)) for pack in pack_ids(database)]
    assert examined(database, helpers) == expected
    hurt = [report.pack for report in expected if report.damaged]
    assert hurt == [3, 5, 7]
    [(content, digest)] = sql(database.path, "SELECT id, hash FROM contents WHERE pack = 3")
    assert expected[2].damaged == ((content, digest, "its bytes do not have its hash"),)
    assert "pack 7 cannot be read" in expected[6].damaged[0][2]


def test_only_helpers_examine_while_nothing_is_asked_for(database: Database) -> None:
    with Examination(database, pack_ids(database), 1) as examination:
        for helper in examination._examiners:
            helper.wait()
        database.close()  # whoever still asked it anything would be told so
        assert len(list(examination.reports())) == PACKS


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\n",
        helper_message([(1, 2, None, ())])[:-3],
        helper_message([(9999, 0, None, ())]),
        helper_message(7),
        helper_message(None),
        helper_message([(1, 2, 3)]),
        b"\xff\xff\xff\xff",
    ],
    ids=["nothing", "nonsense", "half", "other packs", "a number", "None", "a short report", "an endless message"],
)
def test_what_a_helper_fails_to_do_is_done_here(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    (tmp_path / "answer").write_bytes(answer)
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\nread path\ncat {tmp_path}/answer\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    assert examined(database, 2) == [PackReport(1 + number, 1000 + number) for number in range(PACKS)]


def test_helper_that_is_killed_loses_nothing(database: Database) -> None:
    with Examination(database, pack_ids(database), 1) as examination:
        examination._examiners[0].helper._process.kill()
        assert {report.pack for report in examination.reports()} == set(pack_ids(database))


@pytest.mark.parametrize("executable", ["", None, "/usr/bin/uwsgi", "/nothing/python3"])
def test_without_an_interpreter_it_is_all_done_here(
    database: Database, monkeypatch: pytest.MonkeyPatch, executable: str
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    with Examination(database, pack_ids(database), 2) as examination:
        assert examination._examiners == []
        assert len(list(examination.reports())) == PACKS


def test_helpers_end_with_the_block(database: Database) -> None:
    def leave() -> None:
        with Examination(database, pack_ids(database), 2) as examination:
            processes.extend(examiner.helper.pid for examiner in examination._examiners)
            raise KeyboardInterrupt

    processes: List[int] = []
    with pytest.raises(KeyboardInterrupt):
        leave()
    assert len(processes) == 2
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_helper_imports_nothing_from_the_current_directory(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = tmp_path / "trap"
    for name in ("json.py", "attr.py", "sqlite3.py", "sitecustomize.py"):
        write(trap / name, b"open('sprung', 'w').close()\n")
    monkeypatch.chdir(trap)
    monkeypatch.setenv("PYTHONPATH", str(trap))
    assert [report.damage for report in examined(database, 1)] == [None] * PACKS
    assert not (trap / "sprung").exists()


def test_a_pack_that_was_pruned_meanwhile_is_no_damage(database: Database) -> None:
    assert examine(database, 9999, PackSource(database), Members(database)) == PackReport(9999)
