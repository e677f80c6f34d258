"""Kinds of tables that any study can name in its YAML."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd

from analysis import wording
from analysis.studies.gains import Gain
from analysis.studies.joined import joined
from analysis.studies.run import show_x
from analysis.table import Cell, Column, Table
from analysis.tables.main import legends, main_table

if TYPE_CHECKING:
    from analysis.studies.run import StudyRun

TableMaker = Callable[["StudyRun"], Table]


def gains(run: StudyRun) -> Table:
    """One row per series and place: means, difference with interval, corrected p, smallest effect."""
    rows, groups, frame = [], [], []
    previous = None
    for number, gain in enumerate(_ordered(run.gains)):
        if gain.line != previous:
            groups.append(number)
            previous = gain.line
        rows.append(_row(gain))
        c = gain.comparison
        frame.append({"series": gain.series, "x": gain.x, "detectable": gain.detectable} | c.to_dict())
    made = [g.comparison for g in run.gains]
    return Table(
        name=f"study-{run.name}",
        title=f"Gain over '{run.baseline}'",
        caption=(
            f"{wording.testing(made, run.baseline)} Could be seen: smallest true difference found with "
            "probability .80 at the uncorrected level .05, from the variances of the same test."
        ),
        columns=(
            Column("Dataset", "l"),
            Column("Backbone", "l"),
            Column("Series", "l"),
            Column(run.x_label or "Place"),
            Column("Users"),
            Column("Seeds"),
            Column("Baseline"),
            Column(f"\u0394 {run.metric} [95 %]"),
            Column("Gain"),
            Column("p (Holm)"),
            Column("Could be seen"),
        ),
        rows=tuple(rows),
        groups=tuple(groups),
        frame=pd.DataFrame(frame),
    )


def _ordered(gains: list[Gain]) -> list[Gain]:
    """By dataset, backbone and series as they come; named places as they come, then numbers by size."""
    lines = list(dict.fromkeys(g.line for g in gains))
    places = {g.x: i for i, g in enumerate(gains)}

    def key(gain: Gain) -> tuple[int, bool, float]:
        x = gain.x
        if isinstance(x, int | float):
            return lines.index(gain.line), True, float(x)
        return lines.index(gain.line), False, places[x]

    return sorted(gains, key=key)


def _row(gain: Gain) -> tuple[Cell, ...]:
    c, r = gain.comparison, gain.result
    x = gain.x
    head = [
        Cell(c.dataset),
        Cell(c.backbone),
        Cell(gain.series),
        Cell(show_x(x) or "\u2013", sort=float(x) if isinstance(x, int | float) else None),
        Cell(str(c.n_users) if r else "\u2013", sort=float(c.n_users)),
        Cell(f"{len(c.seeds)}/{len(c.planned_seeds)}", sort=float(len(c.seeds))),
    ]
    if r is None:
        return (*head, *(Cell(text) for text in ("\u2013", "not run", "\u2013", "\u2013", "\u2013")))
    interval = f"[{wording.signed(r.low)}, {wording.signed(r.high)}]"
    return (
        *head,
        Cell(wording.number(c.baseline_mean), sort=c.baseline_mean),
        Cell(f"{wording.signed(r.estimate)} {interval}", sort=r.estimate),
        Cell(wording.percent(c.gain, wording.dagger(r.p_corrected)), sort=c.gain),
        Cell(wording.p_value(r.p_corrected), sort=r.p_corrected),
        Cell(wording.number(gain.detectable), sort=gain.detectable),
    )


def main(run: StudyRun) -> Table:
    """The main table over all parts: means of all metrics."""
    results, own = joined(run)
    made = main_table(results, comparisons=own)
    # The page lists what is to be told of the runs, once for all its tables.
    return replace(made, notes=legends(made.notes))


TABLES: dict[str, TableMaker] = {"gains": gains, "main": main}
