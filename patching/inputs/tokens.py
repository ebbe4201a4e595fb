"""What each token of a prompt does: integrated gradients, and exact effects, of its embedding.

With x the clean prompt's embeddings, b those that ablation gives and L the loss, for a token t

    integrated:  Σ_d (b_t − x_t) · mean over k of ∂L/∂e_t at e = b + α_k (x − b) ,  α_k = (k − ½)/K
    exact:       L(x with b_t in place of x_t) − L(x) .

Positive: the token helps. The first add up over tokens to L(b) − L(x), but for what K points miss
(`gap`); the second do not, as tokens act together. They are of what the embedding writes at one
position, into the stream and past it, with everything else recomputed.

Told are the tokens up to the answer's place; in models that attend in both directions, all.
Tokens at which clean and ablated embedding are the same have the effect 0, as those have in front
of the first difference of a pair under a paired ablation.

Shapes: K points, B runs, E pairs, T positions of the window, D d_model.
Source: Sundararajan, Taly and Yan 2017, Axiomatic attribution for deep networks, equation 1; points
in the middle of K equal parts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ...graphs.calls.typed import typed
from ...graphs.errors import EdgewiseError
from ...graphs.lift.lifted import AttentionContext
from ..gradients.attribution import groups
from ..run.chunk import Chunk
from ..run.runner import Progress, Runner, refuse_nan
from ..trace import of_keys, run_layer

STEPS = 20
"""Points of the integral unless told otherwise."""


@typed
@dataclass(frozen=True, eq=False)
class TokenEffects:
    """Effects of the tokens of each pair's clean prompt, float64 [tokens] each, in losses.

    `whole`: how far the loss rises with every embedding ablated, [E].
    """

    integrated: tuple[np.ndarray, ...] = field(repr=False)
    exact: tuple[np.ndarray, ...] = field(repr=False)
    whole: np.ndarray

    @property
    def gap(self) -> np.ndarray:
        """Return by how much the integrated effects miss the whole, [E]."""
        found: np.ndarray = np.array([one.sum() for one in self.integrated]) - self.whole
        return found


@typed
def token_effects(
    runner: Runner, steps: int = STEPS, progress: Progress | None = None
) -> TokenEffects:
    """Measure what each token of each pair's clean prompt does.

    Raises:
        EdgewiseError: there is no point; the metric has no gradient; spans are told apart.
    """
    if steps < 1:
        raise EdgewiseError(f"steps is {steps}; accepted: 1 or more.")
    runner.require_plain("an effect of tokens")
    runner.metric.require_gradient(at_clean_only=False)
    points = [(k + 0.5) / steps for k in range(steps)]
    number = len(runner.pairs)
    integrated, exact = [np.empty(0)] * number, [np.empty(0)] * number
    whole, done = np.zeros(number), 0
    for rows, chunk in runner.numbered_chunks():
        inputs = _Inputs(runner, chunk)
        found = inputs.integrated(points)
        alone = inputs.exact()
        whole[rows] = inputs.whole()
        for place, row in enumerate(rows):
            pair = runner.pairs.pairs[row]
            tokens = pair.answer_position + 1 if chunk.model.causal else len(pair.clean)
            integrated[row], exact[row] = (
                _widened(one[place], chunk.start, tokens) for one in (found, alone)
            )
        done += len(rows)
        if progress is not None:
            progress(done, number, "prompts measured, token by token")
    for values in (np.concatenate(integrated), np.concatenate(exact), whole):
        refuse_nan(values, f"a token's effect by the metric '{runner.metric.name}'")
    return TokenEffects(tuple(integrated), tuple(exact), whole)


def _widened(values: np.ndarray, start: int, tokens: int) -> np.ndarray:
    """Put the window's values behind those before it, which are 0, and cut the padding off."""
    return np.concatenate([np.zeros(start), values])[:tokens]


class _Inputs:
    """Runs of a chunk from embeddings that are changed."""

    def __init__(self, runner: Runner, chunk: Chunk) -> None:
        self.runner, self.chunk, self.model = runner, chunk, chunk.model
        clean, base = chunk.clean.values, chunk.base.values
        self.clean = clean.sources.sum(0), clean.given
        self.base = base.sources.sum(0), base.given
        self.owner = chunk.batch.owner

    def integrated(self, points: list[float]) -> np.ndarray:
        """Return the integrated effects at the window's positions, float64 [E, T]."""
        total = torch.zeros(self.clean[0].shape[:2], dtype=torch.float64)
        for some in groups(self.chunk, points, self.runner.budget.tape):
            total += self._gradients(some).cpu() / len(points)
        found = total.new_zeros(self.chunk.batch.examples, total.shape[1])
        return found.index_add_(0, self.owner.cpu(), total).numpy()

    def _gradients(self, points: list[float]) -> Tensor:
        """Return (b − x) · gradient, summed over features and points, float64 [B, T]."""
        (x, given), (b, past) = self.clean, self.base
        leaves = [torch.cat([u + a * (v - u) for a in points]).detach().requires_grad_()
                  for u, v in zip((b, *past), (x, *given), strict=True)]  # fmt: skip
        with torch.enable_grad():
            loss = self._losses(leaves[0], tuple(leaves[1:]), len(points)).sum()
        found = torch.autograd.grad(loss, leaves, materialize_grads=True)
        total = torch.zeros(x.shape[:2], dtype=torch.float64, device=x.device)
        for gradient, u, v in zip(found, (b, *past), (x, *given), strict=True):
            summed = gradient.unflatten(0, (len(points), -1)).double().sum(0)
            total += (summed * (u - v)).sum(-1).to(total.device)
        return total

    @torch.no_grad()
    def exact(self) -> np.ndarray:
        """Return the exact effects at the window's positions, float64 [E, T]."""
        (x, given), (b, past) = self.clean, self.base
        length = x.shape[1]
        differs = (x != b).any(-1).any(0)
        for u, v in zip(given, past, strict=True):
            differs = differs | (u != v).any(-1).any(0).to(differs.device)
        columns = differs.nonzero()[:, 0].tolist()
        found = np.zeros((self.chunk.batch.examples, length))
        now = self._losses(x, given, 1)[0]
        for some in _parts(columns, self._at_once()):
            changed = [torch.cat([_swapped(u, v, column) for column in some])
                       for u, v in zip((x, *given), (b, *past), strict=True)]  # fmt: skip
            losses = self._losses(changed[0], tuple(changed[1:]), len(some))
            found[:, some] = (losses - now).double().cpu().numpy().T
        return found

    @torch.no_grad()
    def whole(self) -> np.ndarray:
        """Return how far the loss rises with every embedding ablated, [E]."""
        change = self._losses(*self.base, 1) - self._losses(*self.clean, 1)
        return np.asarray(change[0].double().cpu().numpy())

    def _at_once(self) -> int:
        """Return how many copies of the chunk a run may have."""
        tokens = self.clean[0].shape[:2].numel()
        numbers = 4 * self.model.d_model + max(sum(block.features) for block in self.model.blocks)
        return max(1, self.runner.budget.questions // (4 * tokens * numbers))

    def _losses(self, stream: Tensor, given: tuple[Tensor, ...], copies: int) -> Tensor:
        """Run the model from embeddings of copies of the chunk; their losses, [copies, E]."""
        chunk, batch = self.chunk, self.chunk.batch
        context = AttentionContext(
            batch.mask.repeat(copies, 1), batch.position_ids.repeat(copies, 1), chunk.start
        )
        past = chunk.past and tuple(
            (k.repeat(copies, 1, 1, 1), v.repeat(copies, 1, 1, 1)) for k, v in chunk.past
        )
        before = [stream]
        for layer, block in enumerate(self.model.blocks):
            keys = of_keys(block, before, layer)
            run = run_layer(self.model, layer, before[layer], keys, context, past, given)
            before.append(run.stream)
        final = before[-1].unflatten(0, (copies, -1))
        logits = self.model.logits(chunk.at_answers(final))
        return self.runner.metric.loss(logits, chunk.target)


def _swapped(x: Tensor, other: Tensor, column: int) -> Tensor:
    """Return x, [B, T, …], with what `other` has at one position."""
    found = x.clone()
    found[:, column] = other[:, column]
    return found


def _parts(columns: list[int], size: int) -> list[list[int]]:
    return [columns[start : start + size] for start in range(0, len(columns), size)]
