"""How much of what a port holds each sender's write explains; one run forward, no gradient.

Of a port that holds x, the sum of what its senders write (o_u) and of constants,

    closeness(u) = max(0, ‖x‖₁ − ‖x − o_u‖₁) ,    share(u) = closeness(u) / Σ_v closeness(v) .

A write that points where the sum points is close to it, one that others cancel is not. Shares of a
port add up to 1, or are all 0 where no write is close. They are averaged over an example's tokens
up to its last answer (of `logits` over those where logits are read; in models that attend in both
directions over all), and over examples.

Shapes: B examples, T positions, n tokens, s senders, D d_model, P ports, S senders in all.
Source: Ferrando and Voita 2024 (information flow routes), their contributions to a sum.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from ...graphs.lift.lifted import AttentionContext
from ...graphs.names import Kind, Port
from ...graphs.scores import Scores
from ..prompts.pairs import Batch
from ..run.runner import Progress, Runner, refuse_nan
from ..trace import Trace, run_plain


def flow_shares(
    runner: Runner, progress: Progress | None = None, each: np.ndarray | None = None
) -> Scores:
    """Score every edge by the share of what its port holds that its sender's write explains.

    `each`: float32 [examples, edges], filled with the scores on each example of the pairs.
    """
    runner.require_plain("a share of what a port holds")
    graph = runner.graph
    total, done = np.zeros(graph.reads.shape), 0
    for rows, chunk in runner.numbered_chunks():
        found = _ChunkShares(runner, chunk.batch).shares()
        total += found.sum(0)
        if each is not None:
            each[rows] = found[:, graph.reads]
        done += len(rows)
        if progress is not None:
            progress(done, len(runner.pairs), "prompt pairs scored")
    refuse_nan(total, "a share of what a port holds")
    return Scores(graph, np.where(graph.reads, total / len(runner.pairs), np.nan))


class _ChunkShares:
    """The clean run of some pairs, over all of its positions, whatever is ablated."""

    def __init__(self, runner: Runner, batch: Batch) -> None:
        from ..run.chunk import sender_deltas

        self.graph, self.batch, self.budget = runner.graph, batch, runner.budget
        model = runner.model
        with torch.no_grad():
            context = AttentionContext(batch.mask, batch.position_ids)
            self.run = run_plain(model, batch.clean, context)
            index = torch.arange(batch.mask.shape[1], device=batch.mask.device)
            until = (index <= batch.last[:, None]) if model.causal else torch.ones_like(batch.mask)
            self.tokens = (batch.mask & until).flatten().nonzero()[:, 0]
            nothing = Trace(model, self.run.values.zeros())
            self.writes = sender_deltas(self.run, nothing)  # [S, B·T, D]

    @torch.no_grad()
    def shares(self) -> np.ndarray:
        """Return the shares on each example, [B, P, S]."""
        graph, streams = self.graph, self.run.streams
        found = np.zeros((self.batch.examples, *graph.reads.shape))
        width = self.batch.clean.shape[1]
        known: dict[tuple[str, int], list[tuple[np.ndarray, np.ndarray]]] = {}
        for row, port in enumerate(graph.ports):
            layer = port.node.layer
            if layer is None:
                place = self.batch.row * width + self.batch.answer_position
                found[:, row] = self._of(streams.final, place, graph.reads[row])
                continue
            kind, x = self._held(port, layer)
            same = known.setdefault(kind, [])
            values = next((v for reads, v in same if np.array_equal(reads, graph.reads[row])), None)
            if values is None:
                values = self._of(x(), self.tokens, graph.reads[row], kind)
                same.append((graph.reads[row], values))
            found[:, row] = values
        return found

    def _held(self, port: Port, layer: int) -> tuple[tuple[str, int], Callable[[], Tensor]]:
        """Name what a port holds, which others may hold too, and return it when it is needed."""
        streams = self.run.streams
        source = self.graph.source_of(port)
        if port.node.kind is Kind.MLP:
            return ("mlp", layer), lambda: streams.mlp[layer]
        if port.node.kind is Kind.POST:
            return ("post", layer), lambda: streams.post[layer]
        at = layer if source is None else source
        return ("attention", at), lambda: streams.attention[at]

    def _of(
        self, x: Tensor, tokens: Tensor, reads: np.ndarray, kind: tuple[str, int] | None = None
    ) -> np.ndarray:
        """Return shares in what ports hold at tokens, x [B, T, D or D + P], by example: [B, S]."""
        x = x.flatten(0, 1)[tokens].to(self.writes)  # [n, D]
        (senders,) = reads.nonzero()
        size = x.abs().sum(-1)
        close = torch.empty(len(senders), len(x), dtype=x.dtype, device=x.device)
        step = max(1, self.budget.questions // (12 * x.numel()))
        for start in range(0, len(senders), step):
            some = senders[start : start + step]
            left = x - self._written(some, tokens, x.shape[-1], kind)
            close[start : start + len(some)] = (size - left.abs().sum(-1)).clamp(min=0)
        sums = close.sum(0)
        shares = close / torch.where(sums > 0, sums, 1)  # [s, n]
        owner = self.batch.owner[tokens // self.batch.clean.shape[1]]
        examples = self.batch.examples
        total = shares.new_zeros(len(senders), examples).index_add_(1, owner, shares)
        counts = torch.bincount(owner, minlength=examples)
        found = np.zeros((examples, len(reads)))
        found[:, senders] = (total / counts).T.double().cpu().numpy()
        return found

    def _written(
        self, senders: np.ndarray, tokens: Tensor, width: int, kind: tuple[str, int] | None
    ) -> Tensor:
        """Return what senders write at tokens, [s, n, width]: past the stream the first alone."""
        first, last = int(senders[0]), int(senders[-1])
        together = last - first + 1 == len(senders)
        own = self.writes[first : last + 1] if together else self.writes[senders.tolist()]
        own = own[:, tokens]
        more = width - own.shape[-1]
        if not more:
            return own
        own = pad(own, (0, more))
        if first == 0 and kind is not None:
            own[0, :, -more:] = self.run.values.given[kind[1]].flatten(0, 1)[tokens]
        return own
