"""Figures of a paper: functions of results that return matplotlib figures (no pyplot state)."""

from analysis.figures.curves import parameter_curve, training_curves
from analysis.figures.forest import forest_plot
from analysis.figures.gains import gain_by_slice_plot, gain_distribution
from analysis.figures.overview import cost_quality_plot, critical_difference_diagram, pareto_front, space_map
from analysis.figures.style import figure_bytes, save_figure

__all__ = [
    "cost_quality_plot",
    "critical_difference_diagram",
    "figure_bytes",
    "forest_plot",
    "gain_by_slice_plot",
    "gain_distribution",
    "parameter_curve",
    "pareto_front",
    "save_figure",
    "space_map",
    "training_curves",
]
