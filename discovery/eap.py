"""EAP: edge attribution patching (Syed et al. 2023).

1. Run the model on the clean prompts, and note the ablation value a_u of every sender.
2. Take the gradient of the loss at every port of the clean run.
3. Score each edge by Σ (a_u − o_u) · ∂loss/∂x_p: the change of the loss, to first order, if the
   edge alone were ablated. Positive means the edge helps.

`clean-corrupted` averages the gradient of the clean run and of the run from the ablated embedding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .registry import Discovery, method

if TYPE_CHECKING:
    from ..patching.run.runner import Progress, Runner


@method(
    "eap",
    summary="score all edges with one gradient at the clean run",
    selects=False,
    gradient="clean",
)
def eap(runner: Runner, *, progress: Progress | None = None) -> Discovery:
    """Score every edge with the gradient at the clean run."""
    from ..patching.gradients.attribution import attribute

    return Discovery(attribute(runner, [1.0], progress), questions=0)


@method(
    "clean-corrupted",
    summary="score all edges with the mean gradient of the clean and the ablated input",
    selects=False,
    gradient="path",
)
def clean_corrupted(runner: Runner, *, progress: Progress | None = None) -> Discovery:
    """Score every edge with the mean of the two gradients."""
    from ..patching.gradients.attribution import attribute

    return Discovery(attribute(runner, [0.0, 1.0], progress), questions=0)
