from __future__ import annotations

import copy
import inspect
import pickle
import re
from concurrent.futures import ProcessPoolExecutor
from typing import Dict, List, Tuple, Type

import pytest

from backuptool import errors
from backuptool.errors import (
    BackuptoolError,
    ContentCorruptError,
    ContentMissingError,
    CorruptionError,
    GuardError,
    NotARepositoryError,
    PathNotFoundError,
    PatternError,
    PlanOutdatedError,
    RepositoryError,
    RepositoryLockedError,
    RepositoryNotFoundError,
    RepositoryNotWritableError,
    RestoreError,
    SnapshotNotFoundError,
    SnapshotPinnedError,
    SourceError,
    UnsafePathError,
    UnsupportedFormatError,
    WrongKindError,
    WrongPasswordError,
)

EACH: Tuple[Tuple[BackuptoolError, Dict[str, object]], ...] = (
    (BackuptoolError("message"), {}),
    (RepositoryError("message", "/r"), {"path": "/r"}),
    (RepositoryNotFoundError("message", "/r"), {"path": "/r"}),
    (NotARepositoryError("message", "/r"), {"path": "/r"}),
    (UnsupportedFormatError("message", "/r", 9, 1), {"path": "/r", "found": 9, "supported": 1}),
    (RepositoryLockedError("message", "/r"), {"path": "/r"}),
    (WrongPasswordError("message", "/r"), {"path": "/r"}),
    (RepositoryNotWritableError("message", "/r"), {"path": "/r"}),
    (CorruptionError("message", "/r"), {"path": "/r"}),
    (CorruptionError("message"), {"path": ""}),
    (ContentMissingError("message", "/r", "ab"), {"path": "/r", "content": "ab"}),
    (ContentCorruptError("message", "/r", "ab"), {"path": "/r", "content": "ab"}),
    (SnapshotNotFoundError("message", "5", [1, 2]), {"reference": "5", "available": (1, 2)}),
    (SnapshotPinnedError("message", [1, 2]), {"snapshots": (1, 2)}),
    (PlanOutdatedError("message", "/r"), {"path": "/r"}),
    (SourceError("message", "/s"), {"path": "/s"}),
    (RestoreError("message", "/o"), {"path": "/o"}),
    (UnsafePathError("message", "../x"), {"path": "../x"}),
    (GuardError("message", "/o", 3, []), {"path": "/o", "snapshot": 3, "problems": ()}),
    (PathNotFoundError("message", "a", 3), {"path": "a", "snapshot": 3}),
    (WrongKindError("message", "a", "directory"), {"path": "a", "kind": "directory"}),
    (PatternError("message", "["), {"pattern": "["}),
)

each_error = pytest.mark.parametrize(
    ("error", "attributes"), EACH, ids=[f"{type(error).__name__}-{number}" for number, (error, _) in enumerate(EACH)]
)


def tree() -> List[Tuple[int, Type[BackuptoolError], List[str]]]:
    """Return depth, class and new attributes of each line of the tree in the module's docstring."""
    found = []
    inherited: Dict[int, List[str]] = {}
    for line in (errors.__doc__ or "").splitlines():
        match = re.fullmatch(r"    ([│├└─ ]*)(\w+Error)((?: +\.\w+)*) *", line)
        if match:
            depth = len(match.group(1)) // 3
            attributes = re.findall(r"\.(\w+)", match.group(3))
            inherited[depth] = inherited.get(depth - 1, []) + attributes
            found.append((depth, getattr(errors, match.group(2)), inherited[depth]))
    return found


def raise_it(error: BackuptoolError) -> None:
    """Raise in another process."""
    raise error


def test_the_tree_is_as_it_is_drawn() -> None:
    parents: Dict[int, Type[BaseException]] = {-1: Exception}
    drawn = tree()
    for depth, kind, _ in drawn:
        assert kind.__bases__[0] is parents[depth - 1]
        parents[depth] = kind
    assert {kind.__name__ for _, kind, _ in drawn} == set(errors.__all__)
    defined = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    assert defined == set(errors.__all__)


def test_every_error_has_the_attributes_that_are_drawn() -> None:
    drawn = {kind: attributes for _, kind, attributes in tree()}
    assert {type(error) for error, _ in EACH} == set(drawn)
    for error, attributes in EACH:
        assert set(vars(error)) == set(attributes) == set(drawn[type(error)])


def test_every_error_documents_its_own_attributes() -> None:
    for error, attributes in EACH:
        own = [kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__]
        text = "\n".join(inspect.getdoc(kind) or "" for kind in own)
        for name in attributes:
            assert f"\n    {name}: " in text


@each_error
def test_an_error_says_its_message_and_keeps_its_attributes(
    error: BackuptoolError, attributes: Dict[str, object]
) -> None:
    assert str(error) == "message"
    assert error.args == ("message",)
    assert {name: getattr(error, name) for name in attributes} == attributes


@each_error
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_survives_pickling(error: BackuptoolError, attributes: Dict[str, object], protocol: int) -> None:
    same = pickle.loads(pickle.dumps(error, protocol))
    assert type(same) is type(error)
    assert (str(same), same.args) == ("message", ("message",))
    assert vars(same) == attributes


@each_error
def test_an_error_survives_copying(error: BackuptoolError, attributes: Dict[str, object]) -> None:
    for same in (copy.copy(error), copy.deepcopy(error)):
        assert type(same) is type(error)
        assert str(same) == "message"
        assert vars(same) == attributes


def test_errors_cross_processes() -> None:
    with ProcessPoolExecutor(1) as pool:
        for error, attributes in EACH[4:6]:
            with pytest.raises(type(error), match="message") as caught:
                pool.submit(raise_it, error).result()
            assert {name: getattr(caught.value, name) for name in attributes} == attributes


def test_a_pattern_that_is_none_is_a_wrong_value_as_well() -> None:
    assert issubclass(PatternError, ValueError)


def test_the_numbers_that_exist_cannot_be_changed() -> None:
    numbers = [1, 2]
    error = SnapshotNotFoundError("message", 3, numbers)
    numbers.append(3)
    assert error.available == (1, 2)
