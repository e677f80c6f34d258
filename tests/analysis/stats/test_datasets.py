"""Friedman and post-hoc tests against scipy, scikit-posthocs and the tables of Demsar (2006)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scikit_posthocs
from scipy import stats

from analysis.stats import compare_over_datasets, critical_difference

# Table 6 of Demsar (2006): AUC of C4.5, +m, +cf, +m+cf on 14 data sets.
DEMSAR = pd.DataFrame(
    {
        "C4.5": [
            0.763,
            0.599,
            0.954,
            0.628,
            0.882,
            0.936,
            0.661,
            0.583,
            0.775,
            1.0,
            0.940,
            0.619,
            0.972,
            0.957,
        ],
        "m": [0.768, 0.591, 0.971, 0.661, 0.888, 0.931, 0.668, 0.583, 0.838, 1.0, 0.962, 0.666, 0.981, 0.978],
        "cf": [
            0.771,
            0.590,
            0.968,
            0.654,
            0.886,
            0.916,
            0.609,
            0.563,
            0.866,
            1.0,
            0.965,
            0.614,
            0.9751,
            0.946,
        ],
        "m+cf": [
            0.798,
            0.569,
            0.967,
            0.657,
            0.898,
            0.931,
            0.685,
            0.625,
            0.875,
            1.0,
            0.962,
            0.669,
            0.975,
            0.970,
        ],
    }
)


def test_published_example() -> None:
    result = compare_over_datasets(DEMSAR)
    assert result.ranks.round(3).to_dict() == pytest.approx(
        {"m+cf": 1.964, "m": 2.0, "cf": 2.893, "C4.5": 3.143}, abs=2e-3
    )
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.01)
    assert result.friedman.unit == "datasets"
    assert result.friedman.n == 14


def test_against_scipy_and_posthocs() -> None:
    result = compare_over_datasets(DEMSAR)
    theirs = stats.friedmanchisquare(*(DEMSAR[c] for c in DEMSAR))
    assert result.friedman.p == pytest.approx(theirs.pvalue)
    chi2 = theirs.statistic
    f = 13 * chi2 / (14 * 3 - chi2)
    assert result.iman_davenport.p == pytest.approx(stats.f.sf(f, 3, 39))
    expected = scikit_posthocs.posthoc_nemenyi_friedman(DEMSAR.to_numpy()).to_numpy()
    np.testing.assert_allclose(result.nemenyi.to_numpy(), expected)
    raw = stats.wilcoxon(DEMSAR["C4.5"] - DEMSAR["m"], zero_method="pratt").pvalue
    assert raw <= result.wilcoxon_holm.loc["m", "C4.5"] <= 6 * raw + 1e-12


def test_few_datasets_are_said_and_gaps_refused() -> None:
    assert "only 3 datasets" in compare_over_datasets(DEMSAR.head(3)).friedman.notes[0]
    with pytest.raises(ValueError, match="gaps"):
        compare_over_datasets(DEMSAR.assign(cf=np.nan))
    with pytest.raises(ValueError, match="at least"):
        compare_over_datasets(DEMSAR[["m", "cf"]])


def test_all_equal() -> None:
    same = pd.DataFrame(np.ones((4, 3)), columns=list("abc"))
    assert compare_over_datasets(same).friedman.p == 1.0
