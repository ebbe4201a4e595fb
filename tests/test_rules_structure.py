"""The second rule of the house: arrows point down, there is no circle, and folders stay small.

Imports count wherever they stand: at the top, inside functions, and under TYPE_CHECKING.
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import networkx as nx
import pytest

import edgewise
from tests.test_imports import MODULES, ROOT, Module, _sources

MOST_FILES = 12
# Folders whose files are all of one kind, found by being there.
OF_ONE_KIND = ("graphs/lift/families", "edgewise/commands", "patching/tasks")
# Inside a package, from the bottom up; what stands in one line may not import what stands later.
ORDER = {
    "edgewise": (
        "progress", "experiment", "store", "session", "steps", "report", "run", "workflow",
        "commands", "cli", "__main__",
    ),
    "edgewise.graphs": ("files", "lift", "load"),
    "edgewise.patching": (
        "prompts", "tasks", "metrics", "trace", "ablations", "run", "paths",
        "incremental", "gradients", "heads", "transplant",
    ),
    "edgewise.visualize": ("style", "scene", "svg", "layout", "compose", "draw", "charts"),
}  # fmt: skip
PACKAGES = {name for name, path in _sources() if path.name == "__init__.py"}


def arrows(modules: Mapping[str, Module]) -> nx.DiGraph:
    """Draw an arrow for every import between modules, whenever it happens."""
    graph = nx.DiGraph()
    graph.add_nodes_from(modules)
    for name, module in modules.items():
        for item in module.imports:
            target = item.target if item.target in modules else item.target.rpartition(".")[0]
            if target in modules and target != name:
                graph.add_edge(name, target)
    return graph


def circles(graph: nx.DiGraph) -> list[list[str]]:
    """List the groups of modules that import each other in a ring."""
    return sorted(
        sorted(group) for group in nx.strongly_connected_components(graph) if len(group) > 1
    )


def between_folders(graph: nx.DiGraph) -> nx.DiGraph:
    """Draw arrows between folders side by side; one folder inside the other makes no arrow."""
    found = nx.DiGraph()
    for start, end in graph.edges:
        a, b = (name if name in PACKAGES else name.rpartition(".")[0] for name in (start, end))
        if not (a == b or f"{a}.".startswith(f"{b}.") or f"{b}.".startswith(f"{a}.")):
            found.add_edge(a, b)
    return found


def against_the_order(graph: nx.DiGraph) -> list[str]:
    """List the arrows that point up inside a package."""
    found = []
    for package, order in ORDER.items():
        for start, end in graph.edges:
            parts = [name.removeprefix(f"{package}.").split(".")[0] for name in (start, end)]
            inside = all(name.startswith(f"{package}.") for name in (start, end))
            if inside and all(part in order for part in parts):
                a, b = map(order.index, parts)
                if a < b:
                    found.append(f"{start} imports {end}")
    return sorted(found)


def _found_by_name(module: Module) -> bool:
    """Commands and families are functions of one name each, found by where they stand."""
    return ".commands." in module.name or ".families." in module.name


def twice(modules: Iterable[Module]) -> dict[str, list[str]]:
    """List what several modules define: public classes, and what `edgewise` itself exports."""
    places = defaultdict(list)
    for module in modules:
        for node in module.tree.body:
            exported = isinstance(node, ast.FunctionDef) and node.name in edgewise.__all__
            if isinstance(node, ast.ClassDef) or (exported and not _found_by_name(module)):
                places[node.name].append(module.name)
    return {
        name: found
        for name, found in sorted(places.items())
        if len(set(found)) > 1 and not name.startswith("_")
    }


GRAPH = arrows(MODULES)


def test_there_is_no_circle() -> None:
    assert circles(GRAPH) == []


def test_there_is_no_circle_of_folders() -> None:
    assert circles(between_folders(GRAPH)) == []


def test_arrows_point_down() -> None:
    assert against_the_order(GRAPH) == []


def test_folders_stay_small() -> None:
    counts = Counter(
        path.parent.relative_to(ROOT).as_posix()
        for _, path in _sources()
        if path.name != "__init__.py"
    )
    large = {k: n for k, n in counts.items() if n > MOST_FILES and k not in OF_ONE_KIND}
    assert large == {}


def test_a_public_name_stands_once() -> None:
    assert twice(MODULES.values()) == {}


@pytest.mark.parametrize(
    "line",
    [
        "from .b import x",
        "def f():\n    from .b import x",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import b",
    ],
)
def test_a_circle_is_seen_at_whatever_time(line: str) -> None:
    modules = {
        "edgewise.a": Module.read("edgewise.a", line),
        "edgewise.b": Module.read("edgewise.b", "def g():\n    from .a import y"),
    }
    assert circles(arrows(modules)) == [["edgewise.a", "edgewise.b"]]


def test_an_arrow_up_is_seen() -> None:
    modules = {
        "edgewise.experiment.a": Module.read("edgewise.experiment.a", "from ..steps.b import x"),
        "edgewise.steps.b": Module.read("edgewise.steps.b", ""),
    }
    assert against_the_order(arrows(modules)) == ["edgewise.experiment.a imports edgewise.steps.b"]


def test_a_name_that_stands_twice_is_seen() -> None:
    sources = {"edgewise.a": "class Thing: ...", "edgewise.b": "class Thing: ..."}
    modules = [Module.read(name, source) for name, source in sources.items()]
    assert twice(modules) == {"Thing": ["edgewise.a", "edgewise.b"]}


def test_the_folders_are_where_the_rules_look() -> None:
    for package, order in ORDER.items():
        folder = ROOT / Path(*package.split("."))
        folder = folder if folder.is_dir() else ROOT / package.removeprefix("edgewise.")
        assert any((folder / f"{part}.py").exists() or (folder / part).is_dir() for part in order)
