"""Noise: ablated edges carry what their sender writes, on average, where the embeddings are noisy.

1. Take the standard deviation of the entries of the embeddings of the reference set's tokens, each
   as often as it stands in the clean prompts.
2. To the token embeddings of each clean prompt, or of those of its positions that spans name, add
   Gaussian noise of three times that deviation, run the model, and note what every sender writes.
   Answers read token by token get none.
3. Average over ten draws of the noise. They follow from the prompt's tokens alone, so equal prompts
   get equal noise, in whatever order and batches they are run.

No corrupted prompt is needed. Source: Meng et al. 2022 (causal tracing), who average ten draws too.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import TYPE_CHECKING

from .mean import widest
from .registry import Carried, Reference, Runs, ablation

if TYPE_CHECKING:
    from torch import Tensor

    from ..prompts.pairs import Batch
    from ..trace import Values

DEVIATIONS, DRAWS, SEED = 3.0, 10, 0


@ablation(
    "noise",
    summary="what the sender writes where noise is added to the embeddings, mean of ten draws",
)
def noise(reference: Reference) -> Carried:
    """Take each sender's mean over runs with noisy embeddings."""
    from ...graphs.lift.lifted import AttentionContext
    from ..trace import run_plain

    @cache
    def scale() -> float:
        return DEVIATIONS * deviation(reference)

    def carried(runs: Runs) -> Values:
        batch, clean = runs.batch, runs.clean.values
        context = AttentionContext(batch.mask, batch.position_ids)
        width = reference.model.embedded  # what it writes, in streams side by side
        every = width + reference.model.given  # and past the stream
        drawn = draws(batch, every).to(clean.sources)  # [draws, B, T, D]
        total: Values | None = None
        for one in drawn:
            noise, past = (scale() * one).split((width, one.shape[-1] - width), -1)
            sources = clean.sources.clone()
            sources[0, ..., :width] += noise
            parts = past.split([x.shape[-1] for x in clean.given], -1)
            given = tuple(x + more for x, more in zip(clean.given, parts, strict=True))
            values = run_plain(
                reference.model, batch.clean, context, sources=sources, given=given
            ).values
            values = values.map(widest)
            total = values if total is None else total.map(lambda a, b: a + b, values)
        assert total is not None  # there are draws
        return clean.map(lambda x, a: (a / DRAWS).to(x.dtype), total)

    return carried


def deviation(reference: Reference) -> float:
    """Return the standard deviation of the embeddings' entries over the tokens of all prompts."""
    import torch

    model = reference.model
    ids = torch.tensor([token for pair in reference.pairs for token in pair.clean])
    ids = ids.to(model.tokens.device)
    written: tuple[Tensor, ...] = (model.embed_tokens(ids)[..., : model.embedded], *model.give(ids))
    return float(torch.cat(written, -1).double().std())


def draws(batch: Batch, width: int) -> Tensor:
    """Draw standard normal noise for the prompts of a batch, [draws, B, T, width], 0 elsewhere."""
    import torch

    found = torch.zeros(DRAWS, *batch.clean.shape, width)
    places = torch.arange(batch.clean.shape[1], device=batch.mask.device)
    spelled = batch.steps is not None
    prompts = batch.mask & (places <= batch.first[:, None]) if spelled else batch.mask
    rows = zip(batch.clean.cpu(), prompts.cpu(), batch.named.cpu(), strict=True)
    for row, (ids, prompt, named) in enumerate(rows):
        text = f"{SEED}: {ids[prompt].tolist()}"
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(DRAWS, int(prompt.sum()), width, generator=generator)
        found[:, row, prompt] = noise
        if named.any():
            found[:, row, ~named] = 0
    return found
