"""Runs of circuits by the compiled engine: what all evaluation is made of, held against torch."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import jax
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgewise.discovery.eap import eap
from edgewise.discovery.measures.leaving_out import minimality
from edgewise.discovery.random_circuits import random_circuits
from edgewise.experiment.task import TaskSpec
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import EdgewiseError, UnsupportedModel
from edgewise.patching import engines
from edgewise.patching.compiled import circuits
from edgewise.patching.compiled.circuits import CompiledCircuits, together
from edgewise.patching.compiled.masked import answers_of, in_pieces
from edgewise.patching.incremental.search import Search, make_search
from edgewise.patching.metrics.metric import METRICS, Target
from edgewise.patching.prompts.pairs import PromptPairs
from edgewise.patching.run.runner import Runner, _Kept
from edgewise.session import open_model, open_task
from edgewise.steps.evaluate import evaluate
from tests.edgewise.conftest import tiny
from tests.engine import ABLATIONS, fitting, random_mask, tiny_lift, tiny_pairs
from tests.patching.compiled.test_parity import assert_alike
from tests.patching.test_whole_answers import spelled_pairs

VALUES = 2e-5
"""How far values may differ, in parts of the largest."""


def margin(logits: torch.Tensor, target: Target) -> torch.Tensor:
    """Answer's logit minus the largest."""
    return logits.gather(1, target.answers[:, :1])[:, 0] - logits.amax(-1)


@cache
def both(name: str, ablation: str, lengths: tuple[int, ...], batch: int) -> tuple[Runner, Runner]:
    model, pairs = tiny_lift(name, dtype=torch.float32), tiny_pairs(1, lengths)
    how: Any = {"ablation": ablation, "batch_size": batch, "metric": margin}
    first, second = (Runner.create(model, pairs, engine=e, **how) for e in ("torch", "jax"))
    return first, second


def agree(by_torch: np.ndarray, by_jax: np.ndarray) -> None:
    """Hold each metric's values [circuits, examples] together; accuracy is 0 or 1 in both."""
    assert by_torch.dtype == by_jax.dtype == np.float64
    for found, expected in zip(by_jax, by_torch, strict=True):
        assert np.abs(found - expected).max() <= VALUES * max(1, np.abs(expected).max())


@settings(max_examples=12)
@example(("llama", "resample", (6, 4, 9), 2), 0, [1.0, 0.9, 0.5, 0.0], False)
@given(
    which=st.sampled_from([
        ("llama", "resample", (6, 4, 9), 2), ("gemma2", "position-mean", (7, 7, 7), 2),
        ("gptj", "zero", (5, 8, 3), 3),
    ]),
    seed=st.integers(0, 10**6),
    shares=st.lists(st.sampled_from([0.0, 0.05, 0.5, 0.9, 1.0]), min_size=1, max_size=4),
    losses=st.booleans(),
)  # fmt: skip
def test_every_metric_of_any_circuits(
    which: tuple[str, str, tuple[int, ...], int], seed: int, shares: list[float], losses: bool
) -> None:
    """Registered ones, an expression, and a Python function, each example's."""
    one, other = both(*which)
    graph, measured = one.graph, [*METRICS, "logprob(answer) ** 2"]
    chosen = [one.metric, *(one.with_metric(name).metric for name in measured)]
    circuits = [Circuit(graph, random_mask(graph, q, seed + i)) for i, q in enumerate(shares)]
    agree(*(r.measure_each(circuits, chosen, losses) for r in (one, other)))
    assert_alike(other.logits(circuits).numpy(), one.logits(circuits).numpy(), VALUES)


@pytest.mark.parametrize(
    ("name", "ablation"), [*(("gpt2", one) for one in ABLATIONS), ("gemma4-e", "resample")]
)
def test_every_ablation(name: str, ablation: str) -> None:
    """With windows and without, and values that a reference set or draws give."""
    one, other = both(name, ablation, fitting(ablation, (6, 4, 7)), 2)
    circuits = [Circuit(one.graph, random_mask(one.graph, q, 3)) for q in (1, 0.6, 0.1, 0)]
    agree(*(r.measure_each(circuits) for r in (one, other)))
    assert other.floor == pytest.approx(one.floor, rel=1e-4)


@pytest.mark.parametrize("metric", [name for name, one in METRICS.items() if one.whole])
def test_answers_of_several_tokens(metric: str) -> None:
    pairs = PromptPairs((*tiny_pairs(lengths=(5, 6)), *spelled_pairs(4, 3)))
    model = tiny_lift("llama", dtype=torch.float32)
    runners = [
        Runner.create(model, pairs, metric=metric, batch_size=2, engine=e) for e in ("torch", "jax")
    ]
    circuits = [Circuit(model.graph, random_mask(model.graph, q, 3)) for q in (1, 0.6, 0)]
    agree(*(r.measure_each(circuits) for r in runners))
    assert_alike(*(r.logits(circuits).numpy() for r in reversed(runners)), VALUES)
    assert runners[1].floor == pytest.approx(runners[0].floor, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types(dtype: torch.dtype) -> None:
    model = tiny_lift("llama", dtype=dtype)
    runners = [Runner.create(model, tiny_pairs(), engine=e) for e in ("torch", "jax")]
    circuits = [Circuit(model.graph, random_mask(model.graph, q, 3)) for q in (1, 0.6, 0)]
    expected, found = (r.measure_each(circuits)[0] for r in runners)
    within = 1e-7 if dtype == torch.float64 else 0.05  # rotary tables are float32
    assert np.abs(found - expected).max() <= within * np.abs(expected).max()


def test_minimality_asks_by_whole_runs_of_the_engine() -> None:
    one, other = (r.with_metric("kl") for r in both("llama", "resample", (6, 4, 9), 2))
    circuit = eap(one.with_metric("logit_diff")).scores.top(30)
    assert type(make_search(other)) is Search
    assert_alike(minimality(other, circuit).values, minimality(one, circuit).values, VALUES)


# -- how many run together -------------------------------------------------------------------------


def test_few_numbers_of_circuits_run_together() -> None:
    """No group wastes more than half, and there are few sizes."""
    for most in (1, 5, 100):
        sizes = {size for count in range(1, 300) for size in together(count, most)}
        assert sizes <= {1, 4, 16, 64}
        for count in range(1, 300):
            found = together(count, most)
            assert sum(found[:-1]) < count <= sum(found) <= 2 * count
            assert max(found) <= max(1, most)


def test_a_program_for_few_numbers_and_chunks() -> None:
    _, runner = both("gpt2", "resample", (8, 8, 7, 7), 2)
    drawn = random_circuits(runner.graph, {"q": 9, "mlp": 3, "logits": 2}, 22)
    before = answers_of._cache_size()
    for count in (22, 20, 16, 4, 3, 2):
        runner.measure_each(drawn[:count])
    assert answers_of._cache_size() - before <= 2
    assert_alike(runner.measure_each(drawn)[0, 20:], runner.measure_each(drawn[20:])[0], 1e-6)


def test_runs_are_kept_and_shared_as_far_as_they_fit() -> None:
    model = tiny_lift("gpt2", dtype=torch.float32)
    runner = Runner.create(model, tiny_pairs(), batch_size=1, engine="jax")
    kept = _worlds(runner)
    assert len(kept) == 3
    assert kept == _worlds(runner) == _worlds(runner.with_metric("kl"))
    tight = replace(runner, budget=replace(runner.budget, cache=1), _kept=_Kept({}))
    first, second = ([*CompiledCircuits(tight).chunks()] for _ in range(2))
    assert not {id(one) for one in first} & {id(one) for one in second}


def _worlds(runner: Runner) -> list[int]:
    runs = runner._other_runs()
    assert runs is not None
    return [id(one) for one in runs.chunks()]


def test_progress_is_told() -> None:
    _, runner = both("gpt2", "resample", (8, 8, 7, 7), 2)
    told: list[tuple[int, int]] = []
    drawn = random_circuits(runner.graph, {"q": 9}, 6)
    runner.measure_each(drawn, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (6, 6)
    assert told == sorted(told)


# -- which engine runs -----------------------------------------------------------------------------


def test_auto_runs_circuits_on_a_card_and_searches_in_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engines, "on_a_card", lambda device: True)
    pairs = tiny_pairs()
    for name, by in (("gpt2", "jax"), ("mamba", "torch")):
        runner = Runner.create(tiny_lift(name, dtype=torch.float32), pairs, metric="kl")
        assert runner.runs_by == by
        assert make_search(runner)._runner.engine == "torch"
    assert Runner.create(tiny_lift("gpt2"), pairs, engine="torch").runs_by == "torch"


def test_what_only_torch_can_run_is_an_error_by_name() -> None:
    runner = Runner.create(tiny_lift("mamba", dtype=torch.float32), tiny_pairs(), engine="jax")
    with pytest.raises(UnsupportedModel, match=r"its node s0 is taken whole .* or engine 'torch'"):
        runner.loss(Circuit.full(runner.graph))


def test_a_model_that_changed_is_refused() -> None:
    model = tiny_lift("gpt2", dtype=torch.float32)
    runner = Runner.create(model, tiny_pairs(), engine="jax")
    runner.loss(Circuit.full(model.graph))
    assert model.model is not None
    with torch.no_grad():
        model.model.transformer.h[0].attn.c_attn.weight.mul_(2)
    with pytest.raises(EdgewiseError, match="have changed since this runner was made"):
        runner.loss(Circuit.full(model.graph))


# -- evaluation ------------------------------------------------------------------------------------


def alike(found: object, expected: object, at: str = "") -> None:
    """Hold two documents together: numbers to rounding, all else equal; edges in any order."""
    if isinstance(expected, dict) and isinstance(found, dict):
        assert found.keys() == expected.keys(), at
        for key, value in expected.items():
            alike(found[key], value, f"{at}.{key}")
    elif isinstance(expected, list | tuple) and isinstance(found, list | tuple):
        assert len(found) == len(expected), at
        if at.endswith(".edges"):  # those without which the loss stays are told apart by rounding
            found, expected = (sorted(one, key=lambda edge: edge[:2]) for one in (found, expected))
        for i, (one, other) in enumerate(zip(found, expected, strict=True)):
            alike(one, other, f"{at}[{i}]")
    elif isinstance(expected, float) and isinstance(found, float | int):
        assert found == pytest.approx(expected, rel=2e-3, abs=2e-4, nan_ok=True), at
    else:
        assert found == expected, at


@pytest.mark.parametrize(("family", "ablation"), [("llama", "resample"), ("gpt2", "mean")])
def test_a_whole_evaluation(family: str, ablation: str) -> None:
    """Curve, random circuits, minimality, the tests of hypotheses, the worst case: every number."""
    pairs, found = tiny_pairs(2, (6, 6, 6, 7, 7, 7)), {}
    for engine in ("torch", "jax"):
        session = open_model(tiny(family), engine=engine)
        runner = Runner.create(session.lifted, pairs, metric="logit_diff", engine="torch")
        scores = eap(runner).scores
        found[engine] = evaluate(
            session, scores.top(20), pairs, scores=scores, ablation=ablation, metric="logit_diff",
            curve=True, minimality=True, random=5, tests=True, worst=True,
        ).as_dict()  # fmt: skip
        assert found[engine].pop("engine")["name"] == engine
    alike(found["jax"], found["torch"])


# -- in pieces, as on a card -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gemma4-e"])
def test_what_senders_write_in_three_pieces(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuits, "takes_pieces", lambda model: True)
    model, pairs = tiny_lift(name, dtype=torch.float32), tiny_pairs(lengths=(6, 4, 7))
    runners = [Runner.create(model, pairs, metric="kl", engine=e) for e in ("torch", "jax")]
    chosen = [Circuit(model.graph, random_mask(model.graph, q, 3)) for q in (1, 0.6, 0.1, 0)]
    agree(*(r.measure_each(chosen) for r in runners))


def test_pieces_add_up() -> None:
    x = np.random.default_rng(0).normal(size=1000).astype(np.float32) * 1e3
    first, second, third = (np.asarray(one, dtype=np.float64) for one in jax.jit(in_pieces)(x))
    assert np.abs(first + second + third - x).max() <= 2e-7 * np.abs(x).max()
    assert np.abs(first - x).max() > 1e-4 * np.abs(x).max()


def test_an_evaluation_of_the_real_model() -> None:
    session, found = open_model("smollm2-135m"), {}
    pairs = open_task(session, TaskSpec("ioi", examples=2))[0]
    circuit = Circuit(session.graph, random_mask(session.graph, 0.9, 3))
    for engine in ("torch", "jax"):
        opened = replace(session, engine=engine)
        found[engine] = evaluate(opened, circuit, pairs, metric="logit_diff").as_dict()
        assert found[engine].pop("engine")["name"] == engine
    alike(found["jax"], found["torch"])
