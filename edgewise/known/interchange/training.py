"""Strict interchange intervention training: teach a model which node is to compute what.

Geiger et al. 2022 train a network to answer as its causal model does when a variable takes another
input's value; Gupta et al. 2024 (InterpBench) add that nothing else may matter. Each update draws
inputs and, for each, a source, and goes down the sum of three cross-entropies:

1. Behaviour: the answer to the input.
2. Interchange: one variable's node takes the source's values; the answer is what the causal model
   gives when the variable does.
3. Strictness: some of what is not in the circuit is ablated, at random, and half of the time all of
   it; the answer stays. Every other time that is done beside an interchange too.

The authors' strictness ablates nodes that compute no variable. That leaves edges between nodes that
do, and all edges out of the embedding, free to matter. Here by default single edges are ablated:
all that the circuit has not. They carry in turn the source's values, their mean, and nothing, or
only the first, as published, which is learned sooner.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ...graphs.calls.typed import typed
from ...graphs.circuit import Circuit
from ...graphs.errors import EdgewiseError
from ...graphs.graph import ComputationGraph
from ...graphs.lift.lifted import LiftedModel
from ...graphs.lift.lifting import describe, tensors_of
from .causal import UNASKED, CausalModel
from .runs import AVERAGED, NOTHING, RESAMPLED, Interchange, without_nodes

Progress = Callable[[int, int, str], None]

EVERY = (RESAMPLED, AVERAGED, NOTHING)
"""What ablated edges carry for strictness, in turn."""

WARM, LAST, STEEPEST = 50, 0.02, 1.0
"""Updates until the full rate; the share of it left in the end; the largest norm of a gradient."""


@typed
@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    `by_edge`: strictness is of edges; otherwise of nodes, as published. `from_sources`: there
    ablated edges always carry the source's values. `rate` is held for the first half of the
    updates, and falls to nearly nothing in the second.
    """

    updates: int = 600
    inputs: int = 64
    rate: float = 3e-3
    by_edge: bool = True
    from_sources: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("updates", "inputs", "rate"):
            if not getattr(self, name) > 0:
                raise EdgewiseError(f"{name} is {getattr(self, name)}; accepted: more than 0.")


@typed
def train_to(
    model: Any,
    causal: CausalModel,
    recipe: Recipe | None = None,
    progress: Progress | None = None,
) -> Circuit:
    """Train a live model in place to compute as a causal model does; return the circuit.

    Args:
        model: a model in evaluation mode that can be lifted, with an unembedding of its own.
        causal: what it is to compute, and where.
        recipe: how it is trained.
        progress: told the number of updates done, how many there are, and the losses.

    Raises:
        EdgewiseError: the circuit is not one of the model's graph, or some weights cannot be
            trained.
    """
    recipe = recipe or Recipe()
    lifted = describe(model)
    circuit = causal.circuit(lifted.graph)
    weights = trainable(lifted, model)
    optimizer = torch.optim.AdamW(weights, lr=recipe.rate, weight_decay=0.01)
    update = _Update(lifted, causal, circuit, recipe)
    for weight in weights:
        weight.requires_grad_(True)
    try:
        for done in range(recipe.updates):
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate * _share_of_rate(done, recipe.updates)
            losses = update.losses(done)
            optimizer.zero_grad()
            torch.stack(losses).sum().backward()
            torch.nn.utils.clip_grad_norm_(weights, STEEPEST)
            optimizer.step()
            if progress is not None:
                told = zip(("behaviour", "interchange", "strictness"), losses, strict=True)
                words = ", ".join(f"{name} {loss.item():.4f}" for name, loss in told)
                progress(done + 1, recipe.updates, words)
    finally:
        for weight in weights:
            weight.requires_grad_(False)
    return circuit


def trainable(lifted: LiftedModel, model: Any) -> list[Tensor]:
    """List the views that a description has of the model's weights: together, each weight once."""
    own = {p.untyped_storage().data_ptr(): p.numel() for p in model.parameters()}
    views = [x for x in tensors_of(lifted) if x.untyped_storage().data_ptr() in own]
    described, total = sum(x.numel() for x in views), sum(own.values())
    if described != total:
        raise EdgewiseError(
            f"the description of the model is of {described:,} weights, and it has {total:,}; "
            "accepted: a model each of whose weights is used in one place, so one with "
            "tie_word_embeddings=False."
        )
    return views


def _share_of_rate(done: int, updates: int) -> float:
    return min(1.0, (done + 1) / WARM) * min(1.0, 2 * (1 - done / updates) + LAST)


@dataclass
class _Update:
    """What each update draws, and the losses there."""

    lifted: LiftedModel
    causal: CausalModel
    circuit: Circuit
    recipe: Recipe

    def __post_init__(self) -> None:
        self.graph: ComputationGraph = self.lifted.graph
        self.draw = np.random.default_rng(self.recipe.seed)
        self.inputs = torch.Generator().manual_seed(self.recipe.seed)
        self.idle = sorted(idle_nodes(self.causal, self.graph))

    def losses(self, done: int) -> list[Tensor]:
        """Return the losses of behaviour, of interchange and of strictness."""
        causal = self.causal
        base, source = causal.draw(self.recipe.inputs, self.inputs)
        runs, answers = Interchange(self.lifted, base, source), causal.answers(base)
        variable = causal.variables[done % len(causal.variables)]
        counterfactual = causal.answers(base, {variable.name: causal.run(source)[variable.name]})
        swapped = without_nodes(self.graph, {variable.node})
        if self.draw.random() < 0.5:
            swapped &= self._some()
        carried = EVERY[: 1 if self.recipe.from_sources else len(EVERY)]
        return [
            _loss(runs.logits(), answers),
            _loss(runs.logits(swapped), counterfactual),
            _loss(runs.logits(self._some(), carried[done % len(carried)]), answers),
        ]

    def _some(self) -> np.ndarray:
        """Draw which edges are kept: all of the circuit, and of the rest some or none."""
        share = 1.0 if self.draw.random() < 0.5 else self.draw.random()
        if not self.recipe.by_edge:
            off = self.draw.random(len(self.idle)) < share
            return without_nodes(self.graph, {n for n, o in zip(self.idle, off, strict=True) if o})
        off = self.draw.random(self.graph.reads.shape) < share
        kept: np.ndarray = self.graph.reads & (self.circuit.kept | ~off)
        return kept


def idle_nodes(causal: CausalModel, graph: ComputationGraph) -> set[str]:
    """Name the nodes that compute no variable, but for the embedding's."""
    taken = {one.node for one in causal.variables}
    return {str(node) for node in graph.senders if node.layer is not None} - taken


def _loss(logits: Tensor, answers: Tensor) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, 1), answers.flatten(), ignore_index=UNASKED)
