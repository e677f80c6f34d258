"""Paired tests against scipy, statsmodels and enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from analysis.stats import (
    bca_interval,
    cliffs_delta,
    cohens_dz,
    correct,
    dominance,
    seeds_t_test,
    sign_flip,
    t_test,
    wilcoxon,
)
from analysis.stats.paired import bootstrap_means


def sample(n: int, seed: int = 0, shift: float = 0.1) -> np.ndarray:
    """Differences as ranking metrics have them: many zeros, ties, a heavy tail."""
    rng = np.random.default_rng(seed)
    values = np.round(rng.standard_t(3, size=n) * 0.2 + shift, 1)
    return np.where(rng.random(n) < 0.4, 0.0, values)


@pytest.mark.parametrize("n", [5, 40, 500])
def test_t_equals_scipy(n: int) -> None:
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(2, n))
    ours = t_test(x - y)
    theirs = stats.ttest_rel(x, y)
    assert (ours.statistic, ours.p) == (pytest.approx(theirs.statistic), pytest.approx(theirs.pvalue))
    interval = theirs.confidence_interval(0.95)
    assert (ours.low, ours.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert ours.unit == "users"


@pytest.mark.parametrize("zeros", ["pratt", "wilcox"])
def test_wilcoxon_equals_scipy_and_counts_zeros(zeros: str) -> None:
    d = sample(200)
    ours = wilcoxon(d, zeros=zeros)
    theirs = stats.wilcoxon(d, zero_method=zeros, method="approx", correction=False)
    assert ours.p == pytest.approx(theirs.pvalue)
    assert f"{(d == 0).sum()} of 200 differences are zero" in ours.notes[0]
    tied = sum(1 for v in np.abs(d[d != 0]) if (np.abs(d[d != 0]) == v).sum() > 1)
    assert f"{tied} of the others tied" in ours.notes[0]


def test_wilcoxon_without_any_difference() -> None:
    assert wilcoxon(np.zeros(10)).p == 1.0


@given(st.lists(st.integers(-4, 4), min_size=2, max_size=9))
def test_sign_flip_is_exact_for_few_users(values: list[int]) -> None:
    d = np.asarray(values, dtype=float)
    sums = [abs(float(np.dot(s, d))) for s in itertools.product((-1, 1), repeat=len(d))]
    expected = np.mean([s >= abs(d.sum()) - 1e-9 for s in sums])
    ours = sign_flip(d)
    assert ours.p == pytest.approx(expected)
    assert "exact" in ours.test


def test_sign_flip_agrees_with_scipy_permutation_test() -> None:
    d = sample(60, seed=3, shift=0.05)
    ours = sign_flip(d, n_resamples=20_000, seed=1)
    theirs = stats.permutation_test(
        (d,),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        n_resamples=20_000,
        vectorized=True,
        rng=2,
    )
    error = 4 * np.sqrt(theirs.pvalue * (1 - theirs.pvalue) / 20_000) * np.sqrt(2)
    assert abs(ours.p - theirs.pvalue) < error
    assert 0.001 < ours.p < 0.9


def test_sign_flip_is_never_zero_and_repeats() -> None:
    d = np.abs(sample(100)) + 1
    assert sign_flip(d, n_resamples=999).p == pytest.approx(1 / 1000)
    e = sample(100, seed=5)
    assert sign_flip(e, seed=4).p == sign_flip(e, seed=4).p
    assert sign_flip(e, seed=4, n_resamples=1000, chunk=7).p == pytest.approx(
        sign_flip(e, seed=4, n_resamples=1000, chunk=1000).p, abs=0.08
    )


def test_bca_agrees_with_scipy() -> None:
    d = np.random.default_rng(1).exponential(size=80) - 0.7
    ours = bca_interval(d, n_resamples=20_000, seed=3)
    theirs = stats.bootstrap((d,), np.mean, n_resamples=20_000, method="BCa", rng=4).confidence_interval
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.03 * width)
    plain = np.quantile(bootstrap_means(d[:, None], n_resamples=20_000, rng=np.random.default_rng(3)), 0.975)
    assert ours.high > plain  # the data are skewed, so the correction must show


def test_bootstrap_means_are_means_of_resamples() -> None:
    values = np.arange(12.0).reshape(6, 2) ** 2
    ours = bootstrap_means(values, n_resamples=5, rng=np.random.default_rng(9), chunk=2)
    rng = np.random.default_rng(9)
    picks = np.concatenate([rng.integers(6, size=(n, 6)) for n in (2, 2, 1)])
    np.testing.assert_allclose(ours, [values[p].mean(axis=0) for p in picks])


@pytest.mark.parametrize("method", ["holm", "bh", "bonferroni"])
def test_correction_equals_statsmodels(method: str) -> None:
    names = {"holm": "holm", "bh": "fdr_bh", "bonferroni": "bonferroni"}
    rng = np.random.default_rng(0)
    for size in (1, 12, 200):
        raw = rng.random(size) ** 3
        for p in (raw, raw.round(1), np.zeros(size), np.ones(size)):  # with ties
            np.testing.assert_array_equal(correct(p, method), multipletests(p, method=names[method])[1])


def test_holm_by_hand_and_gaps_count() -> None:
    np.testing.assert_allclose(correct([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    np.testing.assert_allclose(correct([0.01, np.nan, 0.03]), [0.03, np.nan, 0.06])
    np.testing.assert_allclose(correct([0.01], planned=4), [0.04])
    assert len(correct([])) == 0


def test_effect_sizes() -> None:
    d = sample(300, seed=2)
    assert cohens_dz(d) == pytest.approx(d.mean() / d.std(ddof=1))
    assert cohens_dz(np.zeros(5)) == 0
    assert cohens_dz(np.full(5, -2.0)) == -np.inf
    assert dominance([1, 1, 0, -1]) == pytest.approx(0.25)


@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=12),
    st.lists(st.integers(-3, 3), min_size=1, max_size=12),
)
def test_cliffs_delta_by_all_pairs(x: list[int], y: list[int]) -> None:
    expected = np.mean([np.sign(a - b) for a in x for b in y])
    assert cliffs_delta(x, y) == pytest.approx(expected)


def test_cliffs_delta_is_mann_whitney_rescaled() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(0.3, size=50), rng.normal(size=70)
    u = stats.mannwhitneyu(x, y).statistic
    assert cliffs_delta(x, y) == pytest.approx(2 * u / (50 * 70) - 1)


def test_seeds_test_counts_seeds() -> None:
    a, b = np.array([0.11, 0.12, 0.14]), np.array([0.10, 0.12, 0.11])
    ours = seeds_t_test(a, b)
    assert ours.p == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert (ours.n, ours.unit) == (3, "seeds")
    one = seeds_t_test([0.2], [0.1])
    assert np.isnan(one.p)
    assert one.estimate == pytest.approx(0.1)


@pytest.mark.parametrize("bad", [[1.0], [[1.0, 2.0]], [1.0, np.nan]])
def test_unusable_differences_are_refused(bad: list) -> None:
    with pytest.raises(ValueError):
        t_test(bad)
