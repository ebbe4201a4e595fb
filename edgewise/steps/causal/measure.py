"""Measure roles causally: patterns, effects by path patching, a null, a control, held-out prompts.

1. Measure the attention of all heads between named parts of the clean prompts, and their patterns.
2. For each role, in order, measure the effects of all senders along its ways: edges into `logits`,
   or into inputs of the heads that have an earlier role, and from there along those heads' ways.
3. Of the heads for which pattern, interval and null hold (see `evidence`), measure the same on
   prompts whose corruption leaves the answer the same.
4. A head gets the role if all of it holds on the discovery's pairs and again on those held out.

Shapes: S senders, layers and H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ...graphs.calls.typed import typed
from ...graphs.errors import GraphMismatch, within_memory
from ...graphs.example_scores import clusters_of
from ...graphs.names import Kind, Node
from ...patching.prompts.answers import token_by_token
from ...patching.prompts.pairs import Pair, PromptPairs
from ...patching.prompts.splits import PromptSplit
from ...progress import Progress, named
from ...session import Session, make_runner
from .evidence import Effect, Evidence, nearest, place, quantile
from .found import CausalRoles, Label, NodeFound, SideFound
from .rules import CAUSAL_ROLES, LEAST_WEIGHT, CausalRole, Way
from .same_answer import same_answer
from .ways import Roles

if TYPE_CHECKING:
    from ...patching.heads.attended import Attended
    from ...patching.run.runner import Runner

SIDES = ("in_sample", "held_out")


@typed
@within_memory()
def causal_roles(
    session: Session,
    pairs: PromptSplit | PromptPairs,
    *,
    metric: str | None = None,
    ablation: str | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> CausalRoles:
    """Measure what all heads and MLPs cause along which ways, and give heads roles.

    Args:
        pairs: those that roles are found on and, of a split, those that they must hold on again.
        metric, ablation, batch_size: as of `make_runner`.
        seed: which heads are drawn for the null.

    Raises:
        GraphMismatch: heads do not write to the stream, or the model has none.
        PromptError: pairs do not fit the model, metric or ablation.
    """
    split = pairs if isinstance(pairs, PromptSplit) else PromptSplit(pairs)
    graph = session.graph
    if graph.post_norm or not any(graph.heads_of(layer) for layer in range(graph.layers)):
        raise GraphMismatch(
            f"causal roles are effects of heads' own edges, and the model has {graph.describe()}, "
            "in which no edge leads from a head to the logits; accepted: models whose heads write "
            "to the stream (what heads of the others attend to and write, `head_roles` measures)."
        )
    given = [split.discovery] if split.test is None else [split.discovery, split.test]
    given = [token_by_token(one.at_spans(())) for one in given]
    every = tuple(pair for one in given for pair in one)
    runners = [
        make_runner(session, one, metric=metric, ablation=ablation, batch_size=batch_size)
        for one in given
    ]
    sides = [
        _Side(runner, named(progress, name), every)
        for runner, name in zip(runners, ("found on", "held out"), strict=False)
    ]
    return _Measuring(Roles(graph), sides, seed).run()


@dataclass
class _Side:
    """One set of prompts, what was measured on it, and the same with the answer left as it is.

    `others`: pairs whose tokens may be put into its prompts for that.
    """

    runner: Runner
    progress: Progress
    others: tuple[Pair, ...] = ()
    known: dict[Way, np.ndarray] = field(default_factory=dict)

    @cached_property
    def attention(self) -> Attended:
        from ...patching.heads.attended import attention

        return attention(self.runner.model, self.runner.pairs, self.progress)

    @cached_property
    def clusters(self) -> np.ndarray:
        return clusters_of(self.runner.pairs.groups)

    @cached_property
    def control(self) -> _Side | None:
        """Return the same with prompts in place of the corrupted ones that leave the answer."""
        if not self.runner.ablation.paired:
            return None
        pairs = same_answer(self.runner.pairs, self.others)
        if pairs is None:
            return None
        from ...patching.run.runner import Runner

        runner = Runner.create(
            self.runner.model, pairs, metric=self.runner.metric, ablation=self.runner.ablation,
            batch_size=self.runner.batch_size,
        )  # fmt: skip
        return _Side(runner, named(self.progress, "control"))

    def effects(self, roles: Roles, way: Way, starts: Sequence[Node]) -> np.ndarray:
        """Return each example's effect of senders along a way, [starts, examples]; NaN: no way."""
        from ...patching.heads.routes import direct_effects, route_effects

        if way.cut is not None:
            cut = roles.heads(way.cut)
            both = direct_effects(self.runner, starts, cut), direct_effects(self.runner, starts)
            gain = both[0] - both[1]
            gain[[start in cut for start in starts]] = np.nan
            return np.asarray(gain)
        routes = [roles.route(start, way) for start in starts]
        found = np.full((len(starts), len(self.runner.pairs)), np.nan)
        there = [i for i, route in enumerate(routes) if route is not None]
        chosen = [route for route in routes if route is not None]
        found[there] = route_effects(self.runner, chosen, self.progress)
        return found

    @property
    def gap(self) -> float:
        """Return by how much the loss rises without any edge."""
        full, empty = self.losses
        return empty - full

    @cached_property
    def losses(self) -> tuple[float, float]:
        """Return the mean loss of the full model and with every edge ablated."""
        from ...patching.heads.routes import end_losses

        return end_losses(self.runner)


@dataclass
class _Measuring:
    """Give roles one after another."""

    roles: Roles
    sides: list[_Side]
    seed: int
    labels: dict[Node, list[Label]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def run(self) -> CausalRoles:
        """Measure all ways, and return what was found."""
        from ...patching.heads.attended import RELATIONS

        for role in CAUSAL_ROLES:
            if not all(role.pattern in side.attention.relations for side in self.sides):
                says = RELATIONS[role.pattern].says
                self.notes.append(f"'{role.name}' is not measured: no prompt has attention {says}.")
                continue
            for way in role.ways:
                if way.needs is not None and not self.roles.heads(way.needs):
                    self.notes.append(
                        f"'{role.name}' is not measured by the way '{way}': no head has the role "
                        f"'{way.needs}'."
                    )
                    continue
                self._measure(way)
                self._give(role, way)
        return self._found()

    @property
    def senders(self) -> tuple[Node, ...]:
        """Return all senders of the graph."""
        return self.roles.graph.senders

    def _measure(self, way: Way) -> None:
        for side in self.sides:
            if way not in side.known:
                side.known[way] = side.effects(self.roles, way, self.senders)

    def _give(self, role: CausalRole, way: Way) -> None:
        """Give a role to the heads for which everything holds, on one side after the other."""
        taken = [head for other in role.unless for head in self.roles.heads(other)]
        heads = [node for node in self.senders if node.kind is Kind.HEAD and node not in taken]
        first = self.sides[0].attention.relations[role.pattern]
        heads = [node for node in heads if first[place(node)] >= LEAST_WEIGHT]
        every = {node: [self._evidence(side, role, way, node) for side in self.sides]
                 for node in heads}  # fmt: skip
        likely = [node for node, (found, *_) in every.items() if found is not None and found.likely]
        controls = [self._controls(side, way, likely) for side in self.sides]
        for i, node in enumerate(likely):
            seen = [
                Evidence(one.weight, one.effect, one.sign, one.null, one.compared, control[i])
                for one, control in zip(every[node], controls, strict=True)
                if one is not None
            ]
            label = Label(role.name, str(way), role.pattern, tuple(seen))
            self.labels.setdefault(node, []).append(label)
            if label.confirmed:
                self.roles.give(role.name, node, way)

    def _controls(self, side: _Side, way: Way, heads: list[Node]) -> list[float | None]:
        if not heads or side.control is None:
            return [None] * len(heads)
        return [float(one) for one in side.control.effects(self.roles, way, heads).mean(1)]

    def _evidence(self, side: _Side, role: CausalRole, way: Way, node: Node) -> Evidence | None:
        values, index = side.known[way], self.roles.graph.sender_index
        if np.isnan(values[index[node]]).any():
            return None
        able = [one for one in self.senders
                if one.kind is Kind.HEAD and not np.isnan(values[index[one]]).any()]  # fmt: skip
        patterns = side.attention.relations
        weights = patterns[role.pattern]
        alike = {one.pattern for one in CAUSAL_ROLES if way in one.ways} & patterns.keys()
        largest = np.max([patterns[name] for name in sorted(alike)], axis=0)
        others = nearest(node, largest, able, self.seed)
        null = quantile([role.sign * float(values[index[one]].mean()) for one in others])
        effect = Effect.of(values[index[node]], side.clusters, side.gap)
        return Evidence(float(weights[place(node)]), effect, role.sign, null, len(others))

    def _found(self) -> CausalRoles:
        ways = list(self.sides[0].known)
        nodes = []
        for i, node in enumerate(self.senders):
            effects = {
                str(way): {
                    name: None if np.isnan(side.known[way][i]).any()
                    else Effect.of(side.known[way][i], side.clusters, side.gap)
                    for name, side in zip(SIDES, self.sides, strict=False)
                }
                for way in ways
            }  # fmt: skip
            nodes.append(NodeFound(node, self._attended(node), self._weights(node), effects,
                                   tuple(self.labels.get(node, ()))))  # fmt: skip
        side = self.sides[0]
        measured = {name: _side_found(one) for name, one in zip(SIDES, self.sides, strict=False)}
        return CausalRoles(
            nodes=tuple(nodes), metric=side.runner.metric.name, ablation=side.runner.ablation.name,
            sides=measured, spans=side.attention.spans, ways=tuple(str(way) for way in ways),
            receivers=self.roles.receivers, notes=tuple(self.notes), seed=self.seed,
        )  # fmt: skip

    def _weights(self, node: Node) -> dict[str, float]:
        if node.kind is not Kind.HEAD:
            return {}
        found = self.sides[0].attention.relations
        return {name: float(weights[place(node)]) for name, weights in found.items()}

    def _attended(self, node: Node) -> dict[str, dict[str, float]]:
        """Return the attention from each span to each, where there is any."""
        if node.kind is not Kind.HEAD:
            return {}
        seen = self.sides[0].attention
        between = seen.between[place(node)]
        return {
            a: {b: float(between[i, j]) for j, b in enumerate(seen.spans)
                if not np.isnan(between[i, j])}
            for i, a in enumerate(seen.spans)
        }  # fmt: skip


def _side_found(side: _Side) -> SideFound:
    full, empty = side.losses
    control = side.control
    changed = None
    if control is not None:
        own_full, own_empty = control.losses
        changed = {"examples": float(len(control.runner.pairs)), "loss_full": own_full,
                   "loss_empty": own_empty}  # fmt: skip
    return SideFound(len(side.runner.pairs), len(set(side.clusters.tolist())), full, empty, changed)
