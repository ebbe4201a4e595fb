"""Attention knockout: which tokens does a token have to read, and in which layers?

In a window of layers attention from one span of the prompt (keys) to another (queries) is cut: its
scores are hidden before the softmax, so that what is left adds up to 1. What happens to the
answer's probability tells whether something is read there that is not to be had elsewhere. The
first token is a span of its own: many models rest their attention on it, and cutting that disturbs
whatever it was wanted for.

Layers without attention heads are left as they are; a model without any is refused.

Source: Geva et al. 2023, section 5.

Shapes: n cells, B runs (one for each way the answers go on), T tokens, H heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ...graphs.calls.typed import typed
from ...graphs.errors import EdgewiseError, PromptError, UnsupportedModel, unknown
from ...graphs.lift.attention import AttentionContext
from ...graphs.lift.devices import place
from ...graphs.lift.lifted import LiftedModel
from ..run.memory import Budget
from .names import FIRST, LAST, LAST_SUBJECT, RELATION, SPANS, SUBJECT, USUAL
from .prompts import FactPrompt, answer_probability, right_answers, windows
from .sweep import Branch, Branches, Sweep
from .tracing import clean_run


@typed
def span_places(prompt: FactPrompt, name: str) -> tuple[int, ...]:
    """Return the positions of a span of a prompt, in order; none if it has no such token.

    Raises:
        PromptError: there is no span of this name.

    >>> from ..prompts.pairs import Pair
    >>> one = FactPrompt(Pair((5, 6, 7, 8, 9), None, (1,)), (1, 2))
    >>> [span_places(one, name) for name in SPANS]
    [(1, 2), (2,), (3,), (0,), (4,)]
    """
    subject, last = prompt.subject, prompt.last
    longest = prompt.pair.longest
    behind = range(last, longest if prompt.pair.spelled is not None else last + 1)
    known = {
        SUBJECT: [at for at in subject if at],
        LAST_SUBJECT: [at for at in subject[-1:] if at],
        RELATION: [at for at in range(1, last) if at not in subject],
        FIRST: [0],
        LAST: list(behind),
    }
    named = {one for one, _ in prompt.pair.named}
    if name in known:
        return tuple(known[name])
    if name not in named:
        raise PromptError(str(unknown("span", name, [*known, *sorted(named - known.keys())])))
    return tuple(at for one, at in prompt.pair.named if one == name)


@dataclass
class _Cut(AttentionContext):
    """A context in which some keys are hidden from some queries: `cut`, bool [n, 1, queries, T]."""

    cut: Tensor | None = None
    _there: dict[torch.device, _Cut] = field(default_factory=dict, repr=False)

    def hidden(self, window: int | None, causal: bool = True, chunk: int | None = None) -> Tensor:
        """Return what queries must not see, [n, B, 1, queries, T]."""
        assert self.cut is not None
        return super().hidden(window, causal, chunk) | self.cut[:, :, None]

    def on(self, device: torch.device) -> _Cut:
        """Return the same on another device."""
        if device == self.mask.device:
            return self
        if device not in self._there:
            assert self.cut is not None
            mask, ids, cut = (place(x, device) for x in (self.mask, self.position_ids, self.cut))
            self._there[device] = _Cut(mask, ids, self.start, cut=cut)
        return self._there[device]


@dataclass(frozen=True)
class _CutBranch(Branch):
    """A run in which the keys are hidden from the queries in a window of layers."""

    keys: tuple[int, ...] = ()
    queries: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Knocked:
    """One prompt: its answer's probability, and with attention cut from each span.

    `cut`: float64 [L + 1], by the window's middle layer, and last of all layers together; a span
    that the prompt does not have is missing. `right`: the model's most probable token is the
    answer's.
    """

    prompt: FactPrompt
    clean: float
    right: bool
    cut: dict[str, np.ndarray] = field(repr=False)


@typed
@torch.no_grad()
def knock_out(
    model: LiftedModel,
    prompt: FactPrompt,
    sources: Sequence[str] = USUAL,
    *,
    to: str = LAST,
    window: int = 1,
    progress: Callable[[int, int], object] | None = None,
) -> Knocked:
    """Cut attention from each of some spans to one, in a window around every layer, and in all.

    Raises:
        UnsupportedModel: the model has no attention heads.
        PromptError: no span is called so; a window does not fit the model.
        EdgewiseError: a token would see nothing at all.
    """
    if not any(model.graph.heads_of(layer) for layer in range(len(model.blocks))):
        raise UnsupportedModel(
            "the model has no attention that could be cut: its token mixers are taken whole. "
            "Accepted: models with attention heads; trace the fact in this one."
        )
    around = windows(len(model.blocks), window)
    if not sources:
        raise EdgewiseError(f"no span is named to cut from; accepted: {', '.join(SPANS)}.")
    queries = span_places(prompt, to)
    budget, clean, batch = Budget.of(model), clean_run(model, prompt), prompt.batch_on(model)
    value = float(answer_probability(model, batch, clean.final[None], budget)[0])
    cells: dict[str, list[_CutBranch]] = {}
    for name in sources:
        keys = span_places(prompt, name)
        if model.causal:
            keys = tuple(at for at in keys if queries and at <= queries[-1])
        if keys and queries:
            every = [*around, (0, len(model.blocks) - 1)]
            cells[name] = [_CutBranch(queries[0], one, one[0], keys, queries) for one in every]
    whole = [cell for many in cells.values() for cell in many]
    found: dict[int, float] = {}
    for group, start, final in _Cutting(clean, whole, budget).run():
        values = answer_probability(model, batch, final, budget, start)
        found.update(zip(map(id, group), values.tolist(), strict=True))
        if progress is not None:
            progress(len(found), len(whole))
    cut = {name: np.array([found[id(cell)] for cell in many]) for name, many in cells.items()}
    return Knocked(prompt, value, right_answers(model, batch, clean.final), cut)


class _Cutting(Sweep):
    """Runs in which attention is cut."""

    def context(self, group: Branches, layer: int) -> AttentionContext:
        """Hide keys from queries in the cells whose window holds the layer."""
        own = group.context
        length = own.mask.shape[1]
        cut = torch.zeros(len(group.active), 1, length - group.start, length, dtype=torch.bool)
        for number, cell in enumerate(group.active):
            assert isinstance(cell, _CutBranch)
            if cell.window[0] <= layer <= cell.window[1]:
                rows = torch.tensor([at - group.start for at in cell.queries])
                cut[number, 0, rows[:, None], torch.tensor(cell.keys)] = True
        if not bool(cut.any()):
            return own
        context = _Cut(own.mask, own.position_ids, group.start, cut=cut.to(own.mask.device))
        attention = self.model.blocks[layer].by_head
        seen = ~attention.hidden(context).all(-1)
        real = context.queries(own.mask)[:, None]
        if attention.sinks is None and not bool((seen | ~real).all()):
            raise EdgewiseError(
                f"at layer {layer} a token would see nothing at all, not even itself, as all that "
                "it reads is cut; accepted: spans that leave it something."
            )
        return context
