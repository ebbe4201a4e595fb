"""A model spread over several devices gives the numbers of the same model on one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from edgewise.discovery.registry import get_method
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.lift import devices
from edgewise.graphs.lift.lifted import LiftedModel
from edgewise.patching.gradients.attribution import attribute
from edgewise.patching.gradients.port_gradients import port_gradients
from edgewise.patching.heads.random_tokens import model_blocks
from edgewise.patching.heads.roles import measure
from edgewise.patching.run.runner import Runner
from edgewise.patching.transplant.donor import clean_runner, record
from edgewise.patching.transplant.transplant import Transplant
from tests.devices import Machine, moved
from tests.engine import random_mask, tiny_lift, tiny_pairs

NAMES = ["gpt2", "llama", "gpt-neox", "gemma2", "qwen2-some-windows", "gemma4-e"]
ABLATIONS = ["resample", "zero"]


def spread(model: LiftedModel) -> LiftedModel:
    """Put the embedding and the first block on device 0, the rest on device 1."""
    first, *rest = model.blocks
    return replace(
        model,
        tokens=moved(model.tokens, 0),
        positions=moved(model.positions, 0),
        blocks=(moved(first, 0), *(moved(block, 1) for block in rest)),
        final_norm=moved(model.final_norm, 1),
        unembed=moved(model.unembed, 1),
        model=None,
    )


@pytest.fixture(autouse=True)
def machine() -> Iterator[None]:
    with Machine():
        yield


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("start_row", [0, 4])
def test_circuits_run_over_two_devices(name: str, ablation: str, start_row: int) -> None:
    model = tiny_lift(name)
    pairs = tiny_pairs(lengths=(5, 7, 6))
    masks = np.stack([random_mask(model.graph, density, 1) for density in (0, 0.3, 0.9, 1)])
    masks[:, :start_row] = model.graph.reads[:start_row]
    alone, apart = (
        Runner.create(m, pairs, ablation=ablation).mask_losses(masks, start_row)
        for m in (model, spread(model))
    )
    np.testing.assert_allclose(apart, alone, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_scores_are_taken_over_two_devices(name: str, ablation: str) -> None:
    model = tiny_lift(name, grouped_kv=True)
    alone, apart = (
        attribute(Runner.create(m, tiny_pairs(), ablation=ablation), [0.0, 0.5])
        for m in (model, spread(model))
    )
    np.testing.assert_allclose(apart.values, alone.values, rtol=1e-9, atol=1e-12)


def test_acdc_searches_over_two_devices() -> None:
    model = tiny_lift("gpt2")
    alone, apart = (
        get_method("acdc")(Runner.create(m, tiny_pairs()), threshold=0.05).circuit
        for m in (model, spread(model))
    )
    assert alone is not None
    assert apart is not None
    assert np.array_equal(apart.kept, alone.kept)
    assert 0 < alone.kept.sum() < model.graph.edge_count


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("metric", ["logit_diff", "kl"])
def test_values_are_transplanted_over_two_devices(name: str, metric: str) -> None:
    donor, receiver = (tiny_lift(name, seed) for seed in (1, 0))
    pairs = tiny_pairs(lengths=(5, 7, 6))
    masks = np.stack([random_mask(receiver.graph, density, 1) for density in (0, 0.3, 1)])
    models = [(donor, receiver), (spread(donor), receiver), (donor, spread(receiver))]
    found = []
    for one, other in [*models, (spread(donor), spread(receiver))]:
        donated = record(clean_runner(one, pairs, metric))
        both = Transplant.create(other, pairs, donated)
        found.append([both.receiver, both.donor, both.everything, *both.measure(masks)])
    np.testing.assert_allclose(found[1:], [found[0]] * 3, rtol=1e-9, atol=1e-12)


def test_gradients_of_a_circuit_are_taken_over_two_devices() -> None:
    model = tiny_lift("gpt2")
    found = []
    for m in (model, spread(model)):
        runner = Runner.create(m, tiny_pairs())
        circuit = Circuit(m.graph, random_mask(m.graph, 0.7, 0))
        found.append(port_gradients(runner, next(iter(runner.chunks())), circuit))
    alone, apart = found
    assert set(alone) == set(apart)
    for port, gradient in alone.items():
        torch.testing.assert_close(apart[port].cpu(), gradient)


def test_tensors_of_two_devices_do_not_meet_in_the_double() -> None:
    a, b = moved(torch.ones(2), 0), moved(torch.ones(2), 1)
    assert (a.device, b.device) == (torch.device("meta", 0), torch.device("meta", 1))
    with pytest.raises(RuntimeError, match="meta:0 and meta:1"):
        a + b
    with pytest.raises(RuntimeError, match="cpu and meta:0"):
        a + torch.ones(2)
    assert (a + devices.place(b, a.device)).cpu().tolist() == [2.0, 2.0]


def test_nothing_is_moved_on_one_device() -> None:
    x = torch.ones(2)
    assert devices.place(x, x.device) is x


@pytest.mark.parametrize("name", NAMES)
def test_heads_are_measured_over_two_devices(name: str) -> None:
    model, pairs = tiny_lift(name), tiny_pairs(lengths=(5, 7, 6))
    blocks = model_blocks(model, sequences=3)
    alone, apart = (measure(m, blocks, pairs) for m in (model, spread(model)))
    assert apart.difference == pytest.approx(alone.difference)
    for one, other in zip(apart.heads, alone.heads, strict=True):
        for key, value in {**other.scores, **other.spans}.items():
            found = {**one.scores, **one.spans}[key]
            assert found == (value if value is None else pytest.approx(value, abs=1e-12))
