"""Intervals: identities, numbers by hand, and how often they cover what is true."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgewise.discovery.registry import get_method
from edgewise.discovery.uncertainty import bootstrap
from edgewise.discovery.uncertainty.bootstrap import (
    Estimate,
    dealt_in_two,
    defined,
    difference_estimate,
    faithfulness_estimate,
    mean_estimate,
    resamples,
    standard_error,
    units_of,
)
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import EdgewiseError
from edgewise.graphs.example_scores import clusters_of
from edgewise.patching.run.runner import Runner
from edgewise.patching.tasks import make_task
from tests.engine import tiny_lift

NUMBERS = st.floats(-10, 10, allow_subnormal=False)


@st.composite
def measured(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Draw values of full, circuit and empty, [3, examples], and clusters."""
    n = draw(st.integers(2, 12))
    values = draw(st.lists(st.lists(NUMBERS, min_size=n, max_size=n), min_size=3, max_size=3))
    groups = draw(st.lists(st.sampled_from(["", "a", "b", "c"]), min_size=n, max_size=n))
    return np.array(values), clusters_of(groups)


@given(measured(), st.randoms(use_true_random=False))
def test_an_estimate_does_not_depend_on_the_order_of_the_pairs(
    found: tuple[np.ndarray, np.ndarray], draw: object
) -> None:
    values, clusters = found
    order = np.random.default_rng(draw.randrange(1000)).permutation(len(clusters))  # type: ignore[attr-defined]
    again = values[:, order], clusters[order]
    for estimate in (faithfulness_estimate, mean_of):
        one, other = estimate(*values, clusters), estimate(*again[0], again[1])
        assert one.value is None or one.value == pytest.approx(other.value, rel=1e-9)
        for a, b in ((one.low, other.low), (one.high, other.high)):
            assert (math.isnan(a) and math.isnan(b)) or a == pytest.approx(b, rel=1e-6)


def mean_of(values: np.ndarray, *more: np.ndarray) -> Estimate:
    return mean_estimate(values, more[-1])


@given(measured())
def test_the_ends_are_one_and_zero_exactly_and_intervals_hold_the_value(
    found: tuple[np.ndarray, np.ndarray],
) -> None:
    (full, circuit, empty), clusters = found
    for values, expected in ((full, 1.0), (empty, 0.0)):
        one = faithfulness_estimate(full, values, empty, clusters)
        if one.value is not None:
            assert (one.value, *(one.interval or (expected, expected))) == pytest.approx(
                (expected, expected, expected), abs=1e-9
            )
    one = mean_estimate(circuit, clusters)
    assert one.value == pytest.approx(circuit.mean())
    assert one.interval is None or one.low <= one.value + 1e-9


def test_the_ratio_is_of_means_and_by_hand() -> None:
    full, circuit, empty = np.array([[4.0] * 6, [3.0, 1, 2, 2, 3, 1], [0.0] * 6])
    one = faithfulness_estimate(full, circuit, empty, np.arange(6))
    assert one.value == pytest.approx(0.5)
    other = mean_estimate(circuit / 4, np.arange(6))  # the denominator is the same everywhere
    assert (one.low, one.high) == pytest.approx((other.low, other.high))
    # of four, Student's interval: 2.5 ± 3.1824 · √(5/3) / 2
    four = mean_estimate(np.array([1.0, 2, 3, 4]), np.arange(4))
    assert (four.low, four.high) == pytest.approx((0.4457, 4.5543), abs=1e-4)


def test_standard_errors_by_hand() -> None:
    values = np.array([1.0, 2, 3, 4, 5, 6])
    assert standard_error(values, np.arange(6)) == pytest.approx(values.std(ddof=1) / 6**0.5)
    # five clusters of means 0, 1, 2, 3, 4 and two each: the error of five numbers
    doubled = np.repeat(np.arange(5.0), 2)
    error = standard_error(doubled, np.repeat(np.arange(5), 2))
    assert error == pytest.approx(np.arange(5).std(ddof=1) / 5**0.5)
    assert math.isnan(standard_error(np.array([1.0]), np.arange(1)))


def test_a_ratio_is_undefined_within_two_standard_errors() -> None:
    # the gaps are 1 ± d, n = 4: standard error d / √3, so that 2 errors are 1 at d = .866
    for d, is_defined in ((0.86, True), (0.87, False)):
        full = 1 + d * np.array([1.0, -1, 1, -1])
        empty = np.zeros(4)
        assert defined(full, empty, np.arange(4)) is is_defined
        assert defined(empty, full, np.arange(4)) is is_defined  # whichever is larger
        found = faithfulness_estimate(full, full / 2, empty, np.arange(4))
        assert (found.value is not None) is is_defined
        assert (found.interval is not None) is is_defined
    equal = np.ones(3), np.ones(3) + 1e-9
    assert defined(*equal, np.arange(3))
    assert not defined(*equal, np.arange(3), floor=1e-6)  # what rounding does


def test_one_example_says_nothing_of_others() -> None:
    one = faithfulness_estimate(np.array([2.0]), np.array([1.0]), np.array([0.0]), np.arange(1))
    assert one.value == 0.5
    assert one.interval is None
    assert not one.beyond(0.0)


def test_groups_are_drawn_as_a_whole_and_few_are_not() -> None:
    clusters = clusters_of(["a", "b", "c", "d", "e", "a", ""])
    assert clusters.tolist() == [0, 1, 2, 3, 4, 0, 5]
    weights = resamples(clusters, 100, seed=3)
    assert (weights[:, 0] == weights[:, 5]).all()
    assert (weights[:, [0, 1, 2, 3, 4, 6]].sum(1) == 6).all()
    assert (weights == resamples(clusters, 100, seed=3)).all()
    assert (weights != resamples(clusters, 100, seed=4)).any()
    assert units_of(clusters) is clusters
    assert units_of(np.array([0, 0, 1, 1])).tolist() == [0, 1, 2, 3]


def test_a_difference_is_resampled_together() -> None:
    rng = np.random.default_rng(0)
    full, noise = 10 + rng.normal(size=32), 3 * rng.normal(size=32)
    empty = np.zeros(32)
    one, other = 0.8 * full + noise, 0.7 * full + noise  # they move together
    found = difference_estimate(one, other, (full, empty), np.arange(32))
    assert found.value == pytest.approx(0.1)
    assert found.high - found.low < 0.01
    assert found.beyond(0.05)
    apart = difference_estimate(
        one, other, (full, empty), np.arange(32), other_ends=(full, empty)
    )  # by two denominators that are the same: nearly the same interval
    assert (apart.low, apart.high) == pytest.approx((found.low, found.high), abs=1e-9)
    none = difference_estimate(one, other, (noise, empty), np.arange(32))
    assert none.value is None
    assert not none.beyond(0.0)


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(EdgewiseError, match="not finite"):
        mean_estimate(np.array([1.0, math.inf]), np.arange(2))


def test_shares_of_one_have_an_interval() -> None:
    values = np.ones(64)
    assert mean_estimate(values, np.arange(64)).interval == (1.0, 1.0)
    values[0] = 0
    low, high = mean_estimate(values, np.arange(64)).interval or (0, 0)
    assert 0.9 < low < 63 / 64 < high <= 1.0


# -- coverage --------------------------------------------------------------------------------------


def planted(rng: np.random.Generator, clusters: int, size: int, skewed: bool) -> np.ndarray:
    """Draw values of full, circuit and empty, [3, examples], of clusters with effects of their own.

    Normal: the population's faithfulness is .8. Skewed: the circuit keeps a share of .3 to .8 of
    an effect that is log-normal.
    """
    own = rng.normal(size=(clusters, 1)) if size > 1 else np.zeros((clusters, 1))
    x, y, z = rng.normal(size=(3, clusters, size))
    if not skewed:
        full, empty = 3 + 1.5 * (0.7 * x + 0.7 * own), -1 + 0.7 * y + 0.7 * own
        found = full, 0.8 * full + 0.2 * empty + 0.8 * z, empty
    else:
        effect, empty = np.exp(0.8 * x + 0.5 * own), 0.3 * np.exp(0.5 * y)
        found = empty + effect, empty + effect * (0.3 + 0.5 / (1 + np.exp(-1.5 * z))), empty
    return np.stack(found).reshape(3, -1)


def planted_truth(skewed: bool) -> float:
    """Return the population's faithfulness: in both a ratio of means over independent shares."""
    # the mean of 1 / (1 + exp(−1.5 z)) is 1/2 by symmetry, and it is independent of the effect
    return 0.3 + 0.5 / 2 if skewed else 0.8


def covered(
    draw: Callable[[int], np.ndarray], truth: float, clusters: np.ndarray, repetitions: int
) -> float:
    """Return the share of 95% intervals of faithfulness, of those there are, that cover it."""
    found = [faithfulness_estimate(*draw(seed), clusters) for seed in range(repetitions)]
    known = [one for one in found if one.value is not None]
    assert len(known) > 0.8 * repetitions
    return sum(one.low <= truth <= one.high for one in known) / len(known)


@pytest.mark.parametrize("skewed", [False, True])
@pytest.mark.parametrize(("groups", "size"), [(64, 1), (12, 1), (6, 8), (20, 3)])
def test_intervals_of_planted_data_cover_what_is_true(
    groups: int, size: int, skewed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 1000)
    found = covered(
        lambda seed: planted(np.random.default_rng(seed), groups, size, skewed),
        planted_truth(skewed),
        np.repeat(np.arange(groups), size),
        repetitions=200,
    )
    assert 0.90 <= found <= 0.99  # of 200; benchmarks/coverage.py has more


@pytest.mark.parametrize(("groups", "size"), [(64, 1), (12, 5)])
def test_intervals_of_a_models_circuit_cover_the_populations_value(
    groups: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The population is what a circuit measures on many pairs; draws are of it, with replacement.

    A group is a first token; all groups count alike.
    """
    monkeypatch.setattr(bootstrap, "RESAMPLES", 1000)
    pairs = make_task("induction", vocab_size=31, examples=600).pairs
    lift = tiny_lift("gpt2", dtype=torch.float32)
    runner = Runner.create(lift, pairs, metric="kl")
    some = Runner.create(lift, replace(pairs, pairs=pairs.pairs[:16]), metric="logit_diff")
    circuit = get_method("eap")(some).scores.top(lift.graph.edge_count * 2 // 3)
    ends = Circuit.full(lift.graph), circuit, Circuit.empty(lift.graph)
    values = runner.measure_each(ends)[0]
    labels = np.array([pair.clean[0] for pair in pairs])
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    means = values.mean(1)
    if size > 1:
        means = np.mean([values[:, rows].mean(1) for rows in members], axis=0)
    truth = (means[1] - means[2]) / (means[0] - means[2])

    def draw(seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        if size == 1:
            return values[:, rng.integers(values.shape[1], size=groups)]
        chosen = rng.integers(len(members), size=groups)
        return values[:, np.concatenate([rng.choice(members[i], size) for i in chosen])]

    found = covered(draw, float(truth), np.repeat(np.arange(groups), size), repetitions=200)
    assert 0.90 <= found <= 0.99


@given(st.lists(st.integers(0, 8), min_size=1, max_size=60))
def test_clusters_are_dealt_whole_and_evenly(labels: list[int]) -> None:
    clusters = np.array(labels)
    second = dealt_in_two(clusters)
    for one in set(labels):
        assert len(set(second[clusters == one].tolist())) == 1
    largest = max(labels.count(one) for one in labels)
    assert abs(int(second.sum()) - int((~second).sum())) <= largest


def test_a_denominator_that_nearly_vanishes_in_resamples_is_no_overflow() -> None:
    """Found by hypothesis: ratios of 1e137 among resamples, whose squares no float holds."""
    full = np.array([1.0, 1.0, 1.0, 9.58884849e-138, 1.0])
    for circuit in (np.array([0.0, 0.0, 0.0, 1.0, 0.0]), np.zeros(5)):
        found = faithfulness_estimate(full, circuit, np.zeros(5), np.arange(5))
        assert found.value == pytest.approx(circuit.mean() / full.mean())
        assert found.interval is None or np.isfinite(found.interval).all()
