"""Encrypted repositories: what they hide, what opens them, what is found when somebody changes the file."""

from __future__ import annotations

import errno
import itertools
import os
import pickle
import random
import sqlite3
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest
from conftest import Clock, Entry, as_nobody, cheapened_argon2, children, entries, noise, restored, write, write_tree

from backuptool import (
    BackuptoolError,
    CheckResult,
    CorruptionError,
    Repository,
    RepositoryError,
    RepositoryNotFoundError,
    WrongPasswordError,
)

for library in ("apsw", "cryptography"):
    pytest.importorskip(library)
pytestmark = pytest.mark.skipif(sys.version_info < (3, 9), reason="encryption needs Python 3.9")

from backuptool.operations.check.examining import Examination  # noqa: E402
from backuptool.operations.prune.pruning import _final_pages  # noqa: E402
from backuptool.storage.drivers.with_sqlite3mc import write_page  # noqa: E402
from backuptool.storage.encryption.construction import FileKey, Stretched  # noqa: E402
from backuptool.storage.encryption.keypages import KEY_PAGES  # noqa: E402
from backuptool.storage.encryption.keyring import Keyring  # noqa: E402

PAGE = 16384
PASSWORD = "correct horse 4711 battery"
MARK = b"NOBODY-MAY-READ-THIS"


@pytest.fixture
def real_argon2() -> None:
    """For tests in which other processes open what this one creates."""


@pytest.fixture(autouse=True)
def _cheap_argon2(request: pytest.FixtureRequest) -> Iterator[None]:
    with nullcontext() if "real_argon2" in request.fixturenames else cheapened_argon2():
        yield


@pytest.fixture
def repo(tmp_path: Path, clock: Clock) -> Iterator[Repository]:
    """An encrypted repository that does not exist yet; what follows runs in this process."""
    with Repository(tmp_path / "backups.db", password=PASSWORD, lock_timeout=10, max_helpers=0) as repository:
        yield repository


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Tuple[List[bytes], Dict[bytes, Entry]]:
    """The file of one repository after each of several operations, and the tree of its last snapshot."""
    path = tmp_path_factory.mktemp("history")
    tree = write_tree(path / "tree", {"a.txt": b"a" * 5000, "d/b.bin": noise(40000, 1), "d/c": b"c"})
    states = []
    with cheapened_argon2(), Repository(path / "backups.db", password=PASSWORD, max_helpers=0) as repo:
        for number in range(4):
            write(tree / "d" / f"new{number}", noise(20000, 10 + number))
            repo.snapshot(tree, note=f"note {number}")
            states.append((path / "backups.db").read_bytes())
        repo.snapshot(tree)
        states.append((path / "backups.db").read_bytes())
        repo.prune(2)
        states.append((path / "backups.db").read_bytes())
        before = entries(tree)
    return states, before


class Victim:
    """A copy of a repository in one place, so that its key need be found only once."""

    def __init__(self, path: Path, data: bytes) -> None:
        self.path = path
        self.path.write_bytes(data)
        self.data = data
        self.repository = Repository(path, password=PASSWORD, max_helpers=0)
        assert self.check(data) == ()

    def check(self, data: bytes) -> Tuple[str, ...]:
        """The kinds of problems that are found when the file is this; the class of the error if it is refused."""
        self.repository.close()
        self.path.write_bytes(data)
        try:
            return tuple(problem.kind for problem in self.repository.check().problems)
        except BackuptoolError as exc:
            return (type(exc).__name__,)
        finally:
            self.repository.close()

    def overwritten(self, offset: int, data: bytes) -> bytes:
        """The file with other bytes in one place."""
        return self.data[:offset] + data + self.data[offset + len(data) :]


@pytest.fixture
def victim(tmp_path: Path, history: Tuple[List[bytes], Dict[bytes, Entry]]) -> Iterator[Victim]:
    """A repository with four snapshots, one of which was pruned."""
    made = Victim(tmp_path / "victim.db", history[0][-1])
    yield made
    made.repository.close()


# As any other repository


@pytest.mark.parametrize("password", [None, PASSWORD], ids=["plain", "encrypted"])
def test_size_after_a_prune_is_known_to_the_byte_where_the_page_maps_end(
    memory_path: Path, password: str | None
) -> None:
    # An encrypted page has 64 bytes less, so a page of the pointer map describes fewer pages than a plain one: 3,265
    # and 3,277 with itself. Files are made to end around both.
    with Repository(memory_path / "r.db", password=password) as repo:
        repo.snapshot_files({"a": b"a"}, "a")
        found = []
        with repo._pool.writing() as database:
            insert = "INSERT INTO packs VALUES (?, ?, 0, 0, 'raw', zeroblob(?))"
            database.execute(insert, (1000, PAGE * 3200, PAGE * 3200))
            for pages in range(1, 60):
                database.execute(insert, (1000 + pages, 8 * PAGE, 8 * PAGE))
            for number in range(1059, 1000, -1):
                with database.transaction():
                    database.execute("DELETE FROM packs WHERE id = ?", (number,))
                expected = _final_pages(database)
                with database.transaction():
                    while database.value("PRAGMA freelist_count"):
                        database.query("PRAGMA incremental_vacuum")
                found.append((expected, int(database.value("PRAGMA page_count"))))
    assert [expected for expected, _ in found] == [pages for _, pages in found]
    assert found[0][1] > 3300 > found[-1][1]


@pytest.mark.parametrize("helpers", [0, 2])
def test_everything_works_as_on_a_plain_repository(tmp_path: Path, clock: Clock, helpers: int) -> None:
    files = {f"{n % 7}/{n}.txt": b"file %d\n" % n * (n % 50) for n in range(300)}
    tree = write_tree(tmp_path / "tree", {**files, "large": noise(3 << 20), "zeros": bytes(1 << 20)})
    write(tree / os.fsdecode(b"\xff name"), b"a name that is not UTF-8")
    before = entries(tree)
    with Repository(tmp_path / "r.db", password=PASSWORD, max_helpers=helpers) as repo:
        assert repo.snapshot(tree, note="ä", tags=["t"]).problems == ()
        assert repo.snapshot(tree).new_files == 0
        write(tree / "large", noise(3 << 20, 1))
        repo.snapshot(tree)
        assert restored(repo, 2, tmp_path / "out") == before
        assert repo.check().problems == ()
        assert repo.check(quick=True).problems == ()
        repo.prune([1, 3])
        assert [snapshot.id for snapshot in repo.list()] == [2]
        assert restored(repo, 2, tmp_path / "again") == before
        assert repo.check().problems == ()
    assert list(tmp_path.glob("r.db?*")) == []


def test_repository_says_by_itself_what_it_is(repo: Repository, tree: Path, tmp_path: Path) -> None:
    said = [repo.encrypted]
    repo.snapshot(tree)
    assert [*said, repo.encrypted] == [False, True]
    with Repository(tmp_path / "plain.db") as plain:
        plain.snapshot(tree)
        assert not plain.encrypted
    assert Path(repo.path).read_bytes()[:16] == b"backuptool crypt"
    assert os.stat(repo.path).st_mode & 0o777 == 0o600


def test_nothing_that_is_saved_can_be_read_in_the_file_or_its_journal(tmp_path: Path, clock: Clock) -> None:
    tree = write_tree(tmp_path / "tree", {MARK.decode(): MARK + noise(50000)})  # noise is stored as it is
    found = {}
    for name, password in (("plain.db", None), ("secret.db", PASSWORD)):
        with Repository(tmp_path / name, password=password, max_helpers=0) as repo:
            repo.snapshot(tree, note=MARK.decode(), tags=[MARK.decode()], host=MARK.decode())
            with repo._pool.writing() as database, database.transaction():
                database.execute("UPDATE snapshots SET note = 'other'")
                database.execute("DELETE FROM files")
                database.query("PRAGMA cache_spill=1")
                database.execute("UPDATE packs SET data = zeroblob(9000000)")  # more than the cache holds
                journal = (tmp_path / f"{name}-journal").read_bytes()
            found[name] = (journal.count(MARK) > 0, (tmp_path / name).stat().st_size > 0)
        with Repository(tmp_path / f"2{name}", password=password, max_helpers=0) as repo:
            repo.snapshot(tree, note=MARK.decode())
            found[name] = (found[name][0], MARK in (tmp_path / f"2{name}").read_bytes())
    assert found == {"plain.db": (True, True), "secret.db": (False, False)}


def test_sizes_of_contents_do_not_show_in_the_bytes(repo: Repository, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree", {"a": bytes(300000)})
    repo.snapshot(tree)
    data = Path(repo.path).read_bytes()
    pages = [data[at : at + PAGE] for at in range(0, len(data), PAGE)]
    assert len(set(pages)) == len(pages) - 1  # only the two copies of the key page are equal
    for number, page in enumerate(pages, 1):
        if number not in KEY_PAGES:
            assert len(set(page[24:])) > 200  # as random as 16 KiB can be


def test_what_waits_for_a_sort_stays_in_memory(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    with repo._pool.reading() as database:
        assert database.value("PRAGMA temp_store") == 2
        assert database.encrypted


def test_processes_and_threads_create_and_use_it_at_once(real_argon2: None, tmp_path: Path) -> None:
    trees = [write_tree(tmp_path / f"tree{n}", {"a": noise(3000, n)}) for n in range(3)]
    program = "import sys, backuptool; backuptool.Repository(sys.argv[1], password=sys.argv[2]).snapshot(sys.argv[3])"
    begin = [sys.executable, "-c", program, str(tmp_path / "r.db"), PASSWORD]
    started = [subprocess.Popen([*begin, str(tree)]) for tree in trees]
    assert [process.wait() for process in started] == [0] * 3
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith("r.db")] == ["r.db"]
    with Repository(tmp_path / "r.db", password=PASSWORD) as repo, ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda _: len(repo.list()), range(12))) == [3] * 12
        list(threads.map(repo.snapshot, trees))
        assert len(repo.list()) == 6
        assert repo.check().problems == ()


TWO_AT_ONCE = """
import os, sys, threading
from backuptool.storage.encryption.construction import Stretched

def run(times):
    for number in range(times):
        Stretched(b"password", bytes([number]) * 16)

run(1)  # a fork within an import of another thread would be another matter
threads = [threading.Thread(target=run, args=(2,)) for _ in range(2)]
for thread in threads:
    thread.start()
child = os.fork()
if child == 0:
    run(1)
    os._exit(0)
for thread in threads:
    thread.join()
print(os.waitpid(child, 0)[1])
"""


def test_keys_are_found_in_several_threads_and_a_forked_child_at_once() -> None:
    """OpenSSL by itself hangs there, so it is another process that does it."""
    program = [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", TWO_AT_ONCE]  # of the fork
    ended = subprocess.run(program, stdout=-1, stderr=-1, timeout=60, check=False)
    assert (ended.stdout, ended.stderr) == (b"0\n", b"")


def test_locks_of_one_thread_outlive_the_look_of_another(real_argon2: None, repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    with repo._pool.writing() as database, database.transaction():
        assert Repository(repo.path).encrypted
        with pytest.raises(WrongPasswordError):
            Repository(repo.path).list()
        with Repository(repo.path, password=PASSWORD) as other:
            assert len(other.list()) == 1
        program = (
            f"import backuptool; backuptool.Repository({repo.path!r}, password={PASSWORD!r}, lock_timeout=0).prune()"
        )
        ended = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, check=False)
        assert b"RepositoryLockedError" in ended.stderr


def test_it_is_read_where_nothing_can_be_written(public_path: Path, tree: Path, clock: Clock) -> None:
    path = public_path / "r.db"
    with Repository(path, password=PASSWORD, max_helpers=0) as repo:
        repo.snapshot(tree)
    path.chmod(0o444)
    public_path.chmod(0o555)

    def read() -> Tuple[int, Any]:
        with Repository(path, password=PASSWORD, max_helpers=0) as repo:
            return len(repo.list()), repo.check().problems

    assert as_nobody(read) == (1, ())


def test_pickled_repository_has_no_password(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    data = pickle.dumps(repo)
    assert PASSWORD.encode() not in data
    with pickle.loads(data) as other, pytest.raises(WrongPasswordError):
        other.list()


# Passwords


def test_password_is_stretched_as_is_written_down(real_argon2: None) -> None:
    """argon2-cffi 25.1 gave this for 64 MiB, three passes and four lanes."""
    expected = "21a97cf6284deef49292466e39d7d3b0a6842655b5a801f88b9b84ccefc56864"
    assert Stretched(b"password", b"s" * 16)._secret.hex() == expected


def test_password_is_text_or_bytes_or_asked_for_when_it_is_needed(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    asked = []

    def ask() -> str:
        asked.append(True)
        return PASSWORD

    for password in (PASSWORD, PASSWORD.encode(), ask):
        with Repository(repo.path, password=password) as other:
            assert asked == []
            assert len(other.list()) == 1
            other.close()
            assert len(other.list()) == 1
    assert asked == [True]


@pytest.mark.parametrize("password", ["wrong", b"wrong", PASSWORD + " ", PASSWORD[:-1], lambda: "", "", None])
def test_wrong_password_opens_nothing_and_learns_nothing(repo: Repository, tree: Path, password: Any) -> None:
    repo.snapshot(tree)
    before = Path(repo.path).read_bytes()
    other = Repository(repo.path, password=password)
    for use in (other.list, other.check, other.prune, lambda: other.snapshot(tree)):
        with pytest.raises(WrongPasswordError) as caught:
            use()
        assert caught.value.path == repo.path
        assert "wrong" not in str(caught.value).replace(repo.path, "")
    assert Path(repo.path).read_bytes() == before


def test_plain_repository_is_refused_with_a_password(tmp_path: Path, tree: Path) -> None:
    with Repository(tmp_path / "r.db") as plain:
        plain.snapshot(tree)
    before = (tmp_path / "r.db").read_bytes()
    with Repository(tmp_path / "r.db", password=PASSWORD) as other:
        for use in (other.list, lambda: other.snapshot(tree), other.keys):
            with pytest.raises(RepositoryError, match="is not encrypted, but a password was given"):
                use()
    assert (tmp_path / "r.db").read_bytes() == before


def test_plain_repository_has_no_passwords(tmp_path: Path, tree: Path) -> None:
    with Repository(tmp_path / "r.db") as plain:
        plain.snapshot(tree)
        for use in (plain.keys, lambda: plain.add_key("x"), lambda: plain.remove_key("x")):
            with pytest.raises(RepositoryError, match="is not encrypted"):
                use()


def test_empty_file_is_not_made_an_encrypted_repository(tmp_path: Path, tree: Path) -> None:
    (tmp_path / "r.db").touch()
    with pytest.raises(RepositoryError, match="is an empty file; remove it"):
        Repository(tmp_path / "r.db", password=PASSWORD).snapshot(tree)


def test_pages_that_a_power_failure_left_behind_the_end_are_no_damage_and_other_bytes_are(
    repo: Repository, tree: Path
) -> None:
    repo.snapshot(tree)
    repo.close()
    size = os.path.getsize(repo.path)
    with open(repo.path, "ab") as file:
        file.write(bytes(2 * PAGE))
    assert repo.check().problems == ()
    os.truncate(repo.path, size + 100)
    assert "database-corrupt" in {problem.kind for problem in repo.check().problems}
    os.truncate(repo.path, size + PAGE)
    write(tree / "new", b"new")
    repo.snapshot(tree)
    repo.close()
    assert os.path.getsize(repo.path) % PAGE == 0
    assert repo.check().problems == ()


def test_missing_repository_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(RepositoryNotFoundError):
        Repository(tmp_path / "r.db", password=PASSWORD).list()
    assert not (tmp_path / "r.db").exists()


def test_place_that_takes_no_file_is_an_error(tmp_path: Path, tree: Path) -> None:
    with pytest.raises(RepositoryError, match="cannot create the repository"):
        Repository(tmp_path / "missing" / "r.db", password=PASSWORD).snapshot(tree)


@pytest.mark.usefixtures("real_argon2")
def test_file_whose_beginning_cannot_be_read_is_not_given_to_a_plain_sqlite(
    repo: Repository, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain SQLite would remove the journal of an interrupted write, as the control does."""
    repo.snapshot(tree)
    interrupt = (
        "import os, sys\n"
        "from backuptool.storage.connecting import open_database\n"
        "from backuptool.storage.encryption.keyring import Keyring\n"
        "database = open_database(sys.argv[1], 1.0, Keyring(sys.argv[2]))\n"
        "database.query('PRAGMA cache_size=1')\n"
        "database.execute('BEGIN IMMEDIATE')\n"
        "database.execute('UPDATE packs SET data = zeroblob(length(data))')\n"
        "database.execute('UPDATE files SET size = size + 1')\n"
        "os._exit(0)\n"
    )
    repo.close()
    subprocess.run([sys.executable, "-c", interrupt, repo.path, PASSWORD], check=True)
    left = {path.name: path.read_bytes() for path in tmp_path.glob("backups.db*")}
    assert left["backups.db-journal"]

    def exhausted(*arguments: Any, **settings: Any) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr("backuptool.storage.recognition.os.open", exhausted)
        with pytest.raises(RepositoryError, match="Too many open files"):
            Repository(repo.path, password=PASSWORD).list()
    assert {path.name: path.read_bytes() for path in tmp_path.glob("backups.db*")} == left
    copied = tmp_path / "copied.db"
    for name in left:
        (tmp_path / name.replace("backups", "copied")).write_bytes(left[name])
    with closing(sqlite3.connect(str(copied))) as plain, pytest.raises(sqlite3.DatabaseError, match="not a database"):
        plain.execute("SELECT count(*) FROM sqlite_master")
    assert not (tmp_path / "copied.db-journal").exists()
    with Repository(copied, password=PASSWORD) as damaged:
        assert not damaged.check().ok
    assert repo.check().ok


def test_path_that_is_not_utf_8_is_refused(tmp_path: Path, tree: Path) -> None:
    with pytest.raises(RepositoryError, match="is not UTF-8"):
        Repository(tmp_path / os.fsdecode(b"\xff.db"), password=PASSWORD).snapshot(tree)
    assert [entry.name for entry in tmp_path.iterdir()] == ["tree"]


def test_passwords_are_added_listed_and_removed(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    size = os.path.getsize(repo.path)
    [first] = repo.keys()
    assert (first.in_use, first.created_ns > 0) == (True, True)
    key_file = bytes(range(256))
    added = repo.add_key(key_file, label="key file ä")
    assert [key.label for key in added] == ["first", "key file ä"]
    assert added.added == added[1].id
    with Repository(repo.path, password=key_file) as other:
        assert [key.in_use for key in tuple(other.keys())] == [False, True]
        removed = other.remove_key(first.id)
        assert (removed.removed, len(removed)) == (first.id, 1)
        assert other.check().problems == ()
        assert restored(other, 1, tree.parent / "out") == entries(tree)
    with Repository(repo.path, password=PASSWORD) as other, pytest.raises(WrongPasswordError):
        other.list()
    assert len(repo.list()) == 1  # who has it open has the key
    assert os.path.getsize(repo.path) == size


def test_change_of_passwords_writes_the_key_page_and_little_else(repo: Repository, tmp_path: Path) -> None:
    repo.snapshot(write_tree(tmp_path / "tree", {"a": noise(1 << 20)}))
    before = Path(repo.path).read_bytes()
    repo.add_key("other")
    after = Path(repo.path).read_bytes()
    changed = [
        n for n in range(len(before) // PAGE) if before[n * PAGE : (n + 1) * PAGE] != after[n * PAGE : (n + 1) * PAGE]
    ]
    assert {number - 1 for number in KEY_PAGES} < set(changed)
    assert len(changed) <= 4  # page 1 with SQLite's counter, and the settings


def test_last_password_stays(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    with pytest.raises(RepositoryError, match="is the last password"):
        repo.remove_key(repo.keys()[0].id)
    for wrong in ("", "zz", "00000000"):
        with pytest.raises(RepositoryError, match="has no password"):
            repo.remove_key(wrong)
    assert len(repo.keys()) == 1


def test_same_password_twice_and_strange_labels_are_refused(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    with pytest.raises(RepositoryError, match=r"opens .* already"):
        repo.add_key(PASSWORD)
    for label in ("x" * 64, "ä" * 32, "two\nlines"):
        with pytest.raises(ValueError, match="label"):
            repo.add_key("other", label=label)
    with pytest.raises(WrongPasswordError, match="is empty"):
        repo.add_key("")
    assert len(repo.keys()) == 1


@pytest.mark.parametrize("written", [0, 1])
def test_power_failure_within_a_change_leaves_a_key_page_that_is_whole(
    repo: Repository, tree: Path, written: int
) -> None:
    repo.snapshot(tree)
    before = Path(repo.path).read_bytes()
    repo.add_key("other")
    repo.close()
    after = Path(repo.path).read_bytes()
    places = [(number - 1) * PAGE for number in KEY_PAGES]
    torn = bytearray(before)
    for index, place in enumerate(places[: written + 1]):
        new = after[place : place + PAGE]
        torn[place : place + PAGE] = new if index < written else new[:512] + before[place + 512 : place + PAGE]
    Path(repo.path).write_bytes(torn)
    with Repository(repo.path, password=PASSWORD) as survivor:
        assert len(survivor.keys()) == 1 + written
        assert {problem.kind for problem in survivor.check().problems} == {"key-page-damaged"}
        survivor.add_key("third")
        assert survivor.check().problems == ()


def test_removed_password_that_is_put_back_is_found_and_removed_for_good(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    repo.add_key("other")
    repo.close()
    old = Path(repo.path).read_bytes()
    with Repository(repo.path, password="other") as owner:
        owner.remove_key(owner.keys()[0].id)
        for numbers in (KEY_PAGES[:1], KEY_PAGES[1:], KEY_PAGES):
            for number in numbers:
                write_page(repo.path, number, old[(number - 1) * PAGE : number * PAGE])
            assert [problem.kind for problem in owner.check().problems] == ["key-page-replaced"]
            if len(numbers) == 1:
                with Repository(repo.path, password=PASSWORD) as other, pytest.raises(WrongPasswordError):
                    other.list()
                owner.remove_key(owner.add_key("third")[1].id)
                assert owner.check().problems == ()


def test_forged_key_page_opens_nothing(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    repo.close()
    forged = Keyring("forger").first_page(FileKey(), repo.path)
    data = bytearray(Path(repo.path).read_bytes())
    for number in KEY_PAGES:
        data[(number - 1) * PAGE : number * PAGE] = forged
    Path(repo.path).write_bytes(data)
    for password, error in (("forger", BackuptoolError), (PASSWORD, WrongPasswordError)):
        with Repository(repo.path, password=password) as other, pytest.raises(error):
            other.list()


def test_without_key_pages_there_is_one_line(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    repo.close()
    data = bytearray(Path(repo.path).read_bytes())
    for number in KEY_PAGES:
        data[number * PAGE - 1] ^= 1
    Path(repo.path).write_bytes(data)
    with Repository(repo.path, password=PASSWORD) as other, pytest.raises(CorruptionError, match="key pages"):
        other.list()


# What is found


def flipped(victim: Victim, offset: int, bit: int) -> bytes:
    return victim.overwritten(offset, bytes([victim.data[offset] ^ 1 << bit]))


def test_flipped_bit_in_any_page_is_found(victim: Victim) -> None:
    chance = random.Random(1)
    offsets = [*range(24), *(at + chance.randrange(PAGE) for at in range(0, len(victim.data), PAGE))]
    offsets += [at + PAGE - 1 - chance.randrange(64) for at in range(0, len(victim.data), PAGE)]  # nonce and tag
    assert [at for at in offsets if not victim.check(flipped(victim, at, chance.randrange(8)))] == []


def pages_of(data: bytes) -> List[bytes]:
    return [data[at : at + PAGE] for at in range(0, len(data), PAGE)]


def swapped(victim: Victim, one: int, other: int) -> bytes:
    pages = pages_of(victim.data)
    pages[one], pages[other] = pages[other], pages[one]
    return b"".join(pages)


def test_swapped_pages_are_found(victim: Victim) -> None:
    pairs = list(itertools.combinations(range(len(pages_of(victim.data))), 2))
    pairs.remove((KEY_PAGES[0] - 1, KEY_PAGES[1] - 1))  # these two are equal
    assert [pair for pair in random.Random(3).sample(pairs, 40) if not victim.check(swapped(victim, *pair))] == []


def test_any_page_put_back_as_it_was_is_found(victim: Victim, history: Tuple[List[bytes], Dict[bytes, Entry]]) -> None:
    states = [pages_of(state) for state in history[0]]
    tried, unfound = 0, []
    for old in states[:-1]:
        for number, (page, now) in enumerate(zip(old, states[-1])):
            if page != now:
                tried += 1
                if not victim.check(victim.overwritten(number * PAGE, page)):
                    unfound.append((states.index(old), number + 1))
    assert tried > 50
    assert unfound == []


def test_truncation_at_any_page_is_found(victim: Victim) -> None:
    sizes = [*range(0, len(victim.data), PAGE), *(n * PAGE + 7777 for n in range(0, len(victim.data) // PAGE, 5))]
    assert [size for size in sizes if not victim.check(victim.data[:size])] == []


def test_bytes_behind_the_end_are_found(victim: Victim) -> None:
    """Whole pages, in contrast, are what a power failure may leave there."""
    assert victim.check(victim.data + b"x") == ("database-corrupt",)
    assert victim.check(victim.data + bytes(PAGE + 1)) == ("database-corrupt",)


def test_nothing_is_written_where_a_page_was_put_back(
    victim: Victim, tree: Path, history: Tuple[List[bytes], Dict[bytes, Entry]]
) -> None:
    """What would be sealed anew would not be found any more."""
    refused = 0
    states = [pages_of(state) for state in history[0]]
    for number, (page, now) in enumerate(zip(states[2], states[-1])):
        if page != now and victim.check(victim.overwritten(number * PAGE, page)) == ("page-replaced",):
            with pytest.raises(CorruptionError, match="older than others"):
                victim.repository.snapshot(tree)
            victim.repository.close()
            refused += 1
    assert refused


def test_older_copy_of_the_whole_file_is_found_by_who_knows_better(
    victim: Victim, history: Tuple[List[bytes], Dict[bytes, Entry]]
) -> None:
    assert victim.check(history[0][1]) == ()
    for least, kinds in ((2, ()), (3, ("rolled-back",)), (5, ("rolled-back",))):
        found: CheckResult = victim.repository.check(expect_at_least=least)
        assert tuple(problem.kind for problem in found.problems) == kinds


def test_a_page_that_is_damaged_hurts_what_is_in_it_alone(
    victim: Victim, history: Tuple[List[bytes], Dict[bytes, Entry]], tmp_path: Path
) -> None:
    """Most of a repository comes back whichever page of a pack is lost."""
    survived = 0
    for at in range(0, len(victim.data), PAGE):
        victim.path.write_bytes(victim.overwritten(at + 100, b"\0\0\0\0"))
        try:
            result = victim.repository.restore("latest", tmp_path / f"out{at}")
            survived += bool(result.problems)
        except BackuptoolError:
            pass
        victim.repository.close()
    assert survived >= 5


def test_rows_that_are_written_outside_of_a_transaction_are_sealed(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    with repo._pool.writing() as database:
        database.execute("UPDATE settings SET value = value WHERE name = 'id'")
        database.executemany("UPDATE settings SET value = value WHERE name = ?", [("id",)])
        with database.transaction(rollback=True):
            database.execute("DELETE FROM pruned")
    assert repo.check().problems == ()


def test_integrity_check_names_the_key_pages_alone(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    with repo._pool.reading() as database:
        [(text,)] = database.query("PRAGMA integrity_check")
    assert text.split(b"\n") == [b"*** in database main ***", b"Page 3: never used", b"Page 4: never used"]


# Secrets


SECRETS = (PASSWORD.encode(), b"second secret 0815")


def test_no_text_about_a_repository_has_a_secret(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    key = Keyring(PASSWORD)
    file_key = key.unlock(repo.path)
    texts = [repr(repo), repr(key), repr(file_key), str(vars(repo)), repr(repo._pool.keyring)]
    for use in (lambda: Repository(repo.path, password=SECRETS[1]).list(), lambda: repo.add_key(PASSWORD)):
        try:
            use()
        except BackuptoolError as exc:
            texts += [traceback.format_exc(), repr(exc), str(exc.args), repr(vars(exc)), repr(pickle.dumps(exc))]
    for secret in (*SECRETS, file_key.reveal(), file_key.pages()):
        for form in (repr(secret)[2:-1], secret.hex(), secret.decode("latin-1")):
            assert not any(form in text for text in texts)
    for thing in (key, file_key):
        with pytest.raises(TypeError):
            pickle.dumps(thing)


def test_helpers_get_the_key_through_their_pipe_alone(repo: Repository, tree: Path) -> None:
    repo.snapshot(tree)
    with repo._pool.reading() as database, Examination(database, [1] * 200, 2) as examination:
        texts = [Path(f"/proc/{one}/{what}").read_bytes() for one in children() for what in ("cmdline", "environ")]
        reports = list(examination.reports())
    assert len(texts) == 4
    assert {(report.pack, report.damage) for report in reports} == {(1, None)}
    secret = Keyring(PASSWORD).unlock(repo.path).reveal()
    for form in (PASSWORD.encode(), secret, secret.hex().encode()):
        assert not any(form in text for text in texts)


def run_command(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """The command, as a user's shell runs it."""
    environment = {**os.environ, "TMPDIR": str(cwd / "tmp"), **variables}
    (cwd / "tmp").mkdir(exist_ok=True)
    command = [sys.executable, "-m", "backuptool", *arguments]
    return subprocess.run(
        command, cwd=str(cwd), env=environment, stdout=-1, stderr=-1, stdin=subprocess.DEVNULL, check=False
    )


def test_commands_take_passwords_from_where_nobody_looks(tmp_path: Path, tree: Path) -> None:
    write(tmp_path / "first", PASSWORD.encode() + b"\n")
    write(tmp_path / "second", SECRETS[1] + b"\r\n")
    for name in ("first", "second"):
        (tmp_path / name).chmod(0o600)
    target = ("--target-directory", str(tree))
    ended = [
        run_command("snapshot", *target, "--encrypt", "--password-file", "first", "-v", cwd=tmp_path),
        run_command("list", "-v", cwd=tmp_path, BACKUPTOOL_PASSWORD=PASSWORD),
        run_command("key", "add", "--new-password-file", "second", "--password-command", "cat first", cwd=tmp_path),
        run_command("check", "--password-file", "second", "--expect-at-least", "1", cwd=tmp_path),
        run_command("key", "list", "--json", "--password-file", "second", cwd=tmp_path),
    ]
    assert [done.returncode for done in ended] == [0] * 5
    with ThreadPoolExecutor(3) as threads:

        def start(*arguments: str, **keywords: Any) -> Any:
            return threads.submit(run_command, *arguments, **keywords)

        asked = [
            (12, start("list", "-v", cwd=tmp_path)),
            (12, start("list", "-v", cwd=tmp_path, BACKUPTOOL_PASSWORD="wrong")),
            (12, start("list", cwd=tmp_path, BACKUPTOOL_PASSWORD="")),
            (12, start("list", "--password-command", "true", cwd=tmp_path)),
            (1, start("list", "--password-command", "cat first; exit 3", cwd=tmp_path)),
            (2, start("list", "--password-command", "true", "--password-file", "first", cwd=tmp_path)),
            (1, start("list", "--password-file", "missing", cwd=tmp_path)),
            (2, start("key", "remove", "--password-file", "first", cwd=tmp_path)),
            (10, start("list", "--db-path", "no.db", "--password-file", "first", cwd=tmp_path)),
            (10, start("snapshot", *target, "--db-path", "no.db", "--password-file", "first", cwd=tmp_path)),
            (12, start("snapshot", *target, "--db-path", "no.db", "--encrypt", cwd=tmp_path)),
            (12, start("key", "add", "--password-file", "first", cwd=tmp_path)),
        ]
    wrong = [(code, future.result()) for code, future in asked]
    assert [(code, done.returncode, done.stderr) for code, done in wrong if done.returncode != code] == []
    texts = [done.stdout + done.stderr for done in ended] + [done.stdout + done.stderr for _, done in wrong]
    assert not any(secret in text for text in texts for secret in SECRETS)
    assert all(done.stderr.count(b"\n") == 1 for _, done in wrong)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not (tmp_path / "no.db").exists()


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
def test_a_password_file_that_others_may_read_is_named(tmp_path: Path, mode: int, warned: bool) -> None:
    write(tmp_path / "backups.db", b"no repository")
    write(tmp_path / "pass\x1bword", b"open sesame").chmod(mode)
    arguments = ("copy", "--destination", "other.db", "--password-file", "pass\x1bword", "-q")
    said = run_command(*arguments, cwd=tmp_path).stderr.decode()
    line = r"backuptool: warning: pass\x1bword: others than its owner may read this password; chmod 600 keeps it secret"
    assert said.splitlines()[:-1] == [line] * warned
    said = run_command("list", "--password-file", "/dev/null", cwd=tmp_path).stderr.decode()
    assert "warning" not in said  # nobody's file


def test_a_password_comes_from_one_place(tmp_path: Path) -> None:
    """Also where there is no repository yet, or one that needs none."""
    said = run_command("list", "--password-file", "missing", "--password-command", "false", cwd=tmp_path)
    expected = b"backuptool: error: a password comes from a file or from a command; name one of them\n"
    assert (said.returncode, said.stderr) == (2, expected)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_command_with_a_password_leaves_no_core(tmp_path: Path, tree: Path) -> None:
    program = (
        "import ctypes, os, resource, sys\n"
        "from backuptool.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_CORE, resource.getrlimit(resource.RLIMIT_CORE)[1:] * 2)\n"
        "before = ctypes.CDLL(None).prctl(3)\n"
        "assert main(['-q', 'snapshot', '--encrypt', '--target-directory', sys.argv[1]]) == 0\n"
        "print(before, ctypes.CDLL(None).prctl(3), resource.getrlimit(resource.RLIMIT_CORE), flush=True)\n"
        "os.abort()\n"
    )
    environment = {**os.environ, "BACKUPTOOL_PASSWORD": PASSWORD, "BACKUPTOOL_DB": str(tmp_path / "r.db")}
    command = [sys.executable, "-c", program, str(tree)]
    ended = subprocess.run(command, cwd=str(tmp_path), env=environment, stdout=subprocess.PIPE, check=False)
    assert ended.stdout == b"1 0 (0, 0)\n"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["r.db", "tree"]


# Environments that are wrong


@pytest.fixture(scope="session")
def plain_apsw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the apsw that does not encrypt."""
    place = tmp_path_factory.mktemp("plain-apsw")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(place), "apsw>=3.51"]
    if subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("apsw cannot be installed here")
    return place


def snapshot_with(tmp_path: Path, tree: Path, search: List[Path], before: str = "") -> Tuple[str, List[str]]:
    """Take an encrypted snapshot in an environment; return the last line of what went wrong, and the files there."""
    (tmp_path / "made").mkdir()
    program = (
        f"import sys; sys.path[:0] = {[str(path) for path in search]!r}\n{before}\n"
        "import backuptool\n"
        f"backuptool.Repository({str(tmp_path / 'made' / 'r.db')!r}, password='p').snapshot({str(tree)!r})"
    )
    ended = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, check=False)
    return ended.stderr.decode().strip().split("\n")[-1], [entry.name for entry in (tmp_path / "made").iterdir()]


def test_plain_apsw_in_its_place_is_refused(tmp_path: Path, tree: Path, plain_apsw: Path) -> None:
    text, files = snapshot_with(tmp_path, tree, [plain_apsw])
    assert "the module apsw is the plain one, which encrypts nothing" in text
    assert files == []


#: A module that says that it is the encrypting one, around the plain one.
PRETENDER = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("apsw", {path!r}, submodule_search_locations=[{place!r}])
plain = importlib.util.module_from_spec(spec)
sys.modules["apsw"] = plain
spec.loader.exec_module(plain)
plain.mc_version = "SQLite3 Multiple Ciphers 9.9"
"""

#: And one whose pragmas answer as the encrypting ones do, while everything is written as it is.
LIAR = """
class Connection(plain.Connection):
    def execute(self, sql, *arguments, **keywords):
        answers = {"PRAGMA cipher": "aegis", "PRAGMA algorithm": "aegis-256"}
        if sql in answers:
            sql = f"SELECT CAST('{answers[sql]}' AS BLOB)"
        if sql.startswith("PRAGMA key="):
            sql = "SELECT 'ok'"
        return super().execute(sql, *arguments, **keywords)
plain.Connection = Connection
"""


def pretender(plain_apsw: Path) -> str:
    [path] = (plain_apsw / "apsw").glob("__init__*.so")
    return PRETENDER.format(path=str(path), place=str(plain_apsw / "apsw"))


def test_library_without_the_cipher_is_refused(tmp_path: Path, tree: Path, plain_apsw: Path) -> None:
    text, files = snapshot_with(tmp_path, tree, [], pretender(plain_apsw))
    assert "does not encrypt: it has no aegis" in text
    assert files == []


def test_library_that_writes_in_clear_is_found_and_the_file_removed(
    tmp_path: Path, tree: Path, plain_apsw: Path
) -> None:
    text, files = snapshot_with(tmp_path, tree, [], pretender(plain_apsw) + LIAR)
    assert "without encrypting it, so it was removed" in text
    assert files == []


def test_library_that_is_too_old_is_refused(tmp_path: Path, tree: Path) -> None:
    before = "import apsw; apsw.sqlite_lib_version = lambda: '3.50.4'"
    text, files = snapshot_with(tmp_path, tree, [], before)
    assert "is too old" in text
    assert files == []


def test_copies_between_plain_and_encrypted_repositories(repo: Repository, tree: Path, tmp_path: Path) -> None:
    repo.snapshot(tree)
    with Repository(tmp_path / "plain.db") as plain, Repository(tmp_path / "other.db", password="other") as other:
        repo.copy(tmp_path / "same.db")
        repo.copy(plain)
        plain.copy(other)
        for copied in (plain, other, Repository(tmp_path / "same.db", password=PASSWORD)):
            with copied:
                assert restored(copied, 1, tmp_path / f"out {Path(copied.path).name}") == entries(tree)
                assert copied.check().problems == ()
        with pytest.raises(RepositoryError, match="is not encrypted, but"):
            repo.copy(tmp_path / "plain.db")
        assert [Repository(tmp_path / name).encrypted for name in ("plain.db", "other.db", "same.db")] == [
            False,
            True,
            True,
        ]
