"""Kinds of figures that any study can name in its YAML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.forest import forest_plot
from analysis.figures.style import (
    COLOURS,
    GREY,
    LIGHT,
    LINES,
    MARKERS,
    clip_text,
    colours,
    error_bars,
    log_axis,
    name_places,
    new_figure,
    side_by_side,
    style,
)
from analysis.studies.gains import Gain, lines
from analysis.studies.joined import joined
from analysis.studies.run import show_x

if TYPE_CHECKING:
    from analysis.studies.run import StudyRun

FigureMaker = Callable[["StudyRun"], Figure]

_DASHES = LINES[1:4]


def curve(run: StudyRun) -> Figure:
    """Gain against the axis: a line per series with intervals; what stands nowhere on it is dashed.

    Returns
    -------
    matplotlib Figure
        One panel per dataset and backbone. A filled point is significant after correction.
    """
    groups = list(dict.fromkeys(g.line[:2] for g in run.gains if g.result is not None))
    drawn = lines(run.gains)
    beside = [g for g in run.gains if g.x is None and g.result is not None]
    names = list(dict.fromkeys([line[2] for line in drawn] + [g.series for g in beside]))
    colour = colours(names)
    places = _places(run.gains)
    with style():
        figure = new_figure(0.3 + 2.3 * max(len(groups), 1))
        panels = figure.subplots(max(len(groups), 1), 1, squeeze=False)[:, 0]
        for axes, (dataset, backbone) in zip(panels, groups, strict=False):
            axes.axhline(0, color=GREY, lw=0.8)
            axes.grid(axis="y", color=LIGHT, lw=0.4)
            here = [name for name in names if (dataset, backbone, name) in drawn]
            for number, name in enumerate(here):
                own = drawn[dataset, backbone, name]
                _line(axes, own, places, number, len(here), colour[name], run.x_log)
            for gain in beside:
                if gain.line[:2] == (dataset, backbone) and gain.result is not None:
                    label = f"{clip_text(gain.series, 22)} (not on this axis)"
                    # The palette repeats: who has a colour again has other dashes.
                    again = names.index(gain.series) // len(COLOURS) % len(_DASHES)
                    look = {"color": colour[gain.series], "ls": _DASHES[again]}
                    axes.axhline(gain.result.estimate, lw=0.9, label=label, **look)
            if isinstance(next(iter(places), 0.0), str):
                axes.set_xticks(list(places.values()), list(places))
            elif run.x_log:
                log_axis(axes, places=places.values())
            else:
                name_places(axes, places.values())
            axes.set_title(clip_text(f"{backbone} on {dataset}", 50), loc="left")
            axes.set_ylabel(f"\u0394 {run.metric} to '{clip_text(run.baseline, 14)}'")
            axes.set_xlabel(run.x_label)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.24), fontsize=5.8, ncols=2)
        if not groups:
            panels[0].text(
                0.5, 0.5, "no comparison yet", transform=panels[0].transAxes, ha="center", color=GREY
            )
    return figure


def _places(gains: Sequence[Gain]) -> dict[Any, float]:
    """Where a value of x is drawn; names stand side by side in the order in which they come."""
    values = list(dict.fromkeys(g.x for g in gains if g.x is not None))
    if any(isinstance(v, str) for v in values):
        return {show_x(v): float(i) for i, v in enumerate(values)}
    return {v: float(v) for v in values}


def _line(
    axes: Axes,
    own: Sequence[Gain],
    places: dict[Any, float],
    number: int,
    of: int,
    colour: str,
    log: bool,
) -> None:
    shown = [g for g in own if g.result is not None]
    if not shown or (len(shown) == 1 < len(own)):
        # One point that several lines share, while the rest of this one has not been run.
        return
    named = isinstance(next(iter(places)), str)
    reach = max(places.values()) - min(places.values()) if len(places) > 1 else 1.0
    at = [places[show_x(g.x) if named else g.x] for g in shown]
    x = side_by_side(at, number, of, None if log else reach)
    points = [(place, g.result) for place, g in zip(x, shown, strict=True) if g.result]
    error_bars(axes, points, number, colour, clip_text(shown[0].series, 26), mfc="white")
    clear = [(place, r.estimate) for place, r in points if r.p_corrected < 0.05]
    # Above the errorbar's own markers, which matplotlib lifts by .1.
    filled = MARKERS[number % len(MARKERS)]
    axes.plot(*np.array(clear).reshape(-1, 2).T, filled, color=colour, ms=3.4, zorder=3)


def forest(run: StudyRun) -> Figure:
    """Forest plot of every comparison of every part."""
    return forest_plot(*joined(run))


FIGURES: dict[str, FigureMaker] = {"curve": curve, "forest": forest}
