"""Interaction of gain and slice against statsmodels, scipy and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.oneway import anova_oneway

from analysis.stats import gain_by_slice, gain_contrast, linear_weights


def data(n_seeds: int, sizes: tuple[int, ...], gains: tuple[float, ...], seed: int, sd: float = 0.0):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    effect = np.asarray(gains)[groups] + sd * rng.normal(size=(n_seeds, len(sizes)))[:, groups]
    return effect + 0.5 * rng.normal(size=(1, len(groups))) + rng.normal(size=(n_seeds, len(groups))), groups


def test_omnibus_equals_statsmodels() -> None:
    d, g = data(3, (30, 50, 80), (0.0, 0.1, 0.3), 1)
    mean = d.mean(axis=0)
    theirs = anova_oneway([mean[g == k] for k in range(3)], use_var="unequal")
    assert gain_by_slice(mean, g).p == pytest.approx(theirs.pvalue)


def test_a_slice_in_which_nobody_differs_is_left_out_and_said() -> None:
    d, g = data(3, (30, 50, 80), (0.0, 0.1, 0.3), 1)
    mean = np.concatenate([np.zeros(3), d.mean(axis=0)])
    ours = gain_by_slice(mean, np.concatenate([np.full(3, -1), g]))
    assert ours.p == gain_by_slice(d.mean(axis=0), g).p < 1
    assert "1 slice with too few users or equal differences left out" in ours.notes[0]


def test_two_slices_and_one_seed_are_welchs_t() -> None:
    d, g = data(1, (40, 90), (0.0, 0.3), 2)
    theirs = stats.ttest_ind(d[0][g == 1], d[0][g == 0], equal_var=False)
    ours = gain_contrast(d, g, {0: -1.0, 1: 1.0})
    assert ours.p == pytest.approx(theirs.pvalue)
    assert ours.estimate == pytest.approx(d[0][g == 1].mean() - d[0][g == 0].mean())


def test_linear_weights_measure_a_straight_line() -> None:
    w = linear_weights([0, 1, 2, 3])
    assert sum(w.values()) == pytest.approx(0)
    assert sum(v * (5 + 2 * k) for k, v in w.items()) == pytest.approx(6)
    assert linear_weights([0, 1]) == {0: -1.0, 1: 1.0}


def test_small_slices_are_named() -> None:
    d, g = data(2, (30, 30, 1), (0.0, 0.0, 0.0), 3)
    assert (
        "1 slice with too few users or equal differences left out"
        in gain_by_slice(d.mean(axis=0), g).notes[0]
    )
    with pytest.raises(ValueError, match="slice 2"):
        gain_contrast(d, g, {0: -1.0, 2: 1.0})


def test_planted_interaction_is_found() -> None:
    d, g = data(3, (200, 200), (0.0, 0.6), 4, sd=0.02)
    assert gain_contrast(d, g, {0: -1.0, 1: 1.0}).p < 0.001
    assert gain_by_slice(d.mean(axis=0), g).p < 0.001


@pytest.mark.slow
@pytest.mark.parametrize("sd", [0.0, 0.3])
def test_level_by_simulation(sd: float) -> None:
    n = 1500
    p = [gain_contrast(*data(3, (80, 160), (0.2, 0.2), i, sd=sd), {0: -1.0, 1: 1.0}).p for i in range(n)]
    assert np.mean(np.asarray(p) < 0.05) < 0.05 + 3.5 * np.sqrt(0.05 * 0.95 / n) + 0.012
