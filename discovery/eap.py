"""EAP and EAP-IG: edge attribution patching (Syed et al. 2023; Hanna et al. 2024).

1. Note the ablation value a_u of every sender, and what it writes on the clean prompts, o_u.
2. Take the gradient of the loss at every port, in one run or as the mean over several: `eap` of
   the clean run; `clean-corrupted` of it and the run from the ablated embedding; `eap-ig` of m runs
   from the embeddings z_k = z_ablated + (k/m)(z_clean − z_ablated), k = 0 … m−1 (the reference
   implementation's range; `midpoint` takes (k + ½)/m instead).
3. Score each edge by Σ (a_u − o_u) · ∂loss/∂x_p: the change of the loss, to first order, if the
   edge alone were ablated. Positive means the edge helps.

`conductance` (Wu et al. 2026) takes in place of a_u − o_u what u's writing changes by on each piece
of the same way, and the gradient in the middle of the piece: the scores into `logits` add up to the
change of the loss.

Under `zero` ablation the first point of EAP-IG is an embedding of 0, where an RMSNorm's slope is
1/√eps; its gradient then drowns the others. `midpoint` avoids that point.

At level `node` the score is (a_u − o_u) · ∂loss/∂o_u. What u writes reaches the loss through the
ports that read it, so ∂loss/∂o_u = Σ_p ∂loss/∂x_p, and a node's score is the sum of its edges'.

With `per_example` the scores on each example are given too; their mean is the score.
A `rule` takes something else for the derivative of norms, activations, products or attention: RelP
(Jafari et al. 2025) or GIM (Edin et al. 2025), see `patching.gradients.rules`.
With `local` step 3 is Σ [f_p(x_p + a_u − o_u) − f_p(x_p)] · G instead, with f_p what the port's
owner writes and G the gradient there: the owner is recomputed, see `patching.gradients.local`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..patching.gradients.rules import DERIVATIVE, DERIVED, QK, RULES, GradientRule, rule_of
from .registry import Discovery, Option, Options, Page, method

if TYPE_CHECKING:
    import numpy as np

    from ..graphs.scores import Scores
    from ..patching.run.runner import Progress, Runner

ENGINES = ("torch", "jax")
TORCH_ALONE = ("torch",)

RULE_HELP = "what the backward pass takes for derivatives: " + "; ".join(
    f"{rule.name} ({rule.summary})" for rule in RULES.values()
)
QK_HELP = "of a rule that leaves it open: " + "; ".join(f"{k} ({why})" for k, why in QK.items())
LOCAL_HELP = (
    "recompute what a port's owner writes without the edge; the gradient is taken behind it. "
    "Nearer to exact effects of single edges, at about ten times the time"
)


@dataclass(frozen=True)
class Gradients:
    """How gradients are taken; every gradient method has these options."""

    rule: Annotated[
        str, Option(RULE_HELP, choices=tuple(RULES), engines=TORCH_ALONE, quiet=True)
    ] = DERIVATIVE.name
    qk: Annotated[str, Option(QK_HELP, choices=tuple(QK), engines=TORCH_ALONE, quiet=True)] = (
        DERIVED
    )
    local: Annotated[bool, Option(LOCAL_HELP, engines=TORCH_ALONE, quiet=True)] = False

    def __post_init__(self) -> None:
        rule_of(self.rule, self.qk)

    @property
    def plain(self) -> bool:
        """Tell whether they are what every engine takes."""
        return self == Gradients()

    @property
    def by(self) -> GradientRule:
        """Return the rule they are taken by."""
        return rule_of(self.rule, self.qk)


@method(
    "eap",
    summary="score all edges with one gradient at the clean run",
    selects=False,
    page=Page(
        (
            "Run the clean and the corrupted prompts; note what every sender writes, o_u, and what "
            "ablated edges carry, a_u.",
            "Take the gradient of the loss at every port of the clean run.",
            "Score each edge Σ (a_u − o_u) · ∂loss/∂x_p, the loss's change to first order if it "
            "alone were ablated.",
        ),
        "Syed, Rager and Conmy 2023, Attribution patching outperforms automated circuit discovery",
        "about 4 forward passes",
        "For a first look, and for the largest models. Where attention is saturated, gradients at "
        "the clean run miss what matters: look at eap-ig too.",
    ),
    engines=ENGINES,
    gradient="clean",
    additive=True,
    spans=True,
)
def eap(
    runner: Runner,
    *,
    gradients: Annotated[Gradients, Options()] = Gradients(),
    per_example: bool = False,
    progress: Progress | None = None,
) -> Discovery:
    """Score every edge with the gradient at the clean run."""
    return _attributed(runner, [1.0], gradients, per_example, progress)


@method(
    "clean-corrupted",
    summary="score all edges with the mean gradient of the clean and the ablated input",
    selects=False,
    page=Page(
        (
            "As eap, but take the mean of two gradients: of the clean run, and of the run from the "
            "ablated embedding.",
        ),
        "Hanna, Pezzelle and Belinkov 2024, Have faith in faithfulness (their clean-corrupted)",
        "about 5 forward passes",
        "Where eap-ig takes too long: two gradients in place of five.",
    ),
    engines=ENGINES,
    gradient="path",
    additive=True,
    spans=True,
)
def clean_corrupted(
    runner: Runner,
    *,
    gradients: Annotated[Gradients, Options()] = Gradients(),
    per_example: bool = False,
    progress: Progress | None = None,
) -> Discovery:
    """Score every edge with the mean of the two gradients."""
    return _attributed(runner, [0.0, 1.0], gradients, per_example, progress)


@method(
    "eap-ig",
    summary="score all edges with gradients averaged between the ablated and the clean input",
    selects=False,
    page=Page(
        (
            "Run the model from embeddings between the ablated and the clean ones, "
            "z_k = z_ablated + (k/m)(z_clean − z_ablated), k = 0 … m−1.",
            "Take the gradient of the loss at every port in each of these runs, and average.",
            "Score each edge Σ (a_u − o_u) · (averaged gradient).",
        ),
        "Hanna, Pezzelle and Belinkov 2024, Have faith in faithfulness (their EAP-IG, inputs)",
        "about 6 forward passes with 5 steps where prompts differ late, 15 where they differ from "
        "the first token",
        "The first choice for a circuit of the strongest edges. Single scores are further from "
        "exact effects than those of eap; for these have owners recomputed.",
    ),
    engines=ENGINES,
    gradient="path",
    additive=True,
    spans=True,
    scores_for_searches=True,
    unpaired={"midpoint": True},
)
def eap_ig(
    runner: Runner,
    *,
    steps: Annotated[int, Option("number of gradients that are averaged", 1, 1000)] = 5,
    midpoint: Annotated[bool, Option("take the middle of each step, not its left end")] = False,
    gradients: Annotated[Gradients, Options()] = Gradients(),
    per_example: bool = False,
    progress: Progress | None = None,
) -> Discovery:
    """Score every edge with the averaged gradient."""
    shift = 0.5 if midpoint else 0.0
    points = [(k + shift) / steps for k in range(steps)]
    return _attributed(runner, points, gradients, per_example, progress)


@method(
    "conductance",
    summary="score all edges with gradients along the way times what senders change there",
    selects=False,
    page=Page(
        (
            "Run the model from embeddings between the ablated and the clean ones.",
            "On each piece of the way take the gradient at every port in its middle, and by how "
            "much what each sender writes changes from one end to the other.",
            "Score each edge by the sum over pieces of their products. The scores into `logits` "
            "add up to the change of the loss.",
        ),
        "Wu et al. 2026, edge conductance",
        "1.8 times eap-ig of so many steps",
        "Where scores are to add up: what a share of the whole effect passes along each edge.",
    ),
    gradient="path",
    additive=True,
    spans=True,
)
def conductance(
    runner: Runner,
    *,
    steps: Annotated[int, Option("number of pieces that the way is cut into", 1, 1000)] = 5,
    per_example: bool = False,
    progress: Progress | None = None,
) -> Discovery:
    """Score every edge with its conductance; see `patching.gradients.conductance`."""
    from ..graphs.example_scores import ExampleScores, new_values
    from ..patching.gradients.conductance import conductance as scored

    each = new_values(runner.graph, len(runner.pairs)) if per_example else None
    scores = scored(runner, steps, progress, each)
    if each is None:
        return Discovery(scores)
    return Discovery(scores, examples=ExampleScores(runner.graph, each, runner.pairs.groups))


def _attributed(
    runner: Runner,
    points: list[float],
    gradients: Gradients,
    per_example: bool,
    progress: Progress | None,
) -> Discovery:
    from ..graphs.example_scores import ExampleScores, new_values

    each = new_values(runner.graph, len(runner.pairs)) if per_example else None
    scores = _scored(runner, points, gradients, progress, each)
    examples = None
    if each is not None:
        examples = ExampleScores(runner.graph, each, runner.pairs.groups)
    return Discovery(scores, examples=examples)


def _scored(
    runner: Runner,
    points: list[float],
    gradients: Gradients,
    progress: Progress | None,
    each: np.ndarray | None,
) -> Scores:
    from ..patching import engines

    asked = runner.engine if gradients.plain and not runner.graph.spans else engines.TORCH
    if engines.engine_of(asked, runner.model, runner.metric) == engines.JAX:
        from ..patching.compiled.engine import attribute as compiled

        return compiled(runner, points, progress, each)
    if gradients.local:
        from ..patching.gradients.local import attribute_locally as attribute
    else:
        from ..patching.gradients.attribution import attribute

    return attribute(runner, points, progress, each, gradients.by)
