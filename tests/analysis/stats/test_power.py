"""Power against statsmodels and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.power import TTestPower

from analysis.stats import Design, power, seeds_needed, smallest_detectable, two_way, users_needed

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
