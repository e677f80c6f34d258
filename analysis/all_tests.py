"""Every test on every comparison, side by side, and the comparison over datasets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.comparison import planned_pairs, pool_of, seed_variance
from analysis.load import Results
from analysis.stats.correction import correct
from analysis.stats.datasets import DatasetComparison, compare_over_datasets
from analysis.stats.effects import cliffs_delta, cohens_dz, dominance, relative_gain
from analysis.stats.equivalence import bayesian_signed_rank, tost
from analysis.stats.paired import bca_interval, sign_flip, t_test, wilcoxon
from analysis.stats.power import Design, power, seeds_needed, smallest_detectable, users_needed
from analysis.stats.seeds import seeds_t_test
from analysis.stats.twolevel import SeedVariance, TwoWay, two_way
from analysis.summary import summarise
from analysis.values import UserValues, pair_layout
from recbole_kd.errors import SpecError
from recbole_kd.metrics import standard_name

# Columns of p-values that `evidence` corrects, each column a family of its own.
P_COLUMNS = ("p_two_level", "p_t", "p_wilcoxon", "p_sign_flip", "p_seeds")


def evidence(
    results: Results,
    *,
    metric: str | None = None,
    baseline: str | None = None,
    margin_percent: float = 1.0,
    n_resamples: int = 2_000,
    seed: int = 0,
    correction: str = "holm",
) -> pd.DataFrame:
    """All tests of every comparison on one metric.

    Parameters
    ----------
    metric, baseline : str, optional
        Primary metric and the experiment's baseline by default.
    margin_percent : float
        Margin of equivalence (TOST) and region of practical equivalence, in per cent of the
        baseline's mean.
    n_resamples, seed : int

    Returns
    -------
    DataFrame
        One row per comparison that has runs: estimate and effect sizes; ``p_two_level`` (unit
        users x seeds), ``p_t``, ``p_wilcoxon``, ``p_sign_flip`` (users), ``p_seeds`` (seeds),
        each also with suffix ``_corrected``; BCa limits; ``p_tost``; ``p_worse``, ``p_equal``,
        ``p_better``; power columns (see `power_row`).
    """
    name, reference = standard_name(metric or results.metrics[0]), baseline or results.baseline
    rows: list[dict[str, Any]] = []
    values = {d: UserValues(p, name) for d, p in results.panels.items()}
    pools: dict[tuple[str, str], SeedVariance | None] = {}
    for dataset, backbone, variant in planned_pairs(results, reference):
        if dataset not in results.panels:
            continue
        sides = ((backbone, variant), (backbone, reference))
        layout, seeds = pair_layout(results, dataset, *sides, name, values=values[dataset])
        if layout is None:
            continue
        d = layout.differences
        if (dataset, backbone) not in pools:
            pools[(dataset, backbone)] = seed_variance(results, dataset, backbone, reference, values[dataset])
        pooled = pool_of(results, dataset, layout, pools[(dataset, backbone)])
        mean, base = d.mean(axis=0), float(layout.baseline.mean())
        bca = bca_interval(mean, n_resamples=n_resamples, seed=seed)
        margin = base * margin_percent / 100
        row: dict[str, Any] = {
            "dataset": dataset,
            "backbone": backbone,
            "variant": variant,
            "baseline": reference,
            "metric": name,
            "n_users": d.shape[1],
            "n_seeds": len(seeds),
            "estimate": float(d.mean()),
            "gain_percent": relative_gain(float(layout.method.mean()), base),
            "cohens_d_z": cohens_dz(mean),
            "cliffs_d_w": dominance(mean),
            "cliffs_delta": cliffs_delta(layout.method.mean(axis=0), layout.baseline.mean(axis=0)),
            "p_two_level": two_way(d, pooled).p,
            "p_t": t_test(mean).p,
            "p_wilcoxon": wilcoxon(mean).p,
            "p_sign_flip": sign_flip(mean, seed=seed).p,
            "p_seeds": seeds_t_test(layout.method.mean(axis=1), layout.baseline.mean(axis=1)).p,
            "bca_low": bca.low,
            "bca_high": bca.high,
            "margin": margin,
        }
        if margin > 0:
            posterior = bayesian_signed_rank(mean, margin, seed=seed)
            row["p_tost"] = tost(d, margin).p
            row |= {"p_worse": posterior.worse, "p_equal": posterior.equal, "p_better": posterior.better}
        rows.append(row | power_row(two_way(d, pooled), base))
    frame = pd.DataFrame(rows)
    for column in P_COLUMNS if len(frame) else ():
        planned = len(planned_pairs(results, reference))
        frame[f"{column}_corrected"] = correct(frame[column].to_numpy(), correction, planned)
    return frame


def power_row(anova: TwoWay, baseline_mean: float, *, target: float = 0.8) -> dict[str, Any]:
    """What the test of this analysis of variance could have shown, uncorrected level .05, power ``target``.

    ``detectable_percent``: smallest gain; ``power_1_percent``: power for a gain of 1 %;
    ``users_for_1_percent``, ``seeds_for_1_percent``: how many that would need with the other
    number as it is, inf where no number would do. What cannot be known is not there: seeds from
    one seed, anything from two runs with the same ranks or without a baseline above 0.
    """
    design = Design.of(anova)
    one = 0.01 * baseline_mean
    row: dict[str, Any] = {
        "var_seed": design.var_seed,
        "var_user": design.var_user,
        "var_error": design.var_error,
    }
    if one <= 0 or design.error == 0:
        return row

    def needed(found: int | None) -> float:
        return float("inf") if found is None else float(found)

    row |= {
        "detectable_percent": 100 * smallest_detectable(design, target=target) / baseline_mean,
        "power_1_percent": power(design, one),
        "users_for_1_percent": needed(users_needed(design, one, target=target)),
    }
    if design.n_seeds > 1:
        row["seeds_for_1_percent"] = needed(seeds_needed(design, one, target=target))
    return row


def dataset_scores(
    results: Results, metric: str | None = None, *, methods: Sequence[str] | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """Mean metric per dataset (rows) and method (columns), and the datasets left out for gaps.

    A method without all its seeds or users is a gap; only those of ``methods`` count, where given.

    Raises
    ------
    SpecError
        An unknown method.
    """
    name = standard_name(metric or results.metrics[0])
    summaries = summarise(results, [name])
    cells: dict[str, dict[str, float]] = {}
    for (method, _), summary in summaries.items():
        complete = results.whole(*method) and not summary.partial
        cells.setdefault(method[0], {})[f"{method[1]} {method[2]}"] = (
            summary.mean if complete else float("nan")
        )
    scores = pd.DataFrame.from_dict(cells, orient="index")
    for name in methods or ():
        if name not in scores:
            raise SpecError(f"method '{name}': this experiment has {', '.join(scores.columns)}")
    if methods is not None:
        scores = scores[list(methods)]
    gaps = [str(d) for d in scores.index[scores.isna().any(axis=1)]]
    return scores.drop(index=gaps), gaps


def over_datasets(
    results: Results, metric: str | None = None, *, methods: Sequence[str] | None = None, alpha: float = 0.05
) -> tuple[DatasetComparison, list[str]]:
    """Friedman, Nemenyi and Wilcoxon-Holm with the dataset as the unit.

    Parameters
    ----------
    methods : sequence of str, optional
        ``"backbone variant"`` names to compare; all by default.

    Returns
    -------
    DatasetComparison, list of str
        The comparison and the datasets that were left out because one of the methods (or a seed of it)
        lacks there.

    Raises
    ------
    SpecError
        An unknown method.
    """
    scores, gaps = dataset_scores(results, metric, methods=methods)
    return compare_over_datasets(scores, alpha=alpha), gaps
