"""Levels from the command line: what files and pictures say, what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from edgewise.experiment.spec import DiscoverySpec
from edgewise.graphs.files import read_circuit
from edgewise.graphs.levels.nodes import fan_out
from tests.edgewise.conftest import Run


@pytest.fixture
def line(models: dict[str, Path], pairs: Path) -> tuple[object, ...]:
    return ("discover", "--model", models["llama"], "--task", pairs)


def test_a_circuit_of_nodes_is_marked_and_every_command_says_so(
    edgewise: Run, line: tuple[object, ...]
) -> None:
    result = edgewise(
        *line, "--method", "eap", "--level", "node", "--top", 4, "--scores", "-o", "a.json"
    )
    words = "level node: 4 nodes that write, with every edge among them"
    assert words in " ".join(result.output.split())
    assert "the 4 nodes of largest absolute score" in " ".join(result.output.split())
    found = read_circuit("a.json")
    assert found.discovery["level"] == "node"
    kept = found.circuit.kept
    assert kept.any(0).sum() == 4
    assert (kept == fan_out(found.circuit.graph, kept.any(0))).all()
    result = edgewise("evaluate", "a.json", "--curve")
    assert words in " ".join(result.output.split())
    assert "nodes f, by signed score" in " ".join(result.output.split())
    edgewise(*line, "--method", "eap", "--top", 9, "-o", "b.json")
    result = edgewise("diff", "a.json", "b.json", "-o", "d.json")
    assert words in " ".join(result.output.split())
    assert "discovery.level node and edge" in " ".join(result.output.split())
    edgewise("draw", "a.json", "-o", "a.svg")
    text = re.sub(r"<[^>]*>", " ", Path("a.svg").read_text())
    assert words in " ".join(text.split())


def test_a_size_of_nodes_is_fitted_and_exact_effects_are_measured(
    edgewise: Run, line: tuple[object, ...]
) -> None:
    edgewise(*line, "--level", "node", "-o", "usual.json")
    found = json.loads(Path("usual.json").read_text())["discovery"]
    assert (found["level"], found["target"]) == ("node", 0.9)
    edgewise(*line, "--method", "exact", "--level", "node", "--top", 3, "-o", "exact.json")
    found = json.loads(Path("exact.json").read_text())["discovery"]
    senders = len(read_circuit("exact.json").circuit.graph.senders)
    assert found["questions"] == senders


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (("--method", "eap", "--level", "nodes", "--top", 3), 2, "unknown level 'nodes'"),
        (("--method", "acdc", "--level", "node"), 2, "does not work at level node"),
        (("--method", "eap", "--level", "node", "--top", 999), 1, "nodes that write; accepted"),
    ],
)
def test_wrong_input(
    options: tuple[object, ...], status: int, words: str, edgewise: Run, line: tuple[object, ...]
) -> None:
    result = edgewise(*line, *options, "-o", "a.json", status=status)
    assert words in " ".join(result.output.split())


def test_a_circuit_of_neurons_from_end_to_end(
    edgewise: Run, models: dict[str, Path], pairs: Path
) -> None:
    line = ("discover", "--model", models["llama"], "--task", pairs, "--method", "eap")
    result = edgewise(*line, "--level", "neuron", "--mlps", "0,1", "--top", 9, "-o", "a.json")
    assert "level neuron: 9 nodes that write, " in " ".join(result.output.split())
    found, document = read_circuit("a.json"), json.loads(Path("a.json").read_text())
    assert document["discovery"]["mlps"] == [0, 1]
    assert all(document["graph"]["neurons"])
    assert DiscoverySpec.of_circuit(found).mlps == (0, 1)
    result = edgewise("evaluate", "a.json", "--json")
    value = json.loads(result.output)["faithfulness"]
    assert value == pytest.approx(found.measures["faithfulness"], abs=1e-5)
    edgewise("draw", "a.json", "-o", "a.svg")
    edgewise("draw", "a.json", "--as", "heat-map", "-o", "map.svg")
    edgewise("diff", "a.json", "a.json", "--cross", "-o", "d.json")
