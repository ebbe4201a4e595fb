"""The paired test of every edge: by hand, against scipy, under the null, and what it can find."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgewise.discovery.uncertainty.paired import (
    LEAST_CLUSTERS,
    POWER,
    beyond,
    effective,
    independent,
    kept_q_values,
    noncentrality,
    paired_test,
    unpaired_test,
)
from edgewise.graphs.errors import EdgewiseError


def column(*values: float) -> np.ndarray:
    return np.array(values, dtype=float)[:, None]


# -- by hand -------------------------------------------------------------------------------------


def test_a_change_by_hand() -> None:
    """Differences 3, 4, 5: mean 4, error 1/√3, two degrees of freedom, against δ = 1."""
    a = column(1, 2, 3)
    found = paired_test(a, a + column(3, 4, 5), delta=1.0)
    error = 1 / np.sqrt(3)
    p = scipy.stats.t.sf(3 / error, 2) + scipy.stats.t.sf(5 / error, 2)
    assert found.error == pytest.approx([error])
    assert found.p == pytest.approx([p]) and found.q == pytest.approx([4 * p])  # p/½, 1 of 1 + 1
    half = 4.302652729911275 * error
    assert (found.low[0], found.high[0]) == (pytest.approx(4 - half), pytest.approx(4 + half))
    assert (found.mean_a[0], found.mean_b[0], found.change[0]) == (2.0, 6.0, 4.0)
    assert (found.examples, found.clusters) == (3, 3)


def test_a_change_as_large_as_delta_is_none() -> None:
    """At |d̄| = δ the first tail alone is one half."""
    found = paired_test(column(0, 0, 0, 0), column(0.9, 1.1, 0.8, 1.2), delta=1.0)
    assert 0.5 < found.p[0] < 0.51


def test_edges_that_change_by_less_than_delta_are_discarded() -> None:
    """Of p = .001, .02, .4, .9, 1 the first three are kept, doubled, and are ranks 1 to 3 of 4."""
    p = np.array([0.9, 0.02, 1.0, 0.001, 0.4])
    assert kept_q_values(p) == pytest.approx([1, 0.02 * 2 * 4 / 2, 1, 0.001 * 2 * 4, 1])
    assert kept_q_values(np.array([0.6, 1.0])).tolist() == [1, 1]


def test_clusters_by_hand() -> None:
    """Differences 1, 3 | 5, 7 | 9, 11: cluster means 2, 6, 10, of error 4/√3."""
    clusters = np.array([4, 4, 9, 9, 1, 1])
    d = column(1, 3, 5, 7, 9, 11)
    found = paired_test(np.zeros_like(d), d, clusters)
    assert found.error == pytest.approx([4 / np.sqrt(3)])
    assert (found.clusters, found.examples) == (3, 6)
    p = scipy.stats.ttest_1samp([2, 6, 10], 0).pvalue
    assert found.p == pytest.approx([p])


def test_clusters_of_unequal_size_by_hand() -> None:
    """Differences 1 | 2, 3 | 8, 9, 10: sums of deviations −4.5, −6, 10.5 about 5.5."""
    d = column(1, 2, 3, 8, 9, 10)
    found = paired_test(np.zeros_like(d), d, np.array([0, 1, 1, 2, 2, 2]))
    error = np.sqrt(3 / 2 * (4.5**2 + 6**2 + 10.5**2)) / 6
    assert found.error == pytest.approx([error])
    free = 36 / (1 + 4 + 9) - 1
    assert effective(np.array([0, 1, 1, 2, 2, 2])) - 1 == pytest.approx(free)
    assert found.p == pytest.approx([2 * scipy.stats.t.sf(5.5 / error, free)])


def test_few_clusters_make_every_example_count_by_itself() -> None:
    few = np.arange(20) % (LEAST_CLUSTERS - 1)
    assert len(set(independent(few).tolist())) == 20
    enough = np.arange(20) % LEAST_CLUSTERS
    assert independent(enough).tolist() == enough.tolist()


def test_the_smallest_change_by_hand() -> None:
    """With errors known, δ + (z of the level + z of the power) standard errors."""
    assert noncentrality(0.05, 1e7) == pytest.approx(
        scipy.stats.norm.isf(0.025) + scipy.stats.norm.ppf(POWER), abs=2e-3
    )
    for threshold, free in ((1e-6, 31), (1e-3, 11), (0.05, 2)):
        shift = noncentrality(threshold, free)
        passes = scipy.stats.nct.sf(scipy.stats.t.isf(threshold / 2, free), free, shift)
        assert passes == pytest.approx(POWER, abs=0.01)


# -- identities ----------------------------------------------------------------------------------

SCORES = st.floats(-100, 100, width=32)


@given(st.data(), st.integers(3, 8))
def test_without_delta_it_is_scipys_paired_test(data: Any, n: int) -> None:
    a, b = (data.draw(arrays(np.float64, (n, 4), elements=SCORES)) for _ in "ab")
    found = paired_test(a, b)
    wide = (b - a).std(0, ddof=1) > 1e-3 * max(np.abs(a).max(), np.abs(b).max(), 1)
    if wide.any():
        true = scipy.stats.ttest_rel(b[:, wide], a[:, wide]).pvalue
        np.testing.assert_allclose(found.p[wide], true, rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(found.q, scipy.stats.false_discovery_control(found.p))
    np.testing.assert_allclose(found.mean_b - found.mean_a, b.mean(0) - a.mean(0), atol=1e-9)


@given(st.data(), st.integers(3, 8), st.floats(0, 50))
def test_the_two_models_may_be_exchanged_and_examples_reordered(
    data: Any, n: int, delta: float
) -> None:
    a, b = (data.draw(arrays(np.float64, (n, 3), elements=SCORES)) for _ in "ab")
    clusters = np.array(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    if len(set(clusters.tolist())) < 2:
        return
    found, back = paired_test(a, b, clusters, delta=delta), paired_test(b, a, clusters, delta=delta)
    np.testing.assert_allclose(found.p, back.p, rtol=1e-9)
    np.testing.assert_allclose(found.low, -back.high, rtol=1e-9, atol=1e-9)
    order = np.random.default_rng(0).permutation(n)
    again = paired_test(a[order], b[order], clusters[order], delta=delta)
    np.testing.assert_allclose(found.p, again.p, rtol=1e-6, atol=1e-12)
    wider = paired_test(a, b, clusters, delta=delta + 1)
    assert (wider.p >= found.p - 1e-12).all()  # a larger δ finds no more
    assert ((found.p >= 0) & (found.p <= 1) & (found.low <= found.high)).all()


@given(arrays(np.float32, (5, 3), elements=SCORES), st.floats(0, 10))
def test_equal_scores_are_no_change(a: np.ndarray, delta: float) -> None:
    found = paired_test(a, a.copy(), delta=delta)
    assert (found.p == 1).all() and (found.change == 0).all()


def test_every_example_may_be_many_chunks_of_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgewise.discovery.uncertainty import paired

    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(2, 12, 50)).astype(np.float32)
    whole, apart = paired_test(a, b, delta=0.1), unpaired_test(a, b, delta=0.1)
    monkeypatch.setattr(paired, "EDGES_AT_ONCE", 7)
    np.testing.assert_allclose(paired_test(a, b, delta=0.1).q, whole.q)
    np.testing.assert_allclose(unpaired_test(a, b, delta=0.1).q, apart.q)


def test_without_delta_the_controls_test_is_welchs() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(9, 6)), draw.normal(0.5, 3, size=(14, 6))
    true = scipy.stats.ttest_ind(a, b, equal_var=False).pvalue
    np.testing.assert_allclose(unpaired_test(a, b).p, true, rtol=1e-9)


# -- rounding ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.1, -3e8, 1e-30])
def test_what_rounding_makes_is_no_change(value: float) -> None:
    once = np.full((8, 1), value, dtype=np.float32)
    after = np.nextafter(once, np.float32(np.inf))
    assert paired_test(once, after).p[0] > 0.5


def test_rounding_is_a_part_of_the_largest_score() -> None:
    """Beside scores of 10⁶, a constant change of ½ is within what float32 sums may be wrong by."""
    a = np.tile([1e6, 0.0], (4, 1))
    b = np.tile([1e6, 0.5], (4, 1))
    assert paired_test(a, b).p[1] > 0.3
    assert paired_test(a[:, 1:], b[:, 1:]).p[0] < 1e-9


def test_half_precision_is_less_exact() -> None:
    a = np.full((6, 2), 1.0, dtype=np.float16)
    b = a.copy()
    b[:, 1] = np.nextafter(np.float16(1), np.float16(2))
    found = paired_test(a, b)
    assert found.p[0] == 1 and found.p[1] > 0.01
    assert paired_test(a.astype(np.float32), b.astype(np.float32)).p[1] < 1e-9


def test_scores_of_nothing_at_all_are_no_change() -> None:
    none = np.zeros((5, 3), dtype=np.float32)
    for delta in (0.0, 1.0):
        found = paired_test(none, none, delta=delta)
        assert found.p.tolist() == found.q.tolist() == [1, 1, 1]
    assert beyond(np.array([2.0]), np.array([0.0]), 1.0, np.array([4.0])).tolist() == [0.0]


# -- how often it is wrong, and what it finds ----------------------------------------------------


def _draws(runs: int, effect: float, clusters: np.ndarray, share: float) -> np.ndarray:
    """Draw differences [n, runs] whose clusters have a part of the variance in common."""
    draw = np.random.default_rng(len(clusters))
    common = draw.normal(size=(clusters.max() + 1, runs))[clusters]
    own = draw.normal(size=(len(clusters), runs))
    return np.asarray(effect + np.sqrt(share) * common + np.sqrt(1 - share) * own)


@pytest.mark.parametrize("effect", [0.0, 0.3])
def test_a_true_change_of_at_most_delta_is_found_no_oftener_than_p_says(effect: float) -> None:
    d = _draws(20_000, effect, np.arange(24), 0.0)
    p = paired_test(np.zeros_like(d), d, delta=effect).p
    for level in (0.01, 0.1):
        assert np.mean(p < level) == pytest.approx(level, rel=0.15)
    assert np.mean(paired_test(np.zeros_like(d), d, delta=0.6).p < 0.1) < 0.04


@pytest.mark.parametrize("sizes", [[4] * 12, [1, 1, 2, 2, 3, 3, 4, 4, 5, 6, 8, 9]])
def test_clusters_keep_the_level_that_examples_alone_would_not(sizes: list[int]) -> None:
    clusters = np.repeat(np.arange(len(sizes)), sizes)
    d = _draws(20_000, 0.0, clusters, 0.4)
    zero = np.zeros_like(d)
    for level in (0.01, 0.001):
        assert np.mean(paired_test(zero, d, clusters).p < level) < 1.4 * level
        assert np.mean(paired_test(zero, d).p < level) > 8 * level


@pytest.mark.parametrize("clusters", [np.arange(32), np.repeat(np.arange(16), 2)])
def test_the_smallest_change_is_found_as_often_as_it_says(clusters: np.ndarray) -> None:
    """One edge of 1,000 changes by what another run says is detectable."""
    draw, found, runs = np.random.default_rng(1), 0, 200
    names = clusters.max() + 1
    for _ in range(runs):
        d = draw.normal(size=(names, 1000))[clusters].astype(np.float32)
        zero = np.zeros_like(d)
        least = paired_test(zero, d, clusters, delta=0.2).detectable
        d[:, 7] += np.median(least)
        found += bool(paired_test(zero, d, clusters, delta=0.2).changed[7])
    assert POWER - 0.1 < found / runs < POWER + 0.1


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_of_what_is_found_few_changed_by_less_than_delta(share: float) -> None:
    """1,000 edges, 30 of which change by more than δ, others not, by just δ, or unstably by less.

    The edges' noise has a part in common, as that of edges of one prompt has.
    """
    draw, wrong, power, plain = np.random.default_rng(2), [], [], []
    means = np.concatenate([np.linspace(0.9, 1.4, 30), np.full(20, 0.5), np.zeros(950)])
    size = np.concatenate([np.ones(950), np.full(50, 4.0)])
    for _ in range(60):
        noise = draw.normal(size=(32, 1000)) * np.sqrt(1 - share)
        d = means + size * (noise + np.sqrt(share) * draw.normal(size=(32, 1)))
        found = paired_test(np.zeros_like(d), d, delta=0.5)
        wrong.append(found.changed[30:].sum() / max(1, found.changed.sum()))
        power.append(found.changed[:30].sum())
        plain.append((scipy.stats.false_discovery_control(found.p) < found.level).sum())
    assert np.mean(wrong) < 0.05
    assert np.mean(power) > 1.3 * np.mean(plain)


@pytest.mark.parametrize("noise", [0.1, 1.0, 4.0])
def test_where_no_edge_changes_by_more_than_delta_hardly_any_is_found(noise: float) -> None:
    """δ is ½: small, like and large beside the error, which for |mean| = ½ is the worst case."""
    draw, any_found = np.random.default_rng(3), 0
    means = np.concatenate([np.full(10, 0.5), np.zeros(100)])
    for _ in range(400):
        d = means + noise * draw.normal(size=(32, 110))
        any_found += bool(paired_test(np.zeros_like(d), d, delta=0.5).changed.any())
    assert any_found / 400 < 0.065  # 0.05, and one and a half of its standard errors


def test_intervals_cover_the_true_change() -> None:
    d = _draws(5000, 0.7, np.arange(20), 0.0)
    found = paired_test(np.zeros_like(d), d, delta=0.1)
    assert np.mean((found.low <= 0.7) & (found.high >= 0.7)) == pytest.approx(0.95, abs=0.01)


# -- what is refused -----------------------------------------------------------------------------


def test_what_cannot_be_tested_is_refused() -> None:
    a = np.zeros((4, 2))
    with pytest.raises(EdgewiseError, match="are no pairs"):
        paired_test(a, a[:3])
    with pytest.raises(EdgewiseError, match=r"\[4, 2\] and \[4, 1\] cannot be tested"):
        paired_test(a, a[:, :1])
    with pytest.raises(EdgewiseError, match="4 examples in 1 clusters"):
        paired_test(a, a, np.zeros(4))
    with pytest.raises(EdgewiseError, match="edges without a score"):
        paired_test(a, np.full_like(a, np.nan))
    with pytest.raises(EdgewiseError, match="smallest change that matters is -1"):
        paired_test(a, a, delta=-1)
    with pytest.raises(EdgewiseError, match="1 and 4 clusters"):
        unpaired_test(a[:1], a)
