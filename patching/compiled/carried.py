"""What ablated edges carry, where it is not the corrupted prompts' run.

An ablation is a torch function of runs (see `ablations/registry.py`). It is given runs that the
compiled engine made, so that any ablation, also one that is registered elsewhere, runs here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
from jax import Array

from ...graphs.lift.lifted import LiftedModel
from ..prompts.pairs import Batch, PromptPairs
from ..run.runner import Runner
from ..trace import Trace, Values
from .batches import PairChunk, Prompts, cut, padded
from .crossing import to_tensor
from .model import CompiledModel, ModelPlan, Weights, embed, give
from .parts.attention import Positions
from .parts.layers import RanLayer
from .runs import Layer, layers, run
from .segments import by_layer


@partial(jax.jit, static_argnums=0)
def _written(plan: ModelPlan, weights: Weights, prompts: Prompts, ids: Array) -> Any:
    """Return what all senders write on prompts, over all positions."""
    at = Positions(prompts.mask, prompts.ids)
    sources, given = embed(weights, plan, ids, prompts.ids), give(weights, plan, ids)

    def keep(layer: Layer, x: Array, keys: Array, ran: RanLayer) -> Any:
        return ran.z, ran.post, ran.writes

    return sources, given, run(plan, sources.sum(0), at, layers(weights, given), keep)[2]


@dataclass(frozen=True)
class CompiledRuns:
    """Some pairs as a batch, and their runs by the compiled engine; see `registry.Runs`."""

    described: LiftedModel
    model: CompiledModel
    chunk: PairChunk

    @property
    def batch(self) -> Batch:
        """Return the pairs' tokens."""
        return self.chunk.batch

    @cached_property
    def clean(self) -> Trace:
        """Return the run of the clean prompts."""
        return self._run("clean")

    @cached_property
    def corrupted(self) -> Trace:
        """Return the run of the corrupted prompts."""
        return self._run("corrupted")

    def _run(self, which: str) -> Trace:
        prompts = padded(self.described, self.chunk, self.model.device, paired=False, apart=False)
        plan = self.model.plan
        sources, given, found = _written(plan, self.model.weights, prompts, getattr(prompts, which))
        count, length = self.batch.clean.shape

        def of(x: Array, lead: int = 0) -> Any:
            cut: tuple[Any, ...] = (slice(None),) * lead + (slice(count), slice(length))
            return to_tensor(x)[cut]

        each = list(by_layer(plan.runs, found))
        posts = [post for _, post, _ in each]
        values = Values(
            of(sources, 1),
            tuple(of(z) for z, _, _ in each),
            tuple(of(writes, 1) for _, _, writes in each),
            tuple(map(of, posts)) if self.described.graph.post_norm else (),
            () if given is None else tuple(of(x) for x in by_layer(plan.runs, given)),
        )
        return Trace(self.described, values)


@dataclass(frozen=True)
class _Reference:
    """All prompts that an ablation may look at; see `registry.Reference`."""

    model: LiftedModel
    pairs: PromptPairs
    compiled: CompiledModel
    most: int

    def chunks(self) -> Iterator[CompiledRuns]:
        """Yield the pairs' runs, some pairs at a time."""
        for one in cut(self.model, self.pairs, self.most, paired=False):
            yield CompiledRuns(self.model, self.compiled, one)


class Carrying:
    """An ablation, prepared on a runner's reference pairs."""

    def __init__(self, runner: Runner, model: CompiledModel, cuts: Sequence[PairChunk]) -> None:
        self.described, self.model = runner.model, model
        most = max(len(chunk.rows) for chunk in cuts)
        reference = _Reference(runner.model, runner.reference, model, most)
        self.carried = runner.ablation.prepare(reference)

    def values(self, chunk: PairChunk) -> Values:
        """Return what all senders' ablated edges carry in a chunk."""
        return self.carried(CompiledRuns(self.described, self.model, chunk))
