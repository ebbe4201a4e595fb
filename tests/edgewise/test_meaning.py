"""Results that cannot tell edges apart say so, in Python, at the command line and in files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgewise import plain_block, plain_model
from edgewise.discovery.meaning import Meaningless, ties
from edgewise.discovery.registry import get_method, methods
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import EdgewiseError
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.scores import Scores
from edgewise.patching.metrics.registry import metrics
from edgewise.patching.prompts.pairs import Pair, PromptPairs
from edgewise.patching.run.runner import Runner
from tests.edgewise.conftest import tiny
from tests.engine import tiny_lift, tiny_pairs
from tests.methods import quick


def one_logit(metric: str) -> Runner:
    """Run a program with a single logit: every softmax metric of it is constant."""
    zero = torch.zeros(1, 2, 4)
    block = plain_block(wq=zero, wk=zero, wv=zero, wo=zero)
    model = plain_model(tokens=torch.eye(4), blocks=[block], unembed=torch.ones(1, 4))
    pairs = PromptPairs((Pair((0, 1), (0, 2), (0,), (0,)),))
    return Runner.create(model, pairs, metric=metric)


WITHOUT_METRIC = ("information-flow-routes",)
"""Methods whose scores do not rest on the metric."""


@pytest.mark.parametrize("metric", list(metrics()))
@pytest.mark.parametrize("method", [name for name in methods() if name not in WITHOUT_METRIC])
def test_a_constant_metric_is_said_by_every_method(method: str, metric: str) -> None:
    runner = one_logit(metric)
    try:
        get_method(method).check_metric(runner.metric)
    except EdgewiseError:
        return
    searched = get_method(method).selects
    words = "for the full and for the empty circuit" if searched else "every edge has the score 0"
    with pytest.warns(Meaningless, match=f"method '{method}': .*{words}.*accepted: a metric, "):
        assert get_method(method)(runner, **quick(method)).doubt


@pytest.mark.parametrize("method", WITHOUT_METRIC)
def test_scores_without_a_metric_are_the_same_for_every_metric(method: str) -> None:
    found = [
        get_method(method)(Runner.create(tiny_lift("gpt2"), tiny_pairs(), metric=metric)).scores
        for metric in ("logit_diff", "kl")
    ]
    assert np.array_equal(found[0].values, found[1].values, equal_nan=True)


@pytest.mark.parametrize("method", list(methods()))
def test_a_metric_that_varies_is_not_doubted(method: str) -> None:
    runner = Runner.create(tiny_lift("gpt2"), tiny_pairs(), metric="logit_diff")
    assert get_method(method)(runner, **quick(method)).doubt is None


GRAPH = ComputationGraph(layers=1, heads=1)  # 8 edges


def scores(*values: float) -> Scores:
    matrix = np.full(GRAPH.reads.shape, np.nan)
    matrix[GRAPH.reads] = values
    return Scores(GRAPH, matrix)


def test_ties_at_the_cut_by_hand() -> None:
    found = scores(3, -2, 2, 1, 2 * (1 + 7 * 2**-23), 0, 0, 0)
    kept = {n: [str(edge) for edge in found.top(n).edges] for n in (2, 3)}
    assert kept[2] == ["embed->a0.h0<q>", "embed->a0.h0<k>"]
    assert kept[3] == [*kept[2], "embed->a0.h0<v>"]  # 2 and 2 + rounding tie: the earlier edge
    tied = ties(found, found.top(3), absolute=True)
    assert tied is not None and tied.as_dict() == {
        "score": pytest.approx(2), "edges": 3, "kept": 2, "rule": "earlier in the graph",
    }  # fmt: skip
    assert ties(found, found.top(4), absolute=True) is None
    assert ties(found, found.top(1), absolute=True) is None
    signed = ties(found, found.top(2, absolute=False), absolute=False)
    assert signed is not None and (signed.edges, signed.kept) == (2, 1)
    assert ties(found, Circuit.empty(GRAPH), absolute=True) is None
    apart = scores(3, -2, 2 * (1 + 9 * 2**-23), 1, 0, 0, 0, 0)  # 8 units of float32 are a tie
    assert [str(edge) for edge in apart.top(2).edges] == ["embed->a0.h0<q>", "embed->a0.h0<v>"]
    zeros = found.cut(7)
    assert (zeros.score, zeros.tied, zeros.taken) == (0, 3, 2)
    assert found.cut(99).circuit == found.top(8) and found.cut(0).tied == 0


def test_thresholds_and_cuts_do_not_turn_on_rounding() -> None:
    exact = scores(1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125, 0)
    noise = 1 + np.array([1, -1, 1, 1, -1, 1, 1, 1]) * 2.0**-23
    moved = Scores(GRAPH, exact.values.copy())
    values = exact.values.copy()
    values[GRAPH.reads] *= noise
    moved = Scores(GRAPH, values)
    for n in range(9):
        assert moved.top(n) == exact.top(n)
    for threshold in (0.5, 0.25, 0.125, 1.0):
        assert moved.above(threshold) == exact.above(threshold)


# -- at the command line --------------------------------------------------------------------------


@pytest.fixture
def dead(tmp_path: Path) -> Path:
    """Save a model all of whose weights are 0."""
    model = tiny("llama")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    model.save_pretrained(tmp_path / "dead")
    return tmp_path / "dead"


def test_a_model_of_zeros_gets_no_circuit(edgewise: Any, dead: Path, pairs: Path) -> None:
    line = ["discover", "--model", dead, "--task", pairs, "-o", "c.json"]
    for method in ("eap", "eap-ig", "exact"):
        result = edgewise(*line, "--method", method, "--top", 10, status=1)
        assert "every edge has the score 0" in result.stderr and "accepted:" in result.stderr
    result = edgewise(*line, "--method", "acdc", status=1)
    assert "'kl' is 0 for the full and for the empty circuit" in result.stderr
    result = edgewise(*line, "--method", "refine", "--edges", 5, status=1)
    assert "'kl' is 0 for the full and for the empty circuit" in result.stderr
    assert not Path("c.json").exists()
    result = edgewise(*line, "--method", "eap", "--scores")  # scores alone are only warned of
    assert "Warning: every edge has the score 0" in result.stderr


def test_a_cut_inside_a_tie_is_said_and_noted(edgewise: Any, pairs: Path, tmp_path: Path) -> None:
    model = tiny("llama")
    with torch.no_grad():  # the two heads of a pair that shares keys and values are twins
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight[4:8] = layer.self_attn.q_proj.weight[:4]
            layer.self_attn.o_proj.weight[:, 4:8] = layer.self_attn.o_proj.weight[:, :4]
    model.save_pretrained(tmp_path / "twins")
    line = ["discover", "--model", tmp_path / "twins", "--task", pairs, "--method", "eap-ig"]
    said = 0
    for top in range(1, 20):
        result = edgewise(*line, "--top", top, "-o", "c.json", "--json")
        block = json.loads(Path("c.json").read_text())["discovery"]
        assert ("ties" in block) == ("edges tie at the score" in result.stderr)
        if "ties" in block:
            said += 1
            assert block["ties"]["kept"] < block["ties"]["edges"]
    assert said > 3


def test_edges_of_score_0_are_counted(edgewise: Any, pairs: Path, tmp_path: Path) -> None:
    model = tiny("llama")
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight.zero_()
    model.save_pretrained(tmp_path / "half")
    line = ["discover", "--model", tmp_path / "half", "--task", pairs, "--method", "eap"]
    for select in (("--top", 100), ("--above", 0)):
        result = edgewise(*line, *select, "-o", "c.json")
        assert "have the score 0: only" in result.stderr


def test_a_negative_threshold_is_refused(edgewise: Any, models: Any, pairs: Path) -> None:
    result = edgewise(
        "discover", "--model", models["gpt2"], "--task", pairs, "--method", "acdc",
        "--threshold", -0.1, "-o", "c.json", status=2,
    )  # fmt: skip
    assert "option 'threshold' of method 'acdc' is -0.1; accepted: at least 0" in result.stderr
    runner = Runner.create(tiny_lift("gpt2"), tiny_pairs(), metric="kl")
    with pytest.raises(EdgewiseError, match=r"-0\.1; accepted: at least 0"):
        get_method("acdc")(runner, threshold=-0.1)
