"""From the stream at `logits` to losses, without the whole vocabulary where it is not needed.

* A metric that reads single tokens' logits (`logit_diff`) needs their rows of the unembedding only.
* `kl` and `nll` are a part that few rows or one vector give, plus the log of the softmax's
  normaliser. The normaliser is bounded from both sides by M tokens in full and the rest in bulk,
  and taken in full only where the bounds do not decide.
* Any other metric gets all logits.

The bounds. Let y be the normalised stream, y₀ that of a base point, d = y − y₀, p₀ the base point's
probabilities, w_v the rows of the unembedding. Then log Σ exp(w_v·y) − log Σ exp(w_v·y₀) is the log
of Σ_v p₀(v) exp(w_v·d). The M likeliest tokens' terms are added up as they are. Of the rest, the
tail of mass t, with weights p₀/t and mean row w̄, Jensen's inequality gives t·exp(w̄·d) from below.
From above: with a centre c, X_v = (w_v − c)·d and r_v = |w_v − c| |d| ≥ |X_v| (Cauchy-Schwarz),

    exp(X) = 1 + X + (exp(X) − 1 − X) ≤ 1 + X + (exp(r) − 1 − r),

so the tail is at most t·exp(c·d)·(1 + (w̄ − c)·d + E[exp(r) − 1 − r]); the mean over tokens is taken
over bins of |w_v − c|, each counted at its upper edge.

Shapes: n questions, B examples, D d_model, V vocabulary, M tokens of the head.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..graphs.norms import normalise
from .metrics import METRICS, Metric, Target
from .runner import Chunk
from .trace import at_answers
from .unembedding import ROWS, times, weighted

SIZES = (512, 4096)
"""Sizes of the head: bounds are first taken with the small one."""

AHEAD = 64
"""Questions that are bounded with the large head together."""

HEAD_BYTES = 1 << 28
BINS = 64
TINY = 1e-30
INFINITE = 1e30
LEAST = 1e-25
"""A sum of terms that is smaller has lost some of them in float32."""
HEAVY_TAIL = 0.03
"""Mass outside the head from which another head is chosen."""
ROUNDING = 4e-6
"""What bounds in float32 are widened by."""


class Reading:
    """Hold what is known of the losses of n questions on one chunk: sums over its examples.

    `low`, `high`: bounds, float64 [n]; equal where the loss is known.
    """

    def __init__(self, low: np.ndarray, high: np.ndarray) -> None:
        self.low, self.high = low, high

    def sharpen(self, start: int, stop: int) -> None:
        """Know the losses of questions `start` to `stop` better, and perhaps those behind them."""

    def know(self, start: int, stop: int) -> None:
        """Know the losses of questions `start` to `stop` exactly."""


class Readout:
    """Read losses with all logits; `products` counts questions that took the whole unembedding."""

    def __init__(self, chunk: Chunk, metric: Metric) -> None:
        self.chunk, self.metric = chunk, metric
        self.products = 0

    def read(self, stream: Tensor) -> Reading:
        """Read the losses of streams at the answer positions, [n, B, D]."""
        losses = as_array(self.full(stream))
        return Reading(losses, losses)

    @property
    def heavy(self) -> bool:
        """Tell whether another head should be chosen at the next anchor."""
        return False

    def back(self) -> bool:
        """Take the last anchor as base point again; return False if it was given up."""
        return True

    def anchor(self, stream: Tensor, new_head: bool) -> np.ndarray:
        """Return the loss of a stream, [1, B, D], exactly, and keep it as base point to go back to.

        Bounds then depend on the anchor's stream and head alone, not on what was asked before.
        `new_head`: choose another head at it.
        """
        return as_array(self.full(stream))

    def full(self, stream: Tensor) -> Tensor:
        """Return losses from all the logits that the metric needs, float64 [n]."""
        self.products += len(stream)
        logits = self.chunk.model.logits(stream.to(self.chunk.model.dtype))
        return self.metric.loss(logits, self.chunk.target).double().sum(-1)


class TokenReadout(Readout):
    """Read a metric that only needs the logits of answers and distractors."""

    @cached_property
    def _rows(self) -> tuple[Tensor, Tensor | None, Target]:
        target, unembed = self.chunk.target, self.chunk.model.unembed
        ids = torch.cat((target.answers, target.distractors), -1)
        place = torch.arange(ids.shape[-1], device=ids.device).expand_as(ids)
        place = place.masked_fill(ids < 0, -1)
        answers = target.answers.shape[-1]
        bias = None if unembed.bias is None else unembed.bias[ids.clamp(min=0)]
        small = Target(place[:, :answers], place[:, answers:], None)
        rows = unembed.weight[ids.clamp(min=0)]
        return rows.to(torch.promote_types(rows.dtype, torch.float32)), bias, small

    def full(self, stream: Tensor) -> Tensor:
        """Return losses from the logits of the metric's tokens, float64 [n]."""
        model = self.chunk.model
        rows, bias, target = self._rows
        logits = torch.einsum("nbd,bad->nba", normalise(model.final_norm, stream), rows)
        logits = model.scale_logits(logits if bias is None else logits + bias)
        return self.metric.loss(logits, target).double().sum(-1)


class NormaliserReadout(Readout):
    """Read `kl` or `nll`: the log of the normaliser plus a part without the vocabulary."""

    def __init__(self, chunk: Chunk, metric: Metric) -> None:
        super().__init__(chunk, metric)
        model = chunk.model
        self.weight = model.unembed.weight
        self.dtype = torch.promote_types(model.dtype, torch.float32)
        self._anchor: Base | None = None
        self._base: Base
        self._settled: tuple[Tensor, Tensor | None]
        clean = at_answers(chunk.clean.streams.final, chunk.batch.answer_position - chunk.start)
        self.anchor(clean[None], new_head=True)

    def back(self) -> bool:
        """Take the last anchor as base point again; return False if it was given up."""
        if self._anchor is None:
            return False
        self._base, self._settled = self._anchor, (self._anchor.y, None)
        return True

    def anchor(self, stream: Tensor, new_head: bool) -> np.ndarray:
        """Return the loss of a stream exactly, and keep it as base point to go back to."""
        losses = self.settle(self.normed(stream))
        y, logits = self._settled
        assert logits is not None  # settle has just set them
        head = Head.of(logits, self.weight) if new_head or not self._anchor else self._anchor.head
        self._base = self._anchor = Base.at(y, logits, self.weight, head)
        return losses

    def read(self, stream: Tensor) -> Reading:
        """Bound the losses of streams at the answer positions, [n, B, D]."""
        return BoundedReading(self, self.normed(stream))

    def bounds(self, y: Tensor, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Bound the losses at normalised streams, [n, B, D], with a head of some size."""
        low, high = self.base.bounds(y, size)
        rest, slack = self._rest(y), ROUNDING * len(self.chunk.batch)
        return (
            as_array((low + rest).double().sum(-1)) - slack,
            as_array((high + rest).double().sum(-1)) + slack,
        )

    def settle(self, y: Tensor, base: int = -1) -> np.ndarray:
        """Return the losses at normalised streams, [n, B, D]; take one of them as base point."""
        self.products += len(y)
        logits = times(y, self.weight)
        logits = logits if self._bias is None else logits + self._bias
        losses = self.metric.loss(logits, self.chunk.target)  # no difference of large numbers
        self._settled = y[base], logits[base].clone()
        return as_array(losses.double().sum(-1))

    @property
    def base(self) -> Base:
        """Return the last base point; made when it is needed."""
        y, logits = self._settled
        if self._base.y is not y and logits is not None:
            head = self._base.head
            if self._base.heavy:
                head, self._anchor = Head.of(logits, self.weight), None
            self._base = Base.at(y, logits, self.weight, head)
        return self._base

    @property
    def heavy(self) -> bool:
        """Tell whether another head should be chosen at the next anchor."""
        return self._anchor is None or self._anchor.heavy

    def normed(self, stream: Tensor) -> Tensor:
        """Return the stream behind the final norm, times what logits are scaled by."""
        model = self.chunk.model
        y = normalise(model.final_norm, stream)
        return y if model.logit_scale == 1 else y * model.logit_scale

    @cached_property
    def _bias(self) -> Tensor | None:
        model = self.chunk.model
        return None if model.unembed.bias is None else model.unembed.bias * model.logit_scale

    @cached_property
    def _rest(self) -> Callable[[Tensor], Tensor]:
        """Return the function from y [n, B, D] to the loss without the normaliser, [n, B]."""
        target = self.chunk.target
        if self.metric.name == "nll":
            ids = target.answers
            rows = self.weight[ids.clamp(min=0)].to(self.dtype)
            bias = 0.0 if self._bias is None else self._bias[ids.clamp(min=0)]

            def of_answers(y: Tensor) -> Tensor:
                logits = torch.einsum("nbd,bad->nba", y, rows) + bias
                return -logits.masked_fill(ids < 0, float("-inf")).logsumexp(-1)

            return of_answers
        assert target.clean_logits is not None
        # What is summed here is in every loss, and its rounding would be too.
        log_p = target.clean_logits.double().log_softmax(-1)
        p = log_p.exp()
        vector = weighted(p, self.weight).to(self.dtype)  # [B, D]
        constant = (p * log_p).sum(-1) - (0.0 if self._bias is None else p @ self._bias.double())
        constant = constant.to(self.dtype)
        return lambda y: constant - (y * vector).sum(-1)


@dataclass(frozen=True)
class Head:
    """Hold which tokens are added up one by one, and how far the other rows are from a centre.

    `ids`: [B, M], the likeliest first. `rows`: [B, M, D]. `centre`: [D]. `bins`: [V], the bin of
    each row's distance from the centre; `edges`: [bins], their upper edges.
    """

    ids: Tensor
    rows: Tensor
    centre: Tensor
    bins: Tensor
    edges: Tensor

    @staticmethod
    def of(logits: Tensor, weight: Tensor) -> Head:
        """Choose the likeliest tokens of logits [B, V] for unembedding rows [V, D]."""
        room = HEAD_BYTES // (len(logits) * weight.shape[1] * logits.element_size())
        size = max(1, min(SIZES[-1], room, logits.shape[-1] - 1))
        ids = logits.topk(size, -1).indices
        tail = logits.softmax(-1).scatter(-1, ids, 0.0).mean(0)
        centre = weighted(tail, weight) / tail.sum().clamp(min=TINY)
        parts = weight.split(ROWS)
        distance = torch.cat([(rows.to(tail.dtype) - centre).norm(dim=-1) for rows in parts])
        edges = torch.linspace(0, float(distance.max()) * (1 + 1e-6), BINS + 1).to(distance)[1:]
        rows = weight[ids].to(logits.dtype)
        return Head(ids, rows, centre, torch.bucketize(distance, edges), edges)


@dataclass(frozen=True)
class Tail:
    """Hold the tokens behind the first M of a head: what their terms are bounded by.

    `log_mass`: [B], the log of their probability; `mean`: [B, D], their mean row; `shares`:
    [B, bins], how their probability is spread over distances from the centre.
    """

    log_mass: Tensor
    mean: Tensor
    shares: Tensor

    @staticmethod
    def of(mass: Tensor, total: Tensor, bins: Tensor) -> Tail:
        """Take a mass [B], the rows' weighted sum [B, D] and the mass by bin [B, bins]."""
        return Tail(mass.log(), total / mass[:, None], bins / mass[:, None])

    def bounds(self, d: Tensor, head: Head) -> tuple[Tensor, Tensor]:
        """Bound the log of the terms' sum for steps d [B, n, D], [B, n] each."""
        along = torch.bmm(d, self.mean[..., None]).squeeze(-1)  # w̄·d
        centre = d @ head.centre
        r = d.norm(dim=-1)[..., None] * head.edges  # [B, n, bins]
        extra = (torch.expm1(r) - r).nan_to_num().clamp(max=INFINITE)
        extra = torch.bmm(extra, self.shares[..., None])
        above = centre + torch.log1p((along - centre + extra.squeeze(-1)).clamp(min=1e-6 - 1))
        above = torch.maximum(above, along).masked_fill(r[..., -1] > math.log(INFINITE), math.inf)
        mass = self.log_mass[:, None]
        sure = mass > math.log(1e12 * floor(mass.dtype))  # else it may consist of floors
        return (mass + along).masked_fill(~sure, -math.inf), mass + above


@dataclass(frozen=True)
class Base:
    """Hold a base point: y₀ [B, D], its log-normaliser [B], its head and what is behind it.

    `log_p`: [B, M], of the head's tokens. `tails`: by how many of them are added up one by one.
    """

    head: Head
    y: Tensor
    log_normaliser: Tensor
    log_p: Tensor
    tails: dict[int, Tail]

    @staticmethod
    def at(y: Tensor, logits: Tensor, weight: Tensor, head: Head) -> Base:
        """Take y, [B, D], with all its logits, as the base point."""
        normaliser = logits.logsumexp(-1)
        log_p = logits.gather(-1, head.ids) - normaliser[:, None]
        p = (logits - normaliser[:, None]).exp_().clamp_(min=floor(y.dtype))
        p = p.scatter_(-1, head.ids, 0.0)
        mass, total = p.sum(-1), weighted(p, weight)
        bins = torch.zeros(len(y), len(head.edges), dtype=y.dtype, device=y.device)
        bins.index_add_(1, head.bins, p)
        stop, tails = log_p.shape[1], {}
        for size in reversed([s for s in SIZES if s < stop]):
            tails[stop] = Tail.of(mass, total, bins)
            p = log_p[:, size:stop].exp().clamp_(min=floor(y.dtype))
            mass = mass + p.sum(-1)
            total = total + torch.bmm(p[:, None], head.rows[:, size:stop]).squeeze(1)
            bins = bins.scatter_add(1, head.bins[head.ids[:, size:stop]], p)
            stop = size
        tails[stop] = Tail.of(mass, total, bins)
        return Base(head, y, normaliser, log_p, tails)

    @property
    def heavy(self) -> bool:
        """Tell whether so much is outside the head that another one should be chosen."""
        return float(self.tails[max(self.tails)].log_mass.exp().mean()) > HEAVY_TAIL

    def bounds(self, y: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Bound the log-normaliser at y [n, B, D] from below and above, [n, B]."""
        size = min(size, max(self.tails))
        d = (y - self.y).transpose(0, 1)  # [B, n, D]
        rows = self.head.rows[:, :size].transpose(1, 2)
        top = torch.baddbmm(self.log_p[:, None, :size], d, rows).exp_().sum(-1)  # [B, n]
        top = top.log().masked_fill(top < LEAST, math.nan)
        below, above = self.tails[size].bounds(d, self.head)
        low = torch.logaddexp(top, below).nan_to_num(-INFINITE, posinf=-INFINITE)
        high = torch.logaddexp(top, above).nan_to_num(INFINITE, posinf=INFINITE)
        normaliser = self.log_normaliser[:, None]
        return (low + normaliser).t(), (high + normaliser).t()


class BoundedReading(Reading):
    """Hold bounds: with a small head first, with a large one and in full where they do not do."""

    def __init__(self, readout: NormaliserReadout, y: Tensor) -> None:
        super().__init__(*readout.bounds(y, SIZES[0]))
        self.readout, self.y = readout, y
        self.coarse = 0  # questions from here on have been bounded with the small head only

    def sharpen(self, start: int, stop: int) -> None:
        """Bound questions with the large head, or take them in full if that was done before."""
        if start >= self.coarse:
            self.coarse = min(start + AHEAD, len(self.y))
            self._bound(start, self.coarse, SIZES[-1])
            return
        self.low[start:stop] = self.high[start:stop] = self.readout.settle(self.y[start:stop])
        if stop < len(self.y):
            self._bound(stop, len(self.y), SIZES[0])
            self.coarse = stop

    def know(self, start: int, stop: int) -> None:
        """Take questions in full, all together; the first one becomes the base point."""
        losses = self.readout.settle(self.y[start:stop], base=0)
        self.low[start:stop] = self.high[start:stop] = losses

    def _bound(self, start: int, stop: int, size: int) -> None:
        some = slice(start, stop)
        low, high = self.readout.bounds(self.y[some], size)
        np.maximum(self.low[some], low, out=self.low[some])
        np.minimum(self.high[some], high, out=self.high[some])


def make_readout(chunk: Chunk, metric: Metric) -> Readout:
    """Choose the cheapest readout that is exact for a metric."""
    known = METRICS.get(metric.name)
    if metric.tokens_only:
        return TokenReadout(chunk, metric)
    bounded = metric.name in ("kl", "nll") and known is not None and metric == known
    vocabulary = chunk.model.unembed.weight.shape[0]
    if bounded and chunk.model.logit_softcap is None and vocabulary > 4 * SIZES[-1]:
        return NormaliserReadout(chunk, metric)
    return Readout(chunk, metric)


def floor(dtype: torch.dtype) -> float:
    """Return the least probability of a token, far enough above zero to divide by."""
    return 1e8 * torch.finfo(dtype).tiny


def as_array(x: Tensor) -> np.ndarray:
    """Return a tensor's values as a new array."""
    values: np.ndarray = x.cpu().numpy().copy()
    return values
