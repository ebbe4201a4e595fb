"""The compiled engine on hand-built models, and in types of 16 and 64 bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from edgewise.discovery.registry import get_method
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.lift.lifted import LiftedModel
from edgewise.graphs.lift.plain import plain_block, plain_model
from edgewise.patching.compiled.certificate import certify_engine
from edgewise.patching.compiled.circuits import CompiledCircuits
from edgewise.patching.compiled.engine import attribute as compiled
from edgewise.patching.compiled.segments import find_runs
from edgewise.patching.gradients.attribution import attribute
from edgewise.patching.gradients.port_gradients import gate_gradients
from edgewise.patching.run.runner import Runner
from tests.engine import random_mask, tiny_lift, tiny_pairs
from tests.graphs.test_plain import BLOCK, CIRCUIT, MODEL, PAIRS, random_model
from tests.patching.compiled.test_parity import LOGITS, assert_alike


def plain(causal: bool) -> LiftedModel:
    """Build a model without norms, with keys wider than values and logits than tokens."""
    draw = torch.Generator().manual_seed(0)

    def new(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw) * 0.4

    blocks = [
        plain_block(
            wq=new(2, 3, 8), wk=new(2, 3, 8), wv=new(2, 5, 8), wo=new(2, 5, 8), bq=new(2, 3),
            **({} if layer else {"up": new(6, 8), "down": new(8, 6), "up_bias": new(6)}),
        )
        for layer in range(3)
    ]  # fmt: skip
    return plain_model(
        tokens=new(31, 8), blocks=blocks, unembed=new(40, 8), positions=new(9, 8), causal=causal,
        split_embedding=True,
    )  # fmt: skip


PLAIN: dict[str, Callable[[], LiftedModel]] = {
    "one direction": lambda: plain(causal=True),
    "both directions": lambda: plain(causal=False),
    "norms, float64": lambda: random_model(grouped_kv=True, parallel=True),
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_models(name: str) -> None:
    """Scores, circuits, and gradients in gates."""
    model, draw = PLAIN[name](), np.random.default_rng(0)
    pairs = tiny_pairs(lengths=(6, 4, 5))
    runner = Runner.create(model, pairs, metric="nll", engine="torch")
    for points in ([1.0], [0.0, 0.5]):
        assert_alike(compiled(runner, points).values, attribute(runner, points).values)
    circuits = [Circuit(model.graph, random_mask(model.graph, share, 0)) for share in (1, 0.6, 0)]
    together = CompiledCircuits(runner)
    assert_alike(together.logits(circuits), runner.logits(circuits).numpy(), LOGITS)
    assert_alike(together.losses(circuits), runner.measure_each(circuits, losses=True)[0], LOGITS)
    gates = runner.graph.reads * draw.random(runner.graph.reads.shape)
    assert_alike(together.gradients(gates)[1], gate_gradients(runner, gates)[1])


def test_the_circuit_that_is_worked_out_by_hand() -> None:
    """See `tests/graphs/test_plain.py`."""
    model = plain_model(blocks=[plain_block(**BLOCK)], **MODEL)
    runner = Runner.create(model, PAIRS, engine="jax")
    scores = get_method("eap")(runner).scores
    found = [scores[edge] for edge in CIRCUIT]
    assert found == pytest.approx([3 * 0.25, 2 * 0.25, 0.25, 0.5])
    alone = Circuit.empty(runner.graph).with_edges(CIRCUIT)
    circuits = [alone, alone.without([CIRCUIT[1]]), alone.without([CIRCUIT[3]])]
    assert runner.measure(circuits)[0].tolist() == pytest.approx([1, 0.5, 0.5])


def test_float64_is_computed_in_float64() -> None:
    runner = Runner.create(tiny_lift("gpt2"), tiny_pairs(), metric="logit_diff")
    assert_alike(compiled(runner, [0.3]).values, attribute(runner, [0.3]).values, 1e-6)


def test_bfloat16_by_rank() -> None:
    pairs = tiny_pairs(lengths=(9, 9, 8, 9))
    exact = attribute(Runner.create(tiny_lift("llama", dtype=torch.float32), pairs), [0.5])
    half = Runner.create(tiny_lift("llama", dtype=torch.bfloat16), pairs)
    found = compiled(half, [0.5]).values[half.graph.reads]
    expected = exact.values[half.graph.reads]
    top = np.argsort(-np.abs(expected))[:1000]
    assert spearmanr(found[top], expected[top]).statistic >= 0.95


def test_many_points_in_groups_of_a_small_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgewise.patching.compiled import engine

    runner = Runner.create(tiny_lift("gpt2", dtype=torch.float32), tiny_pairs(), metric="nll")
    points, seen = [k / 5 for k in range(5)], list[tuple[int, int]]()
    monkeypatch.setattr(engine, "LAPTOP", replace(engine.LAPTOP, program=1))
    found = compiled(runner, points, lambda done, total, _: seen.append((done, total)))
    assert_alike(found.values, attribute(runner, points).values)
    assert seen == [(i, 15) for i in range(1, 16)]


@pytest.mark.parametrize("name", ["llama", "bloom"])
def test_the_second_certificate(name: str) -> None:
    found = certify_engine(tiny_lift(name, dtype=torch.float32))
    assert found.passed
    assert max(found.kept_all, found.kept_none) <= 0.1 * found.tolerance  # 1e-5 of the largest


def test_layers_are_cut_into_runs() -> None:
    def cut(kinds: str) -> list[tuple[int, int]]:
        return [(run.period, run.times) for run in find_runs(kinds)]

    assert cut("aaaa") == [(1, 4)]
    assert cut("abab") == [(2, 2)]
    assert cut("dmmmm") == [(1, 1), (1, 4)]
    assert cut("lllllglllllgll") == [(6, 2), (1, 2)]
    assert cut("a") == [(1, 1)]
