"""The loss under gates and its gradient in each of them, by whichever engine a runner has.

Gates are float [ports, senders] from 0 to 1: a port holds  Σ_u g_u o_u + (1 − g_u) a_u.  What is
trained on gates asks about some examples at a time, cut once, so that their clean and ablated runs
are made once too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from .engines import JAX, engine_of
from .gradients.port_gradients import gate_gradients, gated_batch
from .run.runner import Runner, refuse_nan

GatedLoss = Callable[[np.ndarray], tuple[float, np.ndarray]]
"""The mean loss at some gates, and its gradient there, float64 [ports, senders]."""


def gated_loss(runner: Runner) -> GatedLoss:
    """Return what gives a runner's mean loss under gates, with its gradient."""
    metric = runner.metric
    metric.require_gradient(at_clean_only=False)
    if engine_of(runner.engine, runner.model, metric) == JAX:
        from .compiled.circuits import CompiledCircuits

        found: GatedLoss = CompiledCircuits(runner).gradients
    else:
        smaller = runner.on(runner.pairs, gated_batch(runner))

        def found(gates: np.ndarray) -> tuple[float, np.ndarray]:
            return gate_gradients(smaller, gates)

    def checked(gates: np.ndarray) -> tuple[float, np.ndarray]:
        loss, slopes = found(gates)
        refuse_nan(slopes, f"a gate's gradient by the metric '{metric.name}'")
        return loss, slopes

    return checked


@dataclass(frozen=True)
class Minibatches:
    """A runner's pairs in pieces of like size, shuffled by `seed`; all of them are one epoch."""

    runner: Runner
    size: int
    seed: int

    @cached_property
    def rows(self) -> list[np.ndarray]:
        """Return the numbers of each piece's pairs."""
        count = len(self.runner.pairs)
        order = np.random.default_rng((self.seed, count)).permutation(count)
        return [np.sort(one) for one in np.array_split(order, -(-count // self.size))]

    @cached_property
    def losses(self) -> list[GatedLoss]:
        """Return what gives the loss on each piece."""
        runner, number = self.runner, len(self.rows)
        if number == 1:
            return [gated_loss(runner)]
        pairs = runner.pairs.pairs
        share = replace(runner.budget, cache=runner.budget.cache // number)
        parts = (replace(runner.pairs, pairs=tuple(pairs[i] for i in rows)) for rows in self.rows)
        return [gated_loss(replace(runner.on(own), budget=share)) for own in parts]

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, number: int, seed: Sequence[int]) -> GatedLoss:
        """Return the loss on the piece that comes at a place, counted over all epochs from 0.

        `seed` decides in which order an epoch visits the pieces.
        """
        epoch, place = divmod(number, len(self))
        order = np.random.default_rng((*seed, epoch, len(self))).permutation(len(self))
        return self.losses[int(order[place])]
