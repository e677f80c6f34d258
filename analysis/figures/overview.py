"""Critical-difference diagram, quality against cost, and maps of embedding spaces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis import wording
from analysis.figures.style import (
    COLOURS,
    GREY,
    LIGHT,
    MARKERS,
    clip_text,
    colours,
    legend_columns,
    log_axis,
    new_figure,
    style,
    variant_colours,
)
from analysis.load import Results
from analysis.stats.datasets import DatasetComparison
from analysis.tables.cost import cost_frame

FloatArray = NDArray[np.float64]


def _cliques(ranks: pd.Series, p: pd.DataFrame, alpha: float) -> list[tuple[float, float]]:
    """Maximal runs of methods, in order of rank, no pair of which differs."""
    names = list(ranks.index)
    found: list[tuple[int, int]] = []
    for start in range(len(names)):
        end = start
        while end + 1 < len(names) and (p.loc[names[end + 1], names[start : end + 1]] >= alpha).all():
            end += 1
        if end > start and not any(a <= start and end <= b for a, b in found):
            found.append((start, end))
    return [(float(ranks.iloc[a]), float(ranks.iloc[b])) for a, b in found]


def critical_difference_diagram(comparison: DatasetComparison, *, post_hoc: str = "nemenyi") -> Figure:
    """Average ranks over datasets; a bar joins methods that do not differ.

    Parameters
    ----------
    comparison : DatasetComparison
        Of `analysis.all_tests.over_datasets`.
    post_hoc : {"nemenyi", "wilcoxon-holm"}
        The exact Wilcoxon test cannot reach .05 after correction on few datasets.
    """
    matrices = {"wilcoxon-holm": comparison.wilcoxon_holm, "nemenyi": comparison.nemenyi}
    ranks, p = comparison.ranks, matrices[post_hoc]
    bars = _cliques(ranks, p, comparison.alpha)
    with style():
        figure = new_figure(0.95 + 0.15 * ((len(ranks) + 1) // 2 + len(bars)))
        axes = figure.add_subplot()
        low, high = 1.0, float(len(ranks))
        _rank_axis(axes, low, high, comparison.critical_difference if post_hoc == "nemenyi" else None)
        for number, (start, end) in enumerate(bars):
            y = -0.45 * (number + 1)
            axes.plot([start - 0.04, end + 0.04], [y, y], color=COLOURS[1], lw=2.6, solid_capstyle="round")
        _rank_labels(axes, ranks, -0.45 * (len(bars) + 1) - 0.2)
        span = high - low
        axes.set_xlim(low - 0.6 * span - 0.2, high + 0.6 * span + 0.2)
        axes.set_ylim(top=2.4)
        axes.set_axis_off()
        p_text = wording.p_value(comparison.friedman.p)
        axes.set_title(
            f"average rank over {comparison.friedman.n} datasets, Friedman p {p_text}\n"
            f"bars join methods without a difference at {comparison.alpha:g} ({post_hoc})",
            fontsize=6.5,
        )
    return figure


# With more methods the numbers of neighbouring ranks would touch.
_TICKS = 8


def _rank_axis(axes: Axes, low: float, high: float, critical: float | None) -> None:
    axes.plot([low, high], [0, 0], color="black", lw=0.8)
    for tick in range(int(low), int(high) + 1):
        axes.plot([tick, tick], [0, 0.25], color="black", lw=0.8)
        if high > _TICKS and (tick - int(low)) % 2:
            continue
        axes.text(tick, 0.35, str(tick), ha="center", va="bottom", fontsize=6.2)
    if critical is not None:
        axes.plot([low, low + critical], [1.75, 1.75], color="black", lw=1.2)
        axes.text(low + critical, 1.75, f" CD {critical:.2f}", va="center", ha="left", fontsize=6.2)


def _rank_labels(axes: Axes, ranks: pd.Series, top: float) -> None:
    """Names left and right of the axis, best first from the top left."""
    low, high, half = 1.0, float(len(ranks)), (len(ranks) + 1) // 2
    shared = {str(n).split(" ")[0] for n in ranks.index}
    for number, (name, rank) in enumerate(ranks.items()):
        left = number < half
        y = top - 0.75 * (number if left else len(ranks) - 1 - number)
        edge = low - 0.15 if left else high + 0.15
        axes.plot([rank, rank, edge], [0, y, y], color=GREY, lw=0.7)
        short = str(name).split(" ", 1)[1] if len(shared) == 1 and " " in str(name) else str(name)
        text = f"{clip_text(short, 20)} {rank:.2f}"
        where = "right" if left else "left"
        axes.text(edge, y, f"{text} " if left else f" {text}", ha=where, va="center", fontsize=6.2)


def pareto_front(cost: FloatArray, quality: FloatArray) -> NDArray[np.bool_]:
    """Points that no other is at least as cheap and as good as, and better in one: bool [N]."""
    dominated = [
        bool(((cost <= c) & (quality >= q) & ((cost < c) | (quality > q))).any())
        for c, q in zip(cost, quality, strict=True)
    ]
    return ~np.asarray(dominated, dtype=bool)


def cost_quality_plot(
    results: Results | None = None,
    *,
    frame: pd.DataFrame | None = None,
    cost: str = "train_seconds",
    xlabel: str | None = None,
) -> Figure:
    """Quality against cost with the Pareto front of every dataset.

    Parameters
    ----------
    results : Results, optional
    frame : DataFrame, optional
        Instead of results: columns ``dataset, backbone, variant, metric, mean`` and the cost; add
        rows for systems that keep the LLM in the loop.
    cost : str
        A column of `analysis.tables.cost_frame`, such as ``train_seconds`` or ``cost_<name>``.
    """
    table = cost_frame(results) if frame is None and results is not None else frame
    if table is None:
        raise ValueError("give results or a frame")
    known = table[table[cost].notna() & table["mean"].notna()] if cost in table else table.iloc[:0]
    names = [str(v) for v in table["variant"]]
    colour = variant_colours(results) if results is not None else {}
    colour |= {n: c for n, c in colours(names).items() if n not in colour}
    # The palette repeats: a colour that was there before is drawn hollow.
    hollow = {n for i, n in enumerate(colour) if colour[n] in list(colour.values())[:i]}
    face = {n: "white" if n in hollow else c for n, c in colour.items()}
    backbones = list(dict.fromkeys(table["backbone"]))
    datasets = list(dict.fromkeys(known["dataset"])) or ["-"]
    with style():
        columns = legend_columns([clip_text(name, 40) for name in (*colour, *backbones)], 3)
        lines = -(-(len(colour) + len(backbones)) // columns)
        figure = new_figure(0.2 + 0.12 * lines + 2.0 * len(datasets))
        panels = figure.subplots(len(datasets), 1, squeeze=False)[:, 0]
        for axes, dataset in zip(panels, datasets, strict=True):
            part = known[known["dataset"] == dataset]
            for row in part.to_dict("records"):
                marker = MARKERS[backbones.index(row["backbone"]) % len(MARKERS)]
                name = str(row["variant"])
                axes.plot(row[cost], row["mean"], marker, color=colour[name], mfc=face[name], ms=5, mew=1.2)
            best = part[pareto_front(part[cost].to_numpy(float), part["mean"].to_numpy(float))].sort_values(
                cost
            )
            axes.step(best[cost], best["mean"], where="post", color=GREY, lw=0.8, ls="--", zorder=0)
            if len(part) and part[cost].min() > 0 and part[cost].max() / part[cost].min() > 20:
                log_axis(axes)
            axes.grid(color=LIGHT, lw=0.4)
            axes.set_title(clip_text(str(dataset), 50), loc="left")
            axes.set_ylabel(str(table["metric"].iloc[0]) if len(table) else "quality")
        panels[-1].set_xlabel(
            xlabel or {"train_seconds": "training seconds"}.get(cost, cost.replace("_", " "))
        )
        handles: list[Any] = [
            panels[0].plot([], [], "o", color=c, mfc=face[v], label=clip_text(v, 40))[0]
            for v, c in colour.items()
        ]
        handles += [
            panels[0].plot(
                [], [], MARKERS[i % len(MARKERS)], color="black", mfc="white", label=clip_text(b, 40)
            )[0]
            for i, b in enumerate(backbones)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=6)
    return figure


def space_map(
    spaces: Mapping[str, FloatArray],
    attribute: Sequence[Any],
    *,
    seed: int = 0,
    neighbours: int = 15,
    title: str = "",
    attribute_name: str = "",
) -> Figure:
    """UMAP of several spaces of the same users, coloured by one attribute.

    Parameters
    ----------
    spaces : mapping of str to float [U, D]
        For instance ``{"teacher": z, "student": h}``; rows are the same users.
    attribute : sequence [U]
        Numbers get a colour scale, other values colours; beyond six values the rest is grey.
    seed, neighbours : int

    Returns
    -------
    matplotlib Figure
        The axes of a UMAP have no unit and no direction, so they have no ticks.
    """
    values = pd.Series(list(attribute))
    for name, vectors in spaces.items():
        if len(vectors) != len(values):
            raise ValueError(f"space '{name}' has {len(vectors)} rows, the attribute {len(values)}")
    import umap

    numeric = pd.api.types.is_numeric_dtype(values)
    names = [] if numeric else list(values.value_counts().index[:6])
    colour = colours([str(n) for n in names])
    with style():
        figure = new_figure(2.15)
        panels = figure.subplots(1, len(spaces), squeeze=False)[0]
        points: Any = None
        for axes, (name, vectors) in zip(panels, spaces.items(), strict=True):
            reducer = umap.UMAP(n_neighbors=min(neighbours, len(vectors) - 1), random_state=seed, n_jobs=1)
            flat = np.asarray(reducer.fit_transform(np.asarray(vectors)))
            tint = values.to_numpy() if numeric else [colour.get(str(v), LIGHT) for v in values]
            look: dict[str, Any] = {"cmap": "cividis"} if numeric else {}
            points = axes.scatter(flat[:, 0], flat[:, 1], c=tint, s=3, lw=0, rasterized=True, **look)
            axes.set_title(clip_text(name, 24))
            axes.set_xticks([])
            axes.set_yticks([])
        if numeric and points is not None:
            bar = figure.colorbar(points, ax=list(panels), orientation="horizontal", shrink=0.6, aspect=30)
            bar.set_label(clip_text(attribute_name, 40))
        else:
            handles = [
                panels[0].plot([], [], "o", ms=3, color=c, label=clip_text(n, 16))[0]
                for n, c in colour.items()
            ]
            if values.nunique() > len(names):
                handles.append(panels[0].plot([], [], "o", ms=3, color=LIGHT, label="any other")[0])
            figure.legend(
                handles=handles,
                loc="outside lower center",
                ncols=4 if len(handles) > 6 else 3,
                fontsize=6,
                title=clip_text(attribute_name, 40),
            )
        if title:
            figure.suptitle(clip_text(title, 60), fontsize=7.5)
    return figure
