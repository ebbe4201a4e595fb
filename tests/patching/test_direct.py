"""Direct logit attribution: what senders and constants add sums up to the logits, in all models."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from edgewise.graphs.lift.lifted import AttentionContext, LiftedModel
from edgewise.patching.heads.direct import Direct, frozen
from edgewise.patching.trace import Trace, run_plain
from tests.configs import CONFIGS
from tests.engine import tiny_lift


def written(model: LiftedModel, run: Trace) -> Tensor:
    """Return what every sender, head by head, and every constant adds to the stream, [n, B, D]."""
    values, parts = run.values, list(run.values.sources[:, :, -1])
    for layer, block in enumerate(model.blocks):
        heads = block.attention.outputs(values.z[layer][:, -1].transpose(0, 1))
        summed = run.streams.post[layer][:, -1] if model.graph.post_norm else None
        parts += frozen(block.attention_post_norm, summed, heads)
        constant, post = block.attention.constant, block.attention_post_norm
        if constant is not None:
            whole = constant.expand_as(parts[0])
            parts.append(frozen(block.attention_post_norm, summed, whole[None])[0])
        if post is not None and post.bias is not None:
            parts.append(post.bias.expand_as(parts[0]))
        parts += values.mlp[layer][:, :, -1]
    return torch.stack(parts)


@pytest.mark.parametrize("name", CONFIGS)
def test_parts_sum_up_to_the_logits(name: str) -> None:
    model = tiny_lift(name)
    ids = torch.randint(31, (2, 6), generator=torch.Generator().manual_seed(0))
    mask, positions = torch.ones(2, 6, dtype=torch.bool), torch.arange(6).expand(2, -1)
    run = run_plain(model, ids, AttentionContext(mask, positions))
    final = run.streams.final[:, -1]
    answers, distractors = torch.tensor([[3, 5], [4, -1]]), torch.tensor([[7, -1], [-1, -1]])
    direct = Direct(model, final, answers, distractors)
    normed = direct.normed(written(model, run))
    norm, bias = model.final_norm, model.unembed.bias
    rest = torch.zeros_like(final) if norm is None or norm.bias is None else norm.bias
    whole = normed.sum(0) + rest
    logits = direct.logits(whole)
    if bias is not None:
        logits = logits + bias * model.logit_scale
    if model.logit_softcap is not None:
        logits = (logits / model.logit_softcap).tanh() * model.logit_softcap
    expected = model.logits(final)
    scale = expected.abs().max()
    assert (logits - expected).abs().max() < 1e-9 * scale
    if model.logit_softcap is None:
        first = expected[0, [3, 5]].mean() - expected[0, 7]
        second = expected[1, 4] - expected[1].mean()  # no distractor: the mean of all
        difference = torch.stack((first, second))
        assert (direct.total - difference).abs().max() < 1e-9 * scale
        if bias is None:
            parts = direct.difference(normed).sum(0) + direct.difference(
                rest.expand_as(final)[None]
            )
            assert (parts - difference).abs().max() < 1e-9 * scale


def test_without_a_norm_nothing_changes() -> None:
    x = torch.tensor([[1.0, 2.0]])
    assert frozen(None, x, x) is x
