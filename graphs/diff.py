"""What two circuits on equal graphs share, and what only one of them has."""

from __future__ import annotations

from dataclasses import dataclass

from .circuit import Circuit


@dataclass(frozen=True)
class CircuitDiff:
    """Hold two circuits on equal graphs.

    Raises:
        GraphMismatch: the graphs differ; the message says in what.
    """

    a: Circuit
    b: Circuit

    def __post_init__(self) -> None:
        self.a & self.b  # noqa: B018  (refuses unequal graphs)

    @property
    def shared(self) -> Circuit:
        """Keep the edges both have."""
        return self.a & self.b

    @property
    def only_a(self) -> Circuit:
        """Keep the edges only A has."""
        return self.a - self.b

    @property
    def only_b(self) -> Circuit:
        """Keep the edges only B has."""
        return self.b - self.a
