"""Which methods are held against each other, and what is measured of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...discovery.registry import Method, get_method
from ...graphs.calls.typed import typed
from ...graphs.circuit import Circuit
from ...graphs.errors import EdgewiseError
from ...graphs.levels.nodes import EDGE
from ...graphs.scores import Scores

SIZES, DRAWN, TOP = (50, 200, 1000), 300, 100
NODE_SIZES, NODE_TOP = (10, 30, 100), 20
"""Of nodes, of which there are fewer."""

METRIC = "metric"
"""What is written before the metric of one method alone."""


@typed
@dataclass(frozen=True)
class AskedMethod:
    """A method with options, written as `eap-ig:steps=10`.

    `metric`: by which it scores or searches, written `acdc:metric=kl`; default: by the one that
    all are measured by.

    >>> AskedMethod.parse("eap-ig:steps=10").options["steps"]
    10
    """

    label: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    metric: str | None = None

    @staticmethod
    @typed
    def parse(text: str) -> AskedMethod:
        """Read what is typed; an EdgewiseError says which methods or options there are."""
        name, *given = text.strip().split(":")
        method, options, metric = get_method(name), {}, None
        for one in given:
            key, equals, value = one.partition("=")
            if not equals:
                raise EdgewiseError(
                    f"'{one}' of '{text}' is no option; accepted: NAME=VALUE, with NAME one of "
                    f"{', '.join([*method.options, METRIC])}."
                )
            if key == METRIC:
                metric = value
            else:
                options[key] = _value(method, key, value)
        options = method.check(options) if options else {}
        return AskedMethod(text.strip(), name, options, metric)

    @property
    def chosen(self) -> Method:
        """Return the registered method."""
        return get_method(self.method)


@typed
@dataclass(frozen=True, eq=False)
class GivenScores:
    """Scores that are there already, such as another tool's, judged as a method's are."""

    label: str
    scores: Scores


@typed
@dataclass(frozen=True, eq=False)
class FoundMethod:
    """What a method found, at what cost: seconds of processors, bytes above what stood before.

    `circuit`: of a search, the one that it chose; `alike`: how alike circuits of resampled prompts
    are. None: not told.
    """

    label: str
    scores: Scores
    circuit: Circuit | None = None
    seconds: float | None = None
    peak: int | None = None
    alike: float | None = None

    @property
    def ranks(self) -> bool:
        """Tell whether every edge has a score, so that circuits of any size can be chosen by it."""
        return not np.isnan(self.scores.values[self.scores.graph.reads]).any()


def _value(method: Method, key: str, text: str) -> object:
    """Return an option's value as its type; what cannot be read is left to `check`."""
    kind = method.options[key].type if key in method.options else str
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        return kind(text)
    except ValueError:
        return text


@typed
@dataclass(frozen=True)
class Asking:
    """What is measured of each method.

    `sizes`: of how many strongest edges; default: of `SIZES`, or `NODE_SIZES`, those that the graph
    has. `drawn`: about how many random edges exact questions are asked, beside each method's `top`
    strongest (default `TOP`, or `NODE_TOP`); of nodes all are asked; 0: none at all. `draw_seed`:
    which these are.
    """

    sizes: tuple[int, ...] | None = None
    drawn: int = DRAWN
    top: int | None = None
    draw_seed: int = 0

    @typed
    def at(self, level: str, units: int) -> tuple[tuple[int, ...], int]:
        """Return the sizes and the `top` of a level at which so many have a score."""
        usual, top = (SIZES, TOP) if level == EDGE else (NODE_SIZES, NODE_TOP)
        sizes = tuple(size for size in usual if size <= units) if self.sizes is None else self.sizes
        return sizes, top if self.top is None else self.top
