"""What must hold for a head to get a role, and by how much it does.

On a set of prompt pairs, for a head and a role's way:

1. Its mean attention by the role's pattern is `LEAST_WEIGHT` or more.
2. Its effect is `LEAST_SHARE` of the loss between all edges and none, or more.
3. The 95% interval of its effect, by template (see `uncertainty.bootstrap`), lies on the role's
   side of 0.
4. The effect is beyond the `LEVEL` quantile of the null: the effects, on the role's side, of
   `NEAREST` heads of the nearest layers that have no pattern of any role with this way; of the last
   layer needed so many are drawn. So no candidate is another's null; of fewer than 20 heads it must
   exceed all.
5. The same way's effect on prompts whose corruption leaves the answer the same (`same_answer`) is
   at most a share `CONTROL` of it in size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from ...discovery.uncertainty.bootstrap import mean_estimate
from ...graphs.names import Node
from .rules import CONTROL, LEAST_SHARE, LEAST_WEIGHT, LEVEL, NEAREST


@dataclass(frozen=True)
class Effect:
    """A mean effect in units of the loss, with its 95% interval; None for one that is too small."""

    mean: float
    interval: tuple[float, float] | None

    @staticmethod
    def of(values: np.ndarray, clusters: np.ndarray, gap: float) -> Effect:
        """Return the mean of values per example; `gap`: the loss between all edges and none."""
        mean = float(values.mean())
        large = abs(mean) >= LEAST_SHARE * abs(gap)
        return Effect(mean, mean_estimate(values, clusters).interval if large else None)

    def beyond_zero(self, sign: int) -> bool:
        """Tell whether it is large enough and the whole interval lies on one side of 0."""
        ends = self.interval
        return ends is not None and min(sign * ends[0], sign * ends[1]) > 0


@dataclass(frozen=True)
class Evidence:
    """What one set of prompts says of a head in a role.

    `null`: the quantile that the effect must exceed, on the role's side; `compared`: of how many
    heads. `control`: the mean effect where the answer stays the same; None if it was not measured.
    """

    weight: float
    effect: Effect
    sign: int
    null: float | None
    compared: int
    control: float | None = None

    @property
    def likely(self) -> bool:
        """Tell whether all holds but, maybe, the control."""
        beyond = self.null is not None and self.sign * self.effect.mean > self.null
        return self.weight >= LEAST_WEIGHT and self.effect.beyond_zero(self.sign) and beyond

    @property
    def holds(self) -> bool:
        """Tell whether all holds; a control that cannot be made stands in no one's way."""
        control = 0.0 if self.control is None else abs(self.control)
        return self.likely and control <= CONTROL * abs(self.effect.mean)

    def as_dict(self) -> dict[str, object]:
        """Return everything as plain values."""
        return {**asdict(self), "holds": self.holds}


def nearest(
    head: Node, weights: np.ndarray, able: Sequence[Node], seed: int = 0, number: int = NEAREST
) -> list[Node]:
    """Return the nearest heads without a pattern, by layers, of those that are able to act.

    `weights`: of the pattern, or the largest of several, [layers, heads].

    >>> some = [Node.parse(f"a{layer}.h{i}") for layer in range(3) for i in range(2)]
    >>> weights = np.array([[0, 0], [0.9, 0], [0, 0.5]])
    >>> [str(one) for one in nearest(some[2], weights, some, number=1)]
    ['a1.h1']
    """
    others = [node for node in able if node != head and weights[place(node)] < LEAST_WEIGHT]
    apart = {node: abs((node.layer or 0) - (head.layer or 0)) for node in others}
    found: list[Node] = []
    for distance in sorted(set(apart.values())):
        some = [node for node in others if apart[node] == distance]
        room = number - len(found)
        if len(some) > room:
            drawn = np.random.default_rng(seed).permutation(len(some))[:room]
            some = [some[i] for i in sorted(drawn)]
        found += some
        if len(found) == number:
            break
    return found


def quantile(values: Sequence[float], level: float = LEVEL) -> float | None:
    """Return the least of values that at least a share `level` of them do not exceed.

    >>> quantile(range(1, 21)), quantile([3, 1]), quantile([])
    (19, 3, None)
    """
    ordered = sorted(values)
    return ordered[math.ceil(level * len(ordered) - 1e-9) - 1] if ordered else None


def place(head: Node) -> tuple[int, int]:
    """Return a head's place in [layers, heads]."""
    assert head.layer is not None and head.index is not None
    return head.layer, head.index
