"""Weights stand once in memory where edgewise loaded them, and JAX leaves room to torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from jax import Array

from edgewise.graphs.errors import UnsupportedModel
from edgewise.graphs.lift.lifting import describe
from edgewise.graphs.load.loading import load
from edgewise.graphs.load.weights import lay_side_by_side, weights_sha256
from edgewise.patching import engines
from edgewise.patching.compiled import model as compiled_model
from edgewise.patching.compiled.engine import attribute
from edgewise.patching.compiled.model import compiled
from edgewise.patching.compiled.parts.sharing import CutOut, as_cut, in_one, whole
from edgewise.patching.metrics.registry import metrics
from edgewise.patching.run.memory import PREALLOCATE, free_for_jax, share_the_card
from edgewise.patching.run.runner import Runner
from tests.engine import tiny_model, tiny_pairs

# one matrix for all, transposed ones, alternating layers, shared keys, experts, what tokens give
FAMILIES = ["gpt2", "gemma2", "mixtral", "gemma4-e"]


def device() -> str:
    """Return where JAX computes here, as torch calls it."""
    return "cpu" if jax.default_backend() == "cpu" else "cuda"


def shared_bytes(model: torch.nn.Module, arrays: Any) -> tuple[int, int]:
    """Count the bytes of arrays that lie in a model's memory, and of those that do not."""
    tensors = [*model.parameters(), *model.buffers()]
    spans = [(x.untyped_storage().data_ptr(), x.untyped_storage().nbytes()) for x in tensors]
    found = [0, 0]
    leaf: Array
    for leaf in jax.tree_util.tree_leaves(arrays):
        at = leaf.unsafe_buffer_pointer()
        found[not any(start <= at < start + size for start, size in spans)] += leaf.nbytes
    return found[0], found[1]


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_laid_side_by_side_stand_once(name: str) -> None:
    model, other = (tiny_model(name, dtype=torch.float32).to(device()) for _ in range(2))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    own, names = weights_sha256(model), [key for key, _ in model.named_parameters()]
    lay_side_by_side(model, device())
    assert weights_sha256(model) == own and [key for key, _ in model.named_parameters()] == names
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]) and value.is_contiguous()
    lifted = describe(model)
    shared, copied = shared_bytes(model, compiled(lifted).weights)
    assert copied < 0.05 * shared  # numbers, and rows too small to begin where JAX wants arrays
    runs = [
        Runner.create(one, tiny_pairs(lengths=(6, 4, 5)), metric="logit_diff")
        for one in (lifted, describe(other))
    ]
    found, expected = (attribute(run, [0.5]).values for run in runs)
    assert np.allclose(
        found, expected, rtol=0, atol=1e-5 * np.nanmax(abs(expected)), equal_nan=True
    )


def test_a_model_that_is_handed_in_is_copied_and_never_altered() -> None:
    model = tiny_model("llama", dtype=torch.float32).to(device())
    places = [x.data_ptr() for x in model.parameters()]
    _, copied = shared_bytes(model, compiled(describe(model)).weights.layers)
    assert copied > sum(x.nbytes for x in model.model.layers.parameters()) / 2
    assert [x.data_ptr() for x in model.parameters()] == places


def test_a_loaded_model_is_laid_out_on_its_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, asked = tiny_model("llama", dtype=torch.float32), list[str]()
    model.save_pretrained(tmp_path)
    monkeypatch.setattr("edgewise.graphs.load.loading.resolve_device", lambda device: device)
    lay = "edgewise.graphs.load.loading.lay_side_by_side"
    monkeypatch.setattr(lay, lambda model, device: asked.append(device))
    assert load(tmp_path, device="cuda").weights_sha256 == weights_sha256(model)
    load(tmp_path, device="cpu")
    assert asked == ["cuda"]


def test_tied_and_several_stacks() -> None:
    model = tiny_model("gpt2", dtype=torch.float32)
    lay_side_by_side(model, "cpu")
    assert model.lm_head.weight is model.transformer.wte.weight
    first, second = (layer.mlp.c_fc.weight for layer in model.transformer.h[:2])
    assert first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_views_are_what_is_cut_out_of_a_whole() -> None:
    """Every second layer; a third of a matrix by heads, transposed; by hand and put together."""
    base = torch.randn(4, 24, 48)
    parts = [layer.t()[16:32].view(4, 4, 24) for layer in base[1::2]]
    view = in_one(parts)
    assert view is not None and view.data_ptr() == parts[0].data_ptr()
    found = as_cut(view)
    assert found is not None
    cut = CutOut(jax.numpy.asarray(found[0].numpy()), found[1])
    assert found[0].is_contiguous() and found[0].data_ptr() == base.data_ptr()
    for i, part in enumerate(parts):
        layer = whole(jax.tree_util.tree_map(lambda x, i=i: x[i], cut))
        assert np.array_equal(layer, part.numpy())
    assert as_cut(torch.zeros(1, 8).expand(3, 8)) is None
    assert in_one([base[0], base[2], base[3]]) is None and in_one([base[1], base[0]]) is None
    assert in_one([base[0], base[0].t()]) is None


def test_a_model_for_whose_copy_there_is_no_room_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handed, laid = (describe(tiny_model("llama", dtype=torch.float32)) for _ in range(2))
    assert laid.model is not None
    lay_side_by_side(laid.model, "cpu")
    laid, metric = describe(laid.model), metrics()["logit_diff"]
    monkeypatch.setattr(compiled_model, "free_bytes", lambda device: 1000)
    monkeypatch.setattr(engines, "on_a_card", lambda device: True)
    with pytest.raises(UnsupportedModel, match=r"more on cpu and 0\.0 GB are free.* name or dir"):
        engines.engine_of("jax", handed, metric)
    assert engines.engine_of("auto", handed, metric) == "torch"
    assert engines.engine_of("auto", laid, metric) == "jax"


def test_jax_takes_what_is_free_for_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a card of 80 GB JAX may take 60, and has 9 in its arena, of which 4 are used."""
    stats = {"bytes_limit": 60 << 30, "bytes_in_use": 4 << 30, "pool_bytes": 9 << 30}
    assert free_for_jax(stats, 0) == 56 << 30  # torch sees no card
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    for free, expected in ((21, 26), (70, 56), (0, 5)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number, n=free: (n << 30, 80 << 30))
        assert free_for_jax(stats, 0) == expected << 30


START = """
import os, sys, jax
from edgewise.patching.compiled.model import compiled
from edgewise.patching.run.memory import PREALLOCATE

def start():
    print(os.environ.get(PREALLOCATE))
    sys.exit()

jax.devices = start
compiled(None)
"""


@pytest.mark.parametrize("own", [None, "true"])
def test_memory_is_not_taken_when_jax_starts(own: str | None) -> None:
    environment = {key: value for key, value in os.environ.items() if key != PREALLOCATE}
    environment |= {} if own is None else {PREALLOCATE: own}
    run = [sys.executable, "-c", START]
    found = subprocess.run(run, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == (own or "false")


def test_a_jax_that_has_started_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    jax.devices()
    monkeypatch.delenv(PREALLOCATE, raising=False)
    share_the_card()
    assert PREALLOCATE not in os.environ
