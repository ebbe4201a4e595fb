"""The five tests of a circuit, run: see `discovery.uncertainty.hypotheses` for what they ask.

Of N draws and a circuit of K edges, 3 + 4 N + min(K, MOST_EDGES) circuits are run: the model, the
circuit and what is left without it; N random circuits, and the model without each; N inflated
circuits, each with and without its random edge; and the circuit without each of its edges.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from ...discovery.evaluation import different_ends
from ...discovery.random_circuits import inflated, random_circuits
from ...discovery.uncertainty.hypotheses import (
    LEVEL,
    MARGIN,
    PERMUTATIONS,
    SHARE,
    dependence_test,
    exceeds_enough,
    minimality_test,
    over_resamples,
    sign_test,
    smallest_sufficient,
)
from ...discovery.uncertainty.paired import independent
from ...graphs.circuit import Circuit
from ...graphs.errors import EdgewiseError
from ...graphs.example_scores import clusters_of
from ...graphs.names import Edge, Node, Port
from ...patching.metrics.registry import metrics
from ...progress import SILENT, Progress

if TYPE_CHECKING:
    from ...patching.run.runner import Runner

DRAWS = 99
"""How many random circuits are drawn unless told otherwise."""

MOST_EDGES = 200
"""Of a larger circuit, so many edges are left out in turn, drawn at random."""

AT_ONCE = 16  # circuits handed on together, so that prompts are run once for all of them


@dataclass(frozen=True)
class HypothesisTest:
    """One test: p (None: it was not taken), draws or permutations, what was counted, in words."""

    test: str
    p: float | None
    draws: int
    seen: str
    means: str


@dataclass(frozen=True)
class EdgeEffect:
    """What leaving an edge out of the circuit does, mean |change of the loss|, p, and whether weak.

    `weak`: it was shown to matter less than nine in ten random edges, corrected for all tested.
    """

    edge: Edge
    effect: float
    p: float
    weak: bool


@dataclass(frozen=True)
class HypothesisTests:
    """What the five tests found of a circuit, by a metric on some examples.

    Of the `examples`, `clusters` count as independent. `templates`: how many labels they have
    between them, 0 where each has its own or none. `circuits`: how many were run. `edges`: those
    left out in turn, the weakest first.
    """

    metric: str
    examples: int
    clusters: int
    templates: int
    draws: int
    seed: int
    circuits: int
    tests: tuple[HypothesisTest, ...]
    edges: tuple[EdgeEffect, ...]

    @property
    def prompts(self) -> str:
        """Say on how many pairs it was tested.

        >>> HypothesisTests("kl", 64, 20, 20, 99, 0, 439, (), ()).prompts
        '64 pairs of 20 templates'
        """
        of = "" if self.clusters == self.examples else f" of {self.clusters:,} templates"
        return f"{self.examples:,} pairs{of}"

    @property
    def few_templates(self) -> str | None:
        """Say that nothing is told of other templates, where there are too few.

        >>> HypothesisTests("kl", 64, 64, 6, 99, 0, 439, (), ()).few_templates
        'this is told of these 6 templates, too few to stand for others'
        """
        if not self.templates or self.clusters < self.examples:
            return None
        return f"this is told of these {self.templates} templates, too few to stand for others"

    def as_dict(self) -> dict[str, object]:
        """Return everything as plain values."""
        about = {k: v for k, v in vars(self).items() if k not in ("tests", "edges")}
        edges = [[str(e.edge.sender), str(e.edge.port), e.effect, e.p, e.weak] for e in self.edges]
        return {**about, "tests": [asdict(one) for one in self.tests], "edges": edges}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> HypothesisTests:
        """Return what `as_dict` wrote."""
        tests = tuple(HypothesisTest(**one) for one in values["tests"])
        rows = (
            (Edge(Node.parse(sender), Port.parse(port)), *rest)
            for sender, port, *rest in values["edges"]
        )
        edges = tuple(EdgeEffect(*row) for row in rows)
        return HypothesisTests(**{**values, "tests": tests, "edges": edges})


def circuits_needed(edges: int, draws: int) -> int:
    """Count the circuits that testing one of so many edges runs.

    >>> circuits_needed(40, 99)
    439
    """
    return 3 + 4 * draws + min(edges, MOST_EDGES)


def hypothesis_tests(
    runner: Runner,
    circuit: Circuit,
    draws: int = DRAWS,
    seed: int = 0,
    progress: Progress | None = None,
) -> HypothesisTests:
    """Put a circuit to the five tests of Shi et al. 2024.

    Raises:
        EdgewiseError: the circuit keeps no edge, or every edge; the metric tells full and empty
            circuit not apart; fewer than one draw.
    """
    if draws < 1:
        raise EdgewiseError(f"draws is {draws}; accepted: 1 or more.")
    if not 0 < len(circuit) < circuit.graph.edge_count:
        which = "every edge" if len(circuit) else "no edge"
        raise EdgewiseError(
            f"the circuit keeps {which}, so a random one of its size is itself and the tests say "
            "nothing; accepted: a circuit that keeps some edges of its graph."
        )
    runner.require_graph(circuit.graph)
    different_ends(runner)
    plan = _Plan.of(circuit, draws, seed)
    each = _losses(runner, plan.circuits(), plan.number, progress or SILENT)
    clusters = clusters_of(runner.pairs.groups)
    full, own, rest = islice(each, 3)
    random, cut = _some(each, draws), _some(each, draws)
    with_edge, without_edge = _some(each, draws), _some(each, draws)
    left_out = _some(each, len(plan.edges))
    effects, drawn = np.abs(left_out - own), np.abs(without_edge - with_edge)
    weak = minimality_test(over_resamples(effects, clusters), over_resamples(drawn, clusters))
    far, far_random = np.abs(own - full), np.abs(random - full)
    change, change_random = np.abs(rest - full), np.abs(cut - full)
    found = (
        *_by_examples(runner, (full, own, rest), clusters, seed),
        _minimality(len(circuit), weak.p, sum(weak.weak), len(plan.edges), draws),
        _against_random("sufficiency", -far, -far_random, clusters, runner.floor),
        _against_random("partial necessity", change, change_random, clusters, runner.floor),
    )
    means = effects.mean(1).tolist()
    edges = [
        EdgeEffect(circuit.graph.edge_at(*place), *numbers)
        for place, *numbers in zip(plan.edges, means, weak.each, weak.weak, strict=True)
    ]
    labels = len(set(clusters.tolist()))
    return HypothesisTests(
        runner.metric.name, len(runner.pairs), len(set(independent(clusters).tolist())),
        labels if labels < len(runner.pairs) else 0, draws, seed, plan.number, found,
        tuple(sorted(edges, key=lambda one: one.effect)),
    )  # fmt: skip


@dataclass(frozen=True)
class _Plan:
    """The circuits to run, and the places of the edges that are left out in turn."""

    circuit: Circuit
    random: Sequence[Circuit]
    inflated: Sequence[tuple[Circuit, tuple[int, int]]]
    edges: Sequence[tuple[int, int]]

    @staticmethod
    def of(circuit: Circuit, draws: int, seed: int) -> _Plan:
        graph = circuit.graph
        random = random_circuits(graph, graph.count_by_kind(circuit.kept), draws, seed)
        larger = [inflated(circuit, seed + i) for i in range(draws)]
        places = [(int(row), int(column)) for row, column in np.argwhere(circuit.kept)]
        if len(places) > MOST_EDGES:
            chosen = np.random.default_rng(seed).permutation(len(places))[:MOST_EDGES]
            places = [places[i] for i in sorted(chosen.tolist())]
        return _Plan(circuit, random, larger, places)

    @property
    def number(self) -> int:
        return circuits_needed(len(self.circuit), len(self.random))

    def circuits(self) -> Iterator[Circuit]:
        graph = self.circuit.graph
        yield from (Circuit.full(graph), self.circuit, self.circuit.complement)
        yield from self.random
        yield from (one.complement for one in self.random)
        yield from (larger for larger, _ in self.inflated)
        yield from (_without(larger, place) for larger, place in self.inflated)
        yield from (_without(self.circuit, place) for place in self.edges)


def _without(circuit: Circuit, place: tuple[int, int]) -> Circuit:
    kept = circuit.kept.copy()
    kept[place] = False
    return Circuit(circuit.graph, kept)


def _losses(
    runner: Runner, circuits: Iterable[Circuit], number: int, progress: Progress
) -> Iterator[np.ndarray]:
    """Yield each circuit's loss on every example, [examples]."""
    rest, done = iter(circuits), 0
    while group := list(islice(rest, AT_ONCE)):
        found = runner.measure_each(group, losses=True)[0]
        done += len(group)
        progress(done, number, "circuits tested")
        yield from found


def _some(losses: Iterator[np.ndarray], number: int) -> np.ndarray:
    """Take the next losses, [number, examples]."""
    return np.stack(list(islice(losses, number)))


def _by_examples(
    runner: Runner,
    losses: tuple[np.ndarray, np.ndarray, np.ndarray],
    clusters: np.ndarray,
    seed: int,
) -> tuple[HypothesisTest, HypothesisTest]:
    """Take the two tests that compare values on single examples, if the metric gives any.

    `losses`: of the model, the circuit and what is left without it, [examples] each.
    """
    full, own, rest = losses
    name, number = runner.metric.name, len(full)
    floor = runner.floor * float(np.sqrt(number))  # of one example
    if runner.metric.needs_clean_logits:
        usable = ", ".join(key for key, one in metrics().items() if not one.needs_clean_logits)
        why = (
            f"The metric {name} compares with the full model, of which it says nothing by itself; "
            f"give another metric: {usable}."
        )
        skipped = [HypothesisTest(key, None, 0, "not taken", why) for key in _OF_EXAMPLES]
        return skipped[0], skipped[1]
    if number < 2:
        few = "One example tells nothing of how often, or of what depends on what; give more."
        skipped = [HypothesisTest(key, None, 0, "not taken", few) for key in _OF_EXAMPLES]
        return skipped[0], skipped[1]
    sign = sign_test(full - own, clusters, floor=floor)
    seen = f"better on {sign.better}, worse on {sign.worse} of {number}"
    even = f"within {MARGIN:g} of one half"
    words = (
        f"Circuit and model do not do better than each other equally often ({even})."
        if sign.p < LEVEL
        else f"That circuit and model do better than each other equally often ({even}) is not "
        "refuted."
    )
    equivalence = HypothesisTest(_OF_EXAMPLES[0], sign.p, 0, seen, words)
    depends = dependence_test(_steady(full, floor), _steady(rest, floor), clusters, seed=seed)
    words = (
        "Without the circuit the model's values still depend on those it has with it."
        if depends.p < LEVEL
        else "That without the circuit the model's values depend on those it has with it is not "
        "shown."
    )
    if depends.orders * LEVEL < 1:
        words = (
            f"{words.rstrip('.')} (templates of equal size have {depends.orders:.0f} orders, so p "
            f"cannot be below {1 / depends.orders:.2g})."
        )
    seen = f"HSIC {depends.hsic:.3g}"
    return equivalence, HypothesisTest(_OF_EXAMPLES[1], depends.p, PERMUTATIONS, seen, words)


_OF_EXAMPLES = ("equivalence", "independence")


def _steady(values: np.ndarray, floor: float) -> np.ndarray:
    """Return values that rounding alone tells apart as one."""
    return values if np.ptp(values) > floor else np.full_like(values, values.mean())


def _minimality(edges: int, p: float, weak: int, tested: int, draws: int) -> HypothesisTest:
    which = f"{tested:,}" if tested == edges else f"{tested:,} drawn of {edges:,}"
    nine = f"{SHARE:.0%} of random edges put into the circuit"
    words = f"That each edge tested matters more than {nine} is not refuted."
    if weak:
        words = f"{weak:,} of the edges tested do not matter more than {nine}."
    return HypothesisTest("minimality", p, draws, f"{weak:,} of {which} edges weak", words)


def _against_random(
    test: str, own: np.ndarray, random: np.ndarray, clusters: np.ndarray, floor: float
) -> HypothesisTest:
    """Test whether the circuit [examples] exceeds random ones [draws, examples] in what counts."""
    draws = len(random)
    values = over_resamples(np.concatenate([own[None], random]), clusters)
    counts = (values[:, 1:] < values[:, :1] - floor).sum(1)
    exceeded = int((random.mean(1) < own.mean() - floor).sum())
    p, fewest = exceeds_enough(counts, draws), smallest_sufficient(draws)
    what, seen = _AGAINST[test]
    shown = "" if p < LEVEL else "it is not shown that "
    words = f"{shown}{what} {SHARE:.0%} of random circuits of its size."
    if fewest >= LEVEL:
        words = f"{words.rstrip('.')} (of {draws} draws p cannot be below {fewest:.2g})."
    return HypothesisTest(
        test, p, draws, f"{seen} {exceeded} of {draws}", words[0].upper() + words[1:]
    )


_AGAINST = {
    "sufficiency": ("the circuit is nearer to the model than", "nearer than"),
    "partial necessity": ("the model changes more without the circuit than without", "more than"),
}
