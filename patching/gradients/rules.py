"""Gradient rules: what a backward pass takes for the derivative of a model's parts.

A rule changes the backward pass alone. What runs compute, and so Δ = a_u − o_u and signs, stays.

* Norms: the factor 1/std is a constant, so that y = x·const(1/std) (a norm that centres still
  takes the mean off).
* Activations of MLPs: the secant slope act(t)/t instead of act'(t); of one whose value at 0 is
  not 0, for which the secant has no bound, the derivative stays.
* Products of two computed factors (gate and up, an expert and its router's weight, a head and its
  output gate): each factor gets half of its derivative.
* Attention patterns: with p̃ = softmax(s/T) the gradient at scores s is p̃ ∘ (g − Σ p̃ g), without
  the factor 1/T of the chain rule; or patterns are constants.
* Gradients into queries and keys, and into values, are multiplied by a factor.

No rule is better than the derivative at the effects of single edges where that was measured, but
for the one edge that goes through a saturated part; see docs/explanation.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...graphs.errors import EdgewiseError
from ..registries import look_up


@dataclass(frozen=True)
class GradientRule:
    """A rule: what differs from derivatives; see the module.

    `source`: the paper. `chooses_patterns`: the option `qk` may take patterns for constants.
    """

    name: str
    summary: str
    source: str = ""
    constant_norms: bool = False
    secant: bool = False
    halves: bool = False
    constant_patterns: bool = False
    chooses_patterns: bool = False
    temperature: float = 1.0
    queries_and_keys: float = 1.0
    values: float = 1.0


DERIVATIVE = GradientRule("gradient", "the derivative")

RULES = {
    rule.name: rule
    for rule in (
        DERIVATIVE,
        GradientRule(
            "relp",
            "norms constant, secant slopes of activations, products halved",
            "Jafari et al. 2025",
            constant_norms=True,
            secant=True,
            halves=True,
            chooses_patterns=True,
        ),
        GradientRule(
            "gim",
            "norms constant, products halved, softmax at temperature 2, less into q, k, v",
            "Edin et al. 2025, and its authors' code, which halves the product of gated MLPs",
            constant_norms=True,
            halves=True,
            temperature=2.0,
            queries_and_keys=0.25,
            values=0.5,
        ),
    )
}
"""The rules by name, the default first."""

DERIVED, CONSTANT = "derivative", "zero"
QK = {
    DERIVED: "queries and keys have gradients",
    CONSTANT: "attention patterns are constants, as in the paper",
}
"""What becomes of queries and keys under a rule that leaves it open, the default first."""


def rule_of(name: str, qk: str = DERIVED) -> GradientRule:
    """Return a rule by name, with patterns as `qk` says.

    >>> rule_of("relp").halves, rule_of("relp", "zero").constant_patterns
    (True, True)
    """
    rule = look_up("rule", name, RULES)
    look_up("qk", qk, QK)
    if qk == DERIVED:
        return rule
    if not rule.chooses_patterns:
        able = " or ".join(one.name for one in RULES.values() if one.chooses_patterns)
        raise EdgewiseError(
            f"qk is {qk}, which rule '{name}' does not have; accepted: qk {DERIVED}, or rule "
            f"{able}."
        )
    return replace(rule, constant_patterns=True)
