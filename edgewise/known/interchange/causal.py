"""A causal model: what a network is to compute, variable by variable, and by which node each.

Token ids are int64 [B, T], and so are a variable's values; B examples, T positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...graphs.calls.typed import typed
from ...graphs.circuit import Circuit
from ...graphs.errors import EdgewiseError
from ...graphs.graph import ComputationGraph
from ...patching.prompts.pairs import Pair, PromptPairs

UNASKED = -100
"""In place of an answer: nothing is asked at this position."""


@typed
@dataclass(frozen=True, eq=False)
class Variable:
    """A variable: the node that is to compute it, and how it follows from the tokens.

    `compute` takes token ids and the values of the variables before it.
    """

    name: str
    node: str
    compute: Callable[[Tensor, Mapping[str, Tensor]], Tensor]


@typed
@dataclass(frozen=True, eq=False)
class CausalModel:
    """Variables in the order of their computing; the last is the token to answer, or UNASKED.

    `edges`: the circuit that is to compute them; its senders are the variables' nodes and the
    embedding. `draw(count, generator)` gives inputs and, for each, another whose values can stand
    in for its own, [2, count, T]. `vocabulary`: how many tokens there are. `prompt`: how many of
    the T tokens a prompt pair has; at the last of them the answer is asked.
    """

    name: str
    variables: tuple[Variable, ...]
    edges: tuple[str, ...]
    draw: Callable[[int, torch.Generator], Tensor]
    vocabulary: int
    prompt: int

    @typed
    def run(self, ids: Tensor, given: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Compute all variables; those `given` have the values that are given."""
        given = given or {}
        values: dict[str, Tensor] = {}
        for one in self.variables:
            own = given.get(one.name)
            values[one.name] = one.compute(ids, values) if own is None else own
        return values

    @typed
    def answers(self, ids: Tensor, given: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return the token to answer at every position, or UNASKED."""
        return self.run(ids, given)[self.variables[-1].name]

    @typed
    def circuit(self, graph: ComputationGraph) -> Circuit:
        """Return the edges on a model's graph; EdgewiseError if they are no circuit of these nodes.

        Raises:
            EdgewiseError: the graph has not all of them; they leave nodes that compute no variable,
                or some lie on no path from the embedding to the logits.
        """
        found = Circuit.empty(graph).with_edges(self.edges)
        nodes = {one.node for one in self.variables}
        senders = {str(edge.sender) for edge in found.edges} - {str(graph.senders[0])}
        if senders != nodes:
            raise EdgewiseError(
                f"the edges of '{self.name}' leave {', '.join(sorted(senders)) or 'no node'}, and "
                f"its variables are computed by {', '.join(sorted(nodes))}; accepted: the same "
                "nodes, beside the embedding."
            )
        if found.prune_dangling() != found:
            raise EdgewiseError(
                f"some edges of '{self.name}' lie on no path from the embedding to the logits; "
                "accepted: a circuit in which every edge does."
            )
        return found

    @typed
    def pairs(self, count: int, seed: int = 0) -> PromptPairs:
        """Draw prompt pairs whose answers differ; each one's distractor is the other's answer."""
        generator = torch.Generator().manual_seed(seed)
        found: list[Pair] = []
        while len(found) < count:
            clean, corrupted = self.draw(count, generator)
            right, wrong = (self.answers(ids)[:, self.prompt - 1] for ids in (clean, corrupted))
            for i in ((right != wrong) & (right != UNASKED) & (wrong != UNASKED)).nonzero()[:, 0]:
                ids, others = (tuple(x[i, : self.prompt].tolist()) for x in (clean, corrupted))
                found.append(Pair(ids, others, (int(right[i]),), (int(wrong[i]),)))
        return PromptPairs(tuple(found[:count]), name=self.name)
