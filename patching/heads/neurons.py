"""What hidden units of an MLP write at the answer, and how much of the MLP's part they do.

A *hidden unit* is what the MLP's last projection reads; what it writes is its value h times its
column of that projection. Here h' is its value on the corrupted prompt, and only what leads from
the MLP straight to the logits is looked at:

* a unit's *direct effect* is what (h − h') times its column adds to the logit of the answers minus
  that of the distractors, with the final norm's factor as it is in the run (Elhage et al. 2021);
* units are *patched along* `m{l}->logits` by taking (h − h') times their columns off the stream at
  the end of the clean run (path patching; of all units together, that of the MLP).

Shapes: I hidden units, n some of them, E examples in the pairs' order, V tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...graphs.calls.typed import typed
from ...graphs.errors import EdgewiseError
from ...graphs.lift.devices import place
from ...graphs.lift.lifted import MLP
from ...graphs.lift.norms import normalise
from ..run.chunk import Chunk
from ..run.runner import Runner, refuse_nan
from .direct import Direct

AT_ONCE = 256  # units whose writes are held at a time


@typed
@torch.no_grad()
def unit_effects(runner: Runner, layer: int) -> np.ndarray:
    """Return the direct effect of each hidden unit of a layer's MLP, float64 [I, E].

    Raises:
        EdgewiseError: the ablation takes nothing from a corrupted prompt, an answer has several
            tokens, or the model has no such MLP, or none whose units can be told apart.
    """
    return _each(runner, layer, lambda one: one.differences())


@typed
@torch.no_grad()
def unit_logits(
    runner: Runner, layer: int, units: Sequence[int], tokens: Sequence[int]
) -> np.ndarray:
    """Return what units add to the logits of some tokens, clean minus corrupted, [n, E, V]."""
    return _each(runner, layer, lambda one: one.logits(units, tokens))


@typed
@torch.no_grad()
def unit_patches(runner: Runner, layer: int, sets: Sequence[Sequence[int] | None]) -> np.ndarray:
    """Return the metric with sets of units patched along `m{l}->logits`, float64 [sets, E].

    None stands for all units, an empty set for none.
    """
    found = _each(runner, layer, lambda one: one.patched(runner, sets))
    refuse_nan(found, f"the metric '{runner.metric.name}'")
    return found


def _each(runner: Runner, layer: int, of: Callable[[_AtAnswers], Tensor]) -> np.ndarray:
    """Put together what `of` returns of each chunk, [n, B, …], in the pairs' order."""
    if not runner.ablation.paired:
        raise EdgewiseError(
            f"units are compared with the corrupted prompt, from which ablation "
            f"'{runner.ablation.name}' takes nothing; accepted: one that does."
        )
    runner.model.with_neurons([layer])  # refuses those that cannot be told apart
    found, order = [], list[int]()
    for rows, chunk in runner.rows_and_chunks():
        if chunk.batch.steps is not None:
            raise EdgewiseError(
                "some answers have several tokens, and units are looked at where one is read; "
                "accepted: pairs whose answers are one token each."
            )
        found.append(of(_AtAnswers.of(chunk, layer)).double().cpu().numpy())
        order += rows
    whole = np.concatenate(found, 1)
    return np.take(whole, np.argsort(order), 1)


@dataclass(frozen=True)
class _AtAnswers:
    """One chunk at its answers: h − h' [B, I], the stream at the end [B, D], and the columns."""

    chunk: Chunk
    moved: Tensor
    final: Tensor
    columns: Tensor  # [D, I]

    @staticmethod
    def of(chunk: Chunk, layer: int) -> _AtAnswers:
        block = chunk.model.blocks[layer]
        mlp = block.mlp
        assert isinstance(mlp, MLP)  # seen by with_neurons

        def inner(stream: Tensor) -> Tensor:
            x = place(chunk.at_answers(stream), block.device)
            return mlp.inner(normalise(block.mlp_norm, x))

        moved = inner(chunk.clean.streams.mlp[layer]) - inner(chunk.base.streams.mlp[layer])
        final = chunk.at_answers(chunk.clean.streams.final)
        columns = mlp.down.weight if mlp.output_scale == 1 else mlp.down.weight * mlp.output_scale
        return _AtAnswers(chunk, place(moved, final.device), final, place(columns, final.device))

    def written(self, units: Sequence[int]) -> Tensor:
        """Return what some units write, clean minus corrupted, [n, B, D]."""
        chosen = list(units)
        return self.moved.T[chosen][..., None] * self.columns.T[chosen][:, None]

    @property
    def _direct(self) -> Direct:
        batch = self.chunk.batch
        return Direct(self.chunk.model, self.final, batch.answers, batch.distractors)

    def differences(self) -> Tensor:
        """Return each unit's direct effect, [I, B]."""
        direct, units = self._direct, range(self.moved.shape[-1])
        parts = (units[at : at + AT_ONCE] for at in range(0, len(units), AT_ONCE))
        return torch.cat([direct.difference(direct.normed(self.written(some))) for some in parts])

    def logits(self, units: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """Return what units add to some tokens' logits, [n, B, V]."""
        normed = self._direct.normed(self.written(units))
        rows = self.chunk.model.unembed.weight[list(tokens)].to(normed.dtype)
        return normed @ place(rows, normed.device).T * self.chunk.model.logit_scale

    def patched(self, runner: Runner, sets: Sequence[Sequence[int] | None]) -> Tensor:
        """Return the metric with each set taken off the stream, [sets, B]."""
        found = []
        for units in sets:
            chosen = slice(None) if units is None else list(units)
            off = self.moved[:, chosen] @ self.columns[:, chosen].T
            (values,) = self.chunk.reading.values(self.final - off, [runner.metric], False)
            found.append(values)
        return torch.stack(found)
