"""From run directories to statistics, tables, figures and a report.

Everything that the command line does is a function here that takes an experiment's folder or a
`Results` and returns frames, `Table` objects or matplotlib figures:

>>> import analysis
>>> results = analysis.load_results("results/quickstart")       # doctest: +SKIP
>>> analysis.comparison_frame(analysis.compare(results))        # doctest: +SKIP
>>> analysis.main_table(results).to_latex()                     # doctest: +SKIP
>>> analysis.forest_plot(results).savefig("gains.pdf")          # doctest: +SKIP

Names are imported when they are first used, so that ``import analysis`` is cheap.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "analysis.load": ("Results", "load_results", "load_runs"),
    "analysis.comparison": ("Comparison", "compare", "comparison_frame"),
    "analysis.all_tests": ("dataset_scores", "evidence", "over_datasets"),
    "analysis.cold_start": ("compare_last_k", "slices_by"),
    "analysis.parameters": ("curve_frame", "parameter"),
    "analysis.slices": (
        "by_grounding",
        "by_history",
        "by_new_users",
        "by_popularity",
        "by_value",
        "compare_slices",
        "slice_frame",
    ),
    "analysis.summary": ("summarise", "summary_frame"),
    "analysis.table": ("Table",),
    "analysis.tables": (
        "ablation_table",
        "candidates_table",
        "console_table",
        "cost_frame",
        "cost_table",
        "evidence_table",
        "main_table",
        "power_table",
        "protocol_frame",
        "protocol_table",
        "slice_table",
    ),
    "analysis.figures": (
        "cost_quality_plot",
        "critical_difference_diagram",
        "figure_bytes",
        "forest_plot",
        "gain_by_slice_plot",
        "gain_distribution",
        "parameter_curve",
        "save_figure",
        "space_map",
        "training_curves",
    ),
    "analysis.figures.every": ("write_figures",),
    "analysis.report": ("build_report", "write_report"),
    "analysis.write": ("write_outputs",),
}
_PLACES = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_PLACES)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'analysis' has no attribute '{name}'")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
