"""A directory of every family is loaded with an attention that its class has, and lifts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgewise.graphs.lift.lifting import describe
from edgewise.graphs.load.loading import load
from edgewise.patching.run.certificate import certify
from tests.engine import one_of_each_type, tiny_model

ALONE = [name for kind, name in one_of_each_type().items() if kind != "emu3_text_model"]
"""All but a text body that transformers itself opens only with its multimodal model."""


@pytest.mark.parametrize("name", ALONE)
def test_a_saved_model_lifts(name: str, tmp_path: Path) -> None:
    model = tiny_model(name, dtype=torch.float32)
    getattr(model, "whole", model).save_pretrained(tmp_path)  # of a text body
    certify(describe(load(tmp_path, device="cpu").model)).require()
