"""A directory of every family is loaded with an attention that its class has, and lifts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgewise.graphs.lift.lifting import describe
from edgewise.graphs.load.loading import load
from edgewise.patching.run.certificate import certify
from tests.engine import one_of_each_type, tiny_model

BODIES = ("emu3_text_model", "mistral4")
ALONE = [name for kind, name in one_of_each_type().items() if kind not in BODIES]
"""All but the text bodies that transformers itself opens only with their multimodal models."""


@pytest.mark.parametrize("name", ALONE)
def test_a_saved_model_lifts(name: str, tmp_path: Path) -> None:
    model = tiny_model(name, dtype=torch.float32)
    getattr(model, "whole", model).save_pretrained(tmp_path)  # of a text body
    certify(describe(load(tmp_path, device="cpu").model)).require()
