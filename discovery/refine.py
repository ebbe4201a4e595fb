"""Refine: remove edges greedily by their exact effect, from what cheap scores propose.

Given scores of edges (EAP-IG's, unless others are given) and the wanted number n:

1. Take as many edges of largest |score| as leave 3n when dangling ones are pruned: the pool. Edges
   of infinite score, which a given circuit keeps without one, are all in it. With a faithfulness
   floor, double n for this step until the pools of n and of 3n reach the floor.
2. Measure the loss without each edge of the current circuit. Until a tenth of the circuit
   is gone, this is done again only for the least harmful ones of the last time.
3. Remove the k least harmful edges and what dangles then, and measure the loss. If it rose by more
   than these k rises add up to (and a quarter), or the floor is missed, or fewer than n edges are
   left, put them back and halve k. A single edge is always removed unless the floor forbids
   it, which ends the removal. After a removal that needed no halving, k is doubled.
4. Repeat from 2 until at most n edges are kept.
5. Measure the loss with each ablated edge of the pool between nodes of the circuit. Put back the k
   that lower it most (at first up to a quarter of the circuit), remove edges as before, and keep
   the result if it is better: fewer edges over n, or a smaller loss; otherwise halve k. Do this
   `sweeps` times, or until nothing is better.
6. With `stop_on` the search does not see some of the pairs: after step 4 it goes on to ever smaller
   circuits, `SHRINK` times as large each, and step 5 begins from the smallest that is as good on
   these pairs (searches/stopping.py); a circuit that is worse there is not taken.
7. The scores are the rises of the loss without each kept edge (minimality).

Every loss after step 1 is measured. Losses that differ by no more than rounding makes them differ
(the runner's `floor`) are equal, and ties go to the earlier edge in the graph. An edge that dangles
when another is removed goes with it, so fewer than n edges may be kept.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import numpy as np

from ..graphs.circuit import Circuit
from ..graphs.errors import EdgewiseError
from ..patching.run.floors import in_order
from .eap import eap_ig
from .evaluation import different_ends
from .measures.leaving_out import effects_of_leaving_out, leave_out
from .registry import Discovery, Option, Page, method
from .searches.stopping import KEY, STOP_HELP, WORSE, Stop

if TYPE_CHECKING:
    from ..graphs.scores import Scores
    from ..patching.incremental.losses import Losses
    from ..patching.incremental.search import Search
    from ..patching.run.runner import Progress, Runner

POOL = 3  # how many times the wanted edges removal starts from
EXTRA_RISE = 0.25  # by what part a block may raise the loss more than its edges do one by one
SHORT_LIST = 32  # least harmful edges whose effects are measured anew after every removal
REMEASURED = 0.1  # what part of the circuit is removed before all effects are measured anew
ROUNDING = 1e-5  # how far above the wanted faithfulness: it is measured again by another run

SHRINK = 0.8  # how large each circuit is, in parts of the one before, on the way to smaller ones

ORDER = "least harmful edges first; ablated edges put back where that lowers the loss"

Ranked = tuple[int, int, float]  # an edge by row and sender, and the loss without or with it
Answers = tuple[int, np.ndarray, "Losses"]  # a port's row, senders [n] into it, a loss for each


@method(
    "refine",
    summary="remove edges greedily and exactly from the best of EAP-IG's or of given scores",
    selects=True,
    spans=True,
    page=Page(
        (
            "Take three times as many edges as are wanted, by the scores of a cheaper method.",
            "Remove the least harmful ones by their exact effect in what is left, as many at a "
            "time as do not disturb each other.",
            "Put back those whose absence the loss would feel most, and remove again.",
        ),
        "Edgewise; greedy backward elimination with measured losses, as in Conmy et al. 2023, from "
        "a pool of attributed edges",
        "0.01 to 0.1 forward passes for each question; 100 edges of SmolLM2-135M take 4,200",
        "Where the circuit is to be as small as it can be for what it keeps.",
    ),
    gradient="path",
)
def refine(
    runner: Runner,
    *,
    edges: Annotated[int, Option("most edges to keep, unless the floor forbids it", 1)] = 200,
    floor: Annotated[
        float, Option("stop before faithfulness falls below it; 0: never", 0, 1)
    ] = 0.0,
    sweeps: Annotated[int, Option("how often ablated edges may be put back", 0, 100)] = 2,
    stop_on: Annotated[int, Option(STOP_HELP, 0, quiet=True)] = 0,
    start: Scores | None = None,
    progress: Progress | None = None,
) -> Discovery:
    """Find a circuit of few edges; scores are what the loss rises by without each of them.

    `start`: scores of some or all edges in place of EAP-IG's; edges without one are left out.
    """
    from ..patching.incremental.search import make_search

    if start is not None:
        runner.require_graph(start.graph, "the start")
    stop = Stop.of(runner, stop_on) if stop_on else None
    runner = runner if stop is None else stop.search
    scores = eap_ig(runner, progress=progress).scores if start is None else start
    search = make_search(runner)
    if stop is None:
        return search_from(search, runner, scores, edges, floor, sweeps, progress)
    refinement = _Refinement(search, edges, _largest_loss(runner, floor), runner.floor, progress)
    found, told = _stopped(refinement, stop, refinement.begin(scores), sweeps)
    result = _result(refinement, found)
    loss = stop.drifted(found.loss, found.circuit)
    return replace(result, notes={**result.notes, "loss_search": loss, KEY: told})


def search_from(
    search: Search,
    runner: Runner,
    scores: Scores,
    edges: int,
    floor: float = 0.0,
    sweeps: int = 2,
    progress: Progress | None = None,
) -> Discovery:
    """Refine with any search."""
    most = _largest_loss(runner, floor)
    refinement = _Refinement(search, edges, most, runner.floor, progress)
    found = refinement.improve(refinement.shrink(refinement.begin(scores)), sweeps)
    return _result(refinement, found)


def _result(refinement: _Refinement, found: _Step) -> Discovery:
    """Return a circuit that was found, with what the loss rises by without each of its edges."""
    refinement.move_to(found)
    search = refinement.search
    scores = effects_of_leaving_out(search, found.circuit.graph)
    notes = {"loss_search": found.loss, "vocabulary_products": search.products}
    return Discovery(scores, found.circuit, search.questions, ORDER, notes)


def _stopped(
    refinement: _Refinement, stop: Stop, first: _Step, sweeps: int
) -> tuple[_Step, dict[str, object]]:
    """Remove edges as long as the circuit is as good on other pairs; see step 6."""
    steps, end = [refinement.shrink(first)], ""
    stop.note(steps[0].circuit)
    while not end:
        refinement.wanted = int(SHRINK * len(steps[-1]))
        smaller = refinement.shrink(steps[-1]) if refinement.wanted else steps[-1]
        if not len(smaller) or len(smaller) == len(steps[-1]):
            end = "no smaller circuit was found"
        else:
            steps.append(smaller)
            stop.note(smaller.circuit)
            end = WORSE if stop.enough else ""
    chosen = stop.choose()
    refinement.wanted = len(steps[chosen])
    for _ in range(sweeps):
        other = refinement.improve(steps[chosen], 1)
        if other is steps[chosen]:
            break
        steps.append(other)
        stop.note(other.circuit)
        if not stop.no_worse(len(steps) - 1, chosen):
            break
        chosen = len(steps) - 1
    return steps[chosen], stop.block(chosen, end)


def _largest_loss(runner: Runner, floor: float) -> float:
    if not floor:
        return np.inf
    sign = -1.0 if runner.metric.larger_is_better else 1.0
    full, empty = (sign * value for value in different_ends(runner))
    if full > empty:
        raise EdgewiseError(
            f"the full model's loss ({runner.metric.name}) is {full:.4g} and that of the empty "
            f"circuit is smaller, {empty:.4g}, so a floor of faithfulness means nothing; accepted: "
            "a metric, or prompts, that the full model is better at, or no floor."
        )
    return empty + (floor + ROUNDING) * (full - empty)


@dataclass(frozen=True, eq=False)
class _Step:
    """A circuit without dangling edges and its loss."""

    circuit: Circuit
    loss: float

    def __len__(self) -> int:
        return len(self.circuit)


class _Refinement:
    """The search, whose current circuit changes, and what is wanted."""

    def __init__(
        self, search: Search, wanted: int, most: float, rounding: float, progress: Progress | None
    ) -> None:
        self.search, self.wanted, self.most = search, wanted, most
        self.rounding, self.progress = rounding, progress
        self.pool: Circuit
        self.removed = 0

    def measure(self, circuit: Circuit) -> _Step:
        """Make a circuit without its dangling edges the current one."""
        pruned = circuit.prune_dangling()
        self.search.restart(pruned.kept)
        return _Step(pruned, self.search.loss.value())

    def move_to(self, step: _Step) -> None:
        if not np.array_equal(self.search.kept, step.circuit.kept):
            self.search.restart(step.circuit.kept)

    def begin(self, scores: Scores) -> _Step:
        n, known = self.wanted, int((~np.isnan(scores.values)).sum())
        least = int(np.isinf(scores.values).sum())
        while True:
            step = self.measure(pool(scores, POOL * n, least))
            enough = self.most == np.inf or (
                step.loss <= self.most and self.measure(pool(scores, n, least)).loss <= self.most
            )
            if enough or POOL * n >= known:
                break
            n *= 2
        if not len(step):
            raise EdgewiseError(
                f"none of the {known:,} scored edges has a way from the embedding to the logits; "
                "accepted: scores of more edges."
            )
        self.pool = step.circuit
        self.move_to(step)
        return step

    def shrink(self, now: _Step) -> _Step:
        """Remove the least harmful edges until as few are kept as wanted, or the floor is near."""
        block, due, short = 1, len(now), now.circuit.kept
        while len(now) > self.wanted:
            self.report(now)
            self.move_to(now)
            block = min(block, len(now) - self.wanted)
            every = len(now) <= due or (now.circuit.kept & short).sum() < block
            among = now.circuit.kept if every else short
            count = max(SHORT_LIST, 2 * block) if every else block
            asked = leave_out(self.search, now.circuit.graph, among)
            least = smallest(asked, count, self.rounding)
            smaller, taken = self.without(now, least[:block])
            if every:
                due, short = int((1 - REMEASURED) * len(now)), self.mask(least)
            if smaller is not None:
                block, now = 2 * taken if taken == block else taken, smaller
            elif every:
                break
            else:
                due = len(now)
        return now

    def mask(self, edges: Sequence[Ranked]) -> np.ndarray:
        mask = np.zeros_like(self.search.kept)
        mask[[row for row, _, _ in edges], [sender for _, sender, _ in edges]] = True
        return mask

    def without(self, now: _Step, least: Sequence[Ranked]) -> tuple[_Step | None, int]:
        """Remove as many of some edges as can go together; return how many these are."""
        taken = len(least)
        while taken:
            some = least[:taken]
            circuit = Circuit(now.circuit.graph, now.circuit.kept & ~self.mask(some))
            smaller = self.measure(circuit)
            foreseen = sum(loss - now.loss for _, _, loss in some)
            rounding = self.rounding * (1 + taken)  # of the loss and of every rise foreseen
            allowed = now.loss + foreseen + EXTRA_RISE * abs(foreseen) + rounding
            fits = smaller.loss <= allowed and len(smaller) >= self.wanted
            if smaller.loss <= self.most and (fits or taken == 1):
                return smaller, taken
            taken //= 2
        return None, 0

    def improve(self, best: _Step, sweeps: int) -> _Step:
        """Put ablated edges back where the circuit is better for it."""
        for _ in range(sweeps):
            found = smallest(self.put_back(best), max(1, len(best) // 4), self.rounding)
            gains = [edge for edge in found if edge[2] < best.loss - self.rounding]
            while gains:
                more = Circuit(best.circuit.graph, best.circuit.kept | self.mask(gains))
                other = self.shrink(self.measure(more))
                if self.beats(other, best):
                    best = other
                    break
                gains = gains[: len(gains) // 2]
            else:
                break
        return best

    def beats(self, one: _Step, other: _Step) -> bool:
        """Tell whether a circuit has fewer edges over those wanted, or as many and less loss."""
        size, least = (max(len(step), self.wanted) for step in (one, other))
        return size < least or (size == least and one.loss < other.loss - self.rounding)

    def put_back(self, now: _Step) -> Iterator[Answers]:
        """Measure the circuit with each ablated edge of the pool, one at a time, by port."""
        graph, kept = now.circuit.graph, now.circuit.kept
        ports, _ = now.circuit.live()
        fed = np.array([node.layer is None for node in graph.senders])
        for row, feeds in enumerate(graph.feeds):
            if kept[row].any():
                fed[list(feeds)] = True
        for row in np.flatnonzero(ports).tolist():
            added = self.pool.kept[row] & ~kept[row] & fed
            senders = np.flatnonzero(added)
            if len(senders):
                larger = kept.copy()
                larger[row] |= added
                self.search.restart(larger)
                others = added & (senders[:, None, None] != np.arange(len(added)))
                yield row, senders, self.search.ask((row,), others)

    def report(self, now: _Step) -> None:
        self.removed = max(self.removed, len(self.pool) - len(now))
        if self.progress is not None:
            what = f"edges removed, {len(now):,} kept, loss {now.loss:.4g}"
            self.progress(self.removed, len(self.pool) - self.wanted, what)


def pool(scores: Scores, n: int, least: int = 0) -> Circuit:
    """Keep as many edges of largest |score| as leave n when dangling ones are pruned.

    `least`: take so many at least, before they are pruned.
    """

    def left(size: int) -> Circuit:
        return scores.top(size).prune_dangling()

    known = int((~np.isnan(scores.values)).sum())
    first = min(max(1, least), known)
    return left(bisect_left(range(known), n, first, key=lambda size: len(left(size))))


def smallest(asked: Iterator[Answers], count: int, floor: float = 0.0) -> list[Ranked]:
    """Return the questions with the smallest losses in order, equal ones as `in_order` has them."""
    parts = list(asked)
    if not parts:
        return []
    edges = [(row, int(u)) for row, senders, _ in parts for u in senders]
    places = [(losses, i) for _, senders, losses in parts for i in range(len(senders))]
    last = min(count, len(edges)) - 1
    while True:
        low = np.concatenate([losses.bounds.low for _, _, losses in parts])
        near = np.flatnonzero(low <= np.partition(low, last)[last] + floor)
        sharpened = [losses[i].refine() for losses, i in (places[at] for at in near)]
        if not any(sharpened):
            first = near[in_order(low[near], floor)][:count].tolist()
            return [(*edges[at], float(low[at])) for at in first]
