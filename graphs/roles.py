"""What was measured of heads, and the short names that go with large enough values.

A name such as "induction" says that a measured value passes a stated threshold, on stated inputs.
It is not a proof of what a head does, nor that it does nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypedDict, cast

from .calls.typed import typed
from .errors import EdgewiseError
from .names import Kind, Node

ON_TOKENS = ("previous", "duplicate", "induction")
"""What is measured on random tokens: mean attention weights, 0 to 1."""

ON_TASK = ("copy", "anti_copy", "attended", "direct", "direct_share")
"""What is measured at the answer position of a task's clean prompts."""

SCORES = (*ON_TOKENS, *ON_TASK)

SPANS = ("first", "answer", "distractor", "changed", "last", "rest")
"""What a prompt's positions are divided into; each has the first of these that fits, `last` first
after `first`."""


ROUNDING = 1e-6
"""A value that misses its threshold by less reaches it: shares and weights are float32 means."""


@dataclass(frozen=True)
class RoleRule:
    """When a head gets a name: `score` from `threshold` up, and |direct_share| from `share` up."""

    score: str
    threshold: float
    share: float = 0.0


RULES: Mapping[str, RoleRule] = MappingProxyType(
    {
        "previous token": RoleRule("previous", 0.4),
        "duplicate token": RoleRule("duplicate", 0.4),
        "induction": RoleRule("induction", 0.4),
        "copying": RoleRule("copy", 0.5, 0.02),
        "copy suppression": RoleRule("anti_copy", 0.5, 0.02),
    }
)
"""The names that heads can get, and what for."""


@dataclass(frozen=True)
class HeadRoles:
    """What was measured of one head.

    `scores` has all keys of `SCORES`, `spans` (attention weights from the answer position, which
    sum up to 1) all of `SPANS`; None is what was not measured or does not exist.

    >>> head = HeadRoles.of("a5.h1", {"previous": 0.1, "induction": 0.912})
    >>> head.roles, head.label
    ((('induction', 0.912),), 'induction .91')
    """

    node: Node
    scores: Mapping[str, float | None]
    spans: Mapping[str, float | None]

    @staticmethod
    def of(
        name: str | Node,
        scores: Mapping[str, float | None],
        spans: Mapping[str, float | None] | None = None,
    ) -> HeadRoles:
        """Fill up what is missing with None."""
        node = Node.parse(name) if isinstance(name, str) else name
        if node.kind is not Kind.HEAD:
            raise EdgewiseError(f"{node} is no attention head; accepted: names such as a5.h1.")
        return HeadRoles(
            node,
            {key: scores.get(key) for key in SCORES},
            {key: (spans or {}).get(key) for key in SPANS},
        )

    @property
    def roles(self) -> tuple[tuple[str, float], ...]:
        """List the names that the head gets with their scores, the largest first."""
        found = []
        for name, rule in RULES.items():
            value, share = self.scores[rule.score], self.scores["direct_share"]
            matters = not rule.share or (share is not None and abs(share) >= rule.share - ROUNDING)
            if value is not None and value >= rule.threshold - ROUNDING and matters:
                found.append((name, value))
        return tuple(sorted(found, key=lambda one: -one[1]))

    @property
    def role(self) -> str | None:
        """Return the name with the largest score; None if there is none."""
        return self.roles[0][0] if self.roles else None

    @property
    def label(self) -> str:
        """Return all names with their scores, such as 'induction .91, copying .75'; or ''."""
        return self.named()

    def named(self, most: int | None = None) -> str:
        """Return the label with at most so many names, the largest scores first; default: all."""
        return ", ".join(f"{name} {short(value)}" for name, value in self.roles[:most])

    def depth(self, layers: int) -> float:
        """Return the relative depth: 0 in the first of so many layers, 1 in the last."""
        assert self.node.layer is not None
        return self.node.layer / (layers - 1) if layers > 1 else 0.0

    def as_dict(self, layers: int) -> dict[str, object]:
        """Return everything as plain values."""
        return {
            "head": str(self.node),
            "depth": round(self.depth(layers), 4),
            "role": self.role,
            "label": self.label,
            "roles": [list(one) for one in self.roles],
            "scores": dict(self.scores),
            "spans": dict(self.spans),
        }


def short(value: float) -> str:
    """Write a value between -1 and 1 in few letters.

    >>> short(0.912), short(1.0), short(-0.5)
    ('.91', '1.00', '-.50')
    """
    return f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 0.995 else f"{value:.2f}"


@dataclass(frozen=True, eq=False)
class ModelRoles:
    """What was measured of a model's heads, or of those of a circuit, in graph order.

    `model`, `task`: the blocks of circuit files. `tokens`: how the random tokens were made.
    `measures`: of the whole model on the task. `circuit`: its file, if these are its heads.
    `notes`: what limits the values, in sentences. `causal`: what all senders cause, as
    `edgewise.steps.causal` measures it, as plain values; None if that was not asked for.
    """

    heads: tuple[HeadRoles, ...] = field(repr=False)
    model: Mapping[str, object]
    tokens: Mapping[str, object]
    task: Mapping[str, object] | None = None
    measures: Mapping[str, float] = field(default_factory=dict)
    circuit: str | None = None
    notes: tuple[str, ...] = ()
    causal: Mapping[str, object] | None = None

    @property
    def layers(self) -> int:
        """Return the number of the model's layers."""
        return cast("int", self.model["layers"])  # read and made so

    @property
    def total(self) -> int:
        """Return the number of all the model's heads."""
        return self.layers * cast("int", self.model["heads"])

    @property
    def rows(self) -> list[dict[str, object]]:
        """Return a plain row for each head."""
        return [head.as_dict(self.layers) for head in self.heads]

    @property
    def labels(self) -> dict[str, str]:
        """Map the names of heads that have a role to their labels, for tables and pictures."""
        return labels(self.heads)

    def with_role(self, role: str | None) -> list[HeadRoles]:
        """List the heads that have a role among theirs; None: those without any."""
        return [head for head in self.heads if role in (dict(head.roles) or {None})]


@typed
def labels(heads: Iterable[HeadRoles], *, most: int | None = None) -> dict[str, str]:
    """Map heads to short labels of at most so many names; heads without a role are left out.

    >>> labels([HeadRoles.of("a5.h1", {"induction": 0.91, "previous": 0.75})], most=1)
    {'a5.h1': 'induction .91'}
    """
    return {str(head.node): head.named(most) for head in heads if head.roles}


# -- comparing ----------------------------------------------------------------------------------

MOST_APART = 0.1
"""Heads of two models match if their relative depths differ by at most this."""


def matches(a: Sequence[float], b: Sequence[float], apart: float = MOST_APART) -> int:
    """Count the most pairs, one of each list, whose values differ by at most `apart`.

    >>> matches([0.0, 0.5, 1.0], [0.45, 0.55])
    1
    """
    left, right, found = sorted(a), sorted(b), 0
    while left and right:
        if abs(left[0] - right[0]) <= apart + 1e-9:
            left, right, found = left[1:], right[1:], found + 1
        elif left[0] < right[0]:
            left = left[1:]
        else:
            right = right[1:]
    return found


class RoleRow(TypedDict):
    """Which heads of several models have one role; None: no role.

    `heads`: a list for each model with names and relative depths. `matched`: for each model how
    many of its heads match one of the first model's, at about the same relative depth.
    """

    role: str | None
    heads: list[list[tuple[str, float]]]
    matched: list[int]


@typed
def compare_roles(sides: Sequence[ModelRoles]) -> list[RoleRow]:
    """Put the heads of several models, of any shapes, side by side by the roles that occur."""
    found: list[RoleRow] = []
    for role in (*RULES, None):
        heads = [
            [(str(head.node), head.depth(side.layers)) for head in side.with_role(role)]
            for side in sides
        ]
        if any(heads):
            depths = [[depth for _, depth in some] for some in heads]
            named = [[(name, round(depth, 4)) for name, depth in some] for some in heads]
            matched = [matches(depths[0], some) for some in depths]
            found.append({"role": role, "heads": named, "matched": matched})
    return found
