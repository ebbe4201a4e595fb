"""Layers in runs of equal kinds, each a scan over stacked weights.

A run is a pattern of p layers that repeats n times: p is 1 where all layers are alike, 2 where two
kinds alternate. A layer that fits no run is a run of its own, and no scan. Compiling costs as much
as the patterns have layers, however deep the model is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from .crossing import ArrayPart, signature, stacked
from .parts.sharing import in_one, whole

LONGEST = 12
"""Most layers of a pattern: those of models that alternate kinds of layers have 2 to 8."""


@dataclass(frozen=True)
class Run:
    """Where a run of layers begins, how many its pattern has, and how often it is repeated."""

    first: int
    period: int
    times: int

    @property
    def layers(self) -> range:
        """Return the layers' numbers."""
        return range(self.first, self.first + self.period * self.times)

    def place(self, layer: int) -> tuple[int, int]:
        """Return which of the pattern's layers a layer is, and in which repetition."""
        times, at = divmod(layer - self.first, self.period)
        return at, times


def find_runs(kinds: Sequence[object]) -> tuple[Run, ...]:
    """Cut layers of these kinds into runs, each as long as can be.

    >>> find_runs("aaaa")
    (Run(first=0, period=1, times=4),)
    >>> [(run.first, run.period, run.times) for run in find_runs("dababa")]
    [(0, 1, 1), (1, 2, 2), (5, 1, 1)]
    """
    runs, first = [], 0
    while first < len(kinds):
        best = Run(first, 1, 1)
        for period in range(1, min(LONGEST, (len(kinds) - first) // 2) + 1):
            times = 1
            while _repeats(kinds, first, period, times):
                times += 1
            if times > 1 and times * period > best.times * best.period:
                best = Run(first, period, times)
        runs.append(best)
        first += best.period * best.times
    return tuple(runs)


def _repeats(kinds: Sequence[object], first: int, period: int, times: int) -> bool:
    start = first + period * times
    return list(kinds[start : start + period]) == list(kinds[first : first + period])


def layer_runs(blocks: Sequence[ArrayPart]) -> tuple[Run, ...]:
    """Return the runs of some layers."""
    kinds = [signature(block) for block in blocks]
    return find_runs([kinds.index(kind) for kind in kinds])


def bytes_to_copy(runs: Sequence[Run], layers: Sequence[Any]) -> int:
    """Return how much memory stacks of these layers need beside the layers' own tensors."""
    size = 0
    for run in runs:
        for at in range(run.period):
            own = [layers[run.first + at + run.period * i] for i in range(run.times)]
            for each in zip(*map(jax.tree_util.tree_leaves, own), strict=True):
                size += 0 if in_one(each) is not None else sum(one.nbytes for one in each)
    return size


def stack_run(run: Run, layers: Sequence[Any]) -> tuple[Any, ...]:
    """Stack what belongs to the layers of a run, [times, …], for each layer of its pattern."""
    return tuple(
        stacked([layers[run.first + at + run.period * i] for i in range(run.times)])
        for at in range(run.period)
    )


Step = Callable[[Any, Any], tuple[Any, Any]]


def over(
    runs: Sequence[Run], step: Step, carry: Any, given: Sequence[Any], *, reverse: bool = False
) -> tuple[Any, list[Any]]:
    """Take a step in every layer, from the first or the last.

    `given`: for each run and each layer of its pattern what the step is given of these layers,
    [times, …]. Returns what is carried behind the last step, and what the steps found, as `given`.
    """
    found: list[Any] = [None] * len(runs)
    numbers = range(len(runs))
    for i in reversed(numbers) if reverse else numbers:
        carry, found[i] = over_run(step, carry, given[i], reverse=reverse)
    return carry, found


def over_run(step: Step, carry: Any, given: Any, *, reverse: bool = False) -> tuple[Any, Any]:
    """Take a step in every layer of one run; see `over`."""

    def pattern(carry: Any, layers: Any) -> tuple[Any, Any]:
        layers, found = whole(layers), list[Any]([None] * len(layers))
        for at in reversed(range(len(layers))) if reverse else range(len(layers)):
            carry, found[at] = step(carry, layers[at])
        return carry, tuple(found)

    times = jax.tree_util.tree_leaves(given)[0].shape[0]
    if times == 1:
        carry, found = pattern(carry, jax.tree_util.tree_map(lambda x: x[0], given))
        return carry, jax.tree_util.tree_map(lambda x: x[None], found)
    scanned: tuple[Any, Any] = jax.lax.scan(pattern, carry, given, reverse=reverse)
    return scanned


def by_layer(runs: Sequence[Run], found: Sequence[Any]) -> Iterator[Any]:
    """Yield what `over` found in each layer, in order."""
    for run, own in zip(runs, found, strict=True):
        for layer in run.layers:
            at, times = run.place(layer)
            yield jax.tree_util.tree_map(lambda x, i=times: x[i], own[at])


def rows_of(found: Sequence[Any]) -> list[Any]:
    """Join what each layer's senders (or ports) have: [times, rows, …] each gives [all rows, …].

    For each run one, in the order of layers.
    """
    joined = [jnp.concatenate(own, 1) if len(own) > 1 else own[0] for own in found]
    return [x.reshape(-1, *x.shape[2:]) for x in joined]
