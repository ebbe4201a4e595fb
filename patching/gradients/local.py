"""Edge scores with the owner of each port recomputed, in front of any gradient.

With f_p what the owner of port p writes, x_p what the port holds on the clean run, Δ_u = a_u − o_u
and G the gradient of the loss at what the owner writes, averaged as the method's points say,

    s(u→p) = mean over examples of Σ [f_p(x_p + Δ_u) − f_p(x_p)] · G .

So the owner is recomputed, and only what lies behind it is taken to be linear. Into `logits` the
score is the exact effect: f_p is the final norm, the unembedding and the loss. It is the edge form
of what AtP* does for queries and keys (Kramár et al. 2024), for all ports.

1. `writes` gives G at every part. No other run of the model is made.
2. Of every layer, for some senders at a time: all ports that read one stream hold x + Δ_u, which is
   normalised once. Queries attend with new queries and the run's keys and values; keys are changed
   alone, all of a head's at once; so are values, in which a head is linear, so that one gradient
   stands for the product with the pattern. An MLP is recomputed where G is not 0, at tokens at
   which something moves; its last projection is taken into G.
3. Parts that are taken whole, experts and what is normalised behind are recomputed as they are.

Shapes: B examples, T positions of the window, n tokens, s senders, D d_model, H heads, K d_head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from ...graphs.lift.devices import place, send, summing
from ...graphs.lift.lifted import MLP, Attention, Block
from ...graphs.names import LETTERS, Kind
from ...graphs.scores import Scores
from ..run.chunk import Chunk
from ..run.runner import Progress, Runner
from ..trace import of_keys
from .finish import finished
from .owners.curved import Made, of_mlp, of_writes
from .owners.folded import FoldedHeads, folds
from .owners.heads import HeadsRun
from .owners.mixed import MixedHeads, mixture_gradient
from .rules import DERIVATIVE, GradientRule
from .writes import Writes, write_gradients


def attribute_locally(
    runner: Runner,
    points: Sequence[float],
    progress: Progress | None = None,
    each: np.ndarray | None = None,
    rule: GradientRule = DERIVATIVE,
) -> Scores:
    """Score every edge by what its port's owner writes without it, times the gradient there.

    `points`, `each`, `rule`: see `attribution.attribute`.
    """
    runner.require_plain("`local`, which recomputes the owners of ports,")
    runner.metric.require_gradient(at_clean_only=all(point == 1 for point in points))
    graph = runner.graph
    total = np.zeros(graph.reads.shape)
    done = 0
    for rows, chunk in runner.numbered_chunks():
        gradients = write_gradients(runner, chunk, points, rule)
        found = LocalScores(runner, chunk, gradients, each is not None).scores()
        done += chunk.batch.examples
        if progress is not None:
            progress(done, len(runner.pairs), "prompt pairs scored")
        total += found.sum(0)
        if each is not None:
            each[rows] = found[:, graph.reads]
    return finished(runner, points, total)


class LocalScores:
    """The scores of a chunk's edges; `apart`: of each example."""

    def __init__(self, runner: Runner, chunk: Chunk, gradients: Writes, apart: bool) -> None:
        self.chunk, self.model, self.graph = chunk, chunk.model, chunk.model.graph
        self.metric, self.gradients = runner.metric, gradients
        streams = chunk.clean.streams
        self.streams = streams
        self.shape = streams.final.shape  # [B, T, D]
        self.delta = chunk.delta.view(len(self.graph.senders), *self.shape)  # clean − ablated
        device, dtype = summing(self.delta)
        self.apart = apart
        examples = chunk.batch.examples if apart else 1
        self.values = torch.zeros(examples, *self.graph.reads.shape, dtype=dtype, device=device)

    @torch.no_grad()
    def scores(self) -> np.ndarray:
        """Return the scores, [B, P, S] or, if not apart, their sum [1, P, S]."""
        for layer, block in enumerate(self.model.blocks):
            if isinstance(block.attention, Attention):
                self._heads(layer, block, self.gradients[Kind.HEAD, layer])
            for row in self.graph.part_rows[layer]:
                kind = self.graph.ports[row].node.kind
                gradient = self.gradients[kind, layer]
                if kind is Kind.MIXER:
                    self._whole(row, block, self.streams.attention[layer], gradient)
                elif kind is Kind.POST:
                    x = self.streams.post[layer]
                    self._each_token(row, of_writes(block.write_post), x, gradient)
                else:
                    self._mlp(row, block, self.streams.mlp[layer], gradient)
        self._logits()
        found: np.ndarray = self.values.cpu().numpy()
        return found

    def _put(self, row: int, senders: np.ndarray, values: Tensor) -> None:
        """Add the scores of edges into ports from a row on, [s, examples or 1, ports]."""
        values = values.to(self.values).permute(1, 2, 0)
        some = slice(int(senders[0]), int(senders[-1]) + 1)
        into = self.values[:, row : row + values.shape[1]]
        if some.stop - some.start == len(senders):
            into[..., some] += values
        else:
            into.index_add_(2, send(senders, self.chunk.batch.clean), values)

    def _by_example(self, found: Tensor, owner: Tensor) -> Tensor:
        """Add up scores [s, R, …] of R rows or tokens by the example they are of, or all."""
        if not self.apart:
            return found.sum(1, keepdim=True)
        total = found.new_zeros(len(found), self.chunk.batch.examples, *found.shape[2:])
        return total.index_add_(1, place(owner, found.device), found)

    def _pieces(self, row: int, numbers: int) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Yield some of a port's senders, and what they write, clean minus ablated, [s, B, T, D].

        `numbers`: how many are made on the way for one sender.
        """
        senders = np.flatnonzero(self.graph.reads[row])
        step = max(1, self.chunk.budget.questions // (4 * numbers))
        for start in range(0, len(senders), step):
            some = senders[start : start + step]
            first, last = int(some[0]), int(some[-1])
            together = last - first + 1 == len(some)
            yield some, self.delta[first : last + 1] if together else self.delta[some.tolist()]

    # -- heads

    def _heads(self, layer: int, block: Block, gradient: Tensor) -> None:
        """Score the ports of a layer's heads; gradient [B, T, D] at the sum of what they write."""
        streams, rows = self.streams.attention, self.graph.attention_rows[layer]
        read = streams[layer], of_keys(block, streams, layer)
        context, past = self.chunk.context, self.chunk.past
        run = HeadsRun.of(block, layer, read, context, past, mixture_gradient(block, gradient))
        window, length = self.shape[1], self.chunk.batch.clean.shape[1]
        make = FoldedHeads if folds(block.by_head, window, length) else MixedHeads
        heads = make.of(run)
        numbers = self.shape[0] * window * heads.numbers(self.shape[2])
        for letters in (LETTERS,) if block.shared is None else (LETTERS[:1], LETTERS[1:]):
            before = read["q" not in letters]
            now = block.read(before, letters[0])
            for senders, delta in self._pieces(rows[letters[0]][0], numbers):
                new = block.read((before - delta).to(self.model.dtype), letters[0])
                for letter, found in heads.changes(letters, new, now).items():  # [s, B, H]
                    each = self._by_example(found, self.chunk.batch.owner)
                    ports = len(set(rows[letter]))  # one for each head, or group of heads
                    each = each.unflatten(-1, (ports, -1)).sum(-1)
                    self._put(rows[letter][0], senders, place(each, self.values.device))

    # -- parts that know one token by itself

    def _moving(self, gradient: Tensor) -> Tensor:
        """List the tokens, as indices into B·T, at which something moves that the loss notices."""
        tokens = self.chunk.moving_tokens
        noticed = gradient.flatten(0, 1)[tokens].any(-1)
        return tokens[noticed]

    def _each_token(self, row: int, make: Made, x: Tensor, gradient: Tensor) -> None:
        """Score the port of what writes, at a token, what that token's stream makes it write.

        x: [B, T, D or, where an MLP is given more, D + P].
        """
        tokens = self._moving(gradient)
        if not len(tokens):
            return
        layer, width = self.graph.ports[row].node.layer, self.shape[-1]
        x, g = x.flatten(0, 1)[tokens], gradient.flatten(0, 1)[tokens]
        assert layer is not None
        given = None
        if x.shape[-1] > width:
            given = self.chunk.given_delta[layer].flatten(0, 1)[tokens]
        features = self.model.blocks[layer].features[1]
        score, owner = make(x.to(self.model.dtype), g), self._owner(tokens)
        for senders, delta in self._pieces(row, len(tokens) * (4 * width + 2 * features)):
            held = x - self._at(delta, tokens, x.shape[-1])
            if given is not None and senders[0] == 0:
                held[0, :, width:] -= given
            found = score(held.to(self.model.dtype))
            self._put(row, senders, self._by_example(found, owner)[..., None])

    def _at(self, delta: Tensor, tokens: Tensor, width: int) -> Tensor:
        """Take deltas [s, B, T, D] at tokens, with nothing past the stream: [s, n, width]."""
        delta = delta.flatten(1, 2)
        if len(tokens) < delta.shape[1]:
            delta = delta[:, tokens]
        more = width - delta.shape[-1]
        return pad(delta, (0, more)) if more else delta

    def _owner(self, tokens: Tensor) -> Tensor:
        """Return the example that each token is of, [n]."""
        return self.chunk.batch.owner[tokens // self.shape[1]]

    def _mlp(self, row: int, block: Block, x: Tensor, gradient: Tensor) -> None:
        """Score the port of a layer's MLP, or experts; x: [B, T, D + P], what it holds."""
        mlp = block.mlp
        if isinstance(mlp, MLP) and block.mlp_post_norm is None and block.gate is None:
            self._each_token(row, of_mlp(block, mlp), x, gradient)
        else:
            self._each_token(row, of_writes(block.write), x, gradient)

    def _whole(self, row: int, block: Block, x: Tensor, gradient: Tensor) -> None:
        """Score the port of a mixer that is taken whole; x, gradient: [B, T, D]."""
        now, tokens = block.write_whole(x, self.chunk.context), gradient.shape[:2].numel()
        numbers = tokens * (4 * self.shape[-1] + block.features[0])
        for senders, delta in self._pieces(row, numbers):
            held = (x - delta).to(self.model.dtype)
            change = block.write_whole(held, self.chunk.context) - now
            found = (change.to(gradient) * gradient).sum((-2, -1))  # [s, B]
            found = self._by_example(found, self.chunk.batch.owner)
            self._put(row, senders, found[..., None])

    def _logits(self) -> None:
        """Score the edges into `logits`: the change of the loss."""
        row, at_answers = len(self.graph.ports) - 1, self.chunk.at_answers
        x = at_answers(self.streams.final)
        now = self._losses(x[None])
        for senders, delta in self._pieces(row, 4 * x.numel()):
            found = self._losses(x - at_answers(delta)) - now
            found = found if self.apart else found.sum(1, keepdim=True)
            self._put(row, senders, found[..., None])

    def _losses(self, answers: Tensor) -> Tensor:
        """Return the losses of streams where they are read, [n, R, D]: float64 [n, examples]."""
        chunk, metric, model = self.chunk, self.metric, self.model
        if chunk.batch.steps is None and metric.reads_few:
            few = chunk.answer_logits
            return metric.loss(few.logits(answers), few.target).double()
        one = 4 * answers.shape[1] * len(model.unembed.weight)
        parts = answers.to(model.dtype).split(max(1, chunk.budget.logits // one))
        losses = [metric.loss(model.logits(some), chunk.target) for some in parts]
        return torch.cat(losses).double()
