"""EAP and EAP-IG: edge attribution patching (Syed et al. 2023; Hanna et al. 2024).

1. Note the ablation value a_u of every sender, and what it writes on the clean prompts, o_u.
2. Take the gradient of the loss at every port, in one run or as the mean over several: `eap` of
   the clean run; `clean-corrupted` of it and the run from the ablated embedding; `eap-ig` of m runs
   from the embeddings z_k = z_ablated + (k/m)(z_clean − z_ablated), k = 0 … m−1 (the reference
   implementation's range; `midpoint` takes (k + ½)/m instead).
3. Score each edge by Σ (a_u − o_u) · ∂loss/∂x_p: the change of the loss, to first order, if the
   edge alone were ablated. Positive means the edge helps.

Under `zero` ablation the first point of EAP-IG is an embedding of 0, where an RMSNorm's slope is
1/√eps; its gradient then drowns the others. `midpoint` avoids that point.

With `per_example` the scores on each example are given too; their mean is the score.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from .registry import Discovery, Option, method

if TYPE_CHECKING:
    from ..patching.run.runner import Progress, Runner

ENGINES = ("torch", "jax")


@method(
    "eap",
    summary="score all edges with one gradient at the clean run",
    selects=False,
    engines=ENGINES,
    gradient="clean",
)
def eap(
    runner: Runner, *, per_example: bool = False, progress: Progress | None = None
) -> Discovery:
    """Score every edge with the gradient at the clean run."""
    return _attributed(runner, [1.0], per_example, progress)


@method(
    "clean-corrupted",
    summary="score all edges with the mean gradient of the clean and the ablated input",
    selects=False,
    engines=ENGINES,
    gradient="path",
)
def clean_corrupted(
    runner: Runner, *, per_example: bool = False, progress: Progress | None = None
) -> Discovery:
    """Score every edge with the mean of the two gradients."""
    return _attributed(runner, [0.0, 1.0], per_example, progress)


@method(
    "eap-ig",
    summary="score all edges with gradients averaged between the ablated and the clean input",
    selects=False,
    engines=ENGINES,
    gradient="path",
    scores_for_searches=True,
    unpaired={"midpoint": True},
)
def eap_ig(
    runner: Runner,
    *,
    steps: Annotated[int, Option("number of gradients that are averaged", 1, 1000)] = 5,
    midpoint: Annotated[bool, Option("take the middle of each step, not its left end")] = False,
    per_example: bool = False,
    progress: Progress | None = None,
) -> Discovery:
    """Score every edge with the averaged gradient."""
    shift = 0.5 if midpoint else 0.0
    return _attributed(runner, [(k + shift) / steps for k in range(steps)], per_example, progress)


def _attributed(
    runner: Runner, points: list[float], per_example: bool, progress: Progress | None
) -> Discovery:
    from ..graphs.example_scores import ExampleScores, new_values
    from ..patching.engines import JAX, engine_of

    if engine_of(runner.engine, runner.model, runner.metric) == JAX:
        from ..patching.compiled.engine import attribute
    else:
        from ..patching.gradients.attribution import attribute

    if not per_example:
        return Discovery(attribute(runner, points, progress))
    each = new_values(runner.graph, len(runner.pairs))
    scores = attribute(runner, points, progress, each)
    return Discovery(scores, examples=ExampleScores(runner.graph, each, runner.pairs.groups))
