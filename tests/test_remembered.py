"""What is remembered of encrypted repositories outside of them: an older copy in the place of one is found."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import pytest
from conftest import as_nobody, cheapened_argon2, write_tree
from properties import given, settings, st

from backuptool import CorruptionError, Problem, Remembered, Repository

for library in ("apsw", "cryptography"):
    pytest.importorskip(library)
pytestmark = pytest.mark.skipif(sys.version_info < (3, 9), reason="encryption needs Python 3.9")

PASSWORD = "correct horse 4711 battery"


@pytest.fixture(autouse=True, scope="module")
def _cheap_argon2() -> Iterator[None]:
    with cheapened_argon2():
        yield


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> List[bytes]:
    """The file of one repository after each of several changes; in state n there were n + 1 snapshots, at most three.

    The last two changes take no snapshot: a note, and a prune of the newest.
    """
    place = tmp_path_factory.mktemp("history")
    tree = write_tree(place / "tree", {"a": b"a"})
    states = []
    with Repository(place / "r.db", password=PASSWORD, max_helpers=0) as repo:
        changes: List[Callable[[], object]] = [lambda: repo.snapshot(tree)] * 3
        changes += [lambda: repo.annotate(1, note="n"), lambda: repo.prune(3)]
        for change in changes:
            change()
            repo.close()
            states.append((place / "r.db").read_bytes())
    return states


class Machine:
    """A machine that looks at a repository now and then."""

    def __init__(self, path: Path, state: Path) -> None:
        self.path = path
        self.state = state

    def open(self) -> Repository:
        return Repository(self.path, password=PASSWORD, max_helpers=0, state_directory=self.state)

    def look(self, data: Optional[bytes] = None) -> Remembered:
        """Put a file in the place of the repository, list what is in it, and return what is remembered then."""
        if data is not None:
            self.path.write_bytes(data)
        with self.open() as repo:
            repo.list()
            assert repo.remembered is not None
            return repo.remembered

    def kept(self) -> Path:
        [file] = self.state.iterdir()
        return file


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "r.db", tmp_path / "home" / "state" / "backuptool")


def is_older(remembered: Remembered) -> bool:
    if remembered.problem is None:
        return False
    assert remembered.problem.kind == "rolled-back"
    return True


# What is found


@pytest.mark.parametrize("newest", range(5))
@pytest.mark.parametrize("older", range(5))
def test_whole_file_put_back_is_found_whatever_had_changed(
    machine: Machine, history: List[bytes], newest: int, older: int
) -> None:
    assert not is_older(machine.look(history[newest]))
    found = machine.look(history[older])
    assert is_older(found) == (older < newest)
    assert is_older(machine.look()) == (older < newest)  # each time
    assert found.snapshot == min(max(newest, older), 2) + 1


def test_first_look_at_a_repository_has_nothing_to_compare_with(machine: Machine, history: List[bytes]) -> None:
    assert not is_older(machine.look(history[1]))
    assert stat_of(machine.kept()) == 0o600
    assert stat_of(machine.state) == 0o700


def stat_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 1), st.sampled_from(["look", "write", "put back", "trust"]), st.integers(0, 9)),
        max_size=14,
    )
)
def test_machines_that_share_a_repository_find_older_copies_and_take_nothing_else_for_one(
    history: List[bytes], tmp_path_factory: pytest.TempPathFactory, steps: List[Tuple[int, str, int]]
) -> None:
    """Against a model in which each state of the file knows what it came from."""
    place = tmp_path_factory.mktemp("shared")
    path = place / "r.db"
    came_from: Dict[bytes, Tuple[bytes, ...]] = {history[0]: (history[0],)}
    states = [history[0]]
    path.write_bytes(history[0])
    machines = [Machine(path, place / "one"), Machine(path, place / "other")]
    seen: List[List[bytes]] = [[], []]
    lost = [False, False]  # whether what a machine has seen was not in what it saw then
    for number, step, which in steps:
        machine, present = machines[number], path.read_bytes()
        if step == "put back":
            path.write_bytes(states[which % len(states)])
            continue
        if step == "trust":
            shutil.rmtree(str(machine.state), ignore_errors=True)
            seen[number], lost[number] = [], False
            continue
        must = any(len(came_from[state]) > len(came_from[present]) for state in seen[number])
        lost[number] |= not set(seen[number]) <= set(came_from[present])
        if step == "write":
            with machine.open() as repo:
                repo.annotate(1, note=f"{len(states)}")
                remembered = repo.remembered
            came_from[path.read_bytes()] = (*came_from[present], path.read_bytes())
            states.append(path.read_bytes())
            seen[number].append(present)
        else:
            remembered = machine.look()
        assert remembered is not None
        assert must <= is_older(remembered) <= lost[number]
        seen[number].append(path.read_bytes())
    shutil.rmtree(str(place))


def test_other_state_of_as_many_changes_is_not_the_same(machine: Machine, history: List[bytes], tmp_path: Path) -> None:
    machine.look(history[0])
    changes = []
    for note in ("one", "other"):
        machine.path.write_bytes(history[0])
        with Repository(machine.path, password=PASSWORD, max_helpers=0) as elsewhere:
            elsewhere.annotate(1, note=note)
        remembered = machine.look()
        changes.append((remembered.changes, is_older(remembered)))
    assert changes == [(changes[0][0], False), (changes[0][0], True)]


def test_older_copy_stays_found_when_changes_go_on_in_it(machine: Machine, history: List[bytes]) -> None:
    machine.look(history[4])
    machine.path.write_bytes(history[1])
    with machine.open() as repo:
        for number in range(6):
            repo.annotate(1, note=str(number))
            assert repo.remembered is not None
            assert is_older(repo.remembered)
    assert is_older(machine.look())
    assert not is_older(machine.look(history[4]))  # it is back
    assert is_older(machine.look(history[3]))
    machine.kept().unlink()  # as the message says
    assert not is_older(machine.look())


def test_file_exchanged_under_a_repository_that_is_open_is_found(machine: Machine, history: List[bytes]) -> None:
    machine.path.write_bytes(history[2])
    with machine.open() as repo:
        repo.list()
        for replace in (machine.path, machine.path.with_name("new")):  # in place, and by another file
            replace.write_bytes(history[1])
            os.replace(str(replace), str(machine.path))
            repo.list()
            assert repo.remembered is not None
            assert is_older(repo.remembered)
            machine.path.write_bytes(history[2])
            repo.list()
            assert not is_older(repo.remembered)


def test_copy_at_another_path_is_the_same_repository_and_a_new_one_is_not(
    machine: Machine, history: List[bytes], tmp_path: Path
) -> None:
    machine.look(history[2])
    (tmp_path / "copy.db").write_bytes(history[1])
    with Repository(tmp_path / "copy.db", password=PASSWORD, state_directory=machine.state) as copy:
        copy.list()
        assert copy.remembered is not None
        assert is_older(copy.remembered)
    with Repository(tmp_path / "new.db", password=PASSWORD, max_helpers=0, state_directory=machine.state) as new:
        new.snapshot(write_tree(tmp_path / "tree", {"a": b"a"}))
        assert new.remembered is not None
        assert not is_older(new.remembered)
    assert len(list(machine.state.iterdir())) == 2


def test_check_and_copies_name_it(machine: Machine, history: List[bytes], tmp_path: Path) -> None:
    machine.look(history[4])
    machine.path.write_bytes(history[1])
    with machine.open() as repo:
        assert [problem.kind for problem in repo.check().problems] == ["rolled-back"]
        with Repository(tmp_path / "plain.db") as plain:
            copied = plain.copy(repo) if plain.snapshot(tmp_path / "home").snapshot.id else None
            assert copied is not None
            assert [(problem.kind, problem.path) for problem in copied.problems] == [("rolled-back", str(machine.path))]


def test_damaged_seal_is_for_check_to_find_and_nothing_is_remembered(machine: Machine, history: List[bytes]) -> None:
    machine.path.write_bytes(history[2])
    with Repository(machine.path, password=PASSWORD, max_helpers=0) as repo, repo._pool.writing() as database:
        database._connection.execute("UPDATE settings SET value = 'none' WHERE name = 'seal'")
    with machine.open() as repo:
        repo.list()
        assert repo.remembered is None
        assert "page-replaced" in {problem.kind for problem in repo.check().problems}
        with pytest.raises(CorruptionError):
            repo.annotate(1, note="x")


# The file


def test_nothing_but_numbers_and_proofs_is_kept(machine: Machine, history: List[bytes]) -> None:
    remembered = machine.look(history[3])
    text = machine.kept().read_text()
    body = json.loads(text.splitlines()[0])
    assert set(body) == {"newest", "older", "version"}
    assert body["newest"] == {"changes": remembered.changes, "seal": body["newest"]["seal"], "snapshot": 3}
    assert (remembered.snapshot, remembered.file) == (3, str(machine.kept()))
    assert PASSWORD not in text + machine.kept().name
    assert str(machine.path) not in text


def test_it_is_written_only_when_something_changed(machine: Machine, history: List[bytes]) -> None:
    machine.look(history[1])
    first = machine.kept().stat().st_ino
    machine.look()
    assert machine.kept().stat().st_ino == first
    machine.look(history[2])
    assert machine.kept().stat().st_ino != first


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: data[:-10],
        lambda data: data.replace(b'"snapshot": 3', b'"snapshot": 9'),
        lambda data: b"\xff" * 200,
        lambda data: b"[" * 4000 + b"\n00\n",
        lambda data: data * 2,
        lambda data: data.split(b"\n")[0] + b"\nzz\n",
    ],
)
def test_damaged_or_forged_file_is_as_good_as_none(machine: Machine, history: List[bytes], spoil: Any) -> None:
    machine.look(history[3])
    machine.kept().write_bytes(spoil(machine.kept().read_bytes()))
    found = machine.look(history[2])
    assert (is_older(found), found.unsaved) == (False, "")
    assert is_older(machine.look(history[1]))  # it was written anew


def test_file_of_another_version_and_another_repository_is_as_good_as_none(
    machine: Machine, history: List[bytes], tmp_path: Path
) -> None:
    machine.look(history[3])
    with Repository(tmp_path / "o.db", password=PASSWORD, max_helpers=0, state_directory=tmp_path / "other") as other:
        other.snapshot(write_tree(tmp_path / "tree", {"a": b"a"}))
    [of_other] = (tmp_path / "other").iterdir()
    shutil.copy(str(of_other), str(machine.kept()))
    assert not is_older(machine.look(history[2]))


def test_another_process_that_has_seen_more_is_not_undone(machine: Machine, history: List[bytes]) -> None:
    machine.path.write_bytes(history[1])
    with machine.open() as slow:
        slow.list()
        machine.look(history[4])
        machine.path.write_bytes(history[2])  # newer than what this one has seen
        slow.list()
    assert is_older(machine.look())
    with machine.open() as slow:
        slow.list()
        machine.look(history[0])
        slow.annotate(1, note="x")
        assert slow.remembered is not None
        assert is_older(slow.remembered)


# Where nothing can be kept


def used(path: Path, state: Path, tree: Path) -> Tuple[Tuple[Problem, ...], str, Optional[Problem]]:
    """Take a snapshot with a state directory, and return what went wrong."""
    with Repository(path, password=PASSWORD, max_helpers=0, state_directory=state) as repo:
        result = repo.snapshot(tree)
        assert repo.remembered is not None
        return result.problems, repo.remembered.unsaved, repo.remembered.problem


def test_state_directory_that_takes_nothing_stops_no_backup(public_path: Path, tree: Path) -> None:
    (public_path / "file").write_bytes(b"")
    (public_path / "locked").mkdir(mode=0o555)
    (public_path / "closed").mkdir(mode=0)
    (public_path / "tree").mkdir()
    (public_path / "repositories").mkdir()
    (public_path / "repositories").chmod(0o777)

    def use() -> Dict[str, Any]:
        return {
            name: used(public_path / "repositories" / f"{number}.db", public_path / name, public_path / "tree")
            for number, name in enumerate(("file", "file/below", "locked", "locked/below", "closed"))
        }

    found = as_nobody(use)
    assert [(problems, problem) for problems, _, problem in found.values()] == [((), None)] * len(found)
    assert all(unsaved for _, unsaved, _ in found.values())


def test_full_state_directory_stops_no_backup_and_leaves_nothing(tmp_path: Path, tree: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    options = ["-t", "tmpfs", "-o", "size=16k", "none", str(full)]
    if subprocess.run(["mount", *options], stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        (full / "rest").write_bytes(b"x" * 16384)
        problems, unsaved, problem = used(tmp_path / "r.db", full, tree)
        assert [entry.name for entry in full.iterdir()] == ["rest"]
        assert (problems, unsaved, problem) == ((), "No space left on device", None)
        (full / "rest").unlink()
        assert used(tmp_path / "r.db", full, tree) == ((), "", None)
    finally:
        subprocess.run(["umount", str(full)], check=True)


def test_what_lies_in_the_place_of_the_file_is_not_followed(machine: Machine, history: List[bytes]) -> None:
    machine.look(history[1])
    secret = machine.state.with_name("secret")
    secret.write_bytes(b"not to be changed")
    file = machine.kept()
    file.unlink()
    file.symlink_to(secret)
    assert machine.look(history[2]).unsaved == ""
    assert (secret.read_bytes(), file.is_symlink()) == (b"not to be changed", False)
    file.unlink()
    os.mkfifo(str(file))
    assert not is_older(machine.look(history[3]))
    file.unlink()
    file.mkdir()
    assert machine.look(history[4]).unsaved


def test_nothing_is_remembered_unless_it_is_asked_for_and_of_no_plain_repository(
    tmp_path: Path, tree: Path, history: List[bytes]
) -> None:
    (tmp_path / "r.db").write_bytes(history[1])
    for repo in (
        Repository(tmp_path / "r.db", password=PASSWORD),
        Repository(tmp_path / "plain.db", state_directory=tmp_path / "state"),
    ):
        with repo:
            repo.snapshot(tree)
            assert repo.remembered is None
    assert not (tmp_path / "state").exists()


def test_pickled_repository_remembers_in_the_same_place(machine: Machine, history: List[bytes]) -> None:
    machine.look(history[2])
    with machine.open() as repo:
        assert pickle.loads(pickle.dumps(repo))._state_directory == str(machine.state)


# The command


def run(arguments: List[str], home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "BACKUPTOOL_PASSWORD": PASSWORD, "HOME": str(home), **variables}
    command = [sys.executable, "-m", "backuptool", "--max-helpers", "0", *arguments]
    return subprocess.run(command, cwd=str(home), env=environment, stdout=-1, stderr=-1, text=True, check=False)


def test_command_tells_of_an_older_copy_until_its_user_says_that_it_is_right(tmp_path: Path, tree: Path) -> None:
    path = tmp_path / "backups.db"
    assert run(["snapshot", "--encrypt", "--target-directory", str(tree)], tmp_path).returncode == 0
    older = path.read_bytes()
    assert run(["snapshot", "--target-directory", str(tree)], tmp_path).returncode == 0
    [kept] = (tmp_path / ".local" / "state" / "backuptool").iterdir()
    path.write_bytes(older)
    ended = [
        run(["list"], tmp_path),
        run(["check"], tmp_path),
        run(["restore", "--snapshot-number", "2", "--output-directory", "out"], tmp_path),
        run(["snapshot", "--target-directory", str(tree)], tmp_path),
    ]
    assert [done.returncode for done in ended] == [3, 3, 1, 3]
    for done in ended:
        [line] = [line for line in done.stderr.splitlines() if "problem" in line]
        assert line.startswith("backuptool: problem: rolled-back: an older copy of the repository was put in its place")
        assert line.endswith(f"removing {kept}")
    assert "taken" not in ended[3].stderr
    kept.unlink()
    done = run(["list"], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_command_keeps_it_where_the_user_wants_state(tmp_path: Path, tree: Path) -> None:
    snapshot = ["snapshot", "--encrypt", "--target-directory", str(tree)]
    assert run(snapshot, tmp_path, XDG_STATE_HOME=str(tmp_path / "else" / "where")).returncode == 0
    assert len(list((tmp_path / "else" / "where" / "backuptool").iterdir())) == 1
    assert run(["list"], tmp_path, XDG_STATE_HOME="relative").returncode == 0
    assert len(list((tmp_path / ".local" / "state" / "backuptool").iterdir())) == 1
    assert not (tmp_path / "relative").exists()
    shutil.rmtree(str(tmp_path / ".local"))
    (tmp_path / ".local").write_bytes(b"")
    assert run(["list"], tmp_path).stderr == ""
    told = run(["list", "-v"], tmp_path)
    assert told.returncode == 0
    assert "is not kept, so an older copy will go unseen: Not a directory" in told.stderr
