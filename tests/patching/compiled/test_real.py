"""Both engines on the real model, whole, and the compiled one in bfloat16."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from edgewise.graphs.circuit import Circuit
from edgewise.patching.compiled.circuits import CompiledCircuits
from edgewise.patching.compiled.engine import attribute as compiled
from edgewise.patching.gradients.attribution import attribute
from edgewise.patching.run.runner import Runner
from edgewise.session import open_model, open_task
from tests.patching.compiled.test_parity import LOGITS, assert_alike

POINTS = {"eap": [1.0], "eap-ig": [k / 3 for k in range(3)]}
"""Where gradients are taken, by method."""


@pytest.mark.real
def test_the_real_model_and_its_bfloat16() -> None:
    """Scores, and logits of circuits; by rank in bfloat16, over float32's first 1,000 edges."""
    session = open_model("smollm2-135m")
    pairs, _ = open_task(session, "ioi", examples=2)
    runner = Runner.create(session.lifted, pairs, metric="logit_diff", engine="torch")
    expected = {name: attribute(runner, points) for name, points in POINTS.items()}
    for name, points in POINTS.items():
        assert_alike(compiled(runner, points).values, expected[name].values)
    circuits = [Circuit.full(runner.graph), expected["eap"].top(2000)]
    logits = runner.logits(circuits).numpy()
    for found, own in zip(CompiledCircuits(runner).logits(circuits), logits, strict=True):
        assert_alike(found, own, LOGITS)

    narrow = open_model("smollm2-135m", dtype="bfloat16").lifted
    half = Runner.create(narrow, pairs, metric="logit_diff", engine="torch")
    for name, points in POINTS.items():
        own = expected[name].values[runner.graph.reads]
        found = compiled(half, points).values[runner.graph.reads]
        top = np.argsort(-np.abs(own))[:1000]
        assert spearmanr(found[top], own[top]).statistic >= 0.95, name
