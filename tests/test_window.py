"""Windows: entries and rows come out as they went in, and a window is full before its places are too large."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import write_tree
from trees import facts

from backuptool import Repository
from backuptool.operations.snapshot.window import Window


def test_rows_come_out_in_order_of_their_paths_whatever_was_finished_first(tmp_path: Path) -> None:
    window = Window()
    status = os.lstat(tmp_path)
    for path in (b"a", b"b\xff", b"c", b"d"):
        window.add(path, status, None)
    window.finish(3, ("d", b"f", 3))
    window.finish(1, (b"b\xff", b"f", 2))
    window.finish(0, ("a", b"f", b"x" * 100_000))
    window.finish(2, None)
    rows = [(path, len(values)) for path, values in window.rows()]
    assert [path for path, _ in rows] == ["a", b"b\xff", "d"]
    assert rows[0][1] > 100_000
    assert window.entry(1).path == b"b\xff"


def test_long_paths_fill_a_window_and_the_next_one_goes_on(
    repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_tree(tmp_path / "source", {f"{number:03}/{'x' * 100}": b"%d" % number for number in range(60)})
    monkeypatch.setattr("backuptool.operations.snapshot.window._FULL", 1000)
    made = []
    whole = Window.__init__

    def count(self: Window) -> None:
        whole(self)
        made.append(self)

    monkeypatch.setattr(Window, "__init__", count)
    result = repo.snapshot(source)
    assert result.new_files == 60
    assert len(made) > 5
    assert repo.check().problems == ()
    repo.restore("latest", tmp_path / "out")
    assert facts(tmp_path / "out") == facts(source)
