"""Adam (Kingma and Ba 2015), in float64 on the processor, so that it is one for every engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

FIRST, SECOND, LEAST = 0.9, 0.99, 1e-8
"""Decay of the mean slope and of the mean squared slope (shorter than the usual .999, as trainings
are), and what is added to its root."""

PARTS = ("at", "first", "second")

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Adam:
    """Parameters by name, and for each the decaying mean of slopes and of their squares."""

    parameters: Arrays
    first: Arrays
    second: Arrays
    done: int = 0

    @staticmethod
    def begin(parameters: Mapping[str, np.ndarray]) -> Adam:
        """Return the state before the first step.

        >>> begun, slopes = Adam.begin({"x": np.ones(2)}), {"x": np.array([3.0, 0.0])}
        >>> begun.step(slopes, {"x": 0.5}).parameters
        {'x': array([0.5, 1. ])}
        """
        at = {key: value.astype(np.float64) for key, value in parameters.items()}
        first, second = ({key: np.zeros_like(x) for key, x in at.items()} for _ in range(2))
        return Adam(at, first, second)

    def step(self, slopes: Mapping[str, np.ndarray], rates: Mapping[str, float]) -> Adam:
        """Go down the slopes, at a rate each; up, where a rate is below 0."""
        done = self.done + 1
        at, first, second = Arrays(), Arrays(), Arrays()
        for key, slope in slopes.items():
            first[key] = FIRST * self.first[key] + (1 - FIRST) * slope
            second[key] = SECOND * self.second[key] + (1 - SECOND) * slope**2
            mean, square = first[key] / (1 - FIRST**done), second[key] / (1 - SECOND**done)
            at[key] = self.parameters[key] - rates[key] * mean / (np.sqrt(square) + LEAST)
        return Adam(at, first, second, done)

    def arrays(self) -> Arrays:
        """Return everything, for a checkpoint."""
        parts = zip(PARTS, (self.parameters, self.first, self.second), strict=True)
        return {f"{part}.{key}": x for part, own in parts for key, x in own.items()}

    @staticmethod
    def of(arrays: Mapping[str, np.ndarray], keys: Sequence[str], done: int) -> Adam:
        """Return the state that arrays of a checkpoint are of."""
        at, first, second = ({key: arrays[f"{part}.{key}"] for key in keys} for part in PARTS)
        return Adam(at, first, second, done)
