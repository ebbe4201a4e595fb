"""The worst case of a circuit beside its mean: pairings of prompts, and gates chosen against it.

* **Pairings**: each clean prompt is run with corrupted prompts of other pairs too, of as many
  tokens, one answer position and one group (template). The worst pairing is that on which the
  circuit's loss is most above the full model's on the same clean prompt.
* **Gates**: discarded edges are let back in to a degree between 0 (the circuit) and 1, the same on
  all prompts, chosen to raise the circuit's mean loss. A circuit that holds what it is said to hold
  should not be hurt by more of the model.

Both are found by searching, so the true worst case is at least as bad. Source of the first: uit de
Bos and Garriga-Alonso 2024, "Adversarial Circuit Evaluation".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...discovery.evaluation import measured_ends, ratio
from ...discovery.uncertainty.worst import Ascent, ascend, pairings, possible_pairings
from ...graphs.circuit import Circuit
from ...graphs.names import Edge, Node, Port
from ...patching.prompts.pairs import Pair, PromptPairs
from ...progress import SILENT, Progress

if TYPE_CHECKING:
    from ...patching.run.runner import Runner

PAIRINGS = 16
"""With how many corrupted prompts each clean one is run, its own among them."""

STEPS = 10
"""How many gradients are taken from each of the two starts."""

LISTED = 5
"""How many of the worst pairings, and twice as many edges, are told."""


@dataclass(frozen=True)
class WorstPairing:
    """A clean prompt with another pair's corrupted one, by number from 1, and losses there."""

    clean: int
    corrupted: int
    loss_circuit: float
    loss_full: float

    @property
    def excess(self) -> float:
        """Return by how much the circuit's loss is above the model's."""
        return self.loss_circuit - self.loss_full


@dataclass(frozen=True)
class WorstPairings:
    """How much a circuit's loss exceeds the model's over the pairs given, and over other pairings.

    `mean`: of the given ones; `mean_tried`, `quantile_95`, `largest`: of all that were tried.
    """

    tried: int
    possible: int
    mean: float
    mean_tried: float
    quantile_95: float
    largest: float
    worst: tuple[WorstPairing, ...]


@dataclass(frozen=True)
class OpenGate:
    """A discarded edge let back in: to which degree, and what the mean loss falls by without it.

    `fall` is to first order.
    """

    edge: Edge
    gate: float
    fall: float


@dataclass(frozen=True)
class WorstGates:
    """The mean loss under gates of discarded edges that were chosen against the circuit.

    `loss`, `faithfulness`: under the gates found; `opened`: gates of one half or more;
    `loss_opened`: of the circuit with these edges kept, which is a circuit. `gradients`: how many
    were taken. `edges`: those that hurt most.
    """

    loss: float
    faithfulness: float | None
    opened: int
    loss_opened: float
    gradients: int
    edges: tuple[OpenGate, ...]


@dataclass(frozen=True)
class WorstCase:
    """A circuit's mean, and the worst that was found; `left_out`: why a part is missing."""

    metric: str
    examples: int
    loss_full: float
    loss_circuit: float
    loss_empty: float
    faithfulness: float | None
    pairings: WorstPairings | None
    gates: WorstGates | None
    left_out: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """Return everything as plain values."""
        found = {k: v for k, v in vars(self).items() if k not in ("pairings", "gates")}
        if self.pairings is not None:
            rows = [{**asdict(one), "excess": one.excess} for one in self.pairings.worst]
            found["pairings"] = {**vars(self.pairings), "worst": rows}
        if self.gates is not None:
            edges = [
                [str(e.edge.sender), str(e.edge.port), e.gate, e.fall] for e in self.gates.edges
            ]
            found["gates"] = {**vars(self.gates), "edges": edges}
        return found

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> WorstCase:
        """Return what `as_dict` wrote."""
        pairings, gates = values.get("pairings"), values.get("gates")
        if pairings is not None:
            rows = ({k: v for k, v in row.items() if k != "excess"} for row in pairings["worst"])
            worst = tuple(WorstPairing(**row) for row in rows)
            pairings = WorstPairings(**{**pairings, "worst": worst})
        if gates is not None:
            edges = tuple(
                OpenGate(Edge(Node.parse(u), Port.parse(p)), *rest)
                for u, p, *rest in gates["edges"]
            )
            gates = WorstGates(**{**gates, "edges": edges})
        parts = {"left_out": tuple(values["left_out"]), "pairings": pairings, "gates": gates}
        return WorstCase(**{**values, **parts})


def worst_case(
    runner: Runner, circuit: Circuit, progress: Progress | None = None, seed: int = 0
) -> WorstCase:
    """Search for the pairing, and for the gates of discarded edges, that are worst for a circuit.

    At most `PAIRINGS` circuits and as many full models are run on all prompts, and 2 `STEPS`
    gradients taken.
    """
    runner.require_plain("the worst case")
    runner.require_graph(circuit.graph)
    progress = progress or SILENT
    full, empty = measured_ends(runner)
    sign = -1.0 if runner.metric.larger_is_better else 1.0
    own = runner.loss(circuit)
    ends = (sign * full, sign * empty)
    left_out, paired, gated = [], None, None
    if not runner.ablation.paired:
        carries = "edges carry more than one" if runner.ablation.counterfactual else "nothing comes"
        of = "corrupted prompt" if runner.ablation.counterfactual else "from corrupted prompts"
        left_out.append(f"pairings: under {runner.ablation.name} ablation {carries} {of}")
    else:
        paired = _worst_pairings(runner, circuit, progress, seed)
    if not runner.metric.differentiable:
        left_out.append(f"gates: the metric {runner.metric.name} has no gradient")
    elif len(circuit) == circuit.graph.edge_count:
        left_out.append("gates: the circuit discards no edge")
    else:
        gated = _worst_gates(runner, circuit, ends, progress)
    return WorstCase(
        runner.metric.name, len(runner.pairs), ends[0], own, ends[1],
        ratio(own, *ends, runner.floor), paired, gated, tuple(left_out),
    )  # fmt: skip


# -- pairings ------------------------------------------------------------------------------------


def _worst_pairings(
    runner: Runner, circuit: Circuit, progress: Progress, seed: int
) -> WorstPairings:
    pairs = runner.pairs.pairs
    keys = [(len(one.twin), one.answer_position, one.group) for one in pairs]
    chosen = [
        (i, j) for i, j in pairings(keys, PAIRINGS, seed) if pairs[i].clean != pairs[j].corrupted
    ]
    found: list[WorstPairing] = []
    for several in _blocks(chosen, len(pairs)):
        mixed = tuple(_paired(pairs[i], pairs[j]) for i, j in several)
        full, own = _measured(runner, mixed, circuit)
        numbers = zip(several, own.tolist(), full.tolist(), strict=True)
        found += [WorstPairing(i + 1, j + 1, mine, whole) for (i, j), mine, whole in numbers]
        progress(len(found), len(chosen), "pairings run")
    excess = np.array([one.excess for one in found])
    given = [one.excess for one in found if one.clean == one.corrupted]
    order = np.argsort(-excess, kind="stable")[:LISTED]
    return WorstPairings(
        tried=len(found), possible=possible_pairings(keys), mean=float(np.mean(given)),
        mean_tried=float(excess.mean()), quantile_95=float(np.quantile(excess, 0.95)),
        largest=float(excess.max()), worst=tuple(found[i] for i in order),
    )  # fmt: skip


def _blocks(chosen: list[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    for start in range(0, len(chosen), size):
        yield chosen[start : start + size]


def _paired(clean: Pair, other: Pair) -> Pair:
    return replace(clean, corrupted=other.corrupted)


def _measured(
    runner: Runner, pairs: tuple[Pair, ...], circuit: Circuit
) -> tuple[np.ndarray, np.ndarray]:
    """Return the full model's and the circuit's loss on each pair."""
    from ...patching.run.runner import Runner

    there = Runner.create(
        runner.model, PromptPairs(pairs, runner.pairs.name), metric=runner.metric,
        ablation=runner.ablation, batch_size=runner.batch_size, engine=runner.engine,
    )  # fmt: skip
    full, own = there.measure_each([Circuit.full(circuit.graph), circuit], losses=True)[0]
    return full, own


# -- gates ---------------------------------------------------------------------------------------


def _worst_gates(
    runner: Runner, circuit: Circuit, ends: tuple[float, float], progress: Progress
) -> WorstGates:
    from ...patching.gradients.port_gradients import gate_gradients, gated_batch
    from ...patching.run.runner import Runner

    graph, kept = circuit.graph, circuit.kept
    movable = graph.reads & ~kept
    smaller = Runner.create(
        runner.model, runner.pairs, metric=runner.metric, ablation=runner.ablation,
        batch_size=gated_batch(runner), reference=runner.reference,
    )  # fmt: skip
    asked = 0

    def valued(gates: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal asked
        asked += 1
        progress(asked, 2 * STEPS, "gradients of gates taken")
        return gate_gradients(smaller, gates)

    starts = (kept.astype(np.float64), np.where(movable, 0.5, kept))
    found = [ascend(valued, start, movable, STEPS) for start in starts]
    best: Ascent = max(found, key=lambda one: one.value)  # the first start is the circuit itself
    falls = np.where(movable, best.gates * best.gradient, 0.0)
    order = np.argsort(-falls, axis=None, kind="stable")[: 2 * LISTED]
    places = [tuple(map(int, np.unravel_index(i, falls.shape))) for i in order]
    edges = [
        OpenGate(graph.edge_at(row, at), float(best.gates[row, at]), float(falls[row, at]))
        for row, at in places
        if falls[row, at] > 0
    ]
    opened = movable & (best.gates >= 0.5)
    return WorstGates(
        loss=best.value, faithfulness=ratio(best.value, *ends, runner.floor),
        opened=int(opened.sum()), loss_opened=runner.loss(Circuit(graph, kept | opened)),
        gradients=asked, edges=tuple(edges),
    )  # fmt: skip
