"""Edge conductance: gradients along the way times what each sender changes on each piece of it.

The way leads from the clean run to that from the ablated embedding in m pieces, z_0 … z_m. With
o_u(z) what u writes in the run from z,

    s(u→p) = mean over examples of Σ_k ∂loss/∂x_p(z_{k+½}) · (o_u(z_{k+1}) − o_u(z_k)) ,

the gradient taken in the middle of each piece. So the scores of all edges into `logits` add up to
the change of the loss from one end to the other, as m grows: x_p is there the sum of its senders
and constants, and the sum is that of the integral of the loss's derivative along the way.

Under an ablation of the corrupted prompt the far end is its run. Under another one it is the run
from what the embedding is ablated to, whatever other senders' ablation values are.

Shapes: K points, B examples, T positions, n tokens at which something moves, D d_model, S senders.
Source: Wu et al. 2026, for edges; Dhamdhere et al. 2019, for units.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...graphs.scores import Scores
from ..run.chunk import Chunk, sender_deltas
from ..run.runner import Progress, Runner
from ..trace import Trace, run_plain
from .attribution import ChunkScores
from .by_example import Total
from .finish import finished


def conductance(
    runner: Runner,
    steps: int,
    progress: Progress | None = None,
    each: np.ndarray | None = None,
) -> Scores:
    """Score every edge by its conductance, in so many pieces.

    `each`: float32 [examples, edges], filled with the scores on each example of the pairs.
    """
    runner.metric.require_gradient(at_clean_only=False)
    total = Total(runner, each)
    middles = [1 - (k + 0.5) / steps for k in range(steps)]
    done = 0
    for rows, chunk in runner.numbered_chunks():
        before, apart = _run_from(chunk, 1.0), total.apart(chunk, chunk.clean.values.sources[:0])
        for k, middle in enumerate(middles):
            behind = _run_from(chunk, 1 - (k + 1) / steps)
            delta = _difference(chunk, before, behind)
            if apart is not None:
                apart.delta = delta
            scores = ChunkScores(runner, chunk, [middle], delta, apart)
            scores.past_share = 1 / steps
            total.add(scores.scores())
            before = behind
            done += chunk.batch.examples
            if progress is not None:
                progress(done, len(runner.pairs) * steps, "gradients taken")
        total.end_chunk(rows, apart)
    return finished(runner, middles, total.numbers())


@torch.no_grad()
def _run_from(chunk: Chunk, point: float) -> Trace:
    """Run a chunk from a point of the way; 1 is the clean embedding, 0 the ablated one."""
    clean, base = chunk.clean.values, chunk.base.values
    if point == 1:
        return chunk.clean
    sources = base.sources + point * (clean.sources - base.sources)
    both = zip(base.given, chunk.given_delta, strict=True)
    given = tuple(a + point * more for a, more in both)
    ids = chunk.batch.clean
    return run_plain(chunk.model, ids, chunk.context, chunk.past, sources, given)


@torch.no_grad()
def _difference(chunk: Chunk, run: Trace, other: Trace) -> Tensor:
    """Return what every sender writes less in another run, [S, n·D]."""
    return sender_deltas(run, other, chunk.moving_tokens).flatten(1)
