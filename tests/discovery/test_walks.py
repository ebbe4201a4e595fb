"""ACDC's walk on either search, for every family, and with bounded normalisers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from edgewise.discovery.acdc import Rule, walk
from edgewise.discovery.registry import Discovery, get_method
from edgewise.graphs.errors import ModelNotFound
from edgewise.graphs.lift.lifting import describe
from edgewise.graphs.load.loading import load
from edgewise.patching.incremental import readout
from edgewise.patching.incremental.search import IncrementalSearch, Search
from edgewise.patching.metrics.metric import Metric
from edgewise.patching.prompts.pairs import Pair, PromptPairs
from edgewise.patching.run.chunk import Chunk
from edgewise.patching.run.runner import Runner
from tests.configs import ALL, CONFIGS
from tests.engine import ABLATIONS, fitting, one_of_each_type, tiny_lift, tiny_pairs
from tests.plain_acdc import plain_acdc

METRICS = ["kl", "logit_diff", "nll", "prob_diff", "logit(answer) - 2 * logit(distractor)",
           "minimize: -log(p(answer) + p(distractor))"]  # fmt: skip
THRESHOLDS = [0.001, 0.02, 0.3]
CANDIDATES = [1, 2, 5, 16, 64]


def same(found: Discovery, expected: Discovery, tolerance: float = 1e-6) -> None:
    """Compare two walks: the same edges, for the same reasons, by as many questions."""
    assert found.circuit == expected.circuit
    assert found.questions == expected.questions
    np.testing.assert_allclose(found.scores.values, expected.scores.values, atol=tolerance)


@pytest.mark.parametrize("name", one_of_each_type(copies=False).values())
def test_every_family_is_walked_as_by_dense_runs(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = list(ALL).index(name)
    draw = np.random.default_rng(number)
    for repeat in range(2):
        metric = METRICS[(number + 3 * repeat) % len(METRICS)]
        ablation = ABLATIONS[(number // 2 + repeat) % len(ABLATIONS)]
        model = tiny_lift(name, number, grouped_kv=bool(repeat))
        pairs = tiny_pairs(number, fitting(ablation, (5, 4, 4)))
        size = (None, 1, 2)[int(draw.integers(3))]
        runner = Runner.create(model, pairs, metric=metric, ablation=ablation, batch_size=size)
        threshold = float(draw.choice(THRESHOLDS))
        first, absolute = bool(draw.integers(2)), bool(draw.integers(2))
        monkeypatch.setattr(readout, "SIZES", (2, 6))  # bounds, in a vocabulary of 31
        rule = Rule(threshold, first, absolute, int(draw.choice(CANDIDATES)))
        found = walk(IncrementalSearch(runner, threshold), runner.graph, rule)
        same(found, walk(Search(runner), runner.graph, rule))
        if repeat:
            continue
        circuit, increments = plain_acdc(runner, threshold, first, absolute)
        assert found.circuit == circuit
        for edge in circuit.edges:
            assert found.scores[edge] == pytest.approx(increments[str(edge)], abs=1e-6)


@pytest.mark.parametrize("metric", ["kl", "nll", "logit_diff"])
def test_the_number_of_candidates_changes_nothing(metric: str) -> None:
    model = tiny_lift("llama", 3)
    runner = Runner.create(model, tiny_pairs(3, (5, 4, 4)), metric=metric, batch_size=2)
    acdc = get_method("acdc")
    results = [acdc(runner, threshold=0.05, candidates=n) for n in CANDIDATES]
    for result in results[1:]:
        assert result.circuit == results[0].circuit
        np.testing.assert_allclose(result.scores.values, results[0].scores.values, atol=1e-6)
    assert results[0].circuit is not None
    assert 0 < int(results[0].circuit.kept.sum()) < model.graph.edge_count


# -- large vocabularies ---------------------------------------------------------------------------


def without_bounds(runner: Runner, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Discovery:
    """Run ACDC with all logits of every question."""

    def with_all_logits(chunk: Chunk, metric: Metric, _: float) -> readout.Readout:
        return readout.Readout(chunk, metric)

    with monkeypatch.context() as patch:
        patch.setattr(readout, "make_readout", with_all_logits)
        assert type(IncrementalSearch(runner)._readouts[0]) is readout.Readout
        return get_method("acdc")(runner, **options)


def large_vocabulary(name: str) -> Any:
    """Make a model of 20,000 words with peaked predictions, in float64."""
    config_class, model_class, options = CONFIGS[name]
    torch.manual_seed(1)
    model = model_class(config_class(**{**options, "vocab_size": 20_000})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        model.get_output_embeddings().weight.mul_(3)
    return model.double()


@pytest.mark.parametrize("metric", ["kl", "nll"])
@pytest.mark.parametrize("name", ["gpt2", "gptj", "granite"])
@pytest.mark.parametrize("ports_first", [False, True])
def test_bounds_decide_as_all_logits_do(
    name: str, metric: str, ports_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = describe(large_vocabulary(name))
    pairs = tiny_pairs(2, (5, 5, 4), vocabulary=20_000)
    runner = Runner.create(model, pairs, metric=metric, batch_size=2)
    full = []
    for threshold in (0.003, 0.1):
        asked = IncrementalSearch(runner, threshold)
        assert type(asked._readouts[0]) is readout.NormaliserReadout
        options: dict[str, Any] = {"threshold": threshold, "ports_first": ports_first}
        found = get_method("acdc")(runner, **options)
        full.append(without_bounds(runner, monkeypatch, **options))
        same(found, full[-1])
    assert full[0].circuit != full[1].circuit


@pytest.mark.real
def test_the_first_layers_of_a_real_model(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        loaded = load("smollm2-135m", device="cpu")
    except ModelNotFound as error:
        pytest.skip(str(error))
    model = loaded.model
    model.config.num_hidden_layers = 2
    model.model.layers = model.model.layers[:2]
    model = model.double()  # rounding must not decide
    texts = [" Mary and John went to the store", " Anna and Mark sat on the table"]
    others = [" Mary and Paul went to the store", " Anna and Luke sat on the table"]
    pairs = []
    for text, other in zip(texts, others, strict=True):
        clean, corrupted = (loaded.tokenizer(t).input_ids for t in (text, other))
        pairs.append(Pair(tuple(clean), tuple(corrupted), (5099,), (3810,)))
    runner = Runner.create(describe(model), PromptPairs(tuple(pairs)), metric="kl")
    for threshold in (1e-4, 1e-3):
        found = get_method("acdc")(runner, threshold=threshold)
        same(found, without_bounds(runner, monkeypatch, threshold=threshold))
        same(found, walk(Search(runner), runner.graph, Rule(threshold)))
        asked = IncrementalSearch(runner, threshold)
        same(walk(asked, runner.graph, Rule(threshold)), found)
        assert asked.products < asked.questions / 2  # bounds decided most
        assert found.circuit is not None
        assert int(found.circuit.kept.sum()) > 0
