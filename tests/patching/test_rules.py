"""Gradient rules against plain autograd, by hand, and where they must be exact."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from edgewise.discovery.registry import get_method
from edgewise.experiment.spec import DiscoverySpec
from edgewise.experiment.task import TaskSpec
from edgewise.graphs.errors import EdgewiseError, ModelNotFound
from edgewise.graphs.lift.lifted import Block, LiftedModel
from edgewise.graphs.lift.mlp import ACTIVATIONS, Xielu
from edgewise.graphs.lift.plain import plain_block, plain_model
from edgewise.patching import engines
from edgewise.patching.gradients.attribution import attribute
from edgewise.patching.gradients.backward import RuledFunctions, by_rule
from edgewise.patching.gradients.rules import RULES, rule_of
from edgewise.patching.run.runner import Runner
from edgewise.patching.trace import at_answers
from edgewise.session import make_runner, open_model, open_split
from tests.configs import CONFIGS
from tests.configs_whole import WHOLE_CONFIGS
from tests.engine import ablated_values, naive_run, one_of_each_type, tiny_lift, tiny_pairs, whole
from tests.patching.plain_rules import plain

FAMILIES = [name for name in one_of_each_type(copies=False).values() if name in CONFIGS]
STRONG = {"relp": rule_of("relp"), "gim": rule_of("gim"), "relp, zero": rule_of("relp", "zero")}


def by_autograd(runner: Runner, name: str) -> np.ndarray:
    """Return the scores of a rule by plain autograd in every edge's mask."""
    (chunk,) = runner.chunks()
    model, graph = plain(runner.model, name), runner.graph
    mask = torch.ones(graph.reads.shape, dtype=torch.float64, requires_grad=True)
    ablated = ablated_values(runner, chunk)
    _, final = naive_run(model, chunk.batch.clean, whole(chunk), ablated, mask)
    logits = model.logits(at_answers(final, chunk.batch.answer_position))
    (slope,) = torch.autograd.grad(runner.metric.loss(logits, chunk.target).mean(), mask)
    return np.where(graph.reads, -slope.numpy(), np.nan)


@pytest.mark.parametrize("name", FAMILIES)
def test_rules_are_what_autograd_gives_with_factors_detached(name: str) -> None:
    runner = Runner.create(tiny_lift(name), tiny_pairs(lengths=(5, 4)), ablation="resample")
    usual = attribute(runner, [1.0]).values
    for rule in ("relp", "gim"):
        scores = attribute(runner, [1.0], rule=rule_of(rule)).values
        np.testing.assert_allclose(scores, by_autograd(runner, rule), rtol=1e-4, atol=1e-6)
        assert not np.allclose(scores, usual, rtol=1e-2, equal_nan=True)


@pytest.mark.parametrize("name", ["llama", "gemma2", "olmo2", "deepseek3"])
def test_patterns_can_be_constants(name: str) -> None:
    runner = Runner.create(tiny_lift(name), tiny_pairs(lengths=(5, 4)), ablation="zero")
    scores = attribute(runner, [1.0], rule=STRONG["relp, zero"])
    np.testing.assert_allclose(scores.values, by_autograd(runner, "relp, zero"), 1e-4, 1e-6)
    into_keys = [row for row, port in enumerate(runner.graph.ports) if port.letter == "k"]
    assert not np.nansum(np.abs(scores.values[into_keys]))


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "gpt-oss", "mixtral"])
def test_no_rule_moves_a_value_by_a_bit(name: str) -> None:
    model = tiny_lift(name, dtype=torch.float32)
    (chunk,) = Runner.create(model, tiny_pairs()).chunks()
    everything = torch.ones(model.graph.reads.shape, requires_grad=True)
    zeros = [torch.zeros(())] * len(model.graph.senders)
    args = chunk.batch.clean, whole(chunk), zeros, everything
    usual, final = naive_run(model, *args)
    for rule in STRONG.values():
        ruled = by_rule(model, rule)
        wrote, stream = naive_run(ruled, *args)
        assert all(torch.equal(a, b) for a, b in zip(wrote, usual, strict=True))
        assert torch.equal(stream, final)
        assert torch.equal(ruled.logits(stream), model.logits(final))


def linear(seed: int = 0) -> LiftedModel:
    """Make a model all of whose parts are linear: a rectifier that never cuts, and no attention."""
    torch.manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64) / 2

    def block() -> Block:
        q, k, v = (draw(2, 3, 8) for _ in range(3))
        bias = torch.full((6,), 100.0, dtype=torch.float64)
        up, down = draw(6, 8), draw(8, 6)
        still = torch.zeros_like(v)
        mlp = {"up": up, "down": down, "up_bias": bias, "down_bias": -down @ bias}
        return plain_block(wq=q, wk=k, wv=v, wo=still, **mlp)

    return plain_model(tokens=draw(31, 8), blocks=[block() for _ in range(3)], unembed=draw(31, 8))


@pytest.mark.parametrize("rule", STRONG)
@pytest.mark.parametrize("ablation", ["resample", "zero"])
def test_where_all_is_linear_every_rule_is_exact(rule: str, ablation: str) -> None:
    pairs = tiny_pairs(lengths=(1, 1, 1))  # nothing goes from one token to another
    runner = Runner.create(linear(), pairs, metric="logit_diff", ablation=ablation)
    exact = get_method("exact")(runner).scores.values
    assert np.nanmax(np.abs(exact)) > 0.1
    for points in ([1.0], [0.0, 0.5]):
        scores = attribute(runner, points, rule=STRONG[rule]).values
        np.testing.assert_allclose(scores, exact, rtol=1e-5, atol=1e-7)


NAMES = [name for name, one in ACTIVATIONS.items() if one.secant is not None]
XIELU = Xielu(*(torch.tensor(x) for x in (0.3, -0.2, 0.5, -1e-6)))


@pytest.mark.parametrize("name", [*NAMES, "xielu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_secants_are_right_near_0_and_far_from_it(name: str, dtype: torch.dtype) -> None:
    act = XIELU if name == "xielu" else ACTIVATIONS[name]
    sizes = torch.logspace(-30, 2, 65, dtype=torch.float64)
    t = torch.cat((-sizes, torch.zeros(1, dtype=torch.float64), sizes)).to(dtype)
    assert act.secant is not None
    found = act.secant(t).double()
    moved = t.double().abs() > (1e-3 if name == "xielu" else 1e-25)
    expected = (act(t.double()) / t.double())[moved]
    close = 1e-6 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(found[moved], expected, rtol=close, atol=close)
    assert found.isfinite().all()
    if name == "xielu":  # its guard against exp(0) − 1 bends it at 0
        return
    at_0 = torch.zeros(1, dtype=dtype, requires_grad=True)
    (slope,) = torch.autograd.grad(act(at_0).sum(), at_0)
    torch.testing.assert_close(act.secant(at_0).detach(), slope, rtol=0, atol=close)


def test_where_a_secant_has_no_bound_the_derivative_stays() -> None:
    t = torch.tensor([-1.0, 0.0, 2.0], requires_grad=True)
    (slope,) = torch.autograd.grad(
        RuledFunctions(RULES["relp"]).activate(ACTIVATIONS["sigmoid"], t).sum(), t
    )
    torch.testing.assert_close(slope, t.sigmoid() * (1 - t.sigmoid()))


def test_by_hand() -> None:
    a, b = torch.tensor([2.0, 3.0], requires_grad=True), torch.tensor(5.0, requires_grad=True)
    product = RuledFunctions(RULES["gim"]).multiply(a, b)
    of_a, of_b = torch.autograd.grad(product.sum(), (a, b))
    assert (of_a.tolist(), float(of_b)) == ([2.5, 2.5], 2.5)
    t = torch.tensor([0.0, 2.0], requires_grad=True)
    relp = RuledFunctions(RULES["relp"])
    (slope,) = torch.autograd.grad(relp.activate(ACTIVATIONS["silu"], t).sum(), t)
    torch.testing.assert_close(slope, torch.tensor([0.5, 0.880797]))  # of the sigmoid at 0 and 2
    scores = torch.tensor([0.0, 2 * math.log(3)], requires_grad=True)
    pattern = RuledFunctions(RULES["gim"]).softmax(scores)
    torch.testing.assert_close(pattern.detach(), torch.tensor([0.1, 0.9]))
    (slope,) = torch.autograd.grad(pattern[1], scores)
    # at temperature 2 the pattern is (1/4, 3/4); a quarter of 3/4 · 1/4
    torch.testing.assert_close(slope, torch.tensor([-3 / 64, 3 / 64]))


@pytest.mark.parametrize("rule", STRONG)
def test_the_mean_over_examples_is_the_score(rule: str) -> None:
    runner = Runner.create(tiny_lift("qwen3"), tiny_pairs(lengths=(5, 6, 4)), batch_size=2)
    name, _, qk = rule.partition(", ")
    options = {"rule": name, "qk": qk or "derivative"}
    found = get_method("eap-ig")(runner, steps=2, per_example=True, **options)
    assert found.examples is not None
    mean = found.examples.values.mean(0)
    np.testing.assert_allclose(mean, found.scores.values[runner.graph.reads], 1e-4, 1e-6)
    points = attribute(runner, [0.0, 0.5], rule=STRONG[rule]).values
    np.testing.assert_allclose(found.scores.values, points, 1e-5, 1e-7)


def test_parts_taken_whole_are_refused() -> None:
    name = next(iter(WHOLE_CONFIGS))
    runner = Runner.create(tiny_lift(name), tiny_pairs(shared=False))
    with pytest.raises(
        EdgewiseError, match=r"rule 'gim' does not reach into .* accepted: rule gra"
    ):
        get_method("eap")(runner, rule="gim")
    get_method("eap")(runner, rule="gradient")


def test_options_that_contradict_each_other_or_are_unknown() -> None:
    method = get_method("eap")
    with pytest.raises(EdgewiseError, match=r"qk is zero, which rule 'gim' does not have; .* relp"):
        method.check({"rule": "gim", "qk": "zero"})
    with pytest.raises(EdgewiseError, match="'rlp'; did you mean 'relp'"):
        method.check({"rule": "rlp"})
    given = {"rule": "relp", "qk": "zero"}
    assert method.check(given) == {**given, "local": False}
    with pytest.raises(EdgewiseError, match="qk is zero"):
        DiscoverySpec("eap-ig", options={"qk": "zero"})


def test_the_compiled_engine_does_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "on_a_card", lambda: True)
    monkeypatch.setattr(engines, "check_engine", lambda name: name)
    method, model = get_method("eap"), tiny_lift("gpt2", dtype=torch.float32)
    auto, jax = (Runner.create(model, tiny_pairs(), engine=name) for name in ("auto", "jax"))
    assert method.engine(auto, {"rule": "relp"}) == "torch"
    said = "engine 'jax' does not compute method 'eap' with rule relp; accepted: engine 'torch'"
    with pytest.raises(EdgewiseError, match=f"{said} or 'auto', or rule gradient"):
        method(jax, rule="relp")
    method(auto, rule="gim")


REFERENCE = {
    "embed->m0": (3.083539, 0.676218, 0.550221, 2.718008),
    "m0->a8.h1<k>": (-0.016926, 0.0, 0.006775, -0.023041),
    "a8.h1->a20.h0<v>": (0.119922, 0.010823, 0.023886, 0.182257),
    "m0->a24.h4<v>": (0.314377, 0.312841, 0.141434, 0.427494),
    "a23.h3->a24.h4<q>": (-0.657283, 0.0, -0.195955, -0.666646),
    "m20->m22": (-0.445565, 0.032977, -0.126771, -0.168574),
    "m27->m29": (-0.047162, -0.047162, -0.045046, -0.083108),
    "a23.h3->logits": (1.959361, 1.959361, 1.959361, 2.060148),
    "m10->m12": (-0.080060, -0.006974, -0.002981, -0.038951),
    "a20.h0->a23.h3<k>": (0.001605, 0.0, 0.002293, 0.000578),
}
"""Of ioi in SmolLM2-135M by a plain implementation: relp, with qk zero, gim, relp of 5 points."""


@pytest.mark.real
def test_a_real_model_against_another_implementation() -> None:
    try:
        session = open_model("smollm2-135m", device="cpu")
    except ModelNotFound as error:
        pytest.skip(str(error))
    options = {"length": 14, "corruption": "third-name"}
    pairs = open_split(session, TaskSpec("ioi", examples=8, options=options)).discovery
    assert pairs.sha256[:16] == "4840d95476ec2c10"
    runner = make_runner(session, pairs, metric="logit_diff", ablation="resample", engine="torch")
    each = [(*STRONG.values(), STRONG["relp"])[i] for i in (0, 2, 1, 3)]
    for column, rule in enumerate(each):
        points = [1.0] if column < 3 else [k / 5 for k in range(5)]
        scores = attribute(runner, points, rule=rule)
        for edge, expected in REFERENCE.items():
            assert scores[edge] == pytest.approx(expected[column], abs=1e-3)
