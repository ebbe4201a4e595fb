"""On a graphics card every type of model is lifted, certified and searched as on the processor.

Skipped where there is none; `EDGEWISE_TEST_DEVICE=cpu` runs the same tests on the processor.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from edgewise.discovery.registry import get_method
from edgewise.graphs.lift.lifting import describe
from edgewise.patching.run.certificate import certify
from edgewise.patching.run.runner import Runner
from tests.engine import one_of_each_type, tiny_model, tiny_pairs

DEVICE = os.environ.get("EDGEWISE_TEST_DEVICE", "cuda")
if DEVICE == "cuda" and not torch.cuda.is_available():
    pytest.skip("there is no graphics card", allow_module_level=True)
NAMES = one_of_each_type().values()
FAIL = {
    "xlstm": "the model's own code does not run in 16 bits",
    "nemotron-h": "in 16 bits what is read off the modules' outputs is rounded; it is refused",
}
"""Types whose lift in bfloat16 is refused on a card, and why."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_the_certificate_is_as_sharp_there(
    name: str, dtype: torch.dtype, request: pytest.FixtureRequest
) -> None:
    if dtype == torch.bfloat16 and name in FAIL:
        request.applymarker(pytest.mark.xfail(reason=FAIL[name], strict=False))
    lifted = describe(tiny_model(name, dtype=dtype).to(DEVICE))
    certify(lifted).require()
    certify(lifted, tiny_pairs(lengths=(9, 5, 7))).require()


@pytest.mark.parametrize("name", NAMES)
def test_scores_and_circuits_are_the_processors(name: str) -> None:
    pairs = tiny_pairs()
    here, there = (
        Runner.create(describe(tiny_model(name).to(device)), pairs, metric="kl")
        for device in ("cpu", DEVICE)
    )
    own, far = (get_method("eap-ig")(runner, steps=2).scores.values for runner in (here, there))
    # the code of parts taken whole computes in float32 whatever their type
    error = 1e-4 * np.nanmax(np.abs(own)) if "whole" in here.graph.mixers else 1e-7
    assert np.allclose(own, far, rtol=1e-5, atol=error, equal_nan=True)
    own, far = (get_method("acdc")(runner, threshold=0.01).circuit for runner in (here, there))
    assert own == far
