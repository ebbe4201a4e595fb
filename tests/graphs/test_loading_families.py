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


OTHERS = ("float64", "bfloat16", "float16")
"""Each type of model is loaded in one of these: CTRL's code keeps a table in another type than
bfloat16, XGLM's has no mask in float64, and xLSTM's own code does not run in 16 bits."""

OWN = {"ctrl": "float16", "xglm": "float16", "xlstm": "float64"}


@pytest.mark.parametrize(("at", "name"), list(enumerate(one_of_each_type().values())))
def test_shards_are_read_in_each_type(at: int, name: str, tmp_path: Path) -> None:
    model = tiny_model(name, dtype=torch.float32)
    getattr(model, "whole", model).save_pretrained(tmp_path, max_shard_size=4000)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    dtype = OWN.get(name, OTHERS[at % len(OTHERS)])
    loaded = load(tmp_path, dtype=dtype, device="cpu")
    lifted = describe(loaded.model)
    assert lifted.dtype == getattr(torch, dtype)
    assert loaded.dtype == dtype
    certify(lifted).require()
