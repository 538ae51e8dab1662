"""What may import what, as docs/design.md has it: downward only, and no package of a verb another one's parts."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Dict, Iterator, Set, Tuple

import pytest

import backuptool

PACKAGE = Path(backuptool.__file__).parent

#: The packages of verbs.
VERBS = sorted(path.parent.name for path in (PACKAGE / "operations").glob("*/__init__.py"))

#: What is below each layer; modules that only annotate with something above are not counted.
BELOW: Dict[str, Set[str]] = {
    "commands": {"commands", ""},
    "operations": {"operations", "storage", "tree", "results", "errors", "progress", "retention", "anomalies"},
    "storage": {"storage", "results", "errors"},
    "tree": {"tree", "errors"},
    "results": {"results"},
    "retention": {"results"},
    "anomalies": {"results"},
    "errors": set(),
}


def modules(place: Path) -> Iterator[Path]:
    """Yield the modules of a package, or the one that has the name."""
    yield from sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]


def imported(module: Path) -> Iterator[str]:
    """Yield the dotted names that a module of the package imports, but for those that only type checkers see."""
    package = ["backuptool", *module.relative_to(PACKAGE).parent.parts]
    pending = list(ast.parse(module.read_bytes()).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            yield ".".join([*base, *([node.module] if node.module else [])])
        pending += ast.iter_child_nodes(node)  # type: ignore[arg-type]


def places(module: Path) -> Iterator[Tuple[str, ...]]:
    """Yield what a module imports of the package, by the parts of the names: ("storage", "files")."""
    for name in imported(module):
        first, *parts = name.split(".")
        if first == "backuptool":
            yield tuple(parts)


@pytest.mark.parametrize("layer", sorted(BELOW))
def test_layers_import_downward_only(layer: str) -> None:
    found = {parts[0] if parts else "" for module in modules(PACKAGE / layer) for parts in places(module)}
    assert found <= BELOW[layer]


@pytest.mark.parametrize("verb", VERBS)
def test_package_of_a_verb_imports_nothing_from_another(verb: str) -> None:
    found = {
        parts[1]
        for module in modules(PACKAGE / "operations" / verb)
        for parts in places(module)
        if parts[0] == "operations"
    }
    assert found & {*VERBS} <= {verb}


def test_only_the_drill_uses_another_verb() -> None:
    found = {
        (module.stem, parts[1])
        for module in (PACKAGE / "operations").glob("*.py")
        for parts in places(module)
        if parts[0] == "operations" and parts[1] in VERBS
    }
    assert found == {("drill", "restore")}


def test_only_drivers_speak_to_sqlite() -> None:
    found = {
        module.relative_to(PACKAGE).parts[:-1]
        for module in modules(PACKAGE)
        for name in imported(module)
        if name.partition(".")[0] in ("sqlite3", "apsw")
    }
    assert found == {("storage", "drivers")}
