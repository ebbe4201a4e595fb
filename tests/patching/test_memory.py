"""Pieces of work follow the memory of the model's device, and what they give does not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from edgewise.discovery.random_circuits import random_circuits
from edgewise.discovery.registry import get_method
from edgewise.graphs.circuit import Circuit
from edgewise.patching.gradients import attribution
from edgewise.patching.run import memory
from edgewise.patching.run.memory import LAPTOP, SHARES, Budget, free_bytes
from edgewise.patching.run.runner import Runner
from tests.devices import Distant, Machine, moved
from tests.engine import tiny_lift, tiny_pairs

SMALL = Budget.share(1 << 16)  # of a card that is all but full: one example, point, circuit …
CARD = torch.device("cuda", 0)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch say that a card has 60 GB free, and 5 of 20 that it holds itself."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60 << 30, 80 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 20 << 30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 15 << 30)


def test_a_processor_has_the_same_budget_everywhere() -> None:
    assert free_bytes(torch.device("cpu")) is None
    assert Budget.of(tiny_lift("gpt2")) == LAPTOP == Runner.create(*subject()).budget


@pytest.mark.usefixtures("card")
def test_what_torch_holds_and_does_not_use_is_free() -> None:
    assert free_bytes(CARD) == 65 << 30


def test_shares_grow_with_the_card_and_leave_a_quarter() -> None:
    one, two = Budget.share(1 << 30), Budget.share(2 << 30)
    for bound in fields(Budget):
        assert getattr(two, bound.name) == 2 * getattr(one, bound.name)
    gradients = 1 / SHARES.cache + 2 / SHARES.batch + 1 / SHARES.tape
    circuits = 1 / SHARES.cache + 1 / SHARES.batch + 11 / SHARES.run
    searches = 1 / SHARES.cache + 2 / SHARES.batch + 1 / SHARES.questions + 1 / SHARES.logits
    searches += 1 / SHARES.head
    assert max(gradients, circuits, searches) <= 0.75


@pytest.mark.parametrize("examples", [1, 7, 40])
def test_a_chunk_has_as_many_examples_as_fit(
    examples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_lift("llama")
    row = len(model.graph.senders) * 6 * model.d_model * 4
    monkeypatch.setattr(memory, "free_bytes", lambda device: SHARES.batch * row * examples)
    runner = Runner.create(model, tiny_pairs(lengths=(6,) * 40))
    assert runner.batch_size == examples


def test_the_fullest_of_several_devices_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_lift("llama")
    first, *rest = model.blocks
    with Machine():
        apart = replace(model, blocks=(first, *(moved(block, 1) for block in rest)), model=None)
        free = {"cpu": 4 << 30, "meta": 1 << 30}
        monkeypatch.setattr(memory, "free_bytes", lambda device: free[device.type])
        assert Budget.of(apart) == Budget.share(1 << 30)


def subject() -> tuple[Any, Any]:
    return tiny_lift("llama"), tiny_pairs(lengths=(4, 6, 6, 5))


def small(**options: Any) -> Runner:
    runner = Runner.create(*subject(), **options)
    return replace(runner, budget=SMALL)


@pytest.mark.parametrize("method", ["eap-ig", "acdc", "exact"])
@pytest.mark.parametrize("metric", ["kl", "logit_diff"])
def test_a_full_card_gives_the_same(method: str, metric: str) -> None:
    usual = get_method(method)(Runner.create(*subject(), metric=metric))
    found = get_method(method)(small(metric=metric, batch_size=1))
    np.testing.assert_allclose(found.scores.values, usual.scores.values, rtol=1e-6, atol=1e-9)
    assert found.circuit == usual.circuit


class Waits(TorchDispatchMode):
    """Count how often the processor waits for the device: for a number, a place, or a copy."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, far = str(func), any(isinstance(x, Distant) for x in args)
        back = name.startswith("aten._to_copy") and "cpu" in str((kwargs or {}).get("device"))
        asked = name.startswith(("aten._local_scalar_dense", "aten.nonzero", "aten.is_nonzero"))
        self.number += far and (back or asked)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def far() -> Iterator[Runner]:
    """Make a runner whose model lies on another device."""
    model, pairs = subject()
    with Machine():
        parts = ("tokens", "positions", "blocks", "final_norm", "unembed")
        there = {name: moved(getattr(model, name), 0) for name in parts}
        made = Runner.create(replace(model, **there, model=None), pairs, metric="nll", batch_size=2)
        list(made.chunks())
        yield made


def waits(work: Any) -> int:
    with Waits() as seen:
        work()
    return seen.number


def test_no_flush_of_scores_waits(far: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    attribution.attribute(far, [0.0, 0.5])
    few = waits(lambda: attribution.attribute(far, [0.0, 0.5]))
    monkeypatch.setattr(attribution, "ROWS_AT_ONCE", 1)
    again = waits(lambda: attribution.attribute(far, [0.0, 0.5]))
    assert again == few == 2  # whether the model has changed, at the start; the sums, at the end


def test_no_circuit_waits_for_another(far: Runner) -> None:
    graph = far.graph
    counts = {kind: count // 2 for kind, count in graph.count_by_kind().items()}
    some: list[Circuit] = random_circuits(graph, counts, 5)
    far.measure_each(some)
    assert waits(lambda: far.measure_each(some)) == waits(lambda: far.measure_each(some[:1])) == 3
    masks = np.stack([one.kept for one in some])
    assert waits(lambda: far.mask_losses(masks)) == 3  # at the start; one a chunk, at the end
