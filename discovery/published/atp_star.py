"""AtP*: attribution of nodes without its two known blind spots (Kramár et al. 2024).

1. Note what every sender writes on the clean prompts, o_u, and its ablation value, a_u.
2. Take the gradient at the clean run at every port. A node's effect is the sum over the ports that
   read it of (a_u − o_u) · ∂loss/∂x_p; of queries and keys in place of this what the head mixes by
   the new softmax, less what it mixed, times the gradient there: a saturated pattern is seen.
3. Do so once for every layer, with nothing flowing back through it (GradDrop): two ways that cancel
   are seen where one is cut. The score is the mean over layers of the absolute effects, by L − 1 as
   in the paper, averaged over examples.

It scores nodes: all edges out of a node carry its score, and a selection keeps whole nodes. As
scores are absolute, they tell how much a node does, not whether it helps; with `single` nothing is
dropped and signs stay. In the paper queries, keys and values are nodes of their own, and each key's
position; here a node is a head, an MLP, or what else writes to the stream, at all positions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from ...graphs.levels.nodes import NODE
from ..registry import Discovery, Option, Page, method

if TYPE_CHECKING:
    from ...patching.run.runner import Progress, Runner


@method(
    "atp-star",
    summary="score nodes with the softmax recomputed and the mean over dropped layers",
    selects=False,
    page=Page(
        (
            "Note o_u and a_u of every node u, and the gradient at the clean run at every port.",
            "A node's effect is Σ over ports of (a_u − o_u) · ∂loss/∂x_p; of queries and keys it "
            "is what the head mixes by the new softmax, less what it mixed, times the gradient.",
            "Take it once for every layer, with nothing flowing back through that layer.",
            "The score is the sum of the absolute effects by L − 1, averaged over examples.",
        ),
        "Kramár, Lieberum, Shah and Nanda 2024, AtP*: an efficient and scalable method for "
        "localizing LLM behaviour to components",
        "7 forward passes for each layer; with `single` 7 in all",
        "To rank heads and MLPs where attention is saturated or effects cancel. Scores are "
        "absolute: they do not tell what helps. For single edges take EAP with owners recomputed.",
    ),
    gradient="clean",
    nodes_only=True,
)
def atp_star(
    runner: Runner,
    *,
    single: Annotated[bool, Option("drop no layer: one gradient, signed")] = False,
    per_example: bool = False,
    progress: Progress | None = None,
) -> Discovery:
    """Score every node, and give all edges out of it its score."""
    from ...graphs.example_scores import ExampleScores, new_values
    from ...graphs.scores import Scores
    from ...patching.gradients.layerwise.dropped import node_attribution

    graph = runner.graph
    found = node_attribution(runner, drop=not single, progress=progress)
    scores = Scores.of_nodes(graph, found.mean(0))
    if not per_example:
        return Discovery(scores)
    each = new_values(graph, len(found))
    each[:] = found[:, graph.reads.nonzero()[1]]
    examples = ExampleScores(graph, each, runner.pairs.groups, NODE)
    return Discovery(scores, examples=examples)
