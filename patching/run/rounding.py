"""Compare a lift with the original block by block, in units of what rounding does.

A small mistake of a lift can hide behind the rounding that piles up in many layers. So every lifted
block is given the original's own hidden states, and three outputs are compared:

1. x, what the original's block makes of them;
2. y, what the lifted block makes of them, in the same type;
3. z, what the lifted block makes of them in float64.

A right lift differs from the original by rounding alone: x − z is as large as y − z. In a wrong
one x − z is larger, because y and z share the mistake: a gelu in the place of its tanh form is more
than 70 times what is accepted. The last block is compared in logits. Where nothing is wider than
the type of x and y, y stands for z, and x may be as far from it as float32 rounds: the norms of
most models compute in float32 whatever their type. So it is in blocks with parts that are taken
whole, some of which know no float64.
A token that stands between two experts may be sent to either by rounding; in blocks with experts
the fifth of the tokens that differ most is left out.

Shapes: B examples, T positions, n real tokens, D d_model (V vocabulary in the last comparison).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ...graphs.lift.experts import Beside, Experts
from ...graphs.lift.lifted import AttentionContext, Block, LiftedModel, Whole
from ..prompts.pairs import Batch
from ..trace import of_keys, run_layer
from .widening import HALF_TYPES, Widening

MEAN_EXCESS, TOKEN_EXCESS = 8.0, 32.0  # how far above the lift's rounding the original may be

OWN_CODE = 8.0
"""What rounding a block is taken to have that runs the model's own code: state spaces and delta
nets carry what they are given far, and know no float64."""

LEAST, SMALLEST = 0.05, 1e-30
"""Least rounding that a block is taken to have, in its unit, and the least of which it is a part:
one that computes exactly, such as one of zeros, has none."""


@torch.no_grad()
def block_excess(
    model: LiftedModel, batch: Batch, logits: Tensor, hidden: list[Tensor]
) -> float | None:
    """Return how large the original's distance from the lift is, in parts of what is accepted.

    Right lifts give about 0.12. None without hidden states. `logits`, `hidden`: the original's of
    clean prompts, [B, T, V] and per block [B, T, D], of one type.
    """
    if not hidden:
        return None
    worst = 0.0
    types = (logits.dtype, model.dtype)  # some models of float64 give logits of float32
    wider = torch.float64 not in types and logits.device.type != "mps"
    outputs = _outputs(model, batch, logits, hidden, wider)
    for block, (x, y, z, before) in zip(model.blocks, outputs, strict=True):
        rounded = z.abs() + before.abs() + _mean_square(z - before)[:, None]
        unit = torch.finfo(torch.float32).eps * rounded.clamp(min=SMALLEST)
        original, own = _mean_square((x - z) / unit), _mean_square((y - z) / unit)
        if not wider or _own_code(block):
            own = torch.full_like(own, OWN_CODE if _own_code(block) else 1.0)
        if isinstance(block.mlp, Experts | Beside):
            certain = torch.maximum(original, own).argsort()[: -(-4 * len(own) // 5)]
            original, own = original[certain], own[certain]
        usual = own.mean().clamp(min=LEAST)
        mean = original.mean() / usual / MEAN_EXCESS
        token = (2 * original / (own + usual)).max() / TOKEN_EXCESS
        worst = float(np.maximum(worst, float(torch.maximum(mean, token))))  # NaN stays
    return worst


def _outputs(
    model: LiftedModel, batch: Batch, logits: Tensor, hidden: list[Tensor], wider: bool
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield x, y, z (see the module) and what the stream held before, of real tokens, float64."""
    last = len(model.blocks) - 1
    context = AttentionContext(batch.mask, batch.position_ids)
    in_float64 = Widening([*HALF_TYPES, torch.float32], torch.float64)
    given = exact = model.give(batch.clean)
    if wider and given:
        with in_float64:
            exact = model.give(batch.clean)
    for layer, block in enumerate(model.blocks):

        def run(
            stream: Tensor, keys: Tensor, given: Sequence[Tensor], layer: int = layer
        ) -> Tensor:
            out = run_layer(model, layer, stream, keys, context, given=given).stream
            return out if layer < last else model.logits(out)

        stream, keys = hidden[layer], of_keys(block, hidden, layer)
        y = z = run(stream, keys, given)
        if wider and not _own_code(block):
            with in_float64:
                z = run(stream.double(), keys.double(), exact)
        x = hidden[layer + 1] if layer < last else logits
        before = hidden[layer] if layer < last else torch.zeros_like(x)
        x, y, z, before = (part[batch.mask].double() for part in (x, y, z, before))
        yield x, y, z, before


def _own_code(block: Block) -> bool:
    """Tell whether a block runs modules of the model's own, some of which know no float64."""
    return isinstance(block.mlp, Whole) or isinstance(block.attention, Whole)


def _mean_square(x: Tensor) -> Tensor:
    """Return the root of the mean square over features, [n]."""
    return x.square().mean(-1).sqrt()
