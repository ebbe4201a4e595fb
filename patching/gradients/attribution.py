"""Gradients at every port of the full model, and the edge scores they give, all at once.

For an edge u→p the attribution is Σ (a_u − o_u) · ∂loss/∂x_p over positions and features. One
taped forward pass and one backward pass give ∂loss/∂x_p of every port; one matrix product per
layer gives all scores. Each block is a tape of its own, in which parameters are constants.

* A port's gradient passes its projection W and its norm. With x̂ the normalised input, r the
  norm's factor 1/std, W' the projection times the norm's weight (its rows centred if the norm
  centres) and g the gradient at the projection's output,
      ∂loss/∂x_p = r·(g W') − (r/D)·(g · W'x̂)·x̂ .
  Both terms are linear in r·g, so over the points of an integrated gradient the first is summed
  before the product with W', which then costs the same for one point and for fifty.
  Without a norm only the first term is left, with r = 1; so it is, with r, where a gradient rule
  takes r for a constant. A norm of all heads' queries or keys together couples a port to every
  head's projection; that is one more term of the second kind.
  Where heads project a normalised smaller space, g is first taken back to that space, through its
  norm by the same formula; W is then the projection into it, which all heads share.
* Points are a batch axis. Scores are taken while the backward pass goes, some layers at a time,
  and stay on the device, where they are added up, until the last chunk; nothing waits for them.
  (Scores on each example are fetched once a chunk: all examples' may fill a card.)
* A token at which nothing moves adds nothing to any score and is left out.
* No example's loss depends on another's tokens. So the same product taken over the tokens of one
  example gives its own scores, and their mean is the score.

Shapes: K points, B examples, T positions, n tokens at which something moves, D d_model, H heads,
d d_head, S senders.
Source: Syed et al. 2023 (attribution patching of edges); Hanna et al. 2024 (integrated gradients).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...graphs.lift.devices import place, summing
from ...graphs.lift.lifted import Block, working_dtype
from ...graphs.names import LETTERS, Kind, Node, Port
from ...graphs.scores import Scores
from ..run.chunk import Chunk, sender_deltas
from ..run.runner import Progress, Runner
from .backward import by_rule
from .by_example import ByExample, BySpan, Total
from .closed_form import Extra, Stage, Together, constant, fold, spread_out
from .finish import finished
from .rules import DERIVATIVE, GradientRule
from .tape import Heads, LayerTape, tapes_of

ROWS_AT_ONCE = 128
"""Ports whose scores are one matrix product: enough for it to be fast, few enough to leave out the
senders behind most of them. (Their gradients take less memory than the deltas they are multiplied
with, which `Budget.batch` bounds.)"""


def attribute(
    runner: Runner,
    points: Sequence[float],
    progress: Progress | None = None,
    each: np.ndarray | None = None,
    rule: GradientRule = DERIVATIVE,
) -> Scores:
    """Score every edge by (a_u − o_u) · ∂loss/∂x_p, the gradient averaged over points.

    `points`: for each gradient, how much of the clean embedding it is taken at: 1 is the clean run,
    0 the run from the ablated embedding. Metrics without a gradient there are refused.
    `each`: float32 [examples, edges], filled with the scores on each example of the pairs.
    `rule`: what stands for derivatives.
    """
    runner.metric.require_gradient(at_clean_only=all(point == 1 for point in points))
    total = Total(runner, each)
    done = 0
    for rows, chunk in runner.numbered_chunks():
        with torch.no_grad():
            delta = sender_deltas(chunk.clean, chunk.base, chunk.moving_tokens).flatten(1)
        apart = total.apart(chunk, delta)
        for group in groups(chunk, points, runner.budget.tape):
            share = len(group) / len(points)
            if apart is not None:
                apart.share = share
            scores = ChunkScores(runner, chunk, group, delta, apart, rule).scores()
            total.add(share * scores)
            done += chunk.batch.examples * len(group)
            if progress is not None:
                progress(done, len(runner.pairs) * len(points), "gradients taken")
        total.end_chunk(rows, apart)
    return finished(runner, points, total.numbers())


def groups(chunk: Chunk, points: Sequence[float], memory: int) -> list[list[float]]:
    """Cut the points into groups of about equal size whose tapes fit in memory."""
    model = chunk.model
    inner = sum(sum(block.features) for block in model.blocks)
    per_token = (model.graph.layers * 4 * model.d_model + inner) * 4
    tokens = chunk.batch.clean[:, chunk.start :].numel()
    at_once = max(1, memory // (per_token * tokens))
    number = -(-len(points) // at_once)
    cuts = [len(points) * i // number for i in range(number + 1)]
    return [list(points[a:b]) for a, b in itertools.pairwise(cuts)]


class ChunkScores:
    """One run forward and backward over a chunk; `delta`: [S, n·D], clean − ablated values."""

    def __init__(
        self,
        runner: Runner,
        chunk: Chunk,
        points: list[float],
        delta: Tensor,
        apart: ByExample | BySpan | None,
        rule: GradientRule = DERIVATIVE,
    ) -> None:
        self.runner, self.chunk, self.model = runner, chunk, by_rule(runner.model, rule)
        self.apart = apart
        self.graph, self.points = runner.model.graph, points
        device, dtype = summing(delta)
        self.values = torch.zeros(self.graph.reads.shape, dtype=dtype, device=device)
        self.batch = len(chunk.batch)
        self.tokens, self.delta = chunk.moving_tokens, delta
        self.pending: list[tuple[int, Tensor]] = []
        self.past_the_stream: dict[int, Tensor] = {}  # scores of what MLPs are given past it
        self.past_share = 1.0  # how much of what they are given there delta is of
        self.elsewhere: dict[int, Tensor] = {}  # gradients at earlier layers' streams

    def scores(self) -> Tensor:
        """Return the summed scores, [P, S], on the device."""
        tapes, final = self._tapes()
        gradient = self._loss_gradient(final)
        self._put(Port(Node(Kind.LOGITS)), self._select(gradient).mean(0, keepdim=True))
        for layer in reversed(range(len(tapes))):
            block = self.model.blocks[layer]
            tape = tapes.pop()
            behind = gradient
            if tape.mlp is not None:
                gradient = gradient + self._through(Kind.MLP, layer, *tape.mlp, behind)
            into = behind if self.graph.parallel else gradient
            if tape.post is not None:
                into = self._through(Kind.POST, layer, *tape.post, into)
            if tape.heads is not None:
                gradient = gradient + self._attention(layer, block, tape.heads, into)
            if tape.whole is not None:
                gradient = gradient + self._through(Kind.MIXER, layer, *tape.whole, into)
            if layer in self.elsewhere:
                gradient = gradient + self.elsewhere.pop(layer)
        self._flush()
        for row, score in self.past_the_stream.items():
            self.values[row, 0] += score
        return self.values

    def _tapes(self) -> tuple[list[LayerTape], Tensor]:
        """Run the chunk; return its layers' tapes and the stream at `logits`, [K·B, T, D]."""
        return tapes_of(self.model, self.chunk, self.points)

    def _loss_gradient(self, final: Tensor) -> Tensor:
        """Return ∂loss/∂(stream at logits), [K·B, T, D]; each point's loss summed over examples."""
        leaf = final.detach().unflatten(0, (len(self.points), self.batch)).requires_grad_()
        with torch.enable_grad():
            logits = self.model.logits(self.chunk.at_answers(leaf))
            loss = self.runner.metric.loss(logits, self.chunk.target).sum()
        gradient: Tensor = torch.autograd.grad(loss, leaf)[0]
        return gradient.flatten(0, 1)

    def _through(
        self, kind: Kind, layer: int, write: Tensor, x: Tensor, gradient: Tensor
    ) -> Tensor:
        """Score the port of `m{l}`, `o{l}` or `s{l}`; return what flows back through it."""
        (own,) = torch.autograd.grad(write, x, gradient)
        port, width = Port(Node(kind, layer)), gradient.shape[-1]
        if own.shape[-1] > width:  # what the embedding sends past the stream
            past = self._select(own[..., width:]).mean(0)
            delta = self.chunk.given_delta[layer].flatten(0, 1)[self.tokens]
            found = -self.past_share * (past * delta).to(self.values).sum(-1)
            row = self.graph.port_index[port]
            self.past_the_stream[row] = found.sum()
            if self.apart is not None:
                self.apart.add_first(row, found)
            own = own[..., :width]
        self._put(port, self._select(own).mean(0, keepdim=True))
        return own

    def _attention(self, layer: int, block: Block, tape: Heads, gradient: Tensor) -> Tensor:
        """Score the layer's attention ports; return the gradient that flows back through them."""
        attention = block.by_head
        here = place(gradient, block.device)
        g_z = attention.scaled(torch.einsum("btd,hkd->bthk", here, attention.wo))
        leaves = {"q": tape.q, "k": tape.k, "v": tape.v}
        found = torch.autograd.grad(tape.z, tuple(leaves.values()), g_z, materialize_grads=True)
        grads = dict(zip(LETTERS, found, strict=True))
        total = torch.zeros_like(gradient)
        for letters in (LETTERS,) if block.shared is None else (LETTERS[:1], LETTERS[1:]):
            norm = block.norm_of(letters[-1])
            stream = place(tape.stream if "q" in letters else tape.keys, block.device)
            wide = working_dtype(gradient.dtype)
            unit, rate = (stream.to(wide), None) if norm is None else norm.unit(stream)
            through = torch.zeros_like(unit)
            for letter in letters:
                g, seen = grads[letter].to(unit.dtype), leaves[letter].detach()
                through += self._letter(layer, letter, g, seen, stream, unit, rate)
            if norm is not None and rate is not None:
                through = norm.back(through, unit, rate)
            if block.shared is not None and "q" not in letters:
                at, more = block.shared.source, through.to(gradient)
                self.elsewhere[at] = more + self.elsewhere[at] if at in self.elsewhere else more
            else:
                total = through.to(gradient)
        return total

    def _letter(
        self,
        layer: int,
        letter: str,
        g: Tensor,
        seen: Tensor,
        stream: Tensor,
        unit: Tensor,
        rate: Tensor | None,
    ) -> Tensor:
        """Score one letter's ports; return what flows back to the normalised input x̂.

        g: [K·B, T, H, d], the gradient at what every head was given; seen: that itself.
        """
        block = self.model.blocks[layer]
        attention, latent = block.by_head, block.by_head.latent(letter)
        first_of_all = attention.projection(letter)[0] if latent is None else latent.rows
        before = block.norm_of(letter)
        moves = before is not None and not before.constant  # its 1/std, with what the port holds
        folded = fold(before, first_of_all)  # [H or G, d, D]
        group = 1 if letter == "q" else attention.group_size
        merged = g.unflatten(-2, (-1, group)).sum(-2) if group > 1 else g
        if group > 1 and self.graph.grouped_kv:
            g, seen = merged, seen[..., ::group, :]
        heads = g.shape[-2]
        first = Port(self.graph.attention_owners(layer, letter)[0], letter)
        if latent is not None:
            stage = Stage.of(block, letter, latent, stream)
            back, raw = stage.back(g), stage.raw[..., None, :] - constant(block, letter, 1)
            along = raw.expand_as(back) if moves else None
            self._put_attention(first, back, along, folded, unit, rate)
            return back.sum(-2) @ folded[0]
        norm = attention.norm_of_all(letter)
        if norm is None:
            along = seen - constant(block, letter, heads) if moves else None
            self._put_attention(first, g, along, folded, unit, rate)
            return merged.flatten(-2) @ folded.flatten(0, 1)
        joint = Together.of(block, letter, norm, stream)
        back, shrink = joint.parts(g)
        all_seen = joint.raw - constant(block, letter, len(folded))
        extra = Extra(
            shrink,
            joint.unit.flatten(-2) @ folded.flatten(0, 1),
            shrink * (joint.unit * all_seen).sum((-2, -1))[..., None],
        )
        along = all_seen.repeat_interleave(heads // len(folded), -2) if moves else None
        self._put_attention(first, back, along, folded, unit, rate, extra)
        return joint.back(merged).flatten(-2) @ folded.flatten(0, 1)

    def _put_attention(
        self,
        first: Port,
        g: Tensor,
        seen: Tensor | None,
        folded: Tensor,
        unit: Tensor,
        rate: Tensor | None,
        extra: Extra | None = None,
    ) -> None:
        """Score one letter's ports, from the first, with g W', and `extra` taken off.

        g: [K·B, T, ports, d], the gradient at their projections; seen: the same shape, W'x̂, or
        None where the norm's factor does not move with what the port holds.
        """
        ports = g.shape[-2]
        if len(folded) == 1:
            folded = folded.expand(ports, -1, -1)
        elif len(folded) < ports:
            folded = folded.repeat_interleave(ports // len(folded), 0)
        g, unit = (self._select(x) for x in (g, unit))  # [K, n, …]
        rate = None if rate is None else self._select(rate)  # [K, n, 1]
        scaled = g if rate is None else g * rate[..., None]
        total = torch.bmm(scaled.sum(0).transpose(0, 1), folded)  # [ports, n, D]
        along = None if seen is None else (scaled * self._select(seen)).sum(-1)  # [K, n, ports]
        if extra is not None:
            factor, vector, product = (self._select(x) for x in extra)
            factor, product = (x if rate is None else x * rate for x in (factor, product))
            total -= spread_out(factor, vector)
            along = None if along is None else along - product
        if along is not None:
            total -= spread_out(along / unit.shape[-1], unit)
        self._put(first, total / len(self.points))

    def _select(self, x: Tensor) -> Tensor:
        """Keep the moving tokens, [K·B, T, …] to [K, n, …]."""
        apart: Tensor = x.flatten(0, 1).unflatten(0, (len(self.points), -1))
        return apart[:, place(self.tokens, x.device)]

    def _put(self, first: Port, gradient: Tensor) -> None:
        """Score all edges into successive ports, gradient [ports, n, D] of a summed loss."""
        row = self.graph.port_index[first]
        self.pending.append((row, gradient.flatten(1).to(self.delta)))
        if sum(len(g) for _, g in self.pending) >= ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        """Take the scores of the ports put aside: rows of one matrix product."""
        if not self.pending:
            return
        spans = [(row, row + len(g)) for row, g in self.pending]
        rows = np.concatenate([np.arange(*span) for span in spans])
        before = int(self.graph.reads[rows].any(0).nonzero()[0].max()) + 1
        gradient = torch.cat([g for _, g in self.pending])
        if self.apart is not None:
            self.apart.add(gradient, rows, before)
        # delta is clean − ablated, so the score has the opposite sign
        product = -(gradient @ self.delta[:before].t())
        parts = product.split([stop - start for start, stop in spans])
        for (start, stop), part in zip(spans, parts, strict=True):
            self.values[start:stop, :before] = part
        self.pending.clear()
