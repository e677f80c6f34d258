"""The study of student size: gains against the parameters of what is deployed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

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
from analysis.parameters import read_spec
from analysis.studies.gains import Gain, trends
from analysis.studies.known import NOT_RUN, Outcome
from analysis.studies.page import StudyPage
from analysis.studies.sentences import along, could_have_seen, effect

if TYPE_CHECKING:
    from analysis.studies.run import StudyRun


def parameters_of(gain: Gain) -> float | None:
    """Parameters of the student of a gain, without its head; None where nothing was run."""
    c = gain.comparison
    cells = gain.part.results.cells(c.dataset, c.backbone, c.variant)
    return float(gain.part.results.manifests[next(iter(cells.values()))]["n_parameters"]) if cells else None


def depth_of(gain: Gain) -> int:
    """Layers of the student of a gain (0: its spec does not say)."""
    c, results = gain.comparison, gain.part.results
    cell = next(iter(results.cells(c.dataset, c.backbone, c.variant).values()))
    path = results.runs.loc[results.runs["cell"] == cell, "path"].iloc[0]
    hparams = (read_spec(Path(path)).get("student") or {}).get("hparams") or {}
    return int(hparams.get("n_layers") or hparams.get("num_layers") or 0)


def by_parameters(run: StudyRun) -> StudyRun:
    """The same run, its gains placed by parameters and in one line per variant."""
    placed = [(gain, parameters_of(gain)) for gain in run.gains if gain.result is not None]
    moved = replace(run, x_label="parameters", x_log=True)
    # `gains` is computed once and kept in the instance; these are the placed ones.
    moved.__dict__["gains"] = [replace(gain, x=x) for gain, x in placed if x is not None]
    return moved


def gain_by_parameters(run: StudyRun) -> Figure:
    """Gain with interval against the parameters: a colour per variant, a marker per depth.

    Returns
    -------
    matplotlib Figure
    """
    gains = by_parameters(run).gains
    names = list(dict.fromkeys(g.series for g in gains))
    depths = sorted({depth_of(g) for g in gains})
    colour = colours(names)
    with style():
        figure = new_figure(2.6)
        axes = figure.add_subplot()
        axes.axhline(0, color=GREY, lw=0.8)
        axes.grid(axis="y", color=LIGHT, lw=0.4)
        for k, name in enumerate(names):
            for number, depth in enumerate(depths):
                mine = [g for g in gains if g.series == name and depth_of(g) == depth]
                own = sorted(((float(g.x or 0), g.result) for g in mine if g.result), key=lambda p: p[0])
                x = side_by_side([place for place, _ in own], k, len(names))
                label = f"{clip_text(name, 20)}, {depth} layer{'' if depth == 1 else 's'}"
                points = [(place, result) for place, (_, result) in zip(x, own, strict=True)]
                error_bars(axes, points, number, colour[name], label)
        if gains:
            log_axis(axes)
            figure.legend(
                *axes.get_legend_handles_labels(), loc="outside lower center", fontsize=5.8, ncols=2
            )
        axes.set_xlabel("parameters of the student")
        axes.set_ylabel(f"\u0394 {run.metric} to '{clip_text(run.baseline, 14)}'")
    return figure


def answer(run: StudyRun) -> list[str]:
    """Effect, trend over the parameters, what could have been seen."""
    placed = by_parameters(run)
    return [effect(run), along(placed, trends(placed)), could_have_seen(run)]


def same_size(run: StudyRun, of: Sequence[str]) -> Outcome:
    """Named variants have the parameters of the baseline of their part."""
    pairs = []
    for part in run.parts:
        results = part.results
        for dataset, backbone, variant in results.methods():
            base = results.cells(dataset, backbone, results.baseline)
            if variant in of:
                mine = results.cells(dataset, backbone, variant)
                pairs += [(results.manifests[mine[s]], results.manifests[base[s]]) for s in mine if s in base]
    if not pairs:
        return NOT_RUN
    equal = sum(a["n_parameters"] == b["n_parameters"] for a, b in pairs)
    return Outcome(equal == len(pairs), f"equal parameters in {equal} of {len(pairs)} pairs of runs")


PAGE = StudyPage(
    answer=answer, figures={"gain-by-parameters": gain_by_parameters}, known={"same-size": same_size}
)
