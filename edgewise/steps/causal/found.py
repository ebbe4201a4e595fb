"""What was found of a model's heads and MLPs causally, as values and as plain rows of a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from ...graphs.names import Node
from .evidence import Effect, Evidence
from .rules import CAUSAL_ROLES, CONTROL, LEAST_SHARE, LEAST_WEIGHT, LEVEL, NEAREST

DIGITS = 6
"""Digits behind the point that files keep."""


@dataclass(frozen=True)
class Label:
    """A role that a head has by what was found on one or two sides.

    `seen`: the evidence of the pairs it was found on and, if any are held out, of those.
    """

    role: str
    way: str
    pattern: str
    seen: tuple[Evidence, ...]

    @property
    def confirmed(self) -> bool:
        """Tell whether everything holds on all sides."""
        return all(one.holds for one in self.seen)

    @property
    def evidence(self) -> Evidence:
        """Return that of the held-out pairs, if there are any."""
        return self.seen[-1]

    def as_dict(self) -> dict[str, object]:
        """Return everything as plain values."""
        sides = dict(zip(("in_sample", "held_out"), self.seen, strict=False))
        found = {name: rounded(one.as_dict()) for name, one in sides.items()}
        about = {"role": self.role, "way": self.way, "pattern": self.pattern}
        return {**about, "confirmed": self.confirmed, **found}


@dataclass(frozen=True)
class NodeFound:
    """What was measured of one sender.

    `attention`: of a head, from each span to each. `patterns`: its weight by each relation.
    `effects`: by way and side; None where no edge leads that way.
    """

    node: Node
    attention: Mapping[str, Mapping[str, float]]
    patterns: Mapping[str, float]
    effects: Mapping[str, Mapping[str, Effect | None]]
    labels: tuple[Label, ...] = ()

    @property
    def roles(self) -> list[str]:
        """List the roles that hold on all sides."""
        return list(dict.fromkeys(label.role for label in self.labels if label.confirmed))

    def effect(self, way: str) -> Effect | None:
        """Return the effect along a way, on held-out pairs if there are any."""
        return list(self.effects[way].values())[-1]

    def as_dict(self) -> dict[str, object]:
        """Return everything as plain values."""
        effects = {
            way: {side: None if one is None else asdict(one) for side, one in sides.items()}
            for way, sides in self.effects.items()
        }
        return {
            "node": str(self.node),
            "roles": self.roles,
            "patterns": rounded(self.patterns),
            "attention": rounded(self.attention),
            "effects": rounded(effects),
            "evidence": [label.as_dict() for label in self.labels],
        }


@dataclass(frozen=True)
class SideFound:
    """How large a set of prompts is, and the model's mean loss on it, in full and without edges.

    `control`: the same of the prompts whose corruption leaves the answer; None if there are none.
    """

    examples: int
    groups: int
    loss_full: float
    loss_empty: float
    control: Mapping[str, float] | None = None


@dataclass(frozen=True, eq=False)
class CausalRoles:
    """What was measured of all senders of a model, in graph order.

    `sides`: the pairs that roles were found on and those held out. `ways`: whose effects were
    measured. `receivers`: the heads of each role, through which later ways lead.
    """

    nodes: tuple[NodeFound, ...] = field(repr=False)
    metric: str
    ablation: str
    sides: Mapping[str, SideFound]
    spans: tuple[str, ...]
    ways: tuple[str, ...]
    receivers: Mapping[str, list[str]]
    notes: tuple[str, ...]
    seed: int = 0

    def __getitem__(self, node: str) -> NodeFound:
        return next(one for one in self.nodes if str(one.node) == node)

    @property
    def gap(self) -> float:
        """Return by how much the loss rises without any edge, on held-out pairs if there are."""
        last = list(self.sides.values())[-1]
        return last.loss_empty - last.loss_full

    def as_dict(self) -> dict[str, object]:
        """Return everything as plain values, with a row for each sender."""
        rules = [
            {"role": one.name, "pattern": one.pattern, "ways": [str(way) for way in one.ways],
             "sign": one.sign, "unless": list(one.unless)}
            for one in CAUSAL_ROLES
        ]  # fmt: skip
        limits = {
            "weight": LEAST_WEIGHT,
            "share": LEAST_SHARE,
            "null": LEVEL,
            "nearest": NEAREST,
            "control": CONTROL,
        }
        return {
            **{key: getattr(self, key) for key in ("metric", "ablation", "seed")},
            "limits": limits, "rules": rules,
            "sides": {name: asdict(side) for name, side in self.sides.items()},
            "spans": list(self.spans), "ways": list(self.ways),
            "receivers": {role: list(heads) for role, heads in self.receivers.items()},
            "notes": list(self.notes),
            "nodes": [node.as_dict() for node in self.nodes],
        }  # fmt: skip


def rounded(value: object) -> object:
    """Round the numbers of plain values.

    >>> rounded({"a": [0.12345678, 1], "b": None})
    {'a': [0.123457, 1], 'b': None}
    """
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, Mapping):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    return value
