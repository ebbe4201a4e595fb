"""Counterfactual mean: ablated edges carry what their sender writes on average on partners.

1. An example's partners are its own corrupted prompt and those of other pairs of the reference set
   that have as many tokens, the same answer position and the same group (template): k in all, or as
   many as there are. Which of them is drawn by the clean prompt's tokens alone, so equal prompts
   have equal partners in whatever order and batches they are run.
2. Run the model on every partner; of answers of several tokens with the example's own answer behind
   it. What a sender writes is averaged over them at each position by itself.

With one partner it is resample. Source: Wang et al. 2022 (means over a counterfactual distribution,
by template).
"""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ...graphs.errors import EdgewiseError
from .mean import widest
from .registry import Ablation, Carried, Reference, Runs, ablation

if TYPE_CHECKING:
    from torch import Tensor

    from ..prompts.pairs import Batch
    from ..trace import Values

PARTNERS, MOST, SEED = 10, 1000, 0

Ids = tuple[int, ...]
Shape = tuple[bool, int, int, str]
"""Of a prompt: whether answers stand behind it, its tokens, its answer position, its group."""


def averaging(number: int) -> Callable[[Reference], Carried]:
    """Return the ablation that averages over so many partners."""

    def prepare(reference: Reference) -> Carried:
        alike: dict[Shape, dict[Ids, None]] = defaultdict(dict)  # each once, in their order
        for pair in reference.pairs:
            at = pair.answer_position
            alike[False, len(pair.twin), at, pair.group][pair.twin] = None
            alike[True, at + 1, at, pair.group][pair.twin[: at + 1]] = None
        return lambda runs: _mean(reference, runs, number, alike)

    return prepare


def _given(one: Ablation, argument: str) -> Ablation:
    """Return the ablation with another number of partners."""
    digits = argument.isascii() and argument.isdigit() and len(argument) < 9
    if not (digits and 1 <= int(argument) <= MOST):
        raise EdgewiseError(
            f"{one.name} ablation is given '{argument}' behind its name; accepted: over how many "
            f"prompts it averages, 1 to {MOST:,}, as in {one.name}:{PARTNERS}."
        )
    number = int(argument)
    if number == PARTNERS:
        return one
    return replace(one, name=f"{one.name}:{number}", prepare=averaging(number), given=None)


counterfactual_mean = ablation(
    "counterfactual-mean",
    summary=(
        f"what the sender writes on average over K ({PARTNERS}) corrupted prompts of the pair's "
        "length and group, its own among them"
    ),
    counterfactual=True,
    takes="K",
    given=_given,
)(averaging(PARTNERS))


def _mean(
    reference: Reference, runs: Runs, number: int, alike: Mapping[Shape, Mapping[Ids, None]]
) -> Values:
    """Average over each run's partners."""
    from ...graphs.lift.lifted import AttentionContext
    from ..trace import run_plain

    batch = runs.batch
    prompts, shares = _partners(batch, number, alike)  # [k, B, T], [k, B]
    context = AttentionContext(batch.mask, batch.position_ids)
    total: Values | None = None
    for which, (ids, share) in enumerate(zip(prompts, shares, strict=True)):
        own = which == 0
        run = runs.corrupted if own else run_plain(reference.model, ids, context)
        part = run.values.map(lambda x, share=share: _weighed(widest(x), share))
        total = part if total is None else total.map(lambda a, b: a + b, part)
    assert total is not None  # each has its own corrupted prompt
    return runs.clean.values.map(lambda x, a: a.to(x.dtype), total)


def _weighed(x: Tensor, share: Tensor) -> Tensor:
    """Multiply what is written in each run, x [B, T, …], with its share [B]."""
    return x * share.to(x.dtype).to(x.device).view(-1, *[1] * (x.dim() - 1))


def _partners(
    batch: Batch, number: int, alike: Mapping[Shape, Mapping[Ids, None]]
) -> tuple[Tensor, Tensor]:
    """Return each run's partners, int64 [k, B, T], and each one's share in the mean, [k, B].

    A run with fewer partners than others has its own corrupted prompt in their place, without
    share.
    """
    import torch

    found: list[list[Ids]] = []
    places: list[tuple[int, int]] = []
    host = [x.cpu() for x in (batch.clean, batch.corrupted, batch.mask, batch.first, batch.owner)]
    for clean, twin, real, first, owner in zip(*host, strict=True):
        begin, end = int(real.long().argmax()), int(first)
        group = batch.groups[int(owner)] if batch.groups else ""
        stop = begin + int(real.sum()) if batch.steps is None else end + 1
        own = tuple(twin[begin:stop].tolist())
        shape = batch.steps is not None, stop - begin, end - begin, group
        others = [one for one in alike.get(shape, ()) if one != own]
        text = f"{SEED}: {clean[begin:stop].tolist()}"
        draw = random.Random(hashlib.sha256(text.encode()).digest())
        found.append([own, *draw.sample(others, min(number - 1, len(others)))])
        places.append((begin, stop))
    most = max(map(len, found))
    ids = batch.corrupted.cpu()[None].repeat(most, 1, 1)
    shares = torch.zeros(most, len(found), dtype=torch.float64)
    for row, (partners, (begin, stop)) in enumerate(zip(found, places, strict=True)):
        for which, one in enumerate(partners):
            ids[which, row, begin:stop] = torch.tensor(one)
        shares[: len(partners), row] = 1 / len(partners)
    return ids.to(batch.clean.device), shares
