"""Every method, type, ablation and metric runs, with a vocabulary so large that it is bounded.

New methods, ablations and metrics join by being registered. Sizes of the head are made small, so
that the thousands of tokens of a tiny model are many; one test takes them as they are.
"""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from edgewise.discovery.meaning import Meaningless
from edgewise.discovery.registry import Discovery, get_method, methods
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import EdgewiseError
from edgewise.graphs.lift.lifted import LiftedModel
from edgewise.graphs.lift.lifting import describe
from edgewise.patching.ablations.registry import ablations
from edgewise.patching.incremental import readout, search
from edgewise.patching.metrics.registry import METRICS, get_metric
from edgewise.patching.run.runner import Runner
from edgewise.steps.discover import DRIFT
from tests.engine import ABLATIONS, tiny_pairs
from tests.methods import quick

TYPES = {"float64": 1e-9, "float32": 3e-4, "float16": 0.05, "bfloat16": 0.3}
"""How far results may be from those in float64, in parts of the largest (and of one)."""

OPTIONS: dict[str, dict[str, object]] = {"acdc": {"threshold": 0.01}, "refine": {"edges": 8}}
SMALL = (32, 256)


@cache
def model(dtype: str, vocabulary: int = 3000) -> LiftedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=24,
        initializer_range=0.4,
    )  # fmt: skip
    return describe(LlamaForCausalLM(config).eval().to(getattr(torch, dtype)))


@cache
def runner(dtype: str, ablation: str) -> Runner:
    pairs = tiny_pairs(vocabulary=3000, lengths=(5, 5))
    return Runner.create(model(dtype), pairs, metric="nll", ablation=ablation)


@cache
def run(method: str, dtype: str, ablation: str, metric: str) -> tuple[Runner, Discovery]:
    made = runner(dtype, ablation).with_metric(metric)
    with warnings.catch_warnings():
        if metric == "accuracy":  # of so few pairs it is often the same for every circuit
            warnings.simplefilter("ignore", Meaningless)
        return made, get_method(method)(made, **options(method, ablation))


def options(method: str, ablation: str) -> dict[str, object]:
    suited = get_method(method).suited(ablations()[ablation])
    return {**suited, **quick(method), **OPTIONS.get(method, {})}


def runs(method: str, metric: str) -> bool:
    """Tell whether a method takes a metric."""
    try:
        get_method(method).check_metric(get_metric(metric))
    except EdgewiseError:
        return False
    return True


@pytest.fixture(autouse=True)
def small_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readout, "SIZES", SMALL)


TRAINED = [("resample", "kl"), ("zero", "logit_diff")]
"""On what methods that are trained are tried: what they ask gates is tested for all of them."""

COMBINATIONS = [
    (method, ablation, metric)
    for method in methods()
    for ablation in ABLATIONS
    for metric in METRICS
    if runs(method, metric) and (not quick(method) or (ablation, metric) in TRAINED)
]


def apart(one: Discovery, other: Discovery) -> float:
    """Return the largest difference of scores, in parts of the largest score and of one."""
    a, b = one.scores.values.astype(float), other.scores.values.astype(float)
    both = ~np.isnan(a) & ~np.isnan(b)
    return float(np.abs(a - b)[both].max(initial=0) / max(1.0, np.abs(a)[both].max(initial=0)))


@pytest.mark.parametrize(("method", "ablation", "metric"), COMBINATIONS)
def test_results_in_every_type_are_those_in_float64(
    method: str, ablation: str, metric: str
) -> None:
    _, exact = run(method, "float64", ablation, metric)
    for dtype, near in TYPES.items():
        try:
            made, found = run(method, dtype, ablation, metric)
        except (
            EdgewiseError
        ) as error:  # an RMSNorm's slope at an embedding of 0, after a few layers
            assert dtype == "float16" and not ablations()[ablation].paired
            known = ("float16 a model's activations", "slope of a norm")
            assert get_method(method).gradient and any(words in str(error) for words in known)
            continue
        measured = found.scores.values[~np.isnan(found.scores.values)]
        assert np.isfinite(measured).all()
        if found.circuit is None:
            assert len(measured) == made.graph.edge_count
            assert apart(exact, found) <= near or metric == "accuracy"
            continue
        losses = made.losses([found.circuit])
        allowed = DRIFT.get(dtype, 1e-4) * (1 + abs(losses[0]))
        assert found.notes["loss_search"] == pytest.approx(losses[0], abs=allowed)
        if near < 0.01 and metric != "accuracy":
            assert exact.circuit is not None
            np.testing.assert_array_equal(found.circuit.kept, exact.circuit.kept)
            assert apart(exact, found) <= near


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("method", "ablation", "metric"),
    [row for row in COMBINATIONS if get_metric(row[2]).rest and not get_method(row[0]).gradient],
)
def test_bounds_decide_as_all_logits_do(
    method: str, ablation: str, metric: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, bounded = run(method, dtype, ablation, metric)
    assert made.model.unembed.weight.shape[0] > 2 * SMALL[-1]

    class Wide(readout.Readout):
        def full(self, stream: torch.Tensor) -> torch.Tensor:
            self.products += len(stream)
            lifted = self.chunk.model
            weight = lifted.unembed.weight.to(stream.dtype)
            logits = lifted.final_norm(stream) @ weight.t()  # type: ignore[misc]
            return self.metric.loss(logits, self.chunk.target).double().sum(-1)

    monkeypatch.setattr(readout, "make_readout", lambda chunk, metric, _: Wide(chunk, metric))
    plain = get_method(method)(made, **options(method, ablation))
    # the first loss is that of logits in the model's type, and may be off by a unit of theirs
    largest = max(float(logits.abs().max()) for logits in made.logits([Circuit.full(made.graph)]))
    unit = torch.finfo(made.model.dtype).eps * largest
    assert apart(plain, bounded) <= 1e-4 + unit
    if plain.circuit is not None and bounded.circuit is not None:
        np.testing.assert_array_equal(plain.circuit.kept, bounded.circuit.kept)


@pytest.mark.parametrize("metric", [name for name, one in METRICS.items() if one.rest])
def test_heads_of_their_usual_size_search_in_16_bits(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    vocabulary = 2 * readout.SIZES[-1] + 1
    pairs = tiny_pairs(vocabulary=vocabulary, lengths=(5, 5))
    made = Runner.create(model("bfloat16", vocabulary), pairs, metric=metric)
    asked = search.IncrementalSearch(made)
    assert isinstance(asked._readouts[0], readout.NormaliserReadout)
    rows = np.flatnonzero(made.graph.reads[-1])
    single = np.eye(len(made.graph.senders), dtype=bool)[rows]
    losses = asked.ask((len(made.graph.ports) - 1,), single[:, None])
    values = search.Search(made).ask((len(made.graph.ports) - 1,), single[:, None]).values()
    np.testing.assert_allclose(losses.values(), values, atol=0.1)
