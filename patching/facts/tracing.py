"""Causal tracing: where does a run with a noisy subject need what to say the answer after all?

1. The clean run gives the answer's probability p.
2. Noise is added to the embeddings of the subject's tokens; in each of N draws the probability
   falls to p_c. p − mean p_c is the *total effect*.
3. In each draw, one thing is put back as it is in the clean run, and the rest goes on from there:
   at one token, the `stream` behind a layer, or what the `mlp`s, or the `attention`s, of a window
   of layers around it add to the stream. That gives p_r. Mean p_r − mean p_c is the *indirect
   effect* of that layer and token.

The noise is Gaussian, of three times the standard deviation of the entries of the embeddings of all
prompts' subjects; what the embedding sends past the stream gets as much. Where the deviation is 0,
as of one-hot embeddings of a toy, nothing is noisy. Draws follow from the prompt's tokens and a
seed. A mixer that is taken whole (Mamba's) is what `attention` means there, as in Sharma et al.
2024.

Sources: Meng et al. 2022 (ROME), section 2; Sharma et al. 2024 for state spaces.

Shapes: N draws, L layers, T tokens, D d_model, B runs (draws, for each way the answers go on).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ...graphs.calls.typed import typed
from ...graphs.errors import EdgewiseError, unknown
from ...graphs.lift.lifted import AttentionContext, LiftedModel
from ..run.memory import Budget
from .names import ATTENTION, KINDS, MLP, STREAM
from .prompts import FactPrompt, answer_probability, right_answers, windows
from .sweep import BaseRun, Branch, Branches, Sweep

DEVIATIONS, DRAWS = 3.0, 10


@dataclass(frozen=True)
class Noise:
    """How the subject is made unknown: the noise's standard deviation, how many draws, a seed."""

    deviation: float
    draws: int = DRAWS
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Traced:
    """One prompt: its answer's probability, and that of each noisy run, float64 [N].

    `restored`: by kind, float64 [L, T, N], with something put back at a layer and token; T counts
    the tokens up to the answer's place. `right`: the model's most probable token is the answer's.
    """

    prompt: FactPrompt
    clean: float
    right: bool
    corrupted: np.ndarray = field(repr=False)
    restored: dict[str, np.ndarray] = field(repr=False)

    @property
    def total(self) -> np.ndarray:
        """Return the total effect in each draw, [N]."""
        return self.clean - self.corrupted

    def indirect(self, kind: str) -> np.ndarray:
        """Return the indirect effects of a kind, [L, T, N]."""
        return np.asarray(self.restored[kind] - self.corrupted)


@typed
def subject_deviation(model: LiftedModel, prompts: Sequence[FactPrompt]) -> float:
    """Return the standard deviation of the embeddings' entries over all subjects' tokens."""
    ids = torch.tensor([one.pair.clean[at] for one in prompts for at in one.subject])
    ids = ids.to(model.tokens.device)
    written = (model.embed_tokens(ids)[..., : model.embedded], *model.give(ids))
    return float(torch.cat(written, -1).double().std(correction=0))


@typed
@torch.no_grad()
def clean_run(model: LiftedModel, prompt: FactPrompt) -> BaseRun:
    """Run a prompt as it is, once for each way its answers go on."""
    batch = prompt.batch_on(model)
    stream = model.embed(batch.clean, batch.position_ids).sum(0)
    context = AttentionContext(batch.mask, batch.position_ids)
    return BaseRun.of(model, context, stream, model.give(batch.clean))


@typed
@torch.no_grad()
def trace_prompt(
    model: LiftedModel,
    prompt: FactPrompt,
    noise: Noise,
    kinds: Sequence[str] = tuple(KINDS),
    *,
    window: int = 1,
    progress: Callable[[int, int], object] | None = None,
) -> Traced:
    """Put back each kind at every layer and token of one prompt, in every draw of the noise.

    Args:
        window: over how many layers MLPs and attention are put back; the stream always at one.
        progress: told how many of how many parts are done.
    """
    if wrong := [kind for kind in kinds if kind not in KINDS]:
        raise unknown("kind", wrong[0], KINDS)
    if noise.draws < 1 or not noise.deviation >= 0:
        raise EdgewiseError(
            f"noise of deviation {noise.deviation} in {noise.draws} draws cannot be added; "
            "accepted: a deviation from 0 up, and 1 draw or more."
        )
    at_layers = windows(len(model.blocks), window)
    budget = Budget.of(model)
    clean, batch = clean_run(model, prompt), prompt.batch_on(model)
    value = float(answer_probability(model, batch, clean.final[None], budget)[0])
    first = prompt.subject[0] if model.causal else 0
    tokens = range(first, prompt.last + 1)
    shape = (len(model.blocks), prompt.last + 1, noise.draws)
    restored = {kind: np.zeros(shape) for kind in kinds}
    corrupted = np.zeros(noise.draws)
    drawn = _drawn(model, prompt, noise, clean)
    parts = list(drawn.split(_at_once(model, clean, budget)))
    done = 0
    for number, some in enumerate(parts):
        columns = slice(done, done + len(some))
        base = _noisy_run(model, clean, some)
        of_draws = base.final.unflatten(0, (len(some), -1))
        corrupted[columns] = answer_probability(model, batch, of_draws, budget).numpy()
        for place, kind in enumerate(kinds):
            width = [(at, at) for at in range(shape[0])] if kind == STREAM else at_layers
            cells = [
                Branch(at, one, one[1 if kind == STREAM else 0] + 1)
                for one in width
                for at in tokens
            ]
            order = {id(cell): i for i, cell in enumerate(cells)}
            values = restored[kind]
            values[:, :first, columns] = corrupted[columns]
            for group, start, final in _Restored(base, clean, cells, kind, budget).run():
                of_cells = final.unflatten(1, (len(some), -1)).flatten(0, 1)
                found = answer_probability(model, batch, of_cells, budget, start)
                for cell, row in zip(group, found.view(len(group), -1), strict=True):
                    layer = order[id(cell)] // len(tokens)
                    values[layer, cell.position, columns] = row.numpy()
            if progress is not None:
                progress(number * len(kinds) + place + 1, len(parts) * len(kinds))
        done += len(some)
    right = right_answers(model, batch, clean.final)
    return Traced(prompt, value, right, corrupted, restored)


def _at_once(model: LiftedModel, clean: BaseRun, budget: Budget) -> int:
    """Count the draws whose noisy run, with all that cells take of it, fits in memory."""
    held = (clean.before, clean.mixed, clean.written, clean.keys, clean.values)
    each = sum(x.numel() * x.element_size() for many in held for x in many if x is not None)
    return max(1, budget.run // each)


def _drawn(model: LiftedModel, prompt: FactPrompt, noise: Noise, clean: BaseRun) -> Tensor:
    """Draw the noise at the subject's tokens, [N, T, features that the embedding writes]."""
    width = model.embedded + model.given
    text = f"{noise.seed}: {list(prompt.pair.clean)} {list(prompt.subject)}"
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(noise.draws, len(prompt.subject), width, generator=generator)
    found = torch.zeros(noise.draws, clean.final.shape[1], width)
    found[:, list(prompt.subject)] = own * noise.deviation
    return found.to(clean.final)


def _noisy_run(model: LiftedModel, clean: BaseRun, drawn: Tensor) -> BaseRun:
    """Run a prompt with noise [N, T, features] on what the embedding writes."""
    runs, draws = len(clean.final), len(drawn)

    def noisy(x: Tensor, more: Tensor) -> Tensor:  # [runs, T, F], [N, T, F] to [N · runs, T, F]
        return (x + more[:, None]).flatten(0, 1)

    own, past = drawn.split((model.embedded, model.given), -1)
    rest = own.new_zeros(*own.shape[:-1], model.d_model - model.embedded)
    stream = noisy(clean.before[0], torch.cat((own, rest), -1))
    widths = [x.shape[-1] for x in clean.given]
    more = past.split(widths, -1) if widths else ()
    given = tuple(noisy(x, one) for x, one in zip(clean.given, more, strict=True))
    mask, places = (
        x.expand(draws, runs, -1).flatten(0, 1)
        for x in (clean.context.mask, clean.context.position_ids)
    )
    return BaseRun.of(model, AttentionContext(mask, places), stream, given)


class _Restored(Sweep):
    """Noisy runs in which something is put back.

    A cell joins behind the first layer of its window, where no other token differs yet.
    """

    def __init__(
        self, base: BaseRun, clean: BaseRun, cells: Sequence[Branch], kind: str, budget: Budget
    ) -> None:
        super().__init__(base, cells, budget)
        self.clean, self.kind = clean, kind

    def enter(self, group: Branches, cell: Branch) -> Tensor:
        """Return a cell's stream behind the first layer of its window, [B, t, D]."""
        layer, at, base, clean = cell.joins - 1, cell.position, self.base, self.clean
        stream = base.before[layer + 1][:, group.start :].clone()
        if self.kind == STREAM:
            stream[:, at - group.start] = self._clean(clean.before[layer + 1], at)
            return stream
        block, before = self.model.blocks[layer], base.before[layer][:, at]
        if self.kind == MLP:
            new = before + base.mixed[layer][:, at] + self._clean(clean.written[layer], at)
        else:
            middle = before + self._clean(clean.mixed[layer], at)
            read = before if self.model.graph.parallel else middle
            if base.given:
                read = torch.cat((read, base.given[layer][:, at]), -1)
            new = middle + block.write(read)
        stream[:, at - group.start] = new
        return stream

    def mixed(self, group: Branches, layer: int, mixed: Tensor) -> Tensor:
        """Put attention back in the cells whose window holds the layer."""
        return self._put(ATTENTION, group, layer, mixed)

    def written(self, group: Branches, layer: int, written: Tensor) -> Tensor:
        """Put the MLP back in the cells whose window holds the layer."""
        return self._put(MLP, group, layer, written)

    def _put(self, kind: str, group: Branches, layer: int, x: Tensor) -> Tensor:
        if self.kind != kind:
            return x
        values = self.clean.mixed if kind == ATTENTION else self.clean.written
        for number, cell in enumerate(group.active):
            if cell.joins <= layer <= cell.window[1]:
                x[number, :, cell.position - group.start] = self._clean(
                    values[layer], cell.position
                )
        return x

    def _clean(self, values: Tensor, position: int) -> Tensor:
        """Return what the clean run has at a token, for every run of the base, [B, D]."""
        own = values[:, position]
        return own.repeat(len(self.base.final) // len(own), 1)
