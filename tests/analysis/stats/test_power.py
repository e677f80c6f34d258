"""Power against statsmodels and by simulation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from analysis.stats import Design, power, seeds_needed, smallest_detectable, two_way, users_needed
from analysis.stats.twolevel import SeedVariance, pooled_seed_variance

ONE = Design(var_seed=0.0, var_user=1.0, var_error=0.0, n_seeds=1, n_users=50)


@pytest.mark.parametrize("effect", [0.1, 0.3, 0.5])
def test_one_seed_is_the_t_test(effect: float) -> None:
    assert power(ONE, effect) == pytest.approx(TTestPower().power(effect, 50, 0.05), abs=2e-4)


def test_smallest_detectable_and_users_needed_invert_power() -> None:
    assert smallest_detectable(ONE) == pytest.approx(
        TTestPower().solve_power(nobs=50, alpha=0.05, power=0.8), rel=5e-4
    )
    expected = int(np.ceil(TTestPower().solve_power(effect_size=0.2, alpha=0.05, power=0.8)))
    assert users_needed(ONE, 0.2) == expected
    assert power(Design(0, 1, 0, 1, expected - 1), 0.2) < 0.8


def test_seeds_may_be_the_limit() -> None:
    design = Design(var_seed=0.04, var_user=1.0, var_error=1.0, n_seeds=3, n_users=1000)
    assert users_needed(design, 0.05) is None
    needed = seeds_needed(design, 0.2)
    assert needed is not None
    assert power(Design(0.04, 1.0, 1.0, needed, 1000), 0.2) >= 0.8
    assert power(Design(0.04, 1.0, 1.0, needed - 1, 1000), 0.2) < 0.8


def test_no_variance() -> None:
    none = Design(0.0, 0.0, 0.0, 3, 10)
    assert np.isnan(smallest_detectable(none))
    assert power(none, 0.1) == 1.0


@pytest.mark.slow
def test_power_by_simulation() -> None:
    design = Design(var_seed=0.003, var_user=0.25, var_error=1.0, n_seeds=4, n_users=300)
    difference = smallest_detectable(design, target=0.7)
    found = 0
    for i in range(1500):
        rng = np.random.default_rng(i)
        d = (
            difference
            + np.sqrt(0.003) * rng.normal(size=(4, 1))
            + 0.5 * rng.normal(size=(1, 300))
            + rng.normal(size=(4, 300))
        )
        found += two_way(d).p < 0.05
    assert found / 1500 == pytest.approx(0.7, abs=0.06)


def pooled_case(n_methods: int = 7) -> tuple[np.ndarray, SeedVariance]:
    """Differences [3, 900] of which the seeds vary as much as the users, and the pooled seed variance."""
    rng = np.random.default_rng(3)
    means = rng.normal(0, 0.004, (n_methods, 3))
    users = 0.1 * rng.normal(size=(n_methods, 1, 900)) + 0.2 * rng.normal(size=(n_methods, 3, 900))
    values = means[:, :, None] + users
    differences = values[1:] - values[0]
    pooled = pooled_seed_variance(differences.mean(axis=2))
    assert pooled is not None
    # The one whose own seeds vary least, so that it is the pool's that count.
    return min(differences, key=lambda d: d.mean(axis=1).var()), pooled


def test_the_smallest_effect_is_of_the_test_that_is_run() -> None:
    d, pooled = pooled_case()
    anova = two_way(d, pooled)
    expected = (stats.t.ppf(0.975, anova.df) + stats.t.ppf(0.8, anova.df)) * anova.error
    assert smallest_detectable(Design.of(anova)) == pytest.approx(expected, rel=0.05)
    # Without the pool the same components would rest on two degrees of freedom, with it on 3.6.
    assert anova.df_seed == pytest.approx(3.6, abs=0.1)
    assert smallest_detectable(replace(Design.of(anova), df_seed=None)) > 1.1 * expected


def test_more_seeds_teach_every_method_of_the_pool() -> None:
    design = Design.of(two_way(*pooled_case()))
    assert design.df_seed is not None
    assert design.df_seed > 2
    assert design.with_seeds(5).df_seed == pytest.approx(2 * design.df_seed)
    assert replace(design, df_seed=None).with_seeds(5).df_seed is None
    one = Design.of(two_way(pooled_case()[0][:1]))
    assert one.with_seeds(3).df_seed is None
