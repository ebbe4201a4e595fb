"""Path patching: identities with activation patching, and with a plain recomputation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import EdgewiseError, GraphMismatch, NameSyntaxError
from edgewise.graphs.lift.lifted import LiftedModel
from edgewise.graphs.names import Edge, Node
from edgewise.patching.paths import Path, patch_paths
from edgewise.patching.run.chunk import Chunk
from edgewise.patching.run.runner import Runner
from edgewise.patching.trace import at_answers
from tests.engine import (
    ABLATIONS,
    ablated_values,
    naive_run,
    naive_values,
    tiny_lift,
    tiny_pairs,
    whole,
)


def everything_from(model: LiftedModel, start: str) -> Path:
    """Return all edges on any route from a sender to `logits` as one path."""
    graph = model.graph
    reached = {graph.sender_index[Node.parse(start)]}
    edges: list[Edge] = []
    for row, feeds in enumerate(graph.feeds):
        into = [c for c in np.flatnonzero(graph.reads[row]) if c in reached]
        edges += [graph.edge_at(row, c) for c in into]
        if into:
            reached |= set(feeds)
    return Path(Node.parse(start), tuple(edges), f"all from {start}")


def patched_loss(
    runner: Runner, chunk: Chunk, start: str, ids: torch.Tensor, new: torch.Tensor
) -> float:
    """Put one sender's new value into a run on ids and let everything after it follow."""
    model = runner.model
    graph = model.graph
    old = naive_values(model, ids, whole(chunk))
    column = graph.sender_index[Node.parse(start)]
    ablated = list(old)
    ablated[column] = new
    mask = torch.ones(graph.reads.shape, dtype=torch.float64)
    mask[:, column] = 0
    _, final = naive_run(model, ids, whole(chunk), ablated, mask)
    logits = model.logits(at_answers(final, chunk.batch.answer_position))
    return float(runner.metric.loss(logits, chunk.target).mean())


@pytest.mark.parametrize(
    ("name", "start"),
    [(name, start) for name in ("gpt2", "llama") for start in ("embed", "a0.h1", "m0", "a1.h0")]
    + [("qwen2-moe", start) for start in ("embed", "a0.h1", "m0.e1", "m0.shared", "m1.e2")]
    + [("gemma4-e", start) for start in ("embed", "a0.h1", "m0", "a3.h0")],
)
@pytest.mark.parametrize("denoise", [False, True])
def test_all_routes_together_are_activation_patching(name: str, start: str, denoise: bool) -> None:
    model = tiny_lift(name)
    runner = Runner.create(model, tiny_pairs(lengths=(5, 6)), metric="nll", batch_size=2)
    (chunk,) = runner.chunks()
    batch = chunk.batch
    base, other = (batch.corrupted, batch.clean) if denoise else (batch.clean, batch.corrupted)
    new = naive_values(model, other, whole(chunk))[runner.graph.sender_index[Node.parse(start)]]
    (effect,) = patch_paths(runner, [everything_from(model, start)], denoise=denoise)
    assert effect.loss_after == pytest.approx(patched_loss(runner, chunk, start, base, new))
    unpatched = Circuit.empty(model.graph) if denoise else Circuit.full(model.graph)
    assert effect.loss_before == pytest.approx(runner.loss(unpatched))


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_a_path_changes_only_what_lies_on_it(grouped: bool, ablation: str) -> None:
    model = tiny_lift("llama", grouped_kv=grouped)
    runner = Runner.create(model, tiny_pairs(), ablation=ablation, batch_size=3)
    (chunk,) = runner.chunks()
    head, group = ("a1.kv0", [0, 1]) if grouped else ("a1.h1", [1])
    (effect,) = patch_paths(runner, [f"a0.h2->{head}<k>->logits"])
    batch, graph = chunk.batch, model.graph
    clean = naive_values(model, batch.clean, whole(chunk))
    column = graph.sender_index[Node.parse("a0.h2")]
    new = ablated_values(runner, chunk)[column].expand_as(clean[column])
    # run with only this sender's edge into this port ablated; keep what the heads then write
    mask = torch.ones(graph.reads.shape, dtype=torch.float64)
    mask[graph.locate(Edge.parse(f"a0.h2->{head}<k>"))] = 0
    wrote, _ = naive_run(
        model,
        batch.clean,
        whole(chunk),
        [new if i == column else c for i, c in enumerate(clean)],
        mask,
    )
    _, final = naive_run(model, batch.clean, whole(chunk), clean, torch.ones_like(mask))
    for index in group:
        at = graph.sender_index[Node.parse(f"a1.h{index}")]
        final = final + wrote[at] - clean[at]
    logits = model.logits(at_answers(final, batch.answer_position))
    assert effect.loss_after == pytest.approx(
        float(runner.metric.loss(logits, chunk.target).mean())
    )


def test_a_star_ranks_the_heads_of_a_layer() -> None:
    runner = Runner.create(tiny_lift("llama"), tiny_pairs())
    found = patch_paths(runner, ["a0.*->a1.h2<k>->logits"])
    assert [effect.name for effect in found] == [
        f"a0.h{head}->a1.h2<k>->logits" for head in range(4)
    ]
    (alone,) = patch_paths(runner, ["a0.h3->a1.h2<k>->logits"])
    assert found[3].effect == pytest.approx(alone.effect)
    assert len({effect.effect for effect in found}) == 4
    assert len(patch_paths(runner, ["a0.*->a1.*<q>->logits"])) == 16


def test_a_path_goes_through_one_expert_or_through_all() -> None:
    model = tiny_lift("mixtral")
    runner = Runner.create(model, tiny_pairs(lengths=(6,)), metric="nll", batch_size=1)
    (chunk,) = runner.chunks()
    batch, graph = chunk.batch, model.graph
    clean, other = (naive_values(model, i, whole(chunk)) for i in (batch.clean, batch.corrupted))
    at = graph.sender_index[Node.parse("a0.h1")]
    _, final = naive_run(
        model, batch.clean, whole(chunk), clean, torch.ones(graph.reads.shape, dtype=torch.float64)
    )
    stream = sum(clean[: model.graph.heads + 1]) + other[at] - clean[at]
    writes = model.blocks[0].writes(stream)
    first = graph.mlp_columns[0].start
    for text, chosen in (("a0.h1->m0.e2->logits", [2]), ("a0.h1->m0->logits", [0, 1, 2, 3])):
        end = final + sum(writes[i] - clean[first + i] for i in chosen)
        logits = model.logits(at_answers(end, batch.answer_position))
        (effect,) = patch_paths(runner, [text])
        expected = float(runner.metric.loss(logits, chunk.target).mean())
        assert effect.loss_after == pytest.approx(expected)


def test_a_star_ranks_the_experts_of_a_layer() -> None:
    runner = Runner.create(tiny_lift("qwen2-moe-first-dense"), tiny_pairs())
    found = patch_paths(runner, ["m1.*->m2.*->logits"])
    senders = ["e0", "e1", "e2", "shared"]
    assert [effect.name for effect in found] == [
        f"m1.{a}->m2.{b}->logits" for a in senders for b in senders
    ]
    assert [effect.name for effect in patch_paths(runner, ["m0.*->logits"])] == ["m0->logits"]
    for text in ("m1.e3->logits", "m1->m2->logits", "embed->m1.e7->logits", "embed->m0.e0->logits"):
        with pytest.raises(GraphMismatch, match="the graph has no"):
            patch_paths(runner, [text])


def test_batches_do_not_matter() -> None:
    model, pairs = tiny_lift("gpt2"), tiny_pairs(lengths=(5, 3, 6, 4))
    paths = ["embed->m0->logits", "a0.h0->logits"]
    found = [patch_paths(Runner.create(model, pairs, batch_size=n), paths) for n in (1, 3)]
    for one, other in zip(*found, strict=True):
        assert one.effect == pytest.approx(other.effect)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("a0.h1", NameSyntaxError, "is not a path; accepted: a sender, ports, and last logits"),
        ("a0.h1->m1", NameSyntaxError, "is not a path"),
        ("a0.h1->a1.h0->logits", NameSyntaxError, "a1.h0 has these: a1.h0<q>, a1.h0<k>, a1.h0<v>"),
        ("a1.h0->a0.h0<q>->logits", GraphMismatch, "a1.h0 writes after a0.h0<q> reads"),
        ("a0.h9->logits", GraphMismatch, "the graph has no sender a0.h9"),
        ("a9.*->logits", GraphMismatch, "the graph has no sender a9.h0"),
        ("logits->logits", GraphMismatch, "no sender logits"),
    ],
)
def test_wrong_paths(text: str, error: type[Exception], message: str) -> None:
    runner = Runner.create(tiny_lift("gpt2"), tiny_pairs())
    with pytest.raises(error, match="(?s).*" + message.replace("(", r"\(")):
        patch_paths(runner, [text])


def test_denoising_needs_a_corrupted_run() -> None:
    runner = Runner.create(tiny_lift("gpt2"), tiny_pairs(), ablation="zero")
    with pytest.raises(EdgewiseError, match="with ablation 'zero' there is none"):
        patch_paths(runner, ["embed->logits"], denoise=True)
