"""A walk that goes on from its journal is the walk that never stopped, to the last bit."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.discovery.acdc import Rule, steps, walk
from edgewise.discovery.journal import Entry
from edgewise.discovery.registry import Discovery, get_method
from edgewise.discovery.resumable import question_bound
from edgewise.graphs.errors import EdgewiseError, FileFormatError
from edgewise.graphs.graph import ComputationGraph
from edgewise.patching.incremental import normaliser as vocabulary
from edgewise.patching.incremental import readout
from edgewise.patching.incremental.search import BaseKind, IncrementalSearch, Search
from edgewise.patching.run.runner import Runner
from tests.engine import tiny_lift, tiny_pairs


class Notes:
    """A journal in memory, whose entries go through JSON as in a file."""

    def __init__(self, entries: list[Entry] | None = None) -> None:
        self.entries = list(entries or [])

    def append(self, entry: Entry) -> None:
        document = json.loads(json.dumps(entry.as_dict()))
        self.entries.append(Entry.read(document, len(self.entries)))


class Stop(Exception):
    pass


def same(a: Discovery, b: Discovery) -> None:
    assert a.circuit == b.circuit
    np.testing.assert_array_equal(a.scores.values, b.scores.values)
    assert (a.questions, a.order, dict(a.notes)) == (b.questions, b.order, dict(b.notes))


@pytest.fixture
def small_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let models of 31 tokens bound their normaliser, with heads of 2 and 6 tokens."""
    monkeypatch.setattr(readout, "SIZES", (2, 6))
    monkeypatch.setattr(vocabulary, "HEAVY_TAIL", 0.5)
    monkeypatch.setattr(vocabulary, "LIGHTER", 1e-9)  # so flat a vocabulary has no better head


def make_runner(name: str, metric: str, batch_size: int | None = None, seed: int = 0) -> Runner:
    model, pairs = tiny_lift(name, seed), tiny_pairs(seed, (5, 4, 5))
    return Runner.create(model, pairs, metric=metric, batch_size=batch_size)


CASES = [
    ("gpt2", "kl", 0.02, False, None),
    ("llama", "kl", 0.05, True, 2),
    ("llama", "nll", 0.01, False, 1),
    ("gpt2", "logit_diff", 0.01, True, None),
    ("gemma2", "kl", 0.2, False, None),
]


@pytest.mark.parametrize(("name", "metric", "threshold", "ports_first", "batch_size"), CASES)
@pytest.mark.usefixtures("small_heads")
def test_going_on_behind_every_step_changes_nothing(
    name: str, metric: str, threshold: float, ports_first: bool, batch_size: int | None
) -> None:
    runner = make_runner(name, metric, batch_size)
    options = {"threshold": threshold, "ports_first": ports_first, "candidates": 8}
    whole = Notes()
    expected = get_method("acdc")(runner, None, whole, **options)
    same(expected, get_method("acdc")(runner, **options))
    assert len(whole.entries) > 3
    for stop in [*range(0, len(whole.entries), 2), len(whole.entries)]:
        again = Notes(whole.entries[:stop])
        same(get_method("acdc")(runner, None, again, **options), expected)
        assert again.entries == whole.entries


@pytest.mark.usefixtures("small_heads")
def test_the_cases_move_and_renew_base_points() -> None:
    marks = set()
    for name, metric, threshold, ports_first, batch_size in CASES:
        notes = Notes()
        runner = make_runner(name, metric, batch_size)
        get_method("acdc")(runner, None, notes, threshold=threshold, ports_first=ports_first)
        marks |= {entry.mark for entry in notes.entries}
    assert marks == set(BaseKind)


@pytest.mark.usefixtures("small_heads")
def test_an_exception_at_every_report_loses_one_step_at_most() -> None:
    runner = make_runner("gpt2", "kl")
    whole, reports = Notes(), []
    expected = get_method("acdc")(runner, lambda *report: reports.append(report), whole)
    for stop in range(1, len(reports), 5):
        notes, seen = Notes(), []

        def told(*report: Any, stop: int = stop, seen: list[Any] = seen) -> None:
            seen.append(report)
            if len(seen) == stop:
                raise Stop

        with pytest.raises(Stop):
            get_method("acdc")(runner, told, notes)
        assert notes.entries == whole.entries[: len(notes.entries)]
        same(get_method("acdc")(runner, None, notes), expected)


@settings(max_examples=10, deadline=None)
@given(
    name=st.sampled_from(["gpt2", "llama", "llama-multi-query"]),
    threshold=st.sampled_from([1e-4, 0.01, 0.1]),
    candidates=st.sampled_from([1, 3, 64]),
    ports_first=st.booleans(),
    absolute=st.booleans(),
    dense=st.booleans(),
    stops=st.lists(st.integers(0, 40), min_size=1, max_size=3),
    seed=st.integers(0, 20),
)
def test_any_walk_stopped_any_number_of_times(
    name: str, threshold: float, candidates: int, ports_first: bool, absolute: bool,
    dense: bool, stops: list[int], seed: int,
) -> None:  # fmt: skip
    runner = make_runner(name, "kl", seed=seed)
    rule = Rule(threshold, ports_first, absolute, candidates)

    def search() -> Any:
        return Search(runner) if dense else IncrementalSearch(runner, threshold)

    expected = walk(search(), runner.graph, rule)
    notes = Notes()
    for stop in sorted(stops):
        walk(search(), runner.graph, rule, None, notes)
        del notes.entries[stop:]
    same(walk(search(), runner.graph, rule, None, notes), expected)
    bound = question_bound(runner.graph, candidates, ports_first)
    assert expected.questions <= bound
    if candidates == 1 and not ports_first:
        assert bound == runner.graph.edge_count


def test_a_journal_that_does_not_fit_is_refused() -> None:
    runner = make_runner("gpt2", "kl")
    notes = Notes()
    get_method("acdc")(runner, None, notes)
    with pytest.raises(FileFormatError, match="has 'm1' where the walk reaches 'logits'"):
        get_method("acdc")(runner, None, Notes(notes.entries[1:]))
    other = replace(notes.entries[0], kept={"m7": 0.5})
    with pytest.raises(FileFormatError, match=r"has 'logits' where .* names what is not there"):
        get_method("acdc")(runner, None, Notes([other]))
    with pytest.raises(FileFormatError, match=r"entry 1 of the journal cannot be read .*'kept'"):
        Entry.read({"step": "logits"}, 1)
    with pytest.raises(FileFormatError, match="where the walk reaches 'its end'"):
        get_method("acdc")(runner, None, Notes([*notes.entries, notes.entries[0]]))
    with pytest.raises(EdgewiseError, match=r"'eap' keeps no journal.*accepted: acdc"):
        get_method("eap")(runner, None, Notes())


def test_an_entry_keeps_its_floats() -> None:
    entry = Entry("m1", {"m0": 0.1 + 0.2, "embed": None}, 4, 10, 3, BaseKind.MOVED)
    assert Entry.read(json.loads(json.dumps(entry.as_dict())), 1) == entry


def test_steps_cover_every_port_once() -> None:
    graph = ComputationGraph(layers=3, heads=2)
    for ports_first in (False, True):
        found = steps(graph, ports_first)
        single = [step.rows[0] for step in found if not step.whole]
        assert sorted(single) == list(range(len(graph.ports)))
        assert sum(step.whole for step in found) == (3 if ports_first else 0)
