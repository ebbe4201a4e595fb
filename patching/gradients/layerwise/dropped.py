"""Attribution of whole nodes with queries and keys recomputed and layers dropped (AtP*).

A node's effect is estimated by what its edges carry. With Δ_u = a_u − o_u, at the clean run,

    I(u) = Σ over v, MLP and other ports of Δ_u · ∂loss/∂x_p
         + Σ over q and k ports of [z_p(x_p + Δ_u) − z_p(x_p)] · ∂loss/∂z_p ,

where z_p is what the port's heads mix, the softmax recomputed with new queries, or with new keys.
So a saturated pattern, whose derivative is nearly 0, is seen.

Effects that pass along two ways and cancel are seen where one of them is cut: I_l(u) is the same
with nothing flowing back through layer l, whose ports then have no gradient, and

    c(u) = mean over examples of  1/(L − 1) Σ_l |I_l(u)| .

Shapes: B examples, T positions, S senders, P ports, E edges.
Source: Kramár, Lieberum, Shah and Nanda 2024 (AtP*).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ....graphs.lift.lifted import Attention, Block
from ....graphs.names import Kind
from ...run.chunk import Chunk, sender_deltas
from ...run.runner import Progress, Runner, refuse_nan
from ..attribution import ChunkScores
from ..by_example import ByExample
from ..local import LocalScores
from ..tape import Heads, LayerTape
from ..writes import Writes


def node_attribution(
    runner: Runner, *, drop: bool = True, progress: Progress | None = None
) -> np.ndarray:
    """Return c(u) of every sender on each example, float64 [examples, S].

    Without `drop`: I(u), signed, with every layer in its place.
    """
    runner.metric.require_gradient(at_clean_only=True)
    runner.require_plain("a score of nodes with layers dropped")
    layers = runner.graph.layers
    dropped: list[int | None] = list(range(layers)) if drop and layers > 1 else [None]
    found = np.zeros((len(runner.pairs), len(runner.graph.senders)))
    done = 0
    for rows, chunk in runner.numbered_chunks():
        with torch.no_grad():
            delta = sender_deltas(chunk.clean, chunk.base, chunk.moving_tokens).flatten(1)
        for layer in dropped:
            effects = _effects(runner, chunk, delta, layer)
            found[rows] += np.abs(effects) / max(1, layers - 1) if drop else effects
            done += chunk.batch.examples
            if progress is not None:
                progress(done, len(runner.pairs) * len(dropped), "pairs and layers dropped")
    refuse_nan(found, f"a node's score by the metric '{runner.metric.name}'")
    return found


def _effects(runner: Runner, chunk: Chunk, delta: Tensor, dropped: int | None) -> np.ndarray:
    """Return I_l(u) on each example of a chunk, float64 [B, S]."""
    graph = runner.graph
    apart = ByExample.of(chunk, delta)
    whole = _Dropped(runner, chunk, delta, apart, dropped)
    whole.scores()
    patterns = np.array([port.letter in ("q", "k") for port in graph.ports])
    row, sender = graph.reads.nonzero()
    linear = apart.values.double().cpu().numpy()
    linear[:, patterns[row]] = 0  # [B, E]
    found = np.stack([np.bincount(sender, one, len(graph.senders)) for one in linear])
    recomputed = _QueriesAndKeys(runner, chunk, whole.writes, apart=True).scores()  # [B, P, S]
    return np.asarray(found + recomputed[:, patterns].sum(1))


class _Dropped(ChunkScores):
    """A pass forward and backward at the clean run, with nothing flowing back through a layer.

    It scores all edges on each example, and notes the gradient at what every layer's heads write.
    """

    def __init__(
        self, runner: Runner, chunk: Chunk, delta: Tensor, apart: ByExample, dropped: int | None
    ) -> None:
        super().__init__(runner, chunk, [1.0], delta, apart)
        self.writes: Writes = {}
        self._layer = dropped

    def _tapes(self) -> tuple[list[LayerTape], Tensor]:
        tapes, final = super()._tapes()
        if self._layer is not None:
            tapes[self._layer] = LayerTape(None, None)
        return tapes, final

    def _attention(self, layer: int, block: Block, tape: Heads, gradient: Tensor) -> Tensor:
        self.writes[Kind.HEAD, layer] = gradient
        return super()._attention(layer, block, tape, gradient)


class _QueriesAndKeys(LocalScores):
    """Scores of the ports of all heads, each recomputed, where a gradient was noted."""

    @torch.no_grad()
    def scores(self) -> np.ndarray:
        """Return the scores on each example, [B, P, S]; of other ports, and of values, nothing."""
        for layer, block in enumerate(self.model.blocks):
            gradient = self.gradients.get((Kind.HEAD, layer))
            if gradient is not None and isinstance(block.attention, Attention):
                self._heads(layer, block, gradient)
        found: np.ndarray = self.values.cpu().numpy()
        return found
