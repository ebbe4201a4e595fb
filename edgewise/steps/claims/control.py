"""The untrained control: the same discovery in a copy of the model that has learned nothing.

Every tensor of the copy's weights is drawn anew from a normal distribution of its own mean and
standard deviation, seeded. So numbers stay as large as they were, in every architecture, and what
training put into them is gone; transformers' own initialisation would also have changed how large
they are. A method that finds as good a circuit there finds it in anything.

Where the redrawn model does not do the task at all, no size of a circuit can reach a faithfulness.
A selection that searches for one is then replaced by as many edges as the circuit has.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ...discovery.uncertainty.bootstrap import defined, faithfulness_estimate
from ...experiment.spec import ComputeSpec, DiscoverySpec, Experiment, Selection
from ...graphs.circuit import Circuit
from ...graphs.errors import EdgewiseError
from ...graphs.example_scores import clusters_of
from ...graphs.overlap import Overlap
from ...patching.prompts.pairs import PromptPairs
from ...patching.prompts.splits import PromptSplit
from ...progress import Progress, named
from ...session import Session, make_runner, open_changed
from ..discover import Found, discover, held_out_runner

if TYPE_CHECKING:
    import torch

    from ...patching.run.runner import Runner


@dataclass(frozen=True)
class Control:
    """What the same discovery finds in the model with its weights redrawn.

    `faithfulness`: of the circuit found there, there, with its 95% `interval`; None where full
    model and no edge do not differ by twice the standard error of their difference. `jaccard`: of
    its edges with those of the circuit it is a control of; `expected_jaccard`: of random circuits
    of these sizes. `as_many`: it was given the circuit's number of edges, as no number of them
    could reach anything. `refused`: why there is no circuit, if there is none; then the numbers are
    None.
    """

    seed: int
    metric: str
    examples: int
    value_full: float | None = None
    value_circuit: float | None = None
    value_empty: float | None = None
    faithfulness: float | None = None
    edges: int | None = None
    jaccard: float | None = None
    expected_jaccard: float | None = None
    interval: tuple[float, float] | None = None
    as_many: bool = False
    refused: str | None = None

    def as_dict(self) -> dict[str, object]:
        """Return everything as plain values."""
        found = asdict(self)
        found["interval"] = None if self.interval is None else list(self.interval)
        return found if self.refused else {k: v for k, v in found.items() if k != "refused"}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Control:
        """Return what `as_dict` wrote; older ones have no interval."""
        ends = values.get("interval")
        return Control(**{**values, "interval": None if ends is None else (ends[0], ends[1])})

    @property
    def said(self) -> str:
        """Say how many edges it keeps, and by whose choice.

        >>> Control(0, "kl", 9, edges=2000, as_many=True).said
        '2,000 edges (about as many as the circuit: no number reaches anything)'
        """
        why = " (about as many as the circuit: no number reaches anything)" if self.as_many else ""
        return f"{self.edges:,} edges{why}"


def redraw(model: torch.nn.Module, seed: int = 0) -> None:
    """Draw every tensor of weights anew, in place, normally with its own mean and deviation.

    Weights that modules share stay shared; single numbers and buffers stay as they are.
    """
    import torch

    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in model.parameters():
            if not weights.is_floating_point() or weights.numel() < 2:
                continue
            old = weights.detach().to("cpu", torch.float32)
            new = torch.empty_like(old).normal_(generator=draw) * old.std() + old.mean()
            weights.copy_(new.to(weights.dtype))


def redrawn(session: Session, seed: int = 0) -> Session:
    """Open a copy of a session's model with its weights redrawn; the session's stays as it is."""
    return open_changed(session, partial(redraw, seed=seed))


def control(
    session: Session,
    pairs: PromptPairs,
    like: Runner,
    spec: DiscoverySpec,
    circuit: Circuit,
    progress: Progress | None = None,
    seed: int = 0,
) -> Control:
    """Repeat a discovery with the weights redrawn; `circuit` is what it found in the model itself.

    It is found on the pairs, and measured `like` the circuit: on that runner's pairs, by its
    metric, with its ablation. Takes the discovery's time once more, and the model's memory a second
    time.
    """
    from ...patching.run.runner import Runner

    other, number = redrawn(session, seed), len(like.pairs)
    compute, progress = ComputeSpec(batch_size=like.batch_size), named(progress, "control")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # doubts are of the redrawn model, and expected
        try:
            asked = _reachable(other, pairs, spec, circuit)
            found = discover(other, pairs, asked, compute, progress=progress, allow_empty=True)
        except EdgewiseError as error:
            return Control(seed, like.metric.name, number, refused=str(error))
    mine = found.file.circuit
    runner = Runner.create(
        other.lifted.with_neurons(mine.graph.layers_of_neurons), like.pairs,
        metric=like.metric, ablation=like.ablation,
        batch_size=like.batch_size, reference=like.reference, engine=like.engine,
    )  # fmt: skip
    each = runner.measure_each([Circuit.full(mine.graph), mine, Circuit.empty(mine.graph)])[0]
    full, own, empty = each.mean(1).tolist()
    clusters = clusters_of(like.pairs.groups)
    kept = faithfulness_estimate(each[0], each[1], each[2], clusters, runner.floor)
    overlap = Overlap(mine.graph.edge_count, len(circuit), len(mine), len(circuit & mine))
    return Control(
        seed, like.metric.name, number, value_full=full, value_circuit=own, value_empty=empty,
        faithfulness=kept.value, edges=len(mine), jaccard=overlap.jaccard,
        expected_jaccard=overlap.expected, interval=kept.interval, as_many=asked != spec,
    )  # fmt: skip


def _reachable(
    other: Session, pairs: PromptPairs, spec: DiscoverySpec, circuit: Circuit
) -> DiscoverySpec:
    """Ask for as many edges as the circuit has where no number of them reaches a faithfulness."""
    if spec.select.way not in ("faithfulness", "target") or not len(circuit):
        return spec
    runner = make_runner(other, pairs, metric=spec.metric, ablation=spec.ablation, mlps=spec.mlps)
    ends = [Circuit.full(runner.graph), Circuit.empty(runner.graph)]
    full, empty = runner.measure_each(ends)[0]
    if defined(full, empty, clusters_of(pairs.groups), runner.floor):
        return spec
    select = Selection(top=len(circuit), signed=spec.select.signed, connected=spec.select.connected)
    return spec.but(select=select)


def controlled(
    found: Found,
    session: Session,
    pairs: PromptSplit,
    asked: Experiment,
    progress: Progress | None = None,
) -> Found:
    """Repeat a discovery as its control, if asked for; it stands in the file as `measures.control`.

    Scores to start from are of the model itself, so the control starts from its own.
    """
    if not asked.evaluation.control:
        return found
    spec, file = asked.discovery.but(start=None), found.file
    like = make_runner(
        session, pairs.discovery, metric=spec.metric, ablation=spec.ablation,
        batch_size=asked.compute.batch_size, mlps=spec.mlps,
    )  # fmt: skip
    like = like if pairs.test is None else held_out_runner(session, pairs, like)
    made = control(session, pairs.discovery, like, spec, file.circuit, progress)
    measures = {**file.measures, "control": made.as_dict()}
    return replace(found, file=replace(file, measures=measures))
