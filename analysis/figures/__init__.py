"""Figures of a paper: functions of results that return matplotlib figures (no pyplot state)."""

from analysis.figures.forest import forest_plot
from analysis.figures.style import save_figure

__all__ = ["forest_plot", "save_figure"]
