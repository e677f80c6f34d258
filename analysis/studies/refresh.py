"""Refresh policies on a replayed timeline: quality against the profiles that were written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from analysis import wording
from analysis.comparison import pool_of, seed_variance
from analysis.figures.style import (
    GREY,
    LIGHT,
    clip_text,
    colours,
    error_bars,
    log_axis,
    new_figure,
    side_by_side,
    style,
)
from analysis.stats.correction import correct
from analysis.stats.result import TestResult
from analysis.stats.twolevel import two_way
from analysis.studies.gains import Gain
from analysis.studies.page import StudyPage
from analysis.studies.run import StudyRun
from analysis.studies.sentences import Seen, certain, could_have_seen, numbers, smallest_seen
from analysis.table import Cell, Column, Table
from analysis.values import UserValues, pair_layout
from recbole_kd.errors import StoreError

FILE = "refresh.json"
# Half the width of a 95 % interval, in standard errors.
_Z = float(stats.norm.ppf(0.975))


@dataclass(frozen=True)
class Policy:
    """One policy on one dataset and backbone over the whole timeline.

    Attributes
    ----------
    line : tuple of str
        Dataset, backbone, variant.
    calls : int
        Profiles written until the last training.
    users : int
        Users at the last training.
    unseen : float
        Interactions that the profile in force had not seen when the next one came; NaN without a policy.
    gain : TestResult
        Mean over the trainings.
    base : float
        Mean of the baseline over the trainings.
    """

    line: tuple[str, str, str]
    calls: int
    users: int
    unseen: float
    gain: TestResult
    base: float = float("nan")

    @property
    def detectable(self) -> float:
        """Smallest true mean over the trainings found with probability .80 at the uncorrected level .05.

        From the error of that very mean: a single training shows less. NaN where nothing varies.
        """
        error = (self.gain.high - self.gain.low) / (2 * _Z)
        return float(_Z + stats.norm.ppf(0.8)) * error if error > 0 else float("nan")


def mean_of(results: Sequence[TestResult], errors: Sequence[float]) -> TestResult:
    """Unweighted mean of differences at several trainings, taken as independent (normal approximation).

    Parameters
    ----------
    errors : sequence of float
        Standard errors of the estimates.
    """
    n = len(results)
    estimate = float(np.mean([r.estimate for r in results]))
    error = float(np.sqrt(np.sum(np.square(errors)))) / n
    half = _Z * error
    return TestResult(
        test=f"mean over {n} trainings (z)",
        unit=results[0].unit,
        estimate=estimate,
        n=sum(r.n for r in results),
        n_seeds=min(r.n_seeds for r in results),
        low=estimate - half,
        high=estimate + half,
        interval_method="normal, trainings taken as independent",
        statistic=estimate / error if error > 0 else float("nan"),
        p=2 * float(stats.norm.sf(abs(estimate) / error)) if error > 0 else 1.0,
    )


def policies(run: StudyRun) -> list[Policy]:
    """Every variant with a teacher that ran at every place; Holm over all of them."""
    took = _took(run)
    found = []
    for line, own in _lines(run).items():
        entries = [took.get((id(g.part), line[0], line[2])) for g in own]
        known = [entry for entry in entries if entry is not None]
        if len(own) < len(run.parts) or len(known) < len(own):
            continue
        calls = known[-1]["calls"] if known[-1]["cumulative"] else sum(e["calls"] for e in known)
        gain = _mean_gain(own)
        base = float(np.mean([g.comparison.baseline_mean for g in own]))
        found.append(Policy(line, int(calls), int(known[-1]["users"]), _unseen(known[-1]), gain, base))
    adjusted = correct([p.gain.p for p in found], "holm")
    family = f"{len(found)} policies"
    return [
        replace(p, gain=replace(p.gain, p_corrected=float(q), correction="Holm", family=family))
        for p, q in zip(found, adjusted, strict=True)
    ]


def _unseen(entry: dict[str, Any]) -> float:
    value = entry["unseen"]
    return float("nan") if value is None else float(value)


def _lines(run: StudyRun) -> dict[tuple[str, str, str], list[Gain]]:
    found: dict[tuple[str, str, str], list[Gain]] = {}
    for gain in run.gains:
        if gain.result is not None:
            found.setdefault(gain.line, []).append(gain)
    return found


def _mean_gain(own: Sequence[Gain]) -> TestResult:
    made = [(g.result, g.comparison.error) for g in own if g.result is not None]
    return mean_of([result for result, _ in made], [error for _, error in made])


def _took(run: StudyRun) -> dict[tuple[int, str, str], dict[str, Any]]:
    """Entry of ``refresh.json`` by part, dataset and variant."""
    found: dict[tuple[int, str, str], dict[str, Any]] = {}
    for part in run.parts:
        path = part.results.directory / FILE
        if not len(part.results.done):
            continue
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
            found |= {(id(part), str(e["dataset"]), str(e["variant"])): e for e in entries}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{path}: not readable ({error}); run the study again") from None
    return found


def difference(run: StudyRun, dataset: str, backbone: str, more: str, less: str) -> TestResult | None:
    """Mean over the trainings of one variant minus another, user by user; None unless both ran everywhere.

    The seed variance is that of all methods of a training, as in their gains.
    """
    results, errors = [], []
    for part in run.parts:
        sides = ((backbone, more), (backbone, less))
        if dataset not in part.results.panels:
            return None
        panel = part.results.panels[dataset]
        values = UserValues(panel, run.metric)
        layout = pair_layout(part.results, dataset, *sides, run.metric, values=values)[0]
        if layout is None:
            return None
        pooled = seed_variance(part.results, dataset, backbone, less, values)
        anova = two_way(layout.differences, pool_of(part.results, dataset, layout, pooled))
        errors.append(anova.error)
        unit = "users x seeds" if anova.n_seeds > 1 else "users"
        results.append(TestResult("difference", unit, anova.mean, anova.n_users, anova.n_seeds))
    found = mean_of(results, errors)
    return replace(found, p_corrected=found.p)


def answer(run: StudyRun) -> list[str]:
    """The policies' gains; fresh against never; what could have been seen."""
    found = policies(run)
    if not found:
        return [
            "No policy has run at every moment of the timeline yet.",
            "So fresh profiles cannot be compared with profiles that are never written anew.",
            could_have_seen(run),
        ]
    return [best(run, found), _fresh(run, found), seen(run, found)]


def seen(run: StudyRun, found: Sequence[Policy]) -> str:
    """The smallest mean over the trainings that could have been seen."""
    made = [Seen(p.detectable, p.base, p.users, p.gain.n_seeds) for p in found]
    return smallest_seen(
        run.metric, made, f"in the mean over {len(run.parts)} trainings of the median policy"
    )


def best(run: StudyRun, found: Sequence[Policy]) -> str:
    """How many policies differ from the baseline, and which way; the placebo is none."""
    found = [p for p in found if p.line[2] != run.settings.get("placebo")]
    if not found:
        return "No policy but the placebo has run at every moment of the timeline yet."
    clear = [p for p in found if certain(p.gain)]
    first = min(clear or found, key=lambda p: p.gain.p)
    said = f"{first.line[1]} {first.line[2]}, {first.calls:,} profiles: {numbers(first.gain, run.metric)}"
    if not clear:
        return (
            f"No effect shown: over the {len(run.parts)} trainings none of {len(found)} policies differs "
            f"from '{run.baseline}' (the clearest is {said})."
        )
    up = [p for p in clear if p.gain.estimate > 0]
    text = (
        f"{len(clear)} of {len(found)} policies differ from '{run.baseline}', {len(up)} of them upwards (the "
        f"clearest is {said})"
    )
    if up:
        cheapest = min(up, key=lambda p: p.calls)
        text += f"; the cheapest that gains is {cheapest.line[2]} with {cheapest.calls:,} profiles"
    return f"{text}."


def _fresh(run: StudyRun, found: list[Policy]) -> str:
    by = {p.line: p for p in found}
    for (dataset, backbone, variant), fresh in by.items():
        never = by.get((dataset, backbone, "never"))
        if variant != "kd" or never is None:
            continue
        gap = difference(run, dataset, backbone, "kd", "never")
        if gap is not None:
            shown = "is worth" if certain(gap) else "is not shown to matter:"
            return (
                f"Writing for everybody at every training ({fresh.calls:,} profiles) instead of once "
                f"({never.calls:,}) {shown} {numbers(gap, run.metric)} ({backbone} on {dataset}, one "
                "comparison)."
            )
    return "Fresh profiles cannot be compared with profiles that are never written anew."


def table(run: StudyRun) -> Table:
    """One row per policy: what it wrote and what it gained."""
    found = policies(run)
    rows, frame = [], []
    for p in sorted(found, key=lambda p: (p.line[:2], p.calls)):
        r = p.gain
        interval = f"[{wording.signed(r.low)}, {wording.signed(r.high)}]"
        rows.append(
            (
                *(Cell(text) for text in p.line),
                Cell(f"{p.calls:,}", sort=p.calls),
                Cell(wording.number(p.calls / p.users, 2), sort=p.calls / p.users),
                Cell(wording.number(p.unseen, 1), sort=p.unseen),
                Cell(f"{wording.signed(r.estimate)} {interval}", sort=r.estimate),
                Cell(wording.p_value(r.p_corrected), sort=r.p_corrected),
            )
        )
        names = dict(zip(("dataset", "backbone", "variant"), p.line, strict=True))
        frame.append(names | {"calls": p.calls, "users": p.users, "unseen": p.unseen} | r.to_dict())
    return Table(
        name="policies",
        title="Refresh policies",
        caption=(
            f"Profiles written until the last of {len(run.parts)} trainings, also per user who is there by "
            "then; unseen: interactions that the profile in force had not seen when the next one came (mean "
            "since the first profile; only where a policy says when to write). \u0394: mean over the "
            f"trainings of the paired difference to '{run.baseline}', trainings taken as independent (normal "
            "approximation); p corrected over the policies."
        ),
        columns=(
            Column("Dataset", "l"),
            Column("Backbone", "l"),
            Column("Policy", "l"),
            Column("Profiles"),
            Column("Per user"),
            Column("Unseen"),
            Column(f"\u0394 {run.metric} [95 %]"),
            Column("p (Holm)"),
        ),
        rows=tuple(rows),
        frame=pd.DataFrame(frame),
    )


def calls_figure(run: StudyRun) -> Figure:
    """Mean gain over the trainings against the profiles written, one point per policy."""
    found = policies(run)
    groups = list(dict.fromkeys(p.line[:2] for p in found))
    colour = colours([p.line[2] for p in found])
    with style():
        figure = new_figure(0.3 + 2.3 * max(len(groups), 1))
        panels = figure.subplots(max(len(groups), 1), 1, squeeze=False)[:, 0]
        for axes, group in zip(panels, groups, strict=False):
            axes.axhline(0, color=GREY, lw=0.8)
            axes.grid(axis="y", color=LIGHT, lw=0.4)
            here = [p for p in found if p.line[:2] == group]
            for number, p in enumerate(here):
                # Policies with as many calls stand side by side, the others where they are.
                equal = [q for q in here if q.calls == p.calls]
                x = side_by_side([p.calls], equal.index(p), len(equal))
                name, fill = p.line[2], colour[p.line[2]] if certain(p.gain) else "white"
                look = {"mfc": fill, "ls": "none", "ms": 4.0}
                error_bars(axes, [(x[0], p.gain)], number, colour[name], clip_text(name, 24), **look)
            log_axis(axes)
            axes.set_title(clip_text(f"{group[1]} on {group[0]}", 50), loc="left")
            axes.set_ylabel(f"mean \u0394 {run.metric}")
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.24), fontsize=5.8, ncols=3)
            axes.set_xlabel("profiles written until the last training")
        if not groups:
            panels[0].text(0.5, 0.5, "not run yet", transform=panels[0].transAxes, ha="center", color=GREY)
    return figure


PAGE = StudyPage(answer=answer, figures={"calls": calls_figure}, tables={"policies": table})
