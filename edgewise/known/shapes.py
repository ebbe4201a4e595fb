"""Which model a circuit is planted in."""

from __future__ import annotations

from dataclasses import dataclass

from ..graphs.calls.typed import typed
from ..graphs.errors import EdgewiseError
from ..graphs.graph import ComputationGraph

ARCHITECTURES = ("gpt2", "llama")
"""What can be made."""

OWN = 4
"""Coordinates that a head or MLP writes; the embedding has twice as many."""


@typed
@dataclass(frozen=True)
class PlantedShape:
    """What model is made: its architecture, and how large it is.

    `kv_heads`: key/value heads of a layer, each shared by as many query heads; 0: one each.
    `width`: of the stream; 0: as narrow as every sender's own coordinates allow.
    """

    architecture: str = "gpt2"
    layers: int = 2
    heads: int = 2
    kv_heads: int = 0
    vocabulary: int = 64
    positions: int = 64
    width: int = 0

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise EdgewiseError(
                f"no circuit can be planted in '{self.architecture}'; accepted: "
                f"{' or '.join(ARCHITECTURES)}."
            )
        if self.kv_heads not in (0, self.heads) and self.architecture == "gpt2":
            raise EdgewiseError(
                f"gpt2 has as many key/value heads as heads, {self.heads}, not {self.kv_heads}; "
                "accepted: kv_heads 0, or architecture llama."
            )
        least = self.least_width
        if self.width and (self.width < least or self.width % (2 * self.heads)):
            raise EdgewiseError(
                f"a stream of width {self.width} does not hold the coordinates of "
                f"{self.layers * (self.heads + 1)} senders; accepted: multiples of "
                f"{2 * self.heads} from {least} up, or 0."
            )

    @property
    def graph(self) -> ComputationGraph:
        """Return the computation graph of the model."""
        return ComputationGraph(self.layers, self.heads, self.kv_heads)

    @property
    def least_width(self) -> int:
        """Count the coordinates that are needed, up to a multiple of twice the heads."""
        needed = 2 + OWN * (2 + self.layers * (self.heads + 1))
        return -(-needed // (2 * self.heads)) * 2 * self.heads

    @property
    def d_model(self) -> int:
        """Return the width of the stream."""
        return self.width or self.least_width
