"""Hard concrete gates (Louizos, Welling and Kingma 2018): random numbers in [0, 1], often 0 or 1.

A gate with parameter α draws u from (0, 1), stretches s = σ((log u − log(1 − u) + log α)/β) to
(γ, ζ), an interval a little wider than [0, 1], and is what of that lies in [0, 1]. So it is 0 and 1
with probabilities that have slopes in log α, and in between it passes a gradient on.
"""

from __future__ import annotations

import math

import numpy as np

BETA, LOW, HIGH = 2 / 3, -0.1, 1.1
"""Temperature β, and the ends γ and ζ that s is stretched to; as in all papers that use them."""

NEAREST = 1e-6
"""How near to 0 and 1 a draw may be."""

SHUT = BETA * math.log(-LOW / HIGH)
"""The log α at which a gate is as likely shut as not."""

BEGIN = 3.0
"""Where log α begins: a gate is open, or nearly, in 99 of 100 draws."""


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Return 1/(1 + exp(−x)), without overflow."""
    found: np.ndarray = 0.5 * (1 + np.tanh(0.5 * x))
    return found


def draw_uniform(draw: np.random.Generator, count: int) -> np.ndarray:
    """Draw what gates are made of."""
    return draw.uniform(NEAREST, 1 - NEAREST, count)


def gates_of(log_alpha: np.ndarray, uniform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return gates, and their slopes in log α, at some draws.

    >>> [x.round(3).tolist() for x in gates_of(np.array([-9.0, 0.0, 9.0]), np.full(3, 0.5))]
    [[0.0, 0.5, 1.0], [0.0, 0.45, 0.0]]
    """
    s = sigmoid((np.log(uniform) - np.log1p(-uniform) + log_alpha) / BETA)
    stretched = s * (HIGH - LOW) + LOW
    inside = (stretched > 0) & (stretched < 1)
    return np.clip(stretched, 0, 1), np.where(inside, s * (1 - s) * (HIGH - LOW) / BETA, 0.0)


def chance_open(log_alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability that a gate is not 0, and its slope in log α."""
    chance = sigmoid(log_alpha - SHUT)
    return chance, chance * (1 - chance)


def rank_of(log_odds: np.ndarray) -> np.ndarray:
    """Return −log P(shut) of the log-odds that a gate is open: never below 0, in the same order.

    >>> rank_of(np.array([-40.0, 0.0, 40.0])).round(3).tolist()
    [0.0, 0.693, 40.0]
    """
    found: np.ndarray = np.logaddexp(0.0, log_odds)
    return found
