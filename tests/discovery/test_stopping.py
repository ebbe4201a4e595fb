"""Searches that stop by pairs they do not see: never a worse circuit than a smaller one noted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.discovery.acdc import Rule, walk
from edgewise.discovery.journal import Entry
from edgewise.discovery.registry import get_method
from edgewise.discovery.searches.stopping import KEY, Noted, Stop, far, smallest_as_good, stopped
from edgewise.graphs.errors import EdgewiseError
from edgewise.patching.incremental.search import IncrementalSearch
from edgewise.patching.run.runner import Runner
from tests.engine import tiny_lift, tiny_pairs

LENGTHS = (4, 3, 4, 3, 4, 3, 4, 3, 4, 3)
OPTIONS = {
    "acdc": {"threshold": 0.01, "stop_on": 4},
    "refine": {"edges": 20, "sweeps": 1, "stop_on": 4},
}


def tiny_runner(name: str = "llama", seed: int = 0, **options: Any) -> Runner:
    return Runner.create(tiny_lift(name, seed), tiny_pairs(seed, LENGTHS), **options)


@settings(max_examples=60, deadline=None)
@given(
    points=st.lists(st.tuples(st.integers(1, 30), st.floats(-1, 2)), min_size=1, max_size=9),
    error=st.floats(0, 0.5),
)
def test_no_smaller_circuit_is_nearer_to_the_model(
    points: list[tuple[int, float]], error: float
) -> None:
    curve = [Noted(edges, 1.0, held_out) for edges, held_out in points]
    chosen = curve[smallest_as_good(curve, lambda a, b: error * abs(a - b))]
    assert all(far(one) >= far(chosen) for one in curve if one.edges < chosen.edges)
    assert far(chosen) <= min(map(far, curve)) + error * len(curve)
    exact = curve[smallest_as_good(curve, lambda a, b: 0.0)]
    assert far(exact) == min(map(far, curve))


@pytest.mark.parametrize(("method", "name", "metric", "ablation"), [
    ("acdc", "llama", "kl", "resample"), ("acdc", "gpt2", "logit_diff", "mean"),
    ("refine", "llama", "kl", "mean"), ("refine", "gpt-neox", "logit_diff", "resample"),
])  # fmt: skip
def test_the_file_tells_what_was_measured(
    method: str, name: str, metric: str, ablation: str
) -> None:
    runner = tiny_runner(name, 3, metric=metric, ablation=ablation)
    found = get_method(method)(runner, **OPTIONS[method])
    told, circuit = found.notes[KEY], found.circuit
    assert circuit is not None
    curve, kept = told["curve"], told["held_out"]
    assert (told["pairs"], told["searched"], told["edges"]) == (4, 6, len(circuit))
    assert len(curve) > 1
    smaller = [one for one in curve if one["edges"] < told["edges"]]
    assert all(abs(1 - one["held_out"]) >= abs(1 - kept) for one in smaller)
    stop = Stop.of(runner, 4)
    seen, unseen = {p.clean for p in stop.search.pairs}, {p.clean for p in stop.judge.pairs}
    assert not seen & unseen
    assert len(stop.search.pairs) + len(stop.judge.pairs) == len(runner.pairs)
    again = stop.note(circuit)
    assert again.held_out == pytest.approx(kept, abs=1e-5)
    assert any(again.in_sample == pytest.approx(one["in_sample"], abs=1e-5) for one in curve)
    assert found.notes["loss_search"] == pytest.approx(runner.loss(circuit), abs=1e-5)
    text = stopped({KEY: told})
    assert text is not None
    assert text.startswith(f"at {len(circuit)} edges, ")


def test_acdc_goes_on_from_what_it_kept() -> None:
    runner = tiny_runner("llama", 1)
    found = get_method("acdc")(runner, **OPTIONS["acdc"])
    stop, circuit = Stop.of(runner, 4), None
    for one in found.notes[KEY]["curve"]:
        search = IncrementalSearch(stop.search, one["threshold"])
        if circuit is not None:
            search.restart(circuit.kept)
        rule = Rule(one["threshold"], candidates=64)
        now = walk(search, runner.graph, rule).circuit
        assert now is not None
        assert circuit is None or not (now.kept & ~circuit.kept).any()
        assert one["edges"] == len(now)
        circuit = now
    plain = get_method("acdc")(stop.search, threshold=0.01).circuit
    assert plain is not None
    assert found.notes[KEY]["curve"][0]["edges"] == len(plain)


def test_it_goes_on_from_its_journal() -> None:
    class Notes:
        def __init__(self, entries: list[Entry]) -> None:
            self.entries = entries

        def append(self, entry: Entry) -> None:
            self.entries = [*self.entries, replace(entry)]

    runner, acdc, whole = tiny_runner("gpt2"), get_method("acdc"), Notes([])
    expected = acdc(runner, None, whole, **OPTIONS["acdc"])
    number = len(whole.entries)
    assert any(entry.step.startswith("threshold ") for entry in whole.entries)
    for end in (number // 3, number - 1):
        again = acdc(runner, None, Notes(list(whole.entries[:end])), **OPTIONS["acdc"])
        assert again.circuit == expected.circuit
        np.testing.assert_array_equal(again.scores.values, expected.scores.values)
        assert (again.questions, dict(again.notes)) == (expected.questions, dict(expected.notes))


def test_refine_without_sweeps_passes_through_its_own_circuits() -> None:
    runner = tiny_runner("llama", 2, metric="kl")
    found = get_method("refine")(runner, edges=12, sweeps=0, stop_on=4)
    stop = Stop.of(runner, 4)
    first = get_method("refine")(stop.search, edges=12, sweeps=0)
    assert first.circuit is not None
    assert found.notes[KEY]["curve"][0]["edges"] == len(first.circuit)
    sizes = [one["edges"] for one in found.notes[KEY]["curve"]]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(("method", "options", "said"), [
    ("refine", {"stop_on": 10}, "keeps 10 of 10 pairs from the search; accepted: 2 to 9"),
    ("acdc", {"stop_on": 1}, "keeps 1 of 10 pairs"),
    ("acdc", {"stop_on": 2, "threshold": 0.0}, "a threshold above 0"),
    ("acdc", {"stop_on": 2, "permute": 2}, "given together; accepted: one of the two"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(method: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(EdgewiseError, match=said):
        get_method(method)(tiny_runner(), **options)
