"""From the stream at `logits` to losses, without the whole vocabulary where it is not needed.

* A metric that reads single tokens' logits (`logit_diff`) needs their rows of the unembedding only.
* `kl` and `nll` are a part that few rows or one vector give, plus the log of the softmax's
  normaliser, which is taken in full only where its bounds (normaliser.py) do not decide.
  Where they keep failing (a threshold below what they resolve, a flat distribution), nothing is
  spent on them for a while: the questions asked together take the whole vocabulary in one product,
  as many as the budget has room for. Bounds never change what is decided, so neither does this.
* Any other metric gets all logits.

Answers of several tokens have R reads, each with a share of the loss (1, or 0 where only
distractors are read); shapes are then [n, R, D]. `kl`, and `nll` of one answer, add up over reads
as they do over examples; other metrics get all logits.

Shapes: n questions, B examples, D d_model, V vocabulary, M tokens of the head.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ...graphs.lift.norms import normalise
from ..metrics.metric import Metric
from ..prompts.pairs import Steps
from ..run.chunk import Chunk
from ..run.runner import Runner, refuse_nan
from .losses import MOST_AT_ONCE, LossBounds, exactly
from .normaliser import INFINITE, Base, Head
from .unembedding import times, weighted

SIZES = (512, 8192)  # of the head: bounds are first taken with the small one
BOUNDED_AT_ONCE = 64  # questions that are bounded with the large head together
ROUNDING = 4e-6  # what bounds in float32 are widened by
FAILURES = 6  # in a row, after which bounds are not tried for a while
FIRST_PAUSE, LONGEST_PAUSE = 8, 1024  # questions taken in full before bounds are tried again


class Reading:
    """What is known of the losses of n questions on one chunk: sums over its examples.

    `bounds`: float64 [n] each; the first rise is that above the current circuit's loss. `leads`:
    that loss can be known here too, as that of question −1.
    """

    leads = False

    def __init__(self, bounds: LossBounds) -> None:
        self.bounds = bounds

    def sharpen(self, start: int, stop: int) -> None:
        """Know the losses of questions `start` to `stop` better, and perhaps those behind them."""

    def know(self, start: int, stop: int) -> None:
        """Know the losses of questions `start` to `stop` exactly; −1 is the current circuit."""


class Readout:
    """Read losses with all logits; `products` counts questions that took the whole unembedding."""

    def __init__(self, chunk: Chunk, metric: Metric) -> None:
        self.chunk, self.metric = chunk, metric
        self.products = 0

    @torch.no_grad()
    def read(self, stream: Tensor, current: Tensor | None = None) -> Reading:
        """Read losses of streams at answers, [n, B, D], and rises above `current`, [1, B, D]."""
        return Reading(exactly(as_array(self.full(stream))))

    @property
    def heavy(self) -> bool:
        """Tell whether another head should be chosen at the next anchor."""
        return False

    def back(self) -> bool:
        """Take the last anchor as base point again; return False if it was given up."""
        return True

    @torch.no_grad()
    def anchor(self, stream: Tensor, new_head: bool) -> np.ndarray:
        """Return the loss of a stream, [1, B, D]; it is the base point to go back to."""
        return as_array(self.full(stream))

    def full(self, stream: Tensor) -> Tensor:
        """Return losses, summed over examples, from the logits that the metric needs."""
        return self.each(stream).sum(-1)

    @torch.no_grad()
    def each(self, stream: Tensor) -> Tensor:
        """Return the losses on each example of streams [n, B, D], float64 [n, examples]."""
        self.products += len(stream)
        model = self.chunk.model
        one = 4 * stream.shape[1] * len(model.unembed.weight)
        parts = stream.to(model.dtype).split(max(1, self.chunk.budget.logits // one))
        losses = [self.metric.loss(model.logits(some), self.chunk.target) for some in parts]
        return torch.cat(losses).double()


class TokenReadout(Readout):
    """Read a metric that only needs the logits of answers and distractors."""

    @torch.no_grad()
    def each(self, stream: Tensor) -> Tensor:
        """Return the losses on each example, from the logits of the metric's tokens."""
        tokens = self.chunk.answer_logits
        return self.metric.loss(tokens.logits(stream), tokens.target).double()


class NormaliserReadout(Readout):
    """Read `kl` or `nll`: the log of the normaliser plus a part without the vocabulary."""

    def __init__(self, chunk: Chunk, metric: Metric, patience: float = 0.0) -> None:
        super().__init__(chunk, metric)
        self.patience = patience * chunk.batch.examples
        self._hope()
        model = chunk.model
        self.weight = model.unembed.weight
        bias = model.unembed.bias
        self._bias = None if bias is None else bias * model.logit_scale
        self.dtype = torch.promote_types(model.dtype, torch.float32)
        self._anchor: Base | None = None
        self._base: Base
        self._settled: tuple[Tensor, Tensor | None]
        clean = chunk.at_answers(chunk.clean.streams.final)
        self.anchor(clean.to(self.dtype)[None], new_head=True)

    def back(self) -> bool:
        """Take the last anchor as base point again; return False if it was given up."""
        self._hope()  # what follows depends on the mark alone
        if self._anchor is None:
            return False
        self._base, self._settled = self._anchor, (self._anchor.y, None)
        return True

    @torch.no_grad()
    def anchor(self, stream: Tensor, new_head: bool) -> np.ndarray:
        """Return the loss of a stream exactly, and keep it as base point to go back to."""
        losses = self.settle(self.normed(stream), base=0)
        y, logits = self._settled
        assert logits is not None  # settle has just set them
        old = None if new_head or self._anchor is None else self._anchor.head
        head = Head.of(logits, self.weight, SIZES, self.chunk.budget.head) if old is None else old
        self._base = self._anchor = Base.at(y, logits, self.weight, head)
        return losses

    @torch.no_grad()
    def read(self, stream: Tensor, current: Tensor | None = None) -> Reading:
        """Bound the losses of streams at the answer positions, [n, B, D]."""
        if current is not None:
            stream = torch.cat((current, stream))
        return BoundedReading(self, self.normed(stream), current is not None)

    def bounds(self, y: Tensor, *, fine: bool) -> LossBounds:
        """Bound losses at normalised streams [n, B, D], and all rises but the first."""
        found, rest = self.base.bounds(y, fine), self._rest(y)
        rise = rest[1:] - rest[:-1]
        steps, slack = self.chunk.batch.steps, ROUNDING * y.shape[1]
        low, high, rise_low, rise_high = (
            as_array(
                (part + more if steps is None else (part + more) * steps.share).double().sum(-1)
            )
            for part, more in zip(found, (rest, rest, rise, rise), strict=True)
        )
        return LossBounds(low - slack, high + slack, rise_low - 2 * slack, rise_high + 2 * slack)

    def _hope(self) -> None:
        self.paused, self._pause, self._failures = 0, FIRST_PAUSE, 0

    def learn(self, decided: bool) -> None:
        """Pause bounds where they fail to decide again and again, the longer the more often."""
        if decided:
            self._pause, self._failures = FIRST_PAUSE, 0
            return
        self._failures += 1
        if self._failures >= FAILURES:
            self.paused, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)

    def settle(self, y: Tensor, base: int | None = None) -> np.ndarray:
        """Return the losses at normalised streams, [n, B, D]; `base`: which becomes base point."""
        losses, logits = self._in_full(y, base)
        if logits is not None and base is not None:
            self._settled = y[base], logits
        return as_array(losses.double().sum(-1))

    @torch.no_grad()
    def each(self, stream: Tensor) -> Tensor:
        """Return the losses on each example, exactly; no base point becomes another."""
        return self._in_full(self.normed(stream))[0].double()

    def _in_full(self, y: Tensor, wanted: int | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the losses on each example at normalised streams, [n, B, D], by all logits.

        `wanted`: whose logits, [B, V], are returned besides. As many questions share a product as
        have room for their logits.
        """
        self.products += len(y)
        one = self.weight.shape[0] * y.shape[1] * y.element_size()
        losses, kept, step = [], None, max(1, self.chunk.budget.logits // one)
        for start in range(0, len(y), step):
            logits = times(y[start : start + step], self.weight)
            logits = logits if self._bias is None else logits + self._bias
            losses.append(self.metric.loss(logits, self.chunk.target))  # of no large numbers' rest
            if wanted is not None and start <= wanted < start + step:
                kept = logits[wanted - start].clone()
        return torch.cat(losses), kept

    @property
    def base(self) -> Base:
        """Return the last base point; made when it is needed."""
        y, logits = self._settled
        if self._base.y is not y and logits is not None:
            head = self._base.head
            if self._base.heavy:
                head, self._anchor = (
                    Head.of(logits, self.weight, SIZES, self.chunk.budget.head),
                    None,
                )
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
    def _rest(self) -> Callable[[Tensor], Tensor]:
        """Return the function from y [n, B, D] to the loss without the normaliser, [n, B]."""
        target = self.chunk.target
        if self.metric.rest == "answers":
            ids = target.answers if target.steps is None else _only_tokens(target.steps)
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


class BoundedReading(Reading):
    """Bounds with a small head, then a large one, then in full; `leads`: y[0] is the circuit."""

    def __init__(self, readout: NormaliserReadout, y: Tensor, leads: bool) -> None:
        self.readout, self.y, self.leads, self.first = readout, y, leads, int(leads)
        n = len(y)
        self.rows = LossBounds(*(np.full(n, sign * INFINITE) for sign in (-1, 1, -1, 1)))
        super().__init__(LossBounds(*(part[self.first :] for part in self.rows)))  # views
        self.coarse = 0  # questions from here on have been bounded with the small head only
        self.settled = 0  # where what was last taken in full ends
        if not readout.paused:
            self._bound(0, n, fine=False)

    def sharpen(self, start: int, stop: int) -> None:
        """Bound questions with the large head, or take them in full if that was done before."""
        begin, end = max(0, start + self.first - 1), stop + self.first
        if start > self.settled:  # the questions between were decided by bounds
            self.readout.learn(decided=True)
        if paused := self.readout.paused:
            stop = max(stop, min(start + min(paused, MOST_AT_ONCE), len(self.y) - self.first))
            self.readout.paused = max(0, paused - (stop - start))
            self._settle(begin, stop + self.first, last=True, move=False)
            self.settled = stop
        elif start >= self.coarse:
            self.coarse = min(start + BOUNDED_AT_ONCE, len(self.y) - self.first)
            self._bound(begin, self.coarse + self.first, fine=True)
        else:
            self.readout.learn(decided=False)
            moved = self._settle(begin, end, last=True, move=not self.readout.paused)
            self.settled = stop
            if moved and end < len(self.y):
                self._bound(end - 1, len(self.y), fine=False)
                self.coarse = stop

    def know(self, start: int, stop: int) -> None:
        """Take questions in full, all together."""
        self._settle(start + self.first, stop + self.first, last=False)

    def _settle(self, begin: int, end: int, *, last: bool, move: bool = True) -> bool:
        """Take rows in full; tell whether one of them became the base point, if it may `move`."""
        low, high, rise_low, rise_high = self.rows
        wide = move and bool((high[begin:end] - low[begin:end]).max() > self.readout.patience)
        base = (end - begin - 1 if last else 0) if wide else None
        low[begin:end] = high[begin:end] = self.readout.settle(self.y[begin:end], base)
        rise = low[begin + 1 : end] - low[begin : end - 1]
        rise_low[begin + 1 : end] = rise_high[begin + 1 : end] = rise
        return wide

    def _bound(self, begin: int, end: int, *, fine: bool) -> None:
        low, high, rise_low, rise_high = self.rows
        found = self.readout.bounds(self.y[begin:end], fine=fine)
        some, rest = slice(begin, end), slice(begin + 1, end)
        np.maximum(low[some], found.low, out=low[some])
        np.minimum(high[some], found.high, out=high[some])
        np.maximum(rise_low[rest], found.rise_low, out=rise_low[rest])
        np.minimum(rise_high[rest], found.rise_high, out=rise_high[rest])


class Readings:
    """Average the readings of all chunks; `streams`: what was read, [n, B, D] of each."""

    def __init__(self, runner: Runner, readings: list[Reading], streams: list[Tensor]) -> None:
        self.runner, self.readings, self.streams = runner, readings, streams
        self.leads = all(reading.leads for reading in readings)

    def bounds(self) -> LossBounds:
        """Return the questions' bounds."""
        number = len(self.runner.pairs)
        parts = zip(*(reading.bounds for reading in self.readings), strict=True)
        found = LossBounds(*(np.sum(part, axis=0) / number for part in parts))
        refuse_nan(found.low, f"the metric '{self.runner.metric.name}'")
        return found

    @torch.no_grad()
    def sharpen(self, start: int, stop: int) -> LossBounds:
        """Know some losses better; return all bounds."""
        for reading in self.readings:
            reading.sharpen(start, stop)
        return self.bounds()

    @torch.no_grad()
    def know(self, start: int, stop: int) -> LossBounds:
        """Know some losses exactly; return all bounds."""
        for reading in self.readings:
            reading.know(start, stop)
        return self.bounds()


def make_readout(chunk: Chunk, metric: Metric, patience: float = 0.0) -> Readout:
    """Choose the cheapest exact readout; `patience`: how badly a mean loss may be known."""
    steps = chunk.batch.steps
    if steps is None and metric.reads_few:
        return TokenReadout(chunk, metric)
    if steps is not None and metric.rest == "answers" and steps.answers.shape[1] > 1:
        return Readout(chunk, metric)  # the log of a sum of products of probabilities
    vocabulary = chunk.model.unembed.weight.shape[0]
    if metric.rest and chunk.model.logit_softcap is None and vocabulary > 2 * SIZES[-1]:
        return NormaliserReadout(chunk, metric, patience)
    return Readout(chunk, metric)


def _only_tokens(steps: Steps) -> Tensor:
    """Return the token that its pair's only answer has at each read, [R, 1]; 0 where none has."""
    chosen = torch.isin(steps.answer, steps.answers)
    tokens = torch.zeros_like(steps.pair)
    tokens[steps.read[chosen]] = steps.token[chosen]
    return tokens[:, None]


def as_array(x: Tensor) -> np.ndarray:
    """Return a tensor's values as a new array."""
    return np.array(x.cpu().numpy())
