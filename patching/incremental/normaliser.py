"""The log of the softmax's normaliser, bounded from both sides with few of the vocabulary's rows.

Let y be the normalised stream, y₀ that of a base point, d = y − y₀, p₀ the base point's
probabilities, w_v the rows of the unembedding, c a centre of theirs. With X_v = (w_v − c)·d,

    log Σ_v exp(w_v·y) − log Σ_v exp(w_v·y₀) = c·d + log Σ_v p₀(v) exp(X_v).

The terms of the head, M tokens, are added up as they are. Of the rest, the tail of mass t, with
weights p₀/t and mean row w̄, Jensen's inequality gives t·exp((w̄ − c)·d) from below. From above, with
r ≥ |X_v| for all tokens of the tail, since g(x) = (exp(x) − 1 − x)/x² grows with x,

    exp(X) = 1 + X + g(X)·X² ≤ 1 + X + g(r)·X²,

so the tail is at most t·(1 + (w̄ − c)·d) + g(r)·Σ p₀ X². The last sum is d·S·d with the rows'
second moment S; it would cost one for each base point and example. One is made for all of them,
with weights m_v ≥ p₀(v)/κ: then Σ p₀ X² ≤ κ·d·S·d. r is |d| times the largest |w_v − c| of the
tail.

*Rises.* What two near streams differ by is known better than either: with H, H' the head's sums at
d and d', T the tail's at d, and δ = d' − d, every term of the tail changes by a factor between
exp(−ρ) and exp(ρ), where ρ is |δ| times the largest |w_v − c|. Hence the log rises by at most
log((H' + T·exp(ρ)) / (H + T)), and by at least the same with −ρ. Both are monotone in T, so its
bounds give theirs.

The head holds the likeliest tokens, and the rows farthest from the centre: they would widen all
bounds of the tail.

Shapes: n questions, B examples, D d_model, V vocabulary, M tokens of the head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .unembedding import ROWS, weighted

FAR = 8  # one of so many tokens of the head is there for its distance from the centre
TINY, INFINITE = 1e-30, 1e30
LEAST = 1e-25  # a sum of terms that is smaller has lost some of them in float32
HEAVY_TAIL = 0.03  # mass outside the head from which another head is chosen
LIGHTER = 2.0  # if it leaves so many times less outside


@dataclass(frozen=True)
class Head:
    """Which tokens are added up one by one, and what is known of all others' rows.

    `ids`: [M], in such an order that the first `sizes[i]` are a head too. `rows`: [M, D], minus
    the centre [D]. `weights`: [V], m. By size: `reach`, the largest distance from the centre of a
    row that is not in the head, and `moments`, S of the rows that are not, [D, D].
    """

    ids: Tensor
    sizes: tuple[int, ...]
    rows: Tensor
    centre: Tensor
    weights: Tensor
    reach: tuple[float, ...]
    moments: tuple[Tensor, ...]

    @staticmethod
    def of(logits: Tensor, weight: Tensor, sizes: Sequence[int], memory: int) -> Head:
        """Choose the tokens for logits [B, V] and unembedding rows [V, D].

        `memory`: what their rows may take.
        """
        words, width = weight.shape
        most = min(memory // (width * logits.element_size()), words - 1)
        sizes = tuple(sorted({max(1, min(size, most)) for size in sizes}))
        p = logits.softmax(-1).clamp_(min=floor(logits.dtype))
        weights = p.amax(0)
        likeliest = p.mean(0).topk(sizes[-1]).indices
        tail = weights.scatter(0, likeliest, 0.0)
        centre = weighted(tail[None], weight)[0] / tail.sum().clamp(min=TINY)
        parts = weight.split(ROWS)
        distance = torch.cat([(rows.to(p.dtype) - centre).norm(dim=-1) for rows in parts])
        farthest = distance.topk(sizes[-1] // FAR).indices
        ids = torch.tensor(_chosen(likeliest.tolist(), farthest.tolist(), sizes))
        ids = ids.to(weight.device)
        reach = [float(distance.scatter(0, ids[:size], 0.0).max()) * (1 + 1e-6) for size in sizes]
        rows = weight[ids].to(p.dtype) - centre
        rest = weights.scatter(0, ids, 0.0).split(ROWS)
        moment = torch.zeros(width, width, dtype=p.dtype, device=p.device)
        for some_rows, w in zip(parts, rest, strict=True):
            moment += _moment(some_rows.to(p.dtype) - centre, w)
        moments = [moment * (1 + 1e-4)]
        for i in reversed(range(1, len(sizes))):
            some = slice(sizes[i - 1], sizes[i])
            moments.insert(0, moments[0] + _moment(rows[some], weights[ids[some]]))
        return Head(ids, sizes, rows, centre, weights, tuple(reach), tuple(moments))


def _moment(rows: Tensor, weights: Tensor) -> Tensor:
    """Add up the squares of rows [n, D] with weights [n], [D, D]."""
    return (rows * weights[:, None]).t() @ rows


def _chosen(likeliest: list[int], farthest: list[int], sizes: Sequence[int]) -> list[int]:
    """Order tokens so that the first `sizes[i]` hold the likeliest and some of the farthest."""
    chosen: dict[int, None] = {}
    for size in sizes:
        room = size - len(chosen)
        far = [token for token in farthest[: size // FAR] if token not in chosen][:room]
        taken = chosen.keys() | far
        new = [token for token in likeliest if token not in taken]
        chosen |= dict.fromkeys((new[: room - len(far)] + far)[:room])
    return list(chosen)


@dataclass(frozen=True)
class Tail:
    """The tokens behind the first M of a head: what their terms are bounded by.

    `log_mass`: [B], the log of their probability; `mean`: [B, D], their mean row minus the centre;
    `moment`: [D, D] and `factor`: [B], S and κ; `reach`: the largest distance from the centre.
    """

    log_mass: Tensor
    mean: Tensor
    moment: Tensor
    factor: Tensor
    reach: float

    def bounds(self, d: Tensor) -> tuple[Tensor, Tensor]:
        """Bound the log of the terms' sum for steps d [B, n, D], [B, n] each."""
        along = torch.bmm(d, self.mean[..., None]).squeeze(-1)
        r = d.norm(dim=-1) * self.reach
        square = ((d @ self.moment) * d).sum(-1) * (self.factor / self.log_mass.exp())[:, None]
        extra = (growth(r) * square).nan_to_num(INFINITE).clamp(max=INFINITE)
        above = torch.log1p((along + extra).clamp(min=1e-6 - 1))
        above = torch.maximum(above, along).masked_fill(r > math.log(INFINITE), math.inf)
        mass = self.log_mass[:, None]
        sure = mass > math.log(1e12 * floor(mass.dtype))  # else it may consist of floors
        return (mass + along).masked_fill(~sure, -math.inf), mass + above


def growth(r: Tensor) -> Tensor:
    """Return (exp(r) − 1 − r)/r², or a little more where r is small.

    >>> growth(torch.tensor([0.0, 2.0]))
    tensor([0.5000, 1.0973])
    """
    return torch.where(r < 1, (r / 2).exp() / 2, (torch.expm1(r) - r) / r.clamp(min=1).square())


@dataclass(frozen=True)
class Base:
    """A base point: y₀ [B, D], its log-normaliser [B], its head and what is behind it.

    `log_p`: [B, M], of the head's tokens. `tails`: by the place in `head.sizes`. `heavy`: so much
    is outside the head that another one, which has much less there, should be chosen. Where every
    head leaves as much, as under logits that are nearly flat, choosing another is of no use.
    """

    head: Head
    y: Tensor
    log_normaliser: Tensor
    log_p: Tensor
    tails: tuple[Tail, ...]
    heavy: bool

    @staticmethod
    def at(y: Tensor, logits: Tensor, weight: Tensor, head: Head) -> Base:
        """Take y, [B, D], with all its logits, as the base point."""
        normaliser = logits.logsumexp(-1)
        every = logits - normaliser[:, None]
        log_p = every[:, head.ids]
        every = every.exp_().clamp_(min=floor(y.dtype))
        p = every[:, head.ids]
        every[:, head.ids] = 0.0
        mass, factor = every.sum(-1), (every / head.weights).amax(-1)
        total = weighted(every, weight) - mass[:, None] * head.centre
        tails: list[Tail] = []
        for i in reversed(range(len(head.sizes))):
            mean, moment = total / mass[:, None], head.moments[i]
            tails.insert(0, Tail(mass.log(), mean, moment, factor, head.reach[i]))
            if i:  # the smaller head's tail has these tokens too
                some = slice(head.sizes[i - 1], head.sizes[i])
                more = p[:, some]
                mass, total = mass + more.sum(-1), total + more @ head.rows[some]
                ratio = more / head.weights[head.ids[some]]
                factor = torch.maximum(factor, ratio.amax(-1))
        outside = float(tails[-1].log_mass.exp().mean())
        heavy = outside > HEAVY_TAIL
        if heavy:
            best = logits.softmax(-1).mean(0).topk(head.sizes[-1]).values
            heavy = 1 - float(best.sum()) < outside / LIGHTER
        return Base(head, y, normaliser, log_p, tuple(tails), heavy)

    def bounds(self, y: Tensor, fine: bool) -> tuple[Tensor, ...]:
        """Bound the log-normaliser at y [n, B, D], [n, B], and its n − 1 rises, with a head."""
        place = len(self.tails) - 1 if fine else 0
        tail, size = self.tails[place], self.head.sizes[place]
        d = (y - self.y).transpose(0, 1).contiguous()  # [B, n, D]
        terms = (d @ self.head.rows[:size].t()).add_(self.log_p[:, None, :size])
        top = terms.exp_().sum(-1)  # [B, n]
        top = top.log().masked_fill(top < LEAST, math.nan)
        below, above = tail.bounds(d)
        common = d @ self.head.centre
        level = self.log_normaliser[:, None] + common
        low = torch.logaddexp(top, below).nan_to_num(-INFINITE, posinf=-INFINITE)
        high = torch.logaddexp(top, above).nan_to_num(INFINITE, posinf=INFINITE)
        step = d[:, 1:] - d[:, :-1]
        rises = _rises(top, (below, above), step.norm(dim=-1) * tail.reach)
        along = step @ self.head.centre
        values = (low + level, high + level, *(along + rise for rise in rises))
        return tuple(value.t() for value in values)


def _rises(top: Tensor, tails: tuple[Tensor, Tensor], reach: Tensor) -> tuple[Tensor, Tensor]:
    """Bound the n − 1 rises of log(H + T), [B, n − 1], from log H, bounds of log T, and ρ."""
    least, most = [], []
    for tail in tails:
        before, tail = torch.logaddexp(top, tail)[:, :-1], tail[:, :-1]
        least.append(torch.logaddexp(top[:, 1:], tail - reach) - before)
        most.append(torch.logaddexp(top[:, 1:], tail + reach) - before)
    low = torch.minimum(*least).nan_to_num(-INFINITE, posinf=-INFINITE, neginf=-INFINITE)
    high = torch.maximum(*most).nan_to_num(INFINITE, posinf=INFINITE, neginf=INFINITE)
    return low, high


def floor(dtype: torch.dtype) -> float:
    """Return the least probability of a token, far enough above zero to divide by."""
    return 1e8 * torch.finfo(dtype).tiny
