"""Gains along the axis of a study: every comparison of every part, corrected as one family, and trends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from analysis.comparison import Comparison, compare
from analysis.stats.correction import correct
from analysis.stats.power import smallest_detectable
from analysis.stats.result import TestResult
from analysis.stats.twolevel import two_level
from analysis.values import Layout, pair_layout

if TYPE_CHECKING:
    from analysis.studies.run import StudyPart, StudyRun, X


@dataclass(frozen=True)
class Gain:
    """One method at one place of the axis against the baseline of its part.

    Attributes
    ----------
    series : str
        What a line of the figure is drawn through.
    x : float, str or None
        None: stands nowhere on the axis (a control, for instance).
    part : StudyPart
    comparison : Comparison
    detectable : float
        Smallest true difference that is found with probability .80 at the uncorrected level .05; NaN
        where nothing was compared.
    """

    series: str
    x: X | None
    part: StudyPart
    comparison: Comparison
    detectable: float

    @property
    def line(self) -> tuple[str, str, str]:
        """Dataset, backbone and series: what one line of a figure holds."""
        return self.comparison.dataset, self.comparison.backbone, self.series

    @property
    def result(self) -> TestResult | None:
        """The test, if there is one."""
        return self.comparison.result


def all_gains(run: StudyRun) -> list[Gain]:
    """Every planned comparison of the study; Holm's correction over all of them.

    A variant that stands at several places of the axis (``also`` in the YAML) yields several gains but
    counts once in the family. A comparison that cannot be made yet counts as p = 1.
    """
    found = [(part, c) for part in run.parts for c in compare(part.results, correction="none")]
    adjusted = correct([c.result.p if c.result else float("nan") for _, c in found], "holm")
    family = f"{len(found)} comparisons with '{run.baseline}' on {run.metric}"
    gains = []
    for (part, comparison), p in zip(found, adjusted, strict=True):
        if comparison.result is not None:
            result = replace(comparison.result, p_corrected=float(p), correction="Holm", family=family)
            comparison = replace(comparison, result=result)
        smallest = detectable(comparison)
        within = run.points.get(comparison.variant, ()) if part.x is None else ()
        places: Sequence[tuple[str, X | None]] = within or ((comparison.variant, part.x),)
        gains += [Gain(series, x, part, comparison, smallest) for series, x in places]
    return gains


def distinct(gains: Sequence[Gain]) -> list[Gain]:
    """Gains whose comparison was made, each comparison once."""
    found: dict[int, Gain] = {}
    for gain in gains:
        if gain.result is not None:
            found.setdefault(id(gain.comparison), gain)
    return list(found.values())


def layout_of(part: StudyPart, comparison: Comparison) -> Layout | None:
    """Per-user values of both sides on their common users and seeds."""
    c = comparison
    sides = ((c.backbone, c.variant), (c.backbone, c.baseline))
    return pair_layout(part.results, c.dataset, *sides, c.metric)[0]


def detectable(comparison: Comparison) -> float:
    """Smallest difference that the test of this comparison could have shown (`analysis.stats.power`)."""
    return float("nan") if comparison.design is None else smallest_detectable(comparison.design)


def lines(gains: Sequence[Gain]) -> dict[tuple[str, str, str], list[Gain]]:
    """Gains that stand on the axis, by line, in order of x (numbers before names)."""
    found: dict[tuple[str, str, str], list[Gain]] = {}
    for gain in gains:
        if gain.x is not None:
            found.setdefault(gain.line, []).append(gain)
    return {line: sorted(own, key=_order) for line, own in found.items()}


def _order(gain: Gain) -> tuple[bool, float]:
    return (True, 0.0) if isinstance(gain.x, str) else (False, float(gain.x or 0))


@dataclass(frozen=True)
class Trend:
    """How the gain of one line changes along the axis.

    Attributes
    ----------
    line : tuple of str
        Dataset, backbone, series.
    first, last : float
        Ends of the axis.
    result : TestResult
        ``estimate``: gain at the last place minus gain at the first, along a straight line.
    """

    line: tuple[str, str, str]
    first: float
    last: float
    result: TestResult


def trends(run: StudyRun) -> list[Trend]:
    """Trend of every line with three or more numbers on the axis, Holm-corrected over the lines.

    Where all places have the same users and seeds, the contrast is taken within users (users and seeds
    random, as everywhere); else places are independent samples and the line is fitted with weights of
    the inverse squared errors (fixed-effect meta-regression; DerSimonian and Laird, 1986, without the
    variance between studies).
    """
    found = []
    for line, own in lines(run.gains).items():
        numeric = [(float(g.x), g) for g in own if isinstance(g.x, int | float)]
        levels = [(x, layout_of(g.part, g.comparison), g) for x, g in numeric]
        known = [(x, layout, g) for x, layout, g in levels if layout is not None]
        if len({x for x, _, _ in known}) < 3:
            continue
        places = np.array([x for x, _, _ in known])
        result = _within(places, known) or _between(places, [(gain, layout) for _, layout, gain in known])
        found.append(Trend(line, float(places.min()), float(places.max()), result))
    adjusted = correct([t.result.p for t in found], "holm")
    family = f"{len(found)} trends over {run.x_label}"
    return [
        replace(t, result=replace(t.result, p_corrected=float(p), correction="Holm", family=family))
        for t, p in zip(found, adjusted, strict=True)
    ]


def _within(places: np.ndarray, levels: Sequence[tuple[float, Layout, Gain]]) -> TestResult | None:
    """Contrast within users, or None where users or seeds differ between places."""
    names = []
    for _, layout, gain in levels:
        users = gain.part.results.panels[gain.comparison.dataset].users["user"].astype(str)
        names.append((tuple(users.iloc[layout.users]), gain.comparison.seeds))
    if any(name != names[0] for name in names):
        return None
    stacked = np.stack([layout.differences for _, layout, _ in levels])
    result = two_level(np.tensordot(_slope(places), stacked, axes=1))
    return replace(result, test=f"linear trend within users, {result.test}")


def _slope(places: np.ndarray) -> np.ndarray:
    """Weights of the least-squares line: last minus first."""
    centred = places - places.mean()
    return np.asarray(centred / (centred**2).sum() * (places.max() - places.min()))


def _between(places: np.ndarray, levels: Sequence[tuple[Gain, Layout]]) -> TestResult:
    """Weighted line through independent places."""
    sizes = [layout.differences.shape for _, layout in levels]
    n_seeds = min(seeds for seeds, _ in sizes)
    y = np.array([layout.differences.mean() for _, layout in levels])
    errors = np.array([gain.comparison.error for gain, _ in levels])
    weight = 1 / np.maximum(errors, 1e-12) ** 2
    centred = places - np.average(places, weights=weight)
    spread = float((weight * centred**2).sum())
    reach = float(places.max() - places.min())
    estimate = float((weight * centred * y).sum() / spread) * reach
    error = reach / np.sqrt(spread)
    half = float(stats.norm.ppf(0.975)) * float(error)
    return TestResult(
        test="linear trend over independent places, weighted least squares (z)",
        unit="users x seeds" if n_seeds > 1 else "users",
        estimate=estimate,
        n=sum(users for _, users in sizes),
        n_seeds=n_seeds,
        low=estimate - half,
        high=estimate + half,
        interval_method="normal",
        statistic=estimate / float(error),
        p=2 * float(stats.norm.sf(abs(estimate / float(error)))),
    )
