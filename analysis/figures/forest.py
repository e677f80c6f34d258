"""Forest plot: every method's paired gain with its interval."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import wording
from analysis.comparison import Comparison, compare
from analysis.figures.style import GREY, LIGHT, clip_text, new_figure, style, variant_colours
from analysis.load import Results

_ROW, _HEAD = 0.165, 0.75


Rows = list[tuple[float, Comparison]]


def _rows(comparisons: Sequence[Comparison]) -> tuple[Rows, list[tuple[float, str]]]:
    """(y, comparison) of every row and (y, text) of every group heading, from the top down."""
    rows: list[tuple[float, Comparison]] = []
    heads: list[tuple[float, str]] = []
    several = len({c.dataset for c in comparisons}) > 1
    y, group = 0.0, None
    for comparison in comparisons:
        key = (comparison.dataset, comparison.backbone)
        if key != group:
            y -= 0.4 if group else 0.0
            heads.append((y, f"{key[1]} on {key[0]}" if several else key[1]))
            y, group = y - 1, key
        rows.append((y, comparison))
        y -= 1
    return rows, heads


def _draw(axes: Axes, y: float, comparison: Comparison, colour: str) -> None:
    result = comparison.result
    if result is None:
        axes.text(
            0.5,
            y,
            "not available",
            transform=axes.get_yaxis_transform(),
            va="center",
            ha="center",
            color=GREY,
            fontsize=6,
            style="italic",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
        )
        return
    certain = result.p_corrected < 0.05
    axes.plot([result.low, result.high], [y, y], color=colour, lw=1.3, solid_capstyle="butt")
    axes.plot(
        result.estimate, y, "o", ms=4.2, color=colour, markerfacecolor=colour if certain else "white", mew=1.0
    )
    text = wording.percent(comparison.gain, wording.dagger(result.p_corrected))
    axes.text(1.02, y, text, transform=axes.get_yaxis_transform(), va="center", ha="left", fontsize=6.2)


def forest_plot(results: Results, comparisons: Sequence[Comparison] | None = None) -> Figure:
    """Paired difference to the baseline of the same backbone, with interval and relative gain.

    Parameters
    ----------
    results : Results
    comparisons : sequence of Comparison, optional
        `compare` on the primary metric by default.

    Returns
    -------
    matplotlib Figure
        One column wide. A filled point is significant after correction; colours follow the
        variant, names stand beside every row.
    """
    found = list(compare(results) if comparisons is None else comparisons)
    rows, heads = _rows(found)
    colour = variant_colours(results)
    lowest = min((y for y, _ in rows), default=-1.0)
    with style():
        figure = new_figure(_HEAD + _ROW * (1 - lowest))
        axes = figure.add_subplot()
        axes.axvline(0, color=GREY, lw=0.8)
        for y, comparison in rows:
            axes.axhline(y, color=LIGHT, lw=0.4, zorder=0)
            _draw(axes, y, comparison, colour[comparison.variant])
        beside = axes.get_yaxis_transform()
        for y, text in heads:
            axes.text(-0.02, y, clip_text(text, 34), transform=beside, ha="right", va="center", weight="bold")
        axes.set_yticks([y for y, _ in rows], [clip_text(c.variant, 36) for _, c in rows])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_ylim(lowest - 0.7, 0.7)
        axes.margins(x=0.06)
        axes.locator_params(axis="x", nbins=5)
        first = next((c for c in found if c.result), None)
        metric = first.metric if first else results.metrics[0]
        level = f"{100 * first.result.confidence:g} %" if first and first.result else "95 %"
        axes.set_xlabel(f"\u0394 {metric} to '{clip_text(results.baseline)}', {level} interval")
        axes.text(1.02, 0.0, "gain", transform=beside, va="center", fontsize=6.2, weight="bold")
        if not rows:
            axes.text(0.5, 0.5, "no comparison planned", transform=axes.transAxes, ha="center", color=GREY)
    return figure
