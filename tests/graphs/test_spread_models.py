"""Models that accelerate spreads over devices: lifted where they lie, or refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from edgewise.graphs.errors import UnsupportedModel
from edgewise.graphs.lift.lifting import _check_devices, describe
from edgewise.patching.run.certificate import certify
from tests.devices import Machine, moved
from tests.engine import tiny_lift, tiny_model

accelerate = pytest.importorskip("accelerate")


def spread(model: Any, **places: str) -> Any:
    device_map = {name: "cpu" for name, _ in model.named_children()}
    return accelerate.dispatch_model(model, {**device_map, **places}, force_hooks=True)


def test_hooks_that_move_data_may_stay() -> None:
    model = spread(tiny_model("llama"))
    assert any(hasattr(module, "_hf_hook") for module in model.modules())
    certify(describe(model)).require()


def test_other_hooks_of_accelerate_are_refused_by_name() -> None:
    model = spread(tiny_model("gpt2"))
    accelerate.hooks.add_hook_to_module(
        model.transformer.h[1].mlp, accelerate.hooks.CpuOffload("cpu"), append=True
    )
    with pytest.raises(UnsupportedModel, match=r"forward hooks on transformer\.h\.1\.mlp"):
        describe(model)


def test_offloaded_parts_are_refused_by_name(tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    accelerate.cpu_offload(model.transformer.h[1])
    with pytest.raises(UnsupportedModel, match=r"12 parameters .*'meta'.*transformer\.h\.1\.ln_1"):
        describe(model)
    model = tiny_model("llama")
    accelerate.disk_offload(model.model.layers[0].mlp, str(tmp_path))
    with pytest.raises(UnsupportedModel, match=r"3 parameters .*model\.layers\.0\.mlp\.gate_proj"):
        describe(model)


def test_a_layer_cut_up_among_devices_is_refused() -> None:
    lifted = tiny_lift("llama")
    first, second = lifted.blocks
    with Machine():
        apart = replace(second, mlp=moved(second.mlp, 1))
        with pytest.raises(UnsupportedModel, match="layer 1 of the model lies on cpu and meta:1"):
            _check_devices(replace(lifted, blocks=(first, apart)))
        table = replace(second.attention, rotary=moved(second.attention.rotary, 1))
        _check_devices(replace(lifted, blocks=(first, replace(second, attention=table))))
    assert torch.device("cpu") == first.device
