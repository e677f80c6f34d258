"""Paired comparisons of every method with the baseline of its own backbone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.load import Results
from analysis.stats.correction import LABELS, correct
from analysis.stats.effects import cohens_dz, dominance, relative_gain
from analysis.stats.paired import PAIRED_TESTS
from analysis.stats.power import Design
from analysis.stats.result import TestResult
from analysis.stats.seeds import seeds_t_test
from analysis.stats.twolevel import (
    DEFAULT_RESAMPLES,
    SeedVariance,
    calibrated_interval,
    pooled_seed_variance,
    seed_weights,
    two_level,
    two_way,
    weight_stream,
)
from analysis.values import Layout, UserValues, pair_layout
from recbole_kd.errors import SpecError
from recbole_kd.metrics import standard_name

FloatArray = NDArray[np.float64]
DEFAULT_TEST = "two-level"


@dataclass(frozen=True)
class Comparison:
    """One method against one baseline on one metric.

    Attributes
    ----------
    dataset, backbone, variant, baseline, metric : str
    seeds : tuple of int
        Training seeds that both sides have; the same seed is a pair.
    planned_seeds : tuple of int
        What the experiment asks for.
    n_users, n_all_users : int
        Users that both sides evaluated, and users of the dataset.
    method_mean, baseline_mean : float
        Over common users and seeds.
    gain, gain_low, gain_high : float
        Relative gain in per cent of the baseline, with its interval.
    d_z, dominance : float
        Cohen's d_z and Cliff's d_w of the seed-averaged per-user differences.
    design : Design or None
        Variance components of the default test of the same difference, for its power.
    error : float
        Standard error of the difference in the default test.
    result : TestResult or None
        None if the comparison cannot be made yet; ``notes`` say why.
    notes : tuple of str
    """

    dataset: str
    backbone: str
    variant: str
    baseline: str
    metric: str
    seeds: tuple[int, ...]
    planned_seeds: tuple[int, ...]
    n_users: int = 0
    n_all_users: int = 0
    method_mean: float = float("nan")
    baseline_mean: float = float("nan")
    gain: float = float("nan")
    gain_low: float = float("nan")
    gain_high: float = float("nan")
    d_z: float = float("nan")
    dominance: float = float("nan")
    design: Design | None = None
    error: float = float("nan")
    result: TestResult | None = None
    notes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """``backbone variant``."""
        return f"{self.backbone} {self.variant}"

    def to_dict(self) -> dict[str, Any]:
        """Flat mapping: labels first, then the fields of the result."""
        skip = ("design", "error", "result", "notes", "seeds", "planned_seeds")
        own = {k: v for k, v in self.__dict__.items() if k not in skip}
        own["seeds"] = " ".join(map(str, self.seeds))
        own["planned_seeds"] = " ".join(map(str, self.planned_seeds))
        result = self.result.to_dict() if self.result else {}
        notes = [*self.notes, *(self.result.notes if self.result else ())]
        return own | result | {"notes": "; ".join(notes)}


def _two_level(
    layout: Layout, means: FloatArray, pooled: SeedVariance | None, confidence: float, seed: int
) -> tuple[TestResult, tuple[float, float]]:
    """Two-level result and the interval of the relative gain (per cent)."""
    difference = means[0] - means[1]
    result = two_level(
        layout.differences, confidence=confidence, seed=seed, user_means=difference, pooled=pooled
    )
    m, b = float(layout.method.mean()), float(layout.baseline.mean())
    if b <= 0:
        return result, (float("nan"), float("nan"))
    gain = relative_gain(m, b)
    # Delta method for the ratio of means: its influence per cell is (method - m/b baseline) / b.
    scaled = None
    if pooled is not None:
        scaled = SeedVariance(pooled.variance * (100 / b) ** 2 * (1 + (m / b) ** 2) / 2, pooled.df)
    linear = two_way(100 * (layout.method - m / b * layout.baseline) / b, scaled)
    weights = seed_weights(len(layout.method), len(difference), weight_stream(seed))
    below = (weights * means[1]).sum(axis=1)
    ratio = 100 * ((weights * means[0]).sum(axis=1) / np.where(below > 0, below, np.nan) - 1)
    replicates = ratio[np.isfinite(ratio)]
    return result, calibrated_interval(replicates, gain, linear, confidence)


def _seeds_only(layout: Layout, **options: Any) -> TestResult:
    return seeds_t_test(
        layout.method.mean(axis=1), layout.baseline.mean(axis=1), confidence=options.get("confidence", 0.95)
    )


def _users_only(name: str) -> Callable[..., TestResult]:
    def run(layout: Layout, **options: Any) -> TestResult:
        allowed = {"t": ("confidence",), "bca": ("confidence", "n_resamples", "seed"), "sign-flip": ("seed",)}
        chosen = {k: options[k] for k in allowed.get(name, ()) if k in options}
        n_seeds = len(layout.method)
        return PAIRED_TESTS[name](layout.differences.mean(axis=0), n_seeds=n_seeds, **chosen)

    return run


# Tests besides the default that can supply the p-value of a comparison.
OTHER_TESTS: dict[str, Callable[..., TestResult]] = {
    **{name: _users_only(name) for name in PAIRED_TESTS if name != "bca"},
    "seeds": _seeds_only,
}


def seed_variance(
    results: Results, dataset: str, backbone: str, reference: str, values: UserValues
) -> SeedVariance | None:
    """Mean seed variance of the methods of a backbone against one of them, over all seeds and users.

    Left out are who lacks a seed or a user; re-rankers, whose seeds are those of the recommender that they
    re-rank; and who has the values of the reference or of another method: counted, they would make the
    seeds look harmless.
    """
    base = results.cells(dataset, backbone, reference)
    if not base or not values.complete(list(base.values())):
        return None
    others = [m for m in results.methods() if m[:2] == (dataset, backbone) and m[2] != reference]
    of_reference = values.of(list(base.values()))
    distinct: dict[bytes, FloatArray] = {}
    for method in others:
        own = results.cells(*method)
        cells = list(own.values())
        if tuple(own) != tuple(base) or not values.complete(cells) or _reranks(results, cells):
            continue
        found = values.of(cells) - of_reference
        if found.any():
            distinct.setdefault(hashlib.sha256(found.tobytes()).digest(), found.mean(axis=1))
    return pooled_seed_variance(list(distinct.values())) if distinct else None


def pool_of(results: Results, dataset: str, layout: Layout, pool: SeedVariance | None) -> SeedVariance | None:
    """``pool`` where it holds for a comparison: all users, several seeds, and the method is no re-ranker."""
    everybody = len(layout.users) == results.panels[dataset].n_users and len(layout.method) > 1
    return pool if everybody and not _reranks(results, layout.cells[0]) else None


def _reranks(results: Results, cells: Sequence[str]) -> bool:
    return any(results.manifests[cell].get("ranker") for cell in cells)


def planned_pairs(results: Results, baseline: str | None = None) -> list[tuple[str, str, str]]:
    """(dataset, backbone, variant) of every planned comparison: the declared family."""
    reference = baseline or results.baseline
    methods = results.methods()
    with_baseline = {(d, b) for d, b, v in methods if v == reference}
    return [(d, b, v) for d, b, v in methods if v != reference and (d, b) in with_baseline]


def _why_not(results: Results, dataset: str, backbone: str, variant: str, baseline: str) -> str:
    for name in (variant, baseline):
        if not results.cells(dataset, backbone, name):
            return f"no finished run of {backbone} {name}"
    return f"{backbone} {variant} and {baseline} share no seed or fewer than two users"


def _one(
    results: Results,
    key: tuple[str, str, str],
    baseline: str,
    metric: str,
    values: UserValues | None,
    pooled: SeedVariance | None,
    options: dict[str, Any],
) -> Comparison:
    dataset, backbone, variant = key
    planned = tuple(results.planned_seeds(*key))
    sides = ((backbone, variant), (backbone, baseline))
    layout, seeds = pair_layout(results, dataset, *sides, metric, values=values)
    base = Comparison(dataset, backbone, variant, baseline, metric, seeds, planned)
    if layout is None or values is None:
        return replace(base, notes=(_why_not(results, dataset, backbone, variant, baseline),))
    panel = results.panels[dataset]
    means = values.means(*layout.cells, layout.columns)
    shared = pool_of(results, dataset, layout, pooled)
    result, gain = _two_level(layout, means, shared, options["confidence"], options["seed"])
    if options["test"] != DEFAULT_TEST:
        other = OTHER_TESTS[options["test"]](layout, **options)
        if np.isnan(other.low):
            other = replace(other, low=result.low, high=result.high, interval_method=result.interval_method)
        result = other
    anova, notes = two_way(layout.differences, shared), []
    if len(seeds) < len(planned):
        notes.append(f"{len(seeds)} of {len(planned)} seeds")
    if len(layout.users) < panel.n_users:
        notes.append(f"{len(layout.users)} of {panel.n_users} users in common")
    return replace(
        base,
        n_users=len(layout.users),
        n_all_users=panel.n_users,
        method_mean=float(layout.method.mean()),
        baseline_mean=float(layout.baseline.mean()),
        gain=relative_gain(float(layout.method.mean()), float(layout.baseline.mean())),
        gain_low=gain[0],
        gain_high=gain[1],
        d_z=cohens_dz(layout.differences.mean(axis=0)),
        dominance=dominance(layout.differences.mean(axis=0)),
        design=Design.of(anova),
        error=anova.error,
        result=result,
        notes=tuple(notes),
    )


def compare(
    results: Results,
    *,
    baseline: str | None = None,
    metrics: Sequence[str] | None = None,
    test: str = DEFAULT_TEST,
    correction: str = "holm",
    confidence: float = 0.95,
    n_resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> list[Comparison]:
    """Compare every method with the baseline of its backbone, corrected over one family.

    The family is everything that this call asks for: all planned (dataset, backbone, variant)
    with a baseline, times all ``metrics``. A planned comparison that cannot be made yet counts
    as p = 1.

    Parameters
    ----------
    results : Results
    baseline : str, optional
        Variant to compare with; the experiment's baseline by default. A no-LLM control, for
        instance, answers what the LLM adds.
    metrics : sequence of str, optional
        The primary metric (the first of the experiment) by default.
    test : {"two-level", "t", "wilcoxon", "sign-flip", "seeds"}
        ``two-level`` generalises over users and seeds, ``seeds`` over seeds alone, the others
        over users alone.
    correction : {"holm", "bh", "bonferroni", "none"}
    confidence : float
    n_resamples, seed : int
        Bootstrap resamples and their random seed.

    Returns
    -------
    list of Comparison
        In plan order, metric by metric; see `comparison_frame`.

    Raises
    ------
    SpecError
        Unknown test, correction, metric or baseline.
    """
    if test != DEFAULT_TEST and test not in OTHER_TESTS:
        raise SpecError(f"test '{test}': expected one of {', '.join([DEFAULT_TEST, *OTHER_TESTS])}")
    reference = baseline or results.baseline
    variants = list(dict.fromkeys(v for _, _, v in results.methods()))
    if baseline is not None and baseline not in variants:
        raise SpecError(f"baseline '{baseline}': this experiment has {', '.join(variants)}")
    names = [standard_name(m) for m in (metrics or results.metrics[:1])]
    options = {"test": test, "confidence": confidence, "n_resamples": n_resamples, "seed": seed}
    pairs = planned_pairs(results, reference)
    found: list[Comparison] = []
    for metric in names:
        drawn = {
            d: UserValues(p, metric, n_resamples=n_resamples, seed=seed) for d, p in results.panels.items()
        }
        pools = {
            key: seed_variance(results, *key, reference, drawn[key[0]])
            for key in dict.fromkeys(p[:2] for p in pairs)
            if key[0] in drawn
        }
        for key in pairs:
            values, pool = drawn.get(key[0]), pools.get(key[:2])
            found.append(_one(results, key, reference, metric, values, pool, options))
    family = f"{len(found)} comparisons with '{reference}' on {', '.join(names)}"
    adjusted = correct([c.result.p if c.result else float("nan") for c in found], correction)
    label = LABELS[correction]
    return [
        replace(c, result=replace(c.result, p_corrected=float(p), correction=label, family=family))
        if c.result
        else c
        for c, p in zip(found, adjusted, strict=True)
    ]


def comparison_frame(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """One row per comparison with every field of `Comparison` and `TestResult`."""
    return pd.DataFrame([c.to_dict() for c in comparisons])
