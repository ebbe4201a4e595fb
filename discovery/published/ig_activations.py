"""EAP-IG in activations: gradients averaged along each layer's own way (Hanna et al. 2024).

1. Note what every sender writes on the clean prompts, o_u, and its ablation value, a_u.
2. For each place where senders write (the embedding, a layer's heads, a layer's MLP) run the model
   m times with o + (k/m)(a − o) written there, k = 0 … m−1, everything later recomputed; `midpoint`
   takes (k + ½)/m. Average the gradients at ports.
3. Score each edge out of the place by Σ (a_u − o_u) · (averaged gradient).

The scores of all edges out of a place add up to the change of the loss where all of it is ablated,
as m grows.

As in the reference implementation (EAP-IG), the heads of a layer are moved together and its MLP is
a place of its own, so that edges from heads into their own layer's MLP have a score. It differs
from that implementation as all scores here do: they are averaged over examples once (it divides by
the size of a batch twice), in float32 at least, and of every query, key and value apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from ..registry import Discovery, Option, Page, method

if TYPE_CHECKING:
    from ...patching.run.runner import Progress, Runner


@method(
    "eap-ig-activations",
    summary="score all edges with gradients averaged along the way of what each layer writes",
    selects=False,
    page=Page(
        (
            "Note what every sender writes on the clean prompts, o_u, and its ablation value, a_u.",
            "For each place where senders write (the embedding, a layer's heads, a layer's MLP) "
            "run the model m times with o + (k/m)(a − o) written there, k = 0 … m−1.",
            "Average the gradients at ports over these runs.",
            "Score each edge out of the place Σ (a_u − o_u) · (averaged gradient).",
        ),
        "Hanna, Pezzelle and Belinkov 2024, Have faith in faithfulness (EAP-IG, activations)",
        "a gradient through half the model for each step and twice the layers: 36 forward passes "
        "for one step of SmolLM2-135M",
        "Where what a layer does in all is to be shared out over its edges: the scores out of a "
        "layer's heads, or out of its MLP, add up to the effect of ablating them together. Too "
        "dear for a first look.",
    ),
    gradient="path",
    additive=True,
)
def ig_activations(
    runner: Runner,
    *,
    steps: Annotated[int, Option("number of gradients that are averaged", 1, 1000)] = 5,
    midpoint: Annotated[bool, Option("take the middle of each step, not its left end")] = False,
    per_example: bool = False,
    progress: Progress | None = None,
) -> Discovery:
    """Score every edge with the gradient averaged along its sender's own way."""
    from ...graphs.example_scores import ExampleScores, new_values
    from ...patching.gradients.layerwise.activations import attribute_activations

    shift = 0.5 if midpoint else 0.0
    shares = [(k + shift) / steps for k in range(steps)]
    each = new_values(runner.graph, len(runner.pairs)) if per_example else None
    scores = attribute_activations(runner, shares, progress, each)
    if each is None:
        return Discovery(scores)
    return Discovery(scores, examples=ExampleScores(runner.graph, each, runner.pairs.groups))
