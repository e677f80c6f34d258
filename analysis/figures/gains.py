"""Gains: by slice of users, and their distribution over users."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from analysis import wording
from analysis.figures.style import (
    GREY,
    LIGHT,
    LINES,
    clip_text,
    error_bars,
    legend_columns,
    new_figure,
    style,
    variant_colours,
)
from analysis.load import Results
from analysis.slices import SliceComparison, Slicer, compare_slices
from analysis.stats.effects import without_noise
from analysis.values import pair_layout
from recbole_kd.metrics import standard_name

# Inches that a line of the legend takes, and points of its letters below slices.
_LINE, _SMALL = 0.12, 5.8


def _label(s: SliceComparison) -> str:
    p = wording.p_value(s.trend.p_corrected) if s.trend else "\u2013"
    return f"{clip_text(s.variant, 26)} (trend p {p})"


def gain_by_slice_plot(
    results: Results,
    by: str | Slicer = "history",
    *,
    found: Sequence[SliceComparison] | None = None,
    metric: str | None = None,
) -> Figure:
    """Gain over the baseline per slice (train-history length by default), with intervals.

    Returns
    -------
    matplotlib Figure
        One panel per dataset and backbone; the legend gives the p-value of the trend.
    """
    comparisons = list(compare_slices(results, by, metric=metric) if found is None else found)
    groups: dict[tuple[str, str], list[SliceComparison]] = {}
    for s in comparisons:
        groups.setdefault((s.dataset, s.backbone), []).append(s)
    colour = variant_colours(results)
    labels = {id(s): _label(s) for s in comparisons}
    columns = legend_columns(list(labels.values()), 2, _SMALL)
    lines = max((-(-len(members) // columns) for members in groups.values()), default=1)
    with style():
        figure = new_figure(0.3 + (1.8 + _LINE * lines) * max(len(groups), 1))
        panels = figure.subplots(max(len(groups), 1), 1, squeeze=False)[:, 0]
        for axes, ((dataset, backbone), members) in zip(panels, groups.items(), strict=False):
            axes.axhline(0, color=GREY, lw=0.8)
            axes.grid(axis="y", color=LIGHT, lw=0.4)
            slicing = members[0].slicing
            places = {label: i for i, label in enumerate(slicing.labels)}
            for number, s in enumerate(members):
                offset = (number - (len(members) - 1) / 2) * min(0.16, 0.7 / len(members))
                cells = [
                    (places[k] + offset, c.result)
                    for k, c in zip(s.slice_labels, s.slices, strict=True)
                    if c.result
                ]
                error_bars(axes, cells, number, colour[s.variant], labels[id(s)])
            axes.set_xticks(range(len(slicing.labels)), slicing.labels)
            axes.set_title(clip_text(f"{backbone} on {dataset}", 50), loc="left")
            axes.set_ylabel(f"\u0394 {members[0].metric}")
            below: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14)}
            axes.legend(fontsize=_SMALL, ncols=columns, handlelength=2.2, columnspacing=1.0, **below)
        if comparisons:
            figure.supxlabel(comparisons[0].slicing.name, fontsize=7)
        else:
            panels[0].text(
                0.5, 0.5, "no comparison yet", transform=panels[0].transAxes, ha="center", color=GREY
            )
    return figure


def gain_distribution(
    results: Results, dataset: str, backbone: str, *, metric: str | None = None, baseline: str | None = None
) -> Figure:
    """Distribution over users of the seed-averaged gain, one line per variant.

    The curve is the share of users whose gain is at least x (for x > 0) or at most x (for x < 0),
    so the two tails, those who win and those who lose, can be compared at equal distance from 0;
    the users without any change lie between them.
    """
    name, reference = standard_name(metric or results.metrics[0]), baseline or results.baseline
    variants = [m[2] for m in results.methods() if m[:2] == (dataset, backbone) and m[2] != reference]
    colour = variant_colours(results)
    with style():
        figure = new_figure(1.85 + _LINE * max(len(variants), 3))
        axes = figure.add_subplot()
        axes.axvline(0, color=GREY, lw=0.8)
        for number, variant in enumerate(variants):
            layout, _ = pair_layout(results, dataset, (backbone, variant), (backbone, reference), name)
            if layout is None:
                continue
            d = np.sort(without_noise(layout.differences.mean(axis=0)))
            won, lost = d[d > 0], d[d < 0]
            n = len(d)
            look: dict[str, Any] = {"color": colour[variant], "ls": LINES[number % len(LINES)]}
            text = (
                f"{clip_text(variant, 28)}: {100 * len(won) / n:.0f} % up, {100 * len(lost) / n:.0f} % down"
            )
            axes.step(
                np.append(0, won), (len(won) - np.arange(len(won) + 1)) / n, where="pre", label=text, **look
            )
            axes.step(np.append(lost, 0), np.arange(len(lost) + 1) / n, where="post", **look)
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", color=LIGHT, lw=0.4)
        axes.set_xlabel(f"\u0394 {name} of a user, mean over seeds")
        axes.set_ylabel("share of users beyond x")
        axes.set_title(clip_text(f"{backbone} on {dataset}", 50), loc="left")
        if axes.get_legend_handles_labels()[0]:
            figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", fontsize=6)
    return figure
