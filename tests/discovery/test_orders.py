"""ACDC in other orders: one order is ACDC itself, and what survives is counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgewise.discovery.acdc import Rule, steps, walk
from edgewise.discovery.journal import Entry
from edgewise.discovery.registry import Discovery, get_method
from edgewise.discovery.searches.orders import KEY, Order, Orders, survived
from edgewise.graphs.errors import EdgewiseError
from edgewise.graphs.graph import ComputationGraph
from edgewise.patching.incremental.search import IncrementalSearch, Search
from edgewise.patching.run.runner import Runner
from tests.engine import tiny_lift, tiny_pairs


def tiny_runner(name: str = "llama", seed: int = 0, metric: str = "kl") -> Runner:
    return Runner.create(tiny_lift(name, seed), tiny_pairs(seed, (4, 3)), metric=metric)


def same(a: Discovery, b: Discovery) -> None:
    assert a.circuit == b.circuit
    np.testing.assert_array_equal(a.scores.values, b.scores.values)
    assert (a.questions, a.order, dict(a.notes)) == (b.questions, b.order, dict(b.notes))


@pytest.mark.parametrize(("name", "ports_first"), [("llama", False), ("gpt2", True)])
def test_one_order_is_acdc(name: str, ports_first: bool) -> None:
    runner, acdc = tiny_runner(name), get_method("acdc")
    options = {"threshold": 0.01, "ports_first": ports_first}
    one = acdc(runner, permute=1, order_seed=7, survive=1.0, **options)
    same(one, acdc(runner, **options))
    rule = Rule(0.01, ports_first, candidates=64)
    assert one.circuit == walk(Search(runner), runner.graph, rule).circuit


@pytest.mark.parametrize("shape", [
    {"layers": 3, "heads": 2}, {"layers": 2, "heads": 4, "kv_heads": 2, "grouped_kv": True},
    {"layers": 2, "heads": 2, "parallel": True}, {"layers": 2, "heads": 2, "post_norm": True},
])  # fmt: skip
def test_whatever_the_order_readers_come_first(shape: dict[str, int]) -> None:
    graph = ComputationGraph(**shape)  # type: ignore[arg-type]
    default = steps(graph, False)
    drawn = [steps(graph, False, Order(n, 3)) for n in (1, 2)]
    for found in drawn:
        assert sorted(found, key=str) == sorted(default, key=str)
        decided: set[int] = set()
        for step in found:
            (row,) = step.rows
            readers = {i for u in graph.feeds[row] for i in np.flatnonzero(graph.reads[:, u])}
            assert readers <= decided
            decided.add(row)
    assert drawn[0] != drawn[1]
    assert drawn[0] == steps(graph, False, Order(1, 3))


@pytest.mark.parametrize("name", ["llama", "gpt-neox"])
def test_shares_count_walks_and_the_rest_is_left_out(name: str) -> None:
    runner, acdc = tiny_runner(name, 2), get_method("acdc")
    graph = runner.graph
    rules = [Rule(0.02, order=order) for order in Orders(permute=3, order_seed=5).all]
    walks = [walk(IncrementalSearch(runner, 0.02), graph, rule).circuit for rule in rules]
    masks = np.stack([one.kept for one in walks if one is not None])
    assert any((masks[0] != other).any() for other in masks[1:])  # order matters here
    for survive, least in ((0.5, 2), (1.0, 3)):
        found = acdc(runner, threshold=0.02, permute=3, order_seed=5, survive=survive)
        assert found.circuit is not None
        np.testing.assert_array_equal(found.circuit.kept, masks.sum(0) >= least)
        assert (np.isnan(found.scores.values) == ~found.circuit.kept).all()
        shares = {(u, p): share for u, p, share in found.notes[KEY]["edges"]}
        assert len(shares) == masks.any(0).sum()
        for row, column in np.argwhere(masks.any(0)):
            name_of = (str(graph.senders[column]), str(graph.ports[row]))
            assert shares[name_of] == pytest.approx(masks[:, row, column].mean(), abs=1e-6)
        assert found.notes["loss_search"] == pytest.approx(runner.loss(found.circuit), abs=1e-6)
    text = survived({KEY: found.notes[KEY]})
    assert text is not None
    assert text.startswith(f"{masks.all(0).sum():,} edges in all 3 orders")


def test_walks_in_orders_go_on_from_their_journal() -> None:
    class Notes:
        def __init__(self, entries: list[Entry]) -> None:
            self.entries = entries

        def append(self, entry: Entry) -> None:
            self.entries = [*self.entries, replace(entry)]

    runner, acdc, whole = tiny_runner("gpt2"), get_method("acdc"), Notes([])
    options = {"threshold": 0.02, "permute": 2, "candidates": 8}
    expected = acdc(runner, None, whole, **options)
    same(expected, acdc(runner, **options))
    steps = [entry.step for entry in whole.entries]
    assert any(step.startswith("order 2: ") for step in steps)
    assert not steps[0].startswith("order")
    for end in (len(steps) // 4, len(steps) - 1):
        same(expected, acdc(runner, None, Notes(list(whole.entries[:end])), **options))


@pytest.mark.parametrize(("options", "said"), [
    ({"permute": 0}, "at least 1"), ({"survive": 1.5}, "at most 1"), ({"order_seed": -1}, "0"),
])  # fmt: skip
def test_wrong_orders_are_refused(options: dict[str, float], said: str) -> None:
    with pytest.raises(EdgewiseError, match=rf"of method 'acdc' is .*accepted: .*{said}"):
        get_method("acdc").check(options)
