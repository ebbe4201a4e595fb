"""The second certificate: that the compiled engine computes what torch does, on some tokens.

The first shows that the description, run by torch, computes what the original does. This one runs
the same description, by the other engine, on the same tokens: each is the other's certificate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ...graphs.circuit import Circuit
from ...graphs.lift.lifted import LiftedModel
from ..engines import TORCH
from ..metrics.registry import default_metric
from ..prompts.pairs import PromptPairs
from ..run.certificate import RELATIVE_TOLERANCE, generated_pairs
from ..run.runner import Runner
from .circuits import CompiledCircuits
from .model import require_by_head

ROUNDED = 0.05
"""What a type of 16 bits may do to logits, in parts of the largest: the engines round elsewhere."""


@dataclass(frozen=True)
class EngineCertificate:
    """The largest differences between both engines' logits, of which `tolerance` is accepted.

    `kept_all`, `kept_none`: with every edge kept, and with none. `prompts`, `longest`: how many
    pairs were compared, and the tokens of the longest.
    """

    kept_all: float
    kept_none: float
    tolerance: float
    prompts: int
    longest: int

    @property
    def passed(self) -> bool:
        """Tell whether both are within the tolerance."""
        return max(self.kept_all, self.kept_none) <= self.tolerance


def certify_engine(model: LiftedModel, pairs: PromptPairs | None = None) -> EngineCertificate:
    """Compare both engines on a few pairs, or on generated tokens.

    Raises:
        UnsupportedModel: only torch can run the model; says which part.
    """
    require_by_head(model)
    pairs = generated_pairs(model) if pairs is None else pairs
    runner = Runner.create(model, pairs, metric=default_metric(searching=True), engine=TORCH)
    circuits = [Circuit.full(model.graph), Circuit.empty(model.graph)]
    expected = runner.logits(circuits).to(torch.float32).cpu().numpy()
    found = CompiledCircuits(runner).logits(circuits)
    errors = np.abs(found - expected).max((1, 2))
    relative = RELATIVE_TOLERANCE.get(model.dtype, ROUNDED)
    return EngineCertificate(
        float(errors[0]), float(errors[1]), relative * float(np.abs(expected).max()),
        len(pairs), max(pair.longest for pair in pairs),
    )  # fmt: skip
