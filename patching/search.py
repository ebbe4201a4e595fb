"""Searching: ask what ablating more edges of one port would do to the loss, then keep the answer.

Discovery algorithms that decide edge by edge talk to this interface only, so that a faster runner
can take the dense one's place.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

from ..errors import EdgewiseError
from ..graphs.circuit import Circuit

if TYPE_CHECKING:
    import numpy as np

    from .runner import Runner


class Search(Protocol):
    """Hold a current circuit and its loss, and answer questions about smaller ones."""

    questions: int
    loss: float

    @property
    def kept(self) -> np.ndarray:
        """Return the current circuit's mask, bool [ports, senders]."""
        ...

    def ask(self, row: int, candidates: np.ndarray) -> np.ndarray:
        """Return the loss if the edges of one port were ablated too.

        Args:
            row: the port.
            candidates: bool [n, senders], the edges each question ablates.
        """
        ...

    def commit(self, row: int, ablated: np.ndarray, loss: float | None = None) -> None:
        """Ablate edges of a port, bool [senders]; `loss` is what `ask` said, None: unchanged."""
        ...


class DenseSearch:
    """Answer each question by a run that restarts at the first changed layer.

    Raises:
        EdgewiseError: the full model's loss is not finite.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._kept = runner.graph.reads.copy()
        self._touched = len(runner.graph.ports)  # the first port that has lost an edge
        self.questions = 0
        self.loss = runner.loss(Circuit.full(runner.graph))
        if not math.isfinite(self.loss):
            raise EdgewiseError(
                f"the metric '{runner.metric.name}' is {self.loss} for the full model, so no "
                "change of it can be measured; accepted: a metric that is finite on every prompt."
            )

    @property
    def kept(self) -> np.ndarray:
        """Return the current circuit's mask, bool [ports, senders]."""
        return self._kept

    def ask(self, row: int, candidates: np.ndarray) -> np.ndarray:
        """Return the loss if the edges of one port were ablated too, [n]."""
        masks = self._kept[None].repeat(len(candidates), axis=0)
        masks[:, row] &= ~candidates
        self.questions += len(candidates)
        return self._runner.mask_losses(masks, start_row=min(row, self._touched))

    def commit(self, row: int, ablated: np.ndarray, loss: float | None = None) -> None:
        """Ablate edges of a port."""
        self._kept[row] &= ~ablated
        self._touched = min(row, self._touched)
        if loss is not None:
            self.loss = loss
