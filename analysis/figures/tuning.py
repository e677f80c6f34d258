"""Was the baseline tuned as well as the method? Best value against number of trials."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures.style import LIGHT, LINES, clip_text, colours, new_figure, style


def tuning_plot(frame: pd.DataFrame) -> Figure:
    """Best validation value so far per study.

    Parameters
    ----------
    frame : DataFrame
        ``study, value, best`` in order of trials.
    """
    studies = list(dict.fromkeys(frame["study"]))
    colour = colours(studies)
    with style():
        figure = new_figure(1.75 + 0.12 * max(len(studies), 3))
        axes = figure.add_subplot()
        for number, study in enumerate(studies):
            part = frame[frame["study"] == study]
            trials = range(1, len(part) + 1)
            axes.plot(trials, part["value"], ".", ms=2.5, color=colour[study], alpha=0.5)
            axes.step(
                trials,
                part["best"],
                where="post",
                color=colour[study],
                ls=LINES[number % len(LINES)],
                label=clip_text(study, 40),
            )
        axes.grid(axis="y", color=LIGHT, lw=0.4)
        axes.set_xlabel("trials")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel("validation value")
        if studies:
            figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", fontsize=6)
    return figure
