"""Transplants: what parts of one model carry of its gain over another, on the same prompts.

    found = transplant("smollm2-135m", "adapters/boxes", "entity-tracking", Choice(greedy=5))
    write_transplant("transplant.json", found)

The donor is closed before the receiver is opened, so that one model's weights are in memory at a
time. See patching/transplant for what is measured.
"""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypedDict, cast

import numpy as np

from ..discovery.uncertainty.bootstrap import Estimate
from ..experiment.parts import split
from ..experiment.spec import ComputeSpec, GraphSpec
from ..experiment.task import TaskSpec
from ..graphs.calls.typed import typed
from ..graphs.circuit import Circuit
from ..graphs.diff import shape_differences
from ..graphs.errors import EdgewiseError, GraphMismatch, PromptError, unknown, within_memory
from ..graphs.files.transplant import (
    DIRECTIONS,
    Chosen,
    Gain,
    GainOfSide,
    How,
    NodeShare,
    Rankings,
    Row,
    ShareOfSide,
    TransplantFile,
)
from ..graphs.graph import ComputationGraph
from ..graphs.names import Edge, Node
from ..patching.metrics.functions import as_metric
from ..patching.metrics.registry import default_metric
from ..patching.prompts.pairs import PromptPairs
from ..patching.prompts.splits import PromptSplit, seen_in
from ..progress import Progress, prompts_are_there
from ..session import Session, open_model, open_split, open_vocabulary, task_of
from .comparison.gain import MeasuredGain
from .found.blocks import circumstances, task_block
from .same_prompts import split_difference

if TYPE_CHECKING:
    from ..patching.transplant.ranking import NodeEffect
    from ..patching.transplant.transplant import Transplant

BEAM = 32  # of the best single nodes, tried in each greedy step


@typed
@dataclass(frozen=True, eq=False)
class Choice:
    """What takes the donor's values: nodes with all their edges, edges, a circuit's; or a ranking.

    Args:
        greedy: having ranked single nodes, add up to so many one after the other.
        share: stop adding when this share of the gain is carried.
        among: rank the nodes of this circuit only.
        beam: try so many of the best single nodes in each greedy step.
        found_on: the pairs that a given circuit was found on, which are then not held out.

    >>> Choice(nodes=("a0.h1", "m1")).ranks, Choice(greedy=3).ranks, Choice().ranks
    (False, True, True)

    Raises:
        EdgewiseError: two of them contradict each other, or a number makes no sense.
        NameSyntaxError: a name cannot be read.
    """

    nodes: tuple[str, ...] = ()
    edges: tuple[str, ...] = ()
    circuit: Circuit | None = None
    greedy: int | None = None
    share: float | None = None
    among: Circuit | None = None
    beam: int = BEAM
    found_on: PromptPairs | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("nodes", "edges", "circuit") if getattr(self, name)]
        ranking = ("greedy", "share", "among")
        ranked = [name for name in ranking if getattr(self, name) is not None]
        if len(given) > 1 or (given and ranked):
            raise EdgewiseError(
                f"{' and '.join([*given, *ranked])} are given together; accepted: one of nodes, "
                "edges and circuit, or a ranking (greedy, share, among)."
            )
        if self.share is not None and self.greedy is None:
            raise EdgewiseError("share says when greedy stops; give greedy too.")
        for name, number in (("greedy", self.greedy), ("beam", self.beam)):
            if number is not None and number < 1:
                raise EdgewiseError(f"{name} is {number}; accepted: a whole number from 1 up.")
        for node in self.nodes:
            Node.parse(node)
        for edge in self.edges:
            Edge.parse(edge)

    @property
    def ranks(self) -> bool:
        """Tell whether nodes are ranked, no parts being chosen."""
        return not (self.nodes or self.edges or self.circuit)

    @typed
    def senders(self, graph: ComputationGraph) -> list[Node]:
        """List the nodes whose values are needed, in graph order; refuse what is not in it."""
        for name, circuit in (("circuit", self.circuit), ("among", self.among)):
            differences = [] if circuit is None else circuit.graph.differences(graph)
            if differences:
                raise GraphMismatch(
                    f"{name} does not fit the models' graph: {'; '.join(differences)} (circuit "
                    "and models). Accepted: a circuit found in a model of this shape with the same "
                    "graph options."
                )
        if not self.ranks:
            kept = self.edges_of(graph).kept
            return [node for u, node in enumerate(graph.senders) if kept[:, u].any()]
        touched = set(graph.senders if self.among is None else self.among.nodes)
        return [node for node in graph.senders if node in touched]

    @typed
    def edges_of(self, graph: ComputationGraph) -> Circuit:
        """Return the chosen edges."""
        from ..patching.transplant.transplant import nodes_mask

        if self.circuit is not None:
            return self.circuit
        if self.nodes:
            return Circuit(graph, nodes_mask(graph, map(Node.parse, self.nodes)))
        return Circuit.empty(graph).with_edges(self.edges)


@typed
@within_memory()
def transplant(
    a: Any,
    b: Any,
    task: TaskSpec | str,
    choice: Choice | None = None,
    *,
    direction: str = "b-into-a",
    progress: Progress | None = None,
    **fields: Any,
) -> TransplantFile:
    """Measure what parts of one model carry of its gain over another of the same shape.

    Args:
        a, b: what a user types for MODEL, or open sessions.
        task: the prompts, which both models must get alike.
        choice: which parts; default: rank all nodes, each alone.
        direction: `b-into-a`, B's values in A's run: what carries the gain; or `a-into-b`, A's
            values in B's run: what loses it.
        fields: `metric`; and those of the task, of the graph and of how to compute.

    Raises:
        GraphMismatch: the models differ in shape, or the choice is not in their graph.
        PromptError: their tokenizers make other prompts.
        EdgewiseError: the models measure the same, so that nodes cannot be ranked.
    """
    from ..patching.transplant.donor import clean_runner, record
    from ..patching.transplant.transplant import Transplant

    choice = choice or Choice()
    if direction not in DIRECTIONS:
        raise unknown("direction", direction, DIRECTIONS)
    metric = fields.pop("metric", None)
    metric = as_metric(default_metric(searching=False) if metric is None else metric)
    asks, graph, how = split("transplant", fields, TaskSpec, GraphSpec, ComputeSpec)
    task, compute = task_of(task, **asks), ComputeSpec.of(**how)
    models = (a, b) if direction == "a-into-b" else (b, a)
    names = " and ".join(map(_name, models))

    def opened(model: Any) -> Session:
        if isinstance(model, Session):
            return model
        return open_model(model, GraphSpec.of(**graph), compute, progress=progress)

    donor = opened(models[0])
    made = open_split(_able_to_read(donor, models[1]), task)
    parted = _unseen(made, choice.found_on)
    pairs = parted.discovery
    prompts_are_there(progress, pairs.origin)
    wanted = choice.senders(donor.graph)
    runners = [clean_runner(donor.lifted, one, metric, compute.batch_size) for one in parted.sides]
    begun = time.perf_counter()
    *held, donated = [record(runner, wanted) for runner in runners]
    seconds = time.perf_counter() - begun
    block = donor.model_block
    del donor, runners
    gc.collect()  # before the next model is read

    receiver = opened(models[1])
    widths = donated.d_model, receiver.lifted.d_model
    if differences := "; ".join(shape_differences(donated.graph, receiver.graph, widths)):
        raise GraphMismatch(
            f"nothing can be transplanted between {names}: they differ in {differences}. Accepted: "
            "two models of one shape, such as a model and what fine-tuning made of it."
        )
    own = partial(open_split, _able_to_read(receiver, models[0]), task)
    if unequal := split_difference(made, own):
        raise PromptError(
            f"{names} get different prompts for this task, their tokenizers or vocabularies "
            f"differ: {unequal}. Values can be exchanged on equal prompts only; give the pairs as "
            "token ids that both understand."
        )
    begun = time.perf_counter()
    both = Transplant.create(receiver.lifted, pairs, donated)
    others = [Transplant.create(receiver.lifted, one.pairs, one) for one in held]
    ends = _Ends(both, others[0] if others else None, direction)
    found = _measured(ends, choice, wanted, progress)
    seconds += time.perf_counter() - begun
    limits = {} if choice.greedy is None else {"beam": choice.beam, "share": choice.share}
    around = {**limits, "seconds": seconds, **circumstances(receiver, both.runner)}
    blocks = (block, receiver.model_block)
    block_a, block_b = blocks if direction == "a-into-b" else reversed(blocks)
    return TransplantFile(
        graph=both.graph,
        a={"model": block_a},
        b={"model": block_b},
        task=task_block(parted),
        transplant=cast("How", {"direction": direction, "metric": metric.name, **around}),
        measures=ends.measures(),
        **found,
    )


def _unseen(parted: PromptSplit, found_on: PromptPairs | None) -> PromptSplit:
    """Hold no pair out that the choice was found on; warn of those that are left out."""
    test = parted.test
    if test is None or found_on is None or not (seen := set(seen_in(test, found_on))):
        return parted
    left = tuple(pair for i, pair in enumerate(test) if i not in seen)
    warnings.warn(
        f"of {len(test):,} held-out pairs {len(seen):,} are left out, on which the circuit was "
        "found.",
        stacklevel=1,
    )
    words = f"{parted.words}, without {len(seen):,} that the circuit was found on"
    if not left:
        why = "nothing is held out: the circuit was found on those pairs too"
        return PromptSplit(parted.discovery, words=why)
    return replace(parted, test=replace(test, pairs=left), words=words)


def _able_to_read(session: Session, other: Any) -> Session:
    """Lend a model without a tokenizer the other's."""
    if session.loaded.tokenizer is not None or not isinstance(other, Session | str):
        return session
    tokenizer, _ = open_vocabulary(other)
    return replace(session, loaded=replace(session.loaded, read_tokenizer=lambda: tokenizer))


def _name(model: Any) -> str:
    if isinstance(model, Session):
        return f"'{model.loaded.title}'"
    return f"'{model}'" if isinstance(model, str) else "a live model"


@dataclass(frozen=True, eq=False)
class _Ends:
    """The transplant on the pairs on which choices are made, and on those held out, if any are."""

    in_sample: Transplant
    held_out: Transplant | None
    direction: str

    @cached_property
    def sides(self) -> dict[str, tuple[Transplant, MeasuredGain]]:
        """Return the sides there are, with both models' values on each."""
        every = {"in_sample": self.in_sample, "held_out": self.held_out}
        return {
            name: (one, MeasuredGain.of(one))
            for name, one in every.items() if one is not None
        }  # fmt: skip

    def carried(self, side: str, values: np.ndarray) -> Estimate:
        """Estimate which share of the gain a run carries on one side, of its values [examples]."""
        return self.sides[side][1].share(values)

    def measures(self) -> Gain:
        """Tell what both models measure, and what all nodes' values carry."""
        own = self._measured("in_sample")
        found = Gain(
            a=own["a"], b=own["b"], gain=own["gain"], everything=own["everything"],
            carried=self.in_sample.carried(own["everything"]),
            undefined=own["carried"] is None, in_sample=own,
        )  # fmt: skip
        if self.held_out is not None:
            found["held_out"] = self._measured("held_out")
        return found

    def _measured(self, side: str) -> GainOfSide:
        both, values = self.sides[side]
        a, b = both.receiver, both.donor
        carried, gained = self.carried(side, both.everything_each), values
        if self.direction == "a-into-b":
            a, b = b, a
            gained = replace(values, receiver=values.donor, donor=values.receiver)
        ends = gained.estimate().interval
        return GainOfSide(
            examples=len(both.pairs), a=a, b=b, gain=b - a,
            gain_interval=None if ends is None else list(ends), gain_error=values.error,
            everything=both.everything, carried=carried.value, interval=_interval(carried),
        )  # fmt: skip


def _interval(found: Estimate) -> list[float] | None:
    return None if found.interval is None else list(found.interval)


class _Found(TypedDict, total=False):
    chosen: Chosen
    edges: Circuit
    singles: tuple[Row, ...]
    greedy: tuple[Row, ...]
    in_sample: Rankings
    held_out: Rankings


def _measured(ends: _Ends, choice: Choice, wanted: list[Node], progress: Progress | None) -> _Found:
    """Measure what was chosen, or rank nodes: in sample, and then on what is held out."""
    from ..patching.transplant.ranking import each_with, greedy, single_effects

    both, test = ends.in_sample, ends.held_out
    if not choice.ranks:
        edges = choice.edges_of(both.graph)
        found = {}
        for side, (one, _) in ends.sides.items():
            (each,) = one.measure_each(edges.kept[None])
            carried = ends.carried(side, each)
            value = float(each.mean())
            found[side] = ShareOfSide(
                value=value, carried=carried.value, interval=_interval(carried)
            )
        given = found["in_sample"]
        chosen = Chosen(
            nodes=list(choice.nodes), value=given["value"], carried=both.carried(given["value"]),
            in_sample=given,
        )  # fmt: skip
        if "held_out" in found:
            chosen["held_out"] = found["held_out"]
        return {"chosen": chosen, "edges": edges}

    def rows(side: str, found: Iterable[tuple[Node, np.ndarray]]) -> tuple[NodeShare, ...]:
        every = []
        for node, each in found:
            carried = ends.carried(side, each)
            low, high = carried.interval or (None, None)
            every.append(NodeShare(node, float(each.mean()), carried.value, low, high))
        return tuple(every)

    singles = single_effects(both, wanted, progress)
    steps: list[NodeEffect] = []
    if choice.greedy is not None:
        steps = greedy(
            both, singles, steps=choice.greedy, share=choice.share, beam=choice.beam,
            progress=progress,
        )  # fmt: skip
    own = Rankings(*(rows("in_sample", ((x.node, x.each) for x in y)) for y in (singles, steps)))
    ranked: _Found = {
        "singles": tuple((one.node, one.value, one.share) for one in singles),
        "greedy": tuple((one.node, one.value, one.share) for one in steps),
        "in_sample": own,
    }
    if test is not None:
        in_order = sorted((one.node for one in singles), key=both.graph.sender_index.__getitem__)
        words = "single nodes on held-out pairs"
        alone = dict(zip(in_order, each_with(test, (), in_order, progress, words), strict=True))
        taken = [one.node for one in steps]
        together = [
            (node, each_with(test, taken[:i], [node])[0] if i else alone[node])
            for i, node in enumerate(taken)
        ]
        by_rank = ((one.node, alone[one.node]) for one in singles)
        ranked["held_out"] = Rankings(rows("held_out", by_rank), rows("held_out", together))
    return ranked
