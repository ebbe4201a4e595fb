"""Cross-model patching: some edges or nodes take the values of another model's run.

On the same clean prompts the *receiver* runs with, for each chosen edge u→p, what u wrote in the
clean run of the *donor* (cross-model activation patching, Prakash et al. 2024; here by edges):

    x_p = Σ_{u→p not chosen} o_u  +  Σ_{u→p chosen} o_u^donor  +  the receiver's constants

where o_u is what u writes in this very run. A chosen node is a sender all of whose edges are
chosen. Values cross, weights do not: the stream's constants (biases of output projections), the
final norm and the unembedding stay the receiver's, so the values of all nodes together give the
donor's logits only if those are equal in both models.

What the chosen parts carry is  (m(receiver with them) − m(receiver)) / (m(donor) − m(receiver)),
dataset means first, the ratio second, never clamped; shares of several parts need not add up.
Metrics that compare with the full model, such as `kl`, compare with the donor.

For the dense runner the receiver's clean run is the base, and o_u^donor − o_u^clean is added to the
ports from outside: values that are the same in both models change nothing, exactly.

Shapes: B examples, T positions, D d_model, S senders, G chosen senders, C choices, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ...graphs.errors import EdgewiseError, GraphMismatch, PromptError
from ...graphs.graph import ComputationGraph
from ...graphs.lift.devices import place
from ...graphs.lift.lifted import Attention, LiftedModel
from ...graphs.names import Node
from ..metrics.metric import named
from ..prompts.pairs import PromptPairs
from ..run.chunk import Chunk
from ..run.floors import rounding_floor
from ..run.masked_run import World, run_masked
from ..run.plan import make_plan
from ..run.runner import Runner, refuse_nan
from .donor import DonorChunk, DonorValues, clean_runner, column_of, summed, target_of, written


def nodes_mask(graph: ComputationGraph, nodes: Iterable[Node]) -> np.ndarray:
    """Choose every edge out of some nodes, bool [ports, senders]."""
    chosen = np.zeros_like(graph.reads)
    columns = [column_of(graph, node) for node in nodes]
    chosen[:, columns] = graph.reads[:, columns]
    return chosen


@dataclass(frozen=True, eq=False)
class Transplant:
    """A receiver that parts of a donor are put in, by their values on the same prompts."""

    runner: Runner
    donated: DonorValues

    @staticmethod
    def create(model: LiftedModel, pairs: PromptPairs, donated: DonorValues) -> Transplant:
        """Put a receiver beside a donor's values, which must be of its shape and prompts."""
        differences = donated.graph.differences(model.graph)
        if donated.d_model != model.d_model:
            differences.append(f"d_model {donated.d_model} and {model.d_model}")
        if differences:
            raise GraphMismatch(
                "nothing can be transplanted between these models: they differ in "
                f"{'; '.join(differences)} (donor and receiver). Accepted: two models of one shape."
            )
        if pairs.sha256 != donated.pairs.sha256:
            raise PromptError(
                "the receiver's prompts are not those the donor ran on; give both the same pairs."
            )
        seen = donated.parts[0].logits
        if seen is not None and seen.shape[-1] != len(model.unembed.weight):
            raise EdgewiseError(
                f"metric '{donated.metric.name}' compares all logits, and the donor has "
                f"{seen.shape[-1]:,}, the receiver {len(model.unembed.weight):,}; use a metric of "
                f"single tokens, such as {named(lambda one: one.reads_few)}."
            )
        runner = clean_runner(model, pairs, donated.metric, donated.batch_size)
        return Transplant(runner, donated)

    @property
    def graph(self) -> ComputationGraph:
        """Return the graph of both models."""
        return self.donated.graph

    @cached_property
    def receiver_each(self) -> np.ndarray:
        """Return the receiver's own metric of every example, float64 [examples]."""
        own = self._each(lambda chunk, _: chunk.logits(chunk.clean.streams.final)[None])
        return np.asarray(own[0])

    @property
    def receiver(self) -> float:
        """Return the receiver's own metric."""
        return float(self.receiver_each.mean())

    @property
    def pairs(self) -> PromptPairs:
        """Return the prompts that both ran on."""
        return self.donated.pairs

    @property
    def donor_each(self) -> np.ndarray:
        """Return the donor's metric of every example, float64 [examples]."""
        return self.donated.each

    @property
    def donor(self) -> float:
        """Return the donor's metric."""
        return self.donated.value

    @property
    def everything(self) -> float:
        """Return the receiver's metric with the values of all the donor's nodes."""
        return float(self.everything_each.mean())

    @cached_property
    def everything_each(self) -> np.ndarray:
        """Return the same of every example, float64 [examples]."""

        def run(chunk: Chunk, part: DonorChunk) -> Tensor:
            own = chunk.at_answers(chunk.clean.streams.final)
            given = place(part.stream, own.device) - summed(chunk)
            return chunk.model.logits(own + given)[None]

        return np.asarray(self._each(run)[0])

    @cached_property
    def rounding(self) -> float:
        """Return how far rounding alone may move a mean."""
        own = rounding_floor(self.runner.chunks(), self.runner.metric, unlike=True)
        return max(self.donated.floor, own)

    @property
    def floor(self) -> float:
        """Return how far rounding alone may move a share."""
        return self.rounding / abs(self.donor - self.receiver)

    def carried(self, value: float) -> float | None:
        """Return which share of the gain a value is; None if the two models measure the same."""
        if abs(self.donor - self.receiver) <= self.rounding:
            return None
        return (value - self.receiver) / (self.donor - self.receiver)

    def require_share(self, value: float) -> float:
        """Return the same where there must be a gain; else EdgewiseError."""
        if (share := self.carried(value)) is None:
            raise EdgewiseError(
                f"both models measure {self.runner.metric.name} {self.receiver:.6g} on these "
                "prompts, so there is no gain that a node could carry; use another task or metric."
            )
        return share

    def measure(self, chosen: np.ndarray) -> list[float]:
        """Return the metric's mean with the donor's values on edges, bool [C, ports, senders]."""
        return [float(mean) for mean in self.measure_each(chosen).mean(-1)]

    def measure_each(self, chosen: np.ndarray) -> np.ndarray:
        """Return the same of every example, float64 [C, examples] in the pairs' order."""
        assert not (chosen & ~self.graph.reads).any()
        senders = [int(u) for u in np.flatnonzero(chosen.any((0, 1)))]
        lacking = sorted(set(senders) - self.donated.wanted)
        if lacking:
            names = ", ".join(str(self.graph.senders[u]) for u in lacking)
            raise EdgewiseError(f"the donor was recorded without {names}; record these nodes too.")

        def run(chunk: Chunk, part: DonorChunk) -> Tensor:
            world = self._world(chunk, part, senders)
            assert world.extras is not None
            differs = world.extras.any(1).cpu().numpy()
            if world.given_outside:
                differs[0] |= any(bool(x.any()) for x in world.given)
            extra = chosen[:, :, senders] & differs
            return self._logits(world, chunk, self.graph.reads & ~chosen, extra)

        return self._each(run)

    def _each(self, run: Callable[[Chunk, DonorChunk], Tensor]) -> np.ndarray:
        """Return the metric of logits [C, B, V] of all chunks, [C, examples]."""
        metric, parts = self.runner.metric, self.donated.parts
        found: list[np.ndarray] = []
        order: list[int] = []
        with torch.no_grad():
            for (rows, chunk), part in zip(self.runner.rows_and_chunks(), parts, strict=True):
                logits = run(chunk, part)
                value = metric(logits, target_of(chunk, metric, part.logits))
                found.append(value.cpu().double().numpy())
                order += rows
        each = np.concatenate(found, -1)[:, np.argsort(order)]
        refuse_nan(each.mean(-1), f"the metric '{metric.name}'")
        return each

    def _world(self, chunk: Chunk, part: DonorChunk, senders: Sequence[int]) -> World:
        """Return the receiver's clean run, with by how much the donor's senders wrote more."""
        mixers = enumerate(block.attention for block in chunk.model.blocks)
        own = {i: (one.wo, one.output_scale) for i, one in mixers if isinstance(one, Attention)}
        values, device = chunk.clean.values, chunk.clean.values.sources.device
        wide = torch.promote_types(values.sources.dtype, torch.float32)
        rows = [torch.zeros(0, values.sources[0].numel(), dtype=wide, device=device)]
        for sender in senders:
            theirs = written(self.graph, sender, part.values, self.donated.projections, own)
            ours = written(self.graph, sender, values, own, own)
            rows.append((place(theirs, device) - place(ours, device)).reshape(1, -1))
        given, none = torch.cat(rows), tuple(torch.zeros_like(x) for x in values.given)
        if embedding := senders[:1] == [0]:
            both = zip(part.values.given, values.given, strict=True)
            none = tuple(place(theirs, device) - ours for theirs, ours in both)
        return World(
            chunk.model, chunk.context, chunk.clean, given[:0], chunk.past, given, none, embedding
        )

    def _logits(self, world: World, chunk: Chunk, kept: np.ndarray, extra: np.ndarray) -> Tensor:
        """Run choices of edges, in parts if they do not fit in memory; [C, B, V]."""
        plan = make_plan(self.graph, kept, consistent=True, fixed=frozenset(), extra=extra)
        streams = len(kept) * max(1, *(len(step.sums) for step in plan.layers))
        if len(kept) > 1 and 4 * streams * world.base.streams.final.numel() > chunk.budget.run:
            half = len(kept) // 2
            parts = ((kept[:half], extra[:half]), (kept[half:], extra[half:]))
            return torch.cat([self._logits(world, chunk, *part) for part in parts])
        logits = chunk.logits(run_masked(world, plan, len(kept)))
        return logits.expand(len(kept), -1, -1)
