"""Planted circuits: exact effects see the planted edges, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.discovery.registry import get_method
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import EdgewiseError
from edgewise.graphs.lift.lifting import describe
from edgewise.known.planted import PlantedModel, plant, random_circuit
from edgewise.known.shapes import PlantedShape
from edgewise.patching.prompts.pairs import Pair, PromptPairs
from edgewise.patching.run.runner import Runner

SHAPES = {
    "gpt2": PlantedShape(),
    "llama": PlantedShape("llama"),
    "llama, shared keys and values": PlantedShape("llama", heads=4, kv_heads=2),
    "gpt2, deeper": PlantedShape(layers=4, heads=3),
}
BEYOND = 1e-6
"""Above every effect of an edge that was not planted, below those that were."""


def random_pairs(shape: PlantedShape, count: int = 12, seed: int = 0) -> PromptPairs:
    draw = np.random.default_rng(seed)

    def tokens() -> tuple[int, ...]:
        return tuple(int(i) for i in draw.integers(1, shape.vocabulary, 8))

    answers = (draw.choice(np.arange(1, shape.vocabulary), 2, replace=False) for _ in range(count))
    return PromptPairs(tuple(Pair(tokens(), tokens(), (int(a),), (int(b),)) for a, b in answers))


def runner_of(planted: PlantedModel, **options: str) -> Runner:
    settings = {"metric": "kl", **options}
    return Runner.create(describe(planted.model), random_pairs(planted.shape), **settings)


def effects(planted: PlantedModel, **options: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the exact effects of the planted edges, and of all others."""
    runner = runner_of(planted, **options)
    found = np.abs(get_method("exact")(runner).scores.values)
    kept = planted.circuit.kept
    return found[kept], found[runner.graph.reads & ~kept]


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("ablation", ["resample", "mean"])
def test_exact_effects_are_of_planted_edges_alone(name: str, ablation: str) -> None:
    planted, others = effects(plant(SHAPES[name], seed=3), ablation=ablation)
    assert planted.min() > BEYOND > others.max()


@settings(max_examples=8, deadline=None)
@given(
    architecture=st.sampled_from(["gpt2", "llama"]), layers=st.integers(1, 3),
    heads=st.integers(1, 4), seed=st.integers(0, 10_000),
)  # fmt: skip
def test_any_drawn_circuit_can_be_planted(
    architecture: str, layers: int, heads: int, seed: int
) -> None:
    shape = PlantedShape(architecture, layers, heads)
    planted, others = effects(plant(shape, seed=seed))
    assert len(planted)
    assert others.size == 0 or planted.min() > others.max()


def test_acdc_finds_exactly_what_was_planted() -> None:
    planted = plant(PlantedShape("llama", layers=3, heads=2), seed=5)
    found = get_method("acdc")(runner_of(planted), threshold=1e-5).circuit
    assert found == planted.circuit


def test_a_circuit_of_ones_own() -> None:
    shape = PlantedShape(layers=2, heads=2)
    names = ["embed->a0.h1<v>", "a0.h1->m1", "m1->logits"]
    circuit = Circuit.empty(shape.graph).with_edges(names)
    found = plant(shape, circuit, seed=1)
    planted, others = effects(found)
    assert planted.min() > BEYOND > others.max()
    runner = runner_of(found)
    assert runner.loss(circuit) == pytest.approx(0, abs=1e-6)  # all else ablated together
    assert runner.loss(circuit.without(names[:1])) > 1e-3


def test_a_leak_is_felt_and_is_smaller() -> None:
    shape, seed = PlantedShape(layers=2, heads=2), 4
    silent, loud = (effects(plant(shape, seed=seed, leak=leak)) for leak in (0.0, 0.05))
    assert silent[1].max() < BEYOND
    assert loud[1].max() > 100 * BEYOND
    assert np.median(loud[0]) > 10 * np.median(loud[1])


def test_the_same_seed_makes_the_same_model() -> None:
    first, second, other = (plant(seed=seed).model.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "the circuit has no edge"),
        (["embed->a0.h0<v>"], "lies on no path from the embedding to the logits"),
        (["embed->a0.h0<q>", "a0.h0->logits"], "a0.h0 reads no values, queries and no keys"),
        (["embed->a0.h0<v>", "embed->a0.h0<k>", "a0.h0->logits"], "no queries and keys"),
        (
            ["embed->a1.h0<v>", "embed->a1.h1<v>", "m0->a1.h1<v>", "embed->m0", "a1.h0->logits",
             "a1.h1->logits"],
            "a1.h0<v> and a1.h1<v> are one tensor in the model",
        ),
    ],
)  # fmt: skip
def test_what_no_weights_can_give_is_refused(names: list[str], said: str) -> None:
    shape = PlantedShape("llama", heads=2, kv_heads=1)
    with pytest.raises(EdgewiseError, match=said):
        plant(shape, Circuit.empty(shape.graph).with_edges(names))


def test_shapes_that_cannot_be_made_are_refused() -> None:
    with pytest.raises(EdgewiseError, match="no circuit can be planted in 'bert'; accepted: gpt2"):
        PlantedShape("bert")
    with pytest.raises(EdgewiseError, match="as many key/value heads as heads"):
        PlantedShape(kv_heads=1)
    with pytest.raises(EdgewiseError, match="width 16 does not hold the coordinates of 6 senders"):
        PlantedShape(width=16)
    with pytest.raises(EdgewiseError, match="the leak is 1"):
        plant(leak=1.0)
    with pytest.raises(EdgewiseError, match="they differ in"):
        plant(PlantedShape(layers=3), random_circuit(PlantedShape(layers=2)))
