"""Answers by rule from statistics objects: the same numbers always give the same sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from analysis import wording
from analysis.stats.result import TestResult
from analysis.studies.gains import Gain, Trend, distinct, trends
from analysis.studies.run import show_x

if TYPE_CHECKING:
    from analysis.studies.run import StudyRun

LEVEL = 0.05
_ONE_SEED = (
    " One seed: intervals and p cover which users were drawn, not how else the same training may end, so "
    "that an early stop of one of them can look like an effect."
)


def certain(result: TestResult | None) -> bool:
    """Whether a difference is shown: corrected p below .05."""
    return result is not None and result.p_corrected < LEVEL


def numbers(result: TestResult, metric: str) -> str:
    """Estimate, interval and corrected p in brackets-ready words."""
    interval = f"[{wording.signed(result.low)}, {wording.signed(result.high)}]"
    p = wording.p_value(result.p_corrected)
    p = f"p {p[0]} {p[1:]}" if p.startswith("<") else f"p = {p}"
    level = f"{100 * result.confidence:g} %"
    return f"\u0394 {metric} {wording.signed(result.estimate)}, {level} interval {interval}, corrected {p}"


def called(run: StudyRun, gain: Gain) -> str:
    """``SASRec kd on ml-100k (rate .5)``; only what tells it apart."""
    c = gain.comparison
    datasets = {g.comparison.dataset for g in run.gains}
    text = f"{c.backbone} {c.variant}"
    if len(datasets) > 1:
        text += f" on {c.dataset}"
    return text if gain.part.x is None else f"{text} ({run.x_label}: {show_x(gain.part.x)})"


def effect(run: StudyRun, gains: Sequence[Gain] | None = None) -> str:
    """How many comparisons differ from the baseline, and the clearest of them."""
    made = distinct(run.gains if gains is None else gains)
    if not made:
        return "Nothing can be compared yet."
    clear = [g for g in made if certain(g.result)]
    first = min(clear or made, key=lambda g: (g.comparison.result.p, -abs(g.comparison.result.estimate)))  # type: ignore[union-attr]
    assert first.result is not None
    said = f"{called(run, first)}: {numbers(first.result, run.metric)}"
    n = len(made)
    if not clear:
        if n == 1:
            return f"No effect shown: the difference to '{run.baseline}' is not told from zero ({said})."
        return (
            f"No effect shown: none of {n} comparisons with '{run.baseline}' differs from zero (the clearest "
            f"is {said})."
        )
    up = sum(g.result.estimate > 0 for g in clear if g.result)
    return (
        f"{len(clear)} of {n} comparisons with '{run.baseline}' differ from zero, {up} of them upwards; "
        f"the clearest is {said}."
    )


def along(run: StudyRun, found: Sequence[Trend] | None = None) -> str:
    """Whether the gain changes along the axis."""
    known = list(trends(run) if found is None else found)
    if not known:
        return f"Too few places on the axis ({run.x_label or 'none'}) were run to test a trend."
    first = min(known, key=lambda t: t.result.p)
    clear = [t for t in known if certain(t.result)]
    _, backbone, series = first.line
    said = (
        f"{backbone} {series} from {show_x(first.first)} to {show_x(first.last)}: "
        f"{numbers(first.result, run.metric)}"
    )
    if not clear:
        where = f"in {len(known)} lines" if len(known) > 1 else "in its line"
        return f"No trend of the gain along {run.x_label} shown {where} (the clearest is {said})."
    many = f"{len(clear)} of {len(known)} lines"
    return f"The gain changes along {run.x_label} in {many}; the clearest is {said}."


def could_have_seen(run: StudyRun, gains: Sequence[Gain] | None = None) -> str:
    """The smallest effect that these users and seeds could have shown."""
    made = [
        Seen(g.detectable, g.comparison.baseline_mean, g.comparison.n_users, g.result.n_seeds)
        for g in distinct(run.gains if gains is None else gains)
        if g.result is not None
    ]
    return smallest_seen(run.metric, made, "in the median comparison")


class Seen(NamedTuple):
    """What one test could have shown, the baseline's mean beside it, and the users and seeds of the test."""

    smallest: float
    base: float
    users: int
    seeds: int


def smallest_seen(metric: str, made: Sequence[Seen], where: str) -> str:
    """The median and the range of the smallest effects of several tests; ``where`` says of which."""
    ordered = sorted((s for s in made if s.smallest == s.smallest), key=lambda s: s.smallest)
    if not ordered:
        return "The smallest effect that could have been seen is unknown without a comparison."
    middle = ordered[len(ordered) // 2]
    share = f" ({100 * middle.smallest / middle.base:.0f} % of the baseline)" if middle.base > 0 else ""
    ends = f", from {wording.number(ordered[0].smallest)} to {wording.number(ordered[-1].smallest)}"
    seeds = min(s.seeds for s in ordered)
    return (
        f"The smallest effect that could have been seen (power .80, uncorrected) is "
        f"{wording.number(middle.smallest)} {metric}{share} {where}{ends if len(ordered) > 1 else ''}, with "
        f"{middle.users} users and {seeds} seed{'' if seeds == 1 else 's'}.{_ONE_SEED if seeds == 1 else ''}"
    )


def answer(run: StudyRun) -> list[str]:
    """Three sentences: effect, change along the axis, what could have been seen."""
    return [effect(run), along(run), could_have_seen(run)]
