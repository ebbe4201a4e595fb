"""Information flow routes: which writes make up what each port holds (Ferrando and Voita 2024).

1. Run the model on the clean prompts; no other run, no gradient, no metric is needed.
2. At each token, of a port that holds x, a sender that writes w is close to it by
   max(0, ‖x‖₁ − ‖x − w‖₁). Its share is its closeness by that of all senders into the port.
3. An edge's score is the mean share over an example's tokens, and over examples.

Shares tell where what a port holds comes from, not what it is used for: they do not depend on the
task's answers but by the prompts. `--greedy` follows them from the logits back, as the paper does.
Queries, keys and values of a layer hold one stream, so edges into them have equal scores. In the
paper an edge leads from token to token; here its tokens are averaged over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..registry import Discovery, Page, method

if TYPE_CHECKING:
    from ...patching.run.runner import Progress, Runner


@method(
    "information-flow-routes",
    summary="score all edges by the share of what a port holds that the sender's write explains",
    selects=False,
    page=Page(
        (
            "Run the model on the clean prompts, once.",
            "At each token take of every port, which holds x, how close each write w into it "
            "comes: max(0, ‖x‖₁ − ‖x − w‖₁).",
            "Score each edge by its share of the closeness of all writes into the port, averaged "
            "over tokens and examples.",
        ),
        "Ferrando and Voita 2024, Information flow routes: automatically interpreting language "
        "models at scale",
        "8 forward passes of SmolLM2-135M, none of them backward",
        "To see where what a port holds comes from, without corrupted prompts, answers or "
        "gradients. It knows nothing of the task's metric; select greedily from the logits. For "
        "what the behaviour depends on take another method.",
    ),
)
def flow_routes(
    runner: Runner, *, per_example: bool = False, progress: Progress | None = None
) -> Discovery:
    """Score every edge by how much of what its port holds its sender explains."""
    from ...graphs.example_scores import ExampleScores, new_values
    from ...patching.heads.shares import flow_shares

    each = new_values(runner.graph, len(runner.pairs)) if per_example else None
    scores = flow_shares(runner, progress, each)
    if each is None:
        return Discovery(scores)
    return Discovery(scores, examples=ExampleScores(runner.graph, each, runner.pairs.groups))
