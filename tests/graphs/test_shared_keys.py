"""Keys of earlier layers, and embeddings per layer: what edges carry, and wrong lifts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from edgewise.graphs.circuit import Circuit
from edgewise.graphs.lift.lifted import Block, LiftedModel, SharedKeys
from edgewise.patching.run.certificate import certify
from edgewise.patching.run.runner import Runner
from edgewise.patching.trace import at_answers
from tests.engine import tiny_lift, tiny_pairs


def changed(model: LiftedModel, change: Callable[[Block], Block]) -> LiftedModel:
    return replace(model, blocks=tuple(map(change, model.blocks)))


def other_gate(block: Block) -> Block:
    assert block.gate is not None
    return replace(block, gate=replace(block.gate, activation="silu"))


def unscaled_gate(block: Block) -> Block:
    assert block.gate is not None
    return replace(block, gate=replace(block.gate, scale=1.0))


def own_norm(block: Block) -> Block:
    if block.shared is None:
        return block
    return replace(block, shared=SharedKeys(block.shared.source, block.attention_norm))


def without_values_norm(block: Block) -> Block:
    if block.shared is None:
        return block
    return replace(block, attention=replace(block.by_head, value_norm=None))


WRONG: dict[str, Callable[[LiftedModel], LiftedModel]] = {
    "gate's activation": lambda model: changed(model, other_gate),
    "gate's scale": lambda model: changed(model, unscaled_gate),
    "norm before shared keys": lambda model: changed(model, own_norm),
    "norm of shared values": lambda model: changed(model, without_values_norm),
    "factor of what tokens give": lambda model: replace(
        model, per_layer=replace(model.per_layer, factor=1.0)
    ),
    "scale of the table": lambda model: replace(
        model, per_layer=replace(model.per_layer, table_scale=1.0)
    ),
    "source of keys": lambda model: replace(
        changed(
            model,
            lambda b: (
                replace(b, shared=replace(b.shared, source=1 - b.shared.source)) if b.shared else b
            ),
        ),
        graph=replace(model.graph, kv_sources=(0, 1, 1, 0)),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_certificate_sees_a_wrong_part(name: str) -> None:
    model = tiny_lift("gemma4-e", dtype=torch.float32)
    certify(model).require()
    assert not certify(WRONG[name](model)).passed


def test_the_edge_from_the_embedding_carries_what_a_token_gives_a_layer() -> None:
    """With no other edge, the MLP reads the corrupted stream, but both parts of `embed`'s."""
    model = tiny_lift("gemma4-e")
    runner = Runner.create(model, tiny_pairs(lengths=(6,)), metric="nll")
    (chunk,) = runner.chunks()
    for layer, block in enumerate(model.blocks):
        for kept in (True, False):
            edges = [f"m{layer}->logits", *([f"embed->m{layer}"] if kept else [])]
            circuit = Circuit.empty(model.graph).with_edges(edges)
            found = runner.chunk_logits(chunk, circuit.kept[None])[0]
            x = chunk.base.streams.mlp[layer].clone()
            if kept:
                x[..., : model.d_model] += (chunk.clean.values.sources - chunk.base.values.sources)[
                    0
                ]
                x[..., model.d_model :] = chunk.clean.values.given[layer]
            final = chunk.base.streams.final - chunk.base.values.mlp[layer][0] + block.write(x)
            expected = model.logits(at_answers(final, chunk.batch.answer_position - chunk.start))
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_heads_that_share_keys_can_be_cut_off_one_by_one() -> None:
    """An edge into one head's keys changes that head alone, and not the layer they come from."""
    model = tiny_lift("gemma4-e")
    runner = Runner.create(model, tiny_pairs(lengths=(6,)), metric="nll")
    graph = model.graph
    assert graph.kv_sources == (0, 1, 0, 1)
    full = runner.loss(Circuit.full(graph))
    losses = {}
    for layer in (1, 3):
        kept = graph.reads.copy()
        kept[graph.locate(f"m0->a{layer}.h0<k>")] = False
        losses[layer] = runner.loss(Circuit(graph, kept))
    assert len({full, *losses.values()}) == 3
    own, shared = (model.blocks[3].norm_of(letter) for letter in "qk")
    source = model.blocks[1].attention_norm
    assert own is model.blocks[3].attention_norm
    assert own is not None and shared is not None and source is not None
    assert shared.eps == source.eps != own.eps
    assert shared.weight is not None and source.weight is not None
    assert shared.weight.data_ptr() == source.weight.data_ptr()
