"""The study of objectives and fusion: transfer diagnostics beside the gain, and which of them predicts it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import wording
from analysis.figures.style import COLOURS, GREY, LIGHT, new_figure, style
from analysis.studies.page import StudyPage
from analysis.studies.sentences import could_have_seen, effect
from analysis.studies.transfer import methods_of, predictors
from analysis.table import Cell, Column, Table

if TYPE_CHECKING:
    from analysis.studies.run import StudyRun


def diagnostics_figure(run: StudyRun) -> Figure:
    """Gain against every diagnostic: a point per method, hollow for placebos.

    Returns
    -------
    matplotlib Figure
        One panel per diagnostic; datasets and backbones by colour.
    """
    methods, names = methods_of(run), run.settings["predictors"]
    groups = list(dict.fromkeys((m.gain.comparison.dataset, m.gain.comparison.backbone) for m in methods))
    rows = (len(names) + 1) // 2
    with style():
        figure = new_figure(0.3 + 1.45 * rows)
        panels = figure.subplots(rows, 2, squeeze=False, sharey=True).ravel()
        for axes, name in zip(panels, names, strict=False):
            axes.axhline(0, color=GREY, lw=0.8)
            axes.grid(color=LIGHT, lw=0.4)
            for number, group in enumerate(groups):
                for m in methods:
                    c = m.gain.comparison
                    if (
                        (c.dataset, c.backbone) == group
                        and m.gain.result
                        and not np.isnan(m.diagnostics[name])
                    ):
                        colour = COLOURS[number % len(COLOURS)]
                        face = "white" if m.is_placebo else colour
                        axes.plot(
                            m.diagnostics[name], m.gain.result.estimate, "o", color=colour, mfc=face, ms=3.2
                        )
            axes.set_xlabel(name, labelpad=1)
        for axes in panels[len(names) :]:
            axes.set_axis_off()
        figure.supylabel(f"\u0394 {run.metric} to '{run.baseline}'", fontsize=7)
        title = ", ".join(f"{backbone} on {dataset}" for dataset, backbone in groups)
        figure.suptitle(f"{title or 'no comparison yet'}; hollow: placebo", fontsize=6.5)
    return figure


def diagnostics_table(run: StudyRun) -> Table:
    """Spearman's correlation of every diagnostic with the gain."""
    rows, frame = [], []
    for p in predictors(run):
        r = p.result
        cells = [Cell(text) for text in (*p.group, p.name)]
        cells.append(Cell(str(p.n), sort=float(p.n)))
        if r is None:
            cells += [Cell("too few methods"), Cell("\u2013"), Cell("\u2013")]
        else:
            interval = f"[{wording.signed(r.low, 2)}, {wording.signed(r.high, 2)}]"
            cells += [
                Cell(f"{wording.signed(r.estimate, 2)} {interval}", sort=r.estimate),
                Cell(wording.p_value(r.p), sort=r.p),
                Cell(wording.p_value(r.p_corrected), sort=r.p_corrected),
            ]
            frame.append({"dataset": p.group[0], "backbone": p.group[1], "diagnostic": p.name} | r.to_dict())
        rows.append(tuple(cells))
    return Table(
        name="diagnostics",
        title="Which diagnostic goes with the gain",
        caption=(
            f"Spearman's rho over methods between the diagnostic at the moment '{run.settings['moment']}' "
            f"and \u0394 {run.metric}, both means over seeds; 95 % bootstrap interval over methods. Placebos "
            "are no methods here. Methods share baseline and seeds, so n counts dependent points and the "
            "interval is rather too narrow."
        ),
        columns=(
            Column("Dataset", "l"),
            Column("Backbone", "l"),
            Column("Diagnostic", "l"),
            Column("Methods"),
            Column("rho [95 %]"),
            Column("p"),
            Column("p (Holm)"),
        ),
        rows=tuple(rows),
        frame=pd.DataFrame(frame),
    )


def transfer_table(run: StudyRun) -> Table:
    """Every method's diagnostics beside its gain."""
    names = run.settings["predictors"]
    rows, frame = [], []
    for m in methods_of(run):
        c = m.gain.comparison
        assert m.gain.result is not None
        estimate = m.gain.result.estimate
        head = [Cell(text) for text in (c.dataset, c.backbone, c.variant)]
        values = [Cell(wording.number(m.diagnostics[n], 3), sort=m.diagnostics[n]) for n in names]
        rows.append((*head, *values, Cell(wording.signed(estimate), sort=estimate)))
        frame.append(
            {"dataset": c.dataset, "backbone": c.backbone, "variant": c.variant, "gain": estimate}
            | dict(m.diagnostics)
        )
    return Table(
        name="transfer",
        title="What was transferred",
        caption="Means over seeds; what each diagnostic says and its value by chance: docs/distillation.md.",
        columns=(
            *(Column(n, "l") for n in ("Dataset", "Backbone", "Variant")),
            *(Column(n) for n in names),
            Column(f"\u0394 {run.metric}"),
        ),
        rows=tuple(rows),
        frame=pd.DataFrame(frame),
    )


def prediction(run: StudyRun) -> str:
    """Which diagnostic goes with the gain, if any."""
    made = [(p, p.result) for p in predictors(run) if p.result is not None]
    if not made:
        return "Too few methods were run to ask which diagnostic goes with the gain."
    best, result = min(made, key=lambda pair: pair[1].p)
    clear = [p for p, r in made if r.p_corrected < 0.05]
    said = (
        f"{best.name} on {best.group[0]}: rho {wording.signed(result.estimate, 2)}, 95 % interval "
        f"[{wording.signed(result.low, 2)}, {wording.signed(result.high, 2)}], {best.n} methods, corrected p "
        f"{wording.p_value(result.p_corrected)}"
    )
    if not clear:
        return f"No diagnostic is shown to go with the gain (the clearest is {said})."
    return f"{len(clear)} of {len(made)} diagnostics go with the gain; the clearest is {said}."


def answer(run: StudyRun) -> list[str]:
    """Effect, prediction, what could have been seen."""
    return [effect(run), prediction(run), could_have_seen(run)]


PAGE = StudyPage(
    answer=answer,
    figures={"diagnostics": diagnostics_figure},
    tables={"diagnostics": diagnostics_table, "transfer": transfer_table},
)
