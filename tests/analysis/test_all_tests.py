"""All tests side by side against direct calls; power, cost and ablation tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from analysis.all_tests import evidence, power_row
from analysis.comparison import compare, comparison_frame
from analysis.load import Results, load_results
from analysis.stats.twolevel import two_way
from analysis.tables import ablation_table, cost_table, evidence_table, power_table, slice_table
from recbole_kd.errors import SpecError


def test_every_p_value_against_scipy(results: Results) -> None:
    frame = evidence(results).set_index(["backbone", "variant"])
    panel = results.panels["toy"]
    for (backbone, variant), row in frame.iterrows():
        a, b = (
            panel.user_values(list(results.cells("toy", backbone, v).values()), "NDCG@10")
            for v in (variant, "plain")
        )
        x, y = a.mean(axis=0).round(14), b.mean(axis=0).round(14)
        assert row["p_t"] == pytest.approx(stats.ttest_rel(x, y).pvalue)
        wilcoxon = stats.wilcoxon((x - y).round(11), zero_method="pratt", method="approx", correction=False)
        assert row["p_wilcoxon"] == pytest.approx(wilcoxon.pvalue)
        assert row["p_seeds"] == pytest.approx(stats.ttest_rel(a.mean(axis=1), b.mean(axis=1)).pvalue)
        assert row["p_sign_flip"] == pytest.approx(row["p_t"], abs=0.03)
        u = stats.mannwhitneyu(x, y).statistic
        assert row["cliffs_delta"] == pytest.approx(2 * u / (len(x) * len(y)) - 1)
        assert row["p_worse"] + row["p_equal"] + row["p_better"] == pytest.approx(1)
    whole = comparison_frame(compare(results)).set_index(["backbone", "variant"])
    np.testing.assert_allclose(frame["p_two_level"], whole["p"])
    expected = multipletests(frame["p_t"], method="holm")[1]
    np.testing.assert_allclose(frame["p_t_corrected"], expected)


def test_power_columns() -> None:
    rng = np.random.default_rng(0)
    d = 0.05 * rng.normal(size=(3, 1)) + rng.normal(size=(3, 500))
    row = power_row(two_way(d), baseline_mean=10.0)
    assert row["detectable_percent"] > 0
    assert 0.05 <= row["power_1_percent"] <= 1
    assert power_row(two_way(d), baseline_mean=0.0).keys() == {"var_seed", "var_user", "var_error"}


def test_tables_name_units_and_families(results: Results) -> None:
    assert "users x seeds" in [c.name for c in evidence_table(results).columns]
    assert "one family per test" in evidence_table(results).caption
    assert "probability .80" in power_table(results).caption
    assert "Only the last two say whether gains differ" in slice_table(results).caption
    cost = cost_table(results)
    parameters = [c.name for c in cost.columns].index("Parameters")
    assert cost.rows[0][parameters].text == "120,000"
    assert cost.frame["train_seconds"].tolist() == [12.5, 13.5, 13.5, 13.5] * 2


def test_ablation_is_against_the_complete_method(results: Results) -> None:
    table = ablation_table(results, "kd-llm", variants=["kd-template"])
    frame = table.frame.set_index(["backbone", "variant"])
    assert set(frame.index.get_level_values(1)) == {"kd-llm", "kd-template"}
    assert frame.loc[("SASRec", "kd-template"), "difference"] < 0
    assert "2 comparisons with 'kd-llm'" in table.caption
    with pytest.raises(SpecError, match="this experiment has"):
        ablation_table(results, "nothing")


def test_partial_results_have_every_table(partial: Path) -> None:
    results = load_results(partial)
    for make in (evidence_table, power_table, slice_table, cost_table):
        table = make(results)
        assert any("missing: toy SASRec kd-llm seed 2" in n for n in table.notes)
        assert table.to_latex()
