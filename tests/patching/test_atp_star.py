"""AtP*: what a node's score is made of, and the blind spots it is for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgewise.discovery.registry import get_method
from edgewise.experiment.spec import DiscoverySpec
from edgewise.graphs.errors import EdgewiseError
from edgewise.graphs.levels.nodes import NODE, of_nodes
from edgewise.patching.gradients.layerwise.dropped import node_attribution
from edgewise.patching.run.runner import Runner
from tests.edgewise.conftest import Run, edgewise, models, pairs
from tests.engine import tiny_lift, tiny_pairs
from tests.patching.test_rules import linear

__all__ = ["edgewise", "models", "pairs"]


def made(family: str, metric: str = "logit_diff", **how: object) -> Runner:
    pairs = tiny_pairs(lengths=(6, 4, 5))
    return Runner.create(tiny_lift(family), pairs, metric=metric, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3", "mixtral", "mamba"])
def test_a_node_is_its_edges_those_into_queries_and_keys_recomputed(family: str) -> None:
    runner = made(family, batch_size=2)
    found = get_method("atp-star")(runner, single=True, per_example=True)
    gradient = get_method("eap")(runner).scores.values
    local = get_method("eap")(runner, local=True).scores.values
    patterns = np.array([port.letter in ("q", "k") for port in runner.graph.ports])[:, None]
    expected = np.nansum(np.where(patterns, local, gradient), 0)
    assert found.scores.level == NODE
    nodes = of_nodes(runner.graph, found.scores.values)
    np.testing.assert_allclose(nodes, expected, rtol=1e-4, atol=1e-6)
    assert found.examples is not None
    mean = found.examples.mean().values
    np.testing.assert_allclose(mean, found.scores.values, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "gemma3"])
def test_a_dropped_layer_is_one_whose_edges_in_count_for_nothing(family: str) -> None:
    """The last layer is behind all others, so that cutting it off takes only its own ports away."""
    runner = made(family)
    graph, layers = runner.graph, runner.graph.layers
    found = node_attribution(runner)
    assert (found >= 0).all()
    whole = np.abs(node_attribution(runner, drop=False))
    # a sender of the last layer is cut off from no later one: L equal effects, by L − 1
    last = graph.sender_index[graph.senders[-1]]
    np.testing.assert_allclose(found[:, last], whole[:, last] * layers / (layers - 1), rtol=1e-5)


def test_where_all_is_linear_one_gradient_is_the_exact_effect_of_nodes() -> None:
    runner = Runner.create(linear(), tiny_pairs(lengths=(1, 1, 1)), metric="logit_diff")
    exact = get_method("exact").at(NODE)(runner).scores.values
    found = get_method("atp-star")(runner, single=True).scores.values
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-5)


def test_it_scores_nodes_whatever_is_said() -> None:
    spec = DiscoverySpec.of(method="atp-star")
    assert (spec.level, spec.block["level"]) == (NODE, NODE)
    with pytest.raises(EdgewiseError, match=r"gradient of .kl. is 0"):
        DiscoverySpec.of(method="atp-star", metric="kl")


def test_files_are_marked(edgewise: Run, models: dict[str, Path], pairs: Path) -> None:
    line = ("discover", "--model", models["gpt2"], "--task", pairs, "--method", "atp-star")
    edgewise(*line, "--top", 4, "-o", "found.json")
    found = json.loads(Path("found.json").read_text())
    assert found["discovery"]["level"] == NODE
    edgewise("evaluate", "found.json")
