"""Learn the vectors of optimal ablation: of each sender that which costs the model least.

For sender u it is  argmin_a  E [KL(full model ‖ full model with o_u replaced by a)],  over all
examples' answer positions, a the same at every position: all edges out of u carry it. The problems
of the senders do not touch each other; one stochastic descent solves all:

1. Begin at each sender's mean over real tokens, and measure its entries' standard deviation.
2. In each step take some pairs, and draw as many senders as `rows`; all are drawn once before any
   is drawn again. Each runs in a row of its own, with one pair, from its own layer on: what comes
   before is the clean run's. So all layers' rows are one batch that grows from layer to layer.
3. One backward pass gives every row's gradient in its sender's vector. Adam moves each by `rate`
   standard deviations, less and less along the way; the vectors of the last half are averaged.
4. At the end each sender keeps the mean if on pairs drawn anew that costs less than what was
   learned.

Shapes: R rows, B examples, T positions, D d_model, V vocabulary.
Source: Li and Janson 2024 (Optimal ablation for interpretability), who take KL too.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ....graphs.lift.devices import place
from ....graphs.lift.lifted import AttentionContext, LiftedModel
from ...trace import (
    at_answers,
    of_keys,
    run_mixer,
    sum_heads,
    together,
    with_given,
)
from ..mean import average, over_tokens, real_tokens, widest
from ..registry import Reference, Runs
from .vectors import split
from .vectors import together as values_of

if TYPE_CHECKING:
    from ...trace import Values

Progress = Callable[[int, int, str], None]

LOSS = "KL divergence from the full model at the answers, all edges out of one sender replaced"

ROWS_MEASURED = 256  # that run together at the end
BETAS, SMALL = (0.9, 0.99), 1e-8  # of Adam


@dataclass(frozen=True)
class Descent:
    """How vectors are learned: how many steps, of how many rows, how fast, and what is drawn."""

    steps: int = 200
    rows: int = 64
    rate: float = 0.1
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Learned:
    """Vectors of all senders as values [1, 1, …]; mean losses at means, and at them, [senders]."""

    values: Values
    before: Tensor
    after: Tensor


@dataclass(frozen=True)
class _Slot:
    """Where a sender stands: `layer` −1 is the embedding; `part`: of which field of `Values`."""

    layer: int
    part: str
    index: int


def learn(reference: Reference, training: Descent, progress: Progress | None = None) -> Learned:
    """Learn every sender's vector on the reference pairs."""
    number = real_tokens(reference)
    means = average(reference, over_tokens, number)
    squares = average(reference, lambda runs, x: over_tokens(runs, widest(x) ** 2), number)
    spread = squares.map(lambda s, m: (s - m**2).clamp(min=0).mean(-1, keepdim=True).sqrt(), means)
    begin = [x.float() for x in split(means)]
    scales = [x.float() for x in split(spread)]
    slots = _slots(means)
    draw = random.Random(training.seed)
    queue = _drawn(len(begin), draw)
    moved = _Adam(begin, scales, training)
    rows = min(training.rows, len(begin))
    visits = _visits(reference)
    for step in range(training.steps):
        pass_of = next(visits)
        senders = sorted((next(queue) for _ in range(rows)), key=lambda u: slots[u].layer)
        examples = [draw.randrange(len(pass_of.batch)) for _ in senders]
        leaves = [moved.vectors[u].detach().requires_grad_() for u in senders]
        with torch.enable_grad():
            drawn = [slots[u] for u in senders]
            loss = pass_of.losses(drawn, examples, leaves).sum()
            gradients = torch.autograd.grad(loss, leaves, materialize_grads=True)
        moved.step(step, senders, gradients)
        if progress is not None:
            progress(step + 1, training.steps, "steps learned")
    final = moved.averaged()
    before, after = (
        _measured(reference, slots, vectors, training.seed) for vectors in (begin, final)
    )
    better = after < before
    kept = [new if keep else old for new, old, keep in zip(final, begin, better, strict=True)]
    values = values_of(kept, means.map(lambda x: x.float()))
    return Learned(values, before, torch.where(better, after, before))


def _measured(
    reference: Reference, slots: list[_Slot], vectors: list[Tensor], seed: int, most: int = 16
) -> Tensor:
    """Return each sender's mean loss with its vector, on `most` pairs or all if they are fewer."""
    order = sorted(range(len(slots)), key=lambda u: slots[u].layer)
    total, number = torch.zeros(len(slots), dtype=torch.float64), 0
    draw = random.Random(seed)
    for one in map(_Pass, reference.chunks()):
        pairs = one.batch.examples
        drawn = draw.sample(range(pairs), min(pairs, most - number))
        number += len(drawn)
        chosen = [run for run, pair in enumerate(one.batch.owner.tolist()) if pair in drawn]
        some = max(1, ROWS_MEASURED // len(chosen))
        for start in range(0, len(order), some):
            senders = [u for u in order[start : start + some] for _ in chosen]
            examples = chosen * (len(senders) // len(chosen))
            with torch.no_grad():
                where = [slots[u] for u in senders]
                found = one.losses(where, examples, [vectors[u] for u in senders])
            total.index_add_(0, torch.tensor(senders), found.double().cpu())
        if number >= most:
            break
    return total / number


def _slots(values: Values) -> list[_Slot]:
    """Return where every sender stands, in graph order."""
    found = [_Slot(-1, "sources", i) for i in range(len(values.sources))]
    for layer, z in enumerate(values.z):
        found += [_Slot(layer, "z", i) for i in range(z.shape[2])]
        if values.post and values.post[layer].shape[-1]:
            found.append(_Slot(layer, "post", 0))
        found += [_Slot(layer, "mlp", i) for i in range(len(values.mlp[layer]))]
    return found


def _drawn(number: int, draw: random.Random) -> Iterator[int]:
    """Yield numbers without end, each once before any comes again."""
    while True:
        order = list(range(number))
        draw.shuffle(order)
        yield from order


def _visits(reference: Reference) -> Iterator[_Pass]:
    """Yield the chunks again and again; what they keep is made once where there is one."""
    chunks = reference.chunks()
    first = _Pass(next(chunks))
    second = next(chunks, None)
    if second is None:
        while True:
            yield first
    while True:
        yield from map(_Pass, reference.chunks())


class _Adam:
    """Vectors as they are moved, each by its own steps, and their mean over the last half."""

    def __init__(self, begin: Sequence[Tensor], scales: Sequence[Tensor], how: Descent) -> None:
        self.vectors, self.scales, self.how = list(begin), list(scales), how
        self._first = [torch.zeros_like(x) for x in begin]
        self._second = [torch.zeros_like(x) for x in begin]
        self._times = [0] * len(begin)
        self._sums = [torch.zeros_like(x, dtype=torch.float64) for x in begin]
        self._counts = [0] * len(begin)

    def step(self, number: int, senders: Sequence[int], gradients: Sequence[Tensor]) -> None:
        """Move some senders' vectors against gradients in units of their standard deviations."""
        done = number / self.how.steps
        rate = self.how.rate * (1 - done)
        for u, gradient in zip(senders, gradients, strict=True):
            g = gradient * self.scales[u]
            self._times[u] += 1
            self._first[u] = BETAS[0] * self._first[u] + (1 - BETAS[0]) * g
            self._second[u] = BETAS[1] * self._second[u] + (1 - BETAS[1]) * g * g
            mean = self._first[u] / (1 - BETAS[0] ** self._times[u])
            size = (self._second[u] / (1 - BETAS[1] ** self._times[u])).sqrt() + SMALL
            self.vectors[u] = self.vectors[u] - rate * self.scales[u] * mean / size
            if done >= 0.5:
                self._sums[u] += self.vectors[u]
                self._counts[u] += 1

    def averaged(self) -> list[Tensor]:
        """Return each vector's mean over the last half of the steps in which it was moved."""
        parts = zip(self._sums, self._counts, self.vectors, strict=True)
        return [(total / n).to(last) if n else last for total, n, last in parts]


class _Pass:
    """A chunk's clean run, in which rows start with one sender replaced."""

    def __init__(self, runs: Runs) -> None:
        self.batch, self.clean = runs.batch, runs.clean
        self.model: LiftedModel = self.clean.model
        host = self.batch.row.tolist()
        self._reads = [
            [i for i, row in enumerate(host) if row == b] for b in range(len(self.batch))
        ]
        row = None if self.batch.steps is None else self.batch.row
        with torch.no_grad():
            at = at_answers(self.clean.streams.final, self.batch.answer_position, row)
            self._log_p = self.model.logits(at).double().log_softmax(-1)  # [reads, V]

    def losses(
        self, slots: Sequence[_Slot], examples: Sequence[int], vectors: Sequence[Tensor]
    ) -> Tensor:
        """Return each row's loss, [R]: slots in the order of their layers, one pair each."""
        final = self._final(slots, examples, vectors)  # [R, T, D]
        reads = [(row, read) for row, b in enumerate(examples) for read in self._reads[b]]
        owner = torch.tensor([row for row, _ in reads], device=final.device)
        which = torch.tensor([read for _, read in reads], device=final.device)
        logits = self.model.logits(at_answers(final, self.batch.answer_position[which], owner))
        log_p = self._log_p[which]
        found = (log_p.exp() * (log_p - logits.double().log_softmax(-1))).sum(-1)
        if self.batch.steps is not None:
            found = found * self.batch.steps.share[which]
        return found.new_zeros(len(slots)).index_add(0, owner, found)

    def _final(
        self, slots: Sequence[_Slot], examples: Sequence[int], vectors: Sequence[Tensor]
    ) -> Tensor:
        """Run the rows; return the streams at `logits`, [R, T, D]."""
        graph, values, streams = self.model.graph, self.clean.values, self.clean.streams
        at = torch.tensor(examples, device=values.sources.device)
        shared = any(block.shared is not None for block in self.model.blocks)
        rows = [slot.layer for slot in slots]
        number = sum(layer < 0 for layer in rows)
        sources = values.sources[:, at[:number]].movedim(0, 2)  # [R, T, sources, D]
        before = [self._put("sources", -1, sources, slots, vectors).sum(2)]
        for layer, block in enumerate(self.model.blocks):
            begun, number = number, sum(one <= layer for one in rows)
            if number > begun:  # rows that begin here: what comes before is the clean run's
                new = at[begun:number]
                for i in range(0 if shared else layer, layer + 1):
                    before[i] = torch.cat((before[i], streams.attention[i][new]))
            if not number:
                before.append(before[-1])
                continue
            here, stream = at[:number], before[-1]
            context = AttentionContext(self.batch.mask[here], self.batch.position_ids[here])
            z = run_mixer(block, layer, stream, of_keys(block, before, layer), context)
            z = self._put("z", layer, z, slots, vectors)
            summed = place(sum_heads(block, z), stream.device)
            if graph.has_post(layer):
                summed = block.write_post(summed)[:, :, None]
                summed = self._put("post", layer, summed, slots, vectors)[:, :, 0]
            middle = stream + summed
            given = [x[here] for x in values.given]
            writes = block.writes(with_given(stream if graph.parallel else middle, given, layer))
            writes = self._put("mlp", layer, writes.movedim(0, 2), slots, vectors).movedim(2, 0)
            before.append(middle + together(writes))
        return before[-1]

    @staticmethod
    def _put(
        part: str, layer: int, x: Tensor, slots: Sequence[_Slot], vectors: Sequence[Tensor]
    ) -> Tensor:
        """Replace what each row's sender writes if it is one of these, x [R, T, senders, …]."""
        own = [
            i for i, slot in enumerate(slots[: len(x)]) if (slot.layer, slot.part) == (layer, part)
        ]
        if not own:
            return x
        row = torch.tensor(own, device=x.device)[:, None]
        which = torch.tensor([slots[i].index for i in own], device=x.device)[:, None]
        column = torch.arange(x.shape[1], device=x.device)[None]
        new = torch.stack([vectors[i] for i in own]).to(x)[:, None]
        return x.index_put((row, column, which), new.expand(-1, x.shape[1], -1))
