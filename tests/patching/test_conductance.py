"""Edge conductance: the sums that must hold, and the plain definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgewise.discovery.registry import get_method
from edgewise.experiment.task import TaskSpec
from edgewise.graphs.errors import ModelNotFound
from edgewise.patching.gradients.conductance import conductance
from edgewise.patching.run.runner import Runner
from edgewise.patching.trace import at_answers
from edgewise.session import make_runner, open_model, open_split
from tests.engine import (
    embedding,
    held,
    naive_run,
    tiny_lift,
    tiny_pairs,
    whole,
)


def plainly(runner: Runner, steps: int) -> np.ndarray:
    """Return the scores by the definition: whole runs, and a gradient at every port."""
    (chunk,) = runner.chunks()
    model, graph, ids = runner.model, runner.graph, chunk.batch.clean
    context = whole(chunk)
    clean = embedding(model, ids, context.position_ids)
    if runner.ablation.name == "resample":
        ablated = embedding(model, chunk.batch.corrupted, context.position_ids)
    else:
        ablated = [torch.zeros_like(x) for x in clean]
    everything = torch.ones(graph.reads.shape, dtype=torch.float64)
    zeros = [torch.zeros(())] * len(graph.senders)

    def run(point: float, offsets: dict[int, torch.Tensor] | None = None):  # type: ignore[no-untyped-def]
        sources = [point * a + (1 - point) * b for a, b in zip(clean, ablated, strict=True)]
        return naive_run(model, ids, context, zeros, everything, offsets, sources)

    total = np.zeros(graph.reads.shape)
    for k in range(steps):
        shape = (*ids.shape, 1)
        offsets = {
            row: torch.zeros(*shape[:-1], held(model, port), dtype=model.dtype, requires_grad=True)
            for row, port in enumerate(graph.ports)
        }
        _, final = run(1 - (k + 0.5) / steps, offsets)
        logits = model.logits(at_answers(final, chunk.batch.answer_position))
        loss = runner.metric.loss(logits, chunk.target).mean()
        found = torch.autograd.grad(loss, list(offsets.values()), materialize_grads=True)
        ends = [run(1 - (k + i) / steps)[0] for i in (0, 1)]
        for row, gradient in enumerate(found):
            for sender in np.flatnonzero(graph.reads[row]):
                change = ends[1][sender] - ends[0][sender]
                width = min(model.d_model, change.shape[-1])
                product = change[..., :width] * gradient[..., :width]
                total[row, sender] += float(product.sum())
    return np.where(graph.reads, total, np.nan)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "mixtral", "gpt-neox"])
@pytest.mark.parametrize("ablation", ["resample", "zero"])
def test_it_is_what_the_definition_says(name: str, ablation: str) -> None:
    runner = Runner.create(tiny_lift(name), tiny_pairs(lengths=(5, 4)), ablation=ablation)
    scores = conductance(runner, 2).values
    np.testing.assert_allclose(scores, plainly(runner, 2), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "metric"), [("gpt2", "logit_diff"), ("gpt2", "kl"), ("llama", "nll"), ("gemma3", "kl")]
)
def test_scores_into_the_logits_add_up_to_the_change_of_the_loss(name: str, metric: str) -> None:
    runner = Runner.create(tiny_lift(name), tiny_pairs(lengths=(4, 4)), metric=metric)
    masks = np.stack([np.zeros_like(runner.graph.reads), runner.graph.reads])
    ablated, clean = runner.mask_losses_each(masks).mean(1)
    found = [np.nansum(conductance(runner, steps).values[-1]) for steps in (10, 200)]
    wanted = ablated - clean
    assert found[1] == pytest.approx(wanted, rel=1e-2, abs=1e-2)
    assert abs(found[1] - wanted) <= abs(found[0] - wanted) + 1e-6


def test_batches_and_examples() -> None:
    model, pairs = tiny_lift("qwen3"), tiny_pairs(lengths=(5, 6, 4))
    method = get_method("conductance")
    found = method(Runner.create(model, pairs, batch_size=2), steps=3, per_example=True)
    together = method(Runner.create(model, pairs), steps=3)
    np.testing.assert_allclose(found.scores.values, together.scores.values, 1e-5, 1e-7)
    assert found.examples is not None
    mean = found.examples.values.mean(0)
    np.testing.assert_allclose(mean, found.scores.values[model.graph.reads], 1e-4, 1e-6)


def test_in_one_piece_it_is_the_gradient_in_the_middle() -> None:
    runner = Runner.create(tiny_lift("gpt2"), tiny_pairs())
    middle = get_method("eap-ig")(runner, steps=1, midpoint=True).scores.values
    np.testing.assert_allclose(conductance(runner, 1).values, middle, rtol=1e-5, atol=1e-7)


def test_what_mlps_are_given_past_the_stream() -> None:
    runner = Runner.create(tiny_lift("gemma4"), tiny_pairs(lengths=(5, 4)))
    found = conductance(runner, 1).values
    middle = get_method("eap-ig")(runner, steps=1, midpoint=True).scores.values
    np.testing.assert_allclose(found, middle, rtol=1e-5, atol=1e-7)
    parts = conductance(runner, 3).values
    assert np.isfinite(parts[runner.graph.reads]).all()


REFERENCE = {
    "embed->m0": (4.208056, 5.002304),
    "m0->a8.h1<k>": (-0.002961, -0.001782),
    "a8.h1->a20.h0<v>": (0.170288, 0.170181),
    "m0->a24.h4<v>": (0.522290, 0.524918),
    "a23.h3->a24.h4<q>": (-0.720144, -0.716290),
    "m20->m22": (-0.528420, -0.532433),
    "m27->m29": (-0.252906, -0.254267),
    "a23.h3->logits": (2.065056, 2.065940),
    "m10->m12": (-0.042976, -0.044499),
    "a20.h0->a23.h3<k>": (0.000335, 0.000062),
}
"""Of ioi in SmolLM2-135M by a plain implementation, in 5 and 10 pieces."""


@pytest.mark.real
def test_a_real_model_against_another_implementation() -> None:
    try:
        session = open_model("smollm2-135m", device="cpu")
    except ModelNotFound as error:
        pytest.skip(str(error))
    options = {"length": 14, "corruption": "third-name"}
    pairs = open_split(session, TaskSpec("ioi", examples=8, options=options)).discovery
    runner = make_runner(session, pairs, metric="logit_diff", ablation="resample")
    for column, steps in enumerate((5, 10)):
        scores = conductance(runner, steps)
        for edge, expected in REFERENCE.items():
            assert scores[edge] == pytest.approx(expected[column], abs=1e-3)
