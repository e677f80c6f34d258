"""All tests side by side against direct calls; power, cost and ablation tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from synthetic import latent_ranks, write_experiment

from analysis.all_tests import dataset_scores, evidence, over_datasets, power_row
from analysis.comparison import compare, comparison_frame
from analysis.load import Results, load_results
from analysis.stats.twolevel import two_way
from analysis.table import Table
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


def power_cells(table: Table) -> list[str]:
    return [cell.text for cell in table.rows[0]][-4:]


def test_what_is_unknown_is_no_search_that_failed(tmp_path: Path) -> None:
    """One seed says nothing about seeds, equal runs and a baseline of 0 nothing about anything."""
    one = tmp_path / "one"
    one.mkdir()
    table = power_table(load_results(write_experiment(one, latent_ranks(80, {"kd": 0.5}), seeds=(1,))))
    assert power_cells(table)[-1] == "\u2013"
    assert power_cells(table)[-2].replace(",", "").isdigit()
    same = tmp_path / "same"
    same.mkdir()
    ranks = latent_ranks(80)
    equal = write_experiment(same, lambda d, b, v, s: ranks(d, b, "plain", s))
    assert power_cells(power_table(load_results(equal))) == ["\u2013"] * 4
    never = tmp_path / "never"
    never.mkdir()
    nobody = write_experiment(
        never, lambda d, b, v, s: np.full(80, 400.0) if v == "plain" else ranks(d, b, v, s)
    )
    assert power_cells(power_table(load_results(nobody))) == ["\u2013"] * 4


def test_none_suffices_is_said_where_the_search_found_none(results: Results) -> None:
    """Seeds vary far more than 1 %: no number of users helps, many seeds do."""
    rng = np.random.default_rng(0)
    d = rng.normal(size=(3, 1)) + rng.normal(size=(3, 500))
    row = power_row(two_way(d), baseline_mean=10.0)
    assert row["users_for_1_percent"] == float("inf")
    names = {"dataset": "toy", "backbone": "SASRec", "variant": "kd", "n_users": 500, "n_seeds": 3}
    table = power_table(results, pd.DataFrame([names | row]))
    assert power_cells(table)[-2] == "none suffices"
    assert power_cells(table)[-1].replace(",", "").isdigit()


def test_datasets_are_left_out_for_gaps_of_the_chosen_methods_only(tmp_path: Path) -> None:
    datasets = ("d1", "d2", "d3", "d4")
    lacking = [(d, "SASRec", "llm", 1) for d in datasets[1:]]
    variants = ("plain", "kd", "other", "llm")
    home = write_experiment(
        tmp_path, latent_ranks(40), datasets=datasets, variants=variants, seeds=(1,), skip=lacking
    )
    results = load_results(home)
    comparison, gaps = over_datasets(results, methods=["SASRec plain", "SASRec kd", "SASRec other"])
    assert comparison.friedman.n == 4
    assert gaps == []
    assert dataset_scores(results)[1] == list(datasets[1:])
    with pytest.raises(SpecError, match="'SASRec kdd': this experiment has SASRec plain, SASRec kd"):
        over_datasets(results, methods=["SASRec plain", "SASRec kdd"])
