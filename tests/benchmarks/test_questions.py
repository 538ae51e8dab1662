"""The written history is one, and every question to it has an answer. Nothing about speed."""

from __future__ import annotations

from pathlib import Path

from backuptool import Repository

from .questions import History, questions


def test_a_written_history_answers_every_question(tmp_path: Path) -> None:
    history = History(tmp_path / "backups.db", 1000)
    history.first()
    history.change(2, 0.02)
    history.change(3, 0.02)
    often = history.often
    history.close()
    with Repository(tmp_path / "backups.db") as repo:
        assert [snapshot.files for snapshot in repo.list()] == [1000, 1002, 1004]
        diff = repo.diff(1, 2)
        assert (diff.added_files, diff.changed_files, diff.removed_files, diff.problems) == (4, 14, 2, ())
        assert len(repo.ls("latest", recursive=True)) == 1004 + 6
        for title, call, _ in questions(often):
            assert len(call(repo)) > 0 or title.endswith("KB"), title  # type: ignore[arg-type]
