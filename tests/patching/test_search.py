"""Both searches give the same answers, whatever is asked, ablated and begun anew."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.discovery.acdc import Rule, walk
from edgewise.graphs.circuit import Circuit
from edgewise.patching.incremental import readout
from edgewise.patching.incremental.losses import LossBounds, Losses, rises
from edgewise.patching.incremental.search import IncrementalSearch, Search
from edgewise.patching.run.floors import beyond_rounding
from edgewise.patching.run.runner import Runner
from tests.engine import ABLATIONS, fitting, random_mask, tiny_lift, tiny_pairs

NAMES = [
    "gpt2",
    "llama",
    "llama-multi-query",
    "gptj",
    "olmo2",
    "gemma2-caps",
    "qwen2-moe",
    "gemma4-e",
]


class Both:
    """Ask both searches the same and compare what they say."""

    def __init__(self, runner: Runner, generator: np.random.Generator) -> None:
        self.runner, self.graph, self.generator = runner, runner.graph, generator
        self.searches: list[Search] = [Search(runner), IncrementalSearch(runner)]
        self.check()

    def check(self) -> None:
        dense, incremental = self.searches
        assert np.array_equal(dense.kept, incremental.kept)
        assert dense.questions == incremental.questions
        assert incremental.loss.value() == pytest.approx(dense.loss.value(), abs=1e-9)

    def rows(self) -> tuple[int, ...]:
        """Draw one port, or several attention ports of one layer."""
        generator, ports = self.generator, self.graph.ports
        row = int(generator.integers(len(ports)))
        if generator.random() < 0.6 or ports[row].letter is None:
            return (row,)
        layer = ports[row].node.layer
        attention = [i for i, p in enumerate(ports) if p.node.layer == layer and p.letter]
        number = int(generator.integers(1, min(5, len(attention))))
        return tuple(int(i) for i in generator.permutation(attention)[:number])

    def edges(self, shape: tuple[int, ...]) -> np.ndarray:
        density = self.generator.choice([0.1, 0.5, 1.0])
        ablated: np.ndarray = self.generator.random((*shape, len(self.graph.senders))) < density
        return ablated

    def ask(self) -> None:
        """Ask about some ports, perhaps twice, and perhaps ablate what was asked."""
        rows = self.rows()
        for _ in range(int(self.generator.integers(1, 3))):
            candidates = self.edges((int(self.generator.integers(1, 5)), len(rows)))
            losses = [search.ask(rows, candidates) for search in self.searches]
            dense, incremental = losses
            assert len(dense) == len(incremental) == len(candidates)
            known = dense.values()
            assert (incremental.bounds.low <= known + 1e-9).all()
            assert (incremental.bounds.high >= known - 1e-9).all()
            order = self.generator.permutation(len(candidates))
            for i in order[: int(self.generator.integers(0, len(order) + 1))]:
                assert incremental[int(i)].value() == pytest.approx(known[i], abs=1e-9)
            if self.generator.random() < 0.7:
                i = int(self.generator.integers(len(candidates)))
                for search, found in zip(self.searches, losses, strict=True):
                    search.commit(rows, candidates[i], found[i])
                self.check()

    def cut_dead_ports(self) -> None:
        """Take edges away from ports without a path to `logits`, which needs no question."""
        dead = np.flatnonzero(~self.graph.live(self.searches[0].kept)[0])
        for row in dead[: int(self.generator.integers(0, 3))]:
            ablated = self.edges((1,))
            for search in self.searches:
                search.commit((int(row),), ablated, None)
            self.check()

    def restart(self) -> None:
        """Go on from any circuit, a smaller or a larger one."""
        kept = random_mask(
            self.graph,
            self.generator.choice([0.1, 0.4, 0.8, 1.0]),
            int(self.generator.integers(99)),
        )
        if self.generator.random() < 0.3:
            kept |= self.searches[0].kept
        for search in self.searches:
            search.restart(kept)
        kept[:] = False  # the searches must have kept their own
        self.check()


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    metric=st.sampled_from(["kl", "nll", "logit_diff", "prob_diff"]),
    ablation=st.sampled_from(ABLATIONS),
    batch_size=st.sampled_from([None, 1, 2]),
    small=st.booleans(),
    grouped=st.booleans(),
    steps=st.lists(st.sampled_from(["ask", "ask", "ask", "dead", "restart"]), max_size=8),
    seed=st.integers(0, 10**6),
)
def test_both_searches_answer_alike(
    name: str, metric: str, ablation: str, batch_size: Any, small: bool, grouped: bool,
    steps: list[str], seed: int,
) -> None:  # fmt: skip
    model = tiny_lift(name, seed % 5, grouped_kv=grouped)
    runner = Runner.create(
        model,
        tiny_pairs(seed, fitting(ablation, (5, 4, 4))),
        metric=metric,
        ablation=ablation,
        batch_size=batch_size,
    )
    with pytest.MonkeyPatch.context() as patch:
        if small:  # take normalisers by bounds, in a vocabulary of 31
            patch.setattr(readout, "SIZES", (2, 6))
        both = Both(runner, np.random.default_rng(seed))
        for step in steps:
            {"ask": both.ask, "dead": both.cut_dead_ports, "restart": both.restart}[step]()


@pytest.mark.parametrize("search", [IncrementalSearch, Search])
def test_what_was_ablated_elsewhere_counts(search: Any) -> None:
    runner = Runner.create(tiny_lift("gpt2"), tiny_pairs())
    found = search(runner)
    last, layer = len(runner.graph.ports) - 1, 5
    every = np.ones((1, 1, len(runner.graph.senders)), dtype=bool)
    first = found.ask((layer,), every)[0]
    one = every.copy()
    one[..., :-1] = False
    found.ask((last,), one)
    found.commit((layer,), every[0], first)
    kept = runner.graph.reads.copy()
    kept[layer] = False
    kept[last] &= ~one[0, 0]
    expected = runner.loss(Circuit(runner.graph, kept))
    assert found.ask((last,), one)[0].value() == pytest.approx(expected, abs=1e-9)


def test_a_search_leaves_the_graph_and_other_searches_alone() -> None:
    runner = Runner.create(tiny_lift("llama"), tiny_pairs())
    before = runner.graph.reads.copy()
    for search in (Search(runner), IncrementalSearch(runner)):
        search.commit((2,), runner.graph.reads[2][None], search.ask((2,), before[2][None, None])[0])
        search.restart(random_mask(runner.graph, 0.3, 1))
    assert np.array_equal(runner.graph.reads, before)
    assert np.array_equal(IncrementalSearch(runner).kept, before)


# -- deciding by bounds ---------------------------------------------------------------------------


class Blurred:
    """Give wide bounds of losses and of their rises, which shrink to the values in a few steps.

    `before`: the loss that the first one rises from; None: it is not known here.
    """

    def __init__(
        self, values: np.ndarray, generator: np.random.Generator, before: float | None = None
    ) -> None:
        self.leads = before is not None
        self.values, self.width = values, np.ones(len(values))
        self.rise = np.diff(values, prepend=np.inf if before is None else before)
        self.spread = generator.random((4, len(values))) * generator.choice([1e-3, 0.1, 2.0])
        self.steps = int(generator.integers(1, 4))

    def bounds(self) -> LossBounds:
        low, high, less, more = self.width * self.spread
        exact = (self.width == 0) & (self.leads | (np.arange(len(self.width)) > 0))
        less, more = (np.where(exact, 0, part) for part in (less, more))
        rise_low, rise_high = self.rise - less, self.rise + more
        if not self.leads:
            rise_low[0], rise_high[0] = -np.inf, np.inf
        return LossBounds(self.values - low, self.values + high, rise_low, rise_high)

    def sharpen(self, start: int, stop: int) -> LossBounds:
        self.steps -= 1
        self.width[start:stop] = 0 if self.steps <= 0 else self.width[start:stop] / 2
        return self.bounds()

    def know(self, start: int, stop: int) -> LossBounds:
        self.width[max(0, start) : stop] = 0
        return self.bounds()


def blurred(values: np.ndarray, generator: np.random.Generator) -> Losses:
    """Hold losses as wide bounds."""
    source = Blurred(values, generator)
    return Losses(source.bounds(), source)


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 10**6), absolute=st.booleans(), leads=st.booleans())
def test_decisions_along_a_chain_are_those_by_values(
    seed: int, absolute: bool, leads: bool
) -> None:
    generator = np.random.default_rng(seed)
    values = (generator.integers(-8, 9, size=7) / 8).astype(float)  # exact, often ties
    threshold = float(generator.choice([0.0, 0.125, 0.5, -0.125]))
    start = blurred(values[:1], generator)[0]
    source = Blurred(values[1:], generator, values[0] if leads else None)
    losses, before = Losses(source.bounds(), source, start), start
    for i, loss in enumerate(losses):
        rise = values[i + 1] - values[i]
        changed = abs(rise) if absolute else rise
        assert rises(loss, before, threshold, absolute=absolute) == (changed >= threshold)
        if generator.random() < 0.3:
            assert losses.rise(i) == rise
        before = loss


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 10**6), absolute=st.booleans())
def test_decisions_by_bounds_are_those_by_values(seed: int, absolute: bool) -> None:
    generator = np.random.default_rng(seed)
    values = generator.normal(size=6).round(1)  # differences often equal the threshold
    threshold = float(generator.choice([0.0, 0.1, 0.5, -0.1]))
    losses, old = blurred(values, generator), blurred(values[::-1].copy(), generator)
    for i, loss in enumerate(losses):
        rise = values[i] - values[5 - i]
        rise = abs(rise) if absolute else rise
        assert rises(loss, old[i], threshold, absolute=absolute) == (rise >= threshold)


@settings(max_examples=5, deadline=None)
@given(
    name=st.sampled_from(["gpt2", "llama", "gemma2-caps", "qwen2-moe"]),
    metric=st.sampled_from(["kl", "nll"]),
    threshold=st.sampled_from([0.0, 1e-7, 1e-5, 1e-3]),
    failures=st.sampled_from([1, 3]),
    pause=st.sampled_from([1, 8]),
    full=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_thresholds_that_bounds_do_not_resolve_decide_alike(
    name: str, metric: str, threshold: float, failures: int, pause: int, full: bool, seed: int
) -> None:
    """Whether bounds are paused, and how many questions share a product, decides nothing."""
    runner = Runner.create(tiny_lift(name, seed % 5), tiny_pairs(seed, (5, 4)), metric=metric)
    if full:  # each question's logits have room alone
        runner = replace(runner, budget=replace(runner.budget, logits=1))
    rule = Rule(beyond_rounding(threshold, runner.floor))  # as in ACDC
    plain = walk(Search(runner), runner.graph, rule)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readout, "SIZES", (2, 6))
        patch.setattr(readout, "FAILURES", failures)
        patch.setattr(readout, "FIRST_PAUSE", pause)
        found = walk(IncrementalSearch(runner, threshold), runner.graph, rule)
    assert found.circuit == plain.circuit
    np.testing.assert_allclose(found.scores.values, plain.scores.values, atol=1e-9)


def test_where_bounds_keep_failing_questions_share_products(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(readout, "SIZES", (2, 6))
    monkeypatch.setattr(readout, "FAILURES", 1)
    runner = Runner.create(tiny_lift("gpt2"), tiny_pairs(), metric="kl")
    search = IncrementalSearch(runner)  # of resolution 0: no bound is good enough
    row = len(runner.graph.ports) - 1
    single = np.eye(len(runner.graph.senders), dtype=bool)[runner.graph.reads[row]]
    asked = search.ask((row,), np.logical_or.accumulate(single)[:, None])
    sizes: list[int] = []
    real = readout.NormaliserReadout.settle

    def settle(self: Any, y: Any, base: int | None = None) -> Any:
        sizes.append(len(y))
        return real(self, y, base)

    monkeypatch.setattr(readout.NormaliserReadout, "settle", settle)
    values = [loss.value() for loss in asked]
    plain = Search(runner).ask((row,), np.logical_or.accumulate(single)[:, None]).values()
    assert values == pytest.approx(plain, abs=1e-9)
    assert len(sizes) <= 3 < len(values) == len(single)
