"""The compiled engine on hand-built models, in types of 16 and 64 bits, and on the real model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from edgewise.graphs.lift.plain import plain_block, plain_model
from edgewise.patching.compiled.certificate import certify_engine
from edgewise.patching.compiled.engine import attribute as compiled
from edgewise.patching.compiled.segments import find_runs
from edgewise.patching.gradients.attribution import attribute
from edgewise.patching.run.runner import Runner
from tests.engine import tiny_lift, tiny_pairs
from tests.patching.compiled.test_parity import assert_alike


@pytest.mark.parametrize("causal", [True, False])
def test_a_plain_model(causal: bool) -> None:
    """Without norms, in both directions too, with keys wider than values and logits than tokens."""
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
    model = plain_model(
        tokens=new(31, 8), blocks=blocks, unembed=new(40, 8), positions=new(9, 8), causal=causal,
        split_embedding=True,
    )  # fmt: skip
    runner = Runner.create(model, tiny_pairs(lengths=(6, 4, 5)), metric="nll")
    for points in ([1.0], [0.0, 0.5]):
        assert_alike(compiled(runner, points).values, attribute(runner, points).values)


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


CERTIFIED = (
    "gpt2", "llama", "olmo2", "gemma2", "gemma4-e", "mixtral", "deepseek3", "bloom", "gpt-neo",
    "cohere", "phi", "falcon-alibi-eager",
)  # fmt: skip


@pytest.mark.parametrize("name", CERTIFIED)
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


@pytest.mark.real
def test_the_real_model() -> None:
    from edgewise.session import open_model, open_task

    session = open_model("smollm2-135m")
    pairs, _ = open_task(session, "ioi", examples=4)
    runner = Runner.create(session.lifted, pairs, metric="logit_diff")
    for points in ([1.0], [k / 5 for k in range(5)]):
        assert_alike(compiled(runner, points).values, attribute(runner, points).values)
