"""Scores with owners recomputed: the definition, spelled out, on every family."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from edgewise.graphs.errors import EdgewiseError
from edgewise.graphs.lift.lifting import describe
from edgewise.graphs.load.loading import load
from edgewise.patching.gradients import local
from edgewise.patching.gradients.attribution import attribute
from edgewise.patching.gradients.local import attribute_locally
from edgewise.patching.gradients.owners import curved
from edgewise.patching.metrics.registry import METRICS
from edgewise.patching.prompts.pairs import PromptPairs
from edgewise.patching.run.runner import Runner
from edgewise.patching.tasks import make_task
from edgewise.patching.trace import Values, at_answers
from tests.engine import (
    ablated_values,
    embedding,
    fitting,
    naive_run,
    one_of_each_type,
    tiny_lift,
    tiny_pairs,
    whole,
)
from tests.patching.test_whole_answers import spelled_pairs

SOME = ["gpt2", "llama", "gptj", "gemma2", "mistral-window", "mixtral", "olmo2", "gemma4-e"]


def metrics_with_gradients() -> list[str]:
    """List the metrics that can be differentiated away from the clean run."""
    return [name for name, metric in METRICS.items() if metric.differentiable]


def plain_local(
    runner: Runner, points: list[float], edges: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Score edges (row, column) by the definition: what owners write in a run without the edge."""
    (chunk,) = runner.chunks()
    model, batch, graph = runner.model, chunk.batch, runner.graph
    ablated = ablated_values(runner, chunk)
    full = torch.ones(graph.reads.shape, dtype=torch.float64)

    def losses(final: Tensor) -> Tensor:
        logits = model.logits(at_answers(final, batch.answer_position))
        return runner.metric.loss(logits, chunk.target)

    clean = embedding(model, batch.clean, batch.position_ids)
    base = ablated[: len(clean)]
    slopes: list[Tensor] = []
    for point in points:
        mixed = [(b + point * (a - b)).requires_grad_() for a, b in zip(clean, base, strict=True)]
        wrote, final = naive_run(model, batch.clean, whole(chunk), ablated, full, sources=mixed)
        total = losses(final).sum() / len(points)
        found = torch.autograd.grad(total, wrote, materialize_grads=True)
        slopes = [a + b for a, b in zip(slopes, found, strict=True)] if slopes else list(found)
    with torch.no_grad():
        wrote, final = naive_run(model, batch.clean, whole(chunk), ablated, full)
        each = []
        for row, column in edges:
            mask = full.clone()
            mask[row, column] = 0
            changed, end = naive_run(model, batch.clean, whole(chunk), ablated, mask)
            parts = [((changed[f] - wrote[f]) * slopes[f]).sum((-2, -1)) for f in graph.feeds[row]]
            each.append(sum(parts) if parts else losses(end) - losses(final))
    order = np.argsort(runner._rows[0])
    values = torch.stack([torch.as_tensor(x) for x in each]).numpy()[:, order]
    return values.mean(1), values


def some_edges(runner: Runner, most: int = 16) -> np.ndarray:
    """Draw edges into ports of all kinds, the embedding's into some, and one into `logits`."""
    draw, reads = np.random.default_rng(0), runner.graph.reads
    rows = draw.permutation(len(reads) - 1)[:most]
    drawn = [(row, draw.choice(np.flatnonzero(reads[row]))) for row in (*rows, len(reads) - 1)]
    mlps = [part[-1] for part in runner.graph.part_rows if part]
    return np.array(drawn + [(row, 0) for row in mlps if reads[row, 0]])


def agrees(runner: Runner, points: list[float], rtol: float = 1e-6) -> None:
    """Compare with the definition, on average and on each example."""
    edges, graph = some_edges(runner), runner.graph
    mean, values = plain_local(runner, points, edges)
    each = np.zeros((len(runner.pairs), graph.edge_count), dtype=np.float32)
    found = attribute_locally(runner, points, None, each).values
    assert (np.isnan(found) == ~graph.reads).all()
    scale = np.abs(mean).max()
    at = tuple(edges.T)
    np.testing.assert_allclose(found[at], mean, rtol=rtol, atol=1e-8 * scale)
    columns = graph.reads.ravel().cumsum().reshape(graph.reads.shape)[at] - 1
    np.testing.assert_allclose(each[:, columns], values.T, rtol=1e-4, atol=1e-5 * scale)
    np.testing.assert_allclose(
        each.mean(0), found[graph.reads], rtol=1e-4, atol=1e-5 * np.nanmax(np.abs(found))
    )


@pytest.mark.parametrize("name", one_of_each_type(copies=False).values())
def test_an_owner_is_recomputed_and_what_is_behind_it_linear(name: str) -> None:
    model = tiny_lift(name, grouped_kv=len(name) % 2 == 0)
    runner = Runner.create(model, tiny_pairs(lengths=(6, 4)), metric="logit_diff", batch_size=2)
    agrees(runner, [0.5, 1.0], rtol=1e-3 if model.parts_whole else 1e-6)  # own code is float32


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("ablation", ["zero", "mean", "noise"])
def test_whatever_ablated_edges_carry(name: str, ablation: str) -> None:
    pairs = tiny_pairs(lengths=fitting(ablation, (6, 3)))
    model = tiny_lift(name, split_embedding=name == "gpt2")
    agrees(Runner.create(model, pairs, metric="nll", ablation=ablation, batch_size=2), [1.0])


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("metric", metrics_with_gradients())
def test_edges_into_logits_have_their_exact_effect(name: str, metric: str) -> None:
    model = tiny_lift(name, dtype=torch.float32)
    runner = Runner.create(model, tiny_pairs(lengths=(6, 4, 5)), metric=metric, batch_size=2)
    row = len(runner.graph.ports) - 1
    found = attribute_locally(runner, [0.5]).values[row]
    (senders,) = runner.graph.reads[row].nonzero()
    masks = runner.graph.reads[None].repeat(1 + len(senders), axis=0)
    masks[1 + np.arange(len(senders)), row, senders] = False
    losses = runner.mask_losses(masks)
    np.testing.assert_allclose(found[senders], losses[1:] - losses[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("points", [[1.0], [0.0, 1.0]])
def test_where_owners_are_linear_it_is_the_gradient_score(
    name: str, points: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all that is ablated is next to what it was, every owner is linear in it."""
    model = tiny_lift(name)
    runner = Runner.create(model, tiny_pairs(lengths=(6, 4)), metric="logit_diff", batch_size=2)
    (chunk,) = runner.chunks()
    step = 1e-5

    def near(values: Values) -> Values:
        return values.map(lambda clean, base: clean + step * (base - clean), chunk.base.values)

    monkeypatch.setattr(runner._kept, "carried", lambda one: near(one.clean.values))
    close = replace(chunk, carried=runner.carried())
    runner._kept.chunks[0] = close
    slope, near_by = (make(runner, points).values / step for make in (attribute, attribute_locally))
    np.testing.assert_allclose(near_by, slope, rtol=2e-2, atol=1e-3 * np.nanmax(np.abs(slope)))


@pytest.mark.parametrize("name", ["gpt2", "llama", "gptj", "mixtral", "olmo2"])
def test_pieces_and_batches_do_not_matter(name: str) -> None:
    model, pairs = tiny_lift(name), tiny_pairs(lengths=(6, 4, 5))
    found = []
    for size, memory in ((3, 1 << 28), (2, 1), (1, 20000)):
        runner = Runner.create(model, pairs, metric="nll", batch_size=size)
        runner = replace(runner, budget=replace(runner.budget, questions=memory, tape=memory))
        each = np.zeros((3, model.graph.edge_count), dtype=np.float32)
        found.append((attribute_locally(runner, [0.0, 1.0], None, each).values, each))
    for values, each in found[1:]:
        np.testing.assert_allclose(values, found[0][0], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(each, found[0][1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gptj", "bloom", "gemma2", "mistral-window"])
def test_folded_heads_are_the_heads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner.create(tiny_lift(name, grouped_kv=True), tiny_pairs(lengths=(6, 4)))
    folded = attribute_locally(runner, [0.5]).values
    monkeypatch.setattr(local, "folds", lambda *_: False)
    mixed = attribute_locally(runner, [0.5]).values
    np.testing.assert_allclose(folded, mixed, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gptj", "llama-biases-tied"])
@pytest.mark.parametrize("quick", [False, True])
def test_what_is_of_second_order_may_be_of_half_precision(
    name: str, quick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curved, "SMALL", 1 / 2)  # random models change much
    monkeypatch.setattr(curved, "multiplies_fast", lambda _: quick)
    single, double = (
        attribute_locally(
            Runner.create(tiny_lift(name, dtype=dtype), tiny_pairs(lengths=(6, 4))), [1.0, 0.5]
        ).values
        for dtype in (torch.float32, torch.float64)
    )
    scale = np.nanmax(np.abs(double))
    np.testing.assert_allclose(single, double, rtol=1e-3, atol=(2e-3 if quick else 1e-5) * scale)


@pytest.mark.parametrize("name", ["llama", "gemma2"])
@pytest.mark.parametrize("metric", ["nll", "log_prob_diff"])
def test_answers_of_several_tokens(name: str, metric: str) -> None:
    model, pairs = tiny_lift(name), spelled_pairs(seed=3)
    each = np.zeros((len(pairs), model.graph.edge_count), dtype=np.float32)
    runner = Runner.create(model, pairs, metric=metric, batch_size=2)
    found = attribute_locally(runner, [1.0], None, each).values
    np.testing.assert_allclose(each.mean(0), found[model.graph.reads], rtol=1e-4, atol=1e-6)
    for i, pair in enumerate(pairs):
        alone = Runner.create(model, PromptPairs((pair,)), metric=metric)
        expected = attribute_locally(alone, [1.0]).values[model.graph.reads]
        np.testing.assert_allclose(each[i], expected, rtol=1e-4, atol=1e-6)
    row = len(runner.graph.ports) - 1
    masks = runner.graph.reads[None].repeat(2, axis=0)
    masks[1, row, 0] = False
    low, high = runner.mask_losses(masks)
    np.testing.assert_allclose(found[row, 0], high - low, rtol=1e-4, atol=1e-7)


def test_a_metric_without_a_gradient_is_refused() -> None:
    runner = Runner.create(tiny_lift("gpt2"), tiny_pairs(), metric="kl")
    with pytest.raises(EdgewiseError, match="kl"):
        attribute_locally(runner, [1.0])


@pytest.mark.real
def test_reference_values_of_smollm2() -> None:
    """Measured by another program on the same prompts."""
    names = [
        "embed->m0", "m0->a8.h1<k>", "a8.h1->a20.h0<v>", "m0->a24.h4<v>", "a23.h3->a24.h4<q>",
        "m20->m22", "m27->m29", "a23.h3->logits", "m10->m12", "a20.h0->a23.h3<k>",
    ]  # fmt: skip
    expected = {
        (1.0,): [1.838508, -0.001415, 0.064141, 0.375662, -0.810161, -0.837573, -0.423462,
                 1.980237, -0.042771, 0.002682],
        (0.0, 1.0): [-0.316510, -0.001693, 0.135720, 0.391749, -0.955371, -0.484747, -0.263198,
                     1.980237, -0.050228, 0.002483],
        (0.0, 0.2, 0.4, 0.6, 0.8): [3.683627, -0.000665, 0.172435, 0.393368, -0.996281, -0.484647,
                                    -0.168537, 1.980237, -0.011433, 0.002487],
    }  # fmt: skip
    loaded = load("smollm2-135m")
    options = {"examples": 8, "seed": 0, "length": 14, "corruption": "third-name"}
    pairs = make_task("ioi", tokenizer=loaded.tokenizer, **options).pairs
    assert pairs.sha256 == "4840d95476ec2c10fca3016682926410ef8074838d5f4fb749c82e2e3a34bff6"
    runner = Runner.create(describe(loaded.model), pairs, metric="logit_diff")
    for points, values in expected.items():
        found = attribute_locally(runner, points)
        np.testing.assert_allclose([found[name] for name in names], values, rtol=0, atol=1e-4)
