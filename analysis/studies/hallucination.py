"""Damage to profiles: the dose at which the gain is lost, and whether weights by grounding rescue it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis import wording
from analysis.stats.correction import correct
from analysis.stats.result import TestResult
from analysis.stats.twolevel import two_level
from analysis.studies.dose import RESAMPLES, LostDose, lost_dose
from analysis.studies.gains import Gain, distinct, lines
from analysis.studies.page import StudyPage
from analysis.studies.run import StudyRun, show_x
from analysis.studies.sentences import along, certain, could_have_seen, effect, numbers
from analysis.table import Cell, Column, Table
from analysis.values import Layout, pair_layout

HALF = 0.5
ALL = 0.9
"""Shares of the gain whose loss is looked for; all of it would be a matter of noise."""


@dataclass(frozen=True)
class Loss:
    """One line (dataset, backbone, kind of damage) and the doses at which half and nearly all is lost.

    No doses where the placebo that the study names has no result: down to 0 is another question.
    """

    line: tuple[str, str, str]
    gain: Gain
    half: LostDose | None
    most: LostDose | None


def losses(run: StudyRun) -> list[Loss]:
    """Doses of every line that has dose 0 and two more, between the whole profile and the placebo."""
    named = run.settings.get("placebo")
    found = []
    for line, own in lines(run.gains).items():
        made = [g for g in own if g.result is not None]
        if not made or made[0].x != 0:
            continue
        placebo = next(
            (g for g in distinct(run.gains) if g.comparison.variant == named and g.line[:2] == line[:2]), None
        )
        if named and placebo is None:
            found += [Loss(line, made[0], None, None)] if len(made) > 2 else []
            continue
        half, most = (lost_dose(made, placebo, share=share) for share in (HALF, ALL))
        if half is not None and most is not None:
            found.append(Loss(line, made[0], half, most))
    return found


def said(dose: LostDose | None) -> str:
    """``.32 [.21, .48]``, or why there is none."""
    if dose is None:
        return "placebo not run"
    if math.isnan(dose.dose):
        return "no gain to lose"
    low, high = (wording.number(v, 2) for v in (dose.low, dose.high))
    return f"{wording.number(dose.dose, 2)} [{low}, {high}]"


def _of(dose: LostDose | None, name: str) -> float:
    return float("nan") if dose is None else float(getattr(dose, name))


def lost_table(run: StudyRun) -> Table:
    """One row per kind of damage: gain at dose 0, doses at which half and nearly all of it is lost."""
    rows, frame = [], []
    for loss in losses(run):
        r = loss.gain.result
        assert r is not None
        nothing = _of(loss.half, "nothing")
        rows.append(
            (
                *(Cell(text) for text in loss.line),
                Cell(f"{wording.signed(r.estimate)}{wording.dagger(r.p_corrected)}", sort=r.estimate),
                Cell(said(loss.half), sort=_of(loss.half, "dose")),
                Cell(said(loss.most), sort=_of(loss.most, "dose")),
                Cell(f"{100 * nothing:.0f} %" if nothing == nothing else "\u2013", sort=nothing),
            )
        )
        names = dict(zip(("dataset", "backbone", "series"), loss.line, strict=True))
        doses = {"half": loss.half, "most": loss.most}
        frame.append(
            names
            | {"gain": r.estimate, "p_corrected": r.p_corrected, "nothing_to_lose": nothing}
            | {f"{k}_{n}": _of(d, n) for k, d in doses.items() for n in ("dose", "low", "high")}
        )
    floor = run.settings.get("placebo") or "0"
    return Table(
        name="lost",
        title="Dose at which the gain is lost",
        caption=(
            f"From the gain at dose 0 down to '{floor}'. Isotonic regression of the mean difference on the "
            f"dose, anew in each of {RESAMPLES:,} bootstrap replicates over users and seeds (the same at "
            "every dose); linear between doses; 95 % percentile interval, not widened for few seeds. \u221e: "
            "not lost at the largest dose. Nothing to lose: replicates in which dose 0 is not above the "
            "placebo; above 2.5 % no dose is stated."
        ),
        columns=(
            Column("Dataset", "l"),
            Column("Backbone", "l"),
            Column("Damage", "l"),
            Column(f"\u0394 {run.metric} at dose 0"),
            Column("Half lost at"),
            Column(f"{100 * ALL:.0f} % lost at"),
            Column("Nothing to lose"),
        ),
        rows=tuple(rows),
        frame=pd.DataFrame(frame),
    )


@dataclass(frozen=True)
class Rescue:
    """What weights by grounding add to one damage: at each dose, or (``x`` None) as the mean over all."""

    line: tuple[str, str, str]
    x: float | None
    result: TestResult


def rescues(run: StudyRun) -> list[Rescue]:
    """Weighted minus unweighted students, user by user; Holm over doses and over means apart."""
    found: list[Rescue] = []
    drawn = lines(run.gains)
    for weighted, plain in dict(run.settings.get("rescue") or {}).items():
        for line, own in drawn.items():
            if line[2] != weighted:
                continue
            other = {g.x: g for g in drawn.get((*line[:2], plain), [])}
            pairs = [(g, other[g.x]) for g in own if g.x in other]
            pairs = [(g, o) for g, o in pairs if g.comparison is not o.comparison]
            known = [(g, layout) for g, o in pairs if (layout := _between(g, o)) is not None]
            for g, layout in known:
                x = float(g.x) if isinstance(g.x, int | float) else None
                found.append(Rescue(line, x, two_level(layout.differences)))
            shapes = {(layout.method.shape, tuple(layout.users)) for _, layout in known}
            if len(known) > 1 and len(shapes) == 1:
                mean = np.mean([layout.differences for _, layout in known], axis=0)
                found.append(Rescue(line, None, two_level(mean)))
    single, means = [r for r in found if r.x is not None], [r for r in found if r.x is None]
    return [*_corrected(single), *_corrected(means)]


def _between(one: Gain, other: Gain) -> Layout | None:
    c, o = one.comparison, other.comparison
    sides = ((c.backbone, c.variant), (o.backbone, o.variant))
    return pair_layout(one.part.results, c.dataset, *sides, c.metric)[0]


def _corrected(found: list[Rescue]) -> list[Rescue]:
    adjusted = correct([r.result.p for r in found], "holm")
    family = f"{len(found)} comparisons of weighted with unweighted"
    return [
        replace(r, result=replace(r.result, p_corrected=float(p), correction="Holm", family=family))
        for r, p in zip(found, adjusted, strict=True)
    ]


def rescue_table(run: StudyRun) -> Table:
    """One row per weighted series and dose, and their mean."""
    rows, frame = [], []
    for rescue in sorted(rescues(run), key=lambda r: (r.line, r.x is None, r.x or 0.0)):
        r = rescue.result
        interval = f"[{wording.signed(r.low)}, {wording.signed(r.high)}]{wording.dagger(r.p_corrected)}"
        rows.append(
            (
                *(Cell(text) for text in rescue.line),
                Cell("mean" if rescue.x is None else show_x(rescue.x), sort=rescue.x),
                Cell(f"{wording.signed(r.estimate)} {interval}", sort=r.estimate),
                Cell(wording.p_value(r.p_corrected), sort=r.p_corrected),
            )
        )
        names = dict(zip(("dataset", "backbone", "series"), rescue.line, strict=True))
        frame.append(names | {"x": rescue.x} | r.to_dict())
    return Table(
        name="rescue",
        title="Weights by grounding",
        caption=(
            "Students whose users are weighted by the grounding of the profile that they were given, minus "
            "students of the same damaged profiles without weights; same users, same seeds, 95 % interval of "
            "the two-level bootstrap. p: Holm over the doses, and over the means."
        ),
        columns=(
            Column("Dataset", "l"),
            Column("Backbone", "l"),
            Column("Series", "l"),
            Column("Dose"),
            Column(f"\u0394 {run.metric} [95 %]"),
            Column("p (Holm)"),
        ),
        rows=tuple(rows),
        frame=pd.DataFrame(frame),
    )


def answer(run: StudyRun) -> list[str]:
    """The gain and the dose at which it is lost; whether weights rescue it; what could have been seen."""
    whole = [g for g in distinct(run.gains) if g.comparison.variant == run.settings.get("whole")]
    first, second = f"{effect(run, whole)[:-1]}; {_lost(run)}.", f"{along(run)[:-1]}; {_rescued(run)}."
    return [first, second, could_have_seen(run)]


def _lost(run: StudyRun) -> str:
    every = losses(run)
    known = [s for s in every if not math.isnan(_of(s.half, "dose")) and certain(s.gain.result)]
    if every and all(loss.half is None for loss in every):
        return f"'{run.settings['placebo']}' was not run, so the dose of loss is unknown"
    if not known:
        return "so no gain is there to be lost" if every else "too few doses were run to find one of loss"
    first = min(known, key=lambda loss: _of(loss.half, "dose"))
    last = max(known, key=lambda loss: _of(loss.half, "dose"))
    text = f"half of it is lost first to {first.line[2]}, at dose {said(first.half)} ({first.line[0]})"
    if first is last:
        return text
    return f"{text}, and last to {last.line[2]}, at {said(last.half)} ({last.line[0]})"


def _rescued(run: StudyRun) -> str:
    means = [r for r in rescues(run) if r.x is None] or rescues(run)
    if not means:
        return "weights by grounding were not run"
    first = min(means, key=lambda r: r.result.p)
    text = f"{first.line[2]} minus the same without weights: {numbers(first.result, run.metric)}"
    mean = "in the mean over the doses " if first.x is None else ""
    if certain(first.result):
        return f"{mean}weights by grounding {'help' if first.result.estimate > 0 else 'harm'} ({text})"
    none = f"{mean}no effect of weights by grounding is shown ({text})"
    alone = [r for r in rescues(run) if mean and r.x is not None and certain(r.result)]
    if not alone:
        return none
    best = min(alone, key=lambda r: r.result.p)
    return f"{none}; at dose {best.x:g} alone there is: {best.line[2]} {numbers(best.result, run.metric)}"


PAGE = StudyPage(answer=answer, tables={"lost": lost_table, "rescue": rescue_table})
