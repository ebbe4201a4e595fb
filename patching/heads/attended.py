"""Attention of every head on a task's clean prompts, between parts of the prompts.

A *relation* names pairs of positions (t, s) of a prompt; a head's weight by it is its attention
from t to s, added up over the s of each t, then the mean over t and over the prompts that have such
positions. Positions count wherever they stand, so prompts need not align.

*Spans* are the parts of the prompts that their task, or file, names; `first` is the first position,
`end` the one at which the answer is predicted, `rest` all others. Without names the parts are the
tokens that are an `answer`, a `distractor`, or else `changed` by the corrupted prompt. The weight
from span a to span b is the mean over a's positions of the attention to all of b's.

Shapes: B examples, T positions, H heads, N spans. Source: Wang et al. 2022, figures 3 and 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ...graphs.lift.lifted import AttentionContext, LiftedModel
from ..prompts.pairs import Pair, PromptPairs
from ..run.runner import Progress
from ..trace import patterns, run_plain
from .roles import batches

FIRST, END, REST = "first", "end", "rest"

Places = dict[int, list[int]]
"""For each position t that looks, the positions s that are looked at."""


@dataclass(frozen=True)
class Relation:
    """Which positions of a prompt look at which, and that in words."""

    says: str
    places: Callable[[Pair], Places]


def _from_end(pair: Pair, tokens: Sequence[int], last: bool = False) -> Places:
    end = pair.answer_position
    found = [s for s in range(end) if pair.clean[s] in tokens]
    return {end: found[-1:] if last else found} if found else {}


def _again(pair: Pair) -> Places:
    """Map named positions to where their token stood before; the end only if no other comes again.

    A prompt's last token, such as " to", may come again without being what the task is about.
    """
    end = pair.answer_position
    named = sorted({at for _, at in pair.named if at < end} | {end})
    looked = {t: [s for s in range(t) if pair.clean[s] == pair.clean[t]] for t in named}
    found = {t: before for t, before in looked.items() if before}
    return {t: before for t, before in found.items() if t < end} or found


def _behind(pair: Pair) -> Places:
    found = {t: [s + 1 for s in before if s + 1 < t] for t, before in _again(pair).items()}
    return {t: some for t, some in found.items() if some}


def _back(pair: Pair) -> Places:
    return {s + 1: [s] for t, before in _again(pair).items() for s in before if s + 1 < t}


RELATIONS: Mapping[str, Relation] = {
    "end → answer": Relation(
        "from where the answer is predicted to the tokens that are an answer",
        lambda pair: _from_end(pair, pair.answers),
    ),
    "end → distractor": Relation(
        "from where the answer is predicted to all tokens that are a distractor",
        lambda pair: _from_end(pair, pair.distractors),
    ),
    "end → last distractor": Relation(
        "from where the answer is predicted to the last token that is a distractor",
        lambda pair: _from_end(pair, pair.distractors, last=True),
    ),
    "again → before": Relation(
        "from named positions whose token stood in the prompt before to where it stood", _again
    ),
    "again → behind": Relation(
        "from named positions whose token stood in the prompt before to the token behind it",
        _behind,
    ),
    "behind → before": Relation(
        "from the token behind one that is named and comes again to that one", _back
    ),
}
"""What attention of heads is measured by."""


@dataclass(frozen=True)
class Attended:
    """Mean attention of all heads.

    `relations`: by name [layers, H], of those that some prompt has. `spans`: names; `between`:
    [layers, H, N, N] from the first to the second, not a number where no prompt has both.
    """

    relations: dict[str, np.ndarray]
    spans: tuple[str, ...]
    between: np.ndarray


def parts_of(pair: Pair) -> dict[str, list[int]]:
    """List the positions of each span of a prompt, up to where its answer is predicted.

    >>> parts_of(Pair((9, 5, 6, 5), (9, 5, 6, 7), (6,), (5,)))
    {'first': [0], 'distractor': [1], 'answer': [2], 'end': [3]}
    """
    end = pair.answer_position
    names: dict[int, str] = {at: name for name, at in pair.named if at <= end}
    if not names:
        for at, token in enumerate(pair.clean[:end]):
            if token in pair.answers or token in pair.distractors:
                names[at] = "answer" if token in pair.answers else "distractor"
            elif token != pair.twin[at]:
                names[at] = "changed"
    names[end] = END
    found: dict[str, list[int]] = {}
    for at in range(end + 1):
        found.setdefault(names.get(at, FIRST if at == 0 else REST), []).append(at)
    return found


@torch.no_grad()
def attention(model: LiftedModel, pairs: PromptPairs, progress: Progress | None = None) -> Attended:
    """Measure the attention of all heads on the clean prompts."""
    parts = [parts_of(pair) for pair in pairs]
    spans = tuple(dict.fromkeys(name for one in parts for name in one))
    shape = (len(model.blocks), model.graph.heads)
    sums = {name: np.zeros(shape) for name in RELATIONS}
    counts = dict.fromkeys(RELATIONS, 0)
    between = np.zeros((*shape, len(spans), len(spans)))
    both = np.zeros((len(spans), len(spans)))
    for some in batches(model, pairs):
        batch = pairs.batch(some, device=str(model.device))
        context = AttentionContext(batch.mask, batch.position_ids)
        run, (size, width) = run_plain(model, batch.clean, context), batch.clean.shape
        chosen = {name: np.zeros((size, width, width)) for name in RELATIONS}
        members = np.zeros((size, len(spans), width))
        for row, number in enumerate(some):
            for name, relation in RELATIONS.items():
                places = relation.places(pairs.pairs[number])
                counts[name] += bool(places)
                for t, looked in places.items():
                    chosen[name][row, t, looked] = 1 / len(places)
            for name, part in parts[number].items():
                members[row, spans.index(name), part] = 1
        sizes = members.sum(-1)  # [B, N]
        both += (sizes > 0).T.astype(float) @ (sizes > 0)
        means = members / np.maximum(sizes, 1)[..., None]
        for layer in range(len(model.blocks)):
            if not model.graph.heads_of(layer):
                continue
            pattern = np.asarray(patterns(run, layer, context).double().cpu())  # [B, H, T, T]
            for name, where in chosen.items():
                sums[name][layer] += np.einsum("bhts,bts->h", pattern, where)
            to = np.einsum("bhts,bjs->bhtj", pattern, members)
            between[layer] += np.einsum("bhtj,bit->hij", to, means)
        if progress is not None:
            progress(some[-1] + 1, len(pairs), "attention on prompts")
    found = {name: sums[name] / counts[name] for name in RELATIONS if counts[name]}
    return Attended(found, spans, between / np.where(both, both, np.nan))
