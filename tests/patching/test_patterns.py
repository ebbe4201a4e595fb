"""Attention patterns: of every lifted family, exactly those that mix the values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from edgewise.graphs.lift.lifted import AttentionContext, LiftedModel
from edgewise.graphs.lift.lifting import describe
from edgewise.patching.trace import of_keys, patterns, project, repeat_kv, run_plain
from tests.configs import CONFIGS
from tests.engine import tiny_lift, tiny_model


def padded(model: LiftedModel, length: int = 9) -> tuple[Tensor, AttentionContext]:
    """Make two prompts, the second of which is shorter."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(len(model.tokens), (2, length), generator=draw)
    mask = torch.arange(length) < torch.tensor([length, length - 3])[:, None]
    return ids, AttentionContext(mask, torch.arange(length).expand(2, -1))


@pytest.mark.parametrize("name", CONFIGS)
def test_patterns_mix_the_values(name: str) -> None:
    model = tiny_lift(name)
    ids, context = padded(model)
    run = run_plain(model, ids, context)
    at = torch.tensor([7, 4])
    alone = AttentionContext(context.mask, context.position_ids, at=at)
    for layer, block in enumerate(model.blocks):
        stream = run.streams.attention[layer]
        found = patterns(run, layer, context)  # [B, H, T, T]
        real = context.mask[:, None, :, None].expand(*found.shape[:3], 1)
        rows = found.sum(-1, keepdim=True)[real]
        if block.attention.sinks is None:
            assert (rows - 1).abs().max() < 1e-6
        else:
            assert ((rows > 0) & (rows < 1)).all()
        assert found.masked_fill(~context.hidden(None), 0).masked_fill(~real, 0).abs().max() == 0
        keys = block.read(of_keys(block, run.streams.attention, layer), "v")
        v = block.attention.values(repeat_kv(block, project(block, "v", keys)))
        mixed = torch.einsum("bhqt,bthk->bqhk", found.to(v.dtype), v)
        mixed = block.attention.gated(mixed, project(block, "q", block.read(stream)))
        difference = (mixed - run.values.z[layer])[context.mask].abs().max()
        assert difference <= 1e-10 * run.values.z[layer].abs().max()
        single = patterns(run, layer, alone)[:, :, 0]  # [B, H, T]
        picked = found[torch.arange(2), :, at]
        torch.testing.assert_close(single, picked, rtol=1e-10, atol=1e-12)


OWN = [name for name in CONFIGS if not name.startswith("falcon")]
"""Falcon, asked for its weights, attends without a mask or without ALiBi."""


@pytest.mark.parametrize("name", OWN)
@torch.no_grad()
def test_patterns_are_the_original_models(name: str) -> None:
    original = tiny_model(name)
    original.set_attn_implementation("eager")
    model = describe(original)
    ids = torch.randint(31, (2, 8), generator=torch.Generator().manual_seed(1))
    mask, positions = torch.ones(2, 8, dtype=torch.bool), torch.arange(8).expand(2, -1)
    context = AttentionContext(mask, positions)
    run = run_plain(model, ids, context)
    attentions = original(ids, output_attentions=True).attentions
    for layer, theirs in enumerate(attentions):
        ours = patterns(run, layer, context)
        torch.testing.assert_close(ours, theirs.to(ours.dtype), rtol=0, atol=2e-5)
