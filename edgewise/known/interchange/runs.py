"""Interchange interventions: some inputs run with values of others on ablated edges.

The model is any that can be lifted, and the interventions are this project's own: an ablated edge
carries what its sender writes on the source input. To intervene on a node is to ablate all edges
out of it. Shapes: B examples, T positions, V vocabulary, P ports, S senders.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ...graphs.graph import ComputationGraph
from ...graphs.lift.lifted import AttentionContext, LiftedModel
from ...patching.run.masked_run import World, run_masked
from ...patching.run.plan import make_plan
from ...patching.trace import Trace, run_plain

RESAMPLED, AVERAGED, NOTHING = range(3)
"""What ablated edges carry: the source's values, their mean, or nothing."""


@dataclass(frozen=True)
class Interchange:
    """Base inputs and their sources, token ids [B, T], and their runs; gradients are recorded."""

    model: LiftedModel
    base_ids: Tensor
    source_ids: Tensor

    @cached_property
    def context(self) -> AttentionContext:
        """Return what attention needs to know: there is no padding."""
        ids = self.base_ids
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        return AttentionContext(torch.ones_like(ids, dtype=torch.bool), positions)

    @cached_property
    def base(self) -> Trace:
        """Return the run of the base inputs."""
        return run_plain(self.model, self.base_ids, self.context)

    @cached_property
    def source(self) -> Trace:
        """Return the run of the sources."""
        return run_plain(self.model, self.source_ids, self.context)

    def carried(self, which: int) -> Trace:
        """Return what ablated edges carry."""
        if which == RESAMPLED:
            return self.source
        values = self.source.values
        if which == NOTHING:
            return Trace(self.model, values.zeros())
        mean = values.map(lambda x: x.mean((0, 1), keepdim=True).expand_as(x))
        return Trace(self.model, mean)

    def logits(self, kept: np.ndarray | None = None, which: int = RESAMPLED) -> Tensor:
        """Return the logits, [B, T, V], of a run that keeps these edges, bool [P, S]; None: all."""
        if kept is None:
            return self.model.logits(self.base.streams.final)
        other = self.carried(which)
        sources = (self.base.values.sources - other.values.sources).flatten(1)
        world = World(self.model, self.context, other, sources)
        plan = make_plan(self.model.graph, kept[None], consistent=False)
        return self.model.logits(run_masked(world, plan, 1)[0])


def without_nodes(graph: ComputationGraph, nodes: set[str]) -> np.ndarray:
    """Return the edges of the full model but those out of some nodes, bool [P, S]."""
    out = np.array([str(sender) in nodes for sender in graph.senders])
    found: np.ndarray = graph.reads & ~out
    return found
