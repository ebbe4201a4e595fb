"""The untrained control: the same discovery in a copy of the model that has learned nothing.

Every tensor of the copy's weights is drawn anew from a normal distribution of its own mean and
standard deviation, seeded. So numbers stay as large as they were, in every architecture, and what
training put into them is gone; transformers' own initialisation would also have changed how large
they are. A method that finds as good a circuit there finds it in anything.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ...discovery.evaluation import ratio
from ...experiment.spec import ComputeSpec, DiscoverySpec, Experiment
from ...graphs.circuit import Circuit
from ...graphs.errors import EdgewiseError
from ...graphs.overlap import Overlap
from ...patching.prompts.pairs import PromptPairs
from ...patching.prompts.splits import PromptSplit
from ...progress import Progress, named
from ...session import Session, make_runner, open_changed
from ..discover import Found, discover

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Control:
    """What the same discovery finds in the model with its weights redrawn.

    `faithfulness`: of the circuit found there, there; None where full model and no edge do not
    differ by twice the standard error of their difference. `jaccard`: of its edges with those of
    the circuit it is a control of; `expected_jaccard`: of random circuits of these sizes.
    `refused`: why there is no circuit, if there is none; the numbers are then None.
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
    refused: str | None = None

    def as_dict(self) -> dict[str, object]:
        """Return everything as plain values."""
        found = asdict(self)
        return found if self.refused else {k: v for k, v in found.items() if k != "refused"}


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
    pairs: tuple[PromptPairs, PromptPairs],
    spec: DiscoverySpec,
    circuit: Circuit,
    compute: ComputeSpec | None = None,
    progress: Progress | None = None,
    seed: int = 0,
) -> Control:
    """Repeat a discovery with the weights redrawn; `circuit` is what it found in the model itself.

    `pairs`: those it is found on, and those it is measured on. Takes the discovery's time once
    more, and the model's memory a second time.
    """
    seen, measured = pairs
    progress = named(progress, "control")
    other = redrawn(session, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # doubts are of the redrawn model, and expected
        try:
            found = discover(other, seen, spec, compute, progress=progress, allow_empty=True)
        except EdgewiseError as error:
            return Control(seed, spec.metric, len(measured), refused=str(error))
    mine = found.file.circuit
    runner = make_runner(
        other, measured, metric=spec.metric, ablation=spec.ablation,
        batch_size=None if compute is None else compute.batch_size,
    )  # fmt: skip
    each = runner.measure_each([Circuit.full(mine.graph), mine, Circuit.empty(mine.graph)])[0]
    full, own, empty = each.mean(1).tolist()
    gaps = each[0] - each[2]
    spread = float(gaps.std(ddof=1) / np.sqrt(len(gaps))) if len(gaps) > 1 else 0.0
    overlap = Overlap(mine.graph.edge_count, len(circuit), len(mine), len(circuit & mine))
    return Control(
        seed, spec.metric, len(measured), value_full=full, value_circuit=own, value_empty=empty,
        faithfulness=ratio(own, full, empty, max(runner.floor, 2 * spread)), edges=len(mine),
        jaccard=overlap.jaccard, expected_jaccard=overlap.expected,
    )  # fmt: skip


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
    both = (pairs.discovery, pairs.test or pairs.discovery)
    made = control(session, both, spec, file.circuit, asked.compute, progress)
    measures = {**file.measures, "control": made.as_dict()}
    return replace(found, file=replace(file, measures=measures))
