"""Does a diagnostic of transfer go with the gain? Rank correlation over methods."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.stats.correction import correct
from analysis.stats.result import TestResult
from analysis.studies.gains import Gain

if TYPE_CHECKING:
    from analysis.studies.run import StudyRun

FEWEST = 5


@dataclass(frozen=True)
class Method:
    """One method's gain and diagnostics, means over seeds; NaN where a diagnostic is missing."""

    gain: Gain
    diagnostics: Mapping[str, float]
    is_placebo: bool


@dataclass(frozen=True)
class Predictor:
    """Rank correlation of one diagnostic with the gain on one dataset and backbone.

    Attributes
    ----------
    group : tuple of str
        Dataset, backbone.
    name : str
    result : TestResult or None
        Spearman's rho; None with fewer than five methods or without variation.
    n : int
        Methods that have both numbers.
    """

    group: tuple[str, str]
    name: str
    result: TestResult | None
    n: int


def methods_of(run: StudyRun) -> list[Method]:
    """Every compared method once, with the diagnostics that its manifests hold at the asked moment."""
    names, moment = run.settings["predictors"], run.settings["moment"]
    found: dict[tuple[str, str, str], Method] = {}
    for gain in run.gains:
        c, results = gain.comparison, gain.part.results
        if gain.result is None or (c.dataset, c.backbone, c.variant) in found:
            continue
        manifests = [results.manifests[k] for k in results.cells(c.dataset, c.backbone, c.variant).values()]
        means = {name: _mean(m, moment, name) for name in names for m in [manifests]}
        placebo = c.variant in run.settings["placebos"]
        found[c.dataset, c.backbone, c.variant] = Method(gain, means, placebo)
    return list(found.values())


def _mean(manifests: Iterable[Mapping[str, Any]], moment: str, name: str) -> float:
    """Mean over seeds; NaN unless every run has the number (vectors alone have some of them)."""
    values = [((m.get("diagnostics") or {}).get(moment) or {}).get(name) for m in manifests]
    numbers = [float("nan") if v is None else float(v) for v in values]
    return float(np.mean(numbers)) if numbers else float("nan")


def spearman(
    x: NDArray[np.float64], y: NDArray[np.float64], *, resamples: int, seed: int, confidence: float = 0.95
) -> TestResult | None:
    """Spearman's rho with a bootstrap interval over methods (BCa; percentile where BCa does not exist).

    Parameters
    ----------
    x, y : float64 [N]
        One value per method.

    Returns
    -------
    TestResult or None
        None with fewer than five methods or where one side does not vary.
    """
    n = len(x)
    if n < FEWEST or len(np.unique(x)) < 2 or len(np.unique(y)) < 2:
        return None
    rho = stats.spearmanr(x, y)

    def statistic(a: NDArray[np.float64], b: NDArray[np.float64], axis: int = -1) -> Any:
        ranks = [stats.rankdata(v, axis=axis) for v in (a, b)]
        centred = [r - r.mean(axis=axis, keepdims=True) for r in ranks]
        scale = np.sqrt((centred[0] ** 2).sum(axis=axis) * (centred[1] ** 2).sum(axis=axis))
        # A resample of one method only has no correlation; it counts as none.
        return (centred[0] * centred[1]).sum(axis=axis) / np.where(scale > 0, scale, np.inf)

    low, high, used = float("nan"), float("nan"), ""
    for kind in ("BCa", "percentile"):
        with np.errstate(all="ignore"), warnings.catch_warnings():
            # The next kind is tried where BCa does not exist; resamples without variation count as 0.
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)
            interval = stats.bootstrap(
                (x, y),
                statistic,
                paired=True,
                vectorized=True,
                n_resamples=resamples,
                confidence_level=confidence,
                method=kind,
                rng=np.random.default_rng(seed),
            ).confidence_interval
        low, high, used = float(interval.low), float(interval.high), kind
        if np.isfinite([low, high]).all():
            break
    return TestResult(
        test="Spearman's rho, t approximation",
        unit="methods",
        estimate=float(rho.statistic),
        n=n,
        low=low,
        high=high,
        confidence=confidence,
        interval_method=f"bootstrap over methods ({used}), {resamples} resamples, seed {seed}",
        statistic=float(rho.statistic),
        p=float(rho.pvalue),
        notes=("methods share the baseline and the seeds, so they are not independent",),
    )


def predictors(run: StudyRun, known: Sequence[Method] | None = None) -> list[Predictor]:
    """Correlation of every diagnostic with the gain, without placebos, Holm-corrected over all of them."""
    methods = [m for m in (methods_of(run) if known is None else known) if not m.is_placebo]
    options = {name: int(run.settings[name]) for name in ("resamples", "seed")}
    found = []
    for group in dict.fromkeys((m.gain.comparison.dataset, m.gain.comparison.backbone) for m in methods):
        own = [m for m in methods if (m.gain.comparison.dataset, m.gain.comparison.backbone) == group]
        gain = np.array([m.gain.result.estimate for m in own if m.gain.result])
        for name in run.settings["predictors"]:
            value = np.array([m.diagnostics[name] for m in own])
            both = ~np.isnan(value)
            result = spearman(value[both], gain[both], **options)
            found.append(Predictor(group, name, result, int(both.sum())))
    adjusted = correct([p.result.p if p.result else float("nan") for p in found], "holm")
    family = f"{len(found)} correlations of a diagnostic with the gain"
    return [
        p
        if p.result is None
        else replace(p, result=replace(p.result, p_corrected=float(q), correction="Holm", family=family))
        for p, q in zip(found, adjusted, strict=True)
    ]
