"""Compare a lift with the original block by block, in units of what rounding does.

In bfloat16 two right computations of one model drift apart by a tenth of the largest logit, behind
which a small mistake of a lift could hide. So every lifted block is given the original's own hidden
states, where no rounding of earlier blocks has piled up, and three outputs are compared:

1. x, what the original's block makes of them, in the model's type;
2. y, what the lifted block makes of them, in the same type;
3. z, what the lifted block makes of them in float32, one block widened at a time.

A right lift differs from the original by rounding alone: x − z is as large as y − z. In a wrong
one x − z is larger, because y and z share the mistake. The last block is compared in logits.
A token that stands between two experts may be sent to either by rounding; in blocks with experts
the fifth of the tokens that differ most is left out.

Shapes: B examples, T positions, n real tokens, D d_model (V vocabulary in the last comparison).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...graphs.lift.experts import Experts
from ...graphs.lift.lifted import AttentionContext, Block, LiftedModel, working_dtype
from ..prompts.pairs import Batch
from ..trace import run_plain

MEAN_EXCESS, TOKEN_EXCESS = 2.0, 8.0  # how far above the lift's rounding the original may be
HALF_TYPES = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class _Fed(LiftedModel):
    """A model of one block with given states, [B, T, D], in the place of its embedding."""

    states: Tensor | None = None

    def embed(self, ids: Tensor, position_ids: Tensor) -> Tensor:
        assert self.states is not None
        return self.states[None]


@torch.no_grad()
def rounding_excess(
    model: LiftedModel, batch: Batch, logits: Tensor, hidden: list[Tensor]
) -> float | None:
    """Return how large the original's distance from the lift is, in parts of what is accepted.

    Right lifts give about 0.5. None for types in which rounding hides nothing, and without hidden
    states. `logits`, `hidden`: the original's of clean prompts, [B, T, V] and per block [B, T, D].
    """
    if model.dtype not in HALF_TYPES or not hidden:
        return None
    worst = 0.0
    outputs = _outputs(model, batch, logits, hidden)
    for block, (x, y, z, before) in zip(model.blocks, outputs, strict=True):
        rounded = z.abs() + before.abs() + _mean_square(z - before)[:, None]
        unit = torch.finfo(model.dtype).eps * rounded
        original, own = _mean_square((x - z) / unit), _mean_square((y - z) / unit)
        if isinstance(block.mlp, Experts):
            certain = torch.maximum(original, own).argsort()[: -(-4 * len(own) // 5)]
            original, own = original[certain], own[certain]
        usual = own.mean()
        mean = original.mean() / usual / MEAN_EXCESS
        token = (2 * original / (own + usual)).max() / TOKEN_EXCESS
        worst = float(np.maximum(worst, float(torch.maximum(mean, token))))  # NaN stays
    return worst


def _outputs(
    model: LiftedModel, batch: Batch, logits: Tensor, hidden: list[Tensor]
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield x, y, z (see the module) and what the stream held before, of real tokens, float64."""
    wide = working_dtype(model.dtype)
    last = len(model.blocks) - 1
    for layer, block in enumerate(model.blocks):
        states = hidden[layer]
        y = _run_block(model, block, states, batch)
        z = _run_block(model, widened(block, model.dtype), states.to(wide), batch)
        if layer < last:
            found = (hidden[layer + 1], y, z, states)
        else:
            norm, unembed = (widened(x, model.dtype) for x in (model.final_norm, model.unembed))
            exact = replace(model, final_norm=norm, unembed=unembed).logits(z)
            found = (logits, model.logits(y), exact, torch.zeros_like(exact))
        x, y, z, before = (part[batch.mask].double() for part in found)
        yield x, y, z, before


def _run_block(model: LiftedModel, block: Block, states: Tensor, batch: Batch) -> Tensor:
    """Return the stream behind one block that reads these states, [B, T, D]."""
    parts = {field.name: getattr(model, field.name) for field in fields(LiftedModel)}
    experts = (block.mlp.senders,) if isinstance(block.mlp, Experts) else ()
    shared = bool(experts) and model.graph.shared_experts
    graph = replace(
        model.graph, layers=1, split_embedding=False, experts=experts, shared_experts=shared
    )
    fed = _Fed(**{**parts, "blocks": (block,), "graph": graph}, states=states)
    context = AttentionContext(batch.mask, batch.position_ids)
    return run_plain(fed, batch.clean, context).streams.final


def widened(value: Any, dtype: torch.dtype) -> Any:
    """Return a description whose tensors of this type are widened to float32."""
    if isinstance(value, Tensor):
        return value.to(working_dtype(dtype)) if value.dtype == dtype else value
    if isinstance(value, tuple):
        return tuple(widened(item, dtype) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: widened(getattr(value, field.name), dtype) for field in fields(value)}
        return replace(value, **parts)
    return value


def _mean_square(x: Tensor) -> Tensor:
    """Return the root of the mean square over features, [n]."""
    return x.square().mean(-1).sqrt()
