"""TOST against statsmodels, the Bayesian signed-rank test against its definition."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.weightstats import ttost_paired

from analysis.stats import bayesian_signed_rank, tost
from analysis.stats.equivalence import signed_rank_samples


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.2, -0.3])
def test_tost_equals_statsmodels(shift: float) -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(shift, size=60), rng.normal(size=60)
    expected = ttost_paired(x, y, -0.4, 0.4)[0]
    ours = tost(x - y, 0.4)
    assert ours.p == pytest.approx(expected)
    assert (ours.p < 0.05) == (ours.low > -0.4 and ours.high < 0.4)
    assert ours.confidence == pytest.approx(0.9)


def test_tost_of_seeds_and_users_is_more_careful() -> None:
    rng = np.random.default_rng(0)
    d = 0.3 * rng.normal(size=(3, 1)) + rng.normal(size=(3, 500))
    assert tost(d, 0.3).p > tost(d.mean(axis=0), 0.3).p
    with pytest.raises(ValueError):
        tost(d, 0.0)


def test_signed_rank_samples_by_all_pairs() -> None:
    rng = np.random.default_rng(1)
    z = rng.integers(-12, 13, size=30) / 8  # exact in binary, with ties on the border of the region
    w = rng.dirichlet(np.ones(30), size=20)
    rope = 0.25
    sums = z[:, None] + z[None, :]
    expected = np.array(
        [
            [
                (np.outer(v, v) * m).sum()
                for m in (sums < -2 * rope, np.abs(sums) <= 2 * rope, sums > 2 * rope)
            ]
            for v in w
        ]
    )
    np.testing.assert_allclose(signed_rank_samples(z, rope, w), expected, atol=1e-12)


def test_posterior_of_clear_cases() -> None:
    rng = np.random.default_rng(2)
    noise = rng.normal(size=300)
    assert bayesian_signed_rank(noise + 1, 0.1).better > 0.99
    assert bayesian_signed_rank(noise - 1, 0.1).worse > 0.99
    assert bayesian_signed_rank(0.01 * noise, 0.1).equal > 0.99
    middle = bayesian_signed_rank(noise, 0.0)
    assert middle.worse + middle.equal + middle.better == pytest.approx(1)
    assert 0.02 < middle.better < 0.98


def test_posterior_is_symmetric() -> None:
    d = np.random.default_rng(3).normal(0.1, size=200)
    up, down = bayesian_signed_rank(d, 0.02, seed=1), bayesian_signed_rank(-d, 0.02, seed=1)
    assert up.better == pytest.approx(down.worse, abs=1e-9)
    with pytest.raises(ValueError):
        bayesian_signed_rank(d, -1)
