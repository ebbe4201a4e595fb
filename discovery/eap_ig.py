"""EAP-IG: edge attribution patching with integrated gradients over inputs (Hanna et al. 2024).

1. Take m embeddings z_k = z_ablated + (k/m)(z_clean − z_ablated), k = 0 … m−1 (the reference
   implementation's range; `midpoint` takes (k + ½)/m instead).
2. Average the gradient of the loss at every port over the m runs that start from them.
3. Score each edge by Σ (a_u − o_u) · (mean gradient), a_u and o_u as in plain EAP.

Under `zero` ablation the first point is an embedding of 0, where an RMSNorm's slope is 1/√eps; its
gradient then drowns the others. `midpoint` avoids that point.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from .registry import Discovery, Option, method

if TYPE_CHECKING:
    from ..patching.run.runner import Progress, Runner


@method(
    "eap-ig",
    summary="score all edges with gradients averaged between the ablated and the clean input",
    selects=False,
    gradient="path",
    scores_for_searches=True,
    unpaired={"midpoint": True},
)
def eap_ig(
    runner: Runner,
    *,
    steps: Annotated[int, Option("number of gradients that are averaged", 1, 1000)] = 5,
    midpoint: Annotated[bool, Option("take the middle of each step, not its left end")] = False,
    progress: Progress | None = None,
) -> Discovery:
    """Score every edge with the averaged gradient."""
    from ..patching.gradients.attribution import attribute

    shift = 0.5 if midpoint else 0.0
    points = [(k + shift) / steps for k in range(steps)]
    return Discovery(attribute(runner, points, progress), questions=0)
