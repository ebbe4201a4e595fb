"""Gemma 3 270M, where someone who accepts its terms of use points at it: `EDGEWISE_GEMMA3=PATH`.

The path may be the alias, where its licence was accepted; no test fetches it by itself.
"""

from __future__ import annotations

import os

import pytest
import torch

from edgewise.graphs.lift.lifting import describe
from edgewise.graphs.load.loading import LoadedModel, load
from edgewise.patching.run.certificate import certify

PATH = os.environ.get("EDGEWISE_GEMMA3", "")

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not PATH, reason="EDGEWISE_GEMMA3 names no Gemma 3 270M"),
]


@pytest.fixture(scope="module")
def gemma() -> LoadedModel:
    return load(PATH, device="cpu")


def test_gemma3_270m_lifts_exactly(gemma: LoadedModel) -> None:
    lifted = describe(gemma.model)
    certificate = certify(lifted).require()
    assert certificate.kept_all < 1e-2
    assert certificate.stream < 1e-5
    assert lifted.graph.edge_count == 4339
    assert lifted.graph.post_norm
    windows = [block.attention.window for block in lifted.blocks]
    assert windows == ([512] * 5 + [None]) * 3
    assert {block.attention.scale for block in lifted.blocks} == {1 / 16}


def test_gemma3_270m_certifies_in_bfloat16(gemma: LoadedModel) -> None:
    for parameter in gemma.model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    certificate = certify(describe(gemma.model)).require()
    assert certificate.blocks is not None
    assert 0.07 < certificate.blocks < 0.25
